"""Networks with a description, as if they had been trained, for tests of weights and export."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from openmm_scoremd.diffusion.schedule import VPSchedule
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
