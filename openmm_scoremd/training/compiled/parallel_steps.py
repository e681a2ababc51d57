"""How the work of compiled steps is divided on CPU: among threads, or into calls."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

#: Weights times evaluations of a step. Above, a step takes a millisecond or more, and its parts are
#: worth a thread each; below, they are not, and what Python and PyTorch need for a call is worth
#: sharing by several steps.
_LARGE = 3 * 10**6
#: Evaluations of a frame with probes besides its own: two displaced ones for either of two
#: estimates in the published residual, two in ours, each with a time derivative.
_OF_PROBES = 4

_STEPS_PER_CALL = 10


@dataclasses.dataclass(frozen=True)
class Division:
    """How steps are divided.

    Attributes
    ----------
    parts : int
        Equal parts of a batch, whose gradients are computed by a thread each.
    steps_per_call : int
        Largest number of steps of one compiled function.
    """

    parts: int = 1
    steps_per_call: int = 1


def divide_steps(
    *, n_weights: int, batch_size: int, n_probed: int, n_shared_times: int | None
) -> Division:
    """Return how to divide steps on this CPU.

    Parameters
    ----------
    n_weights : int
        Number of weights of the network.
    batch_size, n_probed : int
        Frames of a batch, and those of them with probes for the Fokker-Planck residual.
    n_shared_times : int or None
        Number of times that these have; None for one each.
    """
    if n_weights * (batch_size + _OF_PROBES * n_probed) < _LARGE:
        return Division(steps_per_call=_STEPS_PER_CALL)
    # Frames that share a time are compared with each other, so they stay together.
    multiples = [batch_size, n_probed, n_probed if n_shared_times is None else n_shared_times]
    possible = [
        parts
        for parts in range(1, torch.get_num_threads() + 1)
        if all(number % parts == 0 for number in multiples)
    ]
    # Threads without a part would have nothing to do; they can share the operations of a whole one.
    n_parts = max(possible)
    return Division(parts=n_parts if 2 * n_parts > torch.get_num_threads() else 1)


@contextlib.contextmanager
def threads_of(division: Division) -> Iterator[ThreadPoolExecutor]:
    """Give threads for all parts but one; meanwhile torch uses one thread for an operation.

    Parts in threads of their own wait for each other once in a step, threads that share every
    operation some hundred times: and then, on a machine with other work, for each other's turn.
    Operations of small networks are over before a second thread has begun. Steps that are not
    divided use the threads that torch has.
    """
    n_threads = torch.get_num_threads()
    if division != Division():
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            max(1, division.parts - 1), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)
