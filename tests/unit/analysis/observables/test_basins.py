"""Basins of densities that are known."""

import numpy as np
import pytest

from openmm_scoremd.analysis.observables.basins import find_basins
from openmm_scoremd.errors import InvalidInputError

PERIOD = ((-180.0, 180.0), (-180.0, 180.0))


def wrap(angles):
    return (angles + 180.0) % 360.0 - 180.0


@pytest.fixture(scope="module")
def angles():
    """70 % around (180, 100), across the edge, and 30 % around (-60, -40)."""
    rng = np.random.default_rng(0)
    first = rng.random(8000) < 0.7
    centers = np.where(first[:, None], [180.0, 100.0], [-60.0, -40.0])
    return wrap(centers + 15.0 * rng.normal(size=(8000, 2))), first


def test_a_basin_across_the_edge_is_one(angles):
    values, first = angles
    basins = find_basins(values, limits=PERIOD)
    assert basins.n_basins == 2
    states = basins.assign(values)
    assert ((states == 0) == first).mean() > 0.999
    assert np.abs(wrap(basins.centers - [[180.0, 100.0], [-60.0, -40.0]])).max() < 12.0


def test_every_place_has_a_basin(angles):
    basins = find_basins(angles[0], limits=PERIOD)
    grid = np.stack(np.meshgrid(*[np.linspace(-180, 180, 50)] * 2), axis=-1)
    states = basins.assign(grid)
    assert states.shape == (50, 50)
    assert {*states.ravel()} == {0, 1}
    np.testing.assert_array_equal(states[:, 0], states[:, -1])


def test_one_hill_is_one_basin():
    values = np.random.default_rng(0).normal(size=(5000, 2))
    basins = find_basins(values, limits=None)
    assert basins.n_basins == 1
    assert np.abs(basins.centers).max() < 0.6


@pytest.mark.parametrize(("distance", "n_basins"), [(2.2, 1), (6.0, 2)])
def test_low_passes_do_not_separate(distance, n_basins):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20_000, 2))
    values[:, 0] += distance * (rng.random(20_000) < 0.5)
    assert find_basins(values, limits=None).n_basins == n_basins


def test_a_handful_of_strays_is_no_basin():
    rng = np.random.default_rng(0)
    strays = np.array([150.0, 150.0]) + rng.normal(size=(10, 2))
    values = np.concatenate([10.0 * rng.normal(size=(10_000, 2)), strays])
    assert find_basins(values, limits=PERIOD).n_basins == 1


def test_strays_outside_of_the_grid_belong_somewhere():
    values = np.random.default_rng(0).normal(size=(5000, 2))
    assert find_basins(values, limits=None).assign([[1e6, -1e6]]) == [0]


def test_impossible_input():
    with pytest.raises(InvalidInputError, match="3 columns"):
        find_basins(np.zeros((5, 3)), limits=None)
    with pytest.raises(InvalidInputError, match="all values are equal"):
        find_basins(np.zeros((5, 2)), limits=None)
