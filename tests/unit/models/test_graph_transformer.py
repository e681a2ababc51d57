"""The factorised network against the published form, and what holds for every energy model."""

import pytest
import torch

from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.models.graph_transformer import (
    GraphTransformer,
    GraphTransformerEnergy,
)

# The fixtures are in conftest.py: `make_case` perturbs every parameter, `published` is the form
# with an edge tensor.
GRAPHS = [
    "graph", "graph-one-layer", "graph-three-layers", "graph-high-times", "graph-types",
]  # fmt: skip
ENERGY_MODELS = [*GRAPHS, "graph-noise-level", "mlp", "mlp-beads", "mlp-noise-level"]


def all_subclasses(kind):
    return {kind}.union(*(all_subclasses(child) for child in kind.__subclasses__()))


def test_every_energy_model_is_tested_here(make_case):
    concrete = {k for k in all_subclasses(EnergyModel) if not k.__abstractmethods__}
    ours = {k for k in concrete if k.__module__.startswith("openmm_scoremd.models")}
    assert {type(make_case(name).model) for name in ENERGY_MODELS} == ours


@pytest.mark.parametrize("name", GRAPHS)
def test_energy_and_score_are_those_of_the_published_form(make_case, published, name):
    case = make_case(name)
    x = case.x.clone().requires_grad_()
    expected = published(case.model, x, case.t, case.features)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    energy, score = case.model.energy_and_score(*case.arguments)
    torch.testing.assert_close(energy, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score, -gradient, rtol=1e-11, atol=1e-11)


