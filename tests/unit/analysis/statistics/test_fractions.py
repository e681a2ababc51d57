"""Fractions of frames and their errors: known answers."""

import math

import numpy as np
import pytest

from openmm_scoremd.analysis.statistics.fractions import UnitFractions, population
from openmm_scoremd.errors import InvalidInputError


def fractions(inside):
    """From (units, frames, features) of bool."""
    return UnitFractions(inside.mean(axis=1), np.full(inside.shape[2], inside.shape[1]))


class TestDesignEffect:
    def test_of_independent_frames(self):
        found = fractions(np.random.default_rng(0).random((2000, 30, 2)) < [0.3, 0.5])
        np.testing.assert_allclose(found.design_effect(), 1.0, atol=0.1)
        np.testing.assert_allclose(found.effective_frames, 60_000, rtol=0.1)

    def test_of_units_that_never_change(self):
        inside = np.arange(40)[:, None, None] < 12
        found = fractions(np.broadcast_to(inside, (40, 25, 1)))
        assert found.mean == 0.3
        np.testing.assert_allclose(found.effective_frames, 40, rtol=0.03)

    def test_of_pairs_of_equal_frames(self):
        inside = np.random.default_rng(0).random((2000, 15, 1)) < 0.4
        found = fractions(np.repeat(inside, 2, axis=1))
        np.testing.assert_allclose(found.design_effect(), 2.0, atol=0.15)

    def test_state_never_visited_counts_units_not_frames(self):
        assert fractions(np.zeros((20, 500, 1), dtype=bool)).effective_frames == 20

    def test_scatter_of_a_state_that_few_units_visited_is_not_believed(self):
        inside = np.zeros((100, 200, 1), dtype=bool)
        inside[:3, 50:54] = True  # by the scatter alone: 5,000 effective frames
        assert fractions(inside).effective_frames == 100


def test_fractions_of_states():
    states = np.array([[0, 0, 1, 2], [2, 2, 2, 0]])
    found = UnitFractions.of_states(states, 3)
    assert found.fractions.tolist() == [[0.5, 0.25, 0.25], [0.25, 0.0, 0.75]]
    assert [e.value for e in found.estimates] == [0.375, 0.125, 0.5]


def posterior(p, n):
    """Standard deviation of Jeffreys' posterior, Beta(pn + 1/2, (1 - p)n + 1/2)."""
    a, b = p * n + 0.5, (1 - p) * n + 0.5
    return math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))


class TestPopulation:
    def test_independent_frames_are_binomial(self):
        result = population([True] * 20 + [False] * 80)
        assert result.value == 0.2
        assert result.error == pytest.approx(posterior(0.2, 100))
        assert result.error == pytest.approx(math.sqrt(0.2 * 0.8 / 99), rel=0.02)

    def test_error_is_that_of_the_mean_over_units(self):
        shares = np.random.default_rng(0).beta(2.0, 3.0, size=40)
        inside = np.arange(500) < 500 * shares[:, None]
        result = population(inside)
        means = inside.mean(axis=1)
        assert result.value == pytest.approx(means.mean())
        assert result.error == pytest.approx(means.std(ddof=1) / math.sqrt(40), rel=0.03)

    def test_a_basin_never_visited_has_an_error(self):
        frames = population(np.zeros(100, dtype=bool))
        replicas = population(np.zeros((10, 1000), dtype=bool))
        assert frames.value == replicas.value == 0
        # Replicas count, not their frames.
        assert frames.error == pytest.approx(posterior(0.0, 100))
        assert replicas.error == pytest.approx(posterior(0.0, 10))

    def test_one_unit(self):
        with pytest.raises(InvalidInputError, match="at least two"):
            population(np.array([[True, False]]))


def test_one_unit_tells_nothing():
    with pytest.raises(InvalidInputError, match="at least two units"):
        UnitFractions(np.zeros((1, 3)), np.array([5, 5, 5]))
