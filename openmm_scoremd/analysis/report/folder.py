"""The pictures, the page and the numbers of a comparison with a reference, in one folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd._files.atomic import write_json, write_text
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.measures import (
    compare_coordinates,
    compare_with_reference,
)
from openmm_scoremd.analysis.comparison.summary import Summary
from openmm_scoremd.analysis.comparison.table import Comparison
from openmm_scoremd.analysis.observables.free_energy import (
    FreeEnergyProfile,
    dihedral_free_energy_1d,
    dihedral_free_energy_2d,
    free_energy_2d,
)
from openmm_scoremd.analysis.observables.internal_coordinates import (
    bond_labels,
    bond_lengths,
    phi_psi,
    phi_psi_labels,
)
from openmm_scoremd.analysis.report._pictures import ErrorOverTime
from openmm_scoremd.analysis.report.page import report_page
from openmm_scoremd.analysis.report.plots import (
    plot_dihedral_profiles,
    plot_histograms,
    plot_ramachandran,
    plot_surfaces,
)
from openmm_scoremd.topology import BeadTopology

#: Bins per axis of the pictures: coarser than those of the metrics, to be seen.
PICTURE_BINS = 45


@dataclasses.dataclass(frozen=True)
class ReportHeader:
    """Title of a report's page, and what it is about: files, hashes, versions."""

    title: str
    about: Mapping[str, str]


def write_report(
    folder: str | os.PathLike[str],
    reference: NDArray[np.floating],
    samples: Mapping[str, NDArray[np.floating]],
    topology: BeadTopology,
    *,
    floor: NDArray[np.floating],
    resampling: Resampling,
    summary: Summary,
    header: ReportHeader,
    fokker_planck: ErrorOverTime | None = None,
) -> Comparison:
    """Compare samples with a reference and write the page, pictures and numbers.

    Files: ``report.html`` with everything; ``metrics.json``; for slides, of molecules
    ``ramachandran.png`` and ``dihedrals.png`` (free energies of the first phi/psi pair) and
    ``bonds.png`` (histograms), of a point in a plane ``free_energy.png``. What the topology does
    not have is left out. Nothing is written before all numbers are there.

    Parameters
    ----------
    folder : path-like
        Where to write.
    reference : ndarray, shape (frames, N, 3) or (frames, 1, 2), nm
        Frames that no training has seen.
    samples : mapping of str to ndarray
        Independent frames, or replicas with one axis more.
    topology : BeadTopology
        The beads.
    floor : ndarray, shape of reference, nm
        Frames that noise floors are drawn from; training frames may be among them.
    resampling : Resampling
        How errors and floors are found.
    summary : Summary
        The same sets compared with each other.
    header : ReportHeader
        Title and origin.
    fokker_planck : ErrorOverTime, optional
        Fokker-Planck errors of the network.

    Returns
    -------
    Comparison
        The numbers.

    Raises
    ------
    InvalidInputError
        If frames are empty, not finite, or of another molecule.
    """
    folder = Path(folder)
    comparison = _compare(reference, samples, topology=topology, floor=floor, resampling=resampling)
    page = report_page(
        summary, comparison, title=header.title, about=header.about, fokker_planck=fokker_planck
    )
    pooled = {"reference": floor, **samples}
    if reference.shape[-1] == 2:
        _draw_plane(pooled, folder)
    elif phi_psi_labels(topology):
        angles = {name: _first_pair(frames, topology) for name, frames in pooled.items()}
        _draw_dihedrals(angles, folder)
    if topology.bonds:
        plot_histograms(
            {name: bond_lengths(_pooled(v), topology) for name, v in pooled.items()},
            folder / "bonds.png",
            labels=bond_labels(topology),
            x_label="bond length / nm",
        )
    write_text(folder / "report.html", page)
    content = {**comparison.to_dict(), **summary.to_dict()}
    if fokker_planck is not None:
        content["fokker_planck"] = _curve_content(fokker_planck)
    write_json(folder / "metrics.json", content)
    return comparison


def _compare(
    reference: NDArray[np.floating],
    samples: Mapping[str, NDArray[np.floating]],
    *,
    topology: BeadTopology,
    floor: NDArray[np.floating],
    resampling: Resampling,
) -> Comparison:
    if reference.shape[-1] == 3:
        return compare_with_reference(
            reference, samples, topology, floor_positions=floor, resampling=resampling
        )
    return compare_coordinates(
        reference[..., 0, :],
        {name: frames[..., 0, :] for name, frames in samples.items()},
        floor_reference=floor[..., 0, :],
        limits=_limits(floor),
        resampling=resampling,
    )


def _limits(frames: NDArray[np.floating]) -> tuple[tuple[float, float], ...]:
    """Return the range of both coordinates, with a margin for what the reference never visited."""
    points = frames[..., 0, :].reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.1 * (high - low) + 1e-3
    return tuple(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _curve_content(curve: ErrorOverTime) -> dict[str, list[float | None]]:
    names = ("t", "mean_absolute", "mean_absolute_error", "centred", "centred_error")
    return {
        name: [float(v) if np.isfinite(v) else None for v in getattr(curve, name)] for name in names
    }


def _draw_plane(pooled: Mapping[str, NDArray[np.floating]], folder: Path) -> None:
    limits = _limits(pooled["reference"])
    plot_surfaces(
        {
            name: free_energy_2d(v[..., 0, :], bins=PICTURE_BINS, limits=limits)
            for name, v in pooled.items()
        },
        folder / "free_energy.png",
        x_label="x / nm",
        y_label="y / nm",
    )


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
