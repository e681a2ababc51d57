import json
import subprocess
import sys

import numpy as np
import pytest

from openmm_scoremd._files.run_record import result_folder
from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.simulation.run.folder import (
    Checkpoint,
    locked,
    read_settings,
    removed_on_failure,
    write_settings,
)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.npz"
    arrays = {"positions": np.arange(6.0).reshape(1, 2, 3)}
    Checkpoint({"step": 7, "frozen": {"3": 4}}, arrays, b"\x00opaque\xff").save(path)
    return path


class TestCheckpoint:
    def test_round_trip(self, checkpoint):
        found = Checkpoint.load(checkpoint)
        assert found.header == {"step": 7, "frozen": {"3": 4}}
        assert found.context == b"\x00opaque\xff"
        np.testing.assert_array_equal(found.arrays["positions"].ravel(), np.arange(6.0))

    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match="nothing to resume"):
            Checkpoint.load(tmp_path / "no.npz")

    def test_every_damage_is_our_error(self, checkpoint):
        content = checkpoint.read_bytes()
        random = np.random.default_rng(0)
        for trial in range(150):
            damaged = bytearray(content)
            if trial % 2:
                damaged = damaged[: random.integers(len(content))]
            else:
                damaged[random.integers(len(content))] ^= 0xFF
            checkpoint.write_bytes(damaged)
            try:
                found = Checkpoint.load(checkpoint)
            except CheckpointError:
                continue
            # Dates and the like in the directory of the archive have no checksum, and no meaning.
            assert found.header["step"] == 7
            assert found.context == b"\x00opaque\xff"

    def test_other_version(self, checkpoint):
        header = np.frombuffer(json.dumps({"schema_version": 2}).encode(), dtype=np.uint8)
        np.savez(checkpoint, header=header, context=np.zeros(0, dtype=np.uint8))
        with pytest.raises(CheckpointError, match="schema version 2; this package reads 1"):
            Checkpoint.load(checkpoint)


class TestLock:
    def test_held_by_another_process_until_it_dies(self, tmp_path):
        code = (
            "import sys, time; from pathlib import Path\n"
            "from openmm_scoremd.simulation.run.folder import locked\n"
            "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(CheckpointError, match="another process"), locked(tmp_path):
                pass
            process.kill()
        with locked(tmp_path):
            assert (tmp_path / ".lock").exists()
        assert not list(tmp_path.iterdir())

    def test_released_after_an_error(self, tmp_path):
        with pytest.raises(RuntimeError), locked(tmp_path):
            raise RuntimeError
        with locked(tmp_path):
            pass


class TestFolder:
    def test_left_as_it_was_where_nothing_came_of_it(self, tmp_path):
        def fail(folder):
            with (
                pytest.raises(RuntimeError),
                result_folder(folder) as path,
                removed_on_failure(path),
            ):
                write_settings(path, {})
                (path / "replica_0000.dcd").write_text("x")
                raise RuntimeError

        fail(tmp_path / "new" / "run")
        assert not (tmp_path / "new" / "run").exists()
        (tmp_path / "old").mkdir()
        fail(tmp_path / "old")
        assert not list((tmp_path / "old").iterdir())

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 9}'])
    def test_damaged_settings(self, tmp_path, text):
        (tmp_path / "simulation.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"simulation\.json is"):
            read_settings(tmp_path)
