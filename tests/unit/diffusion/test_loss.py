"""Denoising score matching against numbers worked out by hand and on a Gaussian."""

import math

import pytest
import torch

from openmm_scoremd.diffusion.loss import denoising_score_matching_loss
from openmm_scoremd.diffusion.schedule import VPSchedule

SCHEDULE = VPSchedule()


def test_by_hand():
    t = 0.2
    integral = 0.1 * t + 9.95 * t * t
    alpha, sigma = math.exp(-0.5 * integral), math.sqrt(1.0 - math.exp(-integral))
    x0, noise = [[0.5, -1.0]], [[2.0, 0.25]]
    # Score function 3 x + t.
    terms = [
        e + sigma * (3.0 * (alpha * x + sigma * e) + t)
        for x, e in zip(x0[0], noise[0], strict=True)
    ]
    expected = 1.75 * sum(term**2 for term in terms) / 2
    found = denoising_score_matching_loss(
        lambda x, t: 3.0 * x + t[:, None, None],
        SCHEDULE,
        torch.tensor([x0], dtype=torch.float64),
        t=torch.tensor([t], dtype=torch.float64),
        noise=torch.tensor([noise], dtype=torch.float64),
        weight=torch.tensor([1.75], dtype=torch.float64),
    )
    assert found.shape == (1,)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_score_function_sees_the_noised_sample_at_its_time():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 3, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(5, generator=generator, dtype=torch.float64)
    seen = []

    def score_fn(x, t):
        seen.append((x, t))
        return torch.zeros_like(x)

    found = denoising_score_matching_loss(
        score_fn, SCHEDULE, x0, t=t, noise=noise, weight=torch.ones(5).double()
    )
    torch.testing.assert_close(seen[0], (SCHEDULE.noise_sample(x0, t, noise), t))
    # Without a score only the noise remains.
    torch.testing.assert_close(found, noise.square().mean(dim=(1, 2)))


@pytest.mark.parametrize("t", [1e-5, 0.01, 0.1, 0.7])
def test_perfect_denoising_has_no_loss(t):
    # All data at one point: the noise is known from the sample.
    generator = torch.Generator().manual_seed(1)
    x0 = torch.full((6, 2, 2), 0.3, dtype=torch.float64)
    times = torch.full((6,), t, dtype=torch.float64)
    alpha, sigma = SCHEDULE.alpha(times[0]), SCHEDULE.sigma(times[0])
    found = denoising_score_matching_loss(
        lambda x, _t: -(x - alpha * 0.3) / sigma**2,
        SCHEDULE,
        x0,
        t=times,
        noise=torch.randn(x0.shape, generator=generator, dtype=torch.float64),
        weight=torch.ones(6).double(),
    )
    assert float(found.max()) < 1e-20


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.2, 0.8])
def test_exact_score_of_a_gaussian_has_the_analytic_loss(t):
    # Data N(mean, variance): E|eps + sigma s|^2 = alpha^2 variance / (alpha^2 variance + sigma^2).
    n, mean, variance = 20_000, 0.4, 0.09
    generator = torch.Generator().manual_seed(2)
    x0 = mean + variance**0.5 * torch.randn(n, 1, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 1, 2, generator=generator, dtype=torch.float64)
    times = torch.full((n,), t, dtype=torch.float64)
    alpha, sigma = SCHEDULE.alpha(times[0]), SCHEDULE.sigma(times[0])
    total = alpha**2 * variance + sigma**2
    found = {
        factor: denoising_score_matching_loss(
            lambda x, _t, factor=factor: -factor * (x - alpha * mean) / total,
            SCHEDULE,
            x0,
            t=times,
            noise=noise,
            weight=torch.full((n,), 1.5).double(),
        )
        for factor in (0.8, 1.0, 1.2)
    }
    expected = 1.5 * float(alpha**2 * variance / total)
    error = float(found[1.0].std()) / n**0.5
    assert float(found[1.0].mean()) == pytest.approx(expected, abs=4.0 * error)
    # And it is the least there is: elsewhere sigma^2 / total * (factor - 1)^2 is added.
    for factor in (0.8, 1.2):
        surplus = float((found[factor] - found[1.0]).mean())
        expected_surplus = 1.5 * float(sigma**2 / total) * (factor - 1.0) ** 2
        error = float((found[factor] - found[1.0]).std()) / n**0.5
        assert surplus == pytest.approx(expected_surplus, abs=4.0 * error)
