"""Whole optimiser steps as one compiled function.

For small networks a step is a few hundred microseconds of arithmetic, and optimiser, average and
the many calls that lead there cost more than that. Here loss, gradient, clipping, AdamW and average
are one graph, whose state is four flat vectors; Python does no more than call it once per step, or
once for several. With large networks every thread has a part of the batch and a graph of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from openmm_scoremd.cuda_graphs import captured
from openmm_scoremd.errors import ConfigurationError, InvalidInputError
from openmm_scoremd.training.compiled.inductor import Layouts, compile_graph, layouts, traced
from openmm_scoremd.training.compiled.parallel_steps import Division, threads_of
from openmm_scoremd.training.ema import new_value_weight
from openmm_scoremd.training.objective import Batch, value_and_gradients

#: Numbers per slot of a flat vector are a multiple of this: 64 bytes of float32, which vector
#: instructions and CUDA kernels like.
_ALIGNMENT = 16

_UNDIVIDED = Division()


class FlatLayout:
    """Where each of several tensors lies in one flat vector.

    Parameters
    ----------
    shapes : sequence of torch.Size
        Their shapes.
    """

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = list(shapes)
        self.sizes = [shape.numel() for shape in self.shapes]
        self.slots = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in self.sizes]

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the tensors in one new vector, with zeros between them."""
        parts: list[Tensor] = []
        for tensor, size, slot in zip(tensors, self.sizes, self.slots, strict=True):
            parts.append(tensor.reshape(-1))
            if slot > size:
                parts.append(tensor.new_zeros(slot - size))
        return torch.cat(parts)

    def unpack(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector in the shapes of the tensors."""
        slots = zip(torch.split(vector, self.slots), self.sizes, self.shapes, strict=True)
        return [slot[:size].view(shape) for slot, size, shape in slots]


class CompiledSteps:
    """Optimiser steps that change a model, its average and the optimiser as single steps would.

    Parameters
    ----------
    objective : nn.Module
        The loss of the arrays of a :class:`Batch`.
    optimizer : torch.optim.AdamW
        Holds the parameters of ``objective`` in one group.
    average : AveragedModel
        Exponential average of the same parameters.
    gradient_clip : float
        Largest absolute value of a gradient entry.
    ema_decay : float
        Final decay of the average.
    division : Division
        How the work is divided among threads, or into calls.

    Raises
    ------
    ConfigurationError
        If a batch is to be divided on CUDA.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.AdamW,
        average: AveragedModel,
        *,
        gradient_clip: float,
        ema_decay: float,
        division: Division = _UNDIVIDED,
    ) -> None:
        if division.parts > 1 and any(p.is_cuda for p in objective.parameters()):
            raise ConfigurationError(
                f"a batch was to be divided into {division.parts} parts on CUDA; that is for "
                "threads on CPU, so use Division()"
            )
        self.objective = objective
        self.optimizer = optimizer
        self.average = average
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay
        self.division = division
        self.parameters = list(objective.parameters())
        self.averages = list(average.module.parameters())
        self._layout = FlatLayout([p.shape for p in self.parameters])
        self._state: list[Tensor] = []
        self._functions: dict[tuple[str, Layouts], Callable[..., Any]] = {}

    @torch.no_grad()
    def run(self, batches: Iterable[Batch], learning_rates: Sequence[float]) -> Tensor:
        """Do one step for every batch, without waiting for the device.

        Parameters
        ----------
        batches : iterable of Batch
            One for each step, all of the same layout; taken as needed, because all together can be
            large.
        learning_rates : sequence of float
            One for each step.

        Returns
        -------
        Tensor, shape (steps,)
            Loss of every batch, before its step.

        Raises
        ------
        InvalidInputError
            If there are more or fewer batches than learning rates.
        """
        moments = [self._moments(p) for p in self.parameters]
        tensors = [
            [p.detach() for p in self.parameters],
            [m["exp_avg"] for m in moments],
            [m["exp_avg_sq"] for m in moments],
            [p.detach() for p in self.averages],
        ]
        state = self._packed(tensors)
        rates = self._rates(learning_rates, done=int(moments[0]["step"])).to(state[0])
        losses: list[Tensor] = []
        with threads_of(self.division) as threads:
            for of_call, several in self._calls(rates, batches):
                losses.append(self._do_steps(threads, state, of_call, several))
        for of_kind, vector in zip(tensors, state, strict=True):
            torch._foreach_copy_(of_kind, self._layout.unpack(vector))
        torch._foreach_add_([m["step"] for m in moments], len(rates))
        self.average.n_averaged += len(rates)
        return torch.cat(losses)

    def _packed(self, tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return the state as flat vectors, always the same ones: captured graphs know them."""
        if not self._state:
            self._state = [self._layout.pack(of_kind) for of_kind in tensors]
        else:
            for vector, of_kind in zip(self._state, tensors, strict=True):
                vector.copy_(self._layout.pack(of_kind))
        return self._state

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the optimiser's own state of a parameter, as AdamW itself begins it."""
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _rates(self, learning_rates: Sequence[float], *, done: int) -> Tensor:
        """Return all that changes from step to step, shape (steps, 4), for :meth:`_updated`."""
        group = self.optimizer.param_groups[0]
        first_beta, second_beta = group["betas"]
        averaged = int(self.average.n_averaged)
        rows = [
            (
                1.0 - rate * group["weight_decay"],
                rate / (1.0 - first_beta**n),
                (1.0 - second_beta**n) ** -0.5,
                new_value_weight(self.ema_decay, averaged + n - done - 1),
            )
            for n, rate in enumerate(learning_rates, done + 1)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def _calls(
        self, rates: Tensor, batches: Iterable[Batch]
    ) -> Iterator[tuple[Tensor, list[Batch]]]:
        """Divide steps into calls of one size, because every other one is compiled anew."""
        n_steps = len(rates)
        size = max(n for n in range(1, self.division.steps_per_call + 1) if n_steps % n == 0)
        remaining = iter(batches)
        for first in range(0, n_steps, size):
            several = list(itertools.islice(remaining, size))
            if len(several) < size:
                raise _wrong_number(n_steps, first + len(several))
            yield rates[first : first + size], several
        if next(remaining, None) is not None:
            raise _wrong_number(n_steps, n_steps + 1)

    def _do_steps(
        self,
        threads: ThreadPoolExecutor,
        state: Sequence[Tensor],
        rates: Tensor,
        batches: Sequence[Batch],
    ) -> Tensor:
        """Do the steps of one call and return their losses."""
        n_parts = self.division.parts
        if n_parts == 1:
            arrays = [torch.stack(v) for v in zip(*(b.arrays for b in batches), strict=True)]
            return cast(Tensor, self._call(self._steps, *state, rates, *arrays))
        parts = [[state[0], *batches[0].part(i, n_parts).arrays] for i in range(n_parts)]
        gradient = self._compiled(self._gradient, parts[0])
        others = [threads.submit(gradient, *part) for part in parts[1:]]
        results = [gradient(*parts[0]), *(other.result() for other in others)]
        of_parts, gradients = zip(*results, strict=True)
        self._call(self._update, *state, rates[0], *gradients)
        return torch.stack(of_parts).mean(dim=0, keepdim=True)

    def _steps(self, *tensors: Tensor) -> Tensor:
        """Change the state by one step for each of the rates; returns the losses."""
        old, rates, arrays = tensors[:4], tensors[4], tensors[5:]
        state, losses = list(old), []
        for of_step, *of_batch in zip(rates.unbind(0), *(a.unbind(0) for a in arrays), strict=True):
            loss, gradient = self._gradient(state[0], *of_batch)
            state = self._updated(state, of_step, gradient)
            losses.append(loss)
        for vector, new in zip(old, state, strict=True):
            vector.copy_(new)
        return torch.stack(losses)

    def _gradient(self, weights: Tensor, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch and its gradient."""
        loss, *gradients = value_and_gradients(self.objective, arrays, self._layout.unpack(weights))
        return loss, self._layout.pack(gradients)

    def _update(self, *tensors: Tensor) -> None:
        """Change the state by one step; takes it, the rates and the gradients of all parts."""
        old, rates, gradients = tensors[:4], tensors[4], tensors[5:]
        gradient = torch.stack(gradients).mean(dim=0)
        for vector, new in zip(old, self._updated(old, rates, gradient), strict=True):
            vector.copy_(new)

    def _updated(self, state: Sequence[Tensor], rates: Tensor, gradient: Tensor) -> list[Tensor]:
        """Return the next state: ``torch.optim.AdamW`` and the average, written out."""
        weights, first, second, average = state
        group = self.optimizer.param_groups[0]
        first_beta, second_beta = group["betas"]
        gradient = gradient.clamp(-self.gradient_clip, self.gradient_clip)
        kept, size, root, weight_of_new = rates.unbind(0)
        first = torch.lerp(first, gradient, 1.0 - first_beta)
        second = second_beta * second + (1.0 - second_beta) * gradient.square()
        denominator = second.sqrt() * root + group["eps"]
        weights = kept * weights - size * first / denominator
        return [weights, first, second, average + weight_of_new * (weights - average)]

    def _call(self, function: Callable[..., Any], *arguments: Tensor) -> Any:
        return self._compiled(function, arguments)(*arguments)

    def _compiled(
        self, function: Callable[..., Any], arguments: Sequence[Tensor]
    ) -> Callable[..., Any]:
        """Return a method compiled for such arguments."""
        key = (function.__name__, layouts(arguments))
        if key not in self._functions:
            with torch.enable_grad():  # type: ignore[no-untyped-call]
                graph = traced(function, arguments)
            compiled = compile_graph(graph, arguments)
            if arguments[0].is_cuda:
                compiled = captured(compiled, arguments[:4], arguments[4:])
            self._functions[key] = compiled
        return self._functions[key]


def _wrong_number(n_rates: int, n_batches: int) -> InvalidInputError:
    given = f"{n_batches} batches" if n_batches < n_rates else "more batches"
    return InvalidInputError(
        f"{n_rates} learning rates were given and {given}; give one of each for every step"
    )
