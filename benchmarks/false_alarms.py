"""How often the verdict is wrong, and what it sees: made-up correlated frames of known statistics.

python benchmarks/false_alarms.py [--write-docs]

A point hops between two wells, 3 nm to the left and to the right, with 20 % of the time in the
right one (a Markov process of known relaxation time), and moves in them as two Ornstein-Uhlenbeck
processes do. Frames are drawn exactly, so that two sets are of one distribution, or one holds the
right well 1.5 times too often. A minute or two of one core.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import new_record
from numpy.typing import NDArray
from performance_page import RESULTS, Section, benchmark_parser, markdown_table

from openmm_scoremd._files.atomic import write_json, write_text
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.comparison.summary import REFERENCE, summarise
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.data.split import split_frames
from openmm_scoremd.topology import BeadTopology

PAGE = Path(__file__).resolve().parents[1] / "docs" / "report.md"
SECTION = Section("false_alarms")
POINT = BeadTopology(("P",), ("",), ("P",), (1,), ("A",), (1.0,))
RIGHT, WRONG = 0.2, 0.3  # part of the frames in the right well, and 1.5 times that
ALPHA = 0.01
DRAWS, DRAWS_OF_DIFFERENT, SMOKE_DRAWS = 200, 100, 2
RESAMPLING = Resampling(n_resamples=2, n_repeats=2)  # of errors and floors, not of the verdict

Generator = np.random.Generator


def hopping(
    rng: Generator, replicas: int, length: int, *, relaxation: float, right: float = RIGHT
) -> NDArray[np.float64]:
    """Return stationary trajectories ``(replicas, length, 1, 2)``, nm.

    Parameters
    ----------
    rng : Generator
        Source of random numbers.
    replicas, length : int
        Trajectories, frames of each.
    relaxation : float
        Relaxation time of the hopping in frames; 0 for independent frames. That within the wells is
        a fifth of it.
    right : float
        Part of the time in the right well.
    """
    keep = np.exp(-1.0 / relaxation) if relaxation else 0.0
    inner = keep**5
    state = rng.random(replicas) < right
    inside = rng.normal(size=(replicas, 2))
    frames = np.empty((replicas, length, 1, 2))
    for step in range(length):
        # With the probability 1 - keep it forgets where it was: exact for two states.
        forgets = rng.random(replicas) > keep
        state = np.where(forgets, rng.random(replicas) < right, state)
        inside = inner * inside + np.sqrt(1.0 - inner**2) * rng.normal(size=inside.shape)
        frames[:, step, 0] = inside
        frames[:, step, 0, 0] += np.where(state, 3.0, -3.0)
    return frames


def independent(rng: Generator, n: int, right: float = RIGHT) -> SampleSet:
    """Return independent frames."""
    return SampleSet(hopping(rng, n, 1, relaxation=0.0, right=right)[:, 0])


def one_trajectory(rng: Generator, n: int, relaxation: float) -> SampleSet:
    """Return frames of one trajectory that nobody says are correlated."""
    return SampleSet(hopping(rng, 1, n, relaxation=relaxation)[0])


def held_out(rng: Generator, n: int, relaxation: float) -> SampleSet:
    """Return a fifth of one trajectory, held out in blocks of time."""
    frames = hopping(rng, 1, n, relaxation=relaxation)[0]
    _, chosen = split_frames(n, held_back_fraction=0.2, seed=int(rng.integers(2**31)))
    return SampleSet(frames[np.sort(chosen)])


def simulation(
    rng: Generator, replicas: int, length: int, relaxation: float, right: float = RIGHT
) -> SampleSet:
    """Return a simulation that starts from independent frames."""
    return SampleSet(hopping(rng, replicas, length, relaxation=relaxation, right=right))


@dataclasses.dataclass(frozen=True)
class Case:
    """Two sets.

    Attributes
    ----------
    name : str
        For people.
    reference, other : callable
        Draw a set.
    """

    name: str
    reference: Callable[[Generator], SampleSet]
    other: Callable[[Generator], SampleSet]


#: Sets of one distribution.
SAME = (
    Case("2,000 independent frames, 2,000 iid", lambda r: independent(r, 2000),
         lambda r: independent(r, 2000)),
    Case("2,000 independent frames, 32 replicas of 10 relaxation times",
         lambda r: independent(r, 2000), lambda r: simulation(r, 32, 100, 10.0)),
    Case("2,000 independent frames, 4 replicas of 20 relaxation times",
         lambda r: independent(r, 2000), lambda r: simulation(r, 4, 400, 20.0)),
    Case("one trajectory of 20 relaxation times, 2,000 iid",
         lambda r: one_trajectory(r, 1000, 50.0), lambda r: independent(r, 2000)),
    Case("one trajectory of 60 relaxation times, 2,000 iid",
         lambda r: one_trajectory(r, 1200, 20.0), lambda r: independent(r, 2000)),
    Case("one trajectory of 300 relaxation times, 2,000 iid",
         lambda r: one_trajectory(r, 1500, 5.0), lambda r: independent(r, 2000)),
    Case("held out of 250 relaxation times, 32 replicas of 10",
         lambda r: held_out(r, 5000, 20.0), lambda r: simulation(r, 32, 100, 10.0)),
)  # fmt: skip
#: The second set has 30 % in the right well.
DIFFERENT = (
    Case("2,000 independent frames, 2,000 iid", lambda r: independent(r, 2000),
         lambda r: independent(r, 2000, WRONG)),
    Case("2,000 independent frames, 500 iid", lambda r: independent(r, 2000),
         lambda r: independent(r, 500, WRONG)),
    Case("2,000 independent frames, 100 replicas of 10 relaxation times",
         lambda r: independent(r, 2000), lambda r: simulation(r, 100, 50, 5.0, WRONG)),
    Case("2,000 independent frames, 32 replicas of 10 relaxation times",
         lambda r: independent(r, 2000), lambda r: simulation(r, 32, 50, 5.0, WRONG)),
)  # fmt: skip


def measure(case: Case, draws: int) -> dict[str, Any]:
    """Return how often each verdict was given, and what was said to be visible."""
    verdicts: collections.Counter[str] = collections.Counter()
    visible, effective = [], []
    for draw in range(draws):
        rng = np.random.default_rng([draw, 11])
        sets = {REFERENCE: case.reference(rng), "other": case.other(rng)}
        found = summarise(sets, POINT, resampling=RESAMPLING, alpha=ALPHA)
        (pair,) = found.pairs
        verdicts[pair.verdict] += 1
        visible.append(pair.smallest_visible)
        effective.append([one.effective_frames for one in found.sets])
    return {
        "case": case.name,
        "draws": draws,
        "verdicts": dict(verdicts),
        "visible_from": float(np.median(visible)),
        "effective_frames": np.median(effective, axis=0).tolist(),
    }


def text_of(record: dict[str, Any]) -> str:
    """Return the section of the page."""
    head = ("sets", "effective frames", "consistent", "cannot tell", "not consistent",
            "visible from")  # fmt: skip
    same, different = (
        markdown_table(head, [_row(entry) for entry in record[key]])
        for key in ("same", "different")
    )
    draws = sum(entry["draws"] for entry in record["same"])
    alarms = sum(entry["verdicts"].get("NOT consistent", 0) for entry in record["same"])
    return (
        f"By `benchmarks/false_alarms.py`: correlated frames of known statistics, two wells with "
        f"{RIGHT:.0%} of the time in one of them, {record['same'][0]['draws']} draws of each line "
        f"at `--alpha {ALPHA:g}`. Of one distribution ({alarms} false alarms in {draws} draws, "
        f"{alarms / draws:.1%}):\n\n{same}\n\n"
        f"With {WRONG:.0%} in that well in the second set, 1.5 times too many:\n\n{different}"
    )


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    counts, draws = entry["verdicts"], entry["draws"]
    parts = (
        f"{counts.get(word, 0) / draws:.1%}"
        for word in ("consistent", "cannot tell", "NOT consistent")
    )
    first, second = (f"{n:,.0f}" for n in entry["effective_frames"])
    return entry["case"], f"{first}, {second}", *parts, f"{entry['visible_from']:.0%}"


def main() -> None:
    """Run the benchmark, or fill the page."""
    options = _parser().parse_args()
    if not options.write_docs:
        record = new_record("false_alarms", threads=1)
        for key, cases, draws in (
            ("same", SAME, DRAWS), ("different", DIFFERENT, DRAWS_OF_DIFFERENT),
        ):  # fmt: skip
            record[key] = []
            for case in cases:
                record[key].append(measure(case, SMOKE_DRAWS if options.smoke else draws))
                print(" | ".join(_row(record[key][-1])), flush=True)
        write_json(options.output, record)
        return
    record = json.loads(options.output.read_text(encoding="utf-8"))
    document = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, SECTION.replaced(document, text_of(record)))


def _parser() -> argparse.ArgumentParser:
    return benchmark_parser(
        __doc__.partition("\n")[0], RESULTS / "false_alarms.json", page="docs/report.md"
    )


if __name__ == "__main__":
    main()
