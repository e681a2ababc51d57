"""The C++ kernel behind a PythonForce: the fastest on CPUs.

It is compiled for this machine at first use (:mod:`openmm_scoremd.forces.kernel`) and evaluates the
weights of the model file. Needs a C++ compiler and a graph transformer or an invariant network in
float32 or float64, and refuses a diffusion time that can change, and GPUs. Where it cannot be had,
"auto" is used and the log says why; a process that reads a System from XML and has no compiler uses
torch.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import numpy as np
import openmm
import torch

from openmm_scoremd.artifact.contract import ModelModule
from openmm_scoremd.artifact.loaded import LoadedModel, check_self_test
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError, ModelFileError
from openmm_scoremd.forces.backend import ForceBackend, ForceRequest
from openmm_scoremd.forces.kernel.invariant import InvariantKernel
from openmm_scoremd.forces.kernel.network import KernelNetwork, NativeNetwork, Unit
from openmm_scoremd.forces.python_force import (
    Evaluation,
    FloatArray,
    ModelComputation,
    python_force,
)

logger = logging.getLogger(__name__)

_NETWORKS: weakref.WeakKeyDictionary[LoadedModel, KernelNetwork] = weakref.WeakKeyDictionary()


class KernelBackend(ForceBackend):
    """Makes PythonForces that evaluate the C++ kernel."""

    name = "kernel"
    title = "C++ kernel"
    gives_way = True

    def require(self, model: LoadedModel, request: ForceRequest) -> None:
        """Compile the kernel if need be, and run the self-test of the file with it."""
        if request.adjustable == "scale-and-time":
            raise InvalidInputError("the C++ kernel has one diffusion time only")
        if request.device not in (None, "cpu"):
            raise InvalidInputError(f"the C++ kernel runs on the CPU and not on {request.device}")
        kernel_network(model)

    def create(self, model: LoadedModel, request: ForceRequest) -> openmm.Force:
        """Return a PythonForce."""
        return python_force(KernelComputation, model, request)


class KernelComputation(ModelComputation):
    """The function with the C++ kernel, or with torch where this process cannot use it.

    Parameters are those of :class:`~openmm_scoremd.forces.python_force.ModelComputation`; the
    device is that of the second case.
    """

    def load(self, model: LoadedModel) -> Evaluation:
        """Return the function that evaluates a model."""
        try:
            network = kernel_network(model)
        except (InvalidInputError, MissingDependencyError, ModelFileError) as error:
            logger.warning("torch is used instead of the C++ kernel: %s", error)
            return super().load(model)
        beads = np.array(self._settings[2], dtype=np.intp)

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


def kernel_network(model: LoadedModel) -> KernelNetwork:
    """Return the network of a model behind the C++ kernel, made and tested at the first call.

    Raises
    ------
    InvalidInputError
        If there is no kernel of the network in the file.
    MissingDependencyError
        If there is no C++ compiler, or it fails.
    ModelFileError
        If the kernel does not reproduce the self-test frames of the file.
    """
    if model not in _NETWORKS:
        _NETWORKS[model] = _tested_network(model)
    return _NETWORKS[model]


def _tested_network(model: LoadedModel) -> KernelNetwork:
    module, archive = model.module("cpu"), model.archive
    folded: Any = getattr(module, "force_energy", None)
    network: KernelNetwork
    if hasattr(folded, "first_attention"):
        heads = int(getattr(folded.first_attention, "heads", 0))
        network = NativeNetwork(dict(folded.named_buffers()), heads=heads, unit=_unit(module))
    elif hasattr(folded, "measurement"):
        n_beads = archive.metadata.n_beads
        network = InvariantKernel(dict(folded.named_buffers()), n_beads=n_beads, unit=_unit(module))
    else:
        raise InvalidInputError(
            f"{archive.path} holds neither a graph transformer nor an invariant network; there are "
            "kernels of these only"
        )
    found = network.energies_and_forces(archive.metadata.self_test.positions, threads=1)
    check_self_test(archive, f"the C++ kernel on {archive.path}", *found)
    return network


def _unit(module: ModelModule) -> Unit:
    return Unit(inverse_scale=module.inverse_scale, energy=module.thermal_energy)
