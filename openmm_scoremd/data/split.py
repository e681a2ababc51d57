"""Which frames training sees, and which are held back for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from openmm_scoremd.errors import DatasetError, InvalidInputError, ModelFileError

__all__ = ["SPLITS", "Split", "split_frames", "split_of_training"]

#: What is held back: blocks of time, or single frames at random.
Split: TypeAlias = Literal["blocks", "frames"]
SPLITS: Final[tuple[str, ...]] = get_args(Split)

_HELD_BACK_BLOCKS = 10


def split_frames(
    n_frames: int, *, held_back_fraction: float, seed: int, split: Split = "blocks"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split frames into frames to train on and frames to hold back.

    Parameters
    ----------
    n_frames : int
        Number of frames, in the order of time.
    held_back_fraction : float
        Part held back, at least 0 and below 1; rounded to whole frames.
    seed : int
        Seed of places and shuffle.
    split : {"blocks", "frames"}
        Ten blocks of time are held back, one from somewhere in every tenth of the frames; or single
        frames at random, as by versions without a choice. Neighbours of a trajectory resemble each
        other, so that training has nearly seen single ones.

    Returns
    -------
    train, held_back : (n,) int64
        Shuffled frame indices; together every frame once.

    Raises
    ------
    InvalidInputError
        If the fraction is not in [0, 1), or there is no such split.
    DatasetError
        If a part would have no frame although it should.
    """
    if not 0.0 <= held_back_fraction < 1.0:
        raise InvalidInputError(
            f"held_back_fraction is {held_back_fraction}; it must be at least 0 and below 1"
        )
    if split not in SPLITS:
        raise InvalidInputError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    n_held_back = round(n_frames * held_back_fraction)
    if n_frames - n_held_back < 1 or (held_back_fraction > 0.0 and n_held_back < 1):
        raise DatasetError(
            f"{n_frames} frame(s) cannot be split with {held_back_fraction:g} held back; "
            "both parts need a frame: give more frames or another fraction"
        )
    generator = np.random.default_rng(seed)
    if split == "blocks":
        held_back = _blocks_of_time(n_frames, n_held_back, generator)
        train = np.setdiff1d(np.arange(n_frames), held_back)
        return generator.permutation(train), generator.permutation(held_back)
    order = generator.permutation(n_frames).astype(np.int64)
    return order[n_held_back:], order[:n_held_back]


def _blocks_of_time(
    n_frames: int, n_chosen: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return so many frames in blocks, each at a random place of an equal part of the others."""
    n_blocks = min(_HELD_BACK_BLOCKS, n_chosen)
    if n_blocks == 0:
        return np.empty(0, dtype=np.int64)
    # Frames before each block that belong to none, as many as lie in its part or fewer.
    edges = np.linspace(0, n_frames - n_chosen, n_blocks + 1).astype(np.int64)
    before = generator.integers(edges[:-1], edges[1:], endpoint=True)
    blocks = np.array_split(np.arange(n_chosen, dtype=np.int64), n_blocks)
    return np.concatenate([start + block for start, block in zip(before, blocks, strict=True)])


def split_of_training(
    record: Mapping[str, Any], n_frames: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Repeat the split that a training made.

    Parameters
    ----------
    record : mapping
        What a model says about its training.
    n_frames : int
        Frames of the dataset.

    Returns
    -------
    train, held_back : (n,) int64
        See :func:`split_frames`. Models that do not say how held their frames back one by one.

    Raises
    ------
    ModelFileError
        If the record does not say how the frames were split.
    """
    try:
        config = record["config"]
        data = config["data"]
        # The second is its name in models of earlier versions.
        name = "held_out_fraction" if "held_out_fraction" in data else "held_back_fraction"
        fraction, seed = float(data[name]), int(config["seed"])
        split = data.get("split", "frames")
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            "the model was trained on this dataset and does not say which frames were held back; "
            "give a dataset that it was not trained on, or a model of `scoremd train`"
        ) from error
    return split_frames(n_frames, held_back_fraction=fraction, seed=seed, split=split)
