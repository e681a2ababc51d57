"""Training of a time-partitioned mixture: one run per expert, then one weights file."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openmm_scoremd._files.run_record import sha256_of_file, write_run_record
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.models.weights import (
    ExpertDescription,
    TrainedModel,
    load_weights,
    save_weights,
)
from openmm_scoremd.training.config import (
    ExpertConfig,
    TrainingConfig,
    config_record,
    expert_config,
)
from openmm_scoremd.training.renamed import renamed_record
from openmm_scoremd.training.trainer import CHECKPOINT, WEIGHTS, Progress, Trainer

logger = logging.getLogger(__name__)

#: Given an expert's trainer before it starts, returns where its progress goes.
ProgressOf = Callable[[ExpertConfig, Trainer], Progress | None]


def train_expert(
    config: TrainingConfig,
    name: str,
    folder: str | os.PathLike[str],
    *,
    progress_of: ProgressOf | None = None,
) -> Path:
    """Train one expert of a mixture, or go on where its training stopped.

    Experts are independent but for ``start_from``: each may be trained by a process of its own.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the mixture.
    name : str
        The expert.
    folder : path-like
        Folder of the mixture; the expert gets a folder of its name inside.
    progress_of : callable, optional
        Progress report.

    Returns
    -------
    Path
        Weights of the expert.

    Raises
    ------
    ConfigurationError
        If there is no such expert, or the one it starts from has not been trained.
    CheckpointError
        If the folder holds a run of another configuration.
    """
    expert = _named(config, name)
    run = Path(folder) / name
    single = dataclasses.replace(
        expert_config(config, expert), start_from=_start(expert, Path(folder))
    )
    trainer = Trainer(single, run)
    trainer.progress = None if progress_of is None else progress_of(expert, trainer)
    return trainer.resume() if (run / CHECKPOINT).exists() else trainer.start()


def train_mixture(
    config: TrainingConfig,
    folder: str | os.PathLike[str],
    *,
    progress_of: ProgressOf | None = None,
) -> Path:
    """Train all experts in the order of the configuration and combine them.

    What is finished already is left as it is; what was stopped goes on.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the mixture.
    folder : path-like
        One folder per expert inside, and ``weights.safetensors`` of the mixture.
    progress_of : callable, optional
        Progress report.

    Returns
    -------
    Path
        Weights of the mixture.

    Raises
    ------
    CheckpointError
        If the folder holds a run of another configuration.
    """
    weights = {
        expert.name: train_expert(config, expert.name, folder, progress_of=progress_of)
        for expert in config.experts
    }
    path = combine_experts(
        [weights[expert.name] for expert in config.experts],
        [(expert.t_min, expert.t_max) for expert in config.experts],
        Path(folder) / WEIGHTS,
        title=config.title,
    )
    write_run_record(
        Path(folder),
        arguments=config_record(config),
        seeds={"training": config.seed},
        inputs={"dataset": config.data.path},
        results=dict(load_weights(path).description.training["results"]),
    )
    return path


def combine_experts(
    weights: Sequence[str | os.PathLike[str]],
    intervals: Sequence[tuple[float, float]],
    path: str | os.PathLike[str],
    *,
    title: str,
) -> Path:
    """Write networks trained one by one as one mixture.

    Parameters
    ----------
    weights : sequence of path-like
        Weights files (``.safetensors``) of the experts.
    intervals : sequence of (float, float)
        Diffusion times each serves; the same twice for none. Such a stage, which others started
        from, has no part in the mixture, but its training counts.
    path : path-like
        The mixture's weights file.
    title : str
        What the model is, for people.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        If the experts were trained on different datasets, with different scales, splits or
        schedules, or outside the times they are to serve; if the intervals leave a gap or overlap;
        if a file holds a mixture itself.
    ModelFileError
        If a file cannot be read.
    """
    if len(weights) != len(intervals):
        raise ConfigurationError(
            f"{len(weights)} experts and {len(intervals)} intervals; give one for each"
        )
    trained = [load_weights(file) for file in weights]
    _check_single_networks([Path(file) for file in weights], trained)
    _check_same_data([Path(file) for file in weights], trained)
    _check_trained_times([Path(file) for file in weights], trained, intervals)
    serving = [i for i, (start, end) in enumerate(intervals) if start != end]
    order = sorted(serving, key=lambda i: intervals[i])
    model = TimePartitionedMixture([Expert(trained[i].model, *intervals[i]) for i in order])
    lowest = trained[order[0]].description
    description = dataclasses.replace(
        lowest,
        title=title,
        t_min=intervals[order[0]][0],
        translation_invariant=model.translation_invariant,
        experts=tuple(
            ExpertDescription(trained[i].description.network, *intervals[i]) for i in order
        ),
        training={
            "config": lowest.training.get("config", {}),
            "results": _total([one.description.training.get("results", {}) for one in trained]),
            "versions": lowest.training.get("versions", {}),
            "experts": [
                {"sha256": sha256_of_file(weights[i]), **trained[i].description.training}
                for i in order
            ],
        },
    )
    save_weights(TrainedModel(model.eval(), description), path)
    return Path(path)


def _named(config: TrainingConfig, name: str) -> ExpertConfig:
    for expert in config.experts:
        if expert.name == name:
            return expert
    names = ", ".join(expert.name for expert in config.experts)
    raise ConfigurationError(f"there is no expert {name!r}; there are: {names or 'none'}")


def _start(expert: ExpertConfig, folder: Path) -> str | None:
    if expert.start_from is None:
        return None
    weights = folder / expert.start_from / WEIGHTS
    if not weights.exists():
        raise ConfigurationError(
            f"expert {expert.name} starts from {expert.start_from}, which is not trained yet "
            f"({weights} is missing); train that one first"
        )
    return os.fspath(weights)


def _check_single_networks(paths: Sequence[Path], trained: Sequence[TrainedModel]) -> None:
    for path, model in zip(paths, trained, strict=True):
        if model.description.experts:
            raise ConfigurationError(
                f"{path} holds a mixture itself; give the weights of its experts one by one"
            )


def _check_same_data(paths: Sequence[Path], trained: Sequence[TrainedModel]) -> None:
    def data(model: TrainedModel) -> tuple[Any, ...]:
        about = model.description
        config, _ = renamed_record(about.training.get("config", {}))
        frames = config.get("data", {})
        kind = frames.get("split", "frames")
        split = (config.get("seed"), frames.get("held_out_fraction"), kind)
        return (about.dataset_sha256, about.scale, about.temperature, about.schedule, split)

    for path, other in zip(paths[1:], trained[1:], strict=True):
        if data(other) != data(trained[0]):
            raise ConfigurationError(
                f"{path} was trained with another dataset, scale, split or schedule than "
                f"{paths[0]}; experts of one mixture must share them"
            )


def _check_trained_times(
    paths: Sequence[Path],
    trained: Sequence[TrainedModel],
    intervals: Sequence[tuple[float, float]],
) -> None:
    for path, model, (start, end) in zip(paths, trained, intervals, strict=True):
        loss = model.description.training.get("config", {}).get("loss", {})
        low, high = model.description.t_min, loss.get("t_max", model.model.t_max)
        if start != end and not low <= start < end <= high:
            raise ConfigurationError(
                f"{path} was trained on diffusion times {low} to {high}; "
                f"it cannot serve {start} to {end}"
            )


def _total(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for name in ("steps", "frames_seen", "hours"):
        total[name] = round(sum(result.get(name, 0) for result in results), 3)
    return total
