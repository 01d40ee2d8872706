"""Several processes of `predict` on one machine, one per device.

The processes are new interpreters, so that each has its own CUDA context and threads, whatever the
caller has done so far. A child ends when its standard input does, so none outlives its parent. They are
in sessions of their own: Ctrl-C on the terminal reaches the parent only, which passes it on as SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from qa_fast.data.errors import Argument, ArgumentError, OneOf, Words
from qa_fast.data.examples import Columns

from .stopping import Interrupted, OnInterrupt, Stopping

_PROGRAM = "qa_fast.runs.child"
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes


# --- what parent and child tell each other, a line of JSON each ---------------------------------


class Job(NamedTuple):
    """What a child has to do: a call of `predict`.

    Attributes:
        device: on which the model runs.
        num_shards: how many processes share the rows.
        shard_index: which of them the child is, from 0.
        arguments: the others of `predict`, by name.
    """

    device: str
    num_shards: int
    shard_index: int
    arguments: Mapping[str, Any]

    def to_line(self) -> str:
        """Its line, without the end."""
        arguments = {name: _as_json(value) for name, value in self.arguments.items()}
        return json.dumps(self._replace(arguments=arguments)._asdict())

    @classmethod
    def of(cls, line: str) -> Job:
        """The job in a line."""
        job = cls(**json.loads(line))
        columns = job.arguments.get("columns")
        if columns is None:
            return job
        return job._replace(arguments={**job.arguments, "columns": Columns(**columns)})


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return asdict(value) if isinstance(value, Columns) else value


class Progress(NamedTuple):
    """A child says that so many more rows are done."""

    rows: int


class Failure(NamedTuple):
    """A child says why it cannot go on, in parts."""

    reason: Words


def to_line(message: Progress | Failure) -> str:
    """The line in which a child says it, without the end."""
    if isinstance(message, Progress):
        return json.dumps(message._asdict())
    return json.dumps({"reason": list(map(_part_as_json, message.reason))})


def message_of(line: str) -> Progress | Failure:
    """What a child says in a line."""
    found = json.loads(line)
    if "reason" not in found:
        return Progress(**found)
    return Failure(tuple(map(_part_of_json, found["reason"])))


def _part_as_json(part: str | Argument | OneOf) -> object:
    if isinstance(part, OneOf):
        ways = [list(map(_part_as_json, way)) for way in part.ways]
        return {**part._asdict(), "ways": ways}
    return part._asdict() if isinstance(part, Argument) else part


def _part_of_json(found: Any) -> str | Argument | OneOf:
    if isinstance(found, str):
        return found
    if "ways" in found:
        ways = tuple(tuple(map(_part_of_json, way)) for way in found["ways"])
        return OneOf(**{**found, "ways": ways})
    return Argument(**found)


# --- the parent ---------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Child:
    """A process, its job, and the thread that listens to it once it has been told the job."""

    job: Job
    process: subprocess.Popen[str]
    listener: threading.Thread | None = None

    @classmethod
    def start(cls, job: Job, environment: Mapping[str, str]) -> _Child:
        process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        return cls(job, process)

    def begin(self, events: SimpleQueue[_Event]) -> None:
        """Tell it its job; from then on what it says and its end are put among ``events``."""
        assert self.process.stdin is not None
        self.process.stdin.write(self.job.to_line() + "\n")
        self.process.stdin.flush()
        self.listener = threading.Thread(target=self._listen, args=(events,), daemon=True)
        self.listener.start()

    def _listen(self, events: SimpleQueue[_Event]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put(_Said(self, message_of(line)))
        events.put(_Ended(self))


class _Said(NamedTuple):
    child: _Child
    message: Progress | Failure


class _Ended(NamedTuple):
    child: _Child


class _StopAsked(NamedTuple):
    """By a signal to the parent."""


_Event = _Said | _Ended | _StopAsked


def run_processes(
    jobs: Sequence[Job], report: Callable[[int], object], on_interrupt: OnInterrupt = "drop"
) -> None:
    """Run `predict` once per job, each in a process, and wait for all.

    Args:
        jobs: whose arguments are JSON, but for paths and `Columns`.
        report: called with the number of rows done since its last call.
        on_interrupt: as in `predict`.

    Raises:
        ValueError: a process failed; the others are stopped. The message has the job's device.
        KeyboardInterrupt: they were stopped by a signal.
    """
    environment = _environment(jobs)
    children: list[_Child] = []
    events: SimpleQueue[_Event] = SimpleQueue()
    failures: dict[_Child, Words] = {}
    stopped = False
    noting = Stopping(then=partial(events.put, _StopAsked()))
    try:
        with noting if on_interrupt == "finish" else nullcontext(noting) as stop:
            for job in jobs:
                children.append(_Child.start(job, environment))
                children[-1].begin(events)
            running = set(children)
            while running:
                match events.get():
                    case _StopAsked():
                        for child in children:
                            child.process.terminate()
                    case _Said(_, Progress(rows)):
                        report(rows)
                    case _Said(child, Failure(reason)):
                        failures[child] = reason
                    case _Ended(child):
                        running.discard(child)
                        code = child.process.wait()
                        if stop.signal is not None and code in _STOPPED:
                            stopped = True
                        elif code and child not in failures:
                            failures[child] = [f"its process ended with exit code {code}"]
                        if failures:
                            break
    finally:
        _stop(children)
    if failures:
        child, reason = next(iter(failures.items()))
        raise ArgumentError(f"device {child.job.device}: ", *reason)
    if stopped:
        raise Interrupted("", stop.signal or signal.SIGINT)


def _environment(jobs: Sequence[Job]) -> dict[str, str]:
    """The children's: the current folder is no place to import from, and CPUs are shared."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    cpus = sum(str(job.device).startswith("cpu") for job in jobs)
    if cpus > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cpus)))
    return environment


def _stop(children: Sequence[_Child]) -> None:
    """End at once what is still running, and wait for it."""
    for child in children:
        if child.process.stdin is not None:
            child.process.stdin.close()
    for child in children:
        if child.listener is not None:
            # It ends with what its child has to say.
            child.listener.join()
    for child in children:
        child.process.wait()
        if child.process.stdout is not None:
            child.process.stdout.close()
