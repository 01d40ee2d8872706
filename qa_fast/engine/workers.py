"""Who works on the texts of windows, while the calling process drives the model: others, or itself."""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
import os
import pickle
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Protocol

from qa_fast.texts.chunker import Chunker
from qa_fast.texts.chunks import Int64
from qa_fast.texts.places import TokenSpans
from qa_fast.texts.problems import TextProblem, text_problem
from qa_fast.texts.readings import Ranked
from qa_fast.texts.work import Cut, TextWork

from .errors import numbers_in_words
from .worker_process import Worker, WorkerLost

# Left to itself, an engine has others work on the texts of a stream once it has read so many questions,
# where there are so many cores for each of the processes.
_LONG_STREAM = 1 << 15
_CORES_PER_WORKER = 4
_MOST_WORKERS = 4

logger = logging.getLogger(__name__)


Texts = tuple[Sequence[Any], Sequence[Any], int]
"""Questions, their contexts, and the number of the first pair."""


class Work(Protocol):
    """What is to be done with the texts of a window; see `TextWork`."""

    @property
    def cut(self) -> Cut: ...  # noqa: D102

    def rank(self, questions: Int64, spans: TokenSpans, **asked: Any) -> Ranked: ...  # noqa: D102

    def hollow_note(  # noqa: D102
        self, questions: Int64, items: Sequence[int], hollow: Iterable[tuple[int, int]]
    ) -> str | None: ...

    def forget(self) -> None: ...  # noqa: D102


class Crew:
    """Who works on the texts of an engine's windows: the calling process, or others.

    Until others are ready, and where none are left, the calling process does it. Answers are the same
    whoever does.

    Args:
        chunker: cuts the texts.
        on_gpu: whether the model runs beside the CPU.

    Attributes:
        chunker: as given.
    """

    def __init__(self, chunker: Chunker, *, on_gpu: bool) -> None:
        self.chunker = chunker
        self._on_gpu = on_gpu
        self._workers: list[Worker] = []
        self._limit = math.inf  # no more can be had
        self._notes: deque[str] = deque()
        self._process = os.getpid()
        self._turn = Lock()
        self._ends = weakref.finalize(self, _stop, self._workers, self._process)

    def most(self, asked: int | None) -> int:
        """The most processes for a caller who asked for so many; None: what pays.

        That is none but beside a GPU, with cores to spare, in a process that may have others.
        """
        if os.getpid() != self._process:
            return 0
        return int(min(self._that_pay() if asked is None else asked, self._limit))

    def _that_pay(self) -> int:
        # In a frozen application Python is not to be had by itself.
        if multiprocessing.current_process().daemon or getattr(sys, "frozen", False):
            return 0
        spare = _cores() // _CORES_PER_WORKER - 1
        return max(0, min(_MOST_WORKERS, spare)) if self._on_gpu else 0

    def work(self, texts: Texts, asked: int | None, **cutting: Any) -> Work:
        """Cut a window's texts.

        Args:
            texts: the texts.
            asked: processes that the caller asked for; None: what pays.
            **cutting: as of `Chunker.cut`.

        Raises:
            WorkerLost: two processes ended over the window.
            ValueError: as `Chunker.cut`.
        """
        _, _, first_item = texts
        long = asked is not None or first_item >= _LONG_STREAM
        return self._work(self.most(asked) if long else 0, texts, cutting)

    def _work(
        self, count: int, texts: Texts, cutting: dict[str, Any], ended_over_it: int = 0
    ) -> Work:
        worker = self._idlest(count)
        if worker is None:
            return TextWork(self.chunker, *texts, **cutting)
        try:
            return _RemoteWork(worker, self.chunker, texts, cutting)
        except WorkerLost as error:
            ended_over_it += error.at_work
            if ended_over_it == 2:  # it may be for the texts' sake
                worker.told = True
                items = numbers_in_words(range(texts[2], texts[2] + len(texts[0])))
                message = f"{error}, as one before it, over the texts of {items}"
                raise WorkerLost(message) from error
        return self._work(count, texts, cutting, ended_over_it)

    def wait(self) -> None:
        """Wait until all processes that were started can work, or are lost."""
        for worker in self._workers:
            worker.wait()

    def news(self) -> list[str]:
        """What callers should know and were not told."""
        for worker in self._workers:
            if worker.lost and not worker.told:
                worker.told = True
                self._notes.append(self._of_loss(worker))
        notes = []
        with suppress(IndexError):  # another thread may be told, too
            while self._notes:
                notes.append(self._notes.popleft())
        return notes

    def _of_loss(self, worker: Worker) -> str:
        left = sum(not other.lost for other in self._workers)
        others = f"{left} other{'s go' if left > 1 else ' goes'} on"
        if not left:
            others = "the calling process goes on by itself"
        return f"a worker process {worker.lost}; its questions are read again, and {others}"

    def _idlest(self, count: int) -> Worker | None:
        """The one of ``count`` processes that has least to do; None where none is ready."""
        if not count:  # the lock may be one that was held when this process was forked
            return None
        with self._turn:
            if len(self._workers) < min(count, self._limit):
                self._start(count)
            ready = [worker for worker in self._workers[:count] if worker.is_ready()]
            return min(ready, key=lambda worker: len(worker.windows), default=None)

    def _start(self, count: int) -> None:
        try:
            state = pickle.dumps(self.chunker)
        except Exception as error:
            self._limit = 0
            self._notes.append(
                f"num_workers has no effect: the tokenizer cannot be copied to another process ({error})"
            )
            return
        threads = max(1, _cores() // count)
        try:
            while len(self._workers) < count:
                self._workers.append(Worker(state, threads))
        except Exception as error:  # of the system, or an interpreter that ends
            self._limit = len(self._workers)
            self._notes.append(
                f"of {count} worker processes only {self._limit} can be started ({error})"
            )
        logger.info("processes for texts: %d, with %d threads each", len(self._workers), threads)


class _RemoteWork:
    """A window's texts in another process; see `TextWork`. If that ends, they are worked on here.

    Raises:
        WorkerLost: the process ended before the texts were cut.
    """

    _numbers = itertools.count()

    def __init__(
        self, worker: Worker, chunker: Chunker, texts: Texts, cutting: dict[str, Any]
    ) -> None:
        self._worker = worker
        self._again = partial(TextWork, chunker, *texts, **cutting)
        self._here: TextWork | None = None
        self._number = next(self._numbers)
        worker.windows.add(self._number)
        questions, contexts, first_item = texts
        questions = [text if type(text) is str else _to_send(text) for text in questions]
        # Equal texts travel once, where they are one object.
        one: dict[Any, Any] = {}
        contexts = [
            one.setdefault(text, text) if type(text) is str else _to_send(text) for text in contexts
        ]
        try:
            cut = worker.ask(self._number, "cut", questions, contexts, first_item, **cutting)
        except BaseException:
            self.forget()
            raise
        self.cut = Cut(*cut)

    def forget(self) -> None:
        """See `TextWork.forget`; it is no `__del__`, in which Ctrl-C would be lost."""
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
            except WorkerLost:
                self._here = self._again()
        return getattr(self._here, method)(*arguments, **named)


def _to_send(text: Any) -> str | TextProblem | None:
    """A text of a kind of its own as a plain one; of what is no text, what is wrong with it.

    Another process need not know its class.
    """
    return str.__str__(text) if isinstance(text, str) else text_problem(text)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stop(workers: Sequence[Worker], process: int) -> None:
    if os.getpid() == process:
        for worker in workers:
            worker.stop()
