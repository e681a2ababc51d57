"""TorchForce: the model runs in OpenMM's plugin for TorchScript, openmmtorch.

Least overhead of all that need no compiler; its XML contains the whole model. Needs openmmtorch
and the version of torch that it was built with. Where it was asked for by name and cannot be used,
that is an error; with "auto", a PythonForce takes its place.
"""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch

from openmm_scoremd.artifact.contract import scripted_forces
from openmm_scoremd.artifact.loaded import LoadedModel, check_self_test
from openmm_scoremd.artifact.metadata import ModelArchive
from openmm_scoremd.artifact.noise_levels import NoiseLevelEnergy, ScaledForces, context_parameters
from openmm_scoremd.artifact.torchscript import ScriptModule, script_module
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.forces.backend import ForceBackend, ForceRequest
from openmm_scoremd.forces.options import CudaGraphs

#: With other versions of torch these openmmtorch wheels fail to import or end the process.
_TORCH_OF_OPENMMTORCH = {"1.5": "2.9"}
_KERNEL = "CalcTorchForce"

#: Hashes of files whose forces were compared through a Context in this process.
_COMPARED: set[str] = set()


class TorchForceBackend(ForceBackend):
    """Makes TorchForces."""

    name = "torchforce"
    title = "TorchForce"
    gives_way = False

    def require(self, model: LoadedModel, request: ForceRequest) -> None:
        """Load the plugin and compare the forces of the file with those that OpenMM sees."""
        if request.device is not None:
            raise InvalidInputError(
                f"device is {request.device!r}, but a TorchForce computes where OpenMM does; use "
                "backend='pythonforce', or choose a platform instead"
            )
        load_torchforce_plugin()
        if model.archive.sha256 not in _COMPARED:
            _compare(model)
            _COMPARED.add(model.archive.sha256)

    def create(self, model: LoadedModel, request: ForceRequest) -> openmm.Force:
        """Return a TorchForce."""
        record, adjustable = model.archive.metadata, request.adjustable
        module = _own_module(model)
        timed = adjustable == "scale-and-time"
        if timed:
            levels = NoiseLevelEnergy(module, record.schedule, record.t_min, request.particles)
            module = script_module(levels)
        else:
            module = scripted_forces(module, record.n_beads, request.particles)
        if adjustable == "scale":
            module = script_module(ScaledForces(module))
        force = load_torchforce_plugin().TorchForce(module)
        force.setOutputsForces(not timed)
        # The order is that of the arguments.
        for name, value in context_parameters(adjustable, record.t).items():
            force.addGlobalParameter(name, value)
        # Read by OpenMM's CUDA platform only. A time that changes asks for other networks.
        graphs = not timed and _wants_graphs(request.cuda_graphs)
        force.setProperty("useCUDAGraphs", "true" if graphs else "false")
        return force


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
            f"openmmtorch cannot be imported ({error}); install openmm-scoremd[torchforce], which "
            "needs torch 2.9 and OpenMM 8.5, or choose backend='pythonforce'"
        ) from error
    _load_kernels()
    return openmmtorch


def _own_module(model: LoadedModel) -> ScriptModule:
    """Return the module on the CPU for OpenMM, whose CUDA platform moves its tensors away."""
    module = model.scripted()
    return copy.deepcopy(module) if torch.cuda.is_available() else module


def _compare(model: LoadedModel) -> None:
    """Check the stored forces through a Context: a plugin could read memory otherwise than torch.

    Raises
    ------
    ModelFileError
        If they are not reproduced.
    """
    archive: ModelArchive = model.archive
    frames = archive.metadata.self_test.positions
    system = openmm.System()
    for _ in range(frames[..., 0].size):
        system.addParticle(1.0)
    module = scripted_forces(_own_module(model), archive.metadata.n_beads, ())
    force = load_torchforce_plugin().TorchForce(module)
    force.setOutputsForces(True)
    system.addForce(force)
    reference = openmm.Platform.getPlatformByName("Reference")
    try:
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), reference)
        context.setPositions(frames.reshape(-1, 3))
        state = context.getState(energy=True, forces=True)
    except openmm.OpenMMException as error:
        raise MissingDependencyError(
            f"OpenMM cannot evaluate a TorchForce of {archive.path}: {error}; use "
            "backend='pythonforce'"
        ) from error
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    forces = np.array(state.getForces(asNumpy=True)._value).reshape(frames.shape)
    check_self_test(archive, f"a TorchForce of {archive.path}", np.array(energy), forces)


def _wants_graphs(choice: CudaGraphs) -> bool:
    if choice != "auto":
        return choice == "on"
    return torch.cuda.is_available() and any(p.getName() == "CUDA" for p in _platforms())


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
