"""Trajectories of replicas: one DCD file each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import openmm
import openmm.app as app
from numpy.typing import NDArray
from openmm import unit

from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.trajectories.appendable_files import AppendableFile
from openmm_scoremd.trajectories.formats import DCDFormat
from openmm_scoremd.units import to_picoseconds

FloatArray: TypeAlias = NDArray[np.float64]

#: "replica" stores every frame with the mean of its beads at the origin, "none" as it is.
Centring: TypeAlias = Literal["replica", "none"]


def replica_paths(folder: str | os.PathLike[str], replicas: int) -> list[Path]:
    """Return ``folder/replica_0000.dcd`` and so on."""
    return [Path(folder) / f"replica_{index:04d}.dcd" for index in range(replicas)]


def replica_frames(state: openmm.State, n_beads: int) -> FloatArray:
    """Return the positions of a State as frames of shape (R, n_beads, 3), nm."""
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return np.asarray(positions, dtype=np.float64).reshape(-1, n_beads, 3)


def require_finite(frames: FloatArray, *, step: int) -> None:
    """Check the coordinates of all replicas.

    Parameters
    ----------
    frames : ndarray, shape (R, N, 3), nm
        Positions.
    step : int
        Time step, for the message.

    Raises
    ------
    NumericalError
        If a coordinate is NaN or infinite; the message names replicas and step.
    """
    broken = np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2)))
    if len(broken):
        named = ", ".join(map(str, broken[:10])) + (", ..." if len(broken) > 10 else "")
        raise NumericalError(
            f"{len(broken)} of {len(frames)} replicas have NaN or infinite coordinates at step "
            f"{step}: replica {named}; use a shorter timestep or other start frames"
        )


class ReplicaDCDReporter:
    """Writes every replica of a simulation to a DCD file of its own.

    Coordinates are stored in float32. The centre of a molecule diffuses freely, so frames are
    centred before they are stored to keep all digits for the shape; the simulation itself is not
    touched. Files are whole after every report and open only while they are written, so that
    thousands of replicas need no more file handles than one.

    Parameters
    ----------
    paths : sequence of path-like
        One new file per replica; missing folders are made.
    interval : int
        Time steps between frames.
    topology : BeadTopology
        Beads of one replica.
    centring : {"replica", "none"}
        Use "none" for models in an external potential, such as 2-D toy models.

    Raises
    ------
    InvalidInputError
        If there are no paths, a path is there already or twice, or the interval is not positive.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        interval: int,
        *,
        topology: BeadTopology,
        centring: Centring = "replica",
    ) -> None:
        if interval < 1:
            raise InvalidInputError(f"interval is {interval}; it must be at least 1 step")
        if centring not in ("replica", "none"):
            raise InvalidInputError(f"centring is {centring!r}; it must be 'replica' or 'none'")
        self._paths = _new_files(paths)
        self._interval = interval
        self._n_beads = topology.n_beads
        self._centring = centring
        self._files: list[AppendableFile] = []

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when the next report is due and that it needs positions."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Append one frame to every file.

        Raises
        ------
        NumericalError
            If a coordinate is not finite; nothing is written then.
        InvalidInputError
            If the simulation has another number of particles than files and beads imply.
        """
        self._check_count(simulation.topology.getNumAtoms())
        frames = replica_frames(state, self._n_beads)
        require_finite(frames, step=simulation.currentStep)
        if self._centring == "replica":
            frames = frames - frames.mean(axis=1, keepdims=True)
        if not self._files:
            self._create_files(simulation)
        for file, frame in zip(self._files, frames, strict=True):
            file.append(frame[None])

    def _check_count(self, n_particles: int) -> None:
        expected = len(self._paths) * self._n_beads
        if n_particles != expected:
            raise InvalidInputError(
                f"the simulation has {n_particles} particles; {len(self._paths)} files of "
                f"{self._n_beads} beads need {expected}: give one path per replica"
            )

    def _create_files(self, simulation: app.Simulation) -> None:
        dcd = DCDFormat(
            self._n_beads,
            timestep=to_picoseconds(simulation.integrator.getStepSize()),
            interval=self._interval,
            first_step=simulation.currentStep,
        )
        self._files = [AppendableFile(path, dcd) for path in self._paths]
        for file in self._files:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.create()


def _new_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    files = [Path(path) for path in paths]
    if not files or len(set(files)) != len(files):
        raise InvalidInputError(f"{len(files)} paths given; there must be a different one each")
    existing = [file for file in files if file.exists()]
    if existing:
        raise InvalidInputError(
            f"{existing[0]} exists already; choose another folder, or move old trajectories away"
        )
    return files
