"""Weights files: what is written comes back bit by bit, and damage is an error."""

import dataclasses
import json
import random

import pytest
import safetensors
import safetensors.torch
import torch

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ModelFileError
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.models.weights import (
    ExpertDescription,
    TrainedModel,
    WeightsDescription,
    load_weights,
    save_weights,
)

KEY = "openmm_scoremd"


@pytest.fixture
def path(make_trained, tmp_path):
    """A good file of a small network."""
    path = tmp_path / "weights.safetensors"
    save_weights(make_trained("mlp"), path)
    return path


def header_of(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[KEY])


def rewrite(path, header=None, tensors=None, *, key=KEY):
    """Write the file anew with another header or other tensors, without the hash."""
    content = header_of(path)
    del content["sha256"]
    if header is not None:
        content = header(content) or content
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    text = content if isinstance(content, str) else json.dumps(content)
    safetensors.torch.save_file(tensors, path, metadata={key: text})


def assert_same(trained, expected):
    # Tuples come back as lists.
    assert trained.description.to_json() == expected.description.to_json()
    found, wanted = trained.model.state_dict(), expected.model.state_dict()
    assert found.keys() == wanted.keys()
    for name in found:
        assert torch.equal(found[name], wanted[name])
        assert found[name].dtype == wanted[name].dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["graph", "graph-direct", "graph-noise-level", "mlp"])
def test_round_trip(make_trained, tmp_path, name, dtype):
    trained = make_trained(name, dtype=dtype, schedule=VPSchedule(0.2, 11.0))
    save_weights(trained, tmp_path / "new" / "w.safetensors")
    loaded = load_weights(tmp_path / "new" / "w.safetensors")
    assert_same(loaded, trained)
    assert type(loaded.model) is type(trained.model)
    assert not loaded.model.training
    assert isinstance(loaded.description.network, NetworkConfig)
    assert loaded.description.network == trained.description.network
    assert loaded.description.topology == trained.description.topology
    n_beads, n_dims = loaded.description.topology.n_beads, loaded.description.n_dims
    x = torch.randn(3, n_beads, n_dims, dtype=dtype)
    t = torch.tensor([1e-5, 0.2, 0.9], dtype=dtype)
    assert torch.equal(loaded.model.score(x, t), trained.model.score(x, t))


def test_header_describes_the_model(path):
    header = header_of(path)
    assert header["schema_version"] == 2
    assert header["translation_invariant"] is False
    assert header["title"] == "toy"
    assert header["network"]["family"] == "mlp"
    assert header["schedule"] == {"beta_min": 0.1, "beta_max": 20.0}
    assert header["topology"]["names"] == ["B0"]
    assert header["temperature"] == 310.0
    assert len(header["example_positions"]) == 4
    assert header["training"]["results"] == {"hours": 0.5}
    assert len(header["sha256"]) == 64


