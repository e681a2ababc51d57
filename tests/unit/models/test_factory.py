"""Configurations and the networks they describe: sizes as published, and errors."""

import dataclasses

import pytest

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.factory import NetworkConfig, build_model, require_energy_model
from openmm_scoremd.models.graph_transformer import GraphTransformerEnergy, GraphTransformerScore
from openmm_scoremd.models.mlp import MLPEnergy, MLPScore

DIPEPTIDES = {"width": 128, "layers": 3, "vocabularies": (20, 5, 3, 2)}


@pytest.mark.parametrize(
    ("config", "n_beads", "n_dims", "expected"),
    [
        (NetworkConfig(kind="mlp", widths=(92, 92, 92)), 1, 2, 17_849),
        (NetworkConfig(kind="mlp", widths=(64, 64, 64), t_max=0.1), 1, 2, 8_833),
        (NetworkConfig(kind="mlp", widths=(64, 64), t_min=0.1, t_max=0.6), 1, 2, 4_865),
        (NetworkConfig(kind="mlp", widths=(54, 54), t_min=0.6), 1, 2, 3_565),
        (NetworkConfig(), 5, 3, 647_585),
        (NetworkConfig(output="direct", t_min=0.1, t_max=0.6), 5, 3, 654_991),
        (NetworkConfig(**DIPEPTIDES), 10, 3, 1_398_497),
        (NetworkConfig(width=128, layers=3), 10, 3, 1_391_105),
        (NetworkConfig(width=128, layers=3), 28, 3, 1_393_409),
        (NetworkConfig(width=128, layers=3, output="direct", t_min=0.6), 28, 3, 1_694_804),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(config, n_beads, n_dims, expected):
    model = build_model(config, n_beads=n_beads, n_dims=n_dims)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(
    ("kind", "output", "expected"),
    [
        ("mlp", "conservative", MLPEnergy),
        ("mlp", "direct", MLPScore),
        ("graph-transformer", "conservative", GraphTransformerEnergy),
        ("graph-transformer", "direct", GraphTransformerScore),
    ],
)
def test_kinds(kind, output, expected):
    config = NetworkConfig(kind=kind, output=output, width=8, t_min=0.2, t_max=0.7)
    model = build_model(config, n_beads=4, n_dims=3)
    assert type(model) is expected
    assert (model.n_beads, model.n_dims, model.t_min, model.t_max) == (4, 3, 0.2, 0.7)


def test_any_number_of_beads_with_vocabularies_only():
    types = NetworkConfig(width=8, vocabularies=(3,))
    assert build_model(types, n_beads=None, n_dims=3).n_beads is None
    for config in (
        dataclasses.replace(types, output="direct"),
        NetworkConfig(width=8),
        NetworkConfig(kind="mlp"),
    ):
        with pytest.raises(ConfigurationError, match="fixed number of beads"):
            build_model(config, n_beads=None, n_dims=3)


def test_graph_transformer_needs_three_dimensions():
    with pytest.raises(ConfigurationError, match="2; use kind: mlp"):
        build_model(NetworkConfig(), n_beads=1, n_dims=2)


def test_noise_level_follows_the_schedule():
    config = NetworkConfig(kind="mlp", noise_floor=0.02)
    model = build_model(config, n_beads=1, n_dims=2, schedule=VPSchedule(0.3, 7.0))
    level = model.network.noise_level
    assert (level.beta_min, level.beta_max, level.floor) == (0.3, 7.0, 0.02)
    # Attributes, not weights.
    assert not level.state_dict()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("kind", "transformer"),
        ("output", "energy"),
        ("t_min", -0.1),
        ("t_min", float("nan")),
        ("t_min", 1.0),
        ("t_max", 1.5),
        ("width", 0),
        ("layers", 0),
        ("heads", -1),
        ("head_width", 0),
        ("feature_width", 0),
        ("vocabularies", (3, 0)),
        ("widths", (-4,)),
        ("noise_floor", 0.0),
        ("noise_floor", 1.0),
        ("noise_floor", float("nan")),
    ],
)
def test_bad_configurations_are_refused_by_name(entry, value):
    # The time range is one entry in the message.
    name = "range" if entry in ("t_min", "t_max") else entry
    with pytest.raises(ConfigurationError, match=name):
        NetworkConfig(**{entry: value})


def test_only_conservative_networks_have_an_energy():
    energy = build_model(NetworkConfig(kind="mlp"), n_beads=1, n_dims=2)
    assert require_energy_model(energy) is energy
    direct = build_model(NetworkConfig(kind="mlp", output="direct"), n_beads=1, n_dims=2)
    with pytest.raises(ConfigurationError, match=r"MLPScore has no energy.*output: conservative"):
        require_energy_model(direct)
