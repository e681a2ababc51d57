"""Samplers on densities whose noised scores are known exactly."""

import math

import pytest
import torch

from openmm_scoremd.diffusion.sampler import sample_dpm_solver, sample_reverse_sde
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

SCHEDULE = VPSchedule()
#: Sampler and a number of steps that is enough for it.
SAMPLERS = pytest.mark.parametrize(
    ("sampler", "n_steps"),
    [(sample_reverse_sde, 300), (sample_dpm_solver, 60)],
    ids=["reverse-sde", "dpm-solver"],
)
EITHER = pytest.mark.parametrize("sampler", [sample_reverse_sde, sample_dpm_solver])


def levels(t):
    """Return mean factor and noise level, shaped to multiply samples (B, N, D)."""
    t = t.double()[:, None, None]
    return SCHEDULE.alpha(t), SCHEDULE.sigma(t)


def gaussian_score(*, mean=0.0, std=1.0):
    """Score of independent normal coordinates, noised."""

    def score_fn(x, t):
        alpha, sigma = levels(t)
        return -(x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return score_fn


def draw(sampler, score_fn, shape, *, n_steps, seed=0, **options):
    options = {"dtype": torch.float64, **options}
    generator = torch.Generator().manual_seed(seed)
    return sampler(score_fn, SCHEDULE, shape=shape, generator=generator, n_steps=n_steps, **options)


@SAMPLERS
def test_correlated_gaussian(sampler, n_steps):
    n = 4000
    mean = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64)
    root = torch.tensor(
        [[1.2, 0, 0, 0], [0.5, 0.6, 0, 0], [-0.3, 0.2, 0.4, 0], [0.1, 0.1, 0.1, 0.1]]
    ).double()
    covariance = root @ root.T

    def score_fn(x, t):
        alpha, sigma = float(SCHEDULE.alpha(t[0].double())), float(SCHEDULE.sigma(t[0]))
        precision = torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(4))
        return -((x.flatten(1) - alpha * mean) @ precision).view_as(x)

    x = draw(sampler, score_fn, (n, 2, 2), n_steps=n_steps).flatten(1)
    spread = covariance.diagonal().sqrt()
    assert ((x.mean(dim=0) - mean).abs() < 4.0 * spread / n**0.5 + 1e-3).all()
    # Standard errors of a covariance, and 2 % for the steps.
    scale = spread[:, None] * spread[None, :]
    errors = (torch.cov(x.T) - covariance).abs() / scale
    assert float(errors.max()) < 4.0 * (2.0 / n) ** 0.5 + 0.02


@SAMPLERS
def test_populations_and_widths_of_a_mixture(sampler, n_steps):
    n, weights = 4000, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    means = torch.tensor([[-1.5, 0.0], [0.3, 1.2], [1.0, -0.8]], dtype=torch.float64)
    stds = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)

    def score_fn(x, t):
        alpha, sigma = levels(t)
        variance = alpha**2 * stds**2 + sigma**2  # (B, 1, 3)
        away = x[:, :, None, :] - alpha[..., None] * means  # (B, 1, 3, 2)
        logs = weights.log() - variance.log() - 0.5 * away.square().sum(-1) / variance
        share = torch.softmax(logs, dim=-1)
        return -(share[..., None] * away / variance[..., None]).sum(dim=2)

    x = draw(sampler, score_fn, (n, 1, 2), n_steps=n_steps)[:, 0]
    mode = torch.cdist(x, means).argmin(dim=1)
    for k in range(3):
        inside = x[mode == k]
        error = math.sqrt(float(weights[k] * (1.0 - weights[k])) / n)
        assert len(inside) / n == pytest.approx(float(weights[k]), abs=4.0 * error)
        assert ((inside.mean(dim=0) - means[k]).abs() < 4.0 * stds[k] / len(inside) ** 0.5).all()
        assert inside.std(dim=0).tolist() == pytest.approx([float(stds[k])] * 2, rel=0.06)


@pytest.fixture
def exact_variance(monkeypatch):
    """Return a function that computes the variance of samples of a centred normal density exactly.

    Its score is linear, so a sample is a sum of the normal numbers drawn, each with a coefficient.
    Sample k gets 1 for the k-th number and 0 for all others, which leaves that coefficient.
    """

    def compute(sampler, *, std, n_steps):
        impulses = iter(torch.eye(n_steps, dtype=torch.float64)[:, :, None, None])
        monkeypatch.setattr(
            "openmm_scoremd.diffusion.sampler._normal", lambda *_args: next(impulses)
        )
        coefficients = draw(sampler, gaussian_score(std=std), (n_steps, 1, 1), n_steps=n_steps)
        assert next(impulses, None) is None
        return float(coefficients.square().sum())

    return compute


def test_error_of_the_reverse_sde_is_of_first_order(exact_variance):
    errors = [exact_variance(sample_reverse_sde, std=1.0, n_steps=n) - 1.0 for n in (50, 100, 200)]
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.1)


