"""Averages in the model's own potential from runs in scaled ones: MBAR, by pymbar.

A run whose potential has the factor ``s`` follows ``exp(-s U / kT)`` with the model's energy
``U``. Several such runs, each with enough frames in common with the next one, give averages in the
model's own potential, ``s = 1``, with errors. Energies are the model's, without the factor; a run
at another temperature ``T'`` than the model's ``T`` counts with the factor ``s T / T'``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.units import FloatOrQuantity, thermal_energy

logger = logging.getLogger(__name__)

#: With fewer effective frames in the target a warning is logged.
FEW_FRAMES: Final = 50
#: Two runs with fewer frames in common know nothing of each other, and with fewer than the second
#: number little. At one frame, errors of harmonic wells are above 1 kT; at ten, as large as told.
SHARED_FRAMES: Final = (1.0, 10.0)
_NO_JAX: Final = "PYMBAR_DISABLE_JAX"


@dataclasses.dataclass(frozen=True, eq=False)
class Reweighting:
    """Frames of all runs, one run after another, with their weights in the target.

    Attributes
    ----------
    scales : tuple of float
        Factor of every run.
    target : float
        Factor of the potential that is asked for.
    free_energies : ndarray, shape (K,), kT
        Free energy of every run's potential less that of the target.
    errors : ndarray, shape (K,), kT
        Their standard errors.
    weights : ndarray, shape (frames,)
        Weight of every frame in the target; their sum is 1.
    """

    scales: tuple[float, ...]
    target: float
    free_energies: FloatArray
    errors: FloatArray
    weights: FloatArray
    _mbar: Any = dataclasses.field(repr=False)

    @property
    def effective_frames(self) -> float:
        """Number of frames of the target that would be worth as much (Kish)."""
        return float(1.0 / np.sum(self.weights**2))

    def average(self, values: ArrayLike) -> tuple[float, float]:
        """Return an average in the target and its standard error.

        Parameters
        ----------
        values : array, shape (frames,)
            One number per frame, runs one after another; 0 and 1 give a population.

        Raises
        ------
        InvalidInputError
            If there is not one finite number for every frame.
        """
        given = np.asarray(values, dtype=np.float64)
        if given.shape != self.weights.shape or not np.isfinite(given).all():
            raise InvalidInputError(
                f"values have shape {given.shape}; give one finite number for each of "
                f"{len(self.weights)} frames"
            )
        if np.ptp(given) == 0.0:
            return float(given[0]), 0.0  # pymbar takes the logarithm of differences
        # pymbar takes the logarithm of what it shifted to be at least zero.
        with np.errstate(divide="ignore"):
            found = self._mbar.compute_expectations(given)
        return float(found["mu"][-1]), float(found["sigma"][-1])


def reweight(
    energies: Sequence[ArrayLike],
    scales: Sequence[float],
    *,
    temperature: FloatOrQuantity,
    target: float = 1.0,
) -> Reweighting:
    """Combine runs in scaled potentials.

    Parameters
    ----------
    energies : sequence of array, shape (frames of the run,), kJ/mol
        The model's energies (:meth:`ScoreModelFile.potential_energy`) of the frames of every run.
        Errors are right for independent frames: see :func:`independent_frames`.
    scales : sequence of float
        Factor of the potential in every run.
    temperature : float or Quantity, K
        Temperature of the model.
    target : float
        Factor that is asked for.

    Returns
    -------
    Reweighting
        Free energies and weights.

    Raises
    ------
    InvalidInputError
        If numbers of runs differ, or a number is not finite, or a factor not positive; or if runs
        do not overlap with each other, or with the target, so that there is no answer.
    MissingDependencyError
        If pymbar is not installed.

    Notes
    -----
    A potential that is scaled is a tool and no other temperature: what is learned about the
    molecule is what comes out for factor 1 at the temperature of the model.
    """
    kt = thermal_energy(temperature)
    runs = [np.asarray(run, dtype=np.float64) for run in energies]
    _check(runs, [*scales, target])
    if len(runs) != len(scales):
        raise InvalidInputError(f"there are {len(runs)} runs and {len(scales)} factors")
    together = np.concatenate(runs)
    # Shifting all energies changes no weight and keeps exponents small.
    reduced = (together - together.mean()) / kt
    factors = np.array([*scales, target])
    counts = np.array([*(len(run) for run in runs), 0])
    # The default solver hands scipy options that it does not know.
    mbar = _pymbar().MBAR(factors[:, None] * reduced, counts, solver_protocol="robust")
    _check_overlap(mbar.weights()[:, :-1], counts[:-1], scales)
    difference = mbar.compute_free_energy_differences()
    # The energies' mean comes back here, where it matters.
    offset = (factors - target) * together.mean() / kt
    result = Reweighting(
        scales=tuple(float(scale) for scale in scales),
        target=float(target),
        free_energies=(difference["Delta_f"][-1] + offset)[:-1],
        errors=difference["dDelta_f"][-1][:-1],
        weights=mbar.weights()[:, -1],
        _mbar=mbar,
    )
    if result.effective_frames < 2.0 < len(together):
        raise InvalidInputError(
            f"one of {len(together)} frames rules the average for factor {target:g}: no run is "
            "near to it; simulate at factors nearer to it"
        )
    if result.effective_frames < FEW_FRAMES:
        logger.warning(
            "only %.1f of %d frames count for factor %g: simulate at factors nearer to it",
            result.effective_frames,
            len(together),
            target,
        )
    return result


def independent_frames(series: ArrayLike) -> NDArray[np.intp]:
    """Return frames of one chain that are about independent, by the autocorrelation of a number.

    Parameters
    ----------
    series : array, shape (frames,)
        A slow quantity of every frame, in the order of time; the energy is often faster than the
        molecule.

    Raises
    ------
    InvalidInputError
        If it is no series of finite numbers.
    MissingDependencyError
        If pymbar is not installed.
    """
    values = np.asarray(series, dtype=np.float64)
    _check([values], [])
    if np.ptp(values) == 0.0:
        return np.arange(1)
    found = _pymbar().timeseries.subsample_correlated_data(values)
    return np.asarray(found, dtype=np.intp)


def _check(runs: list[FloatArray], factors: list[float]) -> None:
    if not runs:
        raise InvalidInputError("there are no runs; give the energies of at least one")
    for index, run in enumerate(runs):
        if run.ndim != 1 or not len(run) or not np.isfinite(run).all():
            raise InvalidInputError(
                f"run {index} has shape {run.shape}; it must be a series of finite numbers"
            )
    for factor in factors:
        if not 0.0 < factor < math.inf:
            raise InvalidInputError(f"the factor of a potential is {factor}; it must be positive")


def _check_overlap(weights: FloatArray, counts: NDArray[np.int64], scales: Sequence[float]) -> None:
    """Raise unless frames in common link every run with every other one.

    pymbar's overlap matrix (arXiv 1204.0996 for its use) is ``counts * (weights.T @ weights)``, a
    part of the frames of each run; times the run's frames it is a number of frames, the same for
    both. Without them pymbar gives numbers with errors of zero.
    """
    shared = np.outer(counts, counts) * (weights.T @ weights)
    none, few = SHARED_FRAMES
    parts, part_of = connected_components(shared >= none, directed=False)
    if parts > 1:
        groups = [
            ", ".join(
                f"{scale:g}" for scale, part in zip(scales, part_of, strict=True) if part == k
            )
            for k in range(parts)
        ]
        raise InvalidInputError(
            f"runs at factors {' and at '.join(groups)} have no frames in common, so that their "
            "free energies cannot be compared; simulate at factors in between"
        )
    if connected_components(shared >= few, directed=False)[0] > 1:
        logger.warning(
            "some runs have fewer than %g frames in common with all others: free energies rest on "
            "few frames; simulate at factors in between, or longer",
            few,
        )


def _pymbar() -> Any:
    try:
        with _quiet_and_without_jax():
            return importlib.import_module("pymbar")
    except ImportError as error:
        raise MissingDependencyError(
            "reweighting needs pymbar; install it with pip install 'openmm-scoremd[reweighting]'"
        ) from error


@contextlib.contextmanager
def _quiet_and_without_jax() -> Iterator[None]:
    # Imported, pymbar warns of a solver that it lacks and of autocorrelations in general. With jax
    # it would compile for seconds, and take memory on GPUs, for problems that numpy solves at once.
    before = os.environ.get(_NO_JAX)
    os.environ[_NO_JAX] = "TRUE" if before is None else before
    log = logging.getLogger("pymbar")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ[_NO_JAX]
