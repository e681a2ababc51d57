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
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from openmm_scoremd.artifact.torchscript import ScriptModule, has_explicit_forces, script_module
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
    model : ScriptModule
        A loaded model.
    schedule : (float, float)
        Noise rate at t = 0 and t = 1.
    t_min : float
        Smallest diffusion time.

    Raises
    ------
    InvalidInputError
        If the file holds no network with an energy.
    """

    serving: list[int]

    def __init__(self, model: ScriptModule, schedule: tuple[float, float], t_min: float) -> None:
        super().__init__()
        networks, self.serving = _networks_with_energy(model)
        self.model = model
        self.networks = nn.ModuleList(networks)
        self.lowest_rate, self.highest_rate = schedule
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
        boundaries = self.model.boundaries
        ends = [self.t_min, *boundaries.tolist(), 1.0]
        ranges = [
            f"{low:g} to {high:g}"
            for low, high, chosen in zip(ends[:-1], ends[1:], self.serving, strict=True)
            if chosen >= 0
        ]
        inside = self.earliest <= t <= 1.0
        # Rounded like the boundaries: an expert serves the time where it ends.
        expert = int(torch.bucketize(torch.tensor(t, dtype=boundaries.dtype), boundaries.cpu()))
        if not inside or self.serving[expert] < 0:
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
            Beads of R replicas, or all particles where the model selects some.
        t : Tensor, shape ()
            Diffusion time.
        """
        time = t.to(device=positions.device, dtype=torch.float64)
        integral = time * (self.lowest_rate + 0.5 * (self.highest_rate - self.lowest_rate) * time)
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


class ScaledEnergy(nn.Module):
    """The model's potential times a factor.

    Parameters
    ----------
    model : ScriptModule
        A loaded model.
    """

    def __init__(self, model: ScriptModule) -> None:
        super().__init__()
        self.model = model
        self.metadata: str = model.metadata

    def forward(self, positions: Tensor, scale: Tensor) -> Tensor:
        """Return the energy, kJ/mol, of positions (M, 3), nm, for a factor, ()."""
        energy: Tensor = self.model(positions)
        return energy * scale.to(device=energy.device, dtype=energy.dtype)


class ScaledForces(nn.Module):
    """The same for a model that computes its forces without autograd.

    Parameters are those of :class:`ScaledEnergy`.
    """

    def __init__(self, model: ScriptModule) -> None:
        super().__init__()
        self.model = model
        self.metadata: str = model.metadata

    def forward(self, positions: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy, kJ/mol, and forces (M, 3), kJ/mol/nm, for a factor, ()."""
        energy, forces = self.model.energy_and_forces(positions)
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


def scaled(model: ScriptModule) -> ScriptModule:
    """Return a module for TorchForce whose arguments are positions and the factor."""
    return script_module((ScaledForces if has_explicit_forces(model) else ScaledEnergy)(model))


def _networks_with_energy(model: ScriptModule) -> tuple[list[nn.Module], list[int]]:
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
