"""Folders of results, and the record in them of what made them."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.errors import InvalidInputError

#: Packages whose versions decide whether a result can be repeated.
RECORDED_PACKAGES = ("openmm-scoremd", "torch", "openmm", "openmmtorch", "mdtraj", "numpy")


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
    from importlib import metadata  # slow to import, and not for every command

    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


class FileInMemory(Protocol):
    """What was read from a file that may be elsewhere by now."""

    path: Path
    sha256: str


def write_run_record(
    folder: str | os.PathLike[str],
    *,
    arguments: Mapping[str, Any],
    seeds: Mapping[str, int],
    inputs: Mapping[str, str | os.PathLike[str] | FileInMemory],
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
    inputs : mapping of str to path or FileInMemory
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
            "inputs": {name: _identity(file) for name, file in inputs.items()},
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


def _identity(file: str | os.PathLike[str] | FileInMemory) -> dict[str, str]:
    if isinstance(file, (str, os.PathLike)):
        return {"name": Path(file).name, "sha256": sha256_of_file(file)}
    return {"name": file.path.name, "sha256": file.sha256}
