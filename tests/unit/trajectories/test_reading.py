import ctypes
import os

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.trajectories.reading import (
    load_replicas,
    load_start_frames,
    save_frames,
    without_c_output,
)


@pytest.fixture
def frames():
    return np.random.default_rng(0).normal(size=(6, 4, 3))


@pytest.fixture
def dcd(frames, tmp_path):
    path = tmp_path / "frames.dcd"
    save_frames(frames, path)
    return path


class TestRoundTrip:
    def test_frames_in_nanometers(self, frames, dcd):
        found = load_replicas(dcd, n_beads=4)
        assert found.shape == (1, 6, 4, 3)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], frames, atol=1e-6)

    def test_mdtraj_reads_the_same(self, frames, dcd, toy):
        topology = mdtraj.Topology.from_openmm(toy.metadata.topology.to_openmm())
        np.testing.assert_allclose(mdtraj.load(dcd, top=topology).xyz, frames, atol=1e-6)

    def test_files_in_the_order_given_and_folders_in_that_of_names(self, frames, tmp_path):
        names = ["replica_0010.dcd", "replica_0002.dcd", "replica_0001.dcd"]
        for shift, name in enumerate(names):
            save_frames(frames + shift, tmp_path / name)
        (tmp_path / "topology.pdb").write_text("no trajectory")
        given = load_replicas([tmp_path / name for name in names], n_beads=4)
        found = load_replicas(str(tmp_path), n_beads=4)
        for shift in range(3):
            np.testing.assert_allclose(given[shift], frames + shift, atol=1e-6)
            np.testing.assert_array_equal(found[2 - shift], given[shift])

    def test_longer_replicas_are_cut_at_the_end(self, frames, tmp_path):
        for length in (4, 6, 5):
            save_frames(frames[:length], tmp_path / f"{length}.dcd")
        found = load_replicas(tmp_path, n_beads=4)
        assert found.shape == (3, 4, 4, 3)
        np.testing.assert_allclose(found, np.stack([frames[:4]] * 3), atol=1e-6)

    def test_trajectories_of_a_simulation(self, toy, chain, tmp_path):
        simulation = ReplicaSimulation(
            ScoreModelFile(toy.path), replicas=3, seed=1, platform="Reference"
        )
        simulation.set_positions(chain(3, 4))
        simulation.add_trajectories(tmp_path, interval=5)
        expected = []
        for _ in range(2):
            simulation.step(5)
            expected.append(simulation.positions - simulation.positions.mean(1, keepdims=True))
        found = load_replicas(tmp_path, n_beads=4)
        np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-6)


class TestSaving:
    def test_an_older_file_is_replaced_whole_or_not_at_all(self, frames, dcd, monkeypatch):
        before = dcd.read_bytes()

        def full(*_args):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(OSError, match="No space left"):
                save_frames(frames[:2], dcd)
        assert dcd.read_bytes() == before
        assert [path.name for path in dcd.parent.iterdir()] == [dcd.name]
        save_frames(frames[:2], dcd)
        assert load_replicas(dcd, n_beads=4).shape == (1, 2, 4, 3)

    @pytest.mark.parametrize("shape", [(4, 3), (0, 4, 3), (2, 4, 2), (1, 2, 4, 3)])
    def test_other_shapes(self, tmp_path, shape):
        with pytest.raises(InvalidInputError, match=r"must be \(frames, beads, 3\)"):
            save_frames(np.zeros(shape), tmp_path / "frames.dcd")
        assert not list(tmp_path.iterdir())


class TestBadFiles:
    @pytest.mark.parametrize("n_beads", [3, 5])
    def test_wrong_number_of_beads(self, dcd, n_beads):
        with pytest.raises(DatasetError, match=rf"6 frames of 4 beads; the model has {n_beads}"):
            load_replicas(dcd, n_beads=n_beads)

    def test_missing_file(self, tmp_path):
        with pytest.raises(DatasetError, match=r"replica_0000\.dcd does not exist"):
            load_replicas([tmp_path / "replica_0000.dcd"], n_beads=4)

    @pytest.mark.parametrize("given", [[], "folder"])
    def test_no_files(self, tmp_path, given):
        with pytest.raises(DatasetError, match=r"no \.dcd files"):
            load_replicas(given if given == [] else tmp_path, n_beads=4)

    @pytest.mark.parametrize("length", [0, 50, 275, 300, 400, 707])
    def test_cut_off_anywhere(self, dcd, length):
        content = dcd.read_bytes()
        assert len(content) == 708
        dcd.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"frames\.dcd (announces 6|cannot be read)"):
            load_replicas(dcd, n_beads=4)

    def test_whole_frames_lost_at_the_end_are_noticed(self, dcd):
        dcd.write_bytes(dcd.read_bytes()[:-72])
        with pytest.raises(DatasetError, match="announces 6 frames and holds 5"):
            load_replicas(dcd, n_beads=4)

    @pytest.mark.parametrize(
        "content", [b"ATOM      1  CA  ALA\n" * 40, b"\0" * 2000, bytes(range(256)) * 10]
    )
    def test_other_formats(self, tmp_path, content):
        (tmp_path / "foreign.dcd").write_bytes(content)
        with pytest.raises(DatasetError, match=r"foreign\.dcd cannot be read as DCD"):
            load_replicas(tmp_path, n_beads=4)

    def test_damaged_files_give_our_own_errors_only(self, dcd):
        content, rng = dcd.read_bytes(), np.random.default_rng(0)
        refused = 0
        for _ in range(200):
            damaged = bytearray(content)
            for index in rng.integers(len(content), size=3):
                damaged[index] ^= int(rng.integers(1, 256))
            dcd.write_bytes(damaged)
            try:
                load_replicas(dcd, n_beads=4)
            except DatasetError:
                refused += 1
        assert refused > 80


