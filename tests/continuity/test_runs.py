"""A run folder of the first version of the package, and its model, go on and can be read.

Three replicas of two beads, 20 frames each; the second was restarted at frame 10.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.trajectories.reading import load_replicas, replica_breaks
from openmm_scoremd.trajectories.segments import restarts_per_frame, unbroken_segments

STORED = Path(__file__).with_name("run")


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(STORED / "md", tmp_path / "md")
    return tmp_path / "md"


def test_is_read(folder):
    frames = load_replicas(folder, n_beads=2)
    assert frames.shape == (3, 20, 2, 3)
    assert replica_breaks(folder) == {1: [10]}
    assert unbroken_segments(folder) == [(0, 0, 20), (1, 0, 10), (1, 10, 20), (2, 0, 20)]
    assert restarts_per_frame(folder) == pytest.approx(1 / 60)


@pytest.mark.parametrize("platform", [None, "CPU"])
def test_goes_on(folder, platform):
    before = load_replicas(folder, n_beads=2)
    text = (folder / "state.csv").read_text()
    with ReplicaRun.resume(
        ScoreModelFile(STORED / "pair.pt"), folder, steps=80, platform=platform
    ) as run:
        assert run.step == 40
        assert run.advance()
        assert [entry["frame"] for entry in run.breaks.restarts] == [10]
    after = load_replicas(folder, n_beads=2)
    assert after.shape == (3, 40, 2, 3)
    np.testing.assert_array_equal(after[:, :20], before)
    assert np.load(folder / "state.npy").shape == (4, 3, 2)
    # The columns that it began with.
    now = (folder / "state.csv").read_text()
    assert now.startswith(text)
    rows = np.genfromtxt(folder / "state.csv", delimiter=",", names=True)
    assert rows["step"].tolist() == [20, 40, 60, 80]
    assert "restarts_per_frame" not in rows.dtype.names
