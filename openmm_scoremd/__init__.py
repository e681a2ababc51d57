"""Coarse-grained molecular dynamics in OpenMM with forces learned by diffusion models.

Importing the package loads nothing else; each public name below is loaded on first use. A
simulation therefore never pays for (or needs) what only training uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openmm_scoremd import _renamed

if TYPE_CHECKING:
    from openmm_scoremd.data.coarse_graining import CoarseGrainingMap, coarse_grain_trajectory
    from openmm_scoremd.data.dataset import CGDataset, load_dataset, save_dataset
    from openmm_scoremd.diffusion.schedule import VPSchedule
    from openmm_scoremd.export.export import export_model, export_torchscript
    from openmm_scoremd.forces.create import create_force
    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.models.import_jax import load_jax_network
    from openmm_scoremd.simulation.replicas import ReplicaSimulation
    from openmm_scoremd.simulation.run.replica_run import ReplicaRun
    from openmm_scoremd.simulation.run.settings import RunSettings
    from openmm_scoremd.trajectories.reporters import ReplicaDCDReporter

    __version__: str

__all__ = [
    "CGDataset",
    "CoarseGrainingMap",
    "ReplicaDCDReporter",
    "ReplicaRun",
    "ReplicaSimulation",
    "RunSettings",
    "ScoreModelFile",
    "VPSchedule",
    "coarse_grain_trajectory",
    "create_force",
    "export_model",
    "export_torchscript",
    "load_dataset",
    "load_jax_network",
    "save_dataset",
]

_HOME = {
    "CGDataset": "data.dataset",
    "CoarseGrainingMap": "data.coarse_graining",
    "ReplicaDCDReporter": "trajectories.reporters",
    "ReplicaRun": "simulation.run.replica_run",
    "ReplicaSimulation": "simulation.replicas",
    "RunSettings": "simulation.run.settings",
    "ScoreModelFile": "model_file",
    "VPSchedule": "diffusion.schedule",
    "coarse_grain_trajectory": "data.coarse_graining",
    "create_force": "forces.create",
    "export_model": "export.export",
    "export_torchscript": "export.export",
    "load_dataset": "data.dataset",
    "load_jax_network": "models.import_jax",
    "save_dataset": "data.dataset",
}


_renamed.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _installed_version() -> str:
    from importlib import metadata  # takes longer than all the rest

    try:
        return metadata.version("openmm-scoremd")
    except metadata.PackageNotFoundError:
        return "0+not.installed"
