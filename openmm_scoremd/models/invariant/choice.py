"""Which distances, volumes and windows of beads an invariant network sees."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from typing import Final

from openmm_scoremd.topology import BeadTopology

#: Up to so many beads all volumes are seen, and all pairs of distances are coupled.
FEW_BEADS: Final = 6
#: Up to so many beads one window holds the molecule.
MOST_IN_ONE_WINDOW: Final = 12
#: Beads along the chain in each window of a larger molecule.
WINDOW: Final = 8


@dataclasses.dataclass(frozen=True)
class FeatureChoice:
    """What is measured on one molecule, as indices.

    Attributes
    ----------
    pairs : tuple of (int, int)
        Beads whose distance is measured: all pairs.
    volumes : tuple of (int, int, int, int)
        Beads whose signed volume is measured: all quadruples of few beads, otherwise those along
        the chain and of the molecule's dihedral angles, as many as there are beads or so.
    windows : tuple of tuple of int
        Features that the network sees together, numbered pairs first; all windows are alike in
        size.
    pair_classes : tuple of int
        Pairs of one class have the same coefficients. Few beads: a class for every pair.
    window_types : tuple of tuple of int
        Type of every bead of every window; empty for one window, which needs none.
    """

    pairs: tuple[tuple[int, int], ...]
    volumes: tuple[tuple[int, int, int, int], ...]
    windows: tuple[tuple[int, ...], ...]
    pair_classes: tuple[int, ...]
    window_types: tuple[tuple[int, ...], ...]

    @property
    def coupled(self) -> bool:
        """Whether the quadratic part of the energy couples all pairs."""
        return len(self.pairs) <= FEW_BEADS * (FEW_BEADS - 1) // 2


def choose_features(n_beads: int, topology: BeadTopology | None) -> FeatureChoice:
    """Return what is measured on a molecule.

    The number of pairs grows with the square of that of beads, at a few operations each; volumes
    and windows, which cost more, grow linearly.

    Parameters
    ----------
    n_beads : int
        Number of beads, at least 2.
    topology : BeadTopology or None
        Names give types of beads, bonds give dihedral angles; without it all beads are alike and
        bonded along their order.
    """
    pairs = tuple(itertools.combinations(range(n_beads), 2))
    if n_beads <= MOST_IN_ONE_WINDOW:
        volumes = (
            tuple(itertools.combinations(range(n_beads), 4))
            if n_beads <= FEW_BEADS
            else _local_volumes(n_beads, topology)
        )
        everything = (tuple(range(len(pairs) + 2 * len(volumes))),)
        return FeatureChoice(pairs, volumes, everything, tuple(range(len(pairs))), ())
    types = bead_types(n_beads, topology)
    volumes = tuple((i, i + 1, i + 2, i + 3) for i in range(n_beads - 3))
    starts = range(n_beads - WINDOW + 1)
    number = {pair: k for k, pair in enumerate(pairs)}
    windows = tuple(
        tuple(number[pair] for pair in itertools.combinations(range(first, first + WINDOW), 2))
        + tuple(len(pairs) + i for i in range(first, first + WINDOW - 3))
        + tuple(len(pairs) + len(volumes) + i for i in range(first, first + WINDOW - 3))
        for first in starts
    )
    classes: dict[tuple[int, ...], int] = {}
    pair_classes = tuple(
        classes.setdefault((types[i], types[j], min(j - i, WINDOW)), len(classes)) for i, j in pairs
    )
    window_types = tuple(tuple(types[first : first + WINDOW]) for first in starts)
    return FeatureChoice(pairs, volumes, windows, pair_classes, window_types)


def bead_types(n_beads: int, topology: BeadTopology | None) -> list[int]:
    """Return a number for the kind of every bead: the same residue and bead name, the same kind."""
    if topology is None:
        return [0] * n_beads
    numbers: dict[tuple[str, str], int] = {}
    kinds = zip(topology.residue_names, topology.names, strict=True)
    return [numbers.setdefault(kind, len(numbers)) for kind in kinds]


def _neighbours(topology: BeadTopology | None) -> dict[int, list[int]]:
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    for i, j in topology.bonds if topology is not None else ():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return neighbours


def _local_volumes(
    n_beads: int, topology: BeadTopology | None
) -> tuple[tuple[int, int, int, int], ...]:
    """Quadruples in a row, along three bonds, and around a bead with three neighbours."""
    chosen = {(i, i + 1, i + 2, i + 3) for i in range(n_beads - 3)}
    neighbours = _neighbours(topology)
    for j in list(neighbours):
        for i, k in itertools.permutations(neighbours[j], 2):
            chosen |= {(i, j, k, m) for m in neighbours[k] if i < m and m not in (i, j)}
        for i, k, m in itertools.combinations(sorted(neighbours[j]), 3):
            chosen.add((j, i, k, m))
    # The same four beads in another order are the same volume, up to a sign.
    unique = {tuple(sorted(quadruple)): quadruple for quadruple in sorted(chosen, reverse=True)}
    return tuple(sorted(unique.values()))
