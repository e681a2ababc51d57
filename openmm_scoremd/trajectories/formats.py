"""How frames and rows of numbers become bytes of a file: DCD, XTC, ``.npy`` and text."""

from __future__ import annotations

import io
import os
import struct
import tempfile
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating]

#: DCD and XTC count steps in 32 bits.
MOST_STEPS: Final = 2**31 - 1
_PS_PER_AKMA_TIME = 0.04888821  # of CHARMM, where the format comes from; as in OpenMM
_CHARMM_VERSION = 24


class DCDFormat:
    """Frames (n, N, 3), nm, as DCD, as OpenMM writes it without a periodic box.

    Parameters
    ----------
    n_particles : int
        Particles of a frame.
    timestep : float, ps
        Time step.
    interval : int
        Time steps between frames.
    first_step : int, optional
        Step of the first frame; ``interval`` if not given.
    """

    def __init__(
        self, n_particles: int, *, timestep: float, interval: int, first_step: int | None = None
    ) -> None:
        self._n_particles, self._timestep, self._interval = n_particles, timestep, interval
        self._first_step = interval if first_step is None else first_step

    def header(self, rows: int) -> bytes:
        """Return the header of a file with this many frames."""
        last = self._first_step + (rows - 1) * self._interval if rows else 0
        first, last = min(self._first_step, MOST_STEPS), min(last, MOST_STEPS)
        counts = (rows, first, self._interval, last, *(0,) * 5)
        delta = self._timestep / _PS_PER_AKMA_TIME
        # No date among the titles: the same run is to give the same file.
        titles = (b"Created by OpenMM", b"openmm_scoremd")
        return b"".join(
            [
                struct.pack("<i4s9if10i", 84, b"CORD", *counts, delta, *(0,) * 9, _CHARMM_VERSION),
                struct.pack("<3i80s80si", 84, 164, len(titles), *titles, 164),
                struct.pack("<3i", 4, self._n_particles, 4),
            ]
        )

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return frames as three records each: x, y and z in Å."""
        n_frames, n_particles, _ = rows.shape
        records = np.empty((n_frames, 3, n_particles + 2), dtype="<f4")
        records[:, :, 1:-1] = (10.0 * rows).transpose(0, 2, 1)
        lengths = records.view("<i4")
        lengths[:, :, 0] = lengths[:, :, -1] = 4 * n_particles
        return records.tobytes()


def frames_announced(path: Path) -> int:
    """Return how many frames the header of a DCD file announces, whoever wrote it."""
    with open(path, "rb") as content:
        header = content.read(12)
    little = header[:4] == b"\x54\x00\x00\x00"
    return int.from_bytes(header[8:12], "little" if little else "big")


class XTCFormat:
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
        import mdtraj  # slow to import, and not for other formats

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


class NpyFormat:
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


class CSVFormat:
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
