import dataclasses
import subprocess
import sys
from functools import partial
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from openmm_scoremd.analysis.comparison.features import UnitHistograms
from openmm_scoremd.analysis.observables.basins import find_basins
from openmm_scoremd.analysis.observables.free_energy import free_energy_1d, free_energy_2d
from openmm_scoremd.analysis.report.curves import FokkerPlanckError, LossCurve
from openmm_scoremd.analysis.report.plots import (
    draw_basins,
    draw_densities,
    draw_errors,
    draw_populations,
    draw_profiles,
    draw_surface,
    draw_timescales,
    figure_of,
    fokker_planck_error_figure,
    loss_figure,
    save,
    surface_panels,
    svg,
)
from openmm_scoremd.analysis.report.styles import styles_of
from openmm_scoremd.analysis.statistics.kinetics import ImpliedTimescales
from openmm_scoremd.analysis.statistics.uncertainty import Estimate
from openmm_scoremd.errors import InvalidInputError

PNG = b"\x89PNG\r\n\x1a\n"


DEGREES = (-180.0, 180.0)
AXES = {"x_label": "φ (°)", "y_label": "ψ (°)"}


@pytest.fixture(scope="module")
def angles():
    rng = np.random.default_rng(0)
    return {
        name: rng.normal([-80.0, 60.0], 25.0, (500, 2))
        for name in ("reference", "iid samples", "simulation")
    }


@pytest.fixture(scope="module")
def surfaces(angles):
    return {n: free_energy_2d(v, bins=16, limits=(DEGREES, DEGREES)) for n, v in angles.items()}


@pytest.fixture(scope="module")
def profiles(angles):
    return {n: free_energy_1d(v[:, 0], bins=16, limits=DEGREES) for n, v in angles.items()}


def surface_figure(surfaces):
    return figure_of(surface_panels(surfaces), **AXES, share="all")


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.fixture(scope="module")
def curve():
    steps = np.arange(1, 201.0) * 10
    noise = np.random.default_rng(0).normal(size=200)
    return LossCurve(steps, 0.5 + 0.01 * noise, 1e-4 * np.ones(200))


def histograms(values, *, edges, periodic=False):
    fractions = np.histogram(values, bins=edges)[0][None] / len(values)
    return UnitHistograms("bonds", "N–CA", "nm", edges, periodic, fractions, len(values))


@pytest.fixture(scope="module")
def lengths():
    rng = np.random.default_rng(0)
    edges = np.linspace(0.0, 1.0, 401)
    values = {"reference": rng.normal(0.4, 0.02, 900), "iid": rng.normal(0.45, 0.02, 100)}
    return {name: histograms(v, edges=edges) for name, v in values.items()}


@pytest.fixture
def errors():
    """Like those of a mixture: a direct expert in between, and a wide band at the end."""
    t = np.geomspace(1e-5, 1.0, 20)
    plain = 1e4 * np.exp(-9.0 * t)
    plain[10:13] = np.nan
    band = np.append(np.full(19, 0.1), 3.0)
    return FokkerPlanckError(t, 9, plain, band * plain, plain / 50.0, band * plain / 50.0, plain)


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def drawn_tick_labels(axis):
    """Labels within the view; matplotlib keeps some beyond it that it does not draw."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-6 * (high - low)
    return [
        tick.label1
        for tick in axis.get_major_ticks()
        if low - slack <= tick.get_loc() <= high + slack and tick.label1.get_visible()
    ]


def texts_overlap(figure):
    """Pairs of texts, tick labels included, whose boxes overlap once drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += drawn_tick_labels(axes.xaxis) + drawn_tick_labels(axes.yaxis)
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    return [
        (a, b)
        for i, (a, first) in enumerate(boxes)
        for b, second in boxes[i + 1 :]
        if first.overlaps(second)
    ]


def test_overlaps_would_be_seen():
    figure = Figure(figsize=(1.5, 1.5))
    axes = figure.subplots()
    axes.set_xticks([0.1, 0.2], ["a long label", "another one"])
    assert texts_overlap(figure) == [("a long label", "another one")]


