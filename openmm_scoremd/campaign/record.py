"""How steps of a campaign ended, and what can be said about the others, from files alone."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.campaign.plan import Job, Step

#: ``changed``: finished, but with another command line or other files than the campaign has now.
#: ``stopped``: begun, not ended, and nobody is at work. ``occupied``: not begun, and there is
#: something where its results would go.
State: TypeAlias = Literal[
    "finished", "failed", "changed", "running", "stopped", "waiting", "occupied"
]

#: Begins the line of the log that says that a command was started, and so made the folder.
BEGUN = "$ scoremd "


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """How a step ended.

    Attributes
    ----------
    digest : str
        That of the step; see :class:`~openmm_scoremd.campaign.plan.Step`.
    exit_code : int
        0 if it finished; negative: the signal that ended it.
    message : str
        Why it failed, or nothing.
    seconds : float
        Time of the last attempt.
    resumed : bool
        Whether it went on from a checkpoint of an earlier attempt.
    command : list of str
        Command line.
    """

    digest: str
    exit_code: int
    message: str
    seconds: float
    resumed: bool
    command: list[str]


def write_record(step: Step, record: StepRecord) -> None:
    """Write how a step ended."""
    write_json(step.record, dataclasses.asdict(record))


def read_record(step: Step) -> StepRecord | None:
    """Return how a step ended, None if it did not; an unreadable record counts as none."""
    try:
        content = json.loads(step.record.read_text(encoding="utf-8"))
        return StepRecord(**content)
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def state_of(step: Step) -> State:
    """Return where a step is."""
    return "running" if _is_locked(step.lock) else settled_state(step)


def settled_state(step: Step) -> State:
    """Return where a step is that nobody but the caller can be working on."""
    record = read_record(step)
    if record is None:
        if _was_begun(step):
            return "stopped"
        return "occupied" if _is_occupied(step) else "waiting"
    if record.exit_code != 0:
        return "failed"
    return "finished" if record.digest == step.digest else "changed"


def obstacle(step: Step, state: State) -> str:
    """Return why a step must not be done, or nothing: what no campaign made is not touched."""
    if state == "changed":
        return (
            f"{step.name} was done with another command line or other files; remove "
            f"{step.folder} and {step.record}, or give the campaign another output"
        )
    if state == "occupied":
        return (
            f"{step.name} would write where there is something already that was not made by this "
            f"campaign ({step.folder} or {step.record}); move it away, or give the campaign "
            "another output"
        )
    return ""


def status_table(jobs: Iterable[Job]) -> str:
    """Return a line for each job and one for all."""
    jobs = list(jobs)
    states = {job.name: [state_of(step) for step in job.steps] for job in jobs}
    width = max(len(job.name) for job in jobs)
    lines = []
    for job in jobs:
        shown = zip(job.steps, states[job.name], strict=True)
        lines.append(
            f"{job.name:<{width}}  " + "  ".join(f"{step.name} {state}" for step, state in shown)
        )
        for step, state in zip(job.steps, states[job.name], strict=True):
            if state == "failed" and (record := read_record(step)) is not None:
                lines.append(f"{'':<{width}}  {step.name}: {record.message} ({step.log})")
    counts = [job_state(of_job) for of_job in states.values()]
    total = ", ".join(
        f"{counts.count(kind)} {kind}"
        for kind in ("finished", "failed", "running", "waiting")
        if kind in counts
    )
    return "\n".join([*lines, f"{len(jobs)} jobs: {total}"])


def job_state(steps: Iterable[State]) -> Literal["finished", "failed", "running", "waiting"]:
    """Return where a job is, from the states of its steps."""
    states = list(steps)
    if all(state == "finished" for state in states):
        return "finished"
    if "running" in states:
        return "running"
    return "failed" if {"failed", "changed", "occupied"} & {*states} else "waiting"


def _was_begun(step: Step) -> bool:
    try:
        with open(step.log, encoding="utf-8", errors="replace") as log:
            return any(line.startswith(BEGUN) for line in log)
    except OSError:
        return False


def _is_occupied(step: Step) -> bool:
    folder = step.folder
    # The records of ours are readable: this one is somebody's file.
    is_file = step.record.exists() or (folder.exists() and not folder.is_dir())
    return is_file or (folder.is_dir() and any(folder.iterdir()))


def _is_locked(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
