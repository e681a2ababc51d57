"""What each ``scoremd`` command does: one function per command, one step from trajectory to report.

The command line is made from the signatures: what may be positional is, what is keyword-only is an
option. An annotation holds an option's help and, for whole numbers, the lowest and highest value
allowed. Heavy imports stay inside the functions, so that ``scoremd --help`` is quick.
"""

from __future__ import annotations

import contextlib
import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from openmm_scoremd._files.atomic import result_folder
from openmm_scoremd.cli.ecosystem import campaign, fokker_planck, import_weights, refine
from openmm_scoremd.cli.progress import console, progress_bar
from openmm_scoremd.cli.steps import (
    ChainOptions,
    info_rows,
    load_model,
    plot_training_loss,
    refuse_given,
    training_progress,
    write_bead_topologies,
    write_chains,
    write_independent_frames,
)
from openmm_scoremd.errors import CheckpointError, InvalidInputError

if TYPE_CHECKING:
    import mdtraj

    from openmm_scoremd.data.coarse_graining import CoarseGrainingMap
    from openmm_scoremd.training.config import ExpertConfig, TrainingConfig
    from openmm_scoremd.training.trainer import Progress, Trainer

ModelPath = Annotated[str, "model file (.pt)"]
Seed = Annotated[int, "seed of all random numbers", 0, 2**63 - 1]
Device = Annotated[Literal["cpu", "cuda"], "where independent frames are drawn"]


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
    from openmm_scoremd.trajectories.reading import without_c_output
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
    write_bead_topologies(dataset, output)
    print(
        f"{output}: {dataset.n_frames:,} frames of {dataset.n_beads} beads at "
        f"{dataset.temperature:g} K, scale {scale:.4f} nm"
    )


def train(config: TrainingConfig, *, output: str, resume: bool, expert: str | None) -> None:
    """Train a network, or the experts of a mixture one after another."""
    if expert is not None or config.experts:
        _train_experts(config, output, resume=resume, expert=expert)
        return
    from openmm_scoremd.training.trainer import Trainer

    trainer = Trainer(config, output)
    run = trainer.resume if resume else trainer.start
    if not trainer.fabric.is_global_zero:
        run()
        return
    _announce(trainer, output)
    with progress_bar("training") as advance:
        trainer.progress = training_progress(advance)
        weights = run()
    plot_training_loss(trainer)
    print(f"{weights}: trained for {trainer.n_steps:,} steps")
    print(f"next: scoremd export {weights} MODEL.pt")


def _train_experts(
    config: TrainingConfig, output: str, *, resume: bool, expert: str | None
) -> None:
    from openmm_scoremd.training.experts import train_expert, train_mixture

    if expert is None and not resume and Path(output).exists():
        raise CheckpointError(
            f"{output} exists already; give --resume to go on with it, or another folder"
        )
    with contextlib.ExitStack() as bars:

        def progress_of(expert: ExpertConfig, trainer: Trainer) -> Progress | None:
            if not trainer.fabric.is_global_zero:
                return None
            _announce(trainer, f"{output}, expert {expert.name}")
            bars.close()
            return training_progress(bars.enter_context(progress_bar(expert.name)))

        if expert is not None:
            weights = train_expert(config, expert, output, progress_of=progress_of)
        else:
            weights = train_mixture(config, output, progress_of=progress_of)
    if expert is not None:
        print(f"{weights}: trained; when all experts are, combine them with")
        print(f"scoremd train --config FILE --output {output} --resume")
        return
    print(f"{weights}: {len(config.experts)} experts")
    print(f"next: scoremd export {weights} MODEL.pt")


def _announce(trainer: Trainer, where: str) -> None:
    steps = f"{trainer.n_steps:,} steps of {trainer.config.batch_size} frames"
    console.out(f"{where}: {steps} on {trainer.fabric.device}", highlight=False)


def export(
    weights: Annotated[str, "weights of a training run (.safetensors)"],
    output: Annotated[str, "model file to write (.pt)"],
    *,
    time: Annotated[float, "diffusion time whose score is the force"] = 1e-5,
    precision: Annotated[Literal["float32", "float64"], "precision of the weights"] = "float32",
) -> None:
    """Write trained weights as a TorchScript file for OpenMM."""
    from openmm_scoremd.export.export import export_torchscript

    _require_suffix(output, ".pt")
    export_torchscript(weights, output, t=time, dtype=precision)
    info(output)


