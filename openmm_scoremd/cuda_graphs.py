"""Functions of CUDA tensors replayed as one CUDA graph: one launch instead of one for each kernel.

The launches of small kernels take longer than the kernels, in training and in simulation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

#: Calls before the recording. TorchScript specialises in the first few, compilers compile in the
#: first, and libraries allocate what they need; none of that can be recorded.
_WARM_UP = 4


def captured(
    function: Callable[..., Any], state: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Callable[..., Any]:
    """Return a function that does the same by replaying a graph.

    Parameters
    ----------
    function : callable
        Takes the state and the inputs; returns tensors, in tuples or lists if it likes. It must not
        wait for the device, nor decide anything by what is in a tensor.
    state : sequence of Tensor
        What it changes in place; the result works on these very tensors. Unchanged by this call.
    inputs : sequence of Tensor
        Examples of its other arguments, which keep their shapes. All on one device.

    Returns
    -------
    callable
        Takes what ``function`` takes and returns new tensors. Several threads may call it.

    Raises
    ------
    RuntimeError
        If ``function`` cannot be recorded.
    """
    device = inputs[0].device
    saved = [tensor.clone() for tensor in state]
    static = [tensor.clone() for tensor in inputs]
    # Streams are those of the current device, which need not be that of the tensors.
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    function(*state, *static)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = function(*state, *static)
        finally:
            for tensor, before in zip(state, saved, strict=True):
                tensor.copy_(before)
    # Inputs and outputs of a graph lie always in the same place.
    lock = threading.Lock()

    def replay(*arguments: Tensor) -> Any:
        with lock, torch.cuda.device(device):
            for fixed, given in zip(static, arguments[len(state) :], strict=True):
                fixed.copy_(given)
            graph.replay()
            return pytree.tree_map(torch.clone, outputs)

    return replay
