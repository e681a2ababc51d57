"""The same networks in the forms that compile best, while a graph is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from openmm_scoremd.models.graph_transformer.family import GraphTransformerEnergy
from openmm_scoremd.models.graph_transformer.network import (
    GELU_CUBIC,
    GELU_SLOPE,
    EdgeAttention,
)

#: Up to so many beads, a compiler makes faster code of sums than of calls to matrix products.
_FEW_BEADS = 16


@contextlib.contextmanager
def forms_for_compiler(module: nn.Module, *, n_beads: int) -> Iterator[None]:
    """Let a network run, for a while, in the forms that compile best.

    The results are the same up to rounding. Uncompiled, these forms are slower, and those of
    attention hold tensors of size beads x beads x width, so these are for few beads only.

    Parameters
    ----------
    module : nn.Module
        Network, or what contains one.
    n_beads : int
        Number of beads it is compiled for.
    """
    changed: list[tuple[nn.Module, str]] = []

    # On the instance: TorchScript, which compiles what a method can reach, never sees it.
    def replace(part: nn.Module, name: str, function: Callable[..., Tensor]) -> None:
        part.__dict__[name] = function
        changed.append((part, name))

    for part in module.modules():
        if isinstance(part, EdgeAttention) and n_beads <= _FEW_BEADS:
            replace(part, "forward", part.forward_for_compiler)
        elif isinstance(part, GraphTransformerEnergy):
            replace(part, "energy", part.energy_for_compiler)
        elif isinstance(part, nn.GELU) and part.approximate == "tanh":
            replace(part, "forward", gelu_of_sigmoid)
    try:
        yield
    finally:
        for part, name in changed:
            del part.__dict__[name]


def gelu_of_sigmoid(x: Tensor) -> Tensor:
    """Return GELU in its tanh approximation, with ``(1 + tanh(u)) / 2 = sigmoid(2 u)``.

    Derivatives of a sigmoid need no other function than the sigmoid itself, so the first and second
    one come from one exponential instead of three hyperbolic tangents.
    """
    return x * torch.sigmoid(x * (GELU_SLOPE + GELU_CUBIC * x.square()))
