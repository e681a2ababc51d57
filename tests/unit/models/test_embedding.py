"""Time and bead features, and fresh parameters."""

import math

import pytest
import torch
from torch import nn

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.models.embedding import (
    BeadIndexEmbedding,
    BeadTypeEmbedding,
    NoiseLevel,
    TimeEmbedding,
    initialise_linear,
)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def published_features(t, t_min, t_max, *, relative):
    features = [t - (t_max - t_min) / 2]
    variables = [t, (t - t_min) / (t_max - t_min)] if relative else [t]
    for v in variables:
        features += [
            math.cos(2 * math.pi * v),
            math.sin(2 * math.pi * v),
            -math.cos(4 * math.pi * v),
        ]
    return features


@pytest.mark.parametrize(
    ("t_min", "t_max", "relative"),
    [(0.0, 1.0, False), (0.0, 0.1, False), (0.1, 0.6, True), (0.6, 1.0, True), (1e-7, 1.0, False)],
)
def test_time_features_are_the_published_ones(t_min, t_max, relative):
    embedding = TimeEmbedding(t_min=t_min, t_max=t_max, noise_level=None)
    inside = [t_min, t_min + 0.3 * (t_max - t_min), t_max]
    expected = [published_features(t, t_min, t_max, relative=relative) for t in inside]
    assert embedding.n_features == (7 if relative else 4)
    torch.testing.assert_close(embedding(times(*inside)), times(*expected), rtol=1e-12, atol=1e-12)


def test_times_outside_are_clipped():
    embedding = TimeEmbedding(t_min=0.1, t_max=0.6, noise_level=None)
    torch.testing.assert_close(embedding(times(0.0, 1.0)), embedding(times(0.1, 0.6)))


@pytest.mark.parametrize("floor", [0.001, 0.05])
def test_noise_level_is_sigma_with_a_floor(floor):
    schedule = VPSchedule(0.2, 15.0)
    t = torch.cat([times(0.0, 1e-9, 1e-5), torch.linspace(1e-4, 1.0, 50, dtype=torch.float64)])
    expected = torch.sqrt(schedule.sigma(t) ** 2 + floor**2)
    level = NoiseLevel(schedule=schedule, floor=floor)
    torch.testing.assert_close(level(t), expected, rtol=1e-12, atol=0.0)
    # Smooth at the data, unlike sigma itself.
    zero = times(0.0).requires_grad_()
    (slope,) = torch.autograd.grad(level(zero).sum(), zero)
    assert float(slope) == pytest.approx(0.2 / (2.0 * floor), rel=1e-9)


def test_noise_features_are_waves_of_the_logarithm():
    floor = 0.01
    level = NoiseLevel(schedule=VPSchedule(), floor=floor)
    embedding = TimeEmbedding(t_min=0.0, t_max=1.0, noise_level=level)
    t = times(0.0, 1e-4, 0.01, 0.5)
    found = embedding(t)
    assert found.shape == (4, embedding.n_features) == (4, 11)
    depth = torch.log(level(t)) / math.log(floor)
    assert float(depth[0]) == pytest.approx(1.0)
    expected = [depth - 0.5]
    for angle in (math.pi * depth, 2.0 * math.pi * depth, 4.0 * math.pi * depth):
        expected += [torch.cos(angle), torch.sin(angle)]
    torch.testing.assert_close(found[:, 4:], torch.stack(expected, dim=1), rtol=1e-12, atol=1e-12)
    plain = TimeEmbedding(t_min=0.0, t_max=1.0, noise_level=None)
    torch.testing.assert_close(found[:, :4], plain(t))


def test_bead_index_is_one_hot():
    embedding = BeadIndexEmbedding(n_beads=3)
    torch.testing.assert_close(embedding(None), torch.eye(3))
    # It is made anew with the network, so files of weights do not hold it.
    assert not embedding.state_dict()
    assert embedding.double()(None).dtype == torch.float64


def test_bead_types_are_looked_up_side_by_side():
    embedding = BeadTypeEmbedding(vocabularies=(3, 2), dim=4)
    features = torch.tensor([[2, 0], [1, 1]])
    found = embedding(features)
    assert found.shape == (2, embedding.n_features) == (2, 8)
    first, second = (table.weight for table in embedding.tables)
    torch.testing.assert_close(found[0], torch.cat([first[2], second[0]]))
    torch.testing.assert_close(found[1], torch.cat([first[1], second[1]]))
    torch.testing.assert_close(embedding(features.expand(5, 2, 2))[3], found)


def test_bead_types_without_features_say_what_is_missing():
    with pytest.raises(InvalidInputError, match="pass the bead features"):
        BeadTypeEmbedding(vocabularies=(3,), dim=4)(None)


def test_bead_types_start_with_unit_variance_over_the_width():
    torch.manual_seed(0)
    embedding = BeadTypeEmbedding(vocabularies=(5000,), dim=16)
    assert float(embedding.tables[0].weight.detach().std()) == pytest.approx(0.25, rel=0.02)


def test_fresh_weights_are_lecun_normal():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 3000), nn.LayerNorm(3000), nn.Linear(3000, 4, bias=False))
    initialise_linear(model)
    first = model[0]
    assert float(first.weight.detach().std()) == pytest.approx(0.1, rel=0.01)
    assert float(first.weight.detach().mean()) == pytest.approx(0.0, abs=1e-3)
    # Truncated at two standard deviations of the normal before truncation.
    assert float(first.weight.detach().abs().max()) == pytest.approx(0.2 / 0.8796, rel=0.01)
    assert not first.bias.any()
    assert float(model[2].weight.detach().std()) == pytest.approx(3000**-0.5, rel=0.02)
    torch.testing.assert_close(model[1].weight, torch.ones(3000))
