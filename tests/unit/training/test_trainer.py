"""Whole training runs: what they do, what they write, and how they fail."""

import json
import math

import numpy as np
import pytest
import torch

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.errors import ConfigurationError, NumericalError
from openmm_scoremd.models.graph_transformer.family import GraphTransformerEnergy
from openmm_scoremd.models.mlp import MLPEnergy
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.training.checkpoint import load_checkpoint
from openmm_scoremd.training.log import read_log
from openmm_scoremd.training.trainer import Trainer

CHECKPOINT, WEIGHTS, LOG = "checkpoint.safetensors", "weights.safetensors", "log.csv"


# --- One run ---------------------------------------------------------------------------------


def test_files_and_steps(finished, planar):
    trainer, folder = finished
    assert sorted(p.name for p in folder.iterdir()) == [
        *(CHECKPOINT, LOG, "run.json", "training.yaml", WEIGHTS)
    ]
    assert trainer.n_steps == 25
    rows = read_log(folder / LOG)
    assert [row.step for row in rows] == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert rows[-1].epoch == 5.0
    assert all(math.isfinite(row.loss) and row.samples_per_second > 0.0 for row in rows)
    assert load_checkpoint(folder / CHECKPOINT).step == 25
    record = json.loads((folder / "run.json").read_text())
    assert record["seeds"] == {"training": 3}
    assert record["inputs"]["dataset"]["sha256"] == sha256_of_file(planar)
    assert record["results"]["frames_seen"] == 25 * 16
    assert record["results"]["training_frames"] == 80


def test_weights_file_describes_the_model(finished, planar, make_config):
    _, folder = finished
    trained = load_weights(folder / WEIGHTS)
    description, dataset = trained.description, load_dataset(planar)
    assert isinstance(trained.model, MLPEnergy)
    assert not trained.model.training
    assert description.title == "Two modes"
    assert description.network == make_config(planar).network
    assert description.topology == dataset.topology
    assert (description.n_dims, description.temperature) == (2, 300.0)
    assert description.scale == dataset.scale
    assert description.t_min == 1e-5
    assert description.dataset_sha256 == sha256_of_file(planar)
    np.testing.assert_array_equal(np.float32(description.example_positions), dataset.positions[:4])
    assert description.training["config"]["optimizer"]["learning_rate"] == 1e-2
    assert description.training["results"]["steps"] == 25


def test_weights_are_the_average(finished, read_run):
    _, folder = finished
    state = load_checkpoint(folder / CHECKPOINT).tensors
    found, _ = read_run(folder)
    for name, value in found.items():
        assert torch.equal(value, state[f"average.module.{name}"])
    assert any(not torch.equal(v, state[f"model.{name}"]) for name, v in found.items())


