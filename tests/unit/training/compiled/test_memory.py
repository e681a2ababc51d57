"""Memory of training steps: kept by commands, and by nothing else."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only changes what glibc does"
)

FAULTS = """
import resource, torch
from openmm_scoremd.training.compiled.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        buffers = [torch.ones(1_000_000) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


def test_freed_memory_is_kept():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    # 80 buffers of 1,000 pages (or of some larger ones).
    assert before > 100
    assert after < before / 10


@pytest.mark.parametrize("command", ["train", "refine"])
def test_commands_keep_their_memory(monkeypatch, tmp_path, command):
    monkeypatch.chdir(Path(__file__).parents[4])
    from openmm_scoremd.cli.main import main

    kept = []
    monkeypatch.setattr(
        "openmm_scoremd.training.compiled.memory.keep_freed_memory", lambda: kept.append(command)
    )
    missing = str(tmp_path / "missing.npz")
    arguments = {
        "train": [
            *("--config", "examples/methods/alanine_dipeptide_diffusion.yaml"),
            *("--data.path", missing, "--output", str(tmp_path / "run")),
        ],
        "refine": [str(tmp_path / "w.safetensors"), missing, str(tmp_path / "out")],
    }
    assert main([command, *arguments[command]]) != 0
    assert kept == [command]
