r"""Frames from a deterministic sampler, with the density that it draws them with.

The probability flow (Song et al. 2021) is solved by the second-order multistep method of Lu et al.
(arXiv 2211.01095). With :math:`y = x / \alpha`, noise :math:`s = \sigma / \alpha` and the predicted
data :math:`D(y, s) = y + s^2 \nabla_y \log p(y, s)`:

.. math:: y_{i+1} = \frac{s_{i+1}}{s_i} y_i + \left(1 - \frac{s_{i+1}}{s_i}\right)
          \left[D_i + \tfrac12 (D_i - D_{i-1})\right]

Every step is an explicit function, so the Jacobian of the frame with respect to the noise that it
came from is carried along, from Jacobians of the score by central differences, and the density is
that of the map itself, whatever the number of steps:
:math:`\log q(y) = \log \mathcal N(z; 0, s_0^2) - \log |\det \partial y / \partial z|`. Unlike
:class:`~openmm_scoremd.diffusion.flow_map.FlowMap` it cannot tell the density of a given frame, but
costs a tenth, and needs no energy.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from torch import Tensor

from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

#: Displacement of the differences relative to the noise: small against what the density resolves,
#: large against rounding in single precision.
_DISPLACEMENT: Final = 1e-2
#: Coordinates evaluated together.
_TOGETHER: Final = 2**18


@dataclasses.dataclass(frozen=True)
class DrawnFrames:
    """Frames and the logarithm of the density they were drawn with.

    Attributes
    ----------
    y : Tensor, shape (B, N, D)
        Standardised frames, blurred by the noise of the last diffusion time.
    log_density : Tensor, shape (B,)
        Up to one constant; NaN where the sampler folds space or leaves the numbers.
    """

    y: Tensor
    log_density: Tensor


class ExplicitFlow:
    """Draws frames and tells their density.

    Parameters
    ----------
    score_fn : callable
        Score of a model in standardised coordinates.
    schedule : VPSchedule
        Its noise schedule.
    t_min : float
        Diffusion time of the frames.
    n_steps : int
        Steps from noise to frames.
    centred : bool
        Whether shifting all beads together changes nothing; frames are then centred, and the
        density is that of centred frames.

    Raises
    ------
    InvalidInputError
        If there is no step.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        schedule: VPSchedule,
        *,
        t_min: float,
        n_steps: int,
        centred: bool,
    ) -> None:
        if n_steps < 1:
            raise InvalidInputError(f"n_steps is {n_steps}; it must be at least 1")
        self._score_fn, self._centred = score_fn, centred
        ends = schedule.log_signal_to_noise(torch.tensor([1.0, t_min], dtype=torch.float64))
        levels = torch.linspace(float(ends[0]), float(ends[1]), n_steps + 1, dtype=torch.float64)
        times = schedule.time_of_log_signal_to_noise(levels)
        self._noise: list[float] = torch.exp(-levels).tolist()
        self._alpha: list[float] = schedule.alpha(times).tolist()
        # Not the rounding of there and back.
        self._times = [1.0, *times[1:-1].tolist(), t_min]

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> DrawnFrames:
        """Draw frames of a shape (B, N, D)."""
        basis = self._basis(shape[1], shape[2])
        size = basis.shape[1]
        z = torch.randn(shape[0], size, generator=generator, dtype=torch.float64)
        y, jacobian = self._noise[0] * z, torch.eye(size, dtype=torch.float64).repeat(len(z), 1, 1)
        before: tuple[Tensor, Tensor] | None = None
        for i in range(len(self._noise) - 1):
            score, slopes = self._score(y, i, basis, shape)
            variance = self._noise[i] ** 2
            data = y + variance * score, jacobian + variance * (slopes @ jacobian)
            ratio = self._noise[i + 1] / self._noise[i]
            of_y, of_jacobian = data
            if before is not None:
                of_y = 1.5 * of_y - 0.5 * before[0]
                of_jacobian = 1.5 * of_jacobian - 0.5 * before[1]
            y = ratio * y + (1.0 - ratio) * of_y
            jacobian = ratio * jacobian + (1.0 - ratio) * of_jacobian
            before = data
        sign, log_det = torch.linalg.slogdet(torch.nan_to_num(jacobian))
        log_density = -0.5 * z.square().sum(dim=1) - log_det
        valid = (sign > 0.0) & torch.isfinite(jacobian).all(dim=2).all(dim=1)
        frames = (y @ basis.t()).reshape(shape)
        return DrawnFrames(frames, torch.where(valid, log_density, torch.nan))

    def _basis(self, n_beads: int, n_dims: int) -> Tensor:
        """Orthonormal directions (N * D, size) in which frames can differ."""
        if not self._centred:
            return torch.eye(n_beads * n_dims, dtype=torch.float64)
        ones = torch.ones(n_beads, 1, dtype=torch.float64)
        others = torch.eye(n_beads, dtype=torch.float64)[:, : n_beads - 1]
        q, _ = torch.linalg.qr(torch.cat([ones, others], dim=1))
        axes = torch.eye(n_dims, dtype=torch.float64)
        return torch.einsum("ij,ab->iajb", q[:, 1:], axes).reshape(n_beads * n_dims, -1)

    def _score(
        self, y: Tensor, i: int, basis: Tensor, shape: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Score (B, size) with respect to y and its Jacobian (B, size, size)."""
        size, step = y.shape[1], _DISPLACEMENT * self._noise[i]
        moves = step * torch.eye(size, dtype=torch.float64)
        moves = torch.cat([torch.zeros(1, size, dtype=torch.float64), moves, -moves])
        alpha, time = self._alpha[i], self._times[i]
        scores: list[Tensor] = []
        for part in torch.split(y, max(1, _TOGETHER // (len(moves) * basis.shape[0]))):
            points = (part[:, None] + moves).reshape(-1, size) @ basis.t()
            x = (alpha * points).reshape(-1, *shape[1:])
            t = torch.full((len(x),), time, dtype=torch.float64)
            of_x = self._score_fn(x, t).to(torch.float64).reshape(len(x), -1)
            scores.append((alpha * of_x @ basis).view(-1, len(moves), size))
        every = torch.cat(scores)
        slopes = (every[:, 1 : size + 1] - every[:, size + 1 :]) / (2.0 * step)
        # Row by row the score was differentiated by one coordinate.
        return every[:, 0], slopes.transpose(1, 2)
