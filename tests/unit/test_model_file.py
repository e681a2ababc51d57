import numpy as np
import openmm
import openmm.app as app
import pytest
import torch
from openmm import unit

from openmm_scoremd.artifact.metadata import SelfTest
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError, ModelFileError, NumericalError
from openmm_scoremd.model_file import ScoreModelFile, frames_in_nanometers
from openmm_scoremd.sampling import reverse_diffusion

SPREAD = 0.5  # Standard deviation of the toy's standardised coordinates.


@pytest.fixture
def model(toy):
    return ScoreModelFile(toy.path)


def test_attributes(model, toy):
    assert model.path == toy.path
    assert model.metadata.to_json() == toy.metadata.to_json()
    assert model.bead_topology == toy.metadata.topology
    assert model.n_beads == 4
    assert model.temperature == 300.0
    np.testing.assert_array_equal(model.masses, [12.0, 13.0, 14.0, 15.0])
    assert model.topology.getNumAtoms() == 4
    assert model.replica_topology(3).getNumAtoms() == 12
    assert model.replica_topology(3).getNumBonds() == 9


def test_energies_and_forces_of_one_and_many_frames(model, chain):
    frames = chain(3, 4)
    bonds = np.linalg.norm(np.diff(frames, axis=1), axis=-1)
    expected = 0.5 * 2000.0 * ((bonds - 0.15) ** 2).sum(axis=1)
    np.testing.assert_allclose(model.potential_energy(frames), expected, rtol=1e-5)
    assert model.potential_energy(frames[1]).shape == ()
    assert float(model.potential_energy(frames[1])) == pytest.approx(expected[1], rel=1e-5)

    forces = model.forces(frames)
    assert forces.dtype == np.float64
    np.testing.assert_allclose(model.forces(frames[1]), forces[1])
    np.testing.assert_allclose(forces.sum(axis=1), 0.0, atol=1e-3)
    end = 2000.0 * (bonds[:, 0] - 0.15)[:, None] * (frames[:, 1] - frames[:, 0])
    np.testing.assert_allclose(forces[:, 0], end / bonds[:, :1], rtol=1e-4, atol=1e-3)


def test_quantities_are_converted(model, chain):
    frame = chain(1, 4)[0]
    in_angstrom = (10.0 * frame) * unit.angstrom
    assert model.potential_energy(in_angstrom) == pytest.approx(
        float(model.potential_energy(frame)), rel=1e-9
    )


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((3, 3)), "4 beads"),
        (np.zeros((2, 4, 2)), "4 beads"),
        (np.zeros(12), "4 beads"),
        ([[1.0, 2.0], [3.0]], "not an array of numbers"),
        (np.full((4, 3), np.nan), "12 coordinates are NaN"),
        (np.full((4, 3), np.inf), "12 coordinates are NaN or infinite"),
    ],
)
def test_bad_positions(model, positions, message):
    for method in (model.potential_energy, model.forces):
        with pytest.raises(InvalidInputError, match=message):
            method(positions)


def test_positions_are_copied(chain):
    frames = chain(1, 4)
    checked = frames_in_nanometers(frames, 4)
    checked += 1.0
    assert frames.max() < 1.0


@pytest.mark.parametrize("backend", ["auto", "pythonforce"])
def test_system(model, chain, backend):
    system = model.create_system(replicas=3, backend=backend)
    masses = [system.getParticleMass(i)._value for i in range(system.getNumParticles())]
    assert masses == [12.0, 13.0, 14.0, 15.0] * 3
    assert [force.getName() for force in system.getForces()][1:] == ["Molecules"]
    assert not system.usesPeriodicBoundaryConditions()
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    frames = chain(3, 4)
    context.setPositions(frames.reshape(-1, 3))
    energy = context.getState(energy=True).getPotentialEnergy()._value
    assert energy == pytest.approx(model.potential_energy(frames).sum(), rel=1e-6)


