"""docs/structures.md, from the results that benchmarks/structures.py stored."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmm_scoremd._files.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "structures.md"

PRESETS = ("ca", "backbone-cb")
#: What a refusal says, and what it is called in the table.
REASONS = {
    "no amino acid": "no amino acids",
    "the only bead is": "a single bead",
    "atoms are missing": "atoms missing",
    "exact copies": "frames repeated",
    "lengths that no such bond": "impossible bond",
    "bonds are torn": "impossible bond",
    "are no bonds in the first frame": "wrong coordinates",
    "the frames drift": "frames drift",
    "periodic cell": "impossible cell",
    "no bonds in the topology": "no bonds in a box",
    "cannot be read": "unreadable",
    "has no frames": "unreadable",
    "atoms and the topology": "another molecule",
    "NaN": "NaN",
}


def write_page(record: Path) -> None:
    """Write the page."""
    write_text(PAGE, page(json.loads(record.read_text(encoding="utf-8"))))


def page(record: Mapping[str, Any]) -> str:
    """Return the page."""
    summary = record["summary"]
    packages = ", ".join(f"{name} ({count})" for name, count in summary["by_package"].items())
    accepted = " and ".join(f"{summary['accepted'][p]} with `{p}`" for p in PRESETS)
    reasons = Counter(
        reason_of(row[p]["message"])
        for row in record["results"]
        for p in PRESETS
        if not row[p]["accepted"]
    )
    parts = [
        "# Structures of other packages",
        (
            f"{summary['inputs']} structures and trajectories that other packages ship as examples "
            f"and test data, many of them to be difficult, through `scoremd coarse-grain`: "
            f"{packages}. Written from `benchmarks/results/structures.json` by "
            "`benchmarks/structures.py`."
        ),
        (
            f"Accepted are {accepted}. The means of their {summary['bonds']:,} bonds are "
            f"{summary['shortest_over_typical']:.2f} to {summary['longest_over_typical']:.2f} "
            "times the length in textbooks (0.9 to 1.2 is allowed; neighbouring CA: 0.380 nm, "
            "0.295 nm across a cis bond). Peptide bonds were counted by distances of C and N, "
            f"without names of residues, in {summary['peptide_bonds_checked_in']} of the accepted "
            f"cases: {summary['lost_in_silence']} lost one without saying so."
        ),
        "Refused were, by reason: " + ", ".join(f"{r} ({n})" for r, n in reasons.most_common()),
        "\n".join(_table(record)),
    ]
    lines = (
        textwrap.fill(line, 120) if line[:1] not in "|#" else line
        for line in "\n\n".join(parts).split("\n")
    )
    return "\n".join(lines) + "\n"


def reason_of(message: str) -> str:
    """Return what to call a refusal."""
    return next((name for text, name in REASONS.items() if text in message), "other")


def _table(record: Mapping[str, Any]) -> list[str]:
    lines = ["| package | file | frames | ca | backbone-cb |", "|---|---|---|---|---|"]
    for row in record["results"]:
        cells = [_cell(row[p]) for p in PRESETS]
        frames = next((str(row[p]["frames"]) for p in PRESETS if row[p]["accepted"]), "")
        name = re.sub(r"[|`]", "", row["name"])
        lines.append(f"| {row['package']} | {name} | {frames} | {cells[0]} | {cells[1]} |")
    return lines


def _cell(found: Mapping[str, Any]) -> str:
    if not found["accepted"]:
        return f"*{reason_of(found['message'])}*"
    notes = any(note.startswith(("left out", "chains")) for note in found["notes"])
    return f"{found['beads']} beads, {found['bonds']} bonds{' (notes)' if notes else ''}"
