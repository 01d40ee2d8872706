"""Processes that work on the texts of windows, while the calling process drives the model.

A process is started with ``python -m``, so it needs nothing of the caller's main module, and it imports
no PyTorch. It has a copy of the tokenizer, gets the texts of a window, and keeps what became of them
until the window's answers are there. It ends when its standard input does, so none outlives the
process that started it.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any, Protocol

from qa_fast.texts.channel import SHARED_BYTES, Channel
from qa_fast.texts.chunker import Chunker
from qa_fast.texts.chunks import Int64
from qa_fast.texts.places import TokenSpans
from qa_fast.texts.readings import Ranked
from qa_fast.texts.work import Cut, TextWork

from .streams import Window

_PROGRAM = "qa_fast.texts.worker"
# Memory that is a file's only by its name, where there is such a place.
_SHARED_FOLDER = Path("/dev/shm")
# Seconds for a process to end by itself.
_PATIENCE = 5


# Left to itself, an engine has others work on the texts of a stream once it has read so many questions,
# where there are so many cores for each of the processes.
_LONG_STREAM = 1 << 15
_CORES_PER_WORKER = 4
_MOST_WORKERS = 4

logger = logging.getLogger(__name__)


Texts = tuple[Sequence[str], Sequence[str], int]
"""Questions, their contexts, and the number of the first pair."""


class WorkerLost(ValueError):
    """A process ended that was not to end."""


class Work(Protocol):
    """What is to be done with the texts of a window; see `TextWork`."""

    @property
    def cut(self) -> Cut: ...  # noqa: D102

    def rank(self, questions: Int64, spans: TokenSpans, **asked: Any) -> Ranked: ...  # noqa: D102

    def hollow_note(  # noqa: D102
        self, questions: Int64, items: Sequence[int], hollow: Iterable[tuple[int, int]]
    ) -> str | None: ...


class Crew:
    """Who works on the texts of an engine's windows: the calling process, or others.

    Until others are ready, and where none are left, the calling process does it. Answers are the same
    whoever does.

    Args:
        chunker: cuts the texts.
        on_gpu: whether the model runs beside the CPU.

    Attributes:
        chunker: as given.
        notes: what callers should know.
    """

    def __init__(self, chunker: Chunker, *, on_gpu: bool) -> None:
        self.notes: deque[str] = deque()
        self.chunker = chunker
        self._on_gpu = on_gpu
        self._workers: list[_Worker] = []
        self._process = os.getpid()
        self._turn = Lock()
        self._ends = weakref.finalize(self, _stop, self._workers, self._process)

    def most(self, asked: int | None) -> int:
        """The most processes for a caller who asked for so many; None: what pays.

        That is none but beside a GPU, with cores to spare, in a process that may have others.
        """
        if os.getpid() != self._process:
            return 0
        if asked is not None:
            return asked
        if not self._on_gpu or multiprocessing.current_process().daemon:
            return 0
        return max(0, min(_MOST_WORKERS, _cores() // _CORES_PER_WORKER - 1))

    def work(self, window: Window, asked: int | None, **cutting: Any) -> Work:
        """Cut a window's texts.

        Args:
            window: the window.
            asked: processes that the caller asked for; None: what pays.
            **cutting: as of `Chunker.cut`.

        Raises:
            WorkerLost: two processes ended over the window.
            ValueError: as `Chunker.cut`.
        """
        questions, contexts = map(list, zip(*window.pairs, strict=True))
        texts = questions, contexts, window.first_item
        long = asked is not None or window.first_item >= _LONG_STREAM
        return self._work(self.most(asked) if long else 0, texts, cutting)

    def _work(
        self, count: int, texts: Texts, cutting: dict[str, Any], *, again: bool = False
    ) -> Work:
        worker = self._idlest(count)
        if worker is None:
            return TextWork(self.chunker, *texts, **cutting)
        try:
            return _RemoteWork(worker, self, texts, cutting)
        except WorkerLost as error:
            questions, _, first = texts
            if again:  # it may be for the texts' sake
                raise WorkerLost(
                    f"{error}, as one before it, over the texts of questions {first} to "
                    f"{first + len(questions) - 1}"
                ) from error
            self.note(error)
        return self._work(count, texts, cutting, again=True)

    def wait(self) -> None:
        """Wait until all processes that were started can work, or are lost."""
        for worker in self._workers:
            worker.wait()

    def _idlest(self, count: int) -> _Worker | None:
        """The one of ``count`` processes that has least to do; None where none is ready."""
        with self._turn:
            if len(self._workers) < count:
                self._start(count)
            ready = [w for w in self._workers[:count] if w.ready and not w.lost]
            return min(ready, key=lambda worker: worker.busy, default=None)

    def _start(self, count: int) -> None:
        try:
            state = pickle.dumps(self.chunker)
        except Exception as error:
            self.notes.append(
                f"num_workers has no effect: the tokenizer cannot be copied to another process ({error})"
            )
            self._process = -1
            return
        threads = max(1, _cores() // count)
        added = range(len(self._workers), count)
        self._workers += [_Worker(state, threads) for _ in added]
        logger.info("%d processes work on texts, with %d threads each", count, threads)

    def note(self, error: WorkerLost) -> None:
        """Note that a process is lost."""
        left = sum(not worker.lost for worker in self._workers)
        others = f"{left} others go on" if left else "the calling process goes on by itself"
        self.notes.append(f"{error}; its questions are read again, and {others}")


class _RemoteWork:
    """A window's texts in another process; see `TextWork`. If that ends, they are worked on here.

    Raises:
        WorkerLost: the process ended before the texts were cut.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        worker: _Worker,
        crew: Crew,
        texts: Texts,
        cutting: dict[str, Any],
    ) -> None:
        self._worker = worker
        self._crew = crew
        self._again = partial(TextWork, crew.chunker, *texts, **cutting)
        self._here: TextWork | None = None
        self._number = next(self._numbers)
        worker.busy += 1
        questions, contexts, first_item = texts
        # Equal texts travel once, where they are one object.
        one = {text: text for text in contexts if isinstance(text, str)}
        contexts = [one[text] if isinstance(text, str) else text for text in contexts]
        self.cut = Cut(*worker.ask(self._number, "cut", questions, contexts, first_item, **cutting))

    def __del__(self) -> None:
        self._worker.busy -= 1
        self._worker.forget(self._number)

    def rank(self, questions: Int64, spans: TokenSpans, **asked: Any) -> Ranked:
        """See `TextWork.rank`."""
        return self._ask("rank", questions, spans, **asked)

    def hollow_note(
        self, questions: Int64, items: Sequence[int], hollow: Iterable[tuple[int, int]]
    ) -> str | None:
        """See `TextWork.hollow_note`."""
        return self._ask("hollow_note", questions, items, hollow)

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        if self._here is None:
            try:
                return self._worker.ask(self._number, method, *arguments, **named)
            except WorkerLost as lost:
                self._crew.note(lost)
                self._here = self._again()
        return getattr(self._here, method)(*arguments, **named)


