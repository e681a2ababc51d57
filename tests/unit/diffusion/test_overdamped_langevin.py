import math

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from openmm_scoremd.analysis.comparison.metrics import MUELLER_BROWN_LIMITS, js_divergence
from openmm_scoremd.data.toy import (
    MUELLER_BROWN_MASS,
    MUELLER_BROWN_THERMAL_ENERGY,
    mueller_brown_expression,
    mueller_brown_force,
    sample_mueller_brown,
)
from openmm_scoremd.diffusion.overdamped_langevin import (
    sample_denoising_trajectory,
    sample_time_parallel_trajectory,
)
from openmm_scoremd.diffusion.step_size import (
    largest_curvature,
    physical_timestep,
    require_stable,
    step_size_from_stiffness,
)
from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.units import MOLAR_GAS_CONSTANT

T = 0.01
DEEP_MINIMUM, SHALLOW_MINIMUM = (-0.558, 1.442), (0.623, 0.028)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def harmonic(variance):
    return lambda x, _t: -x / variance


def no_force(x, _t):
    return torch.zeros_like(x)


def mueller_brown_score(x, _t):
    force = mueller_brown_force(x.double().numpy())
    return torch.from_numpy(force / MUELLER_BROWN_THERMAL_ENERGY).to(x)


def springs(x, _t, *, stiffness=300.0):
    """Score of a chain of beads with harmonic bonds: no force on the centre."""
    bonds = x[:, 1:] - x[:, :-1]
    length = bonds.norm(dim=-1, keepdim=True)
    pull = stiffness * (1.0 - 0.7 / length) * bonds
    zero = torch.zeros_like(x[:, :1])
    return torch.cat([pull, zero], dim=1) - torch.cat([zero, pull], dim=1)


def centred(x):
    return x - x.mean(dim=1, keepdim=True)


def start(*shape, dtype=torch.float64, seed=9):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def sequential(score_fn, x0, *, seed=0, **options):
    return sample_denoising_trajectory(
        score_fn, x0, generator=seeded(seed), **{"t": T, "step_size": 0.01, **options}
    )


def in_parallel(score_fn, x0, *, seed=0, **options):
    return sample_time_parallel_trajectory(
        score_fn, x0, generator=seeded(seed), **{"t": T, "step_size": 0.01, **options}
    )


EITHER = pytest.mark.parametrize(
    "sampler",
    [sequential, lambda *a, **k: in_parallel(*a, window=8, **k).frames],
    ids=["sequential", "time-parallel"],
)


