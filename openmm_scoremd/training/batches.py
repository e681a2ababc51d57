"""Batches as a function of seed and step, so that a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.geometry import random_rotations
from openmm_scoremd.training.objective import Batch

#: Independent random streams of one seed.
_SHUFFLE, _NOISE = 0, 1


class BatchStream:
    """Shuffled, augmented, noised batches of frames; any step can be asked for.

    Parameters
    ----------
    frames : Tensor, shape (frames, N, D)
        Standardised training frames, on the device where batches are wanted.
    batch_size : int
        Frames per batch.
    times : callable
        Diffusion times for numbers uniform in [0, 1).
    augmentation : {"rotation", "none"}
        Random proper rotations, or nothing.
    seed : int
        Seed of shuffling, rotations, times and noise.
    n_probed : int
        First frames of every batch that get probes for the Fokker-Planck residual.
    n_shared_times : int or None
        The probed frames have this many times, repeating; None for a time of their own each.

    probed_weights : Tensor, shape (frames,), or None
        Relative probabilities with which the probed frames are drawn, with replacement; None for
        those of the shuffled data.

    Raises
    ------
    ConfigurationError
        If there are fewer frames than one batch needs, or rotations are asked for in 2-D.
    """

    def __init__(
        self,
        frames: Tensor,
        *,
        batch_size: int,
        times: Callable[[Tensor], Tensor],
        augmentation: Literal["rotation", "none"],
        seed: int,
        n_probed: int = 0,
        n_shared_times: int | None = None,
        probed_weights: Tensor | None = None,
    ) -> None:
        if len(frames) < batch_size:
            raise ConfigurationError(
                f"batch_size is {batch_size} and there are {len(frames)} training frames; "
                "use a smaller batch or more frames"
            )
        if augmentation == "rotation" and frames.shape[2] != 3:
            raise ConfigurationError(
                f"the frames have {frames.shape[2]} dimensions, so they cannot be rotated; "
                "set data.augmentation: none"
            )
        self.frames = frames
        self.batch_size = batch_size
        self.times = times
        self.augmentation = augmentation
        self.seed = seed
        self.n_probed = n_probed
        self.n_shared_times = n_shared_times
        self.probed_weights = probed_weights
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in one pass over the frames."""
        return len(self.frames) // self.batch_size

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = self._shuffled(epoch)
            self._epoch = epoch
        chosen = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        generator = self._generator(_NOISE, step)
        if self.probed_weights is not None:
            probed = torch.multinomial(
                self.probed_weights, self.n_probed, replacement=True, generator=generator
            )
            chosen = torch.cat([probed, chosen[self.n_probed :]])
        x0 = self.frames[chosen]
        dtype, device = x0.dtype, x0.device
        if self.augmentation == "rotation":
            x0 = x0 @ random_rotations(len(x0), generator=generator, dtype=dtype, device=device)
        uniform = torch.rand(len(x0), generator=generator, dtype=dtype, device=device)
        noise = torch.randn(x0.shape, generator=generator, dtype=dtype, device=device)
        if not self.n_probed:
            return Batch(x0, self.times(uniform), noise)
        if self.n_shared_times is not None:
            index = torch.arange(len(x0), device=device)
            shared = index < self.n_probed
            uniform = uniform[torch.where(shared, index % self.n_shared_times, index)]
        shape = (2, self.n_probed, *x0.shape[1:])
        probes = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        return Batch(x0, self.times(uniform), noise, probes)

    def _shuffled(self, epoch: int) -> Tensor:
        generator = self._generator(_SHUFFLE, epoch)
        return torch.randperm(len(self.frames), generator=generator, device=self.frames.device)

    def _generator(self, stream: int, index: int) -> torch.Generator:
        # Hashing seed, stream and index keeps neighbouring steps unrelated.
        state = np.random.SeedSequence((self.seed, stream, index)).generate_state(1, np.uint64)
        return torch.Generator(self.frames.device).manual_seed(int(state[0]) >> 1)
