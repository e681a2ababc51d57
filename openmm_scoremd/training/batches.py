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


class RegionDraws:
    """Draw frames in sets of one region each, regions about equally often.

    Parameters
    ----------
    region : Tensor, shape (frames,)
        Region of every frame, numbers from 0, none left out.
    weights : Tensor, shape (regions,)
        Relative frequencies of the regions.
    size : int
        Frames of a set.
    """

    def __init__(self, region: Tensor, *, weights: Tensor, size: int) -> None:
        self.size = size
        self.weights = weights
        self.order = torch.argsort(region, stable=True)
        self.counts = torch.bincount(region)
        self.first = self.counts.cumsum(0) - self.counts

    def draw(self, n_frames: int, n_shared_times: int, generator: torch.Generator) -> Tensor:
        """Return indices of frames; every ``size`` that share a time are of one region.

        Parameters
        ----------
        n_frames : int
            Number of frames.
        n_shared_times : int
            Frames ``i`` and ``i + n_shared_times`` share a time.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor, shape (n_frames,)
            Indices.
        """
        n_sets = n_frames // self.size
        region = torch.multinomial(self.weights, n_sets, replacement=True, generator=generator)
        region = region.view(-1, 1, n_shared_times).expand(-1, self.size, -1).reshape(-1)
        uniform = torch.rand(n_frames, generator=generator, device=self.weights.device)
        within = (uniform * self.counts[region]).long()
        return self.order[self.first[region] + torch.minimum(within, self.counts[region] - 1)]


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
    probed_regions : RegionDraws or None
        Draws the probed frames instead.
    probed_times : callable or None
        Diffusion times of the probed frames; None for those of all frames.

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
        probed_regions: RegionDraws | None = None,
        probed_times: Callable[[Tensor], Tensor] | None = None,
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
        self.probed_regions = probed_regions
        self.probed_times = probed_times
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
        chosen = torch.cat([self._probed(chosen, generator), chosen[self.n_probed :]])
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
        t = self.times(uniform)
        if self.probed_times is not None:
            t = torch.cat([self.probed_times(uniform[: self.n_probed]), t[self.n_probed :]])
        return Batch(x0, t, noise, probes)

    def _probed(self, shuffled: Tensor, generator: torch.Generator) -> Tensor:
        if self.probed_regions is not None:
            n_shared_times = self.n_shared_times or self.n_probed
            return self.probed_regions.draw(self.n_probed, n_shared_times, generator)
        if self.probed_weights is not None:
            return torch.multinomial(
                self.probed_weights, self.n_probed, replacement=True, generator=generator
            )
        return shuffled[: self.n_probed]

    def _shuffled(self, epoch: int) -> Tensor:
        generator = self._generator(_SHUFFLE, epoch)
        return torch.randperm(len(self.frames), generator=generator, device=self.frames.device)

    def _generator(self, stream: int, index: int) -> torch.Generator:
        # Hashing seed, stream and index keeps neighbouring steps unrelated.
        state = np.random.SeedSequence((self.seed, stream, index)).generate_state(1, np.uint64)
        return torch.Generator(self.frames.device).manual_seed(int(state[0]) >> 1)
