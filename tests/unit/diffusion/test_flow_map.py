"""Gaussians, whose map is linear, and two Gaussians, between which coarse maps fold space."""

import math

import numpy as np
import pytest
import torch

from openmm_scoremd.diffusion.flow_map import FlowMap
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

SCHEDULE, T_MIN, WIDTH = VPSchedule(), 1e-4, 0.3


def noise_over_signal(t):
    time = torch.tensor(t, dtype=torch.float64)
    return float(SCHEDULE.sigma(time) / SCHEDULE.alpha(time))


def gaussian(y, t):
    return 0.5 * y.square().sum(dim=(1, 2)) / (WIDTH**2 + noise_over_signal(t) ** 2)


def two_gaussians(y, t):
    variance = 0.01 + noise_over_signal(t) ** 2
    squares = torch.stack([(y - centre).square().sum(dim=(1, 2)) for centre in (-1.0, 1.0)])
    return -torch.logsumexp(-0.5 * squares / variance, dim=0)


def levels(n_steps):
    ends = (math.log(noise_over_signal(T_MIN)), math.log(noise_over_signal(1.0)))
    return np.exp(np.linspace(*ends, n_steps + 1))


@pytest.mark.parametrize("n_steps", [1, 7, 50])
def test_map_of_a_gaussian(n_steps):
    found = FlowMap(gaussian, SCHEDULE, t_min=T_MIN, n_steps=n_steps)
    y = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mapped = found.to_noise(y)
    s = levels(n_steps)
    factors = 1.0 + np.diff(s) * s[:-1] / (WIDTH**2 + s[:-1] ** 2)
    np.testing.assert_allclose(mapped.y, y * factors.prod(), rtol=1e-6)
    np.testing.assert_allclose(mapped.log_det, 6 * np.log(factors).sum(), rtol=1e-6)
    assert found.last_noise == pytest.approx(s[-1], rel=1e-6)
    assert mapped.valid.all()


def test_many_steps_are_the_probability_flow():
    found = FlowMap(gaussian, SCHEDULE, t_min=T_MIN, n_steps=400)
    y = torch.ones(1, 1, 1, dtype=torch.float64)
    spread = math.hypot(WIDTH, found.last_noise) / math.hypot(WIDTH, noise_over_signal(T_MIN))
    assert float(found.to_noise(y).y) == pytest.approx(spread, rel=0.02)


@pytest.mark.parametrize("energy", [gaussian, two_gaussians])
def test_there_and_back(energy):
    found = FlowMap(energy, SCHEDULE, t_min=T_MIN, n_steps=60)
    z = found.last_noise * torch.randn(
        50, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    data = found.to_data(z)
    assert data.valid.all()
    noise = found.to_noise(data.y)
    np.testing.assert_allclose(noise.y, z, atol=1e-4 * found.last_noise)
    np.testing.assert_allclose(noise.log_det, data.log_det, atol=1e-3)
    assert found.returns(data.y, noise.y).all()


def test_log_determinant_is_that_of_the_map():
    found = FlowMap(two_gaussians, SCHEDULE, t_min=T_MIN, n_steps=20)
    y = torch.tensor([[[-0.8, 0.3]]], dtype=torch.float64)
    jacobian = torch.zeros(2, 2, dtype=torch.float64)
    h = 1e-6
    for axis in range(2):
        shift = torch.zeros_like(y)
        shift[0, 0, axis] = h
        difference = found.to_noise(y + shift).y - found.to_noise(y - shift).y
        jacobian[:, axis] = difference.flatten() / (2 * h)
    expected = float(torch.linalg.slogdet(jacobian).logabsdet)
    assert float(found.to_noise(y).log_det) == pytest.approx(expected, rel=1e-6)


def test_where_space_is_folded():
    # Between the two, a large step carries both sides across each other.
    found = FlowMap(two_gaussians, SCHEDULE, t_min=T_MIN, n_steps=8)
    y = torch.tensor([[[0.0, 0.0]], [[-1.0, -1.0]]], dtype=torch.float64)
    mapped = found.to_noise(y)
    reachable = mapped.valid & found.returns(y, mapped.y)
    assert reachable.tolist() == [False, True]


def test_what_is_not_finite_is_not_valid():
    found = FlowMap(gaussian, SCHEDULE, t_min=T_MIN, n_steps=8)
    y = torch.tensor([[[math.nan]], [[0.1]]], dtype=torch.float64)
    mapped = found.to_noise(y)
    assert mapped.valid.tolist() == [False, True]
    assert found.returns(y, mapped.y).tolist() == [False, True]


def test_no_step():
    with pytest.raises(InvalidInputError, match="n_steps is 0"):
        FlowMap(gaussian, SCHEDULE, t_min=T_MIN, n_steps=0)
