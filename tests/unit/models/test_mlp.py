"""Multilayer perceptrons: values worked out by hand, signs, shapes."""

import math

import pytest
import torch

from openmm_scoremd.models.config import NetworkInputs
from openmm_scoremd.models.mlp import MLPConfig, MLPEnergy, MLPScore


def swish(value):
    return value / (1.0 + math.exp(-value))


def test_energy_by_hand():
    # Inputs are x (1 number), t - 1/2, cos 2 pi t, sin 2 pi t, -cos 4 pi t.
    model = MLPEnergy(MLPConfig(hidden_dims=(2,)), NetworkInputs(1, 1)).double()
    network = model.network
    with torch.no_grad():
        first, last = network.layers[0], network.layers[2]
        first.weight.copy_(torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.5, 3.0, 0.25]]))
        first.bias.copy_(torch.tensor([0.1, -0.2]))
        last.weight.copy_(torch.tensor([[1.5, -2.0]]))
        last.bias.copy_(torch.tensor([0.7]))
    x, t = 0.3, 0.125
    root = math.sqrt(0.5)
    hidden = (2.0 * x + (t - 0.5) + 0.1, -x + 0.5 * root + 3.0 * root - 0.25 * 0.0 - 0.2)
    expected = 1.5 * swish(hidden[0]) - 2.0 * swish(hidden[1]) + 0.7
    arguments = torch.tensor([[[x]]]).double(), torch.tensor([t]).double()
    found = model.energy(*arguments)
    assert found.shape == (1,)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)
    # A direct network returns the same number as the score, with its sign.
    direct = MLPScore(MLPConfig(hidden_dims=(2,), output="direct"), NetworkInputs(1, 1)).double()
    direct.network.load_state_dict(network.state_dict())
    score = direct.score(*arguments)
    assert score.shape == (1, 1, 1)
    assert float(score.detach()) == pytest.approx(expected, rel=1e-6)


def test_shapes_and_order_of_beads(make_case):
    case = make_case("mlp-beads", output="direct")
    score = case.model.score(case.x, case.t)
    assert score.shape == (4, 3, 3)
    outputs = case.model.network(case.x, case.t)
    torch.testing.assert_close(score[:, 1, 2], outputs[:, 5])


@pytest.mark.parametrize("output", ["conservative", "direct"])
def test_noise_level_divides_the_output(make_case, output):
    case = make_case("mlp-noise-level", output=output)
    network = case.model.network
    features = torch.cat([case.x.flatten(1), network.time_embedding(case.t)], dim=1)
    sigma = torch.sqrt(-torch.expm1(-(0.1 * case.t + 9.95 * case.t**2)) + 0.01**2)
    torch.testing.assert_close(
        network(case.x, case.t), network.layers(features) / sigma[:, None], rtol=1e-12, atol=0
    )
