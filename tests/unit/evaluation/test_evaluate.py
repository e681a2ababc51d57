"""Evaluation of a model: which reference frames count, what is written, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from openmm_scoremd._files.atomic import sha256_of_file
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.measures import compare_with_reference
from openmm_scoremd.cli.main import main
from openmm_scoremd.data.dataset import CGDataset, save_dataset, split_frames
from openmm_scoremd.errors import DatasetError, InvalidInputError, ModelFileError
from openmm_scoremd.evaluation.evaluate import evaluate, held_back_frames, read_frames, read_run
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.trajectories.reading import save_frames

FAST = Resampling(n_resamples=4, n_repeats=2, seed=5)
SPLIT = {"config": {"seed": 3, "data": {"held_back_fraction": 0.25}}}


@pytest.fixture
def make_dataset(toy, chain, tmp_path):
    """Return a function that writes 40 frames of the toy chain; keywords change the topology."""

    def make(name="reference.npz", *, seed=0, temperature=300.0, **changes):
        topology = dataclasses.replace(toy.metadata.topology, **changes)
        frames = chain(40, 4, seed=seed).astype(np.float32)
        save_dataset(CGDataset(frames, topology, temperature), tmp_path / name)
        return tmp_path / name, frames

    return make


@pytest.fixture
def trained_on(make_toy):
    """Return a function that makes a model that says it was trained on a dataset."""

    def make(path, training):
        toy = make_toy("trained.pt", dataset_sha256=sha256_of_file(path), training=training)
        return ScoreModelFile(toy.path)

    return make


class TestHeldBackFrames:
    def test_of_the_dataset_of_the_training(self, make_dataset, trained_on):
        path, frames = make_dataset()
        _, held_back = split_frames(40, held_back_fraction=0.25, seed=3)
        found = held_back_frames(trained_on(path, SPLIT), path)
        assert found.shape == (10, 4, 3)
        np.testing.assert_array_equal(found, frames[held_back])

    def test_all_frames_of_another_dataset(self, make_dataset, trained_on):
        path, _ = make_dataset()
        other, frames = make_dataset("other.npz", seed=1)
        np.testing.assert_array_equal(held_back_frames(trained_on(path, SPLIT), other), frames)

    def test_a_copy_under_another_name_is_the_same_dataset(self, make_dataset, trained_on):
        path, _ = make_dataset()
        model = trained_on(path, SPLIT)
        assert len(held_back_frames(model, path.rename(path.with_name("moved.npz")))) == 10

    def test_model_that_has_seen_all_frames(self, make_dataset, trained_on, caplog):
        path, frames = make_dataset()
        model = trained_on(path, {"config": {"seed": 3, "data": {"held_back_fraction": 0.0}}})
        np.testing.assert_array_equal(held_back_frames(model, path), frames)
        assert "trained.pt was trained on every frame" in caplog.text

    @pytest.mark.parametrize("training", [{}, {"config": {}}, {"config": {"seed": 1, "data": 3}}])
    def test_model_that_does_not_say_what_it_has_seen(self, make_dataset, trained_on, training):
        path, _ = make_dataset()
        with pytest.raises(ModelFileError, match="does not say which frames were held back"):
            held_back_frames(trained_on(path, training), path)


class TestOtherMolecules:
    def test_wrong_bead_count(self, make_dataset, make_toy):
        path, _ = make_dataset()
        model = ScoreModelFile(make_toy("three.pt", n_beads=3).path)
        with pytest.raises(DatasetError, match=r"4 beads in 3 dimensions and three\.pt has 3"):
            held_back_frames(model, path)

    def test_wrong_bead_names(self, make_dataset, toy):
        path, _ = make_dataset(names=("N", "CA", "C", "O"))
        with pytest.raises(DatasetError, match=r"are N CA C O, those of toy\.pt B0 B1 B2 B3"):
            held_back_frames(ScoreModelFile(toy.path), path)

    def test_dataset_in_a_plane(self, toy, chain, tmp_path):
        frames = chain(10, 4)[..., :2].astype(np.float32)
        save_dataset(CGDataset(frames, toy.metadata.topology, 300.0), tmp_path / "plane.npz")
        with pytest.raises(DatasetError, match="4 beads in 2 dimensions"):
            held_back_frames(ScoreModelFile(toy.path), tmp_path / "plane.npz")

    def test_model_in_a_plane(self, make_dataset, make_toy):
        path, _ = make_dataset()
        model = ScoreModelFile(make_toy("plane.pt", n_dims=2).path)
        with pytest.raises(DatasetError, match=r"plane\.pt has 4 in 2"):
            held_back_frames(model, path)

    def test_missing_dataset(self, toy, tmp_path):
        with pytest.raises(DatasetError, match=r"none\.npz does not exist"):
            held_back_frames(ScoreModelFile(toy.path), tmp_path / "none.npz")

    @pytest.mark.parametrize(("temperature", "warned"), [(300.0, False), (310.0, True)])
    def test_other_temperature(self, make_dataset, toy, caplog, temperature, warned):
        path, _ = make_dataset(temperature=temperature)
        assert len(held_back_frames(ScoreModelFile(toy.path), path)) == 40
        assert ("is of 310 K and toy.pt of 300 K" in caplog.text) == warned


class TestEvaluate:
    def test_numbers_pictures_and_record(self, make_dataset, trained_on, chain, tmp_path):
        path, frames = make_dataset()
        model = trained_on(path, SPLIT)
        iid, replicas = chain(30, 4, seed=7), chain(24, 4, seed=8).reshape(12, 2, 4, 3)
        found = evaluate(
            model, path, tmp_path / "out", iid=iid, replicas=replicas, seed=9, resampling=FAST
        )
        comparison = found.comparison
        unseen = frames[split_frames(40, held_back_fraction=0.25, seed=3)[1]]
        assert comparison == compare_with_reference(
            unseen,
            {"iid": iid, "simulation": replicas},
            model.bead_topology,
            floor_positions=frames,
            resampling=FAST,
        )
        names = {file.name for file in (tmp_path / "out").iterdir()}
        assert names == {"bonds.png", "metrics.json", "report.html", "run.json"}
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["arguments"]["reference_frames"] == 10
        assert record["seeds"] == {"frames": 9, "resampling": 5}
        assert record["inputs"]["model"] == {"name": "trained.pt", "sha256": model.sha256}
        assert record["inputs"]["reference"]["sha256"] == sha256_of_file(path)
        assert record["results"] == json.loads(json.dumps(comparison.to_dict()))

    def test_without_a_simulation(self, make_dataset, toy, chain, tmp_path):
        path, _ = make_dataset()
        found = evaluate(
            ScoreModelFile(toy.path),
            path,
            tmp_path / "out",
            iid=chain(30, 4),
            replicas=None,
            seed=0,
            resampling=FAST,
        )
        assert [result.name for result in found.comparison.sets] == ["iid"]

    def test_bad_frames_leave_nothing(self, make_dataset, toy, tmp_path):
        path, _ = make_dataset()
        with pytest.raises(InvalidInputError, match="NaN"):
            evaluate(
                ScoreModelFile(toy.path),
                path,
                tmp_path / "out",
                iid=np.full((30, 4, 3), np.nan),
                replicas=None,
                seed=0,
                resampling=FAST,
            )
        assert not (tmp_path / "out").exists()


def write_sidecar(run, *, breaks, frozen=None):
    record = {
        "replicas": 3,
        "files": [f"replica_{i:04d}.dcd" for i in range(3)],
        "frames": 10,
        "interval": 50,
        "jump_interval": 0,
        "frozen": frozen or {},
        "breaks": [{"replica": replica, "frame": frame} for replica, frame in breaks],
    }
    (run / "trajectories.json").write_text(json.dumps(record))


class TestRuns:
    @pytest.fixture
    def run(self, chain, tmp_path):
        """A folder as the engine leaves it: three replicas, of 10 to 12 frames."""
        for i, name in enumerate(("replica_0000", "replica_0001", "replica_0002")):
            save_frames(chain(10 + i, 4, seed=i), tmp_path / "run" / f"{name}.dcd")
        return tmp_path / "run"

    def test_restarts_and_time(self, run):
        write_sidecar(run, breaks=[(1, 4), (2, 7), (1, 11)])
        record = {"arguments": {"timestep": 0.002, "interval": 50}, "results": {}}
        (run / "run.json").write_text(json.dumps(record))
        found = read_run(run, n_beads=4)
        assert found.positions.shape == (3, 10, 4, 3)
        assert found.frame_interval == pytest.approx(0.1)
        assert found.segments == ((0, 0, 10), (1, 0, 4), (1, 4, 10), (2, 0, 7), (2, 7, 10))

    def test_time_of_a_run_that_is_not_at_its_end(self, run, caplog):
        write_sidecar(run, breaks=[])
        record = json.loads((run / "trajectories.json").read_text())
        (run / "trajectories.json").write_text(json.dumps({**record, "timestep_ps": 0.004}))
        assert read_run(run, n_beads=4).frame_interval == pytest.approx(0.2)
        assert caplog.text == ""

    def test_time_of_denoising_trajectories(self, run):
        record = {"arguments": {"interval": 50}, "results": {"frame_interval_ps": 0.3}}
        (run / "run.json").write_text(json.dumps(record))
        assert read_run(run, n_beads=4).frame_interval == 0.3

    @pytest.mark.parametrize("content", [None, "[]", "{", '{"arguments": {}, "results": {}}'])
    def test_time_that_nobody_knows(self, run, content, caplog):
        if content is not None:
            (run / "run.json").write_text(content)
        assert read_run(run, n_beads=4).frame_interval is None
        assert "time between frames is unknown" in caplog.text

    def test_frozen_replicas_are_left_out(self, run):
        write_sidecar(run, breaks=[(2, 3)], frozen={"1": 5})
        found = read_run(run, n_beads=4)
        assert found.positions.shape == (2, 10, 4, 3)
        assert found.segments == ((0, 0, 10), (1, 0, 3), (1, 3, 10))

    @pytest.mark.parametrize("content", ["{", "[3]", '{"replicas": 3, "frozen": {}}'])
    def test_damaged_record(self, run, content):
        (run / "trajectories.json").write_text(content)
        with pytest.raises(DatasetError, match="is damaged"):
            read_run(run, n_beads=4)

    def test_one_file(self, run):
        assert read_run(run / "replica_0001.dcd", n_beads=4).positions.shape == (1, 11, 4, 3)
        assert read_frames(run / "replica_0001.dcd", n_beads=4).shape == (11, 4, 3)


class TestExitCodes:
    @pytest.fixture
    def folder(self, make_dataset, toy, chain, tmp_path, monkeypatch):
        make_dataset()
        save_frames(chain(60, 4, seed=3), tmp_path / "good.dcd")
        save_frames(1.2 * chain(60, 4, seed=3), tmp_path / "bad.dcd")
        save_frames(chain(60, 4, seed=3), tmp_path / "runs/a.dcd")
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["--iid", "good.dcd"], 0),
            (["--iid", "good.dcd", "--require-consistent"], 0),
            (["--iid", "bad.dcd"], 0),
            (["--iid", "bad.dcd", "--require-consistent"], 3),
            (["--frames", "0", "--simulation", "runs"], 0),
            (["--frames", "0"], 2),
            (["--iid", "good.dcd", "--level", "2"], 2),
            (["--iid", "none.dcd"], 2),
        ],
    )
    def test_code(self, folder, capsys, arguments, code):
        assert main(["evaluate", "toy.pt", "reference.npz", "out", *arguments]) == code
        said = capsys.readouterr()
        if code == 3:
            assert "not consistent: iid and reference" in said.err
        if code != 2:
            assert "pictures and numbers: out" in said.out
            assert Path("out/report.html").stat().st_size > 10_000
            content = json.loads(Path("out/metrics.json").read_text())
            assert content["verdict"]["consistent"] == ("bad.dcd" not in arguments)
