import mdtraj
import numpy as np
import openmm
import openmm.app as app
import pytest
from openmm import unit

from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.settings import RunSettings


@pytest.fixture
def model(toy):
    return ScoreModelFile(toy.path)


def _simulation(model, replicas=5, **options):
    options = {"seed": 1, "platform": "Reference", **options}
    return ReplicaSimulation(model, replicas=replicas, **options)


def _temperature(replicas):
    """Kinetic temperature (K); half-step velocities, so a little below the thermostat's."""
    state = replicas.simulation.context.getState(energy=True)
    kinetic = state.getKineticEnergy() / unit.MOLAR_GAS_CONSTANT_R
    degrees = 3 * replicas.simulation.system.getNumParticles()
    return (2.0 / degrees * kinetic).value_in_unit(unit.kelvin)


def test_integrator_is_what_was_asked_for(model):
    replicas = _simulation(model, friction=2.0 / unit.picosecond, timestep=1.0 * unit.femtosecond)
    integrator = replicas.simulation.integrator
    assert isinstance(integrator, openmm.LangevinMiddleIntegrator)
    assert integrator.getTemperature()._value == 300.0
    assert integrator.getFriction()._value == pytest.approx(2.0)
    assert integrator.getStepSize()._value == pytest.approx(0.001)
    assert replicas.simulation.topology.getNumAtoms() == 20
    assert [f.getName() for f in replicas.simulation.system.getForces()][1:] == ["Molecules"]


def test_positions_go_in_and_come_out(model, chain):
    replicas = _simulation(model)
    frames = chain(5, 4)
    replicas.set_positions(frames)
    np.testing.assert_allclose(replicas.positions, frames, atol=1e-12)
    replicas.set_positions((10.0 * frames) * unit.angstrom)
    np.testing.assert_allclose(replicas.positions, frames, atol=1e-9)


def test_velocities_have_the_temperature_and_a_seed(model, chain):
    replicas, same = _simulation(model, 300), _simulation(model, 300)
    velocities = []
    for simulation in (replicas, same, replicas):
        simulation.set_positions(chain(300, 4))
        state = simulation.simulation.context.getState(velocities=True)
        velocities.append(np.array(state.getVelocities(asNumpy=True)._value))
    np.testing.assert_array_equal(velocities[0], velocities[1])
    assert np.abs(velocities[2] - velocities[0]).max() > 0.1
    assert _temperature(replicas) == pytest.approx(300.0, rel=0.05)


def test_ensemble_has_the_temperature_and_the_bond_lengths_of_theory(make_toy, chain):
    toy = make_toy(n_beads=2)
    replicas = _simulation(ScoreModelFile(toy.path), 400, friction=20.0, timestep=0.001)
    replicas.set_positions(chain(400, 2))
    replicas.step(1000)
    temperatures, lengths = [], []
    for _ in range(40):
        replicas.step(20)
        temperatures.append(_temperature(replicas))
        lengths.append(np.linalg.norm(np.diff(replicas.positions, axis=1), axis=-1))
    assert np.mean(temperatures) == pytest.approx(300.0, rel=0.03)
    # Density of a bond length is that of the harmonic well times r**2.
    kt, grid = 0.0083144626 * 300.0, np.linspace(0.01, 0.4, 4000)
    weights = grid**2 * np.exp(-0.5 * 2000.0 * (grid - 0.15) ** 2 / kt)
    mean = np.average(grid, weights=weights)
    deviation = np.sqrt(np.average((grid - mean) ** 2, weights=weights))
    assert np.mean(lengths) == pytest.approx(mean, rel=0.02)
    assert np.std(lengths) == pytest.approx(deviation, rel=0.05)


