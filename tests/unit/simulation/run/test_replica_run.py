"""Runs that are stopped anywhere and go on to the same; runs that may not go on."""

import errno
import os
import shutil

import mdtraj
import numpy as np
import openmm
import pytest

from openmm_scoremd.errors import CheckpointError, InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.simulation.run.folder import CHECKPOINT
from openmm_scoremd.simulation.run.replica_run import ReplicaRun, stored_settings
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.trajectories.appendable_files import AppendableFile
from openmm_scoremd.trajectories.reading import load_replicas
from openmm_scoremd.trajectories.segments import unbroken_segments


class Killed(BaseException):
    """The process is gone."""


PLATFORMS = ["Reference", "CPU"]
VARIANTS = {
    "plain": {},
    "one file": {"files": "combined"},
    "xtc": {"format": "xtc"},
    "equilibrated": {"equilibration": 30},
    "jumps": {"jump_interval": 70},
}


def extend(pair, folder, *steps):
    """Go on with a run to these numbers of steps, one after another."""
    for count in steps:
        with ReplicaRun.resume(pair, folder, steps=count) as run:
            assert run.step <= count
            assert run.advance()
            assert run.step == count


class TestGoingOn:
    @pytest.mark.parametrize(
        ("platform", "variant"),
        [*(("Reference", variant) for variant in VARIANTS), ("CPU", "plain")],
    )
    def test_pieces_make_the_same_run(
        self, pair, start_run, finished_run, contents, tmp_path, platform, variant
    ):
        settings = {"platform": platform, **VARIANTS[variant]}
        expected = contents(finished_run(**settings))
        with start_run("pieces", **{**settings, "steps": 70}) as run:
            run.advance()
        extend(pair, tmp_path / "pieces", 95, 140, 220)
        assert contents(tmp_path / "pieces") == expected

    def test_state_of_the_last_step_is_the_same(self, pair, start_run, finished_run, tmp_path):
        finished_run()
        with start_run("pieces", steps=37) as run:
            run.advance()
        extend(pair, tmp_path / "pieces", 220)
        for name in ("straight", "pieces"):
            with ReplicaRun.resume(pair, tmp_path / name) as run:
                found = run.simulation.phase_space()
                time = run.simulation.simulation.context.getTime()._value
            if name == "straight":
                expected = found
            assert time == pytest.approx(0.44)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("victim", [1, 2, 3])
    def test_killed_before_a_checkpoint_is_in_place(
        self, pair, start_run, finished_run, contents, tmp_path, monkeypatch, victim
    ):
        expected = contents(finished_run())
        replace, checkpoints = os.replace, []

        def die(source, target):
            if str(target).endswith(CHECKPOINT):
                checkpoints.append(target)
                if len(checkpoints) == victim:
                    raise Killed
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("openmm_scoremd.simulation.run.stepping._PIECE_SECONDS", 1e-9)
            patch.setattr(os, "replace", die)
            with pytest.raises(Killed), start_run("run", checkpoint_seconds=0.0) as run:
                run.advance()
        if victim > 1:
            with ReplicaRun.resume(pair, tmp_path / "run") as run:
                assert run.advance()
            assert contents(tmp_path / "run") == expected
        else:
            # Not even begun: nothing is left that could be in the way.
            assert not (tmp_path / "run").exists()

    def test_after_a_full_disk(
        self, pair, start_run, finished_run, contents, tmp_path, monkeypatch
    ):
        expected = contents(finished_run())
        append = AppendableFile.append

        def full(self, rows):
            append(self, rows[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

        monkeypatch.setattr("openmm_scoremd.simulation.run.recording._BUFFER_FRAMES", 3)
        with start_run("run") as run, monkeypatch.context() as patch:
            patch.setattr(AppendableFile, "append", full)
            with pytest.raises(OSError, match=r"No space left .*replica_0000\.dcd"):
                run.advance()
        with ReplicaRun.resume(pair, tmp_path / "run") as run:
            assert run.advance()
        assert contents(tmp_path / "run") == expected

    @pytest.mark.parametrize("settings", [{}, {"format": "xtc"}, {"files": "combined"}])
    def test_torn_frames_and_headers_are_mended(
        self, pair, start_run, finished_run, contents, tmp_path, settings
    ):
        expected = contents(finished_run(**settings))
        with start_run("torn", **{**settings, "steps": 90}) as run:
            run.advance()
        for path in (tmp_path / "torn").iterdir():
            if path.suffix in (".dcd", ".xtc", ".npy", ".csv"):
                with open(path, "r+b") as file:
                    if path.suffix == ".dcd":
                        file.seek(8)
                        file.write(b"\xff\xff\xff\x00")
                    file.seek(0, os.SEEK_END)
                    file.write(b"\x01" * 37)
        (tmp_path / "torn" / "trajectories.json").write_text("{")
        (tmp_path / "torn" / ".checkpoint-12ab34cd.part.npz").write_text("half a checkpoi")
        extend(pair, tmp_path / "torn", 220)
        assert contents(tmp_path / "torn") == expected
        assert not list((tmp_path / "torn").glob(".*"))

    def test_a_run_without_a_checkpoint_begins_again(
        self, pair, start_run, finished_run, contents, tmp_path, chain
    ):
        expected = contents(finished_run())
        with start_run("run", steps=220) as run:
            run.simulation.step(33)
        (tmp_path / "run" / CHECKPOINT).unlink()
        with pytest.raises(CheckpointError, match="began from other frames"):
            ReplicaRun.resume(pair, tmp_path / "run")
        with ReplicaRun.resume(pair, tmp_path / "run", start=chain(4, 2)) as run:
            run.advance()
        assert contents(tmp_path / "run") == expected

    def test_another_platform_goes_on_from_the_same_state(
        self, pair, start_run, tmp_path, monkeypatch, caplog
    ):
        with start_run("run", steps=40) as run:
            run.advance()
            expected = run.simulation.phase_space()
        monkeypatch.setattr(
            "openmm_scoremd.simulation.run.start.openmm.version.full_version", "other"
        )
        with ReplicaRun.resume(pair, tmp_path / "run", steps=60) as run:
            np.testing.assert_array_equal(run.simulation.phase_space(), expected)
            assert run.step == 40
            noise = run.simulation.simulation.integrator.getRandomNumberSeed()
            run.advance()
        assert "not bit by bit" in caplog.text
        with start_run("other", steps=40) as run:
            assert run.simulation.simulation.integrator.getRandomNumberSeed() != noise

    @pytest.mark.parametrize(("first", "then"), [("Reference", "CPU"), ("CPU", "Reference")])
    def test_resumed_on_another_platform(
        self, pair, chain, contents, tmp_path, caplog, first, then
    ):
        pull = openmm.CustomExternalForce("strength*x")
        pull.addGlobalParameter("strength", 1.0)
        pull.addParticle(0, [])
        forces = {"prepare_system": replicated([pull])}
        settings = RunSettings(
            replicas=4, steps=40, interval=20, platform=first, margin=0.5, potential_factor=0.5
        )
        folder = tmp_path / "run"
        with ReplicaRun.start(pair, folder, settings, start=chain(4, 2), **forces) as run:
            run.simulation.simulation.context.setParameter("strength", 3.0)
            run.advance()
            expected, before = run.simulation.phase_space(), contents(folder)
        with ReplicaRun.resume(pair, folder, steps=60, platform=then, **forces) as run:
            np.testing.assert_array_equal(run.simulation.phase_space(), expected)
            context = run.simulation.simulation.context
            assert context.getPlatform().getName() == then
            assert context.getTime()._value == pytest.approx(0.08)
            assert (run.step, context.getParameter("strength")) == (40, 3.0)
            assert run.simulation.potential_factor == 0.5
            assert f"platform ({first}, now {then})" in caplog.text
            assert contents(folder) == before
            assert run.advance()
        # From now on it is a run of that platform, bit by bit.
        ends = []
        for pieces in ((100,), (70, 100)):
            copy = tmp_path / f"{len(pieces)}"
            shutil.copytree(folder, copy)
            for steps in pieces:
                with ReplicaRun.resume(pair, copy, steps=steps, **forces) as run:
                    assert run.settings.platform == then
                    run.advance()
            ends.append(contents(copy))
        assert ends[0] == ends[1]

    def test_a_platform_that_is_gone_is_replaced(self, pair, start_run, tmp_path, monkeypatch):
        with start_run("run", steps=40, platform="CPU") as run:
            run.advance()
        monkeypatch.setattr(
            "openmm_scoremd.simulation.platforms._platform_names", lambda: ["Reference"]
        )
        with pytest.raises(InvalidInputError, match="platform is 'CPU'; this OpenMM has Reference"):
            ReplicaRun.resume(pair, tmp_path / "run", platform="CPU")
        with ReplicaRun.resume(pair, tmp_path / "run", steps=60) as run:
            assert run.settings.platform == "Reference"
            assert run.advance()

    def test_stopped_from_outside(self, start_run):
        with start_run(steps=100_000) as run:
            asked = []

            def stop():
                asked.append(run.step)
                return len(asked) > 3

            assert not run.advance(stop=stop)
            assert 0 < run.step < 100_000

    def test_memory_holds_a_bounded_number_of_frames(
        self, start_run, finished_run, contents, tmp_path, monkeypatch
    ):
        expected = contents(finished_run())
        monkeypatch.setattr("openmm_scoremd.simulation.run.recording._BUFFER_FRAMES", 3)
        with start_run("run") as run:
            run.advance()
            assert run._recorder._buffer.shape == (3, 4, 2, 3)
        assert contents(tmp_path / "run") == expected


class TestRefusals:
    def test_another_model(self, start_run, make_toy, tmp_path):
        start_run().close()
        other = make_toy("other.pt", n_beads=2, title="other")
        with pytest.raises(CheckpointError, match="another model"):
            ReplicaRun.resume(ScoreModelFile(other.path), tmp_path / "run")

    def test_other_settings(self, start_run, tmp_path):
        start_run().close()
        settings = stored_settings(tmp_path / "run")
        settings.check_given({"replicas": 4, "steps": 500, "interval": None})
        with pytest.raises(CheckpointError, match="interval is 30 and was 20"):
            settings.check_given({"interval": 30})

    def test_other_forces(self, pair, start_run, tmp_path):
        start_run().close()
        spring = openmm.HarmonicBondForce()
        spring.addBond(0, 1, 0.2, 10.0)
        with pytest.raises(CheckpointError, match="added forces"):
            ReplicaRun.resume(pair, tmp_path / "run", prepare_system=replicated([spring]))

    def test_fewer_steps_than_done(self, pair, finished_run):
        folder = finished_run()
        with pytest.raises(InvalidInputError, match="steps is 200, but 220 are done"):
            ReplicaRun.resume(pair, folder, steps=200)

    def test_two_processes_in_one_folder(self, pair, start_run, tmp_path):
        with (
            start_run() as run,
            pytest.raises(CheckpointError, match="another process works in"),
        ):
            ReplicaRun.resume(pair, run.folder)
        ReplicaRun.resume(pair, tmp_path / "run").close()

    def test_a_folder_with_files(self, start_run, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "precious").write_text("x")
        with pytest.raises(InvalidInputError, match="not empty"):
            start_run()
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]

    @pytest.mark.parametrize("name", ["replica_0002.dcd", "state.npy"])
    def test_files_that_are_gone_or_cut(self, pair, finished_run, name):
        folder = finished_run()
        path = folder / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=f"{name} has .* bytes; at the last checkpoint"):
            ReplicaRun.resume(pair, folder, steps=300)
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            ReplicaRun.resume(pair, folder, steps=300)

    def test_start_frames_outside_the_limits(self, pair, tmp_path, chain):
        frames = chain(4, 2)
        frames[2] *= 10.0
        settings = RunSettings(replicas=4, steps=10, interval=5)
        with pytest.raises(InvalidInputError, match="1 of 4 start frames are outside the limits"):
            ReplicaRun.start(pair, tmp_path / "run", settings, start=frames)
        assert not (tmp_path / "run").exists()


