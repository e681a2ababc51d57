"""The kernel is compiled once, and only what was compiled is loaded."""

import ctypes
import logging
import os
import shutil

import pytest

from openmm_scoremd.errors import MissingDependencyError
from openmm_scoremd.forces.kernel import build

REAL = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
needs_compiler = pytest.mark.skipif(REAL is None, reason="no C++ compiler")

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo "{version}"; exit 0; fi
echo "$@" >> {log}
case "$*" in *{refused}*) echo "source.cpp: error: {refused}" >&2; exit 1;; esac
for last; do :; done
exec {real} -shared -fPIC -x c++ /dev/null -o "$last"
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openmm_scoremd"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Return ``make(version, refused)``: a compiler of a trivial library; its calls are logged."""
    path, log = tmp_path / "compiler", tmp_path / "log"
    log.write_text("")

    def make(version="1.0", refused="nothing"):
        script = COMPILER.format(version=version, log=log, refused=refused, real=REAL)
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return lambda: len(log.read_text().splitlines())

    return make


def load():
    """Load as another process would."""
    return build.load_library.__wrapped__()


@needs_compiler
def test_a_cached_library_is_used_again(compiler, cache):
    calls = compiler()
    assert isinstance(load(), ctypes.CDLL)
    (library,) = cache.glob("*.so")
    before = library.stat().st_mtime_ns
    load()
    assert calls() == 1
    assert library.stat().st_mtime_ns == before
    assert [path.name for path in cache.iterdir()] == [library.name]


@needs_compiler
def test_another_compiler_makes_another_library(compiler, cache):
    calls = compiler(version="1.0")
    load()
    compiler(version="2.0")
    load()
    assert calls() == 2
    assert len(list(cache.glob("*.so"))) == 2


@needs_compiler
def test_changed_sources_make_another_library(compiler, monkeypatch, tmp_path):
    calls = compiler()
    load()
    for name in build.SOURCES:
        shutil.copy(build.Path(build.__file__).parent / name, tmp_path / name)
    (tmp_path / build.SOURCES[1]).write_text("// changed")
    monkeypatch.setattr(build, "__file__", str(tmp_path / "build.py"))
    load()
    assert calls() == 2


@needs_compiler
@pytest.mark.parametrize("change", ["appended", "replaced"])
def test_a_tampered_library_is_never_loaded(compiler, cache, monkeypatch, caplog, change):
    calls = compiler()
    load()
    (library,) = cache.glob("*.so")
    original = library.read_bytes()
    # A new file: this process runs the old one.
    library.unlink()
    library.write_bytes(original + b"x" if change == "appended" else b"evil")
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path: loaded.append(build.Path(path).read_bytes()))
    with caplog.at_level(logging.WARNING):
        load()
    assert "does not contain what its name says" in caplog.text
    assert calls() == 2
    assert len(loaded) == 1
    assert loaded[0] not in (original + b"x", b"evil")


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_used(compiler, cache, caplog):
    compiler()
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        load()
    assert "others can write to" in caplog.text
    assert not list(cache.iterdir())


@needs_compiler
@pytest.mark.parametrize("trouble", ["no home", "a file", "read-only"])
def test_without_a_place_to_keep_it_a_temporary_one_is_used(
    compiler, cache, monkeypatch, caplog, trouble
):
    compiler()
    if trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)
        # As for a user that no table knows, in a container.
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    elif trouble == "a file":
        cache.parent.write_text("")
    else:
        # Also root cannot write to what is mounted read-only.
        monkeypatch.setattr("os.access", lambda _path, mode: mode != os.W_OK)
    with caplog.at_level(logging.WARNING):
        assert isinstance(load(), ctypes.CDLL)
    assert "the C++ kernel is kept in" in caplog.text


@needs_compiler
def test_a_full_disk_is_a_reason_for_another_backend(compiler, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    compiler()
    monkeypatch.setattr("shutil.copy", full)
    with pytest.raises(MissingDependencyError, match=r"No space left.*backend='torchforce'"):
        load()


@needs_compiler
def test_the_folder_is_private(compiler, cache):
    compiler()
    load()
    assert not cache.stat().st_mode & 0o022


@needs_compiler
def test_options_that_the_compiler_does_not_know_are_left_out(compiler, tmp_path):
    calls = compiler(refused="-fopenmp")
    load()
    assert calls() == 3
    assert "-fopenmp" not in (tmp_path / "log").read_text().splitlines()[-1]


@needs_compiler
def test_a_compiler_that_fails(compiler, cache):
    compiler(refused="-O3")
    with pytest.raises(MissingDependencyError, match=r"error: -O3.*backend='torchforce'"):
        load()
    assert not list(cache.iterdir())


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "absent-compiler")
    with pytest.raises(MissingDependencyError, match=r"absent-compiler.*install GCC or Clang"):
        load()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(MissingDependencyError, match=r"c\+\+, g\+\+, clang\+\+"):
        load()
