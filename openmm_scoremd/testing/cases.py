"""Networks and samples for checks, and how numbers are compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.models.families import network_family


@dataclasses.dataclass(frozen=True)
class NetworkCase:
    """A network in double precision and samples for it.

    Attributes
    ----------
    config : NetworkConfig
        Its configuration.
    inputs : NetworkInputs
        What it was built for.
    model : ScoreModel
        The network; checks work on copies where they change it.
    x : Tensor, shape (B, N, D)
        Noised samples.
    t : Tensor, shape (B,)
        Their diffusion times, increasing.
    features : Tensor, shape (N, F), or None
        Bead features.
    """

    config: NetworkConfig
    inputs: NetworkInputs
    model: ScoreModel
    x: Tensor
    t: Tensor
    features: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What :meth:`ScoreModel.score` takes."""
        return self.x, self.t, self.features

    @property
    def energy_model(self) -> EnergyModel | None:
        """The network if it has an energy."""
        return self.model if isinstance(self.model, EnergyModel) else None

    def score(self) -> Tensor:
        """Return the score of the samples."""
        return self.model.score(*self.arguments)


def make_case(
    config: NetworkConfig,
    inputs: NetworkInputs,
    *,
    features: Tensor | None = None,
    frames: Tensor | None = None,
    n_samples: int = 4,
    perturbation: float = 0.3,
    seed: int = 0,
) -> NetworkCase:
    """Build a network for the checks.

    Parameters
    ----------
    config : NetworkConfig
        Its configuration.
    inputs : NetworkInputs
        What it is built for.
    features : Tensor, shape (N, F), optional
        Bead features, for networks that take some.
    frames : Tensor, shape (frames, N, D), optional
        Standardised training frames, for networks that take statistics of them; by default normal
        random numbers.
    n_samples : int
        Number of samples.
    perturbation : float
        Standard deviation of what is added to every parameter.
    seed : int
        Seed of parameters, frames and noise.

    Returns
    -------
    NetworkCase
        Network and samples.

    Raises
    ------
    ConfigurationError
        If the family cannot treat such samples, or neither ``inputs``, ``features`` nor ``frames``
        tell the number of beads.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    if frames is None:
        n_beads = inputs.n_beads if features is None else len(features)
        if n_beads is None:
            raise ConfigurationError("the number of beads is not given; pass features or frames")
        frames = torch.randn((256, n_beads, inputs.n_dims), **numbers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network_family(config.family).from_config(config, inputs).double()
    model.prepare(frames.double())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, **numbers), alpha=perturbation)
    low, high = max(config.t_min, 1e-5), config.t_max
    # Inside the range, so that there is something on either side of every time.
    ends = math.log10(1.1 * low), math.log10(low + 0.97 * (high - low))
    t = torch.logspace(*ends, n_samples, dtype=torch.float64)
    chosen = frames[torch.randint(len(frames), (n_samples,), generator=generator)].double()
    x = inputs.schedule.noise_sample(chosen, t, torch.randn(chosen.shape, **numbers))
    return NetworkCase(config, inputs, model.eval(), x, t, features)


def require(condition: bool, message: str) -> None:
    """Raise ``AssertionError`` unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def same(
    found: Tensor, expected: Tensor, tolerance: float, what: str, *, least: float = 1e-12
) -> None:
    """Compare sample by sample, relative to the largest entry of each.

    Parameters
    ----------
    found, expected : Tensor, shape (B, ...)
        What is compared.
    tolerance : float
        Largest difference allowed.
    what : str
        What it is, for the message.
    least : float
        What differences are relative to where entries are smaller.

    Raises
    ------
    AssertionError
        If they differ by more, or one is NaN.
    """
    found, expected = (v.detach().reshape(len(v), -1).double() for v in (found, expected))
    scale = expected.abs().amax(dim=1).clamp(min=least)
    difference = ((found - expected).abs().amax(dim=1) / scale).amax()
    # Not the other way round: NaN must not pass.
    require(
        bool(difference <= tolerance),
        f"{what} differs by {float(difference):.2g} of its largest entry, allowed {tolerance:.2g}",
    )


def derivative(function: Callable[[float], Tensor], step: float) -> Tensor:
    """Return the derivative at zero by finite differences of fourth order."""
    near, far = (function(h) - function(-h) for h in (step, 2.0 * step))
    return (8.0 * near - far) / (12.0 * step)
