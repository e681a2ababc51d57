"""Which replicas broke: NaN, bonds and energies that the training never saw."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.artifact.metadata import ModelMetadata
from openmm_scoremd.geometry import distances
from openmm_scoremd.units import thermal_energy

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]

#: Margin of energies: so many times the spread of the start frames, or so many kT if that is more.
_ENERGY_SPREADS, _ENERGY_KT = 10.0, 50.0


@dataclasses.dataclass(frozen=True, eq=False)
class Guard:
    """What replicas must stay within.

    Attributes
    ----------
    bonds : tuple of (int, int)
        Pairs of beads whose distance is watched.
    shortest, longest : ndarray, shape (bonds,), nm
        Limits of the distances.
    energies : (float, float), kJ/mol
        Limits of the model's potential energy of one replica.
    """

    bonds: tuple[tuple[int, int], ...] = ()
    shortest: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0))
    longest: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0))
    energies: tuple[float, float] = (-math.inf, math.inf)

    def broken(self, frames: FloatArray) -> dict[int, str]:
        """Return the replicas that broke and why.

        Parameters
        ----------
        frames : ndarray, shape (R, N, 3), nm
            Positions.
        """
        found: dict[int, str] = {}
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(frames).all(axis=(1, 2)))
        for replica in np.flatnonzero(~finite):
            found[int(replica)] = "a coordinate is NaN or infinite"
        if not self.bonds:
            return found
        with np.errstate(over="ignore"):
            lengths = distances(np.where(finite[:, None, None], frames, 0.0), self.bonds)
        outside: NDArray[np.bool_] = np.asarray(
            (lengths < self.shortest) | (lengths > self.longest), dtype=np.bool_
        )
        for replica in np.flatnonzero(outside.any(axis=1) & finite):
            bond = int(np.argmax(outside[replica]))
            found[int(replica)] = (
                f"bond {self.bonds[bond][0]}-{self.bonds[bond][1]} is "
                f"{lengths[replica, bond]:.4f} nm long, outside "
                f"{self.shortest[bond]:.4f} to {self.longest[bond]:.4f}"
            )
        return found

    def broken_energies(self, energies: FloatArray) -> dict[int, str]:
        """Return the replicas whose potential energies (R,), kJ/mol, are out of range, and why.

        NaN energies belong to replicas that are not watched.
        """
        low, high = self.energies
        outside = np.flatnonzero((energies < low) | (energies > high))
        return {
            int(r): f"the potential energy is {energies[r]:.6g} kJ/mol, outside {low:.6g} to "
            f"{high:.6g}"
            for r in outside
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as plain JSON."""
        return {
            "bonds": [list(bond) for bond in self.bonds],
            "shortest": self.shortest.tolist(),
            "longest": self.longest.tolist(),
            "energies": [None if math.isinf(value) else value for value in self.energies],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Guard:
        """Read the output of :meth:`to_dict`."""
        low, high = content["energies"]
        return cls(
            bonds=tuple((int(i), int(j)) for i, j in content["bonds"]),
            shortest=np.array(content["shortest"], dtype=np.float64),
            longest=np.array(content["longest"], dtype=np.float64),
            energies=(-math.inf if low is None else low, math.inf if high is None else high),
        )


def make_guard(metadata: ModelMetadata, frames: FloatArray, margin: float) -> Guard:
    """Return limits of bond lengths from the training, or from start frames where it left none.

    Parameters
    ----------
    metadata : ModelMetadata
        Ranges of bond lengths of the training data.
    frames : ndarray, shape (R, N, 3), nm
        Start frames.
    margin : float
        How far bonds may leave the range, as a part of their length; infinity: no limits.

    Returns
    -------
    Guard
        Without limits if more than half of the start frames are outside: a model that does not
        sample its own bonds cannot be judged by them. A warning is logged then.
    """
    bonds = metadata.topology.bonds
    if math.isinf(margin) or not bonds:
        return Guard()
    lengths = distances(frames, bonds)
    if metadata.bond_ranges:
        shortest, longest = np.array(metadata.bond_ranges, dtype=np.float64).T
    else:
        shortest, longest = lengths.min(axis=0), lengths.max(axis=0)
    guard = Guard(bonds, shortest * (1.0 - margin), longest * (1.0 + margin))
    outside = len(guard.broken(frames))
    if 2 * outside > len(frames):
        logger.warning(
            "%d of %d start frames have bonds outside the range of the training: this model does "
            "not know its molecule, and bond lengths are not watched",
            outside,
            len(frames),
        )
        return Guard()
    return guard


def with_energies(guard: Guard, energies: FloatArray, temperature: float) -> Guard:
    """Return the guard with limits of energies around those of start frames.

    Parameters
    ----------
    guard : Guard
        What is watched; one without bonds stays as it is.
    energies : ndarray, shape (R,), kJ/mol
        Potential energies of start frames.
    temperature : float, K
        Temperature of the model.
    """
    if not guard.bonds:
        return guard
    low, high = float(energies.min()), float(energies.max())
    margin = max(_ENERGY_SPREADS * (high - low), _ENERGY_KT * thermal_energy(temperature))
    return dataclasses.replace(guard, energies=(low - margin, high + margin))
