"""What a training run depends on: one typed, immutable tree, written beside every result."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.families import network_family
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mixture import check_partition
from openmm_scoremd.training.renamed import renamed_record
from openmm_scoremd.training.sections import (
    DataConfig,
    FokkerPlanckConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    require,
    settle_length,
)

__all__ = [
    "DataConfig",
    "ExpertConfig",
    "FokkerPlanckConfig",
    "HardwareConfig",
    "LossConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "changed_keys",
    "config_record",
    "expert_config",
    "serving_experts",
]


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """One network of a time-partitioned mixture (arXiv 2506.17139, section 4.2).

    Attributes
    ----------
    name : str
        Folder of its training run.
    t_min, t_max : float
        Diffusion times it serves; the same twice for none, a stage that another expert starts from.
        ``loss`` may cover more.
    network, loss, fokker_planck : NetworkConfig, LossConfig, FokkerPlanckConfig
        As in :class:`TrainingConfig`.
    optimizer : OptimizerConfig or None
        None for that of the run.
    epochs, steps : int or None
        As in :class:`TrainingConfig`.
    start_from : str or None
        Name of an expert listed earlier, of the same shape, whose weights it starts from.
    """

    name: str
    t_min: float
    t_max: float
    network: NetworkConfig = dataclasses.field(default_factory=GraphTransformerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    fokker_planck: FokkerPlanckConfig = dataclasses.field(default_factory=FokkerPlanckConfig)
    optimizer: OptimizerConfig | None = None
    epochs: int | None = None
    steps: int | None = None
    start_from: str | None = None

    def __post_init__(self) -> None:
        settle_length(self, of=f"expert {self.name}: ")
        require(
            re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name) is not None,
            "experts.name",
            repr(self.name),
            "letters, digits, dots, dashes: it names a folder",
        )
        require(
            self.loss.t_min <= self.t_min <= self.t_max <= self.loss.t_max,
            f"the interval of expert {self.name}",
            (self.t_min, self.t_max),
            "increasing (or empty), and inside what it is trained on, loss.t_min to loss.t_max: "
            f"({self.loss.t_min}, {self.loss.t_max})",
        )


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
    fokker_planck : FokkerPlanckConfig
        Regulariser.
    optimizer : OptimizerConfig
        Optimiser.
    hardware : HardwareConfig
        Device and precision.
    epochs, steps : int or None
        Length of the training, as passes over the training frames or as optimiser steps: one of
        them. Without either, 100 epochs.
    batch_size : int
        Frames per step; an incomplete batch is dropped.
    seed : int
        Decides split, initial weights, batches, times, rotations and noise.
    checkpoint_seconds : float
        Wall-clock time between checkpoints.
    log_steps : int
        Steps between rows of the log.
    weights : {"last", "best"}
        Which average of the weights is kept: that of the last step, or that of the lowest loss of
        held-out frames.
    start_from : str or None
        Weights file to start from, of a network of the same shape; None for random weights.
    experts : tuple of ExpertConfig
        For a time-partitioned mixture, its networks in the order of training; ``network``,
        ``loss``, ``fokker_planck``, ``epochs``, ``steps`` and ``start_from`` are then those of each
        expert.
    """

    data: DataConfig
    title: str = "coarse-grained model"
    network: NetworkConfig = dataclasses.field(default_factory=GraphTransformerConfig)
    schedule: VPSchedule = dataclasses.field(default_factory=VPSchedule)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    fokker_planck: FokkerPlanckConfig = dataclasses.field(default_factory=FokkerPlanckConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    hardware: HardwareConfig = dataclasses.field(default_factory=HardwareConfig)
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 256
    seed: int = 0
    checkpoint_seconds: float = 60.0
    log_steps: int = 50
    weights: Literal["last", "best"] = "last"
    start_from: str | None = None
    experts: tuple[ExpertConfig, ...] = ()

    def __post_init__(self) -> None:
        settle_length(self)
        for name in ("batch_size", "log_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2**63 - 1")
        require(
            self.checkpoint_seconds >= 0.0,
            "checkpoint_seconds",
            self.checkpoint_seconds,
            "at least 0",
        )
        require(
            self.batch_size % self.hardware.devices == 0,
            "batch_size",
            self.batch_size,
            f"a multiple of hardware.devices, which is {self.hardware.devices}",
        )
        require(
            not self.network.needs_features,
            "network",
            self.network,
            "one without bead features (vocabularies: []): datasets hold none yet",
        )
        require(
            self.loss.time_distribution == "uniform" or self.network.noise_floor is not None,
            "loss.time_distribution",
            self.loss.time_distribution,
            "'uniform' unless network.noise_floor is set",
        )
        inside = self.network.t_min <= self.loss.t_min and self.loss.t_max <= self.network.t_max
        require(
            inside,
            "loss.t_min, loss.t_max",
            (self.loss.t_min, self.loss.t_max),
            f"inside the network's range [{self.network.t_min}, {self.network.t_max}]",
        )
        require(self.weights in ("last", "best"), "weights", self.weights, "'last' or 'best'")
        require(
            self.weights == "last" or self.data.held_out_fraction > 0.0,
            "weights",
            repr(self.weights),
            "'last' unless data.held_out_fraction is above 0",
        )
        _check_fokker_planck(self)
        if self.experts:
            _check_experts(self)


def _check_fokker_planck(config: TrainingConfig) -> None:
    regulariser, network = config.fokker_planck, config.network
    if regulariser.alpha == 0.0:
        return
    require(
        network.output == "conservative",
        "fokker_planck.alpha",
        regulariser.alpha,
        "0 for a network with output: direct, which has no density; or make it conservative",
    )
    unit, meaning = config.hardware.devices, "devices"
    if regulariser.estimator == "centred":
        require(
            network.noise_floor is not None,
            "fokker_planck.estimator",
            "'centred'",
            "'weak' unless network.noise_floor is set",
        )
        unit, meaning = regulariser.group_size * unit, "group_size x devices"
    n_frames = regulariser.n_frames(config.batch_size)
    require(
        n_frames >= unit and n_frames % unit == 0,
        "fokker_planck.fraction",
        regulariser.fraction,
        f"such that fraction x batch_size, rounded, is a multiple of {unit} ({meaning}), not "
        f"{n_frames}",
    )
    if regulariser.times == "log-noise":
        require(
            regulariser.estimator == "centred",
            "fokker_planck.times",
            "'log-noise'",
            "'loss' unless fokker_planck.estimator is 'centred'",
        )
    if regulariser.frames != "data":
        require(
            regulariser.estimator == "centred",
            "fokker_planck.frames",
            repr(regulariser.frames),
            "'data' unless fokker_planck.estimator is 'centred'",
        )
        require(
            n_frames < config.batch_size,
            "fokker_planck.fraction",
            regulariser.fraction,
            f"below 1 with frames: {regulariser.frames}, so that some are left for denoising score "
            "matching",
        )


def _check_experts(config: TrainingConfig) -> None:
    plain = TrainingConfig(config.data)
    for name in ("network", "loss", "fokker_planck", "epochs", "steps", "start_from"):
        require(
            getattr(config, name) == getattr(plain, name),
            name,
            "given beside experts",
            "given for each expert instead",
        )
    intervals = sorted((expert.t_min, expert.t_max) for expert in serving_experts(config))
    require(len(intervals) > 0, "experts", intervals, "such that one of them serves some times")
    try:
        check_partition(intervals)
    except ConfigurationError as error:
        raise ConfigurationError(f"experts: {error}") from error
    require(intervals[-1][1] == 1.0, "experts", intervals, "such that the last ends at 1")
    earlier: list[str] = []
    for expert in config.experts:
        require(expert.name not in earlier, "experts.name", repr(expert.name), "used once")
        require(
            expert.start_from is None or expert.start_from in earlier,
            f"start_from of expert {expert.name}",
            repr(expert.start_from),
            f"null or an expert listed before it ({', '.join(earlier) or 'none'})",
        )
        earlier.append(expert.name)
        expert_config(config, expert)


def serving_experts(config: TrainingConfig) -> tuple[ExpertConfig, ...]:
    """Return the experts that serve any diffusion time."""
    return tuple(expert for expert in config.experts if expert.t_min < expert.t_max)


def expert_config(config: TrainingConfig, expert: ExpertConfig) -> TrainingConfig:
    """Return the configuration of the training run of one expert.

    Parameters
    ----------
    config : TrainingConfig
        Configuration with experts.
    expert : ExpertConfig
        One of them; its ``start_from`` is left for the caller to turn into a file.

    Raises
    ------
    ConfigurationError
        If its sections do not fit each other.
    """
    try:
        return dataclasses.replace(
            config,
            experts=(),
            title=f"{config.title} ({expert.name})",
            network=expert.network,
            loss=expert.loss,
            fokker_planck=expert.fokker_planck,
            optimizer=expert.optimizer or config.optimizer,
            epochs=expert.epochs,
            steps=expert.steps,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"expert {expert.name}: {error}") from error


#: Entries that may differ between a run and its continuation, which may be longer.
_FREE_ON_RESUME = (
    "epochs",
    "steps",
    "weights",
    "title",
    "hardware.",
    "checkpoint_seconds",
    "log_steps",
    "data.path",
    "start_from",
)


def config_record(config: TrainingConfig) -> dict[str, Any]:
    """Return a configuration as plain JSON, without the folder of the dataset."""
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    # The name of the file says nothing about its content, and folders are private.
    record["data"]["path"] = Path(config.data.path).name
    if config.start_from is not None:
        record["start_from"] = Path(config.start_from).name
    return record


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return where two records differ in what is computed, as dotted names in order.

    Parameters
    ----------
    old, new : mapping
        Outputs of :func:`config_record`. Entries that the version which wrote ``old`` did not know
        have their default values: what they do by default is what was done before. Entries may have
        former names.
    """
    current, _ = renamed_record(old)
    # All entries but one: before there was a choice, single frames were held out.
    defaults = config_record(TrainingConfig(DataConfig("", split="frames")))
    # Entries of a network are those of its own family.
    if "network" in current:
        defaults["network"] = _network_defaults(current["network"])
    changed = sorted(_different_keys(_completed(current, defaults), new, ""))
    return [key for key in changed if not key.startswith(_FREE_ON_RESUME)]


def _network_defaults(network: Any) -> dict[str, Any]:
    try:
        config_class = network_family(network["family"]).config_class
    except (ConfigurationError, LookupError, TypeError):
        return {}
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config_class())))
    return record


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
