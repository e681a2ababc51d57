import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.spatial.distance import jensenshannon

from openmm_scoremd.analysis.comparison.metrics import (
    COMBINED_RANGE,
    DIHEDRAL_LIMITS,
    POSITIVE_PHI,
    basin_population,
    bond_length_wasserstein,
    in_basin,
    js_divergence,
    mixture_js_divergence,
    pmf_error,
    wasserstein_of_histograms,
)
from openmm_scoremd.analysis.statistics.fractions import population
from openmm_scoremd.errors import InvalidInputError

PARITY = Path(__file__).parents[3] / "data" / "parity" / "metrics_phi_psi.npz"
UNIT_SQUARE = ((0.0, 1.0), (0.0, 1.0))
HISTOGRAM_METRICS = [js_divergence, pmf_error, mixture_js_divergence]


@pytest.fixture(scope="module")
def public_code():
    with np.load(PARITY) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("metric", "limits", "published"),
    [
        (js_divergence, COMBINED_RANGE, "js_divergence_64"),
        (pmf_error, DIHEDRAL_LIMITS, "pmf_error_64"),
        (mixture_js_divergence, DIHEDRAL_LIMITS, "mjs_64"),
    ],
)
def test_parity_with_the_public_code(public_code, metric, limits, published):
    value = metric(public_code["reference"], public_code["model"], bins=64, limits=limits)
    assert value == pytest.approx(float(public_code[published]), rel=1e-9)


class TestJensenShannon:
    def test_by_hand_in_one_dimension(self):
        # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2)
        p, q = np.array([[0.1], [0.2], [0.3], [0.9]]), np.array([[0.1], [0.7], [0.8], [0.9]])
        expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        value = js_divergence(p, q, bins=2, limits=((0.0, 1.0),))
        assert value == pytest.approx(expected, rel=1e-12)

    def test_is_the_square_of_scipys_distance(self):
        rng = np.random.default_rng(1)
        p, q = rng.random((500, 2)), rng.random((800, 2)) ** 2
        histograms = [
            np.histogram2d(*samples.T, bins=10, range=UNIT_SQUARE)[0].ravel() for samples in (p, q)
        ]
        value = js_divergence(p, q, bins=10, limits=UNIT_SQUARE)
        assert value == pytest.approx(jensenshannon(*histograms) ** 2, rel=1e-12)

    def test_disjoint_sets_give_ln_2(self):
        left, right = np.full((5, 2), 0.1), np.full((9, 2), 0.9)
        value = js_divergence(left, right, bins=4, limits=UNIT_SQUARE)
        assert value == pytest.approx(math.log(2), rel=1e-12)

    def test_approaches_the_divergence_of_known_densities(self):
        # Two Gaussians a distance apart; the integral by quadrature.
        rng = np.random.default_rng(2)
        p, q = rng.normal(0, 1, (400_000, 1)), rng.normal(1, 1, (400_000, 1))
        x = np.linspace(-10, 11, 20_001)
        f, g = (np.exp(-((x - c) ** 2) / 2) / math.sqrt(2 * math.pi) for c in (0.0, 1.0))
        m = (f + g) / 2
        expected = trapezoid(f * np.log(f / m) + g * np.log(g / m), x) / 2
        value = js_divergence(p, q, bins=200, limits=((-6.0, 7.0),))
        assert value == pytest.approx(expected, rel=0.02)

    def test_leaving_the_range_counts_as_one_more_bin(self):
        inside, outside = np.full((10, 2), 0.5), np.full((10, 2), 3.0)
        half = np.concatenate([inside, outside])
        assert js_divergence(inside, outside, bins=4, limits=UNIT_SQUARE) == pytest.approx(
            math.log(2)
        )
        # p = (1, 0), q = (1/2, 1/2)
        expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
        assert js_divergence(inside, half, bins=4, limits=UNIT_SQUARE) == pytest.approx(expected)

    def test_float32_pi_is_an_angle(self):
        angles = np.array([[np.pi, 0.0]], dtype=np.float32)
        assert float(angles[0, 0]) > math.pi
        just_below = np.array([[3.14, 0.0]])
        assert js_divergence(angles, just_below, bins=64, limits=DIHEDRAL_LIMITS) == 0.0

    def test_combined_range_follows_the_data(self):
        rng = np.random.default_rng(3)
        p, q = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
        value = js_divergence(p, q, bins=8, limits=COMBINED_RANGE)
        moved = js_divergence(7 * p + 3, 7 * q + 3, bins=8, limits=COMBINED_RANGE)
        assert moved == pytest.approx(value, rel=1e-9)
        assert value > 0


