"""Pictures of docs/performance.md: speed against replicas, cost against beads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.analysis.report.styles import Style, styles_of
from openmm_scoremd.analysis.statistics.grids import FloatArray

SMALL, NORMAL = 8.0, 9.5  # font sizes, points
GUIDE = "#999999"


def plot_speed(networks: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw replica-steps per second against replicas into a PNG file.

    Parameters
    ----------
    networks : sequence of mapping
        What the record of ``benchmarks/simulation.py`` says about each network.
    path : Path
        The file.
    """
    names = [row["variant"] for network in networks for row in network["results"]]
    styles = styles_of(names)
    figure, panels = _panels(len(networks), share="all")
    for axes, network in zip(panels, networks, strict=True):
        # The name in the page goes on with what is the same for all random networks.
        axes.set_title("\n".join(network["name"].replace(", random weights", "").split(", ", 1)))
        axes.title.set_fontsize(SMALL)
        _draw(axes, network["results"], styles, x="replicas", y="replica_steps_per_s")
        axes.set_xlabel("replicas", fontsize=NORMAL)
    panels[0].set_ylabel("replica-steps/s", fontsize=NORMAL)
    _legend(figure, styles)
    _save(figure, path)


def plot_scaling(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw processor time and memory against beads into a PNG file.

    Parameters
    ----------
    rows : sequence of mapping
        Results of ``benchmarks/scaling.py``.
    path : Path
        The file.
    """
    styles = styles_of(row["variant"] for row in rows)
    figure, (time, memory) = _panels(2, share="none")
    _draw(time, rows, styles, x="n_beads", y="cpu_us_per_replica")
    time.set_ylabel("processor time per replica (µs)", fontsize=NORMAL)
    _draw(memory, rows, styles, x="n_beads", y="memory_mb")
    memory.set_ylabel("memory of the evaluation (MB)", fontsize=NORMAL)
    beads = np.array(sorted({row["n_beads"] for row in rows}), dtype=np.float64)
    _draw_guide(time, rows, beads[: len(beads) // 2 + 1], power=1, text="∝ beads")
    _draw_guide(time, rows, beads[len(beads) // 2 :], power=2, text="∝ beads²")
    for axes in (time, memory):
        axes.set_xlabel("beads", fontsize=NORMAL)
        axes.set_xticks(beads)
        axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))
    _legend(figure, styles)
    _save(figure, path)


def _draw_guide(
    axes: Axes, rows: Sequence[Mapping[str, Any]], beads: FloatArray, *, power: int, text: str
) -> None:
    """Draw a power of the number of beads below all curves, and name it."""
    fastest = [
        min(row["cpu_us_per_replica"] for row in rows if row["n_beads"] == n_beads)
        for n_beads in beads
    ]
    line = 0.6 * float(np.min(np.array(fastest) / beads**power)) * beads**power
    axes.plot(beads, line, color=GUIDE, linewidth=1.0)
    middle = (len(beads) - 1) // 2
    axes.annotate(
        text,
        (beads[middle], line[middle]),
        xytext=(4, -4),
        textcoords="offset points",
        color=GUIDE,
        fontsize=SMALL,
        va="top",
    )


def _plain_number(value: float, _position: int | None) -> str:
    return f"{value:,.10g}"


def _panels(n: int, *, share: Literal["all", "none"]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(2.9 * n + 0.3, 3.4), layout="constrained")
    panels: list[Axes] = figure.subplots(1, n, squeeze=False, sharey=share).ravel().tolist()
    for axes in panels:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_plain_number))
            axis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=SMALL)
        axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def _draw(
    axes: Axes, rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Style], *, x: str, y: str
) -> None:
    for name, style in styles.items():
        chosen = [row for row in rows if row["variant"] == name]
        axes.plot(
            [row[x] for row in chosen],
            [row[y] for row in chosen],
            color=style.color,
            linestyle=style.line,
            marker="o",
            markersize=3.5,
            linewidth=1.4,
        )


def _legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    handles = [
        Line2D([], [], color=style.color, linestyle=style.line, marker="o", markersize=3.5)
        for style in styles.values()
    ]
    figure.legend(
        handles,
        list(styles),
        loc="outside lower center",
        ncols=min(3, len(styles)),
        fontsize=SMALL,
        frameon=False,
        handlelength=3.0,
    )


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
