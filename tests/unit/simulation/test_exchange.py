"""Ladders over two Gaussians whose populations, 3 : 1, no level alone can find."""

import numpy as np
import openmm
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.exchange import ReplicaExchange
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.simulation.replicas import ReplicaSimulation

SCALE = 0.09
FAST = {"platform": "Reference", "friction": 5.0, "timestep": 0.01, "backend": "pythonforce"}


@pytest.fixture
def model(two_wells):
    return ScoreModelFile(two_wells())


def simulation(model, replicas, seed=0, **options):
    made = ReplicaSimulation(model, replicas=replicas, seed=seed, **{**FAST, **options})
    frames = np.zeros((replicas, 1, 3))
    frames[:, 0, 0] = -SCALE  # All begin in the well on the left.
    made.set_positions(frames)
    return made


def noise_levels(model, times, replicas, **options):
    return [
        simulation(model, replicas, seed, diffusion_time=t, **options)
        for seed, t in enumerate(times)
    ]


class FrozenLevel:
    """A level whose moves are exact independent draws, so that only exchanges are tested."""

    temperature, added_forces_sha256 = 300.0, ""

    def __init__(self, model, replicas, centre, width, temperature=300.0):
        self.model, self.replicas = model, replicas
        self.centre, self.width, self.temperature = centre, width, temperature
        self.positions = np.zeros((replicas, 1, 3))
        self.velocities = np.ones((replicas, 1, 3))
        self.seed = int(1e6 * width + temperature)
        self.random = np.random.default_rng(int(1e6 * width))
        self.draw()

    def draw(self):
        self.positions[:, 0, 0] = self.random.normal(self.centre, self.width, self.replicas)

    def phase_space(self):
        return self.positions.copy(), self.velocities.copy()

    def set_phase_space(self, positions, velocities):
        self.positions, self.velocities = positions.copy(), velocities.copy()

    def model_energies(self, frames):
        kt = 0.0083144626 * self.temperature
        return 0.5 * kt * ((frames[:, 0, 0] - self.centre) / self.width) ** 2 + 17.0 * self.centre

    def step(self, steps):
        pass


def test_exchanges_leave_every_level_as_it_is(model):
    """Independent draws before an exchange must be draws from the same densities afterwards."""
    levels = [FrozenLevel(model, 20_000, 0.0, 1.0), FrozenLevel(model, 20_000, 0.8, 2.0)]
    exchange = ReplicaExchange(levels, seed=0)
    exchange.exchange()
    assert 0.3 < exchange.acceptance[0] < 0.9
    for level in levels:
        found = level.positions[:, 0, 0]
        assert found.mean() == pytest.approx(level.centre, abs=4 * level.width / 20_000**0.5)
        assert found.std() == pytest.approx(level.width, rel=0.02)
        fourth = np.mean((found - level.centre) ** 4) / level.width**4
        assert fourth == pytest.approx(3.0, rel=0.1)


def test_acceptance_is_that_of_theory(model):
    widths = 1.0, 2.0
    levels = [FrozenLevel(model, 50_000, 0.0, width) for width in widths]
    exchange = ReplicaExchange(levels, seed=0)
    exchange.exchange()
    first, second = (
        np.random.default_rng(5 + i).normal(0, w, 400_000) for i, w in enumerate(widths)
    )
    gain = 0.5 * (first**2 - second**2) * (1 / widths[0] ** 2 - 1 / widths[1] ** 2)
    expected = np.minimum(1.0, np.exp(gain)).mean()
    assert exchange.acceptance[0] == pytest.approx(expected, abs=0.01)


def test_velocities_follow_their_frames_to_the_other_temperature(model):
    levels = [FrozenLevel(model, 5, 0.0, 1.0, temperature) for temperature in (300.0, 1200.0)]
    levels[1].positions[:] = levels[0].positions  # Certain to be accepted.
    levels[1].velocities[:] = 4.0
    ReplicaExchange(levels, seed=0).exchange()
    np.testing.assert_allclose(levels[0].velocities, 4.0 * 0.5)
    np.testing.assert_allclose(levels[1].velocities, 1.0 * 2.0)


