"""Networks with a description, as if they had been trained, for tests of weights and export."""

import contextlib
import dataclasses
import hashlib
import math
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from openmm_scoremd import testing
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.config import NetworkInputs
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.models.weights import TrainedModel, WeightsDescription
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.testing import NetworkCase
from openmm_scoremd.topology import BeadTopology

SMALL = {"hidden_dim": 12, "heads": 2, "head_dim": 4}

#: Configuration, beads, dimensions.
TRAINED = {
    "graph": (GraphTransformerConfig(**SMALL), 5, 3),
    "graph-direct": (GraphTransformerConfig(**SMALL, output="direct"), 5, 3),
    "graph-noise-level": (GraphTransformerConfig(**SMALL, noise_floor=0.01), 5, 3),
    "graph-one-layer": (GraphTransformerConfig(**SMALL, layers=1), 2, 3),
    "mlp": (MLPConfig(hidden_dims=(9, 7)), 1, 2),
    "mlp-beads": (MLPConfig(hidden_dims=(9, 7), noise_floor=0.02), 3, 3),
}


def _topology(n_beads: int) -> BeadTopology:
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("TOY",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=tuple(12.0 + i for i in range(n_beads)),
        bonds=tuple((i, i + 1) for i in range(n_beads - 1)),
    )


@pytest.fixture(scope="session")
def make_trained() -> Callable[..., TrainedModel]:
    """Return ``make(name, dtype=float32, **changes)``; changes are entries of the description."""

    def make(name: str = "graph", *, dtype: torch.dtype = torch.float32, **changes) -> TrainedModel:
        config, n_beads, n_dims = TRAINED[name]
        schedule = changes.pop("schedule", VPSchedule())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_model(config, n_beads=n_beads, n_dims=n_dims, schedule=schedule)
            model = model.to(dtype).eval()
            with torch.no_grad():
                # Fresh biases are zero, which would hide mistakes.
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape).to(dtype)
        frames = np.random.default_rng(1).normal(scale=0.1, size=(4, n_beads, n_dims))
        entries = {
            "title": "toy",
            "network": config,
            "schedule": schedule,
            "topology": _topology(n_beads),
            "n_dims": n_dims,
            "translation_invariant": model.translation_invariant,
            "temperature": 310.0,
            "scale": 0.09,
            "t_min": 1e-5,
            "dataset_sha256": "ab" * 32,
            "example_positions": frames.tolist(),
            "bond_ranges": ((0.1, 0.2),) * (n_beads - 1),
            "training": {"config": {"epochs": 3}, "results": {"hours": 0.5}},
            **changes,
        }
        return TrainedModel(model, WeightsDescription(**entries))

    return make


class TwoWells(EnergyModel):
    """A particle in a plane whose data are two Gaussians: energies known at every diffusion time.

    Their centres are at (-1, 0) and (1, 0) standardised units, their standard deviation is 0.2, and
    a quarter of the data belongs to the second.
    """

    invariances = frozenset()

    def __init__(self, t_min: float = 1e-5, t_max: float = 1.0) -> None:
        super().__init__(n_beads=1, n_dims=2, t_min=t_min, t_max=t_max)
        self.offset = torch.nn.Parameter(torch.tensor(3.0))

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        integral = 0.1 * t + 0.5 * 19.9 * t * t
        signal = torch.exp(-0.5 * integral)
        variance = 0.04 * signal * signal + 1.0 - signal * signal
        planar = x.view(-1, 2)
        second = planar[:, 1] * planar[:, 1]
        left = (planar[:, 0] + signal) * (planar[:, 0] + signal) + second
        right = (planar[:, 0] - signal) * (planar[:, 0] - signal) + second
        terms = torch.stack(
            [math.log(0.75) - 0.5 * left / variance, math.log(0.25) - 0.5 * right / variance]
        )
        # A constant that changes with time, as networks have one.
        return -torch.logsumexp(terms, dim=0) + self.offset * (1.0 + t)


