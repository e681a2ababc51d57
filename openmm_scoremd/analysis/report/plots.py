"""Pictures of free energies, distributions, time scales and training: the only owner of matplotlib.

``draw_*`` draw on given axes and return what they have drawn, for your own pictures; ``*_figure``
return a figure of which no global state knows; :func:`save` and :func:`svg` turn it into files.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import EngFormatter, MaxNLocator, MultipleLocator

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.analysis.comparison.features import UnitHistograms
from openmm_scoremd.analysis.observables.basins import Basins
from openmm_scoremd.analysis.observables.free_energy import FreeEnergyProfile, FreeEnergySurface
from openmm_scoremd.analysis.report.curves import FokkerPlanckError, LossCurve
from openmm_scoremd.analysis.report.styles import (
    BASIN_COLORS,
    Style,
    columns_of,
    highest_of,
    plain_text,
    styles_of,
)
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.kinetics import ImpliedTimescales
from openmm_scoremd.analysis.statistics.uncertainty import Estimate
from openmm_scoremd.errors import InvalidInputError

_SMALL, _NORMAL = 8.0, 9.5  # font sizes, points
_FORMATS = (".png", ".pdf", ".svg")
_PANEL, _CELLS = 2.3, 80  # width of a panel, inches; cells of a distribution, to be seen
_LABEL = 32  # letters along an axis of a panel
_FREE_ENERGY = "free energy (kT)"


# --- On given axes ---------------------------------------------------------------------------


def draw_surface(axes: Axes, surface: FreeEnergySurface, *, highest: float) -> QuadMesh:
    """Draw a free energy in colours that end at ``highest`` kT; empty bins are white."""
    values = np.ma.masked_invalid(surface.values.T)
    return axes.pcolormesh(
        surface.x_edges, surface.y_edges, values, vmin=0.0, vmax=highest, cmap="viridis",
        label=_FREE_ENERGY, rasterized=True,
    )  # fmt: skip


def draw_profiles(
    axes: Axes, profiles: Mapping[str, FreeEnergyProfile], styles: Mapping[str, Style]
) -> list[StepPatch]:
    """Draw free energies along a coordinate by set, as steps; empty bins are gaps."""
    drawn = []
    for name, profile in profiles.items():
        values = np.where(np.isfinite(profile.values), profile.values, np.nan)
        drawn.append(_steps(axes, values, profile.edges, styles[name]))
    axes.margins(x=0.0)
    axes.set_ylim(bottom=0.0)
    return drawn


def draw_densities(
    axes: Axes, histograms: Mapping[str, UnitHistograms], styles: Mapping[str, Style]
) -> list[StepPatch]:
    """Draw distributions of one observable by set, and show the range that any of them fills."""
    one = next(iter(histograms.values()))
    merged = max(1, len(one.edges) // _CELLS)
    edges = one.edges[::merged]
    densities = [h.density.reshape(-1, merged).mean(axis=1) for h in histograms.values()]
    drawn = [
        _steps(axes, density, edges, styles[name])
        for name, density in zip(histograms, densities, strict=True)
    ]
    filled = np.any([density > 2e-3 * density.max() for density in densities], axis=0)
    inside = np.arange(len(filled)) if one.periodic else np.flatnonzero(filled)
    axes.set_xlim(edges[max(0, inside[0] - 1)], edges[min(len(filled), inside[-1] + 2)])
    if not one.periodic:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(bottom=0.0)
    return drawn


def draw_basins(axes: Axes, basins: Basins) -> QuadMesh:
    """Draw a map of basins with their letters."""
    n = basins.n_basins
    edges = [np.linspace(*limits, len(basins.labels) + 1) for limits in basins.limits]
    colors = [BASIN_COLORS[k % len(BASIN_COLORS)] for k in range(n)]
    mesh = axes.pcolormesh(
        *edges, basins.labels.T, cmap=ListedColormap(colors), vmin=-0.5, vmax=n - 0.5,
        rasterized=True,
    )  # fmt: skip
    centers = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    low, high = np.transpose(basins.limits)
    for k, center in enumerate(basins.centers):
        if n > 1:
            inside = (basins.labels == k).T
            axes.contour(*centers, inside, levels=[0.5], colors="#555555", linewidths=0.7)
        # Away from the edge, where half of a letter would be cut off.
        x, y = np.clip(center, low + 0.06 * (high - low), high - 0.06 * (high - low))
        axes.text(x, y, chr(ord("A") + k % 26), ha="center", va="center", weight="bold")
    return mesh


def draw_populations(
    axes: Axes, populations: Mapping[str, Sequence[Estimate]], styles: Mapping[str, Style]
) -> list[BarContainer]:
    """Draw populations of basins with their errors, side by side by set."""
    drawn = []
    width = 0.8 / len(populations)
    for i, (name, found) in enumerate(populations.items()):
        x = np.arange(len(found)) + (i - (len(populations) - 1) / 2) * width
        values = np.array([entry.value for entry in found])
        errors = np.array([entry.error for entry in found])
        color = styles[name].color
        bars = axes.bar(x, values, width * 0.92, color=color, alpha=0.35, edgecolor=color)
        axes.errorbar(
            x, values, np.stack([np.minimum(errors, values), errors]),
            fmt="none", ecolor=color, capsize=2.0, elinewidth=1.2,
        )  # fmt: skip
        axes.set_xticks(range(len(found)), [chr(ord("A") + k % 26) for k in range(len(found))])
        drawn.append(bars)
    axes.set_ylim(bottom=0.0)
    return drawn


def draw_timescales(
    axes: Axes,
    found: Mapping[str, tuple[ImpliedTimescales, float]],
    styles: Mapping[str, Style],
) -> list[Line2D]:
    """Draw implied time scales over the lag; times below the lag, in grey, cannot be told.

    Parameters
    ----------
    axes : Axes
        Made logarithmic.
    found : mapping of str to (ImpliedTimescales, float)
        Per set, times in frames and the time between frames.
    styles : mapping of str to Style
        Of the sets.
    """
    drawn = []
    for name, (times, interval) in found.items():
        lags = np.array(times.lags) * interval
        for column in zip(*times.timescales, strict=True):
            values = np.array([time.value for time in column]) * interval
            errors = np.nan_to_num([time.error for time in column]) * interval
            if np.isfinite(values).any():
                drawn.append(draw_errors(axes, lags, values, errors, styles[name]))
                drawn[-1].set(marker="o", markersize=3.0)
    ends = [lag * interval for times, interval in found.values() for lag in times.lags]
    span = np.array([min(ends) / 1.3, max(ends) * 1.3])
    axes.set(xscale="log", yscale="log", xlim=span)
    bottom, _ = axes.get_ylim()
    axes.fill_between(
        span, np.minimum(span, bottom), span, color="#000000", alpha=0.08, linewidth=0
    )
    axes.set_ylim(bottom=bottom)
    return drawn


def draw_errors(
    axes: Axes, x: FloatArray, values: FloatArray, errors: FloatArray, style: Style
) -> Line2D:
    """Draw positive values with a band of their errors, for a logarithmic scale; NaN is a gap."""
    drawable = np.where(np.isfinite(values) & (values > 0.0), values, np.nan)
    # Symmetric on that scale, and positive; of small errors it is value ± error.
    ratio = 1.0 + errors / drawable
    axes.fill_between(
        x, drawable / ratio, drawable * ratio, color=style.color, alpha=0.2, linewidth=0
    )
    return _line(axes, x, values, style)


# --- Figures ---------------------------------------------------------------------------------


def figure_of(
    panels: Mapping[str, Callable[[Axes], object]],
    *,
    x_label: str,
    y_label: str,
    styles: Mapping[str, Style] | None = None,
    share: Literal["all", "none"] = "none",
) -> Figure:
    """Draw several panels of equal size in one figure.

    Parameters
    ----------
    panels : mapping of str to callable
        Title to a function that draws on axes; free energies get one colour bar.
    x_label, y_label : str
        Axis labels with units; degrees get ticks at right angles.
    styles : mapping of str to Style, optional
        Names for a legend above all panels; a single one needs none.
    share : {"all", "none"}
        Whether all panels have the same ranges.

    Raises
    ------
    InvalidInputError
        If there is no panel.
    """
    if not panels:
        raise InvalidInputError("there is nothing to draw; give at least one named panel")
    figure, grid = _grid(len(panels), share=share)
    for axes, (title, draw) in zip(grid, panels.items(), strict=True):
        drawn = draw(axes)
        axes.set_title(plain_text(title), fontsize=_NORMAL)
        axes.tick_params(which="both", labelsize=_SMALL)
        _tick_degrees(axes, x_label, y_label)
    columns = columns_of(len(grid))
    for i, axes in enumerate(grid):
        if i % columns == 0:
            axes.set_ylabel(_axis_text(y_label), fontsize=_NORMAL)
        if i + columns >= len(grid):
            axes.set_xlabel(_axis_text(x_label), fontsize=_NORMAL)
            axes.tick_params(labelbottom=True)  # Hidden where the panel below was a spare one.
    if isinstance(drawn, QuadMesh) and drawn.get_label() == _FREE_ENERGY:
        bar = figure.colorbar(drawn, ax=grid, aspect=25, pad=0.02)
        bar.set_label(_FREE_ENERGY, fontsize=_NORMAL)
        bar.ax.tick_params(labelsize=_SMALL)
    if styles is not None and len(styles) > 1:
        figure.legend(
            [Line2D([], [], color=c, linestyle=line) for c, line in styles.values()],
            [plain_text(name) for name in styles], loc="outside upper center",
            ncols=min(len(styles), 4), fontsize=_NORMAL, frameon=False,
        )  # fmt: skip
    return figure


def surface_panels(
    surfaces: Mapping[str, FreeEnergySurface],
) -> dict[str, Callable[[Axes], QuadMesh]]:
    """Return panels for :func:`figure_of` that share one colour scale."""
    highest = highest_of(surfaces)
    return {n: partial(draw_surface, surface=s, highest=highest) for n, s in surfaces.items()}


def loss_figure(curves: Mapping[str, LossCurve]) -> Figure:
    """Draw training losses with their moving averages, and learning rates.

    The loss is logarithmic where it spans more than a factor of ten.

    Raises
    ------
    InvalidInputError
        If there is no curve, or none has a finite loss.
    """
    losses = _finite([curve.losses for curve in curves.values()], name="loss")
    styles = styles_of(curves)

    def loss(axes: Axes) -> None:
        for name, curve in curves.items():
            axes.plot(curve.steps, curve.losses, color=styles[name].color, alpha=0.25, lw=0.6)
            smooth = curve.smoothed(window=max(1, len(curve.steps) // 50))
            _line(axes, smooth.steps, smooth.losses, styles[name])
        if losses.min() > 0 and losses.max() > 10 * losses.min():
            axes.set_yscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    def rate(axes: Axes) -> None:
        for name, curve in curves.items():
            _line(axes, curve.steps, curve.learning_rates, styles[name])
        axes.set_ylim(bottom=0.0)
        axes.ticklabel_format(axis="y", style="scientific", scilimits=(0, 0))
        axes.yaxis.get_offset_text().set_fontsize(_SMALL)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    panels = {"loss": loss, "learning rate": rate}
    return figure_of(panels, x_label="step", y_label="", styles=styles)


def fokker_planck_error_figure(curves: Mapping[str, FokkerPlanckError]) -> Figure:
    """Draw Fokker-Planck errors over diffusion time: plain ones left, centred ones right.

    Raises
    ------
    InvalidInputError
        If there is no curve, or no error is finite.
    """
    _finite([curve.centred for curve in curves.values()], name="error")
    styles = styles_of(curves)

    def draw(axes: Axes, values: str, errors: str) -> None:
        for name, curve in curves.items():
            columns = getattr(curve, values), getattr(curve, errors)
            draw_errors(axes, curve.t, *columns, styles[name])
        axes.set(xscale="log", yscale="log")

    panels = {
        "plain": partial(draw, values="mean_absolute", errors="mean_absolute_error"),
        "centred at each time": partial(draw, values="centred", errors="centred_error"),
    }
    y_label = "Fokker-Planck error, |R| / D"
    return figure_of(panels, x_label="diffusion time", y_label=y_label, styles=styles)


def svg(figure: Figure) -> str:
    """Return a figure as SVG text, the same for the same figure."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "openmm_scoremd", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", dpi=150, metadata={"Date": None})
    return stream.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a PNG, PDF or SVG file, whole or not at all, and return its path.

    Raises
    ------
    InvalidInputError
        If the suffix is none of these.
    """
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise InvalidInputError(
            f"cannot write a picture to {target.name!r}; the suffix must be one of "
            f"{', '.join(_FORMATS)}"
        )
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=200, bbox_inches="tight", pad_inches=0.05)
    return target


def _axis_text(label: str) -> str:
    """Return a label that is no longer than a panel."""
    return plain_text(textwrap.fill(label, _LABEL))


def _steps(axes: Axes, values: FloatArray, edges: FloatArray, style: Style) -> StepPatch:
    color, line = style
    return axes.stairs(values, edges, baseline=None, color=color, linestyle=line, linewidth=1.3)


def _line(axes: Axes, x: FloatArray, y: FloatArray, style: Style) -> Line2D:
    return axes.plot(x, y, color=style.color, linestyle=style.line, linewidth=1.5)[0]


def _finite(arrays: Sequence[FloatArray], *, name: str) -> FloatArray:
    """Return the finite values of all curves."""
    if not arrays:
        raise InvalidInputError("there is nothing to draw; give at least one named curve")
    values = np.concatenate(arrays)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise InvalidInputError(f"no {name} is finite; there is nothing to draw")
    return np.asarray(values)


def _grid(n: int, *, share: Literal["all", "none"]) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``n`` panels of equal size."""
    columns = columns_of(n)
    rows = -(-n // columns)
    figure = Figure(figsize=(_PANEL * columns + 1.0, _PANEL * rows + 0.7))
    figure.set_layout_engine("compressed", w_pad=0.08)  # Room between "180" and "-180".
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    panels: list[Axes] = grid.ravel().tolist()
    for spare in panels[n:]:
        spare.remove()
    return figure, panels[:n]


def _tick_degrees(axes: Axes, x_label: str, y_label: str) -> None:
    """Put ticks at right angles of axes in degrees that go around a circle."""
    around = []
    for axis, label in ((axes.xaxis, x_label), (axes.yaxis, y_label)):
        low, high = axis.get_view_interval()
        around.append("°" in label and high - low > 180.0)
        if around[-1]:
            axis.set_major_locator(MultipleLocator(90))
            axis.set_minor_locator(MultipleLocator(30))
    if all(around):
        axes.set_aspect("equal")
