"""Müller-Brown: published minima, OpenMM, finite differences and quadrature."""

import numpy as np
import openmm
import pytest
from scipy import stats

from openmm_scoremd.data import toy
from openmm_scoremd.data.toy import (
    MUELLER_BROWN_THERMAL_ENERGY,
    mueller_brown_energy,
    mueller_brown_expression,
    mueller_brown_force,
    sample_mueller_brown,
)
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.units import thermal_energy


@pytest.fixture
def points():
    return np.random.default_rng(2).uniform([-1.8, -0.5], [1.1, 2.0], size=(50, 2))


@pytest.mark.parametrize(
    ("minimum", "energy"),
    [((-0.558, 1.442), -146.700), ((0.623, 0.028), -108.167), ((-0.050, 0.467), -80.768)],
)
def test_published_minima(minimum, energy):
    assert mueller_brown_energy(minimum) == pytest.approx(energy, abs=2e-3)
    # A force of 1 kJ/(mol nm) is what rounding the minimum to three digits leaves.
    assert np.abs(mueller_brown_force(minimum)).max() < 1.0


def test_force_is_minus_the_gradient(points):
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        difference = mueller_brown_energy(points - step) - mueller_brown_energy(points + step)
        np.testing.assert_allclose(
            mueller_brown_force(points)[:, axis], difference / 2e-5, rtol=1e-6, atol=1e-5
        )


def test_openmm_computes_the_same_energy_and_force(points):
    system = openmm.System()
    force = openmm.CustomExternalForce(mueller_brown_expression())
    system.addParticle(toy.MUELLER_BROWN_MASS)
    force.addParticle(0)
    system.addForce(force)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for point in points[:10]:
        context.setPositions([[*point, 0.3]])
        state = context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy()._value
        assert energy == pytest.approx(float(mueller_brown_energy(point)), rel=1e-12)
        forces = state.getForces(asNumpy=True)._value[0]
        np.testing.assert_allclose(forces[:2], mueller_brown_force(point), rtol=1e-10)


def test_shapes_follow_the_positions(points):
    batch = points.reshape(5, 10, 2)
    assert mueller_brown_energy(batch).shape == (5, 10)
    assert mueller_brown_force(batch).shape == (5, 10, 2)
    with pytest.raises(InvalidInputError, match=r"\(50, 1\)"):
        mueller_brown_energy(points[:, :1])


def test_envelope_is_nowhere_above_the_energy():
    envelope = toy._Envelope()
    generator = np.random.default_rng(0)
    inside = envelope._corners + toy._CELL * generator.random(envelope._corners.shape)
    for corner in (inside, envelope._corners, envelope._corners + toy._CELL):
        excess = mueller_brown_energy(corner) - envelope._floors
        assert (excess / np.maximum(1.0, np.abs(envelope._floors))).min() > -1e-12


def marginals():
    """Return exact marginal distribution functions on a grid, by quadrature."""
    x = np.linspace(-4.2, 2.2, 1281)
    y = x + 2.0
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    density = np.exp(-(mueller_brown_energy(grid) + 147.0) / MUELLER_BROWN_THERMAL_ENERGY)
    functions = []
    for axis, nodes in enumerate((x, y)):
        weights = density.sum(axis=1 - axis)
        trapezoids = np.concatenate([[0.0], np.cumsum(0.5 * (weights[1:] + weights[:-1]))])
        functions.append((nodes, trapezoids / trapezoids[-1]))
    return functions


def test_samples_follow_the_boltzmann_distribution():
    positions = sample_mueller_brown(100_000, seed=11).positions[:, 0]
    for axis, (nodes, cumulative) in enumerate(marginals()):
        result = stats.kstest(
            positions[:, axis], lambda z, n=nodes, c=cumulative: np.interp(z, n, c)
        )
        assert result.pvalue > 1e-3
    # The two deep minima, which marginals mix: weight right of x = 0 with y below 0.8.
    right = (positions[:, 0] > 0.0) & (positions[:, 1] < 0.8)
    x = np.linspace(-4.2, 2.2, 1601)
    grid = np.stack(np.meshgrid(x, x + 2.0, indexing="ij"), axis=-1)
    density = np.exp(-(mueller_brown_energy(grid) + 147.0) / MUELLER_BROWN_THERMAL_ENERGY)
    inside = (grid[..., 0] > 0.0) & (grid[..., 1] < 0.8)
    expected = density[inside].sum() / density.sum()
    assert right.mean() == pytest.approx(expected, abs=4.0 * (expected / 100_000) ** 0.5 + 2e-3)


def test_samples_are_independent_and_reproducible():
    dataset = sample_mueller_brown(5000, seed=1)
    assert dataset.positions.shape == (5000, 1, 2)
    x = dataset.positions[:, 0, 0].astype(float)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5.0 / 5000**0.5
    np.testing.assert_array_equal(sample_mueller_brown(5000, seed=1).positions, dataset.positions)
    assert not np.array_equal(sample_mueller_brown(5000, seed=2).positions, dataset.positions)


def test_dataset_has_the_temperature_and_mass_of_the_paper():
    dataset = sample_mueller_brown(3, seed=0)
    assert thermal_energy(dataset.temperature) == pytest.approx(23.0)
    assert dataset.topology.masses == (0.5,)
    with pytest.raises(InvalidInputError, match="n is 0"):
        sample_mueller_brown(0, seed=0)
