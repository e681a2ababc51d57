import io
import json
import zipfile

import numpy as np
import pytest

from openmm_scoremd.artifact.metadata import (
    METADATA_ENTRY,
    ModelMetadata,
    SelfTest,
    read_archive,
    read_metadata,
)
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import ModelFileError


def test_json_round_trip_is_exact(make_metadata):
    metadata = make_metadata(bond_ranges=((0.1, 0.2), (0.1, 0.2), (0.1, 0.3)))
    again = ModelMetadata.from_json(metadata.to_json())
    assert again.to_json() == metadata.to_json()
    assert again.topology == metadata.topology
    assert again.bond_ranges == metadata.bond_ranges
    assert again.schedule == VPSchedule(0.1, 20.0)
    np.testing.assert_array_equal(again.self_test.forces, metadata.self_test.forces)


def test_numpy_numbers_are_accepted_and_become_plain(make_metadata):
    metadata = make_metadata(temperature=np.float32(310.0), training={"epochs": 3, "t": (1, 2)})
    assert isinstance(metadata.temperature, float)
    assert ModelMetadata.from_json(metadata.to_json()).training["t"] == [1, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", 3),
        ("topology", {"names": ["A"]}),
        ("topology", [1, 2]),
        ("temperature", "300"),
        ("temperature", -1.0),
        ("temperature", True),
        ("scale", 0.0),
        ("n_dims", 4),
        ("n_dims", 3.0),
        ("t", 0.0),
        ("t_min", 1.5),
        ("schedule", [0.1]),
        ("schedule", [20.0, 0.1]),
        ("schedule", {"beta_min": 20.0, "beta_max": 0.1}),
        ("schedule", {"beta_min": 0.1}),
        ("translation_invariant", 1),
        ("translation_invariant", None),
        ("dtype", "bfloat16"),
        ("architecture", "mlp"),
        ("dataset_sha256", "abc"),
        ("tensor_digest", None),
        ("training", []),
        ("versions", {"torch": 2}),
        ("licence", None),
        ("citation", 1),
        ("created", 0),
        ("self_test", {"positions": []}),
        ("bond_ranges", [[0.2, 0.1]] * 3),
        ("bond_ranges", [[0.1, 0.2]]),
        ("schema_version", "1"),
        ("schema_version", 0),
    ],
)
def test_every_bad_entry_is_named(make_metadata, name, value):
    content = json.loads(make_metadata().to_json())
    content[name] = value
    with pytest.raises(ModelFileError, match=name):
        ModelMetadata.from_json(json.dumps(content))


@pytest.mark.parametrize("name", ["temperature", "scale", "t", "training", "self_test"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_must_be_finite(make_metadata, name, number):
    content = json.loads(make_metadata().to_json())
    if name == "training":
        content[name] = {"loss": "@"}
    elif name == "self_test":
        content[name]["energies"][0] = "@"
    else:
        content[name] = "@"
    with pytest.raises(ModelFileError, match=name):
        ModelMetadata.from_json(json.dumps(content).replace('"@"', number))


def test_missing_and_unknown_entries_are_named(make_metadata):
    content = json.loads(make_metadata().to_json())
    del content["scale"]
    with pytest.raises(ModelFileError, match="lacks scale"):
        ModelMetadata.from_json(json.dumps(content))
    content.update(scale=0.2, colour="red")
    with pytest.raises(ModelFileError, match="unknown entries: colour"):
        ModelMetadata.from_json(json.dumps(content))


def test_newer_schema_asks_for_a_newer_version(make_metadata):
    content = json.loads(make_metadata().to_json())
    content.update(schema_version=3, colour="red")
    with pytest.raises(ModelFileError, match=r"schema version 3.*reads up to 2: install a newer"):
        ModelMetadata.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "9" * 10_000])
def test_text_that_is_no_json_object(text):
    with pytest.raises(ModelFileError, match="metadata"):
        ModelMetadata.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positions", np.zeros((2, 4, 2))),
        ("positions", np.zeros((0, 4, 3))),
        ("energies", np.zeros(3)),
        ("forces", np.zeros((2, 3, 3))),
        ("tolerance", 0.0),
        ("energies", ["1", "2"]),
    ],
)
def test_self_test_shapes(name, value):
    good = {
        "positions": np.zeros((2, 4, 3)),
        "energies": np.zeros(2),
        "forces": np.zeros((2, 4, 3)),
        "tolerance": 1e-5,
    }
    SelfTest(**good)
    with pytest.raises(ModelFileError, match=r"self_test"):
        SelfTest(**{**good, name: value})


def test_self_test_must_have_the_beads_of_the_topology(make_metadata):
    frames = np.zeros((1, 3, 3))
    test = SelfTest(positions=frames, energies=np.zeros(1), forces=frames, tolerance=1e-5)
    with pytest.raises(ModelFileError, match="self_test is of 3 beads; it must be 4"):
        make_metadata(self_test=test)


def test_unknown_element_is_refused_before_a_topology_is_asked_for(make_metadata):
    content = json.loads(make_metadata().to_json())
    content["topology"]["elements"][0] = "Xx"
    with pytest.raises(ModelFileError, match="topology"):
        ModelMetadata.from_json(json.dumps(content))


def test_reading_runs_no_torch_code(toy, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("torch code ran")

    monkeypatch.setattr("torch.jit.load", forbidden)
    monkeypatch.setattr("torch.load", forbidden)
    assert read_metadata(toy.path).to_json() == toy.metadata.to_json()


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_metadata(tmp_path / "absent.pt")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello" * 100])
def test_no_archive_at_all(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="no model file"):
        read_metadata(path)


def test_archive_without_metadata(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.writestr(f"archive/extra/deeper/{METADATA_ENTRY}", "{}")
    with pytest.raises(ModelFileError, match=r"without scoremd\.json"):
        read_metadata(path)


def test_truncated_file(toy):
    content = toy.path.read_bytes()
    for length in (10, len(content) // 2, len(content) - 1):
        toy.path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            read_archive(toy.path)


def test_one_changed_byte_in_any_member_is_found(toy):
    content = toy.path.read_bytes()
    members = {i.filename: i for i in zipfile.ZipFile(io.BytesIO(content)).infolist()}
    for member in members.values():
        if member.file_size:
            changed = bytearray(content)
            changed[_data_offset(content, member)] ^= 0x20
            toy.path.write_bytes(changed)
            with pytest.raises(ModelFileError):
                read_archive(toy.path)


def _data_offset(content, member):
    header = member.header_offset
    name, extra = np.frombuffer(content[header + 26 : header + 30], dtype="<u2")
    return header + 30 + int(name) + int(extra)


def test_hash_is_compared(toy):
    archive = read_archive(toy.path)
    assert read_archive(toy.path, sha256=archive.sha256.upper()).sha256 == archive.sha256
    with pytest.raises(ModelFileError, match=rf"{archive.sha256}, expected {'0' * 64}"):
        read_archive(toy.path, sha256="0" * 64)


def test_small_file_that_unpacks_to_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"archive/extra/{METADATA_ENTRY}", b" " * (50 << 20))
    with pytest.raises(ModelFileError, match="far more than its own size"):
        read_metadata(path)
