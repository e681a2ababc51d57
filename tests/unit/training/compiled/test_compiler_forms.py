"""Forms of networks for compilers are the same functions, and leave no trace."""

import pytest
import torch

from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.network import (
    EdgeAttention,
    GraphTransformer,
    GraphTransformerConfig,
)
from openmm_scoremd.training.compiled.compiler_forms import forms_for_compiler, gelu_of_sigmoid


@pytest.mark.parametrize(("head_dim", "form"), [(4, "_fusible"), (9, "_absorbed")])
def test_forms_for_compilers_are_the_same_function(monkeypatch, head_dim, form):
    config = GraphTransformerConfig(
        hidden_dim=12, layers=2, heads=3, head_dim=head_dim, noise_floor=0.05
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, n_beads=5, n_dims=3).double()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.2 * torch.randn_like(p)
        x, t = torch.randn(7, 5, 3).double().requires_grad_(), torch.rand(7).double()
    used, function = [], getattr(EdgeAttention, form)
    monkeypatch.setattr(EdgeAttention, form, lambda *args: (used.append(form), function(*args))[1])
    parameters = list(model.parameters())

    def derivatives(energy):
        (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        seconds = torch.autograd.grad((gradient**2).sum(), parameters, materialize_grads=True)
        return energy, gradient, seconds

    with forms_for_compiler(model, n_beads=5):
        found = derivatives(model.energy(x, t))
    assert len(used) == 2
    expected = derivatives(model.energy(x, t))
    assert len(used) == 2  # only inside
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_forms_for_compilers_are_left_where_they_would_need_much_memory(make_case):
    case = make_case("graph-types")
    attentions = [m for m in case.model.modules() if isinstance(m, EdgeAttention)]
    assert attentions

    def changed():
        return {attention.forward == attention.forward_for_compiler for attention in attentions}

    with forms_for_compiler(case.model, n_beads=300):
        assert changed() == {False}
    with pytest.raises(ZeroDivisionError), forms_for_compiler(case.model, n_beads=16):
        assert changed() == {True}
        raise ZeroDivisionError
    assert changed() == {False}


@pytest.mark.parametrize("name", ["graph-types", "graph"])
def test_energies_are_the_same_and_come_from_the_decoded_form(make_case, monkeypatch, name):
    case = make_case(name)
    decoded, calls = GraphTransformer.decoded, []
    monkeypatch.setattr(
        GraphTransformer, "decoded", lambda *args: (calls.append(1), decoded(*args))[1]
    )
    expected = case.model.energy(*case.arguments)
    assert not calls
    with forms_for_compiler(case.model, n_beads=5):
        found = case.model.energy(*case.arguments)
    assert calls == [1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert "energy" not in case.model.__dict__


def test_gelu_and_both_derivatives():
    x = torch.linspace(-6.0, 6.0, 101, dtype=torch.float64, requires_grad=True)

    def derivatives(function):
        value = function(x)
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        return value, first, second

    expected = derivatives(lambda v: torch.nn.functional.gelu(v, approximate="tanh"))
    torch.testing.assert_close(derivatives(gelu_of_sigmoid), expected, rtol=1e-10, atol=1e-12)
