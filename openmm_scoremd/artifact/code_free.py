"""Model files without code: tensors, and a record that says which network they belong to.

Such a file is a ``.safetensors`` file, whose header holds the record of a TorchScript model file,
:class:`~openmm_scoremd.artifact.metadata.ModelMetadata`, and its tensors are those of
:class:`~openmm_scoremd.artifact.exported.ExportedModel`: of every network, and of the energy at the
time of the force with all constants folded in. The code is that of the network families in this
package, or in another one that is installed. TorchScript is nowhere on the way.

Whatever a file says, it is data. A network is built only after its outline, without memory, was
found to have the tensors of the file, in number, shape and type. Which beads a network looks at is
made anew from the molecule; no index into memory comes from the file.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd._files.tensors import tensors_from_bytes, tensors_to_bytes
from openmm_scoremd.artifact.exported import ExplicitModel, ExportedModel
from openmm_scoremd.artifact.metadata import MODEL_KEY, ModelArchive, ModelMetadata
from openmm_scoremd.artifact.torchscript import checked_device, tensor_digest
from openmm_scoremd.description import ModelDescription
from openmm_scoremd.errors import ModelFileError, ScoreMDError
from openmm_scoremd.models.base import ScoreModel, require_energy_model
from openmm_scoremd.models.mixture import TimePartitionedMixture, network_at
from openmm_scoremd.models.weights import network_of_record

#: Most pairs of beads for which lists are made, where the file itself has no more numbers than
#: that: a short list of beads must not fill the memory.
_MOST_PAIRS: Final = 4_000_000

_DTYPES: Final = {"float32": torch.float32, "float64": torch.float64}

Network = TypeVar("Network", bound=ScoreModel)


def exported_model(
    model: ScoreModel, description: ModelDescription, *, t: float, dtype: torch.dtype
) -> ExportedModel:
    """Return what a model file holds of a network or a mixture.

    Parameters
    ----------
    model : ScoreModel
        Network or mixture, on any device; not changed.
    description : ModelDescription
        What it is a model of.
    t : float
        Diffusion time of the force.
    dtype : torch.dtype
        Precision of the result. Constants are folded in double precision and rounded once.

    Raises
    ------
    ConfigurationError
        If the network that serves ``t`` has no energy.
    InvalidInputError
        If none serves ``t``.
    """
    network = require_energy_model(network_at(model, t))
    force_energy = copy_in(network, torch.float64).at_time(t).to(dtype)
    kind = ExplicitModel if hasattr(force_energy, "energy_and_gradient") else ExportedModel
    exported = kind(
        [copy_in(expert, dtype) for expert in _networks(model)],
        list(model.boundaries) if isinstance(model, TimePartitionedMixture) else [],
        force_energy,
        centred=network.translation_invariant,
        n_beads=description.n_beads,
        scale=description.scale,
        thermal_energy=description.thermal_energy,
    )
    for parameter in exported.parameters():
        parameter.requires_grad_(False)
    return exported.eval()


def code_free_bytes(exported: ExportedModel, metadata: ModelMetadata) -> bytes:
    """Return a model file without code.

    Parameters
    ----------
    exported : ExportedModel
        Its network.
    metadata : ModelMetadata
        Its record.
    """
    tensors = {name: v.detach().clone().contiguous() for name, v in _stored(exported).items()}
    return tensors_to_bytes(tensors, key=MODEL_KEY, header=metadata.to_dict())


def save_code_free(archive: ModelArchive, path: str | os.PathLike[str]) -> None:
    """Write a model file in one piece.

    Raises
    ------
    OSError
        If the file cannot be written; an older file of that name is then untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(archive.content)


