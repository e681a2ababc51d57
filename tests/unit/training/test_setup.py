"""From a configuration to the parts of a run: what is passed on, and where weights come from."""

import dataclasses

import numpy as np
import pytest
import torch

from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.data.regions import region_of_frames, spreading_weights
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.diffusion.weighting import (
    BalancedTimes,
    LogNoiseTimes,
    TimeWeighting,
    UniformTimes,
)
from openmm_scoremd.errors import ConfigurationError, ModelFileError
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.training.config import FokkerPlanckConfig
from openmm_scoremd.training.objective import (
    CentredFokkerPlanckObjective,
    DenoisingObjective,
    WeakFokkerPlanckObjective,
)
from openmm_scoremd.training.setup import (
    N_LARGE_REGIONS,
    batch_stream,
    diffusion_times,
    division_of_steps,
    initial_model,
    training_objective,
)
from openmm_scoremd.training.trainer import Trainer

CPU = torch.device("cpu")
FLOOR = {"network.noise_floor": 0.05}
CENTRED = FokkerPlanckConfig(alpha=0.1, estimator="centred", fraction=0.5, group_size=4)


# --- Batches ---------------------------------------------------------------------------------


def stream_of(config):
    return batch_stream(config, load_dataset(config.data.path), scale=0.5, device=CPU)


def training_positions(config):
    dataset = load_dataset(config.data.path)
    fraction = config.data.held_out_fraction
    chosen, _ = split_frames(dataset.n_frames, held_back_fraction=fraction, seed=config.seed)
    return dataset.positions[chosen]


def test_frames_are_those_not_held_out_in_standardised_units(planar, make_config):
    config = make_config(planar)
    frames = stream_of(config).frames
    assert frames.dtype == torch.float32
    np.testing.assert_allclose(frames.numpy(), training_positions(config) / 0.5, rtol=1e-6)
    double = make_config(planar, **{"hardware.precision": "64-true"})
    assert stream_of(double).frames.dtype == torch.float64


@pytest.mark.parametrize(
    ("regulariser", "n_probed", "n_shared_times"),
    [
        (FokkerPlanckConfig(), 0, None),
        (FokkerPlanckConfig(alpha=1e-3, fraction=0.5), 8, None),
        (CENTRED, 8, 2),
    ],
)
def test_steps_are_divided_by_what_a_batch_holds(
    planar, make_config, monkeypatch, regulariser, n_probed, n_shared_times
):
    config = make_config(planar, **FLOOR, fokker_planck=regulariser)
    model = initial_model(config, load_dataset(config.data.path))
    monkeypatch.setattr("openmm_scoremd.training.setup.divide_steps", dict)
    assert division_of_steps(model, stream_of(config)) == {
        "n_weights": sum(p.numel() for p in model.parameters()),
        "batch_size": 16,
        "n_probed": n_probed,
        "n_shared_times": n_shared_times,
    }


@pytest.mark.parametrize(
    ("regulariser", "n_probed", "n_times"),
    [
        (FokkerPlanckConfig(), None, 16),
        (FokkerPlanckConfig(fraction=0.5, estimator="centred"), None, 16),
        (FokkerPlanckConfig(alpha=1e-3), 16, 16),
        (FokkerPlanckConfig(alpha=1e-3, fraction=0.3), 5, 16),
        (CENTRED, 8, 2 + 8),
        (dataclasses.replace(CENTRED, fraction=1.0, group_size=8), 16, 2),
    ],
)
def test_probes_and_times(planar, make_config, regulariser, n_probed, n_times):
    batch = stream_of(make_config(planar, **FLOOR, fokker_planck=regulariser)).batch(0)
    assert (None if batch.probes is None else batch.probes.shape[1]) == n_probed
    assert len(batch.t.unique()) == n_times


def test_spread_frames(make_mixture, make_config):
    config = make_config(make_mixture(2000), batch_size=800, **FLOOR, fokker_planck=CENTRED)
    spread = dataclasses.replace(
        config, fokker_planck=dataclasses.replace(CENTRED, frames="spread")
    )
    plain, stream = stream_of(config), stream_of(spread)
    assert plain.probed_weights is None
    positions = training_positions(config)
    expected = torch.from_numpy(spreading_weights(positions))
    torch.testing.assert_close(stream.probed_weights.double(), expected, rtol=1e-5, atol=0.0)
    # Frames of thinly populated regions are probed as often as their weights want.
    rare = {tuple(frame) for frame in stream.frames[expected > 2.0 / 1600].flatten(1).tolist()}
    wanted = float(expected[expected > 2.0 / 1600].sum())
    drawn = torch.cat([stream.batch(step).x0[:400].flatten(1) for step in range(2)]).tolist()
    share = sum(tuple(frame) in rare for frame in drawn) / 800
    assert share == pytest.approx(wanted, abs=5.0 * 0.5 / 800**0.5)
    assert wanted > 2.0 * len(rare) / 1600 + 0.1
    # Nothing of it without a regulariser.
    off = dataclasses.replace(spread.fokker_planck, alpha=0.0)
    assert stream_of(dataclasses.replace(config, fokker_planck=off)).probed_weights is None


