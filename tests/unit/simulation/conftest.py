"""Short runs of pairs of beads, whose independent frames nearly all lie within the limits."""

import hashlib
from pathlib import Path

import pytest

from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.run import ReplicaRun
from openmm_scoremd.simulation.settings import RunSettings

SMALL = {"replicas": 4, "steps": 220, "interval": 20, "platform": "Reference", "seed": 3} | {
    "margin": 0.5
}


@pytest.fixture
def pair(make_toy):
    """A model of two beads 0.15 nm apart."""
    return ScoreModelFile(make_toy("pair.pt", n_beads=2, bond_ranges=((0.05, 0.5),)).path)


@pytest.fixture
def start_run(pair, tmp_path, chain):
    """Return ``start(name, **settings)``: a run that begins from the same frames."""

    def start(name="run", **settings):
        chosen = RunSettings(**{**SMALL, **settings})
        frames = chain(chosen.replicas, 2)
        return ReplicaRun.start(pair, tmp_path / name, chosen, start=frames)

    return start


@pytest.fixture
def finished_run(start_run, tmp_path):
    """Return ``finished(name, **settings)``: the folder of a run that went to its end."""

    def finished(name="straight", **settings):
        with start_run(name, **settings) as run:
            assert run.advance()
        return tmp_path / name

    return finished


@pytest.fixture
def contents():
    """Return a function that hashes the files of a run that must be the same to the last bit."""

    def of(folder):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).iterdir())
            if path.suffix in (".dcd", ".xtc", ".npy") or path.name == "trajectories.json"
        }

    return of
