"""Looks at frames before they are believed: units, order of atoms, boxes, copies, drift."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.data._chemistry import bond_range, bonding_distance
from openmm_scoremd.geometry import Array, distances, nearest_image
from openmm_scoremd.topology import BeadTopology

FloatArray = NDArray[np.float64]
Report: TypeAlias = Callable[[str], None]

#: Single frames may stretch and shorten a bond beyond the range of its mean by these factors.
_SHORTEST_FRAME, _LONGEST_FRAME = 0.7, 1.5
#: Part of the bonds of a first frame that may be out of range: structures have flaws.
_FLAWED = 0.1
#: Fewer frames show no drift, and smaller changes of bonds, relative to their length, are none.
_FEWEST_FRAMES = 50
_SMALLEST_DRIFT = 0.05
#: Bonds this many times too long are not stretched: their ends are in different images.
_ANOTHER_IMAGE = 3.0
#: Means of two halves that lie this many standard deviations apart have hardly a frame in common.
_DRIFT = 3.0


def check_first_frame(
    path: str | os.PathLike[str],
    first: mdtraj.Trajectory,
    cell: FloatArray | None,
    report: Report,
) -> None:
    """Compare the bonds of all atoms, also of those that are not kept, with their elements.

    Parameters
    ----------
    path : path-like
        Where the frame comes from.
    first : mdtraj.Trajectory
        The frame, with the topology's bonds.
    cell : (3, 3), nm, or None
        Box vectors.
    report : callable
        Told what is wrong.
    """
    pairs, longest = _atomic_bonds(first.topology)
    if not pairs:
        return
    offsets = np.diff(first.xyz[0].astype(np.float64)[pairs], axis=1)[:, 0]
    lengths = np.linalg.norm(offsets if cell is None else nearest_image(offsets, cell), axis=-1)
    ratios = lengths / longest
    wrong = (ratios < 0.5) | (ratios > _LONGEST_FRAME)
    if not np.isfinite(lengths).all() or wrong.mean() <= _FLAWED:
        return
    worst = int(np.abs(np.log(np.maximum(ratios, 1e-6))).argmax())
    atoms = "-".join(str(first.topology.atom(index)) for index in pairs[worst])
    report(
        f"{wrong.sum()} of the {len(pairs)} bonds between atoms are no bonds in the first frame of "
        f"{path}: {atoms} has {lengths[worst]:.4g} nm, where its elements allow up to "
        f"{longest[worst]:.3f} nm{_suspect(ratios)}"
    )


def check_box(
    path: str | os.PathLike[str], longest_bond: float, lowest_height: float, report: Report
) -> bool:
    """Report boxes in which the nearest image of a bonded atom is not certain.

    Parameters
    ----------
    path : path-like
        Where the frames come from.
    longest_bond : float, nm
        Of whole molecules.
    lowest_height : float, nm
        Smallest distance between opposite faces of a cell.
    report : callable
        Told what is wrong.

    Returns
    -------
    bool
        Whether the box is large enough.
    """
    fits = lowest_height >= 2.0 * longest_bond
    if not fits:
        report(
            f"the periodic cell of {path} is {lowest_height:.3f} nm high and its longest bond "
            f"{longest_bond:.3f} nm, so molecules cannot be made whole: a cell must be at least "
            "twice as high; if it means nothing and molecules are whole, give --whole "
            "(box='ignore')"
        )
    return fits


def check_beads(positions: NDArray[np.floating], beads: BeadTopology, report: Report) -> None:
    """Compare bonds of beads with chemistry, and the first half of the frames with the second.

    Parameters
    ----------
    positions : (frames, beads, 3), nm
        Frames in order of time.
    beads : BeadTopology
        What the beads are.
    report : callable
        Told what is wrong.
    """
    if beads.bonds:
        lengths = distances(positions, beads.bonds)
        labels = beads.bead_labels
        names = [f"{labels[i]}-{labels[j]}" for i, j in beads.bonds]
        _check_lengths(lengths, beads, names, report)
        _check_drift(lengths, names, report)
    spread = positions - positions.mean(axis=1, keepdims=True)
    gyration = np.sqrt((spread.astype(np.float64) ** 2).sum(axis=-1).mean(axis=-1))
    _check_drift(gyration[:, None], ["the radius of gyration"], report)


class DuplicateFrames:
    """Notices frames that are there twice, in one file or over several."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._copies: list[tuple[int, int]] = []
        self._n_frames = 0

    def add(self, frames: NDArray[Any], numbers: NDArray[np.integer[Any]]) -> None:
        """Take frames (frames, beads, 3) and their numbers, counted through all files."""
        self._n_frames += len(frames)
        for frame, number in zip(frames, numbers.tolist(), strict=True):
            # Python's hash is salted and short; 16 bytes of BLAKE2 never meet by chance.
            digest = hashlib.blake2b(np.ascontiguousarray(frame).tobytes(), digest_size=16).digest()
            first = self._seen.setdefault(digest, number)
            if first != number:
                self._copies.append((number, first))

    def check(self, name_of: Callable[[int], str], report: Report) -> None:
        """Report copies, the frames named by ``name_of``."""
        if self._copies:
            name, first = map(name_of, self._copies[0])
            report(
                f"{len(self._copies)} of {self._n_frames} frames are exact copies of others, "
                f"beginning with {name}, which equals {first}: a run that stood still, files that "
                "overlap, or one file given twice; leave them out"
            )


