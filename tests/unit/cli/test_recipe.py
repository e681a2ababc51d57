"""``scoremd init``, and trainings without a configuration."""

import pytest

from openmm_scoremd.cli.main import main
from openmm_scoremd.data.dataset import save_dataset
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.training import recipe
from openmm_scoremd.training.config_file import load_training_config
from openmm_scoremd.training.log import read_log

EAGER = ("--hardware.backend", "eager")


@pytest.fixture
def points(here):
    save_dataset(sample_mueller_brown(64, seed=0), here / "points.npz")
    return here


@pytest.fixture
def timed(monkeypatch):
    """Let every step take ten seconds, and return what was timed."""
    configs = []
    monkeypatch.setattr(recipe, "seconds_per_step", lambda c: configs.append(c) or 10.0)
    return configs


def test_init_prints_or_writes_a_configuration(scoremd, points, timed):
    printed = scoremd("init", "points.npz", "--minutes", 1)
    assert printed.code == 0, printed.err
    done = scoremd("init", "points.npz", "--minutes", 1, "--output", "mine.yaml")
    assert done.code == 0, done.err
    assert (points / "mine.yaml").read_text() == printed.out
    config = load_training_config("mine.yaml")
    assert (config.steps, config.network.family) == (6, "mlp")
    assert done.out.endswith(
        "mine.yaml: 6 steps of 32 frames\nnext: scoremd train --config mine.yaml --output FOLDER\n"
    )
    assert len(timed) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "mine.txt"), "its name must end in .yaml"),
        (("--output", "old.yaml"), "exists already"),
        (("--minutes", "-1"), "minutes is -1.0; it must be a positive number"),
    ],
)
def test_init_refuses(scoremd, points, timed, options, message):
    (points / "old.yaml").write_text("mine")
    done = scoremd("init", "points.npz", *options)
    assert (done.code, timed) == (2, [])
    assert message in done.err
    assert (points / "old.yaml").read_text() == "mine"


@pytest.mark.usefixtures("points")
def test_training_without_a_configuration_uses_the_same(scoremd, timed):
    scoremd("init", "points.npz", "--minutes", 1, "--output", "mine.yaml")
    done = scoremd("train", "points.npz", "--output", "run", "--minutes", 1, *EAGER)
    assert done.code == 0, done.err
    assert "trained for 6 steps" in done.out
    assert "FEW FRAMES" in done.err
    found, expected = load_training_config("run/training.yaml"), load_training_config("mine.yaml")
    assert (found.network, found.loss, found.optimizer, found.batch_size, found.title) == (
        *(expected.network, expected.loss, expected.optimizer, expected.batch_size),
        expected.title,
    )
    # What was given wins.
    options = ("--data.path", "points.npz", "--network.hidden_dims=[3]", "--epochs", 2, *EAGER)
    done = scoremd("train", *options, "--output", "small")
    assert done.code == 0, done.err
    network = load_weights("small/weights.safetensors").description.network
    assert network == MLPConfig(hidden_dims=(3,), noise_floor=0.03)
    assert len(read_log("small/log.csv")) == 1
    assert len(timed) == 2


@pytest.mark.usefixtures("points")
def test_a_run_goes_on_with_its_own_configuration(scoremd, timed):
    assert scoremd("train", "points.npz", "--output", "run", "--steps", 3, *EAGER).code == 0
    done = scoremd("train", "--output", "run", "--resume", "--steps", 8)
    assert done.code == 0, done.err
    assert [row.step for row in read_log("run/log.csv")] == [3, 8]
    assert load_training_config("run/training.yaml").steps == 8
    assert timed == []


def test_print_config_shows_what_will_be_used(points, timed, capsys):
    with pytest.raises(SystemExit):
        main(["train", "points.npz", "--minutes", "1", "--seed", "5", "--print_config"])
    shown = capsys.readouterr().out
    assert "steps: 6" in shown
    assert "seed: 5" in shown
    assert "family: mlp" in shown
    assert timed
    assert sorted(path.name for path in points.iterdir()) == ["points.npz"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "run"), "give a dataset, as in scoremd train BEADS.npz --output FOLDER"),
        (("points.npz",), "give --output FOLDER"),
        (("points.dcd", "--output", "run"), "points.dcd is no dataset: its name must end in .npz"),
        (("--resume", "--output", "run"), "training.yaml does not exist, so there is nothing to"),
        (("points.npz", "--output", "run", "--minutes", "soon"), "--minutes is soon"),
    ],
)
def test_what_is_missing_is_said_before_any_work(scoremd, points, timed, words, message):
    done = scoremd("train", *words)
    assert (done.code, timed) == (2, [])
    assert message in done.err
    assert not (points / "run").exists()
