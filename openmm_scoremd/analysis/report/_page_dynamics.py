"""The parts of a report's page about time: time scales, slow coordinates, diffusion time."""

from __future__ import annotations

from collections.abc import Iterable

from openmm_scoremd.analysis.comparison.planes import surfaces_of
from openmm_scoremd.analysis.comparison.summary import Summary, Timescales
from openmm_scoremd.analysis.report import _html as html
from openmm_scoremd.analysis.report._pictures import ErrorOverTime
from openmm_scoremd.analysis.report.report_plots import (
    fokker_planck_picture,
    scale_of,
    surface_picture,
    timescale_picture,
)
from openmm_scoremd.analysis.report.styles import Style

__all__ = ["dynamics_sections", "fokker_planck_parts"]


def dynamics_sections(summary: Summary, styles: dict[str, Style]) -> list[str]:
    """Return sections about implied time scales and slow coordinates, as far as there are any."""
    parts = []
    if summary.timescales:
        in_ps = all(entry.frame_interval is not None for entry in summary.timescales)
        by_plane: dict[str, list[Timescales]] = {}
        for entry in summary.timescales:
            by_plane.setdefault(entry.plane, []).append(entry)
        pictures, rows = [], []
        for plane, entries in by_plane.items():
            found = {
                e.name: (e.found, e.frame_interval if in_ps and e.frame_interval else 1.0)
                for e in entries
            }
            drawn = timescale_picture(found, styles, unit="ps" if in_ps else "frames")
            pictures.append(html.picture(drawn, text=f"Implied time scales, {plane}"))
            for name, (times, interval) in found.items():
                best = [
                    html.number(t.value * interval, t.error * interval)
                    for t in times.timescales[-1]
                ]
                rows.append((plane, name, f"{times.lags[-1] * interval:.4g}", ", ".join(best)))
        unit = "ps" if in_ps else "frames"
        named = {e.name: styles[e.name] for e in summary.timescales}
        text = (
            "Relaxation times of the jumps between basins, from counts of transitions that cross "
            "no break. Where they still grow with the lag, or lie in the grey area below it, they "
            "are lower bounds or cannot be told."
        )
        head = ("plane", "set", f"longest lag / {unit}", f"time scales / {unit}")
        parts.append(
            html.section(
                "Implied time scales",
                [
                    html.legend(named),
                    html.wrapped("pictures", pictures),
                    html.table(head, rows, text_columns=(0, 1)),
                    html.paragraph(text, kind="meta"),
                ],
            )
        )
    if summary.slow is not None:
        parts.append(html.section("Slow coordinates (TICA)", _slow(summary)))
    return parts


def _slow(summary: Summary) -> Iterable[str]:
    slow = summary.slow
    if slow is None:
        return
    flat = [values.reshape(-1, 2) for values in slow.values.values()]
    limits = tuple(
        (min(v[:, k].min() for v in flat) - 0.1, max(v[:, k].max() for v in flat) + 0.1)
        for k in range(2)
    )
    surfaces = surfaces_of(slow.values, limits=limits)
    labels = ("component 1", "component 2")
    highest = scale_of(surfaces)
    yield html.wrapped(
        "pictures",
        [
            html.picture(
                surface_picture(surface, title=name, axes_labels=labels, highest=highest),
                text=f"Free energy of {name} over the slow coordinates",
            )
            for name, surface in surfaces.items()
        ],
    )
    yield html.paragraph(
        f"The two slowest linear combinations of features, found from {slow.name} with a lag of "
        f"{slow.coordinates.lag} frames, and all sets in these coordinates. They take no part in "
        "the verdict, because they are chosen by one of the sets.",
        kind="meta",
    )


def fokker_planck_parts(curve: ErrorOverTime) -> Iterable[str]:
    """Return what a section about the Fokker-Planck error says."""
    text = "Fokker–Planck error over diffusion time"
    yield html.wrapped("pictures", [html.picture(fokker_planck_picture(curve), text=text)])
    yield html.paragraph(
        "How far the network is from the Fokker–Planck equation that links its times. Only the "
        "centred error can change forces; where it is large, the model is not to be trusted.",
        kind="meta",
    )
