"""``scoremd fokker-planck``: what it writes, and what it refuses."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.cli.main import main
from openmm_scoremd.data.dataset import CGDataset, save_dataset
from openmm_scoremd.evaluation.fokker_planck import fokker_planck_error, frame_errors
from openmm_scoremd.models.weights import load_weights, save_weights

BOTH = ("one.safetensors", "two.safetensors")


@pytest.fixture
def folder(make_trained, tmp_path, monkeypatch):
    """A folder with a dataset and three networks of its molecule, one of them direct."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (("one", "graph"), ("two", "graph-noise-level"), ("direct", "graph-direct")):
        trained = make_trained(kind)
        save_weights(trained, f"{name}.safetensors")
    frames = np.random.default_rng(0).normal(scale=0.09, size=(12, 5, 3)).astype(np.float32)
    save_dataset(CGDataset(frames, trained.description.topology, 310.0), "beads.npz")
    return tmp_path


def measure(*words, output="out"):
    """Run the command and return code and both streams."""
    out, err = io.StringIO(), io.StringIO()
    words = ("fokker-planck", *words, "--data", "beads.npz", "--output", output)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.usefixtures("folder")
def test_files_and_record():
    code, out, _ = measure(*BOTH, "--frames", 6, "--times", 3, "--seed", 2, "--time", 0.02)
    assert code == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"fokker_planck.png", "fokker_planck.json", "frame_errors.npz", "run.json"}
    assert Path("out/fokker_planck.png").read_bytes().startswith(b"\x89PNG")

    positions = np.load("beads.npz")["positions"]
    curves = json.loads(Path("out/fokker_planck.json").read_text())
    assert list(curves) == ["one", "two"]
    errors = np.load("out/frame_errors.npz")
    assert errors["models"].tolist() == ["one", "two"]
    assert errors["t"] == 0.02
    assert len({*errors["frames"].tolist()}) == 6
    for i, name in enumerate(curves):
        trained = load_weights(f"{name}.safetensors")
        expected = fokker_planck_error(
            trained, positions, times=np.geomspace(1e-5, 1.0, 3), n_frames=6, seed=2
        )
        assert curves[name] == expected.to_dict()
        of_frames = frame_errors(trained, positions[errors["frames"]], t=0.02, seed=2)
        np.testing.assert_array_equal(errors["errors"][i], of_frames)

    head, *rows, last = out.splitlines()
    assert head.split()[-3:] == ["1e-05", "0.0032", "1"]
    assert [row.split()[:2] for row in rows] == [
        [name, kind] for name in ("one", "two") for kind in ("plain", "centred")
    ]
    assert float(rows[3].split()[2]) == pytest.approx(curves["two"]["centred"][0], rel=1e-3)
    assert last == "picture and numbers: out"

    record = json.loads(Path("out/run.json").read_text())
    assert record["arguments"] == {"frames": 6, "times": 3, "time": 0.02}
    assert record["seeds"] == {"frames": 2}
    inputs = {name: entry["sha256"] for name, entry in record["inputs"].items()}
    assert inputs == {
        "data": sha256_of_file("beads.npz"),
        "weights of one": sha256_of_file("one.safetensors"),
        "weights of two": sha256_of_file("two.safetensors"),
    }


@pytest.mark.usefixtures("folder")
def test_more_frames_than_there_are():
    code, _, _ = measure("one.safetensors", "--times", 2, "--frames", 20)
    assert code == 0
    errors = np.load("out/frame_errors.npz")
    assert errors["frames"].tolist() == list(range(12))
    assert errors["errors"].shape == (1, 12)


def test_runs_whose_weights_have_the_same_name(folder):
    for run in ("a", "b"):
        (folder / run).mkdir()
        shutil.copy(folder / "one.safetensors", folder / run / "weights.safetensors")
    code, _, _ = measure("a/weights.safetensors", "b/weights.safetensors", "--times", 2)
    assert code == 0
    curves = json.loads(Path("out/fokker_planck.json").read_text())
    assert list(curves) == ["a/weights", "b/weights"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("one.safetensors", "direct.safetensors"), "'toy' has no energy, so it has no Fokker"),
        (("no.safetensors",), "no.safetensors"),
        (("one.safetensors", "one.safetensors"), "the same weights are given twice"),
        (("one.safetensors", "--frames", "1"), "1 is out of range; it must be at least 2"),
        (("one.safetensors", "--times", "1"), "1 is out of range; it must be at least 2"),
        (("one.safetensors", "--time", "2"), "t is 2.0; the network takes"),
        ((), "the following arguments are required: weights"),
    ],
)
def test_refused(words, message):
    code, out, err = measure(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("out").exists()


def test_refused_before_anything_is_written(folder, make_trained):
    save_weights(make_trained("mlp-beads"), "other.safetensors")
    topology = make_trained("graph").description.topology
    renamed = dataclasses.replace(topology, names=tuple("VWXYZ"))
    description = dataclasses.replace(make_trained("graph").description, topology=renamed)
    save_weights(
        dataclasses.replace(make_trained("graph"), description=description), "named.safetensors"
    )
    for name, part in (
        ("other", "there are 5 beads and not 3"),
        ("named", "bead 0 is B0 of TOY and not V of TOY"),
    ):
        code, _, err = measure("one.safetensors", f"{name}.safetensors")
        assert code == 2
        assert f"beads.npz is not of the molecule of {name}: {part}" in err
        assert not (folder / "out").exists()
    (folder / "full").mkdir()
    (folder / "full/file").touch()
    code, _, err = measure("one.safetensors", output="full")
    assert code == 2
    assert "full is not empty" in err
