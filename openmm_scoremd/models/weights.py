"""Trained networks as ``.safetensors``: weights, and a header with all it takes to use them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files import json_checks as checks
from openmm_scoremd._files.tensors import read_tensors, write_tensors
from openmm_scoremd.description import ModelDescription
from openmm_scoremd.errors import InvalidInputError, ModelFileError, ScoreMDError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.families import build_model, network_config
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture

_HEADER_KEY = "openmm_scoremd"


@dataclasses.dataclass(frozen=True)
class ExpertDescription:
    """One network of a mixture.

    Attributes
    ----------
    network : NetworkConfig
        Its shape.
    t_min, t_max : float
        Diffusion times it serves.
    """

    network: NetworkConfig
    t_min: float
    t_max: float


def _network(value: Any, name: str) -> NetworkConfig:
    if isinstance(value, NetworkConfig):
        return value
    try:
        return network_config(dict(value))
    # Of a damaged header, also what the configuration refuses.
    except (LookupError, TypeError, ValueError, ScoreMDError) as error:
        raise checks.invalid(name, f"not usable ({error!r})", "a network") from error


def _experts(value: Any, name: str) -> tuple[ExpertDescription, ...]:
    if not isinstance(value, (list, tuple)):
        raise checks.invalid(name, value, "a list of experts")
    return tuple(_expert(entry, name) for entry in value)


def _expert(value: Any, name: str) -> ExpertDescription:
    if isinstance(value, ExpertDescription):
        return value
    if not isinstance(value, Mapping) or set(value) != {"network", "t_min", "t_max"}:
        raise checks.invalid(name, value, "objects of network, t_min and t_max")
    t_min, t_max = (checks.number(value[entry], name) for entry in ("t_min", "t_max"))
    return ExpertDescription(_network(value["network"], name), t_min, t_max)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WeightsDescription(ModelDescription):
    """What a weights file says about itself.

    Attributes
    ----------
    network : NetworkConfig
        Shape of the network; of a mixture, of the one that serves ``t_min``.
    example_positions : ndarray, shape (frames, N, D), nm
        A few frames of the data, to test exported models with.
    experts : tuple of ExpertDescription
        The networks of a mixture, by increasing diffusion time; empty for a single network.

    Raises
    ------
    ModelFileError
        As :class:`~openmm_scoremd.description.ModelDescription`, which has the other entries; or if
        the example frames are not of these beads.
    """

    network: Annotated[NetworkConfig, _network]
    example_positions: Annotated[NDArray[np.float64], checks.array]
    experts: Annotated[tuple[ExpertDescription, ...], _experts] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = self.example_positions.shape
        if len(shape) != 3 or not shape[0] or shape[1:] != (self.n_beads, self.n_dims):
            raise checks.invalid(
                "example_positions",
                f"of shape {shape}",
                f"at least one frame of shape ({self.n_beads}, {self.n_dims})",
            )


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network and its description.

    Attributes
    ----------
    model : ScoreModel
        Network, in evaluation mode.
    description : WeightsDescription
        What it is and what it was trained on.
    """

    model: ScoreModel
    description: WeightsDescription


def save_weights(trained: TrainedModel, path: str | os.PathLike[str]) -> None:
    """Write weights and description to one ``.safetensors`` file, whole or not at all.

    Parameters
    ----------
    trained : TrainedModel
        Weights; the description goes into the header.
    path : path-like
        Destination.
    """
    state = trained.model.state_dict()
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    write_tensors(path, tensors, key=_HEADER_KEY, header=trained.description.to_dict())


def load_weights(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a network written by :func:`save_weights`.

    Nothing in the file is executed.

    Parameters
    ----------
    path : path-like
        ``.safetensors`` file.

    Returns
    -------
    TrainedModel
        Network in the precision it was saved in, and its description.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, of another version, or its tensors do not fit.
    """
    try:
        header, tensors = read_tensors(path, key=_HEADER_KEY)
    except InvalidInputError as error:
        raise ModelFileError(f"{os.fspath(path)} is not a weights file: {error}") from error
    try:
        description = WeightsDescription.from_dict(header)
        model = network_of_record(description, architecture_of(description))
        dtype = next(v.dtype for v in tensors.values() if v.is_floating_point())
        model.to(dtype).load_state_dict(tensors)
    # Sizes and types of a damaged header fail in the constructors of the layers.
    except (ScoreMDError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}") from error
    return TrainedModel(model.eval(), description)


def architecture_of(description: WeightsDescription) -> dict[str, Any]:
    """Return the networks of a description as model files record them, in plain JSON.

    The entries are those of the network's configuration; of a mixture, of the one that serves the
    earliest times, and ``experts``.
    """
    architecture = dataclasses.asdict(description.network)
    if description.experts:
        architecture["experts"] = [dataclasses.asdict(expert) for expert in description.experts]
    return architecture


def network_of_record(description: ModelDescription, architecture: Mapping[str, Any]) -> ScoreModel:
    """Return a network with fresh parameters.

    Parameters
    ----------
    description : ModelDescription
        The beads and the schedule that it is for.
    architecture : mapping
        What :func:`architecture_of` returns.

    Raises
    ------
    ModelFileError
        If an entry is missing or unknown, or a network is.
    ConfigurationError
        If the networks cannot treat such samples.
    """
    entries = dict(architecture)
    experts = _experts(entries.pop("experts", ()), "architecture.experts")
    if not experts:
        return _build_network(description, _network(entries, "architecture"))
    return TimePartitionedMixture(
        [
            Expert(_build_network(description, expert.network), expert.t_min, expert.t_max)
            for expert in experts
        ]
    )


def _build_network(description: ModelDescription, network: NetworkConfig) -> ScoreModel:
    return build_model(
        network,
        n_beads=description.n_beads,
        n_dims=description.n_dims,
        schedule=description.schedule,
        topology=description.topology,
    )