class _Worker:
    """A process, and the channel to it.

    Attributes:
        busy: windows that wait for it.
    """

    def __init__(self, chunker: bytes, threads: int) -> None:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        environment.setdefault("RAYON_NUM_THREADS", str(threads))
        self.busy = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.ready = self.lost = False
        self._turn = Lock()
        self._done: list[int] = []
        self._starting = Thread(target=self._start, args=(chunker,), daemon=True)
        self._starting.start()

    def _start(self, chunker: bytes) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._channel = Channel(self.process.stdout, self.process.stdin)
        file = _shared_file()
        try:
            self._channel.send((chunker, file and file.name))
            if file is not None:
                self._channel.shared = mmap.mmap(file.fileno(), 0)
            self._channel.receive()
            self.ready = True
        except (OSError, EOFError):
            self.lost = True
        finally:
            if file is not None:
                file.close()  # and it is gone but for the memory

    def wait(self) -> None:
        """Wait until it can work, or is lost."""
        self._starting.join()

    def ask(self, window: int, method: str, *arguments: Any, **named: Any) -> Any:
        """What a method of the window's `TextWork` returns; "cut" makes it.

        Raises:
            WorkerLost: the process is gone.
            BaseException: as the method.
        """
        with self._turn:
            try:
                done, self._done = self._done, []
                self._channel.send((window, method, arguments, named, done))
                fine, reply = self._channel.receive()
            except (OSError, EOFError, ValueError) as error:
                self.lost = True
                raise WorkerLost(f"a worker process {self._how_it_ended()}") from error
        if not fine:
            raise reply
        return reply

    def forget(self, window: int) -> None:
        """Have a window dropped, with the next request."""
        self._done.append(window)

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return "does not answer"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def stop(self) -> None:
        """End the process."""
        for end in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if end is not None:
                    end.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _shared_file() -> IO[bytes] | None:
    """A file to be mapped into memory by two processes; None where there is no room for it."""
    if os.name == "nt":  # where no two processes can open one
        return None
    return _file_in(_SHARED_FOLDER) or _file_in(None)


def _file_in(folder: Path | None) -> IO[bytes] | None:
    with suppress(OSError), ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="qa-fast-", dir=folder))
        # Written, not made longer: a page that cannot be had later would end the process.
        file.write(bytes(SHARED_BYTES))
        file.flush()
        stack.pop_all()
        return file
    return None


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stop(workers: Sequence[_Worker], process: int) -> None:
    if os.getpid() == process:
        for worker in workers:
            worker.stop()
