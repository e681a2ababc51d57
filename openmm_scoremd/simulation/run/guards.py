"""Which replicas broke: NaN, and bonds, neighbours, energies, temperatures far from the known."""

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
from openmm_scoremd.units import MOLAR_GAS_CONSTANT

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]
Pairs: TypeAlias = tuple[tuple[int, int], ...]

#: Margin of energies: so many times the spread of the start frames, or so many kT if that is more.
_ENERGY_SPREADS, _ENERGY_KT = 10.0, 50.0
#: Or half a kT for every degree of freedom, which a start at the minimum has to gain, and so many
#: times the root of their number, some ten standard deviations.
_ENERGY_DEVIATIONS = 10.0
#: A kinetic temperature beyond the limit is as likely as exp of minus this.
_UNLIKELY = 40.0
#: Beads that no bond holds together may be so many times as far apart as in any frame known, or so
#: many units of the network, each the spread of a coordinate.
_NEIGHBOUR_TIMES, _NEIGHBOUR_SCALES = 3.0, 10.0
_FRAMES_LOOKED_AT = 100


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
    neighbours : tuple of (int, int)
        Pairs that hold together what no watched bond does.
    farthest : ndarray, shape (neighbours,), nm
        Limits of their distances.
    hottest : float, K
        Limit of the kinetic temperature of one replica.
    n_dims : int
        Dimensions in which distances are measured; in the plane z means nothing.
    """

    bonds: Pairs = ()
    shortest: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0))
    longest: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0))
    energies: tuple[float, float] = (-math.inf, math.inf)
    neighbours: Pairs = ()
    farthest: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0))
    hottest: float = math.inf
    n_dims: int = 3

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
        known = np.where(finite[:, None, None], frames, 0.0)[..., : self.n_dims]
        nearest = np.zeros(len(self.neighbours))
        for what, pairs, shortest, longest in (
            ("distance", self.neighbours, nearest, self.farthest),
            ("bond", self.bonds, self.shortest, self.longest),
        ):
            if not pairs:
                continue
            with np.errstate(over="ignore"):
                lengths = distances(known, pairs)
            outside = ((lengths < shortest) | (lengths > longest)) & finite[:, None]
            for replica in np.flatnonzero(outside.any(axis=1)):
                pair = int(np.argmax(outside[replica]))
                found[int(replica)] = (
                    f"{what} {pairs[pair][0]}-{pairs[pair][1]} is "
                    f"{lengths[replica, pair]:.4f} nm long, outside "
                    f"{shortest[pair]:.4f} to {longest[pair]:.4f}"
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

    def broken_temperatures(self, temperatures: FloatArray) -> dict[int, str]:
        """Return the replicas whose kinetic temperatures (R,), K, are out of range, and why.

        NaN temperatures belong to replicas that are not watched.
        """
        return {
            int(r): f"the temperature is {temperatures[r]:.6g} K, above {self.hottest:.6g}"
            for r in np.flatnonzero(temperatures > self.hottest)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as plain JSON."""
        return {
            "bonds": [list(bond) for bond in self.bonds],
            "shortest": self.shortest.tolist(),
            "longest": self.longest.tolist(),
            "energies": [None if math.isinf(value) else value for value in self.energies],
            "neighbours": [list(pair) for pair in self.neighbours],
            "farthest": self.farthest.tolist(),
            "hottest": None if math.isinf(self.hottest) else self.hottest,
            "n_dims": self.n_dims,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Guard:
        """Read the output of :meth:`to_dict`; older runs watch fewer things."""
        low, high = content["energies"]
        hottest = content.get("hottest")
        return cls(
            bonds=tuple((int(i), int(j)) for i, j in content["bonds"]),
            shortest=np.array(content["shortest"], dtype=np.float64),
            longest=np.array(content["longest"], dtype=np.float64),
            energies=(-math.inf if low is None else low, math.inf if high is None else high),
            neighbours=tuple((int(i), int(j)) for i, j in content.get("neighbours", ())),
            farthest=np.array(content.get("farthest", ()), dtype=np.float64),
            hottest=math.inf if hottest is None else float(hottest),
            n_dims=int(content.get("n_dims", 3)),
        )


def make_guard(
    metadata: ModelMetadata, frames: FloatArray, margin: float, *, temperature: float
) -> Guard:
    """Return limits of distances and temperatures.

    Bonds have those of the training, or of start frames where it left none. Beads that no bond
    connects are held by pairs of neighbours.

    Parameters
    ----------
    metadata : ModelMetadata
        Ranges of bond lengths of the training data.
    frames : ndarray, shape (R, N, 3), nm
        Start frames.
    margin : float
        How far bonds may leave the range, as a part of their length; infinity: no limits at all.
    temperature : float, K
        Temperature of the thermostat. Above that of the model ranges are wider, as the square root
        of the temperature, which is exact for springs.

    Returns
    -------
    Guard
        Without bonds if more than half of the start frames are outside: a model that does not
        sample its own bonds cannot be judged by them. A warning is logged then.
    """
    if math.isinf(margin):
        return Guard()
    n_dims = metadata.n_dims
    guard = Guard(hottest=_hottest(temperature, 3 * metadata.n_beads), n_dims=n_dims)
    bonds = metadata.topology.bonds
    if bonds:
        if metadata.bond_ranges:
            shortest, longest = np.array(metadata.bond_ranges, dtype=np.float64).T
            wider = math.sqrt(max(temperature / metadata.temperature, 1.0)) - 1.0
            shortest, longest = (
                shortest - 0.5 * wider * (longest - shortest),
                longest + 0.5 * wider * (longest - shortest),
            )
        else:
            lengths = distances(frames[..., :n_dims], bonds)
            shortest, longest = lengths.min(axis=0), lengths.max(axis=0)
        watched = dataclasses.replace(
            guard,
            bonds=bonds,
            shortest=shortest * (1.0 - margin),
            longest=longest * (1.0 + margin),
        )
        outside = len(watched.broken(frames))
        if 2 * outside <= len(frames):
            guard = watched
        else:
            logger.warning(
                "%d of %d start frames have bonds outside the range of the training: this model "
                "does not know its molecule, and bond lengths are not watched",
                outside,
                len(frames),
            )
    known = np.concatenate([metadata.self_test.positions, frames[:_FRAMES_LOOKED_AT]])
    neighbours, farthest = _neighbours(known[..., :n_dims], guard.bonds)
    limits = np.maximum(_NEIGHBOUR_TIMES * farthest, _NEIGHBOUR_SCALES * metadata.scale)
    return dataclasses.replace(guard, neighbours=neighbours, farthest=limits)


def with_energies(guard: Guard, energies: FloatArray, *, temperature: float, degrees: int) -> Guard:
    """Return the guard with limits of energies around those of start frames.

    Parameters
    ----------
    guard : Guard
        What is watched.
    energies : ndarray, shape (R,), kJ/mol
        Potential energies of start frames, which may lie at a minimum.
    temperature : float, K
        Temperature of the model or of the thermostat, whichever is higher.
    degrees : int
        Degrees of freedom of one replica: its energy is ``degrees`` / 2 kT above the minimum, give
        or take the square root of that, if it is made of springs.
    """
    low, high = float(energies.min()), float(energies.max())
    in_kt = 0.5 * degrees + _ENERGY_DEVIATIONS * math.sqrt(degrees)
    thermal = max(_ENERGY_KT, in_kt) * MOLAR_GAS_CONSTANT * temperature
    margin = max(_ENERGY_SPREADS * (high - low), thermal)
    return dataclasses.replace(guard, energies=(low - margin, high + margin))


def _hottest(temperature: float, degrees: int) -> float:
    """Return a kinetic temperature, K, that no healthy replica reaches.

    Of a chi-squared number with k degrees of freedom the probability to be above
    k + 2 sqrt(k t) + 2 t is below exp(-t) (Laurent and Massart, Ann. Statist. 28, 1302 (2000)).
    """
    beyond = 2.0 * math.sqrt(degrees * _UNLIKELY) + 2.0 * _UNLIKELY
    return temperature * (1.0 + beyond / degrees)


def _neighbours(frames: FloatArray, bonds: Pairs) -> tuple[Pairs, FloatArray]:
    """Return the fewest pairs of beads that connect all pieces, and their largest distances, nm.

    They are the edges that a minimum spanning tree (Prim's) has besides the bonds; the length of an
    edge is the largest distance in the frames (F, N, D).
    """
    n_beads = frames.shape[1]
    piece = np.arange(n_beads)
    for i, j in bonds:
        piece[piece == piece[j]] = piece[i]
    lengths = np.zeros((n_beads, n_beads))
    if (piece != piece[0]).any():
        for frame in frames:
            lengths = np.maximum(lengths, np.linalg.norm(frame[:, None] - frame[None], axis=-1))
    # Pieces are joined, nearest first, to the one that the first bead is in.
    beads = np.arange(n_beads)
    nearest, distance = np.zeros(n_beads, dtype=np.intp), np.full(n_beads, np.inf)
    joined, new = piece == piece[0], beads[piece == piece[0]]
    pairs: list[tuple[int, int]] = []
    while not joined.all():
        candidates = new[lengths[new].argmin(axis=0)]
        closer = lengths[candidates, beads] < distance
        nearest[closer] = candidates[closer]
        distance[closer] = lengths[candidates, beads][closer]
        bead = int(np.where(joined, np.inf, distance).argmin())
        pairs.append((min(bead, int(nearest[bead])), max(bead, int(nearest[bead]))))
        new = beads[piece == piece[bead]]
        joined[new] = True
    pairs.sort()
    return tuple(pairs), np.array([lengths[pair] for pair in pairs])
