"""Coarse-grained equilibrium frames and the one file they live in."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.topology import BeadTopology

#: Version of the ``.npz`` layout; raised when old readers could misread new files.
FORMAT_VERSION = 1

_KEY_KINDS = {
    "positions": "f",
    "bead_names": "U",
    "elements": "U",
    "residue_names": "U",
    "residue_ids": "iu",
    "chain_ids": "U",
    "masses": "f",
    "bonds": "iu",
    "temperature": "f",
    "source_sha256": "U",
    "format_version": "iu",
}
#: Not in files of older versions.
_NEWER_KEY_KINDS = {"insertion_codes": "U", "residue_indices": "iu", "notes": "U"}

_Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class CGDataset:
    """Equilibrium frames of the beads of one molecule.

    Attributes
    ----------
    positions : (frames, beads, dims) float32, nm
        Centred, aligned coordinates; three dimensions for molecules, two for toy systems.
    topology : BeadTopology
        What the beads are.
    temperature : float, K
        Temperature the frames were drawn at.
    source_sha256 : str
        Hash of the source trajectory, empty if made in memory.
    notes : tuple of str
        How the frames were made, and what was left out.

    Raises
    ------
    DatasetError
        If the arrays do not fit together, a coordinate is NaN or infinite, or the temperature is
        not positive.
    """

    positions: npt.NDArray[np.float32]
    topology: BeadTopology
    temperature: float
    source_sha256: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_shape(self.positions, self.topology.n_beads)
        check_finite(self.positions)
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise DatasetError(f"temperature is {self.temperature} K; it must be positive")

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.positions.shape[0])

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return int(self.positions.shape[1])

    @property
    def n_dims(self) -> int:
        """Number of dimensions of space."""
        return int(self.positions.shape[2])

    @property
    def scale(self) -> float:
        """Population standard deviation over all coordinates, nm; networks see x / scale.

        Raises
        ------
        DatasetError
            If all coordinates are equal, so that there is nothing to scale by.
        """
        scale = float(self.positions.std(dtype=np.float64))
        if scale == 0.0:
            raise DatasetError(
                f"all coordinates of the {self.n_frames} frame(s) are equal; use a real trajectory"
            )
        return scale

    def subset(self, indices: npt.ArrayLike) -> CGDataset:
        """Return the frames with these indices, in this order.

        Parameters
        ----------
        indices : (n,)
            Frame indices in 0..n_frames - 1, or a boolean mask of all frames.

        Returns
        -------
        CGDataset
            A copy of these frames.

        Raises
        ------
        InvalidInputError
            If there is no index, or one is out of range.
        """
        chosen = np.asarray(indices)
        if chosen.dtype == np.bool_ and chosen.shape == (self.n_frames,):
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise InvalidInputError(
                f"frame indices have shape {chosen.shape} and type {chosen.dtype}; "
                "give a non-empty list of integers"
            )
        if chosen.min() < 0 or chosen.max() >= self.n_frames:
            raise InvalidInputError(
                f"frame indices go from {chosen.min()} to {chosen.max()}; "
                f"with {self.n_frames} frames they must lie in 0..{self.n_frames - 1}"
            )
        return dataclasses.replace(self, positions=self.positions[chosen])


def save_dataset(dataset: CGDataset, path: str | os.PathLike[str]) -> None:
    """Write a dataset to one ``.npz`` file, whole or not at all.

    The same dataset always gives the same bytes.

    Parameters
    ----------
    dataset : CGDataset
        What to write.
    path : path-like
        File ending in ``.npz``.

    Raises
    ------
    InvalidInputError
        If the name does not end in ``.npz``.
    """
    if Path(path).suffix != ".npz":
        raise InvalidInputError(f"{path} is not a dataset name; it must end in .npz")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **_to_arrays(dataset))


def load_dataset(path: str | os.PathLike[str]) -> CGDataset:
    """Read a dataset written by :func:`save_dataset`.

    Parameters
    ----------
    path : path-like
        The ``.npz`` file.

    Returns
    -------
    CGDataset
        The dataset, checked.

    Raises
    ------
    DatasetError
        If the file is missing, damaged, of another layout or version, or holds NaN frames.
    """
    arrays = _read_arrays(Path(path))
    try:
        _check_keys(arrays)
        return _from_arrays(arrays)
    except (DatasetError, InvalidInputError) as error:
        raise DatasetError(f"{path} is not a usable dataset: {error}") from error


def check_finite(
    positions: npt.NDArray[Any], *, frame_numbers: npt.NDArray[np.integer[Any]] | None = None
) -> None:
    """Refuse frames with NaN or infinite coordinates.

    Parameters
    ----------
    positions : (frames, beads, dims), nm
        Coordinates.
    frame_numbers : (frames,), optional
        What to call the frames in the message; counted from 0 if not given.

    Raises
    ------
    DatasetError
        If a coordinate is NaN or infinite; the message names the frames.
    """
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=(1, 2)))
    if bad.size:
        numbers = bad if frame_numbers is None else frame_numbers[bad]
        named = ", ".join(str(number) for number in numbers[:5])
        more = f" and {bad.size - 5} more" if bad.size > 5 else ""
        raise DatasetError(
            f"NaN or infinite coordinates in frame(s) {named}{more}; "
            "remove these frames and find out why the simulation made them"
        )


def _to_arrays(dataset: CGDataset) -> _Arrays:
    topology = dataset.topology
    return {
        "positions": dataset.positions,
        "bead_names": np.array(topology.names, dtype=np.str_),
        "elements": np.array(topology.elements, dtype=np.str_),
        "residue_names": np.array(topology.residue_names, dtype=np.str_),
        "residue_ids": np.array(topology.residue_ids, dtype=np.int64),
        "chain_ids": np.array(topology.chain_ids, dtype=np.str_),
        "masses": np.array(topology.masses, dtype=np.float64),
        "bonds": np.array(topology.bonds, dtype=np.int64).reshape(-1, 2),
        "insertion_codes": np.array(topology.insertion_codes, dtype=np.str_),
        "residue_indices": np.array(topology.residue_indices, dtype=np.int64),
        "temperature": np.array(dataset.temperature, dtype=np.float64),
        "source_sha256": np.array(dataset.source_sha256, dtype=np.str_),
        "notes": np.array(dataset.notes, dtype=np.str_),
        "format_version": np.array(FORMAT_VERSION, dtype=np.int64),
    }


def _from_arrays(arrays: _Arrays) -> CGDataset:
    topology = BeadTopology.from_dict(
        {
            "names": arrays["bead_names"].tolist(),
            **{
                key: arrays[key].tolist()
                for key in ("elements", "residue_names", "residue_ids", "chain_ids", "masses")
            },
            "bonds": arrays["bonds"].tolist(),
            **{
                key: arrays[key].tolist()
                for key in ("insertion_codes", "residue_indices")
                if key in arrays
            },
        }
    )
    return CGDataset(
        positions=arrays["positions"],
        topology=topology,
        temperature=float(arrays["temperature"]),
        source_sha256=str(arrays["source_sha256"]),
        notes=tuple(str(note) for note in arrays.get("notes", np.array([], np.str_)).reshape(-1)),
    )


def _read_arrays(path: Path) -> _Arrays:
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            # NumPy returns the bytes of members that are no arrays.
            arrays = {key: np.asarray(content[key]) for key in content.files}
            for array in arrays.values():
                if array.dtype.kind == "U":
                    array.tolist()  # fails where bytes are no characters
            return arrays
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    # A damaged archive makes zipfile and NumPy raise almost anything.
    except Exception as error:
        raise DatasetError(
            f"{path} is damaged or not an .npz file ({error}); "
            "copy it again or make it anew from the trajectory"
        ) from error


def _check_keys(arrays: _Arrays) -> None:
    missing = [key for key in _KEY_KINDS if key not in arrays]
    if missing:
        raise DatasetError(f"missing {', '.join(missing)}; write it with save_dataset")
    for key, kinds in {**_KEY_KINDS, **_NEWER_KEY_KINDS}.items():
        if key in arrays and arrays[key].dtype.kind not in kinds:
            raise DatasetError(f"{key} has type {arrays[key].dtype}; write it with save_dataset")
    for key in ("temperature", "source_sha256", "format_version"):
        if arrays[key].shape != ():
            raise DatasetError(f"{key} has shape {arrays[key].shape}; it must be a single value")
    version = int(arrays["format_version"])
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"format version {version}; this version of the package reads {FORMAT_VERSION}"
        )


def _check_shape(positions: npt.NDArray[Any], n_beads: int) -> None:
    if not isinstance(positions, np.ndarray) or positions.dtype != np.float32:
        given = getattr(positions, "dtype", type(positions).__name__)
        raise DatasetError(f"positions have type {given}; give a NumPy array of float32, in nm")
    if positions.ndim != 3 or positions.shape[1] != n_beads or positions.shape[2] not in (2, 3):
        raise DatasetError(
            f"positions have shape {positions.shape}; with {n_beads} beads in the topology "
            f"they must be (frames, {n_beads}, 3), or (frames, {n_beads}, 2) for toy systems"
        )
    if positions.shape[0] == 0:
        raise DatasetError("there are no frames")
