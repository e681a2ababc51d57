r"""Whether two sets of samples can come from one distribution: many fractions tested at once.

Every set is cut into units that are independent of each other (replicas, blocks, batches of
frames), and every feature is the fraction of a unit's frames in some region. For each feature

- the variance is that of a binomial of the pooled fraction, times the set's design effect: how much
  larger the scatter between units is than that of independent frames. A state that a short
  simulation never visits by chance is so no evidence, where the scatter alone would be zero;
- the difference over its standard error is judged by Student's t (Welch's degrees of freedom);
- where fewer than five independent visits are expected, numbers of visits are judged by Fisher's
  exact test instead.

Features of one molecule are correlated, so that a Bonferroni correction would be blind. The
smallest p-value of all features is compared with its distribution under random signs and sizes of
the units' own deviations (a multiplier bootstrap), which keeps the correlations.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.errors import InvalidInputError

__all__ = ["MIN_VISITS", "FamilyTest", "UnitFractions", "family_wise_test"]

#: Independent visits that must be expected in both sets for Student's t.
MIN_VISITS = 5.0

_DRAWS = 2000
_DRAWS_AT_ONCE = 500
# Units that must have been in and out of a region before their scatter is believed.
_UNITS_THAT_TELL = 10
# Correlations of features are known from few units; this many of them weigh as much as knowing
# nothing (no correlation).
_PRIOR_UNITS = 5.0


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
        usual = mean > 0.5
        changed = np.where(usual, self.fractions < 1.0, self.fractions > 0.0).sum(axis=0)
        known = (binomial > 0.0) & (changed >= min(_UNITS_THAT_TELL, self.n_units))
        ratio = np.where(known, scatter / np.where(known, binomial, 1.0), per_unit)
        return np.asarray(np.clip(ratio, 1.0, per_unit))


@dataclasses.dataclass(frozen=True, eq=False)
class FamilyTest:
    """What a comparison of all features found.

    Attributes
    ----------
    difference : (features,) ndarray
        Fraction in the second set minus that in the first.
    standard_error : (features,) ndarray
        Of the difference, if both sets had one distribution.
    p_values : (features,) ndarray
        Probability that *any* feature is as far out by chance; NaN where not judged.
    """

    difference: FloatArray
    standard_error: FloatArray
    p_values: FloatArray

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which features could be judged."""
        return np.isfinite(self.p_values)

    @property
    def p_value(self) -> float:
        """The smallest p-value; NaN if nothing could be judged."""
        return float(np.nanmin(self.p_values)) if self.judged.any() else math.nan


def family_wise_test(
    first: UnitFractions,
    second: UnitFractions,
    *,
    seed: int,
    floors: tuple[FloatArray, FloatArray] | None = None,
) -> FamilyTest:
    """Test whether all fractions of two sets agree.

    Parameters
    ----------
    first, second : UnitFractions
        The same features of both sets.
    seed : int
        Seed of the random signs.
    floors : ((features,) ndarray, (features,) ndarray), optional
        Variances that the mean of either set has at least, for reasons that the scatter of its
        units cannot show: slow states that all of its units have missed.

    Returns
    -------
    FamilyTest
        Differences and p-values, corrected for the number of features.

    Raises
    ------
    InvalidInputError
        If the numbers of features differ.
    """
    if first.fractions.shape[1] != second.fractions.shape[1]:
        raise InvalidInputError(
            f"{first.fractions.shape[1]} features are compared with {second.fractions.shape[1]}"
        )
    sizes = [first.effective_frames, second.effective_frames]
    difference = second.mean - first.mean
    pooled = (sizes[0] * first.mean + sizes[1] * second.mean) / (sizes[0] + sizes[1])
    for i, floor in enumerate(floors or ()):
        largest = np.full(len(floor), math.inf)
        np.divide(pooled * (1.0 - pooled), floor, out=largest, where=floor > 0.0)
        sizes[i] = np.clip(largest, 1.0, sizes[i])
    variances = [pooled * (1.0 - pooled) / size for size in sizes]
    error = np.sqrt(variances[0] + variances[1])
    judged = error > 0.0
    p_values = np.full(len(difference), math.nan)
    if judged.any():
        freedom = error[judged] ** 4 / sum(
            variance[judged] ** 2 / (s.n_units - 1)
            for variance, s in zip(variances, (first, second), strict=True)
        )
        single = 2.0 * stats.t.sf(np.abs(difference[judged]) / error[judged], freedom)
        counts = [
            np.stack([s.mean, 1.0 - s.mean]) * n
            for s, n in zip((first, second), sizes, strict=True)
        ]
        table = np.rint(np.stack(counts)[..., judged]).astype(np.int64)  # (sets, in or out, ...)
        rare = (np.minimum(pooled, 1.0 - pooled) * np.minimum(*sizes))[judged] < MIN_VISITS
        for k in np.flatnonzero(rare):
            single[k] = stats.fisher_exact(table[..., k]).pvalue
        p_values[judged] = _corrected(single, _smallest_p_values(first, second, judged, seed=seed))
    return FamilyTest(difference, error, p_values)


def _corrected(single: FloatArray, smallest: FloatArray) -> FloatArray:
    """Return p-values corrected for the number of features."""
    found = np.searchsorted(smallest, single, side="right")
    resolved = (found + 1) / (len(smallest) + 1)
    # Below the resolution of the draws, Bonferroni's bound is finer and still right.
    return np.where(found == 0, np.minimum(resolved, len(single) * single), resolved)


def _smallest_p_values(
    first: UnitFractions, second: UnitFractions, judged: NDArray[np.bool_], *, seed: int
) -> FloatArray:
    """Return the sorted smallest p-values of sets without a difference, ``(_DRAWS,)``."""
    deviations = np.concatenate(
        [(s.fractions - s.mean)[:, judged] / s.n_units for s in (first, second)]
    )  # (units of both, features)
    scale = np.sqrt((deviations**2).sum(axis=0))
    deviations = np.divide(deviations, scale, out=np.zeros_like(deviations), where=scale > 0.0)
    free = np.where(scale > 0.0, min(1.0, _PRIOR_UNITS / len(deviations)), 1.0)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(_DRAWS // _DRAWS_AT_ONCE):
        shared = generator.normal(size=(_DRAWS_AT_ONCE, len(deviations))) @ deviations
        own = generator.normal(size=shared.shape)
        largest = np.abs(np.sqrt(1.0 - free) * shared + np.sqrt(free) * own).max(axis=1)
        found.append(2.0 * stats.norm.sf(largest))
    return np.sort(np.concatenate(found))
