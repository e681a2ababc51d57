"""Folders of runs: time, breaks, restarts, and frames that are not what they are taken for."""

import json

import pytest

from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.evaluation.runs import read_frames, read_run
from openmm_scoremd.trajectories.reading import save_frames


def write_sidecar(run, *, breaks, frozen=None, frames=10):
    record = {
        "replicas": 3,
        "files": [f"replica_{i:04d}.dcd" for i in range(3)],
        "frames": frames,
        "interval": 50,
        "jump_interval": 0,
        "frozen": frozen or {},
        "breaks": [{"replica": replica, "frame": frame} for replica, frame in breaks],
    }
    (run / "trajectories.json").write_text(json.dumps(record))


class TestRuns:
    @pytest.fixture
    def run(self, chain, tmp_path):
        """A folder as the engine leaves it: three replicas, of 10 to 12 frames."""
        for i, name in enumerate(("replica_0000", "replica_0001", "replica_0002")):
            save_frames(chain(10 + i, 4, seed=i), tmp_path / "run" / f"{name}.dcd")
        return tmp_path / "run"

    def test_restarts_and_time(self, run):
        write_sidecar(run, breaks=[(1, 4), (2, 7), (1, 11)])
        record = {"arguments": {"timestep": 0.002, "interval": 50}, "results": {}}
        (run / "run.json").write_text(json.dumps(record))
        found = read_run(run, n_beads=4)
        assert found.positions.shape == (3, 10, 4, 3)
        assert found.frame_interval == pytest.approx(0.1)
        assert found.segments == ((0, 0, 10), (1, 0, 4), (1, 4, 10), (2, 0, 7), (2, 7, 10))

    def test_time_of_a_run_that_is_not_at_its_end(self, run, caplog):
        write_sidecar(run, breaks=[])
        record = json.loads((run / "trajectories.json").read_text())
        (run / "trajectories.json").write_text(json.dumps({**record, "timestep_ps": 0.004}))
        assert read_run(run, n_beads=4).frame_interval == pytest.approx(0.2)
        assert caplog.text == ""

    def test_time_of_denoising_trajectories(self, run):
        record = {"arguments": {"interval": 50}, "results": {"frame_interval_ps": 0.3}}
        (run / "run.json").write_text(json.dumps(record))
        assert read_run(run, n_beads=4).frame_interval == 0.3

    @pytest.mark.parametrize("content", [None, "[]", "{", '{"arguments": {}, "results": {}}'])
    def test_time_that_nobody_knows(self, run, content, caplog):
        if content is not None:
            (run / "run.json").write_text(content)
        assert read_run(run, n_beads=4).frame_interval is None
        assert "time between frames is unknown" in caplog.text

    def test_frozen_replicas_are_left_out(self, run):
        write_sidecar(run, breaks=[(2, 3)], frozen={"1": 5})
        found = read_run(run, n_beads=4)
        assert found.positions.shape == (2, 10, 4, 3)
        assert found.segments == ((0, 0, 10), (1, 0, 3), (1, 3, 10))

    @pytest.mark.parametrize("content", ["{", "[3]", '{"replicas": 3, "frozen": {}}'])
    def test_damaged_record(self, run, content):
        (run / "trajectories.json").write_text(content)
        with pytest.raises(DatasetError, match="is damaged"):
            read_run(run, n_beads=4)

    def test_killed_run(self, run):
        # The record of breaks is written before the frames are: here for 20, and 10 to 12 came.
        write_sidecar(run, breaks=[(1, 4), (1, 15), (2, 11)], frames=20)
        found = read_run(run, n_beads=4)
        assert found.positions.shape == (3, 10, 4, 3)
        assert found.segments == ((0, 0, 10), (1, 0, 4), (1, 4, 10), (2, 0, 10))

    def test_restarts_per_frame(self, run):
        write_sidecar(run, breaks=[])
        assert read_run(run, n_beads=4).restarts_per_frame == 0.0
        write_sidecar(run, breaks=[(1, 4), (1, 4), (2, 7)])
        assert read_run(run, n_beads=4).restarts_per_frame == 0.1

    def test_jumps_and_frozen_replicas(self, run):
        write_sidecar(run, breaks=[], frozen={"1": 5})
        record = json.loads((run / "trajectories.json").read_text())
        record = {**record, "jump_interval": 4 * record["interval"]}
        (run / "trajectories.json").write_text(json.dumps(record))
        found = read_run(run, n_beads=4)
        assert (found.n_frozen, found.jumps_per_frame) == (1, 0.25)
        assert found.segments[:3] == ((0, 0, 4), (0, 4, 8), (0, 8, 10))

    def test_all_replicas_are_frozen(self, run):
        write_sidecar(run, breaks=[], frozen={"0": 5, "1": 5, "2": 5})
        with pytest.raises(InvalidInputError, match=r"all 3 replicas of .* shorter time step"):
            read_run(run, n_beads=4)

    def test_independent_frames_are_no_run(self, chain, tmp_path):
        save_frames(chain(9, 4), tmp_path / "iid/iid.dcd")
        for path in (tmp_path / "iid", tmp_path / "iid/iid.dcd"):
            with pytest.raises(InvalidInputError, match="holds independent frames"):
                read_run(path, n_beads=4)
            assert read_frames(path, n_beads=4).shape == (9, 4, 3)

    @pytest.mark.parametrize("name", ["", "replica_0001.dcd"])
    @pytest.mark.parametrize("recorded", [True, False])
    def test_a_run_is_no_independent_frames(self, run, name, recorded):
        if recorded:
            write_sidecar(run, breaks=[])
        with pytest.raises(InvalidInputError, match="holds trajectories, whose frames follow"):
            read_frames(run / name, n_beads=4)

    def test_one_file(self, run):
        assert read_run(run / "replica_0001.dcd", n_beads=4).positions.shape == (1, 11, 4, 3)
        plain = (run / "replica_0001.dcd").rename(run / "frames.dcd")
        assert read_frames(plain, n_beads=4).shape == (11, 4, 3)
