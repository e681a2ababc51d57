"""OpenMM forces from an exported model: the only owner of ``TorchForce`` and ``PythonForce``.

Both evaluate the same TorchScript module, so energies and forces agree to rounding:

==============  =================================================================================
TorchForce      from openmmtorch; least overhead; its XML contains the whole model
PythonForce     part of OpenMM; works with every torch; its XML contains the path and the hash
==============  =================================================================================

NaN coordinates give NaN forces with either: replicas share one System, and one broken replica must
not stop the others. :class:`~openmm_scoremd.simulation.replicas.ReplicaSimulation` watches for it.

The XML of a System with one of these forces is executable code, like the model itself.
"""

from __future__ import annotations

import functools
import importlib
import logging
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import unit

from openmm_scoremd.artifact import ModelArchive, read_archive
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.torchscript import (
    ScriptModule,
    checked_device,
    energy_and_forces,
    load_archive,
    optimised,
    select_particles,
)

logger = logging.getLogger(__name__)

#: How OpenMM evaluates the model; "auto" is TorchForce where it works, otherwise PythonForce.
Backend: TypeAlias = Literal["auto", "torchforce", "pythonforce"]
#: Whether TorchForce records CUDA graphs; "auto" does so where OpenMM and torch have CUDA.
CudaGraphs: TypeAlias = Literal["auto", "on", "off"]

#: Name of the forces; the XML formats of both classes drop it.
FORCE_NAME = "ScoreModelForce"

#: With other versions of torch these openmmtorch wheels fail to import or end the process.
_TORCH_OF_OPENMMTORCH = {"1.5": "2.9"}
_KERNEL = "CalcTorchForce"


def create_force(
    model: str | os.PathLike[str] | ModelArchive,
    *,
    particles: Sequence[int] | None = None,
    system: openmm.System | None = None,
    backend: Backend = "auto",
    cuda_graphs: CudaGraphs = "auto",
    device: str | None = None,
    force_group: int = 0,
    sha256: str | None = None,
) -> openmm.Force:
    """Return the force of a model, to be added to a System with ``addForce``.

    Parameters
    ----------
    model : path-like or ModelArchive
        An exported model.
    particles : sequence of int, optional
        Particles of the System that are the beads, in the order of the model's topology; several
        replicas one after another. By default all particles, also several replicas.
    system : openmm.System, optional
        The System that the force is for, only looked at: wrong particle numbers and periodic
        boundaries are found now instead of in the first step.
    backend : {"auto", "torchforce", "pythonforce"}
        Force class.
    cuda_graphs : {"auto", "on", "off"}
        TorchForce only: record CUDA graphs. Other platforms ignore it.
    device : str, optional
        PythonForce only: where the model runs. By default CUDA where torch has it, otherwise CPU.
    force_group : int
        OpenMM's force group, 0 to 31.
    sha256 : str, optional
        Expected hash of the model file.

    Returns
    -------
    openmm.Force
        A ``TorchForce`` or a ``PythonForce``, without periodic boundaries.

    Raises
    ------
    ModelFileError
        If the model file is missing, damaged or not the expected one.
    InvalidInputError
        If an option, the particles or the System do not fit the model.
    MissingDependencyError
        If TorchForce is asked for and cannot be used.

    Notes
    -----
    The first call of either force compiles the model and takes a second or so. To read the XML of a
    System with a TorchForce in another process, call :func:`load_torchforce_plugin` there first;
    for a PythonForce this package must be importable and the model file in its place.
    """
    _check_choice("backend", backend, get_args(Backend))
    _check_choice("cuda_graphs", cuda_graphs, get_args(CudaGraphs))
    if not 0 <= force_group <= 31:
        raise InvalidInputError(f"force_group is {force_group}; OpenMM has groups 0 to 31")
    archive = model if isinstance(model, ModelArchive) else read_archive(model, sha256=sha256)
    chosen = _checked_particles(particles, archive.metadata.n_beads, system)
    if choose_backend(backend) == "torchforce":
        force = _torchforce(archive, chosen, cuda_graphs)
    else:
        force = _pythonforce(archive, chosen, device)
    force.setUsesPeriodicBoundaryConditions(False)
    force.setForceGroup(force_group)
    force.setName(FORCE_NAME)
    return force


