"""One job on one worker: steps done, kept, failed, resumed."""

import fcntl
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from openmm_scoremd.campaign.child import specification
from openmm_scoremd.campaign.plan import load_campaign
from openmm_scoremd.campaign.record import read_record, state_of
from openmm_scoremd.campaign.work import run_job
from openmm_scoremd.data.dataset import save_dataset
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.simulation.run.folder import CHECKPOINT, Checkpoint
from openmm_scoremd.trajectories.reading import load_replicas

DATA = Path(__file__).parents[2] / "data"
BEADS = (
    f"scoremd coarse-grain '{DATA / 'alanine_dipeptide_200.dcd'}' --temperature 300 "
    f"--topology '{DATA / 'alanine_dipeptide.pdb'}' --preset alanine-dipeptide"
)
CHILD = [sys.executable, "-m", "openmm_scoremd.campaign.child"]
TINY = """
title: tiny
network: {family: mlp, hidden_dims: [8]}
hardware: {accelerator: cpu, backend: eager}
epochs: 4000
batch_size: 16
log_steps: 4
checkpoint_seconds: 0
data: {path: points.npz, augmentation: none, scale: 1.0}
"""


@pytest.fixture
def job_of(tmp_path):
    """Return a function that makes the only job of a campaign with these steps."""

    def make(**steps):
        lines = "\n".join(f'  {name}: "{line}"' for name, line in steps.items())
        path = tmp_path / "campaign.yaml"
        path.write_text(
            "output: out\nmolecules: {m: }\nmodels: {n: }\nseeds: [0]\nsteps:\n" + lines
        )
        (job,) = load_campaign(path)
        return job

    return make


@pytest.fixture
def run_child(tmp_path):
    """Return a function that runs the process of a step and returns its exit code."""

    def run(step):
        step.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(step.log, "ab") as log:
            process = subprocess.Popen(CHILD, stdin=subprocess.PIPE, stderr=log, cwd=tmp_path)
            process.stdin.write(specification(step))
            process.stdin.flush()
            code = process.wait(60)
            process.stdin.close()
            return code

    return run


def test_steps_are_done_once(job_of):
    job = job_of(first=f"{BEADS} --output {{folder}}/beads.npz")
    outcome = run_job(job)
    assert (outcome.error, outcome.kept, outcome.done) == ("", 0, 1)
    (step,) = job.steps
    assert (step.folder / "beads.npz").exists()
    assert "200 frames" in step.log.read_text()
    before = step.record.stat().st_mtime_ns
    outcome = run_job(job)
    assert (outcome.error, outcome.kept, outcome.done) == ("", 1, 0)
    assert step.record.stat().st_mtime_ns == before


def test_failure_ends_the_job_and_says_why(job_of):
    job = job_of(
        first=f"{BEADS} --stride 0 --output {{folder}}/beads.npz",
        second=f"{BEADS} --output {{folder}}/beads.npz",
    )
    outcome = run_job(job)
    assert "first: argument --stride: 0 is out of range" in outcome.error
    assert [state_of(step) for step in job.steps] == ["failed", "waiting"]
    record = read_record(job.steps[0])
    assert record.exit_code == 2


def test_half_a_result_is_removed(job_of):
    job = job_of(first=f"{BEADS} --output {{folder}}/beads.npz")
    folder = job.steps[0].folder
    folder.mkdir(parents=True)
    (folder / "beads.psf").write_text("left by a process that was killed")
    job.steps[0].log.write_text("$ scoremd coarse-grain\n")
    assert run_job(job).error == ""
    assert (folder / "beads.psf").read_text().startswith("PSF")


@pytest.mark.parametrize("name", ["first/notes.txt", "first.json", "first"])
def test_what_the_campaign_did_not_make_stays(job_of, name, run_child):
    job = job_of(first=f"{BEADS} --output {{folder}}/beads.npz")
    (step,) = job.steps
    path = step.folder.parent / name
    path.parent.mkdir(parents=True)
    path.write_text("a year of work")
    before = sorted(path.parent.iterdir())
    error = run_job(job).error
    assert "first would write where there is something already" in error
    assert sorted(path.parent.iterdir()) == before
    # Nor does a process that was started before somebody put it there.
    assert run_child(step) == 2
    assert path.read_text() == "a year of work"
    assert "would write where" in step.log.read_text()
    # And so it is the next time.
    assert run_job(job).error == error


