"""Families by name: ours, registered ones and those of other packages; their configurations."""

import dataclasses
import importlib
import inspect
import sys
import textwrap

import pytest
import torch

from openmm_scoremd import testing
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models import families
from openmm_scoremd.models.base import EnergyModel, require_energy_model
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.models.families import (
    build_model,
    family_names,
    network_config,
    network_family,
    register_family,
)
from openmm_scoremd.models.graph_transformer.family import (
    GraphTransformerEnergy,
    GraphTransformerScore,
)
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig, MLPEnergy, MLPScore
from openmm_scoremd.training.config_file import load_training_config

DIPEPTIDES = {"hidden_dim": 128, "layers": 3, "vocabularies": (20, 5, 3, 2)}


@pytest.mark.parametrize(
    ("config", "n_beads", "n_dims", "expected"),
    [
        (MLPConfig(hidden_dims=(92, 92, 92)), 1, 2, 17_849),
        (MLPConfig(hidden_dims=(64, 64, 64), t_max=0.1), 1, 2, 8_833),
        (MLPConfig(hidden_dims=(64, 64), t_min=0.1, t_max=0.6), 1, 2, 4_865),
        (MLPConfig(hidden_dims=(54, 54), t_min=0.6), 1, 2, 3_565),
        (GraphTransformerConfig(), 5, 3, 647_585),
        (GraphTransformerConfig(output="direct", t_min=0.1, t_max=0.6), 5, 3, 654_991),
        (GraphTransformerConfig(**DIPEPTIDES), 10, 3, 1_398_497),
        (GraphTransformerConfig(hidden_dim=128, layers=3), 10, 3, 1_391_105),
        (GraphTransformerConfig(hidden_dim=128, layers=3), 28, 3, 1_393_409),
        (
            GraphTransformerConfig(hidden_dim=128, layers=3, output="direct", t_min=0.6),
            28,
            3,
            1_694_804,
        ),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(config, n_beads, n_dims, expected):
    model = build_model(config, n_beads=n_beads, n_dims=n_dims)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MLPConfig(hidden_dims=(4,)), MLPEnergy),
        (MLPConfig(hidden_dims=(4,), output="direct"), MLPScore),
        (GraphTransformerConfig(hidden_dim=8), GraphTransformerEnergy),
        (GraphTransformerConfig(hidden_dim=8, output="direct"), GraphTransformerScore),
    ],
)
def test_kinds(config, expected):
    config = dataclasses.replace(config, t_min=0.2, t_max=0.7)
    model = build_model(config, n_beads=4, n_dims=3)
    assert type(model) is expected
    assert (model.n_beads, model.n_dims, model.t_min, model.t_max) == (4, 3, 0.2, 0.7)


def test_any_number_of_beads_with_vocabularies_only():
    types = GraphTransformerConfig(hidden_dim=8, vocabularies=(3,))
    assert build_model(types, n_beads=None, n_dims=3).n_beads is None
    for config in (
        dataclasses.replace(types, output="direct"),
        GraphTransformerConfig(hidden_dim=8),
        MLPConfig(),
    ):
        with pytest.raises(ConfigurationError, match="fixed number of beads"):
            build_model(config, n_beads=None, n_dims=3)


def test_graph_transformer_needs_three_dimensions():
    with pytest.raises(ConfigurationError, match="2; use family: mlp"):
        build_model(GraphTransformerConfig(), n_beads=1, n_dims=2)


def test_noise_level_follows_the_schedule():
    config = MLPConfig(noise_floor=0.02)
    model = build_model(config, n_beads=1, n_dims=2, schedule=VPSchedule(0.3, 7.0))
    level = model.network.noise_level
    assert (level.beta_min, level.beta_max, level.floor) == (0.3, 7.0, 0.02)
    # Attributes, not weights.
    assert not level.state_dict()


