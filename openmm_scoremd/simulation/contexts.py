"""Contexts with noise of their own also on Reference, and with Ctrl-C also in a PythonForce."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import openmm
import openmm.app as app

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.molecules import pass_over_molecules
from openmm_scoremd.units import FloatOrQuantity, to_picoseconds

#: What OpenMM says of an exception without a message: raised by a signal, and raised by hand.
_NO_MESSAGE = ("<NULL>", "")


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` where Ctrl-C came while OpenMM called a PythonForce.

    OpenMM makes an ``OpenMMException`` of everything that the function of a PythonForce raises.
    """
    try:
        yield
    except openmm.OpenMMException as error:
        if str(error) in _NO_MESSAGE:
            raise KeyboardInterrupt from error
        raise


class NoiseStream:
    """Random numbers of a Context that no other Context uses.

    OpenMM's Reference platform has one generator for all Contexts of the process: each new one with
    a thermostat seeds it anew, so that others that advance afterwards would repeat noise or share
    it. Here its state is put aside while another simulation advances. Other platforms have a
    generator for every Context.

    Parameters
    ----------
    context : openmm.Context
        One that was just made: the generator is as its integrator seeded it.
    """

    _drawing: ClassVar[weakref.ref[NoiseStream] | None] = None

    def __init__(self, context: openmm.Context) -> None:
        self._context = context
        self._is_shared = context.getPlatform().getName() == "Reference"
        self._put_aside: bytes | None = None
        if self._is_shared:
            NoiseStream._drawing = weakref.ref(self)

    @classmethod
    def put_aside(cls) -> None:
        """Keep the state of the generator for the simulation that advanced last."""
        stream = cls._drawing() if cls._drawing is not None else None
        if stream is not None:
            stream._put_aside = stream._context.createCheckpoint()
        cls._drawing = None

    def take(self) -> None:
        """Let the generator go on where this simulation was."""
        drawing = NoiseStream._drawing
        if not self._is_shared or (drawing is not None and drawing() is self):
            return
        self.put_aside()
        if self._put_aside is not None:
            # It holds the whole Context, which may have been changed in between.
            state = self._context.getState(positions=True, velocities=True, parameters=True)
            self._context.loadCheckpoint(self._put_aside)
            self._context.setState(state)
        NoiseStream._drawing = weakref.ref(self)


def langevin_integrator(
    temperature: float, friction: FloatOrQuantity, timestep: FloatOrQuantity, seed: int
) -> openmm.LangevinMiddleIntegrator:
    """Return the integrator of a simulation.

    Parameters
    ----------
    temperature : float, K
        Of the thermostat.
    friction : float or Quantity
        In 1/ps.
    timestep : float or Quantity
        In ps.
    seed : int
        Seed of the noise, not 0.

    Raises
    ------
    InvalidInputError
        If friction or time step are not positive.
    """
    step = to_picoseconds(timestep)
    if not 0.0 < step < math.inf:
        raise InvalidInputError(f"timestep is {step} ps; it must be positive, for example 0.002")
    try:
        relaxation_time = to_picoseconds(1.0 / friction)
    except ZeroDivisionError:
        relaxation_time = math.inf
    if not 0.0 < relaxation_time < math.inf:
        raise InvalidInputError(f"friction is {friction}; it must be positive (1/ps)")
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0 / relaxation_time, step)
    integrator.setRandomNumberSeed(seed)
    return integrator


def make_simulation(
    topology: app.Topology,
    system: openmm.System,
    integrator: openmm.Integrator,
    platform: openmm.Platform,
) -> app.Simulation:
    """Return a simulation; others go on with their own noise afterwards.

    Raises
    ------
    InvalidInputError
        If the platform cannot be used.
    """
    pass_over_molecules(system, integrator)
    NoiseStream.put_aside()
    try:
        return app.Simulation(topology, system, integrator, platform)
    except openmm.OpenMMException as error:
        raise InvalidInputError(
            f"OpenMM cannot simulate on platform {platform.getName()}: {error}; "
            "choose another platform, or backend='pythonforce'"
        ) from error
