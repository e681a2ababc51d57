"""Potentials that can be changed in a living Context: their factor, and their diffusion time.

Written for TorchScript, so annotations are types and not strings. A module of an exported model is
wrapped, so every model file can be used, also older ones:

====================  ==============================================================================
``scoremd_scale``     factor of the potential; 1 is the model
``scoremd_time``      diffusion time of the potential; the model's own at first
====================  ==============================================================================

At diffusion time ``t`` the network knows the density of ``a x + s noise`` with data ``x``, where
``a`` is the schedule's mean factor and ``s`` its sigma. The potential here is that of
``x + (s / a) noise``: data that are blurred and not shrunk, in the coordinates of the molecule.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from openmm_scoremd.artifact.contract import ModelModule
from openmm_scoremd.artifact.torchscript import ScriptModule
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

logger = logging.getLogger(__name__)

#: Context parameter: factor of the potential.
SCALE_PARAMETER: Final = "scoremd_scale"
#: Context parameter: diffusion time of the potential.
TIME_PARAMETER: Final = "scoremd_time"

#: What Context parameters a force has: none, the factor, or factor and diffusion time.
Adjustable: TypeAlias = Literal["nothing", "scale", "scale-and-time"]

_FRAMES_TOGETHER: Final = 1000


class NoiseLevelEnergy(nn.Module):
    """Potential energy at any diffusion time whose network has an energy.

    Parameters
    ----------
    model : ScriptModule or ExportedModel
        A loaded model.
    schedule : VPSchedule
        Noise schedule.
    t_min : float
        Smallest diffusion time.
    particles : sequence of int
        Rows of the positions that are beads; empty for all.

    Raises
    ------
    InvalidInputError
        If the file holds no network with an energy.
    """

    serving: list[int]
    particle_indices: Tensor

    def __init__(
        self,
        model: ModelModule,
        schedule: VPSchedule,
        t_min: float,
        particles: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("particle_indices", torch.tensor(list(particles), dtype=torch.int64))
        networks, self.serving = _networks_with_energy(model)
        self.model = model
        self.networks = nn.ModuleList(networks)
        self.lowest_rate, self.highest_rate = schedule.beta_min, schedule.beta_max
        # A time in single precision may round to a little less.
        self.earliest = t_min * (1.0 - 1e-6)
        self.t_min = t_min
        self.metadata: str = model.metadata

    def check_time(self, t: float) -> None:
        """Check that there is an energy at a diffusion time.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        ends = [self.t_min, *self.model.boundaries.tolist(), 1.0]
        # At a time that two experts share, the earlier one serves.
        ranges = [
            f"{'above ' if low > self.t_min else ''}{low:g} to {high:g}"
            for low, high, chosen in zip(ends[:-1], ends[1:], self.serving, strict=True)
            if chosen >= 0
        ]
        # Rounded once, as in `energies`: at the end of an expert's times it still serves.
        rounded = torch.tensor(t, dtype=torch.float64).to(self.model.boundaries)
        expert = torch.bucketize(rounded, self.model.boundaries)
        if not self.earliest <= t <= 1.0 or self.serving[int(expert)] < 0:
            raise InvalidInputError(
                f"the model has no energy at diffusion time {t}; it has from {', '.join(ranges)}"
            )

    def energies_of_frames(self, frames: Tensor, t: float) -> Tensor:
        """Return potential energies (F,), kJ/mol, of frames (F, N, 3), nm, some at a time.

        Raises
        ------
        InvalidInputError
            If there is no energy at diffusion time ``t``.
        """
        self.check_time(t)
        time = torch.tensor(t, dtype=torch.float64)
        with torch.no_grad():
            parts = [
                self.energies(frames[first : first + _FRAMES_TOGETHER].reshape(-1, 3), time)
                for first in range(0, len(frames), _FRAMES_TOGETHER)
            ]
        return torch.cat(parts)

    def energies(self, positions: Tensor, t: Tensor) -> Tensor:
        """Return potential energies (R,), kJ/mol, in float64.

        Parameters
        ----------
        positions : Tensor, shape (M, 3), nm
            Beads of R replicas, or all particles where some are selected.
        t : Tensor, shape ()
            Diffusion time.
        """
        time = t.to(device=positions.device, dtype=torch.float64)
        integral = time * (self.lowest_rate + 0.5 * (self.highest_rate - self.lowest_rate) * time)
        if self.particle_indices.numel() > 0:
            positions = positions.index_select(0, self.particle_indices)
        x = self.model._standardised(positions)
        x = x * torch.exp(-0.5 * integral).to(x.dtype)
        # Rounded like the time of the network itself: its own t_min is inside.
        rounded = time.to(x.dtype)
        if float(time) < self.earliest or float(time) > 1.0:
            raise ValueError(f"diffusion time {float(time)}; the model knows {self.t_min} to 1")
        expert = int(torch.bucketize(rounded, self.model.boundaries))
        chosen = self.serving[expert]
        if chosen < 0:
            raise ValueError(f"the network for diffusion time {float(time)} has no energy")
        times = rounded.expand(x.shape[0])
        reduced = torch.zeros_like(x[:, 0, 0])
        # TorchScript takes a list of modules apart, and so needs a loop.
        for index, network in enumerate(self.networks):
            if index == chosen:
                reduced = network.energy(x, times, None)  # type: ignore[operator]
        energies: Tensor = self.model.thermal_energy * reduced.to(torch.float64)
        return energies

    def forward(self, positions: Tensor, scale: Tensor, t: Tensor) -> Tensor:
        """Return the energy, kJ/mol, of positions (M, 3), nm, for a factor and a time, both ()."""
        total = self.energies(positions, t).sum() * scale.to(positions.device)
        return total.to(positions.dtype)


