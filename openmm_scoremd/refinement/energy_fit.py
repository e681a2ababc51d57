"""One round of relative-entropy refinement.

An energy is changed so that its simulation has the distribution of the data, with frames that were
simulated before the change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from openmm_scoremd.diffusion.loss import denoising_score_matching_loss
from openmm_scoremd.diffusion.relative_entropy import (
    effective_fraction,
    population_mismatch,
    relative_entropy,
)
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, NumericalError
from openmm_scoremd.geometry import random_rotations
from openmm_scoremd.models.base import EnergyModel

#: Called as ``progress(iterations_done, iterations_in_all)``.
Progress = Callable[[int, int], None]

#: Adam's first steps are as large as any; they would use up the simulated frames.
_WARM_UP = 0.1
#: Frames whose energy is evaluated together.
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How an energy is changed in one round.

    Attributes
    ----------
    iterations : int
        Optimiser steps.
    learning_rate : float
        Largest learning rate of Adam; it rises over a tenth of the iterations and falls to zero.
    frames : int
        Frames of the data, and of the simulation, in a step.
    region_weight : float
        Weight of :func:`population_mismatch`.
    region_frames : int
        Frames of every region in a step, from the simulation and as many from the data; a region
        that the simulation visited less often is left out.
    denoising_weight : float
        Weight of denoising score matching, which keeps the score at the network's other times.
    denoising_frames : int
        Its frames in a step.

    Raises
    ------
    ConfigurationError
        If a number is out of range.
    """

    iterations: int = 150
    learning_rate: float = 1e-4
    frames: int = 1024
    region_weight: float = 1.0
    region_frames: int = 32
    denoising_weight: float = 1.0
    denoising_frames: int = 96

    def __post_init__(self) -> None:
        for name in ("iterations", "frames", "region_frames", "denoising_frames"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "region_weight", "denoising_weight"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigurationError(f"{name} is {value}; it must be 0 or larger, and finite")


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames of one kind and where they lie.

    Attributes
    ----------
    positions : Tensor, shape (frames, N, D)
        Standardised coordinates.
    region : Tensor, shape (frames,)
        Region of every frame.
    """

    positions: Tensor
    region: Tensor


@dataclasses.dataclass(frozen=True)
class SimulatedFrames(Frames):
    """Frames of one simulation.

    Attributes
    ----------
    energy : Tensor, shape (frames,)
        Reduced energies that they were simulated with.
    """

    energy: Tensor


@dataclasses.dataclass(frozen=True)
class FitReport:
    """How a round went.

    Attributes
    ----------
    mismatch : float
        Root mean square difference of the logarithms of the regions' populations, simulation
        against data, before the round.
    regions : int
        Regions that this is of.
    effective_fraction : float
        Part of the simulated frames that counts after reweighting, at the end. Where it is small
        the round went further than its frames can tell.
    """

    mismatch: float
    regions: int
    effective_fraction: float


class EnergyFit:
    """Changes a network so that the relative entropy of its simulation from the data falls.

    Parameters
    ----------
    model : EnergyModel
        Network; its parameters are changed.
    schedule : VPSchedule
        Its noise schedule.
    t : float
        Diffusion time of the force.
    times : callable
        Maps uniform numbers to the diffusion times of denoising score matching.
    augmentation : {"rotation", "none"}
        As in training.
    settings : FitSettings
        How.
    seed : int
        Seed of all draws.
    """

    def __init__(
        self,
        model: EnergyModel,
        *,
        schedule: VPSchedule,
        t: float,
        times: Callable[[Tensor], Tensor],
        augmentation: Literal["rotation", "none"],
        settings: FitSettings,
        seed: int,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.t = t
        self.times = times
        self.augmentation = augmentation
        self.settings = settings
        self.generator = torch.Generator().manual_seed(seed)

    def energies(self, x: Tensor) -> Tensor:
        """Return the energies (frames,) at the time of the force, of frames (frames, N, D)."""
        with torch.no_grad():
            parts = [
                self.model.energy(part, torch.full((len(part),), self.t, dtype=part.dtype))
                for part in torch.split(x, _CHUNK)
            ]
        return torch.cat(parts)

    def pooled(self, earlier: Sequence[SimulatedFrames], last: SimulatedFrames) -> Frames:
        """Return as many frames as the last simulation has, drawn from all of them.

        The last one was made with the network as it is. Frames of earlier ones are reweighted to
        it, and a simulation counts by its effective number of frames.
        """
        weights = [torch.ones_like(last.energy)]
        for frames in earlier:
            change = frames.energy - self.energies(frames.positions)
            size = effective_fraction(change) * len(change)
            weights.append(torch.softmax(change, 0) * size)
        chosen = torch.multinomial(
            torch.cat(weights).double(),
            len(last.energy),
            replacement=True,
            generator=self.generator,
        )
        simulations = [last, *earlier]
        return Frames(
            torch.cat([frames.positions for frames in simulations])[chosen],
            torch.cat([frames.region for frames in simulations])[chosen],
        )

    def run(
        self, data: Frames, simulated: Frames, *, progress: Progress | None = None
    ) -> FitReport:
        """Do one round.

        Parameters
        ----------
        data, simulated : Frames
            Frames of the data, and of the distribution of the network as it is.
        progress : callable, optional
            Progress report.

        Raises
        ------
        NumericalError
            If the loss is not finite, or simulation and data share no two regions.
        """
        regions = _Regions(data.region, simulated.region, self.settings.region_frames)
        # As they are turned now they stay, because energies before the change belong to them.
        turned = self._rotated(torch.cat([simulated.positions, data.positions]))
        before = self.energies(turned)
        n = self.settings.iterations
        optimizer = torch.optim.Adam(self.model.parameters())
        fraction = torch.ones(())
        for i in range(n):
            optimizer.param_groups[0]["lr"] = self.settings.learning_rate * _rate(i, n)
            optimizer.zero_grad()
            loss, fraction = self._loss(data.positions, turned, before, regions)
            if not bool(torch.isfinite(loss)):
                raise NumericalError(
                    f"the loss of a refinement is not finite at iteration {i}; lower learning_rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None:
                progress(i + 1, n)
        return FitReport(
            mismatch=regions.mismatch(),
            regions=len(regions.data),
            effective_fraction=float(fraction),
        )

    def _loss(
        self, data: Tensor, turned: Tensor, before: Tensor, regions: _Regions
    ) -> tuple[Tensor, Tensor]:
        settings = self.settings
        chosen = self._draw(len(turned) - len(data), settings.frames)
        of_regions = regions.draw(self.generator)
        # One evaluation for everything at this time.
        x = torch.cat(
            [
                self._rotated(data[self._draw(len(data), settings.frames)]),
                turned[chosen],
                turned[of_regions.flatten()],
            ]
        )
        energy = self.model.energy(x, torch.full((len(x),), self.t, dtype=x.dtype))
        of_data, of_simulated, in_regions = torch.split(
            energy, [settings.frames, settings.frames, of_regions.numel()]
        )
        change = before[of_regions] - in_regions.view(of_regions.shape)
        loss = relative_entropy(of_data, of_simulated, before[chosen])
        loss = loss + settings.region_weight * population_mismatch(
            change, regions.log_simulated, regions.log_data
        )
        if settings.denoising_weight > 0.0:
            loss = loss + settings.denoising_weight * self._denoising(data)
        return loss, effective_fraction((before[chosen] - of_simulated).detach())

    def _denoising(self, data: Tensor) -> Tensor:
        n = self.settings.denoising_frames
        x0 = self._rotated(data[self._draw(len(data), n)])
        t = self.times(torch.rand(n, generator=self.generator, dtype=x0.dtype))
        noise = torch.randn(x0.shape, generator=self.generator, dtype=x0.dtype)
        losses = denoising_score_matching_loss(
            self.model.score, self.schedule, x0, t=t, noise=noise, weight=torch.ones_like(t)
        )
        # Summed over coordinates, as energies are.
        return losses.mean() * x0[0].numel()

    def _draw(self, n: int, size: int) -> Tensor:
        return torch.randint(n, (size,), generator=self.generator)

    def _rotated(self, x: Tensor) -> Tensor:
        if self.augmentation == "none":
            return x
        return x @ random_rotations(
            len(x), generator=self.generator, dtype=x.dtype, device=x.device
        )


class _Regions:
    """The regions that a simulation visited often enough.

    What a change of the energy does to the population of a region is estimated with frames of the
    simulation and of the data: those of a rare state are few and alike in the simulation, and an
    energy could be made to fit them alone.
    """

    def __init__(self, data: Tensor, simulated: Tensor, size: int) -> None:
        n = int(max(data.max(), simulated.max())) + 1
        counts = torch.bincount(simulated, minlength=n)
        of_data = torch.bincount(data, minlength=n)
        used = ((counts >= size) & (of_data > 0)).nonzero().flatten()
        if len(used) < 2:
            raise NumericalError(
                f"the simulation has {size} or more frames in {len(used)} of the data's regions; "
                "simulate longer, or train the network better first"
            )
        self.size = size
        self.simulated = [(simulated == region).nonzero().flatten() for region in used]
        self.data = [(data == region).nonzero().flatten() + len(simulated) for region in used]
        self.log_simulated = (counts[used] / counts[used].sum()).log()
        self.log_data = (of_data[used] / of_data[used].sum()).log()

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return frames of every region, shape (regions, 2 size); the data's follow the others."""
        halves = [
            torch.stack(
                [
                    frames[torch.randint(len(frames), (self.size,), generator=generator)]
                    for frames in members
                ]
            )
            for members in (self.simulated, self.data)
        ]
        return torch.cat(halves, 1)

    def mismatch(self) -> float:
        """Return the root mean square difference of the logarithms of the populations."""
        return float((self.log_simulated - self.log_data).square().mean().sqrt())


def _rate(iteration: int, n: int) -> float:
    """Return the part of the learning rate: up in a straight line, down in half a cosine."""
    done = (iteration + 0.5) / n
    if done < _WARM_UP:
        return done / _WARM_UP
    return 0.5 * (1.0 + math.cos(math.pi * (done - _WARM_UP) / (1.0 - _WARM_UP)))
