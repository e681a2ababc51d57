"""What each ``scoremd`` command does: one function per command, one step from trajectory to report.

Heavy imports stay inside the functions, so that ``scoremd --help`` is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jsonargparse

from openmm_scoremd._io import write_run_record
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.training.log import LogRow

Preset = Literal["alanine-dipeptide", "backbone-cb", "ca"]


def coarse_grain(
    trajectory: list[str],
    topology: str,
    output: str,
    temperature: float,
    preset: Preset | None = None,
    selection: str | None = None,
    indices: list[int] | None = None,
    stride: int = 1,
) -> None:
    """Make a CG dataset from an all-atom trajectory.

    Args:
        trajectory: Trajectory files that MDTraj reads.
        topology: PDB, mmCIF, prmtop, PSF or GROMACS top.
        output: Dataset to write (.npz); bead topologies (.pdb, .psf) go beside it.
        temperature: Temperature of the trajectory in K.
        preset: Which atoms become beads: by name of a preset,
        selection: or in MDTraj's selection language,
        indices: or by atom index, counted from 0.
        stride: Take every n-th frame.
    """
    from openmm_scoremd.data.coarse_graining import (
        CoarseGrainingMap,
        coarse_grain_trajectory,
        load_topology,
    )
    from openmm_scoremd.data.dataset import save_dataset
    from openmm_scoremd.topology import write_pdb, write_psf

    atoms = load_topology(topology)
    given = [choice for choice in (preset, selection, indices) if choice is not None]
    if len(given) != 1:
        raise InvalidInputError("give exactly one of --preset, --selection and --indices")
    if preset is not None:
        mapping = CoarseGrainingMap.from_preset(atoms, preset)
    elif selection is not None:
        mapping = CoarseGrainingMap.from_selection(atoms, selection)
    else:
        mapping = CoarseGrainingMap.from_indices(atoms, indices or [])
    with progress_bar("reading frames") as advance:
        dataset = coarse_grain_trajectory(
            trajectory,
            atoms,
            mapping,
            temperature=temperature,
            stride=stride,
            progress=advance,
        )
    save_dataset(dataset, output)
    write_pdb(dataset.topology, dataset.positions[0], Path(output).with_suffix(".pdb"))
    write_psf(dataset.topology, Path(output).with_suffix(".psf"))
    print(
        f"{output}: {dataset.n_frames} frames of {dataset.n_beads} beads at "
        f"{dataset.temperature:g} K, scale {dataset.scale:.4f} nm"
    )


def export(
    weights: str,
    output: str,
    time: float = 1e-5,
    precision: Literal["float32", "float64"] = "float32",
) -> None:
    """Write trained weights as a TorchScript file for OpenMM.

    Args:
        weights: Weights of a training run (.safetensors).
        output: Model file to write (.pt).
        time: Diffusion time whose score is the force.
        precision: Precision of the weights in the file.
    """
    from openmm_scoremd.export import export_torchscript

    export_torchscript(weights, output, t=time, dtype=precision)
    info(output)


def info(model: str) -> None:
    """Verify a model file and say what it is.

    Args:
        model: Model file (.pt).
    """
    file = _load_model(model)
    data = file.metadata
    beads = " ".join(data.topology.names)
    rows = {
        "title": data.title,
        "beads": f"{data.n_beads} ({beads})",
        "temperature": f"{data.temperature:g} K",
        "force at diffusion time": f"{data.t:g}",
        "precision": data.dtype,
        "created": f"{data.created} with torch {data.versions.get('torch', '?')}",
        "licence": data.licence,
        "citation": data.citation,
        "SHA-256": file.sha256,
        "self-test": f"{len(data.self_test.energies)} frames reproduced",
    }
    for name, value in rows.items():
        print(f"{name:<24}{value}")


def sample(
    model: str,
    output: str,
    frames: int = 1000,
    seed: int = 0,
    solver: Literal["dpm-solver", "euler-maruyama"] = "dpm-solver",
    steps: int | None = None,
) -> None:
    """Draw independent frames by reverse diffusion.

    Args:
        model: Model file (.pt).
        output: Folder for iid.dcd, topology.pdb, topology.psf and run.json.
        frames: Number of frames.
        seed: Seed of the noise.
        solver: How the reverse process is integrated.
        steps: Score evaluations per frame; 100 or, for euler-maruyama, 1000 if not given.
    """
    from openmm_scoremd.simulation.trajectories import save_frames

    file = _load_model(model)
    positions = _sample(file, frames, seed=seed, solver=solver, steps=steps)
    folder = Path(output)
    save_frames(positions, folder / "iid.dcd")
    _write_topologies(file, positions[0], folder)
    write_run_record(
        folder,
        arguments={"frames": frames, "solver": solver, "steps": steps},
        seeds={"sampling": seed},
        inputs={"model": model},
        results={},
    )
    print(f"{folder / 'iid.dcd'}: {frames} independent frames")


def simulate(
    model: str,
    output: str,
    replicas: int = 100,
    steps: int = 10_000,
    interval: int = 100,
    seed: int = 0,
    timestep: float = 0.002,
    friction: float = 1.0,
    platform: str | None = None,
    backend: Literal["auto", "torchforce", "pythonforce"] = "auto",
) -> None:
    """Run Langevin dynamics of many replicas, started from independent frames.

    Args:
        model: Model file (.pt).
        output: New folder for one DCD per replica, topology.pdb, topology.psf and run.json.
        replicas: Number of replicas.
        steps: Time steps of every replica.
        interval: Time steps between frames.
        seed: Seed of start frames, velocities and noise.
        timestep: In ps.
        friction: In 1/ps.
        platform: OpenMM platform.
        backend: OpenMM force class.
    """
    from openmm_scoremd.simulation.replicas import ReplicaSimulation

    file = _load_model(model)
    simulation = ReplicaSimulation(
        file,
        replicas=replicas,
        seed=seed,
        timestep=timestep,
        friction=friction,
        platform=platform,
        backend=backend,
    )
    simulation.set_positions(_sample(file, replicas, seed=seed, solver="dpm-solver", steps=None))
    folder = Path(output)
    simulation.add_trajectories(folder, interval=interval)
    _write_topologies(file, simulation.positions[0], folder)
    _run(simulation.step, steps, interval)
    write_run_record(
        folder,
        arguments={
            "replicas": replicas,
            "steps": steps,
            "interval": interval,
            "timestep": timestep,
            "friction": friction,
            "platform": simulation.simulation.context.getPlatform().getName(),
            "backend": backend,
        },
        seeds={"simulation": seed},
        inputs={"model": model},
        results={"replica_steps": replicas * steps},
    )
    print(f"{folder}: {replicas} replicas of {steps * timestep:g} ps, no NaN")


def evaluate(
    model: str,
    reference: str,
    output: str,
    frames: int = 10_000,
    simulation: str | None = None,
    seed: int = 0,
) -> None:
    """Compare independent frames and a simulation with reference frames.

    If the reference is the dataset of the training, only frames held back from training count.

    Args:
        model: Model file (.pt).
        reference: CG dataset (.npz).
        output: Folder for pictures, metrics.json and run.json.
        frames: Number of independent frames to draw.
        simulation: Folder of a simulation (from scoremd simulate).
        seed: Seed of the independent frames.
    """
    from openmm_scoremd.analysis.comparison import Resampling
    from openmm_scoremd.evaluation import evaluate as compare
    from openmm_scoremd.simulation.trajectories import load_replicas

    file = _load_model(model)
    iid = _sample(file, frames, seed=seed, solver="dpm-solver", steps=None)
    replicas = None
    if simulation is not None:
        replicas = load_replicas(simulation, n_beads=file.n_beads)
    comparison = compare(
        file,
        reference,
        output,
        iid=iid,
        replicas=replicas,
        seed=seed,
        resampling=Resampling(max_frames=100_000),
    )
    print(comparison.format_table())


def train(arguments: jsonargparse.Namespace) -> None:
    """Train a network; the configuration has been checked."""
    from openmm_scoremd.analysis.plots import plot_loss
    from openmm_scoremd.analysis.training_log import read_loss_csv
    from openmm_scoremd.training.config import TrainingConfig
    from openmm_scoremd.training.trainer import LOG, Trainer

    values = dict(vars(arguments))
    folder, resume = Path(values.pop("output")), values.pop("resume")
    values.pop("config")
    with progress_bar("training") as advance:

        def progress(row: LogRow, total: int) -> None:
            text = f"loss {row.loss:.4f}  {row.samples_per_second:,.0f} samples/s"
            advance(row.step, total, text)

        trainer = Trainer(TrainingConfig(**values), folder, progress=progress)
        weights = trainer.resume() if resume else trainer.start()
    if trainer.fabric.is_global_zero:
        plot_loss({"training": read_loss_csv(folder / LOG)}, folder / "loss.png")
        print(
            f"{weights}: trained {trainer.n_steps} steps; next: scoremd export {weights} MODEL.pt"
        )


COMMANDS: dict[str, Callable[..., None]] = {
    "coarse-grain": coarse_grain,
    "export": export,
    "info": info,
    "sample": sample,
    "simulate": simulate,
    "evaluate": evaluate,
}


def _load_model(path: str) -> ScoreModelFile:
    from openmm_scoremd.model_file import ScoreModelFile

    return ScoreModelFile(path)


def _sample(
    file: ScoreModelFile, n: int, *, seed: int, solver: Any, steps: int | None
) -> NDArray[np.float64]:
    with progress_bar(f"drawing {n} frames") as advance:
        return file.sample(
            n,
            seed=seed,
            solver=solver,
            n_steps=steps,
            progress=advance,
        )


def _run(step: Callable[[int], None], n_steps: int, interval: int) -> None:
    with progress_bar("simulating") as advance:
        for first in range(0, n_steps, interval):
            step(min(interval, n_steps - first))
            advance(min(first + interval, n_steps), n_steps)


def _write_topologies(file: ScoreModelFile, frame: NDArray[np.floating], folder: Path) -> None:
    from openmm_scoremd.topology import write_pdb, write_psf

    write_pdb(file.bead_topology, frame, folder / "topology.pdb")
    write_psf(file.bead_topology, folder / "topology.psf")
