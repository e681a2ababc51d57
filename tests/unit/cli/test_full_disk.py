"""A full disk: our error, exit code 2, and no file that is half there."""

import os
import subprocess
import sys

import pytest

from openmm_scoremd.cli.main import main

# With others, so that one process makes the workshop.
pytestmark = pytest.mark.xdist_group("workshop")

COMMANDS = {
    "coarse-grain": None,
    "train": ["--config", "tiny.yaml", "--output", "NEW"],
    "export": ["run/weights.safetensors", "NEW.pt"],
    "sample": ["tiny.pt", "NEW", "--frames", 30, "--steps", 2],
    "sample chains": [
        *("tiny.pt", "NEW", "--trajectory", 30, "--interval", 1, "--chains", 2),
        *("--stiffness", 25),
    ],
    "reweight": ["tiny.pt", "NEW.npz", "--frames", 4, "--steps", 3],
    "simulate": ["tiny.pt", "NEW", "--replicas", 2, "--steps", 60, "--interval", 2],
    "plan": ["tiny.pt", "--replicas", 1, "--platform", "Reference", "--output", "NEW.json"],
    "evaluate": ["tiny.pt", "beads.npz", "NEW", "--frames", 30],
    "fokker-planck": [
        *("run/weights.safetensors", "--data", "beads.npz", "--output", "NEW"),
        *("--frames", 4, "--times", 2),
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(scoremd, coarse_grain, workshop, monkeypatch, tmp_path, file_limit, command):
    monkeypatch.chdir(workshop[0])
    new = str(tmp_path / "new")
    with file_limit(1000):
        if command == "coarse-grain":
            done = coarse_grain("--preset", "alanine-dipeptide", output=f"{new}.npz")
        else:
            words = [str(word).replace("NEW", new) for word in COMMANDS[command]]
            done = scoremd(command.split()[0], *words)
    assert done.code == 2
    assert done.out == ""
    assert "File too large" in done.err
    assert str(tmp_path) in done.err
    # What is there is whole; only a simulation cuts its files back when it is resumed.
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if path.name.startswith(".") and ".part" in path.name]
    if command != "simulate":
        assert all(path.stat().st_size < 1000 for path in left)


def test_standard_output_that_nobody_reads(workshop):
    command = [sys.executable, "-m", "openmm_scoremd", "info", "--json", workshop[0] / "tiny.pt"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, "error: Broken pipe\n")


def test_standard_output(workshop, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["info", str(workshop[0] / "tiny.pt")]) == 2
