"""State of an unfinished training run.

A ``.safetensors`` file rather than ``torch.save``: nothing that reads it can run code, and a
damaged file is an error message. Batches are a function of the step, so no random state needs to be
kept.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmm_scoremd._files.tensors import read_tensors, write_tensors
from openmm_scoremd.errors import CheckpointError, InvalidInputError

#: Also changes when the same configuration and step give other batches: a run that went on with
#: those would see some frames twice and others never. 2: batches drawn in blocks of steps.
SCHEMA_VERSION = 2
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
    """Return copies of all tensors of a run under unique names.

    Parameters
    ----------
    model, average : nn.Module
        The network and the average of its weights.
    optimizer : torch.optim.Optimizer
        Its state is kept, its settings (which follow from the configuration) are not.

    Returns
    -------
    dict of str to Tensor
        On the CPU; names as in :class:`TrainingState`.
    """
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

    Parameters
    ----------
    tensors : mapping of str to Tensor
        State to go on from.
    model, average : nn.Module
        The network and the average of its weights; changed in place.
    optimizer : torch.optim.Optimizer
        Changed in place, except for its settings.

    Raises
    ------
    CheckpointError
        If a tensor is missing or has another shape.
    """
    try:
        model.load_state_dict(_part(tensors, "model."))
        average.load_state_dict(_part(tensors, "average."))
        optimizer.load_state_dict(
            {
                "state": _optimizer_state(_part(tensors, "optimizer."), optimizer),
                "param_groups": optimizer.state_dict()["param_groups"],
            }
        )
    except (RuntimeError, ValueError, LookupError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit this network ({error}); start again in another folder"
        ) from error


def save_checkpoint(state: TrainingState, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all; the same state gives the same bytes.

    Parameters
    ----------
    state : TrainingState
        What to write.
    path : path-like
        ``.safetensors`` file.
    """
    header = {
        "schema_version": SCHEMA_VERSION,
        "step": state.step,
        "config": state.config,
        "dataset_sha256": state.dataset_sha256,
    }
    write_tensors(path, state.tensors, key=_HEADER_KEY, header=header)


def load_checkpoint(path: str | os.PathLike[str]) -> TrainingState:
    """Read a checkpoint; nothing in it is executed.

    Parameters
    ----------
    path : path-like
        File written by :func:`save_checkpoint`.

    Returns
    -------
    TrainingState
        What was written.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another version.
    """
    if not Path(path).exists():
        raise CheckpointError(f"{os.fspath(path)} does not exist, so there is nothing to resume")
    try:
        header, tensors = read_tensors(path, key=_HEADER_KEY)
    except InvalidInputError as error:
        raise CheckpointError(
            f"{os.fspath(path)} is not a training checkpoint: {error}; "
            "start again in another folder"
        ) from error
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{os.fspath(path)} has schema version {version}; this version of the package reads "
            f"{SCHEMA_VERSION}, and trains on other random numbers. Finish the run with the "
            "version that began it, or start again in another folder"
        )
    step, config, dataset = (header.get(k) for k in ("step", "config", "dataset_sha256"))
    if not (isinstance(step, int) and step >= 0 and isinstance(config, dict)):
        raise CheckpointError(
            f"{os.fspath(path)} is damaged: its header holds no step and configuration; "
            "start again in another folder"
        )
    return TrainingState(step=step, config=config, dataset_sha256=str(dataset), tensors=tensors)


def _optimizer_state(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Sort ``<index>.<name>`` by index; PyTorch itself does not compare the shapes."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, entry = name.split(".", maxsplit=1)
        expected = parameters[int(index)].shape
        if value.shape not in ((), expected):
            raise ValueError(f"optimizer.{name} has shape {tuple(value.shape)}, not {expected}")
        state.setdefault(int(index), {})[entry] = value
    if len({frozenset(entries) for entries in state.values()}) > 1:
        raise KeyError("entries of the optimiser are missing")
    return state


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