class ScaledForces(nn.Module):
    """The model's potential times a factor.

    Parameters
    ----------
    forces : ScriptModule
        Energy and forces as OpenMM asks for them.
    """

    def __init__(self, forces: ScriptModule) -> None:
        super().__init__()
        self.forces = forces
        self.metadata: str = forces.metadata

    def forward(self, positions: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy, kJ/mol, and forces (M, 3), kJ/mol/nm, for a factor, ()."""
        energy, forces = self.forces(positions)
        factor = scale.to(device=forces.device, dtype=forces.dtype)
        return energy * factor, forces * factor


def checked_scale(scale: float, temperature: float) -> float:
    """Return a factor of the potential, with a warning in the log if it is not 1.

    Parameters
    ----------
    scale : float
        The factor.
    temperature : float
        Temperature of the model, K.

    Raises
    ------
    InvalidInputError
        If it is not positive and finite.
    """
    if not 0.0 < scale < math.inf:
        raise InvalidInputError(f"the factor of the potential is {scale}; it must be positive")
    if scale != 1.0:
        logger.warning(
            "the potential is scaled by %g, as if its temperature were %g K: a coarse-grained "
            "potential is a free energy of its own temperature, and scaled it is that of no "
            "molecule; use it to cross barriers, and reweight to a factor of 1",
            scale,
            temperature / scale,
        )
    return scale


def context_parameters(adjustable: Adjustable, t: float) -> dict[str, float]:
    """Return the Context parameters of a force and their values at first, in their order.

    Parameters
    ----------
    adjustable : {"nothing", "scale", "scale-and-time"}
        What can be changed.
    t : float
        Diffusion time of the model's force.
    """
    values = {SCALE_PARAMETER: 1.0, TIME_PARAMETER: t}
    return dict(list(values.items())[: get_args(Adjustable).index(adjustable)])


def _networks_with_energy(model: ModelModule) -> tuple[list[nn.Module], list[int]]:
    """Return networks, and for every expert which of them serves it, or -1."""
    networks: list[nn.Module] = []
    serving: list[int] = []
    experts = getattr(model, "experts", None)
    for expert in () if experts is None else experts.children():
        network = getattr(expert, "model", None)
        has_energy = network is not None and hasattr(network, "energy")
        serving.append(len(networks) if has_energy else -1)
        networks += [network] if network is not None and has_energy else []
    if not networks or not hasattr(model, "_standardised"):
        raise InvalidInputError(
            "the model file has energies at one diffusion time only; export a conservative network "
            "with this version"
        )
    return networks, serving
