"""Sections of docs/performance.md that benchmarks fill, and what all of them say."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmm_scoremd._files.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"

BUSY = 0.5  # load average above which a run is called preliminary


@dataclasses.dataclass(frozen=True)
class Section:
    """The part of the page between two markers.

    Attributes
    ----------
    name : str
        Name of the benchmark in the markers.
    """

    name: str

    @property
    def begin(self) -> str:
        """Line before the section."""
        return f"<!-- {self.name} benchmark: begin -->"

    @property
    def end(self) -> str:
        """Line after the section."""
        return f"<!-- {self.name} benchmark: end -->"

    def replaced(self, document: str, text: str) -> str:
        """Return a document with this text between the markers."""
        if document.count(self.begin) != 1 or document.count(self.end) != 1:
            raise SystemExit(f"{PAGE} needs one line {self.begin} and one line {self.end}")
        before, _, rest = document.partition(self.begin)
        after = rest.partition(self.end)[2]
        return f"{before}{self.begin}\n\n{text}\n\n{self.end}{after}"

    def write(self, text: str) -> None:
        """Bring the page up to date."""
        write_text(PAGE, self.replaced(PAGE.read_text(encoding="utf-8"), text))


def benchmark_parser(
    description: str, output: Path, *, page: str = "docs/performance.md"
) -> argparse.ArgumentParser:
    """Return the options that all benchmarks of the page have; ``output`` is the default file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="very little, to see that it works")
    parser.add_argument("--output", type=Path, default=output, help="JSON file (%(default)s)")
    documents = f"measure nothing; fill {page} from the JSON file"
    parser.add_argument("--write-docs", action="store_true", help=documents)
    return parser


def machine_sentence(record: Mapping[str, Any], *, threads: str) -> str:
    """Say where, when and with what a record was made.

    Parameters
    ----------
    record : mapping
        Entries ``date``, ``hardware``, ``versions`` and ``threads``.
    threads : str
        Whose threads were set.
    """
    machine, versions = record["hardware"], record["versions"]
    return (
        f"Measured on {record['date'][:10]}: {machine['processor']} ({machine['instructions']}, "
        f"{machine['system']}), {machine['cores']} cores, {threads}: {record['threads']}; "
        f"Python {versions['python']}, torch {versions['torch']}, "
        f"OpenMM {versions['openmm']}, openmmtorch {versions['openmmtorch']}."
    )


def timing_sentence(record: Mapping[str, Any], *, threads: str) -> str:
    """Return the same for timings, which are not what they could be on a busy machine."""
    text, load = machine_sentence(record, threads=threads), record["hardware"]["load_before"]
    if load > BUSY:
        text += (
            f" **Preliminary:** the machine was shared (load average {load:.1f} before the run). "
            "Trust the ratios more than the speeds."
        )
    return text


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