class TestSequential:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_euler_maruyama(self, dtype):
        x0, step_size, ratio = start(4, 3, 2, dtype=dtype), 0.02, 0.7
        found = sequential(
            harmonic(0.5), x0, step_size=step_size, n_frames=5, steps_per_frame=3,
            temperature_ratio=ratio, seed=3,
        )  # fmt: skip
        assert found.dtype == dtype
        generator, x = seeded(3), x0
        for i in range(15):
            noise = torch.randn(x.shape, generator=generator, dtype=dtype)
            x = x - step_size * x / 0.5 + math.sqrt(2.0 * step_size * ratio) * noise
            if i % 3 == 2:
                torch.testing.assert_close(found[:, i // 3], x)

    def test_the_score_is_asked_at_the_fixed_time(self):
        times = []

        def score_fn(x, t):
            assert t.shape == (x.shape[0],)
            assert t.dtype == x.dtype
            times.extend(t.tolist())
            return -x

        reports = []
        sequential(
            score_fn, start(2, 1, 1), t=0.25, n_frames=2, steps_per_frame=2,
            progress=lambda *numbers: reports.append(numbers),
        )  # fmt: skip
        assert times == [0.25] * 8
        assert reports == [(i, 4) for i in range(1, 5)]

    def test_projection(self):
        x0 = start(50, 3, 3)
        found = sequential(springs, x0, n_frames=40, step_size=1e-4, project=centred)
        assert float(found.mean(dim=2).abs().max()) < 1e-12
        # Relative positions are those of chains that are free to drift.
        free = sequential(springs, x0, n_frames=40, step_size=1e-4)
        torch.testing.assert_close(centred(free[:, -1]), found[:, -1], rtol=0.0, atol=1e-9)


class TestPhysics:
    @pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
    def test_variance_of_a_gaussian(self, share):
        # What Euler-Maruyama does to a variance is known, its error of first order included.
        n, variance = 40_000, 0.09
        step_size = share * variance
        x = sequential(
            harmonic(variance), math.sqrt(variance) * start(n, 1, 1), step_size=step_size,
            n_frames=1, steps_per_frame=round(8.0 / share),
        )  # fmt: skip
        expected = variance / (1.0 - step_size / (2.0 * variance))
        assert float(x.var()) == pytest.approx(expected, rel=4.0 * math.sqrt(2.0 / n))
        assert abs(float(x.mean())) < 4.0 * math.sqrt(expected / n)

    @pytest.mark.parametrize("ratio", [0.5, 2.0])
    def test_noise_of_another_temperature(self, ratio):
        n = 20_000
        x = sequential(
            harmonic(0.09), 0.3 * start(n, 1, 1), step_size=0.0045, n_frames=1,
            steps_per_frame=120, temperature_ratio=ratio,
        )  # fmt: skip
        expected = ratio * 0.09 / (1.0 - 0.025)
        assert float(x.var()) == pytest.approx(expected, rel=4.0 * math.sqrt(2.0 / n))

    def test_no_noise_walks_downhill(self):
        # The sign of the drift: the published Algorithm 1 goes uphill.
        x0 = start(5, 2, 3)
        x = sequential(harmonic(1.0), x0, n_frames=10, temperature_ratio=0.0)
        torch.testing.assert_close(x[:, -1], 0.99**10 * x0)

    def test_free_diffusion(self):
        n, step_size = 20_000, 0.03
        x = sequential(no_force, torch.zeros(n, 1, 1), step_size=step_size, n_frames=50)
        frames = torch.arange(1, 51)
        squared = x[:, :, 0, 0].square().mean(dim=0) / (2.0 * step_size * frames)
        assert squared.tolist() == pytest.approx([1.0] * 50, rel=4.0 * math.sqrt(2.0 / n))

    @staticmethod
    def moments(weight, score, stiffness):
        """Mean and variance of the step that the kernel draws, by quadrature."""
        delta = torch.linspace(-3.0, 3.0, 60_001, dtype=torch.float64)
        density = torch.softmax(weight * score * delta - stiffness * delta**2, dim=0)
        mean = float((density * delta).sum())
        return mean, float((density * (delta - mean) ** 2).sum())

    def test_springs_are_euler_maruyama_at_half_the_weight_of_the_score(self):
        score, stiffness = -3.0, 20.0
        step_size = step_size_from_stiffness(stiffness)
        mean, variance = self.moments(0.5, score, stiffness)
        assert mean == pytest.approx(step_size * score, rel=1e-9)
        assert variance == pytest.approx(2.0 * step_size, rel=1e-9)

    def test_the_score_at_full_weight_would_halve_the_temperature(self):
        # The drift of a step of twice the size with the noise of one: the error to guard against.
        score, stiffness, n, sigma2 = -3.0, 20.0, 20_000, 0.5
        step_size = step_size_from_stiffness(stiffness)
        mean, variance = self.moments(1.0, score, stiffness)
        assert mean == pytest.approx(2.0 * step_size * score, rel=1e-9)
        assert variance == pytest.approx(2.0 * step_size, rel=1e-9)

        options = {"step_size": step_size, "n_frames": 1, "steps_per_frame": 200}
        x0 = math.sqrt(sigma2) * start(n, 1, 1)
        right = float(sequential(harmonic(sigma2), x0, **options).var())
        wrong = float(sequential(harmonic(0.5 * sigma2), x0, **options).var())
        error = 4.0 * math.sqrt(2.0 / n)
        assert right == pytest.approx(sigma2 / (1.0 - step_size / (2.0 * sigma2)), rel=error)
        assert wrong == pytest.approx(0.5 * sigma2 / (1.0 - step_size / sigma2), rel=error)
        assert right > 1.9 * wrong


class TestTimeParallel:
    @pytest.mark.parametrize("window", [1, 2, 7, 16, 100])
    @pytest.mark.parametrize("steps_per_frame", [1, 5])
    def test_is_the_sequential_chain(self, window, steps_per_frame):
        x0 = torch.tensor([DEEP_MINIMUM, SHALLOW_MINIMUM, (-0.8, 0.6)]).double()[:, None]
        options = {"step_size": 1e-3, "n_frames": 12, "steps_per_frame": steps_per_frame}
        expected = sequential(mueller_brown_score, x0, seed=4, **options)
        found = in_parallel(
            mueller_brown_score, x0, seed=4, window=window, tolerance=1e-7, **options
        )
        assert float((found.frames - expected).abs().max()) < 1e-6
        assert found.n_steps == 12 * steps_per_frame
        assert found.iterations <= found.n_steps
        if window == 1:
            assert found.iterations == found.n_steps

    def test_tolerance_is_the_error(self):
        x0, options = start(8, 4, 3), {"step_size": 1e-4, "n_frames": 100, "project": centred}
        expected = sequential(springs, x0, **options)
        iterations = []
        for tolerance in (1e-3, 1e-5, 1e-7, 0.0):
            found = in_parallel(springs, x0, window=20, tolerance=tolerance, **options)
            error = float((found.frames - expected).abs().max())
            assert error < 3.0 * tolerance + 1e-11
            iterations.append(found.iterations)
        assert iterations == sorted(iterations)
        assert iterations[0] < 40
        assert iterations[-1] <= 100

    def test_noise_is_drawn_as_in_the_sequential_chain(self):
        generators = seeded(1), seeded(1)
        options = {"t": T, "step_size": 0.01, "n_frames": 30}
        x0 = start(3, 2, 1)
        sample_denoising_trajectory(harmonic(1.0), x0, generator=generators[0], **options)
        sample_time_parallel_trajectory(
            harmonic(1.0), x0, generator=generators[1], window=8, **options
        )
        assert torch.equal(generators[0].get_state(), generators[1].get_state())

    def test_calls_hold_at_most_a_window(self):
        sizes, reports = [], []

        def score_fn(x, t):
            assert t.shape == x.shape[:1]
            sizes.append(len(x))
            return -x

        found = in_parallel(
            score_fn, start(3, 2, 1), n_frames=25, window=8,
            progress=lambda *numbers: reports.append(numbers),
        )  # fmt: skip
        assert len(sizes) == found.iterations == len(reports)
        assert sizes[0] == max(sizes) == 24
        assert reports[-1] == (25, 25)
        done = [number for number, _ in reports]
        assert sorted(set(done)) == done

    def test_a_constant_score_needs_two_calls_a_window(self):
        # The first is right, the second finds out.
        found = in_parallel(no_force, start(3, 2, 1), n_frames=32, window=8)
        assert found.iterations == 8

    def test_a_guess_that_overflows_does_no_harm(self):
        def steep(x, _t):
            return -(x**3)

        x0 = torch.full((2, 1, 1), 3.0)
        options = {"n_frames": 60, "step_size": 0.05}
        nearby = sequential(steep, x0, **options)
        guesses = []

        def watched(x, t):
            guesses.append(bool(torch.isfinite(x).all()))
            return steep(x, t)

        found = in_parallel(watched, x0, window=60, **options)
        assert not all(guesses)
        torch.testing.assert_close(found.frames, nearby, rtol=0.0, atol=1e-4)

    def test_rounding_errors_of_the_centre_do_not_grow(self):
        # Single precision, away from the origin: without a projection of every sweep the centre
        # would need one iteration per step.
        x0 = start(4, 5, 3, dtype=torch.float32) + 3.0
        options = {"step_size": 1e-5, "n_frames": 64, "project": centred}
        found = in_parallel(springs, x0, window=32, tolerance=1e-5, **options)
        assert found.iterations < 20
        expected = sequential(springs, x0, **options)
        torch.testing.assert_close(found.frames, expected, rtol=0.0, atol=3e-5)


class TestStepSize:
    def test_of_springs(self):
        assert step_size_from_stiffness(50.0) == 0.005

    def test_units(self):
        # m gamma eta scale^2 / kT with OpenMM's units.
        scale, temperature = 0.094 * unit.nanometer, 300.0 * unit.kelvin
        mass, friction = 12.0 * unit.dalton, 5.0 / unit.picosecond
        energy = unit.MOLAR_GAS_CONSTANT_R * temperature
        expected = (mass * friction * 1e-4 * scale**2 / energy).value_in_unit(unit.picosecond)
        system = {
            "mass": 12.0,
            "friction": 5.0,
            "scale": 0.094,
            "thermal_energy": MOLAR_GAS_CONSTANT * 300.0,
        }
        found = physical_timestep(1e-4, **system)
        assert found == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
    def test_impossible_numbers(self, value):
        with pytest.raises(InvalidInputError, match="stiffness is"):
            step_size_from_stiffness(value)
        system = {"mass": 1.0, "friction": 1.0, "scale": 1.0, "thermal_energy": 1.0}
        with pytest.raises(InvalidInputError, match="step_size is"):
            physical_timestep(value, **system)
        for name in system:
            with pytest.raises(InvalidInputError, match=f"{name} is"):
                physical_timestep(1.0, **{**system, name: value})

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_curvature_of_an_uneven_gaussian(self, dtype):
        stiffness = torch.tensor([[1.0, 20.0, 300.0], [4.0, 5.0, 250.0]], dtype=dtype)
        found = largest_curvature(lambda x, _t: -stiffness * x, start(10, 2, 3, dtype=dtype), t=T)
        assert found == pytest.approx(300.0, rel=0.02)

    def test_curvature_of_mueller_brown(self):
        x = torch.tensor([[DEEP_MINIMUM], [SHALLOW_MINIMUM]]).double()
        assert largest_curvature(mueller_brown_score, x, t=T) == pytest.approx(176.9, rel=0.01)

    def test_no_curvature(self):
        assert largest_curvature(no_force, start(2, 1, 1), t=T) == 0.0
        require_stable(1e9, 0.0)

    def test_unusable_score(self):
        with pytest.raises(NumericalError, match="not finite at the given frames"):
            largest_curvature(lambda x, _t: x / 0.0, start(2, 1, 1), t=T)

    def test_limit(self):
        require_stable(0.0199, 100.0)
        for step_size in (0.02, 1.0, math.nan):
            with pytest.raises(InvalidInputError, match=r"well below 0.02 \(stiffness well above"):
                require_stable(step_size, 100.0)

    def test_the_limit_is_where_steps_grow(self):
        x0 = start(4, 1, 1)
        stable, unstable = (
            sequential(harmonic(0.01), x0, step_size=size, n_frames=1, steps_per_frame=2000)
            for size in (0.0195, 0.0205)
        )
        assert float(stable.abs().max()) < 10.0
        assert float(unstable.abs().max()) > 1e6


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_frames": 0}, "n_frames is 0"),
            ({"steps_per_frame": -1}, "steps_per_frame is -1"),
            ({"step_size": 0.0}, "step_size is 0.0"),
            ({"step_size": math.nan}, "step_size is nan"),
            ({"temperature_ratio": -0.1}, "temperature_ratio is -0.1"),
            ({"t": 0.0}, "t is 0.0"),
            ({"t": 1.5}, "t is 1.5"),
        ],
    )
    @EITHER
    def test_numbers(self, sampler, options, message):
        with pytest.raises(InvalidInputError, match=message):
            sampler(harmonic(1.0), start(2, 1, 1), **{"n_frames": 2, **options})

    @pytest.mark.parametrize(
        "x0", [torch.zeros(3, 2), torch.zeros(0, 1, 1), torch.zeros(1, 1, 1).long()]
    )
    @EITHER
    def test_starts(self, sampler, x0):
        with pytest.raises(InvalidInputError, match=r"must be \(chains, beads, dimensions\)"):
            sampler(harmonic(1.0), x0, n_frames=2)
        with pytest.raises(InvalidInputError, match="NaN or infinity"):
            sampler(harmonic(1.0), torch.full((2, 1, 1), math.nan), n_frames=2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"window": 0}, "window is 0"), ({"tolerance": -1.0}, "tolerance is -1.0")],
    )
    def test_window(self, options, message):
        with pytest.raises(InvalidInputError, match=message):
            in_parallel(harmonic(1.0), start(2, 1, 1), n_frames=2, **{"window": 4, **options})

    @EITHER
    def test_chains_that_leave(self, sampler):
        x0 = torch.tensor([0.1, 50.0, 60.0])[:, None, None]
        with pytest.raises(NumericalError, match=r"2 of 3 chains .* smaller step size"):
            sampler(lambda x, _t: -(x**3), x0, step_size=0.01, n_frames=2, steps_per_frame=20)


