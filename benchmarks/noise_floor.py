"""Alanine dipeptide at the noise floor: sampling and simulation against another reference run.

    python benchmarks/noise_floor.py shipped=torchscript_models/alanine_dipeptide.pt ...
    python benchmarks/write_results.py    # bring docs/results.md up to date

Training frames say nothing about a model that has seen them, and held-out frames of the same run
share its errors. So both are compared with the frames of a second run of
examples/make_alanine_dipeptide_trajectory.py (seed 2; hydrogens of 3 Da and steps of 2 fs, which
leave the distribution of positions as it is), which nothing was trained on. The noise floor is the
same number between the two runs, as many frames each: what a perfect model would have. JS with
64 x 64 bins over the whole circle, bonds as the mean Wasserstein-1 distance.

The simulation starts at independent frames of the model, and its frames are those of the second
half; the population of the basin at 0.3 < phi < 2 rad is their mean, its error that over replicas.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import new_record
from numpy.typing import NDArray
from performance_page import RESULTS, markdown_table
from rich.console import Console
from simulation import set_threads

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.analysis.comparison.metrics import bond_length_wasserstein, js_divergence
from openmm_scoremd.analysis.observables.internal_coordinates import bond_lengths, phi_psi
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.topology import BeadTopology

ROOT = Path(__file__).parents[1]
OUTPUT = RESULTS / "noise_floor.json"
TRAINED_ON = ROOT / "examples/data/alanine_dipeptide.npz"
SECOND_RUN = ROOT / "benchmarks/data/alanine_dipeptide_second_run.npz"
BASIN = (0.3, 2.0)  # rad
CIRCLE = [(-math.pi, math.pi)] * 2

Frames = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much of everything.

    Attributes
    ----------
    iid_frames : int
        Independent frames.
    replicas : int
        Copies of the molecule that are simulated.
    steps, interval : int
        Time steps of each, and between two frames.
    timestep : float, ps
        Of the integrator.
    """

    iid_frames: int = 50_000
    replicas: int = 2_500
    steps: int = 30_000
    interval: int = 250
    timestep: float = 0.002


SMOKE = Settings(iid_frames=100, replicas=10, steps=200, interval=20)


def in_basin(frames: Frames, beads: BeadTopology) -> NDArray[np.bool_]:
    """Return whether frames (..., beads, 3) lie in the basin."""
    phi = phi_psi(frames.reshape(-1, *frames.shape[-2:]), beads)[:, 0, 0]
    return ((phi > BASIN[0]) & (phi < BASIN[1])).reshape(frames.shape[:-2])


def compare(reference: Frames, frames: Frames, beads: BeadTopology) -> dict[str, float]:
    """Compare frames (n, beads, 3), nm, with those of the second run."""
    bonds = bond_length_wasserstein(bond_lengths(reference, beads), bond_lengths(frames, beads))
    js = js_divergence(phi_psi(reference, beads), phi_psi(frames, beads), bins=64, limits=CIRCLE)
    return {"frames": len(frames), "js": js, "bond_w1_pm": 1000.0 * bonds.mean}