def test_error_of_the_dpm_solver_is_of_second_order(exact_variance):
    errors = [exact_variance(sample_dpm_solver, std=1.0, n_steps=n) - 1.0 for n in (51, 101, 201)]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize(
    ("sampler", "n_steps", "error"),
    [(sample_reverse_sde, 1000, 0.02), (sample_dpm_solver, 100, 0.005)],
)
@pytest.mark.parametrize("std", [0.02, 0.03, 0.1, 0.3, 1.0, 2.0])
def test_default_steps_resolve_bonds(exact_variance, sampler, n_steps, error, std):
    # Bonds of alanine dipeptide spread by 0.02 of the standard deviation of all coordinates. With
    # times uniform in t, 1000 steps of the SDE get this variance wrong by 15 %.
    found = exact_variance(sampler, std=std, n_steps=n_steps)
    assert found == pytest.approx(std**2, rel=error)


def test_the_last_step_of_the_reverse_sde_adds_no_noise():
    # One step from the prior is a function of the prior alone.
    prior = torch.randn(3, 2, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = draw(sample_reverse_sde, gaussian_score(std=0.5), (3, 2, 1), n_steps=1, seed=5)
    score = gaussian_score(std=0.5)(prior, torch.ones(3).double())
    timestep = 1.0 - 1e-5
    torch.testing.assert_close(found, prior + 20.0 * timestep * (0.5 * prior + score))


def test_the_reverse_sde_ends_with_the_noise_of_the_last_time():
    # All data in one point: what spreads at the end is the noise at t_min, and nothing more.
    t_min = 1e-5
    score = gaussian_score(mean=0.7, std=0.0)
    x = draw(sample_reverse_sde, score, (100, 1, 5), n_steps=1000, t_min=t_min)
    left = float(SCHEDULE.sigma(torch.tensor(t_min, dtype=torch.float64)))
    assert float((x - 0.7).std()) == pytest.approx(left, rel=0.15)


def test_the_dpm_solver_ends_with_the_predicted_data():
    x = draw(sample_dpm_solver, gaussian_score(mean=0.7, std=0.0), (50, 1, 2), n_steps=20)
    torch.testing.assert_close(x, torch.full_like(x, 0.7), rtol=0.0, atol=1e-9)


@EITHER
def test_projection(sampler):
    # A translation-invariant score of a pair: without the projection its centre would wander.
    def score_fn(x, t):
        centred = x - x.mean(dim=1, keepdim=True)
        return gaussian_score(std=0.3)(centred, t)

    calls = []

    def project(x):
        calls.append(x)
        return x - x.mean(dim=1, keepdim=True)

    options = {"n_steps": 100, "seed": 2}
    x = draw(sampler, score_fn, (1000, 2, 3), project=project, **options)
    assert len(calls) == 101
    assert float(x.mean(dim=1).abs().max()) < 1e-12
    distance = x[:, 1] - x[:, 0]
    assert float(distance.var()) == pytest.approx(2.0 * 0.3**2, rel=0.1)
    # Within the subspace it changes nothing.
    free = draw(sampler, score_fn, (1000, 2, 3), **options)
    torch.testing.assert_close(free[:, 1] - free[:, 0], distance, rtol=1e-6, atol=1e-9)
    assert float(free.mean(dim=1).abs().max()) > 0.1


@EITHER
def test_the_seed_decides(sampler):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, same, other = (
        draw(sampler, gaussian_score(), (4, 2, 3), n_steps=20, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()
    assert torch.equal(before, torch.get_rng_state())


@EITHER
def test_a_generator_goes_on_where_it_stopped(sampler):
    generator = torch.Generator().manual_seed(0)
    first, second = (
        sampler(gaussian_score(), SCHEDULE, shape=(4, 1, 1), generator=generator, n_steps=5)
        for _ in range(2)
    )
    assert not torch.isclose(first, second).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EITHER
def test_times_and_types(sampler, dtype):
    times = []

    def score_fn(x, t):
        assert x.dtype == t.dtype == dtype
        assert x.shape == (3, 2, 1)
        assert t.shape == (3,)
        assert (t == t[0]).all()
        times.append(float(t[0]))
        return -x

    reports = []
    x = draw(
        sampler, score_fn, (3, 2, 1), n_steps=7, t_min=0.01, dtype=dtype,
        progress=lambda *numbers: reports.append(numbers),
    )  # fmt: skip
    assert x.dtype == dtype
    assert len(times) == 7
    assert times[0] == pytest.approx(1.0)
    assert times == sorted(times, reverse=True)
    # The solver looks at t_min itself, the SDE goes there in its last step.
    assert times[-1] == pytest.approx(0.01 if sampler is sample_dpm_solver else 0.01 + 0.99 / 49)
    assert reports == [(i, 7) for i in range(1, 8)]


@pytest.mark.parametrize("n_steps", [0, -3])
@EITHER
def test_impossible_numbers_of_steps(sampler, n_steps):
    with pytest.raises(InvalidInputError, match=f"n_steps is {n_steps}"):
        draw(sampler, gaussian_score(), (1, 1, 1), n_steps=n_steps)


@pytest.mark.parametrize("t_min", [0.0, 1.0, -0.1, math.nan])
@EITHER
def test_impossible_last_times(sampler, t_min):
    with pytest.raises(InvalidInputError, match=f"t_min is {t_min}"):
        draw(sampler, gaussian_score(), (1, 1, 1), n_steps=3, t_min=t_min)
