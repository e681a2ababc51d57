"""Every published or shipped way of training makes the same steps, compiled or one by one."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_scoremd.data.dataset import CGDataset, save_dataset
from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.training.checkpoint import gather_tensors
from openmm_scoremd.training.config import HardwareConfig, expert_config
from openmm_scoremd.training.config_file import load_training_config
from openmm_scoremd.training.trainer import Trainer

METHODS = Path(__file__).parents[2] / "examples" / "methods"
MOMENTS = ("exp_avg", "exp_avg_sq")
#: One expert for each objective that there is.
OBJECTIVES = {
    "denoising": ("alanine_dipeptide_both_fast", "plain"),
    "weak": ("alanine_dipeptide_fokker_planck", ""),
    "centred": ("alanine_dipeptide_both_fast", "low"),
    "regional": ("alanine_dipeptide_regional", "regional"),
}


def runs(path):
    """Return the configurations of all training runs of a file by expert, "" for the only one."""
    config = load_training_config(path)
    if not config.experts:
        return {"": config}
    start_anywhere = [dataclasses.replace(expert, start_from=None) for expert in config.experts]
    return {expert.name: expert_config(config, expert) for expert in start_anywhere}


def different_runs():
    """Return (method, expert) of all runs that differ in more than length, data and seed."""
    found = {}
    for path in sorted(METHODS.glob("*.yaml")):
        for name, config in runs(path).items():
            step = (config.network, config.loss, config.fokker_planck, config.optimizer)
            found.setdefault(repr(step), (path.stem, name))
    return [*found.values()]


ALL_RUNS = different_runs()


@pytest.fixture
def trainers(tmp_path):
    """Return a function that makes two trainers of one run, small and in double precision."""

    def make(method, expert, **optimizer):
        config = runs(METHODS / f"{method}.yaml")[expert]
        dataset = write_dataset(tmp_path / "random.npz", planar=config.network.family == "mlp")
        return [
            Trainer(
                dataclasses.replace(
                    config,
                    data=dataclasses.replace(config.data, path=str(dataset)),
                    network=small(config.network),
                    # Large batches would only make the test slow.
                    batch_size=min(config.batch_size, 256),
                    optimizer=dataclasses.replace(config.optimizer, **optimizer),
                    hardware=HardwareConfig("cpu", precision="64-true", backend=backend),
                ),
                tmp_path / backend,
            )
            for backend in ("eager", "compiled")
        ]

    return make


def small(network):
    """Return the network with narrower layers."""
    if network.family == "mlp":
        return dataclasses.replace(network, hidden_dims=(12, 12))
    # Divided alike, so that the attention has the form that it has in full size.
    widths = ("hidden_dim",) if network.family == "invariant" else ("hidden_dim", "head_dim")
    return dataclasses.replace(network, **{name: getattr(network, name) // 8 for name in widths})


def write_dataset(path, *, planar):
    """Write bent chains with noise, of as many frames as the largest batch needs."""
    n_beads, n_dims = (1, 2) if planar else (5, 3)
    rng = np.random.default_rng(0)
    topology = BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("RND",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=(),
    )
    positions = rng.normal(size=(400, n_beads, n_dims)).astype(np.float32)
    save_dataset(CGDataset(positions, topology, 300.0), path)
    return path


def without_gradient(trainer):
    """Return names of tensors whose gradient is nothing but rounding, which Adam magnifies.

    The bias of the keys drops out of the soft-max, and an additive constant of the energy out of
    the score.
    """
    names = [name for name, _ in trainer.model.named_parameters()]
    constant = names[-1:] if isinstance(trainer.model, EnergyModel) else []
    parts = ("query_key_value.bias", *constant)
    found = {f"{of}.{name}" for of in ("model", "average.module") for name in names}
    found |= {
        f"optimizer.{names.index(n)}.{v}" for n in names for v in MOMENTS if n.endswith(parts)
    }
    return {n for n in found if n.startswith("optimizer") or n.endswith(parts)}


def assert_same_steps(single, many, *, tolerance):
    """Do steps with both and compare losses, weights, averages and what the optimiser keeps."""
    assert single.steps is None
    assert many.steps is not None
    for first, stop in ((0, 1), (1, 4)):
        row, expected = many.train_steps(first, stop), single.train_steps(first, stop)
        # Fabric hands out the loss of a single step in float32.
        assert row.loss == pytest.approx(expected.loss, rel=2e-6)
        found, of_single = (
            gather_tensors(t.model, t.average, t.optimizer.optimizer) for t in (many, single)
        )
        # What has no gradient is unknown to the optimiser of single steps.
        assert found.keys() >= of_single.keys()
        for name in of_single.keys() - without_gradient(single):
            value = of_single[name]
            scale = float(value.abs().max()) + 1e-6
            torch.testing.assert_close(
                found[name] / scale, value / scale, rtol=0.0, atol=tolerance, msg=name
            )


@pytest.mark.parametrize(("method", "expert"), ALL_RUNS)
def test_traced_steps_are_single_steps(trainers, monkeypatch, method, expert):
    # The traced graph as it is, which is what the compiler starts from.
    for module in ("objective", "compiled.steps"):
        monkeypatch.setattr(
            f"openmm_scoremd.training.{module}.compile_graph", lambda graph, _: graph
        )
    assert_same_steps(*trainers(method, expert), tolerance=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_compiled_steps_are_single_steps(trainers, objective):
    # With a clip and an average that matter from the first step on.
    single, many = trainers(*OBJECTIVES[objective], gradient_clip=1e-3, ema_decay=0.5)
    assert_same_steps(single, many, tolerance=1e-6)
