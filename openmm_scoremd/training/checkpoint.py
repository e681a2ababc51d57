"""State of an unfinished training run.

A ``.safetensors`` file rather than ``torch.save``: nothing that reads it can run code, and a damaged
file is an error message. Batches are a function of the step, so no random state needs to be kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from openmm_scoremd._io import atomic_path
from openmm_scoremd.errors import CheckpointError

SCHEMA_VERSION = 1
_HEADER_KEY = "openmm_scoremd_training"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What a run needs to go on.

    Attributes
    ----------
    step : int
        Steps done.
    config : dict
        Configuration of the run; a resumed run must have the same.
    dataset_sha256 : str
        Hash of the dataset file.
    tensors : dict of str to Tensor
        ``model.*``, ``average.*`` and ``optimizer.<index>.<name>``.
    """

    step: int
    config: Mapping[str, Any]
    dataset_sha256: str
    tensors: Mapping[str, Tensor]


def gather_tensors(
    model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return copies of all tensors of a run under unique names."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def restore_tensors(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load what :func:`gather_tensors` returned.

    Raises
    ------
    CheckpointError
        If a tensor is missing or has another shape.
    """
    try:
        model.load_state_dict(_part(tensors, "model."))
        average.load_state_dict(_part(tensors, "average."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
            index, entry = name.split(".", maxsplit=1)
            state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit this network ({error}); start again in another folder"
        ) from error


def save_checkpoint(state: TrainingState, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all."""
    header = {
        "schema_version": SCHEMA_VERSION,
        "step": state.step,
        "config": state.config,
        "dataset_sha256": state.dataset_sha256,
    }
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(
            dict(state.tensors), temporary, metadata={_HEADER_KEY: json.dumps(header)}
        )


def load_checkpoint(path: str | os.PathLike[str]) -> TrainingState:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header["schema_version"] != SCHEMA_VERSION:
            raise CheckpointError(
                f"{os.fspath(path)} has schema version {header['schema_version']}; "
                f"this package reads {SCHEMA_VERSION}"
            )
        return TrainingState(
            step=int(header["step"]),
            config=header["config"],
            dataset_sha256=str(header["dataset_sha256"]),
            tensors=tensors,
        )
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} is not a training checkpoint ({error!r}); "
            "start again in another folder"
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
