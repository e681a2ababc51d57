"""Datasets: what is written comes back, and nothing damaged is ever taken for data."""

import dataclasses
import zipfile

import numpy as np
import pytest

from openmm_scoremd.data.dataset import CGDataset, load_dataset, save_dataset
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.topology import BeadTopology

TOPOLOGY = BeadTopology(
    names=("N", "CA"),
    elements=("N", ""),
    residue_names=("ALA", "ALA"),
    residue_ids=(7, 7),
    chain_ids=("A", "A"),
    masses=(14.007, 12.01),
    bonds=((0, 1),),
)


@pytest.fixture
def dataset():
    positions = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    return CGDataset(positions, TOPOLOGY, 300.0, "ab" * 32, ("box: none", "left out: ALA 7"))


@pytest.fixture
def arrays(dataset, tmp_path):
    """Return the arrays of a good file, and a function that loads a file with changed arrays."""
    path = tmp_path / "good.npz"
    save_dataset(dataset, path)
    with np.load(path) as content:
        return {key: content[key] for key in content.files}


def load_changed(arrays, tmp_path, **changes):
    path = tmp_path / "changed.npz"
    np.savez(path, **{**arrays, **changes})
    return load_dataset(path)


def test_round_trip(dataset, tmp_path):
    path = tmp_path / "new" / "set.npz"
    save_dataset(dataset, path)
    loaded = load_dataset(path)
    np.testing.assert_array_equal(loaded.positions, dataset.positions)
    assert loaded.positions.dtype == np.float32
    for name in ("topology", "temperature", "source_sha256", "notes"):
        assert getattr(loaded, name) == getattr(dataset, name)


def test_file_has_the_documented_keys(arrays):
    assert set(arrays) == {
        "positions", "bead_names", "elements", "residue_names", "residue_ids", "chain_ids",
        "masses", "bonds", "insertion_codes", "residue_indices", "temperature", "source_sha256",
        "format_version", "notes",
    }  # fmt: skip
    assert arrays["bonds"].shape == (1, 2)


def test_no_bonds_and_two_dimensions_round_trip(tmp_path):
    topology = dataclasses.replace(TOPOLOGY, bonds=())
    save_dataset(CGDataset(np.ones((1, 2, 2), np.float32), topology, 1.0), tmp_path / "toy.npz")
    loaded = load_dataset(tmp_path / "toy.npz")
    assert (loaded.n_frames, loaded.n_beads, loaded.n_dims) == (1, 2, 2)
    assert loaded.topology.bonds == ()
    with np.load(tmp_path / "toy.npz") as content:
        assert content["bonds"].shape == (0, 2)
    assert loaded.source_sha256 == ""


def test_same_dataset_gives_the_same_bytes(dataset, tmp_path):
    for name in ("a.npz", "b.npz"):
        save_dataset(dataset, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_only_npz_names_are_written(dataset, tmp_path):
    with pytest.raises(InvalidInputError, match=r"\.npz"):
        save_dataset(dataset, tmp_path / "set.npy")
    assert list(tmp_path.iterdir()) == []


def test_scale_is_the_population_deviation_over_all_coordinates():
    positions = np.array([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 9.0]]], dtype=np.float32)
    topology = BeadTopology(("A",), ("",), ("A",), (1,), ("A",), (1.0,))
    # mean 4; squares 9 4 1 0 1 25 -> 40 / 6
    assert CGDataset(positions, topology, 300.0).scale == pytest.approx((40 / 6) ** 0.5)
    with pytest.raises(DatasetError, match="equal"):
        _ = CGDataset(np.ones((3, 1, 3), np.float32), topology, 300.0).scale


def test_subset_keeps_order_and_everything_else(dataset):
    part = dataset.subset([4, 0, 4])
    np.testing.assert_array_equal(part.positions, dataset.positions[[4, 0, 4]])
    assert (part.topology, part.temperature) == (dataset.topology, dataset.temperature)
    mask = np.arange(9) % 4 == 0
    np.testing.assert_array_equal(dataset.subset(mask).positions, dataset.positions[[0, 4, 8]])


