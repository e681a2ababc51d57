"""What pictures need and matplotlib has no part in: file names, checks, which scale."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from openmm_scoremd.analysis.observables.free_energy import FreeEnergyProfile
from openmm_scoremd.analysis.statistics.grids import FloatArray, pooled
from openmm_scoremd.errors import InvalidInputError

PathLike: TypeAlias = str | os.PathLike[str]
#: Axis label to set name to profile.
ProfilePanels: TypeAlias = Mapping[str, Mapping[str, FreeEnergyProfile]]

_FORMATS = (".png", ".pdf", ".svg")


class ErrorOverTime(Protocol):
    """Errors of a model over diffusion time, (times,) each; NaN where there is none."""

    @property
    def t(self) -> FloatArray:
        """Diffusion times."""

    @property
    def mean_absolute(self) -> FloatArray:
        """Plain error."""

    @property
    def mean_absolute_error(self) -> FloatArray:
        """Standard error of the plain error."""

    @property
    def centred(self) -> FloatArray:
        """Error without what is the same for all frames."""

    @property
    def centred_error(self) -> FloatArray:
        """Standard error of the centred error."""


def picture_path(path: PathLike) -> Path:
    """Return the path of a picture.

    Raises
    ------
    InvalidInputError
        If the suffix is none of the formats that pictures are written in.
    """
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise InvalidInputError(
            f"cannot write a picture to {target.name!r}; the suffix must be one of "
            f"{', '.join(_FORMATS)}"
        )
    return target


def check_not_empty(values: Mapping[str, object], name: str) -> None:
    """Raise unless there is at least one entry."""
    if not values:
        raise InvalidInputError(f"{name} is empty; give at least one named entry")


def labelled_sets(samples: Mapping[str, ArrayLike], labels: Sequence[str]) -> dict[str, FloatArray]:
    """Return sets as ``(n, values)``, replicas pooled.

    Raises
    ------
    InvalidInputError
        If there are none, they are not finite, or the number of labels is not that of values.
    """
    check_not_empty(samples, "samples")
    sets = {name: pooled(values, name) for name, values in samples.items()}
    for name, values in sets.items():
        if values.shape[1] != len(labels):
            raise InvalidInputError(
                f"{name} has {values.shape[1]} values per frame and there are {len(labels)} "
                "labels; give one label for each value"
            )
    return sets


def spans_a_decade(arrays: Sequence[FloatArray], *, name: str) -> bool:
    """Return whether values are positive and span more than a factor of ten; NaN has no part.

    Raises
    ------
    InvalidInputError
        If no value is finite.
    """
    values = np.concatenate(arrays)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise InvalidInputError(f"no {name} is finite; there is nothing to draw")
    return bool(values.min() > 0 and values.max() > 10 * values.min())


def band_on_log_scale(values: FloatArray, errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a band around values that is positive, and symmetric on a logarithmic scale.

    For small errors its ends are ``values - errors`` and ``values + errors``. NaN where a value has
    no logarithm.
    """
    drawable = np.where(np.isfinite(values) & (values > 0.0), values, np.nan)
    ratio = 1.0 + errors / drawable
    return drawable / ratio, drawable * ratio
