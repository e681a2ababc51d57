"""Frames held back: all of them once, in blocks of time, and as earlier versions did."""

import numpy as np
import pytest

from openmm_scoremd.data.split import split_frames, split_of_training
from openmm_scoremd.errors import DatasetError, InvalidInputError, ModelFileError


@pytest.mark.parametrize("split", ["blocks", "frames"])
def test_split_holds_every_frame_once(split):
    train, held_back = split_frames(1000, held_back_fraction=0.1, seed=3, split=split)
    assert (len(train), len(held_back)) == (900, 100)
    assert train.dtype == held_back.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_back])), np.arange(1000))
    assert not np.array_equal(train, np.sort(train))
    again = split_frames(1000, held_back_fraction=0.1, seed=3, split=split)
    other = split_frames(1000, held_back_fraction=0.1, seed=4, split=split)
    np.testing.assert_array_equal(again[0], train)
    assert not np.array_equal(other[0], train)


def test_split_without_held_back_frames():
    train, held_back = split_frames(5, held_back_fraction=0.0, seed=0)
    assert (len(train), len(held_back)) == (5, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_split_refuses_impossible_fractions(fraction):
    with pytest.raises(InvalidInputError, match="held_back_fraction"):
        split_frames(10, held_back_fraction=fraction, seed=0)


@pytest.mark.parametrize(("n_frames", "fraction"), [(1, 0.5), (1, 0.9), (0, 0.0), (4, 0.1)])
def test_split_refuses_an_empty_part(n_frames, fraction):
    with pytest.raises(DatasetError, match=rf"^{n_frames} frame"):
        split_frames(n_frames, held_back_fraction=fraction, seed=0)


@pytest.mark.parametrize(
    ("n_frames", "n_held_back"), [(1000, 200), (97, 19), (31, 6), (5, 4), (2, 1)]
)
def test_blocks_of_time_from_everywhere(n_frames, n_held_back):
    for seed in range(20):
        fraction = n_held_back / n_frames
        _, held_back = split_frames(n_frames, held_back_fraction=fraction, seed=seed)
        inside = np.zeros(n_frames, dtype=int)
        inside[held_back] = 1
        starts = int((np.diff(inside, prepend=0) == 1).sum())
        assert inside.sum() == n_held_back
        assert starts <= min(10, n_held_back)  # two blocks may touch
        if n_frames == 1000:
            assert starts >= 7
            # Every fifth of the trajectory has two blocks, but for one at the edge.
            assert all(20 <= part.sum() <= 60 for part in np.split(inside, 5))


def test_neighbours_of_held_back_frames_are_held_back():
    def seen_neighbours(split):
        train, held_back = split_frames(1000, held_back_fraction=0.2, seed=0, split=split)
        return np.isin(held_back + 1, train).sum()

    assert seen_neighbours("blocks") <= 10
    assert seen_neighbours("frames") > 100


def test_first_numbers_of_earlier_versions():
    train, held_back = split_frames(10, held_back_fraction=0.3, seed=3, split="frames")
    np.testing.assert_array_equal(
        np.concatenate([held_back, train]), [9, 6, 0, 2, 1, 4, 7, 5, 3, 8]
    )


@pytest.mark.parametrize(
    ("data", "split"),
    [
        ({"held_back_fraction": 0.3}, "frames"),
        ({"held_out_fraction": 0.3}, "frames"),
        ({"held_out_fraction": 0.3, "split": "frames"}, "frames"),
        ({"held_out_fraction": 0.3, "split": "blocks"}, "blocks"),
    ],
)
def test_of_a_training(data, split):
    found = split_of_training({"config": {"seed": 3, "data": data}}, 50)
    expected = split_frames(50, held_back_fraction=0.3, seed=3, split=split)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"config": 3},
        {"config": {"seed": 3, "data": {}}},
        {"config": {"seed": 3, "data": {"held_out_fraction": 0.3, "split": "later"}}},
    ],
)
def test_of_a_training_that_does_not_say(record):
    with pytest.raises(ModelFileError, match="does not say which frames were held back"):
        split_of_training(record, 50)


def test_unknown_split():
    with pytest.raises(InvalidInputError, match="split is 'x'; it must be one of blocks, frames"):
        split_frames(10, held_back_fraction=0.3, seed=0, split="x")
