"""Several processes of `predict` on one machine, one per device.

The processes are new interpreters, so that each has its own CUDA context and threads, whatever the
caller has done so far. A child ends when its standard input does, so none outlives its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from .rows import Columns

_CHILD = "from qa_fast import predict, processes; processes.child(predict)"


def run_processes(jobs: Sequence[Mapping[str, Any]], report: Callable[[int], object]) -> None:
    """Run `predict` once per job, each in a process, and wait for all.

    Args:
        jobs: arguments of `predict` that are JSON, by name.
        report: called with the number of rows done since its last call.

    Raises:
        ValueError: a process failed; the others are stopped. The message has the job's device.
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
    try:
        for number, job in enumerate(jobs):
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
            )
            children.append(child)
            _tell(child, json.dumps(dict(job)))
            listeners.append(threading.Thread(target=listen, args=(number,), daemon=True))
            listeners[-1].start()
        running = set(range(len(jobs)))
        while running:
            number, message = said.get()
            if isinstance(message, int):
                report(message)
            elif message is not None:
                failures[number] = message["error"]
            else:
                running.discard(number)
                code = children[number].wait()
                if code and number not in failures:
                    failures[number] = f"its process ended with exit code {code}"
                if failures:
                    break
    finally:
        _stop(children, listeners)
    if failures:
        number, reason = next(iter(failures.items()))
        raise ValueError(f"device {jobs[number]['device']}: {reason}")


def _tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def _stop(children: Sequence[subprocess.Popen[str]], listeners: Sequence[threading.Thread]) -> None:
    """End what is still running, which it takes as a Ctrl-C, and wait for it."""
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
        interrupt_main()

    job = json.loads(sys.stdin.readline())
    threading.Thread(target=watch, daemon=True).start()
    try:
        if job["columns"] is not None:
            job["columns"] = Columns(**job["columns"])
        predict(**job, progress=tell)
    except (ValueError, OSError, ImportError) as error:
        tell({"error": str(error)})
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)
    sys.stdout.flush()
    os._exit(0)  # not interrupted any more by the end of standard input
