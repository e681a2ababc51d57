"""The only owner of ``torch.jit``: scripting, saving and loading exported models.

What the module of an exported model offers:

- ``energies_and_forces(positions) -> (energies, forces)``: positions (R, N, 3) of R replicas in nm,
  float32 or float64, to energies (R,) in kJ/mol, float64, and forces (R, N, 3) in kJ/mol/nm in the
  precision of the positions. Files of schema 1 lack it; :mod:`openmm_scoremd.artifact.contract`
  wraps them.
- ``forward(positions) -> energy``: positions (R * N, 3) to the potential energy of all replicas in
  one number, so that a TorchForce can be made of the file without this package.
- ``score(x, t)``: standardised coordinates (B, N, D) and diffusion times (B,) to the score
  (B, N, D).
- ``metadata``: the JSON of :class:`~openmm_scoremd.artifact.metadata.ModelMetadata`, because
  the XML of a TorchForce keeps attributes but drops the extra files of the archive.

TorchScript archives are executable code: load only files whose origin you trust, or give their
hash.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule as ScriptModule  # the one place others take it from

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.artifact.metadata import METADATA_ENTRY, ModelArchive, read_archive
from openmm_scoremd.errors import InvalidInputError, ModelFileError

#: Selects particles of a System; the modules of schema 1 had one, which belongs to no model.
_PARTICLE_BUFFER = "particle_indices"


def script_module(module: nn.Module, *, methods: tuple[str, ...] = ()) -> ScriptModule:
    """Compile a module to TorchScript, in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        A module that follows the contract above; put into evaluation mode.
    methods : tuple of str
        Methods to compile besides ``forward``.

    Raises
    ------
    InvalidInputError
        If TorchScript cannot compile it.
    """
    for name in methods:
        torch.jit.export(getattr(type(module), name))
    try:
        with _deprecation_known():
            scripted: ScriptModule = torch.jit.script(module.eval())
    # The compiler raises its own types besides RuntimeError and NotImplementedError.
    except Exception as error:
        raise InvalidInputError(
            f"{type(module).__name__} cannot be compiled to TorchScript: {error}"
        ) from error
    return scripted


def save_module(module: ScriptModule, path: str | os.PathLike[str], metadata_json: str) -> None:
    """Write a compiled module with its metadata, in one piece.

    The bytes do not depend on the file name: the same module and metadata give the same file.

    Parameters
    ----------
    module : ScriptModule
        What to save.
    path : path-like
        The ``.pt`` file.
    metadata_json : str
        Becomes the extra file ``scoremd.json``.

    Raises
    ------
    OSError
        If the file cannot be written; an older file of that name is then untouched.
    """
    buffer = io.BytesIO()
    with _deprecation_known():
        torch.jit.save(module, buffer, _extra_files={METADATA_ENTRY: metadata_json})  # type: ignore[no-untyped-call]
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_module(
    path: str | os.PathLike[str], *, device: str | torch.device, sha256: str | None = None
) -> ScriptModule:
    """Load an exported model after all checks of its file.

    Parameters
    ----------
    path : path-like
        The ``.pt`` file.
    device : str or torch.device
        Where its tensors go.
    sha256 : str, optional
        Expected SHA-256 of the file; with another one none of its code runs.

    Returns
    -------
    ScriptModule
        In evaluation mode, without gradients for its weights.

    Raises
    ------
    ModelFileError
        If anything about the file is wrong.
    InvalidInputError
        If the device does not exist.
    """
    return load_archive(read_archive(path, sha256=sha256), device=device)


def load_archive(archive: ModelArchive, *, device: str | torch.device) -> ScriptModule:
    """Load the module of a file that was read already; as :func:`load_module`."""
    target = checked_device(device)
    try:
        with _deprecation_known():
            module: ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(archive.content), map_location=target
            )
        _check_contract(module, archive)
    except ModelFileError:
        raise
    # Damaged archives make torch raise RuntimeError, ValueError, pickle errors and others.
    except Exception as error:
        raise ModelFileError(
            f"{archive.path} cannot be loaded as TorchScript ({_first_line(error)}); "
            "export or fetch it again"
        ) from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device that exists.

    Raises
    ------
    InvalidInputError
        If the name is unknown or torch sees no such device.
    """
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    # AssertionError and RuntimeError for absent hardware, ImportError for absent backends.
    except Exception as error:
        raise InvalidInputError(
            f"device {str(device)!r} cannot be used ({_first_line(error)}); "
            "use 'cpu', or install the torch that fits your hardware"
        ) from error
    return target


def optimised(module: nn.Module) -> nn.Module:
    """Return the module with weights and attributes folded in as constants, as TorchForce does.

    What is no TorchScript is returned as it is.
    """
    if not isinstance(module, ScriptModule):
        return module
    with _deprecation_known():
        frozen: ScriptModule = torch.jit.freeze(module)
    return frozen


@contextmanager
def unoptimised() -> Iterator[None]:
    """Evaluate a module that is used in this way only as its code stands there.

    TorchScript watches the first calls of a module and rounds otherwise from then on. Without that
    a result does not depend on earlier calls.
    """
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


@contextmanager
def _deprecation_known() -> Iterator[None]:
    """Let torch not say that TorchScript is deprecated: who gave the file knows, or cannot help it.

    Files without code are the way out, as the documentation says.
    """
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r".*(torch\.jit|TorchScript)", category=kind)
        yield


def tensor_digest(source: nn.Module | Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all parameters and buffers, in hexadecimal.

    It covers names, types, shapes and values in the order of the names. It depends neither on the
    file name nor on ``particle_indices``, which belongs to a System and not to a model.

    Parameters
    ----------
    source : nn.Module or mapping of str to Tensor
        A module, compiled or not, or its tensors.
    """
    tensors = source if isinstance(source, Mapping) else _named_tensors(source)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name != _PARTICLE_BUFFER:
            tensor = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    # Not state_dict: after scripting it no longer tells persistent buffers from others.
    return {**parameters, **dict(module.named_buffers(remove_duplicate=False))}


def _check_contract(module: ScriptModule, archive: ModelArchive) -> None:
    for name in ("score", "metadata"):
        if not hasattr(module, name):
            raise ModelFileError(f"{archive.path} has no {name}; it is no exported model")
    if module.metadata != archive.metadata_json:
        raise ModelFileError(
            f"{archive.path}: the metadata in the module differ from those in {METADATA_ENTRY}; "
            "somebody changed the file: export or fetch it again"
        )
    digest, expected = tensor_digest(module), archive.metadata.tensor_digest
    if digest != expected:
        raise ModelFileError(
            f"{archive.path}: its tensors have digest {digest}, its metadata say {expected}; "
            "somebody changed the file: export or fetch it again"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
