"""Sampling and simulation of the Müller-Brown potential by every method (Table 6, Figure 2).

python benchmarks/mueller_brown.py --output runs/mueller_brown_methods

Every method and seed: train with its configuration, draw 100,000 frames by reverse diffusion, and
simulate 5 million steps in all through OpenMM: 100 replicas from frames of the model, 2,000 steps
of equilibration, 50,000 steps each, a frame every 50. Reference: the training frames, which are
independent draws; the ground-truth rows are other independent draws, and simulations with the
true force and the same protocol. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

from openmm_scoremd import ScoreModelFile, export_torchscript, save_dataset
from openmm_scoremd._files.atomic import write_json
from openmm_scoremd._files.run_record import package_versions
from openmm_scoremd.analysis.comparison.metrics import (
    COMBINED_RANGE,
    MUELLER_BROWN_LIMITS,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.analysis.observables.free_energy import free_energy_2d
from openmm_scoremd.analysis.report.plots import figure_of, save, surface_panels
from openmm_scoremd.data.toy import (
    MUELLER_BROWN_MASS,
    mueller_brown_expression,
    sample_mueller_brown,
)
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.refinement.energy_fit import FitSettings
from openmm_scoremd.refinement.refine import RefinementSettings, refine
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.training.config import TrainingConfig
from openmm_scoremd.training.config_file import load_training_config
from openmm_scoremd.training.experts import train_mixture
from openmm_scoremd.training.trainer import CHECKPOINT, Trainer

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/mueller_brown_methods.json"
FIGURE = ROOT / "docs/mueller_brown_free_energy.png"

METHODS = {
    "diffusion": "mueller_brown_diffusion",
    "mixture": "mueller_brown_mixture",
    "fokker-planck": "mueller_brown_fokker_planck",
    "both": "mueller_brown_both",
    "both-fast": "mueller_brown_both_fast",
    "refined": "mueller_brown_both_fast",
}
#: The weights of both-fast and the same seed, and this.
REFINEMENT = RefinementSettings(rounds=3, steps=20_000, timestep=0.005)
#: Their epochs are what they are meant to be trained with; those of the others are the published.
NEVER_SHORTENED = ("both-fast", "refined")

TEMPERATURE = 2766.26  # K, so that k_B T is 23 kJ/mol
TIMESTEP = 0.005  # ps
FRICTION = 1.0  # 1/ps
BINS = 100
#: Frames beyond this are counted and left out, as the public code does (beyond 20): a single one
#: stretches the combined range until everything else falls into few bins, and the divergence of
#: anything from anything vanishes. No reference frame lies beyond 3.1.
FAR = 4.0


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How much of everything."""

    frames: int
    replicas: int
    equilibration: int
    steps: int
    interval: int


FULL = Protocol(frames=100_000, replicas=100, equilibration=2_000, steps=50_000, interval=50)
SMOKE = Protocol(frames=2_000, replicas=10, equilibration=10, steps=500, interval=50)


def main() -> None:
    """Run what is missing and gather the results."""
    options = _arguments()
    protocol = SMOKE if os.environ.get("SMOKE_TEST") else FULL
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    data = output / "data.npz"
    if not data.exists():
        save_dataset(sample_mueller_brown(protocol.frames, seed=0), data)
    for seed in options.seeds:
        _once(output / f"ground-truth-{seed}", lambda seed=seed: _ground_truth(seed, protocol))
        for method in options.methods:
            folder = output / f"{method}-{seed}"
            config = _config(method, seed, data, options.shorten)
            train = _train_and_refine if method == "refined" else _train
            _once(folder, lambda c=config, f=folder, t=train: _run_method(c, f, protocol, t))
    if not os.environ.get("SMOKE_TEST"):
        _collect(output, protocol)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/mueller_brown_methods"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--shorten", type=int, default=1, help="divide the published epochs by this"
    )
    return parser.parse_args()


