"""Independent samples by reverse diffusion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

#: Called as ``progress(steps_done, steps_in_all)`` after every step.
Progress = Callable[[int, int], None]


def sample_reverse_sde(
    score_fn: ScoreFunction,
    schedule: VPSchedule,
    *,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    n_steps: int = 1000,
    t_min: float = 1e-5,
    dtype: torch.dtype = torch.float32,
    project: Callable[[Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Draw samples with Euler-Maruyama steps of the reverse VP process (arXiv 2506.17139, eq. 2).

    .. math:: x \leftarrow x + \left[\tfrac12 \beta x + \beta\, s(x, t)\right] \Delta t
              + \sqrt{\beta \Delta t}\, \xi

    at times :math:`t_i = t_\mathrm{min} + (1 - t_\mathrm{min}) (1 - i/n)^2`, without noise in the
    last step. The public code takes uniform times, which resolve nothing narrower than
    :math:`\sigma(1/n)`: of a bond whose spread is 0.02 of the data's, 1000 of its steps get the
    variance wrong by 15 %, too large with noise in the last step and too small without. Quadratic
    times get it right to 2 %.

    Parameters
    ----------
    score_fn : callable
        Score of the model.
    schedule : VPSchedule
        Noise schedule of the training.
    shape : (B, N, D)
        Samples, beads, dimensions.
    generator : torch.Generator
        Source of the noise; its device is the device of the samples.
    n_steps : int
        Number of score evaluations.
    t_min : float
        Last diffusion time.
    dtype : torch.dtype
        Precision of the samples.
    project : callable, optional
        Applied to the prior and after every step, for example to keep molecules centred.
    progress : callable, optional
        Progress report.

    Returns
    -------
    Tensor, shape (B, N, D)
        Standardised samples.

    Raises
    ------
    InvalidInputError
        If ``n_steps`` or ``t_min`` is out of range.
    """
    fractions = torch.linspace(1.0, 0.0, _checked_steps(n_steps, t_min) + 1, dtype=torch.float64)
    times = t_min + (1.0 - t_min) * fractions.square()
    x = _prior(shape, generator, dtype, project)
    for i in range(n_steps):
        t = times[i].to(x)
        timestep = float(times[i] - times[i + 1])
        beta = float(schedule.beta(times[i]))
        x = x + beta * timestep * (0.5 * x + score_fn(x, t.expand(shape[0])))
        if i < n_steps - 1:
            x = x + (beta * timestep) ** 0.5 * _normal(shape, generator, dtype)
        x = x if project is None else project(x)
        if progress is not None:
            progress(i + 1, n_steps)
    return x


def sample_dpm_solver(
    score_fn: ScoreFunction,
    schedule: VPSchedule,
    *,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    n_steps: int = 100,
    t_min: float = 1e-5,
    dtype: torch.dtype = torch.float32,
    project: Callable[[Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Draw samples with the second-order multistep SDE solver of Lu et al. (arXiv 2211.01095).

    Steps are uniform in :math:`\lambda = \log(\alpha / \sigma)`, where the reverse process is
    solved exactly except for the change of the predicted data
    :math:`\hat x_0 = (x + \sigma^2 s) / \alpha` within a step, which is extrapolated from the
    step before. With :math:`h` the step in :math:`\lambda`:

    .. math:: x \leftarrow \frac{\sigma'}{\sigma} e^{-h} x + \alpha' (1 - e^{-2h})
              \left[\hat x_0 + \tfrac12 (\hat x_0 - \hat x_0^\mathrm{prev})\right]
              + \sigma' \sqrt{1 - e^{-2h}}\, \xi

    The final value is the predicted data at ``t_min``. Parameters, return value and errors are
    those of :func:`sample_reverse_sde`.
    """
    ends = torch.tensor([1.0, t_min], dtype=torch.float64)
    first, last = schedule.log_signal_to_noise(ends).tolist()
    levels = torch.linspace(first, last, _checked_steps(n_steps, t_min), dtype=torch.float64)
    times = schedule.time_of_log_signal_to_noise(levels)
    alpha, sigma = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    h = (last - first) / max(n_steps - 1, 1)
    kept = 1.0 - float(torch.exp(torch.tensor(-2.0 * h, dtype=torch.float64)))

    x = _prior(shape, generator, dtype, project)
    data_before: Tensor | None = None
    for i in range(n_steps):
        t = times[i].to(x).expand(shape[0])
        data = (x + sigma[i] ** 2 * score_fn(x, t)) / alpha[i]
        if progress is not None:
            progress(i + 1, n_steps)
        if i == n_steps - 1:
            break
        guess = data if data_before is None else data + 0.5 * (data - data_before)
        noise = _normal(shape, generator, dtype)
        x = (sigma[i + 1] / sigma[i]) * (1.0 - kept) ** 0.5 * x
        x = x + alpha[i + 1] * kept * guess + sigma[i + 1] * kept**0.5 * noise
        x = x if project is None else project(x)
        data_before = data
    return data if project is None else project(data)


def _checked_steps(n_steps: int, t_min: float) -> int:
    if n_steps < 1:
        raise InvalidInputError(f"n_steps is {n_steps}; it must be at least 1")
    if not 0.0 < t_min < 1.0:
        raise InvalidInputError(f"t_min is {t_min}; it must lie between 0 and 1")
    return n_steps


def _prior(
    shape: tuple[int, int, int],
    generator: torch.Generator,
    dtype: torch.dtype,
    project: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    x = _normal(shape, generator, dtype)
    return x if project is None else project(x)


def _normal(shape: tuple[int, int, int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