def simulate(model: ScoreModelFile, start: Frames, settings: Settings) -> Frames:
    """Return frames (replicas, n, beads, 3), nm."""
    simulation = ReplicaSimulation(
        model, replicas=settings.replicas, timestep=settings.timestep, seed=1, backend="kernel"
    )
    simulation.set_positions(start)
    frames = []
    for _ in range(settings.steps // settings.interval):
        simulation.step(settings.interval)
        frames.append(simulation.positions.astype(np.float32))
    return np.stack(frames, axis=1)


def basin_of(trajectories: Frames, beads: BeadTopology) -> dict[str, float]:
    """Return the basin's population in the second half, its error, and how often it was entered."""
    inside = in_basin(trajectories, beads)
    half = inside[:, inside.shape[1] // 2 :].mean(axis=1)
    quarters = [float(part.mean()) for part in np.array_split(inside, 4, axis=1)]
    return {
        "population": float(half.mean()),
        "error": float(half.std(ddof=1) / math.sqrt(len(half))),
        "entries": int((inside[:, 1:] & ~inside[:, :-1]).sum()),
        "quarters": quarters,
    }


def measure(path: Path, reference: Frames, settings: Settings, seed: int) -> dict[str, Any]:
    """Sample and simulate a model, and compare both."""
    model = ScoreModelFile(path)
    beads = model.bead_topology
    began = time.perf_counter()
    iid = model.sample(settings.iid_frames, seed=seed)
    sampled = time.perf_counter()
    trajectories = simulate(model, iid[: settings.replicas], settings)
    simulated = time.perf_counter()
    finite = np.isfinite(trajectories).all(axis=(1, 2, 3))
    kept = trajectories[finite]
    later = kept[:, kept.shape[1] // 2 :].reshape(-1, *kept.shape[2:])
    # As many as there are independent ones, spread over all replicas and times.
    later = later[np.linspace(0, len(later) - 1, min(len(later), len(iid))).astype(int)]
    return {
        "weights_sha256": model.metadata.weights_sha256,
        "training": model.metadata.training.get("results"),
        "iid": compare(reference, iid, beads) | {"basin": float(in_basin(iid, beads).mean())},
        "simulation": compare(reference, later, beads) | basin_of(kept, beads),
        "lost_replicas": int((~finite).sum()),
        "sampling_s": round(sampled - began, 1),
        "simulation_s": round(simulated - sampled, 1),
    }


def run(
    models: Mapping[str, Path], second_run: Path, settings: Settings, console: Console, seed: int
) -> dict[str, Any]:
    """Measure all models and return the record."""
    record = new_record("noise floor", threads=set_threads(None))
    trained_on, second = load_dataset(TRAINED_ON), load_dataset(second_run)
    beads = second.topology
    floor = compare(second.positions, trained_on.positions, beads)
    record |= {
        "settings": dataclasses.asdict(settings),
        "floor": floor,
        "basin": {
            "second_run": float(in_basin(second.positions, beads).mean()),
            "trained_on": float(in_basin(trained_on.positions, beads).mean()),
        },
        "models": {},
    }
    for name, path in models.items():
        with console.status(name):
            row = measure(path, second.positions, settings, seed)
        record["models"][name] = row
        console.print(" | ".join(cells(name, row, floor)))
    return record


COLUMNS = (
    "model",
    "iid JS, floors",
    "simulation JS, floors",
    "P(basin) iid",
    "simulation",
    "entries",
    "bonds iid, pm",
    "simulation",
    "lost replicas",
)


def cells(name: str, row: Mapping[str, Any], floor: Mapping[str, Any]) -> list[str]:
    """Return one row of a table."""
    iid, simulation = row["iid"], row["simulation"]
    return [
        name,
        f"{iid['js']:.4f} ({iid['js'] / floor['js']:.2f})",
        f"{simulation['js']:.4f} ({simulation['js'] / floor['js']:.2f})",
        f"{iid['basin']:.4f}",
        f"{simulation['population']:.4f} ± {simulation['error']:.4f}",
        f"{simulation['entries']:,}",
        f"{iid['bond_w1_pm']:.3f}",
        f"{simulation['bond_w1_pm']:.3f}",
        str(row["lost_replicas"]),
    ]


def markdown(record: Mapping[str, Any]) -> str:
    """Return numbers and table of a record, for ``docs/results.md``."""
    settings, floor, basin = record["settings"], record["floor"], record["basin"]
    length = settings["steps"] * settings["timestep"]
    text = (
        f"{settings['iid_frames']:,} independent frames, and {settings['replicas']:,} replicas of "
        f"{length:g} ps. Between the run that was trained on and the second run: JS "
        f"{floor['js']:.4f}, bonds {floor['bond_w1_pm']:.3f} pm, basin {basin['trained_on']:.4f} "
        f"and {basin['second_run']:.4f}."
    )
    rows = [cells(name, row, floor) for name, row in record["models"].items()]
    return f"{text}\n\n{markdown_table(COLUMNS, rows)}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="models to judge")
    parser.add_argument("--smoke", action="store_true", help="very little, to see that it works")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file (%(default)s)")
    parser.add_argument("--reference", type=Path, default=SECOND_RUN, help="frames of another run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the independent frames")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    models = {name: Path(path) for name, _, path in (m.partition("=") for m in options.models)}
    settings = SMOKE if options.smoke else Settings()
    record = run(models, options.reference, settings, Console(width=160), options.seed)
    write_json(options.output, record)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
