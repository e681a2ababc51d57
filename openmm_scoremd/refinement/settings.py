"""Settings of a refinement."""

from __future__ import annotations

import dataclasses
import math

from openmm_scoremd.errors import ConfigurationError, InvalidInputError
from openmm_scoremd.model_file import Backend
from openmm_scoremd.refinement.energy_fit import FitSettings
from openmm_scoremd.simulation.run.settings import RunSettings, whole_number


@dataclasses.dataclass(frozen=True)
class RefinementSettings:
    """How often to simulate, and how.

    Attributes
    ----------
    rounds : int
        Simulations, each followed by a fit.
    replicas : int
        Copies of the molecule.
    steps : int
        Time steps of every copy in a round; a round begins where the one before ended.
    interval : int
        Time steps between frames.
    discarded : float
        Part of every round that is not used, while the replicas forget where they began.
    timestep : float, ps
        Time step.
    friction : float, 1/ps
        Friction.
    backend : {"auto", "torchforce", "pythonforce", "kernel"}
        Force class.
    regions : int
        Regions of shape whose populations are compared.
    seed : int
        Seed of everything.
    fit : FitSettings
        How the energy is changed in a round.

    Raises
    ------
    ConfigurationError
        If a number is out of range.
    """

    rounds: int = 4
    replicas: int = 100
    steps: int = 15_000
    interval: int = 50
    discarded: float = 0.25
    timestep: float = 0.002
    friction: float = 1.0
    backend: Backend = "auto"
    regions: int = 32
    seed: int = 0
    fit: FitSettings = dataclasses.field(default_factory=FitSettings)

    def __post_init__(self) -> None:
        try:
            for name, lowest in {"rounds": 1, "steps": 1, "interval": 1, "regions": 2}.items():
                object.__setattr__(self, name, whole_number(name, getattr(self, name), lowest))
            run = self.run_settings(self.seed)
        except InvalidInputError as error:
            raise ConfigurationError(str(error)) from error
        object.__setattr__(self, "replicas", run.replicas)
        object.__setattr__(self, "seed", run.seed)
        if not 0.0 <= self.discarded < 1.0:
            raise ConfigurationError(
                f"discarded is {self.discarded}; it must be at least 0 and below 1"
            )
        if self.frames_per_replica < 1:
            raise ConfigurationError(
                f"{self.steps} steps with a frame every {self.interval} leave no frame; "
                "simulate longer, or lower interval"
            )

    def run_settings(self, seed: int) -> RunSettings:
        """Return the settings of one round's simulation."""
        return RunSettings(
            replicas=self.replicas,
            steps=max(self.steps - self.steps % self.interval, self.interval),
            interval=self.interval,
            seed=seed,
            timestep=self.timestep,
            friction=self.friction,
            backend=self.backend,
            recentring="off",
        )

    @property
    def frames_per_replica(self) -> int:
        """Frames of a replica and round that are used."""
        return self.steps // self.interval - self.frames_discarded

    @property
    def frames_discarded(self) -> int:
        """Frames of a replica and round that are not."""
        return math.ceil(self.steps // self.interval * self.discarded)
