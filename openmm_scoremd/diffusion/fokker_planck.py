r"""How far a model's log-density is from obeying the Fokker-Planck equation of its diffusion.

The density of the noised data obeys (arXiv 2506.17139, eq. 8, for a VP process in :math:`d`
coordinates, with :math:`s = \nabla\log p` and :math:`\nabla\cdot f = -\tfrac12 d\,\beta`)

.. math:: \partial_t \log p = \tfrac12\beta\left[\nabla\cdot s + \lVert s\rVert^2
          + \langle x, s\rangle + d\right]

A model that does not is another distribution at every diffusion time, and the force at ``t = 0``
simulates another one than reverse diffusion samples. The residual is the right side minus the left.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

#: ``derivatives_fn(x, t)`` with ``x`` (B, N, D) and ``t`` (B,) returns the score (B, N, D) and the
#: time derivative of the log-density (B,).
DerivativesFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: Standard deviation of the published probes, standardised units.
PROBE_SIGMA = 1e-4


def exact_residual(
    derivatives_fn: DerivativesFunction, schedule: VPSchedule, x: Tensor, t: Tensor
) -> Tensor:
    """Return the Fokker-Planck residual, with the divergence by automatic differentiation.

    One differentiation per coordinate: a diagnostic, not a loss.

    Parameters
    ----------
    derivatives_fn : callable
        Score and time derivative of the model's log-density, differentiable in ``x``.
    schedule : VPSchedule
        Noise schedule.
    x : Tensor, shape (B, N, D)
        Standardised coordinates.
    t : Tensor, shape (B,)
        Diffusion times.

    Returns
    -------
    Tensor, shape (B,)
        Right side minus left side of the equation.
    """
    with torch.enable_grad():  # type: ignore[no-untyped-call]
        x = x.detach().requires_grad_(True)
        score, time_derivative = derivatives_fn(x, t)
        divergence = torch.zeros_like(t)
        flat = score.flatten(1)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
            divergence = divergence + row.flatten(1)[:, i]
    beta = schedule.beta(t)
    residual = 0.5 * beta * divergence + remainder(schedule, x, t, score, time_derivative)
    return residual.detach()


def weak_residual(
    derivatives_fn: DerivativesFunction,
    schedule: VPSchedule,
    x: Tensor,
    t: Tensor,
    *,
    probes: Tensor,
    probe_sigma: float = PROBE_SIGMA,
) -> Tensor:
    r"""Return the weak residual for every probe (arXiv 2506.17139, theorem 3.1).

    .. math:: R(v) = \tfrac12\beta \left\langle \frac{v}{\sigma},
              \frac{s(x + v) - s(x - v)}{2\sigma} \right\rangle + \gamma(x + v)

    with :math:`v = \sigma\epsilon`: no second derivatives of the network. Its mean over
    :math:`\epsilon` is the residual up to :math:`O(\sigma^2)`, so the product of two with
    independent probes is an unbiased estimate of the square. Here :math:`\gamma` is taken at
    :math:`x + v` only, as in the public code.

    Parameters
    ----------
    derivatives_fn : callable
        Score and time derivative of the model's log-density.
    schedule : VPSchedule
        Noise schedule.
    x : Tensor, shape (B, N, D)
        Standardised coordinates.
    t : Tensor, shape (B,)
        Diffusion times.
    probes : Tensor, shape (K, B, N, D)
        Standard normal numbers.
    probe_sigma : float
        Standard deviation of the displacements.

    Returns
    -------
    Tensor, shape (K, B)
        One residual per probe.

    Raises
    ------
    InvalidInputError
        If ``probe_sigma`` is not positive.
    """
    _check_sigma(probe_sigma)
    n_probes = len(probes)
    moves = probe_sigma * probes
    points = torch.cat([x + moves, x - moves])
    times = t.expand(2 * n_probes, -1)
    score, time_derivative = derivatives_fn(points.flatten(0, 1), times.flatten())
    plus, minus = score.view(2, *probes.shape).unbind(0)
    divergence = (probes * (plus - minus)).sum(dim=(2, 3)) / (2.0 * probe_sigma)
    rest = remainder(
        schedule,
        points[:n_probes].flatten(0, 1),
        times[:n_probes].flatten(),
        plus.flatten(0, 1),
        time_derivative[: n_probes * len(t)],
    )
    return 0.5 * schedule.beta(t) * divergence + rest.view(n_probes, -1)


def remainder(
    schedule: VPSchedule, x: Tensor, t: Tensor, score: Tensor, time_derivative: Tensor
) -> Tensor:
    """Return the residual without the divergence of the score, shape (B,).

    Parameters are those of :func:`exact_residual`, with the values of ``derivatives_fn`` at ``x``.
    """
    n_coordinates = x.shape[1] * x.shape[2]
    inner = (score * (score + x)).sum(dim=(1, 2)) + n_coordinates
    return 0.5 * schedule.beta(t) * inner - time_derivative


def scaled_residuals(
    schedule: VPSchedule,
    x: Tensor,
    t: Tensor,
    *,
    score: Tensor,
    time_derivative: Tensor,
    probed_scores: Tensor,
    probes: Tensor,
    probe_sigma: float,
    noise_floor: float,
) -> Tensor:
    r"""Return two estimates of the residual per factor e of the noise level.

    With :math:`A(v) = \tfrac12\beta \langle v/\sigma, (s(x + v) - s(x))/\sigma \rangle`

    .. math:: R(v) = \tau(t) (A(v) + \gamma(x)), \qquad
              \tau = \frac{\sigma(t)^2 + s_0^2}{\beta(t)}

    It differs from :func:`weak_residual` in this:

    - :math:`\tau` makes it the residual per unit of :math:`\log(\sigma^2 + s_0^2)` instead of per
      unit of :math:`t`; the latter grows without bound as stiff degrees of freedom are resolved.
    - :math:`\gamma` and :math:`s(x)` are those that denoising score matching needs anyway, and the
      one-sided difference takes one more score per probe. Its error of second order is odd in
      :math:`v` and averages out, as that of the antithetic one.

    Parameters
    ----------
    schedule : VPSchedule
        Noise schedule.
    x : Tensor, shape (M, N, D)
        Standardised coordinates.
    t : Tensor, shape (M,)
        Diffusion times.
    score, time_derivative : Tensor, shapes (M, N, D) and (M,)
        Of the model at ``x``.
    probed_scores : Tensor, shape (2, M, N, D)
        Score at ``x + probe_sigma * probes``.
    probes : Tensor, shape (2, M, N, D)
        Standard normal numbers.
    probe_sigma : float
        Standard deviation of the displacements.
    noise_floor : float
        :math:`s_0`, standardised units.

    Returns
    -------
    Tensor, shape (2, M)
        One estimate per probe.

    Raises
    ------
    InvalidInputError
        If ``probe_sigma`` is not positive.
    """
    _check_sigma(probe_sigma)
    difference = (probes * (probed_scores - score)).sum(dim=(2, 3)) / probe_sigma
    beta = schedule.beta(t)
    residuals = 0.5 * beta * difference + remainder(schedule, x, t, score, time_derivative)
    return residuals * (schedule.sigma(t).square() + noise_floor**2) / beta


def centred_fokker_planck_loss(residuals: Tensor, *, group_size: int) -> Tensor:
    r"""Return the variance of the residual over frames of one diffusion time.

    For every group of :math:`K` frames, with the two estimates :math:`R_i, R'_i` of each

    .. math:: \frac{1}{K - 1} \sum_i (R_i - \bar R)(R'_i - \bar R')

    an unbiased estimate. A constant of the energy that changes with time is no error, because
    scores do not know it; in the mean square it can be larger than all the rest, in a network whose
    energy is divided by the noise level by orders of magnitude.

    Parameters
    ----------
    residuals : Tensor, shape (2, M)
        Of :func:`scaled_residuals`, at times repeating with period ``M / group_size``.
    group_size : int
        Frames that share a time.

    Returns
    -------
    Tensor, shape (M / group_size,)
        One estimate per time; single ones can be negative.
    """
    groups = residuals.view(2, group_size, -1)
    first, second = (groups - groups.mean(dim=1, keepdim=True)).unbind(0)
    return (first * second).sum(dim=0) / (group_size - 1)


def regional_fokker_planck_loss(residuals: Tensor, *, group_size: int, region_size: int) -> Tensor:
    r"""Return the variance over regions of the mean residual of a region.

    A residual that is the same all over a basin changes its population from one diffusion time to
    the next, a residual that scatters within the basin only its shape. The first is small beside
    the second and lost in :func:`centred_fokker_planck_loss`; this is the first alone, unbiased:
    with :math:`C_r` the covariance of the two estimates of the :math:`m` frames of region :math:`r`

    .. math:: \frac{1}{K/m - 1} \sum_r (\bar R_r - \bar R)(\bar R'_r - \bar R')
              - \frac{1}{m} \langle C_r \rangle_r

    Parameters
    ----------
    residuals : Tensor, shape (2, M)
        Of :func:`scaled_residuals`, at times repeating with period ``M / group_size``. Of the
        frames of one time, each ``region_size`` in a row are of one region.
    group_size : int
        Frames that share a time.
    region_size : int
        Frames of one region among these.

    Returns
    -------
    Tensor, shape (M / group_size,)
        One estimate per time; single ones can be negative.
    """
    n_regions = group_size // region_size
    regions = residuals.view(2, n_regions, region_size, -1)
    means = regions.mean(dim=2)
    scatter = (regions - means.unsqueeze(2)).prod(dim=0).sum(dim=(0, 1))
    between = (means - means.mean(dim=1, keepdim=True)).prod(dim=0).sum(dim=0)
    within = scatter / (n_regions * (region_size - 1))
    return between / (n_regions - 1) - within / region_size


def _check_sigma(probe_sigma: float) -> None:
    if not 0.0 < probe_sigma < 1.0:
        raise InvalidInputError(f"probe_sigma is {probe_sigma}; it must lie between 0 and 1")
