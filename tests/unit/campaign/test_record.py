"""Where the steps of a campaign are, told from files."""

import dataclasses
import fcntl

import pytest

from openmm_scoremd.campaign.plan import Job, Step
from openmm_scoremd.campaign.record import (
    StepRecord,
    job_state,
    obstacle,
    read_record,
    state_of,
    status_table,
    write_record,
)

FINISHED = StepRecord("abc", 0, "", 1.5, False, ["scoremd", "info"])


@pytest.fixture
def step(tmp_path):
    return Step("train", ("info", "x.pt"), tmp_path / "train", "abc")


def test_states_of_a_step(step):
    assert state_of(step) == "waiting"
    step.folder.mkdir()
    assert state_of(step) == "waiting"
    step.log.write_text("said something\n$ scoremd info x.pt\n")
    assert state_of(step) == "stopped"
    write_record(step, FINISHED)
    assert read_record(step) == FINISHED
    assert state_of(step) == "finished"
    assert state_of(dataclasses.replace(step, digest="other")) == "changed"
    write_record(step, dataclasses.replace(FINISHED, exit_code=2, message="no such file"))
    assert state_of(step) == "failed"
    with open(step.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_of(step) == "running"
    assert state_of(step) == "failed"


def test_what_was_there_before_is_in_the_way(step):
    step.folder.mkdir()
    (step.folder / "notes.txt").touch()
    step.log.write_text("error: occupied")
    assert state_of(step) == "occupied"
    assert f"not made by this campaign ({step.folder} or {step.record})" in obstacle(
        step, "occupied"
    )
    (step.folder / "notes.txt").unlink()
    assert state_of(step) == "waiting"
    step.record.write_text('{"somebody": "else"}')
    assert state_of(step) == "occupied"
    step.record.unlink()
    step.folder.rmdir()
    step.folder.write_text("a file")
    assert state_of(step) == "occupied"
    assert job_state(["finished", "occupied"]) == "failed"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digest": 3}', "\udcff", "[" * 100_000])
def test_damaged_records_count_as_none(step, content):
    step.record.write_bytes(content.encode(errors="surrogateescape"))
    assert read_record(step) is None


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        (["finished", "finished"], "finished"),
        (["finished", "running"], "running"),
        (["finished", "failed"], "failed"),
        (["changed", "waiting"], "failed"),
        (["finished", "stopped"], "waiting"),
    ],
)
def test_states_of_a_job(steps, state):
    assert job_state(steps) == state


def test_table_names_jobs_and_reasons(step, tmp_path):
    write_record(step, dataclasses.replace(FINISHED, exit_code=2, message="the data are gone"))
    other = Step("train", ("info",), tmp_path / "other/train", "abc")
    jobs = [Job("a/b/seed-0", (step,), tmp_path, 1), Job("a/c/seed-0", (other,), tmp_path, 1)]
    lines = status_table(jobs).splitlines()
    assert lines[0].split() == ["a/b/seed-0", "train", "failed"]
    assert "the data are gone" in lines[1]
    assert lines[2].split() == ["a/c/seed-0", "train", "waiting"]
    assert lines[3] == "2 jobs: 1 failed, 1 waiting"