class TestWhatIsWritten:
    def test_frames_belong_to_their_steps(self, pair, start_run, finished_run, tmp_path):
        folder = finished_run("many", interval=20)
        found = load_replicas(folder, n_beads=2)
        assert found.shape == (4, 11, 2, 3)
        with start_run("one", steps=80) as run:
            run.advance()
            expected = run.simulation.positions
        expected -= expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, 3], expected, atol=1e-6)

    def test_formats_hold_the_same_frames(self, finished_run):
        expected = load_replicas(finished_run("dcd"), n_beads=2)
        for name, settings in (
            ("xtc", {"format": "xtc"}),
            ("all", {"files": "combined"}),
            ("all_xtc", {"files": "combined", "format": "xtc"}),
        ):
            found = load_replicas(finished_run(name, **settings), n_beads=2)
            np.testing.assert_allclose(found, expected, atol=2e-6)

    @pytest.mark.parametrize("suffix", ["dcd", "xtc"])
    def test_others_read_them(self, finished_run, suffix):
        folder = finished_run(format=suffix)
        read = mdtraj.load(folder / f"replica_0001.{suffix}", top=folder / "topology.pdb")
        assert len(read) == 11
        if suffix == "xtc":
            np.testing.assert_allclose(read.time, 0.04 * np.arange(1, 12), rtol=1e-5)
        folder = finished_run("all", files="combined", format=suffix)
        together = mdtraj.load(folder / f"replicas.{suffix}", top=folder / "replicas.pdb")
        assert together.n_atoms == 8
        np.testing.assert_allclose(together.xyz[:, 2:4], read.xyz, atol=2e-6)

    def test_state_data(self, pair, finished_run):
        folder = finished_run(steps=1600, replicas=20)
        state = np.load(folder / "state.npy")
        assert state.shape == (8, 20, 2)
        assert state[:, :, 1].mean() == pytest.approx(300.0, rel=0.1)
        frames = load_replicas(folder, n_beads=2)[:, 9].astype(np.float64)
        np.testing.assert_allclose(state[0, :, 0], pair.potential_energy(frames), rtol=1e-3)
        rows = np.genfromtxt(folder / "state.csv", delimiter=",", names=True)
        assert rows["step"].tolist() == list(range(200, 1601, 200))
        assert rows["temperature_K"][0] == pytest.approx(state[0, :, 1].mean(), abs=0.01)
        assert (rows["ns_per_day"] > 0.0).all()

    def test_start_frames_of_a_file(self, pair, finished_run, tmp_path):
        trajectory = finished_run() / "replica_0000.dcd"
        settings = RunSettings(replicas=3, steps=10, interval=5)
        with ReplicaRun.start(pair, tmp_path / "new", settings, start=trajectory) as run:
            expected = load_replicas(trajectory, n_beads=2)[0, [0, 5, 10]]
            np.testing.assert_allclose(run.simulation.positions, expected, atol=1e-6)

    def test_equilibration_is_not_written(self, start_run):
        with start_run(equilibration=45) as run:
            assert run.step == -45
            run.advance()
            assert (run.step, run.frames) == (220, 11)
            assert run.simulation.simulation.context.getTime()._value == pytest.approx(0.44)


