"""What each ``scoremd`` command does: one function per command, one step from trajectory to report.

The command line is made from the signatures: what may be positional is, what is keyword-only is an
option. An annotation holds an option's help and, for whole numbers, the lowest and highest value
allowed. Heavy imports stay inside the functions, so that ``scoremd --help`` is quick.
"""

from __future__ import annotations

import json as json_format
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from openmm_scoremd._io import result_folder, write_run_record
from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.progress import console, interrupts_held_back, progress_bar

if TYPE_CHECKING:
    import mdtraj
    import numpy as np
    from numpy.typing import NDArray

    from openmm_scoremd.data.coarse_graining import CoarseGrainingMap
    from openmm_scoremd.data.dataset import CGDataset
    from openmm_scoremd.iid import Solver
    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.simulation.replicas import ReplicaSimulation
    from openmm_scoremd.training.config import TrainingConfig
    from openmm_scoremd.training.log import LogRow
    from openmm_scoremd.training.trainer import Trainer

logger = logging.getLogger(__name__)

ModelPath = Annotated[str, "model file (.pt)"]
Seed = Annotated[int, "seed of all random numbers", 0, 2**63 - 1]
Device = Annotated[Literal["cpu", "cuda"], "where independent frames are drawn"]

_STEPS_PER_UPDATE = 10  # of the progress bar; where Ctrl-C stops a simulation


def coarse_grain(
    trajectory: Annotated[list[str], "trajectory files of any format that MDTraj reads"],
    *,
    topology: Annotated[str, "PDB, mmCIF, prmtop, PSF or GROMACS top of all atoms"],
    temperature: Annotated[float, "temperature of the trajectory in K"],
    output: Annotated[str, "dataset to write (.npz); bead topologies (.pdb, .psf) go beside it"],
    preset: Annotated[
        Literal["alanine-dipeptide", "backbone-cb", "ca"] | None,
        "which atoms become beads: a named set,",
    ] = None,
    selection: Annotated[str | None, "or a selection of MDTraj, such as 'name CA',"] = None,
    indices: Annotated[list[int] | None, "or atom indices from 0, such as 4,6,8"] = None,
    stride: Annotated[int, "take every n-th frame", 1] = 1,
) -> None:
    """Make a CG dataset from an all-atom trajectory."""
    from openmm_scoremd.data.coarse_graining import coarse_grain_trajectory, load_topology
    from openmm_scoremd.data.dataset import save_dataset
    from openmm_scoremd.simulation.trajectories import without_c_output
    from openmm_scoremd.units import thermal_energy

    thermal_energy(temperature)
    _require_suffix(output, ".npz")
    _require_new_files(output, ".npz", ".pdb", ".psf")
    atoms = load_topology(topology)
    mapping = _bead_choice(atoms, preset, selection, indices)
    with progress_bar("reading frames") as advance, without_c_output():
        dataset = coarse_grain_trajectory(
            trajectory, atoms, mapping, temperature=temperature, stride=stride, progress=advance
        )
    scale = dataset.scale  # An error if there is nothing to learn, better now than in training.
    save_dataset(dataset, output)
    _write_bead_topologies(dataset, output)
    print(
        f"{output}: {dataset.n_frames:,} frames of {dataset.n_beads} beads at "
        f"{dataset.temperature:g} K, scale {scale:.4f} nm"
    )


def train(config: TrainingConfig, *, output: str, resume: bool) -> None:
    """Train a network."""
    from openmm_scoremd.training.trainer import Trainer

    trainer = Trainer(config, output)
    run = trainer.resume if resume else trainer.start
    if not trainer.fabric.is_global_zero:
        run()
        return
    steps = f"{trainer.n_steps:,} steps of {config.batch_size} frames"
    console.out(f"{output}: {steps} on {trainer.fabric.device}", highlight=False)
    with progress_bar("training") as advance:

        def progress(row: LogRow, total: int) -> None:
            text = f"loss {row.loss:.4f}  {row.samples_per_second:,.0f} samples/s"
            advance(row.step, total, text)

        trainer.progress = progress
        weights = run()
    _plot_loss(trainer)
    print(f"{weights}: trained for {trainer.n_steps:,} steps")
    print(f"next: scoremd export {weights} MODEL.pt")


def export(
    weights: Annotated[str, "weights of a training run (.safetensors)"],
    output: Annotated[str, "model file to write (.pt)"],
    *,
    time: Annotated[float, "diffusion time whose score is the force"] = 1e-5,
    precision: Annotated[Literal["float32", "float64"], "precision of the weights"] = "float32",
) -> None:
    """Write trained weights as a TorchScript file for OpenMM."""
    from openmm_scoremd.export import export_torchscript

    _require_suffix(output, ".pt")
    export_torchscript(weights, output, t=time, dtype=precision)
    info(output)


