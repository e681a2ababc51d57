"""What every exported network offers, and how older files are brought to it.

``energies_and_forces(positions)`` takes positions (R, N, 3) in nm and returns energies (R,) in
kJ/mol, float64, and forces (R, N, 3) in kJ/mol/nm, in the precision of the positions. All else is
derived from it: what OpenMM calls is the sum of the energies and the forces of all particles.

Files of schema 1 gave the energy of all replicas together, and forces only where they were computed
without autograd. They are wrapped here. OpenMM still gets from them what it always got, bit by bit.

Written for TorchScript, so annotations are types and not strings. It looks at ``hasattr`` as it
compiles, and leaves out branches for what a module does not have.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor, nn

from openmm_scoremd.artifact.torchscript import ScriptModule, script_module

if TYPE_CHECKING:
    from openmm_scoremd.artifact.exported import ExportedModel

#: Name of the method of the contract.
CONTRACT = "energies_and_forces"

#: The module of a model file: TorchScript, or of a file without code Python.
ModelModule: TypeAlias = "ScriptModule | ExportedModel"


class OpenMMForces(nn.Module):
    """Energy of all replicas together, and forces on all particles, as OpenMM asks for them.

    Parameters
    ----------
    model : nn.Module
        Module of a model file of any schema.
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
        energy, forces = self._evaluate(beads)
        if selects:
            forces = torch.zeros_like(positions).index_copy(0, self.particle_indices, forces)
        # OpenMM reads the memory in order: a transposed view would be other forces.
        return energy, forces.contiguous()

    def _evaluate(self, beads: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and forces of beads (R * N, 3)."""
        if hasattr(self.model, "energies_and_forces"):
            frames = beads.view(-1, self.n_beads, 3)
            energies, forces = self.model.energies_and_forces(frames)  # type: ignore[operator]
            return energies.sum().to(beads.dtype), forces.reshape(-1, 3)
        if hasattr(self.model, "energy_and_forces"):
            energy, forces = self.model.energy_and_forces(beads)  # type: ignore[operator]
            return energy, forces
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


class _OfEveryReplica(nn.Module):
    """The contract for a file of schema 1.

    Energies are those of its inner network, which has them for every replica, and where there is
    none those of one call for each.

    Parameters
    ----------
    model : ScriptModule
        Module of the file.
    forces : ScriptModule
        What OpenMM calls for it.
    """

    def __init__(self, model: ScriptModule, forces: ScriptModule) -> None:
        super().__init__()
        self.model = model
        self.forces = forces
        self.metadata: str = model.metadata

    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (R,), kJ/mol, and forces (R, N, 3), kJ/mol/nm."""
        flat = positions.detach().reshape(-1, 3)
        energies = torch.zeros(positions.shape[0], dtype=torch.float64, device=flat.device)
        with torch.no_grad():
            if hasattr(self.model, "force_energy"):
                reduced = self.model.force_energy(self.model._standardised(flat))
                energies += self.model.thermal_energy * reduced.to(torch.float64)
            else:
                for replica in range(positions.shape[0]):
                    energies[replica] = self.model(positions[replica].detach())
        _, forces = self.forces(flat)
        return energies, forces.view(positions.shape)


def with_contract(module: ModelModule, n_beads: int) -> ModelModule:
    """Return a module of an exported model that offers ``energies_and_forces``.

    Parameters
    ----------
    module : ScriptModule or ExportedModel
        Module of a model file of any schema; not changed, and shared by the result.
    n_beads : int
        Beads of one replica.
    """
    if not isinstance(module, ScriptModule) or hasattr(module, CONTRACT):
        return module
    forces = scripted_forces(module, n_beads, ())
    return script_module(_OfEveryReplica(module, forces), methods=(CONTRACT,))


def openmm_forces(module: ModelModule, n_beads: int, particles: Sequence[int]) -> nn.Module:
    """Return what OpenMM is to call for a module of a model file, in Python where that is.

    Parameters are those of :class:`OpenMMForces`.
    """
    if isinstance(module, ScriptModule):
        return scripted_forces(module, n_beads, particles)
    return OpenMMForces(module, n_beads, particles).eval()


def scripted_forces(module: ScriptModule, n_beads: int, particles: Sequence[int]) -> ScriptModule:
    """Return the same in TorchScript, for a module of a model file of any schema."""
    return script_module(OpenMMForces(module, n_beads, particles))


def scripted_model(module: ModelModule) -> ScriptModule:
    """Return the module of a model file in TorchScript.

    Raises
    ------
    InvalidInputError
        If TorchScript cannot compile its network.
    """
    if isinstance(module, ScriptModule):
        return module
    return script_module(module, methods=("score", CONTRACT))
