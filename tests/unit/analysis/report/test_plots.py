import dataclasses
import subprocess
import sys
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from openmm_scoremd.analysis.observables.free_energy import (
    dihedral_free_energy_1d,
    dihedral_free_energy_2d,
    free_energy_2d,
)
from openmm_scoremd.analysis.report.plots import (
    dihedral_profile_figure,
    fokker_planck_error_figure,
    histogram_figure,
    loss_figure,
    plot_dihedral_profiles,
    plot_fokker_planck_error,
    plot_free_energy_1d,
    plot_histograms,
    plot_loss,
    plot_ramachandran,
    plot_surfaces,
    profile_figure,
    ramachandran_figure,
    surface_figure,
)
from openmm_scoremd.analysis.report.training_log import LossCurve
from openmm_scoremd.errors import InvalidInputError

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def angles():
    rng = np.random.default_rng(0)
    return {
        name: rng.normal([-1.4, 1.0], 0.4, (500, 2))
        for name in ("reference", "iid samples", "simulation")
    }


@pytest.fixture(scope="module")
def surfaces(angles):
    return {name: dihedral_free_energy_2d(v, bins=16) for name, v in angles.items()}


@pytest.fixture(scope="module")
def profiles(angles):
    return {
        axis: {n: dihedral_free_energy_1d(v[:, i], bins=16) for n, v in angles.items()}
        for i, axis in enumerate("φψ")
    }


@pytest.fixture(scope="module")
def curve():
    steps = np.arange(1, 201.0) * 10
    noise = np.random.default_rng(0).normal(size=200)
    return LossCurve(steps, 0.5 + 0.01 * noise, 1e-4 * np.ones(200))


@pytest.fixture(scope="module")
def lengths():
    rng = np.random.default_rng(0)
    return {"reference": rng.normal(0.15, 0.003, (900, 4)), "iid": np.full((2, 50, 4), 0.16)}


@dataclasses.dataclass
class Errors:
    t: np.ndarray
    mean_absolute: np.ndarray
    mean_absolute_error: np.ndarray
    centred: np.ndarray
    centred_error: np.ndarray


@pytest.fixture
def errors():
    """Like those of a mixture: a direct expert in between, and a wide band at the end."""
    t = np.geomspace(1e-5, 1.0, 20)
    plain = 1e4 * np.exp(-9.0 * t)
    plain[10:13] = np.nan
    band = np.append(np.full(19, 0.1), 3.0)
    return Errors(t, plain, band * plain, plain / 50.0, band * plain / 50.0)


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


class TestSurfaces:
    def test_one_panel_each_with_one_scale(self, surfaces):
        figure = ramachandran_figure(surfaces)
        panels = panels_of(figure)
        assert [axes.get_title() for axes in panels] == list(surfaces)
        assert len(figure.axes) == len(panels) + 1
        meshes = [axes.findobj(QuadMesh)[0] for axes in panels]
        highest = max(s.values[np.isfinite(s.values)].max() for s in surfaces.values())
        assert {mesh.get_clim() for mesh in meshes} == {(0.0, highest)}

    def test_values_lie_where_they_belong(self):
        # x in the right half, y in the lower quarter
        samples = np.array([[0.6, 0.1]])
        surface = free_energy_2d(samples, bins=4, limits=((0.0, 1.0), (0.0, 1.0)))
        (axes,) = panels_of(surface_figure({"one": surface}, x_label="x", y_label="y"))
        drawn = axes.findobj(QuadMesh)[0].get_array().reshape(4, 4)  # rows are y
        assert np.argwhere(~np.ma.getmaskarray(drawn)).tolist() == [[0, 2]]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")

    def test_axes_are_in_degrees(self, surfaces):
        axes = panels_of(ramachandran_figure(surfaces))[0]
        assert axes.get_xlim() == pytest.approx((-180, 180))
        assert axes.get_ylim() == pytest.approx((-180, 180))
        assert "degrees" in axes.get_xlabel()

    @pytest.mark.parametrize("n", [1, 2, 4, 5, 9])
    def test_no_texts_overlap(self, surfaces, n):
        surface = surfaces["reference"]
        figure = ramachandran_figure({f"long name of method {i}": surface for i in range(n)})
        assert len(panels_of(figure)) == n
        assert texts_overlap(figure) == []

    def test_neighbours_keep_their_labels_apart(self, surfaces):
        figure = ramachandran_figure(surfaces)
        FigureCanvasAgg(figure).draw()
        labels = [drawn_tick_labels(axes.xaxis) for axes in panels_of(figure)]
        boxes = [(row[0].get_window_extent(), row[-1].get_window_extent()) for row in labels]
        for (_, last), (first, _) in pairwise(boxes):
            assert first.x0 - last.x1 > 0.8 * last.height  # or "180 -180" reads as one number

    def test_lowest_panel_of_every_column_is_labelled(self, surfaces):
        figure = ramachandran_figure({f"{i}": surfaces["reference"] for i in range(5)})
        labelled = [bool(axes.get_xlabel()) for axes in panels_of(figure)]
        assert labelled == [False, False, True, True, True]
        ticks = [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels_of(figure)]
        assert ticks == labelled

    def test_nothing_to_draw(self):
        with pytest.raises(InvalidInputError, match="surfaces is empty"):
            ramachandran_figure({})


