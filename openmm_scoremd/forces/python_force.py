"""What a PythonForce calls: a model file evaluated by TorchScript or by the C++ kernel."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TypeAlias, cast

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.artifact.metadata import ModelArchive, SelfTest, read_archive
from openmm_scoremd.artifact.noise_levels import (
    SCALE_PARAMETER,
    TIME_PARAMETER,
    Adjustable,
    NoiseLevelEnergy,
)
from openmm_scoremd.artifact.torchscript import (
    ScriptModule,
    energy_and_forces,
    load_archive,
    optimised,
    select_particles,
)
from openmm_scoremd.cuda_graphs import captured
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.forces.kernel.invariant import InvariantKernel
from openmm_scoremd.forces.kernel.network import KernelNetwork, NativeNetwork, Unit

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]
#: Positions (M, 3) in nm of all particles, and the diffusion time where it can be changed, to
#: energy (kJ/mol) and forces (M, 3) (kJ/mol/nm).
Evaluation: TypeAlias = Callable[[FloatArray, float | None], tuple[float, FloatArray]]
#: The same without times, as tensors on the device of the model; the energy has shape ().
TensorFunction: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Relative to the largest force: replayed and called, a model differs by rounding in float32.
_GRAPH_TOLERANCE = 1e-4


class ModelComputation:
    """The function behind a PythonForce.

    A pickle of it (and so the XML of its System) holds five settings and no code; the model is
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

    def __reduce__(self) -> tuple[type[ModelComputation], tuple[object, ...]]:
        # OpenMM ends the process if unpickling fails, so nothing may happen there but this.
        return type(self), self._settings

    def __call__(self, state: openmm.State) -> tuple[float, FloatArray]:
        """Return energy (kJ/mol) and forces (M, 3) (kJ/mol/nm); OpenMM always wants both.

        Raises
        ------
        ModelFileError
            At the first call, if the file is gone or changed. OpenMM turns errors of this method
            into ``OpenMMException`` with the same message.
        InvalidInputError
            If the number of particles does not fit the model.
        """
        positions = positions_of(state)
        if self._evaluate is None:
            path, sha256, particles, device, _ = self._settings
            archive = read_archive(path, sha256=sha256)
            check_count(particles, archive.metadata.n_beads, len(positions))
            self._evaluate = self._load(archive, particles, device)
        adjustable = self._settings[-1]
        if adjustable == "nothing":
            return self._evaluate(positions, None)
        parameters = state.getParameters()
        t = parameters[TIME_PARAMETER] if adjustable == "scale-and-time" else None
        energy, forces = self._evaluate(positions, t)
        scale = parameters[SCALE_PARAMETER]
        return scale * energy, scale * forces

    def _load(
        self, archive: ModelArchive, particles: tuple[int, ...], device: str | None
    ) -> Evaluation:
        target = device or ("cuda" if torch.cuda.is_available() else "cpu")
        module = load_archive(archive, device=target)
        select_particles(module, particles)
        if self._settings[-1] == "scale-and-time":
            return _at_noise_levels(module, archive, target)
        module = optimised(module)
        compute = functools.partial(energy_and_forces, module)
        graphs: dict[torch.Size, TensorFunction] = {}

        def evaluate(positions: FloatArray, _t: float | None) -> tuple[float, FloatArray]:
            tensor = torch.from_numpy(positions).to(target)
            chosen: TensorFunction = compute
            if tensor.is_cuda:
                if tensor.shape not in graphs:
                    graphs[tensor.shape] = recorded(compute, tensor)
                chosen = graphs[tensor.shape]
            energy, forces = chosen(tensor)
            return float(energy), forces.cpu().numpy()

        return evaluate


class CompiledComputation(ModelComputation):
    """The same with the C++ kernel, or with TorchScript where this process cannot use the kernel.

    Parameters are those of :class:`ModelComputation`; the device is that of the second case.
    """

    def _load(
        self, archive: ModelArchive, particles: tuple[int, ...], device: str | None
    ) -> Evaluation:
        try:
            network = compiled_model(archive)
        except (InvalidInputError, MissingDependencyError) as error:
            logger.warning("TorchScript is used instead of the compiled kernel: %s", error)
            return super()._load(archive, particles, device)
        beads = np.array(particles, dtype=np.intp)

        def evaluate(positions: FloatArray, _t: float | None) -> tuple[float, FloatArray]:
            chosen = positions[beads] if len(beads) else positions
            frames = chosen.reshape(-1, network.n_beads, 3)
            # Asked every time: users change the number of threads while they try things.
            energies, forces = network.energies_and_forces(frames, threads=torch.get_num_threads())
            flat = forces.reshape(-1, 3)
            if len(beads):
                everywhere = np.zeros_like(positions)
                everywhere[beads] = flat
                flat = everywhere
            return float(energies.sum()), flat

        return evaluate


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


def _at_noise_levels(module: ScriptModule, archive: ModelArchive, device: str) -> Evaluation:
    metadata = archive.metadata
    levels = NoiseLevelEnergy(module, metadata.schedule, metadata.t_min).eval()

    def evaluate(positions: FloatArray, t: float | None) -> tuple[float, FloatArray]:
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            leaf = torch.from_numpy(positions).to(device).requires_grad_(True)
            time = torch.tensor(metadata.t if t is None else t, dtype=torch.float64)
            energy = levels.energies(leaf, time).sum()
            (gradient,) = torch.autograd.grad([energy], [leaf])
        return float(energy.detach()), -gradient.cpu().numpy()

    return evaluate


def compiled_model(archive: ModelArchive) -> KernelNetwork:
    """Return the network of a model file behind the C++ kernel, which is compiled if need be.

    Raises
    ------
    InvalidInputError
        If there is no kernel of its network, or the kernel does not reproduce its self-test
        frames.
    MissingDependencyError
        If there is no C++ compiler, or it fails.
    ModelFileError
        If the file cannot be loaded.
    """
    module = load_archive(archive, device="cpu")
    folded = getattr(module, "force_energy", None)
    unit = Unit(inverse_scale=module.inverse_scale, energy=module.thermal_energy)
    first = getattr(folded, "first_attention", None)
    network: KernelNetwork
    if folded is not None and first is not None:
        buffers = dict(folded.named_buffers())
        network = NativeNetwork(buffers, heads=int(getattr(first, "heads", 0)), unit=unit)
    elif folded is not None and hasattr(folded, "measurement"):
        buffers = dict(folded.named_buffers())
        network = InvariantKernel(buffers, n_beads=archive.metadata.n_beads, unit=unit)
    else:
        raise InvalidInputError(
            f"{archive.path} holds neither a graph transformer nor an invariant network; there are "
            "kernels of these only"
        )
    _check_self_test(network, archive.metadata.self_test)
    return network


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


def _check_self_test(network: KernelNetwork, test: SelfTest) -> None:
    energies, forces = network.energies_and_forces(test.positions, threads=1)
    # Not Python's max, which passes over NaN.
    difference = np.max(
        [
            np.abs(energies - test.energies).max() / max(np.abs(test.energies).max(), 1.0),
            np.abs(forces - test.forces).max() / max(np.abs(test.forces).max(), 1.0),
        ]
    )
    if not difference <= test.tolerance:
        raise InvalidInputError(
            f"the compiled kernel differs from the model's own energies and forces by "
            f"{difference:.2g} (allowed {test.tolerance:.2g}); set CXX to another compiler"
        )
