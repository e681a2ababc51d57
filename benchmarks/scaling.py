"""Cost and memory of energy and forces against the number of beads, from 5 to 300.

    python benchmarks/scaling.py                 # some minutes on two idle cores
    python benchmarks/scaling.py --write-docs    # bring docs/performance.md up to date

The published five-bead network (hidden 96, 2 layers, 8 heads of 64) with random weights, for chains
of beads, replicas times beads held near a fixed number. Each size runs in a process of its own,
because memory is the peak of the process, less what it had before the first evaluation (Linux).
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import new_record
from performance_page import (
    PAGE,
    RESULTS,
    Section,
    benchmark_parser,
    markdown_table,
    timing_sentence,
)
from plotting import plot_scaling

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.forces.kernel.network import NativeNetwork, Unit
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer, choose_form
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig

OUTPUT = RESULTS / "scaling.json"
PICTURE = PAGE.parent / "scaling.png"
SECTION = Section("scaling")
CONFIG = GraphTransformerConfig(hidden_dim=96, layers=2)
BEADS = (5, 10, 20, 40, 80, 150, 300)
VARIANTS = ("explicit", "compiled")


def evaluation(variant: str, n_beads: int, replicas: int, threads: int) -> Callable[[], Any]:
    """Return a function that computes energies and forces of random frames."""
    torch.manual_seed(0)
    model = build_model(CONFIG, n_beads=n_beads, n_dims=3).double()
    folded = FoldedGraphTransformer(model.network, model.decoder, t=1e-5).float()
    frames = np.random.default_rng(0).normal(size=(replicas, n_beads, 3))
    if variant == "explicit":
        x = torch.from_numpy(frames - frames.mean(axis=1, keepdims=True)).float()
        return lambda: folded.energy_and_gradient(x)
    unit = Unit(inverse_scale=1.0, energy=1.0)
    native = NativeNetwork(dict(folded.named_buffers()), heads=CONFIG.heads, unit=unit)
    return lambda: native.energies_and_forces(frames, threads=threads)


def measure(variant: str, n_beads: int, rows: int, seconds: float, threads: int) -> dict[str, Any]:
    """Time one variant at one size, in this process."""
    torch.set_num_threads(threads)
    replicas = max(1, rows // n_beads)
    evaluate = evaluation(variant, n_beads, replicas, threads)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_mb("VmRSS")
    evaluate()
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < 3 or time.perf_counter() - start < seconds:
        # Time of the processor, so that other programs matter less.
        begin = time.process_time()
        evaluate()
        samples.append(time.process_time() - begin)
    return {
        "variant": variant,
        "n_beads": n_beads,
        "replicas": replicas,
        "form": choose_form(n_beads, hidden_dim=CONFIG.hidden_dim, head_dim=CONFIG.head_dim),
        "cpu_us_per_replica": 1e6 * float(np.median(samples)) / replicas,
        "cpu_us_per_bead": 1e6 * float(np.median(samples)) / replicas / n_beads,
        "memory_mb": resident_mb("VmHWM") - before,
    }


def resident_mb(name: str) -> float:
    """Return a size of this process from Linux: VmRSS, or its peak VmHWM."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024.0


def run(beads: Sequence[int], rows: int, seconds: float, threads: int) -> dict[str, Any]:
    """Measure all sizes, each in a fresh process."""
    record = new_record("scaling", threads=threads)
    results = []
    for n_beads in beads:
        for variant in VARIANTS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (variant, n_beads, rows, seconds, threads))
            results.append(row)
            print(" | ".join(cells(row)), flush=True)
    return {**record, "rows": rows, "results": results}


COLUMNS = (
    "variant",
    "beads",
    "replicas",
    "attention",
    "CPU µs/replica",
    "CPU µs/bead",
    "memory, MB",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one row of the table."""
    return [
        row["variant"],
        str(row["n_beads"]),
        str(row["replicas"]),
        row["form"],
        f"{row['cpu_us_per_replica']:,.0f}",
        f"{row['cpu_us_per_bead']:.1f}",
        f"{row['memory_mb']:.0f}" if row["memory_mb"] >= 10.0 else f"{row['memory_mb']:.1f}",
    ]


def markdown(record: Mapping[str, Any]) -> str:
    """Return the section of ``docs/performance.md`` that a record fills."""
    text = (
        f"{timing_sentence(record, threads='threads')} Replicas times beads are about "
        f"{record['rows']:,}."
    )
    picture = f"![Processor time and memory against the number of beads]({PICTURE.name})"
    rows = markdown_table(COLUMNS, list(map(cells, record["results"])))
    return "\n\n".join([text, picture, rows])


def write_docs(output: Path) -> None:
    """Bring ``docs/performance.md`` and its picture up to date with a record."""
    record = json.loads(output.read_text(encoding="utf-8"))
    plot_scaling(record["results"], PICTURE)
    SECTION.write(markdown(record))


def main() -> None:
    """Run, print and write."""
    parser = benchmark_parser("Cost and memory against the number of beads.", OUTPUT)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, default=3000, help="replicas times beads, about")
    options = parser.parse_args()
    if options.write_docs:
        write_docs(options.output)
        return
    beads, rows, seconds = ((5, 10), 50, 0.0) if options.smoke else (BEADS, options.rows, 0.5)
    write_json(options.output, run(beads, rows, seconds, options.threads))


if __name__ == "__main__":
    main()
