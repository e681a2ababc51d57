"""What a force backend is, and what a force is asked to be.

A new backend is a file with a subclass of :class:`ForceBackend`, its name in
:data:`openmm_scoremd.forces.options.Backend`, and one line in
:data:`openmm_scoremd.forces.create.BACKENDS`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

import openmm

from openmm_scoremd.artifact.loaded import LoadedModel
from openmm_scoremd.artifact.noise_levels import Adjustable
from openmm_scoremd.forces.options import Backend, CudaGraphs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForceRequest:
    """What a force is asked to be.

    Attributes
    ----------
    particles : tuple of int
        Particles that are beads; empty for all.
    adjustable : {"nothing", "scale", "scale-and-time"}
        What the Context has parameters for.
    device : str or None
        Where the model is to run; None for where the backend would run it.
    cuda_graphs : {"auto", "on", "off"}
        Whether CUDA graphs are recorded.
    """

    particles: tuple[int, ...] = ()
    adjustable: Adjustable = "nothing"
    device: str | None = None
    cuda_graphs: CudaGraphs = "auto"


class ForceBackend(ABC):
    """A way to have a model evaluated by OpenMM."""

    #: How users call it.
    name: ClassVar[Backend]
    #: How messages call it.
    title: ClassVar[str]
    #: Whether "auto" is used where this backend was asked for and cannot be had, with a log line.
    gives_way: ClassVar[bool]

    @abstractmethod
    def require(self, model: LoadedModel, request: ForceRequest) -> None:
        """Check that there is all that the force needs.

        Raises
        ------
        MissingDependencyError
            If something is not installed.
        InvalidInputError
            If the backend cannot do what is asked for.
        ModelFileError
            If it does not reproduce the energies and forces stored in the file.
        """

    @abstractmethod
    def create(self, model: LoadedModel, request: ForceRequest) -> openmm.Force:
        """Return a force that :meth:`require` allows."""
