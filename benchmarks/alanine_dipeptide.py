"""Sampling and simulation of alanine dipeptide by several trained models (Table 1, Table 8).

python benchmarks/alanine_dipeptide.py diffusion=runs/diffusion/weights.safetensors
python benchmarks/alanine_dipeptide.py two-for-one=runs/diffusion/weights.safetensors@0.02

Every model is given as NAME=WEIGHTS, with @TIME for a force at another diffusion time than 1e-5. It
is exported, simulated (100 replicas from independent frames of the model, 2 fs, 300 K, 1/ps) and
compared with the frames held back from training. The basin at φ = 60° (0.3 < φ < 2 rad) is counted
apart, because frames with φ > 0 also lie near 0 and 180°. What is finished is not done again; the
numbers of all models in the folder go to benchmarks/results/alanine_dipeptide_methods.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd._files.run_record import package_versions
from openmm_scoremd.cli.evaluate import evaluate
from openmm_scoremd.cli.model import export
from openmm_scoremd.cli.simulate import simulate
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.geometry import dihedrals
from openmm_scoremd.model_file import Backend
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.trajectories.reading import load_replicas

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/alanine_dipeptide_methods.json"
DATA = ROOT / "examples/data/alanine_dipeptide.npz"
PHI = [(0, 1, 2, 3)]
BASIN = (0.3, 2.0)  # rad


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How much of everything."""

    replicas: int
    steps: int
    interval: int
    iid_frames: int
    backend: Backend


def main() -> None:
    """Run what is missing and gather the results."""
    options = _arguments()
    protocol = Protocol(
        replicas=options.replicas,
        steps=options.steps,
        interval=options.interval,
        iid_frames=options.frames,
        backend=options.backend,
    )
    for model in options.models:
        name, _, weights = model.partition("=")
        weights, _, time = weights.partition("@")
        _evaluate(options.output / name, weights, float(time or 1e-5), protocol, options.seed)
    if not os.environ.get("SMOKE_TEST"):
        write_json(RESULTS, _gathered(options.output, protocol))
        print(RESULTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="NAME=WEIGHTS[@TIME]")
    parser.add_argument("--output", type=Path, default=Path("runs/aldp_methods"))
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--interval", type=int, default=250)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--backend", choices=get_args(Backend), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _evaluate(folder: Path, weights: str, time: float, protocol: Protocol, seed: int) -> None:
    if (folder / "summary.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.pt"
    export(weights, str(model), time=time)
    simulation = folder / "simulation"
    if simulation.exists() and not (simulation / "run.json").exists():
        simulate(str(model), str(simulation), resume=True)
    elif not simulation.exists():
        simulate(
            str(model),
            str(simulation),
            replicas=protocol.replicas,
            steps=protocol.steps,
            interval=protocol.interval,
            seed=seed,
            backend=protocol.backend,
        )
    if not (folder / "report").exists():
        evaluate(
            str(model),
            str(DATA),
            str(folder / "report"),
            simulation=str(simulation),
            frames=protocol.iid_frames,
            seed=seed,
        )
    description = load_weights(weights).description
    summary = {
        "force_time": time,
        "training": description.training["results"],
        "refinement": description.training.get("refinement"),
        "experts": [dataclasses.asdict(expert) for expert in description.experts],
        "protocol": dataclasses.asdict(protocol),
        "simulation": json.loads((simulation / "run.json").read_text())["results"],
        "comparison": json.loads((folder / "report/metrics.json").read_text()),
        "basin": _basin(simulation),
    }
    write_json(folder / "summary.json", summary)


def _basin(simulation: Path) -> dict[str, Any]:
    """Return how often, and for how long, replicas are in the basin at positive φ.

    The first half of every replica is left out: it remembers where the replica started. The error
    is the standard error over replicas.
    """
    replicas = load_replicas(simulation, n_beads=5)
    inside = _in_basin(replicas.reshape(-1, 5, 3)).reshape(replicas.shape[:2])
    later = inside[:, inside.shape[1] // 2 :].mean(axis=1)
    return {
        "population": float(later.mean()),
        "error": float(later.std(ddof=1) / len(later) ** 0.5),
        "reference": float(_in_basin(load_dataset(DATA).positions).mean()),
        "entries": int((inside[:, 1:] & ~inside[:, :-1]).sum()),
    }


def _in_basin(frames: NDArray[np.floating]) -> NDArray[np.bool_]:
    phi = dihedrals(frames, PHI)[:, 0]
    inside: NDArray[np.bool_] = (BASIN[0] < phi) & (phi < BASIN[1])
    return inside


def _shortened(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary without the histograms and features that the report has."""
    kept = ("n_reference", "n_pool", "sets")
    return {**summary, "comparison": {name: summary["comparison"][name] for name in kept}}


def _gathered(output: Path, protocol: Protocol) -> dict[str, Any]:
    return {
        "protocol": dataclasses.asdict(protocol),
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "torch_threads": torch.get_num_threads(),
        },
        "versions": package_versions(),
        "models": {
            path.parent.name: _shortened(json.loads(path.read_text()))
            for path in sorted(output.glob("*/summary.json"))
        },
    }


if __name__ == "__main__":
    main()
