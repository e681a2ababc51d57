"""Networks of the public JAX code, from a flat ``.npz`` of their parameters.

The file holds ``param/<flax path>`` for every parameter and ``t_range`` (t_min, t_max). Flax
kernels are (in, out); ours are (out, in). ``docs/import_jax.md`` shows how to write one.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError, ModelFileError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.config import PUBLISHED_SCHEDULE, NetworkConfig
from openmm_scoremd.models.embedding import RELATIVE_TIME_THRESHOLD
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig

_PREFIX = "param/"
_TRUNK = "GraphTransformerLucid_0"
_TIME_TOLERANCE = 1e-6  # of t_range, which may have been through float32

#: The public code fixes this; the parameters alone do not tell heads from their width.
PUBLISHED_HEAD_DIM = 64

Parameters = Mapping[str, NDArray[np.floating]]


class _Place(NamedTuple):
    """Where an entry of our state comes from: arrays one below the other, and their shape."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    is_kernel: bool


def load_jax_network(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32
) -> ScoreModel:
    """Build a network of the public JAX code and load its parameters.

    Family, widths, time features and vocabularies follow from the shapes and the time range.

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
    infer = _infer_graph if "node_decoder/kernel" in parameters else _infer_mlp
    try:
        config, n_beads, n_dims = infer(parameters, t_range)
        model = build_model(config, n_beads=n_beads, n_dims=n_dims)
    # A file of something else fails in any of these ways: names, ranks, shapes, types, sizes.
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{os.fspath(path)}: the parameters are not those of a published network ({error})"
        ) from error
    _load(model, config, parameters, path)
    return model.to(dtype)


def load_jax_parameters(
    path: str | os.PathLike[str],
    config: NetworkConfig,
    *,
    n_beads: int,
    n_dims: int,
    schedule: VPSchedule = PUBLISHED_SCHEDULE,
    dtype: torch.dtype = torch.float32,
) -> ScoreModel:
    """Load parameters of the public JAX code into the network that a configuration describes.

    Parameters
    ----------
    path : path-like
        ``.npz`` with ``param/<flax path>`` arrays and ``t_range``.
    config : NetworkConfig
        The network, in its published form (without ``noise_floor``).
    n_beads, n_dims : int
        Beads, and dimensions of the coordinates of each.
    schedule : VPSchedule
        Noise schedule.
    dtype : torch.dtype
        Precision of the parameters.

    Returns
    -------
    ScoreModel
        The network.

    Raises
    ------
    ConfigurationError
        If the public code has no such network.
    ModelFileError
        If the file cannot be read, or arrays are missing, unknown or of another shape, or its time
        range is another one.
    """
    if config.noise_floor is not None:
        raise ConfigurationError(
            f"network.noise_floor is {config.noise_floor}; networks of the public code are not "
            "conditioned on the noise level: set it to null"
        )
    parameters, t_range = _read(path)
    if not np.allclose(t_range, (config.t_min, config.t_max), rtol=0.0, atol=_TIME_TOLERANCE):
        raise ModelFileError(
            f"{os.fspath(path)} has t_range {list(t_range)}, the configuration "
            f"[{config.t_min}, {config.t_max}]; set network.t_min and t_max to those of the network"
        )
    model = build_model(config, n_beads=n_beads, n_dims=n_dims, schedule=schedule)
    _load(model, config, parameters, path)
    return model.to(dtype)


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


def _load(
    model: ScoreModel, config: NetworkConfig, parameters: Parameters, path: str | os.PathLike[str]
) -> None:
    modules = _modules(config)
    places = {name: _place(name, value, modules) for name, value in model.state_dict().items()}
    _check_arrays(parameters, places.values(), path)
    state = {}
    for name, place in places.items():
        arrays = [
            parameters[array].T if place.is_kernel else parameters[array] for array in place.names
        ]
        state[name] = torch.from_numpy(np.concatenate(arrays).astype(np.float64))
    # In double precision, so that loading changes no digit before the caller chooses.
    model.to(torch.float64).load_state_dict(state)


def _check_arrays(
    parameters: Parameters, places: Iterable[_Place], path: str | os.PathLike[str]
) -> None:
    expected = {name: place.shape for place in places for name in place.names}
    complaints = []
    if missing := sorted(expected.keys() - parameters.keys()):
        complaints.append(f"missing {_listed(missing)}")
    if extra := sorted(parameters.keys() - expected.keys()):
        complaints.append(f"{_listed(extra)} have no place in the network")
    for name in sorted(expected.keys() & parameters.keys()):
        if parameters[name].shape != expected[name]:
            given = parameters[name].shape
            complaints.append(f"{_PREFIX}{name} has shape {given}, not {expected[name]}")
    if complaints:
        raise ModelFileError(
            f"{os.fspath(path)}: the parameters are not those of a published network, or not of "
            f"the one described: {'; '.join(complaints[:5])}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"{_PREFIX}{name}" for name in names[:3]) + more


def _place(name: str, value: Tensor, modules: Mapping[str, Sequence[str]]) -> _Place:
    module, _, leaf = name.rpartition(".")
    sources = modules[module]
    if leaf == "weight":
        is_table = sources[0].startswith("scalar_embedding_")
        leaf = "embedding" if is_table else "scale" if "LayerNorm" in sources[0] else "kernel"
    rows, *rest = value.shape
    shape = (rows // len(sources), *rest)
    is_kernel = leaf == "kernel"
    names = tuple(f"{source}/{leaf}" for source in sources)
    return _Place(names, shape[::-1] if is_kernel else shape, is_kernel)


def _modules(config: NetworkConfig) -> dict[str, tuple[str, ...]]:
    if isinstance(config, MLPConfig):
        return _mlp_modules(config)
    if isinstance(config, GraphTransformerConfig):
        return _graph_modules(config)
    raise ConfigurationError(
        f"network.family is {config.family!r}; the public code has graph-transformer and mlp only"
    )


def _mlp_modules(config: MLPConfig) -> dict[str, tuple[str, ...]]:
    return {f"network.layers.{2 * i}": (f"Dense_{i}",) for i in range(len(config.hidden_dims) + 1)}


def _graph_modules(config: GraphTransformerConfig) -> dict[str, tuple[str, ...]]:
    modules: dict[str, tuple[str, ...]] = {
        "network.node": ("node_embedding",),
        "network.edge": ("edge_embedding",),
        "decoder": ("node_decoder",),
    }
    for i in range(len(config.vocabularies)):
        modules[f"network.bead_embedding.tables.{i}"] = (f"scalar_embedding_{i}",)
    for layer in range(config.layers):
        ours, attention = f"network.layers.{layer}", f"{_TRUNK}/Attention_{layer}"
        query_key_value = tuple(f"{attention}/Dense_{i}" for i in range(3))
        modules[f"{ours}.attention.query_key_value"] = query_key_value
        modules[f"{ours}.attention.edge"] = (f"{attention}/Dense_3",)
        modules[f"{ours}.attention.output"] = (f"{attention}/Dense_4",)
        for block, name in enumerate(("attention", "feed_forward")):
            i = 2 * layer + block
            modules[f"{ours}.{name}_norm"] = (f"{_TRUNK}/PreNorm_{i}/LayerNorm_0",)
            modules[f"{ours}.{name}_gate.gate"] = (f"{_TRUNK}/GatedResidual_{i}/Dense_0",)
            modules[f"{ours}.feed_forward.{2 * block}"] = (f"{_TRUNK}/Dense_{i}",)
    return modules


# --- Configurations from shapes --------------------------------------------------------------


def _n_time_features(t_range: tuple[float, float]) -> int:
    return 7 if t_range[0] >= RELATIVE_TIME_THRESHOLD else 4


def _infer_mlp(
    parameters: Parameters, t_range: tuple[float, float]
) -> tuple[NetworkConfig, int | None, int]:
    n_layers = sum(name.endswith("/kernel") for name in parameters)
    widths = tuple(parameters[f"Dense_{i}/kernel"].shape[1] for i in range(n_layers))
    n_dims = parameters["Dense_0/kernel"].shape[0] - _n_time_features(t_range)
    config = MLPConfig(
        output="conservative" if widths[-1] == 1 else "direct",
        t_min=t_range[0],
        t_max=t_range[1],
        hidden_dims=widths[:-1],
    )
    return config, 1, n_dims


def _infer_graph(
    parameters: Parameters, t_range: tuple[float, float]
) -> tuple[NetworkConfig, int | None, int]:
    vocabularies: list[int] = []
    while (table := f"scalar_embedding_{len(vocabularies)}/embedding") in parameters:
        vocabularies.append(parameters[table].shape[0])
    hidden_dim, inner = parameters[f"{_TRUNK}/Attention_0/Dense_0/kernel"].shape
    n_outputs = parameters["node_decoder/kernel"].shape[1]
    n_inputs = parameters["node_embedding/kernel"].shape[0]
    n_beads = None if vocabularies else n_inputs - _n_time_features(t_range)
    if n_outputs > 1:
        n_beads = n_outputs // 3
    feature_dim = parameters["scalar_embedding_0/embedding"].shape[1] if vocabularies else 16
    config = GraphTransformerConfig(
        output="conservative" if n_outputs == 1 else "direct",
        t_min=t_range[0],
        t_max=t_range[1],
        hidden_dim=hidden_dim,
        layers=sum("/Attention_" in name and "/Dense_4/k" in name for name in parameters),
        heads=inner // PUBLISHED_HEAD_DIM,
        head_dim=PUBLISHED_HEAD_DIM,
        vocabularies=tuple(vocabularies),
        feature_dim=feature_dim,
    )
    return config, n_beads, 3
