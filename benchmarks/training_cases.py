"""The networks and losses of the training benchmark, and the speeds it is held against."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from openmm_scoremd.data.dataset import CGDataset, save_dataset
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.training.config import (
    DataConfig,
    FokkerPlanckConfig,
    TrainingConfig,
    expert_config,
)
from openmm_scoremd.training.config_file import load_training_config

METHODS = Path(__file__).resolve().parents[1] / "examples" / "methods"

#: Samples per second of the public JAX code (float32, jit and scan) on another day on two cores.
YARDSTICK = {
    ("5 beads, published", "denoising"): 990.0,
    ("5 beads, published", "weak"): 150.0,
    ("10 beads, published", "denoising"): 190.0,
    ("MLP, published", "denoising"): 490_000.0,
    ("MLP, published", "weak"): 72_000.0,
}
#: The centred residual, also with its regional part, does the work of the weak one.
SAME_WORK = {"denoising": "denoising", "weak": "weak", "centred": "weak", "regional": "weak"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and the losses it is trained with; data are random."""

    name: str
    n_beads: int
    n_dims: int
    losses: Mapping[str, TrainingConfig]


def with_losses(config: TrainingConfig, *kinds: str) -> dict[str, TrainingConfig]:
    """Return a configuration with each of some losses, by name."""
    centred = FokkerPlanckConfig(
        alpha=3.0, estimator="centred", frames="spread", fraction=0.375, probe_sigma=1e-3
    )
    if config.fokker_planck.estimator == "centred" and config.fokker_planck.alpha > 0.0:
        centred = config.fokker_planck
    losses = {
        "denoising": FokkerPlanckConfig(),
        "weak": FokkerPlanckConfig(alpha=5e-4),
        "centred": centred,
    }
    return {kind: dataclasses.replace(config, fokker_planck=losses[kind]) for kind in kinds}


def all_cases() -> list[Case]:
    """Return the networks to be timed."""
    plain = TrainingConfig(DataConfig(""), epochs=1000)
    published = dataclasses.replace(plain, network=GraphTransformerConfig(noise_floor=0.01))
    larger = GraphTransformerConfig(hidden_dim=128, layers=3, noise_floor=0.01)
    mlp = MLPConfig(hidden_dims=(64, 64, 64))
    both = load_training_config(METHODS / "alanine_dipeptide_regional.yaml")
    stages = {
        expert.name: expert_config(both, dataclasses.replace(expert, start_from=None))
        for expert in both.experts
    }
    ours = with_losses(stages["warm"], "denoising", "centred") | {"regional": stages["regional"]}
    ours_planar = load_training_config(METHODS / "mueller_brown_both_fast.yaml")
    small = dataclasses.replace(plain, network=mlp, batch_size=128)
    graph_losses = ("denoising", "weak", "centred")
    ten = dataclasses.replace(plain, network=larger)
    return [
        Case("MLP, published", 1, 2, with_losses(small, "denoising", "weak")),
        Case("MLP, both-fast", 1, 2, with_losses(ours_planar, "denoising", "centred")),
        Case("5 beads, both-fast", 5, 3, ours),
        Case("5 beads, published", 5, 3, with_losses(published, *graph_losses)),
        Case("10 beads, published", 10, 3, with_losses(ten, *graph_losses)),
    ]


def chosen_losses(case: Case, kinds: Sequence[str]) -> Case:
    """Return a case with some of its losses; denoising, which others are compared with, stays."""
    kept = {k: v for k, v in case.losses.items() if k in kinds or k == "denoising"}
    return dataclasses.replace(case, losses=kept)


def smaller(case: Case) -> Case:
    """Return a case of the same kind that takes next to no time."""
    losses = {}
    for kind, config in case.losses.items():
        is_mlp = isinstance(config.network, MLPConfig)
        sizes = {"hidden_dim": 8, "layers": 1, "heads": 2, "head_dim": 4}
        network = dataclasses.replace(
            config.network, **({"hidden_dims": (8, 8)} if is_mlp else sizes)
        )
        # Of 64 frames, a part that all group sizes divide.
        residual = dataclasses.replace(config.fokker_planck, fraction=0.375)
        losses[kind] = dataclasses.replace(
            config, network=network, batch_size=64, fokker_planck=residual
        )
    return dataclasses.replace(case, losses=losses)


def write_random_dataset(case: Case, path: Path) -> Path:
    """Write random frames of the shape of a case: speed does not depend on what they are."""
    n = case.n_beads
    topology = BeadTopology(
        names=tuple(f"B{i}" for i in range(n)),
        elements=("C",) * n,
        residue_names=("RND",) * n,
        residue_ids=(1,) * n,
        chain_ids=("A",) * n,
        masses=(12.0,) * n,
        bonds=(),
    )
    positions = np.random.default_rng(0).normal(size=(4096, n, case.n_dims))
    save_dataset(CGDataset(positions.astype(np.float32), topology, 300.0), path)
    return path


class ProductCounter(TorchDispatchMode):
    """Adds up the operations of matrix products, also inside nested gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.flop += count(*args, **(kwargs or {}), out_val=result)
        return result


def matrix_products(case: Case) -> tuple[Callable[[int], None], int]:
    """Return a function that multiplies matrices of the network's width, and its operations."""
    config = next(iter(case.losses.values()))
    network, rows = config.network, config.batch_size * case.n_beads
    if isinstance(network, MLPConfig):
        shapes = list(itertools.pairwise(network.hidden_dims))
    else:
        width = network.hidden_dim
        shapes = [(width, 4 * width), (4 * width, width)]
    pairs = [(torch.randn(rows, inputs), torch.randn(inputs, n)) for inputs, n in shapes]
    results = [left @ right for left, right in pairs]

    def step(n_steps: int) -> None:
        for _ in range(n_steps):
            for (left, right), result in zip(pairs, results, strict=True):
                torch.mm(left, right, out=result)

    return step, sum(2 * left.numel() * right.shape[1] for left, right in pairs)
