"""Denoising score matching."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from openmm_scoremd.diffusion.schedule import VPSchedule

#: ``score_fn(x, t)`` with ``x`` (B, N, D) and ``t`` (B,) returns the score (B, N, D).
ScoreFunction = Callable[[Tensor, Tensor], Tensor]


def denoising_score_matching_loss(
    score_fn: ScoreFunction,
    schedule: VPSchedule,
    x0: Tensor,
    *,
    t: Tensor,
    noise: Tensor,
    weight: Tensor,
) -> Tensor:
    r"""Return the weighted denoising score matching loss of every sample.

    .. math:: w(t) \frac{1}{ND} \lVert \epsilon + \sigma(t)\, s(x_t, t) \rVert^2

    which is eq. 5 of arXiv 2506.17139 with :math:`\lambda(t) = w(t)\,\sigma(t)^2 / (ND)`.

    Parameters
    ----------
    score_fn : callable
        Score of the model.
    schedule : VPSchedule
        Noise schedule.
    x0 : Tensor, shape (B, N, D)
        Standardised data.
    t : Tensor, shape (B,)
        Diffusion times.
    noise : Tensor, shape (B, N, D)
        Standard normal noise; passed in, so that the loss is a deterministic function.
    weight : Tensor, shape (B,)
        Time weight ``w(t)``.

    Returns
    -------
    Tensor, shape (B,)
        Loss per sample.
    """
    x = schedule.noise_sample(x0, t, noise)
    residual = noise + schedule.sigma(t)[:, None, None] * score_fn(x, t)
    return weight * residual.square().mean(dim=(1, 2))
