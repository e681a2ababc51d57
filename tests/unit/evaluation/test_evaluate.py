"""Evaluation of a model: what is written, what is said, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.summary import summarise
from openmm_scoremd.analysis.report import plots
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.cli.main import main
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.errors import InvalidInputError, ModelFileError, UndecidedError
from openmm_scoremd.evaluation.evaluate import evaluate
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import save_weights
from openmm_scoremd.trajectories.reading import save_frames

FAST = Resampling(n_resamples=4, n_repeats=2, seed=5)
SPLIT = {"config": {"seed": 3, "data": {"held_back_fraction": 0.25}}}


@pytest.fixture
def without_pictures(monkeypatch):
    """Pictures are the business of the report's tests, and slow."""
    monkeypatch.setattr(plots, "svg", lambda _figure: "<svg/>")


@pytest.mark.usefixtures("without_pictures")
class TestEvaluate:
    def test_numbers_pictures_and_record(self, make_dataset, trained_on, chain, tmp_path):
        path, frames = make_dataset()
        model = trained_on(path, SPLIT)
        iid, replicas = chain(30, 4, seed=7), chain(24, 4, seed=8).reshape(12, 2, 4, 3)
        found = evaluate(
            model, path, tmp_path / "out", iid=iid, replicas=replicas, seed=9, resampling=FAST
        )
        unseen = frames[
            np.sort(split_frames(40, held_back_fraction=0.25, seed=3, split="frames")[1])
        ]
        sets = {"reference": unseen, "iid": iid, "simulation": replicas}
        sets = {name: SampleSet(positions) for name, positions in sets.items()}
        expected = summarise(
            sets, model.bead_topology, pool=frames, energy=model.potential_energy, resampling=FAST
        )
        assert found.summary.pairs == expected.pairs
        assert found.consistent == expected.consistent
        page = (tmp_path / "out" / "report.html").read_text()
        assert "reference.npz, 10 frames that training did not see" in page
        names = {file.name for file in (tmp_path / "out").iterdir()}
        assert names == {"bonds.png", "metrics.json", "report.html", "run.json"}
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["arguments"]["reference_frames"] == 10
        assert record["seeds"] == {"frames": 9, "resampling": 5}
        assert record["inputs"]["model"] == {"name": "trained.pt", "sha256": model.sha256}
        assert record["inputs"]["reference"]["sha256"] == sha256_of_file(path)
        numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert record["results"].items() <= numbers.items()
        assert record["results"].keys() == {"verdict", "n_reference", "n_pool", "sets"}

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
        assert [(pair.first, pair.second) for pair in found.summary.pairs] == [("reference", "iid")]

    def test_simulation_that_restarts_all_the_time_is_refused(
        self, make_dataset, toy, chain, tmp_path
    ):
        path, _ = make_dataset()
        replicas = SampleSet(chain(24, 4).reshape(12, 2, 4, 3), restarts_per_frame=1.0)
        found = evaluate(
            ScoreModelFile(toy.path), path, tmp_path / "out", iid=None, replicas=replicas, seed=0,
            resampling=FAST,
        )  # fmt: skip
        (pair,) = found.summary.pairs
        assert pair.p_value > pair.alpha
        assert pair.verdict == "cannot tell"
        assert not found.consistent
        message = "simulation and reference: cannot tell .* started again 1 times for each frame"
        with pytest.raises(UndecidedError, match=message):
            found.require_consistent()
        assert "restarts per frame" in (tmp_path / "out" / "report.html").read_text()

    def test_weights_of_other_beads(self, make_dataset, make_trained, toy, chain, tmp_path):
        path, _ = make_dataset()
        weights = tmp_path / "weights.safetensors"
        save_weights(make_trained("graph"), weights)
        with pytest.raises(ModelFileError, match="there are 4 beads and not 5; give weights"):
            evaluate(
                ScoreModelFile(toy.path), path, tmp_path / "out", iid=chain(30, 4), replicas=None,
                weights=weights, seed=0, resampling=FAST,
            )  # fmt: skip
        assert not (tmp_path / "out").exists()

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


@pytest.mark.usefixtures("without_pictures")
class TestExitCodes:
    @pytest.fixture
    def folder(self, make_dataset, toy, chain, tmp_path, monkeypatch):
        make_dataset(frames=chain(400, 4).astype(np.float32))
        save_frames(chain(300, 4, seed=3), tmp_path / "good.dcd")
        save_frames(chain(9, 4, seed=3), tmp_path / "few.dcd")
        for replica in range(4):
            save_frames(chain(4, 4, seed=replica), tmp_path / f"short/replica_000{replica}.dcd")
        save_frames(1.2 * chain(60, 4, seed=3), tmp_path / "bad.dcd")
        save_frames(chain(300, 4, seed=3), tmp_path / "runs/a.dcd")
        save_frames(chain(60, 4, seed=3), tmp_path / "md/replica_0000.dcd")
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["--iid", "good.dcd"], 0),
            (["--iid", "good.dcd", "--require-consistent"], 0),
            (["--iid", "few.dcd"], 0),
            (["--iid", "few.dcd", "--require-consistent"], 4),
            (["--frames", "0", "--simulation", "short", "--require-consistent"], 4),
            (["--iid", "good.dcd", "--require-consistent", "--visible-from", "0.01"], 4),
            (["--iid", "good.dcd", "--visible-from", "1.5"], 2),
            (["--iid", "bad.dcd"], 0),
            (["--iid", "bad.dcd", "--require-consistent"], 3),
            (["--frames", "0", "--simulation", "runs"], 0),
            (["--frames", "0"], 2),
            (["--iid", "good.dcd", "--alpha", "2"], 2),
            (["--iid", "none.dcd"], 2),
            (["--iid", "md"], 2),
        ],
    )
    def test_code(self, folder, capsys, arguments, code):
        assert main(["evaluate", "toy.pt", "reference.npz", "out", *arguments]) == code
        said = capsys.readouterr()
        if code == 3:
            assert "iid and reference: NOT consistent" in said.err
        if code == 4:
            assert "and reference: cannot tell (only differences above" in said.err
        if code != 2:
            assert "pictures and numbers: out" in said.out
            assert Path("out/report.html").stat().st_size > 10_000
            content = json.loads(Path("out/metrics.json").read_text())
            agrees = "good.dcd" in arguments and code == 0
            assert content["verdict"]["consistent"] == agrees
