"""Tiny datasets and configurations: runs of a second that go through everything."""

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_scoremd.data.dataset import CGDataset, save_dataset
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.training.config import (
    DataConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from openmm_scoremd.training.trainer import Trainer


def topology(n_beads: int) -> BeadTopology:
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("TOY",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=tuple((i, i + 1) for i in range(n_beads - 1)),
    )


def mixture_positions(n: int, *, seed: int = 0) -> np.ndarray:
    """Points (n, 1, 2) of two normal modes with weights 0.3 and 0.7."""
    rng = np.random.default_rng(seed)
    second = rng.random(n) < 0.7
    means = np.where(second[:, None], [1.0, 0.5], [-1.0, 0.0])
    return (means + 0.3 * rng.normal(size=(n, 2)))[:, None, :].astype(np.float32)


def chain_positions(n: int, *, n_beads: int = 3, seed: int = 0) -> np.ndarray:
    """Centred frames (n, n_beads, 3) of a stiff, bent chain, in nm."""
    rng = np.random.default_rng(seed)
    chain = np.array([[0.15 * i, 0.08 * (i % 2), 0.0] for i in range(n_beads)])
    frames = chain + 0.01 * rng.normal(size=(n, n_beads, 3))
    return (frames - frames.mean(axis=1, keepdims=True)).astype(np.float32)


def write_dataset(path: Path, positions: np.ndarray) -> Path:
    save_dataset(CGDataset(positions, topology(positions.shape[1]), 300.0), path)
    return path


@pytest.fixture(scope="session")
def planar_once(tmp_path_factory) -> Path:
    """The dataset of all tests, not to be changed."""
    return write_dataset(tmp_path_factory.mktemp("data") / "planar.npz", mixture_positions(100))


@pytest.fixture
def planar(tmp_path, planar_once) -> Path:
    """A dataset of 100 points in two dimensions."""
    return Path(shutil.copy(planar_once, tmp_path))


@pytest.fixture
def make_mixture(tmp_path) -> Callable[[int], Path]:
    """Return a function that writes a dataset of n points in two dimensions."""
    return lambda n: write_dataset(tmp_path / "planar.npz", mixture_positions(n))


@pytest.fixture
def molecule(tmp_path) -> Path:
    """A dataset of 100 frames of three beads."""
    return write_dataset(tmp_path / "molecule.npz", chain_positions(100))


@pytest.fixture
def write_frames(tmp_path) -> Callable[[np.ndarray], Path]:
    """Return a function that writes frames in nm of a chain as a dataset."""
    return lambda positions: write_dataset(tmp_path / "chain.npz", positions)


@pytest.fixture
def chain(write_frames) -> Callable[..., Path]:
    """Return a function that writes n frames of a stiff, bent chain of beads."""
    return lambda n, n_beads=5: write_frames(chain_positions(n, n_beads=n_beads))


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrainingConfig]:
    """Return ``make(dataset, **changes)``: 5 epochs of 5 steps (80 of 100 frames, 16 a batch)."""

    def make(dataset: Path, **changes) -> TrainingConfig:
        planar = dataset.stem == "planar"
        sizes = {"hidden_dim": 8, "layers": 1, "heads": 2, "head_dim": 4}
        base = TrainingConfig(
            data=DataConfig(str(dataset), augmentation="none" if planar else "rotation"),
            network=MLPConfig(hidden_dims=(8, 8)) if planar else GraphTransformerConfig(**sizes),
            loss=LossConfig(weight_midpoint=0.5),
            optimizer=OptimizerConfig(learning_rate=1e-2, ema_decay=0.9),
            hardware=HardwareConfig(accelerator="cpu", backend="eager"),
            epochs=5,
            batch_size=16,
            seed=3,
            checkpoint_seconds=0.0,
            log_steps=3,
        )
        return change(base, changes)

    return make


def change(config, changes):
    """Replace entries; ``"optimizer.learning_rate"`` reaches into the tree."""
    together = {}
    for name, value in changes.items():
        section, _, entry = name.partition(".")
        if entry:
            value = change(together.get(section, getattr(config, section)), {entry: value})
        together[section] = value
    return dataclasses.replace(config, **together)


# --- Runs ------------------------------------------------------------------------------------


@pytest.fixture
def finished(planar, make_config, tmp_path):
    """Trainer and folder of a run of 25 steps that has ended."""
    trainer = Trainer(make_config(planar, title="Two modes"), tmp_path / "run")
    assert trainer.start() == tmp_path / "run" / "weights.safetensors"
    return trainer, tmp_path / "run"


@pytest.fixture(scope="session")
def uninterrupted_once(planar_once, make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "straight"
    Trainer(make_config(planar_once), folder).start()
    return folder


@pytest.fixture
def uninterrupted(uninterrupted_once, tmp_path):
    """Folder of a run that was never stopped."""
    return Path(shutil.copytree(uninterrupted_once, tmp_path / "straight"))


def log_without_throughput(folder: Path) -> list[list[str]]:
    with open(folder / "log.csv", newline="") as file:
        return [row[:4] + row[5:] for row in csv.reader(file)]


@pytest.fixture
def read_run():
    """Return a function that reads final weights and log, without throughput, of a folder."""

    def read(folder: Path):
        weights = load_weights(folder / "weights.safetensors").model.state_dict()
        return weights, log_without_throughput(folder)

    return read


@pytest.fixture
def assert_same_run(read_run):
    """Return a function that compares final weights and logs of two folders bit by bit."""

    def check(folder: Path, other: Path) -> None:
        (found, log), (expected, expected_log) = read_run(folder), read_run(other)
        assert found.keys() == expected.keys()
        for name in found:
            assert torch.equal(found[name], expected[name]), name
        assert log == expected_log

    return check


class Killed(BaseException):
    """Like kill -9: nothing in the package may catch it."""


@pytest.fixture
def killed():
    """The exception that stands for a kill."""
    return Killed


@pytest.fixture
def run_until(monkeypatch):
    """Return ``run(config, folder, step)``: start or resume, and die in that step."""

    def run(config: TrainingConfig, folder: Path, step: int) -> None:
        trainer = Trainer(config, folder)
        train_step = trainer._train_step

        def die(number):
            if number == step:
                raise Killed
            return train_step(number)

        monkeypatch.setattr(trainer, "_train_step", die)
        with pytest.raises(Killed):
            trainer.resume() if (folder / "checkpoint.safetensors").exists() else trainer.start()

    return run
