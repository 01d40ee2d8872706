"""A process that works on texts, and the channel to it.

It is started with ``python -m``, so it needs nothing of the caller's main module, and it imports no
PyTorch. It has a copy of the tokenizer, gets the texts of a window, and keeps what became of them until
the window's answers are there. It ends when its standard input does, so none outlives the process that
started it. It is in a session of its own: Ctrl-C on the terminal does not reach it.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread, current_thread
from typing import Any

from qa_fast.texts.channel import SHARED_BYTES, Channel

_PROGRAM = "qa_fast.texts.worker"
# Files there are memory.
_SHARED_FOLDER = Path("/dev/shm")
# Seconds for a process to end.
_PATIENCE = 5


class WorkerLost(ValueError):
    """A process ended that was not to end.

    Attributes:
        at_work: whether it had been given what it was asked for, and so may have ended over it.
    """

    def __init__(self, message: str, *, at_work: bool = True) -> None:
        super().__init__(message)
        self.at_work = at_work


class Worker:
    """A process, and the channel to it.

    Args:
        chunker: the `Chunker`, pickled.
        threads: threads for the tokenizer.

    Attributes:
        windows: those that it has.
        lost: how it ended; "" while it can be used.
        told: for the caller to note that this has been told.
    """

    def __init__(self, chunker: bytes, threads: int) -> None:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        environment.setdefault("RAYON_NUM_THREADS", str(threads))
        # Changed by several threads: only in single steps.
        self.windows: set[int] = set()
        self._done: deque[int] = deque()
        self.lost = ""
        self.told = False
        self._ready = False
        self._turn = Lock()
        file, shared = _shared_memory()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, *map(str, file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pass_fds=file,
                start_new_session=True,
            )
        finally:
            for descriptor in file:
                os.close(descriptor)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._pipes = self.process.stdin, self.process.stdout
        self._channel = Channel(self.process.stdout, self.process.stdin, shared)
        _all_workers.add(self)
        self._starting = Thread(target=self._start, args=(chunker,), daemon=True)
        try:
            self._starting.start()
        except BaseException:
            self.stop()
            raise

    def _start(self, chunker: bytes) -> None:
        try:
            self._channel.send(chunker)
            self._channel.receive()
            self._ready = True
        except (OSError, EOFError, ValueError):  # the last where it is stopped
            self.lost = self._how_it_ended()

    def wait(self) -> None:
        """Wait until it can work, or is lost."""
        self._starting.join()

    def is_ready(self) -> bool:
        """Whether it can work."""
        if self._ready and not self.lost and self.process.poll() is not None:
            self.lost = self._how_it_ended()
        return self._ready and not self.lost

    def ask(self, window: int, method: str, *arguments: Any, **named: Any) -> Any:
        """What a method of the window's `TextWork` returns; "cut" makes it.

        Raises:
            WorkerLost: the process is gone.
            BaseException: as the method.
        """
        with self._turn:
            at_work = False
            try:
                done = [self._done.popleft() for _ in range(len(self._done))]
                self._channel.send((window, method, arguments, named, done))
                at_work = True
                fine, reply = self._channel.receive()
            except (OSError, EOFError, ValueError) as error:
                self.lost = self.lost or self._how_it_ended()
                raise WorkerLost(f"a worker process {self.lost}", at_work=at_work) from error
            except BaseException:  # amid a message: what comes next would be taken for another
                self.lost = "was ended"
                self.process.kill()
                raise
        if not fine:
            raise reply
        return reply

    def forget(self, window: int) -> None:
        """Have a window dropped, with the next request."""
        self.windows.discard(window)
        self._done.append(window)

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "did not answer"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def stop(self) -> None:
        """End the process, at once: it has nothing to lose."""
        self.process.kill()
        # The collector of garbage may be in any thread.
        if self._starting.is_alive() and self._starting is not current_thread():
            self._starting.join(_PATIENCE)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        for pipe in self._pipes:
            with suppress(OSError, ValueError, RuntimeError):
                pipe.close()

    def leave(self) -> None:
        """In a process that was forked: hold none of its pipes, so that they end with the parent."""
        null = os.open(os.devnull, os.O_RDWR)
        for pipe in self._pipes:
            # Not closed: they may be locked, and are closed again when they are dropped.
            with suppress(ValueError):
                os.dup2(null, pipe.fileno(), inheritable=False)
        os.close(null)


_all_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _leave_all() -> None:
    for worker in list(_all_workers):
        worker.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


def _shared_memory() -> tuple[list[int], mmap.mmap | None]:
    """Memory for two processes, after the file that it is of, which has no name.

    The file is a descriptor, to be closed. Without room for one, or where none can be passed on, there
    is no memory.
    """
    if os.name == "nt":
        return [], None
    import fcntl  # which is not there

    for folder in (_SHARED_FOLDER, None):
        with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            # Written, not made longer: a page that cannot be had later would end the process.
            file.write(bytes(SHARED_BYTES))
            file.flush()
            shared = mmap.mmap(file.fileno(), 0)
            # Not one of the first three, which may be closed here: those are streams there.
            return [fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)], shared
    return [], None