class TestDrift:
    def test_molecules_are_moved_back_without_rounding(self, start_run):
        with start_run("run", steps=20) as run:
            positions, velocities = run.simulation.phase_space()
            # 500 nm is how far a microsecond of free diffusion takes a molecule of 60 Da at 1/ps.
            positions[1] += [517.3, -441.7, 3.2]
            run.simulation.set_phase_space(positions, velocities)
            seen = {}
            recentred = run._stepper._recentred

            def watch(before, velocities):
                after = recentred(before, velocities)
                seen.update(before=before, after=after, velocities=velocities)
                return after

            run._stepper._recentred = watch
            run.advance()
            assert np.abs(run.simulation.positions).max() < 2.0
            np.testing.assert_array_equal(run.simulation.velocities, seen["velocities"])
        bonds = [seen[name][:, 1] - seen[name][:, 0] for name in ("before", "after")]
        np.testing.assert_array_equal(bonds[0], bonds[1])
        assert np.abs(seen["before"][1]).max() > 400.0

    def test_no_bond_changes_by_a_bit(self, start_run):
        random = np.random.default_rng(0)
        with start_run(replicas=100) as run:
            # Far away in one direction only: in the others subtracting the centre would round.
            positions = random.normal(scale=0.1, size=(100, 2, 3))
            positions[..., 0] += 517.3
            moved = run._stepper._recentred(positions, np.zeros_like(positions))
        assert np.abs(moved).max() < 1.5
        np.testing.assert_array_equal(np.diff(moved, axis=1), np.diff(positions, axis=1))

    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_far_away_forces_and_bonds_are_those_at_the_origin(self, start_run, platform):
        with start_run("run", platform=platform) as run:
            simulation = run.simulation
            positions, velocities = simulation.phase_space()
            forces = []
            for shift in (0.0, 517.3):
                simulation.set_phase_space(positions + shift, velocities)
                state = simulation.simulation.context.getState(forces=True)
                forces.append(np.array(state.getForces(asNumpy=True)._value))
        scale = np.abs(forces[0]).max()
        np.testing.assert_allclose(forces[1], forces[0], atol=1e-6 * scale)

    def test_added_forces_may_depend_on_where_a_molecule_is(self, pair, tmp_path, chain):
        wall = openmm.CustomExternalForce("0.001*x")
        wall.addParticle(0, [])
        frames = chain(4, 2) + 30.0
        for recentring, farthest in (("auto", 31.0), ("on", 2.0)):
            settings = RunSettings(replicas=4, steps=20, interval=20, recentring=recentring)
            folder = tmp_path / recentring
            forces = replicated([wall])
            with ReplicaRun.start(
                pair, folder, settings, start=frames, prepare_system=forces
            ) as run:
                run.advance()
                assert farthest - 2.0 < np.abs(run.simulation.positions).max() < farthest


def test_jumps_are_breaks(start_run, tmp_path):
    with start_run("run", jump_interval=50) as run:
        run.advance()
    frames = load_replicas(tmp_path / "run", n_beads=2)
    assert frames.shape == (4, 11, 2, 3)
    # Jumps after steps 50, 100, 150 and 200; frames at 20, 40, 60, ...
    pieces = [(0, 2), (2, 5), (5, 7), (7, 10), (10, 11)]
    assert unbroken_segments(tmp_path / "run") == [
        (r, *piece) for r in range(4) for piece in pieces
    ]
