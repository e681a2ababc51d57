"""Energy conservation of the exported force: drift and fluctuation without a thermostat.

    python benchmarks/energy_drift.py                 # about 3 minutes on one idle core
    python benchmarks/energy_drift.py --write-docs    # bring docs/performance.md up to date

Replicas of alanine dipeptide in one Context begin at independent frames, are equilibrated at the
model's temperature, and go on with VerletIntegrator: the plain form of the network and the model
file, by every backend, from the same state. The total energy of every replica is judged by the
same network in double precision, which adds no rounding of its own. The slope of a straight line
through it is the drift; replicas are independent, so their spread gives the error. The integrator's
modified energy (see verlet.py) shows drifts that are too small to be seen so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import new_record
from performance_page import RESULTS, Section, benchmark_parser, machine_sentence, markdown_table
from plain_network import Case, differences, make_case
from rich.console import Console
from rich.table import Table
from simulation import SHIPPED, VARIANTS, Variant, set_threads
from verlet import PLATFORM, PhaseSpace, conservation, judge, modified_terms, verlet

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation

OUTPUT = RESULTS / "energy_drift.json"
SECTION = Section("energy drift")
COMPARED = tuple(variant for variant in VARIANTS if variant.platform == PLATFORM)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is simulated.

    Attributes
    ----------
    replicas : int
        Independent copies.
    timesteps : tuple of float, fs
        Steps of the integrator, by size.
    length : float, ps
        Time simulated with each of them.
    interval : float, ps
        Time between two looks at the energy.
    equilibration : int
        Steps of 2 fs with a thermostat before.
    """

    replicas: int = 8
    timesteps: tuple[float, ...] = (0.5, 1.0, 2.0)
    length: float = 7.0
    interval: float = 0.02
    equilibration: int = 2500


SMOKE = Settings(replicas=2, timesteps=(1.0, 2.0), length=0.2, equilibration=20)


def equilibrated(model: ScoreModelFile, settings: Settings) -> PhaseSpace:
    """Return replicas at the model's temperature."""
    simulation = ReplicaSimulation(
        model, replicas=settings.replicas, seed=1, platform=PLATFORM, backend="kernel"
    )
    simulation.set_positions(model.sample(settings.replicas, seed=1))
    simulation.step(settings.equilibration)
    return PhaseSpace(*simulation.phase_space())


def measure(
    case: Case, variant: Variant, settings: Settings, *, timestep: float, start: PhaseSpace
) -> dict[str, Any]:
    """Simulate one variant with one time step (fs) and return its row."""
    began = time.perf_counter()
    steps = max(1, round(1e3 * settings.interval / timestep))
    interval = 1e-3 * steps * timestep
    samples = round(settings.length / interval)
    seen = verlet(
        case.files[variant.file],
        variant.backend,
        start,
        timestep=1e-3 * timestep,
        interval=steps,
        samples=samples,
    )
    energies = judge(case.files["ours"])
    frames = seen.positions.reshape(-1, case.n_beads, 3)
    potential = energies(frames).reshape(samples, settings.replicas)
    times = interval * np.arange(1, samples + 1)
    total = potential + seen.kinetic
    terms = modified_terms(seen, potential, energies, timestep=1e-3 * timestep)
    rounding = seen.potential - potential.sum(axis=1)
    return {
        "variant": variant.name,
        "timestep_fs": timestep,
        "energy": conservation(times, total).to_dict(case.n_beads),
        "modified_energy": conservation(times, total + terms).to_dict(case.n_beads),
        # Roundings of replicas are independent: their sum has the root of their number.
        "rounding_kj_per_mol": float(rounding.std() / np.sqrt(settings.replicas)),
        "mean_kinetic_energy_kj_per_mol": float(seen.kinetic.mean()),
        "seconds": round(time.perf_counter() - began, 1),
    }


def run(settings: Settings, *, threads: int, console: Console) -> dict[str, Any]:
    """Measure all variants and return the record."""
    began = time.perf_counter()
    record = new_record("energy drift", threads=set_threads(threads))
    record |= {
        "platform": PLATFORM,
        "settings": dataclasses.asdict(settings),
    }
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(f"{SHIPPED.parent.name}/{SHIPPED.name}", SHIPPED, Path(folder))
        record |= {
            "model": case.name,
            "n_beads": case.n_beads,
            "sha256": case.files["ours"].sha256,
            "difference_from_plain": differences(case),
        }
        start = equilibrated(case.files["ours"], settings)
        rows = []
        for timestep in settings.timesteps:
            for variant in COMPARED:
                with console.status(f"{timestep:g} fs: {variant.name}"):
                    rows.append(measure(case, variant, settings, timestep=timestep, start=start))
    record["results"] = rows
    record["seconds"] = round(time.perf_counter() - began, 1)
    return record


