"""The CSV log of a training run: rows are appended, and cut back to the checkpoint on resume."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping
from pathlib import Path

from openmm_scoremd._files.atomic import write_text


@dataclasses.dataclass(frozen=True)
class LogRow:
    """One line of the log.

    Attributes
    ----------
    step : int
        Steps done.
    epoch : float
        Passes over the training frames.
    loss : float
        Mean loss since the line before.
    learning_rate : float
        Learning rate of the last step.
    samples_per_second : float
        Throughput since the line before.
    held_out_loss : float or None
        Loss of held-out frames with the averaged weights, where it was computed.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    samples_per_second: float
    held_out_loss: float | None = None


COLUMNS = tuple(field.name for field in dataclasses.fields(LogRow))


class TrainingLog:
    """Append rows to a CSV file.

    Parameters
    ----------
    path : path-like
        The file.
    last_step : int
        Rows of later steps are dropped: they belong to work that will be done again.
    """

    def __init__(self, path: str | os.PathLike[str], *, last_step: int) -> None:
        self.path = Path(path)
        self.rows = [row for row in read_log(path) if row.step <= last_step]
        write_text(self.path, "".join([_line(COLUMNS), *(_line(_values(r)) for r in self.rows)]))

    def append(self, row: LogRow) -> None:
        """Add one row, in one write, so that a reader sees whole lines."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(_values(row)))


def read_log(path: str | os.PathLike[str]) -> list[LogRow]:
    """Return the complete rows of a log; none if there is no file.

    A last line torn by a crash is ignored, and so is everything from a damaged line on.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    list of LogRow
        Rows in order.
    """
    if not Path(path).exists():
        return []
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    # A number torn in the middle is still a number: only the line's end says that it is whole.
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for entry in csv.DictReader(whole.replace("\0", "?").splitlines()):
        try:
            rows.append(_row(entry))
        except (KeyError, TypeError, ValueError, OverflowError):
            break
    return rows


def _row(entry: Mapping[str, str]) -> LogRow:
    return LogRow(
        step=int(entry["step"]),
        epoch=float(entry["epoch"]),
        loss=float(entry["loss"]),
        learning_rate=float(entry["learning_rate"]),
        samples_per_second=float(entry["samples_per_second"]),
        # Logs of earlier versions have no such column.
        held_out_loss=float(held_out) if (held_out := entry.get("held_out_loss")) else None,
    )


def _values(row: LogRow) -> tuple[object, ...]:
    return (
        row.step,
        f"{row.epoch:.4f}",
        f"{row.loss:.6g}",
        f"{row.learning_rate:.6g}",
        f"{row.samples_per_second:.5g}",
        "" if row.held_out_loss is None else f"{row.held_out_loss:.6g}",
    )


def _line(values: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
