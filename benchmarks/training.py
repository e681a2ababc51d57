"""Training speed: networks, losses and ways of stepping, beside the public JAX code.

    python benchmarks/training.py                    # many compilations: about 20 minutes
    python benchmarks/training.py --only "MLP" --threads 1
    python benchmarks/training.py --jax PATH         # also times a checkout of the public code
    python benchmarks/training.py --write-docs       # bring docs/performance.md up to date

Every variant is a `Trainer` on random frames, stepping as a training run does: batches, loss,
gradient, clipping, AdamW, average. "many steps" is what `hardware.backend: compiled` does in one
process; "single steps" compiles loss and gradient only, which is what several processes do.
All variants of one network are loaded together and timed in turns, so that a busy moment of the
machine hits all of them; medians are reported, and ratios within one run.

Utilisation is the operations of the matrix products of one loss and its gradient, in the plain form
of the network, per second, over the rate at which this machine multiplies matrices of the network's
own width, measured in the same turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training_jax
from machine import new_record
from performance_page import RESULTS, Section, benchmark_parser, markdown_table, timing_sentence
from rich.console import Console
from rich.table import Table
from training_cases import (
    SAME_WORK,
    YARDSTICK,
    Case,
    ProductCounter,
    all_cases,
    chosen_losses,
    matrix_products,
    smaller,
    write_random_dataset,
)

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.training.compiled.memory import keep_freed_memory
from openmm_scoremd.training.config import DataConfig, HardwareConfig, TrainingConfig
from openmm_scoremd.training.setup import training_objective
from openmm_scoremd.training.trainer import Trainer

OUTPUT = RESULTS / "training.json"
SECTION = Section("training")

MATRIX_PRODUCTS = "matrix products"
MANY, SINGLE, EAGER, JAX = "many steps", "single steps", "eager", "public JAX code"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is timed, and how.

    Attributes
    ----------
    clock : {"wall", "cpu"}
        What time is. On a machine that others use, with one thread, the time that this process
        spent on a processor says more than the time on the wall.
    sample_time : float
        Seconds of one timing; at least one step is made.
    rounds : int
        Timings of every variant.
    paths : tuple of str
        Ways of stepping.
    """

    clock: str = "wall"
    sample_time: float = 0.5
    rounds: int = 7
    paths: tuple[str, ...] = (MANY, SINGLE)


SMOKE = Settings(sample_time=0.0, rounds=2, paths=(EAGER,))


# --- variants -------------------------------------------------------------------------------------


def make_trainer(case: Case, config: TrainingConfig, path: str, folder: Path) -> Trainer:
    """Return a trainer on random frames that steps in one of the ways."""
    dataset = write_random_dataset(case, folder / "random.npz")
    backend = "eager" if path == EAGER else "compiled"
    trainer = Trainer(
        dataclasses.replace(
            config,
            data=DataConfig(str(dataset), augmentation="rotation" if case.n_dims == 3 else "none"),
            hardware=HardwareConfig(accelerator="cpu", backend=backend),
            epochs=10**6,
        ),
        folder / "run",
    )
    if path == SINGLE:
        trainer.steps = None
    return trainer


