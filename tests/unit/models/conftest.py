"""Networks to test, and the published form of the graph transformer as their reference."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.factory import NetworkConfig, build_model


@dataclasses.dataclass(frozen=True)
class Case:
    """A network in float64 whose every parameter was perturbed, and samples for it."""

    model: ScoreModel
    x: Tensor
    t: Tensor
    features: Tensor | None

    @property
    def arguments(self):
        return self.x, self.t, self.features

    def copy_of_model(self):
        return copy.deepcopy(self.model)


SMALL = {"width": 8, "heads": 2, "head_width": 4, "widths": (9, 7)}
VOCABULARIES = {"vocabularies": (4, 3), "feature_width": 5}

#: Configuration, beads of the samples, dimensions.
NETWORKS = {
    "graph": (NetworkConfig(**SMALL), 5, 3),
    "graph-one-layer": (NetworkConfig(**SMALL, layers=1), 4, 3),
    "graph-three-layers": (NetworkConfig(**SMALL, layers=3), 4, 3),
    "graph-high-times": (NetworkConfig(**SMALL, t_min=0.1, t_max=0.6), 3, 3),
    "graph-types": (NetworkConfig(**SMALL, **VOCABULARIES), 6, 3),
    "graph-noise-level": (NetworkConfig(**SMALL, noise_floor=0.01), 5, 3),
    "graph-noise-level-high-times": (
        NetworkConfig(**SMALL, noise_floor=0.2, t_min=0.1, t_max=0.6),
        3,
        3,
    ),
    "mlp": (NetworkConfig(**SMALL, kind="mlp"), 1, 2),
    "mlp-beads": (NetworkConfig(**SMALL, kind="mlp", t_min=0.1, t_max=0.6), 3, 3),
    "mlp-noise-level": (NetworkConfig(**SMALL, kind="mlp", noise_floor=0.01), 1, 2),
    "mlp-noise-level-high-times": (
        NetworkConfig(**SMALL, kind="mlp", noise_floor=0.2, t_min=0.1, t_max=0.6),
        1,
        2,
    ),
}


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Return ``make(name, output="conservative", n_samples=4)``."""

    def make(name: str, *, output: str = "conservative", n_samples: int = 4) -> Case:
        config, n_beads, n_dims = NETWORKS[name]
        config = dataclasses.replace(config, output=output)
        any_number = config.vocabularies and output == "conservative"
        generator = torch.Generator().manual_seed(1)
        options = {"generator": generator, "dtype": torch.float64}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_model(config, n_beads=None if any_number else n_beads, n_dims=n_dims)
        model = model.double()
        with torch.no_grad():
            # Fresh biases are zero and fresh norms the identity, which would hide mistakes.
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, **options)
        t = config.t_min + (config.t_max - config.t_min) * torch.rand(n_samples, **options)
        x = torch.randn((n_samples, n_beads, n_dims), **options)
        features = None
        if config.vocabularies:
            features = torch.stack([torch.arange(n_beads) % size for size in config.vocabularies])
            features = features.T.contiguous()
        return Case(model, x, t.clamp(min=1e-5), features)

    return make


def published_energy(model, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
    """Energy of a ``GraphTransformerEnergy`` as the public code computes it.

    Every displacement is embedded and projected by itself, in tensors (B, N, N, width).
    """
    network = model.network
    x = x - x.mean(dim=1, keepdim=True)
    displacements = x[:, None, :, :] - x[:, :, None, :]  # (B, i, j, 3), x_j - x_i
    edges = functional.linear(displacements, network.edge.weight, network.edge.bias)
    time = network.time_embedding(t)[:, None, :].expand(-1, x.shape[1], -1)
    beads = network.bead_embedding(features).expand(len(x), -1, -1)
    nodes = network.node(torch.cat([beads, time], dim=-1))
    for layer in network.layers:
        new = _published_attention(layer.attention, layer.attention_norm(nodes), edges)
        nodes = _published_gate(layer.attention_gate.gate, new, nodes)
        new = layer.feed_forward(layer.feed_forward_norm(nodes))
        nodes = _published_gate(layer.feed_forward_gate.gate, new, nodes)
    return model.decoder(nodes).sum(dim=(1, 2))


def _published_attention(attention, nodes: Tensor, edges: Tensor) -> Tensor:
    batch, n_beads, _ = nodes.shape
    heads = (attention.heads, attention.head_width)
    query, key, value = attention.query_key_value(nodes).chunk(3, dim=-1)
    query = query.view(batch, n_beads, 1, *heads)
    edge = attention.edge(edges).view(batch, n_beads, n_beads, *heads)
    keys = key.view(batch, 1, n_beads, *heads) + edge
    values = value.view(batch, 1, n_beads, *heads) + edge
    logits = (query * keys).sum(dim=-1) * attention.head_width**-0.5  # (B, i, j, heads)
    weights = torch.softmax(logits, dim=2)
    mixed = (weights.unsqueeze(-1) * values).sum(dim=2)  # (B, i, heads, head_width)
    return attention.output(mixed.flatten(2))


def _published_gate(gate, new: Tensor, old: Tensor) -> Tensor:
    share = torch.sigmoid(gate(torch.cat([new, old, new - old], dim=-1)))
    return new * share + old * (1.0 - share)


@pytest.fixture
def published():
    """Return ``published_energy(model, x, t, features)``."""
    return published_energy
