"""Free energies from samples, in units of kT."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from openmm_scoremd.analysis.statistics.grids import (
    AxisLimits,
    FloatArray,
    cell_counts,
    checked_array,
    pooled,
    uniform_edges,
)
from openmm_scoremd.errors import InvalidInputError

__all__ = [
    "FreeEnergyProfile",
    "FreeEnergySurface",
    "dihedral_free_energy_1d",
    "dihedral_free_energy_2d",
    "free_energy_1d",
    "free_energy_2d",
    "wrap_angles",
]

_FULL_TURN = (-math.pi, math.pi)


@dataclasses.dataclass(frozen=True)
class FreeEnergySurface:
    """Free energy on a plane.

    Attributes
    ----------
    x_edges, y_edges : (bins_x + 1,) and (bins_y + 1,) ndarray
        Bin edges of both coordinates, in their units.
    values : (bins_x, bins_y) ndarray
        Free energy in kT; the smallest value is 0 and empty bins are infinite.
    outside : float
        Fraction of samples outside the edges, which no bin counts.
    """

    x_edges: FloatArray
    y_edges: FloatArray
    values: FloatArray
    outside: float


@dataclasses.dataclass(frozen=True)
class FreeEnergyProfile:
    """Free energy along a line.

    Attributes
    ----------
    edges : (bins + 1,) ndarray
        Bin edges of the coordinate, in its unit.
    values : (bins,) ndarray
        Free energy in kT; the smallest value is 0 and empty bins are infinite.
    outside : float
        Fraction of samples outside the edges, which no bin counts.
    """

    edges: FloatArray
    values: FloatArray
    outside: float

    @property
    def centers(self) -> FloatArray:
        """Centres of the bins, ``(bins,)``."""
        return (self.edges[:-1] + self.edges[1:]) / 2


def free_energy_2d(samples: ArrayLike, *, bins: int, limits: AxisLimits) -> FreeEnergySurface:
    """Estimate F(x, y) = −kT ln p(x, y) by a histogram.

    Parameters
    ----------
    samples : (..., 2) array_like
        Frames; replicas are pooled.
    bins : int
        Bins per axis.
    limits : ((float, float), (float, float))
        Range of both axes.

    Raises
    ------
    InvalidInputError
        If the samples are empty, not finite, not two-dimensional or all outside the limits, or
        bins or limits are impossible.
    """
    values, outside = _free_energies(pooled(samples, "samples"), bins=bins, limits=limits)
    x_edges, y_edges = (np.linspace(*axis, bins + 1) for axis in limits)
    return FreeEnergySurface(x_edges, y_edges, values.reshape(bins, bins), outside)


def free_energy_1d(
    samples: ArrayLike, *, bins: int, limits: tuple[float, float]
) -> FreeEnergyProfile:
    """Estimate F(x) = −kT ln p(x) of ``(frames,)`` or ``(replicas, frames)`` by a histogram.

    Parameters and errors are those of :func:`free_energy_2d`.
    """
    column = checked_array(samples, "samples", trailing=0).reshape(-1, 1)
    values, outside = _free_energies(column, bins=bins, limits=(limits,))
    return FreeEnergyProfile(np.linspace(*limits, bins + 1), values, outside)


def dihedral_free_energy_2d(angles: ArrayLike, *, bins: int) -> FreeEnergySurface:
    """Estimate the free energy of pairs of angles ``(..., 2)``, in radians and in any period.

    Parameters and errors are those of :func:`free_energy_2d`; edges go from −π to π.
    """
    wrapped = wrap_angles(checked_array(angles, "angles", trailing=1))
    return free_energy_2d(wrapped, bins=bins, limits=(_FULL_TURN, _FULL_TURN))


def dihedral_free_energy_1d(angles: ArrayLike, *, bins: int) -> FreeEnergyProfile:
    """Estimate the free energy of an angle ``(frames,)`` or ``(replicas, frames)`` in radians.

    Parameters and errors are those of :func:`free_energy_2d`; edges go from −π to π.
    """
    wrapped = wrap_angles(checked_array(angles, "angles", trailing=0))
    return free_energy_1d(wrapped, bins=bins, limits=_FULL_TURN)


def wrap_angles(angles: ArrayLike) -> FloatArray:
    """Return the same angles in [−π, π], radians."""
    values = np.asarray(angles, dtype=np.float64)
    return np.asarray(np.mod(values + math.pi, 2 * math.pi) - math.pi)


def _free_energies(
    samples: FloatArray, *, bins: int, limits: AxisLimits
) -> tuple[FloatArray, float]:
    """Return energies of all cells and the fraction of samples outside."""
    counts = cell_counts(samples, uniform_edges(limits, bins=bins))
    cells, outside = counts[:-1], float(counts[-1])
    if cells.sum() == 0:
        raise InvalidInputError(
            f"none of the {len(samples)} samples lies within {tuple(limits)}; "
            f"they span {samples.min(axis=0)} to {samples.max(axis=0)}. Give limits that hold them"
        )
    energies = np.full(len(cells), math.inf)
    occupied = cells > 0
    energies[occupied] = np.log(cells.max()) - np.log(cells[occupied])
    return energies, outside / len(samples)
