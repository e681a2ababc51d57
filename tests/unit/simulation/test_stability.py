"""The stability limit of springs is known."""

import math

import numpy as np
import pytest

from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.stability import stable_timestep


def test_of_two_beads_on_a_spring(make_toy):
    # Masses of 12 and 13 Da, 2000 kJ/mol/nm^2.
    model = ScoreModelFile(make_toy(n_beads=2).path)
    expected = 2.0 / math.sqrt(2000.0 * (1 / 12 + 1 / 13))
    assert stable_timestep(model) == pytest.approx(expected, rel=1e-3)


def test_of_a_chain(make_toy):
    model = ScoreModelFile(make_toy(n_beads=4).path)
    step = 1e-5
    lowest = math.inf
    for frame in model.metadata.self_test.positions:
        moves = step * np.eye(12).reshape(12, 4, 3)
        forces = model.forces(frame + moves) - model.forces(frame - moves)
        root = np.sqrt(np.repeat(model.masses, 3))
        hessian = -forces.reshape(12, 12) / (2.0 * step) / np.outer(root, root)
        lowest = min(lowest, 2.0 / math.sqrt(np.linalg.eigvalsh(hessian).max()))
    assert stable_timestep(model) == pytest.approx(lowest, rel=0.05)


def test_of_a_model_in_the_plane(make_toy):
    model = ScoreModelFile(make_toy(n_beads=1, n_dims=2).path)
    assert stable_timestep(model) == pytest.approx(2.0 / math.sqrt(2000.0 / 12.0), rel=1e-3)


def test_of_nothing_is_infinite(make_toy, monkeypatch):
    model = ScoreModelFile(make_toy(n_beads=2).path)
    monkeypatch.setattr(ScoreModelFile, "forces", lambda _self, frames: np.zeros_like(frames))
    assert stable_timestep(model) == math.inf
