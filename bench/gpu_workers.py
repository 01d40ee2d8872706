"""Jobs in many processes that may fail, hang or lose their GPU, one without the others."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from qa_fast.models.devices import is_device_lost

MOST_WORKERS = 16
START_SECONDS = 90  # a worker's imports and its context on the GPU, from a cold disk

Found = dict[str, Any]


def described(error: BaseException) -> str:
    """An error in a line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


def _serve(connection: Connection, prepare: Callable[[], None], function: Any) -> None:
    """Work until there is no job left, or until an error has cost the process its GPU."""
    prepare()
    connection.send({})  # ready
    while (job := connection.recv()) is not None:
        try:
            found = function(job)
        except Exception as error:
            found = {"error": described(error)}
            if is_device_lost(error):
                connection.send({**found, "dead": True})
                sys.exit(1)
        connection.send(found)


class _Worker:
    """A process and the job it has; None while it starts."""

    def __init__(self, *work: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *work), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Any = None
        self.since = time.monotonic()

    def poll(self, limit: float) -> Found | None:
        """What it has found; None while it works. With ``dead`` it takes no more jobs."""
        if self.connection.poll():
            try:
                found: Found = self.connection.recv()
            except EOFError:
                self.process.join()
                code = self.process.exitcode
                return {"error": f"its process ended with exit code {code}", "dead": True}
            return found
        limit = START_SECONDS if self.job is None else limit
        if time.monotonic() - self.since > limit:
            self.process.kill()
            return {"error": f"took longer than {limit:.0f} seconds", "dead": True}
        return None

    def give(self, job: Any) -> None:
        """The next job; None: there is none, and the process ends."""
        self.job, self.since = job, time.monotonic()
        self.connection.send(job)


def in_processes(
    function: Callable[[Any], Found],
    jobs: Iterable[Any],
    prepare: Callable[[], None],
    *,
    limit: float,
    until: float,
) -> Iterator[tuple[Any, Found]]:
    """Each job with what ``function`` returns for it, as they finish, in one process per core.

    A job that raises, takes more than ``limit`` seconds or kills its process has an ``error``. Another
    process takes a dead one's place, up to four times as many as there were at first. No job is begun
    after the monotonic clock's ``until``.

    Args:
        function: called in the processes, like ``prepare`` at their start; both can be pickled.
        jobs: what ``function`` takes, but not None.
        prepare: see ``function``.
        limit: seconds for a job.
        until: when to end.

    Raises:
        RuntimeError: jobs are left, but no process.
    """
    work = prepare, function
    jobs = iter(jobs)
    workers = [_Worker(*work) for _ in range(min(MOST_WORKERS, os.cpu_count() or 1))]
    spare, error = 4 * len(workers), ""
    while workers:
        wait([worker.connection for worker in workers], timeout=0.2)
        for worker in list(workers):
            found = worker.poll(limit)
            if found is None:
                continue
            dead = found.pop("dead", False)
            error = found.get("error", error)
            if worker.job is not None:
                yield worker.job, found
            if not dead:
                worker.give(next(jobs, None) if time.monotonic() < until else None)
            if dead or worker.job is None:
                workers.remove(worker)
            if dead and spare:
                spare -= 1
                workers.append(_Worker(*work))
    if time.monotonic() < until and next(jobs, None) is not None:
        raise RuntimeError(f"no process is left to work in: {error}")
