"""What a worker does with one job: its steps one after another, each in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

from openmm_scoremd.campaign.child import specification
from openmm_scoremd.campaign.plan import Job, Step
from openmm_scoremd.campaign.record import (
    StepRecord,
    obstacle,
    read_record,
    state_of,
    write_record,
)


@dataclasses.dataclass(frozen=True)
class JobOutcome:
    """What became of a job.

    Attributes
    ----------
    name : str
        The job.
    error : str
        Why it failed; empty if all steps are finished.
    kept : int
        Steps that were finished before.
    done : int
        Steps done now.
    """

    name: str
    error: str
    kept: int = 0
    done: int = 0


def run_job(job: Job) -> JobOutcome:
    """Do what is left to do of a job.

    Steps that are finished are left as they are, stopped ones go on where they can, failed ones are
    tried again. The first failure ends the job.

    Parameters
    ----------
    job : Job
        What to do; its folder must be within reach of this machine.

    Returns
    -------
    JobOutcome
        What became of it; a step that fails is no exception.
    """
    kept = done = 0
    for step in job.steps:
        state = state_of(step)
        if state == "finished":
            kept += 1
            continue
        if reason := obstacle(step, state):
            return JobOutcome(job.name, reason, kept, done)
        code = _run_step(step, job)
        if code != 0:
            record = read_record(step)
            reason = record.message if record is not None else f"exit code {code}"
            return JobOutcome(job.name, f"{step.name}: {reason} ({step.log})", kept, done)
        done += 1
    return JobOutcome(job.name, "", kept, done)


def _run_step(step: Step, job: Job) -> int:
    step.folder.parent.mkdir(parents=True, exist_ok=True)
    threads = str(job.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENMM_CPU_THREADS": threads}
    with (
        open(step.log, "ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", "openmm_scoremd.campaign.child"],
            stdin=subprocess.PIPE,  # stays open: closing it, by dying too, ends the process
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=job.cwd,
            env=environment,
        ) as process,
    ):
        if process.stdin is not None:
            process.stdin.write(specification(step))
            process.stdin.flush()
        code = process.wait()
    if code < 0:
        message = f"ended by signal {-code} ({signal.Signals(-code).name})"
        write_record(step, StepRecord(step.digest, code, message, 0.0, False, [*step.arguments]))
    return code
