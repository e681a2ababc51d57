"""What a model file holds: written for TorchScript, so annotations are types and not strings."""

import torch
from torch import Tensor, nn

from openmm_scoremd.models.base import EnergyModel, ScoreModel


class ConservativeScore(nn.Module):
    """Score of a network with an energy.

    Parameters
    ----------
    model : EnergyModel
        Network.
    """

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score (B, N, D) of standardised coordinates (B, N, D) at times (B,)."""
        leaf = x.detach().requires_grad_(True)
        energy = self.model.energy(leaf, t, None)
        gradient = torch.autograd.grad([energy.sum()], [leaf])[0]
        if gradient is None:
            raise RuntimeError("the energy does not depend on the coordinates")
        return -gradient


class DirectScore(nn.Module):
    """Score of a network without an energy.

    Parameters
    ----------
    model : ScoreModel
        Network.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score (B, N, D) of standardised coordinates (B, N, D) at times (B,)."""
        return self.model.score(x, t, None)


class ExportedModel(nn.Module):
    """Potential energy at one diffusion time, and the score at any.

    Parameters
    ----------
    experts : list of ScoreModel
        Networks in the precision of the export, by increasing diffusion time; a single one serves
        all times.
    boundaries : list of float
        Diffusion times where all but the last end.
    force_energy : nn.Module
        Reduced energy (B,) of standardised coordinates (B, N, D) at the time of the force.
    centred : bool
        Whether shifting all beads together does not change that energy.
    n_beads : int
        Beads of one replica.
    scale : float
        Length in nm of one standardised unit.
    thermal_energy : float
        Unit of the reduced energy in kJ/mol.
    """

    boundaries: Tensor
    metadata: str

    def __init__(
        self,
        experts: list[ScoreModel],
        boundaries: list[float],
        force_energy: nn.Module,
        *,
        centred: bool,
        n_beads: int,
        scale: float,
        thermal_energy: float,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            ConservativeScore(expert) if isinstance(expert, EnergyModel) else DirectScore(expert)
            for expert in experts
        )
        self.force_energy = force_energy
        self.n_beads = n_beads
        self.n_dims = experts[0].n_dims
        self.centred = centred
        self.inverse_scale = 1.0 / scale
        self.thermal_energy = thermal_energy
        self.dtype = next(experts[0].parameters()).dtype
        self.metadata = ""
        self.register_buffer("boundaries", torch.tensor(boundaries, dtype=self.dtype))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the potential energy, kJ/mol, of positions (R * N, 3), nm."""
        if positions.shape[0] % self.n_beads != 0:
            raise ValueError(f"{positions.shape[0]} particles; give a multiple of {self.n_beads}")
        energies = self.force_energy(self._standardised(positions))
        # Thousands of replicas are summed in double precision.
        total: Tensor = self._in_kilojoules(energies).sum().to(positions.dtype)
        return total

    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (R,), kJ/mol, and forces (R, N, 3), kJ/mol/nm.

        Parameters
        ----------
        positions : Tensor, shape (R, N, 3), nm
            Replicas.
        """
        # TorchScript knows no `torch.enable_grad`; callers may sit inside `torch.no_grad`.
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        leaf = positions.detach().requires_grad_(True)
        energies = self.force_energy(self._standardised(leaf))
        gradient = torch.autograd.grad([energies.sum()], [leaf])[0]
        torch.set_grad_enabled(before)
        if gradient is None:
            raise RuntimeError("the energy does not depend on the positions")
        return self._in_kilojoules(energies.detach()), gradient * -self.thermal_energy

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score (B, N, D) of standardised coordinates (B, N, D) at times (B,)."""
        rounded, times = x.detach().to(self.dtype), t.to(self.dtype)
        serving = torch.bucketize(times.contiguous(), self.boundaries)
        scores = torch.zeros_like(rounded)
        # Only networks that serve one of the times are evaluated: in sampling, just one.
        for index, expert in enumerate(self.experts):
            rows = (serving == index).nonzero().squeeze(1)
            if rows.numel() > 0:
                scores = scores.index_copy(0, rows, expert(rounded[rows], times[rows]))
        return scores.to(x.dtype)

    def _standardised(self, positions: Tensor) -> Tensor:
        """Coordinates of the beads as the network sees them, (R, N, D)."""
        frames = positions.reshape(-1, self.n_beads, 3)
        if self.n_dims < 3:
            frames = frames[:, :, : self.n_dims]
        if self.centred:
            # Before rounding to the network's precision: replicas may have diffused far away.
            frames = _centred(frames)
        return (frames * self.inverse_scale).to(self.dtype)

    def _in_kilojoules(self, reduced: Tensor) -> Tensor:
        energies: Tensor = self.thermal_energy * reduced.to(torch.float64)
        return energies


class ExplicitModel(ExportedModel):
    """An exported model that computes its forces without autograd.

    Parameters are those of :class:`ExportedModel`; ``force_energy`` must have
    ``energy_and_gradient(x) -> (energies (B,), gradient (B, N, D))``.
    """

    def energies_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same without autograd."""
        with torch.no_grad():
            x = self._standardised(positions)
            energies, gradient = self.force_energy.energy_and_gradient(x)  # type: ignore[operator]
            gradient = gradient.to(positions.dtype)
            if self.centred:
                gradient = _centred(gradient)
            forces = gradient * (-self.thermal_energy * self.inverse_scale)
            if self.n_dims < 3:
                forces = nn.functional.pad(forces, [0, 3 - self.n_dims])
            return self._in_kilojoules(energies), forces


def _centred(vectors: Tensor) -> Tensor:
    """Take the mean over beads off (R, N, D): `mean` itself would be one operator more."""
    total = vectors.sum(dim=1, keepdim=True)
    return torch.sub(vectors, total, alpha=1.0 / vectors.shape[1])
