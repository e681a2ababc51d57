"""Weight of the loss over diffusion time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from openmm_scoremd.errors import InvalidInputError


@dataclasses.dataclass(frozen=True)
class TimeWeighting:
    r"""Piecewise constant weight that gives the times on each side of a midpoint half the total.

    .. math:: w(t) = \frac{t_1 - t_0}{2 (m - t_0)} \text{ for } t \le m, \qquad
              w(t) = \frac{t_1 - t_0}{2 (t_1 - m)} \text{ for } t > m

    The mean of ``w`` over the window is 1.

    Attributes
    ----------
    start, end : float
        Window of diffusion times.
    midpoint : float
        Where the weight changes.

    Raises
    ------
    InvalidInputError
        If not ``start < midpoint < end``.
    """

    start: float
    end: float
    midpoint: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.midpoint < self.end <= 1.0:
            raise InvalidInputError(
                f"time weighting has start {self.start}, midpoint {self.midpoint}, end {self.end}; "
                "they must increase and lie in [0, 1]"
            )

    def __call__(self, t: Tensor) -> Tensor:
        """Return the weight at times ``t``, shape as given."""
        width = self.end - self.start
        early = width / (2.0 * (self.midpoint - self.start))
        late = width / (2.0 * (self.end - self.midpoint))
        return torch.where(t <= self.midpoint, early, late).to(t.dtype)