def _once(folder: Path, work) -> None:
    """Do some work unless its result lies in the folder already."""
    if (folder / "metrics.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    frames, results = work()
    reference = np.load(folder.parent / "data.npz")["positions"][:, 0, :2]
    results |= {name: _compare(reference, points) for name, points in frames.items()}
    np.savez_compressed(folder / "frames.npz", **frames)
    write_json(folder / "metrics.json", results)
    print(folder.name, json.dumps(results), flush=True)


def _config(method: str, seed: int, data: Path, shorten: int) -> TrainingConfig:
    path = ROOT / "examples/methods" / f"{METHODS[method]}.yaml"
    overrides = [f"data.path={data}", f"seed={seed}"]
    divisor = 1 if method in NEVER_SHORTENED else shorten
    if os.environ.get("SMOKE_TEST"):
        divisor = 10_000
        overrides.append("hardware.backend=eager")
    config = load_training_config(path, overrides=overrides)
    experts = tuple(
        dataclasses.replace(expert, epochs=max(expert.epochs // divisor, 1))
        for expert in config.experts
    )
    return dataclasses.replace(
        config, epochs=_shortened(config, divisor), experts=experts, log_steps=1000
    )


def _shortened(config: TrainingConfig, divisor: int) -> int:
    return config.epochs if config.experts else max(config.epochs // divisor, 1)


def _run_method(
    config: TrainingConfig,
    folder: Path,
    protocol: Protocol,
    train: Callable[[TrainingConfig, Path], Path],
):
    began = time.perf_counter()
    weights = train(config, folder / "training")
    record = load_weights(weights).description.training
    results = {
        "training_wall_seconds": round(time.perf_counter() - began, 1),
        "steps": record["results"]["steps"],
        "hours": record["results"]["hours"] + record.get("refinement", {"hours": 0.0})["hours"],
    }
    model = ScoreModelFile(export_torchscript(weights, folder / "model.pt"))
    iid = model.sample(protocol.frames, seed=config.seed, batch_size=20_000)[:, 0, :2]
    return {"iid": iid, "simulation": _simulate(model, config.seed, protocol)}, results


def _train_and_refine(config: TrainingConfig, folder: Path) -> Path:
    both_fast = folder.parent.with_name(f"both-fast-{config.seed}")
    weights = _train(config, both_fast / "training")
    settings = dataclasses.replace(REFINEMENT, seed=config.seed)
    if os.environ.get("SMOKE_TEST"):
        fit = FitSettings(iterations=2, frames=16, region_frames=1)
        settings = dataclasses.replace(settings, rounds=1, steps=40, interval=10, fit=fit)
    return refine(weights, config.data.path, folder, settings=settings)


def _train(config: TrainingConfig, folder: Path) -> Path:
    if config.experts:
        return train_mixture(config, folder)
    trainer = Trainer(config, folder)
    return trainer.resume() if (folder / CHECKPOINT).exists() else trainer.start()


def _simulate(model: ScoreModelFile, seed: int, protocol: Protocol) -> NDArray[np.float64]:
    simulation = ReplicaSimulation(
        model,
        replicas=protocol.replicas,
        seed=seed,
        friction=FRICTION,
        timestep=TIMESTEP,
    )
    simulation.set_positions(model.sample(protocol.replicas, seed=seed + 1_000))
    simulation.step(protocol.equilibration)
    frames = []
    for _ in range(protocol.steps // protocol.interval):
        simulation.step(protocol.interval)
        frames.append(simulation.positions[:, 0, :2].copy())
    return np.concatenate(frames)


def _ground_truth(seed: int, protocol: Protocol):
    iid = sample_mueller_brown(protocol.frames, seed=100 + seed).positions[:, 0]
    force = openmm.CustomExternalForce(mueller_brown_expression())
    system = openmm.System()
    for index in range(protocol.replicas):
        system.addParticle(MUELLER_BROWN_MASS)
        force.addParticle(index, [])
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIMESTEP)
    integrator.setRandomNumberSeed(seed + 1)
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, reference)
    start = np.zeros((protocol.replicas, 3))
    start[:, :2] = sample_mueller_brown(protocol.replicas, seed=200 + seed).positions[:, 0]
    context.setPositions(start)
    context.setVelocitiesToTemperature(TEMPERATURE, seed + 1)
    integrator.step(protocol.equilibration)
    frames = []
    for _ in range(protocol.steps // protocol.interval):
        integrator.step(protocol.interval)
        state = context.getState(positions=True)
        frames.append(state.getPositions(asNumpy=True)._value[:, :2].copy())
    return {"iid": iid, "simulation": np.concatenate(frames)}, {}


def _compare(reference: NDArray[np.floating], points: NDArray[np.floating]) -> dict[str, float]:
    far = (np.abs(points) > FAR).any(axis=1)
    near = points[~far]
    if not len(near):
        return {"frames_beyond_4": int(far.sum())}
    return {
        "js_combined_range": js_divergence(reference, near, bins=BINS, limits=COMBINED_RANGE),
        "js_fixed_range": js_divergence(reference, near, bins=BINS, limits=MUELLER_BROWN_LIMITS),
        "pmf_error": pmf_error(reference, near, bins=64, limits=MUELLER_BROWN_LIMITS),
        "frames_beyond_4": int(far.sum()),
    }


def _collect(output: Path, protocol: Protocol) -> None:
    """Gather what lies in the folder: numbers for the tables and the figure of the first seed."""
    rows: dict[str, dict[str, dict]] = {}
    for path in sorted(output.glob("*/metrics.json")):
        method, _, seed = path.parent.name.rpartition("-")
        rows.setdefault(method, {})[seed] = json.loads(path.read_text())
    configs = {
        method: _training_arguments(output, method, seed)
        for method, seeds in rows.items()
        for seed in list(seeds)[:1]
        if method in METHODS
    }
    epochs = {
        method: {e["name"]: e["epochs"] for e in config["experts"]} or config["epochs"]
        for method, config in configs.items()
    }
    content = {
        "protocol": dataclasses.asdict(protocol),
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "torch_threads": torch.get_num_threads(),
        },
        "versions": package_versions(),
        "epochs": epochs,
        "methods": rows,
    }
    write_json(RESULTS, content)
    surfaces = {"reference": _surface(np.load(output / "data.npz")["positions"][:, 0])}
    for method in METHODS:
        if "0" in rows.get(method, {}):
            with np.load(output / f"{method}-0/frames.npz") as frames:
                surfaces[f"{method}, iid"] = _surface(frames["iid"])
                surfaces[f"{method}, simulation"] = _surface(frames["simulation"])
    panels = surface_panels(surfaces)
    save(figure_of(panels, x_label="x (nm)", y_label="y (nm)", share="all"), FIGURE)
    print(f"{RESULTS}\n{FIGURE}")


def _training_arguments(output: Path, method: str, seed: str) -> dict:
    trained = "both-fast" if method == "refined" else method
    record = json.loads((output / f"{trained}-{seed}/training/run.json").read_text())
    return record["arguments"]


def _surface(points: NDArray[np.floating]):
    return free_energy_2d(points, bins=64, limits=MUELLER_BROWN_LIMITS)


if __name__ == "__main__":
    main()