def load_code_free(archive: ModelArchive, *, device: str | torch.device) -> ExportedModel:
    """Return the network of a model file without code.

    Parameters
    ----------
    archive : ModelArchive
        The file.
    device : str or torch.device
        Where its tensors go.

    Returns
    -------
    ExportedModel
        In evaluation mode, without gradients for its weights. torch's random numbers are where they
        were.

    Raises
    ------
    ModelFileError
        If the network is of an unknown family, or the tensors are not its own, or not finite.
    InvalidInputError
        If the device does not exist.
    """
    target = checked_device(device)
    metadata = archive.metadata
    try:
        _, tensors = tensors_from_bytes(archive.content, key=MODEL_KEY)
        _check_numbers(tensors)
        _check_outline(tensors, metadata)
        with torch.random.fork_rng(devices=[]):
            model = network_of_record(metadata, metadata.architecture)
        model.to(_DTYPES[metadata.dtype])
        for prefix, network in _prefixed(model):
            _fill(network, tensors, prefix=prefix)
        # Folded once more for its form, then filled with what the file holds, bit by bit.
        exported = exported_model(model, metadata, t=metadata.t, dtype=_DTYPES[metadata.dtype])
        _check_same(_stored(exported), tensors)
        _fill(exported, tensors)
    # What layers and sizes of a damaged record raise, also memory that is not there.
    except (ScoreMDError, RuntimeError, TypeError, ValueError, LookupError, MemoryError) as error:
        raise ModelFileError(f"{archive.path}: {error}; export or fetch it again") from error
    digest = tensor_digest(exported)
    if digest != metadata.tensor_digest:
        raise ModelFileError(
            f"{archive.path}: its network has digest {digest}, its metadata say "
            f"{metadata.tensor_digest}; somebody changed the file, or this version makes another "
            "network of it: export or fetch it again"
        )
    exported.metadata = archive.metadata_json
    return exported.to(target)


def copy_in(network: Network, dtype: torch.dtype) -> Network:
    """Return a copy of a network on the CPU, in this precision."""
    return copy.deepcopy(network).to(device="cpu", dtype=dtype)


def _networks(model: ScoreModel) -> list[ScoreModel]:
    return model.networks if isinstance(model, TimePartitionedMixture) else [model]


def _prefixed(model: ScoreModel) -> list[tuple[str, ScoreModel]]:
    """Return networks with what their names begin with in :class:`ExportedModel`."""
    return [(f"experts.{i}.model.", network) for i, network in enumerate(_networks(model))]


def _stored(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers of a module, each once, without what it makes itself."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str = "") -> None:
    with torch.no_grad():
        for name, tensor in _stored(module).items():
            tensor.copy_(tensors[prefix + name])


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"tensor {name} has numbers that are not finite")


def _check_outline(tensors: Mapping[str, Tensor], metadata: ModelMetadata) -> None:
    """Check that a network that the record describes has the tensors of the file.

    It is built on torch's device for shapes, where nothing takes memory, and given up as soon as it
    has more parameters than the file.
    """
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    if metadata.n_beads**2 > max(_MOST_PAIRS, n_numbers):
        raise ModelFileError(
            f"it has {metadata.n_beads} beads and only {n_numbers} numbers; model files without "
            f"code are for up to {_MOST_PAIRS**0.5:.0f} beads, or for larger networks"
        )
    with _at_most(len(tensors)), torch.device("meta"):
        outline = network_of_record(metadata, metadata.architecture)
    outline.to(_DTYPES[metadata.dtype])
    expected = {
        prefix + name: tensor
        for prefix, network in _prefixed(outline)
        for name, tensor in _stored(network).items()
    }
    _check_same(expected, {n: v for n, v in tensors.items() if n.startswith("experts.")})


@contextmanager
def _at_most(n_parameters: int) -> Iterator[None]:
    """Refuse to make modules with more parameters than this, in this thread."""
    count, thread = 0, threading.get_ident()

    def counted(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > n_parameters:
                raise ModelFileError("its record describes a network with more tensors than it has")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def _check_same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check that tensors have the names, shapes and types of others."""
    if missing := sorted(expected.keys() - found.keys()):
        raise ModelFileError(f"it lacks tensor {missing[0]} of the network in its record")
    if unknown := sorted(found.keys() - expected.keys()):
        raise ModelFileError(f"its tensor {unknown[0][:200]} is none of the network in its record")
    for name, tensor in expected.items():
        own = found[name]
        if own.shape != tensor.shape or own.dtype != tensor.dtype:
            raise ModelFileError(
                f"tensor {name} is {own.dtype} {tuple(own.shape)}; the network in its record has "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
