"""What every network offers: a score, and for conservative ones an energy."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import ConfigurationError, InvalidInputError
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs

#: A change of all coordinates together that changes no energy. Of scores, a rotation and a
#: reflection turn the vectors as well.
Invariance = Literal["translation", "rotation", "reflection"]


class ScoreModel(nn.Module, ABC):
    """A network for the score of the noised data, valid for a range of diffusion times.

    Subclasses that are families of networks name their configuration, see
    :mod:`openmm_scoremd.models.families`. What a model file needs must compile to TorchScript:
    ``energy``, of a network without one ``score``, and all that they call.

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

    #: Configuration of the family.
    config_class: ClassVar[type[NetworkConfig]]
    #: What changes nothing, whatever the parameters.
    invariances: frozenset[Invariance] = frozenset()

    __jit_unused_properties__ = ("translation_invariant",)

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

    @classmethod
    def from_config(cls, config: NetworkConfig, inputs: NetworkInputs) -> "ScoreModel":
        """Build a network of this family with fresh parameters, from torch's global generator.

        By default ``cls(config, inputs)``. A family that has other classes for other outputs
        chooses here.

        Raises
        ------
        ConfigurationError
            If the family cannot treat such samples, or does not have such an output.
        """
        output = "conservative" if issubclass(cls, EnergyModel) else "direct"
        if config.output != output:
            raise ConfigurationError(
                f"network.output is {config.output!r}; networks of family {config.family!r} have "
                f"{output!r} only"
            )
        construct = cast(Callable[[NetworkConfig, NetworkInputs], ScoreModel], cls)
        return construct(config, inputs)

    @property
    def translation_invariant(self) -> bool:
        """Whether shifting all beads together changes nothing."""
        return "translation" in self.invariances

    def prepare(self, frames: Tensor) -> None:
        """Take from the training frames what is no parameter, before training begins.

        By default nothing. Results belong into buffers of fixed shape, which travel in the weights
        file: they are made in the constructor, filled here, and loaded with the weights.

        Parameters
        ----------
        frames : Tensor, shape (frames, N, D)
            Standardised training frames, without noise and not rotated.
        """

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

        Parameters are those of :meth:`score`. The energy of a sample must not depend on the others
        in the batch. Where ``invariances`` name translations, a model file hands over centred
        coordinates, so it need not centre them a second time, but may.
        """

    def at_time(self, t: float, features: Tensor | None = None) -> nn.Module:
        """Return the energy at one diffusion time and for certain beads, for a model file.

        By default :meth:`energy` at this time, whose forces come from autograd. A family overrides
        this to fold in what is constant then, and may give its module a method
        ``energy_and_gradient(x) -> (Tensor (B,), Tensor (B, N, D))``, which is called without
        autograd: forces then cost what it costs.

        Parameters
        ----------
        t : float
            Diffusion time.
        features : Tensor, shape (N, F), optional
            Bead features.

        Returns
        -------
        nn.Module
            Takes standardised coordinates (B, N, D), returns reduced energies (B,); compiles to
            TorchScript. May share tensors with this network, which the caller gives up.
        """
        return FixedTimeEnergy(self, t=t, features=features)

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


class FixedTimeEnergy(nn.Module):
    """Energy of any conservative network at one diffusion time.

    Parameters
    ----------
    model : EnergyModel
        Network.
    t : float
        Diffusion time.
    features : Tensor, shape (N, F), optional
        Bead features.
    """

    features: Tensor | None

    def __init__(self, model: EnergyModel, *, t: float, features: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.t = t
        self.register_buffer("features", features)

    def forward(self, x: Tensor) -> Tensor:
        """Return reduced energies (B,) of standardised coordinates (B, N, D)."""
        t = torch.full((x.shape[0],), self.t, dtype=x.dtype, device=x.device)
        return self.model.energy(x, t, self.features)


def require_energy_model(model: ScoreModel) -> EnergyModel:
    """Return the model if it is conservative.

    Raises
    ------
    ConfigurationError
        If it is not: without an energy there is no force.
    """
    if not isinstance(model, EnergyModel):
        raise ConfigurationError(
            f"{type(model).__name__} has no energy, so it cannot be simulated; "
            "train with output: conservative"
        )
    return model