def test_noise_levels_find_the_populations_that_one_level_does_not(model):
    alone = simulation(model, 500)
    alone.step(300)
    assert (alone.positions[:, 0, 0] < 0.0).all()
    levels = [
        simulation(model, 500, seed, diffusion_time=t, timestep=step)
        for seed, (t, step) in enumerate([(1e-5, 0.01), (0.04, 0.02), (0.13, 0.02)])
    ]
    exchange = ReplicaExchange(levels, seed=1)
    exchange.run(80, steps=6)
    seen = []
    exchange.run(30, steps=6, observe=lambda: seen.append(exchange.levels[0].positions[:, 0, :2]))
    assert (exchange.acceptance > 0.2).all()
    assert exchange.arrivals > 500
    x, y = np.array(seen).reshape(-1, 2).T / SCALE
    assert np.mean(x > 0.0) == pytest.approx(0.25, abs=0.05)
    for inside in (x < 0.0, x > 0.0):
        assert np.abs(x[inside]).mean() == pytest.approx(1.0, abs=0.02)
        assert x[inside].std() == pytest.approx(0.2, rel=0.1)
        assert y[inside].std() == pytest.approx(0.2, rel=0.1)


def test_levels_may_be_files_of_several_times(two_wells):
    paths = [two_wells(t=t) for t in (1e-5, 0.05)]
    levels = [simulation(ScoreModelFile(path), 8, i) for i, path in enumerate(paths)]
    exchange = ReplicaExchange(levels, seed=0)
    exchange.run(6, steps=5)
    assert 0.0 < exchange.acceptance[0] <= 1.0
    assert exchange.attempts[0] == 24  # Of one pair, every other time.


def test_walkers_are_where_their_frames_are(model):
    exchange = ReplicaExchange(noise_levels(model, (1e-5, 0.02, 0.05), 4), seed=0)
    marked = [level.positions for level in exchange.levels]
    for index, (level, frames) in enumerate(zip(exchange.levels, marked, strict=True)):
        frames[:, 0, 2] = 10.0 * index  # Nothing depends on z.
        level.set_phase_space(frames, level.velocities)
    for _ in range(20):
        exchange.exchange()
        z = np.array([level.positions[:, 0, 2] for level in exchange.levels])
        np.testing.assert_allclose(z, 10.0 * exchange.walkers)
    assert (np.sort(exchange.walkers, axis=0) == np.arange(3)[:, None]).all()
    assert exchange.arrivals > 0


def test_same_seed_same_exchanges(model):
    ends = []
    for seed in (1, 1, 2):
        exchange = ReplicaExchange(noise_levels(model, (1e-5, 0.02), 5), seed=seed)
        exchange.run(10, steps=2)
        ends.append(exchange.levels[0].positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 0.0


def restraint(stiffness):
    force = openmm.CustomExternalForce(f"{stiffness} * x^2")
    force.addParticle(0, [])
    return replicated([force])


class TestLevelsThatDoNotFit:
    def test_too_few(self, model):
        with pytest.raises(InvalidInputError, match="two or more"):
            ReplicaExchange([simulation(model, 2)], seed=0)

    def test_replicas(self, model):
        with pytest.raises(InvalidInputError, match="level 1 has 3 replicas of 1 beads"):
            ReplicaExchange([simulation(model, 2), simulation(model, 3)], seed=0)

    def test_forces(self, model):
        levels = [simulation(model, 2, prepare_system=restraint(k)) for k in (1.0, 2.0)]
        with pytest.raises(InvalidInputError, match="do not cancel"):
            ReplicaExchange(levels, seed=0)
        same = [simulation(model, 2, seed, prepare_system=restraint(1.0)) for seed in range(2)]
        ReplicaExchange(same, seed=0)
        hot = simulation(model, 2, prepare_system=restraint(1.0), temperature=400.0)
        with pytest.raises(InvalidInputError, match="do not cancel"):
            ReplicaExchange([same[0], hot], seed=0)

    @pytest.mark.parametrize("platform", ["Reference", "CPU"])
    def test_seeds(self, model, platform):
        levels = [simulation(model, 2, seed, platform=platform) for seed in (4, 5, 4)]
        with pytest.raises(InvalidInputError, match="levels 0 and 2 have the same seed, 4"):
            ReplicaExchange(levels, seed=0)

    def test_numbers(self, model):
        levels = noise_levels(model, (1e-5, 0.02), 2)
        with pytest.raises(InvalidInputError, match="seed is -1"):
            ReplicaExchange(levels, seed=-1)
        for numbers in ({"sweeps": 0, "steps": 1}, {"sweeps": 1, "steps": 0}):
            with pytest.raises(InvalidInputError, match="is 0; it must be at least 1"):
                ReplicaExchange(levels, seed=0).run(**numbers)
