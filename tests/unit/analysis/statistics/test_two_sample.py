"""The test behind the verdict: known answers, false alarms, states that short runs miss."""

import numpy as np
import pytest
from scipy import stats

from openmm_scoremd.analysis.statistics import two_sample
from openmm_scoremd.analysis.statistics.fractions import UnitFractions
from openmm_scoremd.analysis.statistics.two_sample import family_wise_test
from openmm_scoremd.errors import InvalidInputError


def fractions(inside):
    """From (units, frames, features) of bool."""
    return UnitFractions(inside.mean(axis=1), np.full(inside.shape[2], inside.shape[1]))


def independent(rng, units, frames, p):
    return fractions(rng.random((units, frames, len(p))) < p)


def two_state(rng, units, frames, p, *, features, rate):
    """States that are left so rarely that a unit sees one or few of them."""
    state = rng.random((units, features)) < p
    inside = np.empty((units, frames, features), dtype=bool)
    for frame in range(frames):
        leave = rng.random(state.shape) < np.where(state, rate * (1 - p), rate * p)
        state = state ^ leave
        inside[:, frame] = state
    return fractions(inside)


class TestVisible:
    @pytest.mark.parametrize("units", [6, 50])
    def test_a_visible_difference_is_noticed_four_times_of_five(self, units):
        p, alpha = np.full(8, 0.3), 0.01
        same = [
            family_wise_test(
                independent(np.random.default_rng([seed, 0]), units, 100, p),
                independent(np.random.default_rng([seed, 1]), units, 100, p),
                seed=seed,
            )
            for seed in range(10)
        ]
        difference = np.median([test.visible(alpha).mean() for test in same])
        shifted = p.copy()
        shifted[5] += difference
        noticed = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            sides = [independent(rng, units, 100, one) for one in (p, shifted)]
            noticed += family_wise_test(*sides, seed=seed).p_values[5] < alpha
        # 80 of 100, give or take 4; where errors are known from six units, a little more.
        assert 65 <= noticed <= (92 if units > 10 else 100)

    def test_few_units_show_less_than_their_error_says(self):
        rng = np.random.default_rng(0)
        few = family_wise_test(*(independent(rng, 3, 2000, [0.3]) for _ in range(2)), seed=0)
        many = family_wise_test(*(independent(rng, 60, 100, [0.3]) for _ in range(2)), seed=0)
        errors = [float((t.visible(0.01) / t.standard_error)[0]) for t in (few, many)]
        assert errors[1] == pytest.approx(stats.norm.isf(0.005) + stats.norm.ppf(0.8), rel=0.05)
        assert errors[0] > 1.4 * errors[1]

    def test_nothing_is_visible_where_nothing_is_judged(self):
        rng = np.random.default_rng(0)
        found = family_wise_test(*(independent(rng, 9, 9, [0.0]) for _ in range(2)), seed=0)
        assert np.isnan(found.visible(0.01)).all()


class TestFalseAlarms:
    # Binomial: 200 draws at 5 % exceed 21 with a probability of 0.05 %, and at 1 % exceed 8.
    @pytest.mark.parametrize("kind", ["independent", "slow", "rare"])
    def test_rate_is_near_or_below_the_nominal_one(self, kind):
        p_values = []
        for seed in range(200):
            rng = np.random.default_rng(seed)
            p = np.full(12, 0.01 if kind == "rare" else 0.2)
            first = independent(rng, 50, 40, p)
            if kind == "independent":
                second = independent(rng, 50, 20, p)
            else:
                second = two_state(rng, 20, 30, p[0], features=12, rate=0.03)
            p_values.append(family_wise_test(first, second, seed=seed).p_value)
        alarms = np.array(p_values)
        assert (alarms < 0.05).sum() <= 21
        assert (alarms < 0.01).sum() <= 8
        if kind == "independent":
            assert (alarms < 0.5).sum() >= 50  # it could say something

    def test_difference_is_found_and_named(self):
        rng = np.random.default_rng(0)
        p = np.full(30, 0.2)
        shifted = p.copy()
        shifted[17] = 0.3
        first, second = independent(rng, 50, 40, p), independent(rng, 50, 40, shifted)
        found = family_wise_test(first, second, seed=0)
        assert found.p_value < 1e-4
        assert np.flatnonzero(found.p_values < 0.01).tolist() == [17]
        assert found.difference[17] == pytest.approx(0.1, abs=0.04)
        # sqrt(p (1 - p) (1/n + 1/n)) of the pooled fraction
        assert found.standard_error[17] == pytest.approx(np.sqrt(0.25 * 0.75 / 1000), rel=0.15)


class TestRareStates:
    def test_a_rare_state_missed_by_few_replicas_is_no_evidence(self):
        first = independent(np.random.default_rng(0), 100, 100, np.array([0.02]))
        second = fractions(np.zeros((20, 1000, 1), dtype=bool))
        assert family_wise_test(first, second, seed=0).p_value > 0.5

    def test_a_common_state_missed_by_all_replicas_is(self):
        first = independent(np.random.default_rng(0), 100, 100, np.array([0.5]))
        second = fractions(np.zeros((20, 1000, 1), dtype=bool))
        assert family_wise_test(first, second, seed=0).p_value < 0.005

    def test_variance_that_units_cannot_show(self):
        rng = np.random.default_rng(0)
        first = independent(rng, 100, 100, np.array([0.5]))
        second = independent(rng, 12, 500, np.array([0.4]))
        assert family_wise_test(first, second, seed=0).p_value < 1e-3
        floors = (np.array([0.0]), np.array([0.06**2]))
        found = family_wise_test(first, second, seed=0, floors=floors)
        assert found.p_value > 0.05
        assert found.standard_error[0] == pytest.approx(0.06, rel=0.05)


def test_numbers_of_visits_are_judged_as_scipy_does():
    rng = np.random.default_rng(0)
    for _ in range(60):
        table = rng.integers(0, rng.integers(1, 60), size=(2, 2))
        table[:, 1] += 1
        expected = stats.fisher_exact(table).pvalue
        assert two_sample._fisher_exact(table) == pytest.approx(expected, rel=1e-6)


def test_regions_that_are_all_or_nothing_are_not_judged():
    same = fractions(np.stack([np.zeros((10, 5)), np.ones((10, 5))], axis=-1).astype(bool))
    found = family_wise_test(same, same, seed=0)
    assert not found.judged.any()
    assert np.isnan(found.p_value)


def test_impossible_input():
    two, three = (UnitFractions(np.zeros((4, n)), np.full(n, 5)) for n in (2, 3))
    with pytest.raises(InvalidInputError, match="2 features are compared with 3"):
        family_wise_test(two, three, seed=0)
