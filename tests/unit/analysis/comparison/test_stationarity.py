"""Trajectories that remember their start, change, were restarted, jump: known correlations."""

import dataclasses

import numpy as np
import pytest

from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.stationarity import drift_of, slowness_of
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.observables.groups import coordinate_group
from openmm_scoremd.analysis.report import plots
from openmm_scoremd.analysis.report.page import report_page
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.topology import BeadTopology

FAST = Resampling(n_resamples=2, n_repeats=2)
POINT = BeadTopology(("P",), ("",), ("P",), (1,), ("A",), (1.0,))
GROUPS = [coordinate_group()]


def ornstein_uhlenbeck(seed, replicas, length, *, relaxation):
    """Stationary x of correlation exp(-t / relaxation), y new in every frame."""
    rng = np.random.default_rng(seed)
    keep = np.exp(-1.0 / relaxation)
    points = rng.normal(size=(replicas, length, 1, 2))
    for frame in range(1, length):
        points[:, frame, 0, 0] *= np.sqrt(1.0 - keep**2)
        points[:, frame, 0, 0] += keep * points[:, frame - 1, 0, 0]
    return points


def independent(seed, n):
    return SampleSet(np.random.default_rng(seed).normal(size=(n, 1, 2)))


def verdict_of(simulation, **options):
    sets = {"reference": independent(0, 4000), "simulation": simulation}
    return summarise(sets, POINT, resampling=FAST, **options)


class TestSlowness:
    @pytest.mark.parametrize("times", [0.5, 1.0, 2.0])
    def test_memory_is_the_mean_correlation_of_the_second_half(self, times):
        length, relaxation = 80, 80 / times
        one = SampleSet(ornstein_uhlenbeck(1, 400, length, relaxation=relaxation))
        found = slowness_of(one, GROUPS)
        expected = np.exp(-np.arange(length // 2, length) / relaxation).mean()
        assert found.remembered == "x"
        assert found.memory == pytest.approx(expected, abs=0.12)

    def test_nothing_has_moved(self):
        frames = np.repeat(np.random.default_rng(0).normal(size=(40, 1, 1, 2)), 30, axis=1)
        assert slowness_of(SampleSet(frames), GROUPS).memory == pytest.approx(1.0)

    def test_long_trajectories_remember_nothing(self):
        for seed in range(10):
            one = SampleSet(ornstein_uhlenbeck(seed, 20, 300, relaxation=15.0))
            assert slowness_of(one, GROUPS).memory < 0.15

    def test_pieces_between_restarts_count(self):
        frames = ornstein_uhlenbeck(3, 600, 5, relaxation=10.0).reshape(30, 100, 1, 2)
        one = SampleSet(frames, breaks={k: [*range(5, 100, 5)] for k in range(30)})
        expected = np.exp(-np.arange(2, 5) / 10.0).mean()
        assert slowness_of(one, GROUPS).memory == pytest.approx(expected, abs=0.1)
        assert slowness_of(SampleSet(frames), GROUPS).memory < 0.1

    def test_independent_frames_have_none(self):
        found = slowness_of(independent(0, 500), GROUPS)
        assert (found.memory, found.remembered) == (0.0, "")
        assert found.inefficiency < 1.6

    def test_constant_coordinates(self):
        found = slowness_of(SampleSet(np.ones((4, 9, 1, 2))), GROUPS)
        assert (found.inefficiency, found.memory) == (1.0, 0.0)


class TestDrift:
    def test_sets_without_time_or_halves_have_none(self):
        short = np.random.default_rng(0).normal(size=(20, 3, 1, 2))
        for one in (independent(0, 50), SampleSet(short)):
            assert np.isnan(drift_of(one, GROUPS, [], seed=0).p_value)

    def test_stationary_ones_hardly_drift(self):
        p_values = [
            drift_of(
                SampleSet(ornstein_uhlenbeck(seed, 16, 60, relaxation=5.0)), GROUPS, [], seed=seed
            ).p_value
            for seed in range(40)
        ]
        # Binomial: of 40 at 5 %, more than 7 with a probability of 0.2 %.
        assert sum(p < 0.05 for p in p_values) <= 7

    def test_what_moves_is_named(self):
        frames = ornstein_uhlenbeck(0, 24, 80, relaxation=2.0)
        frames[..., 1] += np.linspace(0.0, 2.0, 80)[:, None]
        found = drift_of(SampleSet(frames), GROUPS, [], seed=0)
        assert found.p_value < 1e-4
        assert found.where.startswith("y, ")
        assert " %, then " in found.where


class TestVerdict:
    def test_a_run_that_has_not_left_its_start_cannot_tell(self):
        # Independent frames that hardly move agree with any others, whatever the dynamics is.
        stuck = SampleSet(ornstein_uhlenbeck(1, 300, 60, relaxation=60.0))
        found = verdict_of(stuck)
        (pair,) = found.pairs
        assert pair.smallest_visible < 0.25
        assert pair.verdict == "cannot tell"
        assert "simulation has not left the frames that it started from: " in pair.reason
        assert "of the deviations of x are still there" in pair.reason
        assert "memory of the start" in found.format_table()
        assert verdict_of(SampleSet(ornstein_uhlenbeck(1, 300, 60, relaxation=4.0))).consistent

    def test_a_run_that_changes_cannot_tell(self):
        frames = ornstein_uhlenbeck(1, 60, 80, relaxation=2.0)
        turn = np.where(np.arange(80) < 40, 0.22, -0.22)  # it evens out
        frames[..., 1] += turn[:, None]
        found = verdict_of(SampleSet(frames))
        assert found.pairs[0].p_value > found.pairs[0].alpha
        assert found.verdict == "cannot tell"
        assert "simulation still changes: its halves differ (p " in found.pairs[0].reason

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"restarts_per_frame": 0.2}, "started again 0.2 times for each frame"),
            ({"jumps_per_frame": 0.5}, "jump to independent frames 0.5 times for each frame"),
            ({"n_frozen": 9}, "9 of 69 replicas of simulation broke for good"),
        ],
    )
    def test_restarts_jumps_and_frozen_replicas(self, monkeypatch, changes, message):
        one = SampleSet(ornstein_uhlenbeck(1, 60, 80, relaxation=2.0))
        assert verdict_of(one).consistent
        found = verdict_of(dataclasses.replace(one, **changes))
        assert found.verdict == "cannot tell"
        assert message in found.pairs[0].reason
        assert message in found.format_verdict()
        monkeypatch.setattr(plots, "svg", lambda _figure: "<svg/>")
        assert message in report_page(found, title="a", about={})

    def test_a_few_are_told_and_no_reason(self):
        one = SampleSet(
            ornstein_uhlenbeck(1, 60, 80, relaxation=2.0),
            restarts_per_frame=0.002,
            jumps_per_frame=0.01,
            n_frozen=1,
        )
        found = verdict_of(one)
        assert found.consistent
        said = " ".join(found.format_table().split())
        for part in ("0.002 restarts per frame", "0.01 jumps per frame", "1 frozen replicas left"):
            assert part in said


def test_a_correlated_reference_gives_no_false_alarms():
    # Twelve to 24 effective frames in 1,000: batches of ten would be taken for independent ones.
    verdicts = []
    for seed in range(25):
        reference = SampleSet(ornstein_uhlenbeck(seed, 1, 1000, relaxation=30.0)[0])
        sets = {"reference": reference, "iid": independent(100 + seed, 2000)}
        verdicts.append(summarise(sets, POINT, resampling=FAST).verdict)
    assert verdicts.count("NOT consistent") <= 1
    assert "consistent" not in verdicts