@pytest.mark.parametrize("indices", [[], [9], [-1], [0.5], [[1]], [True, False]])
def test_impossible_subsets_are_refused(dataset, indices):
    with pytest.raises(InvalidInputError, match="frame indices"):
        dataset.subset(indices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.zeros((9, 3, 3), np.float32)}, r"\(9, 3, 3\).*2 beads"),
        ({"positions": np.zeros((9, 2), np.float32)}, r"\(9, 2\)"),
        ({"positions": np.zeros((9, 2, 4), np.float32)}, r"\(9, 2, 4\)"),
        ({"positions": np.zeros((0, 2, 3), np.float32)}, "no frames"),
        ({"positions": np.zeros((9, 2, 3))}, "float64"),
        ({"positions": np.zeros((9, 2, 3), int)}, "positions has type int64"),
        ({"masses": np.array([1.0])}, "masses has 1 entries for 2"),
        ({"masses": np.array([1.0, -1.0])}, "mass -1.0"),
        ({"bonds": np.array([[0, 2]])}, r"bond \(0, 2\)"),
        ({"bonds": np.array([0, 1])}, "bead topology"),
        ({"bead_names": np.array([1, 2])}, "bead_names has type"),
        ({"residue_indices": np.array(["A", "B"])}, "residue_indices has type"),
        ({"residue_indices": np.array([0])}, "residue_indices has 1 entries"),
        ({"temperature": np.array(-1.0)}, "-1.0 K"),
        ({"temperature": np.array([300.0])}, "temperature has shape"),
        ({"temperature": np.array(np.nan)}, "nan K"),
        ({"format_version": np.array(99)}, "version 99.*reads 1"),
    ],
)
def test_wrong_arrays_are_refused(arrays, tmp_path, changes, message):
    with pytest.raises(DatasetError, match=f"changed.npz.*{message}"):
        load_changed(arrays, tmp_path, **changes)


def test_residues_that_share_their_number_survive(dataset, tmp_path):
    beads = dataclasses.replace(TOPOLOGY, insertion_codes=("", "A"), residue_indices=(0, 1))
    save_dataset(dataclasses.replace(dataset, topology=beads), tmp_path / "codes.npz")
    assert load_dataset(tmp_path / "codes.npz").topology == beads


def test_files_of_older_versions_number_residues_by_their_names(arrays, tmp_path):
    del arrays["insertion_codes"], arrays["residue_indices"], arrays["notes"]
    assert load_changed(arrays, tmp_path).topology == TOPOLOGY
    assert load_changed(arrays, tmp_path).notes == ()
    twice = load_changed(arrays, tmp_path, bead_names=np.array(["CA", "CA"])).topology
    assert twice.residue_indices == (0, 1)


def test_missing_keys_are_named(arrays, tmp_path):
    del arrays["masses"], arrays["bonds"]
    with pytest.raises(DatasetError, match="missing masses, bonds"):
        load_changed(arrays, tmp_path)


def test_nan_frames_are_named(arrays, tmp_path):
    positions = arrays["positions"].copy()
    positions[3, 1, 2] = np.nan
    positions[8, 0, 0] = np.inf
    with pytest.raises(DatasetError, match=r"frame\(s\) 3, 8;"):
        load_changed(arrays, tmp_path, positions=positions)
    positions[:] = np.nan
    with pytest.raises(DatasetError, match=r"0, 1, 2, 3, 4 and 4 more"):
        load_changed(arrays, tmp_path, positions=positions)


def test_pickles_are_refused(arrays, tmp_path):
    with pytest.raises(DatasetError, match="damaged"):
        load_changed(arrays, tmp_path, bead_names=np.array(["N", None], dtype=object))


def test_missing_files_and_single_arrays_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        load_dataset(tmp_path / "absent.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DatasetError, match=r"one\.npy is damaged or not an \.npz file"):
        load_dataset(tmp_path / "one.npy")
    with pytest.raises(DatasetError, match="cannot be read"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 1500, -1])
def test_truncated_files_are_refused(dataset, tmp_path, kept):
    path = tmp_path / "set.npz"
    save_dataset(dataset, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=r"set\.npz is damaged"):
        load_dataset(path)


def test_no_flipped_byte_is_taken_for_other_data(dataset, tmp_path):
    path = tmp_path / "set.npz"
    save_dataset(dataset, path)
    content = path.read_bytes()
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        try:
            loaded = load_dataset(path)
        except DatasetError:
            continue
        # Bytes that only describe the archive (dates, attributes) may change without harm.
        assert loaded.topology == dataset.topology
        assert np.array_equal(loaded.positions, dataset.positions)


def test_datasets_in_memory_are_checked_too(dataset):
    with pytest.raises(DatasetError, match="float64"):
        dataclasses.replace(dataset, positions=dataset.positions.astype(np.float64))
    with pytest.raises(DatasetError, match="temperature"):
        dataclasses.replace(dataset, temperature=0.0)


def test_text_that_is_none_is_refused(arrays, tmp_path):
    names = np.frombuffer(b"\xff\xff\xff\x7f" * 2, dtype="<U1")
    with pytest.raises(DatasetError, match="is damaged"):
        load_changed(arrays, tmp_path, bead_names=names)


def test_members_that_are_no_arrays_are_refused(arrays, tmp_path):
    path = tmp_path / "bytes.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if key != "masses"})
    with zipfile.ZipFile(path, "a") as archive:  # NumPy returns what is no .npy as bytes
        archive.writestr("masses", b"1.0 2.0")
    with pytest.raises(DatasetError, match="masses has type"):
        load_dataset(path)
