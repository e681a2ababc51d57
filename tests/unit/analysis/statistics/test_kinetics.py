"""Correlation times and time scales of chains whose answers are known."""

import math

import numpy as np
import pytest

from openmm_scoremd.analysis.statistics.kinetics import (
    implied_timescales,
    slow_coordinates,
    statistical_inefficiency,
    transition_counts,
)
from openmm_scoremd.errors import InvalidInputError

UP, DOWN = 0.02, 0.06  # per frame: populations 3/4 and 1/4, eigenvalue 0.92
EXACT = -1 / math.log(1 - UP - DOWN)


@pytest.fixture(scope="module")
def chains():
    rng = np.random.default_rng(0)
    states = np.empty((60, 500), dtype=np.int64)
    now = (rng.random(60) < 0.25).astype(np.int64)
    for frame in range(500):
        states[:, frame] = now
        now = np.where(rng.random(60) < np.where(now == 0, UP, DOWN), 1 - now, now)
    return states


class TestStatisticalInefficiency:
    def test_of_independent_values(self):
        values = np.random.default_rng(0).normal(size=(5, 4000))
        assert statistical_inefficiency([*values]) == pytest.approx(1.0, abs=0.1)

    def test_of_a_two_state_chain(self, chains):
        exact = (1 + 0.92) / (1 - 0.92)
        assert statistical_inefficiency([*chains.astype(float)]) == pytest.approx(exact, rel=0.12)

    def test_of_an_angle_that_crosses_180_degrees(self):
        angles = np.pi + 0.3 * np.random.default_rng(0).normal(size=3000)
        around = np.exp(1j * angles)
        assert statistical_inefficiency([around]) == pytest.approx(1.0, abs=0.1)

    def test_of_a_constant(self):
        assert statistical_inefficiency([np.full(50, 3.7)]) == 1.0

    def test_of_replicas_that_never_move(self):
        assert statistical_inefficiency([np.full(30, x) for x in range(8)]) == pytest.approx(30)

    def test_correlations_end_at_a_break(self):
        # Blocks of ten equal values: known only if pieces are not joined.
        blocks = np.repeat(np.random.default_rng(0).normal(size=400), 10)
        joined = statistical_inefficiency([blocks])
        cut = statistical_inefficiency([*blocks.reshape(-1, 10)])
        assert joined == pytest.approx(10, rel=0.15)
        assert cut == pytest.approx(10, rel=1e-6)
        assert statistical_inefficiency([*blocks.reshape(-1, 10)[:, :1]]) == 1.0

    def test_of_nothing(self):
        with pytest.raises(InvalidInputError, match="without frames"):
            statistical_inefficiency([])


class TestTransitions:
    def test_counts_by_hand(self):
        pieces = [np.array([0, 0, 1, 0]), np.array([1, 1])]
        counts = transition_counts(pieces, n_states=2, lag=1)
        assert counts.tolist() == [[[1, 1], [1, 0]], [[0, 0], [0, 1]]]

    def test_no_window_crosses_a_break(self):
        # 0 in one segment and 1 in the next: a window across would see a transition.
        whole, halves = np.repeat([0, 1], 6), [np.zeros(6, int), np.ones(6, int)]
        assert transition_counts([whole], n_states=2, lag=2)[0, 0, 1] == 2
        cut = transition_counts(halves, n_states=2, lag=2).sum(axis=0)
        assert cut.tolist() == [[4, 0], [0, 4]]

    def test_segment_shorter_than_the_lag(self):
        assert transition_counts([np.array([0, 1])], n_states=2, lag=2).sum() == 0

    def test_lag_of_nothing(self):
        with pytest.raises(InvalidInputError, match="at least 1"):
            transition_counts([np.array([0])], n_states=2, lag=0)


class TestImpliedTimescales:
    def test_of_a_two_state_chain(self, chains):
        found = implied_timescales([*chains], range(60), n_states=2, lags=[1, 3, 10], seed=0)
        for (time,) in found.timescales:
            assert abs(time.value - EXACT) < 4 * time.error
            assert 0.2 < time.error < 2.0

    def test_of_three_states_on_a_line(self):
        matrix = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]])
        eigenvalues = np.sort(np.linalg.eigvalsh(matrix))[::-1][1:]  # 0.9, 0.7
        rng = np.random.default_rng(1)
        states = np.zeros((40, 2000), dtype=np.int64)
        for frame in range(1, 2000):
            steps = rng.random(40)[:, None] > matrix.cumsum(axis=1)[states[:, frame - 1]]
            states[:, frame] = steps.sum(axis=1).clip(0, 2)
        found = implied_timescales([*states], range(40), n_states=3, lags=[1], seed=0)
        values = [time.value for time in found.timescales[0]]
        np.testing.assert_allclose(values, -1 / np.log(eigenvalues), rtol=0.05)

    def test_error_rests_on_units_not_on_segments(self, chains):
        # The same sixty chains, said to be of two replicas: less is known about their scatter.
        few = implied_timescales([*chains], [i % 2 for i in range(60)], n_states=2, lags=[1],
                                 seed=0)  # fmt: skip
        assert few.timescales[0][0].value == pytest.approx(EXACT, rel=0.15)

    def test_states_without_a_transition(self):
        still = [np.zeros(50, int), np.ones(50, int)]
        found = implied_timescales(still, [0, 1], n_states=2, lags=[1], seed=0)
        assert math.isnan(found.timescales[0][0].value)


class TestSlowCoordinates:
    def test_slow_process_is_found(self):
        pytest.importorskip("deeptime")
        rng = np.random.default_rng(0)
        values = rng.normal(size=(10, 500, 4))
        for frame in range(1, 500):
            values[:, frame, 2] = 0.95 * values[:, frame - 1, 2] + 0.31 * values[:, frame, 2]
        found = slow_coordinates([*values], lag=5)
        first = np.abs(found.vectors[:, 0])
        assert first.argmax() == 2
        assert first[2] > 10 * np.delete(first, 2).max()
        projected = found.project(values)
        assert projected.shape == (10, 500, 2)
        np.testing.assert_allclose(projected.reshape(-1, 2).std(axis=0), 1.0, rtol=1e-6)

    def test_vibration_is_not_slow(self):
        pytest.importorskip("deeptime")
        values = np.random.default_rng(0).normal(size=(10, 500, 4))
        for frame in range(1, 500):
            values[:, frame, 1] -= 0.97 * values[:, frame - 1, 1]
            values[:, frame, 2] += 0.9 * values[:, frame - 1, 2]
        found = slow_coordinates([*values], lag=1)
        shares = np.abs(found.vectors) * values.std(axis=(0, 1))[:, None]
        assert shares[:, 0].argmax() == 2
        assert shares[1].max() < 0.1

    def test_too_short(self):
        assert slow_coordinates([np.zeros((40, 3))] * 10, lag=20) is None
