"""What makes the written-out gradient fast: frozen, only what depends on coordinates is left."""

import pytest
import torch

from openmm_scoremd.models.graph_transformer import explicit_attention
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer

FORMS = ["absorbed", "factorised"]
NAMES = ["graph-one-layer", "graph", "graph-three-layers"]


@pytest.fixture(params=["few beads", "many beads"], autouse=True)
def number_of_beads(request, monkeypatch):
    if request.param == "many beads":
        monkeypatch.setattr(explicit_attention, "_MOST_BEADS_BY_PRODUCT", 0)


class Gradient(torch.nn.Module):
    """What TorchForce calls."""

    def __init__(self, folded):
        super().__init__()
        self.folded = folded

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return self.folded.energy_and_gradient(x)


def frozen(folded):
    return torch.jit.freeze(torch.jit.script(Gradient(folded).eval()))


def operators(block):
    """All nodes of a TorchScript graph that compute tensors."""
    for node in block.nodes():
        if node.kind().startswith("aten::"):
            yield node
        for inner in node.blocks():
            yield from operators(inner)


def centred(case):
    return case.x - case.x.mean(dim=1, keepdim=True)


@pytest.fixture(params=FORMS)
def executed(make_case, request):
    """The graph that runs, of a network with three layers."""
    case = make_case("graph-three-layers")
    module = frozen(
        FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-3, form=request.param)
    )
    for _ in range(3):  # The compiler specialises on the second call.
        module(centred(case))
    return torch.jit.last_executed_optimized_graph()


def test_no_operator_on_constants_is_left(executed):
    left = []
    for node in operators(executed):
        tensors = [v for v in node.inputs() if v.type().kind() == "TensorType"]
        if tensors and all(value.node().kind() == "prim::Constant" for value in tensors):
            left.append(node.kind())
    # One-hot indices for every replica, and with many beads a weight, in both kinds of blocks.
    few = explicit_attention._MOST_BEADS_BY_PRODUCT > 0
    assert left == ["aten::expand"] * (2 if few else 4)


def test_products_are_not_taken_apart(executed):
    kinds = {node.kind() for node in operators(executed)}
    assert "aten::addmm" in kinds
    assert "aten::add" not in kinds


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_frozen_gradient_is_that_of_the_plain_network(make_case, name, form):
    case = make_case(name)
    module = frozen(
        FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-3, form=form)
    )
    x = centred(case)
    energy, score = case.model.energy_and_score(x, torch.full_like(case.t, 1e-3))
    for _ in range(3):
        found, gradient = module(x)
        torch.testing.assert_close(found, energy.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(-gradient, score.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_energy_can_be_differentiated_twice(make_case, form):
    case = make_case("graph")
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-3, form=form)
    assert torch.autograd.gradgradcheck(folded, (centred(case)[:1].requires_grad_(),))


@pytest.mark.parametrize("form", FORMS)
def test_inputs_and_weights_are_not_overwritten(make_case, form):
    case = make_case("graph-three-layers")
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-3, form=form)
    x = centred(case)
    before = [tensor.clone() for tensor in (x, *folded.buffers())]
    folded.energy_and_gradient(x)
    assert all(map(torch.equal, before, (x, *folded.buffers())))


@pytest.mark.parametrize("form", FORMS)
def test_nan_stays_in_its_replica(make_case, form):
    case = make_case("graph", n_samples=5)
    folded = FoldedGraphTransformer(case.model.network, case.model.decoder, t=1e-3, form=form)
    x = centred(case)
    before, expected = folded.energy_and_gradient(x)
    x[2, 1, 0] = float("nan")
    energy, gradient = folded.energy_and_gradient(x)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(energy[others], before[others], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient[others], expected[others], rtol=1e-11, atol=1e-12)
    assert gradient[2].isnan().all()
    assert energy[2].isnan()
