"""Files that commit 1013174 wrote are still read and still mean the same.

schema_1/ holds weights, model files, Systems in XML and run folders of tiny networks, and in
references.json the energies, forces and scores that they had then:

===========  =======================================================================
graph        a graph transformer on three beads, with explicit forces
beads_mlp    a multilayer perceptron on three beads, without
plane        a particle in a plane
mixture      three graph transformers, the second without an energy
chain        two beads and a harmonic bond; its module offers an energy and a score
===========  =======================================================================
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from openmm_scoremd.artifact.loaded import _IN_MEMORY
from openmm_scoremd.artifact.metadata import ModelMetadata, read_metadata
from openmm_scoremd.description import MIGRATIONS, SCHEMA_VERSION
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError, ModelFileError
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.forces.torchforce import load_torchforce_plugin
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights, save_weights
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.trajectories.reading import load_replicas

HERE = Path(__file__).parent / "schema_1"
REFERENCES = json.loads((HERE / "references.json").read_text(encoding="utf-8"))
TRAINED = ["graph", "beads_mlp", "plane", "mixture"]
INVARIANT = {"graph": True, "beads_mlp": False, "plane": False, "mixture": True, "chain": True}


def close(found, expected, tolerance=1e-5):
    expected = np.array(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(params=sorted(REFERENCES))
def stored(request):
    """A model file, and what it computed."""
    return request.param, ScoreModelFile(HERE / f"{request.param}.pt"), REFERENCES[request.param]


def test_model_files_compute_what_they_computed(stored):
    name, model, reference = stored
    frames = np.array(reference["positions"])
    close(model.potential_energy(frames), reference["energies"])
    close(model.forces(frames), reference["forces"], 1e-4)
    # One by one and together.
    close([model.potential_energy(frame) for frame in frames], reference["energies"])
    if name == "chain":
        with pytest.raises(InvalidInputError, match="one diffusion time only"):
            model.potential_energy(frames, t=0.05)
    else:
        close(model.potential_energy(frames, t=0.05), reference["energies_at_0.05"])
    assert np.isfinite(model.sample(2, seed=0, n_steps=5)).all()


@pytest.mark.parametrize("backend", ["torchforce", "pythonforce", "kernel"])
def test_forces_in_openmm(stored, backend):
    _, model, reference = stored
    frames = np.array(reference["positions"])
    try:
        system = model.create_system(replicas=len(frames), backend=backend)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    energy, forces = evaluate(system, frames)
    assert energy == pytest.approx(sum(reference["energies"]), rel=1e-5)
    close(forces, reference["forces"], 1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_weights(name, tmp_path):
    trained, reference = load_weights(HERE / f"{name}.safetensors"), REFERENCES[name]
    x = trained.description.to_network(reference["positions"]).float()
    if trained.description.translation_invariant:
        assert x.mean(dim=1).abs().max() < 1e-6
    score = trained.model.score(x, torch.tensor([1e-5, 0.2, 0.9])).detach()
    for found, expected in zip(score, reference["score"], strict=True):
        close(found, expected, 1e-4)
    # Written and exported anew, they are files of now.
    save_weights(trained, tmp_path / "w.safetensors")
    again = load_weights(tmp_path / "w.safetensors")
    assert again.description.to_json() == trained.description.to_json()
    frames = np.array(reference["positions"])
    exported = ScoreModelFile(export_torchscript(again, tmp_path / "model.pt"))
    close(exported.potential_energy(frames), reference["energies"])
    close(exported.forces(frames), reference["forces"], 1e-4)
    assert exported.metadata.translation_invariant is INVARIANT[name]
    assert (exported.metadata.licence, exported.metadata.citation) == ("", "")


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_what_files_say(name):
    metadata = read_metadata(HERE / f"{name}.pt")
    assert metadata.translation_invariant is INVARIANT[name]
    assert metadata.schedule == VPSchedule(0.1, 20.0)
    assert metadata.licence == "MIT"
    # As a record of now it is the same.
    again = ModelMetadata.from_json(metadata.to_json())
    assert again.to_dict() == metadata.to_dict()
    assert again.to_dict()["schema_version"] == SCHEMA_VERSION
    if name in TRAINED:
        description = load_weights(HERE / f"{name}.safetensors").description
        for field in ("title", "topology", "translation_invariant", "schedule", "scale"):
            assert getattr(description, field) == getattr(metadata, field)


def test_every_older_schema_has_a_migration_and_files():
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))
    for version in MIGRATIONS:
        assert list((HERE.parent / f"schema_{version}").glob("*.pt"))


def test_a_newer_schema_is_refused_by_its_number():
    content = read_metadata(HERE / "graph.pt").to_dict()
    content["schema_version"] = SCHEMA_VERSION + 1
    with pytest.raises(ModelFileError, match=rf"schema version {SCHEMA_VERSION + 1};.*install a"):
        ModelMetadata.from_dict(content)


def test_frames_of_a_perceptron_on_beads_are_neither_centred_nor_moved():
    # Its energy depends on where the beads are, and so do its samples.
    model = ScoreModelFile(HERE / "beads_mlp.pt")
    frames = np.array(REFERENCES["beads_mlp"]["positions"])
    assert np.ptp(model.potential_energy(frames) - model.potential_energy(frames + 1.0)) > 1e-6
    drawn = model.sample(20, seed=1, n_steps=10)
    assert np.abs(drawn.mean(axis=1)).max() > 1e-3
    assert (
        dataclasses.replace(model.metadata, translation_invariant=True)
        .centred(torch.from_numpy(drawn))
        .mean(dim=1)
        .abs()
        .max()
        < 1e-12
    )


def test_a_run_of_a_perceptron_on_beads_stays_where_it_is(tmp_path):
    model = ScoreModelFile(HERE / "beads_mlp.pt")
    start = np.array(REFERENCES["beads_mlp"]["positions"][:2]) + 5.0
    settings = RunSettings(
        replicas=2, steps=20, interval=10, platform="Reference", margin=np.inf, timestep=1e-4
    )
    with ReplicaRun.start(model, tmp_path / "run", settings, start=start) as run:
        assert run.advance()
        assert np.abs(run.simulation.positions - start).max() < 0.5
    written = load_replicas(tmp_path / "run", n_beads=3)
    assert np.abs(written - start[:, None]).max() < 0.5


# --- Systems -------------------------------------------------------------------------------------


def evaluate(system, frames):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frames.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    forces = np.array(state.getForces(asNumpy=True)._value).reshape(frames.shape)
    return state.getPotentialEnergy()._value, forces


@pytest.mark.parametrize("name", ["torchforce", "pythonforce", "compiled", "scale_and_time"])
def test_systems_in_xml(name, monkeypatch):
    if name == "torchforce":
        try:
            load_torchforce_plugin()
        except MissingDependencyError as error:
            pytest.skip(str(error))
    # PythonForces name openmm_scoremd.computation and a file, here without its folder.
    monkeypatch.chdir(HERE)
    _IN_MEMORY.clear()
    system = openmm.XmlSerializer.deserialize((HERE / f"{name}.xml").read_text(encoding="utf-8"))
    frames = np.array(REFERENCES["graph"]["positions"][:2])
    energy, forces = evaluate(system, frames)
    assert energy == pytest.approx(sum(REFERENCES["graph"]["energies"][:2]), rel=1e-5)
    close(forces, REFERENCES["graph"]["forces"][:2], 1e-4)


# --- Runs ----------------------------------------------------------------------------------------


def frames_of(folder):
    return load_replicas(folder, n_beads=2)


def test_a_run_that_was_stopped_goes_on(tmp_path):
    shutil.copytree(HERE / "run_folders" / "unfinished", tmp_path / "run")
    with ReplicaRun.resume(ScoreModelFile(HERE / "chain.pt"), tmp_path / "run") as run:
        assert run.advance()
    found, expected = frames_of(tmp_path / "run"), frames_of(HERE / "run_folders" / "straight")
    assert found.shape == (2, 12, 2, 3)
    np.testing.assert_array_equal(found[:, :6], expected[:, :6])
    # The rest is what it would have been; other versions of OpenMM cannot read the old noise.
    if openmm.version.short_version == "8.5.2":
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_run_that_was_finished_can_be_made_longer(tmp_path):
    # Its backend has another name now.
    shutil.copytree(HERE / "run_folders" / "finished", tmp_path / "run")
    model = ScoreModelFile(HERE / "chain.pt")
    with ReplicaRun.resume(model, tmp_path / "run", steps=80) as run:
        assert run.settings.backend == "kernel"
        assert run.advance()
    assert frames_of(tmp_path / "run").shape == (2, 8, 2, 3)
