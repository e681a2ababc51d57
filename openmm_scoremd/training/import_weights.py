"""Weights files from parameters that the public JAX code trained."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import CGDataset, load_dataset
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.import_jax import load_jax_parameters
from openmm_scoremd.models.weights import TrainedModel, save_weights
from openmm_scoremd.training.config import TrainingConfig, expert_config, serving_experts
from openmm_scoremd.training.description import describe_model
from openmm_scoremd.training.experts import combine_experts

logger = logging.getLogger(__name__)


def import_weights(
    parameters: Sequence[str | os.PathLike[str]],
    config: TrainingConfig,
    output: str | os.PathLike[str],
) -> Path:
    """Write parameters of the public JAX code as a weights file.

    Parameters
    ----------
    parameters : sequence of path-like
        One ``.npz`` (see :func:`openmm_scoremd.models.import_jax.load_jax_parameters`); of a
        mixture, one for each expert that serves any times, in the order of the configuration.
    config : TrainingConfig
        The network, the noise schedule, and the dataset that says which beads and, unless
        ``data.scale`` does, which length is 1 to the network.
    output : path-like
        Weights file (``.safetensors``).

    Returns
    -------
    Path
        The weights file.

    Raises
    ------
    ConfigurationError
        If files and networks are not as many, or the public code has no such network.
    DatasetError
        If the dataset cannot be read.
    ModelFileError
        If a file cannot be read, or its arrays are not those of the network.
    """
    experts = serving_experts(config)
    wanted = len(experts) or 1
    if len(parameters) != wanted:
        raise ConfigurationError(
            f"{len(parameters)} parameter files for {wanted} network(s); give one for each "
            f"({', '.join(expert.name for expert in experts) or 'the network'})"
        )
    dataset = load_dataset(config.data.path)
    if config.data.scale is None:
        logger.warning(
            "data.scale is not given, so that of the dataset is taken, %.6g nm; if the network was "
            "trained on other frames, set it to the length that was 1 to the network",
            dataset.scale,
        )
    path = Path(output)
    if not experts:
        _import_network(parameters[0], config, dataset, path)
        return path
    with tempfile.TemporaryDirectory() as folder:
        weights = [Path(folder) / f"{i}.safetensors" for i in range(wanted)]
        for file, expert, weight in zip(parameters, experts, weights, strict=True):
            _import_network(file, expert_config(config, expert), dataset, weight)
        intervals = [(expert.t_min, expert.t_max) for expert in experts]
        return combine_experts(weights, intervals, path, title=config.title)


def _import_network(
    parameters: str | os.PathLike[str], config: TrainingConfig, dataset: CGDataset, output: Path
) -> None:
    model = load_jax_parameters(
        parameters,
        config.network,
        n_beads=dataset.n_beads,
        n_dims=dataset.n_dims,
        schedule=config.schedule,
    )
    origin = {"imported_from": Path(parameters).name, "sha256": sha256_of_file(parameters)}
    description = describe_model(
        config,
        dataset,
        model,
        dataset_sha256=sha256_of_file(config.data.path),
        results=origin,
    )
    save_weights(TrainedModel(model.eval(), description), output)