def test_average_is_that_of_the_weights_after_every_step(planar, make_config, tmp_path):
    trainer = Trainer(make_config(planar, epochs=1), tmp_path / "run")
    history = []
    for step in range(5):
        trainer._train_step(step)
        history.append(next(trainer.model.parameters()).detach().clone())
    # Decay (1 + n) / (10 + n) below 0.9, from the second value on.
    expected = history[0]
    for n, value in enumerate(history[1:], 1):
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1.0 - decay) * value
    found = next(trainer.average.module.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def cosine(step):
    """Learning rate of a step of 25."""
    return 1e-5 + 0.5 * (1e-2 - 1e-5) * (1.0 + math.cos(math.pi * step / 25))


def test_logged_learning_rate_is_a_cosine(finished):
    _, folder = finished
    for row in read_log(folder / LOG):
        # That of the last step before the row.
        assert row.learning_rate == pytest.approx(cosine(row.step - 1), rel=1e-4)


def watch_optimizer(trainer, monkeypatch, look):
    step = trainer.optimizer.step

    def spy():
        look()
        return step()

    monkeypatch.setattr(trainer.optimizer, "step", spy)


def test_optimiser_uses_that_learning_rate_also_after_a_resume(
    planar, make_config, tmp_path, run_until, monkeypatch
):
    config = make_config(planar)
    run_until(config, tmp_path / "run", 11)
    trainer = Trainer(config, tmp_path / "run")
    used = []
    # That of the optimiser itself, inside what Fabric wraps around it.
    watch_optimizer(
        trainer,
        monkeypatch,
        lambda: used.append(trainer.optimizer.optimizer.param_groups[0]["lr"]),
    )
    trainer.resume()
    assert used == pytest.approx([cosine(step) for step in range(9, 25)])


def test_first_step_has_the_length_of_the_learning_rate(planar, make_config, tmp_path):
    # As always with Adam, if the weights do not decay.
    trainer = Trainer(make_config(planar, **{"optimizer.weight_decay": 0.0}), tmp_path / "run")
    before = next(trainer.model.parameters()).detach().clone()
    trainer._train_step(0)
    moved = (next(trainer.model.parameters()).detach() - before).abs()
    assert float(moved.max()) == pytest.approx(1e-2, rel=1e-3)


def test_gradients_are_clipped_by_element(planar, make_config, tmp_path, monkeypatch):
    trainer = Trainer(make_config(planar, **{"optimizer.gradient_clip": 1e-3}), tmp_path / "run")
    seen = []
    gradients = (p.grad for p in trainer.model.parameters() if p.grad is not None)
    watch_optimizer(trainer, monkeypatch, lambda: seen.extend(g.abs().max() for g in gradients))
    trainer._train_step(0)
    assert float(max(seen)) == pytest.approx(1e-3)


def test_the_seed_decides_everything(planar, make_config, tmp_path, assert_same_run, read_run):
    state = torch.get_rng_state()
    for number, (name, seed) in enumerate((("a", 3), ("b", 3), ("c", 4))):
        torch.manual_seed(number)  # must not matter
        before = torch.get_rng_state()
        Trainer(make_config(planar, seed=seed), tmp_path / name).start()
        assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert read_run(tmp_path / "a")[1] != read_run(tmp_path / "c")[1]


def test_molecules_in_double_precision(molecule, make_config, tmp_path):
    config = make_config(molecule, epochs=1, **{"hardware.precision": "64-true"})
    Trainer(config, tmp_path / "run").start()
    trained = load_weights(tmp_path / "run" / WEIGHTS)
    assert isinstance(trained.model, GraphTransformerEnergy)
    assert {v.dtype for v in trained.model.state_dict().values()} == {torch.float64}
    dataset = load_dataset(molecule)
    lengths = np.linalg.norm(np.diff(dataset.positions, axis=1), axis=-1)
    expected = [(low, high) for low, high in zip(lengths.min(0), lengths.max(0), strict=True)]
    np.testing.assert_allclose(trained.description.bond_ranges, expected, rtol=1e-6)


def test_better_conditioned_form(molecule, make_config, tmp_path):
    entries = {"network.noise_floor": 0.01, "loss.time_distribution": "balanced"}
    config = make_config(molecule, epochs=1, **entries)
    trainer = Trainer(config, tmp_path / "run")
    times = torch.cat([trainer.stream.batch(step).t for step in range(5)])
    # 0.003 of uniform times.
    assert float((times < 0.003).float().mean()) > 0.04
    trainer.start()
    assert load_weights(tmp_path / "run" / WEIGHTS).description.network.noise_floor == 0.01


def test_given_scale(planar, make_config, tmp_path):
    trainer = Trainer(make_config(planar, **{"data.scale": 2.0}), tmp_path / "run")
    dataset = load_dataset(planar)
    assert float(trainer.stream.frames.abs().max()) <= np.abs(dataset.positions).max() / 2.0
    automatic = Trainer(make_config(planar), tmp_path / "run")
    ratio = trainer.stream.frames / automatic.stream.frames
    torch.testing.assert_close(ratio, torch.full_like(ratio, dataset.scale / 2.0))


def test_held_out_frames_are_never_seen(planar, make_config, tmp_path):
    config = make_config(planar)
    trainer = Trainer(config, tmp_path / "run")
    training, held_out = split_frames(100, held_back_fraction=0.2, seed=config.seed)
    assert (len(training), len(held_out)) == (80, 20)
    seen = {tuple(frame) for frame in (trainer.stream.frames * trainer.scale).flatten(1).tolist()}
    frames = np.float64(np.float32(sorted(seen)))
    expected = np.float64(sorted(trainer.dataset.positions[training].reshape(80, 2).tolist()))
    np.testing.assert_allclose(frames, expected, rtol=1e-5)
    everything = make_config(planar, **{"data.held_out_fraction": 0.0})
    assert len(Trainer(everything, tmp_path / "all").stream.frames) == 100


def test_progress_is_reported_with_every_row(planar, make_config, tmp_path):
    reports = []
    Trainer(
        make_config(planar, epochs=2), tmp_path / "run", progress=lambda *r: reports.append(r)
    ).start()
    assert [(row.step, total) for row, total in reports] == [(3, 10), (6, 10), (9, 10), (10, 10)]


# --- Failures --------------------------------------------------------------------------------


def poison(trainer, monkeypatch, first_bad_step):
    """Put NaN into every batch from a step on."""
    batch = trainer.stream.batch

    def poisoned(step):
        result = batch(step)
        if step >= first_bad_step:
            result.x0[3] = math.nan
        return result

    monkeypatch.setattr(trainer.stream, "batch", poisoned)


@pytest.mark.parametrize("bad_step", [0, 7, 11])
def test_nan_stops_with_step_times_and_checkpoint(
    planar, make_config, tmp_path, monkeypatch, bad_step
):
    folder = tmp_path / "run"
    trainer = Trainer(make_config(planar), folder)
    poison(trainer, monkeypatch, bad_step)
    t = Trainer(make_config(planar), folder).stream.batch(bad_step).t
    with pytest.raises(NumericalError) as caught:
        trainer.start()
    message = str(caught.value)
    assert f"NaN or infinite loss at step {bad_step} " in message
    assert f"{float(t.min()):.3g} to {float(t.max()):.3g}" in message
    assert f"checkpoint is {folder / CHECKPOINT}" in message
    # The last good one, from before the interval of three steps.
    state = load_checkpoint(folder / CHECKPOINT)
    assert state.step == bad_step // 3 * 3
    assert all(bool(torch.isfinite(v).all()) for v in state.tensors.values())
    assert not (folder / WEIGHTS).exists()
    assert [row.step for row in read_log(folder / LOG)] == list(range(3, state.step + 1, 3))


def test_after_the_cause_is_gone_the_run_goes_on(
    uninterrupted, planar, make_config, tmp_path, monkeypatch, assert_same_run
):
    folder = tmp_path / "run"
    trainer = Trainer(make_config(planar), folder)
    poison(trainer, monkeypatch, 8)
    with pytest.raises(NumericalError):
        trainer.start()
    Trainer(make_config(planar), folder).resume()
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("bad_step", [6, 8, 24])
def test_nan_in_the_gradient_alone_is_found_before_it_is_saved(
    planar, make_config, tmp_path, monkeypatch, bad_step
):
    # In the last step before a checkpoint the loss still looks good.
    folder = tmp_path / "run"
    trainer = Trainer(make_config(planar), folder)
    train_step = trainer._train_step

    def overflow(step):
        loss = train_step(step)
        if step == bad_step:
            with torch.no_grad():
                next(trainer.model.parameters()).mul_(math.inf)
        return loss

    monkeypatch.setattr(trainer, "_train_step", overflow)
    with pytest.raises(NumericalError, match="NaN or infinite"):
        trainer.start()
    state = load_checkpoint(folder / CHECKPOINT)
    assert state.step == bad_step // 3 * 3
    assert all(bool(torch.isfinite(v).all()) for v in state.tensors.values())
    assert not (folder / WEIGHTS).exists()


def test_exploding_learning_rate(planar, make_config, tmp_path):
    config = make_config(planar, **{"optimizer.learning_rate": 1e30})
    with pytest.raises(NumericalError, match=r"Lower optimizer\.learning_rate"):
        Trainer(config, tmp_path / "run").start()
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT).step == 0


def test_too_few_frames(planar, make_config, tmp_path):
    with pytest.raises(ConfigurationError, match="batch_size is 96 and there are 80"):
        Trainer(make_config(planar, batch_size=96), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rotations_in_the_plane(planar, make_config, tmp_path):
    with pytest.raises(ConfigurationError, match="2 dimensions"):
        Trainer(make_config(planar, **{"data.augmentation": "rotation"}), tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_hardware(planar, make_config, tmp_path):
    config = make_config(planar, **{"hardware.accelerator": "cuda"})
    with pytest.raises(ConfigurationError, match=r"'cuda'.*set accelerator: cpu"):
        Trainer(config, tmp_path / "run")


def test_unwritable_folder(planar, make_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Trainer(make_config(planar), tmp_path / "file" / "run").start()
