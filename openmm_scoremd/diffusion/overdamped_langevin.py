r"""Trajectories by denoising at one fixed diffusion time: overdamped Langevin dynamics.

With the score :math:`s(x) = \nabla \log p_t(x)` at a fixed :math:`t`, every step is

.. math:: x \leftarrow x + \eta\, s(x, t) + \sqrt{2 \eta\, T'/T}\; \xi

which is the Euler-Maruyama step of overdamped (Brownian) dynamics in the potential
:math:`-k_B T \log p_t`. The same step comes out of a path weight that ties neighbouring frames
with springs, :math:`\exp(\tfrac12 \langle s, \delta \rangle - \kappa \lVert\delta\rVert^2)` with
:math:`\delta = x_\mathrm{new} - x`, if :math:`\eta = 1/(4\kappa)`. The score has half its weight
there: at full weight the drift doubles, the noise does not, and the chain runs at half the
temperature.

The stationary law is :math:`p_t`, the data blurred by :math:`\sigma(t)`, up to a bias of first
order in the step: a Gaussian mode of variance :math:`v` comes out with :math:`v / (1 - \eta/(2v))`.
Steps are stable while :math:`\eta` times the largest curvature of :math:`-\log p_t` is below 2.

A chain can be computed frame after frame, or many frames at a time: both give the same chain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.sampler import Progress
from openmm_scoremd.diffusion.step_size import positive, require_count, require_frames
from openmm_scoremd.errors import InvalidInputError, NumericalError

Projection: TypeAlias = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class TimeParallelTrajectory:
    """A trajectory computed many steps at a time, and what that took.

    Attributes
    ----------
    frames : Tensor, shape (B, frames, N, D)
        Standardised frames of every chain.
    n_steps : int
        Steps of every chain: calls of the score, one after another, of the sequential sampler.
    iterations : int
        Calls of the score, one after another, that were made here, each for up to a whole window.
    """

    frames: Tensor
    n_steps: int
    iterations: int


def sample_denoising_trajectory(
    score_fn: ScoreFunction,
    x0: Tensor,
    *,
    t: float,
    step_size: float,
    n_frames: int,
    generator: torch.Generator,
    steps_per_frame: int = 1,
    temperature_ratio: float = 1.0,
    project: Projection | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Move frames by overdamped Langevin dynamics at a fixed diffusion time, step after step.

    Parameters
    ----------
    score_fn : callable
        Score of the model.
    x0 : Tensor, shape (B, N, D)
        Standardised start of every chain; its precision is that of the chains.
    t : float
        Diffusion time.
    step_size : float
        Step in squared standardised units, see
        :mod:`openmm_scoremd.diffusion.step_size`.
    n_frames : int
        Frames to keep of every chain. The start is not among them.
    generator : torch.Generator
        Source of the noise, on the device of ``x0``.
    steps_per_frame : int
        Steps from one frame to the next.
    temperature_ratio : float
        Temperature of the noise over that of the score, T'/T; 0 walks downhill without noise.
    project : callable, optional
        Applied to the start and after every step, for example to keep molecules centred. It acts
        on every frame for itself, and a second time it changes nothing.
    progress : callable, optional
        Called as ``progress(steps_done, steps_in_all)``.

    Returns
    -------
    Tensor, shape (B, n_frames, N, D)
        Standardised frames.

    Raises
    ------
    InvalidInputError
        If a number or the shape of ``x0`` is out of range.
    NumericalError
        If a chain becomes NaN or infinite.
    """
    step = _Step(score_fn, t, step_size, temperature_ratio, project)
    require_frames(x0, t)
    require_count("n_frames", n_frames)
    require_count("steps_per_frame", steps_per_frame)
    n_steps = n_frames * steps_per_frame
    x = step.projected(x0)
    frames = x.new_empty((len(x), n_frames, *x.shape[1:]))
    for done in range(1, n_steps + 1):
        x = step.advance(x, step.noise(x0, generator))
        if done % steps_per_frame == 0:
            _require_finite(x[:, None], first_step=done)
            frames[:, done // steps_per_frame - 1] = x
        if progress is not None:
            progress(done, n_steps)
    return frames


def sample_time_parallel_trajectory(
    score_fn: ScoreFunction,
    x0: Tensor,
    *,
    t: float,
    step_size: float,
    n_frames: int,
    generator: torch.Generator,
    window: int,
    steps_per_frame: int = 1,
    tolerance: float = 1e-5,
    temperature_ratio: float = 1.0,
    project: Projection | None = None,
    progress: Progress | None = None,
) -> TimeParallelTrajectory:
    r"""Compute the chain of :func:`sample_denoising_trajectory` many steps at a time.

    The noise of a window of steps is drawn first. Given the noise the chain is the solution of

    .. math:: x_{n} = x_0 + \sum_{j<n} \left[\eta\, s(x_j, t) + \sqrt{2\eta T'/T}\, \xi_j\right]

    which Picard iteration solves with one call of the score for all steps of the window. Frames
    that an iteration moved by no more than ``tolerance`` are final, and so is the one after them,
    which depends on them alone; the window then slides on (Shih et al., arXiv 2305.16317).
    At least the first frame becomes final in every iteration, so a window of W steps takes at most
    W iterations, whatever the score: the chain cannot fail to converge, and a tolerance of 0 gives
    the sequential chain. Nor can a guess that overflows do harm, for the frames before it do not
    depend on it. The error against the sequential chain is of the size of ``tolerance`` where
    neighbouring chains approach each other, as they do around a minimum.

    It pays where a call for B * W frames takes hardly longer than one for B: for few chains, above
    all on an accelerator. Many chains that are independent anyway are faster one step at a time.

    Parameters
    ----------
    window : int
        Steps that are computed together.
    tolerance : float
        Largest change of a coordinate, in standardised units, that counts as none.
    score_fn, x0, t, step_size, n_frames, generator
        As in :func:`sample_denoising_trajectory`, also the order in which the noise is drawn.
        ``score_fn`` gets up to B * W frames, and must treat every frame for itself.
    steps_per_frame, temperature_ratio, project, progress
        As there.

    Returns
    -------
    TimeParallelTrajectory
        Frames, steps and iterations.

    Raises
    ------
    InvalidInputError
        If a number or the shape of ``x0`` is out of range.
    NumericalError
        If a chain becomes NaN or infinite.
    """
    step = _Step(score_fn, t, step_size, temperature_ratio, project)
    require_frames(x0, t)
    for name, value in (("n_frames", n_frames), ("steps_per_frame", steps_per_frame)):
        require_count(name, value)
    require_count("window", window)
    if not (math.isfinite(tolerance) and tolerance >= 0.0):
        raise InvalidInputError(f"tolerance is {tolerance}; it must be finite and not negative")
    n_steps = n_frames * steps_per_frame
    frames = x0.new_empty((len(x0), n_frames, *x0.shape[1:]))
    x = step.projected(x0)
    path, noise = x[:, None], x.new_empty((len(x), 0, *x.shape[1:]))
    done = iterations = 0
    while done < n_steps:
        width = min(window, n_steps - done)
        fresh = [step.noise(x0, generator) for _ in range(width - noise.shape[1])]
        noise = torch.cat([noise, *(one[:, None] for one in fresh)], dim=1)
        # Steps that the window has just reached are guessed to stay at the last known one.
        guess = torch.cat([path, *[path[:, -1:]] * (width + 1 - path.shape[1])], dim=1)
        path = torch.cat([guess[:, :1], step.sweep(guess[:, :-1], noise)], dim=1)
        final = _converged(path, guess, tolerance)
        _require_finite(path[:, 1 : final + 1], first_step=done + 1)
        kept = torch.arange(done + 1, done + final + 1)
        kept = kept[kept % steps_per_frame == 0]
        frames[:, kept // steps_per_frame - 1] = path[:, kept - done]
        path, noise = path[:, final:], noise[:, final:]
        done, iterations = done + final, iterations + 1
        if progress is not None:
            progress(done, n_steps)
    return TimeParallelTrajectory(frames, n_steps, iterations)


class _Step:
    """One Euler-Maruyama step, of one frame per chain or of many at once."""

    def __init__(
        self,
        score_fn: ScoreFunction,
        t: float,
        step_size: float,
        temperature_ratio: float,
        project: Projection | None,
    ) -> None:
        if not (math.isfinite(temperature_ratio) and temperature_ratio >= 0.0):
            raise InvalidInputError(
                f"temperature_ratio is {temperature_ratio}; it must be finite and not negative"
            )
        self._score_fn = score_fn
        self._t = t
        self._size = positive("step_size", step_size)
        self._spread = math.sqrt(2.0 * step_size * temperature_ratio)
        self._project = project

    def projected(self, x: Tensor) -> Tensor:
        return x if self._project is None else self._project(x)

    def noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        # One call per step: torch fills tensors of other sizes in another order.
        normal = torch.randn(
            like.shape, generator=generator, dtype=like.dtype, device=generator.device
        )
        return self._spread * normal

    def advance(self, x: Tensor, noise: Tensor) -> Tensor:
        """Move frames (B, N, D) by one step."""
        score = self._score_fn(x, x.new_full((len(x),), self._t))
        return self.projected(x + self._size * score + noise)

    def sweep(self, path: Tensor, noise: Tensor) -> Tensor:
        """Return the next guess of steps 1..W from steps 0..W-1, all (B, W, N, D)."""
        moved = self.advance(path.flatten(0, 1), noise.flatten(0, 1)).view_as(path)
        swept = path[:, :1] + (moved - path).cumsum(dim=1)
        # Projected a second time: a sweep takes back what a frame lies off the projection once per
        # later frame, which would raise rounding errors by up to 2**W.
        return self.projected(swept.flatten(0, 1)).view_as(path)


def _converged(path: Tensor, guess: Tensor, tolerance: float) -> int:
    """Return how many steps, counted from the start, are final in all chains."""
    moved = (path - guess)[:, 1:].abs().flatten(2).amax(dim=2).amax(dim=0)
    # What is not finite compares as moved.
    settled = int((moved <= tolerance).long().cumprod(dim=0).sum())
    return min(settled + 1, len(moved))


def _require_finite(frames: Tensor, *, first_step: int) -> None:
    """Raise an error if frames (B, steps, N, D) of consecutive steps hold NaN or infinity."""
    broken = ~torch.isfinite(frames).all(dim=3).all(dim=2)
    if bool(broken.any()):
        step = first_step + int(broken.any(dim=0).long().argmax())
        chains = int(broken.any(dim=1).sum())
        raise NumericalError(
            f"{chains} of {len(frames)} chains are not finite at step {step}; use a smaller step "
            "size (a larger stiffness), start from frames that the model knows, or take a larger "
            "diffusion time"
        )
