r"""A map between data and noise whose density is known exactly, after the probability flow.

With :math:`y = x / \alpha` and :math:`s = \sigma / \alpha` the probability-flow equation (Song et
al. 2021) is :math:`dy/ds = s \nabla E(y, s)` with the reduced energy of the blurred data. The map
takes Euler steps from data to noise, levels :math:`s` in geometric sequence,

.. math:: y_{i+1} = y_i + (s_{i+1} - s_i)\, s_i \nabla E(y_i, s_i),

and the log-determinant of every step is that of its own Jacobian, not of the equation that it
approximates. Noise is turned into data by solving the same steps backwards. So frames that come
from noise have the density of the map whatever the number of steps; with more of them it comes
nearer to that of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError

#: Reduced energies (B,) of blurred, not shrunk, standardised coordinates (B, N, D) at a time.
ReducedEnergy: TypeAlias = Callable[[Tensor, float], Tensor]

_MOST_ITERATIONS: Final = 100
#: A step is solved when coordinates change by less than this part of its noise.
_SOLVED: Final = 1e-5


@dataclasses.dataclass(frozen=True)
class Mapped:
    """What a map made of frames.

    Attributes
    ----------
    y : Tensor, shape (B, N, D)
        Noise, or data.
    log_det : Tensor, shape (B,)
        Log-determinant of the map from data to noise at the data.
    valid : Tensor of bool, shape (B,)
        Where every step could be solved and none folds space.
    """

    y: Tensor
    log_det: Tensor
    valid: Tensor


class FlowMap:
    """Takes data to noise and back.

    Parameters
    ----------
    energy : callable
        Reduced energies; differentiable twice.
    schedule : VPSchedule
        Noise schedule.
    t_min : float
        Diffusion time of the data.
    n_steps : int
        Steps; all are evaluated for every frame.

    Attributes
    ----------
    last_noise : float
        Standard deviation of the noise that data are mapped to.

    Raises
    ------
    InvalidInputError
        If there is no step.
    """

    def __init__(
        self, energy: ReducedEnergy, schedule: VPSchedule, *, t_min: float, n_steps: int = 100
    ) -> None:
        if n_steps < 1:
            raise InvalidInputError(f"n_steps is {n_steps}; it must be at least 1")
        self._energy = energy
        ends = schedule.log_signal_to_noise(torch.tensor([t_min, 1.0], dtype=torch.float64))
        levels = torch.linspace(float(ends[0]), float(ends[1]), n_steps + 1, dtype=torch.float64)
        self._noise: list[float] = torch.exp(-levels).tolist()
        self._times: list[float] = schedule.time_of_log_signal_to_noise(levels).tolist()
        self._times[0] = t_min  # not the rounding of there and back
        self.last_noise = self._noise[-1]

    def to_noise(self, y: Tensor) -> Mapped:
        """Map data (B, N, D) to noise."""
        log_det = torch.zeros(len(y), dtype=torch.float64)
        valid = torch.isfinite(y).all(dim=(1, 2))
        for i in range(len(self._noise) - 1):
            gradient, part, unfolded = self._jacobian(y, i)
            y = y + self._factor(i) * gradient
            log_det, valid = log_det + part, valid & unfolded
        return Mapped(y, log_det, valid & torch.isfinite(log_det))

    def to_data(self, z: Tensor) -> Mapped:
        """Map noise (B, N, D) to data."""
        y, log_det = z, torch.zeros(len(z), dtype=torch.float64)
        valid = torch.ones(len(z), dtype=torch.bool)
        for i in reversed(range(len(self._noise) - 1)):
            y, solved = self._solved(y, i)
            _, part, unfolded = self._jacobian(y, i)
            log_det, valid = log_det + part, valid & solved & unfolded
        return Mapped(y, log_det, valid & torch.isfinite(log_det))

    def returns(self, y: Tensor, z: Tensor) -> Tensor:
        """Tell which data (B, N, D) their noise is mapped back to, shape (B,).

        Where a map folds space, several data have the same noise, and only one of them is drawn.
        """
        back = z
        for i in reversed(range(len(self._noise) - 1)):
            back, _ = self._solved(back, i)
        # About the noise of the data themselves, and above rounding in single precision.
        return (back - y).abs().amax(dim=(1, 2)) < self._noise[0]

    def _factor(self, i: int) -> float:
        return (self._noise[i + 1] - self._noise[i]) * self._noise[i]

    def _gradient(self, y: Tensor, i: int) -> Tensor:
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            leaf = y.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._energy(leaf, self._times[i]).sum(), leaf)
        return gradient

    def _jacobian(self, y: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of a step's energy, log-determinant of the step, and whether it is positive."""
        batch, size = len(y), y[0].numel()
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            # Every frame once for every row of its Hessian: two calls of the network instead of one
            # for each row.
            leaf = y.detach().repeat_interleave(size, dim=0).requires_grad_(True)
            energy = self._energy(leaf, self._times[i]).sum()
            (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True)
            rows = gradient.reshape(batch, size, size).diagonal(dim1=1, dim2=2)
            (hessian,) = torch.autograd.grad(rows.sum(), leaf)
        jacobian = torch.eye(size, dtype=torch.float64) + self._factor(i) * hessian.reshape(
            batch, size, size
        )
        sign, log_det = torch.linalg.slogdet(jacobian)
        return gradient[::size].detach(), log_det, sign > 0.0

    def _solved(self, target: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Solve a step for where it began."""
        factor, enough = self._factor(i), _SOLVED * self._noise[i + 1]
        # The step stretches by 1 in the data's own directions and by the ratio of noise levels
        # where all is noise; halfway between, plain iteration becomes one that always converges.
        weight = 2.0 / (1.0 + self._noise[i + 1] / self._noise[i])
        y = target
        change = torch.full((len(y),), torch.inf, dtype=torch.float64)
        for _ in range(_MOST_ITERATIONS):
            better = y + weight * (target - factor * self._gradient(y, i) - y)
            change = (better - y).abs().amax(dim=(1, 2))
            y = better
            if not bool((change > enough).any()):
                break
        return y, change <= enough
