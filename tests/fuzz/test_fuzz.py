"""A short form of ``benchmarks/fuzz.py``, and what a hostile model file must not be able to do."""

import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import pytest

from openmm_scoremd.artifact.torchscript import load_module
from openmm_scoremd.cli.main import main
from openmm_scoremd.errors import ModelFileError
from openmm_scoremd.model_file import ScoreModelFile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "benchmarks" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz"]


@pytest.mark.slow
def test_damaged_files_give_errors_of_ours_and_nothing_else(fuzz, capsys):
    result = fuzz.fuzz(50, seed=7, kinds=list(fuzz.KINDS))
    assert result["findings"] == []
    for kind, counts in result["counts"].items():
        assert sum(counts.values()) == 5, kind
    assert capsys.readouterr().out == ""


def test_the_same_seed_makes_the_same_cases(fuzz):
    import random

    content = (ROOT / "tests/data/alanine_dipeptide.pdb").read_bytes()
    first, second = (
        [fuzz.damaged(content, "x.pdb", random_) for _ in range(50)]
        for random_ in (random.Random(3), random.Random(3))
    )
    assert first == second
    assert sum(case != content for case in first) > 40


def test_a_crash_and_a_hang_are_findings(fuzz, tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, time\n"
        "print('\"ready\"', flush=True)\n"
        "for line in sys.stdin:\n"
        "    os.abort() if line.startswith('crash') else time.sleep(60)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    worker = fuzz.Worker(tmp_path)
    assert worker.judge("crash", tmp_path).startswith("crash: exit code -6")
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 0.3)
    assert worker.judge("hang", tmp_path).startswith("hang: longer than 0.3 s")
    assert worker.process is None


# --- Hostile model files ---------------------------------------------------------------------


def with_members(content, **changes):
    """Return a zip file with members changed; names are the ends of the members' names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            for end, change in changes.items():
                data = change(data) if info.filename.endswith(end) else data
            new.writestr(info.filename, data)
    return buffer.getvalue()


def test_nothing_of_a_tampered_file_runs_when_its_hash_is_known(toy, monkeypatch, tmp_path):
    good = ScoreModelFile(toy.path).sha256
    tampered = tmp_path / "tampered.pt"
    code = with_members(toy.path.read_bytes(), **{".py": lambda text: text + b"\n# hello\n"})
    tampered.write_bytes(code)

    def torch_sees_it(*_args, **_kwargs):
        raise AssertionError("the file reached torch")

    monkeypatch.setattr("torch.jit.load", torch_sees_it)
    for load in (
        lambda: ScoreModelFile(tampered, sha256=good),
        lambda: load_module(tampered, device="cpu", sha256=good),
    ):
        with pytest.raises(ModelFileError, match=f"expected {good}"):
            load()
    with pytest.raises(ModelFileError, match="reached torch"):
        ScoreModelFile(tampered)


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/outside.py", "toy/../../outside"])
def test_no_member_is_written_anywhere(toy, tmp_path, name, monkeypatch):
    folder = tmp_path / "inner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with zipfile.ZipFile(toy.path, "a") as archive:
        archive.writestr(name, b"written by a model file")
    before = {*tmp_path.rglob("*")}
    there = Path("/tmp/outside.py").exists()
    assert main(["info", str(toy.path)]) in (0, 2)
    assert {*tmp_path.rglob("*")} == before
    assert Path("/tmp/outside.py").exists() == there