class TestPmfError:
    def test_by_hand(self):
        # One axis, four bins: below 0, 0 to 1/2, 1/2 to 1, above. p = (0, 3/4, 1/4, 0),
        # q = (0, 1/2, 0, 1/2) and 1e-6 where one side is empty.
        p = np.array([[0.1], [0.2], [0.3], [0.7]])
        q = np.array([[0.1], [0.2], [5.0], [6.0]])
        pairs = [(0.75, 0.5), (0.25, 1e-6), (1e-6, 0.5)]
        weights = [(a + b) / 2 for a, b in pairs]
        squares = [math.log(a / b) ** 2 for a, b in pairs]
        expected = sum(w * s for w, s in zip(weights, squares, strict=True)) / sum(weights)
        value = pmf_error(p, q, bins=4, limits=((0.0, 1.0),))
        assert value == pytest.approx(expected, rel=1e-12)

    def test_a_missing_basin_costs_more_than_a_shifted_population(self):
        rng = np.random.default_rng(4)
        basin = rng.uniform(0.6, 0.9, (1000, 2))
        rest = rng.uniform(0.1, 0.4, (9000, 2))
        reference = np.concatenate([rest, basin])
        shifted = np.concatenate([rest, basin[:500]])
        error = partial(pmf_error, reference, bins=12, limits=UNIT_SQUARE)
        assert error(rest) > 3 * error(shifted) > 0


class TestHistogramMetrics:
    @pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
    def test_identical_sets_give_zero(self, metric):
        samples = np.random.default_rng(5).random((200, 2))
        shuffled = samples[::-1]
        assert metric(samples, shuffled, bins=8, limits=UNIT_SQUARE) == pytest.approx(0, abs=1e-15)

    @pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
    def test_does_not_depend_on_which_side_or_axis_comes_first(self, metric):
        rng = np.random.default_rng(6)
        p, q = rng.random((200, 2)), rng.random((300, 2)) ** 2
        value = metric(p, q, bins=8, limits=((0.0, 1.0), (-1.0, 2.0)))
        assert value > 0
        assert metric(q, p, bins=8, limits=((0.0, 1.0), (-1.0, 2.0))) == pytest.approx(value)
        swapped = metric(p[:, ::-1], q[:, ::-1], bins=8, limits=((-1.0, 2.0), (0.0, 1.0)))
        assert swapped == pytest.approx(value)

    @pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
    def test_pools_replicas(self, metric):
        rng = np.random.default_rng(7)
        p, q = rng.random((200, 2)), rng.random((4, 50, 2)) ** 2
        pooled = metric(p, q.reshape(-1, 2), bins=8, limits=UNIT_SQUARE)
        assert metric(p, q, bins=8, limits=UNIT_SQUARE) == pooled > 0

    @pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
    @pytest.mark.parametrize(
        ("samples", "complaint"),
        [
            (np.zeros((0, 2)), "samples is empty"),
            (np.array([[0.1, 0.2], [np.nan, 0.1]]), "samples holds NaN or infinity in frame 1"),
            (np.array([[[0.1, 0.2], [np.inf, 0.1]]]), "in replica 0, frame 1"),
            (np.zeros((3, 1)), "2 values per frame and the samples have 1"),
            (np.zeros(3), "must be \\(frames"),
        ],
    )
    def test_bad_samples(self, metric, samples, complaint):
        with pytest.raises(InvalidInputError, match=complaint):
            metric(np.zeros((3, 2)), samples, bins=8, limits=UNIT_SQUARE)

    @pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
    @pytest.mark.parametrize(
        ("bins", "limits", "complaint"),
        [
            (0, UNIT_SQUARE, "bins is 0"),
            (8, ((0.0, 1.0), (2.0, 2.0)), "range of axis 1"),
            (8, ((0.0, 1.0), (0.0, math.inf)), "range of axis 1"),
            (8, ((0.0, 1.0),), "limits are given for 1 axes"),
            (8, (), "limits is empty"),
        ],
    )
    def test_bad_grids(self, metric, bins, limits, complaint):
        samples = np.random.default_rng(8).random((5, 2))
        with pytest.raises(InvalidInputError, match=complaint):
            metric(samples, samples, bins=bins, limits=limits)

    def test_combined_range_of_a_constant(self):
        with pytest.raises(InvalidInputError, match="range of axis 0"):
            js_divergence(np.ones((3, 2)), np.ones((3, 2)), bins=8, limits=COMBINED_RANGE)


