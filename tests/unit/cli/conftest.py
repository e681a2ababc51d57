"""Every command once, on a tiny molecule, in a folder that all tests of the command line share."""

import contextlib
import dataclasses
import io
import os
from pathlib import Path

import pytest

from openmm_scoremd.cli.main import main

ROOT = Path(__file__).parents[3]
TRAJECTORY = str(ROOT / "tests/data/alanine_dipeptide_200.dcd")
TOPOLOGY = str(ROOT / "tests/data/alanine_dipeptide.pdb")
CONFIG = """
title: tiny
network: {hidden_dim: 8, layers: 1, heads: 2, head_dim: 4, noise_floor: 0.1}
hardware: {accelerator: cpu, backend: eager}
epochs: 2
batch_size: 16
log_steps: 4
checkpoint_seconds: 0
data: {path: beads.npz}
"""


@dataclasses.dataclass
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def run(*arguments) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def scoremd():
    """Return a function that runs a command in this process and folder."""
    return run


@pytest.fixture(scope="session")
def config():
    """Return the training configuration of the workshop."""
    return CONFIG


@pytest.fixture(scope="session")
def coarse_grain():
    """Return a function that coarse-grains 200 frames of alanine dipeptide."""

    def coarse_grain(*options, output="beads.npz"):
        return run(
            *("coarse-grain", TRAJECTORY, "--topology", TOPOLOGY),
            *("--temperature", 300, "--output", output, *options),
        )

    return coarse_grain


@pytest.fixture(scope="session")
def trajectory_of_dipeptide():
    """Return the files of 200 frames of alanine dipeptide, and of its atoms."""
    return TRAJECTORY, TOPOLOGY


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, coarse_grain):
    """A folder in which every command has run, and what each of them said."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "tiny.yaml").write_text(CONFIG)
    steps = {
        "init": ("beads.npz", "--steps", 20),
        "train": ("--config", "tiny.yaml", "--output", "run"),
        "refine": (
            *("run/weights.safetensors", "beads.npz", "refined", "--rounds", 1, "--replicas", 64),
            *("--steps", 40, "--interval", 1, "--iterations", 2, "--timestep", 1e-6),
        ),
        "export": ("run/weights.safetensors", "tiny.pt"),
        "info": ("tiny.pt",),
        "sample": ("tiny.pt", "iid", "--frames", 6, "--steps", 8, "--seed", 3),
        "plan": ("tiny.pt", "--replicas", 2, "--platform", "Reference", "--output", "plan.json"),
        "simulate": ("tiny.pt", "md", "--replicas", 3, "--steps", 25, "--interval", 10),
        "evaluate": ("tiny.pt", "beads.npz", "report", "--frames", 40, "--simulation", "md"),
        "fokker-planck": (
            "run/weights.safetensors",
            *("--data", "beads.npz", "--output", "errors", "--frames", 5, "--times", 3),
        ),
    }
    with chdir(folder):
        said = {"coarse-grain": coarse_grain("--preset", "alanine-dipeptide")}
        said |= {name: run(name, *arguments) for name, arguments in steps.items()}
    return folder, said


@contextlib.contextmanager
def chdir(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def there(workshop, monkeypatch):
    """Be in the workshop; whatever a test does must leave its files as they are."""
    folder, _ = workshop
    before = snapshot(folder)
    monkeypatch.chdir(folder)
    yield folder
    assert snapshot(folder) == before


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} | {
        path: None for path in folder.rglob("*") if path.is_dir()
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
