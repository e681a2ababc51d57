"""What a network was trained on, to travel with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from openmm_scoremd._files.run_record import package_versions
from openmm_scoremd.data.dataset import CGDataset
from openmm_scoremd.geometry import distances
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.weights import WeightsDescription
from openmm_scoremd.training.config import TrainingConfig, config_record

#: Frames that travel with the weights, to test exported models with.
N_EXAMPLE_FRAMES = 4


def describe_model(
    config: TrainingConfig,
    dataset: CGDataset,
    model: ScoreModel,
    *,
    dataset_sha256: str,
    results: Mapping[str, Any],
) -> WeightsDescription:
    """Return the description of a network from the configuration and the data of its training.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of a single network.
    dataset : CGDataset
        The dataset that ``config.data`` names.
    model : ScoreModel
        The network.
    dataset_sha256 : str
        Hash of its file.
    results : mapping
        What there is to say about the training.

    Returns
    -------
    WeightsDescription
        What the weights file says about itself.
    """
    return WeightsDescription(
        title=config.title,
        network=config.network,
        schedule=config.schedule,
        topology=dataset.topology,
        n_dims=dataset.n_dims,
        translation_invariant=model.translation_invariant,
        temperature=dataset.temperature,
        scale=config.data.scale or dataset.scale,
        t_min=config.loss.t_min,
        dataset_sha256=dataset_sha256,
        example_positions=dataset.positions[:N_EXAMPLE_FRAMES].astype(np.float64),
        bond_ranges=tuple(_bond_ranges(dataset)),
        training={
            "config": config_record(config),
            "results": dict(results),
            "versions": package_versions(),
        },
    )


def _bond_ranges(dataset: CGDataset) -> list[tuple[float, float]]:
    if not dataset.topology.bonds:
        return []
    lengths = distances(dataset.positions, dataset.topology.bonds)
    shortest, longest = lengths.min(axis=0), lengths.max(axis=0)
    return [(float(low), float(high)) for low, high in zip(shortest, longest, strict=True)]
