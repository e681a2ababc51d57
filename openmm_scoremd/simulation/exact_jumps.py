"""Jumps to independent frames that leave the distribution of the force as it is."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.simulation.exact_density import ModelDensity
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.settings import derived_seed, whole_number
from openmm_scoremd.units import thermal_energy

FloatArray: TypeAlias = NDArray[np.float64]


class ExactJumps:
    """J-walking with a Metropolis test.

    A frame ``x'`` drawn with density ``q`` replaces a replica's ``x`` with probability
    ``min(1, p(x') q(x) / (p(x) q(x')))``, ``p`` the distribution of the force at the temperature of
    the thermostat. Velocities stay. A replica that is where no frame can be drawn never jumps.

    Parameters
    ----------
    simulation : ReplicaSimulation
        Its replicas jump. Forces that were added would have to be in the test, and are refused.
    density : ModelDensity
        Where frames come from.
    seed : int
        Seed of frames and decisions, 0 or larger.

    Attributes
    ----------
    attempts, accepted : int
        Jumps tried and made, of all replicas.

    Raises
    ------
    InvalidInputError
        If forces were added, the molecules differ, or the seed is negative.
    """

    def __init__(self, simulation: ReplicaSimulation, density: ModelDensity, *, seed: int) -> None:
        if simulation.added_forces_sha256:
            raise InvalidInputError(
                "forces were added to the simulation, and their energies are not known for each "
                "replica; jump without them"
            )
        if simulation.model.n_beads != density.model.n_beads:
            raise InvalidInputError(
                f"the simulation has {simulation.model.n_beads} beads, the density "
                f"{density.model.n_beads}; they must be the same"
            )
        self._simulation, self._density = simulation, density
        self._seed = whole_number("seed", seed, 0)
        self.attempts = self.accepted = 0
        self._calls = 0

    def jump(self) -> NDArray[np.bool_]:
        """Let every replica try to jump.

        Returns
        -------
        ndarray of bool, shape (R,)
            Which ones did.
        """
        simulation = self._simulation
        positions, velocities = simulation.phase_space()
        draws = derived_seed(self._seed, 0, self._calls)
        random = np.random.default_rng(derived_seed(self._seed, 1, self._calls))
        self._calls += 1
        frames, new_density = self._density.sample(simulation.replicas, seed=draws)
        centres = positions.mean(axis=1, keepdims=True)
        movable = simulation.model.metadata.translation_invariant
        drawn = np.isfinite(new_density) & np.isfinite(frames).all(axis=(1, 2))
        frames = np.where(drawn[:, None, None], frames + centres * movable, positions)
        old_density = self._density.log_density(positions)
        change = simulation.model_energies(frames) - simulation.model_energies(positions)
        # From minus infinity, where no frame can be drawn, there is no way out: NaN, too, is less.
        gain = old_density - new_density - change / thermal_energy(simulation.temperature)
        accepted: NDArray[np.bool_] = drawn & (np.log1p(-random.random(len(gain))) < gain)
        if accepted.any():
            chosen = np.where(accepted[:, None, None], frames, positions)
            simulation.set_phase_space(chosen, velocities)
        self.attempts += len(gain)
        self.accepted += int(accepted.sum())
        return accepted