class TestAxes:
    """Functions that draw on axes of anybody."""

    def test_surface_values_lie_where_they_belong(self, axes):
        # x in the right half, y in the lower quarter
        surface = free_energy_2d([[0.6, 0.1]], bins=4, limits=((0.0, 1.0), (0.0, 1.0)))
        mesh = draw_surface(axes, surface, highest=3.0)
        drawn = mesh.get_array().reshape(4, 4)  # rows are y
        assert np.argwhere(~np.ma.getmaskarray(drawn)).tolist() == [[0, 2]]
        assert mesh.get_clim() == (0.0, 3.0)
        assert mesh.axes is axes

    def test_profiles_are_steps_with_gaps(self, axes, profiles):
        steps = draw_profiles(axes, profiles, styles_of(profiles))
        assert [step.axes for step in steps] == [axes] * 3
        for step, profile in zip(steps, profiles.values(), strict=True):
            values, edges, _ = step.get_data()
            np.testing.assert_array_equal(edges, profile.edges)
            np.testing.assert_array_equal(np.isnan(values), np.isinf(profile.values))
        assert len({step.get_edgecolor() for step in steps}) == 3

    def test_densities_are_normalised_and_fill_the_view(self, axes, lengths):
        steps = draw_densities(axes, lengths, styles_of(lengths))
        for step in steps:
            values, edges, _ = step.get_data()
            assert (values * np.diff(edges)).sum() == pytest.approx(1)
        low, high = axes.get_xlim()
        assert 0.29 < low < 0.36
        assert 0.49 < high < 0.56

    def test_densities_of_angles_show_the_whole_circle(self, axes):
        edges = np.linspace(-180.0, 180.0, 401)
        one = histograms(np.full(9, 40.0), edges=edges, periodic=True)
        draw_densities(axes, {"one": one}, styles_of(["one"]))
        assert axes.get_xlim() == (-180.0, 180.0)

    def test_band_stays_above_zero(self, axes, errors):
        line = draw_errors(
            axes, errors.t, errors.mean_absolute, errors.mean_absolute_error, styles_of("a")["a"]
        )
        np.testing.assert_array_equal(line.get_ydata(), errors.mean_absolute)
        (low, high) = axes.collections[0].get_datalim(axes.transData).intervaly
        # The last error is three times the value.
        assert low == pytest.approx(errors.mean_absolute[-1] / 4.0)
        assert high == pytest.approx(1.1 * errors.mean_absolute[0])

    def test_basins_populations_and_times(self, axes):
        points = np.random.default_rng(0).normal(size=(2000, 2)) * 20.0
        points[:500] += 120.0
        basins = find_basins(points, limits=(DEGREES, DEGREES))
        draw_basins(axes, basins)
        assert [text.get_text() for text in axes.texts] == ["A", "B"]
        centres = [text.get_position() for text in axes.texts]
        np.testing.assert_allclose(centres, [[0, 0], [120, 120]], atol=25)
        axes = Figure().subplots()
        found = {"one": (Estimate(0.7, 0.1), Estimate(0.3, 0.5))}
        (bars,) = draw_populations(axes, found, styles_of(found))
        assert [bar.get_height() for bar in bars] == [0.7, 0.3]
        assert axes.get_ylim()[0] == 0.0
        axes = Figure().subplots()
        nothing, time = Estimate(np.nan, np.nan), Estimate(30.0, 3.0)
        times = ImpliedTimescales((1, 10), ((time, nothing), (time, nothing)))
        (line,) = draw_timescales(axes, {"one": (times, 0.5)}, styles_of(["one"]))
        assert line.get_xydata().tolist() == [[0.5, 15.0], [5.0, 15.0]]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


class TestFigures:
    def test_one_panel_each_with_one_scale(self, surfaces):
        figure = surface_figure(surfaces)
        panels = panels_of(figure)
        assert [axes.get_title() for axes in panels] == list(surfaces)
        assert len(figure.axes) == len(panels) + 1
        meshes = [axes.findobj(QuadMesh)[0] for axes in panels]
        highest = max(s.values[np.isfinite(s.values)].max() for s in surfaces.values())
        assert {mesh.get_clim() for mesh in meshes} == {(0.0, highest)}

    def test_ticks_of_a_circle_are_right_angles(self, surfaces):
        axes = panels_of(surface_figure(surfaces))[0]
        assert axes.get_xlim() == axes.get_ylim() == DEGREES
        assert np.diff(axes.get_xticks()).tolist() == [90.0] * (len(axes.get_xticks()) - 1)
        assert axes.get_aspect() == 1.0
        # An angle between bonds does not go around.
        figure = figure_of(
            {"one": lambda axes: axes.set_xlim(100, 130)}, x_label="°", y_label="density"
        )
        assert len(figure.axes[0].get_xticks()) > 2

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_no_texts_overlap(self, surfaces, n):
        surface = surfaces["reference"]
        figure = surface_figure({f"long name of method {i}": surface for i in range(n)})
        assert len(panels_of(figure)) == n
        assert texts_overlap(figure) == []

    def test_neighbours_keep_their_labels_apart(self, surfaces):
        figure = surface_figure(surfaces)
        FigureCanvasAgg(figure).draw()
        labels = [drawn_tick_labels(axes.xaxis) for axes in panels_of(figure)]
        boxes = [(row[0].get_window_extent(), row[-1].get_window_extent()) for row in labels]
        for (_, last), (first, _) in pairwise(boxes):
            assert first.x0 - last.x1 > 0.8 * last.height  # or "180 -180" reads as one number

    def test_lowest_panel_of_every_column_is_labelled(self, surfaces):
        figure = surface_figure({f"{i}": surfaces["reference"] for i in range(5)})
        labelled = [bool(axes.get_xlabel()) for axes in panels_of(figure)]
        assert labelled == [False, False, True, True, True]
        ticks = [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels_of(figure)]
        assert ticks == labelled

    def test_legend_and_names_that_are_no_formulas(self, profiles):
        styles = styles_of(["$1_$", *profiles])
        draw = partial(draw_profiles, profiles=profiles, styles=styles)
        labels = {"x_label": "φ (°)", "y_label": "free energy (kT)"}
        figure = figure_of({"$1_$": draw}, **labels, styles=styles)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [r"\$1_\$", *profiles]
        assert texts_overlap(figure) == []
        assert figure_of({"one": draw}, **labels, styles=styles_of(["one"])).legends == []

    def test_nothing_to_draw(self):
        with pytest.raises(InvalidInputError, match="nothing to draw"):
            surface_figure({})
        with pytest.raises(InvalidInputError, match="nothing to draw"):
            figure_of({}, **AXES)


