"""Per-molecule energies and forces of modules of any schema, and what OpenMM gets from them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from openmm_scoremd.artifact.contract import openmm_forces, with_contract
from openmm_scoremd.artifact.torchscript import load_module, optimised, script_module

STIFFNESS = 500.0


class Spring(nn.Module):
    """Two beads and a harmonic bond, as files of schema 1 that tell nothing but a total."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata = "{}"

    def forward(self, positions: Tensor) -> Tensor:
        bonds = (positions[0::2] - positions[1::2]).square().sum(dim=1).sqrt()
        return 0.5 * 500.0 * ((bonds - 0.1) ** 2).sum()


class ExplicitSpring(Spring):
    """The same with forces of its own, stored one coordinate after another."""

    @torch.jit.export
    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        vectors = positions[0::2] - positions[1::2]
        bonds = vectors.square().sum(dim=1, keepdim=True).sqrt()
        pull = -500.0 * (bonds - 0.1) * vectors / bonds
        forces = torch.stack([pull, -pull], dim=1).reshape(-1, 3)
        return self.forward(positions), forces.t().contiguous().t()


class Reduced(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        bonds = (x[:, 0] - x[:, 1]).square().sum(dim=1).sqrt()
        return 0.5 * 500.0 / 2.5 * 0.01 * ((bonds - 1.0) ** 2)


class InnerSpring(nn.Module):
    """The same as an exported network of schema 1: unit of energy 2.5 kJ/mol, of length 0.1 nm."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata = "{}"
        self.force_energy = Reduced()
        self.thermal_energy = 2.5

    def _standardised(self, positions: Tensor) -> Tensor:
        return positions.reshape(-1, 2, 3) / 0.1

    def forward(self, positions: Tensor) -> Tensor:
        return self.thermal_energy * self.force_energy(self._standardised(positions)).sum()


class TransposedSpring(ExplicitSpring):
    """The same with the contract of now, and with forces in another order in memory."""

    @torch.jit.export
    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        vectors = positions[:, 0] - positions[:, 1]
        bonds = vectors.square().sum(dim=1).sqrt()
        _, forces = self.energy_and_forces(positions.reshape(-1, 3))
        return 0.5 * 500.0 * (bonds - 0.1) ** 2, forces.reshape(positions.shape)


KINDS = [Spring, ExplicitSpring, InnerSpring, TransposedSpring]


def frames(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=0.1, size=(n, 2, 3)))


def expected(positions):
    vectors = positions[:, 0] - positions[:, 1]
    bonds = vectors.norm(dim=1)
    pull = -STIFFNESS * ((bonds - 0.1) / bonds)[:, None] * vectors
    return 0.5 * STIFFNESS * (bonds - 0.1) ** 2, torch.stack([pull, -pull], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_energies_and_forces_of_every_molecule(kind):
    network = with_contract(script_module(kind()), n_beads=2)
    for n in (1, 5, 5, 2):  # the compiler specialises with the calls
        positions = frames(n, seed=n)
        energies, forces = network.energies_and_forces(positions)
        assert energies.dtype == torch.float64
        assert forces.shape == positions.shape
        for found, wanted in zip((energies, forces), expected(positions), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("freeze", [False, True])
def test_what_openmm_gets(kind, freeze):
    module = openmm_forces(script_module(kind()), 2, ())
    module = optimised(module) if freeze else module
    for n in (3, 3, 1):
        positions = frames(n, seed=n)
        energies, forces = expected(positions)
        with torch.no_grad():
            energy, found = module(positions.reshape(-1, 3))
        torch.testing.assert_close(energy, energies.sum(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found, forces.reshape(-1, 3), rtol=1e-12, atol=1e-12)
        # OpenMM reads the memory in order.
        assert found.is_contiguous()
        assert not found.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_selected_particles(kind):
    positions, chosen = frames(2), [5, 0, 3, 1]
    energies, forces = expected(positions)
    system = torch.ones(6, 3, dtype=torch.float64)
    system[chosen] = positions.reshape(-1, 3)
    energy, found = openmm_forces(script_module(kind()), 2, chosen)(system)
    torch.testing.assert_close(energy, energies.sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[chosen], forces.reshape(-1, 3), rtol=1e-12, atol=1e-12)
    assert not found[[2, 4]].any()


def test_a_number_of_particles_that_is_no_multiple_of_the_beads():
    module = openmm_forces(script_module(Spring()), 2, ())
    with pytest.raises(torch.jit.Error, match="3 particles; give a multiple of 2"):
        module(torch.zeros(3, 3))


def test_files_of_now_have_the_contract_themselves(toy):
    module = load_module(toy.path, device="cpu")
    assert with_contract(module, 4) is module
