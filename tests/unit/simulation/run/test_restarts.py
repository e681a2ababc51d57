"""Replicas that break, alone or all the time, and what becomes of the others."""

import logging
from pathlib import Path

import numpy as np
import openmm
import pytest

from openmm_scoremd.artifact.torchscript import load_archive
from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.simulation.run.replica_run import ReplicaRun
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.trajectories.reading import load_replicas
from openmm_scoremd.trajectories.segments import restarts_per_frame, unbroken_segments

SHIPPED = Path(__file__).parents[4] / "torchscript_models" / "alanine_dipeptide_invariant.pt"
PLATFORMS = ["Reference", "CPU"]


def break_replica(run, positions_of_two_beads, *, at, replica=2):
    """Go on to a step and put something else in the place of a replica."""
    run.simulation.simulation.step(at - run.step)
    positions, velocities = run.simulation.phase_space()
    positions[replica] = positions_of_two_beads
    run.simulation.set_phase_space(positions, velocities)


def go_on(run, step):
    """Go on to a step as a run does, with a look at it."""
    while run.step < step:
        run._stepper.advance()


NAN = np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]])
TORN = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])


@pytest.mark.parametrize("platform", PLATFORMS)
class TestGuards:
    @pytest.mark.parametrize(("bad", "reason"), [(NAN, "NaN"), (TORN, "bond 0-1 is 2.0000 nm")])
    @pytest.mark.parametrize("on_failure", ["restart", "freeze"])
    def test_one_replica_breaks_and_the_others_notice_nothing(
        self, start_run, finished_run, tmp_path, platform, bad, reason, on_failure, caplog
    ):
        straight = load_replicas(finished_run(platform=platform), n_beads=2)
        # Looked at every 20 steps, and at every NaN on CPU.
        with start_run("run", platform=platform, on_failure=on_failure) as run:
            run._stepper.advance()
            while run.step < 60:
                run._stepper.advance()
            good = run.simulation.phase_space()
            break_replica(run, bad, at=60)
            with caplog.at_level(logging.WARNING):
                run.advance()
            (path,) = (tmp_path / "run" / "failures").iterdir()
            assert path.name.startswith("replica_0002_step_")
            breaks = run.breaks
        assert reason[:3] in caplog.text
        saved = np.load(path)
        np.testing.assert_array_equal(saved["good_positions"], good[0][2])
        np.testing.assert_array_equal(saved["good_velocities"], good[1][2])
        assert saved["reason"].item().startswith(("a coordinate is NaN", "bond 0-1 is"))
        assert not np.isfinite(saved["bad_positions"]).all() or np.ptp(saved["bad_positions"]) > 0.5
        others = [0, 1, 3]
        if on_failure == "freeze":
            assert breaks.frozen == {2: 3}
            found = load_replicas(tmp_path / "run", n_beads=2)
            np.testing.assert_array_equal(found, straight[others])
            frozen = load_replicas(tmp_path / "run" / "replica_0002.dcd", n_beads=2)[0]
            np.testing.assert_array_equal(frozen, straight[2, :3])
            assert (2, 0, 3) in unbroken_segments(tmp_path / "run")
            return
        found = load_replicas(tmp_path / "run", n_beads=2)
        np.testing.assert_array_equal(found[others], straight[others])
        np.testing.assert_array_equal(found[2, :3], straight[2, :3])
        assert np.isfinite(found).all()
        lengths = np.linalg.norm(found[2, :, 1] - found[2, :, 0], axis=-1)
        assert (lengths < 0.75).all()
        (entry,) = breaks.restarts
        assert (entry["replica"], entry["frame"], entry["cause"]) == (2, 3, "restart")
        segments = unbroken_segments(tmp_path / "run")
        assert segments == [(0, 0, 11), (1, 0, 11), (2, 0, 3), (2, 3, 11), (3, 0, 11)]

    def test_a_replica_that_is_too_hot(self, start_run, tmp_path, platform):
        with start_run("run", platform=platform, margin=5.0) as run:
            positions, velocities = run.simulation.phase_space()
            velocities[1] *= 8.0
            run.simulation.set_phase_space(positions, velocities)
            run.advance()
            (entry,) = run.breaks.restarts
        assert entry["replica"] == 1
        assert entry["reason"].startswith("the temperature is ")

    def test_a_replica_that_broke_stops_the_run(self, pair, start_run, tmp_path, platform):
        with start_run("run", platform=platform, on_failure="stop") as run:
            break_replica(run, NAN, at=10)
            with pytest.raises(NumericalError, match=r"replica 2 broke at step \d+: a coordinate"):
                run.advance()
        # The last checkpoint is that of the beginning, when all was well.
        with ReplicaRun.resume(pair, tmp_path / "run") as run:
            assert run.advance()

    def test_restarts_are_the_same_when_resumed(
        self, pair, start_run, contents, tmp_path, platform
    ):
        for name, stop_at in (("straight", 220), ("pieces", 70)):
            with start_run(name, platform=platform, steps=stop_at) as run:
                # Too fast for the bond: it is found broken at some later look.
                positions, velocities = run.simulation.phase_space()
                velocities[1] *= 40.0
                run.simulation.set_phase_space(positions, velocities)
                run.commit()
                run.advance()
        for steps in (115, 220):
            with ReplicaRun.resume(pair, tmp_path / "pieces", steps=steps) as run:
                run.advance()
        assert contents(tmp_path / "pieces") == contents(tmp_path / "straight")
        assert (tmp_path / "straight" / "failures").exists()

    def test_all_broken_and_frozen_is_an_error(self, start_run, platform):
        with start_run("run", platform=platform, on_failure="freeze") as run:
            for replica in range(4):
                break_replica(run, TORN, at=10, replica=replica)
            with pytest.raises(NumericalError, match="all 4 replicas broke"):
                run.advance()


