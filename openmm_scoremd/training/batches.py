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

#: Random numbers are drawn for so many steps at once, or fewer if they are more than this many
#: coordinates: for small networks the calls would otherwise cost more than the network. Another
#: number here is another stream of random numbers.
_BLOCK_STEPS, _BLOCK_COORDINATES = 64, 2**22


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

    def draw(
        self, n_steps: int, n_frames: int, n_shared_times: int, generator: torch.Generator
    ) -> Tensor:
        """Return indices of frames; every ``size`` that share a time are of one region.

        Parameters
        ----------
        n_steps : int
            Number of steps.
        n_frames : int
            Number of frames of a step, a multiple of ``size * n_shared_times``.
        n_shared_times : int
            Frames ``i`` and ``i + n_shared_times`` of a step share a time.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor, shape (n_steps, n_frames)
            Indices. Of the frames of one step and time, in order, each ``size`` in a row are a set.
        """
        n_sets = n_steps * n_frames // self.size
        region = torch.multinomial(self.weights, n_sets, replacement=True, generator=generator)
        # (steps, sets of one time, 1, times): all frames of a set are of its region.
        region = region.view(n_steps, -1, 1, n_shared_times)
        region = region.expand(-1, -1, self.size, -1).reshape(n_steps, n_frames)
        uniform = torch.rand(region.shape, generator=generator, device=self.weights.device)
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
        coordinates = batch_size * frames[0].numel()
        self._block_steps = max(1, min(_BLOCK_STEPS, _BLOCK_COORDINATES // coordinates))
        self._block = -1
        self._batches: list[Batch] = []
        self._orders: dict[int, Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in one pass over the frames."""
        return len(self.frames) // self.batch_size

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over all epochs."""
        block, position = divmod(step, self._block_steps)
        if block != self._block:
            self._batches = self._draw(block)
            self._block = block
        return self._batches[position]

    def _draw(self, block: int) -> list[Batch]:
        """Return the batches of as many steps as are drawn at once."""
        n_steps, generator = self._block_steps, self._generator(_NOISE, block)
        chosen = self._chosen(block * n_steps)
        self._choose_probed(chosen, generator)
        x0 = self.frames[chosen.flatten()]
        dtype, device = x0.dtype, x0.device
        if self.augmentation == "rotation":
            x0 = x0 @ random_rotations(len(x0), generator=generator, dtype=dtype, device=device)
        x0 = x0.view(n_steps, self.batch_size, *self.frames.shape[1:])
        uniform = torch.rand(x0.shape[:2], generator=generator, dtype=dtype, device=device)
        noise = torch.randn(x0.shape, generator=generator, dtype=dtype, device=device)
        if self.n_probed and self.n_shared_times is not None:
            index = torch.arange(self.batch_size, device=device)
            shared = torch.where(index < self.n_probed, index % self.n_shared_times, index)
            uniform = uniform[:, shared]
        t = self.times(uniform)
        if self.probed_times is not None:
            t[:, : self.n_probed] = self.probed_times(uniform[:, : self.n_probed])
        arrays = [x0, t, noise]
        if self.n_probed:
            shape = (n_steps, 2, self.n_probed, *x0.shape[2:])
            arrays.append(torch.randn(shape, generator=generator, dtype=dtype, device=device))
        # Every step alike in memory, because a compiled step takes that for granted.
        parts = zip(*(array.contiguous().unbind(0) for array in arrays), strict=True)
        return [Batch(*of_step) for of_step in parts]

    def _choose_probed(self, chosen: Tensor, generator: torch.Generator) -> None:
        """Overwrite the frames (steps, batch) to probe, where these are not the batch's own."""
        n_steps = len(chosen)
        if self.probed_regions is not None:
            chosen[:, : self.n_probed] = self.probed_regions.draw(
                n_steps, self.n_probed, self.n_shared_times or self.n_probed, generator
            )
        elif self.probed_weights is not None:
            probed = torch.multinomial(
                self.probed_weights,
                n_steps * self.n_probed,
                replacement=True,
                generator=generator,
            )
            chosen[:, : self.n_probed] = probed.view(n_steps, self.n_probed)

    def _chosen(self, first_step: int) -> Tensor:
        """Return the frames (steps, batch) of a block of steps, each once an epoch."""
        used = self.steps_per_epoch * self.batch_size
        first = first_step * self.batch_size
        last = first + self._block_steps * self.batch_size
        epochs = range(first // used, (last - 1) // used + 1)
        for epoch in [epoch for epoch in self._orders if epoch not in epochs]:
            del self._orders[epoch]
        for epoch in epochs:
            if epoch not in self._orders:
                self._orders[epoch] = self._shuffled(epoch)[:used]
        order = torch.cat([self._orders[epoch] for epoch in epochs])
        start = first - epochs[0] * used
        return order[start : start + last - first].view(self._block_steps, self.batch_size).clone()

    def _shuffled(self, epoch: int) -> Tensor:
        generator = self._generator(_SHUFFLE, epoch)
        return torch.randperm(len(self.frames), generator=generator, device=self.frames.device)

    def _generator(self, stream: int, index: int) -> torch.Generator:
        # Hashing seed, stream and index keeps neighbouring steps unrelated.
        state = np.random.SeedSequence((self.seed, stream, index)).generate_state(1, np.uint64)
        return torch.Generator(self.frames.device).manual_seed(int(state[0]) >> 1)
