"""Which OpenMM platform a simulation runs on."""

from __future__ import annotations

import logging

import openmm
import torch

from openmm_scoremd.errors import InvalidInputError

logger = logging.getLogger(__name__)


def choose_platform(name: str | None) -> openmm.Platform:
    """Return an OpenMM platform.

    Without a name: CUDA, HIP or OpenCL, in this order, where torch can use a GPU, too; otherwise
    Reference, because the network is nearly all of the work, runs on the CPU anyway, and OpenMM's
    CPU platform has a thread pool that competes with torch's for the cores.

    Raises
    ------
    InvalidInputError
        If the platform is not there.
    """
    names = _platform_names()
    if name is None:
        gpus = [gpu for gpu in ("CUDA", "HIP", "OpenCL") if gpu in names]
        name = gpus[0] if gpus and torch.cuda.is_available() else "Reference"
        logger.info("simulating on the OpenMM platform %s", name)
    if name not in names:
        raise InvalidInputError(
            f"platform is {name!r}; this OpenMM has {', '.join(names)} (platforms for GPUs need "
            "OpenMM's extras, for example openmm[cuda12], and a driver)"
        )
    return openmm.Platform.getPlatformByName(name)


def available_platform(name: str | None) -> str | None:
    """Return the name of a platform, or None where this OpenMM has it not."""
    return name if name in _platform_names() else None


def _platform_names() -> list[str]:
    count = openmm.Platform.getNumPlatforms()
    return [openmm.Platform.getPlatform(index).getName() for index in range(count)]
