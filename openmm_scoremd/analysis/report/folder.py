"""The pictures, the page and the numbers of a comparison, in one folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from openmm_scoremd._files.atomic import write_json, write_text
from openmm_scoremd.analysis.comparison.planes import PICTURE_BINS, BasinPlane
from openmm_scoremd.analysis.comparison.summary import Summary
from openmm_scoremd.analysis.observables.free_energy import free_energy_1d
from openmm_scoremd.analysis.report import plots
from openmm_scoremd.analysis.report.curves import FokkerPlanckError
from openmm_scoremd.analysis.report.page import MAX_PICTURES, most_different, report_page
from openmm_scoremd.analysis.report.styles import styles_of

__all__ = ["ReportHeader", "write_report"]


@dataclasses.dataclass(frozen=True)
class ReportHeader:
    """Title of a report's page, and what it is about: files, hashes, versions."""

    title: str
    about: Mapping[str, str]


def write_report(
    folder: str | os.PathLike[str],
    summary: Summary,
    header: ReportHeader,
    *,
    fokker_planck: FokkerPlanckError | None = None,
) -> None:
    """Write the page, pictures and numbers of a comparison.

    Files: ``report.html`` with everything; ``metrics.json``; for slides, of molecules
    ``ramachandran.png`` and ``dihedrals.png`` (free energies of the first phi/psi pair) and
    ``bonds.png`` (distributions of the bonds that differ most), of a point in a plane
    ``free_energy.png``. What there is not is left out.

    Parameters
    ----------
    folder : path-like
        Where to write.
    summary : Summary
        What was compared.
    header : ReportHeader
        Title and origin.
    fokker_planck : FokkerPlanckError, optional
        Fokker-Planck errors of the network.
    """
    folder = Path(folder)
    page = report_page(summary, title=header.title, about=header.about, fokker_planck=fokker_planck)
    groups = {group.key: group for group in summary.groups}
    if "backbone" in groups:
        _draw_plane(summary.planes[0], folder / "ramachandran.png")
        _draw_profiles(summary.planes[0], folder / "dihedrals.png")
    elif "coordinates" in groups and summary.planes:
        _draw_plane(summary.planes[0], folder / "free_energy.png")
    if "bonds" in groups:
        _draw_bonds(summary, folder / "bonds.png")
    write_text(folder / "report.html", page)
    content = summary.to_dict()
    if fokker_planck is not None:
        content["fokker_planck"] = fokker_planck.to_dict()
    write_json(folder / "metrics.json", content)


def _draw_plane(plane: BasinPlane, path: Path) -> None:
    x_label, y_label = plane.axes
    panels = plots.surface_panels(plane.surfaces)
    plots.save(plots.figure_of(panels, x_label=x_label, y_label=y_label, share="all"), path)


def _draw_profiles(plane: BasinPlane, path: Path) -> None:
    """Draw free energies along both axes of a plane."""
    styles = styles_of(plane.values)
    panels = {}
    for axis, label in enumerate(plane.axes):
        profiles = {
            name: free_energy_1d(
                values[..., axis], bins=PICTURE_BINS, limits=plane.basins.limits[axis]
            )
            for name, values in plane.values.items()
        }
        panels[label] = partial(plots.draw_profiles, profiles=profiles, styles=styles)
    figure = plots.figure_of(panels, x_label="angle (°)", y_label="free energy (kT)", styles=styles)
    plots.save(figure, path)


def _draw_bonds(summary: Summary, path: Path) -> None:
    (group,) = (group for group in summary.groups if group.key == "bonds")
    styles = styles_of(summary.histograms)
    panels = {
        label: partial(
            plots.draw_densities, histograms=summary.histograms_of("bonds", label), styles=styles
        )
        for label in most_different(summary, group)[:MAX_PICTURES]
    }
    figure = plots.figure_of(panels, x_label="bond length (nm)", y_label="density", styles=styles)
    plots.save(figure, path)
