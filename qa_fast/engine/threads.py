"""Threads that are gone once they have been joined or shut down, for the operating system, too.

Before Python 3.13 a thread counts as joined while it still ends: its memory in native libraries is then
being freed, under their locks. A process that is forked meanwhile has these locks for ever as they are,
and the first matrix product in it waits for that of MKL.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread, current_thread
from time import monotonic, sleep
from typing import Any

# Seconds; a thread ends within microseconds once it has been joined.
_PATIENCE = 5.0


class Threads(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` whose `shutdown` waits until its threads are gone.

    Args:
        count: the most threads.
        name: how theirs begin.
        initializer: called by each at first.
        arguments: of ``initializer``.
    """

    def __init__(
        self,
        count: int,
        name: str,
        initializer: Callable[..., object] | None = None,
        *arguments: Any,
    ) -> None:
        started: list[Thread] = []
        self._started = started

        def start() -> None:  # without a reference to this object, which else would live on
            started.append(current_thread())
            if initializer is not None:
                initializer(*arguments)

        super().__init__(count, name, start)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As that of `ThreadPoolExecutor`."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for thread in self._started:
                wait_until_gone(thread)


def wait_until_gone(thread: Thread) -> None:
    """Wait for the end of a thread that has been joined.

    Where there is no such folder, nothing is to be seen of it, and MKL is not in use.
    """
    folder = Path(f"/proc/self/task/{thread.native_id}")
    until = monotonic() + _PATIENCE
    while folder.exists() and monotonic() < until:
        sleep(1e-5)
