"""Motion without a thermostat, and how well it conserves energy.

The Verlet integrator conserves a modified energy, of which the total energy differs by terms of
second order in the time step that come and go with the motion. With them taken off, a drift a
hundred times smaller can be seen. With velocities of the same moment it is (Hairer, Lubich and
Wanner, "Geometric Numerical Integration", chapter IX):

    H + dt² v·U''(x)·v / 12 - dt² Σ F² / (24 m)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import unit
from plain_network import network_of_file

from openmm_scoremd.model_file import Backend, ScoreModelFile
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer
from openmm_scoremd.trajectories.reporters import replica_frames
from openmm_scoremd.units import thermal_energy

FloatArray: TypeAlias = NDArray[np.float64]
#: Frames (F, N, 3), nm, to potential energies (F,), kJ/mol.
Energies: TypeAlias = Callable[[FloatArray], FloatArray]

#: The integrator is to add nothing to the rounding of the force: double precision.
PLATFORM = "Reference"
WARM_UP_CALLS = 3
NM_PER_PS = unit.nanometer / unit.picosecond
FORCE_UNIT = unit.kilojoule_per_mole / unit.nanometer
#: Time (ps) to move along the velocities, for second derivatives.
DIFFERENCE = 2e-4


@dataclasses.dataclass(frozen=True)
class PhaseSpace:
    """Positions (R, N, 3), nm, and velocities (R, N, 3), nm/ps, of the same moment."""

    positions: FloatArray
    velocities: FloatArray


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What was seen of S moments.

    Attributes
    ----------
    positions, velocities : ndarray, shape (S, R, N, 3), nm and nm/ps
        Of the same moments.
    kinetic : ndarray, shape (S, R), kJ/mol
        Kinetic energy of every replica.
    squared_forces : ndarray, shape (S, R), kJ/mol/ps**2
        Sum of squared forces over masses, of every replica.
    potential : ndarray, shape (S,), kJ/mol
        Potential energy of all replicas together, as the force itself has it.
    """

    positions: FloatArray
    velocities: FloatArray
    kinetic: FloatArray
    squared_forces: FloatArray
    potential: FloatArray


def verlet(
    model: ScoreModelFile,
    backend: Backend,
    start: PhaseSpace,
    *,
    timestep: float,
    interval: int,
    samples: int,
) -> Trajectory:
    """Simulate without a thermostat.

    Parameters
    ----------
    model : ScoreModelFile
        Whose force.
    backend : {"torchforce", "pythonforce", "kernel"}
        Force class.
    start : PhaseSpace
        Where to begin.
    timestep : float, ps
        Time step.
    interval, samples : int
        Steps between two looks, and looks.

    Returns
    -------
    Trajectory
        After every ``interval`` steps.
    """
    replicas, n_beads, _ = start.positions.shape
    system = model.create_system(replicas=replicas, backend=backend)
    integrator = openmm.VerletIntegrator(timestep)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(PLATFORM))
    context.setPositions(start.positions.reshape(-1, 3))
    context.setVelocities(start.velocities.reshape(-1, 3))
    # TorchScript computes with other code from its third call on.
    for _ in range(WARM_UP_CALLS):
        context.getState(forces=True)
    masses = np.tile(model.masses, replicas)[:, None]
    seen = Trajectory(
        positions=np.empty((samples, replicas, n_beads, 3)),
        velocities=np.empty((samples, replicas, n_beads, 3)),
        kinetic=np.empty((samples, replicas)),
        squared_forces=np.empty((samples, replicas)),
        potential=np.empty(samples),
    )
    for sample in range(samples):
        integrator.step(interval)
        state = context.getState(positions=True, velocities=True, forces=True, energy=True)
        forces = state.getForces(asNumpy=True).value_in_unit(FORCE_UNIT)
        velocities = state.getVelocities(asNumpy=True).value_in_unit(NM_PER_PS)
        # OpenMM's velocities are those of half a step before.
        velocities = velocities + 0.5 * timestep * forces / masses
        seen.positions[sample] = replica_frames(state, n_beads)
        seen.velocities[sample] = velocities.reshape(replicas, n_beads, 3)
        seen.kinetic[sample] = (0.5 * masses * velocities**2).reshape(replicas, -1).sum(axis=1)
        seen.squared_forces[sample] = (forces**2 / masses).reshape(replicas, -1).sum(axis=1)
        seen.potential[sample] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    return seen


def judge(model: ScoreModelFile) -> Energies:
    """Return a function for potential energies, computed in double precision."""
    network, _ = network_of_file(model)
    folded = FoldedGraphTransformer(
        network.network.double(), network.decoder.double(), t=model.metadata.t
    )
    energy_unit, scale = thermal_energy(model.temperature), model.metadata.scale

    def energies(frames: FloatArray) -> FloatArray:
        centred = frames - frames.mean(axis=1, keepdims=True)
        with torch.no_grad():
            reduced: FloatArray = folded(torch.from_numpy(centred / scale)).numpy()
        return energy_unit * reduced

    return energies


def modified_terms(
    seen: Trajectory, potential: FloatArray, energies: Energies, *, timestep: float
) -> FloatArray:
    """Return what the integrator's modified energy has beside the energy, (S, R), kJ/mol.

    Parameters
    ----------
    seen : Trajectory
        Positions, velocities and forces.
    potential : ndarray, shape (S, R), kJ/mol
        Potential energies of the positions.
    energies : callable
        Potential energies of frames.
    timestep : float, ps
        Time step of the integrator.
    """
    ahead, behind = (
        energies((seen.positions + time * seen.velocities).reshape(-1, *seen.positions.shape[2:]))
        for time in (DIFFERENCE, -DIFFERENCE)
    )
    curvature = ((ahead + behind).reshape(potential.shape) - 2.0 * potential) / DIFFERENCE**2
    return timestep**2 * (curvature / 12.0 - seen.squared_forces / 24.0)


@dataclasses.dataclass(frozen=True)
class Conservation:
    """How well energy is conserved.

    Attributes
    ----------
    drift, drift_error : float, kJ/mol/ps
        Mean slope of a replica's energy, and its standard error over replicas.
    fluctuation : float, kJ/mol
        Root mean square of what the slopes leave, of one replica.
    """

    drift: float
    drift_error: float
    fluctuation: float

    def to_dict(self, n_beads: int) -> dict[str, float]:
        """Return plain JSON, drifts in kJ/mol per ns and bead."""
        unit_of_drift = 1e3 / n_beads
        return {
            "drift_kj_per_mol_per_ns_per_bead": unit_of_drift * self.drift,
            "drift_error": unit_of_drift * self.drift_error,
            "fluctuation_kj_per_mol": self.fluctuation,
        }


def conservation(times: FloatArray, energies: FloatArray) -> Conservation:
    """Fit a straight line to the energies (S, R), kJ/mol, of every replica at times (S,), ps."""
    centred = times - times.mean()
    deviations = energies - energies.mean(axis=0)
    slopes = centred @ deviations / (centred @ centred)
    residuals = deviations - centred[:, None] * slopes
    error = slopes.std(ddof=1) / np.sqrt(len(slopes))
    return Conservation(float(slopes.mean()), float(error), float(np.sqrt((residuals**2).mean())))
