"""What travels inside an exported model: :class:`ModelMetadata`, read before any torch code runs.

An exported model is a TorchScript archive, that is a zip file, with the metadata as JSON in
``<root>/extra/scoremd.json``. Everything here works on the bytes of the file; TorchScript itself
belongs to :mod:`openmm_scoremd.artifact.torchscript`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files import json_checks as _checks
from openmm_scoremd.errors import InvalidInputError, ModelFileError
from openmm_scoremd.topology import BeadTopology

#: Newest layout of the metadata that this version reads, and the one it writes.
SCHEMA_VERSION: Final = 1
#: Name of the metadata among the extra files of the archive.
METADATA_ENTRY: Final = "scoremd.json"

_MAX_JSON_BYTES = 16 << 20
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
            array = _checks.array(getattr(self, name), f"self_test.{name}")
            object.__setattr__(self, name, array)
        tolerance = _checks.positive(self.tolerance, "self_test.tolerance")
        object.__setattr__(self, "tolerance", tolerance)
        frames = self.positions.shape
        if len(frames) != 3 or frames[2] != 3 or 0 in frames:
            raise _shape_error("positions", frames, "(frames, beads, 3)")
        if self.forces.shape != frames:
            raise _shape_error("forces", self.forces.shape, frames)
        if self.energies.shape != frames[:1]:
            raise _shape_error("energies", self.energies.shape, frames[:1])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelMetadata:
    """Everything that a model file says about itself.

    Every entry is checked and brought to the types below on construction, also when it comes as
    plain lists and dictionaries from JSON.

    Attributes
    ----------
    title : str
        Name of the molecule or of the toy system.
    topology : BeadTopology
        Beads of one replica.
    temperature : float, K
        Temperature of the training data: the only one the potential is a free energy of.
    scale : float, nm
        Length of one unit of the network: ``positions = scale * x``.
    n_dims : int
        3, or 2 for toy systems in the plane (then z is ignored).
    t : float
        Diffusion time of the force.
    t_min : float
        Smallest diffusion time that the score may be asked for.
    schedule : (float, float)
        Noise rates ``(beta_min, beta_max)`` of the training.
    dtype : str
        ``"float32"`` or ``"float64"``: precision of weights and network.
    architecture : mapping
        Configuration of the network, plain JSON.
    dataset_sha256, weights_sha256 : str
        SHA-256 of the training data and of the canonical weights; empty where unknown.
    tensor_digest : str
        :func:`openmm_scoremd.artifact.torchscript.tensor_digest` of the module in the archive.
        Unlike the hash of the file it does not depend on the name under which the file was saved.
    training : mapping
        Summary of the training, plain JSON.
    versions : mapping of str to str
        Versions of the packages that made the file.
    licence, citation, created : str
        Licence of the weights, what to cite, time of the export (ISO 8601).
    self_test : SelfTest
        Frames to be reproduced when the file is loaded.
    bond_ranges : tuple of (float, float), nm
        Shortest and longest length seen in training for every bond of the topology, in its order;
        empty where unknown.
    schema_version : int
        Layout of this record.

    Raises
    ------
    ModelFileError
        If an entry is ill-typed, not finite or out of range; the message names it.
    """

    title: str
    topology: BeadTopology
    temperature: float
    scale: float
    n_dims: int
    t: float
    t_min: float
    schedule: tuple[float, float]
    dtype: str
    architecture: Mapping[str, Any]
    dataset_sha256: str
    weights_sha256: str
    tensor_digest: str
    training: Mapping[str, Any]
    versions: Mapping[str, str]
    licence: str
    citation: str
    created: str
    self_test: SelfTest
    bond_ranges: tuple[tuple[float, float], ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name, parse in _PARSERS.items():
            object.__setattr__(self, name, parse(getattr(self, name), name))
        beads = self.self_test.positions.shape[1]
        if beads != self.n_beads:
            raise _checks.invalid(
                "self_test", f"of {beads} beads", f"{self.n_beads} as in topology"
            )
        if self.bond_ranges and len(self.bond_ranges) != len(self.topology.bonds):
            given, bonds = len(self.bond_ranges), len(self.topology.bonds)
            raise _checks.invalid(
                "bond_ranges", f"of length {given}", f"length 0 or {bonds} as topology"
            )

    @property
    def n_beads(self) -> int:
        """Number of beads of one replica."""
        return self.topology.n_beads

    @property
    def is_molecule(self) -> bool:
        """Whether the position as a whole is arbitrary, so that frames may be centred."""
        return self.n_dims == 3

    def to_json(self) -> str:
        """Return the record as JSON, the same text for the same content.

        Raises
        ------
        ModelFileError
            If the text would be too large to be read back.
        """
        content = {field.name: _plain(getattr(self, field.name)) for field in _FIELDS}
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        if len(text.encode()) > _MAX_JSON_BYTES:
            raise ModelFileError(
                f"the metadata has {len(text)} characters; at most {_MAX_JSON_BYTES} bytes can be "
                "read back; shorten training or self_test"
            )
        return text

    @classmethod
    def from_json(cls, text: str) -> ModelMetadata:
        """Read the output of :meth:`to_json`, strictly.

        Raises
        ------
        ModelFileError
            If the text is no JSON, of an unknown schema version, too large, or if an entry is
            missing, unknown, ill-typed, not finite or out of range.
        """
        content = _parse_json(text)
        version = content.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ModelFileError(
                f"the model file has schema version {version}; this version of openmm_scoremd "
                f"reads up to {SCHEMA_VERSION}: install a newer one"
            )
        names = {field.name for field in _FIELDS}
        if missing := sorted(names - content.keys()):
            raise ModelFileError(f"the metadata lacks {', '.join(missing)}; export the model again")
        if unknown := sorted(content.keys() - names):
            raise ModelFileError(f"the metadata has unknown entries: {', '.join(unknown)[:200]}")
        return cls(**content)


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
    """

    path: Path
    content: bytes = dataclasses.field(repr=False)
    sha256: str
    metadata: ModelMetadata = dataclasses.field(repr=False)
    metadata_json: str = dataclasses.field(repr=False)


