import gc
import itertools
import logging
import pickle
import subprocess
import sys
from typing import get_args

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from openmm_scoremd.errors import InvalidInputError, MissingDependencyError, ModelFileError
from openmm_scoremd.forces.create import (
    BACKENDS as REGISTERED,
)
from openmm_scoremd.forces.create import (
    FORCE_NAME,
    create_force,
)
from openmm_scoremd.forces.options import Backend
from openmm_scoremd.forces.python_force import ModelComputation
from openmm_scoremd.forces.torchforce import load_torchforce_plugin


def _torchforce_problem():
    try:
        load_torchforce_plugin()
    except MissingDependencyError as error:
        return str(error)
    return ""


def _usable_platforms():
    for index in range(openmm.Platform.getNumPlatforms()):
        platform = openmm.Platform.getPlatform(index)
        system = openmm.System()
        system.addParticle(1.0)
        try:
            openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        except openmm.OpenMMException:
            continue
        yield platform.getName()


PROBLEM = _torchforce_problem()
needs_torchforce = pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM)
BACKENDS = [pytest.param("torchforce", marks=needs_torchforce), "pythonforce"]
PLATFORMS = list(_usable_platforms())


def _system(n_particles, *forces):
    system = openmm.System()
    for _ in range(n_particles):
        system.addParticle(12.0)
    for force in forces:
        system.addForce(force)
    return system


def _evaluate(system, positions, *, platform="Reference", groups=-1):
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName(platform),
    )
    context.setPositions(positions.reshape(-1, 3))
    state = context.getState(energy=True, forces=True, groups=groups)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True)
    return energy, np.array(forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer))


def _bonds(toy, beads):
    """The toy's energy as an OpenMM force; OpenMM's k is that of k/2 (r - r0)**2, too."""
    force = openmm.HarmonicBondForce()
    for first, second in itertools.pairwise(beads):
        force.addBond(first, second, float(toy.module.length), float(toy.module.stiffness))
    return force


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["single", "double"]
)
def test_energy_and_forces_are_those_of_openmms_bonds(
    make_toy, chain, platform, backend, dtype, tolerance
):
    toy = make_toy(dtype=dtype)
    frames = chain(7, 4) + np.arange(7)[:, None, None]
    system = _system(28, create_force(toy.path, backend=backend))
    energy, forces = _evaluate(system, frames, platform=platform)
    bonds = [_bonds(toy, range(4 * r, 4 * r + 4)) for r in range(7)]
    expected_energy, expected = _evaluate(_system(28, *bonds), frames)
    if platform not in ("Reference", "CPU"):
        tolerance = 1e-5  # Positions reach the model in single precision.
    assert energy == pytest.approx(expected_energy, rel=tolerance)
    np.testing.assert_allclose(forces, expected, atol=tolerance * np.abs(expected).max())


