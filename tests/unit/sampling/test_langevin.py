import math

import numpy as np
import pytest
import torch
from openmm import unit

from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.sampling.langevin import (
    TrajectorySettings,
    draw_start,
    draw_trajectory,
    trajectory_timestep,
)

VARIANCE = 0.25  # Of the toy's standardised coordinates, which are independent and normal.


@pytest.fixture
def model(toy):
    return ScoreModelFile(toy.path)


def pair_variance(positions, scale):
    """Variance of a coordinate of two centred beads, from their difference, standardised."""
    difference = (positions[..., 1, :] - positions[..., 0, :]) / scale
    return float((difference**2).mean()) / 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [1, 10])
def test_distribution_of_a_molecule(make_toy, dtype, window):
    toy = make_toy(n_beads=2, dtype=dtype)
    settings = TrajectorySettings(step_size=0.05, steps_per_frame=20, window=window)
    model = ScoreModelFile(toy.path)
    found = model.sample_trajectory(3, start=2000, seed=1, settings=settings)
    assert found.positions.shape == (2000, 3, 2, 3)
    assert found.positions.dtype == np.float64
    np.testing.assert_allclose(found.positions.mean(axis=2), 0.0, atol=1e-6)
    expected = VARIANCE / (1.0 - 0.05 / (2.0 * VARIANCE))
    variance = pair_variance(found.positions[:, -1], toy.metadata.scale)
    assert variance == pytest.approx(expected, rel=4.0 * math.sqrt(2.0 / 6000))
    assert found.n_steps == 60
    assert (found.score_calls == 60) == (window == 1)
    assert found.step_size == 0.05
    assert found.t == 1e-5
    assert found.curvature == pytest.approx(1.0 / VARIANCE, rel=0.01)


def test_a_window_changes_nothing(model):
    start = model.sample(3, seed=5)
    chains = [
        model.sample_trajectory(
            8, start=start, seed=2, settings=TrajectorySettings(steps_per_frame=5, window=window)
        )
        for window in (1, 12)
    ]
    scale = model.metadata.scale
    np.testing.assert_allclose(
        chains[0].positions, chains[1].positions, rtol=0.0, atol=3e-5 * scale
    )
    assert chains[1].score_calls < chains[0].score_calls == 40


def test_chains_follow_the_seed_and_go_on_from_given_frames(model, chain):
    start = chain(3, 4)
    settings = TrajectorySettings(steps_per_frame=1, step_size=1e-8)
    first, same, other = (
        model.sample_trajectory(4, start=start, seed=seed, settings=settings).positions
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).min() > 0.0
    centred = start - start.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(first[:, 0], centred, atol=1e-3 * model.metadata.scale)
    in_angstrom = model.sample_trajectory(
        4, start=(10.0 * start) * unit.angstrom, seed=1, settings=settings
    )
    np.testing.assert_allclose(in_angstrom.positions, first, atol=1e-6)


def test_a_plane_keeps_its_place_and_has_no_z(make_toy):
    model = ScoreModelFile(make_toy(n_beads=1, n_dims=2).path)
    found = model.sample_trajectory(2, start=500, seed=0).positions
    assert not found[..., 2].any()
    spread = math.sqrt(VARIANCE / 0.95) * model.metadata.scale
    assert found[..., :2].std() == pytest.approx(spread, rel=0.08)
    start = np.full((4, 1, 3), 7.0 * model.metadata.scale)
    settings = TrajectorySettings(steps_per_frame=1)
    moved = model.sample_trajectory(1, start=start, seed=0, settings=settings).positions
    assert (moved[..., :2] > 5.0 * model.metadata.scale).all()


def test_starts_are_blurred_to_the_time_of_the_chains(make_toy):
    # At t = 0.5 half of the signal is gone: alpha^2 / 4 + sigma^2 = 0.94 of variance.
    model = ScoreModelFile(make_toy(n_beads=2, dtype=torch.float64).path)
    for t, variance in ((None, 0.25), (0.5, 0.25 * 0.0791 + 0.9209)):
        generator = torch.Generator().manual_seed(0)
        start = draw_start(model.score_fn, model.metadata, 3000, generator=generator, t=t)
        found = pair_variance(start, model.metadata.scale)
        assert found == pytest.approx(variance, rel=4.0 * math.sqrt(2.0 / 9000))
        np.testing.assert_allclose(start.mean(axis=1), 0.0, atol=1e-12)


