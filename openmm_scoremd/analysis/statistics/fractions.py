"""Fractions of frames in states, and how well the independent units of a set know them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd.analysis.statistics.grids import FloatArray, checked_array
from openmm_scoremd.analysis.statistics.uncertainty import Estimate
from openmm_scoremd.errors import InvalidInputError

__all__ = ["UnitFractions", "population"]

# Units that must have been in and out of a region before their scatter is believed.
_UNITS_THAT_TELL = 10


@dataclasses.dataclass(frozen=True, eq=False)
class UnitFractions:
    """Fractions of frames in regions, for every independent unit of a set.

    Attributes
    ----------
    fractions : (units, features) ndarray
        From 0 to 1; units hold equal numbers of frames.
    frames_per_unit : (features,) ndarray of int
        Frames that the fractions of one unit are taken over.

    Raises
    ------
    InvalidInputError
        If there are fewer than two units, or no frames in one, or the shapes do not fit.
    """

    fractions: FloatArray
    frames_per_unit: NDArray[np.int64]

    def __post_init__(self) -> None:
        fits = self.fractions.ndim == 2 and self.frames_per_unit.shape == self.fractions.shape[1:]
        if not fits or len(self.fractions) < 2 or self.frames_per_unit.min(initial=1) < 1:
            raise InvalidInputError(
                f"fractions have shape {self.fractions.shape}; a test needs (units, features) "
                "with at least two units, and for each feature one frame or more"
            )

    @classmethod
    def of_states(cls, states: NDArray[np.integer], n_states: int) -> UnitFractions:
        """Return the fractions of states 0 to ``n_states - 1`` in ``(units, frames)``."""
        fractions = np.stack([(states == k).mean(axis=1) for k in range(n_states)], axis=1)
        return cls(fractions, np.full(n_states, states.shape[1]))

    @property
    def n_units(self) -> int:
        """Number of independent units."""
        return len(self.fractions)

    @property
    def mean(self) -> FloatArray:
        """Fraction of all frames, ``(features,)``."""
        return np.asarray(self.fractions.mean(axis=0))

    @property
    def effective_frames(self) -> FloatArray:
        """Independent frames that would tell as much, ``(features,)``."""
        return np.asarray(self.n_units * self.frames_per_unit / self.design_effect())

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Fractions with the spread of Jeffreys' posterior of as many independent frames.

        It is never zero, also where no unit differs: one visit more or less is always possible.
        """
        size = self.effective_frames
        inside = (self.mean * size + 0.5) / (size + 1.0)
        error = np.sqrt(inside * (1.0 - inside) / (size + 2.0))
        return tuple(Estimate(float(v), float(e)) for v, e in zip(self.mean, error, strict=True))

    def design_effect(self) -> FloatArray:
        """Variance of the mean over that of independent frames, ``(features,)``.

        From 1 (independent frames) to the frames of a unit (all of them equal). The latter is also
        assumed where only a few units went in or out: their scatter says little, and says least
        just when the state was visited too seldom.
        """
        per_unit = self.frames_per_unit
        mean = self.mean
        binomial = mean * (1.0 - mean) / per_unit
        scatter = self.fractions.var(axis=0, ddof=1)
        changed = np.where(mean > 0.5, self.fractions < 1.0, self.fractions > 0.0).sum(axis=0)
        known = (binomial > 0.0) & (changed >= min(_UNITS_THAT_TELL, self.n_units))
        ratio = np.where(known, scatter / np.where(known, binomial, 1.0), per_unit)
        return np.asarray(np.clip(ratio, 1.0, per_unit))


def population(inside: ArrayLike) -> Estimate:
    """Return the fraction of frames in a state, see :attr:`UnitFractions.estimates`.

    Parameters
    ----------
    inside : (frames,) or (units, frames) array_like of bool
        Frames of one axis are taken to be independent; otherwise units are.

    Raises
    ------
    InvalidInputError
        If there are fewer than two frames or units.
    """
    values = checked_array(inside, "inside", trailing=0)
    units = values.reshape(len(values), -1)
    fractions = UnitFractions(units.mean(axis=1)[:, None], np.array([units.shape[1]]))
    return fractions.estimates[0]
