"""The loss of one batch, as plain eager code or as one compiled graph of value and gradient."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openmm_scoremd.diffusion.fokker_planck import (
    centred_fokker_planck_loss,
    regional_fokker_planck_loss,
    scaled_residuals,
    weak_residual,
)
from openmm_scoremd.diffusion.loss import denoising_score_matching_loss
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.diffusion.weighting import TimeWeighting
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.training.compiled.compiler_forms import forms_for_compiler
from openmm_scoremd.training.compiled.inductor import Layouts, compile_graph, layouts, traced

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Everything random about one step, so that the loss is a function.

    Attributes
    ----------
    x0, noise : Tensor, shape (B, N, D)
        Standardised, augmented frames and standard normal noise.
    t : Tensor, shape (B,)
        Diffusion times.
    probes : Tensor, shape (2, M, N, D), or None
        Standard normal numbers for the Fokker-Planck residual of the first M frames.
    """

    x0: Tensor
    t: Tensor
    noise: Tensor
    probes: Tensor | None = None

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """What an objective takes."""
        base = (self.x0, self.t, self.noise)
        return base if self.probes is None else (*base, self.probes)

    def part(self, rank: int, world_size: int) -> Batch:
        """Return the share of one process."""
        x0, t, noise = (v[rank::world_size].contiguous() for v in (self.x0, self.t, self.noise))
        probes = None if self.probes is None else self.probes[:, rank::world_size].contiguous()
        return Batch(x0, t, noise, probes)


