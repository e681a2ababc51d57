"""The schedule against its differential equation, its inverse, and numbers of the paper."""

import math

import pytest
import torch

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

TIMES = torch.cat(
    [torch.tensor([1e-9, 1e-5, 1e-4]), torch.linspace(1e-3, 1.0, 60, dtype=torch.float64)]
).double()
SCHEDULES = [VPSchedule(), VPSchedule(0.5, 3.0), VPSchedule(2.0, 2.0)]


@pytest.fixture(params=SCHEDULES, ids=str)
def schedule(request):
    return request.param


def slope(function, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


def test_variance_is_preserved(schedule):
    total = schedule.alpha(TIMES) ** 2 + schedule.sigma(TIMES) ** 2
    torch.testing.assert_close(total, torch.ones_like(TIMES), rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_near_the_data_has_all_its_digits(dtype):
    # sigma^2 = 1 - exp(-B) with B = 1e-6 + 1e-9, where 1 - exp would keep one digit of float32.
    integral = 0.1 * 1e-5 + 9.95 * 1e-10
    expected = math.sqrt(-math.expm1(-integral))
    found = float(VPSchedule().sigma(torch.tensor(1e-5, dtype=dtype)))
    assert found == pytest.approx(expected, rel=4.0 * torch.finfo(dtype).eps)


def test_published_noise_levels():
    found = VPSchedule().sigma(torch.tensor([1e-5, 0.02, 0.1, 1.0]))
    expected = torch.tensor([0.001, 0.077, 0.32, 1.0])
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.0)
    ends = VPSchedule().beta(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([0.1, 20.0]))


def test_derivatives_follow_the_differential_equation(schedule):
    beta, alpha, sigma = (f(TIMES) for f in (schedule.beta, schedule.alpha, schedule.sigma))
    options = {"rtol": 1e-9, "atol": 0.0}
    torch.testing.assert_close(slope(schedule.integrated_beta, TIMES), beta, **options)
    # d alpha = -beta/2 alpha, d sigma^2 = beta alpha^2: drift -beta/2 x, squared diffusion beta.
    torch.testing.assert_close(slope(schedule.alpha, TIMES), -0.5 * beta * alpha, **options)
    torch.testing.assert_close(
        slope(lambda t: schedule.sigma(t) ** 2, TIMES), beta * alpha**2, **options
    )
    torch.testing.assert_close(
        slope(schedule.log_signal_to_noise, TIMES), -0.5 * beta / sigma**2, **options
    )


def test_integral_is_that_of_the_rate(schedule):
    grid = torch.linspace(0.0, 0.7, 2001, dtype=torch.float64)
    found = schedule.integrated_beta(torch.tensor(0.7, dtype=torch.float64))
    assert float(found) == pytest.approx(
        float(torch.trapezoid(schedule.beta(grid), grid)), rel=1e-9
    )


def test_log_signal_to_noise_and_its_inverse(schedule):
    values = schedule.log_signal_to_noise(TIMES)
    ratio = schedule.alpha(TIMES) / schedule.sigma(TIMES)
    torch.testing.assert_close(values, torch.log(ratio), rtol=1e-12, atol=1e-12)
    found = schedule.time_of_log_signal_to_noise(values)
    torch.testing.assert_close(found, TIMES, rtol=1e-12, atol=0.0)


def test_inverse_of_the_integral(schedule):
    found = schedule.time_of_integrated_beta(schedule.integrated_beta(TIMES))
    torch.testing.assert_close(found, TIMES, rtol=1e-13, atol=0.0)
    assert float(schedule.time_of_integrated_beta(torch.tensor(0.0))) == 0.0


def test_noise_sample():
    schedule = VPSchedule()
    x0, noise = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([1e-5, 0.3, 1.0], dtype=torch.float64)
    found = schedule.noise_sample(x0, t, noise)
    for i in range(3):
        integral = 0.1 * float(t[i]) + 9.95 * float(t[i]) ** 2
        alpha, sigma = math.exp(-0.5 * integral), math.sqrt(1.0 - math.exp(-integral))
        torch.testing.assert_close(
            found[i], alpha * x0[i] + sigma * noise[i], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(
    "rates",
    [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0), (0.1, math.nan)],
)
def test_impossible_rates(rates):
    with pytest.raises(InvalidInputError, match=f"beta_min = {rates[0]}, beta_max = {rates[1]}"):
        VPSchedule(*rates)
