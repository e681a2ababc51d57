"""What a training run depends on: one typed, immutable tree, written beside every result."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.factory import NetworkConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which frames to train on.

    Attributes
    ----------
    path : str
        CG dataset (``.npz``).
    held_back_fraction : float
        Part of the frames that training never sees, for evaluation; 0 to train on all.
    augmentation : {"rotation", "none"}
        Uniform random rotation of every frame in every batch, or nothing (toy systems).
    scale : float or None
        Length in nm that one standardised unit stands for; None for the standard deviation of all
        coordinates.
    """

    path: str
    held_back_fraction: float = 0.2
    augmentation: Literal["rotation", "none"] = "rotation"
    scale: float | None = None

    def __post_init__(self) -> None:
        _require(
            0.0 <= self.held_back_fraction < 1.0,
            "data.held_back_fraction",
            self.held_back_fraction,
            "at least 0 and below 1",
        )
        _require(
            self.augmentation in ("rotation", "none"),
            "data.augmentation",
            self.augmentation,
            "'rotation' or 'none'",
        )
        _require(
            self.scale is None or 0.0 < self.scale < math.inf,
            "data.scale",
            self.scale,
            "positive, or null for the standard deviation of the data",
        )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Diffusion times of the loss and their weight (see ``TimeWeighting``).

    Attributes
    ----------
    t_min, t_max : float
        Range of the times.
    time_distribution : {"uniform", "balanced"}
        Published: times uniform between these. ``balanced``: half of them uniform, half uniform in
        the logarithm of the network's noise level, so that fine structure is seen as often as
        coarse; needs ``network.noise_floor``.
    weight_start, weight_end, weight_midpoint : float
        Window and midpoint of the weight; published: 0, 1, 0.3 for molecules, 0.5 for Müller-Brown.
    """

    t_min: float = 1e-5
    t_max: float = 1.0
    time_distribution: Literal["uniform", "balanced"] = "uniform"
    weight_start: float = 0.0
    weight_end: float = 1.0
    weight_midpoint: float = 0.3

    def __post_init__(self) -> None:
        _require(
            0.0 < self.t_min < self.t_max <= 1.0,
            "loss.t_min, loss.t_max",
            (self.t_min, self.t_max),
            "0 < t_min < t_max <= 1",
        )
        _require(
            self.time_distribution in ("uniform", "balanced"),
            "loss.time_distribution",
            self.time_distribution,
            "'uniform' or 'balanced'",
        )
        window = (self.weight_start, self.weight_midpoint, self.weight_end)
        _require(
            0.0 <= window[0] < window[1] < window[2] <= 1.0,
            "loss.weight_start, weight_midpoint, weight_end",
            window,
            "increasing and in [0, 1]",
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a cosine learning rate, elementwise gradient clipping and a weight average.

    Attributes
    ----------
    learning_rate, final_learning_rate : float
        Start and end of the cosine.
    weight_decay : float
        Decoupled weight decay.
    gradient_clip : float
        Largest absolute value of a gradient entry.
    ema_decay : float
        Decay of the exponential moving average of the weights, which is what gets exported.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    gradient_clip: float = 1000.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        _require(
            0.0 <= self.final_learning_rate <= self.learning_rate < math.inf,
            "optimizer.final_learning_rate, optimizer.learning_rate",
            (self.final_learning_rate, self.learning_rate),
            "0 <= final_learning_rate <= learning_rate",
        )
        _require(
            0.0 <= self.weight_decay < math.inf,
            "optimizer.weight_decay",
            self.weight_decay,
            "at least 0",
        )
        _require(
            self.gradient_clip > 0.0,
            "optimizer.gradient_clip",
            self.gradient_clip,
            "positive",
        )
        _require(
            0.0 <= self.ema_decay < 1.0,
            "optimizer.ema_decay",
            self.ema_decay,
            "at least 0 and below 1",
        )


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """Where training runs. Nothing here changes what is computed, except rounding.

    Attributes
    ----------
    accelerator : {"auto", "cpu", "cuda"}
        Kind of device.
    devices : int
        Number of processes, one device each.
    precision : {"32-true", "64-true"}
        Floating point precision of parameters and loss.
    backend : {"auto", "eager", "compiled"}
        ``compiled`` traces loss and gradient into one graph for ``torch.compile`` (about a minute
        at the start, then up to twice as fast); ``auto`` compiles where a C++ compiler is found.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "64-true"] = "32-true"
    backend: Literal["auto", "eager", "compiled"] = "auto"

    def __post_init__(self) -> None:
        _require(self.devices >= 1, "hardware.devices", self.devices, "at least 1")
        for name, allowed in (
            ("accelerator", ("auto", "cpu", "cuda")),
            ("precision", ("32-true", "64-true")),
            ("backend", ("auto", "eager", "compiled")),
        ):
            value = getattr(self, name)
            _require(value in allowed, f"hardware.{name}", value, f"one of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes
    ----------
    title : str
        What the model is, for people; travels in the model file.
    data : DataConfig
        Frames.
    network : NetworkConfig
        Shape of the network.
    schedule : VPSchedule
        Noise schedule.
    loss : LossConfig
        Diffusion times and weights.
    optimizer : OptimizerConfig
        Optimiser.
    hardware : HardwareConfig
        Device and precision.
    epochs, batch_size : int
        Passes over the training frames, and frames per step; an incomplete batch is dropped.
    seed : int
        Decides split, initial weights, batches, times, rotations and noise.
    checkpoint_seconds : float
        Wall-clock time between checkpoints.
    log_steps : int
        Steps between rows of the log.
    """

    data: DataConfig
    title: str = "coarse-grained model"
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    schedule: VPSchedule = dataclasses.field(default_factory=VPSchedule)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    hardware: HardwareConfig = dataclasses.field(default_factory=HardwareConfig)
    epochs: int = 100
    batch_size: int = 256
    seed: int = 0
    checkpoint_seconds: float = 60.0
    log_steps: int = 50

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2**63 - 1")
        _require(
            self.checkpoint_seconds >= 0.0,
            "checkpoint_seconds",
            self.checkpoint_seconds,
            "at least 0",
        )
        _require(
            self.batch_size % self.hardware.devices == 0,
            "batch_size",
            self.batch_size,
            f"a multiple of hardware.devices, which is {self.hardware.devices}",
        )
        _require(
            not self.network.vocabularies,
            "network.vocabularies",
            self.network.vocabularies,
            "empty: datasets hold no bead features yet",
        )
        _require(
            self.loss.time_distribution == "uniform" or self.network.noise_floor is not None,
            "loss.time_distribution",
            self.loss.time_distribution,
            "'uniform' unless network.noise_floor is set",
        )
        inside = self.network.t_min <= self.loss.t_min and self.loss.t_max <= self.network.t_max
        _require(
            inside,
            "loss.t_min, loss.t_max",
            (self.loss.t_min, self.loss.t_max),
            f"inside the network's range [{self.network.t_min}, {self.network.t_max}]",
        )


#: Entries that may differ between a run and its continuation.
_FREE_ON_RESUME = ("title", "hardware.", "checkpoint_seconds", "log_steps", "data.path")


def config_record(config: TrainingConfig) -> dict[str, Any]:
    """Return a configuration as plain JSON, without the folder of the dataset."""
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    # The name of the file says nothing about its content, and folders are private.
    record["data"]["path"] = Path(config.data.path).name
    return record


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return where two records differ in what is computed, as dotted names in order.

    Parameters
    ----------
    old, new : mapping
        Outputs of :func:`config_record`. Entries that the version which wrote ``old`` did not know
        have their default values: what they do by default is what was done before.
    """
    defaults = config_record(TrainingConfig(DataConfig("")))
    changed = sorted(_different_keys(_completed(old, defaults), new, ""))
    return [key for key in changed if not key.startswith(_FREE_ON_RESUME)]


def _completed(record: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    completed = {**defaults, **record}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(completed[key], dict):
            completed[key] = _completed(completed[key], default)
    return completed


def _different_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> set[str]:
    different: set[str] = set()
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            different |= _different_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            different.add(f"{prefix}{key}")
    return different


def _require(condition: bool, name: str, given: object, allowed: str) -> None:
    if not condition:
        raise ConfigurationError(f"{name} is {given}; it must be {allowed}")
