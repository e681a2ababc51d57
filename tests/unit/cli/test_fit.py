"""``scoremd fit`` on a tiny trajectory: every step, stops in between, verdict and advice."""

import json
import re

import pytest

from openmm_scoremd.cli.advice import exit_error, what_next
from openmm_scoremd.cli.fit import _Fit
from openmm_scoremd.errors import InconsistentError, UndecidedError
from openmm_scoremd.training.log import LogRow, TrainingLog


def pair(verdict, second="iid", first="reference", found=()):
    named = [{"observable": o, "region": r} for o, r in found]
    return {"first": first, "second": second, "verdict": verdict, "discrepancies": named}


SETS = [
    {"name": "reference", "effective_frames": 30.0},
    {"name": "iid", "effective_frames": 1e4},
    {"name": "simulation", "effective_frames": 300.0},
]


def metrics(*pairs, sets=SETS):
    return {"pairs": list(pairs), "sample_sets": sets}


@pytest.fixture
def folder(tmp_path):
    """A fit whose training had a held-out loss that falls."""
    write_log(tmp_path, [1.0 / (1 + i) for i in range(40)])
    return tmp_path


def write_log(folder, losses):
    log = TrainingLog(folder / "train" / "log.csv", last_step=0)
    for i, loss in enumerate(losses, 1):
        log.append(LogRow(50 * i, 1.0, 1.0, 1e-3, 1.0, held_out_loss=loss))


class TestAdvice:
    def test_consistent(self, folder):
        (said,) = what_next(folder, metrics(pair("consistent")))
        assert said == f"scoremd simulate {folder}/export/model.pt FOLDER --time 10ns"
        assert exit_error(metrics(pair("consistent"))) is None

    def test_bad_frames_of_a_training_that_could_go_on(self, folder):
        wrong = metrics(pair("NOT consistent", found=[("C-N", "0.13 nm")]))
        (said,) = what_next(folder, wrong)
        assert said.startswith("train longer (C-N, 0.13 nm): ")
        assert "--resume --steps 6000" in said
        assert type(exit_error(wrong)) is InconsistentError

    def test_bad_frames_of_a_training_that_knows_its_frames_by_heart(self, tmp_path):
        write_log(tmp_path, [1.0 + abs(i - 15) / 40 for i in range(40)])
        (said,) = what_next(tmp_path, metrics(pair("NOT consistent", found=[("phi", "0 to 60")])))
        assert said.startswith("more frames of phi, 0 to 60: the held-out loss rises")

    def test_a_bad_simulation_of_good_frames(self, folder):
        wrong = metrics(pair("consistent"), pair("NOT consistent", "simulation"))
        (said,) = what_next(folder, wrong)
        assert said.startswith("refine: ")
        assert f"scoremd refine {folder}/train/weights.safetensors" in said

    @pytest.mark.parametrize(
        ("fewest", "how"), [("reference", "longer trajectories"), ("simulation", "--resume")]
    )
    def test_too_few_frames(self, folder, fewest, how):
        sets = [{**one, "effective_frames": 9.0} if one["name"] == fewest else one for one in SETS]
        sets = [{**one, "effective_frames": max(one["effective_frames"], 9.0)} for one in sets]
        unknown = metrics(pair("cannot tell"), sets=sets)
        (said,) = what_next(folder, unknown)
        assert how in said
        assert f"those of {fewest} are worth 9 independent ones" in said
        assert type(exit_error(unknown)) is UndecidedError


def test_time_is_divided_and_lines_are_complete(tmp_path):
    job = _Fit(tmp_path, ["coarse-grain", "x.dcd"], 20.0, None, 7)
    lines = job._making()
    assert lines["recipe"] == [
        *("init", "{beads}/beads.npz", "--minutes", "12", "--output", "{folder}/training.yaml")
    ]
    assert all(any("{folder}" in word for word in words) for words in lines.values())


@pytest.mark.slow
def test_from_a_trajectory_to_a_verdict(scoremd, here, trajectory_of_dipeptide, monkeypatch):
    trajectory, topology = trajectory_of_dipeptide
    monkeypatch.setattr("openmm_scoremd.cli.fit._INDEPENDENT", 50)
    monkeypatch.setattr("openmm_scoremd.cli.fit._MOST_STEPS", 500)
    words = ("fit", trajectory, "--topology", topology, "--temperature", 300, "--output", "all")
    words += ("--preset", "alanine-dipeptide", "--steps", 20)
    done = scoremd(*words)
    # A network of 20 steps and 50 frames: either it is wrong or there is nothing to tell.
    assert done.code in (3, 4), done.err
    assert "report: " in done.out
    assert re.search("^next: ", done.out, re.M)
    folders = {path.name for path in (here / "all").iterdir() if path.is_dir()}
    assert folders == {
        *("beads", "recipe", "train", "export", "plan", "frames", "simulation", "report")
    }
    assert all((here / "all" / name / "run.json").is_file() for name in folders)
    record = json.loads((here / "all/run.json").read_text())
    assert record["results"]["verdict"]["consistent"] is False
    # What was stopped goes on, what is finished stays.
    kept = (here / "all/train/weights.safetensors").stat().st_mtime_ns
    (here / "all/report.json").unlink()
    again = scoremd(*words)
    assert (again.code, again.out) == (done.code, done.out)
    assert (here / "all/train/weights.safetensors").stat().st_mtime_ns == kept
    assert "--- train" not in again.err
    assert "--- report" in again.err
