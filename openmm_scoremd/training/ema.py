"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Updates an average in place from (averages, current values, number of updates so far).
AverageUpdate = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


def new_value_weight(decay: float, n: int) -> float:
    """Return the weight of the newest value in the average.

    The decay grows from 0.1 as ``(1 + n) / (10 + n)`` up to its final value: an average that starts
    at full length carries the random initial weights for thousands of steps.

    Parameters
    ----------
    decay : float
        Final decay, in [0, 1).
    n : int
        Number of values averaged before.
    """
    return 1.0 if n == 0 else 1.0 - min(decay, (1.0 + n) / (10.0 + n))


def exponential_average(decay: float) -> AverageUpdate:
    """Return the update of an exponential moving average, for ``AveragedModel``.

    Parameters
    ----------
    decay : float
        Final decay, in [0, 1); see :func:`new_value_weight`.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], n: Tensor | int) -> None:
        torch._foreach_lerp_(list(averages), list(values), new_value_weight(decay, int(n)))

    return update