@needs_torchforce
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["single", "double"]
)
def test_backends_agree(make_toy, chain, platform, dtype, tolerance):
    toy = make_toy(dtype=dtype)
    (energy, forces), (other_energy, other_forces) = (
        _evaluate(
            _system(40, create_force(toy.path, backend=backend)), chain(10, 4), platform=platform
        )
        for backend in ("torchforce", "pythonforce")
    )
    assert energy == pytest.approx(other_energy, rel=tolerance)
    np.testing.assert_allclose(forces, other_forces, atol=tolerance * np.abs(forces).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_forces_are_the_gradient_of_the_energy(make_toy, chain, backend):
    toy = make_toy(dtype=torch.float64)
    system = _system(8, create_force(toy.path, backend=backend))
    positions = chain(2, 4).reshape(-1, 3)
    _, forces = _evaluate(system, positions)
    h = 1e-5
    for particle, axis in [(0, 0), (2, 1), (5, 2), (7, 0)]:
        shift = np.zeros_like(positions)
        shift[particle, axis] = h
        above, _ = _evaluate(system, positions + shift)
        below, _ = _evaluate(system, positions - shift)
        assert forces[particle, axis] == pytest.approx(-(above - below) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_translation_does_not_matter(toy, chain, backend):
    system = _system(4, create_force(toy.path, backend=backend))
    energy, forces = _evaluate(system, chain(1, 4))
    far_energy, far_forces = _evaluate(system, chain(1, 4) + np.array([1e4, -3e3, 2.0]))
    assert far_energy == pytest.approx(energy, rel=1e-6)
    np.testing.assert_allclose(far_forces, forces, atol=1e-5 * np.abs(forces).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", ["moved", "nan"])
def test_one_replica_does_not_touch_the_others(toy, chain, backend, change):
    system = _system(20, create_force(toy.path, backend=backend))
    frames = chain(5, 4)
    _, before = _evaluate(system, frames)
    frames[3, 1] = np.nan if change == "nan" else frames[3, 1] + 0.1
    _, after = _evaluate(system, frames)
    others = [r for r in range(5) if r != 3]
    np.testing.assert_array_equal(after.reshape(5, 4, 3)[others], before.reshape(5, 4, 3)[others])
    assert not np.allclose(after.reshape(5, 4, 3)[3], before.reshape(5, 4, 3)[3])


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_some_particles_beside_ordinary_forces(toy, chain, backend, platform):
    beads, others = [9, 1, 6, 4, 0, 3, 2, 8], [5, 7, 10]
    positions = np.random.default_rng(1).uniform(0.0, 2.0, size=(11, 3))
    positions[beads] = chain(2, 4).reshape(-1, 3) + np.repeat([[0.0] * 3, [1.0] * 3], 4, axis=0)

    def ordinary():
        bonds = openmm.HarmonicBondForce()
        bonds.addBond(5, 7, 0.3, 500.0)
        nonbonded = openmm.NonbondedForce()
        for index in range(11):
            nonbonded.addParticle(0.1 * (-1) ** index, 0.2, 0.5)
        return bonds, nonbonded

    system = _system(11, *ordinary())
    force = create_force(
        toy.path, particles=np.array(beads), backend=backend, system=system, force_group=5
    )
    system.addForce(force)
    energy, forces = _evaluate(system, positions, platform=platform)
    model_energy, model_forces = _evaluate(system, positions, platform=platform, groups={5})
    rest_energy, rest_forces = _evaluate(_system(11, *ordinary()), positions, platform=platform)
    toy_forces = (_bonds(toy, beads[:4]), _bonds(toy, beads[4:]))
    expected_energy, expected = _evaluate(_system(11, *toy_forces), positions)

    scale = np.abs(forces).max()
    assert model_energy == pytest.approx(expected_energy, rel=1e-5)
    np.testing.assert_allclose(model_forces, expected, atol=1e-5 * scale)
    assert not model_forces[others].any()
    assert energy == pytest.approx(model_energy + rest_energy, rel=1e-5)
    np.testing.assert_allclose(forces, model_forces + rest_forces, atol=1e-5 * scale)


READ_SYSTEM = """
import openmm
import numpy as np
from openmm_scoremd.forces.torchforce import load_torchforce_plugin
if {torchforce}:
    load_torchforce_plugin()
system = openmm.XmlSerializer.deserialize(open({xml!r}).read())
context = openmm.Context(system, openmm.VerletIntegrator(0.001),
                         openmm.Platform.getPlatformByName("Reference"))
context.setPositions(np.load({positions!r}))
state = context.getState(energy=True, forces=True)
np.savez({out!r}, energy=state.getPotentialEnergy()._value,
         forces=state.getForces(asNumpy=True)._value, group=system.getForce(0).getForceGroup())
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("particles", [None, [4, 2, 0, 1]], ids=["all", "some"])
def test_xml_in_another_process_that_imports_openmm_first(toy, chain, tmp_path, backend, particles):
    n_particles = 8 if particles is None else 6
    positions = chain(2, 4).reshape(-1, 3)[:n_particles]
    force = create_force(toy.path, backend=backend, particles=particles, force_group=3)
    system = _system(n_particles, force)
    energy, forces = _evaluate(system, positions)

    xml, out = tmp_path / "system.xml", tmp_path / "out.npz"
    xml.write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", positions)
    script = READ_SYSTEM.format(
        torchforce=backend == "torchforce",
        xml=str(xml),
        positions=str(tmp_path / "positions.npy"),
        out=str(out),
    )
    process = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=120, capture_output=True, text=True
    )
    assert "simtk" not in process.stderr
    result = np.load(out)
    assert float(result["energy"]) == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(result["forces"], forces, rtol=1e-12)
    assert int(result["group"]) == 3


@needs_torchforce
def test_xml_of_a_torchforce_holds_the_metadata(toy):
    system = _system(4, create_force(toy.path, backend="torchforce"))
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    force = load_torchforce_plugin().TorchForce.cast(again.getForce(0))
    assert force.getModule().metadata == toy.metadata.to_json()
    assert not again.getForce(0).usesPeriodicBoundaryConditions()


def test_pythonforce_pickles_settings_and_no_model(toy, chain):
    system = _system(4, create_force(toy.path, backend="pythonforce"))
    _evaluate(system, chain(1, 4))
    assert len(openmm.XmlSerializer.serialize(system)) < 1500
    computation = ModelComputation(str(toy.path), "0" * 64, (1, 2), "cpu")
    again = pickle.loads(pickle.dumps(computation))  # noqa: S301
    assert again.__reduce__() == computation.__reduce__()


def test_pythonforce_refuses_a_file_that_changed(toy, make_toy, chain):
    system = _system(4, create_force(toy.path, backend="pythonforce"))
    xml = openmm.XmlSerializer.serialize(system)
    del system  # the model it was made from, which would still be used
    gc.collect()
    make_toy(title="another one")
    system = openmm.XmlSerializer.deserialize(xml)
    with pytest.raises(openmm.OpenMMException, match=r"SHA-256.*expected"):
        _evaluate(system, chain(1, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_energy_is_conserved(make_toy, chain, backend):
    toy = make_toy(dtype=torch.float64)
    context = openmm.Context(
        _system(20, create_force(toy.path, backend=backend)),
        openmm.VerletIntegrator(0.0005),
        openmm.Platform.getPlatformByName("Reference"),
    )
    context.setPositions(chain(5, 4).reshape(-1, 3))
    context.setVelocitiesToTemperature(300.0, 1)

    def total():
        state = context.getState(energy=True)
        return (state.getPotentialEnergy() + state.getKineticEnergy())._value

    energies = []
    for _ in range(20):
        context.getIntegrator().step(20)
        energies.append(total())
    assert np.ptp(energies) < 0.01 * np.mean(energies)


@pytest.mark.parametrize("failure", [ImportError("gone"), OSError("libnvrtc.so.12")])
def test_pythonforce_takes_over_where_openmmtorch_is_missing(
    toy, chain, monkeypatch, caplog, failure
):
    def fail(_name):
        raise failure

    monkeypatch.setattr("openmm_scoremd.forces.create._SAID", set())
    monkeypatch.setattr("importlib.import_module", fail)
    with caplog.at_level(logging.WARNING):
        force = create_force(toy.path)
        create_force(toy.path)
    assert isinstance(force, openmm.PythonForce)
    (line,) = caplog.messages  # once is enough
    assert line.startswith("PythonForce is used instead of TorchForce")
    assert str(failure) in line
    assert _evaluate(_system(4, force), chain(1, 4))[0] > 0.0
    with pytest.raises(MissingDependencyError, match="backend='pythonforce'"):
        create_force(toy.path, backend="torchforce")


class Wheel:
    """The installed openmmtorch, as importlib.metadata shows it."""

    version = "1.5"

    def __init__(self, installer):
        self._installer = installer

    def read_text(self, _name):
        return f"{self._installer}\n"


@pytest.mark.parametrize(("installer", "imported"), [("pip", False), ("conda", True)])
def test_wheels_are_not_even_imported_with_a_torch_that_they_crash_with(
    toy, monkeypatch, installer, imported
):
    names = []

    def fail(name):
        names.append(name)
        raise ImportError(name)

    monkeypatch.setattr("torch.__version__", "2.8.0")
    monkeypatch.setattr("importlib.metadata.distribution", lambda _name: Wheel(installer))
    monkeypatch.setattr("importlib.import_module", fail)
    assert isinstance(create_force(toy.path), openmm.PythonForce)
    assert names == (["openmmtorch"] if imported else [])
    if not imported:
        with pytest.raises(MissingDependencyError, match=r"needs torch 2\.9, found 2\.8\.0"):
            create_force(toy.path, backend="torchforce")


@needs_torchforce
def test_torchforce_is_the_default(toy, caplog):
    with caplog.at_level(logging.WARNING):
        force = create_force(toy.path)
    assert isinstance(force, load_torchforce_plugin().TorchForce)
    assert force.getName() == FORCE_NAME
    assert not caplog.text


@needs_torchforce
@pytest.mark.parametrize(("choice", "expected"), [("on", "true"), ("off", "false")])
def test_cuda_graphs_property(toy, choice, expected):
    force = create_force(toy.path, cuda_graphs=choice)
    assert dict(force.getProperties())["useCUDAGraphs"] == expected


@needs_torchforce
@pytest.mark.parametrize("available", [True, False])
def test_cuda_graphs_are_automatic_only_with_cuda(toy, monkeypatch, available):
    class Cuda:
        def getName(self):  # noqa: N802
            return "CUDA"

    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.setattr("openmm_scoremd.forces.torchforce._platforms", lambda: iter([Cuda()]))
    force = create_force(toy.path)
    assert dict(force.getProperties())["useCUDAGraphs"] == str(available).lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "backend is 'cuda'; it must be one of auto, torchforce"),
        ({"cuda_graphs": "maybe"}, "cuda_graphs is 'maybe'"),
        ({"force_group": 32}, "groups 0 to 31"),
        ({"device": "cuda:99", "backend": "pythonforce"}, "cuda:99"),
        ({"device": "cpu", "backend": "torchforce"}, "computes where OpenMM does"),
        ({"particles": []}, "particles is empty"),
        ({"particles": [0, 1, 2]}, r"3 particles; the model has 4 beads"),
        ({"particles": [0, 1, 2, 2]}, "different, non-negative"),
        ({"particles": [0, 1, 2, -1]}, "different, non-negative"),
        ({"system": _system(6)}, r"6 particles; the model has 4 beads"),
        ({"system": _system(0)}, r"0 particles"),
        ({"system": _system(6), "particles": [0, 1, 2, 6]}, "index 6; the System has 6"),
    ],
)
def test_bad_options(toy, options, message):
    with pytest.raises(InvalidInputError, match=message):
        create_force(toy.path, **options)


def test_fractional_particles_are_not_rounded(toy):
    with pytest.raises(TypeError):
        create_force(toy.path, particles=[0, 1, 2, 3.5])


def test_periodic_systems_are_refused(toy):
    nonbonded = openmm.NonbondedForce()
    for _ in range(4):
        nonbonded.addParticle(0.0, 0.1, 0.0)
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    with pytest.raises(InvalidInputError, match="periodic"):
        create_force(toy.path, system=_system(4, nonbonded))


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_particle_number_without_a_system_to_look_at(toy, chain, backend):
    system = _system(6, create_force(toy.path, backend=backend))
    # In a TorchForce it is the module that complains.
    subject = "the force would act on " if backend == "pythonforce" else ""
    with pytest.raises(openmm.OpenMMException, match=rf"{subject}6 particles.* multiple of 4"):
        _evaluate(system, chain(2, 3))


def test_bad_files(toy, tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        create_force(tmp_path / "absent.pt")
    with pytest.raises(ModelFileError, match="SHA-256"):
        create_force(toy.path, sha256="0" * 64)


def test_every_backend_is_registered_by_a_name_that_options_know():
    assert {"auto", *REGISTERED} == set(get_args(Backend))
    for name, backend in REGISTERED.items():
        assert backend.name == name


def test_the_old_name_of_the_kernel_still_works(toy):
    with pytest.warns(FutureWarning, match="'kernel'"):
        force = create_force(toy.path, backend="compiled")
    assert isinstance(force, openmm.Force)


def test_a_device_is_a_reason_for_a_pythonforce(toy, caplog):
    with caplog.at_level(logging.WARNING):
        force = create_force(toy.path, device="cpu")
    assert isinstance(force, openmm.PythonForce)
    assert "PythonForce is used instead of TorchForce: device is 'cpu'" in caplog.text


def test_the_device_of_a_pythonforce_is_the_one_asked_for(toy, chain, monkeypatch):
    # As if there were a GPU: it is not asked.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    system = _system(4, create_force(toy.path, backend="pythonforce", device="cpu"))
    assert np.isfinite(_evaluate(system, chain(1, 4))[0])
    with pytest.raises(InvalidInputError, match="'cuda' cannot be used"):
        create_force(toy.path, backend="pythonforce")