def test_same_seed_same_trajectory(model, chain):
    ends = []
    for seed in (1, 1, 2):
        replicas = _simulation(model, seed=seed)
        replicas.set_positions(chain(5, 4))
        replicas.step(20)
        ends.append(replicas.positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3


def test_replicas_do_not_influence_each_other(model, chain):
    ends = []
    for shift in (0.0, 0.05):
        frames = chain(5, 4)
        frames[2, 1] += shift
        replicas = _simulation(model)
        replicas.set_positions(frames)
        replicas.step(50)
        ends.append(replicas.positions)
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(ends[0][others], ends[1][others], atol=1e-12)
    assert np.abs(ends[0][2] - ends[1][2]).max() > 1e-3


def test_trajectories_are_what_was_simulated(model, toy, chain, tmp_path):
    replicas = _simulation(model, 2)
    replicas.set_positions(chain(2, 4))
    paths = replicas.add_trajectories(tmp_path, interval=5)
    replicas.add_reporter(app.DCDReporter(str(tmp_path / "all.dcd"), 5))
    replicas.step(10)
    assert replicas.current_step == 10
    together = mdtraj.load_dcd(
        str(tmp_path / "all.dcd"),
        top=mdtraj.Topology.from_openmm(replicas.simulation.topology),
    ).xyz.reshape(2, 2, 4, 3)
    topology = mdtraj.Topology.from_openmm(toy.metadata.topology.to_openmm())
    for replica, path in enumerate(paths):
        frames = mdtraj.load_dcd(str(path), top=topology).xyz
        np.testing.assert_allclose(frames.mean(axis=1), 0.0, atol=1e-6)
        shifted = together[:, replica] - together[:, replica].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(frames, shifted, atol=1e-5)


def test_frames_in_a_plane_are_not_centred(make_toy, tmp_path):
    toy = make_toy(n_beads=1, n_dims=2)
    replicas = _simulation(ScoreModelFile(toy.path), 3)
    replicas.set_positions(np.full((3, 1, 3), 0.05))
    paths = replicas.add_trajectories(tmp_path, interval=1)
    replicas.step(1)
    topology = mdtraj.Topology.from_openmm(toy.metadata.topology.to_openmm())
    stored = mdtraj.load_dcd(str(paths[1]), top=topology).xyz[0]
    np.testing.assert_allclose(stored, replicas.positions[1], atol=1e-6)
    assert np.abs(stored).max() > 0.01


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_nan_names_replica_and_step(model, chain, platform):
    replicas = _simulation(model, platform=platform)
    replicas.set_positions(chain(5, 4))
    replicas.step(3)
    positions = replicas.positions
    positions[3, 2] = np.nan
    replicas.simulation.context.setPositions(positions.reshape(-1, 3))
    with pytest.raises(NumericalError, match=r"1 of 5 replicas .* at step \d+: replica 3;"):
        replicas.step(4)


def test_other_errors_of_openmm_are_not_hidden(model, chain, monkeypatch):
    replicas = _simulation(model)
    replicas.set_positions(chain(5, 4))

    def fail(_steps):
        raise openmm.OpenMMException("out of memory")

    monkeypatch.setattr(replicas.simulation, "step", fail)
    with pytest.raises(openmm.OpenMMException, match="out of memory"):
        replicas.step(1)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 4, 3)), r"5 replicas need \(5, 4, 3\)"),
        (np.zeros((4, 3)), r"5 replicas need \(5, 4, 3\)"),
        (np.zeros((5, 3, 3)), "4 beads"),
        (np.full((5, 4, 3), np.nan), "60 coordinates are NaN"),
    ],
)
def test_bad_frames(model, frames, message):
    with pytest.raises(InvalidInputError, match=message):
        _simulation(model).set_positions(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": 0.0}, "must be positive"),
        ({"timestep": 0.0}, "timestep is 0.0 ps"),
        ({"timestep": float("inf")}, "timestep is inf"),
        ({"timestep": 2.0 * unit.nanometer}, "wrong dimension"),
        ({"friction": 0.0}, "friction is 0.0"),
        ({"friction": -1.0}, "friction is -1.0"),
        ({"friction": float("nan")}, "friction is nan"),
        ({"friction": 1.0 * unit.picosecond}, "wrong dimension"),
        ({"platform": "Abacus"}, r"'Abacus'; this OpenMM has Reference"),
        ({"backend": "magic"}, "backend is 'magic'"),
    ],
)
def test_bad_options(model, options, message):
    with pytest.raises(InvalidInputError, match=message):
        _simulation(model, **options)


def test_platform_that_cannot_run_the_force(model, monkeypatch):
    def fail(*_args):
        raise openmm.OpenMMException("no compatible device")

    monkeypatch.setattr("openmm.app.Simulation", fail)
    with pytest.raises(InvalidInputError, match=r"platform Reference: no compatible device"):
        _simulation(model)


def test_another_temperature_is_explained(model, caplog):
    replicas = _simulation(model, temperature=320.0 * unit.kelvin)
    assert replicas.temperature == 320.0
    assert replicas.simulation.integrator.getTemperature()._value == 320.0
    assert "320 K, the model 300 K" in caplog.text


