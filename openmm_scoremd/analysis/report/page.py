"""The page of a report: one HTML file with everything in it, for a screen, a phone and paper.

What it says stands in ``templates/report.html.j2``; here are its numbers and pictures.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeAlias

import jinja2

from openmm_scoremd.analysis.comparison.pairs import PairResult
from openmm_scoremd.analysis.comparison.planes import BasinPlane
from openmm_scoremd.analysis.comparison.sets import SetSummary
from openmm_scoremd.analysis.comparison.summary import Summary
from openmm_scoremd.analysis.comparison.table import HEAD, number, p_value_text, percent
from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface
from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.report import plots
from openmm_scoremd.analysis.report.curves import FokkerPlanckError
from openmm_scoremd.analysis.report.styles import Style, styles_of

__all__ = ["MAX_PICTURES", "most_different", "report_page"]

#: Pictures of one group of observables; of more, those that differ most are shown.
MAX_PICTURES = 12

_MAX_ROWS = 40
_MAX_PLACES = 8

_Picture: TypeAlias = tuple[str, str]  # a text for those who cannot see it, SVG
_Styles: TypeAlias = Mapping[str, Style]


def report_page(
    summary: Summary,
    *,
    title: str,
    about: Mapping[str, str],
    fokker_planck: FokkerPlanckError | None = None,
) -> str:
    """Return the page of a report.

    Parameters
    ----------
    summary : Summary
        What was compared.
    title : str
        Heading.
    about : mapping of str to str
        What the page is about: files, hashes, versions.
    fokker_planck : FokkerPlanckError, optional
        Errors of the network over diffusion time.

    Returns
    -------
    str
        HTML. It loads nothing, runs nothing and escapes all text.
    """
    styles = styles_of(entry.name for entry in summary.sets)
    return _template().render(
        title=title,
        about=about,
        summary=summary,
        styles=styles,
        head=HEAD,
        visible_from=percent(summary.visible_from),
        alpha=sum(pair.alpha for pair in summary.pairs),
        pairs=[_pair(pair) for pair in summary.pairs],
        bad=[i for i, pair in enumerate(summary.pairs) if pair.verdict == "NOT consistent"],
        samples=[_sample(entry) for entry in summary.sets],
        planes=[_plane(plane, styles) for plane in summary.planes],
        groups=[_group(summary, group, styles) for group in summary.groups],
        timescales=_timescales(summary, styles),
        slow=summary.slow and _surfaces(summary.slow.surfaces, ("component 1", "component 2")),
        fokker_planck=fokker_planck and [_fokker_planck(fokker_planck)],
    )


def most_different(summary: Summary, group: ObservableGroup) -> list[str]:
    """Return the observables of a group; of many, those that differ most come first."""
    if len(group.labels) <= MAX_PICTURES:
        return list(group.labels)
    largest = dict.fromkeys(group.labels, 0.0)
    for pair in summary.pairs:
        for row in pair.observables:
            if row.group == group.key and row.ratio > largest[row.label]:
                largest[row.label] = row.ratio
    return sorted(group.labels, key=lambda label: -largest[label])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    return environment.get_template("report.html.j2")


def _pair(pair: PairResult) -> dict[str, Any]:
    names = [found.observable for found in pair.clearest]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return {
        "result": pair,
        "row": (
            f"{pair.second} and {pair.first}",
            pair.verdict.lower(),
            p_value_text(pair.p_value),
            percent(pair.smallest_visible),
            ", ".join(names[:4]) + more or "–",
        ),
        "places": [
            (
                found.observable,
                found.region,
                percent(found.first),
                percent(found.second),
                f"{abs(found.second - found.first) / found.error:.1f}",
                p_value_text(found.p_value),
            )
            for found in pair.clearest[:_MAX_PLACES]
        ],
    }


def _sample(entry: SetSummary) -> Sequence[str]:
    time = trajectories = restarts = halves = memory = "–"
    if entry.frame_interval is not None:
        total = entry.n_frames / entry.n_replicas * entry.frame_interval
        time = f"{total:.4g} ps each, {entry.frame_interval:.3g} ps between frames"
    if entry.unit_kind != "batches":
        trajectories = f"{entry.n_replicas:,}"
        restarts = f"{entry.restarts_per_frame:.2g}"
        if entry.jumps_per_frame:
            restarts += f", and {entry.jumps_per_frame:.2g} jumps"
        if entry.n_frozen:
            restarts += f", and {entry.n_frozen} replicas frozen"
        if entry.n_segments > entry.n_replicas:
            trajectories += f" in {entry.n_segments:,} segments"
        halves, memory = p_value_text(entry.drift_p), percent(entry.memory)
        if entry.remembered:
            memory += f" ({entry.remembered})"
    return (
        entry.name, f"{entry.n_frames:,}", trajectories, time, f"{entry.effective_frames:,.0f}",
        entry.slowest, f"{entry.n_units:,} {entry.unit_kind}", restarts, halves, memory,
    )  # fmt: skip


def _plane(plane: BasinPlane, styles: _Styles) -> dict[str, Any]:
    populations = plane.populations
    return {
        "title": plane.title,
        "surfaces": _surfaces(plane.surfaces, plane.axes),
        "basins": [
            _picture("basins", partial(plots.draw_basins, basins=plane.basins), *plane.axes),
            _picture(
                "populations",
                partial(plots.draw_populations, populations=populations, styles=styles),
                "basin",
                "fraction of frames",
            ),
        ],
        "head": ("basin", *populations),
        "rows": [
            (name, *(number(found[k].value, found[k].error) for found in populations.values()))
            for k, name in enumerate(plane.basin_names)
        ],
    }


def _group(summary: Summary, group: ObservableGroup, styles: _Styles) -> dict[str, Any]:
    shown = most_different(summary, group)
    pictures = []
    for label in shown[:MAX_PICTURES]:
        histograms = summary.histograms_of(group.key, label)
        draw = partial(plots.draw_densities, histograms=histograms, styles=styles)
        pictures.append(_picture(label, draw, group.unit, "density"))
    rows: list[tuple[str, ...]] = []
    bad = []
    for label in shown[:_MAX_ROWS]:
        for pair in summary.pairs:
            row = next(r for r in pair.observables if (r.group, r.label) == (group.key, label))
            if row.p_value < pair.alpha:
                bad.append(len(rows))
            name, *numbers = row.cells
            rows.append((name, f"{pair.second} and {pair.first}", *numbers))
    return {
        "title": group.title,
        "total": len(group.labels),
        "pictures": pictures,
        "rows": rows,
        "bad": bad,
    }


def _timescales(summary: Summary, styles: _Styles) -> dict[str, Any] | None:
    if not summary.timescales:
        return None
    in_ps = all(entry.frame_interval is not None for entry in summary.timescales)
    unit = "ps" if in_ps else "frames"
    planes: dict[str, dict[str, Any]] = {}
    rows = []
    for entry in summary.timescales:
        interval = entry.frame_interval if in_ps and entry.frame_interval else 1.0
        planes.setdefault(entry.plane, {})[entry.name] = (entry.found, interval)
        times = entry.found.timescales[-1]
        found = ", ".join(number(t.value * interval, t.error * interval) for t in times)
        rows.append((entry.plane, entry.name, f"{entry.found.lags[-1] * interval:.4g}", found))
    pictures = [
        _picture(
            f"time scales, {plane}",
            partial(plots.draw_timescales, found=found, styles=styles),
            f"lag / {unit}",
            f"time scale / {unit}",
        )
        for plane, found in planes.items()
    ]
    named = {entry.name: styles[entry.name] for entry in summary.timescales}
    return {"unit": unit, "pictures": pictures, "rows": rows, "styles": named}


def _surfaces(surfaces: Mapping[str, FreeEnergySurface], axes: tuple[str, str]) -> list[_Picture]:
    panels = plots.surface_panels(surfaces)
    return [_picture(name, draw, *axes) for name, draw in panels.items()]


def _fokker_planck(curve: FokkerPlanckError) -> _Picture:
    figure = plots.fokker_planck_error_figure({"": curve})
    return "Fokker–Planck error over diffusion time", plots.svg(figure)


def _picture(title: str, draw: Callable[..., object], x_label: str, y_label: str) -> _Picture:
    figure = plots.figure_of({title: draw}, x_label=x_label, y_label=y_label)
    return f"{title}: {y_label} over {x_label}", plots.svg(figure)
