import math

import numpy as np
import pytest

from openmm_scoremd.analysis.observables.free_energy import (
    dihedral_free_energy_1d,
    dihedral_free_energy_2d,
    free_energy_1d,
    free_energy_2d,
    wrap_angles,
)
from openmm_scoremd.errors import InvalidInputError


class TestPlane:
    def test_by_hand(self):
        samples = [[0.1, 0.1]] * 4 + [[0.9, 0.1]] * 2 + [[0.9, 0.9]]
        surface = free_energy_2d(samples, bins=2, limits=((0.0, 1.0), (0.0, 1.0)))
        expected = [[0.0, math.inf], [math.log(2), math.log(4)]]
        np.testing.assert_allclose(surface.values, expected)
        assert surface.x_edges.tolist() == surface.y_edges.tolist() == [0.0, 0.5, 1.0]
        assert surface.outside == 0

    def test_first_coordinate_is_the_first_axis(self):
        surface = free_energy_2d([[2.5, 7.5]], bins=2, limits=((0.0, 4.0), (0.0, 10.0)))
        assert surface.values[1, 1] == 0
        assert surface.x_edges[-1] == 4
        assert surface.y_edges[-1] == 10

    def test_a_gaussian_is_a_parabola(self):
        samples = np.random.default_rng(0).normal(size=(400_000, 2)) * [1.0, 2.0]
        surface = free_energy_2d(samples, bins=15, limits=((-1.5, 1.5), (-3.0, 3.0)))
        x = (surface.x_edges[1:] + surface.x_edges[:-1]) / 2
        y = (surface.y_edges[1:] + surface.y_edges[:-1]) / 2
        expected = x[:, None] ** 2 / 2 + y[None] ** 2 / 8
        difference = surface.values - expected
        assert np.abs(difference - difference.mean()).max() < 0.15

    def test_replicas_are_pooled(self):
        samples = np.random.default_rng(0).random((4, 50, 2))
        limits = ((0.0, 1.0), (0.0, 1.0))
        pooled = free_energy_2d(samples.reshape(-1, 2), bins=3, limits=limits)
        np.testing.assert_array_equal(
            free_energy_2d(samples, bins=3, limits=limits).values, pooled.values
        )

    def test_says_what_lies_outside(self):
        samples = [[0.5, 0.5]] * 3 + [[0.5, 2.0]]
        surface = free_energy_2d(samples, bins=2, limits=((0.0, 1.0), (0.0, 1.0)))
        assert surface.outside == 0.25


class TestLine:
    def test_by_hand(self):
        profile = free_energy_1d([0.1, 0.2, 0.7, 9.0], bins=4, limits=(0.0, 1.0))
        np.testing.assert_allclose(profile.values, [0.0, math.inf, math.log(2), math.inf])
        assert profile.centers.tolist() == [0.125, 0.375, 0.625, 0.875]
        assert profile.outside == 0.25

    def test_replicas_are_pooled(self):
        profile = free_energy_1d([[0.1, 0.6], [0.2, 0.3]], bins=2, limits=(0.0, 1.0))
        np.testing.assert_allclose(profile.values, [0.0, math.log(3)])


class TestAngles:
    def test_any_period(self):
        angles = np.random.default_rng(0).uniform(-math.pi, math.pi, (500, 2))
        turns = 2 * math.pi * np.random.default_rng(1).integers(-2, 3, (500, 2))
        surface = dihedral_free_energy_2d(angles, bins=8)
        np.testing.assert_array_equal(
            dihedral_free_energy_2d(angles + turns, bins=8).values, surface.values
        )
        assert surface.outside == 0
        profile = dihedral_free_energy_1d(angles[:, 0], bins=8)
        again = dihedral_free_energy_1d((angles + turns)[:, 0], bins=8)
        np.testing.assert_array_equal(profile.values, again.values)

    def test_float32_pi_is_kept(self):
        pi = np.array([np.pi, -np.pi], dtype=np.float32)
        assert dihedral_free_energy_1d(pi, bins=4).outside == 0

    def test_wrapping(self):
        wrapped = wrap_angles([0.0, 3.5, -3.5, 2 * math.pi + 1])
        expected = [0.0, 3.5 - 2 * math.pi, 2 * math.pi - 3.5, 1.0]
        np.testing.assert_allclose(wrapped, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (np.zeros((0, 2)), "is empty"),
        (np.array([[0.0, 0.0], [0.0, math.nan]]), "frame 1"),
        (np.zeros((3, 3)), "limits are given for 2 axes, but the samples have 3"),
        (np.full((3, 2), 5.0), "none of the 3 samples"),
    ],
)
def test_bad_samples(samples, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        free_energy_2d(samples, bins=4, limits=((0.0, 1.0), (0.0, 1.0)))


@pytest.mark.parametrize("function", [free_energy_2d, dihedral_free_energy_2d])
def test_bad_bins(function):
    options = {} if function is dihedral_free_energy_2d else {"limits": ((0.0, 1.0),) * 2}
    with pytest.raises(InvalidInputError, match="bins is 0"):
        function(np.zeros((3, 2)), bins=0, **options)
