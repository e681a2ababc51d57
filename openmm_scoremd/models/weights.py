"""Trained networks as ``.safetensors``: weights, and a header with all it takes to use them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openmm_scoremd._files.tensors import read_tensors, write_tensors
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError, ModelFileError, ScoreMDError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.families import build_model, network_config
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.topology import BeadTopology

SCHEMA_VERSION = 1
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


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """What a trained network is and what it was trained on.

    Attributes
    ----------
    title : str
        What the model is, for people.
    network : NetworkConfig
        Shape of the network; of a mixture, of the one that serves ``t_min``.
    schedule : VPSchedule
        Noise schedule.
    topology : BeadTopology
        The beads.
    n_dims : int
        Dimensions of a bead's coordinates.
    temperature : float
        Temperature of the data in K.
    scale : float
        Length in nm of one standardised unit.
    t_min : float
        Smallest diffusion time seen in training.
    dataset_sha256 : str
        Hash of the dataset file.
    example_positions : nested tuple of float, shape (frames, N, D), nm
        A few frames of the data, to test exported models with.
    bond_ranges : tuple of (float, float), nm
        Shortest and longest length of every bond in the data.
    training : dict
        Configuration, steps, losses, versions: a record, never read back as settings.
    experts : tuple of ExpertDescription
        The networks of a mixture, by increasing diffusion time; empty for a single network.

    Raises
    ------
    InvalidInputError
        If a number is not positive and finite, or the example frames are not of these beads.
    """

    title: str
    network: NetworkConfig
    schedule: VPSchedule
    topology: BeadTopology
    n_dims: int
    temperature: float
    scale: float
    t_min: float
    dataset_sha256: str
    example_positions: Sequence[Sequence[Sequence[float]]]
    bond_ranges: Sequence[tuple[float, float]]
    training: Mapping[str, Any]
    experts: tuple[ExpertDescription, ...] = ()

    def __post_init__(self) -> None:
        for name in ("temperature", "scale", "t_min"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0.0 < value < math.inf):
                raise InvalidInputError(f"{name} is {value!r}; it must be a positive number")
        shape = np.shape(self.example_positions)
        if len(shape) != 3 or not shape[0] or shape[1:] != (self.topology.n_beads, self.n_dims):
            raise InvalidInputError(
                f"example_positions have shape {shape}; they must be at least one frame of shape "
                f"({self.topology.n_beads}, {self.n_dims})"
            )

    def to_json(self) -> str:
        """Return the description as JSON."""
        return json.dumps(self._to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelDescription:
        """Read the output of :meth:`to_json`.

        Raises
        ------
        ModelFileError
            If it is of another schema version, or an entry is missing or wrong.
        """
        try:
            content = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise ModelFileError(f"the header is not JSON ({error})") from error
        return cls._from_dict(content)

    def _to_dict(self) -> dict[str, Any]:
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["network"] = dataclasses.asdict(self.network)
        content["experts"] = [dataclasses.asdict(expert) for expert in self.experts]
        content["schedule"] = dataclasses.asdict(self.schedule)
        content["topology"] = self.topology.to_dict()
        return {"schema_version": SCHEMA_VERSION, **content}

    @classmethod
    def _from_dict(cls, header: Mapping[str, Any]) -> ModelDescription:
        version = header.get("schema_version") if isinstance(header, Mapping) else None
        if version != SCHEMA_VERSION:
            raise ModelFileError(
                f"the weights have schema version {version}; this package reads {SCHEMA_VERSION}"
            )
        try:
            content = dict(header)
            del content["schema_version"]
            description = cls(
                network=network_config(content.pop("network")),
                # Files of the first version know no mixtures.
                experts=tuple(_expert(expert) for expert in content.pop("experts", ())),
                schedule=VPSchedule(**content.pop("schedule")),
                topology=BeadTopology.from_dict(content.pop("topology")),
                **content,
            )
        except (LookupError, TypeError, ValueError) as error:
            raise ModelFileError(f"the header does not describe a model ({error!r})") from error
        return description


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network and its description.

    Attributes
    ----------
    model : ScoreModel
        Network, in evaluation mode.
    description : ModelDescription
        What it is and what it was trained on.
    """

    model: ScoreModel
    description: ModelDescription


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
    write_tensors(path, tensors, key=_HEADER_KEY, header=trained.description._to_dict())


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
        description = ModelDescription._from_dict(header)
        model = _build(description)
        dtype = next(v.dtype for v in tensors.values() if v.is_floating_point())
        model.to(dtype).load_state_dict(tensors)
    # Sizes and types of a damaged header fail in the constructors of the layers.
    except (ScoreMDError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}") from error
    return TrainedModel(model.eval(), description)


def _build(description: ModelDescription) -> ScoreModel:
    if not description.experts:
        return _build_network(description, description.network)
    return TimePartitionedMixture(
        [
            Expert(_build_network(description, expert.network), expert.t_min, expert.t_max)
            for expert in description.experts
        ]
    )


def _build_network(description: ModelDescription, network: NetworkConfig) -> ScoreModel:
    return build_model(
        network,
        n_beads=description.topology.n_beads,
        n_dims=description.n_dims,
        schedule=description.schedule,
        topology=description.topology,
    )


def _expert(content: Mapping[str, Any]) -> ExpertDescription:
    entries = dict(content)
    return ExpertDescription(network=network_config(entries.pop("network")), **entries)
