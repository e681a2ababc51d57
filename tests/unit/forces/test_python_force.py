"""Explicit forces and the C++ kernel inside OpenMM, beside the network itself."""

import logging
import pickle

import numpy as np
import openmm
import pytest
import torch

from openmm_scoremd.artifact.exported import ExportedModel
from openmm_scoremd.artifact.loaded import loaded_model
from openmm_scoremd.artifact.metadata import read_archive
from openmm_scoremd.errors import MissingDependencyError, ModelFileError
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.forces.create import available_backends, create_force
from openmm_scoremd.forces.kernel.build import load_library
from openmm_scoremd.forces.kernel_force import KernelComputation, kernel_network
from openmm_scoremd.forces.python_force import ModelComputation, recorded
from openmm_scoremd.forces.torchforce import load_torchforce_plugin
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.units import thermal_energy

KT, SCALE = thermal_energy(310.0), 0.09


def missing(load):
    try:
        load()
    except MissingDependencyError as error:
        return str(error)
    return ""


def needs(load):
    return pytest.mark.skipif(bool(missing(load)), reason=missing(load))


needs_compiler, needs_torchforce = needs(load_library), needs(load_torchforce_plugin)
BACKENDS = [
    pytest.param("torchforce", marks=needs_torchforce),
    "pythonforce",
    pytest.param("kernel", marks=needs_compiler),
]


@pytest.fixture
def make_model(make_trained, tmp_path):
    """Return ``make(name, dtype)``: a trained network and its model file."""

    def make(name="graph", dtype="float64"):
        trained = make_trained(name)
        return trained, export_torchscript(trained, tmp_path / f"{name}.pt", dtype=dtype)

    return make


def frames(n_replicas, n_beads=5, seed=3):
    return np.random.default_rng(seed).normal(scale=0.1, size=(n_replicas, n_beads, 3))


def make_context(force, n_particles, *, integrator=None):
    system = openmm.System()
    for _ in range(n_particles):
        system.addParticle(12.0)
    system.addForce(force)
    integrator = integrator or openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    return openmm.Context(system, integrator, platform)


