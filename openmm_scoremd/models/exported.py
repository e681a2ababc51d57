"""What a model file holds: written for TorchScript, so annotations are types and not strings."""

import torch
from torch import Tensor, nn

from openmm_scoremd.models.base import EnergyModel


class ExportedModel(nn.Module):
    """Potential energy at one diffusion time, and the score at any.

    Parameters
    ----------
    model : EnergyModel
        Network, in the precision of the export.
    force_energy : nn.Module
        Reduced energy (B,) of standardised coordinates (B, N, D) at the time of the force.
    n_beads : int
        Beads of one replica.
    scale : float
        Length in nm of one standardised unit.
    thermal_energy : float
        Unit of the reduced energy in kJ/mol.
    """

    particle_indices: Tensor
    metadata: str

    def __init__(
        self,
        model: EnergyModel,
        force_energy: nn.Module,
        *,
        n_beads: int,
        scale: float,
        thermal_energy: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.force_energy = force_energy
        self.n_beads = n_beads
        self.n_dims = model.n_dims
        self.centred = model.translation_invariant
        self.inverse_scale = 1.0 / scale
        self.thermal_energy = thermal_energy
        self.dtype = next(model.parameters()).dtype
        self.metadata = ""
        self.register_buffer("particle_indices", torch.empty(0, dtype=torch.int64))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the potential energy, kJ/mol, of positions (M, 3), nm."""
        if self.particle_indices.numel() > 0:
            positions = positions.index_select(0, self.particle_indices)
        if positions.shape[0] % self.n_beads != 0:
            raise ValueError(f"{positions.shape[0]} particles; give a multiple of {self.n_beads}")
        frames = positions.reshape(-1, self.n_beads, 3)[:, :, : self.n_dims]
        if self.centred:
            # Before rounding to the network's precision: replicas may have diffused far away.
            frames = frames - frames.mean(dim=1, keepdim=True)
        energies = self.force_energy((frames * self.inverse_scale).to(self.dtype))
        # Thousands of replicas are summed in double precision.
        total = self.thermal_energy * energies.to(torch.float64).sum()
        energy: Tensor = total.to(positions.dtype)
        return energy

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score (B, N, D) of standardised coordinates (B, N, D) at times (B,)."""
        leaf = x.detach().to(self.dtype).requires_grad_(True)
        energy = self.model.energy(leaf, t.to(self.dtype), None)
        gradient = torch.autograd.grad([energy.sum()], [leaf])[0]
        if gradient is None:
            raise RuntimeError("the energy does not depend on the coordinates")
        return -gradient.to(x.dtype)


class FixedTimeEnergy(nn.Module):
    """Energy of any conservative network at one diffusion time.

    Parameters
    ----------
    model : EnergyModel
        Network.
    t : float
        Diffusion time.
    """

    def __init__(self, model: EnergyModel, *, t: float) -> None:
        super().__init__()
        self.model = model
        self.t = t

    def forward(self, x: Tensor) -> Tensor:
        """Return reduced energies (B,) of standardised coordinates (B, N, D)."""
        t = torch.full((x.shape[0],), self.t, dtype=x.dtype, device=x.device)
        return self.model.energy(x, t, None)
