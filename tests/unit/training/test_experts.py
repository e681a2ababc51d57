"""Mixtures: experts trained one by one, stopped, resumed, built on each other, and combined."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import CGDataset, load_dataset, save_dataset
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import CheckpointError, ConfigurationError, ModelFileError
from openmm_scoremd.models.mixture import TimePartitionedMixture
from openmm_scoremd.models.mlp import MLPConfig, MLPEnergy, MLPScore
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.training.checkpoint import load_checkpoint
from openmm_scoremd.training.config import (
    DataConfig,
    ExpertConfig,
    FokkerPlanckConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    config_record,
)
from openmm_scoremd.training.experts import combine_experts, train_expert, train_mixture
from openmm_scoremd.training.trainer import Trainer

WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.safetensors"
INTERVALS = [(0.6, 1.0), (0.1, 0.6), (1e-5, 0.1)]


def experts():
    """Three networks for points in the plane: two small and quick, the last regularised."""
    small = MLPConfig(hidden_dims=(6,))
    return (
        ExpertConfig(
            "high",
            0.6,
            1.0,
            network=dataclasses.replace(small, output="direct", t_min=0.6),
            loss=LossConfig(0.6, 1.0, weight_start=0.6, weight_midpoint=0.8),
            epochs=2,
        ),
        ExpertConfig(
            "mid",
            0.1,
            0.6,
            network=small,
            loss=LossConfig(0.099, 0.6, weight_start=0.1, weight_end=0.6, weight_midpoint=0.35),
            optimizer=OptimizerConfig(learning_rate=3e-3),
            epochs=1,
        ),
        ExpertConfig(
            "low",
            1e-5,
            0.1,
            network=small,
            loss=LossConfig(1e-5, 0.1, weight_end=0.1, weight_midpoint=0.05),
            fokker_planck=FokkerPlanckConfig(alpha=1e-3, fraction=0.5),
            epochs=2,
            start_from="mid",
        ),
    )


@pytest.fixture
def config(planar):
    """A mixture of three: 10, 5 and 10 steps."""
    return config_of(planar)


def config_of(dataset):
    return TrainingConfig(
        data=DataConfig(str(dataset), augmentation="none"),
        title="Two modes",
        optimizer=OptimizerConfig(learning_rate=1e-2, ema_decay=0.9),
        hardware=HardwareConfig(accelerator="cpu", backend="eager"),
        batch_size=16,
        seed=3,
        checkpoint_seconds=0.0,
        log_steps=3,
        experts=experts(),
    )


@pytest.fixture(scope="module")
def trained_once(planar_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture") / "mixture"
    assert train_mixture(config_of(planar_once), folder) == folder / WEIGHTS
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """Folder of a mixture that was trained in one go."""
    return Path(shutil.copytree(trained_once, tmp_path / "mixture"))


def assert_same_weights(folder, other, names=("high", "mid", "low", ".")):
    for name in names:
        found, expected = (safetensors.torch.load_file(f / name / WEIGHTS) for f in (folder, other))
        assert found.keys() == expected.keys()
        for key in found:
            assert torch.equal(found[key], expected[key]), (name, key)


def change(config, name, **entries):
    """Replace entries of one expert."""
    return dataclasses.replace(
        config,
        experts=tuple(
            dataclasses.replace(expert, **entries) if expert.name == name else expert
            for expert in config.experts
        ),
    )


# --- All in a row ----------------------------------------------------------------------------


def test_files(trained):
    assert sorted(p.name for p in trained.iterdir()) == ["high", "low", "mid", "run.json", WEIGHTS]
    for name, steps in (("high", 10), ("mid", 5), ("low", 10)):
        assert load_checkpoint(trained / name / CHECKPOINT).step == steps
        assert (trained / name / "log.csv").exists()


def test_the_mixture_holds_the_networks_of_its_experts(trained):
    mixture = load_weights(trained / WEIGHTS).model
    assert isinstance(mixture, TimePartitionedMixture)
    assert mixture.boundaries == (0.1, 0.6)
    assert (mixture.t_min, mixture.t_max) == (1e-5, 1.0)
    assert [type(network) for network in mixture.networks] == [MLPEnergy, MLPEnergy, MLPScore]
    x = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0))
    for name, t in (("low", 0.05), ("low", 0.1), ("mid", 0.2), ("high", 0.61), ("high", 1.0)):
        expert = load_weights(trained / name / WEIGHTS).model
        times = torch.full((2,), t)
        assert torch.equal(mixture.score(x, times), expert.score(x, times))


def test_description(trained, config, planar):
    about = load_weights(trained / WEIGHTS).description
    assert about.title == "Two modes"
    assert about.t_min == 1e-5
    assert about.network == config.experts[2].network
    assert about.dataset_sha256 == sha256_of_file(planar)
    assert [(e.t_min, e.t_max) for e in about.experts] == INTERVALS[::-1]
    assert [e.network for e in about.experts] == [e.network for e in config.experts[::-1]]
    # What was trained how, by increasing diffusion time.
    names = ["low", "mid", "high"]
    records = about.training["experts"]
    assert [r["config"]["title"] for r in records] == [f"Two modes ({name})" for name in names]
    assert [r["results"]["steps"] for r in records] == [10, 5, 10]
    assert about.training["results"]["steps"] == 25
    assert about.training["results"]["frames_seen"] == 25 * 16
    hashes = [sha256_of_file(trained / name / WEIGHTS) for name in names]
    assert [r["sha256"] for r in records] == hashes


def test_record_of_the_run(trained, config):
    record = json.loads((trained / "run.json").read_text())
    assert record["arguments"] == config_record(config)
    assert record["seeds"] == {"training": 3}
    assert record["results"]["steps"] == 25
    of_low = json.loads((trained / "low" / "run.json").read_text())
    assert of_low["inputs"]["start_from"]["sha256"] == sha256_of_file(trained / "mid" / WEIGHTS)


def test_every_expert_has_its_own_settings(config, trained):
    about = {
        name: load_weights(trained / name / WEIGHTS).description.training["config"]
        for name in ("high", "mid", "low")
    }
    assert [about[name]["optimizer"]["learning_rate"] for name in about] == [1e-2, 3e-3, 1e-2]
    assert [about[name]["loss"]["t_max"] for name in about] == [1.0, 0.6, 0.1]
    assert [about[name]["fokker_planck"]["alpha"] for name in about] == [0.0, 0.0, 1e-3]
    assert [about[name]["epochs"] for name in about] == [2, 1, 2]
    times = {
        expert.name: Trainer(single_run(config, expert), trained / "unused").stream.batch(0).t
        for expert in config.experts[:2]
    }
    assert float(times["high"].min()) >= 0.6
    assert 0.099 <= float(times["mid"].min()) < float(times["mid"].max()) <= 0.6


def single_run(config, expert):
    return dataclasses.replace(
        config, experts=(), network=expert.network, loss=expert.loss, epochs=expert.epochs
    )


def test_progress_is_asked_for_each_expert(config, tmp_path):
    asked, rows = [], []

    def progress_of(expert, trainer):
        asked.append((expert.name, trainer.n_steps))
        return lambda row, n: rows.append((expert.name, row.step, n))

    train_mixture(config, tmp_path / "mixture", progress_of=progress_of)
    assert asked == [("high", 10), ("mid", 5), ("low", 10)]
    assert rows[:4] == [("high", step, 10) for step in (3, 6, 9, 10)]
    assert rows[4:6] == [("mid", step, 5) for step in (3, 5)]


# --- One by one ------------------------------------------------------------------------------


def test_one_by_one_is_the_same_as_in_a_row(config, trained, tmp_path):
    folder = tmp_path / "by hand"
    for name in ("mid", "low", "high"):  # the order matters only to those that start from others
        assert train_expert(config, name, folder) == folder / name / WEIGHTS
    assert not (folder / WEIGHTS).exists()
    files = [folder / expert.name / WEIGHTS for expert in config.experts]
    combine_experts(files, INTERVALS, folder / WEIGHTS, title="Two modes")
    assert_same_weights(folder, trained)
    found, expected = (load_weights(f / WEIGHTS).description for f in (folder, trained))
    assert found.experts == expected.experts


def test_an_expert_is_what_a_run_of_its_own_gives(config, trained, tmp_path):
    expert = config.experts[0]
    Trainer(single_run(config, expert), tmp_path / "alone").start()
    assert_same_weights(tmp_path / "alone", trained / "high", names=["."])


def test_an_expert_starts_from_the_weights_of_another(config, trained, tmp_path):
    start = load_weights(trained / "mid" / WEIGHTS).model.state_dict()
    seen = []

    def progress_of(_expert, trainer):
        seen.append({name: value.clone() for name, value in trainer.model.state_dict().items()})

    folder = tmp_path / "again"
    train_expert(config, "mid", folder)
    train_expert(config, "low", folder, progress_of=progress_of)
    assert seen[0].keys() == start.keys()
    for name, value in start.items():
        assert torch.equal(seen[0][name], value)
    # And that makes a difference.
    train_expert(change(config, "low", start_from=None), "low", tmp_path / "fresh")
    found, other = (
        safetensors.torch.load_file(f / "low" / WEIGHTS) for f in (folder, tmp_path / "fresh")
    )
    assert any(not torch.equal(found[name], other[name]) for name in found)


def test_starting_from_an_expert_that_is_not_trained(config, tmp_path):
    with pytest.raises(ConfigurationError, match=r"low starts from mid, .*train that one first"):
        train_expert(config, "low", tmp_path / "mixture")
    assert not (tmp_path / "mixture").exists()


def test_starting_from_an_expert_of_another_shape(config, tmp_path):
    other = change(config, "mid", network=MLPConfig(hidden_dims=(5,)))
    train_expert(other, "mid", tmp_path / "mixture")
    with pytest.raises(ModelFileError, match="holds a network of another shape"):
        train_expert(other, "low", tmp_path / "mixture")


def test_unknown_expert(config, tmp_path):
    with pytest.raises(ConfigurationError, match="no expert 'hihg'; there are: high, mid, low"):
        train_expert(config, "hihg", tmp_path)
    with pytest.raises(ConfigurationError, match="there are: none"):
        train_expert(dataclasses.replace(config, experts=()), "high", tmp_path)


def test_a_mixture_of_nothing(config, tmp_path):
    with pytest.raises(ConfigurationError, match="at least one expert"):
        train_mixture(dataclasses.replace(config, experts=()), tmp_path / "mixture")


# --- Stopped and resumed ---------------------------------------------------------------------


@pytest.fixture
def stop_in(config, monkeypatch, killed):
    """Return a function that trains in a folder until a step of an expert."""

    def stop(folder, name, step):
        train_step = Trainer._train_step

        def die(trainer, number):
            if trainer.folder.name == name and number == step:
                raise killed
            return train_step(trainer, number)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_train_step", die)
            with pytest.raises(killed):
                train_mixture(config, folder)
        assert not (folder / WEIGHTS).exists()

    return stop


@pytest.mark.parametrize(
    "stops", [[("high", 0)], [("high", 7)], [("mid", 4), ("low", 2)], [("low", 0), ("low", 9)]]
)
def test_stopped_and_resumed_gives_the_same(config, trained, tmp_path, stop_in, stops):
    folder = tmp_path / "stopped"
    for name, step in stops:
        stop_in(folder, name, step)
    assert train_mixture(config, folder) == folder / WEIGHTS
    assert_same_weights(folder, trained)


def test_finished_experts_are_left_as_they_are(config, trained):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*/*") if p.is_file()}
    content = safetensors.torch.load_file(trained / WEIGHTS)
    train_mixture(config, trained)
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*/*") if p.is_file()} == before
    again = safetensors.torch.load_file(trained / WEIGHTS)
    assert all(torch.equal(again[name], content[name]) for name in content)


@pytest.mark.parametrize(
    ("name", "entries", "named"),
    [
        ("mid", {"optimizer": None}, "optimizer.ema_decay, optimizer.learning_rate"),
        ("low", {"fokker_planck": FokkerPlanckConfig(alpha=2e-3)}, "fokker_planck.alpha"),
        ("high", {"network": MLPConfig(hidden_dims=(7,), t_min=0.6)}, "network.output"),
    ],
)
def test_another_configuration_is_refused(config, trained, name, entries, named):
    weights = (trained / WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match=rf"{name}.*another configuration.*{named}"):
        train_mixture(change(config, name, **entries), trained)
    assert (trained / WEIGHTS).read_bytes() == weights


def test_another_seed_or_dataset_is_refused(config, trained, planar):
    with pytest.raises(CheckpointError, match="different: seed"):
        train_expert(dataclasses.replace(config, seed=4), "mid", trained)
    dataset = load_dataset(planar)
    save_dataset(CGDataset(dataset.positions[::-1].copy(), dataset.topology, 300.0), planar)
    with pytest.raises(CheckpointError, match="another dataset"):
        train_expert(config, "mid", trained)


def test_another_interval_needs_no_new_training(config, trained):
    # Only what each serves has changed, and all of it was trained.
    high, mid, low = config.experts
    moved = (
        high,
        dataclasses.replace(mid, t_min=0.0995),
        dataclasses.replace(low, t_max=0.0995),
    )
    before = (trained / "low" / WEIGHTS).stat().st_mtime_ns
    train_mixture(dataclasses.replace(config, experts=moved), trained)
    assert load_weights(trained / WEIGHTS).model.boundaries == (0.0995, 0.6)
    assert (trained / "low" / WEIGHTS).stat().st_mtime_ns == before


# --- Combining -------------------------------------------------------------------------------


def refuse(files, intervals, path, match):
    with pytest.raises(ConfigurationError, match=match):
        combine_experts(files, intervals, path, title="mixture")
    assert not path.exists()


@pytest.fixture
def files(trained):
    return [trained / name / WEIGHTS for name in ("high", "mid", "low")]


def test_the_order_does_not_matter(files, trained, tmp_path):
    order = [1, 2, 0]
    combine_experts(
        [files[i] for i in order],
        [INTERVALS[i] for i in order],
        tmp_path / "new" / WEIGHTS,
        title="Two modes",
    )
    assert (tmp_path / "new" / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()


def test_stages_count_and_have_no_part(files, trained, tmp_path):
    # "low" starts from "mid"; as if that served nothing.
    intervals = [(0.6, 1.0), (0.3, 0.3), (1e-5, 0.1)]
    refuse(files, intervals, tmp_path / "x.safetensors", "leave a gap")
    intervals = [(1e-5, 1e-5), (0.1, 0.6), (1.0, 1.0)]
    combine_experts(files, intervals, tmp_path / "new" / WEIGHTS, title="Middle")
    found = load_weights(tmp_path / "new" / WEIGHTS)
    assert [(e.t_min, e.t_max) for e in found.description.experts] == [(0.1, 0.6)]
    assert len(found.description.training["experts"]) == 1
    results = load_weights(trained / WEIGHTS).description.training["results"]
    assert found.description.training["results"] == results
    refuse(files, [(0.5, 0.5)] * 3, tmp_path / "x.safetensors", "at least one expert")


@pytest.fixture
def make_other(config, tmp_path):
    """Return a function that trains the middle expert of another configuration."""

    def make(**entries):
        folder = tmp_path / "other"
        return train_expert(dataclasses.replace(config, **entries), "mid", folder)

    return make


@pytest.mark.parametrize("what", ["seed", "scale", "split", "schedule", "dataset"])
def test_experts_of_different_runs(files, config, make_other, make_mixture, tmp_path, what):
    changes = {
        "seed": {"seed": 4},  # decides which frames are held back
        "scale": {"data": dataclasses.replace(config.data, scale=0.7)},
        "split": {"data": dataclasses.replace(config.data, held_out_fraction=0.1)},
        "schedule": {"schedule": VPSchedule(0.1, 15.0)},
        "dataset": {},
    }
    if what == "dataset":
        make_mixture(101)
    other = make_other(**changes[what])
    match = f"{other} was trained with another dataset, scale, split or schedule than {files[0]}"
    refuse([files[0], other, files[2]], INTERVALS, tmp_path / "x.safetensors", match)


@pytest.mark.parametrize(
    ("intervals", "match"),
    [
        ([(0.5, 1.0), (0.1, 0.5), (1e-5, 0.1)], r"high.* times 0\.6 to 1\.0; .* serve 0\.5 to 1"),
        ([(0.7, 1.0), (0.1, 0.7), (1e-5, 0.1)], r"mid.* times 0\.099 to 0\.6; .* 0\.1 to 0\.7"),
        ([(0.6, 1.0), (0.1, 0.6), (1e-6, 0.1)], r"low.* times 1e-05 to 0\.1; .* 1e-06 to 0\.1"),
        ([(1.0, 0.6), (0.1, 0.6), (1e-5, 0.1)], r"cannot serve 1\.0 to 0\.6"),
    ],
)
def test_times_that_were_not_trained(files, tmp_path, intervals, match):
    refuse(files, intervals, tmp_path / "x.safetensors", match)


@pytest.mark.parametrize(
    ("intervals", "match"),
    [
        ([(0.6, 1.0), (0.2, 0.6), (1e-5, 0.1)], "leave a gap"),
        ([(0.6, 1.0), (0.099, 0.6), (1e-5, 0.1)], "overlap"),
        ([(0.6, 1.0), (0.1, 0.6)], "3 experts and 2 intervals"),
    ],
)
def test_intervals_that_are_no_partition(files, tmp_path, intervals, match):
    refuse(files, intervals, tmp_path / "x.safetensors", match)


def test_nothing_to_combine(tmp_path):
    refuse([], [], tmp_path / "x.safetensors", "at least one expert")


def test_mixtures_are_not_combined_again(files, trained, tmp_path):
    again = [trained / WEIGHTS, *files[1:]]
    refuse(again, INTERVALS, tmp_path / "x.safetensors", f"{trained / WEIGHTS} holds a mixture")


def test_missing_weights(files, tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.safetensors"):
        combine_experts(
            [tmp_path / "absent.safetensors", *files[1:]],
            INTERVALS,
            tmp_path / "x.safetensors",
            title="mixture",
        )
