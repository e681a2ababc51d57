"""The engine's own share of a step: what a run does besides stepping the integrator.

    python benchmarks/engine_overhead.py                 # about 2 minutes on one idle core
    python benchmarks/engine_overhead.py --write-docs    # bring docs/performance.md up to date

A run of the package (a look at every replica and its temperature, recentring, frames into one DCD
file per replica, state data, progress) advances in turns with the bare integrator of a second
simulation with the same force: so many steps here, as many there. A step without the network is
timed as well. Steps are timed by the processor's clock, so that other programs matter less; a
checkpoint, made once a minute, by the clock on the wall, because it waits for the disk.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openmm
from machine import new_record
from performance_page import RESULTS, Section, benchmark_parser, markdown_table, timing_sentence
from rich.console import Console
from rich.table import Table
from simulation import SHIPPED, set_threads

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.model_file import Backend, ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.recording import FRAMES_PER_STATE
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.simulation.run.stepping import CHECK_STEPS

OUTPUT = RESULTS / "engine_overhead.json"
SECTION = Section("engine overhead")
PLATFORM = "Reference"
BACKEND: Backend = "kernel"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is timed.

    Attributes
    ----------
    replicas : tuple of int
        Replica counts.
    interval : int
        Steps between frames, a multiple of those between two looks at the replicas.
    seconds : float
        Time after which no piece is begun, at each replica count; one row of state data is always
        waited for.
    """

    replicas: tuple[int, ...] = (1, 10, 100, 1000)
    interval: int = RunSettings.interval
    seconds: float = 12.0

    @property
    def cycle(self) -> int:
        """Steps after which everything has been done that a run does."""
        return FRAMES_PER_STATE * self.interval


SMOKE = Settings(replicas=(1, 2), interval=CHECK_STEPS, seconds=0.0)


def seconds_of(integrator: openmm.Integrator, n_steps: int) -> float:
    """Return processor time of some steps."""
    start = time.process_time()
    integrator.step(n_steps)
    return time.process_time() - start


class Turns:
    """Times a run and the bare integrator in turns; to be given to a run as progress and stop.

    Parameters
    ----------
    bare : ReplicaSimulation
        What makes as many steps as the run.
    settings : Settings
        When to stop.

    Attributes
    ----------
    run, bare : dict of str to list of float
        Processor time of :data:`CHECK_STEPS` steps, by what the run does after them.
    since : float
        When the run went on, by the clock on the wall.
    """

    def __init__(self, bare: ReplicaSimulation, settings: Settings) -> None:
        self._bare, self._settings = bare, settings
        self._done = 0
        self._piece = [0.0, 0.0]  # seconds of the run and of the bare integrator
        self.run: dict[str, list[float]] = collections.defaultdict(list)
        self.bare: dict[str, list[float]] = collections.defaultdict(list)
        self._since = time.process_time()
        self._began = self.since = time.perf_counter()

    def progress(self, done: int, total: int, text: str) -> None:
        """Note the time of the run, and make as many steps without it."""
        self._piece[0] += time.process_time() - self._since
        self._piece[1] += seconds_of(self._bare.simulation.integrator, done - self._done)
        self._done = done
        if done % CHECK_STEPS == 0:
            kind = self.kind(done)
            self.run[kind].append(self._piece[0])
            self.bare[kind].append(self._piece[1])
            self._piece = [0.0, 0.0]
        self._since, self.since = time.process_time(), time.perf_counter()

    def stop(self) -> bool:
        """Return whether everything was seen and the time is over."""
        seen = self._done >= self._settings.cycle and self._done % CHECK_STEPS == 0
        return seen and time.perf_counter() - self._began > self._settings.seconds

    def kind(self, step: int) -> str:
        """Return what a run does after a step."""
        if step % self._settings.cycle == 0:
            return "state"
        return "frame" if step % self._settings.interval == 0 else "look"


def count_of_kinds(settings: Settings) -> dict[str, int]:
    """Return how often everything is done in a cycle."""
    frames = settings.cycle // settings.interval
    looks = settings.cycle // CHECK_STEPS
    return {"look": looks, "frame": frames, "state": 1}


def added_seconds(turns: Turns, settings: Settings) -> tuple[float, dict[str, float]]:
    """Return seconds of a bare step, and what a run adds to it, by what it does.

    Medians, so that a busy moment of the machine counts for nothing. A frame is written after a
    look, and state data after a frame, so each adds what it takes longer than the one before.
    """
    bare = float(np.median([value for values in turns.bare.values() for value in values]))
    added, before = {}, bare
    for kind, count in count_of_kinds(settings).items():
        if turns.run.get(kind):
            until = float(np.median(turns.run[kind]))
            added[kind] = count * (until - before) / settings.cycle
            before = until
    return bare / CHECK_STEPS, added


def integrator_alone(simulation: ReplicaSimulation, settings: Settings) -> float:
    """Return seconds of a step without the network."""
    system = openmm.System()
    for mass in np.tile(simulation.model.masses, simulation.replicas):
        system.addParticle(float(mass))
    like = simulation.simulation.integrator
    integrator = openmm.LangevinMiddleIntegrator(
        like.getTemperature(), like.getFriction(), like.getStepSize()
    )
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(PLATFORM))
    context.setPositions(simulation.positions.reshape(-1, 3))
    times = [seconds_of(integrator, settings.interval) for _ in range(11)]
    return float(np.median(times)) / settings.interval


