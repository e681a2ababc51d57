"""How far one step of a denoising trajectory goes: springs, physical time, and what is stable."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.errors import InvalidInputError, NumericalError

#: ``step_size * curvature`` from which on Euler-Maruyama steps of a harmonic mode grow.
STABILITY_LIMIT: Final = 2.0

# Of the difference quotient in ``largest_curvature``, in standardised units.
_DISPLACEMENT = 1e-3


def step_size_from_stiffness(stiffness: float) -> float:
    r"""Return the step :math:`\eta = 1/(4\kappa)` that springs between frames stand for.

    Parameters
    ----------
    stiffness : float
        :math:`\kappa` of the path weight
        :math:`\exp(\tfrac12\langle s, \delta\rangle - \kappa\lVert\delta\rVert^2)`, standardised.

    Returns
    -------
    float
        Step size in squared standardised units.

    Raises
    ------
    InvalidInputError
        If the stiffness is not positive and finite.
    """
    return 1.0 / (4.0 * positive("stiffness", stiffness))


def physical_timestep(
    step_size: float, *, mass: float, friction: float, scale: float, thermal_energy: float
) -> float:
    r"""Return the time that one step stands for, :math:`\Delta t = m \gamma \eta / (c^2 k_B T)`.

    Here :math:`c = 1/\mathrm{scale}`. Overdamped dynamics knows only the product of mass and
    friction, and one step size for all beads means that this product is the same for all of them:
    beads of other masses have other frictions. A time is therefore a time for a given product. It
    does not depend on the temperature of the noise: that changes the diffusion constant
    :math:`k_B T'/(m \gamma)`, not the mobility.

    Parameters
    ----------
    step_size : float
        Step :math:`\eta` in squared standardised units.
    mass : float
        Bead mass in dalton.
    friction : float
        Friction of that bead in 1/ps.
    scale : float
        Length of one standardised unit in nm.
    thermal_energy : float
        :math:`k_B T` in kJ/mol at the temperature of the model.

    Returns
    -------
    float
        Time step in ps.

    Raises
    ------
    InvalidInputError
        If a number is not positive and finite.
    """
    factors = {"mass": mass, "friction": friction, "scale": scale, "thermal_energy": thermal_energy}
    for name, value in {"step_size": step_size, **factors}.items():
        positive(name, value)
    return step_size * mass * friction * scale**2 / thermal_energy


def largest_curvature(
    score_fn: ScoreFunction, x: Tensor, *, t: float, n_iterations: int = 20
) -> float:
    r"""Return the largest curvature of :math:`-\log p_t` found at some frames.

    Power iteration with difference quotients of the score, for all frames together. It is a lower
    bound that 20 iterations bring within a few percent; stiffer places may be visited later.

    Parameters
    ----------
    score_fn : callable
        Score of the model.
    x : Tensor, shape (B, N, D)
        Standardised frames.
    t : float
        Diffusion time.
    n_iterations : int
        Pairs of score evaluations per frame.

    Returns
    -------
    float
        Curvature in inverse squared standardised units; at least 0.

    Raises
    ------
    InvalidInputError
        If ``x`` has another shape, ``t`` is not in (0, 1] or ``n_iterations`` not positive.
    NumericalError
        If the score is not finite.
    """
    require_frames(x, t)
    require_count("n_iterations", n_iterations)
    times = x.new_full((len(x),), t)
    generator = torch.Generator().manual_seed(0)
    # Drawn on the CPU in double precision, so that all devices start from the same direction.
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    curvature = x.new_zeros(len(x))
    for _ in range(n_iterations):
        norm = direction.flatten(1).norm(dim=1)[:, None, None]
        direction = torch.where(norm > 0.0, direction / norm, 0.0)
        offset = _DISPLACEMENT * direction
        change = score_fn(x - offset, times) - score_fn(x + offset, times)
        change = change / (2.0 * _DISPLACEMENT)
        curvature = (direction * change).flatten(1).sum(dim=1)
        direction = change
    if not bool(torch.isfinite(curvature).all()):
        raise NumericalError(f"the score at diffusion time {t:g} is not finite at the given frames")
    return max(float(curvature.max()), 0.0)


def require_stable(step_size: float, curvature: float) -> None:
    """Refuse a step size that the stiffest direction does not allow.

    Parameters
    ----------
    step_size : float
        Step in squared standardised units.
    curvature : float
        Largest curvature of the negative logarithm of the density, see :func:`largest_curvature`.

    Raises
    ------
    InvalidInputError
        If their product is 2 or more.
    """
    if not step_size * curvature < STABILITY_LIMIT:
        largest = STABILITY_LIMIT / curvature
        raise InvalidInputError(
            f"step size {step_size:.3g} times the largest curvature {curvature:.4g} is "
            f"{step_size * curvature:.3g}; steps are stable below 2: use a step size well below "
            f"{largest:.3g} (stiffness well above {0.25 / largest:.4g}), or a larger diffusion time"
        )


def positive(name: str, value: float) -> float:
    """Return a number that is positive and finite, or raise ``InvalidInputError``."""
    if not (math.isfinite(value) and value > 0.0):
        raise InvalidInputError(f"{name} is {value}; it must be positive and finite")
    return value


def require_count(name: str, value: int) -> None:
    """Raise ``InvalidInputError`` if a number is below 1."""
    if value < 1:
        raise InvalidInputError(f"{name} is {value}; it must be at least 1")


def require_frames(x: Tensor, t: float) -> None:
    """Raise ``InvalidInputError`` unless ``x`` holds finite frames and ``t`` is in (0, 1]."""
    if x.ndim != 3 or 0 in x.shape or not x.is_floating_point():
        raise InvalidInputError(
            f"x0 has shape {tuple(x.shape)} and type {x.dtype}; it must be (chains, beads, "
            "dimensions) in floating point"
        )
    if not bool(torch.isfinite(x).all()):
        raise InvalidInputError("x0 holds NaN or infinity; start from finite frames")
    if not 0.0 < t <= 1.0:
        raise InvalidInputError(f"t is {t}; it must lie in (0, 1]")