def choose_backend(backend: Backend) -> Literal["torchforce", "pythonforce"]:
    """Resolve "auto", with a log line where PythonForce has to do.

    Raises
    ------
    MissingDependencyError
        If TorchForce is asked for and cannot be used.
    """
    if backend == "pythonforce":
        return backend
    try:
        load_torchforce_plugin()
    except MissingDependencyError as error:
        if backend == "torchforce":
            raise
        logger.warning("PythonForce is used instead of TorchForce: %s", error)
        return "pythonforce"
    return "torchforce"


def load_torchforce_plugin() -> Any:
    """Import openmmtorch, make its kernels known to OpenMM, and return the module.

    Needed before a System with a TorchForce is read from XML.

    Raises
    ------
    MissingDependencyError
        If openmmtorch is absent, does not fit the installed torch, or cannot be loaded.
    """
    _check_openmmtorch_version()
    try:
        with _without_simtk_warning():
            openmmtorch = importlib.import_module("openmmtorch")
    # Missing libraries show as ImportError or OSError, depending on who loads them.
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"openmmtorch cannot be imported ({error}); install openmmtorch==1.5 with torch 2.9 "
            "and OpenMM 8.5, or use backend='pythonforce'"
        ) from error
    _load_kernels()
    return openmmtorch


class ModelComputation:
    """The function behind a PythonForce.

    A pickle of it (and so the XML of its System) holds four settings and no code; the model is
    loaded at the first call, after its hash was verified.

    Parameters
    ----------
    path : str
        Absolute path of the model file.
    sha256 : str
        Hash that the file must have.
    particles : tuple of int
        Particles that are beads; empty for all.
    device : str or None
        Where the model runs; None for CUDA where the process has it, otherwise CPU.
    """

    def __init__(
        self, path: str, sha256: str, particles: tuple[int, ...], device: str | None
    ) -> None:
        self._settings = (path, sha256, particles, device)
        self._loaded: _LoadedModel | None = None

    def __reduce__(self) -> tuple[type[ModelComputation], tuple[object, ...]]:
        # OpenMM ends the process if unpickling fails, so nothing may happen there but this.
        return type(self), self._settings

    def __call__(self, state: openmm.State) -> tuple[float, NDArray[np.float64]]:
        """Return energy (kJ/mol) and forces (M, 3) (kJ/mol/nm); OpenMM always wants both.

        Raises
        ------
        ModelFileError
            At the first call, if the file is gone or changed. OpenMM turns errors of this method
            into ``OpenMMException`` with the same message.
        InvalidInputError
            If the number of particles does not fit the model.
        """
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if self._loaded is None:
            self._loaded = self._load(len(positions))
        on_device = torch.from_numpy(positions).to(self._loaded.device)
        energy, forces = energy_and_forces(self._loaded.module, on_device)
        return float(energy), forces.cpu().numpy()

    def _load(self, n_particles: int) -> _LoadedModel:
        path, sha256, particles, device = self._settings
        archive = read_archive(path, sha256=sha256)
        _check_count(particles, archive.metadata.n_beads, n_particles)
        target = device or ("cuda" if torch.cuda.is_available() else "cpu")
        module = load_archive(archive, device=target)
        select_particles(module, particles)
        return _LoadedModel(optimised(module), torch.device(target))


class _LoadedModel(NamedTuple):
    module: ScriptModule
    device: torch.device


def _torchforce(
    archive: ModelArchive, particles: tuple[int, ...], cuda_graphs: CudaGraphs
) -> openmm.Force:
    module = load_archive(archive, device="cpu")
    select_particles(module, particles)
    force = load_torchforce_plugin().TorchForce(module)
    # Read by OpenMM's CUDA platform only.
    force.setProperty("useCUDAGraphs", "true" if _wants_graphs(cuda_graphs) else "false")
    return force


def _pythonforce(
    archive: ModelArchive, particles: tuple[int, ...], device: str | None
) -> openmm.Force:
    if device is not None:
        checked_device(device)
    settings = (str(archive.path), archive.sha256, particles, device)
    return openmm.PythonForce(ModelComputation(*settings))


