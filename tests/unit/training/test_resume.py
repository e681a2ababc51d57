"""Runs that are killed at any moment and go on to the same weights; runs that may not go on."""

import math
import os

import pytest
import torch

from openmm_scoremd.data.dataset import CGDataset, load_dataset, save_dataset
from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.training.checkpoint import load_checkpoint
from openmm_scoremd.training.config import FokkerPlanckConfig
from openmm_scoremd.training.log import read_log
from openmm_scoremd.training.trainer import Trainer

CHECKPOINT, WEIGHTS, LOG = "checkpoint.safetensors", "weights.safetensors", "log.csv"


@pytest.mark.parametrize("steps", [(0,), (1,), (3,), (4,), (24,), (2, 2, 7, 8, 23)])
def test_killed_and_resumed_gives_the_same(
    uninterrupted, planar, make_config, tmp_path, steps, run_until, assert_same_run
):
    config, folder = make_config(planar), tmp_path / "killed"
    for step in steps:
        run_until(config, folder, step)
    Trainer(config, folder).resume()
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("estimator", ["weak", "centred"])
def test_regularised_runs_go_on_to_the_same(
    planar, make_config, tmp_path, estimator, run_until, assert_same_run
):
    regulariser = FokkerPlanckConfig(alpha=1e-3, estimator=estimator, fraction=0.5, group_size=4)
    config = make_config(planar, **{"network.noise_floor": 0.05}, fokker_planck=regulariser)
    Trainer(config, tmp_path / "straight").start()
    for step in (5, 17):
        run_until(config, tmp_path / "killed", step)
    Trainer(config, tmp_path / "killed").resume()
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_checkpoints_as_often_as_asked(
    planar, make_config, tmp_path, checkpoint_seconds, run_until
):
    config = make_config(planar, checkpoint_seconds=checkpoint_seconds)
    run_until(config, tmp_path / "run", 20)
    step = load_checkpoint(tmp_path / "run" / CHECKPOINT).step
    assert step == (18 if checkpoint_seconds == 0.0 else 0)


@pytest.mark.parametrize("victim", [CHECKPOINT, WEIGHTS, "run.json"])
def test_killed_while_writing_the_last_files(
    uninterrupted,
    planar,
    make_config,
    tmp_path,
    monkeypatch,
    victim,
    run_until,
    assert_same_run,
    killed,
):
    config, folder = make_config(planar), tmp_path / "killed"
    run_until(config, folder, 24)
    replace = os.replace

    def die(source, target):
        if str(target).endswith(victim):
            raise killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(killed):
            Trainer(config, folder).resume()
    (folder / "run.json").unlink(missing_ok=True)
    Trainer(config, folder).resume()
    assert_same_run(folder, uninterrupted)


def test_a_torn_log_is_mended(
    uninterrupted, planar, make_config, tmp_path, run_until, assert_same_run
):
    config, folder = make_config(planar), tmp_path / "killed"
    run_until(config, folder, 14)
    with open(folder / LOG, "a") as file:
        file.write("15,2.")
    Trainer(config, folder).resume()
    assert_same_run(folder, uninterrupted)


def test_a_lost_log_does_not_stop_a_run(planar, make_config, tmp_path, run_until):
    config, folder = make_config(planar), tmp_path / "run"
    run_until(config, folder, 24)
    (folder / LOG).unlink()
    Trainer(config, folder).resume()
    assert [row.step for row in read_log(folder / LOG)] == [25]


def test_a_finished_run_is_left_as_it_is(finished, planar, make_config):
    _, folder = finished
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    assert Trainer(make_config(planar, title="Two modes"), folder).resume() == folder / WEIGHTS
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()} == before


