"""The log survives crashes: only whole rows count, and work done again is not listed twice."""

import dataclasses

import pytest

from openmm_scoremd.training.log import COLUMNS, LogRow, TrainingLog, read_log


def row(step):
    return LogRow(step, step / 7.0, 1.0 / step, 1e-3, 1234.5, held_out_loss=2.0 / step)


@pytest.fixture
def log(tmp_path):
    log = TrainingLog(tmp_path / "folder" / "log.csv", last_step=0)
    for step in (10, 20, 30):
        log.append(row(step))
    return log


def test_rows_come_back(log):
    found = read_log(log.path)
    assert [r.step for r in found] == [10, 20, 30]
    for r in found:
        expected = row(r.step)
        for name in COLUMNS:
            assert getattr(r, name) == pytest.approx(getattr(expected, name), rel=1e-4)
    assert log.path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_held_out_loss_may_be_missing(log):
    without = dataclasses.replace(row(40), held_out_loss=None)
    log.append(without)
    assert read_log(log.path)[-1].held_out_loss is None
    # Logs of earlier versions have no such column; it is added when a run goes on.
    lines = [line.rpartition(",")[0] for line in log.path.read_text().splitlines()]
    log.path.write_text("\n".join([*lines, ""]))
    assert [r.held_out_loss for r in read_log(log.path)] == [None] * 4
    again = TrainingLog(log.path, last_step=40)
    again.append(row(50))
    assert [r.held_out_loss for r in read_log(log.path)] == [None] * 4 + [0.04]


def test_no_file_no_rows(tmp_path):
    assert read_log(tmp_path / "absent.csv") == []


@pytest.mark.parametrize(
    ("last_step", "kept"), [(0, []), (19, [10]), (20, [10, 20]), (99, [10, 20, 30])]
)
def test_later_rows_are_dropped_on_resume(log, last_step, kept):
    again = TrainingLog(log.path, last_step=last_step)
    assert [r.step for r in again.rows] == kept
    again.append(row(40))
    assert [r.step for r in read_log(log.path)] == [*kept, 40]


def test_rewriting_does_not_change_rows(log):
    before = log.path.read_bytes()
    TrainingLog(log.path, last_step=99)
    assert log.path.read_bytes() == before


def test_every_torn_last_line_is_ignored(log):
    content = log.path.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for length in range(last, len(content)):
        log.path.write_bytes(content[:length])
        assert [r.step for r in read_log(log.path)] == [10, 20]


def test_a_torn_line_does_not_swallow_the_next(log):
    log.path.write_bytes(log.path.read_bytes()[:-4])
    TrainingLog(log.path, last_step=99).append(row(30))
    assert [r.step for r in read_log(log.path)] == [10, 20, 30]


@pytest.mark.parametrize(
    "damage", [b"30,x,1,1,1\n", b"\xff\xfe\x00\n", b"30\n", b"nan,1,1,1,1\n", b"\n"]
)
def test_nothing_after_a_damaged_line_counts(log, damage):
    log.path.write_bytes(log.path.read_bytes() + damage + b"40,5,1,1,1\n")
    steps = [r.step for r in read_log(log.path)]
    # An empty line is not damage.
    assert steps == ([10, 20, 30, 40] if damage == b"\n" else [10, 20, 30])


def test_losses_that_are_not_finite_stay_readable(log):
    log.append(LogRow(40, 1.0, float("nan"), 1e-3, 1.0))
    assert len(read_log(log.path)) == 4


def test_a_reader_sees_every_row_at_once(log):
    log.append(row(40))
    assert log.path.read_bytes().endswith(b"\n")
    assert len(read_log(log.path)) == 4
