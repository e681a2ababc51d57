"""Jumps into a potential of another factor than the frames': the test has to make up for it."""

import numpy as np
import openmm
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.exact_density import ModelDensity
from openmm_scoremd.simulation.exact_jumps import ExactJumps
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.simulation.replicas import ReplicaSimulation

SCALE, FACTOR = 0.09, 0.6
#: Of the second Gaussian, which has a quarter of the data, when the potential has this factor.
SHARE = 0.25**FACTOR / (0.25**FACTOR + 0.75**FACTOR)


@pytest.fixture
def model(two_wells):
    return ScoreModelFile(two_wells())


def simulation(model, replicas, **options):
    options = {"seed": 0, "platform": "Reference", "backend": "pythonforce", **options}
    made = ReplicaSimulation(model, replicas=replicas, **options)
    frames = np.zeros((replicas, 1, 3))
    frames[:, 0, 0] = -SCALE
    made.set_positions(frames)
    return made


def exact_frames(n):
    """Frames (n, 1, 3), nm, of the scaled potential, drawn from a fine grid."""
    random = np.random.default_rng(7)
    grid = np.linspace(-3.0, 3.0, 601)
    wells = [w * np.exp(-0.5 * (grid - c) ** 2 / 0.04) for w, c in ((0.75, -1.0), (0.25, 1.0))]
    weights = sum(wells) ** FACTOR
    frames = np.zeros((n, 1, 3))
    frames[:, 0, 0] = random.choice(grid, size=n, p=weights / weights.sum())
    frames[:, 0, 1] = random.normal(scale=0.2 / np.sqrt(FACTOR), size=n)
    return SCALE * frames


# A coarse map has another density than the model, and folds space between the wells.
@pytest.mark.parametrize("n_steps", [8, 20])
def test_jumps_leave_the_distribution_as_it_is(model, n_steps):
    start = exact_frames(3000)
    replicas = simulation(model, len(start), potential_factor=FACTOR)
    replicas.set_positions(start)
    jumps = ExactJumps(replicas, ModelDensity(model, n_steps=n_steps), seed=1)
    jumped = jumps.jump()
    assert 0.2 < jumped.mean() < 0.95
    x, y, _ = (replicas.positions[:, 0] / SCALE).T
    assert np.mean(x > 0.0) == pytest.approx(SHARE, abs=0.03)
    assert np.mean(y**2) == pytest.approx(0.04 / FACTOR, rel=0.1)
    expected = np.mean((np.abs(start[:, 0, 0] / SCALE) - 1.0) ** 2)
    assert np.mean((np.abs(x) - 1.0) ** 2) == pytest.approx(expected, rel=0.1)
    # Those that jumped are not where the map's own frames would be.
    assert np.mean(y[jumped] ** 2) > 0.05


def test_jumps_alone_find_the_distribution(model):
    replicas = simulation(model, 500, potential_factor=FACTOR)
    jumps = ExactJumps(replicas, ModelDensity(model, n_steps=8), seed=1)
    for _ in range(4):
        jumps.jump()
    x, y = [], []
    for _ in range(2):
        jumps.jump()
        x.append(replicas.positions[:, 0, 0] / SCALE)
        y.append(replicas.positions[:, 0, 1] / SCALE)
    assert np.mean(np.array(x) > 0.0) == pytest.approx(SHARE, abs=0.06)
    assert np.mean(np.square(y)) == pytest.approx(0.04 / FACTOR, rel=0.15)


def test_velocities_and_places_stay(gaussian_pair):
    model = ScoreModelFile(gaussian_pair)
    replicas = ReplicaSimulation(model, replicas=10, seed=0, platform="Reference")
    replicas.set_positions(model.sample(10, seed=0, n_steps=20) + np.array([7.0, 0.0, 0.0]))
    before, velocities = replicas.phase_space()
    jumps = ExactJumps(replicas, ModelDensity(model, n_steps=30), seed=0)
    moved = jumps.jump()
    after = replicas.positions
    assert (jumps.attempts, jumps.accepted) == (10, moved.sum())
    assert moved.any()
    np.testing.assert_array_equal(replicas.velocities, velocities)
    np.testing.assert_array_equal(after[~moved], before[~moved])
    np.testing.assert_allclose(after.mean(axis=1), before.mean(axis=1), atol=1e-6)
    assert all(np.abs(after[r] - before[r]).max() > 1e-3 for r in np.flatnonzero(moved))


def test_same_seed_same_jumps(model):
    ends = []
    for seed in (1, 1, 2):
        replicas = simulation(model, 10)
        jumps = ExactJumps(replicas, ModelDensity(model, n_steps=8), seed=seed)
        jumps.jump()
        jumps.jump()
        assert jumps.accepted > 0
        ends.append(replicas.positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 0.0


def test_what_does_not_fit(model, toy):
    density = ModelDensity(model, n_steps=1)
    with pytest.raises(InvalidInputError, match="seed is -1; it must be at least 0"):
        ExactJumps(simulation(model, 2), density, seed=-1)
    other = ReplicaSimulation(ScoreModelFile(toy.path), replicas=2, seed=0, platform="Reference")
    with pytest.raises(InvalidInputError, match="has 4 beads, the density 1"):
        ExactJumps(other, density, seed=0)
    spring = openmm.CustomExternalForce("x^2")
    spring.addParticle(0, [])
    biased = simulation(model, 2, prepare_system=replicated([spring]))
    with pytest.raises(InvalidInputError, match="forces were added"):
        ExactJumps(biased, density, seed=0)
