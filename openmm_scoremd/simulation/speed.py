"""How fast a model simulates on this machine, by backend, platform and number of replicas."""

from __future__ import annotations

import dataclasses
import os
import platform as machine
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import openmm
import torch

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd._files.run_record import package_versions
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.create import available_backends
from openmm_scoremd.forces.options import Backend
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.contexts import interruptible
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.settings import whole_number

REPLICAS: Final = (1, 10, 100, 1000)
TIMESTEP: Final = 0.002  # ps

_WARM_UP = 3  # TorchScript watches the first call and compiles in the second
_MIN_SAMPLES, _MAX_SAMPLES = 2, 50


@dataclasses.dataclass(frozen=True)
class Timing:
    """Time of one step.

    Attributes
    ----------
    backend : str
        How the model is evaluated.
    platform : str
        OpenMM platform.
    replicas : int
        Number of replicas.
    seconds : float
        Median time of one step of all replicas.
    """

    backend: Backend
    platform: str
    replicas: int
    seconds: float

    @property
    def replica_steps_per_second(self) -> float:
        """Steps of all replicas together."""
        return self.replicas / self.seconds

    def ns_per_day(self, timestep: float = TIMESTEP) -> float:
        """Return the simulated time of every replica in a day, ns; ``timestep`` in ps."""
        return 86400.0 * timestep * 1e-3 / self.seconds


@dataclasses.dataclass(frozen=True)
class Plan:
    """Measured speeds, and the best choice for every number of replicas.

    Attributes
    ----------
    timings : tuple of Timing
        In the order of measurement.
    threads : int
        Threads of torch and of the kernel.
    """

    timings: tuple[Timing, ...]
    threads: int

    def best(self, replicas: int) -> Timing:
        """Return the fastest for a number of replicas that was measured.

        Raises
        ------
        InvalidInputError
            If it was not.
        """
        measured = [timing for timing in self.timings if timing.replicas == replicas]
        if not measured:
            known = sorted({timing.replicas for timing in self.timings})
            raise InvalidInputError(f"{replicas} replicas were not measured, only {known}")
        return min(measured, key=lambda timing: timing.seconds)

    def table(self) -> str:
        """Return the timings as text, the best of each number of replicas marked."""
        heads = ("replicas", "backend", "platform", "µs/step", "replica-steps/s", "ns/day", "")
        rows = [heads]
        for timing in self.timings:
            rows.append(
                (
                    f"{timing.replicas}",
                    timing.backend,
                    timing.platform,
                    f"{1e6 * timing.seconds:,.0f}",
                    f"{timing.replica_steps_per_second:,.0f}",
                    f"{timing.ns_per_day():,.3g}",
                    "best" if timing == self.best(timing.replicas) else "",
                )
            )
        lines = [
            f"{r[0]:>8}  {r[1]:<12}{r[2]:<10}{r[3]:>11}{r[4]:>17}{r[5]:>10}  {r[6]}".rstrip()
            for r in rows
        ]
        notes = f"ns/day of every replica with {1000 * TIMESTEP:g} fs; threads: {self.threads}"
        return "\n".join([*lines, notes])

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "processor": machine.processor() or machine.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "threads": self.threads,
            "timestep_ps": TIMESTEP,
            "versions": package_versions(),
            "timings": [
                {
                    **dataclasses.asdict(timing),
                    "us_per_step": 1e6 * timing.seconds,
                    "replica_steps_per_second": timing.replica_steps_per_second,
                    "ns_per_day": timing.ns_per_day(),
                    "best": timing == self.best(timing.replicas),
                }
                for timing in self.timings
            ],
        }


def measure_speeds(
    model: ScoreModelFile,
    *,
    replicas: Sequence[int] = REPLICAS,
    platforms: Sequence[str] | None = None,
    sample_time: float = 0.5,
) -> Plan:
    """Time steps of Langevin dynamics with every backend and platform present.

    Parameters
    ----------
    model : ScoreModelFile
        What to simulate.
    replicas : sequence of int
        Numbers of replicas.
    platforms : sequence of str, optional
        OpenMM platforms; by default all that can be used. CPU has as many threads as OpenMM takes
        in a simulation, too (``OPENMM_CPU_THREADS`` changes that).
    sample_time : float
        Seconds for each combination, once it is warm; at least two steps are made.

    Returns
    -------
    Plan
        The speeds.

    Raises
    ------
    InvalidInputError
        If a number of replicas is not positive, or a platform cannot be used.
    """
    if not replicas:
        raise InvalidInputError("replicas is empty; give at least one number")
    for count in replicas:
        whole_number("replicas", count, 1)
    backends = available_backends(model)
    names = usable_platforms() if platforms is None else list(platforms)
    timings = [
        _timing(model, backend, name, count, sample_time)
        for count in replicas
        for name in names
        for backend in backends
    ]
    return Plan(tuple(timings), torch.get_num_threads())


def write_plan(
    model: ScoreModelFile,
    output: str | os.PathLike[str] | None,
    *,
    replicas: Sequence[int] | None = None,
    platform: str | None = None,
) -> str:
    """Time a model, write the numbers as JSON if a file is named, and return them as a table.

    Raises
    ------
    InvalidInputError
        If the file's name does not end in ``.json``; otherwise as :func:`measure_speeds`.
    """
    if output is not None and Path(output).suffix != ".json":
        raise InvalidInputError(f"the output is {output}; its name must end in .json")
    platforms = None if platform is None else [platform]
    speeds = measure_speeds(model, replicas=replicas or REPLICAS, platforms=platforms)
    if output is not None:
        write_json(output, {"model": str(model.path), "sha256": model.sha256, **speeds.record()})
    return speeds.table()


def usable_platforms() -> list[str]:
    """Return the names of OpenMM's platforms on which a Context can be made here."""
    names = []
    for index in range(openmm.Platform.getNumPlatforms()):
        platform = openmm.Platform.getPlatform(index)
        system = openmm.System()
        system.addParticle(1.0)
        try:
            openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        except openmm.OpenMMException:
            continue
        names.append(str(platform.getName()))
    return names


def _timing(
    model: ScoreModelFile, backend: Backend, platform: str, replicas: int, sample_time: float
) -> Timing:
    simulation = ReplicaSimulation(
        model,
        replicas=replicas,
        seed=1,
        timestep=TIMESTEP,
        platform=platform,
        backend=backend,
    )
    frames = model.metadata.self_test.positions
    simulation.set_positions(frames[np.arange(replicas) % len(frames)])
    # Not Simulation.step, which looks for reporters every ten steps.
    integrator = simulation.simulation.integrator
    for _ in range(_WARM_UP):
        estimate = _seconds(integrator, 1)
    count = max(1, round(sample_time / _MAX_SAMPLES / max(estimate, 1e-9)))
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < _MIN_SAMPLES or (
        len(samples) < _MAX_SAMPLES and time.perf_counter() - start < sample_time
    ):
        samples.append(_seconds(integrator, count))
    return Timing(backend, platform, replicas, float(np.median(samples)))


def _seconds(integrator: openmm.Integrator, n_steps: int) -> float:
    start = time.perf_counter()
    with interruptible():
        integrator.step(n_steps)
    return (time.perf_counter() - start) / n_steps
