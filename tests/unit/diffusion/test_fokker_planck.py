"""Fokker-Planck residuals on densities that are known, and against numbers of the public code."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from openmm_scoremd.diffusion.fokker_planck import (
    centred_fokker_planck_loss,
    exact_residual,
    regional_fokker_planck_loss,
    remainder,
    scaled_residuals,
    weak_residual,
)
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.models.import_jax import load_jax_network

SCHEDULE = VPSchedule()
SCHEDULES = [SCHEDULE, VPSchedule(0.5, 3.0)]
TIMES = torch.tensor([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
#: Beads and dimensions of the densities below.
SHAPE = (2, 3)


def gaussian(schedule, *, narrowest=0.05):
    """Log-density ``(frame (2, 3), t) -> ()`` of noised anisotropic Gaussian data."""
    options = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    basis, _ = torch.linalg.qr(torch.randn(6, 6, **options))
    widths = torch.logspace(math.log10(narrowest), 0.0, 6, dtype=torch.float64)
    mean = 0.3 * torch.randn(6, **options)

    def log_density(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variances = alpha**2 * widths**2 + sigma**2
        along = (x.flatten() - alpha * mean) @ basis
        return -0.5 * (along**2 / variances + torch.log(2.0 * math.pi * variances)).sum()

    return log_density


def mixture(schedule):
    """Log-density of noised data from two Gaussians of different widths."""
    options = {"generator": torch.Generator().manual_seed(1), "dtype": torch.float64}
    means = torch.randn(2, 6, **options)
    widths = 0.2 + torch.rand(2, 6, **options)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def log_density(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variances = alpha**2 * widths**2 + sigma**2
        terms = (x.flatten() - alpha * means) ** 2 / variances + torch.log(
            2.0 * math.pi * variances
        )
        return torch.logsumexp(weights.log() - 0.5 * terms.sum(dim=1), dim=0)

    return log_density


DENSITIES = {"gaussian": gaussian, "mixture": mixture}


def derivatives_of(log_density):
    """Score and time derivative of a batch."""
    both = vmap(grad(log_density, argnums=(0, 1)))
    return lambda x, t: both(x, t)


def samples(n, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, *SHAPE, generator=generator, dtype=torch.float64)


def size_of_terms(derivatives_fn, schedule, x, t):
    """Largest of the terms that cancel, shape (B,)."""
    score, time_derivative = derivatives_fn(x, t)
    terms = [
        0.5 * schedule.beta(t) * score.square().sum(dim=(1, 2)),
        time_derivative.abs(),
        torch.ones_like(t),
    ]
    return torch.stack(terms).max(dim=0).values


def assert_zero(residual, size, tolerance=1e-9):
    assert float((residual.abs() / size).max()) < tolerance


# --- The residual ----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DENSITIES)
def test_exact_densities_have_no_residual(name, schedule):
    derivatives_fn = derivatives_of(DENSITIES[name](schedule))
    x = samples(len(TIMES))
    residual = exact_residual(derivatives_fn, schedule, x, TIMES)
    assert residual.shape == TIMES.shape
    assert not residual.requires_grad
    assert_zero(residual, size_of_terms(derivatives_fn, schedule, x, TIMES))
    # Where coordinates are those of the density, the terms are small enough to say it plainly.
    if name == "mixture":
        assert float(residual.abs().max()) < 1e-9


def test_data_of_another_process_have_a_residual():
    # The same data under a faster schedule: nothing but beta(t) is wrong.
    derivatives_fn = derivatives_of(mixture(VPSchedule(0.5, 3.0)))
    residual = exact_residual(derivatives_fn, SCHEDULE, samples(len(TIMES)), TIMES)
    assert float(residual.abs().min()) > 1e-3


def test_a_constant_that_changes_with_time_is_seen_as_it_is():
    # The published code has 1 where the number of coordinates belongs: a time derivative that is
    # off by this much, while the score is right.
    right = derivatives_of(mixture(SCHEDULE))

    def wrong(x, t):
        score, time_derivative = right(x, t)
        return score, time_derivative - 0.5 * SCHEDULE.beta(t) * (6 - 1)

    residual = exact_residual(wrong, SCHEDULE, samples(len(TIMES)), TIMES)
    torch.testing.assert_close(residual, 0.5 * 5 * SCHEDULE.beta(TIMES), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [0.9, 1.5])
def test_a_scaled_energy_has_the_residual_of_the_algebra(factor):
    # Of f log p: beta/2 [f div s + f^2 s^2 + f x s + d] - f d/dt log p = beta/2 [f (f - 1) s^2
    # + (1 - f) d].
    right = derivatives_of(mixture(SCHEDULE))
    x = samples(len(TIMES))
    residual = exact_residual(
        lambda x, t: tuple(factor * value for value in right(x, t)), SCHEDULE, x, TIMES
    )
    squared = right(x, TIMES)[0].square().sum(dim=(1, 2))
    expected = 0.5 * SCHEDULE.beta(TIMES) * (1.0 - factor) * (6.0 - factor * squared)
    torch.testing.assert_close(residual, expected, rtol=1e-9, atol=1e-9)
    assert float(residual.abs().min()) > 1e-3


def test_gradients_that_are_switched_off_do_not_matter():
    derivatives_fn = derivatives_of(mixture(SCHEDULE))
    x = samples(len(TIMES))
    expected = exact_residual(derivatives_fn, VPSchedule(1.0, 2.0), x, TIMES)
    with torch.no_grad():
        found = exact_residual(derivatives_fn, VPSchedule(1.0, 2.0), x, TIMES)
    assert torch.equal(found, expected)
    assert not x.requires_grad


# --- The weak residual -----------------------------------------------------------------------


def wrong_derivatives(schedule):
    """Of a mixture whose energy is scaled: every term of the residual counts."""
    right = derivatives_of(mixture(schedule))
    return lambda x, t: tuple(1.3 * value for value in right(x, t))


def weak_residuals(n_probes, *, n=6, sigma=1e-3, seed=3):
    """Weak residuals (K, n) of a wrong density, and its exact ones (n,)."""
    derivatives_fn = wrong_derivatives(SCHEDULE)
    x, t = samples(n, seed=5), torch.linspace(0.01, 0.9, n, dtype=torch.float64)
    probes = normal(n_probes, n, seed=seed)
    found = weak_residual(derivatives_fn, SCHEDULE, x, t, probes=probes, probe_sigma=sigma)
    return found, exact_residual(derivatives_fn, SCHEDULE, x, t)


def assert_mean(values, expected, *, spread=4.5):
    """Check that the mean over the first axis is what is expected, within its error."""
    error = values.std(dim=0) / len(values) ** 0.5
    assert float(((values.mean(dim=0) - expected).abs() / error).max()) < spread


def test_mean_of_the_weak_residual_is_the_residual():
    found, expected = weak_residuals(20_000)
    assert found.shape == (20_000, 6)
    assert_mean(found, expected)
    # A statement with content: its error is far below the residual.
    error = found.std(dim=0) / len(found) ** 0.5
    assert float((error / expected.abs()).max()) < 0.15


def test_product_of_two_probes_is_an_unbiased_square():
    found, expected = weak_residuals(40_000)
    first, second = found.view(2, 20_000, -1).unbind(0)
    assert_mean(first * second, expected**2)
    # The square of one is not.
    error = (first**2).std(dim=0) / len(first) ** 0.5
    assert float((((first**2).mean(dim=0) - expected**2) / error).min()) > 20.0


def test_weak_residual_by_hand():
    # Score -k x, time derivative c t: everything is known, for any sigma.
    k, c, sigma = 1.7, 0.4, 0.3
    x, t, probes = samples(4), TIMES[2:6], normal(3, 4)
    found = weak_residual(
        lambda x, t: (-k * x, c * t), SCHEDULE, x, t, probes=probes, probe_sigma=sigma
    )
    there = x + sigma * probes
    beta = SCHEDULE.beta(t)
    divergence = -k * probes.square().sum(dim=(2, 3))
    rest = (k**2 - k) * there.square().sum(dim=(2, 3)) + 6
    torch.testing.assert_close(found, 0.5 * beta * (divergence + rest) - c * t)


def test_weak_residual_leaves_frames_apart():
    derivatives_fn = wrong_derivatives(SCHEDULE)
    x, t, probes = samples(4), TIMES[3:7], normal(2, 4)
    together = weak_residual(derivatives_fn, SCHEDULE, x, t, probes=probes)
    for i in range(4):
        alone = weak_residual(
            derivatives_fn, SCHEDULE, x[i : i + 1], t[i : i + 1], probes=probes[:, i : i + 1]
        )
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, -1e-4, 1.0, math.nan, math.inf])
def test_impossible_probes(sigma):
    x, t = samples(4), TIMES[:4]
    derivatives_fn = derivatives_of(mixture(SCHEDULE))
    with pytest.raises(InvalidInputError, match="probe_sigma is"):
        weak_residual(derivatives_fn, SCHEDULE, x, t, probes=normal(1, 4), probe_sigma=sigma)
    with pytest.raises(InvalidInputError, match="probe_sigma is"):
        centred_loss(derivatives_fn, x, t, normal(2, 4), sigma=sigma)


# --- The centred loss ------------------------------------------------------------------------

FLOOR = 0.02


def residual_pairs(derivatives_fn, x, t, probes, *, sigma=1e-3, floor=FLOOR, schedule=SCHEDULE):
    """Two estimates of the residual per coordinate."""
    score, time_derivative = derivatives_fn(x, t)
    moved = (x + sigma * probes).flatten(0, 1)
    probed, _ = derivatives_fn(moved, t.repeat(2))
    pairs = scaled_residuals(
        schedule,
        x,
        t,
        score=score,
        time_derivative=time_derivative,
        probed_scores=probed.view(probes.shape),
        probes=probes,
        probe_sigma=sigma,
        noise_floor=floor,
    )
    return pairs / 6


def centred_loss(derivatives_fn, x, t, probes, *, group_size=4, sigma=1e-3):
    pairs = residual_pairs(derivatives_fn, x, t, probes, sigma=sigma)
    return centred_fokker_planck_loss(pairs, group_size=group_size)


def weighted_residual(derivatives_fn, x, t):
    """Residual per unit of log(sigma^2 + floor^2), per coordinate."""
    residual = exact_residual(derivatives_fn, SCHEDULE, x, t)
    return residual * (SCHEDULE.sigma(t) ** 2 + FLOOR**2) / SCHEDULE.beta(t) / 6


def repeated_times(group_size, n_times=3):
    return torch.linspace(0.02, 0.7, n_times, dtype=torch.float64).repeat(group_size)


def centred_losses(derivatives_fn, *, repeats, group_size=4, sigma=1e-3):
    """Many estimates (repeats, times) for the same frames, and the frames with their times."""
    x, t = samples(3 * group_size, seed=8), repeated_times(group_size)
    # The repeats are further times: one call for all.
    frames = x.view(group_size, 1, 3, *SHAPE).expand(-1, repeats, -1, -1, -1).flatten(0, 2)
    times = t.view(group_size, 1, 3).expand(-1, repeats, -1).flatten()
    probes = normal(2, len(frames), seed=9)
    losses = centred_loss(derivatives_fn, frames, times, probes, group_size=group_size, sigma=sigma)
    return losses.view(repeats, 3), x, t


@pytest.mark.parametrize("name", DENSITIES)
def test_exact_densities_have_no_centred_loss(name):
    derivatives_fn = derivatives_of(DENSITIES[name](SCHEDULE))
    losses, _, _ = centred_losses(derivatives_fn, repeats=10_000)
    assert_mean(losses, torch.zeros(3, dtype=torch.float64))
    # Single estimates are not zero, and half of them are negative.
    assert float(losses.abs().min()) > 0.0
    assert 0.3 < float((losses < 0.0).double().mean()) < 0.7


@pytest.mark.parametrize("group_size", [2, 5])
def test_centred_loss_estimates_the_variance_of_the_residual(group_size):
    derivatives_fn = wrong_derivatives(SCHEDULE)
    losses, x, t = centred_losses(derivatives_fn, repeats=20_000, group_size=group_size)
    residual = weighted_residual(derivatives_fn, x, t).view(group_size, 3)
    expected = residual.var(dim=0)
    assert_mean(losses, expected)
    error = losses.std(dim=0) / len(losses) ** 0.5
    assert float((expected / error).max()) > 10.0


def test_centred_loss_by_hand():
    # Score -k x, so that all finite differences are exact, and two frames of one time.
    k, c, t = 1.7, 0.4, 0.3
    x, probes = samples(2), normal(2, 2)
    times = torch.full((2,), t, dtype=torch.float64)
    found = centred_loss(
        lambda x, _t: (-k * x, c * x.sum(dim=(1, 2))), x, times, probes, group_size=2, sigma=0.3
    )
    beta, sigma = 0.1 + 19.9 * t, math.sqrt(1.0 - math.exp(-0.1 * t - 9.95 * t * t))
    tau = (sigma**2 + FLOOR**2) / beta
    gamma = 0.5 * beta * ((k**2 - k) * x.square().sum(dim=(1, 2)) + 6) - c * x.sum(dim=(1, 2))
    first, second = tau * (-0.5 * beta * k * probes.square().sum(dim=(2, 3)) + gamma)
    # Of two numbers, the covariance is half the product of the differences.
    expected = 0.5 * (first[0] - first[1]) * (second[0] - second[1]) / 36
    torch.testing.assert_close(found, expected[None])


def test_one_estimate_per_time_in_their_order():
    derivatives_fn = wrong_derivatives(SCHEDULE)
    x, t, probes = samples(12), repeated_times(4), normal(2, 12)
    together = centred_loss(derivatives_fn, x, t, probes)
    assert together.shape == (3,)
    for i in range(3):
        alone = centred_loss(derivatives_fn, x[i::3], t[i::3], probes[:, i::3])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-9, atol=1e-12)


def test_regional_loss_is_the_variance_of_the_means_of_regions():
    # Residuals with known parts: one of the region, one of the frame, one of the probe.
    generator = torch.Generator().manual_seed(4)
    n_regions, size, repeats = 3, 5, 40_000
    of_regions = torch.tensor([0.7, -0.2, 0.1], dtype=torch.float64)

    def normal_numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    frames = of_regions[:, None, None] + 0.8 * normal_numbers(n_regions, size, repeats)
    pairs = frames + 1.5 * normal_numbers(2, n_regions, size, repeats)
    losses = regional_fokker_planck_loss(
        pairs.flatten(1), group_size=n_regions * size, region_size=size
    )
    assert losses.shape == (repeats,)
    assert_mean(losses, of_regions.var())
    assert float(losses.mean()) > 20.0 * float(losses.std()) / repeats**0.5


def test_regional_loss_by_hand():
    pairs = torch.tensor([[1.0, 3.0, 5.0, 9.0], [2.0, 2.0, 6.0, 4.0]], dtype=torch.float64)
    # Two regions of two frames: means 2, 7 and 2, 5; covariances within 0 and -4.
    between = 0.5 * (2.0 - 7.0) * (2.0 - 5.0)
    within = 0.5 * (0.5 * (1.0 - 3.0) * 0.0 + 0.5 * (5.0 - 9.0) * (6.0 - 4.0))
    found = regional_fokker_planck_loss(pairs, group_size=4, region_size=2)
    torch.testing.assert_close(found, torch.tensor([between - within / 2]).double())


def test_regional_loss_of_every_time_in_order():
    pairs = normal(2, 18)[:, :, 0, 0]
    together = regional_fokker_planck_loss(pairs, group_size=6, region_size=2)
    for i in range(3):
        alone = regional_fokker_planck_loss(pairs[:, i::3], group_size=6, region_size=2)
        torch.testing.assert_close(alone, together[i : i + 1])


def test_centred_loss_does_not_know_the_normalisation():
    derivatives_fn = wrong_derivatives(SCHEDULE)

    def shifted(x, t):
        score, time_derivative = derivatives_fn(x, t)
        return score, time_derivative + 30.0 * torch.cos(7.0 * t) / t

    x, t, probes = samples(12), repeated_times(4), normal(2, 12)
    expected = centred_loss(derivatives_fn, x, t, probes)
    torch.testing.assert_close(centred_loss(shifted, x, t, probes), expected)

    # What depends on the frame is an error.
    def tilted(x, t):
        score, time_derivative = derivatives_fn(x, t)
        return score, time_derivative + x[:, 0, 0]

    difference = centred_loss(tilted, x, t, probes) - expected
    assert float(difference.abs().min()) > 1e-6


def test_centred_loss_has_the_gradient_of_finite_differences():
    x, t, probes = samples(12), repeated_times(4), normal(2, 12)
    right = derivatives_of(mixture(SCHEDULE))
    bend = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(parameters):
        # Energy of the mixture and a small network with two parameters.
        def derivatives_fn(x, t):
            def extra(frame, time):
                inner = torch.tanh(bend @ frame.flatten() * parameters[0] + time)
                return parameters[1] * inner.square().sum()

            score, time_derivative = right(x, t)
            more = vmap(grad(extra, argnums=(0, 1)))(x, t)
            return score + more[0], time_derivative + more[1]

        return centred_loss(derivatives_fn, x, t, probes, sigma=1e-2).mean()

    parameters = torch.tensor([0.6, 0.8], dtype=torch.float64, requires_grad=True)
    loss(parameters).backward()
    for i, step in enumerate(1e-5 * torch.eye(2, dtype=torch.float64)):
        values = [float(loss((parameters + s * step).detach())) for s in (1, -1)]
        expected = (values[0] - values[1]) / 2e-5
        assert abs(expected) > 1e-3
        assert float(parameters.grad[i]) == pytest.approx(expected, rel=1e-6)


# --- Numbers of the public code --------------------------------------------------------------

PARITY = Path(__file__).parents[2] / "data" / "parity"
ENERGIES = {
    "mlp_potential_0_1": 1,
    "mlp_potential_0_0.1": 1,
    "graph_potential_aldp_0_0.1": 5,
    "graph_potential_dipeptide_0_0.1": 10,
}
#: Steps of the published time derivative, and standard deviation of its probes.
BACK, FORWARD, PROBE_SIGMA = 1e-3, 5e-4, 1e-4


class Published:
    """A network of the public code in float64, and its numbers."""

    def __init__(self, name):
        path = PARITY / f"{name}.npz"
        with np.load(path) as archive:
            self.numbers = {k: torch.from_numpy(v) for k, v in archive.items() if "param" not in k}
        self.model = load_jax_network(path, dtype=torch.float64)
        self.x = self.numbers["x"].reshape(6, ENERGIES[name], -1)
        self.t = self.numbers["fp_t"][:, 0]
        self.probes = self.numbers["fp_v"].reshape(2, *self.x.shape) / PROBE_SIGMA
        self.features = self.numbers.get("features")

    def features_of(self, x):
        return None if self.features is None else self.features.repeat(len(x) // 6, 1, 1)

    def log_density(self, x, t):
        return -self.model.energy(x, t, self.features_of(x))

    def derivatives(self, x, t):
        return self.model.score_and_time_derivative(x, t, self.features_of(x))

    def published_derivatives(self, x, t):
        """Score, and the published time derivative: second order on uneven, clipped steps."""
        low, high = self.numbers["t_range"].tolist()
        before, here, after = (
            self.log_density(x, time.clamp(low, high)) for time in (t - BACK, t, t + FORWARD)
        )
        slope = BACK**2 * after + (FORWARD**2 - BACK**2) * here - FORWARD**2 * before
        return self.derivatives(x, t)[0], slope / (BACK * FORWARD * (BACK + FORWARD))


@pytest.fixture(params=ENERGIES)
def published(request):
    return Published(request.param)


def assert_same(found, expected):
    tolerance = 1e-9 * float(expected.abs().max())
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=tolerance)


def test_exact_residual_is_that_of_the_public_code(published):
    residual = exact_residual(published.derivatives, SCHEDULE, published.x, published.t)
    assert_same(residual, published.numbers["fp_exact_residual"])


def test_divergence_is_that_of_the_public_code(published):
    x, t = published.x, published.t
    residual = exact_residual(published.derivatives, SCHEDULE, x, t)
    rest = remainder(SCHEDULE, x, t, *published.derivatives(x, t))
    divergence = (residual - rest) / (0.5 * SCHEDULE.beta(t))
    assert_same(divergence, published.numbers["divergence_of_score"])


def test_time_derivative_is_that_of_the_public_code(published):
    _, found = published.derivatives(published.x, published.t)
    assert_same(found, published.numbers["dlogq_dt"])


def test_weak_residual_is_that_of_the_public_code(published):
    found = weak_residual(
        published.published_derivatives,
        SCHEDULE,
        published.x,
        published.t,
        probes=published.probes,
        probe_sigma=PROBE_SIGMA,
    )
    assert_same(found, published.numbers["fp_weak_residual"])


@pytest.mark.parametrize("t", [1e-5, 1e-4, 5e-4])
def test_time_derivative_is_exact_where_the_published_one_is_clipped(published, t):
    times = torch.full((6,), t, dtype=torch.float64)
    _, found = published.derivatives(published.x, times)
    step = 1e-6
    after, before = (published.log_density(published.x, times + s * step) for s in (1, -1))
    expected = (after - before).detach() / (2.0 * step)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-6 * largest)
    _, clipped = published.published_derivatives(published.x, times)
    assert float((clipped.detach() - expected).abs().max()) > 0.05 * largest


def test_derivatives_are_detached_where_gradients_are_off(published):
    x, t = published.x, published.t
    expected = published.derivatives(x, t)
    assert all(value.requires_grad for value in expected)
    with torch.no_grad():
        found = published.derivatives(x, t)
    for value, other in zip(found, expected, strict=True):
        assert not value.requires_grad
        torch.testing.assert_close(value, other.detach(), rtol=1e-10, atol=1e-10)
    assert not x.requires_grad
    assert not t.requires_grad
    torch.testing.assert_close(found[0], published.model.score(x, t, published.features).detach())


def test_time_derivative_is_zero_where_times_are_clipped(published):
    high = float(published.numbers["t_range"][1])
    _, found = published.derivatives(
        published.x, torch.full((6,), high + 0.01, dtype=torch.float64)
    )
    assert not found.any()
    _, inside = published.derivatives(published.x, torch.full((6,), high, dtype=torch.float64))
    assert bool(inside.all())