class Stepper:
    """Goes on with a training run, some steps at a time."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.done = 0

    def __call__(self, n_steps: int) -> None:
        """Do some steps."""
        self.trainer.train_steps(self.done, self.done + n_steps)
        self.done += n_steps


def flop_per_step(trainer: Trainer) -> int:
    """Return the operations in matrix products of one loss and its gradient."""
    objective = training_objective(trainer.config, trainer.model)
    with ProductCounter() as counter:
        objective(*trainer.stream.batch(0).arrays).backward()
    trainer.model.zero_grad(set_to_none=True)
    return counter.flop


# --- timing ---------------------------------------------------------------------------------------


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_per_step(step: Callable[[int], None], n_steps: int, *, clock: str) -> float:
    """Time some steps."""
    start = CLOCKS[clock]()
    step(n_steps)
    return (CLOCKS[clock]() - start) / n_steps


def time_case(
    case: Case, settings: Settings, *, jax: Path | None, console: Console
) -> dict[str, Any]:
    """Time all losses of one network in all ways of stepping."""
    products, operations = matrix_products(case)
    steppers: dict[tuple[str, str], Callable[[int], None]] = {("", MATRIX_PRODUCTS): products}
    flop, starts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for loss, config in case.losses.items():
            for path in settings.paths:
                with console.status(f"{case.name}: {loss}, {path}"):
                    place = Path(tempfile.mkdtemp(dir=folder))
                    trainer = make_trainer(case, config, path, place)
                    flop[loss] = flop_per_step(trainer)
                    steppers[loss, path] = Stepper(trainer)
                    starts[loss, path] = seconds_per_step(
                        steppers[loss, path], 1, clock=settings.clock
                    )
            if jax is not None and loss in training_jax.LOSSES:
                steppers[loss, JAX] = training_jax.stepper(
                    jax, config.network, case.n_beads, case.n_dims, config.batch_size, loss
                )
        with console.status(f"{case.name}: timing"):
            samples = time_in_turns(steppers, settings)
    rate = operations / float(np.median(samples.pop(("", MATRIX_PRODUCTS))))
    rows = [
        result_row(case, key, values, samples, flop=flop[key[0]], rate=rate)
        for key, values in samples.items()
    ]
    for row in rows:
        row["seconds_of_first_step"] = starts.get((row["loss"], row["path"]))
    config = next(iter(case.losses.values()))
    return {
        "name": case.name,
        "n_beads": case.n_beads,
        "batch_size": config.batch_size,
        "architecture": dataclasses.asdict(config.network),
        "losses": {
            loss: dataclasses.asdict(config.fokker_planck) for loss, config in case.losses.items()
        },
        "matrix_product_gflop_per_s": rate / 1e9,
        "results": rows,
    }


def time_in_turns(
    steppers: Mapping[tuple[str, str], Callable[[int], None]], settings: Settings
) -> dict[tuple[str, str], list[float]]:
    """Return timings of one step, in seconds, of every stepper, taken in turns."""
    counts = {}
    for key, step in steppers.items():
        # As long as a timing, so that fixed costs of an interval weigh what they do in a run.
        estimate = min(seconds_per_step(step, 1, clock=settings.clock) for _ in range(2))
        counts[key] = min(1000, max(1, round(settings.sample_time / estimate)))
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in steppers}
    for _ in range(settings.rounds):
        for key, step in steppers.items():
            samples[key].append(seconds_per_step(step, counts[key], clock=settings.clock))
    return samples


def result_row(
    case: Case,
    key: tuple[str, str],
    values: Sequence[float],
    samples: Mapping[tuple[str, str], Sequence[float]],
    *,
    flop: int,
    rate: float,
) -> dict[str, Any]:
    """Return one row; ``rate`` is that of matrix products, in operations per second."""
    loss, path = key
    seconds = float(np.median(values))
    batch = case.losses[loss].batch_size
    yardstick = YARDSTICK.get((case.name, SAME_WORK[loss]))
    single, jax = samples.get((loss, SINGLE)), samples.get((SAME_WORK[loss], JAX))
    return {
        "loss": loss,
        "path": path,
        "ms_per_step": 1e3 * seconds,
        "samples_per_s": batch / seconds,
        "ratio_to_denoising": seconds / float(np.median(samples["denoising", path])),
        "ratio_to_single_steps": None if single is None else float(np.median(single)) / seconds,
        "ratio_to_jax": None if jax is None else float(np.median(jax)) / seconds,
        "ratio_to_jax_record": None if yardstick is None else batch / seconds / yardstick,
        "flop_per_step": flop,
        "utilisation": flop / seconds / rate,
        "samples_ms": [round(1e3 * value, 4) for value in values],
    }


def run(
    cases: Sequence[Case],
    settings: Settings,
    output: Path,
    *,
    jax: Path | None,
    console: Console,
) -> None:
    """Time everything; the record is written after every case."""
    start = time.perf_counter()
    record = new_record("training", threads=torch.get_num_threads())
    record |= {
        "settings": dataclasses.asdict(settings),
        "cases": [],
    }
    for case in cases:
        record["cases"].append(time_case(case, settings, jax=jax, console=console))
        console.print(table(record["cases"][-1]))
        record["seconds"] = round(time.perf_counter() - start, 1)
        write_json(output, record)
    console.print(f"{time.perf_counter() - start:.0f} s; written to {output}")


# --- output ---------------------------------------------------------------------------------------

COLUMNS = ("loss", "path", "ms/step", "samples/s", "× DSM", "× single", "× JAX", "× rec.", "util.")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one row of a table."""
    ratios = [row[f"ratio_to_{n}"] for n in ("denoising", "single_steps", "jax", "jax_record")]
    return [
        row["loss"],
        row["path"],
        f"{row['ms_per_step']:.3g}",
        f"{row['samples_per_s']:,.0f}",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{100.0 * row['utilisation']:.0f} %",
    ]


def title(case: Mapping[str, Any]) -> str:
    """Return a case's name, batch and the rate that utilisation refers to."""
    rate = f"{case['matrix_product_gflop_per_s']:.0f} GFLOP/s"
    return f"{case['name']}, batch {case['batch_size']}; matrix products: {rate}"


def table(case: Mapping[str, Any]) -> Table:
    """Return the table of one network for a terminal."""
    result = Table(title=title(case), title_justify="left", pad_edge=False)
    for name in COLUMNS:
        left = name in ("loss", "path")
        result.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in case["results"]:
        result.add_row(*cells(row))
    return result


def markdown(record: Mapping[str, Any]) -> str:
    """Return the section of ``docs/performance.md`` that a record fills."""
    text = timing_sentence(record, threads=f"{record['settings']['clock']} time, threads of torch")
    parts = [text]
    for case in record["cases"]:
        rows = [cells(row) for row in case["results"]]
        parts += [f"### {title(case)}", markdown_table(COLUMNS, rows)]
    return "\n\n".join(parts)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = benchmark_parser("Training speed.", OUTPUT)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name contains one")
    parser.add_argument("--losses", nargs="+", choices=tuple(SAME_WORK), default=tuple(SAME_WORK))
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure processor time, for a machine that others use; needs --threads 1",
    )
    parser.add_argument(
        "--paths", nargs="+", choices=(MANY, SINGLE, EAGER), default=Settings.paths, metavar="PATH"
    )
    parser.add_argument("--jax", type=Path, help="checkout of the public code, timed as well")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    if options.write_docs:
        record = json.loads(options.output.read_text(encoding="utf-8"))
        SECTION.write(markdown(record))
        return
    keep_freed_memory()  # as `scoremd train` does
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.cpu_time and options.threads != 1:
        raise SystemExit("--cpu-time adds up the time of all threads; give --threads 1 with it")
    if options.jax is not None:
        training_jax.check(options.jax)
    console = Console(width=None if sys.stdout.isatty() else 100)
    cases = [
        chosen_losses(case, options.losses)
        for case in all_cases()
        if any(part in case.name for part in options.only)
    ]
    clock = "cpu" if options.cpu_time else "wall"
    settings = Settings(clock=clock, paths=tuple(options.paths))
    if options.smoke:
        cases, settings = [smaller(case) for case in cases], SMOKE
    run(cases, settings, options.output, jax=options.jax, console=console)


if __name__ == "__main__":
    main()
