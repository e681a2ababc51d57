"""Runs of replicas that are killed, resumed, left alone for long: what can be relied on.

    python benchmarks/reliability.py                 # kill -9 at 50 moments; about 15 minutes
    python benchmarks/reliability.py --independence  # moving one replica; some minutes
    python benchmarks/reliability.py --long          # 5e7 replica-steps unattended; 1 to 2 hours
    python benchmarks/reliability.py --long --summary  # how far it is now
    python benchmarks/reliability.py --write-docs    # bring docs/reliability.md up to date

The first: ``scoremd simulate`` of the shipped model on the Reference platform is killed with
SIGKILL at random moments after its start, part of the preparation included, and resumed with the
same command until it ends; a run that ends before all kills are done is followed by another one
with the next seed. Trajectories, state data and the record of breaks must be those of a run that
nobody killed, byte by byte. The second: a replica that is moved changes no other one by a bit.

The third can be stopped in any way and goes on with the same command. It reports temperature,
replicas that broke and memory over time; at 8,000 to 20,000 replica-steps/s it takes 0.7 to 1.7
hours. Each writes its part of benchmarks/results/reliability.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
from reliability_long import long_summary, run_long
from reliability_page import write_page
from rich.console import Console

from openmm_scoremd import ScoreModelFile
from openmm_scoremd._files.atomic import write_json
from openmm_scoremd._files.run_record import package_versions
from openmm_scoremd.model_file import Backend
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.folder import CHECKPOINT, SETTINGS, Checkpoint
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.trajectories.reading import load_replicas

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide.pt"
OUTPUT = ROOT / "benchmarks" / "results" / "reliability.json"
LONG_FOLDER = ROOT / "runs" / "reliability_long"

MOVED = 3  # the replica that is moved

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
    program = [sys.executable, "-m", "openmm_scoremd", "simulate"]
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


def benchmark_independence(replicas: int, steps: int) -> dict[str, Any]:
    """Move one replica and compare the others, on every platform without a GPU."""
    model = ScoreModelFile(SHIPPED)
    start = model.sample(replicas, seed=0)
    results = []
    backends: tuple[Backend, ...] = ("auto", "kernel")
    for platform, backend in itertools.product(("Reference", "CPU"), backends):
        ends = []
        for shift in (0.0, 0.003):
            simulation = ReplicaSimulation(
                model, replicas=replicas, seed=1, platform=platform, backend=backend
            )
            frames = start.copy()
            frames[MOVED, 1] += shift
            simulation.set_positions(frames)
            simulation.warm_up()
            simulation.step(steps)
            ends.append(simulation.positions)
        difference = np.abs(ends[0] - ends[1]).max(axis=(1, 2))
        results.append(
            {
                "platform": platform,
                "backend": backend,
                "moved_replica_nm": float(difference[MOVED]),
                "others_nm": float(np.delete(difference, MOVED).max()),
            }
        )
        console.print(results[-1], highlight=False)
    return {"replicas": replicas, "steps": steps, "largest_difference": results}


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
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--long", action="store_true", help="the unattended run instead")
    chosen.add_argument("--independence", action="store_true", help="move one replica instead")
    chosen.add_argument("--write-docs", action="store_true", help="fill docs/reliability.md only")
    parser.add_argument("--summary", action="store_true", help="of the long run so far")
    parser.add_argument("--kills", type=int, default=KillProtocol.kills)
    parser.add_argument("--replicas", type=int, help="8 to kill, otherwise 100")
    parser.add_argument("--steps", type=int, help="20000, 300 to move, 500000 of the long run")
    parser.add_argument("--window", type=float, default=KillProtocol.window, metavar="SECONDS")
    parser.add_argument("--backend", choices=get_args(Backend), help="of the long run")
    parser.add_argument("--folder", type=Path, help="of the long run", default=LONG_FOLDER)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    if given.write_docs:
        write_page(given.output)
    elif given.long:
        settings = RunSettings(
            replicas=given.replicas or 100,
            steps=given.steps or 500_000,
            interval=500,
            backend=given.backend or "auto",
        )
        if not given.summary:
            run_long(SHIPPED, given.folder, settings)
        result = long_summary(SHIPPED, given.folder)
        write_part("long", result, given.output)
        console.print_json(data={k: v for k, v in result.items() if k != "memory_over_time"})
    elif given.independence:
        found = benchmark_independence(given.replicas or 100, given.steps or 300)
        write_part("independence", found, given.output)
        if any(entry["others_nm"] > 0.0 for entry in found["largest_difference"]):
            raise SystemExit("moving one replica changed another one")
    else:
        protocol = KillProtocol(
            kills=given.kills,
            replicas=given.replicas or KillProtocol.replicas,
            steps=given.steps or KillProtocol.steps,
            window=given.window,
        )
        with tempfile.TemporaryDirectory() as folder:
            killed = benchmark_kills(protocol, Path(folder))
        write_part("kills", killed, given.output)
        console.print_json(data={k: v for k, v in killed.items() if k != "moments"})
        if not (killed["all_bitwise"] and killed["all_complete"]):
            raise SystemExit("a resumed run differs from an uninterrupted one")


if __name__ == "__main__":
    main()
