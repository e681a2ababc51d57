"""The loss of frames that training never sees, and the weights that had the lowest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from openmm_scoremd.training.log import LogRow
from openmm_scoremd.training.objective import Batch

#: Steps between two values: eager and for as many frames as a batch, each costs about a step.
_STEPS = 50
#: A short training has at least so many values.
_VALUES = 20

_LOSS, _WEIGHTS = "best.loss", "best.weights."


class HeldOutLoss:
    """Loss of the averaged weights on one batch of held-out frames, times and noise.

    As these are always the same, two values differ by the weights alone.

    Parameters
    ----------
    objective : nn.Module
        The loss, of the averaged network.
    batch : Batch or None
        Frames, times and noise; None where no frames are held out, and no value is computed.
    """

    def __init__(self, objective: nn.Module, batch: Batch | None) -> None:
        self.objective = objective
        self.batch = batch
        self.lowest = math.inf
        self.best: dict[str, Tensor] = {}

    def after(self, model: nn.Module, *, first: int, stop: int, n_steps: int) -> float | None:
        """Return the loss if it is due after steps ``first`` to ``stop``, and remember the best.

        Whether it is due follows from the steps alone, so that a resumed run has the same values.

        Parameters
        ----------
        model : nn.Module
            The averaged network, which the objective is of.
        first, stop : int
            Steps done before and after.
        n_steps : int
            Steps of the whole run.
        """
        every = max(1, min(_STEPS, n_steps // _VALUES))
        if self.batch is None or (first // every == stop // every and stop < n_steps):
            return None
        with torch.no_grad():
            loss = float(self.objective(*self.batch.arrays))
        if loss < self.lowest:
            self.lowest = loss
            self.best = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to hold."""
        if not self.best:
            return {}
        weights = {f"{_WEIGHTS}{name}": value for name, value in self.best.items()}
        return {_LOSS: torch.tensor(self.lowest, dtype=torch.float64), **weights}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned; checkpoints of earlier versions hold nothing."""
        if _LOSS in tensors:
            self.lowest = float(tensors[_LOSS])
            self.best = {
                name.removeprefix(_WEIGHTS): value
                for name, value in tensors.items()
                if name.startswith(_WEIGHTS)
            }


def lowest_step(rows: Sequence[LogRow]) -> int | None:
    """Return the step from which on the held-out loss rises; None if it does not.

    It rises if its mean over the last tenth of the values is above the lowest mean of a tenth by
    more than a hundredth of that, which is more than the steps of an average of weights make.

    Parameters
    ----------
    rows : sequence of LogRow
        A log.
    """
    known = [(row.step, row.held_out_loss) for row in rows if row.held_out_loss is not None]
    width = len(known) // 10
    if width < 1:
        return None
    means = [
        sum(loss for _, loss in known[i : i + width]) / width for i in range(len(known) - width + 1)
    ]
    lowest = min(range(len(means)), key=means.__getitem__)
    if means[-1] - means[lowest] <= 0.01 * abs(means[lowest]):
        return None
    return known[lowest + width // 2][0]