def test_scaled_potential_has_the_width_of_theory(two_wells, caplog):
    # Far out in the well on the left the other one does not matter; y is a harmonic oscillator.
    model = ScoreModelFile(two_wells())
    replicas = _simulation(model, 400, friction=20.0, timestep=0.004, potential_factor=0.5)
    assert "scaled by 0.5, as if its temperature were 620 K" in caplog.text
    frames = np.zeros((400, 1, 3))
    frames[:, 0, 0] = -0.09
    replicas.set_positions(frames)
    squares = {}
    for scale in (0.5, 4.0):
        replicas.potential_factor = scale
        assert replicas.potential_factor == scale
        replicas.step(400)
        heights = []
        for _ in range(30):
            replicas.step(20)
            heights.append(replicas.positions[:, 0, 1])
        squares[scale] = np.mean(np.square(heights))
    width = 0.2 * 0.09
    assert squares[0.5] == pytest.approx(width**2 / 0.5, rel=0.05)
    assert squares[4.0] == pytest.approx(width**2 / 4.0, rel=0.05)


def test_energies_with_factor_and_time(two_wells):
    model = ScoreModelFile(two_wells())
    frames = np.random.default_rng(0).normal(scale=0.05, size=(3, 1, 3))
    plain = _simulation(model, 3)
    np.testing.assert_array_equal(plain.model_energies(frames), model.potential_energy(frames))
    assert (plain.potential_factor, plain.diffusion_time) == (1.0, 1e-5)
    changed = _simulation(model, 3, diffusion_time=0.1)
    changed.potential_factor = 0.5
    for t in (0.1, 0.2):
        changed.diffusion_time = t
        assert changed.diffusion_time == t
        expected = 0.5 * model.potential_energy(frames, t=t)
        np.testing.assert_allclose(changed.model_energies(frames), expected)
        changed.set_positions(frames)
        energy = changed.simulation.context.getState(energy=True).getPotentialEnergy()._value
        assert energy == pytest.approx(expected.sum(), rel=1e-5)


def test_parameters_that_are_not_there(two_wells):
    model = ScoreModelFile(two_wells())
    plain, scaled = _simulation(model), _simulation(model, potential_factor=1.0)
    with pytest.raises(InvalidInputError, match="has no such parameter"):
        plain.potential_factor = 0.5
    with pytest.raises(InvalidInputError, match="has no such parameter"):
        scaled.diffusion_time = 0.1
    with pytest.raises(InvalidInputError, match="must be positive"):
        scaled.potential_factor = -1.0
    with pytest.raises(InvalidInputError, match="no energy at diffusion time 2"):
        _simulation(model, diffusion_time=2.0)


def test_molecules_are_declared_and_cost_no_step(toy):
    simulation = ReplicaSimulation(
        ScoreModelFile(toy.path), replicas=3, platform="Reference", seed=1
    )
    context = simulation.simulation.context
    assert [len(molecule) for molecule in context.getMolecules()] == [simulation.model.n_beads] * 3
    springs = next(f for f in context.getSystem().getForces() if f.getName() == "Molecules")
    groups = simulation.simulation.integrator.getIntegrationForceGroups()
    assert not groups & (1 << springs.getForceGroup())


def test_forces_in_the_group_of_the_molecules_act(toy):
    def pull(system, replicas):
        force = openmm.CustomExternalForce("100*z")
        force.setForceGroup(31)
        for particle in (bead for beads in replicas for bead in beads):
            force.addParticle(particle)
        system.addForce(force)

    simulation = ReplicaSimulation(
        ScoreModelFile(toy.path), replicas=2, platform="Reference", seed=1, prepare_system=pull
    )
    simulation.set_positions(simulation.model.sample(2, seed=1))
    before = simulation.positions[..., 2].mean()
    simulation.step(50)
    assert simulation.positions[..., 2].mean() < before - 0.01


def test_the_former_name_of_the_factor(two_wells):
    model = ScoreModelFile(two_wells())
    with pytest.warns(
        FutureWarning, match="potential_scale is now ReplicaSimulation.potential_fac"
    ):
        simulation = _simulation(model, potential_scale=0.5)
    with pytest.warns(FutureWarning):
        assert simulation.potential_scale == simulation.potential_factor == 0.5
    with pytest.warns(FutureWarning):
        simulation.potential_scale = 2.0
    assert simulation.potential_factor == 2.0
    with pytest.warns(FutureWarning, match="RunSettings.potential_scale is now"):
        settings = RunSettings(potential_scale=0.5)
    assert settings == RunSettings(potential_factor=0.5)
    content = settings.to_dict()
    content["potential_scale"] = content.pop("potential_factor")
    assert RunSettings.from_dict(content) == settings