def test_other_work_is_not_overwritten(job_of, run_child):
    assert run_job(job_of(first=f"{BEADS} --output {{folder}}/beads.npz")).error == ""
    job = job_of(first=f"{BEADS} --stride 2 --output {{folder}}/beads.npz")
    assert "was done with another command line" in run_job(job).error
    assert run_child(job.steps[0]) == 2
    assert (job.steps[0].folder / "beads.npz").exists()
    assert "200 frames" in job.steps[0].log.read_text()


def test_a_step_ends_with_its_worker(job_of, tmp_path):
    (step,) = job_of(first=f"{BEADS} --output {{folder}}/beads.npz").steps
    step.folder.parent.mkdir(parents=True)
    # The lock keeps it waiting, so that the end of its input is what ends it.
    with open(step.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(CHILD, stdin=subprocess.PIPE, cwd=tmp_path)
        process.stdin.write(specification(step))
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    assert not step.folder.exists()


@pytest.fixture
def start_worker(tmp_path):
    """Return a function that starts a process that runs the job, and stops it at the end."""
    workers = []

    def start():
        command = [sys.executable, "-c", _WORKER, str(tmp_path / "campaign.yaml")]
        workers.append(subprocess.Popen(command))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()


def wait_for(condition, worker):
    while not condition():
        assert worker.poll() is None
        time.sleep(0.02)


def kill_worker(start_worker, condition):
    """Start a worker and kill it, and with it its step, when the condition is met."""
    worker = start_worker()
    wait_for(condition, worker)
    (child,) = psutil.Process(worker.pid).children()
    worker.kill()
    worker.wait()
    psutil.wait_procs([child], timeout=60)


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(job_of, start_worker, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    save_dataset(sample_mueller_brown(64, seed=0), tmp_path / "points.npz")
    (train,) = job_of(train="scoremd train --config tiny.yaml --output {folder}").steps

    def logged():
        log = train.folder / "log.csv"
        return len(log.read_text().splitlines()) if log.exists() else 0

    kill_worker(start_worker, lambda: logged() > 3)
    assert state_of(train) == "stopped"
    before = logged()
    wait_for(lambda: logged() > before, start_worker())
    assert "--resume" in train.log.read_text().split("$ scoremd")[2]


@pytest.mark.slow
def test_simulation_goes_on_from_its_checkpoint(job_of, start_worker, make_toy):
    model = make_toy("pair.pt", n_beads=2, bond_ranges=((0.02, 0.6),)).path
    (step,) = job_of(
        md=f"scoremd simulate '{model}' {{folder}}/md --replicas 2 --steps 6000 --interval 10 "
        "--platform Reference --checkpoint-seconds 0 --margin inf"
    ).steps
    checkpoint = step.folder / "md" / CHECKPOINT

    def saved():
        return Checkpoint.load(checkpoint).header["step"] if checkpoint.exists() else 0

    kill_worker(start_worker, lambda: saved() > 200)
    assert state_of(step) == "stopped"
    worker = start_worker()
    assert worker.wait(120) == 0
    assert state_of(step) == "finished"
    said = step.log.read_text().split("$ scoremd")
    assert len(said) == 3
    assert "--resume" in said[2]
    assert "nothing to resume" not in said[2]
    # Frames of the first process were kept, and none is missing.
    written = int(re.search(r"([\d,]+) frames written now", said[2])[1].replace(",", ""))
    assert 0 < written < 590
    assert load_replicas(step.folder / "md", n_beads=2).shape[:2] == (2, 600)


_WORKER = """
import sys
from openmm_scoremd.campaign.plan import load_campaign
from openmm_scoremd.campaign.work import run_job
run_job(load_campaign(sys.argv[1])[0])
"""
