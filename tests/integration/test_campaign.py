"""A campaign on a LocalCluster whose workers are killed: nothing that was done is done again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from openmm_scoremd.campaign.plan import load_campaign
from openmm_scoremd.campaign.record import state_of

DATA = Path(__file__).parents[1] / "data"
#: Two molecules, two models, two seeds: eight runs of two steps.
CAMPAIGN = f"""
output: out
molecules:
  all: {{stride: 1}}
  half: {{stride: 2}}
models:
  chain: {{beads: "4,6,8,14,16"}}
  ends: {{beads: "4,16"}}
seeds: [0, 1]
steps:
  beads: >
    scoremd coarse-grain '{DATA / "alanine_dipeptide_200.dcd"}' --temperature 300
    --topology '{DATA / "alanine_dipeptide.pdb"}' --indices {{model.beads}}
    --stride {{molecule.stride}} --output {{folder}}/seed-{{seed}}.npz
  again: >
    scoremd coarse-grain '{DATA / "alanine_dipeptide_200.dcd"}' --temperature 300
    --topology '{DATA / "alanine_dipeptide.pdb"}' --indices {{model.beads}}
    --stride {{molecule.stride}} --output {{folder}}/beads.npz
"""
N_JOBS, N_STEPS = 8, 16
COMMAND = [sys.executable, "-m", "openmm_scoremd", "campaign", "campaign.yaml"]


@pytest.fixture
def steps(tmp_path, monkeypatch):
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    monkeypatch.chdir(tmp_path)
    return [step for job in load_campaign("campaign.yaml") for step in job.steps]


def records(steps):
    return {step.record: step.record.stat().st_mtime_ns for step in steps if step.record.exists()}


def kill_a_busy_worker(campaign, spared):
    """Kill the parent of a step's process while it works on it, and return its number."""
    while campaign.poll() is None:
        for child in psutil.Process(campaign.pid).children(recursive=True):
            try:
                is_step = "openmm_scoremd.campaign.child" in child.cmdline()
                worker = child.parent()
            except psutil.NoSuchProcess:
                continue
            if is_step and worker is not None and worker.pid not in spared:
                os.kill(worker.pid, signal.SIGKILL)
                return worker.pid
        time.sleep(0.01)
    raise AssertionError("the campaign ended before a worker could be killed")


@pytest.mark.slow
def test_killed_workers_cost_no_finished_work(steps, tmp_path):
    out = tmp_path / "said"
    with open(out, "w") as said:
        campaign = subprocess.Popen([*COMMAND, "--workers", "2"], stdout=said, stderr=said)
        try:
            killed, before = set(), {}
            for enough in (2, 6):
                while len(records(steps)) < enough:
                    assert campaign.poll() is None, out.read_text()
                    time.sleep(0.01)
                before |= records(steps)
                killed.add(kill_a_busy_worker(campaign, killed))
            assert campaign.wait(300) == 0, out.read_text()
        finally:
            campaign.kill()
            campaign.wait()
    assert len(killed) == 2
    assert [state_of(step) for step in steps] == ["finished"] * N_STEPS
    # What was finished when a worker died is what is there now, and every step finished once.
    assert {path: records(steps)[path] for path in before} == before
    logs = [step.log.read_text() for step in steps]
    assert [log.count("frames of") for log in logs] == [1] * N_STEPS
    begun = sum(log.count("$ scoremd") for log in logs)
    assert N_STEPS <= begun <= N_STEPS + len(killed)
    assert out.read_text().count(": finished") == N_JOBS
    # Only results, records, logs and locks are left.
    kinds = {p.suffix for p in tmp_path.rglob("*") if p.is_file()}
    assert kinds == {".yaml", "", ".npz", ".pdb", ".psf", ".json", ".log", ".lock"}


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
def test_a_failed_job_is_reported_and_the_others_go_on(tmp_path):
    broken = CAMPAIGN.replace('"4,16"', '"4,1600"').replace("[0, 1]", "[0]")
    (tmp_path / "campaign.yaml").write_text(broken)
    done = subprocess.run([*COMMAND, "--workers", "1"], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout.count(": finished") == 2
    assert "all/ends/seed-0: failed: beads: " in done.stdout
    assert "error: 2 of 4 jobs failed (" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    status = subprocess.run([*COMMAND, "--status"], capture_output=True, text=True)
    assert status.returncode == 0, status.stderr
    assert status.stdout.splitlines()[-1] == "4 jobs: 2 finished, 2 failed"
    assert "1600" in status.stdout


@pytest.mark.usefixtures("steps")
def test_an_address_without_a_scheduler(monkeypatch, capsys):
    from openmm_scoremd.campaign import cluster
    from openmm_scoremd.cli.main import main

    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    assert main(["campaign", "campaign.yaml", "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert main(["campaign", "campaign.yaml", "--scheduler", "nonsense://x"]) == 2
    assert "nonsense" in capsys.readouterr().err
