"""Replica exchange: a ladder of potentials whose neighbouring levels exchange frames.

Every level is a :class:`~openmm_scoremd.simulation.replicas.ReplicaSimulation` with the same number
of replicas; replica ``r`` of all levels together are one ladder, so that ``R`` independent ladders
go on at once. Levels differ in the factor of the potential, in its diffusion time, in temperature,
or in the model file (one exported at another diffusion time, say).

Frames of neighbouring levels are exchanged with Metropolis probability
``min(1, exp(b1 (U1(x1) - U1(x2)) + b2 (U2(x2) - U2(x1))))``, ``b = 1 / kT``, which leaves the
distribution of every level as it is, whatever the overlap; constants that depend on the level, such
as the normalisation of a diffusion time's density, cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.settings import whole_number
from openmm_scoremd.units import thermal_energy

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


class ReplicaExchange:
    """Simulations that exchange frames with their neighbours.

    Parameters
    ----------
    levels : sequence of ReplicaSimulation
        At least two, neighbours next to each other, with positions set, each made with a seed of
        its own. What they have at the time of an exchange counts, so parameters may be changed in
        between.
    seed : int
        Seed of the decisions, 0 or larger.

    Attributes
    ----------
    levels : tuple of ReplicaSimulation
        As given.
    attempts, accepted : ndarray of int, shape (L - 1,)
        Exchanges tried and made between level ``l`` and ``l + 1``, of all ladders together.
    walkers : ndarray of int, shape (L, R)
        Level where the frame now at a level began.
    arrivals : int
        Frames that came to the first level having been at the last one.

    Raises
    ------
    InvalidInputError
        If levels do not fit together.
    """

    def __init__(self, levels: Sequence[ReplicaSimulation], *, seed: int) -> None:
        self.levels = tuple(levels)
        _check(self.levels, seed)
        self._random = np.random.default_rng(seed)
        self._sweeps = 0
        shape = (len(self.levels), self.levels[0].replicas)
        self.attempts: IntArray = np.zeros(shape[0] - 1, dtype=np.int64)
        self.accepted: IntArray = np.zeros(shape[0] - 1, dtype=np.int64)
        self.walkers: IntArray = np.repeat(np.arange(shape[0])[:, None], shape[1], axis=1)
        self.arrivals = 0
        self._came_from_the_last = np.zeros(shape, dtype=np.bool_)
        self._came_from_the_last[-1] = True

    @property
    def acceptance(self) -> FloatArray:
        """Share of exchanges that were made, shape (L - 1,); NaN where none was tried."""
        tried = np.where(self.attempts > 0, self.attempts, np.nan)
        return np.asarray(self.accepted / tried)

    def run(
        self,
        sweeps: int,
        *,
        steps: int,
        observe: Callable[[], None] | None = None,
    ) -> None:
        """Simulate all levels and exchange, again and again.

        Parameters
        ----------
        sweeps : int
            How often.
        steps : int
            Time steps of every level between exchanges.
        observe : callable, optional
            Called after the steps of every sweep, before the exchange.

        Raises
        ------
        InvalidInputError
            If a number is not positive.
        NumericalError
            If a coordinate became NaN or infinite.
        """
        whole_number("sweeps", sweeps, 1)
        whole_number("steps", steps, 1)
        for _ in range(sweeps):
            for level in self.levels:
                level.step(steps)
            if observe is not None:
                observe()
            self.exchange()

    def exchange(self) -> None:
        """Try to exchange neighbours: even and odd pairs of levels in turns."""
        first = self._sweeps % 2
        self._sweeps += 1
        for lower in range(first, len(self.levels) - 1, 2):
            self._exchange_pair(lower)
        self.arrivals += int(self._came_from_the_last[0].sum())
        self._came_from_the_last[0] = False

    def _exchange_pair(self, lower: int) -> None:
        pair = self.levels[lower], self.levels[lower + 1]
        states = [level.phase_space() for level in pair]
        gain = np.zeros(pair[0].replicas)
        for level, own, other in ((pair[0], 0, 1), (pair[1], 1, 0)):
            energy = level.model_energies(states[own][0]) - level.model_energies(states[other][0])
            gain += energy / thermal_energy(level.temperature)
        # NaN is accepted by no comparison.
        accepted = np.log1p(-self._random.random(len(gain))) < gain
        self.attempts[lower] += len(gain)
        self.accepted[lower] += int(accepted.sum())
        if not accepted.any():
            return
        # Velocities follow their frame to the other temperature.
        ratio = float(np.sqrt(pair[0].temperature / pair[1].temperature))
        chosen = accepted[:, None, None]
        for level, own, other, factor in ((pair[0], 0, 1, ratio), (pair[1], 1, 0, 1.0 / ratio)):
            positions, velocities = (
                np.where(chosen, scale * theirs, mine)
                for scale, theirs, mine in zip(
                    (1.0, factor), states[other], states[own], strict=True
                )
            )
            level.set_phase_space(positions, velocities)
        for table in (self.walkers, self._came_from_the_last):
            both = table[[lower, lower + 1]]
            table[[lower, lower + 1]] = np.where(accepted, both[::-1], both)
        self._came_from_the_last[-1] = True


def _check(levels: Sequence[ReplicaSimulation], seed: int) -> None:
    if len(levels) < 2:
        raise InvalidInputError(f"there are {len(levels)} levels; an exchange needs two or more")
    whole_number("seed", seed, 0)
    first = levels[0]
    seeds: dict[int, int] = {}
    for index, level in enumerate(levels):
        if level.replicas != first.replicas or level.model.n_beads != first.model.n_beads:
            raise InvalidInputError(
                f"level {index} has {level.replicas} replicas of {level.model.n_beads} beads, "
                f"level 0 {first.replicas} of {first.model.n_beads}; they must be the same"
            )
        if not np.array_equal(level.model.masses, first.model.masses):
            raise InvalidInputError(f"beads of level {index} have other masses than those of 0")
        other_temperature = level.temperature != first.temperature
        if level.added_forces_sha256 != first.added_forces_sha256 or (
            level.added_forces_sha256 and other_temperature
        ):
            raise InvalidInputError(
                f"forces were added to level {index} that do not cancel in an exchange with level "
                "0; add the same to all levels, which must then have one temperature"
            )
        if (other := seeds.setdefault(level.seed, index)) != index:
            raise InvalidInputError(
                f"levels {other} and {index} have the same seed, {level.seed}, and so the same "
                "noise; make every level with a seed of its own"
            )
