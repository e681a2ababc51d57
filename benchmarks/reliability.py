"""Runs of replicas that are killed, resumed, left alone for long: what can be relied on.

    python benchmarks/reliability.py                 # kill -9 at 50 moments; about 15 minutes
    python benchmarks/reliability.py --long          # 5e7 replica-steps unattended; 1 to 2 hours

The first: ``scoremd simulate`` of the shipped model on the Reference platform is killed with
SIGKILL at random moments after its start, part of the preparation included, and resumed with the
same command until it ends; a run that ends before all kills are done is followed by another one
with the next seed. Trajectories, state data and the record of breaks must be those of a run that
nobody killed, byte by byte. Also: a replica that is moved changes no other one by a single bit.

The second can be stopped in any way and goes on with the same command. It reports temperature,
replicas that broke and memory over time; at 8,000 to 20,000 replica-steps/s it takes 0.7 to 1.7
hours. Both write their part of benchmarks/results/reliability.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from openmm_scoremd import ScoreModelFile
from openmm_scoremd._io import package_versions, write_json
from openmm_scoremd.progress import progress_bar, signals_held_back
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run import ReplicaRun
from openmm_scoremd.simulation.run_folder import CHECKPOINT, FAILURES, SETTINGS, Checkpoint
from openmm_scoremd.simulation.settings import RunSettings
from openmm_scoremd.simulation.trajectories import load_replicas

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide.pt"
OUTPUT = ROOT / "benchmarks" / "results" / "reliability.json"
LONG_FOLDER = ROOT / "runs" / "reliability_long"

console = Console()


@dataclasses.dataclass(frozen=True)
class KillProtocol:
    """How a run is killed.

    Attributes
    ----------
    kills : int
        Number of SIGKILLs.
    replicas, steps, interval : int
        Of the run.
    window : float
        Seconds; four of five processes are killed at a moment drawn evenly from these seconds after
        their first checkpoint, the others at one before it.
    seed : int
        Seed of the moments, and of the first run.
    """

    kills: int = 50
    replicas: int = 8
    steps: int = 20_000
    interval: int = 10
    window: float = 6.0
    seed: int = 0


def command(folder: Path, protocol: KillProtocol, seed: int) -> list[str]:
    """Return the command of a run, which begins or goes on."""
    numbers = {
        "replicas": protocol.replicas,
        "steps": protocol.steps,
        "interval": protocol.interval,
        "seed": seed,
        "platform": "Reference",
        "checkpoint-seconds": 0.0,
    }
    options = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    program = [sys.executable, "-m", "openmm_scoremd.cli", "simulate"]
    return [*program, str(SHIPPED), str(folder), *options, "--resume"]


def digests(folder: Path) -> dict[str, str]:
    """Return hashes of all files that must be the same."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".dcd", ".npy") or path.name == "trajectories.json"
    }


def what_is_left(folder: Path) -> dict[str, Any]:
    """Describe a folder whose process was killed."""
    if not (folder / CHECKPOINT).exists():
        state = "nothing" if not (folder / SETTINGS).exists() else "settings"
        return {"step": None, "left": state, "bytes_beyond": 0}
    header = Checkpoint.load(folder / CHECKPOINT).header
    paths = [*sorted(folder.glob("replica_*.dcd")), folder / "state.npy", folder / "state.csv"]
    lengths = zip(paths, header["files"]["bytes"], strict=True)
    beyond = sum(path.stat().st_size - length for path, length in lengths)
    temporary = len(list(folder.glob(".*.part*")))
    return {
        "step": header["step"],
        "left": "half a file" if temporary else "checkpoint",
        "bytes_beyond": beyond,
    }


def straight_run(folder: Path, protocol: KillProtocol, seed: int) -> float:
    """Run without being killed; return the seconds that it took to begin."""
    began, ready = time.perf_counter(), 0.0
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command(folder, protocol, seed), stdout=log, stderr=log)
        while process.poll() is None:
            if not ready and (folder / CHECKPOINT).exists():
                ready = time.perf_counter() - began
            time.sleep(0.02)
    if process.returncode != 0:
        raise SystemExit(folder.with_suffix(".log").read_text(encoding="utf-8")[-1000:])
    return ready


def wait_for_life(process: subprocess.Popen[bytes], folder: Path, after: float) -> None:
    """Wait until a process wrote a checkpoint and some seconds longer, or ended."""
    began = time.time()
    checkpoint = folder / CHECKPOINT
    while process.poll() is None:
        if checkpoint.exists() and checkpoint.stat().st_mtime > began:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=after)
            return
        time.sleep(0.01)


