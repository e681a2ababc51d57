"""openmm-ml with our models: found by its entry point, the right masses, nothing hidden."""

import dataclasses
import logging
import subprocess
import sys
import warnings

import numpy as np
import openmm
import openmm.app as app
import pytest

from openmm_scoremd.errors import InvalidInputError, ModelFileError
from openmm_scoremd.model_file import ScoreModelFile

with warnings.catch_warnings():
    # Factories of other models warn about packages that they would like to have.
    warnings.simplefilter("ignore")
    from openmmml import MLPotential

BACKENDS = ["torchforce", "pythonforce"]
REFERENCE = "Reference"


def potential(toy, **options):
    return MLPotential("scoremd", modelPath=toy.path, **options)


def evaluate(system, positions, parameters=()):
    """Return energy in kJ/mol and forces (M, 3) in kJ/mol/nm."""
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(REFERENCE)
    )
    context.setPositions(positions)
    for name, value in dict(parameters).items():
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    return energy, np.array(state.getForces(asNumpy=True)._value)


def masses(system):
    return [system.getParticleMass(i)._value for i in range(system.getNumParticles())]


def removers(system):
    return sum(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())


def without_elements(topology):
    """Beads that stand for no single atom: openmm-ml gives them mass 0."""
    beads = app.Topology()
    residue = beads.addResidue("TOY", beads.addChain())
    for atom in topology.atoms():
        beads.addAtom(atom.name, None, residue)
    return beads


def test_importing_openmmml_loads_no_torch():
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); import openmmml\n"
        "assert 'openmm_scoremd.openmm_ml' in sys.modules, 'entry point not found'\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"torch", "mdtraj", "scipy"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("replicas", [1, 3])
def test_system_of_beads(toy, chain, backend, replicas):
    model = ScoreModelFile(toy.path)
    topology = without_elements(model.replica_topology(replicas))
    system = potential(toy).createSystem(topology, removeCMMotion=False, backend=backend)
    assert masses(system) == [*model.masses] * replicas
    assert system.getNumForces() == 1
    frames = chain(replicas, model.n_beads)
    energy, forces = evaluate(system, frames.reshape(-1, 3))
    assert energy == pytest.approx(model.potential_energy(frames).sum(), rel=1e-5)
    np.testing.assert_allclose(forces.reshape(frames.shape), model.forces(frames), rtol=1e-4)


def test_masses_are_those_of_the_model_and_not_of_the_elements(toy):
    model = ScoreModelFile(toy.path)
    system = potential(toy).createSystem(model.topology)
    assert masses(system) == list(toy.metadata.topology.masses)


def test_centre_of_mass_motion(toy, make_toy, caplog):
    model = ScoreModelFile(toy.path)
    caplog.set_level(logging.WARNING)
    # One molecule: openmm-ml's own default, which does no harm.
    assert removers(potential(toy).createSystem(model.topology)) == 1
    three = model.replica_topology(3)
    assert removers(potential(toy).createSystem(three, removeCMMotion=False)) == 0
    assert caplog.text == ""
    potential(toy).createSystem(three)
    assert "all 3 replicas together" in caplog.text
    # A particle in a potential fixed in space would not move at all.
    plane = make_toy("plane.pt", n_beads=1, n_dims=2)
    topology = ScoreModelFile(plane.path).topology
    with pytest.raises(InvalidInputError, match="removeCMMotion=False"):
        potential(plane).createSystem(topology)
    assert removers(potential(plane).createSystem(topology, removeCMMotion=False)) == 0


def test_the_remover_changes_nothing_inside_a_molecule(toy, chain):
    model = ScoreModelFile(toy.path)
    shapes = []
    for remove in (False, True):
        system = potential(toy).createSystem(model.topology, removeCMMotion=remove)
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
        integrator.setRandomNumberSeed(5)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(REFERENCE))
        context.setPositions(chain(1, model.n_beads)[0])
        integrator.step(200)
        positions = context.getState(positions=True).getPositions(asNumpy=True)._value
        shapes.append(positions - positions.mean(axis=0))
    np.testing.assert_allclose(shapes[0], shapes[1], atol=1e-5)


