"""docs/reliability.md and its figure, from the numbers that benchmarks/reliability.py stored."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmm_scoremd._files.atomic import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
FIGURE = ROOT / "docs" / "reliability_memory.png"


def write_page(record: Path) -> None:
    """Write page and figure."""
    content = json.loads(record.read_text(encoding="utf-8"))
    write_text(PAGE, page(content))
    if "long" in content:
        draw_memory(content["long"], FIGURE)


def page(record: Mapping[str, Any]) -> str:
    """Return the page; parts that nobody has measured are left out."""
    parts = [
        "# Reliability",
        (
            "What [simulations](simulation.md) were put through, by `benchmarks/reliability.py`. "
            "The numbers are in `benchmarks/results/reliability.json`; this page is written from "
            "them (`--write-docs`)."
        ),
    ]
    writers = {"kills": _kills, "independence": _independence, "long": _long}
    parts += [write(record[name]) for name, write in writers.items() if name in record]
    text = "\n\n".join(parts) + "\n"
    lines = (textwrap.fill(line, 120) if line[:1] != "|" else line for line in text.split("\n"))
    return "\n".join(lines)


def _kills(part: Mapping[str, Any]) -> str:
    protocol = part["protocol"]
    same = "all" if part["all_bitwise"] and part["all_complete"] else "**not all**"
    lives = [moment["life_s"] for moment in part["moments"]]
    rows = [f"| {name} | {count} |" for name, count in part["left_behind"].items()]
    beyond = part["kills_with_frames_beyond_the_checkpoint"]
    return "\n".join(
        [
            "## Killed and resumed",
            "",
            (
                f"{part['kills']} times `kill -9` at random moments, {min(lives):.1f} to "
                f"{max(lives):.1f} s after the start of the process, in {len(part['runs'])} runs "
                f"of {protocol['replicas']} replicas and {protocol['steps']:,} steps on the "
                f"Reference platform. Resumed to their end, {same} of them have the trajectories, "
                "state data and record of breaks of a run that nobody killed, byte by byte, with "
                f"every frame once. In {beyond} cases the process had written beyond its last "
                "checkpoint."
            ),
            "",
            "| what the killed process left | times |",
            "|---|---|",
            *rows,
        ]
    )


def _independence(part: Mapping[str, Any]) -> str:
    rows = [
        f"| {entry['platform']} | {entry['backend']} | {entry['moved_replica_nm']:.2g} | "
        f"{entry['others_nm']:.2g} |"
        for entry in part["largest_difference"]
    ]
    return "\n".join(
        [
            "## One replica moved",
            "",
            (
                f"Of {part['replicas']} replicas of alanine dipeptide one begins with a bead moved "
                f"by 0.003 nm. After {part['steps']} steps, the largest difference of a "
                "coordinate:"
            ),
            "",
            "| platform | backend | the replica itself, nm | all others, nm |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _long(part: Mapping[str, Any]) -> str:
    state = "to its end" if part["finished"] else "not yet at its end"
    low, high = part["coldest_and_hottest_replica_K"]
    platform = f"{part['platform']}, backend {part['backend']}"
    rows = {
        "replica-steps": f"{part['replica_steps']:,} of {part['replica_steps_asked_for']:,}",
        "hours, processes": f"{part['hours']:.2f}, {part['processes']}",
        "replica-steps/s": f"{part['replica_steps_per_second']:,.0f}",
        "replicas that broke": f"{part['broken']} ({part['nan_handled']} by NaN)",
        "restarted, frozen": f"{part['restarts']}, {part['frozen']}",
        "frames with NaN in a trajectory": f"{part['nan_frames_written']}",
        "temperature, K": (
            f"{part['temperature_K']:.2f} ± {part['temperature_standard_error_K']:.2f}, "
            f"{100 * part['temperature_error']:+.2f} % of {part['target_temperature_K']:g}"
        ),
        "temperature of single replicas, K": f"{low:.1f} to {high:.1f}",
        "memory at a tenth, at the end, MB": (
            f"{part['memory_at_a_tenth_MB']:.1f}, {part['memory_at_the_end_MB']:.1f}"
        ),
        "growth, MB per million steps": f"{part['memory_growth_MB_per_million_steps']:.2f}",
    }
    return "\n".join(
        [
            "## Left alone",
            "",
            (
                f"{part['replicas']} replicas of `{part['model']}`, "
                f"{1000 * part['timestep_ps']:g} fs, platform {platform}, {state}; the "
                "machine had other work to do. Temperatures are kinetic ones, after the first "
                "tenth."
            ),
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            "![Memory over replica-steps](reliability_memory.png)",
        ]
    )


def draw_memory(part: Mapping[str, Any], path: Path) -> None:
    """Draw memory over replica-steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    series = part["memory_over_time"]
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(series["replica_steps"], series["MB"], ".-", markersize=3)
    axes.set(xlabel="replica-steps", ylabel="resident memory (MB)")
    axes.set_ylim(0, 1.2 * max(series["MB"]))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)
