"""Relative entropy on densities whose relative entropy is known."""

import math

import pytest
import torch

from openmm_scoremd.diffusion.relative_entropy import (
    effective_fraction,
    population_mismatch,
    relative_entropy,
)


class TestRelativeEntropy:
    def draws(self, n=200_000):
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(2, n, generator=generator, dtype=torch.float64)
        return 0.8 * normal[0], normal[1]  # data, and simulated with E = x^2 / 2

    @pytest.mark.parametrize("stiffness", [0.8, 1.0, 1.3, 1.0 / 0.64])
    def test_of_gaussians(self, stiffness):
        data, simulated = self.draws()
        found = relative_entropy(
            0.5 * stiffness * data**2, 0.5 * stiffness * simulated**2, 0.5 * simulated**2
        )
        # <E>_data + ln Z - ln Z_0
        expected = 0.5 * stiffness * 0.64 - 0.5 * math.log(stiffness)
        assert float(found) == pytest.approx(expected, abs=0.005)

    def test_is_smallest_for_the_energy_of_the_data(self):
        data, simulated = self.draws()
        stiffness = torch.tensor(1.0 / 0.64, dtype=torch.float64, requires_grad=True)
        value = relative_entropy(
            0.5 * stiffness * data**2, 0.5 * stiffness * simulated**2, 0.5 * simulated**2
        )
        (slope,) = torch.autograd.grad(value, stiffness)
        assert abs(float(slope)) < 0.005

    def test_a_constant_changes_nothing(self):
        data, simulated = self.draws(100)
        value = relative_entropy(data**2, simulated**2, simulated.abs())
        moved = relative_entropy(data**2 + 7.0, simulated**2 + 7.0, simulated.abs())
        torch.testing.assert_close(moved, value)


def test_effective_fraction():
    assert float(effective_fraction(torch.full((50,), 3.0))) == pytest.approx(1.0)
    assert float(effective_fraction(torch.tensor([100.0, *[0.0] * 49]))) == pytest.approx(1 / 50)
    # Weights 1 and 3: (1 + 3)^2 / (1 + 9) of 2.
    assert float(effective_fraction(torch.tensor([0.0, math.log(3.0)]))) == pytest.approx(0.8)


class TestPopulationMismatch:
    def test_two_regions(self):
        simulated = torch.tensor([0.9, 0.1]).log()
        data = torch.tensor([0.5, 0.5]).log()
        change = torch.zeros(2, 4)
        found = population_mismatch(change, simulated, data)
        expected = (math.log(0.9 / 0.5) ** 2 + math.log(0.1 / 0.5) ** 2) / 2
        assert float(found) == pytest.approx(expected)
        # Lowering the energy of the second by ln 9 makes both the same.
        change[1] = math.log(9.0)
        assert float(population_mismatch(change, simulated, data)) == pytest.approx(0.0, abs=1e-10)

    def test_populations_need_no_normalisation(self):
        change, values = torch.randn(3, 5), torch.randn(2, 3)
        found = population_mismatch(change + 2.0, values[0] + 1.0, values[1] - 4.0)
        torch.testing.assert_close(found, population_mismatch(change, *values))