# --- Against an independent simulation of the same physics -----------------------------------

CHAINS, FRAMES, STEPS_PER_FRAME = 800, 2600, 10
FRICTION = 10.0
STEP_SIZE = 0.4 / 178.0  # Largest curvature of Müller-Brown at this temperature: 178 / nm**2.


def brownian_frames(timestep):
    """Frames (chains, frames, 2) in nm of overdamped Langevin dynamics in OpenMM."""
    system = openmm.System()
    force = openmm.CustomExternalForce(mueller_brown_expression())
    for i in range(CHAINS):
        system.addParticle(MUELLER_BROWN_MASS)
        force.addParticle(i, [])
    system.addForce(force)
    temperature = MUELLER_BROWN_THERMAL_ENERGY / MOLAR_GAS_CONSTANT
    integrator = openmm.BrownianIntegrator(temperature, FRICTION, timestep)
    integrator.setRandomNumberSeed(7)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(np.tile([*DEEP_MINIMUM, 0.0], (CHAINS, 1)))
    frames = []
    for _ in range(FRAMES):
        integrator.step(STEPS_PER_FRAME)
        state = context.getState(positions=True)
        frames.append(state.getPositions(asNumpy=True)._value[:, :2])
    return np.stack(frames, axis=1)


def passage_time(frames, interval):
    """Mean first passage time to the shallow minimum, and its standard error.

    Of exponential times some of which are cut off; both sides are cut off at the same time.
    """
    inside = np.linalg.norm(frames - np.array(SHALLOW_MINIMUM), axis=-1) < 0.15
    arrived = inside.any(axis=1)
    waited = np.where(arrived, inside.argmax(axis=1) + 1, frames.shape[1]).sum() * interval
    return waited / arrived.sum(), waited / arrived.sum() ** 1.5