def info(
    model: ModelPath, *, json: Annotated[bool, "print all metadata as JSON instead"] = False
) -> None:
    """Verify a model file and say what it is."""
    file = _load_model(model)
    if json:
        content = {"sha256": file.sha256, **json_format.loads(file.metadata.to_json())}
        print(json_format.dumps(content, indent=2))
        return
    for name, value in _info_rows(file).items():
        print(f"{name:<16}{value}")


def sample(
    model: ModelPath,
    output: Annotated[str, "new folder for iid.dcd, topology.pdb, topology.psf and run.json"],
    *,
    frames: Annotated[int, "number of frames", 1] = 1000,
    seed: Seed = 0,
    solver: Annotated[
        Literal["dpm-solver", "euler-maruyama"], "how the reverse process is integrated"
    ] = "dpm-solver",
    steps: Annotated[
        int | None, "score evaluations per frame; if not given 100, or 1000 for euler-maruyama", 1
    ] = None,
    device: Device = "cpu",
) -> None:
    """Draw independent frames by reverse diffusion."""
    from openmm_scoremd.simulation.trajectories import save_frames

    with result_folder(output) as folder:
        file = _load_model(model, device)
        positions = _draw(file, frames, seed=seed, solver=solver, steps=steps)
        save_frames(positions, folder / "iid.dcd")
        _write_topologies(file, positions[0], folder)
        write_run_record(
            folder,
            arguments={"frames": frames, "solver": solver, "steps": steps, "device": device},
            seeds={"sampling": seed},
            inputs={"model": model},
            results={},
        )
    print(f"{folder / 'iid.dcd'}: {frames:,} independent frames")


def simulate(
    model: ModelPath,
    output: Annotated[str, "new folder for one DCD per replica, topology.pdb, .psf and run.json"],
    *,
    replicas: Annotated[int, "number of replicas", 1] = 100,
    steps: Annotated[int, "time steps of every replica", 1] = 10_000,
    interval: Annotated[int, "time steps between frames", 1] = 100,
    seed: Seed = 0,
    timestep: Annotated[float, "in ps"] = 0.002,
    friction: Annotated[float, "in 1/ps"] = 1.0,
    platform: Annotated[str | None, "OpenMM platform; if not given, the one that fits"] = None,
    backend: Annotated[Literal["auto", "torchforce", "pythonforce"], "OpenMM force class"] = "auto",
    device: Device = "cpu",
) -> None:
    """Run Langevin dynamics of many replicas from independent frames."""
    from openmm_scoremd.simulation.replicas import ReplicaSimulation

    if interval > steps:
        raise InvalidInputError(
            f"interval is {interval} and steps {steps}: there would be no frame"
        )
    with result_folder(output) as folder:
        file = _load_model(model, device)
        simulation = ReplicaSimulation(
            file,
            replicas=replicas,
            seed=seed,
            timestep=timestep,
            friction=friction,
            platform=platform,
            backend=backend,
        )
        start = _draw(file, replicas, seed=seed)
        simulation.set_positions(start)
        _write_topologies(file, start[0], folder)
        simulation.add_trajectories(folder, interval=interval)
        speed = _advance(simulation, steps)
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
            results={"replica_steps": replicas * steps, "replica_steps_per_second": speed},
        )
    print(
        f"{folder}: {replicas:,} replicas of {steps * timestep:g} ps, {steps // interval:,} frames "
        f"each, {speed:,.0f} replica-steps/s"
    )


