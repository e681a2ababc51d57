"""Jobs on a Dask cluster: the only owner of ``dask`` and ``distributed``."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openmm_scoremd.campaign.plan import Job
from openmm_scoremd.campaign.work import JobOutcome, run_job
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError

#: Deaths of workers that one job may outlive; each time it goes on where it was.
ALLOWED_FAILURES = 20

#: Seconds to wait for the scheduler of an existing cluster.
CONNECT_SECONDS = 10.0

#: Called as ``report(outcome, jobs_done, jobs_in_all)`` after each job.
Report = Callable[[JobOutcome, int, int], None]


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    report: Report | None = None,
) -> list[JobOutcome]:
    """Run jobs on a cluster until each has finished or failed.

    Parameters
    ----------
    jobs : sequence of Job
        What to do.
    workers : int, optional
        Processes on this machine, each of which does one job at a time; as many as there are cores
        for, if not given.
    scheduler : str, optional
        Address of the scheduler of an existing cluster, whose workers see the same files and have
        this package; then ``workers`` is not used.
    report : callable, optional
        Progress report.

    Returns
    -------
    list of JobOutcome
        In the order in which the jobs ended.

    Raises
    ------
    InvalidInputError
        If the scheduler cannot be reached.
    MissingDependencyError
        If Dask is not installed.
    """
    distributed = _distributed()
    outcomes: list[JobOutcome] = []
    with _client(distributed, jobs, workers, scheduler) as client:
        # Not the job's name alone: Dask would return the result of an earlier campaign.
        futures = {client.submit(run_job, job, pure=False): job for job in jobs}
        try:
            for future in distributed.as_completed(futures):
                outcome = _outcome(future, futures[future])
                outcomes.append(outcome)
                if report is not None:
                    report(outcome, len(outcomes), len(jobs))
        finally:
            # On somebody else's cluster nothing may go on when this process ends.
            client.cancel([future for future in futures if not future.done()])
    return outcomes


def _outcome(future: Any, job: Job) -> JobOutcome:
    error = future.exception()
    if error is None:
        result: JobOutcome = future.result()
        return result
    if type(error).__name__ == "KilledWorker":
        return JobOutcome(job.name, f"the workers that ran it died {ALLOWED_FAILURES} times")
    text = str(error) or type(error).__name__
    return JobOutcome(job.name, f"the worker could not run it: {text}")


@contextmanager
def _client(
    distributed: Any, jobs: Sequence[Job], workers: int | None, scheduler: str | None
) -> Iterator[Any]:
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"no Dask scheduler answers at {scheduler} ({error}); give its address, such as "
                "tcp://host:8786"
            ) from error
        with client:
            yield client
        return
    threads = jobs[0].threads if jobs else 1
    count = workers or max(1, min(len(jobs), _cores() // threads))
    with (
        _settings(),
        tempfile.TemporaryDirectory(prefix="scoremd-campaign-") as scratch,
        contextlib.ExitStack() as stack,
    ):
        with _interrupts_wait():
            cluster = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # steps are processes of their own, which Dask does not see
                dashboard_address=None,
                local_directory=scratch,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster))
        yield client


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a block: a cluster that is half there cannot be closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if pressed:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _settings() -> Iterator[None]:
    dask = importlib.import_module("dask")
    with dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_FAILURES}):
        yield


def _cores() -> int:
    with contextlib.suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _distributed() -> Any:
    try:
        distributed = importlib.import_module("distributed")
        # It sets a level of its own, so that the one of the root does not count.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        return distributed
    except ImportError as error:
        raise MissingDependencyError(
            f"a campaign needs Dask ({error}); install it with "
            "pip install 'openmm-scoremd[campaign]'"
        ) from error
