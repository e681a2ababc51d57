"""``scoremd train`` with a mixture: all experts in a row, or one by one."""

import pytest
import torch

from openmm_scoremd.cli.main import main
from openmm_scoremd.data.dataset import save_dataset
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights

CONFIG = """
data: {path: points.npz, held_out_fraction: 0.0, augmentation: none, scale: 1.0}
hardware: {backend: eager}
batch_size: 16
experts:
  - name: high
    t_min: 0.1
    t_max: 1.0
    network: {family: mlp, output: direct, hidden_dims: [4], t_min: 0.1, t_max: 1.0}
    loss: {t_min: 0.1, weight_start: 0.1, weight_midpoint: 0.5}
    epochs: 1
  - name: low
    t_min: 1.0e-5
    t_max: 0.1
    network: {family: mlp, hidden_dims: [4], t_max: 0.1}
    loss: {t_max: 0.1, weight_midpoint: 0.05, weight_end: 0.1}
    fokker_planck: {alpha: 5.0e-4}
    epochs: 2
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_dataset(sample_mueller_brown(64, seed=0), tmp_path / "points.npz")
    (tmp_path / "mixture.yaml").write_text(CONFIG)
    return tmp_path


def train(*options):
    return main(["train", "--config", "mixture.yaml", *options])


def test_all_experts_then_export_and_sampling(capsys):
    assert train("--output", "run") == 0
    said = capsys.readouterr()
    assert said.out == (
        "run/weights.safetensors: 2 experts\n"
        "next: scoremd export run/weights.safetensors MODEL.pt\n"
    )
    assert "run, expert high: 4 steps of 16 frames on cpu" in said.err
    assert "run, expert low: 8 steps of 16 frames on cpu" in said.err
    assert main(["export", "run/weights.safetensors", "mixture.pt"]) == 0
    assert ScoreModelFile("mixture.pt").sample(3, seed=0, n_steps=5).shape == (3, 1, 3)


def test_one_by_one_is_the_same(capsys):
    assert train("--output", "whole") == 0
    assert train("--output", "parts", "--expert", "low") == 0
    assert "parts/low/weights.safetensors: trained" in capsys.readouterr().out
    assert train("--output", "parts", "--expert", "high") == 0
    assert train("--output", "parts", "--resume") == 0
    whole = load_weights("whole/weights.safetensors").model.state_dict()
    parts = load_weights("parts/weights.safetensors").model.state_dict()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_refused(capsys):
    assert train("--output", "run", "--expert", "mid") == 2
    assert "there is no expert 'mid'; there are: high, low" in capsys.readouterr().err
    assert train("--output", "run") == 0
    capsys.readouterr()
    assert train("--output", "run") == 2
    assert "run exists already; give --resume" in capsys.readouterr().err
    assert train("--output", "run", "--resume", "--seed", "3") == 2
    assert "another configuration; different: seed" in capsys.readouterr().err


def test_direct_expert_gives_no_force(capsys):
    assert train("--output", "run") == 0
    assert main(["export", "run/weights.safetensors", "late.pt", "--time", "0.5"]) == 2
    assert "has no energy" in capsys.readouterr().err