def measure(model: ScoreModelFile, replicas: int, settings: Settings) -> dict[str, Any]:
    """Time a run of so many replicas and return its row."""
    frames = model.metadata.self_test.positions
    start = frames[np.arange(replicas) % len(frames)]
    bare = ReplicaSimulation(model, replicas=replicas, seed=1, platform=PLATFORM, backend=BACKEND)
    bare.set_positions(start)
    bare.warm_up()
    asked = RunSettings(
        replicas=replicas,
        steps=10_000_000,
        interval=settings.interval,
        seed=2,
        platform=PLATFORM,
        backend=BACKEND,
        checkpoint_seconds=math.inf,  # only at the end, where it is timed
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        ReplicaRun.start(model, folder, asked, start=start) as run,
    ):
        turns = Turns(bare, settings)
        run.advance(progress=turns.progress, stop=turns.stop)
        checkpoint = time.perf_counter() - turns.since
        breaks, steps = len(run.marks.breaks), run.step
    bare_step, added = added_seconds(turns, settings)
    checkpoint_share = checkpoint / RunSettings.checkpoint_seconds
    return {
        "replicas": replicas,
        "us_per_step": 1e6 * bare_step,
        "integrator_share": integrator_alone(bare, settings) / bare_step,
        "shares": {kind: value / bare_step for kind, value in added.items()},
        "checkpoint_ms": 1e3 * checkpoint,
        "checkpoint_share": checkpoint_share,
        "share": sum(added.values()) / bare_step + checkpoint_share,
        "steps": steps,
        "breaks": breaks,
    }


def run(settings: Settings, *, threads: int, console: Console) -> dict[str, Any]:
    """Measure everything and return the record."""
    began = time.perf_counter()
    model = ScoreModelFile(SHIPPED)
    record = new_record("engine overhead", threads=set_threads(threads))
    record |= {
        "platform": PLATFORM,
        "backend": BACKEND,
        "settings": dataclasses.asdict(settings),
        "model": f"{SHIPPED.parent.name}/{SHIPPED.name}",
        "n_beads": model.n_beads,
        "results": [],
    }
    for replicas in settings.replicas:
        with console.status(f"R = {replicas}"):
            record["results"].append(measure(model, replicas, settings))
    record["seconds"] = round(time.perf_counter() - began, 1)
    return record


# --- output ---------------------------------------------------------------------------------------

COLUMNS = (
    "R",
    "CPU µs/step",
    "integrator",
    "looks",
    "frames",
    "state data",
    "checkpoint, ms",
    "share",
    "engine",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one row of a table."""
    shares = [row["shares"].get(kind, 0.0) for kind in ("look", "frame", "state")]
    return [
        f"{row['replicas']:,}",
        f"{row['us_per_step']:,.0f}" if row["us_per_step"] >= 100 else f"{row['us_per_step']:.1f}",
        f"{100 * row['integrator_share']:.1f} %",
        *(f"{100 * share:.1f} %" for share in shares),
        f"{row['checkpoint_ms']:,.0f}",
        f"{100 * row['checkpoint_share']:.1f} %",
        f"{100 * row['share']:.1f} %",
    ]


def table(record: Mapping[str, Any]) -> Table:
    """Return the table for a terminal."""
    result = Table(title=record["model"], title_justify="left", pad_edge=False)
    for name in COLUMNS:
        result.add_column(name, justify="right", no_wrap=True)
    for row in record["results"]:
        result.add_row(*cells(row))
    return result


def markdown(record: Mapping[str, Any]) -> str:
    """Return the section of ``docs/performance.md`` that a record fills."""
    interval = record["settings"]["interval"]
    what = (
        f"`{record['model']}`, {record['n_beads']} beads, platform {record['platform']}, backend "
        f"{record['backend']}, frames every {interval} steps."
    )
    sentence = timing_sentence(record, threads="threads of torch")
    return "\n\n".join(
        [sentence, what, markdown_table(COLUMNS, list(map(cells, record["results"])))]
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = benchmark_parser("The engine's own share of a step.", OUTPUT)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--replicas", type=int, nargs="+", help="other replica counts")
    parser.add_argument("--interval", type=int, help="steps between frames, a multiple of 50")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    if options.write_docs:
        SECTION.write(markdown(json.loads(options.output.read_text(encoding="utf-8"))))
        return
    console = Console(width=None if sys.stdout.isatty() else 100)
    settings = SMOKE if options.smoke else Settings()
    if options.replicas is not None:
        settings = dataclasses.replace(settings, replicas=tuple(options.replicas))
    if options.interval is not None:
        settings = dataclasses.replace(settings, interval=options.interval)
    if settings.interval % CHECK_STEPS:
        raise SystemExit(f"--interval is {settings.interval}; give a multiple of {CHECK_STEPS}")
    record = run(settings, threads=options.threads, console=console)
    write_json(options.output, record)
    console.print(table(record))
    console.print(f"{record['seconds']:.0f} s; written to {options.output}")


if __name__ == "__main__":
    main()