def test_molecules_stay_whole_in_a_periodic_box(model, chain):
    """A restraint with periodic distances makes the System periodic, and reporters wrap."""
    system = model.create_system(replicas=2)
    restraint = openmm.CustomExternalForce("100*periodicdistance(x, y, z, 1, 1, 1)^2")
    restraint.addParticle(0, [])
    system.addForce(restraint)
    assert system.usesPeriodicBoundaryConditions()
    integrator = openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    assert [list(molecule) for molecule in context.getMolecules()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    frames = chain(2, 4)  # across a wall of the box
    context.setPositions(frames.reshape(-1, 3))
    state = context.getState(positions=True, enforcePeriodicBox=True)
    wrapped = state.getPositions(asNumpy=True)._value.reshape(2, 4, 3)
    np.testing.assert_allclose(np.diff(wrapped, axis=1), np.diff(frames, axis=1), atol=1e-12)


def test_a_twin_that_nobody_called(model, chain, monkeypatch):
    monkeypatch.setattr("openmm_scoremd.model_file.read_archive", None)
    twin = model.uncalled()
    assert twin._module is not model._module
    np.testing.assert_array_equal(
        twin.potential_energy(chain(2, 4)), model.potential_energy(chain(2, 4))
    )


def test_the_script_of_the_readme(model, tmp_path):
    system = model.create_system(replicas=1)
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, 2 * unit.femtoseconds
    )
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(model.topology, system, integrator, platform)
    simulation.context.setPositions(model.sample(1, seed=1, n_steps=50)[0])
    simulation.reporters.append(app.DCDReporter(str(tmp_path / "traj.dcd"), 5))
    simulation.step(10)
    assert (tmp_path / "traj.dcd").stat().st_size > 100


@pytest.mark.parametrize("replicas", [0, -1])
def test_no_replicas(model, replicas):
    with pytest.raises(InvalidInputError, match=f"replicas is {replicas}"):
        model.create_system(replicas=replicas)


def test_create_force_passes_its_options_on(model):
    system = openmm.System()
    for _ in range(6):
        system.addParticle(1.0)
    with pytest.raises(InvalidInputError, match="6 particles"):
        model.create_force(system=system)
    force = model.create_force(
        system=system, particles=[5, 4, 3, 2], backend="pythonforce", force_group=7
    )
    assert isinstance(force, openmm.PythonForce)
    assert force.getForceGroup() == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_have_the_known_distribution(make_toy, dtype):
    toy = make_toy(n_beads=2, dtype=dtype)
    frames = ScoreModelFile(toy.path).sample(4000, seed=3, n_steps=200, batch_size=1500)
    assert frames.shape == (4000, 2, 3)
    assert frames.dtype == np.float64
    np.testing.assert_allclose(frames.mean(axis=1), 0.0, atol=1e-6)
    # Of a pair only the difference is left: its variance is twice that of a coordinate.
    difference = frames[:, 1] - frames[:, 0]
    expected = np.sqrt(2.0) * SPREAD * toy.metadata.scale
    assert difference.std() == pytest.approx(expected, rel=0.03)
    assert abs(difference.mean()) < 0.05 * expected


def test_samples_follow_the_seed(model):
    first = model.sample(6, seed=1, n_steps=20)
    np.testing.assert_array_equal(model.sample(6, seed=1, n_steps=20), first)
    assert np.abs(model.sample(6, seed=2, n_steps=20) - first).min() > 0.0


def test_samples_of_a_plane_keep_their_place_and_have_no_z(make_toy):
    toy = make_toy(n_beads=1, n_dims=2)
    frames = ScoreModelFile(toy.path).sample(2000, seed=0, n_steps=100)
    assert not frames[..., 2].any()
    assert frames[..., :2].std() == pytest.approx(SPREAD * toy.metadata.scale, rel=0.05)


def test_nothing_is_filtered(make_toy):
    # Frames far outside the bond lengths of the training are part of the model's distribution.
    free = ScoreModelFile(make_toy("free.pt", n_beads=2).path)
    narrow = ScoreModelFile(make_toy("narrow.pt", n_beads=2, bond_ranges=((0.1, 0.11),)).path)
    np.testing.assert_array_equal(free.sample(50, seed=0), narrow.sample(50, seed=0))


@pytest.mark.parametrize("solver", ["dpm-solver", "euler-maruyama"])
def test_both_solvers_give_the_same_distribution(make_toy, solver):
    toy = make_toy(n_beads=2)
    frames = ScoreModelFile(toy.path).sample(4000, seed=5, solver=solver, n_steps=300)
    spread = (frames[:, 1] - frames[:, 0]).std()
    assert spread == pytest.approx(np.sqrt(2.0) * SPREAD * toy.metadata.scale, rel=0.03)


def test_an_unknown_solver_is_named(model):
    with pytest.raises(InvalidInputError, match="'heun'; choose from dpm-solver"):
        model.sample(1, seed=0, solver="heun")


