"""Denoising trajectories: what a window of steps costs and saves, and whether times are right.

    python benchmarks/denoising_trajectories.py                # about 3 minutes on one core
    python benchmarks/denoising_trajectories.py --device cuda  # speed on a GPU

Speed: one and many chains of the shipped model of alanine dipeptide and one of the exact
Müller-Brown score, step after step and by Picard iteration in windows, with the same noise.
Iterations count calls of the score, one after another; the ratio of wall-clock times says whether
fewer but larger calls paid on this machine. The largest difference to the sequential chain stands
beside them, in standardised units.

Accuracy: many chains of the exact Müller-Brown score, all started in the deep minimum. Their last
half is compared with exact samples, and their first arrivals in the other minimum, in physical
time, with OpenMM's BrownianIntegrator in the potential itself, at the same and at a smaller step.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd._files.run_record import package_versions
from openmm_scoremd.analysis.comparison.metrics import MUELLER_BROWN_LIMITS, js_divergence
from openmm_scoremd.data.toy import (
    MUELLER_BROWN_MASS,
    MUELLER_BROWN_THERMAL_ENERGY,
    mueller_brown_expression,
    mueller_brown_force,
    sample_mueller_brown,
)
from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.overdamped_langevin import (
    sample_denoising_trajectory,
    sample_time_parallel_trajectory,
)
from openmm_scoremd.diffusion.step_size import largest_curvature, physical_timestep
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.units import MOLAR_GAS_CONSTANT

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results" / "denoising_trajectories.json"
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide.pt"
DEEP_MINIMUM, SHALLOW_MINIMUM = (-0.558, 1.442), (0.623, 0.028)
ARRIVAL_RADIUS = 0.15
FRICTION = 10.0
LARGEST_CURVATURE = 178.0  # of Müller-Brown at 23 kJ/mol, among 20,000 exact samples, 1/nm^2
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is done.

    Attributes
    ----------
    windows : tuple of int
        Steps computed together.
    shares : tuple of float
        Step size times largest curvature.
    steps : int
        Steps of a timed chain.
    many : int
        Chains of the case of many, which make an eighth of the steps.
    rounds : int
        Timings, of which the median counts.
    chains, frames, steps_per_frame : int
        Of the chains for accuracy.
    accuracy_share : float
        Step size times largest curvature of these chains.
    refinement : int
        The reference's smaller step is this many times smaller.
    """

    windows: tuple[int, ...] = (4, 16, 64)
    shares: tuple[float, ...] = (0.1, 0.01)
    steps: int = 512
    many: int = 64
    rounds: int = 3
    chains: int = 1000
    frames: int = 4000
    steps_per_frame: int = 10
    accuracy_share: float = 0.2
    refinement: int = 4


SMOKE = Settings(windows=(4,), shares=(0.1,), steps=16, many=2, rounds=1, chains=50, frames=400)


@dataclasses.dataclass(frozen=True)
class Case:
    """A score to move a chain by, standardised."""

    name: str
    score_fn: ScoreFunction
    start: Tensor
    t: float
    project: Callable[[Tensor], Tensor] | None
    steps: int


def mueller_brown_score(x: Tensor, _t: Tensor) -> Tensor:
    """Return the exact score at 23 kJ/mol; one unit is one nm."""
    force = mueller_brown_force(x.double().cpu().numpy())
    return torch.from_numpy(force / MUELLER_BROWN_THERMAL_ENERGY).to(x)


