"""A mixture of experts over diffusion time: every time has exactly one network."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import ConfigurationError, InvalidInputError
from openmm_scoremd.models.base import ScoreModel


@dataclasses.dataclass(frozen=True)
class Expert:
    """A network and the diffusion times it serves.

    Attributes
    ----------
    model : ScoreModel
        Conservative or direct.
    t_min, t_max : float
        It serves ``t_min <= t <= t_max``; at a time shared with a neighbour, the earlier expert
        does.

    Raises
    ------
    ConfigurationError
        If the interval is empty or outside the times the network takes.
    """

    model: ScoreModel
    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        inside = self.model.t_min <= self.t_min and self.t_max <= self.model.t_max
        if not (self.t_min < self.t_max and inside):
            raise ConfigurationError(
                f"an expert is to serve [{self.t_min}, {self.t_max}]; the interval must not be "
                f"empty and must lie in the network's range [{self.model.t_min}, "
                f"{self.model.t_max}]"
            )


class TimePartitionedMixture(ScoreModel):
    """Experts for disjoint intervals of diffusion time (arXiv 2506.17139, section 4.2).

    Only the network that serves a time is evaluated there, and only the one that serves the time of
    the force has to be conservative.

    Parameters
    ----------
    experts : sequence of Expert
        In any order; together they cover one interval without gap or overlap.

    Raises
    ------
    ConfigurationError
        If there are none, their intervals leave a gap or overlap, or they are networks of different
        molecules.
    """

    def __init__(self, experts: Sequence[Expert]) -> None:
        ordered = sorted(experts, key=lambda expert: expert.t_min)
        check_partition([(expert.t_min, expert.t_max) for expert in ordered])
        _check_same_molecule([expert.model for expert in ordered])
        first = ordered[0].model
        super().__init__(
            n_beads=first.n_beads,
            n_dims=first.n_dims,
            t_min=ordered[0].t_min,
            t_max=ordered[-1].t_max,
        )
        self.invariances = frozenset.intersection(*(e.model.invariances for e in ordered))
        self.experts = nn.ModuleList(expert.model for expert in ordered)
        #: Where each expert but the last ends.
        self.boundaries = tuple(expert.t_max for expert in ordered[:-1])

    @property
    def networks(self) -> list[ScoreModel]:
        """The experts' networks by increasing diffusion time."""
        return [cast(ScoreModel, expert) for expert in self.experts]

    def expert_at(self, t: float) -> ScoreModel:
        """Return the network that serves diffusion time ``t``.

        Raises
        ------
        InvalidInputError
            If no expert does.
        """
        if not self.t_min <= t <= self.t_max:
            raise InvalidInputError(
                f"diffusion time {t} is outside every expert; they serve "
                f"[{self.t_min}, {self.t_max}]"
            )
        return self.networks[sum(t > boundary for boundary in self.boundaries)]

    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the score, shape (B, N, D); see :meth:`ScoreModel.score`.

        Raises
        ------
        InvalidInputError
            If a time is outside every expert.
        """
        # Rounded like the times themselves, or the last time of a sampler would be outside.
        low, high = torch.tensor([self.t_min, self.t_max], dtype=torch.float64).to(t).unbind()
        if bool(((t < low) | (t > high)).any()):
            raise InvalidInputError(
                f"diffusion times {float(t.min()):g} to {float(t.max()):g} are outside every "
                f"expert; they serve [{self.t_min}, {self.t_max}]"
            )
        ends = torch.tensor(self.boundaries, dtype=torch.float64).to(t)
        serving = torch.bucketize(t.contiguous(), ends)
        scores = torch.zeros_like(x)
        for index, expert in enumerate(self.networks):
            (rows,) = (serving == index).nonzero(as_tuple=True)
            if len(rows):
                of_frame = features is not None and features.dim() == 3
                own = features[rows] if of_frame and features is not None else features
                scores = scores.index_copy(0, rows, expert.score(x[rows], t[rows], own))
        return scores


def network_at(model: ScoreModel, t: float) -> ScoreModel:
    """Return the network that gives a model's score at diffusion time ``t``.

    Raises
    ------
    InvalidInputError
        If the model does not serve ``t``.
    """
    if isinstance(model, TimePartitionedMixture):
        return model.expert_at(t)
    if not model.t_min <= t <= model.t_max:
        raise InvalidInputError(
            f"t is {t}; the network takes diffusion times {model.t_min} to {model.t_max}"
        )
    return model


def check_partition(intervals: Sequence[tuple[float, float]]) -> None:
    """Check that intervals, in increasing order, touch and do not overlap.

    Raises
    ------
    ConfigurationError
        If they do not, or there are none.
    """
    if not intervals:
        raise ConfigurationError("a mixture needs at least one expert")
    for (start, end), (following, stop) in itertools.pairwise(intervals):
        if end != following:
            kind = "overlap" if end > following else "leave a gap"
            raise ConfigurationError(
                f"the intervals [{start}, {end}] and [{following}, {stop}] {kind}; every expert "
                "must start where the one before it ends"
            )


def _check_same_molecule(models: Sequence[ScoreModel]) -> None:
    shapes = sorted({(model.n_beads, model.n_dims) for model in models}, key=str)
    if len(shapes) > 1:
        raise ConfigurationError(
            f"the experts are networks of different molecules (beads, dimensions: {shapes}); "
            "combine experts trained on the same dataset"
        )
