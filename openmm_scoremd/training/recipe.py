"""What to train on some beads and frames, and for how long: a configuration with its reasons."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from openmm_scoremd.data._correlation import effective_frames
from openmm_scoremd.data.dataset import CGDataset, load_dataset
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.geometry import distances
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.invariant.choice import FEW_BEADS, WINDOW
from openmm_scoremd.models.invariant.network import InvariantConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.training.config import (
    DataConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from openmm_scoremd.training.trainer import Trainer

#: Below, bonds are rarely resolved: a note.
FEW_STEPS: Final = 10_000
#: Below, a network learns frames rather than their distribution: a smaller one, weight decay, and
#: the weights of the lowest held-out loss.
FEW_FRAMES: Final = 5_000
#: Independent frames below which populations are known to some percent only: a note.
FEW_INDEPENDENT: Final = 1_000

_MOST_STEPS, _MOST_STEPS_OF_MANY_BEADS = 50_000, 100_000
_MOST_PASSES = 5_000
_LARGEST_BATCH = 2048
#: Numbers in the widest array of a step.
_MOST_NUMBERS = 2**24
#: Range of the noise floor: below the first, denoising can teach nothing that a simulation shows.
_FLOORS = (0.002, 0.03)
_TIMED_STEPS = 10

#: Entries of a written recipe, in order.
_ENTRIES = (
    "title", "data.path", "data.held_out_fraction", "data.augmentation", "network.family",
    "network.hidden_dim", "network.hidden_dims", "network.layers", "network.heads",
    "network.head_dim", "network.noise_floor", "loss.time_distribution", "loss.weight_midpoint",
    "optimizer.learning_rate", "optimizer.final_learning_rate", "optimizer.weight_decay",
    "optimizer.gradient_clip", "optimizer.ema_decay", "batch_size", "steps", "weights",
    "log_steps", "seed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A configuration for one dataset, with what speaks for it.

    Attributes
    ----------
    config : TrainingConfig
        What to do.
    reasons : mapping of str to str
        Why, by dotted entry.
    notes : tuple of str
        What the user should know before the training.
    """

    config: TrainingConfig
    reasons: Mapping[str, str]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """Return the configuration as commented YAML."""
        record = dataclasses.asdict(self.config)
        lines = [f"# {note}" for note in self.notes]
        section = ""
        for entry in _ENTRIES:
            head, _, name = entry.rpartition(".")
            values = record[head] if head else record
            if name not in values:
                continue
            if head and head != section:
                lines.append(f"{head}:")
            section, indent = head, "  " if head else ""
            if entry in self.reasons:
                lines.append(f"{indent}# {self.reasons[entry]}")
            lines.append(f"{indent}{name}: {_scalar(values[name])}")
        return "\n".join([*lines, ""])


