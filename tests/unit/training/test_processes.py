"""Training in processes of its own: killed for real, and several that share the batches."""

import dataclasses
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from openmm_scoremd.training.checkpoint import load_checkpoint
from openmm_scoremd.training.config import FokkerPlanckConfig
from openmm_scoremd.training.log import read_log
from openmm_scoremd.training.trainer import Trainer

pytestmark = pytest.mark.slow

CHECKPOINT = "checkpoint.safetensors"
#: A user's script: starts, or goes on where the last process stopped. The last argument, if there
#: is one, is the step from which the part of the second process is NaN.
SCRIPT = """
import dataclasses, pickle, sys
from pathlib import Path

from openmm_scoremd.training.trainer import Trainer

config, folder = pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2])
trainer = Trainer(config, folder, progress=lambda row, n: print("row", row.step, flush=True))
if len(sys.argv) > 3:
    batch = trainer.stream.batch

    def poisoned(step):
        result = batch(step)
        if step >= int(sys.argv[3]):
            result.x0[1] = float("nan")
        return result

    trainer.stream.batch = poisoned
if (folder / "checkpoint.safetensors").exists() and trainer.fabric.world_size == 1:
    trainer.resume()
else:
    trainer.start()
"""


@pytest.fixture
def spawn(tmp_path):
    """Return a function that starts the script in a process group of its own."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    # Gloo asks for the address of the host's name, which some machines do not know.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = []

    def spawn(config, folder, *arguments):
        command = [sys.executable, str(path), pickle.dumps(config).hex(), str(folder), *arguments]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield spawn
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def wait_for_rows(process, n):
    for line in process.stdout:
        n -= line.startswith("row")
        if n <= 0:
            return
    raise AssertionError(f"the process ended early: {process.wait()}")


def test_kill_9_at_random_moments(planar, make_config, tmp_path, spawn, assert_same_run):
    config = make_config(planar, epochs=400, log_steps=7)  # 2000 steps
    folder, choice = tmp_path / "killed", random.Random(0)
    steps = []
    for _ in range(3):
        process = spawn(config, folder)
        wait_for_rows(process, choice.randint(1, 40))
        time.sleep(0.05 * choice.random())
        assert process.poll() is None, "it was over before it could be killed"
        process.kill()
        process.wait()
        steps.append(load_checkpoint(folder / CHECKPOINT).step)
    assert 0 < steps[0] < steps[1] < steps[2] < 2000
    process = spawn(config, folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    Trainer(config, tmp_path / "straight").start()
    assert_same_run(folder, tmp_path / "straight")


#: Of 16 frames in a batch, 8 have probes, and 4 of them one time.
CENTRED = FokkerPlanckConfig(alpha=0.1, estimator="centred", fraction=0.5, group_size=4)
REGIONAL = dataclasses.replace(
    CENTRED, frames="regions", times="log-noise", region_alpha=0.1, region_size=2
)


@pytest.mark.parametrize(
    "regulariser", [FokkerPlanckConfig(), FokkerPlanckConfig(alpha=1e-3), CENTRED, REGIONAL]
)
def test_two_processes_do_what_one_does(
    molecule, make_config, tmp_path, spawn, read_run, regulariser
):
    entries = {"hardware.precision": "64-true", "network.noise_floor": 0.05}
    one = make_config(molecule, **entries, fokker_planck=regulariser)
    two = make_config(molecule, **entries, **{"hardware.devices": 2}, fokker_planck=regulariser)
    process = spawn(two, tmp_path / "two")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    # Only the first process reports.
    assert output.count("row 25") == 1
    Trainer(one, tmp_path / "one").start()
    rows, expected = read_log(tmp_path / "two" / "log.csv"), read_log(tmp_path / "one" / "log.csv")
    assert [row.step for row in rows] == [row.step for row in expected]
    # As many digits as the log has.
    assert [r.loss for r in rows] == pytest.approx([r.loss for r in expected], rel=2e-6)
    # Probes magnify rounding, and Adam what has no gradient but rounding: the bias of the keys.
    tolerance = 1e-9 if regulariser.alpha == 0.0 else 1e-6
    weights, expected_weights = (read_run(tmp_path / name)[0] for name in ("two", "one"))
    torch.testing.assert_close(weights, expected_weights, rtol=tolerance, atol=tolerance)


def test_nan_in_one_process_stops_both(planar, make_config, tmp_path, spawn):
    # The last of an interval of three steps: nothing but the loss of the second process is NaN.
    process = spawn(make_config(planar, **{"hardware.devices": 2}), tmp_path / "two", "5")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "NaN or infinite loss at step 5" in output
    assert load_checkpoint(tmp_path / "two" / CHECKPOINT).step == 3
