"""What ``scoremd sample`` leaves in a folder: trajectories, bead topologies, numbers of chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.artifact.metadata import ModelMetadata
from openmm_scoremd.sampling.langevin import Trajectory, mean_mass, trajectory_timestep
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.trajectories.bead_files import write_viewer_files
from openmm_scoremd.trajectories.reading import save_frames
from openmm_scoremd.trajectories.reporters import replica_paths


def write_independent_frames(
    folder: Path, positions: NDArray[np.floating], topology: BeadTopology
) -> Path:
    """Write ``iid.dcd`` and the topologies.

    Parameters
    ----------
    folder : Path
        Where to write.
    positions : ndarray, shape (frames, N, 3), nm
        The frames.
    topology : BeadTopology
        Their beads.

    Returns
    -------
    Path
        The trajectory.
    """
    path = folder / "iid.dcd"
    save_frames(positions, path)
    write_viewer_files(topology, positions[0], folder / "topology")
    return path


def write_chains(folder: Path, found: Trajectory, topology: BeadTopology) -> None:
    """Write a DCD file per chain, as of replicas of a simulation, and the topologies.

    Parameters
    ----------
    folder : Path
        Where to write.
    found : Trajectory
        The chains.
    topology : BeadTopology
        Their beads.
    """
    paths = replica_paths(folder, len(found.positions))
    for path, positions in zip(paths, found.positions, strict=True):
        save_frames(positions, path)
    write_viewer_files(topology, found.positions[0, 0], folder / "topology")


def chain_results(found: Trajectory, metadata: ModelMetadata, *, friction: float) -> dict[str, Any]:
    """Return the numbers of chains and the time that their steps stand for, as plain JSON.

    Parameters
    ----------
    found : Trajectory
        The chains.
    metadata : ModelMetadata
        The model.
    friction : float
        In 1/ps, for a bead of the mean mass.

    Raises
    ------
    InvalidInputError
        If the friction is not positive and finite.
    """
    timestep = trajectory_timestep(metadata, found.step_size, friction=friction)
    return {
        "diffusion_time": found.t,
        "step_size": found.step_size,
        "stiffness": 1.0 / (4.0 * found.step_size),
        "largest_curvature_at_start": found.curvature,
        "step_size_times_curvature": found.step_size * found.curvature,
        "steps": found.n_steps,
        "score_calls": found.score_calls,
        "mass_dalton": mean_mass(metadata),
        "friction_per_ps": friction,
        "timestep_ps": timestep,
        "frame_interval_ps": timestep * found.n_steps / found.positions.shape[1],
        "time_mapping": (
            "overdamped: timestep = mass * friction * step_size * scale**2 / kT; the product of "
            "mass and friction is the same for all beads"
        ),
    }
