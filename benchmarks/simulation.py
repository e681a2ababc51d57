"""Simulation speed through OpenMM, beside a plain TorchScript export of the published network.

    python benchmarks/simulation.py                  # about 3 minutes on two idle cores
    python benchmarks/simulation.py --jax PATH       # and the public JAX code, from a checkout
    python benchmarks/simulation.py --write-docs     # bring docs/performance.md up to date

Every variant makes steps of LangevinMiddleIntegrator (300 K, 1/ps, 2 fs) with 1, 10, 100 and 1000
replicas. All variants of one row group are loaded together and timed in turns, so that a busy
moment of the machine hits all of them; medians are reported, and ratios within one run. Both files
hold the same parameters, and their energies are compared before anything is timed.

Utilisation is the floating-point work of the folded network (see ``flop_per_evaluation``) times
replica-steps per second, over the rate at which this machine multiplies matrices of the network's
own shapes at 100 replicas, measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import simulation_compile
import simulation_jax
import torch
import training_jax
from machine import new_record
from performance_page import (
    PAGE,
    RESULTS,
    ROOT,
    Section,
    benchmark_parser,
    markdown_table,
    timing_sentence,
)
from plain_network import Case, differences, export_random_network, make_case
from plotting import plot_speed
from rich.console import Console
from rich.table import Table
from simulation_work import flop_per_evaluation, matrix_shapes

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.model_file import Backend
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.simulation.replicas import ReplicaSimulation

OUTPUT = RESULTS / "simulation.json"
PICTURE = PAGE.parent / "simulation_speed.png"
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide.pt"
SECTION = Section("simulation")

TIMESTEP_NS = 2e-6
RATE_REPLICAS = 100
MATRIX_PRODUCTS = "matrix products"

Stepper = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is timed.

    Attributes
    ----------
    replicas : tuple of int
        Replica counts.
    sample_time : float
        Seconds of one timing; at least one step is made.
    min_rounds, max_rounds : int
        Timings of every variant.
    budget : float
        Seconds after which no round is started beyond ``min_rounds``.
    compiler : bool
        Whether torch.compile is timed as well, which compiles for minutes.
    """

    replicas: tuple[int, ...] = (1, 10, 100, 1000)
    sample_time: float = 0.12
    min_rounds: int = 3
    max_rounds: int = 9
    budget: float = 6.0
    compiler: bool = False


SMOKE = Settings(replicas=(2,), sample_time=0.0, min_rounds=2, max_rounds=2)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to make steps."""

    name: str
    file: str
    backend: Backend
    platform: str


VARIANTS = (
    Variant("plain, TorchForce", "plain", "torchforce", "Reference"),
    Variant("ours, TorchForce", "ours", "torchforce", "Reference"),
    Variant("ours, PythonForce", "ours", "pythonforce", "Reference"),
    Variant("compiled", "ours", "kernel", "Reference"),
    Variant("compiled, CPU", "ours", "kernel", "CPU"),
)


def make_cases(folder: Path) -> list[Case]:
    """Export the networks to be timed, and take the shipped one if it is there."""
    sizes = {
        5: GraphTransformerConfig(hidden_dim=96, layers=2),
        10: GraphTransformerConfig(hidden_dim=128, layers=3),
    }
    cases = []
    for n_beads, config in sizes.items():
        name = f"{n_beads} beads, width {config.hidden_dim}, {config.layers} layers, random weights"
        path = export_random_network(n_beads, config, folder / f"random_{n_beads}.pt")
        cases.append(make_case(name, path, folder))
    if SHIPPED.is_file():
        cases.append(make_case(f"{SHIPPED.parent.name}/{SHIPPED.name}", SHIPPED, folder))
    return cases


def matrix_products(case: Case) -> tuple[Stepper, int]:
    """Return a function that multiplies matrices of the network's shapes, and its operations."""
    rows = RATE_REPLICAS * case.n_beads
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for inputs, outputs in matrix_shapes(case.n_beads, case.config):
        weight = torch.randn(outputs, inputs, generator=generator)
        pairs.append((torch.randn(rows, inputs, generator=generator), weight.T))  # forward
        pairs.append((torch.randn(rows, outputs, generator=generator), weight))  # backward
    results = [left @ right for left, right in pairs]

    def step(n_steps: int) -> None:
        for _ in range(n_steps):
            for (left, right), result in zip(pairs, results, strict=True):
                torch.mm(left, right, out=result)

    return step, sum(2 * left.shape[0] * right.numel() for left, right in pairs)