def evaluate(
    model: ModelPath,
    reference: Annotated[str, "CG dataset (.npz)"],
    output: Annotated[str, "new folder for pictures, metrics.json and run.json"],
    *,
    simulation: Annotated[str | None, "folder of a simulation (scoremd simulate)"] = None,
    frames: Annotated[int, "number of independent frames to draw", 1] = 10_000,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Compare sampling and simulation with reference frames.

    If the reference is the dataset of the training, only frames held back from training count.
    """
    from openmm_scoremd.analysis.comparison import Resampling
    from openmm_scoremd.evaluation import evaluate as compare
    from openmm_scoremd.evaluation import held_back_frames
    from openmm_scoremd.simulation.trajectories import load_replicas

    with result_folder(output) as folder:
        file = _load_model(model, device)
        # Whatever is wrong with files is better said before minutes of sampling.
        held_back_frames(file, reference)
        replicas = None if simulation is None else load_replicas(simulation, n_beads=file.n_beads)
        iid = _draw(file, frames, seed=seed)
        with console.status("comparing"):
            comparison = compare(
                file,
                reference,
                folder,
                iid=iid,
                replicas=replicas,
                seed=seed,
                resampling=Resampling(max_frames=100_000),
            )
    print(comparison.format_table())
    print(f"pictures and numbers: {folder}")


#: In the order of work.
COMMANDS: dict[str, Callable[..., None]] = {
    "coarse-grain": coarse_grain,
    "train": train,
    "export": export,
    "info": info,
    "sample": sample,
    "simulate": simulate,
    "evaluate": evaluate,
}


# --- Checks before work begins ---------------------------------------------------------------


def _require_suffix(path: str, suffix: str) -> None:
    if Path(path).suffix != suffix:
        raise InvalidInputError(f"the output is {path}; its name must end in {suffix}")


def _require_new_files(path: str, *suffixes: str) -> None:
    # Files that nobody named must replace nothing: the topology may lie where they go.
    for file in (Path(path).with_suffix(suffix) for suffix in suffixes):
        if file.exists():
            raise InvalidInputError(f"{file} exists already; give another name for the output")


def _bead_choice(
    atoms: mdtraj.Topology, preset: str | None, selection: str | None, indices: list[int] | None
) -> CoarseGrainingMap:
    from openmm_scoremd.data.coarse_graining import CoarseGrainingMap

    if sum(choice is not None for choice in (preset, selection, indices)) != 1:
        raise InvalidInputError("give exactly one of --preset, --selection and --indices")
    if preset is not None:
        return CoarseGrainingMap.from_preset(atoms, preset)
    if selection is not None:
        return CoarseGrainingMap.from_selection(atoms, selection)
    return CoarseGrainingMap.from_indices(atoms, indices or [])


# --- Steps of several commands ---------------------------------------------------------------


def _load_model(path: str, device: str = "cpu") -> ScoreModelFile:
    from openmm_scoremd.model_file import ScoreModelFile

    return ScoreModelFile(path, device=device)


def _draw(
    file: ScoreModelFile,
    n: int,
    *,
    seed: int,
    solver: Solver = "dpm-solver",
    steps: int | None = None,
) -> NDArray[np.float64]:
    with progress_bar("drawing frames") as advance:
        return file.sample(n, seed=seed, solver=solver, n_steps=steps, progress=advance)


def _advance(simulation: ReplicaSimulation, n_steps: int) -> float:
    """Simulate and return the number of replica-steps per second."""
    import openmm

    began, speed, done = time.perf_counter(), 0.0, 0
    with progress_bar("simulating") as advance, interrupts_held_back() as stop_if_interrupted:
        while done < n_steps:
            first, done = done, min(done + _STEPS_PER_UPDATE, n_steps)
            try:
                simulation.step(done - first)
            except openmm.OpenMMException as error:
                raise NumericalError(f"OpenMM stopped after step {first}: {error}") from error
            speed = simulation.replicas * done / (time.perf_counter() - began)
            advance(done, n_steps, f"{speed:,.0f} replica-steps/s")
            stop_if_interrupted()
    return speed


def _write_topologies(file: ScoreModelFile, frame: NDArray[np.floating], folder: Path) -> None:
    from openmm_scoremd.topology import write_pdb, write_psf

    write_pdb(file.bead_topology, frame, folder / "topology.pdb")
    write_psf(file.bead_topology, folder / "topology.psf")


def _write_bead_topologies(dataset: CGDataset, output: str) -> None:
    from openmm_scoremd.topology import write_pdb, write_psf

    try:
        write_pdb(dataset.topology, dataset.positions[0], Path(output).with_suffix(".pdb"))
        write_psf(dataset.topology, Path(output).with_suffix(".psf"))
    # The dataset is there, and nothing else is needed.
    except InvalidInputError as error:
        logger.warning("no bead topology beside %s: %s", output, error)


def _plot_loss(trainer: Trainer) -> None:
    from openmm_scoremd.analysis.plots import plot_loss
    from openmm_scoremd.analysis.training_log import read_loss_csv
    from openmm_scoremd.training.trainer import LOG

    try:
        curve = read_loss_csv(trainer.folder / LOG)
    # The weights are there; a log that was lost is no reason to fail.
    except InvalidInputError as error:
        logger.warning("no picture of the loss: %s", error)
        return
    plot_loss({"training": curve}, trainer.folder / "loss.png")


def _info_rows(file: ScoreModelFile) -> dict[str, str]:
    data = file.metadata
    names = " ".join([*data.topology.names[:12], "..."][: data.n_beads])
    results = data.training.get("results", {})
    training = ", ".join(
        f"{results[name]} {name}" for name in ("steps", "hours") if name in results
    )
    return {
        "title": data.title,
        "beads": f"{data.n_beads} ({names})",
        "temperature": f"{data.temperature:g} K",
        "diffusion time": f"{data.t:g} for the force",
        "precision": data.dtype,
        "training": training or "unknown",
        "created": f"{data.created} with torch {data.versions.get('torch', '?')}",
        "licence": data.licence,
        "citation": data.citation,
        "SHA-256": file.sha256,
        "self-test": f"{len(data.self_test.energies)} frames reproduced",
    }
