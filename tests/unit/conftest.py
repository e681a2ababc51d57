"""Networks with a description, as if they had been trained, for tests of weights and export."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.export import export_torchscript
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.factory import NetworkConfig, build_model
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.weights import ModelDescription, TrainedModel

SMALL = {"width": 12, "layers": 2, "heads": 2, "head_width": 4, "widths": (9, 7)}

#: Configuration, beads, dimensions.
TRAINED = {
    "graph": (NetworkConfig(**SMALL), 5, 3),
    "graph-direct": (NetworkConfig(**SMALL, output="direct"), 5, 3),
    "graph-noise-level": (NetworkConfig(**SMALL, noise_floor=0.01), 5, 3),
    "graph-one-layer": (dataclasses.replace(NetworkConfig(**SMALL), layers=1), 2, 3),
    "mlp": (NetworkConfig(**SMALL, kind="mlp"), 1, 2),
    "mlp-beads": (NetworkConfig(**SMALL, kind="mlp", noise_floor=0.02), 3, 3),
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


@pytest.fixture
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
            "temperature": 310.0,
            "scale": 0.09,
            "t_min": 1e-5,
            "dataset_sha256": "ab" * 32,
            "example_positions": frames.tolist(),
            "bond_ranges": [(0.1, 0.2)] * (n_beads - 1),
            "training": {"config": {"epochs": 3}, "results": {"hours": 0.5}},
            **changes,
        }
        return TrainedModel(model, ModelDescription(**entries))

    return make


class TwoWells(EnergyModel):
    """A particle in a plane whose data are two Gaussians: energies known at every diffusion time.

    Their centres are at (-1, 0) and (1, 0) standardised units, their standard deviation is 0.2, and
    a quarter of the data belongs to the second.
    """

    translation_invariant = False

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

    translation_invariant = True

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

    translation_invariant = False

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
