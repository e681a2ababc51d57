"""Model files without code, beside TorchScript files of the same weights, and damaged ones."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from openmm_scoremd._files.tensors import tensors_from_bytes, tensors_to_bytes
from openmm_scoremd.artifact.code_free import load_code_free
from openmm_scoremd.artifact.metadata import MODEL_KEY, read_archive
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError, ModelFileError
from openmm_scoremd.export.export import derive_torchscript, export_model, is_code_free
from openmm_scoremd.forces.create import create_force
from openmm_scoremd.forces.kernel.build import load_library
from openmm_scoremd.forces.torchforce import load_torchforce_plugin
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.config import NetworkInputs
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.invariant.network import InvariantConfig
from openmm_scoremd.models.mixture import Expert, TimePartitionedMixture
from openmm_scoremd.models.weights import (
    ExpertDescription,
    TrainedModel,
    WeightsDescription,
    save_weights,
)
from openmm_scoremd.simulation.replicas import ReplicaSimulation


def missing(load):
    try:
        load()
    except MissingDependencyError as error:
        return str(error)
    return ""


BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing(load)), reason=missing(load)))
    for name, load in (
        ("torchforce", load_torchforce_plugin),
        ("pythonforce", bool),
        ("kernel", load_library),
    )
]
ROOT = Path(__file__).parents[3]
NAMES = ["graph", "graph-noise-level", "mlp", "mlp-beads", "invariant", "mixture"]


@pytest.fixture(scope="module")
def make(make_trained):
    """Return ``make(name)``: a trained network."""

    def described(trained, **entries):
        fields = WeightsDescription.__dataclass_fields__
        old = {name: getattr(trained.description, name) for name in fields}
        return WeightsDescription(**{**old, **entries})

    def invariant():
        like, config = make_trained("graph"), InvariantConfig(hidden_dim=8, layers=2, levels=4)
        inputs = NetworkInputs(5, 3, topology=like.description.topology)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model = build_model(config, n_beads=5, n_dims=3, topology=inputs.topology)
        model.prepare(torch.tensor(like.description.example_positions).float() / 0.09)
        return TrainedModel(model.eval(), described(like, network=config))

    def mixture():
        early, late = make_trained("graph-noise-level"), make_trained("graph-direct")
        model = TimePartitionedMixture(
            [Expert(early.model, 0.0, 0.1), Expert(late.model, 0.1, 1.0)]
        )
        experts = (
            ExpertDescription(early.description.network, 0.0, 0.1),
            ExpertDescription(late.description.network, 0.1, 1.0),
        )
        return TrainedModel(model.eval(), described(early, experts=experts))

    special = {"invariant": invariant, "mixture": mixture}
    return lambda name: special[name]() if name in special else make_trained(name)


@pytest.fixture
def path(make, tmp_path):
    """A small graph transformer without code."""
    return export_model(make("graph"), tmp_path / "graph.safetensors", licence="MIT")


def changed(path, *, entries=None, tensors=None):
    """Write a file again with another record and other tensors, as somebody who knows the hash."""
    record, held = tensors_from_bytes(path.read_bytes(), key=MODEL_KEY)
    record = {**record, **(entries or {})}
    held = {name: v for name, v in {**held, **(tensors or {})}.items() if v is not None}
    path.write_bytes(tensors_to_bytes(held, key=MODEL_KEY, header=record))
    return path


# --- Beside TorchScript ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in NAMES), ("graph", "float64")]
)
def test_the_same_model_as_its_torchscript_file(make, tmp_path, name, dtype):
    trained = make(name)
    free = ScoreModelFile(export_model(trained, tmp_path / "m.safetensors", dtype=dtype))
    script = ScoreModelFile(export_model(trained, tmp_path / "m.pt", dtype=dtype))
    assert free.loaded.archive.code_free
    assert not script.loaded.archive.code_free
    records = [json.loads(model.metadata.to_json()) for model in (free, script)]
    for record in records:
        record.pop("created")
    assert records[0] == records[1]

    tolerance = 1e-4 if dtype == "float32" else 1e-10
    positions = 0.1 * np.random.default_rng(5).normal(size=(7, free.n_beads, 3))
    for method in ("potential_energy", "forces"):
        found, expected = (getattr(model, method)(positions) for model in (free, script))
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    found, expected = (model.potential_energy(positions, t=0.05) for model in (free, script))
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    x, t = torch.from_numpy(positions[..., : free.metadata.n_dims]), torch.linspace(1e-5, 1.0, 7)
    found, expected = (model.score_fn(x, t.double()).numpy() for model in (free, script))
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_the_same_seed_draws_the_same_frames(tmp_path):
    weights = ROOT / "torchscript_models" / "alanine_dipeptide.safetensors"
    model = ScoreModelFile(export_model(weights, tmp_path / "alanine.safetensors"))
    shipped = ScoreModelFile(weights.with_suffix(".pt"))
    found, expected = (m.sample(3, seed=1, n_steps=10) for m in (model, shipped))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    np.testing.assert_array_equal(model.sample(3, seed=1, n_steps=10), found)


@pytest.mark.parametrize("adjustable", ["nothing", "scale", "scale-and-time"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_forces_in_openmm_are_those_of_the_torchscript_file(
    make, tmp_path, path, backend, adjustable
):
    if (backend, adjustable) == ("kernel", "scale-and-time"):
        pytest.skip("the kernel has one time")
    script = export_model(make("graph"), tmp_path / "graph.pt")
    positions = 0.1 * np.random.default_rng(6).normal(size=(10, 3))
    found = [
        evaluated(create_force(file, backend=backend, adjustable=adjustable), positions)
        for file in (path, script)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-2)


def evaluated(force, positions):
    system = openmm.System()
    for _ in positions:
        system.addParticle(12.0)
    system.addForce(force)
    # The text of a System names the file, or holds the model.
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    return context.getState(forces=True).getForces(asNumpy=True)._value


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_simulation_is_that_of_the_torchscript_file(make, tmp_path, path, backend):
    script = export_model(make("graph"), tmp_path / "graph.pt")
    runs = []
    for file in (path, script):
        model = ScoreModelFile(file)
        simulation = ReplicaSimulation(model, replicas=3, backend=backend, seed=4)
        simulation.set_positions(model.metadata.self_test.positions[:3])
        simulation.step(20)
        runs.append(simulation.positions)
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-5)
    assert np.ptp(runs[0]) > 0.01


def test_derived_torchscript_has_the_tensors_the_record_and_the_forces(path, tmp_path):
    free = ScoreModelFile(path)
    script = ScoreModelFile(derive_torchscript(path, tmp_path / "derived.pt", sha256=free.sha256))
    assert script.metadata.to_json() == free.metadata.to_json()
    positions = free.metadata.self_test.positions
    np.testing.assert_allclose(script.forces(positions), free.forces(positions), rtol=1e-4)
    with pytest.raises(ModelFileError, match="SHA-256"):
        derive_torchscript(path, tmp_path / "other.pt", sha256="0" * 64)
    assert not (tmp_path / "other.pt").exists()


def test_pickled_it_needs_no_file(path):
    model = ScoreModelFile(path)
    text = pickle.dumps(model)
    path.unlink()
    positions = model.metadata.self_test.positions
    found = pickle.loads(text).forces(positions)  # noqa: S301
    np.testing.assert_array_equal(found, model.forces(positions))


def test_the_same_weights_give_the_same_tensors_and_loading_draws_no_random_numbers(path):
    state = torch.random.get_rng_state()
    modules = [load_code_free(read_archive(path), device="cpu") for _ in range(2)]
    assert torch.equal(state, torch.random.get_rng_state())
    first, second = (dict(module.named_buffers()) for module in modules)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(p.requires_grad for module in modules for p in module.parameters())


WITHOUT_TORCHSCRIPT = """
import sys, torch