def test_chains_at_a_later_time_and_another_temperature(make_toy):
    model = ScoreModelFile(make_toy(n_beads=2).path)
    settings = TrajectorySettings(t=0.5, step_size=0.05, steps_per_frame=100, temperature_ratio=2.0)
    found = model.sample_trajectory(1, start=2000, seed=0, settings=settings)
    variance = 0.25 * 0.0791 + 0.9209
    expected = 2.0 * variance / (1.0 - 0.05 / (2.0 * variance))
    assert found.t == 0.5
    assert pair_variance(found.positions, model.metadata.scale) == pytest.approx(
        expected, rel=4.0 * math.sqrt(2.0 / 6000)
    )


def test_default_step_size(model):
    found = model.sample_trajectory(1, start=4, seed=0)
    assert found.step_size * found.curvature == pytest.approx(0.1)
    assert found.n_steps == 100


def test_progress(model):
    calls = []
    settings = TrajectorySettings(steps_per_frame=2)
    model.sample_trajectory(
        3, start=2, seed=0, settings=settings, progress=lambda *call: calls.append(call)
    )
    assert calls == [(i, 6) for i in range(1, 7)]


def test_time_of_a_step(model):
    # Masses 12, 13, 14, 15; scale 0.2 nm; 300 K.
    energy = (unit.MOLAR_GAS_CONSTANT_R * 300.0 * unit.kelvin).value_in_unit(
        unit.kilojoule_per_mole
    )
    found = trajectory_timestep(model.metadata, 0.01, friction=4.0)
    assert found == pytest.approx(13.5 * 4.0 * 0.01 * 0.04 / energy)
    with pytest.raises(InvalidInputError, match=r"friction is 0\.0"):
        trajectory_timestep(model.metadata, 0.01, friction=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_size": 0.51}, r"steps are stable below 2: use a step size well below 0\.5 "),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"t": 1e-6}, "diffusion times from 1e-05 to 1"),
        ({"t": 1.1}, "diffusion times from 1e-05 to 1"),
        ({"steps_per_frame": 0}, "steps_per_frame is 0"),
        ({"window": 0}, "window is 0"),
        ({"temperature_ratio": math.nan}, "temperature_ratio is nan"),
    ],
)
def test_impossible_settings(model, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        model.sample_trajectory(2, start=2, seed=0, settings=TrajectorySettings(**changes))


def test_impossible_starts_and_frames(model, chain):
    with pytest.raises(InvalidInputError, match="4 beads"):
        model.sample_trajectory(2, start=np.zeros((2, 3, 3)), seed=0)
    with pytest.raises(InvalidInputError, match="n is 0"):
        model.sample_trajectory(2, start=0, seed=0)
    with pytest.raises(InvalidInputError, match="n_frames is 0"):
        model.sample_trajectory(0, start=chain(2, 4), seed=0)
    options = {"generator": torch.Generator().manual_seed(0)}
    with pytest.raises(InvalidInputError, match=r"must be \(chains, 4, 3\)"):
        draw_trajectory(model.score_fn, model.metadata, chain(1, 4)[0], 2, **options)


def test_a_flat_score_needs_a_step_size(model, chain):
    def flat(x, _t):
        return torch.zeros_like(x)

    arguments = (flat, model.metadata, chain(2, 4), 2)
    with pytest.raises(InvalidInputError, match="no curvature to choose a step size by"):
        draw_trajectory(*arguments, generator=torch.Generator())
    settings = TrajectorySettings(step_size=1.0)
    found = draw_trajectory(*arguments, generator=torch.Generator(), settings=settings)
    assert found.curvature == 0.0


def test_chains_that_leave_are_reported(model, chain):
    # Flat where the chains start, so that the step size looks stable.
    def cliff(x, _t):
        return torch.where(x.abs() > 3.0, x**5, torch.zeros_like(x))

    settings = TrajectorySettings(step_size=0.1)
    with pytest.raises(NumericalError, match="2 of 2 chains are not finite at step"):
        draw_trajectory(
            cliff, model.metadata, chain(2, 4), 20, generator=torch.Generator(), settings=settings
        )