def _check_lengths(
    lengths: Array, beads: BeadTopology, names: Sequence[str], report: Report
) -> None:
    low, high = np.array([bead_bond_range(beads, bond) for bond in beads.bonds]).T
    means = lengths.mean(axis=0, dtype=np.float64)
    wrong = (means < low) | (means > high)
    torn = (lengths < _SHORTEST_FRAME * low) | (lengths > _LONGEST_FRAME * high)
    if not wrong.any() and not torn.any():
        return
    if wrong.any():
        worst = int(np.where(wrong, np.abs(np.log(means / np.sqrt(low * high))), -1.0).argmax())
        how_many = f"{wrong.sum()} of {len(means)} bonds have lengths that no such bond has"
    else:
        worst = int(torn.sum(axis=0).argmax())
        frames = np.flatnonzero(torn.any(axis=1))
        how_many = f"bonds are torn in {len(frames)} of {len(lengths)} frames, first in {frames[0]}"
    extremes = f"{lengths[:, worst].min():.4g} to {lengths[:, worst].max():.4g}"
    report(
        f"{how_many}: {names[worst]} has {means[worst]:.4g} nm on average ({extremes}), where "
        f"{low[worst]:.3f} to {high[worst]:.3f} nm are possible{_suspect(lengths / high)}"
    )


def bead_bond_range(beads: BeadTopology, bond: tuple[int, int]) -> tuple[float, float]:
    """Return the shortest and longest length, nm, that the mean of a bond of beads can have."""
    i, j = bond
    names = beads.names[i], beads.names[j]
    return bond_range((beads.elements[i], beads.elements[j]), names)


def _check_drift(values: Array, names: Sequence[str], report: Report) -> None:
    """Report the values (frames, n) whose two halves are apart."""
    half = len(values) // 2
    if len(values) < _FEWEST_FRAMES:
        return
    first, second = values[:half], values[half:]
    change = second.mean(axis=0) - first.mean(axis=0)
    spread = 0.5 * (first.std(axis=0) + second.std(axis=0))
    drifts = np.abs(change) / np.maximum(spread, 1e-6)
    drifts[np.abs(change) < _SMALLEST_DRIFT * first.mean(axis=0)] = 0.0
    worst = int(drifts.argmax())
    if drifts[worst] > _DRIFT:
        report(
            f"the frames drift: {names[worst]} is {first[:, worst].mean():.4g} nm in the first "
            f"half and {second[:, worst].mean():.4g} nm in the second, {drifts[worst]:.1f} "
            "standard deviations apart; leave out what came before equilibrium, or a pulled or "
            "heated part"
        )


def _atomic_bonds(topology: mdtraj.Topology) -> tuple[list[tuple[int, int]], FloatArray]:
    """Return bonds of known elements, and how long they can be."""
    pairs, longest = [], []
    for first, second in topology.bonds:
        elements = first.element.symbol, second.element.symbol
        limit = bonding_distance(*elements)
        # Rigid water has a constraint between its hydrogens that topologies call a bond.
        if limit and elements != ("H", "H") and not first.name == second.name == "CA":
            pairs.append((first.index, second.index))
            longest.append(limit)
    return pairs, np.array(longest)


def _suspect(ratios: Array) -> str:
    """Say what lengths suggest that are these multiples of the longest possible ones."""
    typical = float(np.median(ratios))
    if 6.0 < typical < 11.0:
        return "; 10 times too long: numbers in Angstrom were written as nm"
    if 0.06 < typical < 0.11:
        return "; 10 times too short: numbers in nm were written as Angstrom"
    if typical < 0.06:
        return (
            "; all is far too short: are these fractions of the box (LAMMPS: xs ys zs), or is the "
            "cell a placeholder? write coordinates in nm or Angstrom"
        )
    if (ratios > _ANOTHER_IMAGE).any() and typical < 1.2:
        return (
            "; most bonds are right and some ends a box away: molecules are broken over the edges "
            "of a box that the file does not hold; make them whole with the program that wrote it"
        )
    if ((ratios > 0.5) & (ratios < 1.2)).mean() > 0.9:
        return "; the others are right: is something missing or misplaced there?"
    return "; is the order of atoms that of the topology, and the topology of this trajectory?"