def test_frames_of_regions_at_times_of_their_own(make_mixture, make_config):
    regulariser = dataclasses.replace(
        CENTRED, frames="regions", times="log-noise", group_size=8, region_size=4
    )
    config = make_config(make_mixture(2000), batch_size=800, **FLOOR, fokker_planck=regulariser)
    stream, batch = stream_of(config), stream_of(config).batch(0)
    assert len(batch.t[:400].unique()) == 50
    expected = LogNoiseTimes(VPSchedule(), 0.05, 1e-5, 1.0)
    medians = [float(expected(torch.tensor(0.5))), float(batch.t[:400].median())]
    assert medians[1] == pytest.approx(medians[0], rel=0.5)
    # Every four frames of a time are of one region; all regions are drawn.
    positions = training_positions(config)
    region = region_of_frames(positions, regions=N_LARGE_REGIONS)
    frames = {
        tuple(frame): r
        for frame, r in zip(stream.frames.flatten(1).tolist(), region.tolist(), strict=True)
    }
    drawn = np.array([frames[tuple(frame)] for frame in batch.x0[:400].flatten(1).tolist()])
    sets = drawn.reshape(2, 4, 50)
    assert (sets == sets[:, :1]).all()
    assert len(np.unique(drawn)) > 0.8 * N_LARGE_REGIONS


def test_times(planar, make_config):
    entries = {"loss.t_min": 0.1, "loss.t_max": 0.6}
    assert diffusion_times(make_config(planar, **entries)) == UniformTimes(0.1, 0.6)
    balanced = make_config(planar, **FLOOR, **{"loss.time_distribution": "balanced"})
    assert diffusion_times(balanced) == BalancedTimes(VPSchedule(), 0.05, 1e-5, 1.0)


# --- Objectives ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regulariser", "kind"),
    [
        (FokkerPlanckConfig(), DenoisingObjective),
        (FokkerPlanckConfig(estimator="centred"), DenoisingObjective),
        (FokkerPlanckConfig(alpha=1e-3, probe_sigma=1e-2), WeakFokkerPlanckObjective),
        (CENTRED, CentredFokkerPlanckObjective),
        (dataclasses.replace(CENTRED, frames="spread"), CentredFokkerPlanckObjective),
    ],
)
def test_objective(planar, make_config, regulariser, kind):
    entries = {"loss.weight_midpoint": 0.4, "schedule.beta_max": 15.0}
    config = make_config(planar, **FLOOR, **entries, fokker_planck=regulariser)
    model = initial_model(config, load_dataset(planar))
    objective = training_objective(config, model)
    assert type(objective) is kind
    assert objective.model is model
    assert objective.schedule == VPSchedule(0.1, 15.0)
    assert objective.weighting == TimeWeighting(0.0, 1.0, 0.4)
    for name in ("alpha", "probe_sigma", "group_size", "frames"):
        if hasattr(objective, name):
            assert getattr(objective, name) == getattr(regulariser, name)
    if kind is CentredFokkerPlanckObjective:
        assert objective.noise_floor == 0.05
    loss = objective(*stream_of(config).batch(0).arrays)
    assert bool(torch.isfinite(loss))


# --- Weights to start from -------------------------------------------------------------------


def test_weights_to_start_from(finished, planar, make_config, tmp_path, read_run):
    _, folder = finished
    config = make_config(planar, start_from=str(folder / "weights.safetensors"))
    weights, _ = read_run(folder)
    found = initial_model(config, load_dataset(planar)).state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in found)
    # A run goes on from its own checkpoint, and the average starts there, too.
    trainer = Trainer(config, tmp_path / "next")
    assert all(torch.equal(v, weights[n]) for n, v in trainer.model.state_dict().items())
    trainer.start()
    moved, _ = read_run(tmp_path / "next")
    assert any(not torch.equal(moved[name], weights[name]) for name in moved)
    again = make_config(planar, start_from=str(folder / "weights.safetensors"), epochs=5)
    Trainer(again, tmp_path / "next").resume()


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        (
            {"network.hidden_dims": (8, 9)},
            "holds a network of another shape than `network` describes",
        ),
        ({"network.output": "direct"}, "holds a network of another shape"),
        ({"schedule.beta_max": 15.0}, "has another noise schedule"),
    ],
)
def test_weights_of_another_network(finished, planar, make_config, entries, match):
    _, folder = finished
    config = make_config(planar, start_from=str(folder / "weights.safetensors"), **entries)
    with pytest.raises(ModelFileError, match=match) as caught:
        initial_model(config, load_dataset(planar))
    assert str(folder) in str(caught.value)


def test_weights_of_another_molecule(finished, molecule, make_config):
    _, folder = finished
    config = make_config(molecule, start_from=str(folder / "weights.safetensors"))
    with pytest.raises(ModelFileError, match="does not fit this run: there are"):
        initial_model(config, load_dataset(molecule))


def test_missing_weights_to_start_from(planar, make_config, tmp_path):
    config = make_config(planar, start_from=str(tmp_path / "absent.safetensors"))
    with pytest.raises(ModelFileError, match=r"absent\.safetensors"):
        Trainer(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_networks_beyond_the_memory_are_refused(planar, make_config):
    config = make_config(planar)
    huge = MLPConfig(hidden_dims=(10**14,))
    with pytest.raises(ConfigurationError, match="lower the sizes in network"):
        initial_model(dataclasses.replace(config, network=huge), load_dataset(config.data.path))
