"""Folding changes the arithmetic and not the function."""

import copy

import pytest
import torch

from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer, choose_form

NAMES = ["graph", "graph-one-layer", "graph-three-layers", "graph-types", "graph-noise-level"]


def centred(x):
    return x - x.mean(dim=1, keepdim=True)


def energy_and_forces(function, x):
    leaf = x.detach().clone().requires_grad_()
    energy = function(leaf)
    (gradient,) = torch.autograd.grad(energy.sum(), leaf)
    return energy.detach(), -gradient


@pytest.mark.parametrize("t", [0.05, 0.3, 0.9])
def test_times_outside_the_range_are_clipped(make_case, t):
    case = make_case("graph-high-times")  # [0.1, 0.6]
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=t)
    expected = case.model.energy(centred(case.x), torch.full_like(case.t, t))
    torch.testing.assert_close(folded(centred(case.x)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_forces(make_case, name):
    case = make_case(name, n_samples=50)
    folded = FoldedGraphTransformer(
        case.model.network, case.model.decoder, t=1e-5, features=case.features
    ).float()
    assert {b.dtype for b in folded.buffers()} == {torch.float32}
    x, t = centred(case.x), torch.full_like(case.t, 1e-5)
    expected = case.model.score(x, t, case.features).detach()
    _, forces = energy_and_forces(folded, x.float())
    plain = case.model.float().score(x.float(), t.float(), case.features)
    error, error_of_plain = (
        float((v.detach().double() - expected).norm() / expected.norm()) for v in (forces, plain)
    )
    # Deep networks with weights at random lose more digits than that, folded or not.
    assert error < max(1e-5, 2.0 * error_of_plain)
    assert error < 1e-4


def test_the_network_is_left_as_it_is(make_case):
    case = make_case("graph")
    before = copy.deepcopy(case.model)
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-5)
    for buffer in folded.buffers():
        buffer.zero_()
    for old, new in zip(before.parameters(), case.model.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.requires_grad


def test_nothing_folded_needs_gradients(make_case):
    case = make_case("graph")
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-5)
    assert not list(folded.parameters())
    assert not any(b.requires_grad for b in folded.buffers())
    assert not folded(case.x).requires_grad


# --- The gradient that is written out --------------------------------------------------------

FORMS = ["absorbed", "factorised"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_explicit_gradient_is_that_of_the_plain_network(make_case, name, form):
    case = make_case(name)
    folded = FoldedGraphTransformer(
        case.model.network, case.model.decoder, t=1e-3, features=case.features, form=form
    )
    x, times = centred(case.x), torch.full_like(case.t, 1e-3)
    expected = case.model.energy_and_score(x, times, case.features)
    energy, gradient = folded.energy_and_gradient(x)
    torch.testing.assert_close(energy, expected[0].detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(-gradient, expected[1].detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded(x), energy, rtol=1e-12, atol=1e-12)
    assert not energy.requires_grad
    assert not gradient.requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_explicit_gradient_in_single_precision(make_case, form):
    case = make_case("graph", n_samples=50)
    folded = FoldedGraphTransformer(
        case.model.network, case.model.decoder, t=1e-3, form=form
    ).float()
    x, times = centred(case.x), torch.full_like(case.t, 1e-3)
    expected = case.model.score(x, times).detach()
    _, gradient = folded.energy_and_gradient(x.float())
    assert float((gradient.double() + expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_replicas", [1, 3, 4, 8, 9, 11])
def test_blocks_of_replicas_are_put_together(make_case, form, n_replicas):
    case = make_case("graph", n_samples=n_replicas)
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-3, form=form)
    folded.replicas_per_block = 4
    x = centred(case.x)
    energy, gradient = folded.energy_and_gradient(x)
    one_by_one = [folded.energy_and_gradient(x[i : i + 1]) for i in range(n_replicas)]
    torch.testing.assert_close(energy, torch.cat([e for e, _ in one_by_one]), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient, torch.cat([g for _, g in one_by_one]), rtol=1e-11, atol=1e-12
    )


def test_small_molecules_get_absorbed_attention_and_large_ones_factorised():
    assert choose_form(1, hidden_dim=96, head_dim=64) == "absorbed"
    assert choose_form(300, hidden_dim=96, head_dim=64) == "factorised"
