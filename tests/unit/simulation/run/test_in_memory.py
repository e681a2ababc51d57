"""Simulations in memory are those of a run, and know which frames count."""

import numpy as np
import pytest

from openmm_scoremd.simulation.run.in_memory import WatchedFrames, simulate_in_memory
from openmm_scoremd.trajectories.reading import load_replicas
from openmm_scoremd.trajectories.segments import TrajectoryBreaks


def test_frames_are_those_of_a_run(pair, chain, start_run, tmp_path):
    with start_run("run", margin=0.5) as run:
        run.advance()
    done = []
    found = simulate_in_memory(
        pair, run.settings, chain(4, 2), failures=tmp_path, progress=done.append
    )
    centred = found.positions - found.positions.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(load_replicas(run.folder, n_beads=2), centred, atol=1e-6)
    assert found.usable(0).all()
    assert done == pytest.approx(np.arange(1, 12) / 11)


def test_frames_around_a_break_do_not_count():
    breaks = TrajectoryBreaks(
        [{"replica": 0, "frame": 30}, {"replica": 2, "frame": 4}], frozen={1: 45}
    )
    usable = WatchedFrames(np.zeros((4, 60, 1, 3)), breaks).usable(5)
    expected = np.ones((4, 60), dtype=bool)
    expected[:, :5] = False
    expected[0, 20:35] = False
    expected[2, :9] = False
    expected[1, 35:] = False
    np.testing.assert_array_equal(usable, expected)
