"""The CSV log of a training run."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np

from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.errors import InvalidInputError

__all__ = ["LossCurve", "read_loss_csv"]


@dataclasses.dataclass(frozen=True)
class LossCurve:
    """What training logged.

    Attributes
    ----------
    steps : (n,) ndarray
        Optimiser steps.
    losses : (n,) ndarray
        Loss at each step; NaN leaves a gap.
    learning_rates : (n,) ndarray
        Learning rate at each step.
    """

    steps: FloatArray
    losses: FloatArray
    learning_rates: FloatArray

    def smoothed(self, *, window: int) -> LossCurve:
        """Return moving averages over ``window`` neighbours, ``(n - window + 1,)``.

        Steps are those in the middle of each window; NaN spreads over the windows that hold it.

        Raises
        ------
        InvalidInputError
            If the window is not in 1..n.
        """
        if not 1 <= window <= len(self.steps):
            raise InvalidInputError(f"window is {window}; it must lie in 1..{len(self.steps)}")
        mean = np.full(window, 1.0 / window)
        return LossCurve(
            *(
                np.convolve(column, mean, mode="valid")
                for column in (self.steps, self.losses, self.learning_rates)
            )
        )


def read_loss_csv(path: str | os.PathLike[str]) -> LossCurve:
    """Read the CSV log of a training run.

    Parameters
    ----------
    path : path-like
        File with columns ``step``, ``loss`` and ``learning_rate`` (others are ignored). A last line
        without an end, as of a run that still writes, is ignored too.

    Returns
    -------
    LossCurve
        The columns.

    Raises
    ------
    InvalidInputError
        If the file cannot be read, a column is missing, a number is unreadable, or there is no row.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read the training log {path}: {error}") from error
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
    names = ("step", "loss", "learning_rate")
    try:
        columns = [np.array([float(row[name]) for row in rows]) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{path} is not a training log: {error!r}; it needs numbers in the columns "
            f"{', '.join(names)}"
        ) from error
    if not rows:
        raise InvalidInputError(f"the training log {path} has no rows yet; train for some steps")
    return LossCurve(*columns)