def make_recipe(
    path: str | os.PathLike[str], *, minutes: float = 20.0, steps: int | None = None
) -> Recipe:
    """Return what to train on a dataset.

    Molecules of at least four beads get the network of internal coordinates, conditioned on noise
    down to the width of their narrowest distance. As many steps as fit into the time are found by
    timing some here, compiled as they will be; fewer where the molecule needs no more, or where
    frames are so few that a network would learn them by heart.

    Parameters
    ----------
    path : path-like
        CG dataset (``.npz``).
    minutes : float
        How long the training may take on this machine.
    steps : int, optional
        Optimiser steps, instead of timing any.

    Returns
    -------
    Recipe
        Configuration, reasons and notes.

    Raises
    ------
    DatasetError
        If the dataset cannot be read, or there is nothing to learn.
    InvalidInputError
        If ``minutes`` is not positive.
    """
    if not 0.0 < minutes < float("inf"):
        raise InvalidInputError(f"minutes is {minutes}; it must be a positive number")
    dataset = load_dataset(path)
    config, reasons = _untimed(dataset, path)
    n_training = dataset.n_frames - round(dataset.n_frames * config.data.held_out_fraction)
    if steps is None:
        seconds = seconds_per_step(config)
        in_time = round(60.0 * minutes / seconds)
        of_molecule = _MOST_STEPS if dataset.n_beads <= FEW_BEADS else _MOST_STEPS_OF_MANY_BEADS
        of_frames = max(1, _MOST_PASSES * n_training // config.batch_size)
        each = f"at {1e3 * seconds:.3g} ms each here"
        limits = {
            f"As many as fit into {minutes:g} minutes, {each}.": in_time,
            f"What {dataset.n_beads} beads need, {each}.": of_molecule,
            f"As many as {n_training:,} frames bear: {_MOST_PASSES:,} passes.": of_frames,
        }
        reasons["steps"] = min(limits, key=limits.__getitem__)
        steps = _rounded(min(limits.values()))
    config = dataclasses.replace(
        config, epochs=None, steps=steps, log_steps=100 if steps > 20_000 else 50
    )
    return Recipe(config, reasons, tuple(_notes(dataset, n_training, steps)))


def seconds_per_step(config: TrainingConfig) -> float:
    """Return how long a step of a configuration takes on this machine, once it is compiled."""
    import time

    trainer = Trainer(config, os.devnull)  # nothing is written before a training starts
    trainer.train_steps(0, _TIMED_STEPS)
    began = time.perf_counter()
    trainer.train_steps(_TIMED_STEPS, 2 * _TIMED_STEPS)
    return (time.perf_counter() - began) / _TIMED_STEPS


def _untimed(
    dataset: CGDataset, path: str | os.PathLike[str]
) -> tuple[TrainingConfig, dict[str, str]]:
    n_training = dataset.n_frames - round(dataset.n_frames * DataConfig.held_out_fraction)
    is_few = n_training < FEW_FRAMES
    network = _network(dataset, is_few=is_few)
    invariant = isinstance(network, InvariantConfig)
    batch = _batch_size(dataset, network, n_training)
    rate = {"invariant": 2e-3, "graph-transformer": 1e-3}.get(network.family, 2e-3)
    full = _LARGEST_BATCH if invariant else 256
    reasons = {
        "data.held_out_fraction": "Never seen in training: the log has their loss, and the "
        "evaluation compares with them.",
        "network.noise_floor": "The width of the narrowest distance, in units of the spread of "
        "all coordinates.",
        "loss.time_distribution": "Half of the times evenly over length scales, or bonds are "
        "hardly ever looked at.",
        "batch_size": "Large batches: frames are few against times and noise.",
    }
    if invariant:
        reasons["data.augmentation"] = "The energy does not change when the molecule turns."
    if is_few:
        reasons["optimizer.weight_decay"] = f"{n_training:,} frames are few: more decay than usual."
        reasons["weights"] = "Those with the lowest loss of held-out frames."
    return TrainingConfig(
        DataConfig(
            os.fspath(path),
            augmentation="rotation" if network.family == "graph-transformer" else "none",
        ),
        title=_title(dataset, path),
        network=network,
        loss=LossConfig(time_distribution="balanced", weight_midpoint=0.5),
        optimizer=OptimizerConfig(
            learning_rate=float(f"{rate * min(1.0, (batch / full) ** 0.5):.1e}"),
            weight_decay=1e-2 if is_few else 1e-4,
            gradient_clip=1.0,
        ),
        batch_size=batch,
        weights="best" if is_few else "last",
    ), reasons


def _network(dataset: CGDataset, *, is_few: bool) -> NetworkConfig:
    floor = _noise_floor(dataset)
    if dataset.n_dims != 3:
        return MLPConfig(hidden_dims=(92, 92, 92), noise_floor=floor)
    if dataset.n_beads < 4:
        return GraphTransformerConfig(
            hidden_dim=96, layers=2, heads=4, head_dim=32, noise_floor=floor
        )
    width = 96 if dataset.n_beads <= FEW_BEADS else 128
    return InvariantConfig(hidden_dim=64 if is_few else width, noise_floor=floor)


def _noise_floor(dataset: CGDataset) -> float:
    """Return the width of the narrowest distance of neighbours, standardised, to two digits."""
    n = dataset.n_beads
    pairs = {tuple(sorted(bond)) for bond in dataset.topology.bonds}
    pairs |= {(i, i + k) for k in (1, 2) for i in range(n - k)}
    if not pairs:
        return _FLOORS[1]
    chosen = dataset.positions[:: -(-dataset.n_frames // 5_000)]
    width = float(distances(chosen, sorted(pairs)).std(axis=0).min()) / dataset.scale
    return float(f"{np.clip(width, *_FLOORS):.1e}")


def _batch_size(dataset: CGDataset, network: NetworkConfig, n_training: int) -> int:
    """Return a power of two that memory and frames allow."""
    most = 256 if network.family == "graph-transformer" else _LARGEST_BATCH
    n = dataset.n_beads
    widest = max(n * (n - 1) // 2, max(1, n - WINDOW + 1) * 128)
    allowed = max(1, min(most, n_training, _MOST_NUMBERS // widest))
    return 1 << (allowed.bit_length() - 1)


def _title(dataset: CGDataset, path: str | os.PathLike[str]) -> str:
    names = " ".join([*dataset.topology.names[:8], "..."][: dataset.n_beads])
    return f"{Path(path).stem}, {dataset.n_beads} beads ({names}), {dataset.temperature:g} K"


def _notes(dataset: CGDataset, n_training: int, steps: int) -> Iterator[str]:
    worth = effective_frames(dataset.positions)
    yield (
        f"{dataset.n_frames:,} frames of {dataset.n_beads} beads, worth {worth:,.0f} independent "
        "ones."
    )
    if worth < FEW_INDEPENDENT:
        yield (
            "FEW FRAMES: how often states are visited is known no better than from "
            f"{worth:,.0f} throws of a die; more or longer trajectories help most."
        )
    elif n_training < FEW_FRAMES:
        yield f"FEW FRAMES: {n_training:,} to learn from; more of them help more than more steps."
    if steps < FEW_STEPS:
        yield (
            f"FEW STEPS: {steps:,}. Bonds need about {FEW_STEPS:,}: watch the held-out loss, and "
            "give more minutes, or more frames, while it falls."
        )


def _rounded(steps: int) -> int:
    """Return two digits of a number of steps, rounded down."""
    unit: int = 10 ** max(0, len(str(steps)) - 2)
    return max(1, steps // unit * unit)


def _scalar(value: Any) -> str:
    if isinstance(value, float) and value != 0.0 and not 1e-2 <= abs(value) < 1e4:
        return f"{value:.6g}" if "." in f"{value:.6g}" else f"{value:.1e}"  # YAML wants a point
    return json.dumps(value, ensure_ascii=False)