def _wants_graphs(choice: CudaGraphs) -> bool:
    if choice != "auto":
        return choice == "on"
    return torch.cuda.is_available() and any(p.getName() == "CUDA" for p in _platforms())


# --- checks ---------------------------------------------------------------------------------------


def _check_choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise InvalidInputError(f"{name} is {given!r}; it must be one of {', '.join(allowed)}")


def _checked_particles(
    particles: Sequence[int] | None, n_beads: int, system: openmm.System | None
) -> tuple[int, ...]:
    chosen = () if particles is None else tuple(operator.index(i) for i in particles)
    if particles is not None and not chosen:
        raise InvalidInputError("particles is empty; leave it out to use all particles")
    if len(set(chosen)) != len(chosen) or min(chosen, default=0) < 0:
        raise InvalidInputError("particles must be different, non-negative indices")
    n_particles = max(chosen, default=-1) + 1 if system is None else system.getNumParticles()
    if chosen or system is not None:
        _check_count(chosen, n_beads, n_particles)
    if system is not None and system.usesPeriodicBoundaryConditions():
        raise InvalidInputError(
            "the System has periodic boundaries; the model knows none and would see molecules "
            "torn apart: use forces without a cutoff, or CutoffNonPeriodic"
        )
    return chosen


def _check_count(particles: tuple[int, ...], n_beads: int, n_particles: int) -> None:
    if particles and max(particles) >= n_particles:
        raise InvalidInputError(
            f"particles has index {max(particles)}; the System has {n_particles} particles, "
            "counted from 0"
        )
    count = len(particles) or n_particles
    if count == 0 or count % n_beads:
        raise InvalidInputError(
            f"the force would act on {count} particles; the model has {n_beads} beads, so give it "
            f"a multiple of {n_beads} (option particles selects some of a System)"
        )


# --- openmmtorch ----------------------------------------------------------------------------------


def _check_openmmtorch_version() -> None:
    try:
        found = metadata.distribution("openmmtorch")
    except metadata.PackageNotFoundError:
        return  # Built from source, perhaps; the import will tell.
    # Conda builds it against the torch of the environment.
    if (found.read_text("INSTALLER") or "").strip() == "conda":
        return
    needed = _TORCH_OF_OPENMMTORCH.get(found.version)
    if needed is not None and not torch.__version__.startswith(f"{needed}."):
        raise MissingDependencyError(
            f"openmmtorch {found.version} needs torch {needed}, found {torch.__version__}; "
            f"install torch {needed}, or use backend='pythonforce'"
        )


@functools.cache
def _load_kernels() -> None:
    # OpenMM loads its plugins on import. If that was before torch was imported, the torch plugins
    # did not find their libraries and have to be loaded again.
    failures = []
    if not all(platform.supportsKernels([_KERNEL]) for platform in _platforms()):
        for library in sorted(_plugin_folder().glob("*OpenMMTorch*")):
            try:
                openmm.Platform.loadPluginLibrary(str(library))
            except openmm.OpenMMException as error:
                failures.append(str(error))
    if not openmm.Platform.getPlatformByName("Reference").supportsKernels([_KERNEL]):
        raise MissingDependencyError(
            f"OpenMM cannot load the plugin of openmmtorch ({'; '.join(failures) or 'not found'}); "
            "use backend='pythonforce'"
        )


def _plugin_folder() -> Path:
    packaged = Path(openmm.version.openmm_library_path) / "plugins"
    if "OPENMM_PLUGIN_DIR" not in os.environ and packaged.is_dir():
        return packaged
    return Path(openmm.Platform.getDefaultPluginsDirectory())


def _platforms() -> Iterator[openmm.Platform]:
    for index in range(openmm.Platform.getNumPlatforms()):
        yield openmm.Platform.getPlatform(index)


@contextmanager
def _without_simtk_warning() -> Iterator[None]:
    # openmmtorch 1.5 imports simtk.openmm, which logs a deprecation that no user can act on.
    def keep(record: logging.LogRecord) -> bool:
        return "simtk.openmm" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
