"""Files that grow while a run goes on, and can be cut back to where a checkpoint was written.

Nothing is written but at the end of a file, apart from the number of frames in its header, which
follows from the length. A file is open only while it is written, so that thousands of replicas need
no more file handles than one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.errors import CheckpointError

FloatArray: TypeAlias = NDArray[np.floating]


class FileFormat(Protocol):
    """How numbers become bytes of a file."""

    def header(self, rows: int) -> bytes:
        """Return the first bytes of a file with this many rows, always the same number of bytes."""

    def encode(self, rows: FloatArray, first: int) -> bytes:
        """Return the bytes of rows that follow on ``first`` earlier ones."""


class AppendableFile:
    """A file to which rows are appended.

    Parameters
    ----------
    path : path-like
        The file.
    file_format : FileFormat
        How rows become bytes.
    rows, length : int
        Rows and bytes that count; what lies behind them is overwritten.

    Raises
    ------
    OSError
        By all methods, if the disk is full or the file cannot be written; it names the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        file_format: FileFormat,
        *,
        rows: int = 0,
        length: int = 0,
    ) -> None:
        self.path = Path(path)
        self.rows = rows
        self.length = length
        self._format = file_format

    def create(self) -> None:
        """Make the file, without rows; what lies there already is an error."""
        header = self._format.header(0)
        with self._open("xb") as file:
            file.write(header)
        self.rows, self.length = 0, len(header)

    def append(self, rows: FloatArray) -> None:
        """Append rows; the file is whole afterwards.

        Parameters
        ----------
        rows : ndarray, shape (n, ...)
            What the format takes.
        """
        if len(rows) == 0:
            return
        content = self._format.encode(rows, self.rows)
        with self._open("r+b") as file:
            file.seek(self.length)
            file.write(content)
            # Rows before their number: a crash between the two loses rows, and tears none.
            file.flush()
            file.seek(0)
            file.write(self._format.header(self.rows + len(rows)))
        self.rows += len(rows)
        self.length += len(content)

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        with self._open("r+b") as file:
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
        with self._open("r+b") as file:
            file.truncate(self.length)
            file.seek(0)
            file.write(self._format.header(self.rows))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _open(self, mode: str) -> Iterator[BinaryIO]:
        try:
            with open(self.path, mode) as file:
                yield file  # type: ignore[misc]
        except OSError as error:
            # What a full disk makes the system say names no file.
            raise OSError(error.errno, error.strerror, os.fspath(self.path)) from error