def refused(*_args, **_options):
    raise AssertionError("TorchScript was asked for")

for name in ("load", "script", "freeze", "trace", "save"):
    setattr(torch.jit, name, refused)
from openmm_scoremd import ReplicaSimulation, ScoreModelFile
from openmm_scoremd.sampling.langevin import TrajectorySettings
from openmm_scoremd.simulation.stability import stable_timestep

model = ScoreModelFile(sys.argv[1])
frames = model.sample(3, seed=0, n_steps=5)
model.sample_trajectory(2, start=2, seed=0, settings=TrajectorySettings(step_size=1e-4))
stable_timestep(model)
model.potential_energy(frames), model.potential_energy(frames, t=0.1), model.forces(frames)
for backend in sys.argv[2:]:
    simulation = ReplicaSimulation(model, replicas=3, backend=backend, seed=1)
    simulation.set_positions(frames)
    simulation.step(5)
loaded = {name for name in sys.modules if name.startswith("openmm_scoremd.training")}
raise SystemExit(f"{loaded}" if loaded else 0)
"""


def test_neither_torchscript_nor_a_warning_is_on_the_way(path):
    names = ["pythonforce"] + ([] if missing(load_library) else ["kernel"])
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCHSCRIPT, str(path), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# --- Writing --------------------------------------------------------------------------------------


def test_weights_and_model_files_are_told_apart(make, path, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_weights(make("graph"), weights)
    assert is_code_free(path)
    assert not is_code_free(weights)
    assert not is_code_free(tmp_path / "absent.safetensors")
    with pytest.raises(ModelFileError, match="Weights become one with: scoremd export"):
        ScoreModelFile(weights)
    with pytest.raises(ModelFileError, match="is not a weights file"):
        export_model(path, tmp_path / "again.safetensors")


def test_other_suffixes_are_refused(make, tmp_path):
    with pytest.raises(InvalidInputError, match=r"must end in \.safetensors or \.pt"):
        export_model(make("graph"), tmp_path / "model.onnx")


def test_a_network_that_its_record_does_not_describe_is_not_written(
    make, two_wells_network, tmp_path
):
    foreign = TrainedModel(two_wells_network().eval(), make("mlp").description)
    with pytest.raises(ModelFileError, match="more tensors than it has"):
        export_model(foreign, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


# --- Damaged and hostile files --------------------------------------------------------------------


def test_every_kind_of_damage_is_found(path):
    content, record = path.read_bytes(), read_archive(path).metadata_json
    header = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    places = [
        *range(12),
        *random.integers(12, header, 60),
        *random.integers(header, len(content), 30),
    ]
    found = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            # The last digit of a number may be one that no float can hold.
            assert ScoreModelFile(path).loaded.archive.metadata_json == record
        except ModelFileError:
            found += 1
    assert found > 0.9 * len(places)
    for size in (0, 1, 8, 9, header - 1, header, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError):
            ScoreModelFile(path)


def test_the_hash_of_the_file_is_checked(path):
    good = ScoreModelFile(path).sha256
    assert ScoreModelFile(path, sha256=good.upper()).sha256 == good
    with pytest.raises(ModelFileError, match="expected 000"):
        ScoreModelFile(path, sha256="0" * 64)


def architecture(path, **entries):
    return {"architecture": {**read_archive(path).metadata.architecture, **entries}}


HOSTILE_RECORDS = {
    "family": ({"family": "perceptron"}, "must be one of"),
    "no family": ({"family": None}, "must be one of"),
    "entry": ({"import": "os"}, "no entry of family"),
    "wide": ({"hidden_dim": 10**5}, "the network in its record has"),
    "wider": ({"hidden_dim": 10**30}, "graph.safetensors"),
    "deep": ({"layers": 10**9}, "more tensors than it has"),
    "heads": ({"heads": 0}, "whole number from 1 on"),
    "text": ({"hidden_dim": "many"}, "whole number from 1 on"),
    "experts": ({"experts": [{"network": {}}]}, "objects of network"),
    "direct": ({"output": "direct"}, "the network in its record has"),
}


@pytest.mark.parametrize("case", HOSTILE_RECORDS)
def test_records_of_other_networks_are_refused(path, case):
    entries, message = HOSTILE_RECORDS[case]
    changed(path, entries=architecture(path, **entries))
    with pytest.raises(ModelFileError, match=message):
        ScoreModelFile(path)


def test_tensors_must_be_those_of_the_network(path):
    _, tensors = tensors_from_bytes(path.read_bytes(), key=MODEL_KEY)
    content = path.read_bytes()
    name = "force_energy.first_attention.values"
    value = tensors[name]
    for tensor, message in (
        (None, f"lacks tensor {name}"),
        (value[:-1].contiguous(), "the network in its record has"),
        (value.double(), "is torch.float64"),
        (torch.full_like(value, torch.nan), "not finite"),
        (torch.full_like(value, torch.inf), "not finite"),
        (value + 0.1, "has digest"),
    ):
        path.write_bytes(content)
        changed(path, tensors={name: tensor})
        with pytest.raises(ModelFileError, match=message):
            ScoreModelFile(path)
    path.write_bytes(content)
    changed(path, tensors={"force_energy.measurement.pairs": torch.zeros(2, 2, dtype=torch.int64)})
    with pytest.raises(ModelFileError, match="is none of the network"):
        ScoreModelFile(path)


def test_other_numbers_fail_the_self_test(path):
    record, _ = tensors_from_bytes(path.read_bytes(), key=MODEL_KEY)
    test = {**record["self_test"], "energies": [e + 1.0 for e in record["self_test"]["energies"]]}
    changed(path, entries={"self_test": test})
    with pytest.raises(ModelFileError, match="does not reproduce its own energies"):
        ScoreModelFile(path)


def test_many_beads_with_few_numbers_are_refused(make, tmp_path):
    path = export_model(make("mlp-beads"), tmp_path / "mlp.safetensors")
    record, _ = tensors_from_bytes(path.read_bytes(), key=MODEL_KEY)
    many = 5000
    topology = {name: entry * (many // 3 + 1) for name, entry in record["topology"].items()}
    topology = {name: entry[:many] for name, entry in topology.items()}
    topology["bonds"] = []
    test = {
        "positions": [[[0.0, 0.0, 0.0]] * many],
        "forces": [[[0.0, 0.0, 0.0]] * many],
        "energies": [0.0],
        "tolerance": 1e-3,
    }
    entries = {"topology": topology, "self_test": test, "bond_ranges": []}
    changed(path, entries=entries)
    with pytest.raises(ModelFileError, match="5000 beads and only"):
        ScoreModelFile(path)


def test_a_newer_schema_is_refused_by_its_number(path):
    changed(path, entries={"schema_version": 99})
    with pytest.raises(ModelFileError, match="schema version 99"):
        ScoreModelFile(path)
