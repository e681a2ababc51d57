"""Curves that pictures are made of: the log of a training, Fokker-Planck errors of a model."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from openmm_scoremd._files.plain_json import without_nan
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.errors import InvalidInputError

__all__ = ["FokkerPlanckError", "LossCurve", "read_loss_csv"]


@dataclasses.dataclass(frozen=True, eq=False)
class FokkerPlanckError:
    """Errors over diffusion time; NaN where no conservative network serves a time.

    Attributes
    ----------
    t : (times,) ndarray
        Diffusion times.
    n_frames : int
        Frames at each time.
    mean_absolute : (times,) ndarray
        Mean of ``|R| / D``.
    mean_absolute_error : (times,) ndarray
        Its standard error.
    centred : (times,) ndarray
        Mean of ``|R - median R| / D``.
    centred_error : (times,) ndarray
        Its standard error.
    standard_deviation : (times,) ndarray
        Of ``R / D`` over frames; unlike ``centred``, a few frames can rule it.
    """

    t: FloatArray
    n_frames: int
    mean_absolute: FloatArray
    mean_absolute_error: FloatArray
    centred: FloatArray
    centred_error: FloatArray
    standard_deviation: FloatArray

    def to_dict(self) -> dict[str, Any]:
        """Return lists for JSON, with None for NaN."""
        columns = {name: np.asarray(value).tolist() for name, value in vars(self).items()}
        plain: dict[str, Any] = without_nan(columns)
        return plain


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
        columns = (self.steps, self.losses, self.learning_rates)
        return LossCurve(*(np.convolve(column, mean, mode="valid") for column in columns))


def read_loss_csv(path: str | os.PathLike[str]) -> LossCurve:
    """Read the CSV log of a training run.

    Parameters
    ----------
    path : path-like
        File with columns ``step``, ``loss`` and ``learning_rate`` (others are ignored). A last line
        without an end, as of a run that still writes, is ignored too.

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
