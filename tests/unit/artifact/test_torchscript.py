import hashlib
import zipfile

import pytest
import torch
from torch import nn

from openmm_scoremd.artifact.torchscript import (
    checked_device,
    load_module,
    save_module,
    script_module,
    tensor_digest,
)
from openmm_scoremd.errors import InvalidInputError, ModelFileError


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_eager_and_loaded_agree(toy, chain):
    positions = torch.from_numpy(chain(5, 4))
    loaded = load_module(toy.path, device="cpu")
    for found, expected in zip(
        loaded.energies_and_forces(positions),
        toy.module.energies_and_forces(positions),
        strict=True,
    ):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_weights_of_a_loaded_module_need_no_gradients(make_toy, monkeypatch):
    class WithParameter(nn.Linear):
        pass

    scripted = script_module(WithParameter(2, 2))
    monkeypatch.setattr("torch.jit.load", lambda *_args, **_kwargs: scripted)
    monkeypatch.setattr("openmm_scoremd.artifact.torchscript._check_contract", lambda *_args: None)
    loaded = load_module(make_toy().path, device="cpu")
    assert [p.requires_grad for p in loaded.parameters()] == [False, False]


def test_bytes_do_not_depend_on_the_name(toy, tmp_path):
    loaded = load_module(toy.path, device="cpu")
    save_module(loaded, tmp_path / "one.pt", toy.metadata.to_json())
    save_module(loaded, tmp_path / "folder" / "other_name.pt", toy.metadata.to_json())
    assert _digest(tmp_path / "one.pt") == _digest(tmp_path / "folder" / "other_name.pt")
    assert not list(tmp_path.glob(".*"))


def test_failed_save_leaves_the_old_file(toy, monkeypatch):
    before = _digest(toy.path)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_module(script_module(toy.module), toy.path, "{}")
    monkeypatch.undo()
    assert _digest(toy.path) == before
    assert [p.name for p in toy.path.parent.iterdir()] == [toy.path.name]


def test_what_cannot_be_scripted_says_so():
    class Unscriptable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return eval("x")  # noqa: S307

    with pytest.raises(InvalidInputError, match="Unscriptable cannot be compiled"):
        script_module(Unscriptable())


def test_wrong_hash_is_refused_before_any_code_of_the_file_runs(toy, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("torch code ran")

    monkeypatch.setattr("torch.jit.load", forbidden)
    with pytest.raises(ModelFileError, match="SHA-256"):
        load_module(toy.path, device="cpu", sha256="0" * 64)


def test_archive_with_metadata_but_no_torchscript(toy, tmp_path):
    path = tmp_path / "fake.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/extra/scoremd.json", toy.metadata.to_json())
    with pytest.raises(ModelFileError, match="cannot be loaded as TorchScript"):
        load_module(path, device="cpu")


def test_changed_tensors_are_found(toy, tmp_path):
    path = tmp_path / "changed.pt"
    loaded = load_module(toy.path, device="cpu")
    loaded.stiffness.mul_(1.001)
    save_module(loaded, path, toy.metadata.to_json())
    with pytest.raises(ModelFileError, match="digest"):
        load_module(path, device="cpu")


def test_metadata_of_archive_and_module_must_agree(toy, make_metadata, tmp_path):
    path = tmp_path / "changed.pt"
    loaded = load_module(toy.path, device="cpu")
    save_module(loaded, path, make_metadata(temperature=500.0).to_json())
    with pytest.raises(ModelFileError, match="differ"):
        load_module(path, device="cpu")


@pytest.mark.parametrize("name", ["score", "metadata"])
def test_module_must_follow_the_contract(toy, tmp_path, name):
    class Empty(nn.Module):
        def forward(self, positions: torch.Tensor) -> torch.Tensor:
            return positions.sum()

    class WithScore(Empty):
        @torch.jit.export
        def score(self, x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
            return x

    module = Empty() if name == "score" else WithScore()
    path = tmp_path / "other.pt"
    save_module(script_module(module), path, toy.metadata.to_json())
    with pytest.raises(ModelFileError, match=f"no {name}"):
        load_module(path, device="cpu")


def test_digest_covers_names_types_shapes_and_values():
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    same = {"b": base["b"].clone(), "a": base["a"].clone()}
    assert tensor_digest(base) == tensor_digest(same)
    others = [
        {"a": base["b"], "b": base["a"]},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].view(torch.int32), "b": base["b"]},
        {"a": base["a"][None], "b": base["b"]},
        {"a": torch.tensor([1.0, 2.0000002]), "b": base["b"]},
        {"a": base["a"]},
    ]
    digests = {tensor_digest(tensors) for tensors in [base, *others]}
    assert len(digests) == 7


def test_digest_survives_scripting_and_saving(toy):
    loaded = load_module(toy.path, device="cpu")
    digests = {tensor_digest(m) for m in (toy.module, script_module(toy.module), loaded)}
    assert digests == {toy.metadata.tensor_digest}


def test_devices():
    assert checked_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(InvalidInputError, match=name):
            checked_device(name)
