"""Recipes: what is chosen for which beads and frames, and that it can be read back."""

import dataclasses

import numpy as np
import pytest

from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.training import recipe
from openmm_scoremd.training.config_file import load_training_config, save_training_config
from openmm_scoremd.training.recipe import make_recipe, seconds_per_step
from openmm_scoremd.training.setup import batch_stream, initial_model


@pytest.fixture
def timed(monkeypatch):
    """Let every step take a hundredth of a second."""
    monkeypatch.setattr(recipe, "seconds_per_step", lambda _: 0.01)


@pytest.mark.parametrize(
    ("n_beads", "family", "augmentation"),
    [(3, "graph-transformer", "rotation"), (4, "invariant", "none"), (9, "invariant", "none")],
)
def test_family_and_what_goes_with_it(chain, n_beads, family, augmentation):
    config = make_recipe(chain(100, n_beads), steps=10).config
    assert (config.network.family, config.data.augmentation) == (family, augmentation)
    assert config.loss.time_distribution == "balanced"
    assert config.title == (
        f"chain, {n_beads} beads ({' '.join(f'B{i}' for i in range(min(n_beads, 8)))}"
        f"{' ...' if n_beads > 8 else ''}), 300 K"
    )


def test_points_in_a_plane(planar):
    config = make_recipe(planar, steps=10).config
    assert (config.network.family, config.data.augmentation) == ("mlp", "none")


@pytest.mark.parametrize(("width", "floor"), [(1e-9, 0.002), (0.002, None), (0.05, 0.03)])
def test_noise_floor_is_the_width_of_the_narrowest_distance(write_frames, width, floor):
    rng = np.random.default_rng(0)
    positions = np.zeros((2000, 4, 3))
    positions[:, 1:, 0] = np.cumsum([0.4, 0.4, 0.4], axis=0)
    positions[:, 1:, 0] += np.cumsum(width * rng.normal(size=(2000, 3)), axis=1)
    positions[:, 3, 1] += 0.2 * rng.normal(size=2000)
    path = write_frames(np.float32(positions))
    expected = width / load_dataset(path).scale if floor is None else floor
    found = make_recipe(path, steps=10).config.network.noise_floor
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("timed")
@pytest.mark.parametrize(
    ("frames", "minutes", "steps", "reason"),
    [
        (7000, 1.0, 6000, "As many as fit into 1 minutes, at 10 ms each here."),
        (7000, 1000.0, 13_000, "As many as 5,600 frames bear: 5,000 passes."),
        (30_000, 1000.0, 50_000, "What 5 beads need, at 10 ms each here."),
    ],
)
def test_steps_are_those_of_the_time_the_frames_or_the_molecule(
    chain, frames, minutes, steps, reason
):
    made = make_recipe(chain(frames), minutes=minutes)
    assert (made.config.steps, made.config.epochs) == (steps, None)
    assert made.reasons["steps"] == reason


@pytest.mark.usefixtures("timed")
def test_few_frames_and_few_steps_are_said(chain):
    few = make_recipe(chain(100), minutes=0.1)
    assert (few.config.optimizer.weight_decay, few.config.weights) == (1e-2, "best")
    assert few.config.network.hidden_dim == 64
    assert few.config.batch_size == 64
    text = " ".join(few.notes)
    assert "100 frames of 5 beads, worth " in text
    assert "FEW FRAMES" in text
    assert "FEW STEPS: 600." in text
    many = make_recipe(chain(30_000), minutes=1000.0)
    assert (many.config.optimizer.weight_decay, many.config.weights) == (1e-4, "last")
    assert many.config.batch_size == 2048
    assert "FEW" not in " ".join(many.notes)


def test_read_back_it_is_the_same(chain, tmp_path):
    made = make_recipe(chain(100), steps=30)
    text = made.to_yaml()
    (tmp_path / "recipe.yaml").write_text(text)
    found = load_training_config(tmp_path / "recipe.yaml")
    assert found == made.config
    for reason in made.reasons.values():
        assert f"# {reason}\n" in text
    # Another entry than those that are written would be lost.
    plain = dataclasses.replace(made.config, seed=5)
    save_training_config(plain, tmp_path / "all.yaml")
    assert load_training_config(tmp_path / "all.yaml") == plain


def test_the_network_and_the_batches_can_be_made(chain):
    path = chain(40, 9)
    config, dataset = make_recipe(path, steps=10).config, load_dataset(path)
    model = initial_model(config, dataset)
    device = next(model.parameters()).device
    batch = batch_stream(config, dataset, scale=dataset.scale, device=device).batch(0)
    assert batch.x0.shape == (32, 9, 3)


def test_timing_a_step_writes_nothing(planar, make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert seconds_per_step(make_config(planar)) > 0.0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_must_be_positive(chain, minutes):
    with pytest.raises(InvalidInputError, match="minutes is"):
        make_recipe(chain(100), minutes=minutes)
