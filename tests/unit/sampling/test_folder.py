"""Frames that were drawn are kept, whatever viewers can read."""

import dataclasses

import numpy as np
import pytest

from openmm_scoremd.sampling.folder import write_independent_frames
from openmm_scoremd.trajectories.reading import load_replicas


@pytest.mark.parametrize(("name", "distance"), [("O3AAB", 0.0), ("C", 150.0), ("O3AAB", 1e4)])
def test_names_and_places_that_a_pdb_cannot_hold(make_metadata, tmp_path, name, distance):
    topology = make_metadata().topology
    topology = dataclasses.replace(topology, names=(name, *topology.names[1:]))
    frames = np.random.default_rng(0).normal(size=(3, 4, 3)) + distance
    frames[:, 0] -= distance  # the first frame is as wide as that
    path = write_independent_frames(tmp_path, frames, topology)
    np.testing.assert_allclose(
        load_replicas(path, n_beads=4)[0], frames, atol=1e-6 * distance + 1e-6
    )
    assert {"topology.pdb", "topology.psf"} < {path.name for path in tmp_path.iterdir()}
