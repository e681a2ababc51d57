"""``scoremd import``: parameters of the public code become weights, or errors that name arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_scoremd.cli.main import main
from openmm_scoremd.models.mixture import TimePartitionedMixture
from openmm_scoremd.models.weights import load_weights

ROOT = Path(__file__).parents[3]
PARITY = ROOT / "tests/data/parity"
DATA = ROOT / "examples/data/alanine_dipeptide.npz"
SINGLE = """
title: imported
data: {{path: {data}, scale: 0.1}}
network: {{hidden_dim: 96, layers: 2, t_min: 0.0, t_max: 0.1}}
loss: {{t_max: 0.1, weight_midpoint: 0.03, weight_end: 0.1}}
"""
MIXTURE = """
title: imported mixture
data: {{path: {data}, scale: 0.1}}
experts:
  - name: late
    t_min: 0.1
    t_max: 1.0
    network: {{output: direct, t_min: 0.1, t_max: 1.0}}
    loss: {{t_min: 0.1, weight_start: 0.1, weight_midpoint: 0.5}}
  - name: early
    t_min: 1.0e-5
    t_max: 0.1
    network: {{t_min: 0.0, t_max: 0.1}}
    loss: {{t_max: 0.1, weight_midpoint: 0.03, weight_end: 0.1}}
"""


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "single.yaml").write_text(SINGLE.format(data=DATA))
    (tmp_path / "mixture.yaml").write_text(MIXTURE.format(data=DATA))
    return tmp_path


def entries(name):
    with np.load(PARITY / f"{name}.npz") as archive:
        return {k: archive[k] for k in archive.files}


def convert(*files, config="single.yaml", output="new.safetensors"):
    return main(["import", *map(str, files), "--config", config, "--output", output])


def test_imported_weights_give_the_numbers_of_the_public_code(there):
    name = "graph_potential_aldp_0_0.1"
    assert convert(PARITY / f"{name}.npz") == 0
    trained, numbers = load_weights(there / "new.safetensors"), entries(name)
    x = torch.from_numpy(numbers["x"]).reshape(-1, 5, 3)
    score = trained.model.double().score(x, torch.from_numpy(numbers["t"])[:, 0], None)
    np.testing.assert_allclose(
        score.detach().numpy().reshape(numbers["score"].shape),
        numbers["score"],
        rtol=1e-9,
        atol=1e-9 * np.abs(numbers["score"]).max(),
    )
    about = trained.description
    assert (about.title, about.scale, about.topology.n_beads) == ("imported", 0.1, 5)
    assert about.training["results"]["imported_from"] == f"{name}.npz"


def test_a_mixture_of_two_networks(there):
    late = entries("graph_score_aldp_0.1_0.6") | {"t_range": np.array([0.1, 1.0])}
    np.savez(there / "late.npz", **late)
    early = PARITY / "graph_potential_aldp_0_0.1.npz"
    assert convert("late.npz", early, config="mixture.yaml") == 0
    trained = load_weights(there / "new.safetensors")
    assert isinstance(trained.model, TimePartitionedMixture)
    intervals = [(expert.t_min, expert.t_max) for expert in trained.description.experts]
    assert intervals == [(1e-5, 0.1), (0.1, 1.0)]


def test_stages_have_no_parameters(there):
    stage = MIXTURE.format(data=DATA).replace(
        "experts:\n",
        "experts:\n  - {name: stage, t_min: 0.5, t_max: 0.5, network: {output: direct}}\n",
    )
    (there / "mixture.yaml").write_text(stage)
    test_a_mixture_of_two_networks(there)


def test_one_file_for_each_network(there, capsys):
    early = PARITY / "graph_potential_aldp_0_0.1.npz"
    assert convert(early, config="mixture.yaml") == 2
    assert "1 parameter files for 2 network(s); give one for each (late, early)" in (
        capsys.readouterr().err
    )
    assert convert(early, early) == 2
    assert not (there / "new.safetensors").exists()


CHANGES = {
    "missing": "missing param/node_decoder/kernel",
    "extra": "param/node_decoder/scale have no place in the network",
    "shape": r"param/node_decoder/kernel has shape (1, 96), not (96, 1)",
    "range": "has t_range [0.0, 0.5], the configuration [0.0, 0.1]",
}


@pytest.mark.parametrize("change", CHANGES)
def test_arrays_that_do_not_fit_are_named(there, capsys, change):
    arrays = entries("graph_potential_aldp_0_0.1")
    name = "param/node_decoder/kernel"
    match change:
        case "missing":
            del arrays[name]
        case "extra":
            arrays["param/node_decoder/scale"] = np.ones(3, np.float32)
        case "shape":
            arrays[name] = arrays[name].T
        case "range":
            arrays["t_range"] = np.array([0.0, 0.5])
    np.savez(there / "changed.npz", **arrays)
    assert convert("changed.npz") == 2
    assert CHANGES[change] in capsys.readouterr().err
    assert not (there / "new.safetensors").exists()


def test_networks_that_the_public_code_does_not_have(there, capsys):
    path = there / "single.yaml"
    path.write_text(path.read_text().replace("layers: 2", "noise_floor: 0.01, layers: 2"))
    assert convert(PARITY / "graph_potential_aldp_0_0.1.npz") == 2
    assert "set it to null" in capsys.readouterr().err


def test_scale_of_the_dataset_comes_with_a_warning(there, caplog):
    path = there / "single.yaml"
    path.write_text(path.read_text().replace(", scale: 0.1", ""))
    assert convert(PARITY / "graph_potential_aldp_0_0.1.npz") == 0
    assert "data.scale is not given" in caplog.text
    assert load_weights(there / "new.safetensors").description.scale == pytest.approx(0.094, 0.01)


def test_other_names_of_the_output_are_refused(capsys):
    assert convert("x.npz", output="new.pt") == 2
    assert "must end in .safetensors" in capsys.readouterr().err
