"""Checkpoints come back bit by bit, and a damaged one is an error and never another run."""

import dataclasses
import json
import random

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.training.checkpoint import (
    SCHEMA_VERSION,
    TrainingState,
    gather_tensors,
    load_checkpoint,
    restore_tensors,
    save_checkpoint,
)
from openmm_scoremd.training.ema import exponential_average

CONFIG = {"epochs": 3, "loss": {"t_min": 1e-5}, "network": {"hidden_dims": [3, 2]}}


def make_run(seed, *, n_steps, width=3):
    """Return model, average and optimiser after some steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 1))
    # Without a gradient, as the additive constant of an energy: no optimiser state either.
    model.unused = nn.Parameter(torch.ones(2))
    average = AveragedModel(model, multi_avg_fn=exponential_average(0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    run = (model, average, optimizer)
    train(run, range(n_steps))
    return run


def train(run, steps):
    model, average, optimizer = run
    for step in steps:
        x = torch.full((4, 2), 0.1 * step)
        (model(x) - 1.0).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)


def make_state(run, step):
    return TrainingState(step, CONFIG, "ab" * 32, gather_tensors(*run))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
        assert one[name].dtype == other[name].dtype


@pytest.fixture
def path(tmp_path):
    """A good checkpoint."""
    path = tmp_path / "run" / "checkpoint.safetensors"
    save_checkpoint(make_state(make_run(0, n_steps=5), 5), path)
    return path


@pytest.mark.parametrize("n_steps", [0, 5])
def test_round_trip(tmp_path, n_steps):
    state = make_state(make_run(0, n_steps=n_steps), n_steps)
    save_checkpoint(state, tmp_path / "c.safetensors")
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert (found.step, found.config, found.dataset_sha256) == (n_steps, CONFIG, "ab" * 32)
    assert_same(found.tensors, state.tensors)
    other = make_run(1, n_steps=2 if n_steps else 0)
    restore_tensors(found.tensors, *other)
    assert_same(gather_tensors(*other), state.tensors)


def test_restored_run_goes_on_as_the_first(path):
    straight = make_run(0, n_steps=9)
    resumed = make_run(7, n_steps=0)
    restore_tensors(load_checkpoint(path).tensors, *resumed)
    train(resumed, range(5, 9))
    assert_same(gather_tensors(*resumed), gather_tensors(*straight))


def test_gathered_tensors_are_copies():
    run = make_run(0, n_steps=2)
    tensors = gather_tensors(*run)
    before = {name: value.clone() for name, value in tensors.items()}
    train(run, range(2, 4))
    assert_same(tensors, before)


def test_names_tell_what_is_what(path):
    names = set(load_checkpoint(path).tensors)
    assert {"model.0.weight", "average.module.0.weight", "average.n_averaged"} <= names
    assert {"optimizer.1.step", "optimizer.1.exp_avg", "optimizer.1.exp_avg_sq"} <= names


def test_the_same_state_gives_the_same_bytes(path, tmp_path):
    save_checkpoint(load_checkpoint(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_files_without_a_hash_can_be_read(path):
    state = load_checkpoint(path)
    header = {
        "schema_version": SCHEMA_VERSION,
        "step": 5,
        "config": CONFIG,
        "dataset_sha256": "ab" * 32,
    }
    metadata = {"openmm_scoremd_training": json.dumps(header)}
    safetensors.torch.save_file(dict(state.tensors), path, metadata=metadata)
    found = load_checkpoint(path)
    assert found.step == 5
    assert_same(found.tensors, state.tensors)


# --- Damage ----------------------------------------------------------------------------------


def refuse(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_missing(tmp_path):
    refuse(tmp_path / "absent.safetensors", "nothing to resume")
    refuse(tmp_path, "not a training checkpoint")


def test_truncated_anywhere(path):
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(50, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        refuse(path, "not a training checkpoint")


def test_longer_than_it_should_be(path):
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    refuse(path, "not a training checkpoint")


@pytest.mark.parametrize("seed", range(4))
def test_any_flipped_bit_is_found_or_harmless(path, seed):
    expected = load_checkpoint(path)
    content = path.read_bytes()
    choice = random.Random(seed)
    found = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)
        except CheckpointError:
            found += 1
            continue
        assert dataclasses.replace(state, tensors={}) == dataclasses.replace(expected, tensors={})
        assert_same(state.tensors, expected.tensors)
    assert found > 80


def write(path, header, *, key="openmm_scoremd_training"):
    metadata = {key: header if isinstance(header, str) else json.dumps(header)}
    safetensors.torch.save_file({"model.x": torch.zeros(2)}, path, metadata=metadata)


GOOD = {"schema_version": SCHEMA_VERSION, "step": 3, "config": {}, "dataset_sha256": ""}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("{", "not a training checkpoint"),
        ("[1]", "not a training checkpoint"),
        ("3", "not a training checkpoint"),
        ({**GOOD, "schema_version": 3}, "schema version 3; this version of the package reads 2"),
        # Batches of such a run were other ones.
        ({**GOOD, "schema_version": 1}, "schema version 1; .* start again in another folder"),
        ({**GOOD, "schema_version": None}, "schema version None"),
        ({}, "schema version None"),
        ({**GOOD, "step": -1}, "holds no step"),
        ({**GOOD, "step": "3"}, "holds no step"),
        ({**GOOD, "step": 2.5}, "holds no step"),
        ({**GOOD, "config": [1]}, "holds no step"),
        ({**GOOD, "config": None}, "holds no step"),
        ({**GOOD, "sha256": "0" * 64}, "another hash"),
    ],
)
def test_wrong_headers(tmp_path, header, match):
    path = tmp_path / "c.safetensors"
    write(path, GOOD)
    load_checkpoint(path)
    write(path, header)
    refuse(path, match)


def test_other_files_of_the_format(tmp_path):
    path = tmp_path / "weights.safetensors"
    write(path, GOOD, key="openmm_scoremd")
    refuse(path, "some other .safetensors file")
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    refuse(path, "some other .safetensors file")


@pytest.mark.parametrize(
    "name", ["model.0.weight", "average.module.2.bias", "average.n_averaged", "optimizer.1.exp_avg"]
)
@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_tensors_that_do_not_fit(path, name, change):
    tensors = dict(load_checkpoint(path).tensors)
    tensor = tensors.pop(name)
    if change == "reshaped":
        tensors[name] = torch.zeros(2, *tensor.shape, 2)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        restore_tensors(tensors, *make_run(0, n_steps=1))


@pytest.mark.parametrize(
    "name", ["model.5.weight", "optimizer.99.step", "optimizer.x.step", "optimizer.1"]
)
def test_tensors_without_a_place(path, name):
    tensors = {**load_checkpoint(path).tensors, name: torch.zeros(())}
    with pytest.raises(CheckpointError, match="does not fit this network"):
        restore_tensors(tensors, *make_run(0, n_steps=1))


def test_another_network(path):
    with pytest.raises(CheckpointError, match="does not fit this network"):
        restore_tensors(load_checkpoint(path).tensors, *make_run(0, n_steps=1, width=4))


def test_a_failed_save_leaves_the_last_checkpoint(path, monkeypatch):
    before = path.read_bytes()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(make_state(make_run(1, n_steps=1), 1), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