# --- timing ---------------------------------------------------------------------------------------


def simulation_stepper(case: Case, variant: Variant, replicas: int) -> Stepper:
    """Return a function that makes steps of a new simulation."""
    model = case.files[variant.file]
    simulation = ReplicaSimulation(
        model, replicas=replicas, seed=1, platform=variant.platform, backend=variant.backend
    )
    frames = model.metadata.self_test.positions
    simulation.set_positions(frames[np.arange(replicas) % len(frames)])

    def step(n_steps: int) -> None:
        # Not Simulation.step, which looks for reporters every ten steps.
        simulation.simulation.integrator.step(n_steps)

    return step


def seconds_per_step(step: Stepper, n_steps: int) -> float:
    """Time some steps."""
    start = time.perf_counter()
    step(n_steps)
    return (time.perf_counter() - start) / n_steps


def time_in_turns(steppers: Mapping[str, Stepper], settings: Settings) -> dict[str, list[float]]:
    """Return timings of one step, in seconds, of every stepper, taken in turns."""
    counts = {}
    for name, step in steppers.items():
        # TorchScript watches the first call and compiles in the second.
        for _ in range(3):
            estimate = seconds_per_step(step, 1)
        counts[name] = max(1, round(settings.sample_time / estimate))
    samples: dict[str, list[float]] = {name: [] for name in steppers}
    start = time.perf_counter()
    for turn in range(settings.max_rounds):
        if turn >= settings.min_rounds and time.perf_counter() - start > settings.budget:
            break
        for name, step in steppers.items():
            samples[name].append(seconds_per_step(step, counts[name]))
    return samples


def jax_steppers(case: Case, replicas: int, checkout: Path | None) -> dict[str, Stepper]:
    """Return the stepper of the public JAX code, if it is to be timed and has this network."""
    if checkout is None or not simulation_jax.same_network_exists(case.config):
        return {}
    stepper = simulation_jax.simulation_stepper(checkout, case.config, case.n_beads, replicas)
    return {simulation_jax.NAME: stepper}


def time_case(
    case: Case, settings: Settings, console: Console, *, jax: Path | None
) -> dict[str, Any]:
    """Time all variants of one network at all replica counts."""
    difference = differences(case)
    products, operations = matrix_products(case)
    results, rates = [], []
    for replicas in settings.replicas:
        with console.status(f"{case.name}: R = {replicas}"):
            steppers = {v.name: simulation_stepper(case, v, replicas) for v in VARIANTS}
            steppers |= jax_steppers(case, replicas, jax)
            if settings.compiler:
                name = simulation_compile.NAME
                steppers[name] = simulation_compile.evaluation_stepper(case, replicas)
            samples = time_in_turns({MATRIX_PRODUCTS: products, **steppers}, settings)
        rates.append(operations / float(np.median(samples.pop(MATRIX_PRODUCTS))))
        results += result_rows(case, replicas, samples, rate=rates[-1])
    return {
        "name": case.name,
        "n_beads": case.n_beads,
        "architecture": dataclasses.asdict(case.config),
        "sha256": case.files["ours"].sha256,
        "difference_from_plain": difference,
        "flop_per_evaluation": flop_per_evaluation(case.n_beads, case.config),
        "matrix_product_gflop_per_s": float(np.median(rates)) / 1e9,
        "results": results,
    }


def result_rows(
    case: Case, replicas: int, samples: Mapping[str, Sequence[float]], *, rate: float
) -> list[dict[str, Any]]:
    """Return one row per variant; ``rate`` is that of matrix products, in operations per second."""
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    flop = flop_per_evaluation(case.n_beads, case.config)
    return [
        {
            "variant": name,
            "replicas": replicas,
            "us_per_step": 1e6 * seconds,
            "steps_per_s": 1.0 / seconds,
            "replica_steps_per_s": replicas / seconds,
            "ns_per_day": 86400.0 * TIMESTEP_NS / seconds,
            "ratio_to_plain": medians[VARIANTS[0].name] / seconds,
            "utilisation": flop * replicas / seconds / rate,
            "samples_us": [round(1e6 * value, 1) for value in samples[name]],
        }
        for name, seconds in medians.items()
    ]


