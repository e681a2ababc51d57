"""Files that are whole or absent, folders of results and the record in them, hashes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import os
import platform
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from openmm_scoremd.errors import InvalidInputError

#: Packages whose versions decide whether a result can be repeated.
RECORDED_PACKAGES = ("openmm-scoremd", "torch", "openmm", "openmmtorch", "mdtraj", "numpy")


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
        If ``path`` cannot be written, is write-protected, or is no regular file; the error names
        ``path``.
    """
    target = Path(os.path.realpath(path))
    with _blaming(path):
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file_beside(target)
    try:
        # A file that someone made private, or shared with a group, stays so.
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        yield temporary
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
def result_folder(
    path: str | os.PathLike[str], *, besides: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yield a folder without files, made if it is not there; one that stays empty is removed again.

    Parameters
    ----------
    path : path-like
        New or empty folder.
    besides : frozenset of str
        Names of files that may be there.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    InvalidInputError
        If it is a file, or not empty: results of two runs must not mix.
    """
    folder = Path(path)
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if names - besides or (folder.exists() and not folder.is_dir()):
        state = "not empty" if folder.is_dir() else "a file"
        raise InvalidInputError(f"{folder} is {state}; give a new or empty folder")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as a hexadecimal string."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what results depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def write_run_record(
    folder: str | os.PathLike[str],
    *,
    arguments: Mapping[str, Any],
    seeds: Mapping[str, int],
    inputs: Mapping[str, str | os.PathLike[str]],
    results: Mapping[str, Any],
) -> Path:
    """Write ``run.json``: what made the files in a folder.

    Parameters
    ----------
    folder : path-like
        Folder of the results.
    arguments : mapping
        Arguments of the run.
    seeds : mapping of str to int
        Every random seed used.
    inputs : mapping of str to path
        Input files; their SHA-256 is recorded.
    results : mapping
        Numbers worth keeping beside the files.

    Returns
    -------
    Path
        The file written.
    """
    path = Path(folder) / "run.json"
    write_json(
        path,
        {
            "command": sys.argv,
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "arguments": arguments,
            "seeds": seeds,
            "inputs": {
                name: {"name": Path(file).name, "sha256": sha256_of_file(file)}
                for name, file in inputs.items()
            },
            "versions": package_versions(),
            "machine": {
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "system": platform.system(),
            },
            "results": results,
        },
    )
    return path


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


def _flush_to_disk(path: Path) -> None:
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
