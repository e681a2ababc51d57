"""Functions of tensors as one graph of elementary operators, and as compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

#: Shape and strides of several tensors: what a compiled graph takes for granted.
Layouts = tuple[tuple[torch.Size, tuple[int, ...]], ...]

#: Results of batched products with at most so many columns, and more rows, are computed turned.
_NARROW = 16


def layouts(tensors: Sequence[Tensor]) -> Layouts:
    """Return shapes and strides of tensors."""
    return tuple((tensor.shape, tensor.stride()) for tensor in tensors)


def traced(function: Callable[..., Any], examples: Sequence[Tensor]) -> fx.GraphModule:
    """Return a function of tensors as one graph of elementary operators; nothing is computed."""
    # One fake mode for all of it, which inductor asks for. Buffers become constants.
    trace = make_fx(
        function,
        decomposition_table={torch.ops.aten.expm1.default: expm1_of_tanh},
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )
    graph: fx.GraphModule = trace(*examples)
    turn_narrow_products(graph)
    return graph


def expm1_of_tanh(x: Tensor) -> Tensor:
    """Return ``exp(x) - 1`` from functions that compilers have for vectors of numbers.

    With ``u = tanh(|x| / 2)``, ``1 - exp(-|x|) = 2 u / (1 + u)``, exact to rounding also where x is
    tiny. The noise level is computed with this anew in every loop that needs it, and one call for
    every number kept these loops from being vector code.
    """
    half = torch.tanh(0.5 * x.abs())
    return 2.0 * half / (1.0 + half) * torch.where(x > 0.0, x.exp(), -1.0)


def turn_narrow_products(graph: fx.GraphModule) -> None:
    """Compute batched products with a narrow result, such as (99, 5), as transposed wide ones.

    Matrix libraries take up to five times as long for the narrow ones.
    """
    aten = torch.ops.aten
    for node in graph.graph.find_nodes(op="call_function", target=aten.bmm.default):
        _, rows, columns = node.meta["val"].shape
        if not columns <= _NARROW < rows:
            continue
        with graph.graph.inserting_before(node):
            left, right = (
                graph.graph.call_function(aten.transpose.int, (factor, 1, 2))
                for factor in node.args
            )
            wide = graph.graph.call_function(aten.bmm.default, (right, left))
            turned = graph.graph.call_function(aten.transpose.int, (wide, 1, 2))
            # Views further on count on the layout of the product.
            copy = graph.graph.call_function(
                aten.clone.default, (turned,), {"memory_format": torch.contiguous_format}
            )
        node.replace_all_uses_with(copy)
        graph.graph.erase_node(node)
    graph.recompile()


def compile_graph(graph: fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile a traced graph for tensors of certain layouts, which the result does not check.

    Straight to inductor: dynamo, below ``torch.compile``, would trace again what is traced already,
    look at every call whether anything in the graph has changed, and give up after some graphs in
    one process. On CPU all kernels and the calls between them become one C++ file, for as many
    threads as torch has at this moment: Python between kernels would take longer than those of
    small networks.

    Parameters
    ----------
    graph : fx.GraphModule
        Takes tensors, returns tensors.
    examples : sequence of Tensor
        Its arguments, to tell their layouts.
    """
    # Importing inductor takes a second.
    from torch._inductor import compile as compile_with_inductor

    options: dict[str, Any] | None = None
    if examples[0].device.type == "cpu":
        # Said in words, because inductor's cache would return code made for other threads.
        options = {"cpp_wrapper": True, "cpp.threads": torch.get_num_threads()}
        double = any(example.dtype == torch.float64 for example in examples)
        if double and "AVX512" not in torch.backends.cpu.get_cpu_capability():
            # On narrower vectors torch 2.9 writes masks of double precision that do not compile.
            options["cpp.simdlen"] = 1
    return cast(Callable[..., Any], compile_with_inductor(graph, list(examples), options=options))
