"""OpenMM forces from an exported model, by whichever backend can evaluate it.

All of them evaluate the same weights, so energies and forces agree to rounding. What each needs and
refuses, and what happens where it cannot be had, stands in its file:
:mod:`~openmm_scoremd.forces.torchforce`, :mod:`~openmm_scoremd.forces.python_force`,
:mod:`~openmm_scoremd.forces.kernel_force`.

A force may have Context parameters: the factor of its potential, and its diffusion time
(:mod:`openmm_scoremd.artifact.noise_levels`).

NaN coordinates give NaN forces with any: replicas share one System, and one broken replica must
not stop the others. :class:`~openmm_scoremd.simulation.replicas.ReplicaSimulation` watches for it.

The XML of a System with one of these forces is executable code, like the model itself.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Sequence
from typing import Final, get_args

import openmm

from openmm_scoremd.artifact.loaded import AnyModel, LoadedModel, loaded_model
from openmm_scoremd.artifact.noise_levels import Adjustable
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError, ModelFileError
from openmm_scoremd.forces.backend import ForceBackend, ForceRequest
from openmm_scoremd.forces.kernel_force import KernelBackend
from openmm_scoremd.forces.options import Backend, CudaGraphs, checked_backend, checked_choice
from openmm_scoremd.forces.python_force import PythonForceBackend, check_count
from openmm_scoremd.forces.torchforce import TorchForceBackend

logger = logging.getLogger(__name__)

#: Every backend, by its name.
BACKENDS: Final[dict[Backend, ForceBackend]] = {
    backend.name: backend
    for backend in (TorchForceBackend(), PythonForceBackend(), KernelBackend())
}

#: What "auto" means: the first of these that can be had.
AUTOMATIC: Final[tuple[Backend, ...]] = ("torchforce", "pythonforce")

#: Name of the forces; the XML formats of all classes drop it.
FORCE_NAME: Final = "ScoreModelForce"

#: What the log of this process has said already.
_SAID: set[str] = set()

_PROBLEMS = (InvalidInputError, MissingDependencyError, ModelFileError)


def create_force(
    model: AnyModel,
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
    model : path-like, ModelArchive or ScoreModelFile
        An exported model. What is in memory already is not loaded again.
    particles : sequence of int, optional
        Particles of the System that are the beads, in the order of the model's topology; several
        replicas one after another. By default all particles, also several replicas.
    system : openmm.System, optional
        The System that the force is for, only looked at: wrong particle numbers and periodic
        boundaries are found now instead of in the first step.
    backend : {"auto", "torchforce", "pythonforce", "kernel"}
        Who evaluates the model. "auto" is TorchForce where it works, otherwise PythonForce.
        "kernel" is a PythonForce with a C++ kernel, on CPU; where it cannot be had (no compiler,
        another kind of network, an older file), "auto" is used, and the log says why.
    cuda_graphs : {"auto", "on", "off"}
        TorchForce only: record CUDA graphs. Other platforms ignore it.
    device : str, optional
        PythonForce only: where the model runs, "cpu" also beside a GPU. By default CUDA where torch
        has it, otherwise CPU. On CUDA the first call records a CUDA graph, unless the time can
        change; the log says so if that fails.
    force_group : int
        OpenMM's force group, 0 to 31.
    sha256 : str, optional
        Expected hash of the model file, in whatever form the model is given.
    adjustable : {"nothing", "scale", "scale-and-time"}
        Context parameters: "scale" is ``scoremd_scale``, the factor of the potential, 1 at first;
        "scale-and-time" also ``scoremd_time``, the diffusion time, at first the model's. A time
        that can change costs the speed of a network folded at one time, explicit forces, CUDA
        graphs and the kernel; "kernel" then is "auto".

    Returns
    -------
    openmm.Force
        A ``TorchForce`` or a ``PythonForce``, without periodic boundaries.

    Raises
    ------
    ModelFileError
        If the model file is missing, damaged or not the expected one, or fails its self-test.
    InvalidInputError
        If an option, the particles or the System do not fit the model.
    MissingDependencyError
        If TorchForce is asked for and cannot be used.

    Notes
    -----
    The first call of a force compiles the model and takes a second or so. To read the XML of a
    System with a TorchForce in another process, call
    :func:`~openmm_scoremd.forces.torchforce.load_torchforce_plugin` there first; for a PythonForce
    this package must be importable and the model file in its place.
    """
    backend = checked_backend(backend)
    checked_choice("cuda_graphs", cuda_graphs, get_args(CudaGraphs))
    checked_choice("adjustable", adjustable, get_args(Adjustable))
    if not 0 <= force_group <= 31:
        raise InvalidInputError(f"force_group is {force_group}; OpenMM has groups 0 to 31")
    loaded = loaded_model(model, sha256=sha256)
    request = ForceRequest(
        particles=_checked_particles(particles, loaded.archive.metadata.n_beads, system),
        adjustable=adjustable,
        device=device,
        cuda_graphs=cuda_graphs,
    )
    force = choose_backend(backend, loaded, request).create(loaded, request)
    force.setUsesPeriodicBoundaryConditions(False)
    force.setForceGroup(force_group)
    force.setName(FORCE_NAME)
    return force


def choose_backend(backend: Backend, model: LoadedModel, request: ForceRequest) -> ForceBackend:
    """Return a backend that can do what is asked for, with a log line where another has to do.

    Raises
    ------
    MissingDependencyError, InvalidInputError, ModelFileError
        If none can, or one that gives way to no other cannot; see :meth:`ForceBackend.require`.
    """
    if backend != "auto":
        chosen = BACKENDS[backend]
        try:
            chosen.require(model, request)
        except _PROBLEMS as error:
            if not chosen.gives_way:
                raise
            _give_way(f"backend 'auto' is used instead of '{backend}'", error)
        else:
            return chosen
    *preferred, last = (BACKENDS[name] for name in AUTOMATIC)
    for chosen in preferred:
        try:
            chosen.require(model, request)
        except _PROBLEMS as error:
            _give_way(f"{last.title} is used instead of {chosen.title}", error)
        else:
            return chosen
    last.require(model, request)
    return last


def _give_way(what: str, reason: Exception) -> None:
    """Say in the log that another backend is used; of something not installed only once."""
    line = f"{what}: {reason}"
    known = isinstance(reason, MissingDependencyError) and line in _SAID
    _SAID.add(line)
    logger.log(logging.DEBUG if known else logging.WARNING, "%s", line)


def available_backends(model: AnyModel) -> list[Backend]:
    """Return the backends that can evaluate a model here; the log says why others cannot."""
    loaded, found = loaded_model(model), list[Backend]()
    for name, backend in BACKENDS.items():
        try:
            backend.require(loaded, ForceRequest())
            found.append(name)
        except _PROBLEMS as error:
            logger.info("no %s: %s", backend.title, error)
    return found


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
