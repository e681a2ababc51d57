"""The unattended run of benchmarks/reliability.py, and what is read from its folder."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from openmm_scoremd import ScoreModelFile
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.cli.signals import signals_held_back
from openmm_scoremd.simulation.run.folder import (
    CHECKPOINT,
    FAILURES,
    SETTINGS,
    Checkpoint,
)
from openmm_scoremd.simulation.run.replica_run import ReplicaRun, stored_settings
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.trajectories.reading import load_replicas
from openmm_scoremd.trajectories.segments import SIDECAR

MEMORY = "memory.csv"
SAMPLE_SECONDS = 10.0
MOST_POINTS = 200
BLOCKS = 10


def resident_megabytes() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_long(path: Path, folder: Path, settings: RunSettings) -> None:
    """Simulate for long, or go on with it, until the end or a signal."""
    model = ScoreModelFile(path)
    if (folder / SETTINGS).exists():
        opened = ReplicaRun.resume(model, folder, steps=settings.steps)
    else:
        opened = ReplicaRun.start(model, folder, settings)
    noted = 0.0
    with opened as run, signals_held_back() as stop, progress_bar("simulating") as advance:

        def report(done: int, total: int, text: str) -> None:
            nonlocal noted
            if time.perf_counter() - noted > SAMPLE_SECONDS:
                noted = time.perf_counter()
                row = (os.getpid(), run.step, f"{resident_megabytes():.1f}", f"{time.time():.0f}")
                with open(folder / MEMORY, "a", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerow(row)
            advance(done, total, text)

        run.advance(progress=report, stop=stop)


def long_summary(path: Path, folder: Path) -> dict[str, Any]:
    """Describe a run, also one that is not at its end or still goes on."""
    model, settings = ScoreModelFile(path), stored_settings(folder)
    step = int(Checkpoint.load(folder / CHECKPOINT).header["step"])
    marks = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    return {
        "model": path.name,
        "replicas": settings.replicas,
        "platform": settings.platform,
        "backend": settings.backend,
        "timestep_ps": settings.timestep,
        "replica_steps": settings.replicas * step,
        "replica_steps_asked_for": settings.replicas * settings.steps,
        "finished": step >= settings.steps,
        "restarts": len(marks["breaks"]),
        "frozen": len(marks["frozen"]),
        **failures(folder, model.n_beads),
        **temperatures(folder, model.temperature),
        **memory(folder, settings.replicas),
    }


def failures(folder: Path, n_beads: int) -> dict[str, int]:
    """Count replicas that broke, NaN among them, and NaN that got into a trajectory."""
    reasons = [str(np.load(path)["reason"]) for path in (folder / FAILURES).glob("*.npz")]
    frames = load_replicas(folder, n_beads=n_beads)
    return {
        "frames_of_each_replica": frames.shape[1],
        "broken": len(reasons),
        "nan_handled": sum("NaN" in reason for reason in reasons),
        "nan_frames_written": int((~np.isfinite(frames)).any(axis=(2, 3)).sum()),
    }


def temperatures(folder: Path, target: float) -> dict[str, Any]:
    """Return mean kinetic temperatures after the first tenth."""
    state = np.load(folder / "state.npy")[:, :, 1].astype(np.float64)
    kept = state[len(state) // 10 :]
    per_replica = np.nanmean(kept, axis=0)
    blocks = [float(np.nanmean(block)) for block in np.array_split(kept, min(BLOCKS, len(kept)))]
    mean = float(np.nanmean(per_replica))
    return {
        "target_temperature_K": target,
        "temperature_K": mean,
        "temperature_error": mean / target - 1.0,
        "temperature_standard_error_K": float(np.nanstd(per_replica) / np.sqrt(per_replica.size)),
        "temperature_of_tenths_K": blocks,
        "coldest_and_hottest_replica_K": [
            float(np.nanmin(per_replica)),
            float(np.nanmax(per_replica)),
        ],
    }


def memory(folder: Path, replicas: int) -> dict[str, Any]:
    """Return memory over time, and its growth in the last process after its first tenth."""
    processes, steps, used, clock = np.loadtxt(folder / MEMORY, delimiter=",", ndmin=2).T
    last = np.flatnonzero(processes == processes[-1])
    tail = last[len(last) // 10 :]
    slope = float(np.polyfit(steps[tail], used[tail], 1)[0]) if len(tail) > 2 else float("nan")
    pieces = np.diff(processes) == 0
    seconds = float(np.diff(clock)[pieces].sum())
    shown = np.unique(np.linspace(0, len(steps) - 1, min(MOST_POINTS, len(steps))).astype(int))
    return {
        "processes": len(np.unique(processes)),
        "hours": seconds / 3600.0,
        "replica_steps_per_second": replicas
        * float(np.diff(steps)[pieces].sum())
        / max(seconds, 1.0),
        "memory_at_a_tenth_MB": float(used[tail[0]]),
        "memory_at_the_end_MB": float(used[-1]),
        "memory_largest_MB": float(used.max()),
        "memory_growth_MB_per_million_steps": 1e6 * slope,
        "memory_samples": len(used),
        "memory_over_time": {
            "replica_steps": (replicas * steps[shown]).astype(int).tolist(),
            "MB": used[shown].tolist(),
        },
    }
