"""Which pairs are read together, and how far they are taken ahead of their results.

Pairs are read in windows. Data at rest, such as a list, are cut into windows of one size: what is read
together depends on the data alone. An iterator may have to wait for its pairs, perhaps for somebody who
first wants the answer to the last one. So a thread of its own takes them, a window is what has come by
the time that the engine can use it, and nothing that was taken waits for more to come.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from threading import Condition, Thread, current_thread
from time import perf_counter
from typing import Any, TypeVar

Pair = tuple[str, str]
"""A question and its context."""

Window = tuple[int, list[Pair]]
"""Consecutive pairs, after the number of the first one."""

WINDOW_CHARACTERS = 1 << 22  # a window of long texts ends here

_T = TypeVar("_T")


def submit_windows(
    pairs: Iterable[Pair], size: int, submit: Callable[[Window], Future[_T]]
) -> Generator[Future[_T] | None]:
    """Give windows of ``pairs`` to ``submit`` as they are needed.

    Args:
        pairs: an iterator, which is a stream; or another iterable, which is data at rest.
        size: most pairs in a window.
        submit: begins the work on a window.

    Yields:
        What ``submit`` returned; None where a stream has to be waited for: what was yielded before
        should be finished first.

    Raises:
        BaseException: as ``pairs`` does, after the windows before it.
    """
    if not isinstance(pairs, Iterator):
        yield from map(submit, _fixed_windows(pairs, size))
        return
    stream, first_item = _Stream(pairs, size), 0
    try:
        while window := stream.take():
            while window:
                future = submit((first_item, window))
                first_item += len(window)
                yield future
                window = stream.take_full(future)
            yield None
    finally:
        stream.close()
    error, stream.error = stream.error, None
    if error is not None:
        try:
            raise error
        finally:
            del error  # whose traceback would hold it


def _fixed_windows(pairs: Iterable[Pair], size: int) -> Iterator[Window]:
    """At most ``size`` consecutive pairs, fewer of long texts."""
    window: list[Pair] = []
    characters = first_item = 0
    error: Exception | None = None
    try:
        for question, context in pairs:
            window.append((question, context))
            characters += _characters(question, context)
            if len(window) == size or characters >= WINDOW_CHARACTERS:
                yield first_item, window
                first_item += len(window)
                window, characters = [], 0
    except Exception as caught:
        error = caught
    if window:
        yield first_item, window
    if error is not None:
        raise error


def _characters(question: object, context: object) -> int:
    return sum(len(text) for text in (question, context) if isinstance(text, str))


class _Stream:
    """An iterator of pairs, and the thread that takes them from it.

    The thread fills one window and waits until that is taken. A source that takes longer for a pair than
    its answer takes is asked for one at a time, when the last one's result has been taken. From a faster
    one a window is taken while the one before it is answered, and twice as many pairs each time that
    they were all there.

    Args:
        pairs: the iterator.
        most: most pairs in a window.

    Attributes:
        error: what ``pairs`` raised.
    """

    def __init__(self, pairs: Iterator[Pair], most: int) -> None:
        self.error: BaseException | None = None
        self._pairs = pairs
        self._most = most
        self._size = 1  # of the next window
        self._limit = 0  # how many pairs may be in it by now
        self._window: list[Pair] = []
        self._characters = 0
        self._taken_at = float("inf")  # the window before it
        self._ended = self._closed = False
        # It can be locked twice by one thread, as the garbage collector may call `close` anywhere.
        self._changed = Condition()
        # A source may block for ever: neither the end of a stream nor that of the interpreter waits.
        self._thread = Thread(
            target=copy_context().run, args=(self._pull,), name="qa-fast-source", daemon=True
        )
        self._thread.start()

    def take(self) -> list[Pair]:
        """The pairs that are there; waits for one if there are none. Empty at the end."""
        asked = perf_counter()
        with self._changed:
            ready = bool(self._window)
            fast = ready and self._is_full()
            if not ready:
                self._allow(1)
                self._changed.wait_for(lambda: self._window or self._ended)
                fast = perf_counter() - asked < asked - self._taken_at
            return self._cut(2 * self._size if fast else self._size if ready else 1)

    def take_full(self, busy: Future[Any]) -> list[Pair]:
        """The next window if it fills up, or ends the stream, before ``busy`` is done; else empty."""
        with self._changed:
            if self._size == 1:
                return []
            busy.add_done_callback(self._wake)
            self._changed.wait_for(lambda: self._is_full() or self._ended or busy.done())
            return self._cut(2 * self._size) if self._is_full() or self._ended else []

    def close(self) -> None:
        """Take no more. The thread ends now, or with the pair that it is waiting for."""
        if sys.is_finalizing():  # threads stand still by now, perhaps with the lock
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            waits_for_us = self._ended or self._is_full()
        if waits_for_us and self._thread is not current_thread():
            self._thread.join()

    def _is_full(self) -> bool:
        return len(self._window) >= self._limit or self._characters >= WINDOW_CHARACTERS

    def _may_go_on(self) -> bool:
        return self._closed or not self._is_full()

    def _allow(self, limit: int) -> None:
        self._limit = limit
        self._changed.notify_all()

    def _wake(self, _: Future[Any]) -> None:
        with self._changed:
            self._changed.notify_all()

    def _cut(self, size: int) -> list[Pair]:
        """The window as it is; the next may have ``size`` pairs."""
        window, self._window, self._characters = self._window, [], 0
        self._size = min(size, self._most)
        self._allow(self._size if self._size > 1 else 0)
        self._taken_at = perf_counter()
        return window

    def _pull(self) -> None:
        try:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._closed:
                    return
            for question, context in self._pairs:
                with self._changed:
                    self._window.append((question, context))
                    self._characters += _characters(question, context)
                    if self._is_full():
                        self._changed.notify_all()
                        self._changed.wait_for(self._may_go_on)
                    if self._closed:
                        return
        except BaseException as error:  # the caller's, whatever it is
            self.error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()
