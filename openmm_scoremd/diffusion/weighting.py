"""Which diffusion times the loss sees, and how much each counts."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from openmm_scoremd.diffusion.schedule import VPSchedule
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
        # Filled in the precision of t: torch.where of two numbers would round them to float32.
        return torch.full_like(t, late).masked_fill(t <= self.midpoint, early)


@dataclasses.dataclass(frozen=True)
class UniformTimes:
    """Diffusion times uniform in a range, as published.

    Attributes
    ----------
    t_min, t_max : float
        The range.
    """

    t_min: float
    t_max: float

    def __call__(self, uniform: Tensor) -> Tensor:
        """Return times for numbers uniform in [0, 1), shape as given."""
        return self.t_min + (self.t_max - self.t_min) * uniform


@dataclasses.dataclass(frozen=True)
class LogNoiseTimes:
    r"""Diffusion times with uniform :math:`\log(\sigma(t)^2 + s_0^2)`.

    Attributes
    ----------
    schedule : VPSchedule
        Noise schedule.
    floor : float
        Noise level :math:`s_0` below which nothing is to be resolved.
    t_min, t_max : float
        Range of the times.
    """

    schedule: VPSchedule
    floor: float
    t_min: float
    t_max: float

    def __call__(self, uniform: Tensor) -> Tensor:
        """Return times for numbers uniform in [0, 1), shape as given."""
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        low, high = torch.log(self.schedule.sigma(ends) ** 2 + self.floor**2).tolist()
        variance = torch.exp(low + (high - low) * uniform.double()) - self.floor**2
        # Rounding must not leave the range: near t = 1 the variance is 1 to a few digits.
        integral = -torch.log1p(-variance.clamp(0.0, 1.0 - 1e-12))
        t = self.schedule.time_of_integrated_beta(integral).to(uniform.dtype)
        return t.clamp(self.t_min, self.t_max)


@dataclasses.dataclass(frozen=True)
class BalancedTimes:
    r"""Half the diffusion times uniform, half with uniform :math:`\log(\sigma(t)^2 + s_0^2)`.

    Under uniform times, 0.3 % of all samples have a noise level that resolves bond lengths. Any
    distribution has the same minimiser; this one spreads the effort over length scales, without
    starving the late times where sampling starts.

    Attributes
    ----------
    schedule : VPSchedule
        Noise schedule.
    floor : float
        Noise level :math:`s_0` below which nothing is to be resolved.
    t_min, t_max : float
        Range of the times.
    """

    schedule: VPSchedule
    floor: float
    t_min: float
    t_max: float

    def __call__(self, uniform: Tensor) -> Tensor:
        """Return times for numbers uniform in [0, 1), shape as given."""
        # Each half of the numbers is stretched to [0, 1) again.
        spread = UniformTimes(self.t_min, self.t_max)(2.0 * uniform)
        levels = LogNoiseTimes(self.schedule, self.floor, self.t_min, self.t_max)
        return torch.where(uniform < 0.5, spread, levels(2.0 * uniform - 1.0))
