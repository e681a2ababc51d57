"""Noise of several simulations in one process, and Ctrl-C while OpenMM calls Python."""

import signal

import numpy as np
import openmm
import pytest

from openmm_scoremd.errors import NumericalError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.contexts import interruptible
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.simulation.speed import measure_speeds


@pytest.fixture
def simulation(toy, chain):
    """Return ``make(seed, platform)``: two replicas that begin from the same frames."""
    model = ScoreModelFile(toy.path)

    def make(seed, platform="Reference", **options):
        made = ReplicaSimulation(model, replicas=2, seed=seed, platform=platform, **options)
        made.set_positions(chain(2, 4))
        return made

    return make


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
class TestNoise:
    def test_does_not_depend_on_other_simulations(self, simulation, platform):
        alone = simulation(1, platform)
        ends = []
        for _ in range(3):
            alone.step(5)
            ends.append(alone.phase_space())
        first = simulation(1, platform)
        first.step(5)
        np.testing.assert_array_equal(first.phase_space(), ends[0])
        second = simulation(2, platform)
        first.step(5)
        np.testing.assert_array_equal(first.phase_space(), ends[1])
        second.step(7)
        del second
        # A retry with the seed of one that goes on.
        again = simulation(1, platform)
        again.step(5)
        first.step(5)
        np.testing.assert_array_equal(first.phase_space(), ends[2])
        np.testing.assert_array_equal(again.phase_space(), ends[0])

    def test_of_levels_is_that_of_each_alone(self, simulation, platform):
        ends = []
        for seed in (1, 2):
            alone = simulation(seed, platform)
            alone.step(6)
            ends.append(alone.positions)
        levels = [simulation(seed, platform) for seed in (1, 2)]
        for _ in range(3):
            for level in levels:
                level.step(2)
        for level, end in zip(levels, ends, strict=True):
            np.testing.assert_array_equal(level.positions, end)

    def test_goes_on_where_positions_and_parameters_were_changed(self, simulation, platform, chain):
        ends = []
        for disturbed in (False, True):
            one = simulation(1, platform, potential_factor=1.0)
            one.step(3)
            if disturbed:
                other = simulation(2, platform)
                other.step(3)
            one.potential_factor = 0.5
            one.set_phase_space(chain(2, 4, seed=7), np.ones((2, 4, 3)))
            one.step(3)
            ends.append(one.phase_space())
            assert one.potential_factor == 0.5
            assert one.current_step == 6
        np.testing.assert_array_equal(ends[1], ends[0])

    def test_is_the_own_one_in_checkpoints(self, simulation, platform):
        one = simulation(1, platform)
        one.step(3)
        other = simulation(2, platform)
        other.step(3)
        state = one.create_checkpoint()
        one.step(4)
        expected = one.positions
        other.step(1)
        one.load_checkpoint(state)
        one.step(4)
        np.testing.assert_array_equal(one.positions, expected)


ARMED = []


def interrupt(_state):
    if ARMED:
        signal.raise_signal(signal.SIGINT)
    return 0.0, np.zeros((8, 3))


def fail(_state):
    if ARMED:
        raise ValueError("something else")
    return 0.0, np.zeros((8, 3))


def with_force(function):
    def prepare(system, _particles):
        system.addForce(openmm.PythonForce(function))

    return prepare


class TestInterrupts:
    @pytest.fixture
    def armed(self, monkeypatch):
        """Return a function after which forces do what they are there for."""
        return lambda: monkeypatch.setitem(globals(), "ARMED", [True])

    def test_in_a_simulation(self, simulation, armed, chain):
        stopped = simulation(1, prepare_system=with_force(interrupt))
        stopped.step(1)
        armed()
        calls = (
            lambda: stopped.step(3),
            stopped.warm_up,
            lambda: stopped.set_positions(chain(2, 4)),
        )
        for call in calls:
            with pytest.raises(KeyboardInterrupt):
                call()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, KeyboardInterrupt()])
    def test_that_a_force_raises(self, error):
        def stop(_state):
            raise error

        system = openmm.System()
        system.addParticle(1.0)
        system.addForce(openmm.PythonForce(stop))
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions([[0.0, 0.0, 0.0]])
        with pytest.raises(KeyboardInterrupt), interruptible():
            context.getState(energy=True)

    def test_other_errors_stay_what_they_are(self, simulation, armed):
        failing = simulation(1, prepare_system=with_force(fail))
        armed()
        with pytest.raises(openmm.OpenMMException, match="something else"):
            failing.step(1)

    @pytest.mark.parametrize(
        ("function", "error", "message"),
        [(interrupt, KeyboardInterrupt, None), (fail, NumericalError, "step 0: something else")],
    )
    def test_in_a_run_that_goes_on_afterwards(
        self, toy, chain, tmp_path, armed, monkeypatch, function, error, message
    ):
        settings = RunSettings(replicas=2, steps=20, interval=10, platform="Reference")
        force, model = with_force(function), ScoreModelFile(toy.path)
        folder = tmp_path / "run"
        with ReplicaRun.start(
            model, folder, settings, start=chain(2, 4), prepare_system=force
        ) as run:
            armed()
            with pytest.raises(error, match=message):
                run.advance()
        monkeypatch.setitem(globals(), "ARMED", [])
        with ReplicaRun.resume(model, folder, prepare_system=force) as run:
            assert run.advance()

    def test_in_a_plan(self, toy, monkeypatch):
        def stop(_integrator, _steps):
            raise openmm.OpenMMException("<NULL>")

        monkeypatch.setattr(openmm.LangevinMiddleIntegrator, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            measure_speeds(ScoreModelFile(toy.path), replicas=[1], platforms=["Reference"])
