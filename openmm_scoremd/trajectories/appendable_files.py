"""Files that grow while a run goes on, and can be cut back to where a checkpoint was written.

Nothing is written but at the end of a file, apart from the number of frames in its header, which
follows from the length. A file is open only while it is written, so that thousands of replicas need
no more file handles than one.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
from pathlib import Path
from typing import Protocol, TypeAlias

import mdtraj
import numpy as np
import openmm.app as app
from numpy.typing import NDArray

from openmm_scoremd.errors import CheckpointError

FloatArray: TypeAlias = NDArray[np.float64]

_FIRST_DCD_TITLE, _DCD_TITLE_BYTES = 100, 80


class Codec(Protocol):
    """How numbers become bytes of a file."""

    def header(self, rows: int) -> bytes:
        """Return the first bytes of a file with this many rows, always the same number of bytes."""

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return the bytes of rows that follow on ``first`` earlier ones."""


class GrowingFile:
    """A file to which rows are appended.

    Parameters
    ----------
    path : path-like
        The file.
    codec : Codec
        Its format.
    rows, length : int
        Rows and bytes that count; what lies behind them is overwritten.
    """

    def __init__(
        self, path: str | os.PathLike[str], codec: Codec, *, rows: int = 0, length: int = 0
    ) -> None:
        self.path = Path(path)
        self.rows = rows
        self.length = length
        self._codec = codec

    def create(self) -> None:
        """Make the file, or make it anew, without rows."""
        header = self._codec.header(0)
        with open(self.path, "wb") as file:
            file.write(header)
        self.rows, self.length = 0, len(header)

    def append(self, rows: FloatArray) -> None:
        """Append rows; the file is whole afterwards.

        Parameters
        ----------
        rows : ndarray, shape (n, ...)
            What the codec takes.
        """
        if len(rows) == 0:
            return
        content = self._codec.encode(rows, self.rows)
        with open(self.path, "r+b") as file:
            file.seek(self.length)
            file.write(content)
            # Rows before their number: a crash between the two loses rows, and tears none.
            file.flush()
            file.seek(0)
            file.write(self._codec.header(self.rows + len(rows)))
        self.rows += len(rows)
        self.length += len(content)

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        with open(self.path, "r+b") as file:
            os.fsync(file.fileno())

    def cut(self) -> None:
        """Drop what lies behind the rows that count, and correct the header.

        Raises
        ------
        CheckpointError
            If the file is missing or too short.
        """
        size = self.path.stat().st_size if self.path.is_file() else -1
        if size < self.length:
            state = "is missing" if size < 0 else f"has {size} bytes"
            raise CheckpointError(
                f"{self.path} {state}; at the last checkpoint it had {self.length}: put the file "
                "back as it was, or start again in another folder"
            )
        with open(self.path, "r+b") as file:
            file.truncate(self.length)
            file.seek(0)
            file.write(self._codec.header(self.rows))
            file.flush()
            os.fsync(file.fileno())


class DCDCodec:
    """Frames (n, N, 3), nm, as DCD.

    Parameters
    ----------
    topology : openmm.app.Topology
        Particles of a frame.
    timestep : float, ps
        Time step.
    interval : int
        Time steps between frames; the first frame is that of step ``interval``.
    """

    def __init__(self, topology: app.Topology, *, timestep: float, interval: int) -> None:
        buffer = io.BytesIO()
        app.DCDFile(buffer, topology, timestep, interval, interval)
        header = bytearray(buffer.getvalue())
        # OpenMM's second title is the date, and the same run is to give the same file.
        start = _FIRST_DCD_TITLE + _DCD_TITLE_BYTES
        header[start : start + _DCD_TITLE_BYTES] = b"openmm_scoremd".ljust(_DCD_TITLE_BYTES, b"\0")
        self._header, self._interval = header, interval

    def header(self, rows: int) -> bytes:
        """Return the header of a file with this many frames."""
        header = self._header.copy()
        struct.pack_into("<i", header, 8, rows)
        struct.pack_into("<i", header, 20, rows * self._interval)
        return bytes(header)

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return frames as three records each: x, y and z in Å."""
        n_frames, n_particles, _ = rows.shape
        records = np.empty((n_frames, 3, n_particles + 2), dtype="<f4")
        records[:, :, 1:-1] = (10.0 * rows).transpose(0, 2, 1)
        marks = records.view("<i4")
        marks[:, :, 0] = marks[:, :, -1] = 4 * n_particles
        return records.tobytes()


class XTCCodec:
    """Frames (n, N, 3), nm, as XTC: a precision of 0.001 nm from 10 particles on.

    Parameters
    ----------
    timestep : float, ps
        Time step.
    interval : int
        Time steps between frames; the first frame is that of step ``interval``.
    """

    def __init__(self, *, timestep: float, interval: int) -> None:
        self._timestep, self._interval = timestep, interval

    def header(self, rows: int) -> bytes:
        """Return nothing: an XTC file is its frames, one after another."""
        return b""

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return frames as MDTraj writes them."""
        steps = self._interval * np.arange(first + 1, first + len(rows) + 1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.xtc"
            with mdtraj.formats.XTCTrajectoryFile(os.fspath(path), "w") as file:
                file.write(
                    np.ascontiguousarray(rows, dtype=np.float32),
                    time=(steps * self._timestep).astype(np.float32),
                    step=steps.astype(np.int32),
                )
            return path.read_bytes()


class NpyCodec:
    """Rows of one shape as a float32 ``.npy`` file.

    Parameters
    ----------
    shape : tuple of int
        Shape of a row.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def header(self, rows: int) -> bytes:
        """Return the header; NumPy leaves room for the number of rows."""
        buffer = io.BytesIO()
        entries = {"descr": "<f4", "fortran_order": False, "shape": (rows, *self._shape)}
        np.lib.format.write_array_header_1_0(buffer, entries)
        return buffer.getvalue()

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return the numbers in C order."""
        return rows.astype("<f4").tobytes()


class CSVCodec:
    """Rows of numbers as text.

    Parameters
    ----------
    columns : mapping of str to str
        Names, and formats of Python such as ``".3f"``.
    """

    def __init__(self, columns: dict[str, str]) -> None:
        self._columns = columns

    def header(self, rows: int) -> bytes:
        """Return the line of names."""
        return (",".join(self._columns) + "\n").encode()

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return one line per row."""
        formats = tuple(self._columns.values())
        lines = [
            ",".join(format(value, kind) for value, kind in zip(row, formats, strict=True))
            for row in rows.tolist()
        ]
        return "".join(f"{line}\n" for line in lines).encode()