def make_cases(settings: Settings, device: str) -> list[Case]:
    """Return the scores to time."""
    point = torch.tensor(DEEP_MINIMUM, dtype=torch.float64)[None, None]
    steps = settings.steps
    cases = [Case("Müller-Brown", mueller_brown_score, point, 1e-5, None, steps)]
    if SHIPPED.is_file():
        model = ScoreModelFile(SHIPPED, device=device)
        start = torch.from_numpy(model.sample(settings.many, seed=0) / model.metadata.scale)
        start = start.to(device, getattr(torch, model.metadata.dtype))
        shared = (model.metadata.t, centred)
        cases.append(Case(SHIPPED.name, model.score_fn, start[:1], *shared, steps))
        cases.append(Case(SHIPPED.name, model.score_fn, start, *shared, steps // 8))
    return cases


def centred(x: Tensor) -> Tensor:
    """Return molecules (B, N, D) about the origin."""
    return x - x.mean(dim=1, keepdim=True)


# --- speed ----------------------------------------------------------------------------------------


def run_chain(case: Case, step_size: float, window: int) -> tuple[Tensor, int, float]:
    """Return frames, calls of the score one after another, and seconds; window 1 is sequential."""
    generator = torch.Generator(case.start.device).manual_seed(1)
    began = time.perf_counter()
    if window == 1:
        frames = sample_denoising_trajectory(
            case.score_fn,
            case.start,
            t=case.t,
            step_size=step_size,
            n_frames=case.steps,
            generator=generator,
            project=case.project,
        )
        calls = case.steps
    else:
        found = sample_time_parallel_trajectory(
            case.score_fn,
            case.start,
            t=case.t,
            step_size=step_size,
            n_frames=case.steps,
            generator=generator,
            window=window,
            tolerance=TOLERANCE,
            project=case.project,
        )
        frames, calls = found.frames, found.iterations
    frames = frames.cpu()  # Waits for a GPU.
    return frames, calls, time.perf_counter() - began


def time_case(case: Case, settings: Settings) -> list[dict[str, Any]]:
    """Time one score at all step sizes and windows."""
    curvature = largest_curvature(case.score_fn, case.start, t=case.t)
    rows = []
    for share in settings.shares:
        step_size = share / curvature
        times: dict[int, list[float]] = {window: [] for window in (1, *settings.windows)}
        results = {}
        # The first round compiles TorchScript for every batch size.
        for turn in range(settings.rounds + 1):
            for window, samples in times.items():
                frames, calls, seconds = run_chain(case, step_size, window)
                results[window] = (frames, calls)
                samples.extend([seconds] if turn > 0 else [])
        sequential = float(np.median(times[1]))
        for window, samples in times.items():
            frames, calls = results[window]
            seconds = float(np.median(samples))
            rows.append(
                {
                    "score": case.name,
                    "step_size_times_curvature": share,
                    "step_size": step_size,
                    "window": window,
                    "chains": len(case.start),
                    "steps": case.steps,
                    "iterations": calls,
                    "steps_per_iteration": case.steps / calls,
                    "seconds": seconds,
                    "speed_ratio_to_sequential": sequential / seconds,
                    "largest_difference": float((frames - results[1][0]).abs().max()),
                }
            )
    return rows


# --- accuracy -------------------------------------------------------------------------------------


def chain_frames(settings: Settings, step_size: float) -> np.ndarray:
    """Return frames (chains, frames, 2) in nm of chains with the exact score."""
    start = torch.tensor(DEEP_MINIMUM).double().expand(settings.chains, 1, 2)
    frames = sample_denoising_trajectory(
        mueller_brown_score,
        start,
        t=1e-5,
        step_size=step_size,
        n_frames=settings.frames,
        generator=torch.Generator().manual_seed(2),
        steps_per_frame=settings.steps_per_frame,
    )
    return np.asarray(frames[:, :, 0].numpy())


def brownian_frames(settings: Settings, timestep: float, steps_per_frame: int) -> np.ndarray:
    """Return frames (chains, frames, 2) in nm of OpenMM's overdamped dynamics."""
    system = openmm.System()
    force = openmm.CustomExternalForce(mueller_brown_expression())
    for i in range(settings.chains):
        system.addParticle(MUELLER_BROWN_MASS)
        force.addParticle(i, [])
    system.addForce(force)
    temperature = MUELLER_BROWN_THERMAL_ENERGY / MOLAR_GAS_CONSTANT
    integrator = openmm.BrownianIntegrator(temperature, FRICTION, timestep)
    integrator.setRandomNumberSeed(3)
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, reference)
    context.setPositions(np.tile([*DEEP_MINIMUM, 0.0], (settings.chains, 1)))
    frames = []
    for _ in range(settings.frames):
        integrator.step(steps_per_frame)
        positions = context.getState(positions=True).getPositions(asNumpy=True)
        frames.append(positions._value[:, :2])
    return np.stack(frames, axis=1)


def passage_time(frames: np.ndarray, interval: float) -> dict[str, float]:
    """Return the mean first passage time in ps, its standard error and the share that arrived.

    Times are taken to be exponential, so that chains that have not arrived count with the time
    they waited.
    """
    inside = np.linalg.norm(frames - np.array(SHALLOW_MINIMUM), axis=-1) < ARRIVAL_RADIUS
    arrived = inside.any(axis=1)
    steps = np.where(arrived, inside.argmax(axis=1) + 1, frames.shape[1])
    count = max(int(arrived.sum()), 1)
    mean = float(steps.sum()) * interval / count
    return {"ps": mean, "error_ps": mean / math.sqrt(count), "arrived": float(arrived.mean())}


def accuracy(settings: Settings) -> dict[str, Any]:
    """Compare chains of the exact score with exact samples and with OpenMM."""
    step_size = settings.accuracy_share / LARGEST_CURVATURE
    timestep = physical_timestep(
        step_size,
        mass=MUELLER_BROWN_MASS,
        friction=FRICTION,
        scale=1.0,
        thermal_energy=MUELLER_BROWN_THERMAL_ENERGY,
    )
    interval = settings.steps_per_frame * timestep
    frames = chain_frames(settings, step_size)
    times = {"denoising": passage_time(frames, interval)}
    fine = settings.refinement
    for name, part in (("brownian", 1), ("brownian_smaller_step", fine)):
        reference = brownian_frames(settings, timestep / part, part * settings.steps_per_frame)
        times[name] = passage_time(reference, interval)

    # Frames of one chain this far apart are hardly correlated.
    late = frames[:, settings.frames // 2 :: 500].reshape(-1, 2)
    exact = sample_mueller_brown(len(late) + 500_000, seed=4).positions[:, 0].astype(float)
    reference, other = exact[len(late) :], exact[: len(late)]
    options = {"bins": 30, "limits": MUELLER_BROWN_LIMITS}
    return {
        "step_size_nm2": step_size,
        "step_size_times_curvature": settings.accuracy_share,
        "friction_per_ps": FRICTION,
        "timestep_ps": timestep,
        "chains": settings.chains,
        "chain_ps": settings.frames * interval,
        "mean_first_passage_time": times,
        "js_divergence": js_divergence(reference, late, **options),
        "js_noise_floor": js_divergence(reference, other, **options),
        "js_frames": len(late),
        "js_bins": options["bins"],
    }


# --- output ---------------------------------------------------------------------------------------


def speed_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of windows."""
    table = Table(title="window 1 = sequential", title_justify="left", pad_edge=False)
    for name in (
        "score",
        "chains",
        "η·λ",
        "window",
        "iterations",
        "steps/iter.",
        "s",
        "× speed",
        "max diff.",
    ):
        table.add_column(name, justify="left" if name == "score" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["score"],
            str(row["chains"]),
            f"{row['step_size_times_curvature']:g}",
            str(row["window"]),
            str(row["iterations"]),
            f"{row['steps_per_iteration']:.2f}",
            f"{row['seconds']:.3f}",
            f"{row['speed_ratio_to_sequential']:.2f}",
            f"{row['largest_difference']:.0e}",
        )
    return table


def verdict(rows: Sequence[dict[str, Any]], device: str) -> str:
    """Say for every score whether windows paid."""
    lines = []
    for name, chains in dict.fromkeys((row["score"], row["chains"]) for row in rows):
        same = [row for row in rows if (row["score"], row["chains"]) == (name, chains)]
        windows = [row for row in same if row["window"] > 1]
        ratios = [row["speed_ratio_to_sequential"] for row in windows]
        slower = sum(ratio < 1.0 for ratio in ratios)
        lines.append(
            f"{name}, {chains} chain{'s' if chains > 1 else ''}, {device}: time-parallel was "
            f"{min(ratios):.2f} to {max(ratios):.2f} times as fast as sequential; "
            f"slower in {slower} of {len(ratios)} settings"
        )
    return "\n".join(lines)


def describe_accuracy(result: dict[str, Any]) -> str:
    """Return the numbers of :func:`accuracy` in words."""
    times = result["mean_first_passage_time"]
    passages = ", ".join(
        f"{name} {value['ps']:.3f} ± {value['error_ps']:.3f}" for name, value in times.items()
    )
    return (
        f"Müller-Brown, mean first passage time in ps: {passages}\n"
        f"JS divergence to exact samples: {result['js_divergence']:.4f} with "
        f"{result['js_frames']:,} frames, noise floor {result['js_noise_floor']:.4f}"
    )


def run(settings: Settings, *, device: str, console: Console) -> dict[str, Any]:
    """Do everything and return the record."""
    began = time.perf_counter()
    record: dict[str, Any] = {
        "benchmark": "denoising_trajectories",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "load_before": os.getloadavg()[0],
        },
        "versions": package_versions(),
        "settings": dataclasses.asdict(settings),
        "tolerance": TOLERANCE,
        "speed": [],
    }
    for case in make_cases(settings, device):
        with console.status(case.name):
            record["speed"] += time_case(case, settings)
    console.print(speed_table(record["speed"]))
    record["verdict"] = verdict(record["speed"], record["machine"]["device"])
    console.print(record["verdict"], highlight=False, soft_wrap=True)
    with console.status("accuracy"):
        record["accuracy"] = accuracy(settings)
    console.print(describe_accuracy(record["accuracy"]), highlight=False, soft_wrap=True)
    record["seconds"] = round(time.perf_counter() - began, 1)
    return record


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Denoising trajectories: speed and accuracy.")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it works")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the model")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    settings = SMOKE if options.smoke else Settings()
    record = run(settings, device=options.device, console=console)
    write_json(options.output, record)
    console.print(f"{record['seconds']:.0f} s; written to {options.output}")


if __name__ == "__main__":
    main()
