import mdtraj
import numpy as np
import openmm
import openmm.app as app
import pytest

from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.trajectories.reporters import (
    ReplicaDCDReporter,
    replica_paths,
    require_finite,
)


@pytest.fixture
def make_simulation(toy, chain):
    """Return a function that builds a free flight of ``replicas`` toy chains."""

    def make(replicas, *, offset=0.0):
        system = openmm.System()
        for _ in range(4 * replicas):
            system.addParticle(12.0)
        simulation = app.Simulation(
            toy.metadata.topology.to_openmm(replicas=replicas),
            system,
            openmm.VerletIntegrator(0.002),
            openmm.Platform.getPlatformByName("Reference"),
        )
        simulation.context.setPositions((chain(replicas, 4) + offset).reshape(-1, 3))
        simulation.context.setVelocitiesToTemperature(300.0, 1)
        return simulation

    return make


def _positions(simulation):
    state = simulation.context.getState(positions=True)
    return np.array(state.getPositions(asNumpy=True)._value)


def _load(path, toy):
    topology = mdtraj.Topology.from_openmm(toy.metadata.topology.to_openmm())
    return mdtraj.load_dcd(str(path), top=topology)


def test_every_replica_gets_its_frames(make_simulation, toy, tmp_path):
    simulation = make_simulation(3)
    paths = replica_paths(tmp_path / "new" / "folder", 3)
    simulation.reporters.append(
        ReplicaDCDReporter(paths, 5, topology=toy.metadata.topology, centring="none")
    )
    expected = []
    for _ in range(4):
        simulation.step(5)
        expected.append(_positions(simulation).reshape(3, 4, 3))
    assert sorted(p.name for p in paths[0].parent.iterdir()) == [
        "replica_0000.dcd",
        "replica_0001.dcd",
        "replica_0002.dcd",
    ]
    for replica, path in enumerate(paths):
        frames = _load(path, toy).xyz
        assert frames.shape == (4, 4, 3)
        np.testing.assert_allclose(frames, np.array(expected)[:, replica], atol=1e-6)


def test_stored_frames_are_centred_and_the_simulation_is_not(make_simulation, toy, tmp_path):
    # So far away that float32 keeps 0.06 nm only.
    far = np.array([1e6, 0.0, 0.0])
    simulation, near = make_simulation(2, offset=far), make_simulation(2)
    paths = replica_paths(tmp_path, 2)
    simulation.reporters.append(ReplicaDCDReporter(paths, 10, topology=toy.metadata.topology))
    simulation.step(10)
    near.step(10)
    np.testing.assert_allclose(_positions(simulation), _positions(near) + far, atol=1e-8)
    expected = _positions(near).reshape(2, 4, 3)
    expected -= expected.mean(axis=1, keepdims=True)
    for replica, path in enumerate(paths):
        np.testing.assert_allclose(_load(path, toy).xyz[0], expected[replica], atol=1e-6)


def test_steps_in_the_file_are_those_of_the_simulation(make_simulation, toy, tmp_path):
    simulation = make_simulation(1)
    simulation.step(7)
    paths = replica_paths(tmp_path, 1)
    simulation.reporters.append(ReplicaDCDReporter(paths, 5, topology=toy.metadata.topology))
    simulation.step(13)
    header = np.frombuffer(paths[0].read_bytes()[8:24], dtype="<i4")
    n_frames, first, interval, last = header
    assert (n_frames, first, interval, last) == (3, 10, 5, 20)
    assert len(_load(paths[0], toy)) == 3


def test_files_are_whole_and_closed_after_every_report(make_simulation, toy, tmp_path):
    simulation = make_simulation(1)
    paths = replica_paths(tmp_path, 1)
    simulation.reporters.append(ReplicaDCDReporter(paths, 1, topology=toy.metadata.topology))
    for count in (1, 2, 3):
        simulation.step(1)
        assert len(_load(paths[0], toy)) == count


def test_more_replicas_than_file_handles(make_simulation, toy, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    simulation = make_simulation(80)
    paths = replica_paths(tmp_path, 80)
    simulation.reporters.append(ReplicaDCDReporter(paths, 1, topology=toy.metadata.topology))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        simulation.step(2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(_load(paths[79], toy)) == 2


def test_broken_replicas_are_named_and_nothing_is_written(make_simulation, toy, tmp_path):
    simulation = make_simulation(3)
    paths = replica_paths(tmp_path, 3)
    simulation.reporters.append(ReplicaDCDReporter(paths, 5, topology=toy.metadata.topology))
    simulation.step(5)
    sizes = [path.stat().st_size for path in paths]
    positions = _positions(simulation)
    positions[6] = np.nan
    simulation.context.setPositions(positions)
    with pytest.raises(NumericalError, match=r"1 of 3 replicas .* at step 10: replica 1;"):
        simulation.step(5)
    assert [path.stat().st_size for path in paths] == sizes


def test_many_broken_replicas_make_a_short_message():
    frames = np.zeros((50, 4, 3))
    require_finite(frames, step=0)
    frames[3:] = np.inf
    with pytest.raises(NumericalError, match=r"47 of 50 .*: replica 3, 4, .*12, \.\.\.;"):
        require_finite(frames, step=0)


def test_existing_files_are_not_overwritten(toy, tmp_path):
    paths = replica_paths(tmp_path, 2)
    paths[1].write_bytes(b"precious")
    with pytest.raises(InvalidInputError, match=r"replica_0001\.dcd exists already"):
        ReplicaDCDReporter(paths, 5, topology=toy.metadata.topology)
    assert paths[1].read_bytes() == b"precious"
    assert not paths[0].exists()


def test_number_of_files_must_fit_the_simulation(make_simulation, toy, tmp_path):
    simulation = make_simulation(3)
    paths = replica_paths(tmp_path, 2)
    simulation.reporters.append(ReplicaDCDReporter(paths, 5, topology=toy.metadata.topology))
    with pytest.raises(InvalidInputError, match=r"12 particles; 2 files of 4 beads need 8"):
        simulation.step(5)
    assert not paths[0].exists()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "0 paths"),
        (["a.dcd", "a.dcd"], {}, "2 paths"),
        (["a.dcd"], {"interval": 0}, "interval is 0"),
        (["a.dcd"], {"centring": "mass"}, "centring is 'mass'"),
    ],
)
def test_bad_options(toy, tmp_path, names, options, message):
    arguments = {"interval": 5, "topology": toy.metadata.topology, **options}
    with pytest.raises(InvalidInputError, match=message):
        ReplicaDCDReporter([tmp_path / name for name in names], **arguments)
