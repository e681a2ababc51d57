"""The pictures and numbers that say whether samples agree with a reference, in one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd._io import write_json
from openmm_scoremd.analysis.comparison import Resampling, compare_with_reference
from openmm_scoremd.analysis.free_energy import (
    FreeEnergyProfile,
    dihedral_free_energy_1d,
    dihedral_free_energy_2d,
)
from openmm_scoremd.analysis.observables import (
    bond_labels,
    bond_lengths,
    phi_psi,
    phi_psi_labels,
)
from openmm_scoremd.analysis.plots import (
    plot_dihedral_profiles,
    plot_histograms,
    plot_ramachandran,
)
from openmm_scoremd.analysis.results import Comparison
from openmm_scoremd.topology import BeadTopology

#: Bins per axis of the pictures: coarser than those of the metrics, to be seen.
PICTURE_BINS = 45


def write_report(
    folder: str | os.PathLike[str],
    reference: NDArray[np.floating],
    samples: Mapping[str, NDArray[np.floating]],
    topology: BeadTopology,
    *,
    floor: NDArray[np.floating],
    resampling: Resampling,
) -> Comparison:
    """Compare samples with a reference and write pictures and numbers.

    Files: ``ramachandran.png`` and ``dihedrals.png`` (free energies of the first phi/psi pair),
    ``bonds.png`` (histograms) and ``metrics.json``. What the topology does not have is left out.
    Nothing is written before all numbers are there.

    Parameters
    ----------
    folder : path-like
        Where to write.
    reference : ndarray, shape (frames, N, 3), nm
        Frames that no training has seen.
    samples : mapping of str to ndarray
        Independent frames (frames, N, 3), or replicas (replicas, frames, N, 3).
    topology : BeadTopology
        The beads, with bonds or a phi/psi pair.
    floor : ndarray, shape (frames, N, 3), nm
        Frames that noise floors are drawn from; training frames may be among them.
    resampling : Resampling
        How errors and floors are found.

    Returns
    -------
    Comparison
        The numbers.

    Raises
    ------
    InvalidInputError
        If frames are empty, not finite, or of another molecule, or the topology has neither bonds
        nor a phi/psi pair.
    """
    folder = Path(folder)
    comparison = compare_with_reference(
        reference, samples, topology, floor_positions=floor, resampling=resampling
    )
    pooled = {"reference": floor, **samples}
    if phi_psi_labels(topology):
        angles = {name: _first_pair(frames, topology) for name, frames in pooled.items()}
        _draw_dihedrals(angles, folder)
    if topology.bonds:
        plot_histograms(
            {name: bond_lengths(_pooled(v), topology) for name, v in pooled.items()},
            folder / "bonds.png",
            labels=bond_labels(topology),
            x_label="bond length / nm",
        )
    write_json(folder / "metrics.json", comparison.to_dict())
    return comparison


def _draw_dihedrals(angles: Mapping[str, NDArray[np.floating]], folder: Path) -> None:
    plot_ramachandran(
        {name: dihedral_free_energy_2d(v, bins=PICTURE_BINS) for name, v in angles.items()},
        folder / "ramachandran.png",
    )
    plot_dihedral_profiles(
        {"φ": _profiles(angles, axis=0), "ψ": _profiles(angles, axis=1)}, folder / "dihedrals.png"
    )


def _pooled(frames: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(frames)
    return array.reshape(-1, *array.shape[-2:])


def _first_pair(frames: ArrayLike, topology: BeadTopology) -> NDArray[np.floating]:
    return np.asarray(phi_psi(_pooled(frames), topology)[:, 0])


def _profiles(
    angles: Mapping[str, NDArray[np.floating]], *, axis: int
) -> dict[str, FreeEnergyProfile]:
    return {
        name: dihedral_free_energy_1d(v[:, axis], bins=PICTURE_BINS) for name, v in angles.items()
    }
