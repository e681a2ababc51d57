"""What every network offers: a score, and for conservative ones an energy."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import InvalidInputError


class ScoreModel(nn.Module, ABC):
    """A network for the score of the noised data, valid for a range of diffusion times.

    Parameters
    ----------
    n_beads : int or None
        Number of beads; None for a network that takes any number.
    n_dims : int
        Dimensions of a bead's coordinates.
    t_min, t_max : float
        Range of diffusion times; times outside are clipped to it.

    Raises
    ------
    InvalidInputError
        If not ``0 <= t_min < t_max <= 1``.
    """

    def __init__(self, *, n_beads: int | None, n_dims: int, t_min: float, t_max: float) -> None:
        super().__init__()
        if not 0.0 <= t_min < t_max <= 1.0:
            raise InvalidInputError(
                f"the time range is [{t_min}, {t_max}]; it must increase and lie in [0, 1]"
            )
        self.n_beads = n_beads
        self.n_dims = n_dims
        self.t_min = t_min
        self.t_max = t_max

    #: Whether shifting all beads together changes nothing.
    translation_invariant: bool

    @abstractmethod
    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the score.

        Parameters
        ----------
        x : Tensor, shape (B, N, D)
            Standardised coordinates.
        t : Tensor, shape (B,)
            Diffusion times.
        features : Tensor, shape (N, F) or (B, N, F), optional
            Integer bead features, for networks that were built with vocabularies.

        Returns
        -------
        Tensor, shape (B, N, D)
            Gradient of the log-density, up to what training left undone.
        """


class EnergyModel(ScoreModel):
    """A conservative network: its score is the negative gradient of its energy."""

    @abstractmethod
    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the reduced energy ``-log q`` up to a constant, shape (B,).

        Parameters are those of :meth:`score`.
        """

    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the negative gradient of the energy, shape (B, N, D)."""
        return self.energy_and_score(x, t, features)[1]

    def energy_and_score(
        self, x: Tensor, t: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy (B,) and score (B, N, D) from one evaluation.

        Both can be differentiated with respect to parameters and ``x`` where gradients are enabled.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            energy = self.energy(x, t, features)
            (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
        if not differentiable:
            return energy.detach(), -gradient.detach()
        return energy, -gradient

    def score_and_time_derivative(
        self, x: Tensor, t: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return score (B, N, D) and time derivative of the log-density (B,), from one gradient.

        Exact at all times inside the network's range; outside, where times are clipped, the
        derivative is zero. Both can be differentiated like :meth:`energy_and_score`.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            t = t if t.requires_grad else t.detach().requires_grad_(True)
            energy = self.energy(x, t, features)
            gradients = torch.autograd.grad(energy.sum(), (x, t), create_graph=differentiable)
        if not differentiable:
            gradients = tuple(gradient.detach() for gradient in gradients)
        return -gradients[0], -gradients[1]
