import math
from functools import partial

import numpy as np
import pytest

from openmm_scoremd.analysis.comparison.metrics import js_divergence
from openmm_scoremd.analysis.statistics.uncertainty import (
    Resampling,
    against_floor,
    bootstrap,
    noise_floor,
)
from openmm_scoremd.errors import InvalidInputError

js = partial(js_divergence, bins=10, limits=((-3.0, 3.0), (-3.0, 3.0)))


def mean(values):
    return float(values.mean())


class TestBootstrap:
    def test_error_of_a_mean_of_independent_frames(self):
        samples = np.random.default_rng(0).normal(5.0, 2.0, (2000, 1))
        result = bootstrap(mean, samples, n_resamples=400, seed=1)
        assert result.value == samples.mean()
        assert result.error == pytest.approx(samples.std() / math.sqrt(2000), rel=0.15)

    def test_replicas_stay_together(self):
        # Frames of a replica are copies: only the 50 replicas carry information.
        samples = np.repeat(np.random.default_rng(0).normal(size=(50, 1, 1)), 100, axis=1)
        by_replica = bootstrap(mean, samples, n_resamples=400, seed=1).error
        by_frame = bootstrap(mean, samples.reshape(-1, 1), n_resamples=400, seed=1).error
        assert by_replica == pytest.approx(samples.std() / math.sqrt(50), rel=0.15)
        assert by_replica == pytest.approx(10 * by_frame, rel=0.25)

    def test_seed_decides(self):
        samples = np.random.default_rng(0).normal(size=(30, 1))
        first, again, other = (
            bootstrap(mean, samples, n_resamples=20, seed=seed).error for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_agrees_with_the_scatter_of_independent_sets(self):
        rng = np.random.default_rng(3)
        reference = rng.normal(size=(3000, 2))
        sets = rng.normal(size=(60, 500, 2))
        scatter = np.std([js(reference, one) for one in sets], ddof=1)
        errors = [
            bootstrap(partial(js, reference), one, n_resamples=50, seed=0).error for one in sets[:5]
        ]
        assert 0.8 < np.mean(errors) / scatter < 1.7

    def test_a_single_replica_has_no_error(self):
        with pytest.raises(InvalidInputError, match="into blocks"):
            bootstrap(mean, np.zeros((1, 10, 2)), n_resamples=10, seed=0)

    def test_too_few_resamples(self):
        with pytest.raises(InvalidInputError, match="n_resamples is 1"):
            bootstrap(mean, np.zeros((10, 2)), n_resamples=1, seed=0)

    def test_nan_frame(self):
        samples = np.zeros((10, 2))
        samples[7, 1] = np.nan
        with pytest.raises(InvalidInputError, match="frame 7"):
            bootstrap(mean, samples, n_resamples=10, seed=0)


class TestNoiseFloor:
    def test_subsets_are_disjoint_and_of_the_sizes_asked(self):
        seen = []

        def record(left, right):
            seen.append((left[:, 0], right[:, 0]))
            return float(len(seen))

        floor = noise_floor(
            record, np.arange(10.0)[:, None], n_reference=6, n_samples=4, n_repeats=3, seed=0
        )
        for left, right in seen:
            assert (len(left), len(right)) == (6, 4)
            assert sorted([*left, *right]) == list(range(10))
        assert not np.array_equal(seen[0][0], seen[1][0])
        assert (floor.mean, floor.spread) == (2.0, 1.0)
        assert (floor.n_reference, floor.n_samples) == (6, 4)

    def test_is_what_a_perfect_model_gives(self):
        rng = np.random.default_rng(0)
        reference, perfect = rng.normal(size=(8000, 2)), rng.normal(size=(1000, 2))
        floor = noise_floor(js, reference, n_reference=2000, n_samples=1000, n_repeats=20, seed=0)
        assert abs(js(reference[:2000], perfect) - floor.mean) < 4 * floor.spread

    def test_falls_with_either_size(self):
        reference = np.random.default_rng(0).normal(size=(8000, 2))

        def floor(left, right):
            return noise_floor(
                js, reference, n_reference=left, n_samples=right, n_repeats=5, seed=0
            ).mean

        assert floor(500, 500) > 1.2 * floor(4000, 500) > 1.2**2 * floor(4000, 4000)

    def test_too_few_reference_frames(self):
        with pytest.raises(InvalidInputError, match="700 and 400 frames were asked of 1000"):
            noise_floor(
                js, np.zeros((1000, 2)), n_reference=700, n_samples=400, n_repeats=5, seed=0
            )


class TestAgainstFloor:
    def sizes(self, pool, n_reference, n_samples):
        def metric(left, right):
            return 1000.0 * len(left) + len(right)

        sets = np.zeros((n_reference, 1)), np.zeros((n_samples, 1))
        floor, value = against_floor(metric, *sets, np.zeros((pool, 1)), Resampling(n_repeats=2))
        assert value == floor.mean == 1000.0 * floor.n_reference + floor.n_samples
        return floor.n_reference, floor.n_samples

    @pytest.mark.parametrize(
        ("pool", "asked", "given"),
        [
            (500, (100, 300), (100, 300)),
            (500, (100, 450), (100, 250)),
            (500, (500, 500), (250, 250)),
            (500, (500, 64), (436, 64)),
            (500, (200, 10_000), (200, 250)),
            (3, (3, 3), (2, 1)),
        ],
    )
    def test_sizes_that_fit(self, pool, asked, given):
        assert self.sizes(pool, *asked) == given

    def test_no_pool(self):
        with pytest.raises(InvalidInputError, match="two reference frames or more"):
            self.sizes(1, 1, 1)

    def test_full_size_is_the_metric_itself(self):
        rng = np.random.default_rng(0)
        p, q = rng.normal(size=(300, 2)), rng.normal(size=(10, 20, 2))
        floor, value = against_floor(js, p, q, rng.normal(size=(600, 2)), Resampling(n_repeats=2))
        assert (floor.n_reference, floor.n_samples) == (300, 200)
        assert value == js(p, q)

    def test_subsets_come_from_both_sets(self):
        seen = []

        def metric(left, right):
            seen.append((left[:, 0].tolist(), right[:, 0].tolist()))
            return 0.0

        p, q, pool = np.arange(20.0), np.arange(100.0, 150.0), np.arange(1000.0, 1019.0)
        options = Resampling(n_repeats=3)
        against_floor(metric, p[:, None], q[:, None], pool[:, None], options)
        for left, right in seen[:3]:
            assert {*left, *right} <= {*pool}
        for left, right in seen[3:]:
            assert ({*left} <= {*p}, {*right} <= {*q}) == (True, True)
            assert (len({*left}), len({*right})) == (10, 9)
        assert len(seen) == 6
