"""The small pictures of a report's page, one panel each so that a page can wrap: SVG text.

With :mod:`openmm_scoremd.analysis.report.plots` the only place that knows matplotlib. The legend is
the page's: pictures share colours and line styles by the names of the sets.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from openmm_scoremd.analysis.comparison.features import UnitHistograms
from openmm_scoremd.analysis.comparison.planes import BasinPlane
from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface
from openmm_scoremd.analysis.report._pictures import ErrorOverTime, band_on_log_scale
from openmm_scoremd.analysis.report.styles import Style
from openmm_scoremd.analysis.statistics.kinetics import ImpliedTimescales
from openmm_scoremd.analysis.statistics.uncertainty import Estimate

__all__ = [
    "basin_picture",
    "density_picture",
    "fokker_planck_picture",
    "population_picture",
    "surface_picture",
    "timescale_picture",
]

_SIZE = (3.3, 2.35)  # inches
_FONT = 9.0
_CELLS = 80
# Pale, so that numbers can be read on them; told apart in grey by their outlines.
_BASIN_COLORS = ("#cfe2f3", "#fce0c4", "#d5ead3", "#f4d6e6", "#fff2b3", "#d9d2e9", "#dddddd")


def density_picture(
    histograms: Mapping[str, UnitHistograms], styles: Mapping[str, Style], *, title: str
) -> str:
    """Draw distributions of one observable and return SVG.

    Parameters
    ----------
    histograms : mapping of str to UnitHistograms
        One entry per set, on the same cells.
    styles : mapping of str to Style
        Of the sets.
    title : str
        Name of the observable; the unit is added to the axis.
    """
    figure, axes = _panel()
    one = next(iter(histograms.values()))
    merged = len(one.edges) // _CELLS
    edges = one.edges[::merged]
    shown = np.zeros(len(edges) - 1, dtype=np.bool_)
    for name, found in histograms.items():
        density = found.density.reshape(-1, merged).mean(axis=1)
        shown |= density > 2e-3 * density.max()
        style = styles[name]
        axes.stairs(density, edges, color=style.color, linestyle=style.line, linewidth=1.3)
    if one.periodic:
        axes.xaxis.set_major_locator(MultipleLocator(90))
        axes.set_xlim(edges[0], edges[-1])
    else:
        inside = np.flatnonzero(shown)
        axes.set_xlim(edges[max(0, inside[0] - 1)], edges[min(len(edges) - 1, inside[-1] + 2)])
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel(_plain(f"{title} / {one.unit}"))
    axes.set_ylabel("density")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return _svg(figure)


def surface_picture(
    surface: FreeEnergySurface, *, title: str, axes_labels: tuple[str, str], highest: float
) -> str:
    """Draw a free energy and return SVG.

    Parameters
    ----------
    surface : FreeEnergySurface
        Empty bins are white.
    title : str
        Name of the set.
    axes_labels : (str, str)
        With units.
    highest : float
        End of the colour scale in kT, the same for all sets.
    """
    figure, axes = _panel(height=2.7)
    mesh = axes.pcolormesh(
        surface.x_edges, surface.y_edges, np.ma.masked_invalid(surface.values.T),
        cmap="viridis", norm=Normalize(0.0, highest), rasterized=True,
    )  # fmt: skip
    _plane_axes(axes, axes_labels, periodic="°" in axes_labels[0])
    axes.set_title(_plain(title), fontsize=_FONT + 1)
    bar = figure.colorbar(mesh, ax=axes, pad=0.03, aspect=22)
    bar.set_label("free energy (kT)")
    bar.ax.tick_params(labelsize=_FONT - 1)
    return _svg(figure)


def basin_picture(plane: BasinPlane) -> str:
    """Draw the basins of a plane with their letters and return SVG."""
    figure, axes = _panel(height=2.7)
    (left, right), (low, high) = plane.basins.limits
    n = plane.basins.n_basins
    colors = [_BASIN_COLORS[k % len(_BASIN_COLORS)] for k in range(n)]
    edges = [np.linspace(*limits, len(plane.basins.labels) + 1) for limits in plane.basins.limits]
    axes.pcolormesh(
        *edges, plane.basins.labels.T, cmap=ListedColormap(colors),
        vmin=-0.5, vmax=n - 0.5, rasterized=True,
    )  # fmt: skip
    centers = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    for k in range(n) if n > 1 else ():
        axes.contour(
            *centers, (plane.basins.labels == k).T, levels=[0.5], colors="#555555", linewidths=0.7
        )
    for k, (x, y) in enumerate(plane.basins.centers):
        # Away from the edge, where half of a letter would be cut off.
        x = min(max(x, left + 0.05 * (right - left)), right - 0.05 * (right - left))
        y = min(max(y, low + 0.06 * (high - low)), high - 0.06 * (high - low))
        axes.text(x, y, chr(ord("A") + k % 26), ha="center", va="center", weight="bold")
    _plane_axes(axes, plane.axes, periodic=plane.basins.periodic)
    axes.set_title("basins of the baseline", fontsize=_FONT + 1)
    return _svg(figure)


def population_picture(
    populations: Mapping[str, Sequence[Estimate]], styles: Mapping[str, Style]
) -> str:
    """Draw populations of basins with their errors, side by side by set, and return SVG."""
    figure, axes = _panel()
    n_basins = len(next(iter(populations.values())))
    width = 0.8 / len(populations)
    for i, (name, found) in enumerate(populations.items()):
        x = np.arange(n_basins) + (i - (len(populations) - 1) / 2) * width
        values = np.array([entry.value for entry in found])
        errors = np.array([entry.error for entry in found])
        color = styles[name].color
        axes.bar(x, values, width * 0.92, color=color, alpha=0.35, edgecolor=color)
        axes.errorbar(
            x, values, np.stack([np.minimum(errors, values), errors]),
            fmt="none", ecolor=color, capsize=2.0, elinewidth=1.2,
        )  # fmt: skip
    axes.set_xticks(range(n_basins), [chr(ord("A") + k % 26) for k in range(n_basins)])
    axes.set_xlabel("basin")
    axes.set_ylabel("fraction of frames")
    axes.set_ylim(bottom=0.0)
    return _svg(figure)


def timescale_picture(
    found: Mapping[str, tuple[ImpliedTimescales, float]], styles: Mapping[str, Style], *, unit: str
) -> str:
    """Draw implied time scales over the lag, both logarithmic, and return SVG.

    Parameters
    ----------
    found : mapping of str to (ImpliedTimescales, float)
        Per set, times in frames and the time between frames in ``unit``.
    styles : mapping of str to Style
        Of the sets.
    unit : str
        ``"ps"`` or ``"frames"``.
    """
    figure, axes = _panel()
    ends = []
    for name, (times, interval) in found.items():
        lags = np.array(times.lags) * interval
        ends += [lags[0], lags[-1]]
        for k in range(len(times.timescales[0])):
            values = np.array([row[k].value for row in times.timescales]) * interval
            errors = np.array([row[k].error for row in times.timescales]) * interval
            if not np.isfinite(values).any():
                continue
            low, high = band_on_log_scale(values, np.nan_to_num(errors))
            style = styles[name]
            axes.fill_between(lags, low, high, color=style.color, alpha=0.2, linewidth=0.0)
            axes.plot(
                lags, values, color=style.color, linestyle=style.line, marker="o", markersize=3.0
            )
    span = np.array([min(ends) / 1.3, max(ends) * 1.3])
    axes.set(xscale="log", yscale="log", xlabel=f"lag / {unit}", ylabel=f"time scale / {unit}")
    axes.set_xlim(*span)
    bottom, _ = axes.get_ylim()
    floor = np.minimum(span, bottom)
    axes.fill_between(span, floor, span, color="#000000", alpha=0.08, linewidth=0.0)
    axes.set_ylim(bottom=bottom)
    return _svg(figure)


def fokker_planck_picture(curve: ErrorOverTime) -> str:
    """Draw the plain and the centred Fokker-Planck error over diffusion time and return SVG."""
    figure, axes = _panel()
    for values, errors, color, line, label in (
        (curve.mean_absolute, curve.mean_absolute_error, "#999999", "--", "plain"),
        (curve.centred, curve.centred_error, "#0072B2", "-", "centred"),
    ):
        low, high = band_on_log_scale(np.asarray(values), np.asarray(errors))
        axes.fill_between(curve.t, low, high, color=color, alpha=0.2, linewidth=0.0)
        axes.plot(curve.t, values, color=color, linestyle=line, label=label)
    axes.set(xscale="log", yscale="log", xlabel="diffusion time", ylabel="error, |R| / D")
    axes.legend(fontsize=_FONT - 1, frameon=False)
    return _svg(figure)


def _panel(*, height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(which="both", labelsize=_FONT - 1)
    return figure, axes


def _plane_axes(axes: Axes, labels: tuple[str, str], *, periodic: bool) -> None:
    axes.set_xlabel(_plain(labels[0]))
    axes.set_ylabel(_plain(labels[1]))
    if periodic:
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(90))


def _plain(text: str) -> str:
    """Return text that matplotlib takes as it is: names of beads are no formulas."""
    return text.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    """Return the figure as SVG text, the same for the same figure."""
    stream = io.StringIO()
    for axes in figure.axes:
        for item in (axes.xaxis.label, axes.yaxis.label):
            item.set_fontsize(_FONT)
    with rc_context({"svg.hashsalt": "openmm_scoremd", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", dpi=150, metadata={"Date": None})
    return stream.getvalue()


def scale_of(surfaces: Mapping[str, FreeEnergySurface]) -> float:
    """Return the end of a colour scale in kT that holds all surfaces."""
    return max(float(s.values[np.isfinite(s.values)].max()) for s in surfaces.values()) or math.e