def set_threads(count: int | None) -> int:
    """Set threads of torch and of OpenMM's CPU platform; None leaves torch's own choice."""
    if count is not None:
        torch.set_num_threads(count)
    threads = torch.get_num_threads()
    openmm.Platform.getPlatformByName("CPU").setPropertyDefaultValue("Threads", str(threads))
    return threads


def run(
    settings: Settings, *, threads: int | None, console: Console, jax: Path | None = None
) -> dict[str, Any]:
    """Time everything and return the record."""
    start = time.perf_counter()
    record = new_record("simulation", threads=set_threads(threads))
    record |= {
        "settings": dataclasses.asdict(settings),
        "networks": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        with console.status("exporting networks"):
            cases = make_cases(Path(folder))
        for case in cases:
            record["networks"].append(time_case(case, settings, console, jax=jax))
            console.print(table(record["networks"][-1]))
    record["seconds"] = round(time.perf_counter() - start, 1)
    return record


# --- output ---------------------------------------------------------------------------------------

COLUMNS = ("variant", "R", "µs/step", "steps/s", "replica-steps/s", "ns/day", "× plain", "util.")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one row of a table."""
    numbers = [row[n] for n in ("us_per_step", "steps_per_s", "replica_steps_per_s", "ns_per_day")]
    return [
        row["variant"],
        str(row["replicas"]),
        *(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in numbers),
        f"{row['ratio_to_plain']:.2f}",
        f"{100.0 * row['utilisation']:.0f} %",
    ]


def work(network: Mapping[str, Any]) -> str:
    """Return what utilisation is counted from."""
    return (
        f"{network['flop_per_evaluation'] / 1e6:.1f} MFLOP per energy and forces; "
        f"matrix products: {network['matrix_product_gflop_per_s']:.0f} GFLOP/s"
    )


def table(network: Mapping[str, Any]) -> Table:
    """Return the table of one network for a terminal."""
    title = f"{network['name']}\n{work(network)}"
    result = Table(title=title, title_justify="left", pad_edge=False)
    for name in COLUMNS:
        result.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row, following in itertools.zip_longest(network["results"], network["results"][1:]):
        last = following is not None and following["replicas"] != row["replicas"]
        result.add_row(*cells(row), end_section=last)
    return result


def markdown(record: Mapping[str, Any]) -> str:
    """Return the section of ``docs/performance.md`` that a record fills."""
    introduction = timing_sentence(record, threads="threads of torch and of OpenMM's CPU platform")
    parts = [introduction, f"![Replica-steps per second against replicas]({PICTURE.name})"]
    return "\n\n".join([*parts, *map(network_section, record["networks"])])


def network_section(network: Mapping[str, Any]) -> str:
    """Return heading and table of one network."""
    error = network["difference_from_plain"]
    text = (
        f"{work(network)}. Plain and folded energies differ by {error['energy']:.1e} relative, "
        f"forces by {error['force']:.1e}."
    )
    rows = [cells(row) for row in network["results"]]
    return "\n\n".join([f"### {network['name']}", text, markdown_table(COLUMNS, rows)])


def write_docs(output: Path) -> None:
    """Bring the page and its picture up to date with a record."""
    record = json.loads(output.read_text(encoding="utf-8"))
    plot_speed(record["networks"], PICTURE)
    SECTION.write(markdown(record))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = benchmark_parser("Simulation speed through OpenMM.", OUTPUT)
    parser.add_argument("--threads", type=int, help="threads of torch and of OpenMM's CPU platform")
    parser.add_argument("--jax", type=Path, help="checkout of github.com/noegroup/ScoreMD")
    compiler = "time torch.compile of the same network as well"
    parser.add_argument("--torch-compile", action="store_true", help=compiler)
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    if options.write_docs:
        write_docs(options.output)
        return
    if options.jax is not None:
        training_jax.check(options.jax)
    console = Console(width=None if sys.stdout.isatty() else 100)
    settings = SMOKE if options.smoke else Settings(compiler=options.torch_compile)
    record = run(settings, threads=options.threads, console=console, jax=options.jax)
    write_json(options.output, record)
    console.print(f"{record['seconds']:.0f} s; written to {options.output}")


if __name__ == "__main__":
    main()
