"""Many copies of one molecule in one OpenMM Context."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import openmm
from numpy.typing import ArrayLike, NDArray
from openmm import unit

from openmm_scoremd._renamed import keep_old_attribute
from openmm_scoremd.artifact.noise_levels import (
    SCALE_PARAMETER,
    TIME_PARAMETER,
    Adjustable,
    checked_scale,
)
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import Backend, ScoreModelFile, frames_in_nanometers
from openmm_scoremd.simulation.contexts import (
    NoiseStream,
    interruptible,
    langevin_integrator,
    make_simulation,
)
from openmm_scoremd.simulation.platforms import choose_platform
from openmm_scoremd.simulation.run.settings import whole_number
from openmm_scoremd.trajectories.reporters import (
    Centring,
    ReplicaDCDReporter,
    replica_frames,
    replica_paths,
    require_finite,
)
from openmm_scoremd.units import FloatOrQuantity

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]

#: Adds forces, restraints or biases to the System before its Context is made. It is called with the
#: System and the particles of every replica.
PrepareSystem: TypeAlias = Callable[[openmm.System, Sequence[range]], None]

_WARM_UP_CALLS = 3
_LONG_TIMESTEP = 0.02  # ps


@keep_old_attribute("potential_scale", "potential_factor")
class ReplicaSimulation:
    """Langevin dynamics of ``replicas`` independent copies, the model called once for all.

    Everything of OpenMM is at hand in :attr:`simulation`: reporters, Context, System.

    Parameters
    ----------
    model : ScoreModelFile
        What to simulate.
    replicas : int
        Number of copies.
    seed : int
        Seed of noise and velocities, 0 or larger. On the Reference platform the same seed gives
        the same trajectory.
    temperature : float or Quantity, optional
        In K; the model's by default. At another one a warning is logged.
    friction : float or Quantity
        In 1/ps.
    timestep : float or Quantity
        In ps.
    platform : str, optional
        OpenMM platform; see :func:`~.platforms.choose_platform` for the default.
    backend : {"auto", "torchforce", "pythonforce", "kernel"}
        Who evaluates the model.
    device : str, optional
        PythonForce only: where the model runs, "cpu" also beside a GPU.
    prepare_system : callable, optional
        ``prepare_system(system, particles)`` adds whatever OpenMM has; ``particles[r]`` is the
        range of particles of replica ``r``. Forces that PLUMED or a metadynamics brings have to be
        there before the Context is made, too. See :func:`~.replica_forces.replicated`.
    potential_factor : float, optional
        Factor of the model's potential; the attribute of this name changes it later. None: 1 for
        good. At another one than 1 a warning is logged.
    diffusion_time : float, optional
        Diffusion time of the potential, likewise; the network then is not folded at one time, which
        costs speed. None: that of the model's force for good.

    Attributes
    ----------
    simulation : openmm.app.Simulation
        The OpenMM simulation of all replicas.
    added_forces_sha256 : str
        Hash of the forces that ``prepare_system`` added; empty if there are none.
    model : ScoreModelFile
        As given.
    replicas, seed : int
        As given.
    temperature : float
        In K.

    Raises
    ------
    InvalidInputError
        If a number is out of range, or the platform is unknown or cannot be used.
    MissingDependencyError
        If TorchForce is asked for and cannot be used.

    Notes
    -----
    Random numbers: Reference draws them for one particle after another from one generator of the
    process, CPU from one generator per thread, GPUs for every particle. How many are drawn depends
    on the number of particles and not on where they are, so that nothing that happens to one
    replica changes another. On Reference, too, every simulation has noise of its own as long as it
    advances by :meth:`step` (:class:`~openmm_scoremd.simulation.contexts.NoiseStream`); the
    ``step`` of :attr:`simulation` takes what another simulation left.
    """

    def __init__(
        self,
        model: ScoreModelFile,
        *,
        replicas: int,
        seed: int,
        temperature: FloatOrQuantity | None = None,
        friction: FloatOrQuantity = 1.0,
        timestep: FloatOrQuantity = 0.002,
        platform: str | None = None,
        backend: Backend = "auto",
        device: str | None = None,
        prepare_system: PrepareSystem | None = None,
        potential_factor: float | None = None,
        diffusion_time: float | None = None,
    ) -> None:
        self.model = model
        self.replicas = whole_number("replicas", replicas, 1)
        self.seed = whole_number("seed", seed, 0)
        self.temperature = model.check_temperature(
            model.temperature if temperature is None else temperature
        )
        self._random = np.random.default_rng(self.seed)
        self._adjustable: Adjustable = "nothing" if potential_factor is None else "scale"
        if diffusion_time is not None:
            self._adjustable = "scale-and-time"
        system = model.create_system(
            replicas=self.replicas, backend=backend, device=device, adjustable=self._adjustable
        )
        self.added_forces_sha256 = _prepared(system, prepare_system, self.replicas, model.n_beads)
        integrator = langevin_integrator(self.temperature, friction, timestep, self._next_seed())
        if integrator.getStepSize()._value > _LONG_TIMESTEP:
            logger.warning(
                "timestep is %g ps, %g fs: hardly any model is stable beyond %g ps",
                integrator.getStepSize()._value,
                1e3 * integrator.getStepSize()._value,
                _LONG_TIMESTEP,
            )
        topology = model.replica_topology(self.replicas)
        self.simulation = make_simulation(topology, system, integrator, choose_platform(platform))
        self._noise = NoiseStream(self.simulation.context)
        if potential_factor is not None:
            self.potential_factor = potential_factor
        if diffusion_time is not None:
            self.diffusion_time = diffusion_time

    @property
    def potential_factor(self) -> float:
        """Factor of the model's potential; of added forces it is none."""
        if self._adjustable == "nothing":
            return 1.0
        return float(self.simulation.context.getParameter(SCALE_PARAMETER))

    @potential_factor.setter
    def potential_factor(self, scale: float) -> None:
        self._set_parameter(SCALE_PARAMETER, checked_scale(scale, self.model.temperature))

    @property
    def diffusion_time(self) -> float:
        """Diffusion time of the potential."""
        if self._adjustable != "scale-and-time":
            return self.model.metadata.t
        return float(self.simulation.context.getParameter(TIME_PARAMETER))

    @diffusion_time.setter
    def diffusion_time(self, t: float) -> None:
        self.model.noise_levels.check_time(t)
        self._set_parameter(TIME_PARAMETER, t)

    def model_energies(self, frames: ArrayLike) -> FloatArray:
        """Return energies (F,), kJ/mol, of frames (F, N, 3), nm, with factor and diffusion time.

        Added forces are not in them. Errors are those of :meth:`ScoreModelFile.potential_energy`.
        """
        t = self.diffusion_time if self._adjustable == "scale-and-time" else None
        return self.potential_factor * self.model.potential_energy(frames, t=t)

    @property
    def current_step(self) -> int:
        """Time steps made so far."""
        return int(self.simulation.currentStep)

    @property
    def positions(self) -> FloatArray:
        """Positions of all replicas, shape (R, N, 3), nm."""
        state = self.simulation.context.getState(positions=True)
        return replica_frames(state, self.model.n_beads)

    @property
    def velocities(self) -> FloatArray:
        """Velocities of all replicas, shape (R, N, 3), nm/ps; half a step behind the positions."""
        state = self.simulation.context.getState(velocities=True)
        return _velocities(state).reshape(self.replicas, self.model.n_beads, 3)

    def phase_space(self) -> tuple[FloatArray, FloatArray]:
        """Return :attr:`positions` and :attr:`velocities` of the same moment."""
        state = self.simulation.context.getState(positions=True, velocities=True)
        positions = replica_frames(state, self.model.n_beads)
        return positions, _velocities(state).reshape(positions.shape)

    def set_phase_space(self, positions: FloatArray, velocities: FloatArray) -> None:
        """Set positions (nm) and velocities (nm/ps), both of shape (R, N, 3).

        What comes from :meth:`phase_space` goes back bit by bit where OpenMM computes in double
        precision (Reference, CPU): the other replicas may be handed through.
        """
        context = self.simulation.context
        context.setPositions(positions.reshape(-1, 3))
        context.setVelocities(velocities.reshape(-1, 3))

    def warm_up(self) -> None:
        """Evaluate the forces a few times.

        TorchScript watches its first calls and computes with other code, that may round otherwise,
        from then on. After this a simulation is the same whether it was just made or went on.
        """
        with interruptible():
            for _ in range(_WARM_UP_CALLS):
                self.simulation.context.getState(forces=True)

    def set_positions(self, frames: ArrayLike) -> None:
        """Set all positions and draw new velocities from the seed.

        Parameters
        ----------
        frames : array or Quantity, shape (R, N, 3), nm
            One frame per replica, for example from :meth:`ScoreModelFile.sample`.

        Raises
        ------
        InvalidInputError
            If the shape does not fit or a coordinate is not finite.
        """
        checked = frames_in_nanometers(frames, self.model.n_beads)
        if checked.shape != (self.replicas, self.model.n_beads, 3):
            raise InvalidInputError(
                f"frames have shape {checked.shape}; {self.replicas} replicas need "
                f"({self.replicas}, {self.model.n_beads}, 3)"
            )
        context = self.simulation.context
        context.setPositions(checked.reshape(-1, 3))
        with interruptible():  # it asks for forces
            context.setVelocitiesToTemperature(self.temperature, self._next_seed())

    def step(self, n_steps: int) -> None:
        """Advance all replicas, calling reporters on the way.

        Parameters
        ----------
        n_steps : int
            Time steps.

        Raises
        ------
        NumericalError
            If a coordinate became NaN or infinite: found at every report of a
            :class:`ReplicaDCDReporter`, at the latest at the end of this call.
        KeyboardInterrupt
            After Ctrl-C.
        """
        try:
            self.advance(n_steps)
        # OpenMM's CPU platform stops at NaN with a message that names no replica.
        except openmm.OpenMMException:
            require_finite(self.positions, step=self.current_step)
            raise
        require_finite(self.positions, step=self.current_step)

    def advance(self, n_steps: int) -> None:
        """Advance as :meth:`step`, without a look at the coordinates.

        Raises
        ------
        openmm.OpenMMException
            If OpenMM stops; its CPU platform does so at NaN.
        KeyboardInterrupt
            After Ctrl-C.
        """
        self._noise.take()
        with interruptible():
            self.simulation.step(n_steps)

    def create_checkpoint(self) -> bytes:
        """Return the state of the Context, random numbers included."""
        self._noise.take()
        return bytes(self.simulation.context.createCheckpoint())

    def load_checkpoint(self, state: bytes) -> None:
        """Go on from what :meth:`create_checkpoint` returned on the same platform and machine."""
        self._noise.take()
        self.simulation.context.loadCheckpoint(state)

    def add_reporter(self, reporter: Any) -> None:
        """Add a reporter of OpenMM or of this package."""
        self.simulation.reporters.append(reporter)

    def add_trajectories(self, folder: str | os.PathLike[str], *, interval: int) -> list[Path]:
        """Write one DCD file per replica from now on.

        Parameters
        ----------
        folder : path-like
            Folder for ``replica_0000.dcd`` and so on, which must not exist yet.
        interval : int
            Time steps between frames.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        InvalidInputError
            If a file exists already or the interval is not positive.
        """
        paths = replica_paths(folder, self.replicas)
        movable = self.model.metadata.translation_invariant
        centring: Centring = "replica" if movable else "none"
        reporter = ReplicaDCDReporter(
            paths, interval, topology=self.model.bead_topology, centring=centring
        )
        self.add_reporter(reporter)
        return paths

    def _set_parameter(self, name: str, value: float) -> None:
        context = self.simulation.context
        if name not in context.getParameters():
            raise InvalidInputError(
                "the simulation has no such parameter; give potential_factor or diffusion_time "
                "when it is made, and it can be changed afterwards"
            )
        context.setParameter(name, value)

    def _next_seed(self) -> int:
        # To OpenMM 0 means "take the time as seed".
        return int(self._random.integers(1, 2**31 - 1))


def _prepared(
    system: openmm.System, prepare: PrepareSystem | None, replicas: int, n_beads: int
) -> str:
    """Let the caller add forces and return their hash."""
    if prepare is None:
        return ""
    before = system.getNumForces()
    prepare(system, [range(n_beads * r, n_beads * (r + 1)) for r in range(replicas)])
    if system.getNumParticles() != replicas * n_beads:
        raise InvalidInputError(
            f"prepare_system left {system.getNumParticles()} particles; it may add forces, and "
            f"there must stay {replicas} replicas of {n_beads} beads"
        )
    if system.usesPeriodicBoundaryConditions():
        raise InvalidInputError(
            "prepare_system added a force with periodic boundaries; the model knows none: use "
            "NoCutoff or CutoffNonPeriodic"
        )
    digest = hashlib.sha256()
    for force in system.getForces()[before:]:
        digest.update(openmm.XmlSerializer.serialize(force).encode())
    return digest.hexdigest()


def _velocities(state: openmm.State) -> FloatArray:
    per_ps = unit.nanometer / unit.picosecond
    return np.asarray(state.getVelocities(asNumpy=True).value_in_unit(per_ps), dtype=np.float64)
