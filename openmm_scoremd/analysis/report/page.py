"""The page of a report: one HTML file with everything in it, for a screen, a phone and paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from openmm_scoremd.analysis.comparison.pairs import ObservableDifference, PairResult
from openmm_scoremd.analysis.comparison.planes import surfaces_of
from openmm_scoremd.analysis.comparison.summary import Summary, one_per_observable
from openmm_scoremd.analysis.comparison.table import Comparison
from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.report import _html as html
from openmm_scoremd.analysis.report._page_dynamics import dynamics_sections, fokker_planck_parts
from openmm_scoremd.analysis.report._pictures import ErrorOverTime
from openmm_scoremd.analysis.report.report_plots import (
    basin_picture,
    density_picture,
    population_picture,
    scale_of,
    surface_picture,
)
from openmm_scoremd.analysis.report.styles import Style, styles_of

__all__ = ["report_page"]

_MAX_PICTURES = 12  # of one group
_MAX_ROWS = 40
_MAX_PLACES = 8


def report_page(
    summary: Summary,
    comparison: Comparison | None,
    *,
    title: str,
    about: Mapping[str, str],
    fokker_planck: ErrorOverTime | None = None,
) -> str:
    """Return the page of a report.

    Parameters
    ----------
    summary : Summary
        What was compared.
    comparison : Comparison or None
        Metrics against the reference, if there is one.
    title : str
        Heading.
    about : mapping of str to str
        What the page is about: files, hashes, versions.
    fokker_planck : ErrorOverTime, optional
        Errors of the network over diffusion time.

    Returns
    -------
    str
        HTML. It loads nothing, runs nothing and escapes all text.
    """
    styles = styles_of([summary.baseline, *(entry.name for entry in summary.sets)])
    body = [
        f"<header>{html.section(title, [], level=1)}</header>",
        *_verdict(summary),
        html.section("Samples", _samples(summary)),
    ]
    if comparison is not None:
        body.append(html.section("Distances from the reference", _metrics(comparison)))
    body += _planes(summary, styles)
    for group in summary.groups:
        body.append(html.section(group.title, _group(summary, group, styles)))
    body += dynamics_sections(summary, styles)
    if fokker_planck is not None:
        body.append(html.section("Fokker–Planck error", fokker_planck_parts(fokker_planck)))
    body.append(html.section("How to read this page", _reading(summary)))
    body.append(html.section("Origin", [html.table(("what", "value"), about.items(),
                                                   text_columns=(0, 1))]))  # fmt: skip
    return html.document(title, body)


def _verdict(summary: Summary) -> list[str]:
    word = "Consistent." if summary.consistent else "Not consistent."
    said = (
        "No two sets differ by more than chance allows."
        if summary.consistent
        else "Sets differ by more than chance allows:"
    )
    rows = [
        (
            f"{pair.second} and {pair.first}",
            "consistent" if pair.consistent else "not consistent",
            _p_value(pair.p_value),
            _percent(pair.smallest_visible),
            _places(pair),
        )
        for pair in summary.pairs
    ]
    head = ("sets", "verdict", "p", "visible from", "where")
    bad = [i for i, pair in enumerate(summary.pairs) if not pair.consistent]
    kind = "yes" if summary.consistent else "no"
    parts = [
        html.wrapped(f"verdict {kind}", [html.paragraph(word, kind="word"), html.paragraph(said)]),
        html.table(head, rows, text_columns=(0, 1, 4), bad=bad),
    ]
    for pair in summary.pairs:
        if not pair.consistent:
            name = f"Where {pair.second} and {pair.first} differ"
            parts.append(html.section(name, [_discrepancies(pair)], level=3))
    return parts


def _places(pair: PairResult) -> str:
    found = one_per_observable(pair)
    names = [entry.observable for entry in found[:4]]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return ", ".join(names) + more if names else "–"


def _discrepancies(pair: PairResult) -> str:
    found = one_per_observable(pair)
    rows = [
        (
            entry.observable,
            entry.region,
            _percent(entry.first),
            _percent(entry.second),
            f"{abs(entry.second - entry.first) / entry.error:.1f}",
            _p_value(entry.p_value),
        )
        for entry in found[:_MAX_PLACES]
    ]
    head = ("observable", "region", pair.first, pair.second, "difference / error", "p")
    left_out = len(found) - len(rows)
    note = f" {left_out} more observables are in the JSON file." if left_out else ""
    caption = f"Clearest region of each observable, as fractions of frames.{note}"
    return html.table(head, rows, caption=caption, text_columns=(0, 1))


def _samples(summary: Summary) -> list[str]:
    rows = []
    for entry in summary.sets:
        time = "–"
        if entry.frame_interval is not None:
            total = entry.n_frames / entry.n_replicas * entry.frame_interval
            time = f"{total:.4g} ps each, {entry.frame_interval:.3g} ps between frames"
        trajectories = "–"
        if entry.unit_kind != "frames":
            trajectories = f"{entry.n_replicas:,}"
            if entry.n_segments > entry.n_replicas:
                trajectories += f" in {entry.n_segments:,} segments"
        rows.append(
            (
                entry.name,
                f"{entry.n_frames:,}",
                trajectories,
                time,
                f"{entry.effective_frames:,.0f}",
                entry.slowest,
                f"{entry.n_units:,} {_unit_name(entry.unit_kind)}",
            )
        )
    head = (
        "set", "frames", "trajectories", "time", "effective frames", "slowest observable",
        "errors rest on",
    )  # fmt: skip
    return [
        html.table(head, rows, text_columns=(0, 3, 5)),
        html.paragraph(
            "Effective frames: frames divided by the statistical inefficiency of the slowest "
            "observable, from correlations in the order that frames are given in. Of short "
            "trajectories it is an upper bound.",
            kind="meta",
        ),
        *(html.paragraph(note, kind="meta") for note in summary.notes),
    ]


def _unit_name(kind: str) -> str:
    return "batches" if kind == "frames" else kind


def _metrics(comparison: Comparison) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for one in comparison.sets:
        for metric in one.metrics:
            scale, unit = (1000.0, "pm") if metric.unit == "nm" else (1.0, metric.unit)
            rows.append(
                (
                    one.name,
                    f"{metric.label} ({unit})" if unit else metric.label,
                    html.number(scale * metric.estimate.value, scale * metric.estimate.error),
                    html.number(scale * metric.floor.mean, scale * metric.floor.spread),
                    "–" if math.isnan(metric.ratio) else f"{metric.ratio:.2f}",
                )
            )
        for entry in one.populations:
            rows.append(
                (
                    one.name,
                    entry.label,
                    html.number(entry.estimate.value, entry.estimate.error),
                    html.number(entry.reference.value, entry.reference.error) + " (reference)",
                    "–" if math.isnan(entry.ratio) else f"{entry.ratio:.2f}",
                )
            )
    head = ("set", "metric", "value", "noise floor", "ratio")
    text = (
        f"Against {comparison.n_reference:,} reference frames. Noise floor: the same metric "
        "between two sets of independent reference frames, mean and scatter. Where the reference "
        "holds too few frames, the ratio is that at smaller numbers of frames. Frames of a "
        "simulation are correlated, so that a perfect one still lies above 1."
    )
    return [html.table(head, rows, text_columns=(0, 1)), html.paragraph(text, kind="meta")]


def _planes(summary: Summary, styles: dict[str, Style]) -> list[str]:
    parts = []
    for plane in summary.planes:
        surfaces = surfaces_of(plane.values, limits=tuple(plane.basins.limits))
        pictures = [
            html.picture(
                surface_picture(surface, title=name, axes_labels=plane.axes,
                                highest=scale_of(surfaces)),
                text=f"Free energy of {name} over {plane.axes[0]} and {plane.axes[1]}",
            )
            for name, surface in surfaces.items()
        ]  # fmt: skip
        pictures.append(html.picture(basin_picture(plane), text="Map of the basins"))
        pictures.append(
            html.picture(
                population_picture(plane.populations, styles), text="Populations of the basins"
            )
        )
        head = ("basin", *plane.populations)
        rows = [
            (
                plane.basin_name(k),
                *(html.number(v[k].value, v[k].error) for v in plane.populations.values()),
            )
            for k in range(plane.basins.n_basins)
        ]
        caption = f"Fractions of frames; basins are those of the density of {summary.baseline}."
        parts.append(
            html.section(
                f"Free energy and basins: {plane.title}",
                [
                    html.legend(styles),
                    html.wrapped("pictures", pictures),
                    html.table(head, rows, caption=caption),
                ],
            )
        )
    return parts


def _group(summary: Summary, group: ObservableGroup, styles: dict[str, Style]) -> Iterable[str]:
    shown = _most_different(summary, group)
    indices = {one.label: k for k, one in enumerate(next(iter(summary.histograms.values())))
               if one.group == group.key}  # fmt: skip
    pictures = []
    for label in shown[:_MAX_PICTURES]:
        found = {name: columns[indices[label]] for name, columns in summary.histograms.items()}
        pictures.append(
            html.picture(
                density_picture(found, styles, title=label),
                text=f"Distribution of {label} in {', '.join(found)}",
            )
        )
    if len(group.labels) > len(pictures):
        yield html.paragraph(
            f"{len(pictures)} of {len(group.labels)}, those that differ most.", kind="meta"
        )
    yield html.legend(styles)
    yield html.wrapped("pictures", pictures)
    yield _distances(summary, group, shown)


def _most_different(summary: Summary, group: ObservableGroup) -> list[str]:
    """Return the observables of a group; of many, those that differ most come first."""
    if len(group.labels) <= _MAX_PICTURES:
        return list(group.labels)
    largest = dict.fromkeys(group.labels, 0.0)
    for pair in summary.pairs:
        for one in pair.observables:
            if one.group == group.key and one.floor > 0.0:
                ratio = one.distance.value / one.floor
                largest[one.observable] = max(largest[one.observable], ratio)
    return sorted(group.labels, key=lambda label: -largest[label])


def _distances(summary: Summary, group: ObservableGroup, shown: Sequence[str]) -> str:
    # Distances of beads differ by picometres, those of a toy system by what its maker liked.
    in_pm = group.unit == "nm" and group.key != "coordinates"
    scale, unit = (1000.0, "pm") if in_pm else (1.0, group.unit)
    rows: list[tuple[str, ...]] = []
    bad = []
    for label in shown[:_MAX_ROWS]:
        for pair in summary.pairs:
            one = _find(pair, group.key, label)
            if one.p_value < pair.level:
                bad.append(len(rows))
            rows.append(
                (
                    label,
                    f"{pair.second} and {pair.first}",
                    html.number(scale * one.distance.value, scale * one.distance.error),
                    html.plain_number(scale * one.floor, scale * one.distance.error),
                    html.plain_number(scale * one.floor_95, scale * one.distance.error),
                    _p_value(one.p_value),
                )
            )
    head = ("observable", "sets", f"distance / {unit}", "by chance", "95 % below", "p")
    caption = (
        "Wasserstein-1 distance of the distributions; by chance: what sets of as many independent "
        "units and one distribution would show."
    )
    return html.table(head, rows, caption=caption, text_columns=(0, 1), bad=bad)


def _find(pair: PairResult, group: str, label: str) -> ObservableDifference:
    return next(o for o in pair.observables if (o.group, o.observable) == (group, label))


def _reading(summary: Summary) -> Iterable[str]:
    pair = summary.pairs[0]
    yield html.paragraph(
        f"Verdict. Every observable is cut into regions of equal population, and basins are "
        f"regions too. Two sets are called inconsistent if the fraction of frames in any region "
        f"differs more clearly than chance does, given how much independent parts of a set differ "
        f"from each other. Chance would do so for any of the pairs of this page with a "
        f"probability of {pair.level * len(summary.pairs):.2g}; p is corrected for the "
        f"number of regions. Chance is judged from replicas, blocks of replicas or batches of "
        f"frames as a whole, so that correlated frames do not count as many."
    )
    yield html.paragraph(
        "Consistent does not mean equal: the column “visible from” says which difference in the "
        "fraction of frames in a region would have been noticed (four standard errors). With many "
        "frames even harmless differences are noticed; the distances and basin populations say how "
        "large they are."
    )
    yield html.paragraph(
        "Trajectories must start from independent frames. If all replicas start from one frame "
        "and are shorter than the slowest relaxation, all errors are too small."
    )


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100.0 * value:.3g} %"