class TestBondLengths:
    def test_a_shift_is_the_distance(self):
        lengths = np.random.default_rng(9).normal(0.15, 0.003, (1000, 3))
        moved = lengths + np.array([0.0, 0.002, -0.004])
        result = bond_length_wasserstein(lengths, moved)
        np.testing.assert_allclose(result.per_bond, [0.0, 0.002, 0.004], atol=1e-15)
        assert result.mean == pytest.approx(0.002, rel=1e-12)

    def test_other_numbers_of_frames(self):
        result = bond_length_wasserstein([[0.0], [1.0]], [[0.0], [0.5], [1.0], [1.5]])
        assert result.mean == pytest.approx(0.25)

    def test_other_numbers_of_bonds(self):
        with pytest.raises(InvalidInputError, match="3 values per frame and the samples have 2"):
            bond_length_wasserstein(np.ones((5, 3)), np.ones((5, 2)))


class TestWassersteinOfHistograms:
    EDGES = np.linspace(0.0, 1.0, 401)

    def of(self, left, right, *, periodic):
        counts = [np.histogram(v, bins=self.EDGES)[0] / len(v) for v in (left, right)]
        difference = counts[1] - counts[0]
        return float(wasserstein_of_histograms(difference[None], self.EDGES, periodic=periodic)[0])

    def test_is_that_of_the_values(self):
        rng = np.random.default_rng(0)
        left, right = rng.beta(3, 5, 900), rng.beta(4, 5, 700)
        exact = bond_length_wasserstein(left[:, None], right[:, None]).mean
        assert self.of(left, right, periodic=False) == pytest.approx(exact, rel=0.02)

    def test_around_a_circle_the_shorter_way_counts(self):
        end, start = np.full(10, 0.98), np.full(10, 0.03)
        assert self.of(end, start, periodic=False) == pytest.approx(0.95, abs=0.01)
        assert self.of(end, start, periodic=True) == pytest.approx(0.05, abs=0.01)


class TestBasins:
    def test_box(self):
        inside = in_basin([[0.5, -1.0], [-0.5, 2.0], [0.1, 3.1]], limits=POSITIVE_PHI)
        assert inside.tolist() == [True, False, True]

    def test_range_that_wraps_around(self):
        psi = np.array([[-3.0], [-2.0], [0.0], [2.0], [3.0]])
        inside = in_basin(psi, limits=((2.5, -2.5),))
        assert inside.tolist() == [True, False, False, False, True]

    def test_all_axes_count(self):
        inside = in_basin([[0.5, 0.5], [0.5, 5.0]], limits=UNIT_SQUARE)
        assert inside.tolist() == [True, False]

    def test_population(self):
        samples = np.concatenate([np.full((3, 2), 0.5), np.full((9, 2), -0.5)])
        result = basin_population(samples, limits=POSITIVE_PHI)
        assert result.value == 0.25
        assert result == population(samples[:, 0] > 0)

    def test_wrong_number_of_limits(self):
        with pytest.raises(InvalidInputError, match="limits are given for 2 axes"):
            in_basin(np.zeros((4, 3)), limits=UNIT_SQUARE)