def test_parameter_gradients_are_those_of_the_published_form(make_case, published):
    case = make_case("graph-types")
    parameters = list(case.model.parameters())
    found = torch.autograd.grad(case.model.energy(*case.arguments).sum(), parameters)
    expected = torch.autograd.grad(published(case.model, *case.arguments).sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_no_tensor_of_all_pairs_and_widths_exists(make_case):
    # Beads x beads x heads x head_width, which the factorised edges avoid: 32 x 32 x 8 here.
    case = make_case("graph-types", n_samples=1)
    x = torch.randn(1, 32, 3, dtype=torch.float64)
    features = torch.zeros(32, 2, dtype=torch.int64)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        case.model.score(x, case.t, features)
    assert 0 < largest < 32 * 32 * 8


@pytest.mark.parametrize("output", ["conservative", "direct"])
@pytest.mark.parametrize("name", [*GRAPHS, "graph-noise-level"])
def test_translation_changes_nothing(make_case, name, output):
    case = make_case(name, output=output)
    assert case.model.translation_invariant
    score = case.model.score(*case.arguments)
    shift = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    moved = case.model.score(case.x + shift, case.t, case.features)
    torch.testing.assert_close(moved, score, rtol=1e-10, atol=1e-10)
    if output == "conservative":
        torch.testing.assert_close(
            case.model.energy(case.x + shift, case.t, case.features),
            case.model.energy(*case.arguments),
            rtol=1e-11,
            atol=1e-11,
        )
        # No net force either.
        torch.testing.assert_close(
            score.sum(dim=1), torch.zeros_like(score[:, 0]), atol=1e-10, rtol=0
        )


def test_digits_are_not_lost_far_from_the_origin(make_case):
    case = make_case("graph")
    model = case.model.float()
    # Coordinates with few bits, so that a shift by a power of two is exact.
    x, t = (case.x * 64.0).round().float() / 64.0, case.t.float()
    score = model.score(x, t).detach()
    moved = model.score(x + 4096.0, t).detach()
    assert float((moved - score).abs().max()) < 1e-5 * float(score.abs().max())


def test_rotation_is_not_built_in(make_case):
    # The published network sees raw displacements; it learns rotations from rotated data.
    case = make_case("graph")
    energies = [case.model.energy(x, case.t) for x in (case.x, case.x[..., [1, 2, 0]])]
    assert (energies[0] - energies[1]).abs().min() > 1e-4


def test_samples_do_not_see_each_other(make_case):
    case = make_case("graph")
    together = case.model.score(*case.arguments)
    for i in range(len(case.x)):
        alone = case.model.score(case.x[i : i + 1], case.t[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)


def test_equal_beads_can_be_exchanged(make_case):
    case = make_case("graph-types")
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    score = case.model.score(case.x, case.t, case.features)
    exchanged = case.model.score(case.x[:, order], case.t, case.features[order])
    torch.testing.assert_close(exchanged, score[:, order], rtol=1e-11, atol=1e-11)


def test_features_of_every_sample(make_case):
    case = make_case("graph-types")
    features = torch.stack([case.features, case.features.flip(0), case.features, case.features])
    energy = case.model.energy(case.x, case.t, features)
    torch.testing.assert_close(energy[0], case.model.energy(*case.arguments)[0])
    flipped = case.model.energy(case.x, case.t, case.features.flip(0))
    torch.testing.assert_close(energy[1], flipped[1])
    assert (energy[1] - case.model.energy(*case.arguments)[1]).abs() > 1e-6


@pytest.mark.parametrize("output", ["conservative", "direct"])
@pytest.mark.parametrize(
    "name",
    ["graph-high-times", "graph-noise-level-high-times", "mlp-beads", "mlp-noise-level-high-times"],
)
def test_time_is_clipped_to_the_range(make_case, name, output):
    case = make_case(name, output=output)  # [0.1, 0.6]
    for outside, end in ((0.0, 0.1), (0.9, 0.6)):
        scores = [case.model.score(case.x, torch.full_like(case.t, t)) for t in (outside, end, 0.3)]
        torch.testing.assert_close(scores[0], scores[1])
        assert (scores[0] - scores[2]).abs().max() > 1e-3


def test_noise_level_divides_the_energy(make_case):
    case = make_case("graph-noise-level")
    network: GraphTransformer = case.model.network
    plain = case.model.decoder(network(case.x, case.t, None)).sum(dim=(1, 2))
    sigma = torch.sqrt(-torch.expm1(-(0.1 * case.t + 9.95 * case.t**2)) + 0.01**2)
    torch.testing.assert_close(case.model.energy(case.x, case.t), plain / sigma, rtol=1e-12, atol=0)
    direct = make_case("graph-noise-level", output="direct")
    outputs = direct.model.decoder(direct.model.network(case.x, case.t, None).flatten(1))
    expected = -outputs.view(case.x.shape) / sigma[:, None, None]
    torch.testing.assert_close(direct.model.score(case.x, case.t), expected, rtol=1e-12, atol=0)


# --- Every energy model ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ENERGY_MODELS)
def test_score_is_the_finite_difference_of_the_energy(make_case, name):
    case = make_case(name)
    energy, score = case.model.energy_and_score(*case.arguments)
    torch.testing.assert_close(energy, case.model.energy(*case.arguments))
    step = 1e-5
    with torch.no_grad():
        for bead in range(case.x.shape[1]):
            for axis in range(case.x.shape[2]):
                shift = torch.zeros_like(case.x)
                shift[:, bead, axis] = step
                above = case.model.energy(case.x + shift, case.t, case.features)
                below = case.model.energy(case.x - shift, case.t, case.features)
                found = -(above - below) / (2.0 * step)
                torch.testing.assert_close(score[:, bead, axis], found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ENERGY_MODELS)
def test_parameter_gradients_through_the_score_are_finite_differences(make_case, name):
    case = make_case(name)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(case.x.shape, generator=generator, dtype=torch.float64)
    parameters = list(case.model.parameters())

    def loss():
        return (weight * case.model.score(*case.arguments)).sum()

    def loss_beside(directions, step):
        with torch.no_grad():
            torch._foreach_add_(parameters, directions, alpha=step)
            value = loss()
            torch._foreach_add_(parameters, directions, alpha=-step)
        return value

    gradients = torch.autograd.grad(loss(), parameters, materialize_grads=True)
    for _ in range(3):
        directions = [
            torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
        ]
        step = 1e-6
        expected = (loss_beside(directions, step) - loss_beside(directions, -step)) / (2.0 * step)
        found = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    # Without effect on the score is only the additive constant of the energy.
    assert sum(bool(gradient.abs().max() < 1e-12) for gradient in gradients) == 1


@pytest.mark.parametrize("name", ENERGY_MODELS)
def test_gradients_only_where_the_caller_wants_them(make_case, name):
    case = make_case(name)
    with torch.no_grad():
        energy, score = case.model.energy_and_score(*case.arguments)
    assert not energy.requires_grad
    assert not score.requires_grad
    expected = case.model.energy_and_score(*case.arguments)
    assert expected[1].requires_grad
    torch.testing.assert_close((energy, score), tuple(v.detach() for v in expected))
    assert not case.x.requires_grad
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_score_can_be_differentiated_with_respect_to_coordinates(make_case):
    case = make_case("graph", n_samples=1)
    x = case.x.clone().requires_grad_()
    score = case.model.score(x, case.t)
    (row,) = torch.autograd.grad(score[0, 0, 0], x)
    step = torch.zeros_like(x)
    step[0, 2, 1] = 1e-5
    above, below = (case.model.score(case.x + sign * step, case.t)[0, 0, 0] for sign in (1, -1))
    torch.testing.assert_close(row[0, 2, 1], (above - below) / 2e-5, rtol=1e-6, atol=0.0)


def test_layers_differ(make_case):
    # One layer of three taken away changes the energy: all of them are used.
    case = make_case("graph-three-layers")
    model = case.model
    assert isinstance(model, GraphTransformerEnergy)
    energy = model.energy(case.x, case.t)
    layers = list(model.network.layers)
    for skipped in range(3):
        model.network.layers = torch.nn.ModuleList(layers[:skipped] + layers[skipped + 1 :])
        assert (model.energy(case.x, case.t) - energy).abs().min() > 1e-6
