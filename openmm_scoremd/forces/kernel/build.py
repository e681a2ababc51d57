"""The C++ kernel as a library of this machine: compiled once, kept in a cache folder.

The file name says what the library was made from (sources, compiler, options, processor) and what
it contains (its SHA-256), so another compiler or processor never meets a stale library, and one
whose content is not what its name says is compiled anew and never loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.errors import MissingDependencyError

logger = logging.getLogger(__name__)

SOURCES: Final = ("graph_transformer.cpp", "kernel.hpp", "invariant.cpp")

_COMMON: Final = ("-std=c++17", "-fPIC", "-shared", "-Wno-psabi")
#: GCC leaves multiply-adds apart in loops of one sum on some processors, and joins them in loops of
#: several: replicas of an incomplete block would be rounded otherwise than those of a full one.
_ALIKE: Final = "--param=avoid-fma-max-bits=0"
#: Options from fast to modest; the first that the compiler takes are used.
_OPTIONS: Final = (
    ("-O3", "-march=native", "-fopenmp", _ALIKE),
    ("-O3", "-march=native", "-fopenmp"),
    ("-O3", "-march=native"),
    ("-O3",),
)
_COMPILERS: Final = ("c++", "g++", "clang++")
_TIMEOUT = 600.0  # seconds


@functools.cache
def load_library(name: str = "graph_transformer") -> ctypes.CDLL:
    """Return a kernel, compiled now if it is not in the cache.

    Parameters
    ----------
    name : {"graph_transformer", "invariant"}
        Which one.

    Raises
    ------
    MissingDependencyError
        If there is no C++ compiler, or it fails.
    """
    compiler = find_compiler()
    key = f"{name}-{_key(compiler)}"
    try:
        folder = _trusted_folder()
        path = _cached(folder, key) or _build(compiler, folder, key, name)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise MissingDependencyError(
            f"the C++ kernel cannot be kept or loaded ({error}); give XDG_CACHE_HOME a folder with "
            "some space, or use backend='torchforce' or 'pythonforce'"
        ) from error


def find_compiler() -> str:
    """Return the path of a C++ compiler: that of the variable CXX, or the first one found.

    Raises
    ------
    MissingDependencyError
        If there is none.
    """
    wanted = os.environ.get("CXX", "").strip()
    for name in (wanted,) if wanted else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise MissingDependencyError(
        f"no C++ compiler found ({wanted or ', '.join(_COMPILERS)}); install GCC or Clang, set CXX "
        "to one, or use backend='torchforce' or 'pythonforce'"
    )


def cache_folder() -> Path:
    """Return where libraries are kept: ``$XDG_CACHE_HOME/openmm_scoremd``, by default in ~/.cache.

    Returns
    -------
    Path
        The folder, which need not exist.

    Raises
    ------
    RuntimeError
        If the user has no home.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "openmm_scoremd"


def _trusted_folder() -> Path:
    """Return the cache if this user alone can write there, otherwise a folder for this process."""
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        owned = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        reason = f"others can write to {folder}"
        if owned and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            if os.access(folder, os.W_OK):
                return folder
            reason = f"{folder} cannot be written to"
    # No home, or no folder there.
    except (RuntimeError, OSError) as error:
        reason = str(error)
    temporary = Path(tempfile.mkdtemp(prefix="openmm_scoremd_"))
    logger.warning("%s; the C++ kernel is kept in %s", reason, temporary)
    return temporary


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    for part in (compiler, version.stdout, str(_OPTIONS), str(_COMMON), _processor()):
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Name and instructions of the processor: what -march=native depends on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    wanted = ("model name", "flags", "Features", "CPU part")
    described = {line for line in lines if line.startswith(wanted)}
    return "\n".join([platform.machine(), platform.processor(), *sorted(described)])


def _cached(folder: Path, key: str) -> Path | None:
    for path in sorted(folder.glob(f"kernel-{key}-*.so")):
        if path.stem.rpartition("-")[2] == _digest(path):
            return path
        logger.warning("%s does not contain what its name says; the kernel is built anew", path)
        path.unlink()
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _build(compiler: str, folder: Path, key: str, name: str) -> Path:
    logger.info("compiling the kernel with %s, once; it is kept in %s", compiler, folder)
    source = Path(__file__).parent / f"{name}.cpp"
    messages = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        product = Path(scratch) / "kernel.so"
        for options in _OPTIONS:
            command = [
                compiler,
                *options,
                *_COMMON,
                str(source),
                "-o",
                str(product),
            ]
            problem = _run(command)
            if not problem:
                path = folder / f"kernel-{key}-{_digest(product)}.so"
                with atomic_path(path) as temporary:
                    shutil.copy(product, temporary)
                return path
            messages.append(f"{' '.join(options)}: {problem}")
    raise MissingDependencyError(
        f"{compiler} cannot compile the kernel ({'; '.join(messages)}); set CXX to GCC 10 or Clang "
        "13 or newer, or use backend='torchforce' or 'pythonforce'"
    )


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[-200:]]
    return "" if done.returncode == 0 else lines[0].strip() or f"exit status {done.returncode}"