def info(
    model: ModelPath, *, json: Annotated[bool, "print all metadata as JSON instead"] = False
) -> None:
    """Verify a model file and say what it is."""
    file = load_model(model)
    if json:
        content = {"sha256": file.sha256, **json_format.loads(file.metadata.to_json())}
        print(json_format.dumps(content, indent=2))
        return
    for name, value in info_rows(file).items():
        print(f"{name:<16}{value}")


def sample(
    model: ModelPath,
    output: Annotated[str, "new folder for DCD files, topology.pdb, topology.psf and run.json"],
    *,
    frames: Annotated[int | None, "number of independent frames; 1000 if not given", 1] = None,
    seed: Seed = 0,
    solver: Annotated[
        Literal["dpm-solver", "euler-maruyama"] | None,
        "how the reverse process is integrated; dpm-solver if not given",
    ] = None,
    steps: Annotated[
        int | None, "score evaluations per frame; if not given 100, or 1000 for euler-maruyama", 1
    ] = None,
    device: Device = "cpu",
    trajectory: Annotated[
        int | None, "frames per chain of overdamped Langevin dynamics, instead of iid frames", 1
    ] = None,
    chains: Annotated[int | None, "number of chains; 10 if not given", 1] = None,
    interval: Annotated[int | None, "steps between frames of a chain; 100 if not given", 1] = None,
    stiffness: Annotated[
        float | None,
        "of springs between steps, standardised; if not given, 2.5 times the largest curvature",
    ] = None,
    time: Annotated[float | None, "diffusion time of a chain; the force's if not given"] = None,
    window: Annotated[int | None, "steps computed together; one if not given", 1] = None,
    temperature: Annotated[float | None, "of the noise in K; the model's if not given"] = None,
    friction: Annotated[
        float | None, "in 1/ps, to express steps of chains in ps; 1 if not given"
    ] = None,
) -> None:
    """Draw independent frames, or chains of overdamped dynamics."""
    options = ChainOptions(
        chains=chains, interval=interval, stiffness=stiffness, time=time, window=window,
        temperature=temperature, friction=friction,
    )  # fmt: skip
    if trajectory is None:
        refuse_given(vars(options), "of trajectories; give --trajectory too")
    else:
        iid = {"frames": frames, "solver": solver, "steps": steps}
        refuse_given(iid, "of independent frames; leave out, or leave out --trajectory")
    with result_folder(output) as folder:
        file = load_model(model, device)
        if trajectory is None:
            kind = solver or "dpm-solver"
            said = write_independent_frames(
                file, folder, frames or 1000, seed=seed, solver=kind, steps=steps, device=device
            )
        else:
            said = write_chains(file, folder, trajectory, options, seed=seed, device=device)
    print(said)


