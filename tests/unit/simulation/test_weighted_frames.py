"""Weights of independent frames for the equilibrium of the force."""

import numpy as np
import pytest
import torch

from openmm_scoremd.diffusion.explicit_flow import ExplicitFlow
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.weighted_frames import WeightedFrames, draw_weighted

KB = 0.0083144626


def test_density_of_a_skew_normal_distribution():
    """A score without symmetry in the beads, and one that is no gradient would show the same."""
    schedule = VPSchedule()
    spread = torch.tensor([[0.5, 0.2], [0.2, 0.1]], dtype=torch.float64)

    def score(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        eye = torch.eye(2, dtype=torch.float64)
        covariance = alpha[:, None, None] ** 2 * spread + sigma[:, None, None] ** 2 * eye
        return -torch.linalg.solve(covariance, x.flatten(1)).reshape(x.shape)

    flow = ExplicitFlow(score, schedule, t_min=1e-5, n_steps=200, centred=False)
    drawn = flow.draw((500, 1, 2), torch.Generator().manual_seed(0))
    y = drawn.y.flatten(1)
    expected = -0.5 * (y @ torch.linalg.inv(spread) * y).sum(dim=1)
    difference = drawn.log_density - expected
    assert float(difference.std()) < 0.02
    torch.testing.assert_close(torch.cov(y.t()), spread, atol=0.06, rtol=0.0)


@pytest.mark.parametrize("n_steps", [10, 60])
def test_weights_make_up_for_few_steps(two_wells, n_steps):
    model = ScoreModelFile(two_wells())
    drawn = draw_weighted(model, 2000, seed=0, n_steps=n_steps)
    inside, error = drawn.average((drawn.frames[:, 0, 0] > 0.0).astype(float))
    assert inside == pytest.approx(0.25, abs=4.0 * error)
    assert error < 0.03
    assert drawn.effective_size > (1500 if n_steps == 60 else 200)
    assert (drawn.frames[..., 2] == 0.0).all()


def test_a_molecule(gaussian_pair):
    model = ScoreModelFile(gaussian_pair)
    calls = []
    drawn = draw_weighted(model, 600, seed=1, progress=lambda *done: calls.append(done))
    assert calls == [(500, 600), (600, 600)]
    reduced = model.potential_energy(drawn.frames) / (KB * model.temperature)
    assert np.std(drawn.log_density + reduced) < 0.05
    assert drawn.weights.sum() == pytest.approx(1.0)
    assert drawn.effective_size > 590
    np.testing.assert_allclose(drawn.frames.mean(axis=1), 0.0, atol=1e-9)


def test_effective_size_and_average_by_hand():
    weights = np.array([0.5, 0.25, 0.25])
    frames = WeightedFrames(np.zeros((3, 1, 3)), np.zeros(3), np.zeros(3), weights)
    assert frames.effective_size == pytest.approx(1.0 / 0.375)
    mean, error = frames.average(np.array([1.0, 0.0, 0.0]))
    assert mean == 0.5
    assert error == pytest.approx(np.sqrt(0.25 * 0.25 + 2 * 0.0625 * 0.25))
    with pytest.raises(InvalidInputError, match="3 frames"):
        frames.average(np.zeros(2))


def test_impossible_numbers(two_wells):
    model = ScoreModelFile(two_wells())
    with pytest.raises(InvalidInputError, match="n is 0"):
        draw_weighted(model, 0, seed=0)
    with pytest.raises(InvalidInputError, match="n_steps is 0"):
        draw_weighted(model, 5, seed=0, n_steps=0)
