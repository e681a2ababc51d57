import numpy as np
import openmm
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.simulation.replicas import ReplicaSimulation


def make_forces():
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 3, 0.5, 800.0)
    distance = openmm.CustomBondForce("k*(r-0.3)^4")
    distance.addGlobalParameter("k", 50.0)
    distance.addBond(1, 3, [])
    angle = openmm.HarmonicAngleForce()
    angle.addAngle(0, 1, 2, 2.0, 90.0)
    torsion = openmm.PeriodicTorsionForce()
    torsion.addTorsion(0, 1, 2, 3, 2, 0.3, 7.0)
    restraint = openmm.CustomExternalForce("c*((x-x0)^2+y^2)")
    restraint.addPerParticleParameter("c")
    restraint.addPerParticleParameter("x0")
    restraint.addParticle(2, [30.0, 0.1])
    return [bond, distance, angle, torsion, restraint]


def total_forces(model, frames, prepare_system):
    simulation = ReplicaSimulation(
        model, replicas=len(frames), seed=1, platform="Reference", prepare_system=prepare_system
    )
    simulation.set_positions(frames)
    state = simulation.simulation.context.getState(forces=True)
    return np.array(state.getForces(asNumpy=True)._value).reshape(frames.shape)


@pytest.mark.parametrize("index", range(5))
def test_every_replica_feels_what_one_alone_would(toy, chain, index):
    model, frames = ScoreModelFile(toy.path), chain(3, 4)
    prepare = replicated([make_forces()[index]])
    together = total_forces(model, frames, prepare)
    plain = total_forces(model, frames, None)
    assert np.abs(together - plain).max(axis=(1, 2)).min() > 1e-3
    for replica in range(3):
        alone = total_forces(model, frames[replica : replica + 1], prepare)
        np.testing.assert_allclose(together[replica], alone[0], rtol=1e-5, atol=1e-3)


def test_forces_given_stay_as_they_were(toy):
    force = make_forces()[0]
    for _ in range(2):
        simulation = ReplicaSimulation(
            ScoreModelFile(toy.path), replicas=3, seed=1, prepare_system=replicated([force])
        )
    assert force.getNumBonds() == 1
    assert simulation.simulation.system.getForce(2).getNumBonds() == 3


def test_hash_tells_forces_apart(toy):
    model = ScoreModelFile(toy.path)
    hashes = [
        ReplicaSimulation(model, replicas=2, seed=1, prepare_system=prepare).added_forces_sha256
        for prepare in (None, *(replicated([force]) for force in make_forces()))
    ]
    assert hashes[0] == ""
    assert len({*hashes}) == 6


def test_unknown_forces_and_beads(toy):
    with pytest.raises(InvalidInputError, match="CustomCVForce cannot be replicated"):
        replicated([openmm.CustomCVForce("0")])
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 4, 0.5, 800.0)
    with pytest.raises(InvalidInputError, match="acts on bead 4; a molecule has 4 beads"):
        ReplicaSimulation(
            ScoreModelFile(toy.path), replicas=3, seed=1, prepare_system=replicated([bond])
        )


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda system, _: system.addParticle(1.0), "left 9 particles"),
        (
            lambda system, _: system.addForce(periodic()),
            "periodic boundaries",
        ),
    ],
)
def test_what_may_not_be_added(toy, prepare, message):
    with pytest.raises(InvalidInputError, match=message):
        ReplicaSimulation(ScoreModelFile(toy.path), replicas=2, seed=1, prepare_system=prepare)


def periodic():
    force = openmm.HarmonicBondForce()
    force.setUsesPeriodicBoundaryConditions(True)
    return force
