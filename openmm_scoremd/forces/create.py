"""OpenMM forces from an exported model: the only owner of ``TorchForce`` and ``PythonForce``.

Both evaluate the same TorchScript module, so energies and forces agree to rounding:

==============  =================================================================================
TorchForce      from openmmtorch; least overhead; its XML contains the whole model
PythonForce     part of OpenMM; works with every torch; its XML contains the path and the hash
==============  =================================================================================

With ``backend="compiled"`` a PythonForce evaluates the same weights with a C++ kernel that is
compiled for this machine at first use (:mod:`openmm_scoremd.forces.kernel`): the fastest on CPU.

A force may have Context parameters: the factor of its potential, and its diffusion time
(:mod:`openmm_scoremd.artifact.noise_levels`).

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
from typing import Any, Literal, TypeAlias, get_args

import openmm
import torch

from openmm_scoremd.artifact.metadata import ModelArchive, read_archive
from openmm_scoremd.artifact.noise_levels import (
    SCALE_PARAMETER,
    TIME_PARAMETER,
    Adjustable,
    NoiseLevelEnergy,
    scaled,
)
from openmm_scoremd.artifact.torchscript import (
    ScriptModule,
    checked_device,
    has_explicit_forces,
    load_archive,
    returning_forces,
    script_module,
    select_particles,
)
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.forces.python_force import (
    CompiledComputation,
    ModelComputation,
    check_count,
    compiled_model,
)

__all__ = [
    "FORCE_NAME",
    "Backend",
    "CudaGraphs",
    "ModelComputation",
    "available_backends",
    "choose_backend",
    "create_force",
    "load_torchforce_plugin",
    "resolve_compiled",
]

logger = logging.getLogger(__name__)

#: How OpenMM evaluates the model; "auto" is TorchForce where it works, otherwise PythonForce.
Backend: TypeAlias = Literal["auto", "torchforce", "pythonforce", "compiled"]
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
    adjustable: Adjustable = "nothing",
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
    backend : {"auto", "torchforce", "pythonforce", "compiled"}
        Force class. "compiled" is a PythonForce with a C++ kernel, on CPU; where it cannot be had
        (no compiler, another kind of network, an older file), "auto" is used, and the log says why.
    cuda_graphs : {"auto", "on", "off"}
        TorchForce only: record CUDA graphs. Other platforms ignore it.
    device : str, optional
        PythonForce only: where the model runs. By default CUDA where torch has it, otherwise CPU.
        On CUDA the first call records a CUDA graph, unless the time can change; the log says so if
        that fails.
    force_group : int
        OpenMM's force group, 0 to 31.
    sha256 : str, optional
        Expected hash of the model file.
    adjustable : {"nothing", "scale", "scale-and-time"}
        Context parameters: "scale" is ``scoremd_scale``, the factor of the potential, 1 at first;
        "scale-and-time" also ``scoremd_time``, the diffusion time, at first the model's. A time
        that can change costs the speed of a network folded at one time, explicit forces, CUDA
        graphs and the compiled kernel; "compiled" then is "auto".

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
    _check_choice("adjustable", adjustable, get_args(Adjustable))
    archive = model if isinstance(model, ModelArchive) else read_archive(model, sha256=sha256)
    chosen = _checked_particles(particles, archive.metadata.n_beads, system)
    if backend == "compiled" and adjustable == "scale-and-time":
        logger.warning("backend 'auto' is used: the compiled kernel has one diffusion time only")
        backend = "auto"
    resolved = choose_backend(resolve_compiled(archive, backend))
    if resolved == "torchforce":
        force = _torchforce(archive, chosen, cuda_graphs, adjustable)
    else:
        kind = CompiledComputation if resolved == "compiled" else ModelComputation
        force = _pythonforce(archive, chosen, device, kind, adjustable)
    force.setUsesPeriodicBoundaryConditions(False)
    force.setForceGroup(force_group)
    force.setName(FORCE_NAME)
    return force


def resolve_compiled(archive: ModelArchive, backend: Backend) -> Backend:
    """Turn "compiled" into "auto", with a log line, where the kernel cannot evaluate the model.

    The kernel is compiled here if need be, and must reproduce the self-test frames of the file.
    """
    if backend == "compiled":
        try:
            compiled_model(archive)
        except (InvalidInputError, MissingDependencyError) as error:
            logger.warning("backend 'auto' is used instead of 'compiled': %s", error)
            return "auto"
    return backend


def available_backends(archive: ModelArchive) -> list[Backend]:
    """Return the backends that can evaluate a model here, "auto" left out; the log says why not."""
    backends: list[Backend] = ["pythonforce"]
    try:
        load_torchforce_plugin()
        backends.insert(0, "torchforce")
    except MissingDependencyError as error:
        logger.info("no TorchForce: %s", error)
    if resolve_compiled(archive, "compiled") == "compiled":
        backends.append("compiled")
    return backends


def choose_backend(backend: Backend) -> Literal["torchforce", "pythonforce", "compiled"]:
    """Resolve "auto", with a log line where PythonForce has to do.

    Raises
    ------
    MissingDependencyError
        If TorchForce is asked for and cannot be used.
    """
    if backend in ("pythonforce", "compiled"):
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


def _torchforce(
    archive: ModelArchive,
    particles: tuple[int, ...],
    cuda_graphs: CudaGraphs,
    adjustable: Adjustable,
) -> openmm.Force:
    module = load_archive(archive, device="cpu")
    select_particles(module, particles)
    explicit = has_explicit_forces(module) and adjustable != "scale-and-time"
    if adjustable == "scale-and-time":
        module = script_module(_noise_levels(module, archive))
    elif adjustable == "scale":
        module = scaled(module)
    elif explicit:
        module = returning_forces(module)
    force = load_torchforce_plugin().TorchForce(module)
    force.setOutputsForces(explicit)
    # The order is that of the arguments.
    for name, value in _parameters(archive, adjustable).items():
        force.addGlobalParameter(name, value)
    # Read by OpenMM's CUDA platform only. A time that changes asks for other networks.
    graphs = adjustable != "scale-and-time" and _wants_graphs(cuda_graphs)
    force.setProperty("useCUDAGraphs", "true" if graphs else "false")
    return force


def _pythonforce(
    archive: ModelArchive,
    particles: tuple[int, ...],
    device: str | None,
    kind: type[ModelComputation],
    adjustable: Adjustable,
) -> openmm.Force:
    if device is not None:
        checked_device(device)
    if adjustable == "scale-and-time":
        _noise_levels(load_archive(archive, device="cpu"), archive)  # fails now and not in a step
    settings = (str(archive.path), archive.sha256, particles, device)
    return openmm.PythonForce(kind(*settings, adjustable), _parameters(archive, adjustable))


def _noise_levels(module: ScriptModule, archive: ModelArchive) -> NoiseLevelEnergy:
    return NoiseLevelEnergy(module, archive.metadata.schedule, archive.metadata.t_min)


def _parameters(archive: ModelArchive, adjustable: Adjustable) -> dict[str, float]:
    values = {SCALE_PARAMETER: 1.0, TIME_PARAMETER: archive.metadata.t}
    return dict(list(values.items())[: get_args(Adjustable).index(adjustable)])


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
        check_count(chosen, n_beads, n_particles)
    if system is not None and system.usesPeriodicBoundaryConditions():
        raise InvalidInputError(
            "the System has periodic boundaries; the model knows none and would see molecules "
            "torn apart: use forces without a cutoff, or CutoffNonPeriodic"
        )
    return chosen


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