def evaluate(force, positions):
    context = make_context(force, positions.size // 3)
    context.setPositions(positions.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def expected_values(trained, positions):
    x = torch.from_numpy(positions) / SCALE
    times = torch.full((len(x),), 1e-5, dtype=torch.float64)
    energy, score = trained.model.double().energy_and_score(x, times)
    forces = KT / SCALE * score.detach().numpy().reshape(-1, 3)
    return KT * float(energy.detach().sum()), forces


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("name", ["graph", "graph-noise-level", "graph-one-layer"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_forces_in_openmm_are_those_of_the_network(make_model, name, dtype, tolerance, backend):
    trained, path = make_model(name, dtype)
    positions = frames(6, trained.description.topology.n_beads)
    energy, forces = evaluate(create_force(path, backend=backend), positions)
    expected_energy, expected = expected_values(trained, positions)
    assert energy == pytest.approx(expected_energy, rel=tolerance)
    np.testing.assert_allclose(forces, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_particles(make_model, backend):
    _, path = make_model()
    chosen = [3, 11, 0, 7, 5, 12, 2, 9, 8, 6]
    positions = frames(1, 13, seed=4)[0]
    beads = positions[chosen].reshape(2, 5, 3)
    energy, forces = evaluate(create_force(path, backend=backend, particles=chosen), positions)
    expected_energy, expected = evaluate(create_force(path, backend=backend), beads)
    assert energy == pytest.approx(expected_energy, rel=1e-12)
    np.testing.assert_allclose(forces[chosen], expected, rtol=1e-9, atol=1e-9)
    assert not forces[[1, 4, 10]].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_replica(make_model, backend):
    _, path = make_model(dtype="float32")
    positions = frames(6)
    force = create_force(path, backend=backend)
    _, before = evaluate(force, positions)
    positions[2, 1, 0] = np.nan
    _, after = evaluate(create_force(path, backend=backend), positions)
    before, after = before.reshape(6, 5, 3), after.reshape(6, 5, 3)
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(after[others], before[others])
    assert np.isnan(after[2]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_xml_round_trip(make_model, backend):
    _, path = make_model()
    positions = frames(2)
    energy, forces = evaluate(create_force(path, backend=backend), positions)
    xml = openmm.XmlSerializer.serialize(create_force(path, backend=backend))
    found = evaluate(openmm.XmlSerializer.deserialize(xml), positions)
    assert found[0] == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found[1], forces, rtol=1e-9, atol=1e-9)


@needs_torchforce
def test_torchforce_gets_explicit_forces_and_keeps_the_metadata(make_model):
    _, path = make_model()
    force = create_force(path, backend="torchforce")
    assert force.getOutputsForces()
    assert force.getModule().metadata == read_archive(path).metadata_json


def drift(path, backend):
    """Root mean square deviation of the total energy from its mean, kJ/mol, along 200 steps."""
    context = make_context(
        create_force(path, backend=backend), 20, integrator=openmm.VerletIntegrator(2e-5)
    )
    context.setPositions(frames(4).reshape(-1, 3))
    context.setVelocitiesToTemperature(310.0, 1)
    energies = []
    for _ in range(20):
        context.getIntegrator().step(10)
        state = context.getState(energy=True)
        energies.append(state.getPotentialEnergy()._value + state.getKineticEnergy()._value)
    return float(np.std(energies))


@pytest.mark.parametrize("backend", BACKENDS)
def test_energy_is_conserved_as_well_as_by_autograd(make_model, backend, monkeypatch, tmp_path):
    trained, path = make_model(dtype="float32")
    found = drift(path, backend)
    monkeypatch.setattr("openmm_scoremd.artifact.code_free.ExplicitModel", ExportedModel)
    plain = drift(export_torchscript(trained, tmp_path / "autograd.pt"), "pythonforce")
    assert found < 2.0 * plain + 1e-3


# --- Where the kernel cannot be used ---------------------------------------------------------


@needs_compiler
def test_compiled_is_not_something_else(make_model, caplog):
    _, path = make_model()
    with caplog.at_level(logging.INFO):
        force = create_force(path, backend="kernel")
    assert isinstance(force, openmm.PythonForce)
    assert "instead of" not in caplog.text
    assert "kernel" in available_backends(path)


@pytest.fixture
def no_compiler(monkeypatch):
    def fail(_name):
        raise MissingDependencyError("no C++ compiler found")

    monkeypatch.setattr("openmm_scoremd.forces.kernel.network.load_library", fail)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_portable_form_is_used(make_model, caplog):
    trained, path = make_model()
    positions = frames(2)
    force = create_force(path, backend="kernel")
    assert "'auto' is used instead of 'kernel': no C++ compiler found" in caplog.text
    expected = expected_values(trained, positions)[1]
    np.testing.assert_allclose(evaluate(force, positions)[1], expected, rtol=1e-9, atol=1e-9)
    assert "kernel" not in available_backends(path)


@pytest.mark.usefixtures("no_compiler")
def test_a_process_without_a_compiler_evaluates_forces_made_elsewhere(make_model, caplog):
    trained, path = make_model()
    positions = frames(2)
    made = KernelComputation(str(path), read_archive(path).sha256, (), "cpu")
    again = pickle.loads(pickle.dumps(made))  # noqa: S301
    _, forces = evaluate(openmm.PythonForce(again), positions)
    assert "torch is used instead of the C++ kernel" in caplog.text
    expected = expected_values(trained, positions)[1]
    np.testing.assert_allclose(forces, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["toy", "mlp"])
def test_other_models_fall_back(make_model, toy, chain, caplog, kind):
    path = toy.path if kind == "toy" else make_model("mlp-beads")[1]
    n_beads = read_archive(path).metadata.n_beads
    force = create_force(path, backend="kernel")
    assert "there are kernels of these only" in caplog.text
    assert np.isfinite(evaluate(force, chain(2, n_beads))[0])


@needs_compiler
def test_a_kernel_that_computes_something_else_is_not_used(make_model, monkeypatch, caplog):
    _, path = make_model()

    def broken(_self, frames, *, threads):
        return np.zeros(len(frames)), np.full(frames.shape, np.nan * threads)

    name = "openmm_scoremd.forces.kernel_force.NativeNetwork.energies_and_forces"
    monkeypatch.setattr(name, broken)
    with pytest.raises(ModelFileError, match=r"the C\+\+ kernel on .* does not reproduce its own"):
        kernel_network(loaded_model(path))
    assert not isinstance(create_force(path, backend="kernel"), KernelComputation)
    assert "does not reproduce its own" in caplog.text


@needs_compiler
def test_whole_simulations(make_model):
    _, path = make_model(dtype="float32")
    model = ScoreModelFile(path)
    system = model.create_system(replicas=3, backend="kernel")
    assert system.getNumParticles() == 15


def one_and_two(positions):
    return positions.sum(), -positions


STALE = one_and_two(torch.ones(4, 3))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (None, "operation not permitted"),
        (lambda x: (x.sum() + 1.0, -x), "something else"),
        (lambda x: (x.sum(), torch.full_like(x, torch.nan)), "something else"),
        # Recorded on another device, a graph is empty and leaves the results of the recording.
        (lambda _: STALE, "something else"),
    ],
)
def test_a_cuda_graph_that_fails_or_is_wrong_is_not_used(monkeypatch, caplog, graph, message):
    def captured(*_):
        if graph is None:
            raise RuntimeError("operation not permitted\nin many lines")
        return graph

    monkeypatch.setattr("openmm_scoremd.forces.python_force.captured", captured)
    assert recorded(one_and_two, torch.ones(4, 3)) is one_and_two
    assert message in caplog.text
    assert "in many lines" not in caplog.text


def test_a_cuda_graph_that_is_right_is_used(monkeypatch, caplog):
    def rounded(positions):
        energy, forces = one_and_two(positions)
        return energy, forces * (1.0 + 1e-6)

    monkeypatch.setattr("openmm_scoremd.forces.python_force.captured", lambda *_: rounded)
    # A replica that is broken already must not keep the others from it.
    positions = torch.randn(4, 3)
    positions[0] = torch.nan
    assert recorded(one_and_two, positions) is rounded
    assert not caplog.records


def test_a_cuda_graph_that_hides_a_broken_replica_is_not_used(monkeypatch):
    def healed(positions):
        return one_and_two(positions.nan_to_num())

    monkeypatch.setattr("openmm_scoremd.forces.python_force.captured", lambda *_: healed)
    positions = torch.ones(4, 3)
    assert recorded(one_and_two, positions) is healed
    positions[0] = torch.nan
    assert recorded(one_and_two, positions) is one_and_two


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_forces_by_a_cuda_graph_are_those_of_the_file(make_model, caplog):
    trained, path = make_model()
    evaluation = ModelComputation(str(path), "", (), "cuda").load(loaded_model(path))
    for seed in range(3):
        positions = frames(7, seed=seed)
        found = evaluation(positions.reshape(-1, 3), None)
        for one, other in zip(found, expected_values(trained, positions), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)
    assert "no CUDA graph" not in caplog.text
