"""What a dataset holds, in a few lines for a person."""

from __future__ import annotations

import textwrap
from collections import defaultdict

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openmm_scoremd.data._correlation import effective_frames
from openmm_scoremd.data.dataset import CGDataset
from openmm_scoremd.geometry import distances
from openmm_scoremd.topology import BeadTopology

#: Rows of bonds; beads of many kinds have more of them than anybody reads.
_MOST_KINDS = 12
_WIDTH = 100


def format_summary(dataset: CGDataset) -> str:
    """Return a table of beads, bonds with mean and range, frames and how they were made.

    Parameters
    ----------
    dataset : CGDataset
        Frames of beads.
    """
    beads = dataset.topology
    masses = sorted({f"{mass:.2f}" for mass in (min(beads.masses), max(beads.masses))}, key=float)
    worth = effective_frames(dataset.positions)
    frames = f"{dataset.n_frames:,} at {dataset.temperature:g} K, worth {worth:,.0f} independent"
    rows = [
        ("beads", _counted(beads)),
        ("masses", " to ".join(masses) + " Da"),
        *_bond_rows(dataset),
        ("frames", frames),
        *(tuple(note.split(": ", maxsplit=1)) for note in dataset.notes),
    ]
    width = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, _WIDTH - width) or [""]
        lines += [f"{name:<{width}}{wrapped[0]}", *(f"{'':{width}}{line}" for line in wrapped[1:])]
    return "\n".join(lines)


def _counted(beads: BeadTopology) -> str:
    n_residues, n_chains = len({*beads.residue_indices}), len({*beads.chain_ids})
    counts = [
        f"{beads.n_beads} of {n_residues} residue{'s' * (n_residues > 1)}",
        f"in {n_chains} chain{'s' * (n_chains > 1)}",
    ]
    return " ".join(counts)


def _bond_rows(dataset: CGDataset) -> list[tuple[str, str]]:
    beads = dataset.topology
    if not beads.bonds:
        return [("bonds", "none: nothing says which beads belong together")]
    lengths = distances(dataset.positions, beads.bonds)
    kinds: dict[str, list[int]] = defaultdict(list)
    for k, (i, j) in enumerate(beads.bonds):
        kinds["-".join(sorted((beads.names[i], beads.names[j])))].append(k)
    rows = [("bonds", f"{len(beads.bonds)}, which join the beads to {_pieces(beads)}")]
    for kind, columns in list(kinds.items())[:_MOST_KINDS]:
        chosen = lengths[:, columns]
        mean, low, high = chosen.mean(dtype=np.float64), chosen.min(), chosen.max()
        text = f"{len(columns):4d}   mean {mean:.4f} nm   range {low:.4f} to {high:.4f} nm"
        rows.append((f"  {kind}", text))
    if len(kinds) > _MOST_KINDS:
        rows.append(("  others", f"{len(kinds) - _MOST_KINDS} more kinds"))
    return rows


def _pieces(beads: BeadTopology) -> str:
    ends = np.array(beads.bonds).T
    graph = coo_array((np.ones(len(beads.bonds)), tuple(ends)), shape=(beads.n_beads,) * 2)
    count, _ = connected_components(graph, directed=False)
    return f"{count} piece{'s' * (count > 1)}"