def test_interrupted_by_the_user(
    uninterrupted, planar, make_config, tmp_path, monkeypatch, assert_same_run
):
    config, folder = make_config(planar), tmp_path / "run"
    trainer = Trainer(config, folder)
    train_step = trainer._train_step

    def interrupt(step):
        if step == 10:
            raise KeyboardInterrupt
        return train_step(step)

    monkeypatch.setattr(trainer, "_train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.start()
    assert load_checkpoint(folder / CHECKPOINT).step == 9
    Trainer(config, folder).resume()
    assert_same_run(folder, uninterrupted)


def test_a_run_is_not_started_twice(finished, planar, make_config):
    _, folder = finished
    for kept in (CHECKPOINT, WEIGHTS):
        others = [p for p in (folder / CHECKPOINT, folder / WEIGHTS) if p.name != kept]
        hidden = [p.rename(p.with_suffix(".hidden")) for p in others]
        with pytest.raises(CheckpointError, match="holds a training run already"):
            Trainer(make_config(planar), folder).start()
        for p in hidden:
            p.rename(p.with_suffix(".safetensors"))


def test_nothing_to_resume(planar, make_config, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        Trainer(make_config(planar), tmp_path / "absent").resume()
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4, "batch_size": 8}, ["batch_size", "seed"]),
        ({"optimizer.learning_rate": 2e-2}, ["optimizer.learning_rate"]),
        ({"network.hidden_dims": (8, 9)}, ["network.hidden_dims"]),
        ({"schedule.beta_max": 15.0}, ["schedule.beta_max"]),
        ({"fokker_planck.alpha": 1e-3}, ["fokker_planck.alpha"]),
    ],
)
def test_another_configuration_is_refused_by_name(finished, planar, make_config, changes, named):
    _, folder = finished
    with pytest.raises(CheckpointError, match="another configuration") as caught:
        Trainer(make_config(planar, **changes), folder).resume()
    assert f"different: {', '.join(named)}. Use" in str(caught.value)


def test_what_does_not_matter_may_change(
    uninterrupted, planar, make_config, tmp_path, run_until, assert_same_run
):
    folder = tmp_path / "run"
    run_until(make_config(planar), folder, 10)
    copy = tmp_path / "elsewhere" / "planar.npz"
    copy.parent.mkdir()
    copy.write_bytes(planar.read_bytes())
    Trainer(make_config(copy, title="new", checkpoint_seconds=9.0), folder).resume()
    assert_same_run(folder, uninterrupted)


def test_another_dataset_is_refused(finished, planar, make_config):
    _, folder = finished
    dataset = load_dataset(planar)
    save_dataset(CGDataset(dataset.positions[::-1].copy(), dataset.topology, 300.0), planar)
    with pytest.raises(CheckpointError, match="another dataset"):
        Trainer(make_config(planar), folder).resume()


def test_a_damaged_checkpoint_is_refused(finished, planar, make_config):
    _, folder = finished
    content = (folder / CHECKPOINT).read_bytes()
    (folder / CHECKPOINT).write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        Trainer(make_config(planar), folder).resume()


def test_a_run_is_made_longer(finished, planar, make_config, read_run):
    _, folder = finished
    before, _ = read_run(folder)
    longer = make_config(planar, title="Two modes", epochs=7)
    Trainer(longer, folder).resume()
    rows = read_log(folder / LOG)
    assert [row.step for row in rows] == [3, 6, 9, 12, 15, 18, 21, 24, 25, 28, 31, 34, 35]
    # On the cosine of the longer run.
    assert rows[9].learning_rate == pytest.approx(
        1e-5 + 0.5 * (1e-2 - 1e-5) * (1.0 + math.cos(math.pi * 27 / 35)), rel=1e-4
    )
    after, _ = read_run(folder)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert load_checkpoint(folder / CHECKPOINT).config["epochs"] == 7


def test_a_run_is_not_made_shorter_than_it_is(finished, planar, make_config):
    _, folder = finished
    with pytest.raises(CheckpointError, match="25 steps behind it and the run is to have 24;"):
        Trainer(make_config(planar, epochs=None, steps=24), folder).resume()


def test_the_other_weights_of_a_finished_run(finished, planar, make_config, read_run):
    trainer, folder = finished
    last, log = read_run(folder)
    Trainer(make_config(planar, weights="best"), folder).resume()
    best, same_log = read_run(folder)
    assert same_log == log
    for name, value in best.items():
        assert torch.equal(value, trainer.held_out.best[name])
    lowest = min(row.held_out_loss for row in read_log(folder / LOG))
    assert trainer.held_out.lowest == pytest.approx(lowest, rel=1e-5)
    Trainer(make_config(planar), folder).resume()
    again, _ = read_run(folder)
    assert all(torch.equal(again[name], last[name]) for name in last)