class TestLoss:
    def test_lines(self, curve):
        figure = loss_figure({"one": curve})
        top, bottom = figure.axes
        raw, smooth = top.lines
        np.testing.assert_array_equal(raw.get_ydata(), curve.losses)
        assert np.std(smooth.get_ydata()) < 0.8 * np.std(curve.losses)
        np.testing.assert_array_equal(bottom.lines[0].get_ydata(), curve.learning_rates)
        assert top.get_yscale() == "linear"
        assert figure.legends == []
        assert texts_overlap(figure) == []

    def test_large_range_is_logarithmic(self, curve):
        falling = LossCurve(curve.steps, 100 * np.exp(-curve.steps / 300), curve.learning_rates)
        figure = loss_figure({"one": curve, "two": falling})
        assert figure.axes[0].get_yscale() == "log"
        assert len(figure.legends) == 1

    def test_nan_leaves_a_gap(self, curve):
        losses = curve.losses.copy()
        losses[-1] = np.nan
        loss_figure({"one": LossCurve(curve.steps, losses, curve.learning_rates)})
        with pytest.raises(InvalidInputError, match="no loss is finite"):
            loss_figure({"one": LossCurve(curve.steps, losses * np.nan, curve.learning_rates)})


class TestFokkerPlanckError:
    def test_lines_and_bands(self, errors):
        figure = fokker_planck_error_figure({"one": errors, "another model": errors})
        plain, centred = figure.axes
        for axes, values in ((plain, errors.mean_absolute), (centred, errors.centred)):
            assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
            assert axes.get_xlabel() == "diffusion time"
            assert len(axes.lines) == len(axes.collections) == 2
            np.testing.assert_array_equal(axes.lines[0].get_ydata(), values)
        assert plain.get_ylabel() == "Fokker-Planck error, |R| / D"
        assert [axes.get_title() for axes in figure.axes] == ["plain", "centred at each time"]
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["one", "another model"]
        assert texts_overlap(figure) == []

    def test_an_error_of_zero_leaves_a_gap(self, errors):
        zero = dataclasses.replace(errors, mean_absolute=0.0 * errors.t, centred=0.0 * errors.t)
        figure = fokker_planck_error_figure({"exact": zero, "other": errors})
        FigureCanvasAgg(figure).draw()

    def test_nothing_to_draw(self, errors):
        with pytest.raises(InvalidInputError, match="nothing to draw"):
            fokker_planck_error_figure({})
        empty = dataclasses.replace(errors, centred=np.nan * errors.t)
        with pytest.raises(InvalidInputError, match="no error is finite"):
            fokker_planck_error_figure({"one": empty})


class TestFiles:
    @pytest.mark.parametrize(
        ("suffix", "start"), [(".png", PNG), (".pdf", b"%PDF"), (".svg", b"<?xml")]
    )
    def test_formats(self, curve, tmp_path, suffix, start):
        path = save(loss_figure({"one": curve}), tmp_path / f"loss{suffix}")
        assert path.read_bytes().startswith(start)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_unknown_format_leaves_nothing(self, tmp_path):
        with pytest.raises(InvalidInputError, match=r"'rama.docx'; the suffix must be one of .png"):
            save(Figure(), tmp_path / "rama.docx")
        assert list(tmp_path.iterdir()) == []

    def test_text_is_the_same_for_the_same_figure(self, curve):
        first, again = (svg(loss_figure({"one": curve})) for _ in range(2))
        assert first == again
        assert "<svg" in first


def test_no_global_state(surfaces, tmp_path):
    before = dict(mpl.rcParams)
    save(surface_figure(surfaces), tmp_path / "rama.png")
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_loaded():
    module = "openmm_scoremd.analysis.report.plots"
    code = f"import sys, {module}; print('matplotlib.pyplot' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
