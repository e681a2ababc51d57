"""Networks of the public code: the same numbers, and a clear error for every other file."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_scoremd.errors import ModelFileError
from openmm_scoremd.models.base import EnergyModel
from openmm_scoremd.models.graph_transformer.family import (
    GraphTransformerEnergy,
    GraphTransformerScore,
)
from openmm_scoremd.models.import_jax import load_jax_network
from openmm_scoremd.models.mlp import MLPEnergy, MLPScore

PARITY = Path(__file__).parents[2] / "data" / "parity"
#: File, class, beads, parameters as published where they are.
NETWORKS = [
    ("mlp_potential_0_1", MLPEnergy, 1, 17_849),
    ("mlp_potential_0_0.1", MLPEnergy, 1, None),
    ("mlp_score_0.1_0.6", MLPScore, 1, None),
    ("graph_potential_aldp_0_0.1", GraphTransformerEnergy, 5, 647_585),
    ("graph_score_aldp_0.1_0.6", GraphTransformerScore, 5, 654_991),
    # The published 1,398,497 are for vocabularies of 30 words in all; here there are 39, 16 wide.
    ("graph_potential_dipeptide_0_0.1", GraphTransformerEnergy, 10, 1_398_497 + 9 * 16),
]
ENERGIES = [(name, n) for name, kind, n, _ in NETWORKS if issubclass(kind, EnergyModel)]


@pytest.fixture
def load():
    """Return a function that loads a network in float64, its inputs, and all numbers."""

    def load(name, n_beads):
        path = PARITY / f"{name}.npz"
        with np.load(path) as archive:
            numbers = {k: archive[k] for k in archive.files if not k.startswith("param/")}
        model = load_jax_network(path, dtype=torch.float64)
        x = torch.from_numpy(numbers["x"]).reshape(len(numbers["x"]), n_beads, -1)
        features = torch.from_numpy(numbers["features"]) if "features" in numbers else None
        return model, (x, torch.from_numpy(numbers["t"])[:, 0], features), numbers

    return load


def assert_same(found, expected):
    found = found.detach().numpy().reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "kind", "n_beads", "n_parameters"), NETWORKS)
def test_score_is_that_of_the_public_code(load, name, kind, n_beads, n_parameters):
    model, inputs, numbers = load(name, n_beads)
    assert type(model) is kind
    assert_same(model.score(*inputs), numbers["score"])
    if n_parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == n_parameters


@pytest.mark.parametrize(("name", "n_beads"), ENERGIES)
def test_energy_is_minus_log_q_of_the_public_code(load, name, n_beads):
    model, inputs, numbers = load(name, n_beads)
    assert_same(-model.energy(*inputs), numbers["log_q"])


@pytest.mark.parametrize(("name", "n_beads"), ENERGIES)
def test_time_derivative_is_that_of_the_public_code(load, name, n_beads):
    model, (x, _, features), numbers = load(name, n_beads)
    t = torch.from_numpy(numbers["fp_t"])[:, 0].requires_grad_()
    (slope,) = torch.autograd.grad(-model.energy(x, t, features).sum(), t)
    assert_same(slope, numbers["dlogq_dt"])


def test_default_precision_is_float32():
    model = load_jax_network(PARITY / "mlp_potential_0_1.npz")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# --- Other files -----------------------------------------------------------------------------


@pytest.fixture(params=["mlp_potential_0_0.1", "graph_score_aldp_0.1_0.6"])
def name(request):
    return request.param


@pytest.fixture
def good(name):
    return PARITY / f"{name}.npz"


@pytest.fixture
def entries(good):
    with np.load(good) as archive:
        return {k: archive[k] for k in archive.files if k.startswith("param/") or k == "t_range"}


def refuse(path, match):
    with pytest.raises(ModelFileError, match=match) as caught:
        load_jax_network(path)
    assert str(path) in str(caught.value)


def refuse_entries(entries, tmp_path, match):
    path = tmp_path / "changed.npz"
    np.savez(path, **entries)
    refuse(path, match)


def test_missing_file(tmp_path):
    refuse(tmp_path / "absent.npz", "No such file")
    refuse(tmp_path, "irectory")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 nonsense", b"\x93NUMPY\x01\x00"])
def test_not_an_archive(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    refuse(path, "is not an .npz")


def test_array_file(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.ones(3))
    refuse(path, "is not an .npz")


def test_truncated_file(good, tmp_path):
    content = good.read_bytes()
    path = tmp_path / "cut.npz"
    for part in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(part * len(content))])
        refuse(path, "is not an .npz")


def test_flipped_bytes_in_the_arrays(good, tmp_path):
    content = bytearray(good.read_bytes())
    path = tmp_path / "flipped.npz"
    for part in (0.2, 0.4, 0.6):
        damaged = bytearray(content)
        damaged[int(part * len(content))] ^= 0xFF
        path.write_bytes(damaged)
        refuse(path, "param/")


def test_pickles_are_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("param/x.npy", header.getvalue() + pickle.dumps(Bomb()))
    refuse(path, "allow_pickle")
    assert not (tmp_path / "exploded").exists()


def test_no_parameters(entries, tmp_path):
    refuse_entries({"t_range": entries["t_range"]}, tmp_path, "no entries that start with param/")


@pytest.mark.parametrize(
    "t_range", [None, [0.5, 0.1], [0.0, 1.5], [np.nan, 1.0], [0.0], [0.0, 0.1, 0.2], ["a", "b"]]
)
def test_wrong_time_range(entries, tmp_path, t_range):
    del entries["t_range"]
    if t_range is not None:
        entries["t_range"] = np.array(t_range)
    refuse_entries(entries, tmp_path, "range|unpack|convert")


def test_parameters_are_needed(entries, tmp_path):
    for name in list(entries)[::4]:
        if name != "t_range":
            rest = {k: v for k, v in entries.items() if k != name}
            refuse_entries(rest, tmp_path, "not those of a published network")


def test_parameters_of_something_else(entries, tmp_path):
    entries["param/Extra_0/bias"] = np.ones(3, np.float32)
    refuse_entries(entries, tmp_path, "param/Extra_0/bias have no place in the network")


@pytest.mark.parametrize("change", ["transpose", "flatten", "scalar", "wider"])
def test_wrong_shapes(entries, tmp_path, change):
    changes = {
        "transpose": lambda v: v[:, :-1].T,
        "flatten": np.ravel,
        "scalar": lambda v: v.sum(),
        "wider": lambda v: np.concatenate([v, v], axis=1),
    }
    for name in [k for k in entries if k.endswith("/kernel")][::5]:
        changed = {**entries, name: changes[change](entries[name])}
        refuse_entries(changed, tmp_path, "not those of a published network")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(entries, tmp_path, bad):
    name = next(k for k in entries if k.endswith("/kernel"))
    entries[name] = entries[name].copy()
    entries[name].flat[0] = bad
    refuse_entries(entries, tmp_path, "no finite numbers")


def test_text_instead_of_numbers(entries, tmp_path):
    name = next(k for k in entries if k.endswith("/kernel"))
    refuse_entries({**entries, name: np.array("text")}, tmp_path, "no finite numbers")
