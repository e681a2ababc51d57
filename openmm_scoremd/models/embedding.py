"""Inputs of the networks: features of diffusion time and of the beads."""

import math

import torch
from torch import Tensor, nn

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs

#: Published networks get features of the time relative to their range only if it starts above this.
RELATIVE_TIME_THRESHOLD = 1e-6


class NoiseLevel(nn.Module):
    r"""Noise level :math:`\sqrt{\sigma(t)^2 + s_0^2}`, smooth and positive down to ``t = 0``.

    Parameters
    ----------
    schedule : VPSchedule
        Noise schedule.
    floor : float
        :math:`s_0` in standardised units; a fraction of the narrowest feature of the data.
    """

    def __init__(self, *, schedule: VPSchedule, floor: float) -> None:
        super().__init__()
        self.beta_min = schedule.beta_min
        self.beta_max = schedule.beta_max
        self.floor = floor

    def forward(self, t: Tensor) -> Tensor:
        """Return the noise level at times ``t``, shape as given."""
        # VPSchedule.sigma once more, because TorchScript cannot compile a dataclass's methods.
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t
        return torch.sqrt(self.floor**2 - torch.expm1(-integral))


def noise_level(config: NetworkConfig, inputs: NetworkInputs) -> NoiseLevel | None:
    """Return the noise level that conditions a network, if its configuration has a floor."""
    if config.noise_floor is None:
        return None
    return NoiseLevel(schedule=inputs.schedule, floor=config.noise_floor)


class TimeEmbedding(nn.Module):
    r"""Features of diffusion time, clipped to the network's range :math:`[t_0, t_1]`.

    Published: :math:`t - (t_1 - t_0)/2,\ \cos 2\pi t,\ \sin 2\pi t,\ -\cos 4\pi t`, and for ranges
    that start above zero the same three waves of :math:`\tau = (t - t_0)/(t_1 - t_0)` (public code
    of arXiv 2506.17139). These hardly change where bond lengths are resolved (t below 0.003), so
    with a noise level given, waves of its logarithm are added.

    Parameters
    ----------
    t_min, t_max : float
        Range of diffusion times.
    noise_level : NoiseLevel or None
        Adds features of the logarithm of the noise level.
    """

    def __init__(self, *, t_min: float, t_max: float, noise_level: NoiseLevel | None) -> None:
        super().__init__()
        self.t_min = t_min
        self.t_max = t_max
        self.relative = t_min >= RELATIVE_TIME_THRESHOLD
        self.noise_level = noise_level
        self.n_features = (7 if self.relative else 4) + (0 if noise_level is None else 7)

    def forward(self, t: Tensor) -> Tensor:
        """Return features (B, n_features) of times (B,)."""
        t = t.clamp(self.t_min, self.t_max)
        features = [t - (self.t_max - self.t_min) / 2]
        features.extend(_waves(t))
        if self.relative:
            features.extend(_waves((t - self.t_min) / (self.t_max - self.t_min)))
        if self.noise_level is not None:
            # 0 at unit noise, 1 at the floor.
            depth = torch.log(self.noise_level(t)) / math.log(self.noise_level.floor)
            features.append(depth - 0.5)
            for frequency in (0.5, 1.0, 2.0):
                angle = 2.0 * math.pi * frequency * depth
                features.extend([torch.cos(angle), torch.sin(angle)])
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

    identity: Tensor

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
    dim : int
        Width of each embedding.
    """

    def __init__(self, *, vocabularies: tuple[int, ...], dim: int) -> None:
        super().__init__()
        tables = [nn.Embedding(size, dim) for size in vocabularies]
        for table in tables:
            nn.init.normal_(table.weight, std=dim**-0.5)
        self.tables = nn.ModuleList(tables)
        self.n_features = dim * len(vocabularies)

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