class DenoisingObjective(nn.Module):
    """Mean weighted denoising score matching loss of a batch.

    Parameters
    ----------
    model : ScoreModel
        Network to train.
    schedule : VPSchedule
        Noise schedule.
    weighting : TimeWeighting
        Weight over diffusion time.
    """

    def __init__(
        self, model: ScoreModel, *, schedule: VPSchedule, weighting: TimeWeighting
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.weighting = weighting

    def forward(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the scalar loss of the arrays of a :class:`Batch`."""
        losses = denoising_score_matching_loss(
            self.model.score, self.schedule, x0, t=t, noise=noise, weight=self.weighting(t)
        )
        return losses.mean()


class WeakFokkerPlanckObjective(nn.Module):
    """Denoising score matching and the published Fokker-Planck regulariser.

    Parameters
    ----------
    model : EnergyModel
        Network to train.
    schedule : VPSchedule
        Noise schedule.
    weighting : TimeWeighting
        Weight of both terms over diffusion time.
    alpha : float
        Weight of the regulariser.
    probe_sigma : float
        Standard deviation of its displacements.
    """

    def __init__(
        self,
        model: EnergyModel,
        *,
        schedule: VPSchedule,
        weighting: TimeWeighting,
        alpha: float,
        probe_sigma: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.weighting = weighting
        self.alpha = alpha
        self.probe_sigma = probe_sigma

    def forward(self, x0: Tensor, t: Tensor, noise: Tensor, probes: Tensor) -> Tensor:
        """Return the scalar loss of the arrays of a :class:`Batch`."""
        weight = self.weighting(t)
        denoising = denoising_score_matching_loss(
            self.model.score, self.schedule, x0, t=t, noise=noise, weight=weight
        )
        n = probes.shape[1]
        first, second = weak_residual(
            self.model.score_and_time_derivative,
            self.schedule,
            self.schedule.noise_sample(x0[:n], t[:n], noise[:n]),
            t[:n],
            probes=probes,
            probe_sigma=self.probe_sigma,
        )
        squared = first * second / x0[0].numel() ** 2
        loss: Tensor = denoising.mean() + self.alpha * (weight[:n] * squared).mean()
        return loss


class CentredFokkerPlanckObjective(nn.Module):
    """Denoising score matching and a cheaper Fokker-Planck regulariser, in one network call.

    Parameters
    ----------
    model : EnergyModel
        Network to train.
    schedule : VPSchedule
        Noise schedule.
    weighting : TimeWeighting
        Weight of both terms over diffusion time.
    alpha : float
        Weight of the regulariser.
    probe_sigma : float
        Standard deviation of its displacements.
    group_size : int
        Of the frames that have probes, ``i`` and ``j`` share a diffusion time if ``i - j`` is a
        multiple of their number divided by this.
    noise_floor : float
        See :func:`scaled_residuals`.
    of_data : bool
        Whether the frames with probes are distributed as the data; otherwise they have no part in
        denoising score matching.
    region_alpha : float
        Weight of :func:`regional_fokker_planck_loss`, 0 for none.
    region_size : int
        See there.
    """

    def __init__(
        self,
        model: EnergyModel,
        *,
        schedule: VPSchedule,
        weighting: TimeWeighting,
        alpha: float,
        probe_sigma: float,
        group_size: int,
        noise_floor: float,
        of_data: bool,
        region_alpha: float = 0.0,
        region_size: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.weighting = weighting
        self.alpha = alpha
        self.probe_sigma = probe_sigma
        self.of_data = of_data
        self.group_size = group_size
        self.noise_floor = noise_floor
        self.region_alpha = region_alpha
        self.region_size = region_size

    def forward(self, x0: Tensor, t: Tensor, noise: Tensor, probes: Tensor) -> Tensor:
        """Return the scalar loss of the arrays of a :class:`Batch`."""
        batch, n = len(x0), probes.shape[1]
        x = self.schedule.noise_sample(x0, t, noise)
        moved = (x[:n] + self.probe_sigma * probes).flatten(0, 1)
        score, time_derivative = self.model.score_and_time_derivative(
            torch.cat([x, moved]), torch.cat([t, t[:n], t[:n]])
        )
        weight = self.weighting(t)
        residual = noise + self.schedule.sigma(t)[:, None, None] * score[:batch]
        first = 0 if self.of_data else n
        denoising = (weight * residual.square().mean(dim=(1, 2)))[first:]
        residuals = scaled_residuals(
            self.schedule,
            x[:n],
            t[:n],
            score=score[:n],
            time_derivative=time_derivative[:n],
            probed_scores=score[batch:].view(probes.shape),
            probes=probes,
            probe_sigma=self.probe_sigma,
            noise_floor=self.noise_floor,
        )
        # Per coordinate, like denoising score matching.
        regulariser = self._regulariser(residuals) / x0[0].numel() ** 2
        of_groups = weight[: len(regulariser)]
        return denoising.mean() + (of_groups * regulariser).mean()

    def _regulariser(self, residuals: Tensor) -> Tensor:
        losses = self.alpha * centred_fokker_planck_loss(residuals, group_size=self.group_size)
        if self.region_alpha == 0.0:
            return losses
        regional = regional_fokker_planck_loss(
            residuals, group_size=self.group_size, region_size=self.region_size
        )
        return losses + self.region_alpha * regional


class CompiledObjective(nn.Module):
    """The same loss; value and parameter gradients come from one compiled graph.

    ``torch.compile`` cannot differentiate twice, and the score is a derivative already. So value
    and gradient are traced together into one graph of elementary operators, which is compiled;
    autograd then sees a single function whose derivative is known. The shape of the batch is part
    of the graph; another shape is traced anew.

    Parameters
    ----------
    objective : nn.Module
        What to compile.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self._graphs: dict[Layouts, Callable[..., Sequence[Tensor]]] = {}

    def forward(self, *arrays: Tensor) -> Tensor:
        """Return the scalar loss of the arrays of a :class:`Batch`."""
        parameters = tuple(self.objective.parameters())
        of_arrays = layouts(arrays)
        if of_arrays not in self._graphs:
            self._graphs[of_arrays] = self._compile(parameters, arrays)
        loss: Tensor = _PrecomputedGradient.apply(  # type: ignore[no-untyped-call]
            self._graphs[of_arrays], len(arrays), *arrays, *parameters
        )
        return loss

    def _compile(
        self, parameters: tuple[Tensor, ...], arrays: tuple[Tensor, ...]
    ) -> Callable[..., Sequence[Tensor]]:
        def function(*tensors: Tensor) -> list[Tensor]:
            return value_and_gradients(self.objective, tensors[:n_arrays], tensors[n_arrays:])

        n_arrays = len(arrays)
        tensors = [*arrays, *(p.detach() for p in parameters)]
        return compile_graph(traced(function, tensors), tensors)


def value_and_gradients(
    objective: nn.Module, arrays: Sequence[Tensor], values: Sequence[Tensor]
) -> list[Tensor]:
    """Return the loss and its gradients with respect to all parameters, to be traced.

    Parameters
    ----------
    objective : nn.Module
        The loss.
    arrays : sequence of Tensor
        Those of a :class:`Batch`.
    values : sequence of Tensor
        Values of the parameters, in the order of ``objective.parameters()``.
    """
    names = [name for name, _ in objective.named_parameters()]
    n_beads = arrays[0].shape[1]
    with torch.enable_grad(), forms_for_compiler(objective, n_beads=n_beads):  # type: ignore[no-untyped-call]
        leaves = [value.detach().requires_grad_() for value in values]
        state = dict(zip(names, leaves, strict=True))
        loss = torch.func.functional_call(objective, state, tuple(arrays))
        # Materialised: an additive constant of the energy has no gradient at all.
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return [loss.detach(), *gradients]


class _PrecomputedGradient(torch.autograd.Function):
    """Hand autograd a gradient that was computed together with the value."""

    @staticmethod
    def forward(
        ctx: Any, graph: Callable[..., Sequence[Tensor]], n_arrays: int, *tensors: Tensor
    ) -> Tensor:
        arrays = list(tensors[:n_arrays])
        parameters = [p.detach() for p in tensors[n_arrays:]]
        loss, *gradients = graph(*arrays, *parameters)
        ctx.n_arrays = n_arrays
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # Plain `loss.backward()` passes 1; anything else scales the gradient.
        gradients = [gradient * outer[0] for gradient in ctx.saved_tensors]
        return (None, None, *([None] * ctx.n_arrays), *gradients)


def choose_objective(objective: nn.Module, *, backend: str) -> nn.Module:
    """Return the objective in the form that a backend runs.

    Parameters
    ----------
    objective : nn.Module
        The loss.
    backend : {"auto", "eager", "compiled"}
        ``auto`` compiles on CUDA, and on CPU where a C++ compiler is found; it logs its choice.

    Returns
    -------
    nn.Module
        Takes the arrays of a :class:`Batch` and returns the scalar loss.
    """
    if backend == "auto":
        compiler = torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")
        backend = "compiled" if compiler else "eager"
        logger.info("training backend: %s", backend)
    return CompiledObjective(objective) if backend == "compiled" else objective
