"""Pictures of free energies, distributions and training: the only owner of matplotlib.

Functions named ``*_figure`` return a ``Figure`` that no global state knows of; functions named
``plot_*`` draw it into a PNG, PDF or SVG file (by the suffix), which is whole or absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, MultipleLocator
from numpy.typing import ArrayLike

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface
from openmm_scoremd.analysis.report._pictures import (
    ErrorOverTime,
    PathLike,
    ProfilePanels,
    band_on_log_scale,
    check_not_empty,
    labelled_sets,
    picture_path,
    spans_a_decade,
)
from openmm_scoremd.analysis.report.styles import Style, styles_of
from openmm_scoremd.analysis.report.training_log import LossCurve
from openmm_scoremd.analysis.statistics.grids import FloatArray, shared_densities

_SMALL, _NORMAL = 8.0, 9.5  # font sizes, points
_PANEL = 2.3  # width of a panel, inches
_MAX_COLUMNS = 3
_DPI = 200


def plot_ramachandran(surfaces: Mapping[str, FreeEnergySurface], path: PathLike) -> Path:
    """Draw :func:`ramachandran_figure` into a file and return its path."""
    return _save(ramachandran_figure(surfaces), path)


def ramachandran_figure(surfaces: Mapping[str, FreeEnergySurface]) -> Figure:
    """Draw free energies over φ and ψ side by side, with one colour scale.

    Parameters
    ----------
    surfaces : mapping of str to FreeEnergySurface
        Title to surface with edges in radians, the reference first.

    Returns
    -------
    Figure
        Axes in degrees; empty bins are white.

    Raises
    ------
    InvalidInputError
        If there is no surface.
    """
    in_degrees = {name: surface.in_degrees() for name, surface in surfaces.items()}
    figure = surface_figure(in_degrees, x_label="φ (degrees)", y_label="ψ (degrees)")
    for axes in _panels(figure):
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(90))
            axis.set_minor_locator(MultipleLocator(30))
    return figure


def plot_surfaces(
    surfaces: Mapping[str, FreeEnergySurface], path: PathLike, *, x_label: str, y_label: str
) -> Path:
    """Draw :func:`surface_figure` into a file and return its path."""
    return _save(surface_figure(surfaces, x_label=x_label, y_label=y_label), path)


def surface_figure(
    surfaces: Mapping[str, FreeEnergySurface], *, x_label: str, y_label: str
) -> Figure:
    """Draw free energies side by side, with one colour scale.

    Parameters
    ----------
    surfaces : mapping of str to FreeEnergySurface
        Title to surface, the reference first.
    x_label, y_label : str
        Axis labels.

    Returns
    -------
    Figure
        One panel per surface; empty bins are white.

    Raises
    ------
    InvalidInputError
        If there is no surface.
    """
    check_not_empty(surfaces, "surfaces")
    norm = Normalize(
        0.0, max(float(s.values[np.isfinite(s.values)].max()) for s in surfaces.values())
    )
    figure, panels = _grid(
        len(surfaces), height=_PANEL, x_label=x_label, y_label=y_label, share="all"
    )
    for axes, (name, surface) in zip(panels, surfaces.items(), strict=True):
        values = np.ma.masked_invalid(surface.values.T)
        mesh = axes.pcolormesh(
            surface.x_edges, surface.y_edges, values, cmap="viridis", norm=norm, rasterized=True
        )
        axes.set_title(name, fontsize=_NORMAL)
    bar = figure.colorbar(mesh, ax=panels, aspect=25, pad=0.02)
    bar.set_label("free energy (kT)", fontsize=_NORMAL)
    bar.ax.tick_params(labelsize=_SMALL)
    return figure


def plot_dihedral_profiles(profiles: ProfilePanels, path: PathLike) -> Path:
    """Draw :func:`dihedral_profile_figure` into a file and return its path."""
    return _save(dihedral_profile_figure(profiles), path)


def dihedral_profile_figure(profiles: ProfilePanels) -> Figure:
    """Draw free energies along dihedral angles, one panel per angle, all sets on top of each other.

    Parameters
    ----------
    profiles : mapping of str to mapping of str to FreeEnergyProfile
        Name of the angle (``"φ"``) to name of the set to profile with edges in radians.

    Returns
    -------
    Figure
        Axes in degrees.

    Raises
    ------
    InvalidInputError
        If there is no panel or a panel has no profile.
    """
    in_degrees = {
        f"{angle} (degrees)": {name: profile.in_degrees() for name, profile in sets.items()}
        for angle, sets in profiles.items()
    }
    figure = profile_figure(in_degrees)
    for axes in _panels(figure):
        axes.xaxis.set_major_locator(MultipleLocator(90))
        axes.xaxis.set_minor_locator(MultipleLocator(30))
    return figure


def plot_free_energy_1d(profiles: ProfilePanels, path: PathLike) -> Path:
    """Draw :func:`profile_figure` into a file and return its path."""
    return _save(profile_figure(profiles), path)


def profile_figure(profiles: ProfilePanels) -> Figure:
    """Draw free energies along coordinates, one panel each, all sets on top of each other.

    Parameters
    ----------
    profiles : mapping of str to mapping of str to FreeEnergyProfile
        Axis label to name of the set to profile, the reference first.

    Returns
    -------
    Figure
        Empty bins are gaps.

    Raises
    ------
    InvalidInputError
        If there is no panel or a panel has no profile.
    """
    check_not_empty(profiles, "profiles")
    styles = styles_of(name for sets in profiles.values() for name in sets)
    figure, panels = _grid(
        len(profiles), height=0.85 * _PANEL, x_label="", y_label="free energy (kT)"
    )
    for axes, (label, sets) in zip(panels, profiles.items(), strict=True):
        check_not_empty(sets, f"profiles of {label}")
        for name, profile in sets.items():
            _draw_steps(axes, profile.edges, profile.values, styles[name])
        axes.set_xlabel(label, fontsize=_NORMAL)
        axes.margins(x=0.0)
        axes.set_ylim(bottom=0.0)
    _legend(figure, styles)
    return figure


def plot_histograms(
    samples: Mapping[str, ArrayLike], path: PathLike, *, labels: Sequence[str], x_label: str
) -> Path:
    """Draw :func:`histogram_figure` into a file and return its path."""
    return _save(histogram_figure(samples, labels=labels, x_label=x_label), path)


def histogram_figure(
    samples: Mapping[str, ArrayLike], *, labels: Sequence[str], x_label: str, bins: int = 80
) -> Figure:
    """Draw distributions such as bond lengths, one panel per value, all sets on top of each other.

    Parameters
    ----------
    samples : mapping of str to (..., values) array_like
        Name of the set to its frames, the reference first; replicas are pooled.
    labels : sequence of str
        Title of each panel.
    x_label : str
        What the values are, with unit.
    bins : int
        Bins per panel.

    Returns
    -------
    Figure
        Probability densities. The range holds all but 0.1 % of each tail of every set.

    Raises
    ------
    InvalidInputError
        If there are no samples, they are not finite, or the number of labels is not that of values.
    """
    sets = labelled_sets(samples, labels)
    styles = styles_of(sets)
    figure, panels = _grid(len(labels), height=0.8 * _PANEL, x_label=x_label, y_label="density")
    for column, axes in enumerate(panels):
        edges, densities = shared_densities([v[:, column] for v in sets.values()], bins=bins)
        for name, density in zip(sets, densities, strict=True):
            _draw_steps(axes, edges, density, styles[name])
        axes.set_title(labels[column], fontsize=_NORMAL)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    _legend(figure, styles)
    return figure


def plot_loss(curves: Mapping[str, LossCurve], path: PathLike) -> Path:
    """Draw :func:`loss_figure` into a file and return its path."""
    return _save(loss_figure(curves), path)


def loss_figure(curves: Mapping[str, LossCurve]) -> Figure:
    """Draw training losses and their moving averages, and the learning rates below.

    Parameters
    ----------
    curves : mapping of str to LossCurve
        Name of the run (or expert) to its log, see
        :func:`~openmm_scoremd.analysis.report.training_log.read_loss_csv`.

    Returns
    -------
    Figure
        Loss (logarithmic where it spans more than a factor of ten) and learning rate over steps.

    Raises
    ------
    InvalidInputError
        If there is no curve, or none has a finite loss.
    """
    check_not_empty(curves, "curves")
    styles = styles_of(curves)
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    for name, curve in curves.items():
        _draw_loss(top, curve, styles[name])
        _draw_line(bottom, curve.steps, curve.learning_rates, styles[name])
    if spans_a_decade([curve.losses for curve in curves.values()], name="loss"):
        top.set_yscale("log")
    for axes, label in ((top, "loss"), (bottom, "learning\nrate")):
        axes.set_ylabel(label, fontsize=_NORMAL)
        axes.tick_params(labelsize=_SMALL)
    bottom.set_ylim(bottom=0.0)
    bottom.ticklabel_format(axis="y", style="scientific", scilimits=(0, 0))
    bottom.yaxis.get_offset_text().set_fontsize(_SMALL)
    bottom.set_xlabel("step", fontsize=_NORMAL)
    bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    _legend(figure, styles)
    return figure


def plot_fokker_planck_error(curves: Mapping[str, ErrorOverTime], path: PathLike) -> Path:
    """Draw :func:`fokker_planck_error_figure` into a file and return its path."""
    return _save(fokker_planck_error_figure(curves), path)


def fokker_planck_error_figure(curves: Mapping[str, ErrorOverTime]) -> Figure:
    """Draw Fokker-Planck errors over diffusion time, both logarithmic.

    Parameters
    ----------
    curves : mapping of str to ErrorOverTime
        Name of the model to its errors.

    Returns
    -------
    Figure
        Plain errors on the left, centred ones on the right; bands are standard errors, NaN a gap.

    Raises
    ------
    InvalidInputError
        If there is no curve, or no error is finite.
    """
    check_not_empty(curves, "curves")
    styles = styles_of(curves)
    figure, (plain, centred) = _grid(
        2, height=1.2 * _PANEL, x_label="diffusion time", y_label="Fokker-Planck error, |R| / D"
    )
    spans_a_decade([curve.centred for curve in curves.values()], name="error")
    for name, curve in curves.items():
        _draw_band(plain, curve.t, curve.mean_absolute, curve.mean_absolute_error, styles[name])
        _draw_band(centred, curve.t, curve.centred, curve.centred_error, styles[name])
    for axes, title in ((plain, "plain"), (centred, "centred at each time")):
        axes.set_title(title, fontsize=_NORMAL)
        axes.set(xscale="log", yscale="log")
    _legend(figure, styles)
    return figure


def _draw_loss(axes: Axes, curve: LossCurve, style: Style) -> None:
    axes.plot(curve.steps, curve.losses, color=style.color, alpha=0.25, linewidth=0.6)
    smooth = curve.smoothed(window=max(1, len(curve.steps) // 50))
    _draw_line(axes, smooth.steps, smooth.losses, style)


def _draw_steps(axes: Axes, edges: FloatArray, values: FloatArray, style: Style) -> None:
    values = np.where(np.isfinite(values), values, np.nan)
    axes.stairs(
        values, edges, baseline=None, color=style.color, linestyle=style.line, linewidth=1.3
    )


def _draw_line(axes: Axes, x: FloatArray, y: FloatArray, style: Style) -> None:
    axes.plot(x, y, color=style.color, linestyle=style.line, linewidth=1.5)


def _draw_band(axes: Axes, x: FloatArray, y: FloatArray, errors: FloatArray, style: Style) -> None:
    low, high = band_on_log_scale(y, errors)
    axes.fill_between(x, low, high, color=style.color, alpha=0.2, linewidth=0.0)
    _draw_line(axes, x, y, style)


def _legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    """Put one legend above all panels; a single set needs none."""
    if len(styles) < 2:
        return
    handles = [
        Line2D([], [], color=c, linestyle=line, linewidth=1.5) for c, line in styles.values()
    ]
    figure.legend(
        handles,
        list(styles),
        loc="outside upper center",
        ncols=min(len(styles), 4),
        fontsize=_NORMAL,
        frameon=False,
    )


def _grid(
    n: int, *, height: float, x_label: str, y_label: str, share: Literal["all", "none"] = "none"
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``n`` panels of equal size, labelled on the left and at the bottom."""
    rows = -(-n // _MAX_COLUMNS)
    columns = -(-n // rows)
    figure = Figure(figsize=(_PANEL * columns + 1.0, height * rows + 0.7))
    figure.set_layout_engine("compressed", w_pad=0.08)  # Room between "180" and "-180".
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    panels: list[Axes] = grid.ravel().tolist()
    for spare in panels[n:]:
        spare.remove()
    for i, panel in enumerate(panels[:n]):
        panel.tick_params(labelsize=_SMALL)
        if i % columns == 0:
            panel.set_ylabel(y_label, fontsize=_NORMAL)
        if i + columns >= n:
            panel.set_xlabel(x_label, fontsize=_NORMAL)
            panel.tick_params(labelbottom=True)  # Hidden where the panel below was a spare one.
    return figure, panels[:n]


def _panels(figure: Figure) -> list[Axes]:
    """Return the panels of a figure without its colour bar."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def _save(figure: Figure, path: PathLike) -> Path:
    target = picture_path(path)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=_DPI, bbox_inches="tight", pad_inches=0.05)
    return target
