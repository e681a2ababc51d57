"""Networks of the public JAX code, from a flat ``.npz`` of their parameters.

The file holds ``param/<flax path>`` for every parameter and ``t_range`` (t_min, t_max). Flax
kernels are (in, out); ours are (out, in).
"""

import os
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.errors import ModelFileError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.embedding import RELATIVE_TIME_THRESHOLD
from openmm_scoremd.models.factory import NetworkConfig, build_model

_PREFIX = "param/"
_TRUNK = "GraphTransformerLucid_0"

#: The public code fixes this; the parameters alone do not tell heads from head width.
PUBLISHED_HEAD_WIDTH = 64

Parameters = Mapping[str, NDArray[np.floating]]


def load_jax_network(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32
) -> ScoreModel:
    """Build a network of the public JAX code and load its parameters.

    Kind, widths, time features and vocabularies follow from the shapes and the time range.

    Parameters
    ----------
    path : path-like
        ``.npz`` with ``param/<flax path>`` arrays and ``t_range``.
    dtype : torch.dtype
        Precision of the parameters.

    Returns
    -------
    ScoreModel
        An :class:`~openmm_scoremd.models.base.EnergyModel` where the output is a scalar.

    Raises
    ------
    ModelFileError
        If the file cannot be read or its parameters belong to no known network.
    """
    parameters, t_range = _read(path)
    read = _load_graph_transformer if "node_decoder/kernel" in parameters else _load_mlp
    try:
        config, n_beads, n_dims, state = read(parameters, t_range)
        _check_all_read(parameters, state)
        model = build_model(config, n_beads=n_beads, n_dims=n_dims).to(dtype)
        model.load_state_dict({name: value.to(dtype) for name, value in state.items()})
    # A file of something else fails in any of these ways: names, ranks, shapes, types, sizes.
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{os.fspath(path)}: the parameters are not those of a published network ({error})"
        ) from error
    return model


def _read(path: str | os.PathLike[str]) -> tuple[Parameters, tuple[float, float]]:
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            parameters = {
                name.removeprefix(_PREFIX): np.asarray(archive[name])
                for name in archive.files
                if name.startswith(_PREFIX)
            }
            t_min, t_max = (float(v) for v in archive["t_range"])
    # A damaged archive makes zipfile and NumPy raise almost anything.
    except Exception as error:
        raise ModelFileError(
            f"{os.fspath(path)} is not an .npz with param/... and t_range ({error})"
        ) from error
    if not parameters:
        raise ModelFileError(f"{os.fspath(path)} has no entries that start with {_PREFIX}")
    for name, values in parameters.items():
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise ModelFileError(f"{os.fspath(path)}: {_PREFIX}{name} holds no finite numbers")
    return parameters, (t_min, t_max)


def _check_all_read(parameters: Parameters, state: Mapping[str, Tensor]) -> None:
    given = sum(values.size for values in parameters.values())
    read = sum(values.numel() for values in state.values())
    if given != read:
        raise ValueError(f"{read} of the {given} numbers in the file have a place in the network")


def _n_time_features(t_range: tuple[float, float]) -> int:
    return 7 if t_range[0] >= RELATIVE_TIME_THRESHOLD else 4


def _dense(parameters: Parameters, path: str) -> dict[str, Tensor]:
    tensors = {"weight": torch.tensor(parameters[f"{path}/kernel"].T)}
    if f"{path}/bias" in parameters:
        tensors["bias"] = torch.tensor(parameters[f"{path}/bias"])
    return tensors


def _add(state: dict[str, Tensor], prefix: str, tensors: Mapping[str, Tensor]) -> None:
    state.update({f"{prefix}.{name}": value for name, value in tensors.items()})