class GaussianPair(EnergyModel):
    """Two beads whose coordinates are independent normal numbers less their mean."""

    invariances = frozenset({"translation"})

    def __init__(self) -> None:
        super().__init__(n_beads=2, n_dims=3, t_min=1e-5, t_max=1.0)
        self.variance = torch.nn.Parameter(torch.tensor(0.25))

    def energy(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        signal = torch.exp(-(0.1 * t + 0.5 * 19.9 * t * t))
        variance = self.variance * signal + 1.0 - signal
        centred = x - x.mean(dim=1, keepdim=True)
        return 0.5 * (centred * centred).sum(dim=(1, 2)) / variance


@pytest.fixture
def gaussian_pair(two_wells) -> Path:
    """A model file of :class:`GaussianPair`."""
    return two_wells(GaussianPair(), like="graph-one-layer")


class DirectPlane(ScoreModel):
    """A network in a plane without an energy."""

    invariances = frozenset()

    def __init__(self) -> None:
        super().__init__(n_beads=1, n_dims=2, t_min=0.0, t_max=1.0)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def score(self, x: Tensor, t: Tensor, features: Tensor | None = None) -> Tensor:
        return -x * self.weight


@pytest.fixture
def direct_plane() -> type[DirectPlane]:
    """The class."""
    return DirectPlane


@pytest.fixture
def two_wells_network() -> type[TwoWells]:
    """The class."""
    return TwoWells


@pytest.fixture
def two_wells(make_trained, tmp_path) -> Callable[..., Path]:
    """Return ``export(**options)``: a model file of :class:`TwoWells`; its scale is 0.09 nm."""

    def export(network: torch.nn.Module | None = None, like: str = "mlp", **options) -> Path:
        trained = make_trained(like)
        network = TwoWells() if network is None else network
        name = f"two_wells_{len(list(tmp_path.glob('*.pt')))}.pt"
        return export_torchscript(
            TrainedModel(network.eval(), trained.description), tmp_path / name, **options
        )

    return export


# --- Networks beside their published form --------------------------------------------------------


SMALL_NETWORK = {"hidden_dim": 8, "heads": 2, "head_dim": 4}
VOCABULARIES = {"vocabularies": (4, 3), "feature_dim": 5}

#: Configuration, beads of the samples, dimensions.
NETWORKS = {
    "graph": (GraphTransformerConfig(**SMALL_NETWORK), 5, 3),
    "graph-one-layer": (GraphTransformerConfig(**SMALL_NETWORK, layers=1), 4, 3),
    "graph-three-layers": (GraphTransformerConfig(**SMALL_NETWORK, layers=3), 4, 3),
    "graph-high-times": (GraphTransformerConfig(**SMALL_NETWORK, t_min=0.1, t_max=0.6), 3, 3),
    "graph-types": (GraphTransformerConfig(**SMALL_NETWORK, **VOCABULARIES), 6, 3),
    "graph-noise-level": (GraphTransformerConfig(**SMALL_NETWORK, noise_floor=0.01), 5, 3),
    "graph-noise-level-high-times": (
        GraphTransformerConfig(**SMALL_NETWORK, noise_floor=0.2, t_min=0.1, t_max=0.6),
        3,
        3,
    ),
    "mlp": (MLPConfig(hidden_dims=(9, 7)), 1, 2),
    "mlp-beads": (MLPConfig(hidden_dims=(9, 7), t_min=0.1, t_max=0.6), 3, 3),
    "mlp-noise-level": (MLPConfig(hidden_dims=(9, 7), noise_floor=0.01), 1, 2),
    "mlp-noise-level-high-times": (
        MLPConfig(hidden_dims=(9, 7), noise_floor=0.2, t_min=0.1, t_max=0.6),
        1,
        2,
    ),
}


@pytest.fixture(scope="session")
def make_case() -> Callable[..., NetworkCase]:
    """Return ``make(name, output="conservative", n_samples=4)``."""
    return make_network_case


def make_network_case(
    name: str, *, output: str = "conservative", n_samples: int = 4
) -> NetworkCase:
    config, n_beads, n_dims = NETWORKS[name]
    config = dataclasses.replace(config, output=output)
    features = None
    if config.needs_features:
        features = torch.stack([torch.arange(n_beads) % size for size in config.vocabularies], 1)
    any_number = features is not None and output == "conservative"
    inputs = NetworkInputs(None if any_number else n_beads, n_dims)
    return testing.make_case(config, inputs, features=features, n_samples=n_samples)


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
    heads = (attention.heads, attention.head_dim)
    query, key, value = attention.query_key_value(nodes).chunk(3, dim=-1)
    query = query.view(batch, n_beads, 1, *heads)
    edge = attention.edge(edges).view(batch, n_beads, n_beads, *heads)
    keys = key.view(batch, 1, n_beads, *heads) + edge
    values = value.view(batch, 1, n_beads, *heads) + edge
    logits = (query * keys).sum(dim=-1) * attention.head_dim**-0.5  # (B, i, j, heads)
    weights = torch.softmax(logits, dim=2)
    mixed = (weights.unsqueeze(-1) * values).sum(dim=2)  # (B, i, heads, head_dim)
    return attention.output(mixed.flatten(2))


def _published_gate(gate, new: Tensor, old: Tensor) -> Tensor:
    share = torch.sigmoid(gate(torch.cat([new, old, new - old], dim=-1)))
    return new * share + old * (1.0 - share)


@pytest.fixture
def published():
    """Return ``published_energy(model, x, t, features)``."""
    return published_energy


# --- Small runs of replicas --------------------------------------------------------------------

SMALL_RUN = {"replicas": 4, "steps": 220, "interval": 20, "platform": "Reference", "seed": 3} | {
    "margin": 0.5
}


@pytest.fixture
def pair(make_toy):
    """A model of two beads 0.15 nm apart."""
    return ScoreModelFile(make_toy("pair.pt", n_beads=2, bond_ranges=((0.05, 0.5),)).path)


@pytest.fixture
def start_run(pair, tmp_path, chain):
    """Return ``start(name, **settings)``: a run that begins from the same frames."""

    def start(name="run", **settings):
        chosen = RunSettings(**{**SMALL_RUN, **settings})
        frames = chain(chosen.replicas, 2)
        return ReplicaRun.start(pair, tmp_path / name, chosen, start=frames)

    return start


@pytest.fixture
def finished_run(start_run, tmp_path):
    """Return ``finished(name, **settings)``: the folder of a run that went to its end."""

    def finished(name="straight", **settings):
        with start_run(name, **settings) as run:
            assert run.advance()
        return tmp_path / name

    return finished


@pytest.fixture
def contents():
    """Return a function that hashes the files of a run that must be the same to the last bit."""

    def of(folder):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).iterdir())
            if path.suffix in (".dcd", ".xtc", ".npy") or path.name == "trajectories.json"
        }

    return of


# --- A full disk ---------------------------------------------------------------------------------


@pytest.fixture
def file_limit():
    """Return a context in which files of this process cannot grow beyond some bytes."""

    @contextlib.contextmanager
    def limit(n_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
