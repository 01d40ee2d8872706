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
from _thread import interrupt_main
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any

from qa_fast.data.examples import Columns
from qa_fast.files.wording import explain

from .stopping import Interrupted, OnInterrupt, Stopping

_CHILD = "from qa_fast.runs import predict, processes; processes.child(predict.predict)"
_STOP = -1  # in place of a child's number
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes


def run_processes(
    jobs: Sequence[Mapping[str, Any]],
    report: Callable[[int], object],
    on_interrupt: OnInterrupt = "drop",
) -> None:
    """Run `predict` once per job, each in a process, and wait for all.

    Args:
        jobs: arguments of `predict` that are JSON, by name.
        report: called with the number of rows done since its last call.
        on_interrupt: as in `predict`.

    Raises:
        ValueError: a process failed; the others are stopped. The message has the job's device.
        KeyboardInterrupt: they were stopped by a signal.
    """
    cpus = sum(str(job["device"]).startswith("cpu") for job in jobs)
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if cpus > 1:  # they share the cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cpus)))
    children: list[subprocess.Popen[str]] = []
    listeners: list[threading.Thread] = []
    # What the children say: (child, message), and (child, None) at its end.
    said: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def listen(number: int) -> None:
        stream = children[number].stdout
        assert stream is not None
        for line in stream:
            said.put((number, json.loads(line)))
        said.put((number, None))

    failures: dict[int, str] = {}
    stopped = False
    noting = Stopping(then=partial(said.put, (_STOP, None)))
    try:
        with noting if on_interrupt == "finish" else nullcontext(noting) as stop:
            for number, job in enumerate(jobs):
                child = subprocess.Popen(
                    [sys.executable, "-c", _CHILD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    env=environment,
                    start_new_session=True,
                )
                children.append(child)
                _tell(child, json.dumps(dict(job)))
                listeners.append(threading.Thread(target=listen, args=(number,), daemon=True))
                listeners[-1].start()
            running = set(range(len(jobs)))
            while running:
                number, message = said.get()
                if number == _STOP:
                    for child in children:
                        child.terminate()
                elif isinstance(message, int):
                    report(message)
                elif message is not None:
                    failures[number] = message["error"]
                else:
                    running.discard(number)
                    code = children[number].wait()
                    if stop.signal is not None and code in _STOPPED:
                        stopped = True
                    elif code and number not in failures:
                        failures[number] = f"its process ended with exit code {code}"
                    if failures:
                        break
    finally:
        _stop(children, listeners)
    if failures:
        number, reason = next(iter(failures.items()))
        raise ValueError(f"device {jobs[number]['device']}: {reason}")
    if stopped:
        raise Interrupted("", stop.signal or signal.SIGINT)


def _tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def _stop(children: Sequence[subprocess.Popen[str]], listeners: Sequence[threading.Thread]) -> None:
    """End at once what is still running, and wait for it."""
    for child in children:
        if child.stdin is not None:
            child.stdin.close()
    for listener in listeners:  # each ends with what its child has to say
        listener.join()
    for child in children:
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def child(predict: Callable[..., object]) -> None:
    """What each process runs: the job is the first line of its standard input."""
    # What is printed by others must not be taken for a message.
    channel, sys.stdout = sys.stdout, sys.stderr

    def tell(message: object) -> None:
        print(json.dumps(message), file=channel, flush=True)

    def watch() -> None:
        sys.stdin.read()
        interrupt_main(signal.SIGHUP)

    signal.signal(signal.SIGHUP, signal.default_int_handler)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=watch, daemon=True).start()
    try:
        if job["columns"] is not None:
            job["columns"] = Columns(**job["columns"])
        predict(**job, progress=tell)
    except (ValueError, OSError, ImportError) as error:
        tell({"error": explain(error)})
        os._exit(1)
    except KeyboardInterrupt as stopped:
        os._exit(128 + getattr(stopped, "signal", signal.SIGINT))
    sys.stdout.flush()
    os._exit(0)  # not interrupted any more by the end of standard input