def _load_mlp(
    parameters: Parameters, t_range: tuple[float, float]
) -> tuple[NetworkConfig, int | None, int, dict[str, Tensor]]:
    n_layers = sum(name.endswith("/kernel") for name in parameters)
    widths = tuple(parameters[f"Dense_{i}/kernel"].shape[1] for i in range(n_layers))
    n_dims = parameters["Dense_0/kernel"].shape[0] - _n_time_features(t_range)
    state: dict[str, Tensor] = {}
    for i in range(n_layers):
        _add(state, f"network.layers.{2 * i}", _dense(parameters, f"Dense_{i}"))
    config = NetworkConfig(
        kind="mlp",
        output="conservative" if widths[-1] == 1 else "direct",
        t_min=t_range[0],
        t_max=t_range[1],
        widths=widths[:-1],
    )
    return config, 1, n_dims, state


def _load_graph_transformer(
    parameters: Parameters, t_range: tuple[float, float]
) -> tuple[NetworkConfig, int | None, int, dict[str, Tensor]]:
    state: dict[str, Tensor] = {}
    _add(state, "network.node", _dense(parameters, "node_embedding"))
    _add(state, "network.edge", _dense(parameters, "edge_embedding"))
    _add(state, "decoder", _dense(parameters, "node_decoder"))
    vocabularies: list[int] = []
    while (table := f"scalar_embedding_{len(vocabularies)}/embedding") in parameters:
        name = f"network.bead_embedding.tables.{len(vocabularies)}.weight"
        state[name] = torch.tensor(parameters[table])
        vocabularies.append(parameters[table].shape[0])
    n_layers = sum("/Attention_" in name and "/Dense_4/k" in name for name in parameters)
    for layer in range(n_layers):
        _add(state, f"network.layers.{layer}", _layer(parameters, layer))

    width, inner = parameters[f"{_TRUNK}/Attention_0/Dense_0/kernel"].shape
    n_outputs = parameters["node_decoder/kernel"].shape[1]
    n_inputs = parameters["node_embedding/kernel"].shape[0]
    n_beads = None if vocabularies else n_inputs - _n_time_features(t_range)
    if n_outputs > 1:
        n_beads = n_outputs // 3
    feature_width = parameters["scalar_embedding_0/embedding"].shape[1] if vocabularies else 16
    config = NetworkConfig(
        kind="graph-transformer",
        output="conservative" if n_outputs == 1 else "direct",
        t_min=t_range[0],
        t_max=t_range[1],
        width=width,
        layers=n_layers,
        heads=inner // PUBLISHED_HEAD_WIDTH,
        head_width=PUBLISHED_HEAD_WIDTH,
        vocabularies=tuple(vocabularies),
        feature_width=feature_width,
    )
    return config, n_beads, 3, state


def _layer(parameters: Parameters, layer: int) -> dict[str, Tensor]:
    attention = f"{_TRUNK}/Attention_{layer}"
    query, key, value = (_dense(parameters, f"{attention}/Dense_{i}") for i in range(3))
    tensors: dict[str, Tensor] = {}
    joined = {name: torch.cat([query[name], key[name], value[name]]) for name in query}
    _add(tensors, "attention.query_key_value", joined)
    _add(tensors, "attention.edge", _dense(parameters, f"{attention}/Dense_3"))
    _add(tensors, "attention.output", _dense(parameters, f"{attention}/Dense_4"))
    for block, name in enumerate(("attention", "feed_forward")):
        i = 2 * layer + block
        norm = f"{_TRUNK}/PreNorm_{i}/LayerNorm_0"
        tensors[f"{name}_norm.weight"] = torch.tensor(parameters[f"{norm}/scale"])
        tensors[f"{name}_norm.bias"] = torch.tensor(parameters[f"{norm}/bias"])
        gate = _dense(parameters, f"{_TRUNK}/GatedResidual_{i}/Dense_0")
        _add(tensors, f"{name}_gate.gate", gate)
        _add(tensors, f"feed_forward.{2 * block}", _dense(parameters, f"{_TRUNK}/Dense_{i}"))
    return tensors
