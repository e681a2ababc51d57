"""The process of one step: ``python -m openmm_scoremd.campaign.child``, started by a worker.

It gets the step as one line of JSON on standard input, which then stays open as long as the worker
lives: a worker that is killed takes its step with it, so that two processes never write the same
files. On top, the step is locked, also against other campaigns on the same folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import shlex
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from openmm_scoremd.campaign.plan import Step
from openmm_scoremd.campaign.record import (
    BEGUN,
    StepRecord,
    obstacle,
    settled_state,
    write_record,
)

#: Commands that take ``--resume``, and the files that show that there is something to resume.
RESUMABLE = {"train": "**/checkpoint.safetensors", "simulate": "**/simulation.json"}

_MAX_SPECIFICATION = 1 << 20
_INTERRUPTED = 130


def specification(step: Step) -> bytes:
    """Return the line that tells the process what to do."""
    content = [step.name, list(step.arguments), str(step.folder), step.digest]
    return json.dumps(content).encode() + b"\n"


def main() -> int:
    """Do the step that standard input names; return its exit code."""
    name, arguments, folder, digest = json.loads(_first_line())
    threading.Thread(target=_die_with_the_worker, daemon=True).start()
    step = Step(name, tuple(arguments), Path(folder), digest)
    with open(step.lock, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process of a dead worker may need a moment to end
        try:
            return _run(step)
        except OSError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2


def _run(step: Step) -> int:
    state = settled_state(step)  # another campaign may have been faster to lock it
    if state == "finished":
        return 0
    if reason := obstacle(step, state):
        sys.stderr.write(f"error: {reason}\n")
        return 2
    arguments = list(step.arguments)
    pattern = RESUMABLE.get(arguments[0])
    resumed = pattern is not None and any(step.folder.glob(pattern))
    if resumed:
        arguments.append("--resume")
    elif step.folder.is_dir():
        shutil.rmtree(step.folder)  # half a result of ours that nothing can go on from
    step.record.unlink(missing_ok=True)
    began = time.monotonic()
    code = _scoremd(arguments)
    if code != _INTERRUPTED:
        seconds = round(time.monotonic() - began, 3)
        message = "" if code == 0 else _last_line(step.log)
        command = ["scoremd", *arguments]
        write_record(step, StepRecord(step.digest, code, message, seconds, resumed, command))
    return code


def _scoremd(arguments: list[str]) -> int:
    sys.argv[1:] = arguments
    sys.stdout.write(f"{BEGUN}{shlex.join(arguments)}\n")
    sys.stdout.flush()
    try:
        # The command line is no part of the package that others import, so it is run as a program.
        runpy.run_module("openmm_scoremd", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _first_line() -> bytes:
    # Not sys.stdin: its buffer would swallow more, and its lock outlive the interpreter.
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1)
        if not part or len(line) > _MAX_SPECIFICATION:
            sys.exit("the worker that started this process has gone")
        line += part
    return line


def _die_with_the_worker() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ")[:500] if said else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
