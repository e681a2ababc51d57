"""What a run of replicas is asked to do."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from openmm_scoremd._renamed import keep_old_attribute
from openmm_scoremd.errors import CheckpointError, InvalidInputError
from openmm_scoremd.forces.options import Backend, checked_backend, checked_choice
from openmm_scoremd.trajectories.formats import MOST_STEPS

#: File format of trajectories: DCD keeps float32, XTC 0.001 nm (and all digits below 10 beads).
TrajectoryFormat: TypeAlias = Literal["dcd", "xtc"]
#: One file for every replica, or one file whose frames hold all replicas one after another.
Layout: TypeAlias = Literal["replica", "combined"]
#: What happens to a replica that broke: a fresh independent frame, no more frames, or the end.
OnFailure: TypeAlias = Literal["restart", "freeze", "stop"]
#: Whether molecules that diffused away are brought back; "auto" does so without added forces.
Recentring: TypeAlias = Literal["auto", "on", "off"]

#: What may differ when a run is resumed.
_CHANGEABLE = ("steps", "on_failure", "checkpoint_seconds", "platform")
_PICOSECONDS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6, "µs": 1e6, "ms": 1e9}


@keep_old_attribute("potential_scale", "potential_factor")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a :class:`~openmm_scoremd.simulation.run.replica_run.ReplicaRun`.

    Attributes
    ----------
    replicas : int
        Number of copies.
    steps : int
        Time steps of every replica; may be larger when a run is resumed.
    interval : int
        Time steps between frames. Frame ``i`` of a trajectory belongs to step
        ``(i + 1) * interval``.
    equilibration : int
        Time steps before, of which nothing is written; they count from ``-equilibration`` to 0.
    seed : int
        Seed of all random numbers.
    timestep : float, ps
        Time step.
    friction : float, 1/ps
        Friction of the thermostat.
    temperature : float, K, optional
        The model's if not given.
    potential_factor : float
        Factor of the model's potential. Other ones than 1 are for crossing barriers: frames have to
        be reweighted.
    platform : str, optional
        OpenMM platform; the one that fits if not given.
    backend : {"auto", "torchforce", "pythonforce", "kernel"}
        Who evaluates the model.
    device : str, optional
        PythonForce only: where the model runs, "cpu" also beside a GPU.
    format : {"dcd", "xtc"}
        File format of trajectories.
    files : {"replica", "combined"}
        One trajectory file per replica, or one for all.
    on_failure : {"restart", "freeze", "stop"}
        What happens to a replica that broke.
    margin : float
        How far bonds may leave the range of lengths seen in training, as a part of the length;
        infinity: never mind.
    jump_interval : int
        Time steps between jumps of all replicas to fresh independent frames (approximate: they are
        accepted without a Metropolis test); 0: never.
    recentring : {"auto", "on", "off"}
        Whether molecules that diffused away are moved back by whole nanometers.
    checkpoint_seconds : float
        Seconds of work that a crash may cost.

    Raises
    ------
    InvalidInputError
        If a value is out of range; the message names it.
    """

    replicas: int = 100
    steps: int = 10_000
    interval: int = 100
    equilibration: int = 0
    seed: int = 0
    timestep: float = 0.002
    friction: float = 1.0
    temperature: float | None = None
    potential_factor: float = 1.0
    platform: str | None = None
    backend: Backend = "auto"
    device: str | None = None
    format: TrajectoryFormat = "dcd"
    files: Layout = "replica"
    on_failure: OnFailure = "restart"
    margin: float = 0.25
    jump_interval: int = 0
    recentring: Recentring = "auto"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            object.__setattr__(self, name, whole_number(name, getattr(self, name), lowest))
        for name, unit in _POSITIVE.items():
            if name != "temperature" or self.temperature is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name), unit))
        object.__setattr__(self, "backend", checked_backend(self.backend))
        for name, kind in _CHOICES.items():
            checked_choice(name, getattr(self, name), get_args(kind))
        if self.interval > self.steps:
            raise InvalidInputError(
                f"interval is {self.interval} and steps {self.steps}: there would be no frame"
            )
        if self.steps > MOST_STEPS:
            raise InvalidInputError(
                f"steps is {self.steps}; trajectory files count to {MOST_STEPS}: use more "
                "replicas, or several runs"
            )
        for name in ("margin", "checkpoint_seconds"):
            value = getattr(self, name)
            if not (isinstance(value, _NUMBERS) and value >= 0.0):
                raise InvalidInputError(f"{name} is {value!r}; it must not be negative")
            object.__setattr__(self, name, float(value))

    @property
    def picoseconds(self) -> float:
        """Length of every replica, ps."""
        return self.steps * self.timestep

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        content = dataclasses.asdict(self)
        content["margin"] = "inf" if math.isinf(self.margin) else self.margin
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RunSettings:
        """Read the output of :meth:`to_dict`.

        Raises
        ------
        CheckpointError
            If entries are missing, unknown or out of range.
        """
        # Names of version 0.1.
        content = {"potential_factor": content.get("potential_scale"), **content}
        content.pop("potential_scale", None)
        if content.get("backend") == "compiled":
            content["backend"] = "kernel"
        try:
            return cls(**{**content, "margin": float(content["margin"])})
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the settings of the run cannot be read ({error}); they were changed, or written "
                "by another version: start again in another folder"
            ) from error

    def changed(
        self,
        *,
        steps: int | None = None,
        on_failure: OnFailure | None = None,
        checkpoint_seconds: float | None = None,
    ) -> RunSettings:
        """Return settings with the values that are not None; these may change in a resumed run."""
        given = {
            "steps": steps,
            "on_failure": on_failure,
            "checkpoint_seconds": checkpoint_seconds,
        }
        changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        return dataclasses.replace(self, **changes)

    def check_given(self, given: Mapping[str, Any]) -> None:
        """Check options that were given again when a run is resumed.

        Parameters
        ----------
        given : mapping of str to object
            Options by name; None where one was not given.

        Raises
        ------
        CheckpointError
            If one differs from these settings and may not change.
        """
        for name, value in given.items():
            before = getattr(self, name)
            if name not in _CHANGEABLE and value is not None and value != before:
                raise CheckpointError(
                    f"{name} is {value} and was {before} when the run began; resume it with the "
                    "same settings, or start another one in another folder"
                )


