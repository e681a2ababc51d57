"""Speed of model files side by side: replica-steps per second through LangevinMiddleIntegrator.

    python benchmarks/model_speed.py                 # about 3 minutes: the shipped models
    python benchmarks/model_speed.py --write-docs    # bring docs/performance.md up to date

Every model is simulated by the backend that is chosen for it, in turns, so that a busy moment of
the machine hits all of them. The best of several rounds counts, and ratios are to the first model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import new_record
from performance_page import RESULTS, Section, benchmark_parser, markdown_table, timing_sentence
from rich.console import Console
from rich.table import Table
from simulation import set_threads

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation

MODELS = Path(__file__).parents[1] / "torchscript_models"
SHIPPED = {
    "graph transformer": MODELS / "alanine_dipeptide.pt",
    "invariant": MODELS / "alanine_dipeptide_invariant.pt",
}
OUTPUT = RESULTS / "model_speed.json"
SECTION = Section("model speed")
REPLICAS = (1, 10, 100, 1000)
ROUNDS, SECONDS = 5, 1.0


def prepared(model: ScoreModelFile, replicas: int, backend: str) -> ReplicaSimulation:
    """Return a simulation that has made its first steps."""
    simulation = ReplicaSimulation(model, replicas=replicas, seed=1, backend=backend)
    simulation.set_positions(model.sample(replicas, seed=1, n_steps=30))
    simulation.step(10)
    return simulation


def speed(simulation: ReplicaSimulation, replicas: int, seconds: float) -> float:
    """Return replica-steps per second over about so many seconds."""
    steps, spent = 5, 0.0
    while spent < seconds / 4:
        steps *= 2
        began = time.perf_counter()
        simulation.step(steps)
        spent = time.perf_counter() - began
    return replicas * steps / spent


def run(
    models: Mapping[str, Path],
    *,
    backend: str,
    threads: int | None,
    replicas: Sequence[int],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure all models and return the record."""
    record = new_record("model speed", threads=set_threads(threads))
    files = {name: ScoreModelFile(path) for name, path in models.items()}
    rows = []
    for count in replicas:
        runs = {name: prepared(file, count, backend) for name, file in files.items()}
        best = dict.fromkeys(runs, 0.0)
        for _ in range(rounds):
            for name, simulation in runs.items():
                best[name] = max(best[name], speed(simulation, count, seconds))
        rows += [
            {"replicas": count, "model": name, "replica_steps_per_s": value}
            for name, value in best.items()
        ]
    hashes = {name: file.sha256 for name, file in files.items()}
    return record | {"backend": backend, "sha256": hashes, "results": rows}


COLUMNS = ("model", "R", "replica-steps/s", "ratio")


def cells(record: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a table."""
    first = next(iter(record["sha256"]))
    key = "replica_steps_per_s"
    base = {row["replicas"]: row[key] for row in record["results"] if row["model"] == first}
    return [
        [
            row["model"],
            f"{row['replicas']:,}",
            f"{row[key]:,.0f}",
            f"{row[key] / base[row['replicas']]:.2f}",
        ]
        for row in record["results"]
    ]


def markdown(record: Mapping[str, Any]) -> str:
    """Return the section of ``docs/performance.md`` that a record fills."""
    sentence = timing_sentence(record, threads="threads of torch")
    text = f"{sentence} Backend: {record['backend']}."
    return f"{text}\n\n{markdown_table(COLUMNS, cells(record))}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = benchmark_parser("Speed of model files side by side.", OUTPUT)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL", help="the shipped ones if none")
    parser.add_argument("--backend", default="kernel", help="of all models (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    if options.write_docs:
        SECTION.write(markdown(json.loads(options.output.read_text(encoding="utf-8"))))
        return
    given = {name: Path(path) for name, _, path in (m.partition("=") for m in options.models)}
    record = run(
        given or SHIPPED,
        backend=options.backend,
        threads=options.threads,
        replicas=REPLICAS[:2] if options.smoke else REPLICAS,
        rounds=1 if options.smoke else ROUNDS,
        seconds=0.01 if options.smoke else SECONDS,
    )
    write_json(options.output, record)
    table = Table(*COLUMNS)
    for row in cells(record):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
