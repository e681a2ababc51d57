"""The observables of a molecule, or of a point in a plane, in groups that belong on one picture."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd import geometry
from openmm_scoremd.analysis.observables.internal_coordinates import (
    angle_triples,
    backbone_dihedrals,
    bond_lengths,
    bonded_quadruples,
    phi_psi_labels,
)
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.topology import BeadTopology

__all__ = [
    "ObservableGroup",
    "coordinate_group",
    "energy_group",
    "molecular_groups",
    "plane_title",
]

Positions: TypeAlias = NDArray[np.floating]  # (..., beads, dimensions), nm

_MAX_PAIRS = 60
_DEGREES = (-180.0, 180.0)


@dataclasses.dataclass(frozen=True)
class ObservableGroup:
    """Observables of one kind.

    Attributes
    ----------
    key : str
        Name for programs, e.g. ``"bonds"``.
    title : str
        Name for people.
    unit : str
        Unit of all values.
    labels : tuple of str
        Name of each observable.
    compute : callable
        Maps positions ``(..., beads, dimensions)`` in nm to values ``(..., observables)``.
    period : (float, float) or None
        Range of values that wrap around.
    max_frames : int or None
        Frames of one set at most, where computing is slow.
    """

    key: str
    title: str
    unit: str
    labels: tuple[str, ...]
    compute: Callable[[Positions], NDArray[np.floating]]
    period: tuple[float, float] | None = None
    max_frames: int | None = None

    def values(self, positions: Positions) -> FloatArray:
        """Return values ``(..., observables)`` of positions in nm, in double precision."""
        return np.asarray(self.compute(positions), dtype=np.float64)

    def of_units(self, positions: Positions) -> FloatArray:
        """Return values ``(units, frames, observables)`` of ``(units, frames, beads, dims)``.

        Of units with more frames than are allowed, evenly spaced ones count.
        """
        units, frames = positions.shape[:2]
        if self.max_frames is not None and units * frames > self.max_frames:
            kept = max(1, self.max_frames // units)
            positions = positions[:, np.arange(kept) * frames // kept]
        return self.values(positions)

    def directions(self, positions: Positions) -> FloatArray:
        """Return the same, with cosines and then sines of values that wrap around."""
        values = self.values(positions)
        if self.period is None:
            return values
        around = np.radians(values)
        return np.concatenate([np.cos(around), np.sin(around)], axis=-1)


def plane_title(group: ObservableGroup, first: int) -> str:
    """Return a name for the plane of two observables that belong together, such as ``"ALA 2"``."""
    return group.labels[first].partition(" ")[2] or group.title


def molecular_groups(topology: BeadTopology) -> list[ObservableGroup]:
    """Return what the bead topology has: backbone dihedrals, bonds, angles, dihedrals, distances.

    Angles are in degrees. Pairs are those more than two bonds apart; of more than 60, evenly
    chosen ones count.

    Raises
    ------
    InvalidInputError
        If there is only one bead, which has no shape.
    """
    if topology.n_beads < 2:
        raise InvalidInputError("a single bead has no shape; compare coordinates instead")
    names = topology.bead_labels
    groups = []
    known: set[tuple[int, ...]] = set()
    labels = phi_psi_labels(topology)
    if labels:
        quadruples = np.stack(backbone_dihedrals(topology), axis=1).reshape(-1, 4)
        known = {*map(tuple, quadruples.tolist()), *map(tuple, quadruples[:, ::-1].tolist())}
        angles = tuple(f"{angle} {label}" for label in labels for angle in "φψ")
        groups.append(_dihedral_group("backbone", "Backbone dihedrals", angles, quadruples))
    if topology.bonds:
        bonds = _joined(names, np.array(topology.bonds))
        groups.append(
            ObservableGroup(
                "bonds", "Bond lengths", "nm", bonds, lambda x: bond_lengths(x, topology)
            )
        )
    triples = angle_triples(topology)
    if len(triples):
        groups.append(
            ObservableGroup(
                "angles", "Bond angles", "°", _joined(names, triples),
                lambda x: np.degrees(geometry.angles(x, triples)),
            )
        )  # fmt: skip
    others = np.array([q for q in bonded_quadruples(topology).tolist() if tuple(q) not in known])
    if len(others):
        groups.append(_dihedral_group("dihedrals", "Dihedrals", _joined(names, others), others))
    groups.append(_distance_group(topology, names, triples))
    return groups


def coordinate_group() -> ObservableGroup:
    """Return x and y of a point in a plane, nm."""
    return ObservableGroup("coordinates", "Coordinates", "nm", ("x", "y"), lambda x: x[..., 0, :2])


def energy_group(
    energy: Callable[[Positions], NDArray[np.floating]], *, max_frames: int
) -> ObservableGroup:
    """Return the potential energy of a model, kJ/mol, of so many frames of one set at most.

    ``energy`` maps positions (frames, beads, dimensions) in nm to energies (frames,) in kJ/mol.
    """

    def compute(positions: Positions) -> NDArray[np.floating]:
        frames = positions.reshape(-1, *positions.shape[-2:])
        found = np.asarray(energy(frames), dtype=np.float64)
        if not np.isfinite(found).all():
            broken = int((~np.isfinite(found)).sum())
            raise NumericalError(f"{broken} of {len(frames)} energies of the model are not finite")
        return found.reshape(*positions.shape[:-2], 1)

    title = "Energy of the model"
    return ObservableGroup("energy", title, "kJ/mol", ("energy",), compute, max_frames=max_frames)


def _joined(names: tuple[str, ...], rows: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple("–".join(names[i] for i in row) for row in rows.tolist())


def _dihedral_group(
    key: str, title: str, labels: tuple[str, ...], quadruples: NDArray[np.int64]
) -> ObservableGroup:
    def compute(positions: Positions) -> NDArray[np.floating]:
        return np.degrees(geometry.dihedrals(positions, quadruples))

    return ObservableGroup(key, title, "°", labels, compute, period=_DEGREES)


def _distance_group(
    topology: BeadTopology, names: tuple[str, ...], triples: NDArray[np.int64]
) -> ObservableGroup:
    near = {*topology.bonds, *((min(a, c), max(a, c)) for a, _, c in triples.tolist())}
    pairs = [p for p in itertools.combinations(range(topology.n_beads), 2) if p not in near]
    if not pairs and not topology.bonds:
        pairs = [(0, 1)]
    if len(pairs) > _MAX_PAIRS:
        pairs = [pairs[i * len(pairs) // _MAX_PAIRS] for i in range(_MAX_PAIRS)]
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def compute(positions: Positions) -> NDArray[np.floating]:
        spread = positions - positions.mean(axis=-2, keepdims=True)
        gyration = np.sqrt((spread**2).sum(axis=-1).mean(axis=-1))
        distances = geometry.distances(positions, chosen)
        return np.concatenate([distances, gyration[..., None]], axis=-1)

    labels = (*(f"{names[i]} … {names[j]}" for i, j in pairs), "radius of gyration")
    return ObservableGroup("distances", "Distances", "nm", labels, compute)