def parse_time(text: str) -> float:
    """Return a time in ps.

    Parameters
    ----------
    text : str
        A number with a unit, such as ``"10ns"`` or ``"0.5 us"``; without one in ps.

    Raises
    ------
    InvalidInputError
        If it is no positive time.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zµ]*)\s*", text)
    try:
        if match is None:
            raise ValueError
        value = float(match[1]) * _PICOSECONDS[match[2] or "ps"]
    except (ValueError, KeyError) as error:
        raise InvalidInputError(
            f"{text!r} is no time; give a number with a unit ({', '.join(_PICOSECONDS)}), such as "
            "10ns"
        ) from error
    if not 0.0 < value < math.inf:
        raise InvalidInputError(f"{text!r} is no time; it must be positive")
    return value


def steps_of_time(text: str, timestep: float) -> int:
    """Return the nearest number of steps, at least one, of a time such as ``"10ns"``.

    Raises
    ------
    InvalidInputError
        If it is no positive time, or the timestep (ps) is not positive.
    """
    return max(1, round(parse_time(text) / positive("timestep", timestep, " ps")))


def whole_number(name: str, value: Any, lowest: int) -> int:
    """Return a whole number, of NumPy or of Python, as an int.

    Raises
    ------
    InvalidInputError
        If it is none, or below ``lowest``.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidInputError(f"{name} is {value!r}; it must be a whole number") from error
    if number < lowest:
        raise InvalidInputError(f"{name} is {number}; it must be at least {lowest}")
    return number


def positive(name: str, value: Any, unit: str) -> float:
    """Return a positive, finite number as a float; the unit is for the message.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    if not (isinstance(value, _NUMBERS) and 0.0 < value < math.inf):
        raise InvalidInputError(f"{name} is {value}{unit}; it must be positive, a finite number")
    return float(value)


def derived_seed(*key: int) -> int:
    """Return a seed, 1 to 2**31 - 1, for non-negative numbers that say what it is for."""
    word = int(np.random.SeedSequence(key).generate_state(1)[0])
    return 1 + word % (2**31 - 2)


_LOWEST = {
    "replicas": 1,
    "steps": 1,
    "interval": 1,
    "equilibration": 0,
    "seed": 0,
    "jump_interval": 0,
}
_NUMBERS = (int, float, np.integer, np.floating)
#: Numbers, and how their units look behind them.
_POSITIVE = {"timestep": " ps", "friction": "/ps", "temperature": " K", "potential_factor": ""}
_CHOICES: dict[str, Any] = {
    "format": TrajectoryFormat,
    "files": Layout,
    "on_failure": OnFailure,
    "recentring": Recentring,
}
