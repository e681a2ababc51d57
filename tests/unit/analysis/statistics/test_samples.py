"""Sets of samples: units, segments, thinning, what is refused."""

import numpy as np
import pytest

from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.errors import InvalidInputError


def frames(*shape):
    """Positions that count frames."""
    n = int(np.prod(shape))
    return np.arange(n, dtype=float).reshape(*shape, 1, 1) * np.ones((1, 3))


def test_independent_frames_are_put_into_batches():
    one = SampleSet(frames(1005))
    assert (one.unit_kind, one.unit_shape, one.segments) == ("batches", (100, 10), ((0, 0, 1005),))
    units = one.in_units(one.positions)
    assert units.shape == (100, 10, 1, 3)
    assert units[0, 0, 0, 0] == 5  # what is left over goes first
    assert units[-1, -1, 0, 0] == 1004


@pytest.mark.parametrize(
    ("shape", "kind", "units"),
    [
        ((12, 40), "replicas", (12, 40)),
        ((4, 40), "blocks", (12, 13)),
        ((1, 25), "blocks", (12, 2)),
        ((1, 7), "blocks", (7, 1)),
    ],
)
def test_units_of_trajectories(shape, kind, units):
    one = SampleSet(frames(*shape))
    assert (one.unit_kind, one.unit_shape) == (kind, units)
    found = one.in_units(one.positions)
    assert found.shape == (*units, 1, 3)
    # Blocks are stretches of one replica.
    assert (np.diff(found[..., 0, 0], axis=1) == 1).all()
    assert (found[..., 0, 0] // shape[1] == found[:, :1, 0, 0] // shape[1]).all()


@pytest.mark.parametrize(("n", "units"), [(2, 2), (99, 99), (199, 199), (250, 125), (399, 133)])
def test_hardly_a_frame_is_left_over(n, units):
    one = SampleSet(frames(n))
    assert one.unit_shape[0] == units
    assert n - units * one.unit_shape[1] < 0.01 * n


def test_segments_end_at_breaks():
    one = SampleSet(frames(3, 10), breaks={1: [7, 4], 2: [0, 10]})
    assert one.segments == ((0, 0, 10), (1, 0, 4), (1, 4, 7), (1, 7, 10), (2, 0, 10))
    pieces = [piece[:, 0, 0].tolist() for piece in one.pieces(one.positions)]
    assert pieces[1:4] == [[10, 11, 12, 13], [14, 15, 16], [17, 18, 19]]


def test_thinned_trajectories_keep_breaks_and_time():
    one = SampleSet(frames(2, 100), {0: [41], 1: [60]}, frame_interval=0.5, restarts_per_frame=0.01)
    thin = one.thinned(40)
    assert thin.restarts_per_frame == 0.01
    assert thin.positions[0, :3, 0, 0].tolist() == [0, 5, 10]
    assert (thin.n_frames, thin.frame_interval) == (40, 2.5)
    # Frame 41 starts a segment: 40 is the last one before, 45 the first one after.
    assert thin.segments == ((0, 0, 9), (0, 9, 20), (1, 0, 12), (1, 12, 20))
    assert one.thinned(200) is one
    assert one.thinned(None) is one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.zeros((5, 3))}, "have shape"),
        ({"positions": frames(1)}, "at least two frames"),
        ({"positions": np.full((4, 2, 3), np.nan)}, "NaN"),
        ({"breaks": {0: [3]}}, "belong to trajectories"),
        ({"positions": frames(2, 5), "breaks": {2: [3]}}, "replica 2"),
        ({"positions": frames(2, 5), "breaks": {0: [6]}}, "lie inside"),
        ({"positions": frames(2, 5), "frame_interval": 0.0}, "must be positive"),
    ],
)
def test_impossible_input(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        SampleSet(**{"positions": frames(5), **changes})


class TestUnitsOfCorrelatedFrames:
    @pytest.mark.parametrize(
        ("shape", "inefficiency", "units"),
        [
            ((1000, 1, 2), 1.0, (100, 10)),
            ((1000, 1, 2), 3.5, (100, 10)),
            ((1000, 1, 2), 11.0, (25, 40)),
            ((1000, 1, 2), 101.0, (2, 400)),
            ((1000, 1, 2), 900.0, (2, 500)),
            ((4, 300, 1, 2), 1.0, (12, 100)),
            ((4, 300, 1, 2), 51.0, (4, 200)),
            ((4, 300, 1, 2), 290.0, (4, 300)),
            ((1, 300, 1, 2), 290.0, (2, 150)),
            ((20, 300, 1, 2), 290.0, (20, 300)),
        ],
    )
    def test_hold_four_correlation_times_or_all_there_is(self, shape, inefficiency, units):
        assert SampleSet(np.zeros(shape), inefficiency=inefficiency).unit_shape == units