def read_archive(path: str | os.PathLike[str], *, sha256: str | None = None) -> ModelArchive:
    """Read a model file and check it as far as possible without running torch code.

    Parameters
    ----------
    path : path-like
        An exported ``.pt`` file.
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
    text = _metadata_text(content, file)
    try:
        metadata = ModelMetadata.from_json(text)
    except ModelFileError as error:
        raise ModelFileError(f"{file}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256.strip().lower():
        raise ModelFileError(
            f"{file} has SHA-256 {digest}, expected {sha256}; the file is not the one that was "
            "published: fetch it again and do not load it as it is"
        )
    return ModelArchive(file, content, digest, metadata, text)


def read_metadata(path: str | os.PathLike[str]) -> ModelMetadata:
    """Return the metadata of a model file; no torch code runs.

    Raises
    ------
    ModelFileError
        As :func:`read_archive`.
    """
    return read_archive(path).metadata


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
        if _ENTRY_PATTERN.fullmatch(member.filename) and member.file_size > _MAX_JSON_BYTES:
            raise ModelFileError(f"{METADATA_ENTRY} is larger than {_MAX_JSON_BYTES} bytes")


def _parse_json(text: str) -> dict[str, Any]:
    if len(text) > _MAX_JSON_BYTES:
        raise ModelFileError(f"the metadata is larger than {_MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the metadata is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"the metadata is a JSON {type(content).__name__}, not an object")
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, BeadTopology):
        return value.to_dict()
    if isinstance(value, SelfTest):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _shape_error(name: str, given: tuple[int, ...], allowed: object) -> ModelFileError:
    return _checks.invalid(f"self_test.{name}", f"of shape {given}", f"of shape {allowed}")


def _topology(value: Any, name: str) -> BeadTopology:
    if isinstance(value, BeadTopology):
        return value
    try:
        return BeadTopology.from_dict(value)
    except (InvalidInputError, OverflowError) as error:
        raise _checks.invalid(name, f"not usable ({error})", "a bead topology") from error


def _self_test(value: Any, name: str) -> SelfTest:
    if isinstance(value, SelfTest):
        return value
    keys = {field.name for field in dataclasses.fields(SelfTest)}
    if not isinstance(value, Mapping) or set(value) != keys:
        raise _checks.invalid(name, "incomplete", f"an object of {', '.join(sorted(keys))}")
    return SelfTest(**value)


_FIELDS = dataclasses.fields(ModelMetadata)
_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "schema_version": _checks.one_of(SCHEMA_VERSION),
    "title": _checks.text,
    "topology": _topology,
    "temperature": _checks.positive,
    "scale": _checks.positive,
    "n_dims": _checks.one_of(2, 3),
    "t": _checks.diffusion_time,
    "t_min": _checks.diffusion_time,
    "schedule": _checks.pair,
    "dtype": _checks.one_of("float32", "float64"),
    "architecture": _checks.json_object,
    "dataset_sha256": _checks.sha256,
    "weights_sha256": _checks.sha256,
    "tensor_digest": _checks.sha256,
    "training": _checks.json_object,
    "versions": _checks.texts,
    "licence": _checks.text,
    "citation": _checks.text,
    "created": _checks.text,
    "self_test": _self_test,
    "bond_ranges": _checks.pairs,
}