def simulate(
    model: ModelPath,
    output: Annotated[str, "folder for trajectories, topologies, state data and run.json"],
    *,
    replicas: Annotated[int | None, "number of replicas; 100 if not given", 1] = None,
    steps: Annotated[int | None, "time steps of each; 10000 if not given", 1] = None,
    time: Annotated[str | None, "or time of each, such as 10ns"] = None,
    interval: Annotated[int | None, "time steps between frames; 100 if not given", 1] = None,
    seed: Annotated[int | None, "seed of all random numbers; 0 if not given", 0, 2**63 - 1] = None,
    timestep: Annotated[float | None, "in ps; 0.002 if not given"] = None,
    friction: Annotated[float | None, "in 1/ps; 1 if not given"] = None,
    temperature: Annotated[float | None, "in K; the model's if not given"] = None,
    potential_scale: Annotated[float | None, "factor of the potential; 1 if not given"] = None,
    equilibration: Annotated[str | None, "time before, not written, such as 10ps"] = None,
    start: Annotated[
        str | None, "frames to begin from (.dcd, .xtc, .pdb); independent ones if not given"
    ] = None,
    format: Annotated[  # noqa: A002 the option's name
        Literal["dcd", "xtc"] | None, "of trajectories; dcd if not given"
    ] = None,
    files: Annotated[
        Literal["replica", "combined"] | None, "one per replica (if not given), or one for all"
    ] = None,
    on_failure: Annotated[
        Literal["restart", "freeze", "stop"] | None,
        "what becomes of a replica that broke; restart from a fresh frame if not given",
    ] = None,
    margin: Annotated[
        float | None,
        "how far bonds may leave the range of the training, relative; 0.25 if not given, inf: any",
    ] = None,
    jumps: Annotated[
        str | None, "time between jumps to independent frames, such as 10ps (approximate)"
    ] = None,
    resume: Annotated[bool, "go on after any stop; with a larger --time or --steps beyond"] = False,
    checkpoint_seconds: Annotated[
        float | None, "seconds of work that a crash may cost; 60 if not given"
    ] = None,
    platform: Annotated[str | None, "OpenMM platform; if not given, the one that fits"] = None,
    backend: Annotated[
        Literal["auto", "torchforce", "pythonforce", "compiled", "best"] | None,
        "how OpenMM evaluates the model; auto if not given; best: times them all first",
    ] = None,
    device: Device = "cpu",
) -> None:
    """Run Langevin dynamics of many replicas from independent frames."""
    from openmm_scoremd.cli.simulate import simulate_replicas

    options = {
        "replicas": replicas, "steps": steps, "time": time, "interval": interval, "seed": seed,
        "timestep": timestep, "friction": friction, "temperature": temperature,
        "equilibration": equilibration, "format": format, "files": files, "margin": margin,
        "on_failure": on_failure, "jumps": jumps, "checkpoint_seconds": checkpoint_seconds,
        "platform": platform, "backend": backend, "potential_scale": potential_scale,
    }  # fmt: skip
    file = load_model(model, device)
    print(simulate_replicas(file, output, options, start=start, resume=resume))


def plan(
    model: ModelPath,
    *,
    replicas: Annotated[
        list[int] | None, "numbers of replicas; if not given, 1,10,100,1000"
    ] = None,
    platform: Annotated[str | None, "OpenMM platform; if not given, all that work here"] = None,
    output: Annotated[str | None, "also write the numbers there (.json)"] = None,
) -> None:
    """Time a model with every backend and platform that work here."""
    from openmm_scoremd.simulation.speed import write_plan

    print(write_plan(load_model(model, "cpu"), output, replicas=replicas, platform=platform))


def evaluate(
    model: ModelPath,
    reference: Annotated[str, "CG dataset (.npz)"],
    output: Annotated[str, "new folder for report.html, metrics.json, pictures and run.json"],
    *,
    simulation: Annotated[str | None, "folder of a simulation (scoremd simulate)"] = None,
    trajectories: Annotated[
        str | None, "folder of denoising trajectories (scoremd sample --trajectory)"
    ] = None,
    iid: Annotated[
        str | None, "folder of independent frames (scoremd sample); drawn if not given"
    ] = None,
    weights: Annotated[
        str | None, "weights of the model (.safetensors), for its Fokker-Planck error"
    ] = None,
    frames: Annotated[int, "number of independent frames to draw; 0 for none", 0] = 10_000,
    level: Annotated[float, "probability of a false alarm in the verdict"] = 0.01,
    require_consistent: Annotated[
        bool, "end with exit code 3 if any two sets contradict each other, 4 if they tell nothing"
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Compare samples and trajectories with reference frames.

    If the reference is the dataset of the training, only frames held back from training count.
    """
    from openmm_scoremd.cli.evaluate import EvaluationSources, write_evaluation

    sources = EvaluationSources(
        simulation=simulation, trajectories=trajectories, iid=iid, weights=weights, frames=frames
    )
    with result_folder(output) as folder:
        found = write_evaluation(
            model, reference, folder, sources, level=level, seed=seed, device=device
        )
    print(found.format_table())
    print(f"report: {folder / 'report.html'}")
    print(f"pictures and numbers: {folder}")
    if require_consistent:
        found.require_consistent()


#: In the order of work.
COMMANDS: dict[str, Callable[..., None]] = {
    "coarse-grain": coarse_grain,
    "train": train,
    "refine": refine,
    "import": import_weights,
    "export": export,
    "info": info,
    "sample": sample,
    "plan": plan,
    "simulate": simulate,
    "evaluate": evaluate,
    "fokker-planck": fokker_planck,
    "campaign": campaign,
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
