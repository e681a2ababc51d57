"""Multilayer perceptrons, for low-dimensional systems such as Müller-Brown."""

import dataclasses
import itertools
from typing import cast

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.models.embedding import (
    NoiseLevel,
    TimeEmbedding,
    initialise_linear,
    noise_level,
)


@dataclasses.dataclass(frozen=True)
class MLPConfig(NetworkConfig):
    """Sizes of a multilayer perceptron; see :class:`NetworkConfig` for the other entries.

    Attributes
    ----------
    hidden_dims : tuple of int
        Widths of the hidden layers; published for Müller-Brown: 92, 92, 92.

    Raises
    ------
    ConfigurationError
        If a width is below 1.
    """

    family: str = "mlp"
    hidden_dims: tuple[int, ...] = (92, 92, 92)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_sizes("hidden_dims")


class MLP(nn.Module):
    """Swish layers on flattened coordinates and time features.

    Parameters
    ----------
    config : MLPConfig
        Sizes, times, and whether outputs are to be divided by the noise level.
    n_coordinates, n_outputs : int
        Numbers of inputs without those of time, and of outputs.
    level : NoiseLevel or None
        The noise level.
    """

    def __init__(
        self, config: MLPConfig, *, n_coordinates: int, n_outputs: int, level: NoiseLevel | None
    ) -> None:
        super().__init__()
        self.t_min, self.t_max = config.t_min, config.t_max
        self.noise_level = level
        self.time_embedding = TimeEmbedding(
            t_min=config.t_min, t_max=config.t_max, noise_level=level
        )
        sizes = (n_coordinates + self.time_embedding.n_features, *config.hidden_dims)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], n_outputs))
        initialise_linear(self)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return outputs (B, n_outputs) of coordinates (B, N, D) and times (B,)."""
        outputs: Tensor = self.layers(torch.cat([x.flatten(1), self.time_embedding(t)], dim=1))
        if self.noise_level is None:
            return outputs
        unit: Tensor = self.noise_level(t.clamp(self.t_min, self.t_max))
        return outputs / unit[:, None]


class MLPEnergy(EnergyModel):
    """Conservative multilayer perceptron: the family ``mlp``.

    Parameters
    ----------
    config : MLPConfig
        Its shape.
    inputs : NetworkInputs
        Beads, a fixed number of them.
    """

    config_class = MLPConfig

    def __init__(self, config: MLPConfig, inputs: NetworkInputs) -> None:
        n_beads = _require_n_beads(inputs)
        super().__init__(
            n_beads=n_beads, n_dims=inputs.n_dims, t_min=config.t_min, t_max=config.t_max
        )
        self.network = MLP(
            config,
            n_coordinates=n_beads * inputs.n_dims,
            n_outputs=1,
            level=noise_level(config, inputs),
        )

    @classmethod
    def from_config(cls, config: NetworkConfig, inputs: NetworkInputs) -> ScoreModel:
        """Build a network whose output is an energy or a score."""
        kind = MLPEnergy if config.output == "conservative" else MLPScore
        return kind(cast(MLPConfig, config), inputs)

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the reduced energy, shape (B,)."""
        outputs: Tensor = self.network(x, t)
        return outputs[:, 0]


class MLPScore(ScoreModel):
    """Direct multilayer perceptron: the outputs are the score.

    Parameters are those of :class:`MLPEnergy`.
    """

    def __init__(self, config: MLPConfig, inputs: NetworkInputs) -> None:
        n_beads = _require_n_beads(inputs)
        super().__init__(
            n_beads=n_beads, n_dims=inputs.n_dims, t_min=config.t_min, t_max=config.t_max
        )
        n_coordinates = n_beads * inputs.n_dims
        self.network = MLP(
            config,
            n_coordinates=n_coordinates,
            n_outputs=n_coordinates,
            level=noise_level(config, inputs),
        )

    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the score, shape (B, N, D)."""
        outputs: Tensor = self.network(x, t)
        return outputs.reshape(x.shape)


def _require_n_beads(inputs: NetworkInputs) -> int:
    if inputs.n_beads is None:
        raise ConfigurationError("a multilayer perceptron needs a fixed number of beads")
    return inputs.n_beads