def killed_run(
    folder: Path,
    protocol: KillProtocol,
    seed: int,
    random: np.random.Generator,
    *,
    kills: int,
    ready: float,
) -> list[dict[str, Any]]:
    """Kill and resume a run until it ended, at most ``kills`` times; return what was left."""
    found: list[dict[str, Any]] = []
    while True:
        with open(folder.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(
                command(folder, protocol, seed), stdout=log, stderr=subprocess.STDOUT
            )
        began = time.perf_counter()
        if len(found) >= kills:
            process.wait()
        elif random.random() < 0.8:
            wait_for_life(process, folder, float(random.uniform(0.0, protocol.window)))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=float(random.uniform(0.0, ready)))
        code = process.poll()
        if code is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            life = round(time.perf_counter() - began, 2)
            found.append({"life_s": life, **what_is_left(folder)})
            console.print(f"seed {seed}, kill {len(found)}: {found[-1]}", highlight=False)
            continue
        if code != 0:
            text = folder.with_suffix(".log").read_text(encoding="utf-8")[-1000:]
            raise SystemExit(f"resuming failed with exit code {code}:\n{text}")
        return found


def benchmark_kills(protocol: KillProtocol, folder: Path) -> dict[str, Any]:
    """Kill runs and compare them with runs that nobody killed."""
    random = np.random.default_rng(protocol.seed)
    kills: list[dict[str, Any]] = []
    runs = []
    while len(kills) < protocol.kills:
        seed = protocol.seed + len(runs)
        killed, straight = folder / f"killed_{seed}", folder / f"straight_{seed}"
        ready = straight_run(straight, protocol, seed)
        found = killed_run(
            killed, protocol, seed, random, kills=protocol.kills - len(kills), ready=ready
        )
        frames = load_replicas(killed, n_beads=5).shape
        same = digests(killed) == digests(straight)
        complete = frames[:2] == (protocol.replicas, protocol.steps // protocol.interval)
        strays = [path.name for path in killed.iterdir() if path.name.startswith(".")]
        runs.append({"seed": seed, "kills": len(found), "bitwise": same, "complete": complete})
        runs[-1]["stray_files"] = len(strays)
        kills += found
        console.print(runs[-1], highlight=False)
    left = [entry["left"] for entry in kills]
    return {
        "protocol": dataclasses.asdict(protocol),
        "kills": len(kills),
        "runs": runs,
        "all_bitwise": all(run["bitwise"] for run in runs),
        "all_complete": all(run["complete"] for run in runs),
        "left_behind": {name: left.count(name) for name in sorted(set(left))},
        "kills_with_frames_beyond_the_checkpoint": sum(e["bytes_beyond"] > 0 for e in kills),
        "moments": kills,
    }


def benchmark_independence(replicas: int = 10, steps: int = 500) -> dict[str, Any]:
    """Move one replica and compare the others, on every platform without a GPU."""
    model = ScoreModelFile(SHIPPED)
    start = model.sample(replicas, seed=0)
    results = {}
    for platform in ("Reference", "CPU"):
        ends = []
        for shift in (0.0, 0.003):
            simulation = ReplicaSimulation(model, replicas=replicas, seed=1, platform=platform)
            frames = start.copy()
            frames[3, 1] += shift
            simulation.set_positions(frames)
            simulation.warm_up()
            simulation.step(steps)
            ends.append(simulation.positions)
        difference = np.abs(ends[0] - ends[1]).max(axis=(1, 2))
        results[platform] = {
            "moved_replica_nm": float(difference[3]),
            "others_nm": float(np.delete(difference, 3).max()),
        }
    return {"replicas": replicas, "steps": steps, "largest_difference": results}


def resident_megabytes() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def benchmark_long(folder: Path, settings: RunSettings) -> dict[str, Any] | None:
    """Simulate for long, or go on with it; None if it was stopped before its end."""
    model = ScoreModelFile(SHIPPED)
    if (folder / SETTINGS).exists():
        opened = ReplicaRun.resume(model, folder, steps=settings.steps)
    else:
        opened = ReplicaRun.start(model, folder, settings)
    began, noted = time.perf_counter(), 0.0
    with opened as run, signals_held_back() as stop, progress_bar("simulating") as advance:
        first = run.step

        def report(done: int, total: int, text: str) -> None:
            nonlocal noted
            if time.perf_counter() - noted > 10.0:
                noted = time.perf_counter()
                with open(folder / "memory.csv", "a", encoding="utf-8") as file:
                    file.write(f"{os.getpid()},{run.step},{resident_megabytes():.1f}\n")
            advance(done, total, text)

        ended = run.advance(progress=report, stop=stop)
        speed = (run.step - first) * settings.replicas / (time.perf_counter() - began)
        if not ended:
            console.print(f"stopped at step {run.step}; the same command goes on")
            return None
        restarts, frozen = len(run.marks.breaks), len(run.marks.frozen)
    return {
        "replicas": settings.replicas,
        "replica_steps": settings.replicas * settings.steps,
        "replica_steps_per_second_of_the_last_process": speed,
        "restarts": restarts,
        "frozen": frozen,
        **failures(folder),
        **temperatures(folder, model.temperature),
        "memory": memory(folder),
    }


def failures(folder: Path) -> dict[str, int]:
    """Count replicas that broke, NaN among them, and NaN that got into a trajectory."""
    reasons = [str(np.load(path)["reason"]) for path in (folder / FAILURES).glob("*.npz")]
    unhandled = int((~np.isfinite(load_replicas(folder, n_beads=5))).any(axis=(2, 3)).sum())
    handled = sum("NaN" in reason for reason in reasons)
    return {"broken": len(reasons), "nan_handled": handled, "nan_frames_written": unhandled}


def temperatures(folder: Path, target: float) -> dict[str, Any]:
    """Return mean kinetic temperatures after the first tenth."""
    state = np.load(folder / "state.npy")[:, :, 1].astype(np.float64)
    per_replica = np.nanmean(state[len(state) // 10 :], axis=0)
    mean = float(np.nanmean(per_replica))
    return {
        "temperature_K": mean,
        "temperature_error": mean / target - 1.0,
        "temperature_standard_error_K": float(np.nanstd(per_replica) / np.sqrt(per_replica.size)),
        "coldest_and_hottest_replica_K": [
            float(np.nanmin(per_replica)),
            float(np.nanmax(per_replica)),
        ],
    }


def memory(folder: Path) -> dict[str, Any]:
    """Return figures of memory over time, and draw them."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    processes, steps, used = np.loadtxt(folder / "memory.csv", delimiter=",", ndmin=2).T
    last = processes == processes[-1]
    tail = np.flatnonzero(last)[last.sum() // 10 :]
    slope = float(np.polyfit(steps[tail], used[tail], 1)[0]) if len(tail) > 2 else float("nan")
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(steps, used, ".-", markersize=2)
    axes.set(xlabel="step", ylabel="resident memory (MB)", ylim=(0, 1.2 * used.max()))
    figure.savefig(folder / "memory.png", dpi=150)
    plt.close(figure)
    return {
        "megabytes_at_a_tenth_and_at_the_end": [float(used[tail[0]]), float(used[-1])],
        "megabytes_largest": float(used.max()),
        "megabytes_per_million_steps": 1e6 * slope,
        "samples": len(used),
    }


def write_part(name: str, content: dict[str, Any], output: Path) -> None:
    """Put one part into the file of results and leave the other."""
    before = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    part = {"date": now, "versions": package_versions(), **content}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, {"benchmark": "reliability", **before, name: part})


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="the unattended run instead")
    parser.add_argument("--kills", type=int, default=KillProtocol.kills)
    parser.add_argument("--replicas", type=int, help="8, or 100 of the long run")
    parser.add_argument("--steps", type=int, help="20000, or 500000 of the long run")
    parser.add_argument("--window", type=float, default=KillProtocol.window, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, help="of the long run", default=LONG_FOLDER)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    if given.long:
        settings = RunSettings(
            replicas=given.replicas or 100, steps=given.steps or 500_000, interval=500
        )
        result = benchmark_long(given.folder, settings)
        if result is not None:
            write_part("long", result, given.output)
            console.print_json(data=result)
        return
    protocol = KillProtocol(
        kills=given.kills,
        replicas=given.replicas or KillProtocol.replicas,
        steps=given.steps or KillProtocol.steps,
        window=given.window,
    )
    with tempfile.TemporaryDirectory() as folder:
        killed = benchmark_kills(protocol, Path(folder))
    result = {**killed, "independence": benchmark_independence()}
    write_part("kills", result, given.output)
    console.print_json(data={k: v for k, v in result.items() if k != "moments"})
    if not (killed["all_bitwise"] and killed["all_complete"]):
        raise SystemExit("a resumed run differs from an uninterrupted one")


if __name__ == "__main__":
    main()