# --- output ---------------------------------------------------------------------------------------

COLUMNS = ("variant", "step, fs", "drift", "fluct.", "modified: drift", "fluct.", "rounding")
DRIFT, FLUCTUATION = "drift_kj_per_mol_per_ns_per_bead", "fluctuation_kj_per_mol"


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one row of a table."""
    energy, modified = row["energy"], row["modified_energy"]
    return [
        row["variant"],
        f"{row['timestep_fs']:g}",
        f"{energy[DRIFT]:+.3f} ± {energy['drift_error']:.3f}",
        f"{energy[FLUCTUATION]:.1e}",
        f"{modified[DRIFT]:+.4f} ± {modified['drift_error']:.4f}",
        f"{modified[FLUCTUATION]:.1e}",
        f"{row['rounding_kj_per_mol']:.1e}",
    ]


def summary(record: Mapping[str, Any]) -> str:
    """Compare with the plain form, and with the order of the integrator."""
    rows = record["results"]
    plain = {row["timestep_fs"]: row for row in rows if row["variant"] == COMPARED[0].name}
    compared = [
        (row["modified_energy"], plain[row["timestep_fs"]]["modified_energy"])
        for row in rows
        if row["variant"] != COMPARED[0].name
    ]
    apart = [abs(ours[DRIFT] - theirs[DRIFT]) for ours, theirs in compared]
    errors = [np.hypot(ours["drift_error"], theirs["drift_error"]) for ours, theirs in compared]
    text = (
        f"Drifts of the modified energy differ from the plain form's by at most {max(apart):.2g} "
        f"kJ/mol/ns/bead, {max(np.array(apart) / errors):.1f} standard errors."
    )
    steps = sorted(plain)
    if len(steps) > 1:
        fluctuations = [plain[step]["energy"][FLUCTUATION] for step in steps]
        orders = np.diff(np.log(fluctuations)) / np.diff(np.log(steps))
        text += (
            " Fluctuations of the energy grow with the power "
            f"{', '.join(f'{order:.2f}' for order in orders)} of the step: 2 is the integrator's."
        )
    return text


def table(record: Mapping[str, Any]) -> Table:
    """Return the table for a terminal."""
    result = Table(title=record["model"], title_justify="left", pad_edge=False)
    for name in COLUMNS:
        result.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for index, row in enumerate(record["results"], start=1):
        result.add_row(*cells(row), end_section=index % len(COMPARED) == 0)
    return result


def markdown(record: Mapping[str, Any]) -> str:
    """Return the section of ``docs/performance.md`` that a record fills."""
    settings = record["settings"]
    what = (
        f"{settings['replicas']} replicas of `{record['model']}`, {settings['length']:g} ps each, "
        f"platform {record['platform']}. {summary(record)}"
    )
    sentence = machine_sentence(record, threads="threads of torch")
    return "\n\n".join(
        [sentence, what, markdown_table(COLUMNS, list(map(cells, record["results"])))]
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = benchmark_parser("Energy conservation of the exported force.", OUTPUT)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--timesteps", type=float, nargs="+", help="time steps, fs")
    parser.add_argument("--length", type=float, help="time simulated with each of them, ps")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write."""
    options = parse_arguments()
    if options.write_docs:
        SECTION.write(markdown(json.loads(options.output.read_text(encoding="utf-8"))))
        return
    console = Console(width=None if sys.stdout.isatty() else 100)
    settings = SMOKE if options.smoke else Settings()
    if options.timesteps is not None:
        settings = dataclasses.replace(settings, timesteps=tuple(sorted(options.timesteps)))
    if options.length is not None:
        settings = dataclasses.replace(settings, length=options.length)
    record = run(settings, threads=options.threads, console=console)
    write_json(options.output, record)
    console.print(table(record), summary(record))
    console.print(f"{record['seconds']:.0f} s; written to {options.output}")


if __name__ == "__main__":
    main()