def test_energies_are_watched(start_run, tmp_path):
    with start_run("run", steps=220) as run:
        run._restarts._guard = run.guard = type(run.guard)(energies=(-1.0, -0.5))
        run.breaks.frozen |= {0: 0, 1: 0, 3: 0}
        with pytest.raises(NumericalError):
            run.settings = run._restarts._settings = RunSettings(replicas=4, on_failure="stop")
            run.advance()
    (path,) = (tmp_path / "run" / "failures").iterdir()
    assert path.name == "replica_0002_step_200.npz"
    assert "the potential energy is" in np.load(path)["reason"].item()


def test_energies_of_good_replicas_are_evaluated_once_per_row(start_run, monkeypatch):
    shapes = []
    evaluate = ScoreModelFile.potential_energy
    with start_run("run", steps=440) as run:
        monkeypatch.setattr(
            ScoreModelFile,
            "potential_energy",
            lambda self, frames: shapes.append(frames.shape) or evaluate(self, frames),
        )
        run.advance()
    assert shapes == [(4, 2, 3)] * 2  # at steps 200 and 400


@pytest.mark.skipif(not SHIPPED.exists(), reason="the shipped model is not there")
def test_fresh_frames_do_not_depend_on_what_was_drawn_before(tmp_path):
    # TorchScript's first calls round in another way.
    model = ScoreModelFile(SHIPPED)
    settings = RunSettings(replicas=2, steps=10, interval=5, platform="Reference")
    # From given frames, so that nothing was drawn yet.
    start = model.metadata.self_test.positions[:2]
    with ReplicaRun.start(model, tmp_path / "run", settings, start=start) as run:
        expected = run._restarts._draw(2, 1, 7, 0)
        for n in (3, 5, 5):
            model.sample(n, seed=n, n_steps=3)
        np.testing.assert_array_equal(run._restarts._draw(2, 1, 7, 0), expected)


class TestHealthyReplicas:
    """From a minimum an energy rises by half a kT for every degree of freedom, and no more."""

    @pytest.mark.parametrize(("n_beads", "temperature"), [(130, 300.0), (40, 1000.0)])
    def test_are_not_restarted(self, make_toy, tmp_path, n_beads, temperature):
        ranges = ((0.01, 0.6),) * (n_beads - 1)
        model = ScoreModelFile(make_toy(n_beads=n_beads, bond_ranges=ranges).path)
        frames = np.zeros((2, n_beads, 3))
        frames[..., 0] = 0.15 * np.arange(n_beads)
        settings = RunSettings(
            replicas=2,
            steps=1500,
            interval=20,
            temperature=temperature,
            friction=10.0,
            platform="Reference",
        )
        with ReplicaRun.start(model, tmp_path / "run", settings, start=frames) as run:
            assert run.advance()
            assert not run.breaks.restarts
        rise = np.load(run.folder / "state.npy")[:, :, 0].max() - model.potential_energy(frames[0])
        assert rise > 50.0 * 0.0083144626 * 300.0  # more than they were allowed once


