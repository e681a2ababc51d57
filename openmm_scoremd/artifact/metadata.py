"""What travels inside an exported model: :class:`ModelMetadata`, read before any torch code runs.

An exported model is a TorchScript archive, that is a zip file, with the metadata as JSON in
``<root>/extra/scoremd.json``, or a safetensors file without code, with the metadata in its header.
Everything here works on the bytes of the file; TorchScript itself belongs to
:mod:`openmm_scoremd.artifact.torchscript`, files without code to
:mod:`openmm_scoremd.artifact.code_free`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files import json_checks as checks
from openmm_scoremd.description import MAX_JSON_BYTES, ModelDescription
from openmm_scoremd.errors import InvalidInputError, ModelFileError

#: Name of the metadata among the extra files of the archive.
METADATA_ENTRY: Final = "scoremd.json"
#: Name of the metadata in the header of a file without code.
MODEL_KEY: Final = "openmm_scoremd_model"

_ENTRY_PATTERN = re.compile(rf"[^/]+/extra/{re.escape(METADATA_ENTRY)}")

FloatArray: TypeAlias = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SelfTest:
    """Frames whose energies and forces a loaded model must reproduce.

    Attributes
    ----------
    positions : ndarray, shape (F, N, 3), nm
        A few frames of one replica; for 2-D models z is there and ignored.
    energies : ndarray, shape (F,), kJ/mol
        Potential energy of every frame.
    forces : ndarray, shape (F, N, 3), kJ/mol/nm
        Forces on the beads.
    tolerance : float
        Largest difference allowed, relative to the largest energy (force) of the frames.

    Raises
    ------
    ModelFileError
        If shapes do not fit, a number is not finite, or the tolerance is not positive.
    """

    positions: FloatArray
    energies: FloatArray
    forces: FloatArray
    tolerance: float

    def __post_init__(self) -> None:
        for name in ("positions", "energies", "forces"):
            array = checks.array(getattr(self, name), f"self_test.{name}")
            object.__setattr__(self, name, array)
        tolerance = checks.positive(self.tolerance, "self_test.tolerance")
        object.__setattr__(self, "tolerance", tolerance)
        frames = self.positions.shape
        if len(frames) != 3 or frames[2] != 3 or 0 in frames:
            raise _shape_error("positions", frames, "(frames, beads, 3)")
        if self.forces.shape != frames:
            raise _shape_error("forces", self.forces.shape, frames)
        if self.energies.shape != frames[:1]:
            raise _shape_error("energies", self.energies.shape, frames[:1])


def _self_test(value: Any, name: str) -> SelfTest:
    if isinstance(value, SelfTest):
        return value
    keys = {field.name for field in dataclasses.fields(SelfTest)}
    if not isinstance(value, Mapping) or set(value) != keys:
        raise checks.invalid(name, "incomplete", f"an object of {', '.join(sorted(keys))}")
    return SelfTest(**value)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelMetadata(ModelDescription):
    """Everything that a model file says about itself.

    Attributes
    ----------
    t : float
        Diffusion time of the force.
    dtype : str
        ``"float32"`` or ``"float64"``: precision of weights and network.
    architecture : mapping
        Configuration of the network, plain JSON.
    weights_sha256 : str
        SHA-256 of the weights file; empty where unknown.
    tensor_digest : str
        :func:`openmm_scoremd.artifact.torchscript.tensor_digest` of the module in the archive.
        Unlike the hash of the file it does not depend on the name under which the file was saved.
    versions : mapping of str to str
        Versions of the packages that made the file.
    licence, citation, created : str
        Licence of the weights, what to cite (either may be empty), time of the export (ISO 8601).
    self_test : SelfTest
        Frames to be reproduced when the file is loaded.

    Raises
    ------
    ModelFileError
        As :class:`~openmm_scoremd.description.ModelDescription`, which has the other entries.
    """

    t: Annotated[float, checks.diffusion_time]
    dtype: Annotated[str, checks.one_of("float32", "float64")]
    architecture: Annotated[Mapping[str, Any], checks.json_object]
    weights_sha256: Annotated[str, checks.sha256]
    tensor_digest: Annotated[str, checks.sha256]
    versions: Annotated[Mapping[str, str], checks.texts]
    licence: Annotated[str, checks.text] = ""
    citation: Annotated[str, checks.text] = ""
    created: Annotated[str, checks.text]
    self_test: Annotated[SelfTest, _self_test]

    def __post_init__(self) -> None:
        super().__post_init__()
        beads = self.self_test.positions.shape[1]
        if beads != self.n_beads:
            raise checks.invalid("self_test", f"of {beads} beads", f"{self.n_beads} as in topology")


@dataclasses.dataclass(frozen=True, eq=False)
class ModelArchive:
    """The bytes of a model file after schema and hash were checked, before any of its code ran.

    Attributes
    ----------
    path : Path
        Where the file was read, absolute.
    content : bytes
        The whole file: what was checked is what gets loaded.
    sha256 : str
        SHA-256 of the content.
    metadata : ModelMetadata
        The record inside.
    metadata_json : str
        The same as text.
    code_free : bool
        Whether the file holds tensors alone, and no TorchScript.
    """

    path: Path
    content: bytes = dataclasses.field(repr=False)
    sha256: str
    metadata: ModelMetadata = dataclasses.field(repr=False)
    metadata_json: str = dataclasses.field(repr=False)
    code_free: bool = False


def read_archive(path: str | os.PathLike[str], *, sha256: str | None = None) -> ModelArchive:
    """Read a model file and check it as far as possible without running torch code.

    Parameters
    ----------
    path : path-like
        An exported ``.pt`` or ``.safetensors`` file.
    sha256 : str, optional
        Expected SHA-256 of the file, hexadecimal.

    Returns
    -------
    ModelArchive
        Checked bytes and metadata.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is no exported model, is damaged (every member's checksum is
        verified), is of an unknown schema, or has another hash.
    """
    file = Path(path).absolute()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error.strerror or error}") from error
    archive = archive_from_bytes(content, file)
    check_sha256(archive, sha256)
    return archive


def archive_from_bytes(content: bytes, file: Path) -> ModelArchive:
    """Return the checked archive that the bytes of a model file are.

    Parameters
    ----------
    content : bytes
        The whole file.
    file : Path
        Where it was read, absolute.

    Raises
    ------
    ModelFileError
        As :func:`read_archive`.
    """
    # A header of JSON after its length.
    code_free = content[8:9] == b"{" and not content.startswith(b"PK")
    entries = _header(content, file) if code_free else _metadata_text(content, file)
    try:
        if isinstance(entries, str):
            metadata, text = ModelMetadata.from_json(entries), entries
        else:
            metadata = ModelMetadata.from_dict(entries)
            text = metadata.to_json()
    except ModelFileError as error:
        raise ModelFileError(f"{file}: {error}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    return ModelArchive(file, content, sha256, metadata, text, code_free)


def check_sha256(archive: ModelArchive, sha256: str | None) -> None:
    """Check that an archive has the hash that was expected, if any was.

    Raises
    ------
    ModelFileError
        If it has another one.
    """
    if sha256 is not None and archive.sha256 != sha256.strip().lower():
        raise ModelFileError(
            f"{archive.path} has SHA-256 {archive.sha256}, expected {sha256}; the file is not the "
            "one that was published: fetch it again and do not load it as it is"
        )


def read_metadata(path: str | os.PathLike[str]) -> ModelMetadata:
    """Return the metadata of a model file; no torch code runs.

    Raises
    ------
    ModelFileError
        As :func:`read_archive`.
    """
    return read_archive(path).metadata


def _header(content: bytes, file: Path) -> dict[str, Any]:
    from openmm_scoremd._files.tensors import tensors_from_bytes  # not for TorchScript files

    try:
        return tensors_from_bytes(content, key=MODEL_KEY)[0]
    except InvalidInputError as error:
        raise ModelFileError(
            f"{file} is no model file: {error}. Weights become one with: scoremd export WEIGHTS "
            "MODEL.safetensors"
        ) from error


def _metadata_text(content: bytes, file: Path) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive, len(content))
            entries = [name for name in archive.namelist() if _ENTRY_PATTERN.fullmatch(name)]
            if len(entries) == 1:
                return archive.read(entries[0]).decode("utf-8")
    # zipfile raises a dozen types on damaged archives, struct.error and zlib.error among them.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ModelFileError(
            f"{file} is no model file, or it is damaged ({reason}); export or fetch it again"
        ) from error
    raise ModelFileError(
        f"{file} is an archive without {METADATA_ENTRY}; only files written by "
        "openmm_scoremd's export can be loaded"
    )


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    # Small files must not unpack to fill the memory; torch compresses only code, 20 times at most.
    if sum(member.file_size for member in archive.infolist()) > 20 * size + (1 << 20):
        raise ModelFileError("it would unpack to far more than its own size")
    # PyTorch does not verify the checksums itself.
    if (damaged := archive.testzip()) is not None:
        raise ModelFileError(f"checksum of {damaged} is wrong")
    for member in archive.infolist():
        if _ENTRY_PATTERN.fullmatch(member.filename) and member.file_size > MAX_JSON_BYTES:
            raise ModelFileError(f"{METADATA_ENTRY} is larger than {MAX_JSON_BYTES} bytes")


def _shape_error(name: str, given: tuple[int, ...], allowed: object) -> ModelFileError:
    return checks.invalid(f"self_test.{name}", f"of shape {given}", f"of shape {allowed}")
