"""Multilayer perceptrons, for low-dimensional systems such as Müller-Brown."""

import itertools

import torch
from torch import Tensor, nn

from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.embedding import NoiseLevel, TimeEmbedding, initialise_linear


class MLP(nn.Module):
    """Swish layers on flattened coordinates and time features.

    Parameters
    ----------
    n_beads, n_dims : int
        Shape of one sample.
    n_outputs : int
        Number of outputs.
    widths : tuple of int
        Widths of the hidden layers.
    t_min, t_max : float
        Range of diffusion times.
    noise_level : NoiseLevel or None
        For better conditioning: time features of its logarithm, and outputs divided by it. None for
        the published form.
    """

    def __init__(
        self,
        *,
        n_beads: int,
        n_dims: int,
        n_outputs: int,
        widths: tuple[int, ...],
        t_min: float,
        t_max: float,
        noise_level: NoiseLevel | None = None,
    ) -> None:
        super().__init__()
        self.n_beads = n_beads
        self.n_dims = n_dims
        self.t_min = t_min
        self.t_max = t_max
        self.noise_level = noise_level
        self.time_embedding = TimeEmbedding(t_min=t_min, t_max=t_max, noise_level=noise_level)
        sizes = (n_beads * n_dims + self.time_embedding.n_features, *widths)
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
    """Conservative multilayer perceptron.

    Parameters
    ----------
    network : MLP
        Network with one output.
    """

    translation_invariant = False

    def __init__(self, network: MLP) -> None:
        super().__init__(
            n_beads=network.n_beads,
            n_dims=network.n_dims,
            t_min=network.t_min,
            t_max=network.t_max,
        )
        self.network = network

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the reduced energy, shape (B,)."""
        outputs: Tensor = self.network(x, t)
        return outputs[:, 0]


class MLPScore(ScoreModel):
    """Direct multilayer perceptron: the outputs are the score.

    Parameters
    ----------
    network : MLP
        Network with as many outputs as coordinates.
    """

    translation_invariant = False

    def __init__(self, network: MLP) -> None:
        super().__init__(
            n_beads=network.n_beads,
            n_dims=network.n_dims,
            t_min=network.t_min,
            t_max=network.t_max,
        )
        self.network = network

    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the score, shape (B, N, D)."""
        outputs: Tensor = self.network(x, t)
        return outputs.reshape(x.shape)