@pytest.mark.parametrize(
    ("config_class", "entry", "value"),
    [
        (MLPConfig, "family", "graph-transformer"),
        (MLPConfig, "output", "energy"),
        (MLPConfig, "t_min", -0.1),
        (MLPConfig, "t_min", float("nan")),
        (MLPConfig, "t_min", 1.0),
        (MLPConfig, "t_max", 1.5),
        (MLPConfig, "noise_floor", 0.0),
        (MLPConfig, "noise_floor", 1.0),
        (MLPConfig, "noise_floor", float("nan")),
        (MLPConfig, "hidden_dims", (-4,)),
        (MLPConfig, "hidden_dims", (3, 2.5)),
        (GraphTransformerConfig, "hidden_dim", 0),
        (GraphTransformerConfig, "layers", 0),
        (GraphTransformerConfig, "heads", -1),
        (GraphTransformerConfig, "head_dim", 0),
        (GraphTransformerConfig, "feature_dim", 0),
        (GraphTransformerConfig, "vocabularies", (3, 0)),
    ],
)
def test_bad_configurations_are_refused_by_name(config_class, entry, value):
    # The time range is one entry in the message.
    name = "range" if entry in ("t_min", "t_max") else rf"network\.{entry}"
    with pytest.raises(ConfigurationError, match=name):
        config_class(**{entry: value})


def test_only_conservative_networks_have_an_energy():
    energy = build_model(MLPConfig(), n_beads=1, n_dims=2)
    assert require_energy_model(energy) is energy
    direct = build_model(MLPConfig(output="direct"), n_beads=1, n_dims=2)
    with pytest.raises(ConfigurationError, match=r"MLPScore has no energy.*output: conservative"):
        require_energy_model(direct)


# --- Configurations from plain entries -------------------------------------------------------

#: As headers of weights files had them: the entries of all families, whatever the kind.
OLD = {
    "kind": "mlp",
    "output": "conservative",
    "t_min": 0.0,
    "t_max": 0.5,
    "width": 96,
    "layers": 2,
    "heads": 8,
    "head_width": 64,
    "vocabularies": [],
    "feature_width": 16,
    "widths": [9, 7],
    "noise_floor": None,
}


def test_entries_of_old_files():
    assert network_config(OLD) == MLPConfig(hidden_dims=(9, 7), t_max=0.5)
    graph = {**OLD, "kind": "graph-transformer", "width": 12, "head_width": 4, "vocabularies": [3]}
    assert network_config(graph) == GraphTransformerConfig(
        hidden_dim=12, head_dim=4, vocabularies=(3,), t_max=0.5
    )


def test_calls_of_earlier_versions():
    sys.modules.pop("openmm_scoremd.models.factory", None)  # another test may have had the warning
    with pytest.warns(FutureWarning, match="models.families"):
        former = importlib.import_module("openmm_scoremd.models.factory")
    assert former.NetworkConfig(kind="mlp", widths=(3,)) == MLPConfig(hidden_dims=(3,))
    assert former.NetworkConfig(width=8) == GraphTransformerConfig(hidden_dim=8)
    assert former.build_model is build_model


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({**OLD, "kind": "gnn"}, "'gnn'; it must be one of graph-transformer, .*mlp"),
        ({**OLD, "widhts": [3]}, r"network\.widhts is no entry of family 'mlp'"),
        ({**OLD, "widths": [9.5, 7]}, r"network\.hidden_dims is \(9\.5, 7\)"),
        ({**OLD, "widths": None}, r"network\.hidden_dims is None"),
        # Today a network has its own entries only.
        ({"family": "mlp", "layers": 2}, r"network\.layers is no entry of family 'mlp'"),
        ({"family": "mlp", "hiden_dims": [2]}, r"hiden_dims .*did you mean hidden_dims\?"),
        ({"family": "graph-transfomer"}, r"did you mean graph-transformer\?"),
        ({"family": ["mlp"]}, "it must be one of"),
        ({"hidden_dims": [2]}, "has no family"),
        ({**OLD, "hidden_dims": [3]}, r"network\.hidden_dims is given twice"),
        ({"family": "mlp", "hidden_dims": 3}, r"hidden_dims is 3; it must be a list"),
        ({"family": "graph-transformer", "layers": [3]}, r"layers is \(3,\); .* a whole number"),
    ],
)
def test_wrong_entries(entries, message):
    with pytest.raises(ConfigurationError, match=message):
        network_config(entries)


