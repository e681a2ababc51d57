"""Runs in a scaled potential; other beginnings are tested with the runs themselves."""

import dataclasses

import numpy as np
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.trajectories.reading import load_replicas


def test_a_scaled_run_goes_on_bit_by_bit(start_run, finished_run, contents, pair, tmp_path):
    straight = finished_run(potential_factor=0.5)
    with start_run("stopped", potential_factor=0.5) as run:
        assert not run.advance(stop=lambda: run.step >= 100)
        assert run.simulation.potential_factor == 0.5
    with ReplicaRun.resume(pair, tmp_path / "stopped") as run:
        assert run.simulation.potential_factor == 0.5
        assert run.advance()
    assert contents(tmp_path / "stopped") == contents(straight)
    assert contents(finished_run("plain")) != contents(straight)


def test_energies_are_those_without_the_factor(start_run, pair):
    with start_run(potential_factor=0.5, interval=20, steps=200) as run:
        assert run.advance()
        expected = pair.potential_energy(run.simulation.positions)
        np.testing.assert_allclose(np.load(run.folder / "state.npy")[-1, :, 0], expected, rtol=1e-5)


def test_limits_of_energies_grow_with_what_is_climbed(start_run):
    limits = {}
    for scale in (1.0, 0.1, 2.0):
        with start_run(f"run_{scale}", potential_factor=scale) as run:
            limits[scale] = run.guard.energies
    assert limits[0.1][1] > 5.0 * limits[1.0][1] > 0.0
    assert limits[2.0] == limits[1.0]


def test_a_factor_of_one_adds_no_parameter(start_run):
    with start_run() as run:
        assert list(run.simulation.simulation.context.getParameters()) == []


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_are_none(scale):
    with pytest.raises(InvalidInputError, match=r"potential_factor is .*; it must be positive"):
        RunSettings(potential_factor=scale)


@pytest.mark.parametrize("files", ["replica", "combined"])
def test_a_run_begins_whatever_viewers_can_read(make_toy, make_metadata, chain, tmp_path, files):
    names = ("O3AAB", "O3AAC", "O3AAD", "O3AAE")
    topology = dataclasses.replace(make_metadata().topology, names=names)
    model = ScoreModelFile(make_toy(topology=topology).path)
    settings = RunSettings(replicas=2, steps=20, interval=10, files=files, recentring="off")
    frames = chain(2, 4) + 2000.0
    with ReplicaRun.start(model, tmp_path / "run", settings, start=frames) as run:
        assert run.advance()
        assert (run.folder / "topology.pdb").exists()
        assert (run.folder / "topology.psf").exists()


@pytest.mark.parametrize("files", ["replica", "combined"])
def test_a_run_begins_where_another_one_ended(finished_run, pair, tmp_path, files):
    before = finished_run(files=files)
    ends = load_replicas(before, n_beads=pair.n_beads)[:, -1]
    settings = RunSettings(replicas=len(ends), steps=20, interval=10, timestep=1e-4)
    with ReplicaRun.start(pair, tmp_path / "next", settings, start=before) as run:
        moved = run.simulation.positions - ends
        # Molecules are moved back by whole nanometers.
        np.testing.assert_allclose(moved - np.rint(moved[:, :1]), 0.0, atol=1e-5)
