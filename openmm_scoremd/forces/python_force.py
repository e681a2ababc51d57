"""PythonForce: OpenMM calls a Python function, which evaluates the model with torch.

Part of OpenMM, works with every torch, on the CPU also beside a GPU; its XML contains the path of
the model and its hash. It needs nothing and so takes the place of others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias, cast

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.artifact.contract import openmm_forces
from openmm_scoremd.artifact.loaded import LoadedModel, model_with_hash
from openmm_scoremd.artifact.noise_levels import (
    SCALE_PARAMETER,
    TIME_PARAMETER,
    Adjustable,
    NoiseLevelEnergy,
    context_parameters,
)
from openmm_scoremd.artifact.torchscript import optimised
from openmm_scoremd.cuda_graphs import captured
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.backend import ForceBackend, ForceRequest

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]
#: Positions (M, 3) in nm of all particles, and the diffusion time where it can be changed, to
#: energy (kJ/mol) and forces (M, 3) (kJ/mol/nm).
Evaluation: TypeAlias = Callable[[FloatArray, float | None], tuple[float, FloatArray]]
#: The same without times, as tensors on the device of the model; the energy has shape ().
TensorFunction: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Relative to the largest force: replayed and called, a model differs by rounding in float32.
_GRAPH_TOLERANCE = 1e-4


class PythonForceBackend(ForceBackend):
    """Makes PythonForces that evaluate the module of the file with torch."""

    name = "pythonforce"
    title = "PythonForce"
    gives_way = False

    def require(self, model: LoadedModel, request: ForceRequest) -> None:
        """Load the model where it is to run."""
        model.module(request.device or _default_device())

    def create(self, model: LoadedModel, request: ForceRequest) -> openmm.Force:
        """Return a PythonForce."""
        return python_force(ModelComputation, model, request)


class ModelComputation:
    """The function behind a PythonForce.

    A pickle of it (and so the XML of its System) holds five settings and no code. The model is
    taken from memory at the first call, and only where it is not there from its file, whose hash is
    verified.

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
    adjustable : {"nothing", "scale", "scale-and-time"}
        What the Context has parameters for.
    """

    def __init__(
        self,
        path: str,
        sha256: str,
        particles: tuple[int, ...],
        device: str | None,
        adjustable: Adjustable = "nothing",
    ) -> None:
        self._settings = (path, sha256, particles, device, adjustable)
        self._evaluate: Evaluation | None = None
        #: Keeps the model in memory until the first call.
        self.model: LoadedModel | None = None

    def __reduce__(self) -> tuple[type[ModelComputation], tuple[object, ...]]:
        # OpenMM ends the process if unpickling fails, so nothing may happen there but this.
        return type(self), self._settings

    def __call__(self, state: openmm.State) -> tuple[float, FloatArray]:
        """Return energy (kJ/mol) and forces (M, 3) (kJ/mol/nm); OpenMM always wants both.

        Raises
        ------
        ModelFileError
            At the first call, if the model is not in memory and its file is gone or changed. OpenMM
            turns errors of this method into ``OpenMMException`` with the same message.
        InvalidInputError
            If the number of particles does not fit the model.
        """
        positions = positions_of(state)
        path, sha256, particles, _, adjustable = self._settings
        if self._evaluate is None:
            model = self.model or model_with_hash(path, sha256)
            check_count(particles, model.archive.metadata.n_beads, len(positions))
            self._evaluate = self.load(model)
        if adjustable == "nothing":
            return self._evaluate(positions, None)
        parameters = state.getParameters()
        t = parameters[TIME_PARAMETER] if adjustable == "scale-and-time" else None
        energy, forces = self._evaluate(positions, t)
        scale = parameters[SCALE_PARAMETER]
        return scale * energy, scale * forces

    def load(self, model: LoadedModel) -> Evaluation:
        """Return the function that evaluates a model."""
        _, _, particles, device, adjustable = self._settings
        target = device or _default_device()
        if adjustable == "scale-and-time":
            return _at_noise_levels(model, particles, target)
        module = model.module(target)
        forces = openmm_forces(module, model.archive.metadata.n_beads, particles).to(target)
        compute = cast(TensorFunction, optimised(forces))
        graphs: dict[torch.Size, TensorFunction] = {}

        def evaluate(positions: FloatArray, _t: float | None) -> tuple[float, FloatArray]:
            tensor = torch.from_numpy(positions).to(target)
            chosen = compute
            if tensor.is_cuda:
                if tensor.shape not in graphs:
                    graphs[tensor.shape] = recorded(compute, tensor)
                chosen = graphs[tensor.shape]
            energy, forces = chosen(tensor)
            # Optimised TorchScript may pass over a `detach`.
            return float(energy.detach()), forces.detach().cpu().numpy()

        return evaluate


def python_force(
    kind: type[ModelComputation], model: LoadedModel, request: ForceRequest
) -> openmm.Force:
    """Return a PythonForce of a model that evaluates it in a certain way."""
    archive, adjustable = model.archive, request.adjustable
    if adjustable == "scale-and-time":
        # Fails now and not in a step.
        module = model.module(request.device or _default_device())
        NoiseLevelEnergy(module, archive.metadata.schedule, archive.metadata.t_min)
    settings = (str(archive.path), archive.sha256, request.particles, request.device)
    computation = kind(*settings, adjustable)
    computation.model = model
    return openmm.PythonForce(computation, context_parameters(adjustable, archive.metadata.t))


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def positions_of(state: openmm.State) -> FloatArray:
    """Return the positions of a state, (M, 3) in nm.

    What ``getPositions(asNumpy=True)`` does with ``dir`` and units takes 15 µs, longer than a small
    network.
    """
    positions = np.empty((state._getNumParticles(), 3))
    state._getVectorAsNumpy(openmm.State.Positions, positions)
    return positions


def recorded(compute: TensorFunction, positions: Tensor) -> TensorFunction:
    """Return the computation as a CUDA graph for so many particles, or itself if that fails.

    The graph must give the energy and forces of the computation, also at other positions than those
    it was recorded with.
    """
    try:
        graph = captured(compute, [], [positions])
    # torch has no type of its own for what cannot be recorded.
    except RuntimeError as error:
        logger.warning("no CUDA graph: %s", str(error).partition("\n")[0])
        return compute
    for displaced in (positions, positions + 1e-3 * torch.randn_like(positions)):
        if not all(map(_agree, graph(displaced), compute(displaced))):
            logger.warning("no CUDA graph: it computes something else than the model")
            return compute
    return cast(TensorFunction, graph)


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Compare where numbers are finite, which must be the same places: replicas can be broken."""
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(found)):
        return False
    if not bool(finite.any()):
        return True
    found, expected = found[finite], expected[finite]
    allowed = _GRAPH_TOLERANCE * max(float(expected.abs().max()), 1.0)
    return float((found - expected).abs().max()) <= allowed


def _at_noise_levels(model: LoadedModel, particles: tuple[int, ...], device: str) -> Evaluation:
    metadata = model.archive.metadata
    module = model.module(device)
    levels = NoiseLevelEnergy(module, metadata.schedule, metadata.t_min, particles).to(device)

    def evaluate(positions: FloatArray, t: float | None) -> tuple[float, FloatArray]:
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            leaf = torch.from_numpy(positions).to(device).requires_grad_(True)
            time = torch.tensor(metadata.t if t is None else t, dtype=torch.float64)
            energy = levels.energies(leaf, time).sum()
            (gradient,) = torch.autograd.grad([energy], [leaf])
        return float(energy.detach()), -gradient.cpu().numpy()

    return evaluate


def check_count(particles: tuple[int, ...], n_beads: int, n_particles: int) -> None:
    """Check that a force on these particles, or on all, is one on whole replicas.

    Raises
    ------
    InvalidInputError
        If it is not.
    """
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