def test_samples_that_are_not_finite_are_counted(model, monkeypatch):
    def broken(_score_fn, _schedule, *, shape, **_options):
        x = torch.zeros(shape)
        x[1, 2, 0], x[3] = torch.inf, torch.nan
        return x

    monkeypatch.setitem(reverse_diffusion._SOLVERS, "dpm-solver", broken)
    with pytest.raises(NumericalError, match="2 of 5 sampled frames are not finite"):
        model.sample(5, seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sampler_works_in_the_precision_and_with_the_schedule_of_the_model(
    make_toy, monkeypatch, dtype
):
    given = {}

    def record(_score_fn, schedule, *, shape, dtype, t_min, **_options):
        given.update(schedule=schedule, dtype=dtype, t_min=t_min)
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setitem(reverse_diffusion._SOLVERS, "dpm-solver", record)
    toy = make_toy(dtype=dtype, schedule=VPSchedule(0.2, 15.0), t_min=1e-3)
    ScoreModelFile(toy.path).sample(1, seed=0)
    assert given == {"schedule": VPSchedule(0.2, 15.0), "dtype": dtype, "t_min": 1e-3}


def test_progress_counts_all_batches(model):
    calls = []
    model.sample(3, seed=0, n_steps=4, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(n, 12) for n in (2, 4, 6, 8, 9, 10, 11, 12)]


@pytest.mark.parametrize(("n", "batch_size"), [(0, 10), (10, 0)])
def test_nothing_to_sample(model, n, batch_size):
    with pytest.raises(InvalidInputError, match="positive"):
        model.sample(n, seed=0, batch_size=batch_size)


def test_score_works_inside_no_grad(model):
    x, t = torch.randn(3, 4, 3), torch.full((3,), 1e-5)
    with torch.no_grad():
        score = model.score_fn(x, t)
    torch.testing.assert_close(score, -x / SPREAD**2, rtol=1e-4, atol=1e-4)


def test_file_that_fails_its_self_test(make_toy, make_metadata):
    good = make_metadata().self_test
    for name in ("energies", "forces"):
        entries = {
            "positions": good.positions,
            "energies": good.energies,
            "forces": good.forces,
            "tolerance": 1e-5,
            name: getattr(good, name) * (1.0 + 1e-4),
        }
        toy = make_toy(self_test=SelfTest(**entries))
        with pytest.raises(ModelFileError, match=f"does not reproduce its own {name}"):
            ScoreModelFile(toy.path)


def test_module_that_raises_fails_its_self_test(make_toy, monkeypatch):
    toy = make_toy()

    class Broken:
        def energies_and_forces(self, _positions):
            raise RuntimeError("shapes")

    monkeypatch.setattr("openmm_scoremd.artifact.loaded.with_contract", lambda *_args: Broken())
    with pytest.raises(ModelFileError, match="fails on its self-test frames: shapes"):
        ScoreModelFile(toy.path)


def test_hash(toy):
    sha256 = ScoreModelFile(toy.path).sha256
    assert ScoreModelFile(toy.path, sha256=sha256).sha256 == sha256


def test_tampered_file_with_a_known_hash_is_refused_before_its_code_runs(
    toy, make_toy, monkeypatch
):
    sha256 = ScoreModelFile(toy.path).sha256
    make_toy(title="tampered")

    def forbidden(*_args, **_kwargs):
        raise AssertionError("torch code ran")

    monkeypatch.setattr("torch.jit.load", forbidden)
    with pytest.raises(ModelFileError, match="SHA-256"):
        ScoreModelFile(toy.path, sha256=sha256)


def test_damaged_files_give_our_own_errors_only(toy, tmp_path):
    content, rng = toy.path.read_bytes(), np.random.default_rng(0)
    expected = ScoreModelFile(toy.path).metadata.to_json()
    path, refused = tmp_path / "damaged.pt", 0
    for _ in range(100):
        damaged = bytearray(content)
        for index in rng.integers(len(content), size=rng.integers(1, 4)):
            damaged[index] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert ScoreModelFile(path).metadata.to_json() == expected
        except ModelFileError:
            refused += 1
    assert refused > 80


def test_unknown_device(toy):
    with pytest.raises(InvalidInputError, match="'tpu' cannot be used"):
        ScoreModelFile(toy.path, device="tpu")


def test_another_temperature_is_explained(model, caplog):
    assert model.check_temperature(300.0 * unit.kelvin) == 300.0
    assert not caplog.text
    assert model.check_temperature(310) == 310.0
    assert "310 K, the model 300 K" in caplog.text
    assert "free energy of its own temperature" in caplog.text
    with pytest.raises(InvalidInputError, match="must be positive"):
        model.check_temperature(0.0)
