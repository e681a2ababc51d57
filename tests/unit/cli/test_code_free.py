"""Every command that takes a model, with a file without code."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from openmm_scoremd.model_file import ScoreModelFile


@pytest.fixture(scope="module")
def folder(workshop, tmp_path_factory):
    """A folder with the workshop's data, and its weights as a model file without code."""
    source, _ = workshop
    folder = tmp_path_factory.mktemp("code_free")
    for name in ("run", "beads.npz"):
        (folder / name).symlink_to(source / name)
    return folder


@pytest.fixture
def exported(folder, scoremd, monkeypatch):
    monkeypatch.chdir(folder)
    if not os.path.exists("tiny.safetensors"):
        done = scoremd("export", "run/weights.safetensors", "tiny.safetensors", "--licence", "MIT")
        assert done.code == 0, done.err
        assert done.out == scoremd("info", "tiny.safetensors").out
    return folder / "tiny.safetensors"


def test_info(exported, scoremd):
    rows = dict(line.split("  ", 1) for line in scoremd("info", exported.name).out.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["form"] == "tensors, no code"
    assert rows["licence"] == "MIT"
    assert rows["self-test"] == "4 frames reproduced"
    record = json.loads(scoremd("info", exported.name, "--json").out)
    assert record["sha256"] == rows["SHA-256"] == ScoreModelFile(exported).sha256


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (("sample", "MODEL", "iid", "--frames", 6, "--steps", 8), "iid/iid.dcd"),
        (
            ("simulate", "MODEL", "md", "--replicas", 2, "--steps", 20, "--interval", 10),
            "md/replica_0001.dcd",
        ),
        (
            ("simulate", "MODEL", "fast", "--replicas", 2, "--steps", 100, "--backend", "kernel"),
            "fast/replica_0000.dcd",
        ),
        (
            ("plan", "MODEL", "--platform", "Reference", "--replicas", 1, "--output", "plan.json"),
            "plan.json",
        ),
        (("reweight", "MODEL", "weighted.npz", "--frames", 4, "--steps", 4), "weighted.npz"),
        (("evaluate", "MODEL", "beads.npz", "report", "--frames", 40), "report/metrics.json"),
    ],
    ids=lambda value: value[0] + value[2] if isinstance(value, tuple) else "",
)
def test_commands(exported, scoremd, command, written):
    done = scoremd(*(exported.name if word == "MODEL" else word for word in command))
    assert done.code == 0, done.err
    assert os.path.exists(written)


def test_a_run_goes_on_to_the_last_bit(exported, scoremd):
    options = ("--replicas", 2, "--interval", 5, "--backend", "pythonforce")
    for name, first in (("whole", 20), ("parts", 10)):
        assert scoremd("simulate", exported.name, name, "--steps", first, *options).code == 0
    assert scoremd("simulate", exported.name, "parts", "--resume", "--steps", 20).code == 0
    for replica in ("replica_0000.dcd", "replica_0001.dcd"):
        assert Path("whole", replica).read_bytes() == Path("parts", replica).read_bytes()


def test_it_becomes_torchscript(exported, scoremd):
    done = scoremd("export", exported.name, "tiny.pt")
    assert done.code == 0, done.err
    free, script = ScoreModelFile(exported), ScoreModelFile("tiny.pt")
    assert script.metadata.to_json() == free.metadata.to_json()
    positions = free.metadata.self_test.positions
    expected = free.forces(positions)
    found = script.forces(positions)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_what_a_model_file_already_says_cannot_be_said_again(exported, scoremd):
    before = exported.read_bytes()
    for options, message in (
        (("x.pt", "--time", 0.1), "has its time, precision, licence and citation"),
        (("x.safetensors",), "its name must end in .pt"),
    ):
        done = scoremd("export", exported.name, *options)
        assert done.code == 2
        assert message in done.err
        assert not os.path.exists(options[0])
    done = scoremd("export", "run/weights.safetensors", "run/weights.safetensors")
    assert done.code == 2
    assert "exists and is no model file" in done.err
    assert exported.read_bytes() == before


def test_a_damaged_file_is_an_error_of_one_line(exported, scoremd, tmp_path):
    damaged = bytearray(exported.read_bytes())
    damaged[-100] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(bytes(damaged))
    done = scoremd("sample", tmp_path / "damaged.safetensors", tmp_path / "x")
    assert done.code == 2
    assert "it is damaged" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "x").exists()