@pytest.fixture
def mixed(toy, chain):
    """A chain between two ordinary particles: topology, conventional System, positions, beads."""
    model = ScoreModelFile(toy.path)
    topology, system, bonds = app.Topology(), openmm.System(), openmm.HarmonicBondForce()
    chain_of_all = topology.addChain()
    for name in ("X", "TOY", "Y"):
        residue = topology.addResidue(name, chain_of_all)
        for atom in model.bead_topology.names if name == "TOY" else (name,):
            topology.addAtom(atom, app.element.carbon, residue)  # openmm-ml 1.8 needs some element
            system.addParticle(40.0)
    for i in range(5):
        bonds.addBond(i, i + 1, 0.2, 500.0)
    system.addForce(bonds)
    beads = chain(1, model.n_beads)[0]
    positions = np.concatenate([[[0.0, 0.5, 0.0]], beads, [[0.0, 0.0, 0.7]]])
    return topology, system, positions, model, beads


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_system(toy, mixed, backend):
    topology, system, positions, model, beads = mixed
    made = potential(toy).createMixedSystem(
        topology, system, range(1, 5), forceGroup=4, backend=backend
    )
    assert masses(made) == [40.0] * 6
    assert removers(made) == 0
    (force,) = (f for f in made.getForces() if f.getForceGroup() == 4)
    assert not force.usesPeriodicBoundaryConditions()
    outer = 0.0
    for i, j in ((0, 1), (4, 5)):
        outer += 250.0 * (np.linalg.norm(positions[i] - positions[j]) - 0.2) ** 2
    energy, _ = evaluate(made, positions)
    assert energy == pytest.approx(outer + model.potential_energy(beads), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_system_with_interpolation(toy, mixed, backend):
    topology, system, positions, _, _ = mixed
    made = potential(toy).createMixedSystem(
        topology, system, range(1, 5), interpolate=True, backend=backend
    )
    conventional, _ = evaluate(system, positions)
    plain, _ = evaluate(potential(toy).createMixedSystem(topology, system, range(1, 5)), positions)
    for strength in (0.0, 0.25, 1.0):
        energy, _ = evaluate(made, positions, {"lambda_interpolate": strength})
        expected = (1.0 - strength) * conventional + strength * plain
        assert energy == pytest.approx(expected, rel=1e-5)


# --- What does not fit -----------------------------------------------------------------------


def test_beads_in_another_order_are_refused(toy):
    topology = ScoreModelFile(toy.path).bead_topology
    beads = app.Topology()
    residue = beads.addResidue("TOY", beads.addChain())
    for name in reversed(topology.names):
        beads.addAtom(name, None, residue)
    with pytest.raises(InvalidInputError, match=r"bead 0 is B3 of TOY .* order of the beads is B0"):
        potential(toy).createSystem(beads)


def test_beads_of_another_residue_or_with_other_bonds_are_refused(toy):
    model = ScoreModelFile(toy.path)
    other = dataclasses.replace(model.bead_topology, residue_names=("VAL",) * 4)
    with pytest.raises(InvalidInputError, match="bead 0 is B0 of VAL and not B0 of TOY"):
        potential(toy).createSystem(other.to_openmm())
    ring = dataclasses.replace(model.bead_topology, bonds=((0, 1), (0, 3), (1, 2), (2, 3)))
    with pytest.raises(InvalidInputError, match="beads 0 and 3 are bonded"):
        potential(toy).createSystem(ring.to_openmm())
    # The second of two copies.
    two, names = model.replica_topology(2), {"B0": "X"}
    for atom in list(two.atoms())[4:]:
        atom.name = names.get(atom.name, atom.name)
    with pytest.raises(InvalidInputError, match="bead 0 is X of TOY and not B0 of TOY of copy 2"):
        potential(toy).createSystem(two)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [([1, 2, 3], "act on 3 atoms"), ([], "act on 0 atoms"), ([1, 2, 3, 9], "index 9")],
)
def test_other_numbers_of_atoms_are_refused(toy, mixed, atoms, message):
    topology, system, *_ = mixed
    with pytest.raises(InvalidInputError, match=message):
        potential(toy).createMixedSystem(topology, system, atoms)


def test_files_are_checked_before_anything_is_made(toy, tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.pt"):
        MLPotential("scoremd", modelPath=tmp_path / "absent.pt")
    with pytest.raises(ModelFileError, match="expected 00"):
        potential(toy, sha256="00" * 32)
    digest = ScoreModelFile(toy.path).sha256
    assert potential(toy, sha256=digest)


def test_misspelt_options_are_errors(toy):
    topology = ScoreModelFile(toy.path).topology
    with pytest.raises(TypeError, match="modelpath"):
        MLPotential("scoremd", modelpath=toy.path)
    with pytest.raises(TypeError, match="precision"):
        potential(toy).createSystem(topology, precision="double")
    with pytest.raises(InvalidInputError, match="backend is 'torch'"):
        potential(toy).createSystem(topology, backend="torch")