def test_the_same_model_gives_the_same_bytes(make_trained, path, tmp_path):
    save_weights(make_trained("mlp"), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    save_weights(load_weights(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_json_round_trip(make_trained):
    description = make_trained("graph").description
    again = WeightsDescription.from_json(description.to_json())
    assert again.to_json() == description.to_json()
    assert again.topology == description.topology


def test_files_without_a_hash_can_be_read(path):
    expected = load_weights(path)
    rewrite(path)
    assert_same(load_weights(path), expected)


def test_writing_leaves_the_model_alone(make_trained, tmp_path):
    trained = make_trained("graph")
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    save_weights(trained, tmp_path / "w.safetensors")
    assert all(p.requires_grad for p in trained.model.parameters())
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_failed_save_leaves_the_old_file(make_trained, path, monkeypatch):
    before = path.read_bytes()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(make_trained("graph"), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --- Damage ----------------------------------------------------------------------------------


def refuse(path, match):
    with pytest.raises(ModelFileError, match=match) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_missing(tmp_path):
    refuse(tmp_path / "absent.safetensors", "is not a weights file")
    refuse(tmp_path, "is not a weights file")


def test_truncated_anywhere(path):
    content = path.read_bytes()
    for length in [0, 1, 8, 9, *range(50, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        refuse(path, "is not a weights file")


@pytest.mark.parametrize("seed", range(3))
def test_any_flipped_bit_is_found_or_harmless(path, seed):
    expected = load_weights(path)
    content = path.read_bytes()
    choice = random.Random(seed)
    found = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        path.write_bytes(damaged)
        try:
            trained = load_weights(path)
        except ModelFileError:
            found += 1
            continue
        assert_same(trained, expected)
    assert found > 80


def test_other_files_of_the_format(path, tmp_path):
    rewrite(path, key="openmm_scoremd_training")
    refuse(path, "some other .safetensors file")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    refuse(tmp_path / "plain.safetensors", "some other .safetensors file")


@pytest.mark.parametrize("version", [3, 0, "1", None])
def test_other_versions_say_so_first(path, version):
    # Whatever else a newer version writes.
    rewrite(path, lambda _: {"schema_version": version, "news": 1})
    refuse(path, "schema version 3; .* up to 2: install" if version == 3 else "does not exist")


ENTRIES = [
    field.name
    for field in dataclasses.fields(WeightsDescription)
    if field.default is dataclasses.MISSING
]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_needed(path, name):
    rewrite(path, lambda header: header.pop(name) and None)
    refuse(path, f"lacks {name}")


def test_unknown_entries_are_refused(path):
    rewrite(path, lambda header: header.update(surprise=1))
    refuse(path, "unknown entries: surprise")


@pytest.mark.parametrize(
    ("section", "entry", "value"),
    [
        ("network", "family", "transformer"),
        ("network", "hidden_dims", 3),
        ("network", "hidden_dims", [9, 8]),
        ("network", "hidden_dims", [9.5, 7]),
        ("network", "t_max", "late"),
        ("network", "dropout", 0.1),
        ("schedule", "beta_min", -1.0),
        ("schedule", "beta_mid", 1.0),
        ("topology", "masses", []),
        ("topology", "names", ["A", "B"]),
    ],
)
def test_wrong_entries(path, section, entry, value):
    rewrite(path, lambda header: header[section].update({entry: value}))
    refuse(path, ":")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", "300"),
        ("scale", -0.1),
        ("scale", float("nan")),
        ("t_min", None),
        ("example_positions", []),
        ("example_positions", [[[0.0, 0.0, 0.0]]]),
        ("example_positions", [[[0.0, 0.0]], [[0.0]]]),
    ],
)
def test_impossible_values(make_trained, path, name, value):
    with pytest.raises(ModelFileError, match=name):
        make_trained("mlp", **{name: value})
    rewrite(path, lambda header: header.update({name: value}))
    refuse(path, name)


@pytest.mark.parametrize("section", ["network", "schedule", "topology"])
@pytest.mark.parametrize("value", [None, 3, [], "text"])
def test_sections_of_another_type(path, section, value):
    rewrite(path, lambda header: header.update({section: value}))
    refuse(path, f"metadata's {section} is ")


@pytest.mark.parametrize("text", ["{", "[]", "3", "null"])
def test_headers_that_are_no_objects(path, text):
    rewrite(path, lambda _: text)
    refuse(path, "is not a weights file")


def test_headers_that_are_not_json():
    with pytest.raises(ModelFileError, match="not JSON"):
        WeightsDescription.from_json("{")
    with pytest.raises(ModelFileError, match="a JSON list, not an object"):
        WeightsDescription.from_json("[1]")


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "integers", "none"])
def test_tensors_that_do_not_fit(path, change):
    tensors = safetensors.torch.load_file(path)
    name = "network.layers.2.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["network.layers.9.weight"] = torch.zeros(2)
    elif change == "shape":
        tensors[name] = tensors[name][:-1].clone()
    elif change == "integers":
        tensors = {key: value.to(torch.int32) for key, value in tensors.items()}
    else:
        tensors = {}
    rewrite(path, tensors=tensors)
    refuse(path, ":")


# --- Mixtures --------------------------------------------------------------------------------

TIMES = [(1e-5, 0.1), (0.1, 0.6), (0.6, 1.0)]


@pytest.fixture
def mixture(make_trained):
    """Three networks for points in the plane, one of them without an energy."""
    networks = [
        MLPConfig(hidden_dims=(9, 7), noise_floor=0.01),
        MLPConfig(hidden_dims=(5,), output="direct", t_min=0.1, t_max=0.6),
        MLPConfig(hidden_dims=(4,), t_min=0.6),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        models = [build_model(network, n_beads=1, n_dims=2).eval() for network in networks]
    model = TimePartitionedMixture(
        [Expert(one, *times) for one, times in zip(models, TIMES, strict=True)]
    )
    about = dataclasses.replace(
        make_trained("mlp").description,
        network=networks[0],
        experts=tuple(
            ExpertDescription(network, *times)
            for network, times in zip(networks, TIMES, strict=True)
        ),
    )
    return TrainedModel(model.eval(), about)


@pytest.fixture
def mixture_path(mixture, tmp_path):
    save_weights(mixture, tmp_path / "mixture.safetensors")
    return tmp_path / "mixture.safetensors"


def test_mixtures_round_trip(mixture, mixture_path):
    loaded = load_weights(mixture_path)
    assert_same(loaded, mixture)
    assert loaded.description.experts == mixture.description.experts
    assert not any(network.training for network in loaded.model.networks)
    assert [type(network) for network in loaded.model.networks] == [
        type(network) for network in mixture.model.networks
    ]
    assert loaded.model.boundaries == (0.1, 0.6)
    x, t = torch.randn(6, 1, 2), torch.tensor([0.9, 1e-5, 0.1, 0.3, 0.6, 0.05])
    assert torch.equal(loaded.model.score(x, t), mixture.model.score(x, t))


def test_mixtures_keep_their_precision(mixture, tmp_path):
    mixture.model.double()
    save_weights(mixture, tmp_path / "w.safetensors")
    assert_same(load_weights(tmp_path / "w.safetensors"), mixture)


def test_description_of_a_mixture_as_json(mixture):
    again = WeightsDescription.from_json(mixture.description.to_json())
    assert again.experts == mixture.description.experts
    assert again.to_json() == mixture.description.to_json()


def test_files_that_know_no_mixtures(path):
    expected = load_weights(path)
    rewrite(path, lambda header: header.pop("experts") and None)
    assert_same(load_weights(path), expected)
    assert load_weights(path).description.experts == ()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda experts: experts.pop(1), "leave a gap"),
        (lambda experts: experts.clear(), "state_dict"),
        (lambda experts: experts[1].update(t_max=0.7), "network's range"),
        (lambda experts: experts[0].update(t_max=0.2), "overlap"),
        (lambda experts: experts[1].update(t_max="late"), ":"),
        (lambda experts: experts[1].update(weight=1.0), "metadata's experts"),
        (lambda experts: experts[1].pop("network"), "metadata's experts"),
        (lambda experts: experts[1]["network"].update(hidden_dims=[6]), "size mismatch"),
        (lambda experts: experts[1]["network"].update(family="gnn"), "gnn"),
        (lambda experts: experts.append(3), "metadata's experts"),
    ],
)
def test_damaged_mixtures(mixture_path, change, match):
    rewrite(mixture_path, lambda header: change(header["experts"]) and None)
    refuse(mixture_path, match)


@pytest.mark.parametrize("value", [None, 3, "text", {"network": 1}])
def test_experts_of_another_type(path, value):
    rewrite(path, lambda header: header.update(experts=value))
    refuse(path, "metadata's experts")
