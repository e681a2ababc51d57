"""What is shipped stays usable and stays the same: models, their numbers, the dataset.

Energies and forces in references.json were written by write_references.py when a model was shipped;
later versions of the package must reproduce them.
"""

import json
from pathlib import Path

import numpy as np
import openmm
import pytest

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.analysis.observables.internal_coordinates import phi_psi
from openmm_scoremd.artifact.torchscript import load_module, tensor_digest
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.errors import MissingDependencyError
from openmm_scoremd.forces.torchforce import load_torchforce_plugin
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "torchscript_models"
README = MODELS / "README.md"
REFERENCES = Path(__file__).with_name("references.json")
DATASET = ROOT / "examples" / "data" / "alanine_dipeptide.npz"
SHIPPED = sorted(MODELS.glob("*.pt"))


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda path: path.name)
def shipped(request):
    return request.param


@pytest.fixture(scope="module")
def model(shipped):
    return ScoreModelFile(shipped)


@pytest.fixture(scope="module")
def reference(shipped):
    content = json.loads(REFERENCES.read_text(encoding="utf-8"))
    assert shipped.name in content, f"run {REFERENCES.with_name('write_references.py')}"
    return content[shipped.name]


def readme_table():
    """Return the README's table: file name to a dict from heading to cell, without mark-up."""
    if not README.exists():
        pytest.skip("torchscript_models/README.md is not written yet")
    lines = (line.strip() for line in README.read_text(encoding="utf-8").splitlines())
    rows = [[c.strip(" `") for c in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    (head,) = (row for row in rows if "SHA-256" in row)
    return {row[0]: dict(zip(head, row, strict=False)) for row in rows}


def test_there_are_models():
    if not README.exists():
        pytest.skip("torchscript_models/README.md is not written yet")
    expected = {"alanine_dipeptide.pt", "alanine_dipeptide_invariant.pt", "mueller_brown.pt"}
    assert expected <= {path.name for path in SHIPPED}


class TestEveryModel:
    def test_loads_and_passes_its_self_test(self, model):
        # Whoever opens the file has run the self-test; see that there was something to test.
        test = model.metadata.self_test
        assert len(test.energies) >= 4
        assert np.abs(test.forces).max() > 1.0
        assert model.metadata.weights_sha256
        assert model.metadata.dataset_sha256

    def test_is_the_one_that_the_references_belong_to(self, shipped, model, reference):
        digest = tensor_digest(load_module(shipped, device="cpu"))
        assert digest == model.metadata.tensor_digest == reference["tensor_digest"]
        assert sha256_of_file(shipped) == reference["sha256"]

    def test_gives_the_energies_and_forces_that_it_gave(self, model, reference):
        frames = np.array(reference["positions"])
        energies, forces = np.array(reference["energies"]), np.array(reference["forces"])
        assert len(frames) == 5
        tolerance = 1e-5 if model.metadata.dtype == "float32" else 1e-10
        np.testing.assert_allclose(
            model.potential_energy(frames), energies, atol=tolerance * np.abs(energies).max()
        )
        np.testing.assert_allclose(
            model.forces(frames), forces, rtol=0.0, atol=10 * tolerance * np.abs(forces).max()
        )

    @pytest.mark.parametrize("backend", ["torchforce", "pythonforce"])
    def test_gives_them_in_openmm(self, model, reference, backend):
        if backend == "torchforce":
            try:
                load_torchforce_plugin()
            except MissingDependencyError as error:
                pytest.skip(str(error))
        frames = np.array(reference["positions"])
        context = openmm.Context(
            model.create_system(replicas=len(frames), backend=backend),
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("Reference"),
        )
        context.setPositions(frames.reshape(-1, 3))
        state = context.getState(energy=True, forces=True)
        total = state.getPotentialEnergy()._value
        assert total == pytest.approx(sum(reference["energies"]), rel=2e-5)
        forces = np.array(reference["forces"])
        found = state.getForces(asNumpy=True)._value.reshape(forces.shape)
        np.testing.assert_allclose(found, forces, rtol=0.0, atol=2e-4 * np.abs(forces).max())

    def test_belongs_to_the_weights_beside_it(self, shipped, model):
        weights = shipped.with_suffix(".safetensors")
        if not README.exists():
            pytest.skip("torchscript_models/README.md is not written yet")
        assert sha256_of_file(weights) == model.metadata.weights_sha256
        description = load_weights(weights).description
        assert description.title == model.metadata.title
        assert description.topology == model.bead_topology
        assert description.dataset_sha256 == model.metadata.dataset_sha256

    def test_is_described_in_the_readme(self, shipped, model):
        row = readme_table()[shipped.name]
        assert row["SHA-256"] == model.sha256
        digest = model.metadata.tensor_digest
        assert row.get("tensor digest", digest) == digest


def test_hashes_in_the_readme_are_those_of_the_files():
    described = {
        n: row["SHA-256"] for n, row in readme_table().items() if len(row["SHA-256"]) == 64
    }
    assert {path.name for path in SHIPPED} <= set(described)
    assert described == {name: sha256_of_file(MODELS / name) for name in described}


class TestAlanineDipeptide:
    @pytest.fixture
    def dataset(self):
        return load_dataset(DATASET)

    def test_dataset(self, dataset):
        assert dataset.positions.shape == (50_000, 5, 3)
        assert dataset.topology.names == ("C", "N", "CA", "C", "N")
        assert dataset.topology.n_beads - 1 == len(dataset.topology.bonds)
        assert dataset.temperature == 300.0
        assert np.abs(dataset.positions.mean(axis=1)).max() < 1e-6

    def test_population_of_positive_phi(self, dataset):
        phi = phi_psi(dataset.positions, dataset.topology)[:, 0, 0]
        assert round(float((phi > 0.0).mean()), 4) == 0.0204

    @pytest.mark.parametrize("name", ["alanine_dipeptide.pt", "alanine_dipeptide_invariant.pt"])
    def test_model_was_trained_on_it(self, name):
        path = MODELS / name
        if not path.exists():
            pytest.skip(f"torchscript_models/{name} is not there")
        model = ScoreModelFile(path)
        assert model.metadata.dataset_sha256 == sha256_of_file(DATASET)
        assert model.bead_topology == load_dataset(DATASET).topology
