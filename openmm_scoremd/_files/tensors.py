"""Tensors and a JSON header in one ``.safetensors`` file, with a hash that finds damage.

The format itself has no checksum: a flipped bit would be another weight.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.errors import InvalidInputError

#: Entry of the header with the hash of the tensors and of the rest of the header.
DIGEST_ENTRY: Final = "sha256"


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    key: str,
    header: Mapping[str, Any],
) -> None:
    """Write tensors and header, whole or not at all; the same content gives the same bytes.

    Parameters
    ----------
    path : path-like
        Destination.
    tensors : mapping of str to Tensor
        Contiguous tensors that share no memory.
    key : str
        What kind of file this is; under this name the header is stored.
    header : mapping
        Plain JSON; the entry ``sha256`` is added.
    """
    content = tensors_to_bytes(tensors, key=key, header=header)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def tensors_to_bytes(
    tensors: Mapping[str, Tensor], *, key: str, header: Mapping[str, Any]
) -> bytes:
    """Return the file that :func:`write_tensors` writes."""
    text = json.dumps({**header, DIGEST_ENTRY: _digest(header, tensors)}, sort_keys=True)
    return safetensors.torch.save(dict(tensors), metadata={key: text})


def read_tensors(
    path: str | os.PathLike[str], *, key: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`write_tensors` wrote; nothing in the file is executed.

    Parameters
    ----------
    path : path-like
        The file.
    key : str
        Kind of file that is expected.

    Returns
    -------
    header : dict
        The header as given.
    tensors : dict of str to Tensor
        The tensors, on the CPU.

    Raises
    ------
    InvalidInputError
        If the file is missing, damaged or of another kind; the message does not name it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"it cannot be read ({error})") from error
    return tensors_from_bytes(content, key=key)


def tensors_from_bytes(content: bytes, *, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what :func:`read_tensors` returns for a file of this content."""
    try:
        tensors = safetensors.torch.load(content)
        text = _texts(content).get(key)
    # Of a type that this version does not know, a KeyError.
    except (SafetensorError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"it cannot be read ({error})") from error
    if text is None:
        raise InvalidInputError(f"it has no header {key!r}; it is some other .safetensors file")
    try:
        header = json.loads(text)
        # Files of the first development version have none.
        expected = header.pop(DIGEST_ENTRY, None)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"its header is damaged ({error})") from error
    if expected is not None and expected != _digest(header, tensors):
        raise InvalidInputError("its content has another hash than its header says: it is damaged")
    return header, tensors


def _texts(content: bytes) -> dict[str, str]:
    """Return the texts in the header of a file that safetensors has found to be one."""
    size = int.from_bytes(content[:8], "little")
    texts: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    return texts


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