# --- Families of other packages --------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return ``install(text, family="springs")``: a package with an entry point."""
    names = iter(range(9))

    def install(text, *, family="springs"):
        number = next(names)
        name = f"other_package_{tmp_path.name}_{number}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[openmm_scoremd.network_families]\n{family} = {name}:Springs\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        return name

    return install


@pytest.fixture
def springs():
    """The example of the documentation."""
    text = inspect.getdoc(families)
    start, end = text.index("    import dataclasses"), text.index("Model files may be TorchScript")
    return textwrap.dedent(text[start:end])


def test_the_documented_family_passes_every_check(package, springs):
    package(springs)
    assert family_names() == ["graph-transformer", "invariant", "mlp", "springs"]
    config = network_config({"family": "springs", "stiffness": 3.0, "t_max": 0.8})
    assert type(config).__name__ == "SpringsConfig"
    testing.check_family(config, n_beads=4, n_dims=3)
    with pytest.raises(
        ConfigurationError, match="networks of family 'springs' have 'conservative'"
    ):
        build_model(dataclasses.replace(config, output="direct"), n_beads=4, n_dims=3)


def test_training_configurations_know_it(package, springs, tmp_path):
    package(springs)
    (tmp_path / "config.yaml").write_text(
        "data: {path: beads.npz}\nnetwork: {family: springs, stiffness: 2}\n"
    )
    config = load_training_config(tmp_path / "config.yaml", overrides=["network.t_min=1e-6"])
    assert (config.network.stiffness, config.network.t_min) == (2.0, 1e-6)
    with pytest.raises(
        ConfigurationError, match=r"--network\.stifness .did you mean --network\.st"
    ):
        load_training_config(tmp_path / "config.yaml", overrides=["network.stifness=2"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import torch\n", "import torch_of_nobody\n", r"cannot be loaded .*torch_of_nobody"),
        ('"springs"', '"strings"', "is the network family 'strings', and not 'springs'"),
        ("    config_class = SpringsConfig\n", "", "give it a config_class"),
        ('"springs"', '""', "has no name as its default"),
        ("class Springs(EnergyModel)", "class Springs", "it is no ScoreModel"),
    ],
)
def test_packages_with_mistakes(package, springs, old, new, message):
    assert old in springs
    package(springs.replace(old, new))
    with pytest.raises(ConfigurationError, match=message):
        network_family("springs")
    # Others are not affected.
    assert network_family("mlp") is MLPEnergy


def test_two_packages_with_one_name(package, springs):
    package(springs)
    package(springs)
    with pytest.raises(ConfigurationError, match="several packages have a network family"):
        network_family("springs")


def test_names_of_ours_cannot_be_taken(package, springs):
    package(springs.replace('"springs"', '"mlp"'), family="mlp")
    assert network_family("mlp") is MLPEnergy
    with pytest.raises(ConfigurationError, match="'mlp' already"):
        register_family(dataclasses.make_dataclass("Other", [], bases=(MLPEnergy,)))


def test_registered_in_this_process(monkeypatch):
    monkeypatch.setattr(families, "_REGISTERED", {})

    @dataclasses.dataclass(frozen=True)
    class ShiftConfig(NetworkConfig):
        family: str = "shift"

    class Shift(EnergyModel):
        config_class = ShiftConfig

        def __init__(self, config, inputs):
            super().__init__(n_beads=1, n_dims=inputs.n_dims, t_min=0.0, t_max=1.0)

        def energy(self, x, t, features=None):
            return x.sum(dim=(1, 2))

    assert register_family(Shift) is Shift
    assert network_family("shift") is register_family(Shift)
    model = build_model(network_config({"family": "shift"}), n_beads=1, n_dims=2)
    torch.testing.assert_close(
        model.score(torch.ones(3, 1, 2), torch.ones(3)), -torch.ones(3, 1, 2)
    )
    with pytest.raises(ConfigurationError, match="choose another name"):
        register_family(type("Again", (Shift,), {}))


def test_topology_reaches_the_network(monkeypatch):
    monkeypatch.setattr(MLPEnergy, "from_config", lambda _config, inputs: inputs)
    found = build_model(MLPConfig(), n_beads=2, n_dims=3, topology="the beads")
    assert found == NetworkInputs(2, 3, VPSchedule(), "the beads")
