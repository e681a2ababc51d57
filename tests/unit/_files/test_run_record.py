"""Folders of results, hashes, and the record of what made them."""

import hashlib
import json
import os
import sys
import types

import numpy as np
import pytest

from openmm_scoremd._files import run_record
from openmm_scoremd.errors import InvalidInputError


def test_sha256_of_a_file_longer_than_one_block(tmp_path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(data)
    assert run_record.sha256_of_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_versions_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(run_record, "RECORDED_PACKAGES", ("numpy", "no-such-package"))
    versions = run_record.package_versions()
    assert versions["numpy"] == np.__version__
    assert versions["no-such-package"] == "not installed"
    assert versions["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")


def test_an_input_in_memory_may_be_gone(tmp_path):
    model = types.SimpleNamespace(path=tmp_path / "moved" / "model.pt", sha256="ab" * 32)
    path = run_record.write_run_record(
        tmp_path, arguments={}, seeds={}, inputs={"model": model}, results={}
    )
    recorded = json.loads(path.read_text())["inputs"]
    assert recorded == {"model": {"name": "model.pt", "sha256": "ab" * 32}}


def test_run_record(tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes(b"content")
    path = run_record.write_run_record(
        tmp_path / "run",
        arguments={"steps": 10},
        seeds={"integrator": 1},
        inputs={"model": model},
        results={"speed": 2.5},
    )
    record = json.loads(path.read_text())
    assert path == tmp_path / "run" / "run.json"
    assert record["inputs"]["model"] == {
        "name": "model.pt",
        "sha256": hashlib.sha256(b"content").hexdigest(),
    }
    assert (record["arguments"], record["seeds"]) == ({"steps": 10}, {"integrator": 1})
    assert record["results"] == {"speed": 2.5}
    assert record["finished"].endswith("+00:00")
    assert {"python", "torch", "openmm"} <= set(record["versions"])


class TestResultFolder:
    def test_files_that_may_be_there(self, tmp_path):
        (tmp_path / ".lock").touch()
        with run_record.result_folder(tmp_path, besides=frozenset({".lock"})) as folder:
            assert folder == tmp_path
        with (
            pytest.raises(InvalidInputError, match="not empty"),
            run_record.result_folder(tmp_path),
        ):
            pass

    def test_new_folder_with_parents(self, tmp_path):
        with run_record.result_folder(tmp_path / "a" / "b") as folder:
            (folder / "file").write_text("x")
        assert (tmp_path / "a" / "b" / "file").exists()

    def test_empty_folder_that_was_there_stays(self, tmp_path):
        with run_record.result_folder(str(tmp_path)) as folder:
            assert folder == tmp_path
        assert tmp_path.is_dir()

    def test_new_folder_that_stayed_empty_goes(self, tmp_path):
        with pytest.raises(ZeroDivisionError), run_record.result_folder(tmp_path / "new"):
            raise ZeroDivisionError
        assert not (tmp_path / "new").exists()

    def test_what_was_written_before_an_error_stays(self, tmp_path):
        with pytest.raises(ZeroDivisionError), run_record.result_folder(tmp_path / "new") as folder:
            (folder / "file").write_text("x")
            raise ZeroDivisionError
        assert (tmp_path / "new" / "file").exists()

    def test_full_folder_and_file(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with (
            pytest.raises(InvalidInputError, match="is not empty"),
            run_record.result_folder(tmp_path),
        ):
            pass
        with (
            pytest.raises(InvalidInputError, match="is a file"),
            run_record.result_folder(tmp_path / "file"),
        ):
            pass
