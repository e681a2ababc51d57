"""How runs begin and go on: folder, start frames, limits, and what must be the same."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import openmm
import openmm.app as app
import torch
from numpy.typing import ArrayLike, NDArray
from openmm import unit

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd._files.run_record import package_versions, sha256_of_file
from openmm_scoremd.errors import CheckpointError, InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile, frames_in_nanometers
from openmm_scoremd.simulation.replicas import PrepareSystem, ReplicaSimulation
from openmm_scoremd.simulation.run.folder import Checkpoint
from openmm_scoremd.simulation.run.guards import Guard, make_guard, with_energies
from openmm_scoremd.simulation.run.settings import RunSettings, derived_seed
from openmm_scoremd.simulation.stability import stable_timestep
from openmm_scoremd.trajectories.bead_files import write_viewer_files
from openmm_scoremd.trajectories.reading import load_start_frames, trajectory_files

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]

_PROPERTIES = ("Threads", "DeviceName", "Precision")
_REDRAWS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class StartFrames:
    """Where replicas begin.

    Attributes
    ----------
    frames : ndarray or None
        Frames that were given, shape (R, N, 3), nm.
    path : str
        Or the file or folder to take them from; empty for neither.
    sha256 : str
        Hash of frames or files; empty where they are the model's own.
    """

    frames: ArrayLike | None = None
    path: str = ""
    sha256: str = ""

    @classmethod
    def of(cls, start: ArrayLike | str | os.PathLike[str] | None) -> StartFrames:
        """Describe what a caller gave."""
        if start is None:
            return cls()
        if isinstance(start, (str, os.PathLike)):
            path = os.path.abspath(start)
            return cls(path=path, sha256=_sha256_of_start(path))
        content = np.ascontiguousarray(start, dtype=np.float64).tobytes()
        return cls(frames=start, sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def again(
        cls, content: Mapping[str, Any], start: ArrayLike | str | os.PathLike[str] | None
    ) -> StartFrames:
        """Return the start frames of a run that has no checkpoint yet.

        Raises
        ------
        CheckpointError
            If the frames are not given again, or are others.
        """
        path, sha256 = str(content["start_file"]), str(content["start_sha256"])
        begun = cls.of(start if start is not None else path or None)
        if begun.sha256 != sha256:
            raise CheckpointError(
                "the run was stopped before its first checkpoint and began from other frames "
                f"(SHA-256 {sha256 or 'none: independent frames'}); give those again, or start "
                "again in another folder"
            )
        return begun

    def frames_and_guard(
        self, model: ScoreModelFile, settings: RunSettings
    ) -> tuple[FloatArray, Guard]:
        """Return frames (R, N, 3), nm, to begin from and the limits to watch.

        Raises
        ------
        InvalidInputError
            If given frames do not fit or are outside the limits.
        """
        if not self.sha256:
            frames = model.sample(settings.replicas, seed=settings.seed)
        elif self.path:
            frames = load_start_frames(self.path, n_beads=model.n_beads, n=settings.replicas)
        else:
            frames = frames_in_nanometers(self.frames, model.n_beads)  # type: ignore[arg-type]
        if frames.shape != (settings.replicas, model.n_beads, 3):
            raise InvalidInputError(
                f"start frames have shape {frames.shape}; {settings.replicas} replicas need "
                f"({settings.replicas}, {model.n_beads}, 3)"
            )
        kelvin = settings.temperature or model.temperature
        guard = make_guard(model.metadata, frames, settings.margin, temperature=kelvin)
        broken = guard.broken(frames)
        if broken and self.sha256:
            raise InvalidInputError(
                f"{len(broken)} of {len(frames)} start frames are outside the limits, the first: "
                f"{next(iter(broken.values()))}; choose others, or a larger --margin"
            )
        frames = _redrawn(model, settings, guard, frames) if broken else frames
        if not math.isinf(settings.margin):
            guard = with_energies(
                guard,
                model.potential_energy(frames),
                # A flatter potential is climbed further, as with a higher temperature.
                temperature=max(kelvin / settings.potential_factor, model.temperature),
                degrees=model.metadata.n_dims * model.n_beads,
            )
        return frames, guard


def _sha256_of_start(path: str) -> str:
    """Return the hash of a file, or of all trajectories of a folder."""
    files = trajectory_files(path)
    if files == [Path(path)]:
        return sha256_of_file(path)
    return hashlib.sha256("".join(map(sha256_of_file, files)).encode()).hexdigest()


def _redrawn(
    model: ScoreModelFile, settings: RunSettings, guard: Guard, frames: FloatArray
) -> FloatArray:
    """Draw independent frames outside the limits again."""
    for draw in range(1, _REDRAWS + 1):
        broken = guard.broken(frames)
        if not broken:
            return frames
        logger.warning("%d start frames are outside the limits and are drawn again", len(broken))
        seed = derived_seed(settings.seed, 4, draw)
        frames[list(broken)] = model.sample(len(broken), seed=seed)
    raise InvalidInputError(
        f"{len(guard.broken(frames))} start frames stay outside the limits; give start frames, or "
        "a larger --margin"
    )


def make_simulation(
    model: ScoreModelFile, settings: RunSettings, prepare_system: PrepareSystem | None, seed: int
) -> ReplicaSimulation:
    """Return the simulation of a run.

    Raises
    ------
    InvalidInputError
        If an option cannot be used, or replicas are to jump to frames of another ensemble.
    """
    simulation = ReplicaSimulation(
        model,
        replicas=settings.replicas,
        seed=seed,
        temperature=settings.temperature,
        friction=settings.friction,
        timestep=settings.timestep,
        platform=settings.platform,
        backend=settings.backend,
        device=settings.device,
        prepare_system=prepare_system,
        # Without the parameter a simulation is bit by bit what it was before there was one.
        potential_factor=None if settings.potential_factor == 1.0 else settings.potential_factor,
    )
    if settings.jump_interval:
        check_ensemble(simulation)
    return simulation


def check_ensemble(simulation: ReplicaSimulation) -> None:
    """Check that independent frames of the model are those of a simulation's ensemble.

    Raises
    ------
    InvalidInputError
        If forces were added, or the potential or the temperature are not the model's.
    """
    model = simulation.model
    reasons = {
        "forces were added": bool(simulation.added_forces_sha256),
        f"the potential has the factor {simulation.potential_factor:g}": (
            simulation.potential_factor != 1.0
        ),
        f"the temperature is {simulation.temperature:g} K and not {model.temperature:g} K": (
            abs(simulation.temperature - model.temperature) > 0.01
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise InvalidInputError(
            f"{' and '.join(found)}: independent frames of the model belong to another ensemble; "
            "simulate without jumps"
        )


def warn_of_timestep(model: ScoreModelFile, settings: RunSettings) -> None:
    """Log a warning where the time step is too long for the fastest motion of the model."""
    limit = stable_timestep(model) / math.sqrt(settings.potential_factor)
    if settings.timestep >= limit:
        logger.warning(
            "timestep is %g ps; the fastest motion of %s is stable below about %.2g ps: replicas "
            "will break, use a shorter one",
            settings.timestep,
            model.path.name,
            limit,
        )


def resolved(settings: RunSettings, simulation: ReplicaSimulation) -> RunSettings:
    """Return settings that name platform and temperature, so that a resumed run has the same."""
    platform = simulation.simulation.context.getPlatform().getName()
    return dataclasses.replace(settings, platform=platform, temperature=simulation.temperature)


def identity(
    simulation: ReplicaSimulation, settings: RunSettings, begun: StartFrames
) -> dict[str, Any]:
    """Return what a resumed run must have in common with this one."""
    return {
        "settings": settings.to_dict(),
        "model": simulation.model.path.name,
        "model_sha256": simulation.model.sha256,
        "added_forces_sha256": simulation.added_forces_sha256,
        "start_file": begun.path,
        "start_sha256": begun.sha256,
        "versions": package_versions(),
    }


def check_model(model: ScoreModelFile, content: Mapping[str, Any]) -> None:
    """Check that a run began with this model.

    Raises
    ------
    CheckpointError
        If it was another one.
    """
    if model.sha256 != content["model_sha256"]:
        raise CheckpointError(
            f"{model.path} is another model (SHA-256 {model.sha256[:12]}...) than the run began "
            f"with ({content['model']}, {str(content['model_sha256'])[:12]}...); resume it with "
            "that one, or start another run in another folder"
        )


def check_forces(simulation: ReplicaSimulation, content: Mapping[str, Any]) -> None:
    """Check that the same forces were added.

    Raises
    ------
    CheckpointError
        If they are others.
    """
    if simulation.added_forces_sha256 != content["added_forces_sha256"]:
        raise CheckpointError(
            "the added forces (prepare_system) are others than when the run began; resume it with "
            "the same, or start another run in another folder"
        )


def check_length(settings: RunSettings, step: int, folder: Path) -> None:
    """Check that a run is not asked to be shorter than it is.

    Raises
    ------
    InvalidInputError
        If more steps are done already.
    """
    if settings.steps < step:
        raise InvalidInputError(
            f"steps is {settings.steps}, but {step} are done in {folder}; give at least as many"
        )


def machine(simulation: ReplicaSimulation) -> dict[str, str]:
    """Return what the binary state of a Context depends on."""
    context = simulation.simulation.context
    platform = context.getPlatform()
    found = {"platform": platform.getName(), "openmm": openmm.version.full_version}
    for name in platform.getPropertyNames():
        if name in _PROPERTIES:
            found[name] = platform.getPropertyValue(context, name)
    return found | {"torch": torch.__version__, "torch threads": str(torch.get_num_threads())}


def restore_context(
    simulation: ReplicaSimulation, state: Checkpoint, settings: RunSettings
) -> None:
    """Bring a Context to the state of a checkpoint, with its random numbers where that is possible.

    Positions and velocities must be set already.
    """
    context, step = simulation.simulation.context, int(state.header["step"])
    now, then = machine(simulation), state.header["machine"]
    different = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    loaded = False
    if not [name for name in different if not name.startswith("torch")]:
        try:
            simulation.load_checkpoint(state.context)
            loaded = True
        except openmm.OpenMMException as error:
            logger.warning("the state of OpenMM cannot be loaded: %s", error)
    if different:
        logger.warning(
            "%s changed since the run was stopped: it goes on correctly, but not bit by bit as it "
            "would have",
            ", ".join(f"{k} ({then.get(k, '-')}, now {now.get(k, '-')})" for k in different),
        )
    if not loaded:
        for name, value in state.header.get("parameters", {}).items():
            context.setParameter(name, value)
        context.setStepCount(step)
        context.setTime(step * settings.timestep)


def write_topologies(
    model: ScoreModelFile, frames: FloatArray, folder: Path, settings: RunSettings
) -> None:
    """Write ``topology.pdb`` and ``.psf`` of one replica, and ``replicas.pdb`` if files are one."""
    write_viewer_files(model.bead_topology, frames[0], folder / "topology")
    if settings.files == "combined":
        topology = model.replica_topology(settings.replicas)
        positions = frames.reshape(-1, 3) * unit.nanometer
        try:
            with (
                atomic_path(folder / "replicas.pdb") as path,
                open(path, "w", encoding="utf-8") as file,
            ):
                app.PDBFile.writeFile(topology, positions, file)
        # A coordinate that does not fit into its columns.
        except ValueError as error:
            logger.warning("no replicas.pdb: %s", error)
