"""What every exported network offers, and how older files are brought to it.

``energies_and_forces(positions)`` takes positions (R, N, 3) in nm and returns energies (R,) in
kJ/mol, float64, and forces (R, N, 3) in kJ/mol/nm, in the precision of the positions. All else is
derived from it: what OpenMM calls is the sum of the energies and the forces of all particles.

Files of schema 1 gave the energy of all replicas together, and forces only where they were computed
without autograd. They are wrapped here. OpenMM still gets from them what it always got, bit by bit.

Written for TorchScript, so annotations are types and not strings.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from openmm_scoremd.artifact.torchscript import ScriptModule, script_module

#: Name of the method of the contract.
CONTRACT = "energies_and_forces"


class OpenMMForces(nn.Module):
    """Energy of all replicas together, and forces on all particles, as OpenMM asks for them.

    Parameters
    ----------
    model : nn.Module
        Offers ``energies_and_forces``.
    n_beads : int
        Beads of one replica.
    particles : sequence of int
        Rows of the positions that are beads; empty for all.
    """

    particle_indices: Tensor

    def __init__(self, model: nn.Module, n_beads: int, particles: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.n_beads = n_beads
        self.metadata: str = cast(str, model.metadata)
        self.register_buffer("particle_indices", torch.tensor(list(particles), dtype=torch.int64))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy, (), kJ/mol, and forces (M, 3), kJ/mol/nm, of positions (M, 3), nm."""
        selects = self.particle_indices.numel() > 0
        beads = positions.index_select(0, self.particle_indices) if selects else positions
        if beads.shape[0] % self.n_beads != 0:
            raise ValueError(f"{beads.shape[0]} particles; give a multiple of {self.n_beads}")
        energy, forces = self.evaluate(beads)
        if selects:
            forces = torch.zeros_like(positions).index_copy(0, self.particle_indices, forces)
        # OpenMM reads the memory in order: a transposed view would be other forces.
        return energy, forces.contiguous()

    def evaluate(self, beads: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and forces of beads (R * N, 3)."""
        frames = beads.view(-1, self.n_beads, 3)
        energies, forces = self.model.energies_and_forces(frames)  # type: ignore[operator]
        return energies.sum().to(beads.dtype), forces.reshape(-1, 3)


class _ExplicitForcesOfSchema1(OpenMMForces):
    """The same from a file that computes forces of all replicas without autograd."""

    def evaluate(self, beads: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and forces of beads (R * N, 3)."""
        energy, forces = self.model.energy_and_forces(beads)  # type: ignore[operator]
        return energy, forces


class _ForcesOfSchema1(OpenMMForces):
    """The same from a file that has an energy of all replicas and nothing else."""

    def evaluate(self, beads: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and forces of beads (R * N, 3)."""
        # TorchScript knows no `torch.enable_grad`; callers may sit inside `torch.no_grad`.
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        leaf = beads.detach().requires_grad_(True)
        energy = self.model(leaf)
        gradient = torch.autograd.grad([energy], [leaf])[0]
        torch.set_grad_enabled(before)
        if gradient is None:
            raise RuntimeError("the energy does not depend on the positions")
        return energy.detach(), -gradient


class _FromReducedEnergies(nn.Module):
    """Energies of replicas from a file of schema 1 whose inner network gives them.

    Parameters
    ----------
    model : ScriptModule
        Module of the file.
    forces : ScriptModule
        Forces of all replicas.
    """

    def __init__(self, model: ScriptModule, forces: ScriptModule) -> None:
        super().__init__()
        self.model = model
        self.forces = forces
        self.metadata: str = model.metadata

    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (R,), kJ/mol, and forces (R, N, 3), kJ/mol/nm."""
        flat = positions.detach().reshape(-1, 3)
        with torch.no_grad():
            reduced = self.model.force_energy(self.model._standardised(flat))
            energies = self.model.thermal_energy * reduced.to(torch.float64)
        _, forces = self.forces(flat)
        return energies, forces.view(positions.shape)


class _FromTotalEnergies(nn.Module):
    """The same from a file that tells nothing but totals: one call for each replica.

    Parameters are those of :class:`_FromReducedEnergies`.
    """

    def __init__(self, model: ScriptModule, forces: ScriptModule) -> None:
        super().__init__()
        self.model = model
        self.forces = forces
        self.metadata: str = model.metadata

    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (R,), kJ/mol, and forces (R, N, 3), kJ/mol/nm."""
        energies = torch.zeros(positions.shape[0], dtype=torch.float64, device=positions.device)
        with torch.no_grad():
            for replica in range(positions.shape[0]):
                energies[replica] = self.model(positions[replica].detach())
        _, forces = self.forces(positions.detach().reshape(-1, 3))
        return energies, forces.view(positions.shape)


def with_contract(module: ScriptModule, n_beads: int) -> ScriptModule:
    """Return a module of an exported model that offers ``energies_and_forces``.

    Parameters
    ----------
    module : ScriptModule
        Module of a model file of any schema; not changed, and shared by the result.
    n_beads : int
        Beads of one replica.
    """
    if hasattr(module, CONTRACT):
        return module
    inner = all(hasattr(module, name) for name in ("force_energy", "_standardised"))
    kind = _FromReducedEnergies if inner else _FromTotalEnergies
    return script_module(kind(module, openmm_forces(module, n_beads, ())), methods=(CONTRACT,))


def openmm_forces(module: ScriptModule, n_beads: int, particles: Sequence[int]) -> ScriptModule:
    """Return what OpenMM is to call for a module of a model file of any schema.

    Parameters are those of :class:`OpenMMForces`, the module that of the file.
    """
    kind = OpenMMForces
    if not hasattr(module, CONTRACT):
        explicit = hasattr(module, "energy_and_forces")
        kind = _ExplicitForcesOfSchema1 if explicit else _ForcesOfSchema1
    return script_module(kind(module, n_beads, particles))
