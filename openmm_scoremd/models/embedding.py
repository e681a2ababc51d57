"""Inputs of the networks: features of diffusion time and of the beads."""

import math

import torch
from torch import Tensor, nn

from openmm_scoremd.errors import InvalidInputError

#: Published networks get features of the time relative to their range only if it starts above this.
RELATIVE_TIME_THRESHOLD = 1e-6


class TimeEmbedding(nn.Module):
    r"""Features of diffusion time, clipped to the network's range :math:`[t_0, t_1]`.

    :math:`t - (t_1 - t_0)/2,\ \cos 2\pi t,\ \sin 2\pi t,\ -\cos 4\pi t`, and for ranges that start
    above zero the same three waves of :math:`\tau = (t - t_0)/(t_1 - t_0)`
    (public code of arXiv 2506.17139).

    Parameters
    ----------
    t_min, t_max : float
        Range of diffusion times.
    """

    def __init__(self, *, t_min: float, t_max: float) -> None:
        super().__init__()
        self.t_min = t_min
        self.t_max = t_max
        self.relative = t_min >= RELATIVE_TIME_THRESHOLD

    @property
    def n_features(self) -> int:
        """Number of features."""
        return 7 if self.relative else 4

    def forward(self, t: Tensor) -> Tensor:
        """Return features (B, n_features) of times (B,)."""
        t = t.clamp(self.t_min, self.t_max)
        features = [t - (self.t_max - self.t_min) / 2]
        features.extend(_waves(t))
        if self.relative:
            features.extend(_waves((t - self.t_min) / (self.t_max - self.t_min)))
        return torch.stack(features, dim=-1)


def _waves(t: Tensor) -> list[Tensor]:
    angle = 2.0 * math.pi * t
    return [torch.cos(angle), torch.sin(angle), -torch.cos(2.0 * angle)]


class BeadIndexEmbedding(nn.Module):
    """One-hot bead index: a network for one molecule.

    Parameters
    ----------
    n_beads : int
        Number of beads.
    """

    def __init__(self, *, n_beads: int) -> None:
        super().__init__()
        self.n_features = n_beads
        self.register_buffer("identity", torch.eye(n_beads), persistent=False)

    def forward(self, features: Tensor | None) -> Tensor:
        """Return (N, n_features); no bead features are used."""
        return self.identity


class BeadTypeEmbedding(nn.Module):
    """Learned embeddings of integer bead features: a network for many molecules.

    Parameters
    ----------
    vocabularies : tuple of int
        Number of values of each feature.
    width : int
        Width of each embedding.
    """

    def __init__(self, *, vocabularies: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in vocabularies)
        self.n_features = width * len(vocabularies)
        for table in self.tables:
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, features: Tensor | None) -> Tensor:
        """Return (..., N, n_features) of bead features (..., N, F)."""
        if features is None:
            raise InvalidInputError(
                "this network was built with bead vocabularies; pass the bead features"
            )
        columns: list[Tensor] = []
        for i, table in enumerate(self.tables):
            columns.append(table(features[..., i]))
        return torch.cat(columns, dim=-1)


def initialise_linear(module: nn.Module) -> None:
    """Draw weights of all linear layers inside as Flax does: LeCun normal, zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            # 0.8796 is the standard deviation of a unit normal truncated at two.
            std = layer.in_features**-0.5 / 0.87962566103423978
            nn.init.trunc_normal_(layer.weight, std=std, a=-2.0 * std, b=2.0 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