@pytest.mark.slow
def test_mueller_brown_visits_the_right_places_at_the_right_times():
    timestep = physical_timestep(
        STEP_SIZE,
        mass=MUELLER_BROWN_MASS,
        friction=FRICTION,
        scale=1.0,
        thermal_energy=MUELLER_BROWN_THERMAL_ENERGY,
    )
    x0 = torch.tensor(DEEP_MINIMUM).double().expand(CHAINS, 1, 2)
    frames = sequential(
        mueller_brown_score, x0, step_size=STEP_SIZE, n_frames=FRAMES,
        steps_per_frame=STEPS_PER_FRAME,
    )[:, :, 0].numpy()  # fmt: skip

    interval = STEPS_PER_FRAME * timestep
    found, error = passage_time(frames, interval)
    expected, expected_error = passage_time(brownian_frames(timestep), interval)
    assert error < 0.05 * found
    assert found == pytest.approx(expected, abs=3.5 * math.hypot(error, expected_error))

    # Frames of one chain this far apart are hardly correlated.
    late = frames[:, FRAMES // 2 :: 300].reshape(-1, 2)
    exact = sample_mueller_brown(len(late) + 200_000, seed=1).positions[:, 0].astype(float)
    reference, other = exact[len(late) :], exact[: len(late)]
    options = {"bins": 30, "limits": MUELLER_BROWN_LIMITS}
    floor = js_divergence(reference, other, **options)
    assert js_divergence(reference, late, **options) < 1.6 * floor
