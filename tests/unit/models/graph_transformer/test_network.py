"""The factorised network against the published form, and what only graph transformers do."""

import pytest
import torch

# The fixtures are in conftest.py: `make_case` perturbs every parameter, `published` is the form
# with an edge tensor.
GRAPHS = [
    "graph", "graph-one-layer", "graph-three-layers", "graph-high-times", "graph-types",
]  # fmt: skip


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


def test_noise_level_divides_the_energy(make_case):
    case = make_case("graph-noise-level")
    network = case.model.network
    plain = case.model.decoder(network(case.x, case.t, None)).sum(dim=(1, 2))
    sigma = torch.sqrt(-torch.expm1(-(0.1 * case.t + 9.95 * case.t**2)) + 0.01**2)
    torch.testing.assert_close(case.model.energy(case.x, case.t), plain / sigma, rtol=1e-12, atol=0)
    direct = make_case("graph-noise-level", output="direct")
    outputs = direct.model.decoder(direct.model.network(case.x, case.t, None).flatten(1))
    expected = -outputs.view(case.x.shape) / sigma[:, None, None]
    torch.testing.assert_close(direct.model.score(case.x, case.t), expected, rtol=1e-12, atol=0)


def test_layers_differ(make_case):
    # One layer of three taken away changes the energy: all of them are used.
    case = make_case("graph-three-layers")
    model = case.model
    energy = model.energy(case.x, case.t)
    layers = list(model.network.layers)
    for skipped in range(3):
        model.network.layers = torch.nn.ModuleList(layers[:skipped] + layers[skipped + 1 :])
        assert (model.energy(case.x, case.t) - energy).abs().min() > 1e-6


def test_only_the_constant_of_the_energy_has_no_effect_on_the_score(make_case):
    for name in [*GRAPHS, "graph-noise-level", "mlp", "mlp-beads", "mlp-noise-level"]:
        case = make_case(name)
        parameters = list(case.model.parameters())
        squares = case.model.score(*case.arguments).square().sum()
        gradients = torch.autograd.grad(squares, parameters, materialize_grads=True)
        largest = max(float(gradient.detach().abs().max()) for gradient in gradients)
        assert (
            sum(bool(gradient.detach().abs().max() < 1e-15 * largest) for gradient in gradients)
            == 1
        )