class TestReplicasThatBreakAllTheTime:
    def test_end_the_run_with_time_step_and_model(self, start_run, tmp_path, caplog):
        # The bond oscillates once in 0.35 ps.
        with start_run("run", timestep=0.5, steps=20_000) as run:
            with pytest.raises(
                NumericalError,
                match=r"\d+ restarts in \d+ frames: with a time step of 0.5 ps \(500 fs\) replicas "
                r"of pair.pt break more often than they simulate, the last: ",
            ):
                run.advance()
            assert run.step < 2000
            assert "restarts (" in run._text()
            assert "per frame)" in run._text()
        assert 0.5 < restarts_per_frame(tmp_path / "run") == run.restarts_per_frame <= 2.0
        rows = np.genfromtxt(tmp_path / "run" / "state.csv", delimiter=",", names=True)
        assert (np.atleast_1d(rows["restarts_per_frame"]) > 0.2).all()
        assert "the fastest motion of pair.pt is stable below about 0.11 ps" in caplog.text
        assert "hardly any model is stable beyond 0.02 ps" in caplog.text

    def test_are_found_at_the_end_of_a_short_run(self, pair, start_run, tmp_path):
        with start_run("run", steps=60) as run:
            for step in (20, 40):
                go_on(run, step)
                for replica in range(4):
                    break_replica(run, TORN, at=step, replica=replica)
                go_on(run, step + 20)
                assert len(run.breaks.restarts) == 4 * step / 20
            with pytest.raises(NumericalError, match="8 restarts in 12 frames"):
                run.advance()
        # What there is is saved, and more steps may make it a simulation.
        with ReplicaRun.resume(pair, tmp_path / "run", steps=400) as run:
            assert run.step == 60
            assert run.advance()

    def test_a_good_time_step_gives_no_warning(self, start_run, caplog):
        start_run("run").close()
        assert "timestep" not in caplog.text


def spring(x0):
    """Pulls the first bead of every replica to a place."""
    force = openmm.CustomExternalForce(f"500*((x-{x0})^2+(y-{x0})^2+(z-{x0})^2)")
    force.addParticle(0, [])
    return replicated([force])


class TestOtherEnsembles:
    @pytest.mark.parametrize(
        ("settings", "force", "message"),
        [
            ({"potential_factor": 0.5}, None, "the potential has the factor 0.5"),
            ({"temperature": 310.0}, None, "the temperature is 310 K and not 300 K"),
            ({}, spring(5.0), "forces were added"),
        ],
    )
    def test_nobody_jumps_there(self, pair, tmp_path, chain, settings, force, message):
        settings = RunSettings(replicas=2, steps=20, interval=10, jump_interval=10, **settings)
        with pytest.raises(InvalidInputError, match=f"{message}.*: independent frames"):
            ReplicaRun.start(
                pair, tmp_path / "run", settings, start=chain(2, 2), prepare_system=force
            )
        assert not (tmp_path / "run").exists()

    def test_replicas_are_restarted_where_they_were(self, pair, tmp_path, chain):
        settings = RunSettings(replicas=2, steps=60, interval=20, margin=0.5, platform="Reference")
        frames = chain(2, 2) + 5.0
        with ReplicaRun.start(
            pair, tmp_path / "run", settings, start=frames, prepare_system=spring(5.0)
        ) as run:
            break_replica(run, TORN, at=0, replica=1)
            go_on(run, 20)
            before, after = run._restarts.good[0]
            assert run.breaks.restarts
            assert run.advance()
        assert np.abs(after - 5.0).max() < 0.3
        assert np.abs(after - before).max() < 0.6


def test_a_run_needs_its_model_file_no_more(start_run, pair, monkeypatch):
    loads = []
    monkeypatch.setattr(
        "openmm_scoremd.artifact.loaded.load_archive",
        lambda *args, **options: loads.append(args) or load_archive(*args, **options),
    )
    with start_run("run", jump_interval=100) as run:
        pair.path.unlink()
        for at in (20, 60):
            go_on(run, at)
            break_replica(run, TORN, at=at)
        assert run.advance()
        assert len(run.breaks.restarts) == 2
    assert len(loads) == 1
