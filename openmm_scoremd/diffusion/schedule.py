"""Variance-preserving diffusion: how much signal and how much noise at diffusion time t."""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch
from torch import Tensor

from openmm_scoremd.errors import InvalidInputError


@dataclasses.dataclass(frozen=True)
class VPSchedule:
    r"""Variance-preserving schedule with a linear noise rate (Song et al. 2021, eq. 32).

    ============================  =============================================
    symbol                        here
    ============================  =============================================
    :math:`\beta(t)`              :meth:`beta`, the squared diffusion ``g(t)**2``
    :math:`\int_0^t\beta`         :meth:`integrated_beta`
    :math:`e^{-\int\beta/2}`      :meth:`alpha`
    :math:`\sigma(t)`             :meth:`sigma`
    :math:`f(x, t)`               ``-beta(t) * x / 2``
    ============================  =============================================

    Attributes
    ----------
    beta_min, beta_max : float
        Noise rate at ``t = 0`` and ``t = 1``.

    Raises
    ------
    InvalidInputError
        If the rates are not finite with ``0 < beta_min <= beta_max``.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not (0.0 < self.beta_min <= self.beta_max < math.inf):
            raise InvalidInputError(
                f"beta_min = {self.beta_min}, beta_max = {self.beta_max}; "
                "they must be finite with 0 < beta_min <= beta_max"
            )

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate at diffusion time ``t`` (any shape)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integrated_beta(self, t: Tensor) -> Tensor:
        """Integral of the noise rate from 0 to ``t``."""
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data in the noised sample."""
        return torch.exp(-0.5 * self.integrated_beta(t))

    def mean_factor(self, t: Tensor) -> Tensor:
        """Return :meth:`alpha`; the old name of it, for one more release."""
        warnings.warn("VPSchedule.mean_factor is now VPSchedule.alpha", FutureWarning, stacklevel=2)
        return self.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise in the noised sample."""
        return torch.sqrt(-torch.expm1(-self.integrated_beta(t)))

    def log_signal_to_noise(self, t: Tensor) -> Tensor:
        """Return ``log(alpha / sigma)``, decreasing in ``t``."""
        return -0.5 * torch.log(torch.expm1(self.integrated_beta(t)))

    def time_of_log_signal_to_noise(self, value: Tensor) -> Tensor:
        """Invert :meth:`log_signal_to_noise`."""
        return self.time_of_integrated_beta(torch.nn.functional.softplus(-2.0 * value))

    def time_of_integrated_beta(self, integral: Tensor) -> Tensor:
        """Invert :meth:`integrated_beta`."""
        slope = self.beta_max - self.beta_min
        # The other form of the quadratic formula: no cancellation at small t, right for slope 0.
        root = torch.sqrt(self.beta_min**2 + 2.0 * slope * integral)
        return 2.0 * integral / (self.beta_min + root)

    def noise_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the sample noised to time ``t``.

        Parameters
        ----------
        x0, noise : Tensor, shape (B, N, D)
            Standardised data and standard normal noise.
        t : Tensor, shape (B,)
            Diffusion times.
        """
        t = t[:, None, None]
        return self.alpha(t) * x0 + self.sigma(t) * noise
