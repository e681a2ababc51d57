"""Ctrl-C anywhere ends with one line and exit code 130, and leaves nothing half-written."""

import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openmm
import pytest

import openmm_scoremd.__main__
from openmm_scoremd.cli.main import COMMANDS
from openmm_scoremd.forces.python_force import ModelComputation
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.trajectories.reading import load_replicas

# With others, so that one process makes the workshop.
pytestmark = pytest.mark.xdist_group("workshop")


@pytest.fixture(autouse=True)
def interruptible():
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(scoremd, monkeypatch, command):
    # What it is doing makes no difference, nor what C++ code makes of the interrupt.
    def interrupt(*_arguments, **_options):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise openmm.OpenMMException("<NULL>") from None

    monkeypatch.setitem(COMMANDS, command, functools.wraps(COMMANDS[command])(interrupt))
    arguments = {
        "coarse-grain": ["x.dcd", "--topology", "x", "--temperature", "300", "--output", "x"],
        "fit": ["x.dcd", "--topology", "x", "--temperature", "300", "--output", "x"],
        "init": ["x"],
        "train": ["--config", "tiny.yaml", "--output", "x"],
        "refine": ["x", "x", "x"],
        "import": ["x", "--config", "x", "--output", "x"],
        "info": ["x"],
        "plan": ["x"],
        "evaluate": ["x", "x", "x"],
        "fokker-planck": ["x", "--data", "x", "--output", "x"],
        "campaign": ["x"],
    }
    done = scoremd(command, *arguments.get(command, ["x", "x"]))
    assert (done.code, done.out) == (130, "")
    assert done.err.startswith("error: interrupted")
    assert len(done.err.splitlines()) == 1


def test_before_the_command_is_there(monkeypatch, capsys):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.__import__", interrupt)
    code = openmm_scoremd.__main__.main()
    monkeypatch.undo()
    assert code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.usefixtures("there")
def test_before_anything_was_written(scoremd, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ScoreModelFile, "sample", interrupt)
    for arguments in (("sample",), ("simulate",), ("evaluate", "beads.npz")):
        done = scoremd(arguments[0], "tiny.pt", *arguments[1:], "x")
        assert done.code == 130
        assert done.out == ""
        assert "error: interrupted" in done.err


class TestInsideOfAPythonForce:
    """OpenMM turns a KeyboardInterrupt there into ``OpenMMException("<NULL>")``."""

    @pytest.fixture(autouse=True)
    def ctrl_c(self, monkeypatch):
        compute = ModelComputation.__call__
        calls = []

        def interrupted(computation, state):
            calls.append(state)
            if len(calls) == 10:
                signal.raise_signal(signal.SIGINT)
            return compute(computation, state)

        monkeypatch.setattr(ModelComputation, "__call__", interrupted)
        yield
        assert len(calls) == 10

    def test_plan(self, scoremd, there):
        done = scoremd("plan", "tiny.pt", "--replicas", 2, "--platform", "Reference")
        assert (done.code, done.out) == (130, "")
        assert done.err.splitlines()[-1] == "error: interrupted"

    def test_refine(self, scoremd, workshop, here):
        inputs = [workshop[0] / name for name in ("run/weights.safetensors", "beads.npz")]
        options = ("--rounds", 1, "--replicas", 8, "--steps", 40, "--interval", 1)
        done = scoremd("refine", *inputs, here / "out", *options, "--backend", "pythonforce")
        assert (done.code, done.out) == (130, "")
        assert done.err.splitlines()[-1].startswith("error: interrupted; the same command goes on")


class TestSimulation:
    @pytest.fixture
    def stopping(self, monkeypatch):
        """Return a function that makes OpenMM do something after step 52."""

        def install(stop):
            step = openmm.app.Simulation.step

            def step_and_stop(simulation, n_steps):
                for _ in range(n_steps):
                    step(simulation, 1)
                    if simulation.currentStep == 52:
                        stop()

            monkeypatch.setattr(openmm.app.Simulation, "step", step_and_stop)

        return install

    @pytest.fixture
    def simulate(self, scoremd, workshop, here):
        options = (workshop[0] / "tiny.pt", "md", "--replicas", 2, "--steps", 100, "--interval", 5)
        return lambda *more: scoremd("simulate", *options, *more)

    def test_ctrl_c_waits_until_no_file_is_half_written(self, simulate, stopping):
        stopping(lambda: signal.raise_signal(signal.SIGINT))
        done = simulate()
        assert done.code == 130
        assert "error: interrupted; the same command with --resume goes on" in done.err
        found = load_replicas("md", n_beads=5)
        assert 10 <= found.shape[1] < 20
        # Its absence says that the run did not reach its end.
        assert not Path("md/run.json").exists()
        done = simulate("--resume", "--interval", 7)
        assert (done.code, "interval is 7 and was 5" in done.err) == (2, True)
        assert simulate("--resume").code == 0
        assert Path("md/run.json").exists()
        resumed = load_replicas("md", n_beads=5)
        np.testing.assert_array_equal(resumed[:, : found.shape[1]], found)
        assert resumed.shape[1] == 20

    def test_failure_of_openmm(self, simulate, stopping):
        def fail():
            raise openmm.OpenMMException("out of memory")

        stopping(fail)
        done = simulate()
        assert done.code == 2
        assert "OpenMM stopped after step 52: out of memory" in done.err
        assert load_replicas("md", n_beads=5).shape[:2] == (2, 10)

    def test_ctrl_c_in_a_terminal(self, workshop, here):
        command = (sys.executable, "-m", "openmm_scoremd", "simulate", workshop[0] / "tiny.pt")
        options = ("--replicas", "2", "--steps", "1000000", "--interval", "5")
        process = subprocess.Popen(
            [*command, here / "md", *options, "--backend", "pythonforce"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120.0
        state = Path("md/state.csv")
        while not state.exists() or state.read_text().count("\n") < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60.0)
        assert process.returncode == 130
        assert out == ""
        assert "error: interrupted" in err
        assert "Traceback" not in err
        assert load_replicas("md", n_beads=5).shape[0] == 2
