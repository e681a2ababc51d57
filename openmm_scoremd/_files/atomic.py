"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: What the system says when a file cannot grow: no space, no quota, a limit of the process.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block ends without an error.

    The temporary file lies in the same folder (so that the rename is atomic), keeps the suffix
    (writers choose formats by it), and is flushed to disk before the rename, the folder after it.
    A process killed inside the block leaves ``path`` as it was, and a hidden ``.*.part*`` file.

    Parameters
    ----------
    path : path-like
        Final name. Missing parent folders are made. A symbolic link is followed, not replaced.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    OSError
        If ``path`` cannot be written, is write-protected, or is no regular file, or the disk is
        full, whatever the writer made of that; the error names ``path``.
    """
    target = Path(os.path.realpath(path))
    with _blaming(path):
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file_beside(target)
    try:
        # A file that someone made private, or shared with a group, stays so.
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        try:
            yield temporary
        except Exception as error:
            with _blaming(path):
                _raise_if_full(error, temporary)
            raise
        with _blaming(path):
            _flush_to_disk(temporary)
            os.chmod(temporary, mode)  # some writers make the file anew, with modes of their own
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a JSON file in one piece; dataclasses and paths inside are converted."""
    write_text(path, json.dumps(content, indent=2, default=_to_json) + "\n")


@contextmanager
def _blaming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file the user asked for, not the temporary one, in errors of the system."""
    try:
        yield
    except OSError as error:
        # OSError picks the subclass (PermissionError, ...) by the number.
        raise OSError(error.errno, f"cannot write: {error.strerror}", os.fspath(path)) from error


def _check_replaceable(target: Path) -> None:
    # A rename asks only whether the folder can be written, and as root replaces even /dev/null.
    if not target.exists():
        return
    if target.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    if not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _new_file_beside(target: Path) -> Path:
    # Not tempfile.mkstemp: its files are private, and widening them later needs the umask, which
    # cannot be read without changing it for all threads. Here the system applies it.
    while True:
        name = f".{target.stem[:100]}-{secrets.token_hex(4)}.part{target.suffix}"
        temporary = target.with_name(name)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


def _raise_if_full(error: Exception, temporary: Path) -> None:
    """Raise the system's error if a writer failed because its file could not grow."""
    said = getattr(error, "errno", None)
    for number in _FULL:
        if said == number or os.strerror(number) in str(error):
            raise OSError(number, os.strerror(number)) from error
    # Writers in C may raise anything.
    if said is None and temporary.is_file():
        _require_room(temporary)


def _require_room(path: Path) -> None:
    """Raise ``OSError`` if a file cannot grow; it stays as it is."""
    with open(path, "rb+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            file.write(b"\0")
        finally:
            file.truncate(end)


def _flush_to_disk(path: Path) -> None:
    # Some writers do not say that their last bytes found no room; then there is none for one more.
    _require_room(path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut; the file itself is already whole."""
    # Some systems cannot open or flush a folder. The new file is in place by now, so that
    # is no reason to report a failure.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written to JSON")
