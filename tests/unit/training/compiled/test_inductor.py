"""Traced functions, and what is changed in their graphs for the compiler's sake."""

import pytest
import torch

from openmm_scoremd.training.compiled.inductor import compile_graph, expm1_of_tanh, layouts, traced


def targets(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def products_of(graph):
    """Return the shapes of the results of batched products."""
    shapes = []

    class Recorder(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            result = super().call_function(target, args, kwargs)
            if target is torch.ops.aten.bmm.default:
                shapes.append(tuple(result.shape))
            return result

    return shapes, Recorder(graph)


def test_narrow_products_are_turned():
    left, right = torch.randn(3, 40, 7).double(), torch.randn(3, 7, 5).double()
    graph = traced(lambda a, b: (torch.bmm(a, b) + 1.0).view(-1), [left, right])
    shapes, recorder = products_of(graph)
    torch.testing.assert_close(recorder.run(left, right), ((left @ right) + 1.0).view(-1))
    assert shapes == [(3, 5, 40)]


@pytest.mark.parametrize(("rows", "columns"), [(5, 40), (40, 17), (5, 5)])
def test_other_products_stay(rows, columns):
    left, right = torch.randn(3, rows, 7), torch.randn(3, 7, columns)
    shapes, recorder = products_of(traced(torch.bmm, [left, right]))
    recorder.run(left, right)
    assert shapes == [(3, rows, columns)]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 4e-7), (torch.float64, 1e-15)])
def test_expm1_is_exact_to_rounding(dtype, rtol):
    size = torch.logspace(-9, 1.3, 400, dtype=dtype)
    x = torch.cat([-size, torch.zeros(1, dtype=dtype), size])
    found, expected = expm1_of_tanh(x), torch.expm1(x.double()).to(dtype)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0.0)


def test_expm1_is_not_left_in_a_graph():
    def slope(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(torch.expm1(leaf).sum(), leaf)
        return gradient

    x = torch.linspace(-2.0, 2.0, 9).double()
    graph = traced(slope, [x])
    assert torch.ops.aten.expm1.default not in targets(graph)
    torch.testing.assert_close(graph(x), x.exp(), rtol=1e-14, atol=0.0)


def test_compiled_for_the_threads_of_the_moment(monkeypatch):
    # Inductor's cache does not know of threads unless they are an option.
    chosen = []
    monkeypatch.setattr(
        "torch._inductor.compile",
        lambda graph, _, options: chosen.append(options) or graph,
    )
    x, before = torch.randn(8), torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            compile_graph(traced(torch.sin, [x]), [x])
    finally:
        torch.set_num_threads(before)
    assert [options["cpp.threads"] for options in chosen] == [1, 2]


def test_layouts_tell_strides_apart():
    x = torch.zeros(4, 4)
    assert layouts([x]) == layouts([torch.ones(4, 4)])
    assert layouts([x]) != layouts([x.T])