class TestProfiles:
    def test_panels_sets_and_legend(self, profiles):
        figure = dihedral_profile_figure(profiles)
        assert [axes.get_xlabel() for axes in figure.axes] == ["φ (degrees)", "ψ (degrees)"]
        for axes, sets in zip(figure.axes, profiles.values(), strict=True):
            steps = axes.findobj(StepPatch)
            for step, profile in zip(steps, sets.values(), strict=True):
                values, edges, _ = step.get_data()
                np.testing.assert_allclose(edges, np.degrees(profile.edges))
                np.testing.assert_array_equal(np.isnan(values), np.isinf(profile.values))
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == list(profiles["φ"])
        assert texts_overlap(figure) == []

    def test_sets_differ_in_colour(self, profiles):
        steps = profile_figure(profiles).axes[0].findobj(StepPatch)
        assert len({step.get_edgecolor() for step in steps}) == 3

    def test_nothing_to_draw(self):
        with pytest.raises(InvalidInputError, match="profiles is empty"):
            profile_figure({})
        with pytest.raises(InvalidInputError, match="profiles of φ is empty"):
            profile_figure({"φ": {}})


class TestHistograms:
    def test_densities_are_normalised(self, lengths):
        figure = histogram_figure(lengths, labels=list("abcd"), x_label="bond length (nm)")
        assert [axes.get_title() for axes in figure.axes] == list("abcd")
        for axes in figure.axes:
            for step in axes.findobj(StepPatch):
                values, edges, _ = step.get_data()
                assert (values * np.diff(edges)).sum() == pytest.approx(1, abs=0.01)
        assert texts_overlap(figure) == []

    def test_labels_must_fit(self, lengths):
        with pytest.raises(InvalidInputError, match="4 values per frame and there are 3 labels"):
            histogram_figure(lengths, labels=list("abc"), x_label="x")


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
            (low, high) = axes.collections[0].get_datalim(axes.transData).intervaly
            assert low == pytest.approx(values[-1] / 4.0)  # above zero, though the error is 3 times
            assert high == pytest.approx(1.1 * values[0])
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
        with pytest.raises(InvalidInputError, match="curves is empty"):
            fokker_planck_error_figure({})
        empty = dataclasses.replace(errors, centred=np.nan * errors.t)
        with pytest.raises(InvalidInputError, match="no error is finite"):
            fokker_planck_error_figure({"one": empty})


class TestFiles:
    @pytest.mark.parametrize(
        ("suffix", "start"), [(".png", PNG), (".pdf", b"%PDF"), (".svg", b"<?xml")]
    )
    def test_formats(self, surfaces, tmp_path, suffix, start):
        path = plot_ramachandran(surfaces, tmp_path / f"rama{suffix}")
        assert path.read_bytes().startswith(start)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_every_plot_writes(self, surfaces, profiles, lengths, curve, errors, tmp_path):
        paths = [
            plot_surfaces(surfaces, tmp_path / "a.png", x_label="x", y_label="y"),
            plot_free_energy_1d(profiles, tmp_path / "b.png"),
            plot_dihedral_profiles(profiles, tmp_path / "c.png"),
            plot_histograms(lengths, tmp_path / "d.png", labels=list("abcd"), x_label="x"),
            plot_loss({"one": curve}, tmp_path / "e.png"),
            plot_fokker_planck_error({"one": errors}, tmp_path / "f.png"),
        ]
        assert all(path.read_bytes().startswith(PNG) for path in paths)

    def test_unknown_format_leaves_nothing(self, surfaces, tmp_path):
        with pytest.raises(InvalidInputError, match=r"'rama.docx'; the suffix must be one of .png"):
            plot_ramachandran(surfaces, tmp_path / "rama.docx")
        assert list(tmp_path.iterdir()) == []


def test_no_global_state(surfaces, tmp_path):
    before = dict(mpl.rcParams)
    plot_ramachandran(surfaces, tmp_path / "rama.png")
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_loaded():
    module = "openmm_scoremd.analysis.report.plots"
    code = f"import sys, {module}; print('matplotlib.pyplot' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