class TestStandardOutput:
    """The DCD reader is C code that prints; C keeps its output until a buffer is full."""

    def test_the_reader_prints_nothing(self, dcd, capfd):
        load_replicas(dcd, n_beads=4)
        dcd.write_bytes(b"no DCD file")
        with pytest.raises(DatasetError):
            load_replicas(dcd, n_beads=4)
        ctypes.CDLL(None).fflush(None)
        assert capfd.readouterr().out == ""

    def test_the_reader_would_print(self, dcd, capfd):
        with mdtraj.formats.DCDTrajectoryFile(str(dcd)) as file:
            file.read()
        ctypes.CDLL(None).fflush(None)
        assert "dcdplugin" in capfd.readouterr().out

    def test_what_others_print_stays(self, capfd):
        libc = ctypes.CDLL(None)
        libc.puts(b"before")
        with without_c_output():
            libc.puts(b"hidden")
            os.write(1, b"hidden too\n")
        libc.puts(b"after")
        libc.fflush(None)
        assert capfd.readouterr().out == "before\nafter\n"

    def test_output_comes_back_after_an_error(self, capfd):
        def fail():
            with without_c_output():
                raise ValueError("inside")

        with pytest.raises(ValueError, match="inside"):
            fail()
        os.write(1, b"here\n")
        assert capfd.readouterr().out == "here\n"


class TestStartFrames:
    @pytest.mark.parametrize(
        ("n", "chosen"), [(1, [0]), (3, [0, 2, 5]), (6, range(6)), (8, [0, 1, 2, 3, 4, 5, 0, 1])]
    )
    def test_taken_evenly_or_several_times(self, frames, dcd, n, chosen):
        found = load_start_frames(dcd, n_beads=4, n=n)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, frames[list(chosen)], atol=1e-6)

    def test_other_formats(self, frames, dcd, toy, tmp_path):
        topology = mdtraj.Topology.from_openmm(toy.metadata.topology.to_openmm())
        for name in ("frames.xtc", "frames.pdb"):
            mdtraj.load(dcd, top=topology).save(tmp_path / name)
            found = load_start_frames(tmp_path / name, n_beads=4, n=6)
            np.testing.assert_allclose(found, frames, atol=1e-3)
            with pytest.raises(DatasetError, match="has 6 frames of 4 beads; the model has 5"):
                load_start_frames(tmp_path / name, n_beads=5, n=6)

    def test_a_dataset(self, frames, tmp_path):
        np.savez(tmp_path / "beads.npz", positions=np.float32(frames), temperature=300.0)
        found = load_start_frames(tmp_path / "beads.npz", n_beads=4, n=6)
        np.testing.assert_array_equal(found, np.float32(frames))
        np.savez(tmp_path / "plane.npz", positions=np.float32(frames[:, :, :2]))
        found = load_start_frames(tmp_path / "plane.npz", n_beads=4, n=6)
        np.testing.assert_array_equal(found[..., :2], np.float32(frames[..., :2]))
        assert not found[..., 2].any()
        np.savez(tmp_path / "other.npz", positions=np.arange(3))
        for name in ("plane.npz", "other.npz"):
            with pytest.raises(DatasetError, match=name):
                load_start_frames(tmp_path / name, n_beads=5, n=2)

    def test_a_folder_that_is_no_run(self, frames, dcd):
        save_frames(frames + 1.0, dcd.with_name("later.dcd"))
        found = load_start_frames(dcd.parent, n_beads=4, n=12)
        np.testing.assert_allclose(found, np.concatenate([frames, frames + 1.0]), atol=1e-6)

    # MDTraj leaves a PDB file open that it cannot read.
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize(
        "name", ["no.dcd", "no.pdb", "no.npz", "text.dcd", "text.pdb", "text.xtc", "text.npz"]
    )
    def test_no_frames(self, tmp_path, name):
        if name.startswith("text"):
            (tmp_path / name).write_text("nothing")
        with pytest.raises(DatasetError, match=name):
            load_start_frames(tmp_path / name, n_beads=4, n=2)


def test_damaged_record_of_a_run(frames, tmp_path):
    save_frames(frames, tmp_path / "replica_0000.dcd")
    for text in ("{", "{}", '{"files": ["a"], "replicas": 1, "frozen": 3}'):
        (tmp_path / "trajectories.json").write_text(text)
        with pytest.raises(DatasetError, match=r"trajectories\.json is damaged"):
            load_replicas(tmp_path, n_beads=4)
