"""Which pairs are read together, and how far they are taken ahead of their results.

Pairs are read in windows. Data at rest, such as a list, are cut into windows of fixed sizes: what is
read together depends on the data alone. An iterator may have to wait for its pairs, perhaps for
somebody who first wants the answer to the last one. So a thread of its own takes them, a window is what
has come by the time that the engine can use it, and nothing that was taken waits for more to come.

Where windows are large, for a GPU, the first ones are smaller: it waits for the texts of the first.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from threading import Condition, Thread, current_thread
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from .threads import wait_until_gone

Pair = tuple[str, str]
"""A question and its context."""

WINDOW_CHARACTERS = 1 << 22  # a window of long texts ends here
_GROWTH = 4  # of the first windows; in a stream, while its source is fast

_T = TypeVar("_T")


class Window(NamedTuple):
    """Consecutive pairs that are read together.

    Attributes:
        first_item: the number of the first one.
        pairs: the pairs.
        followed: whether there is work for other threads beside it: more pairs, that are there or
            should be soon.
    """

    first_item: int
    pairs: list[Pair]
    followed: bool = False


def submit_windows(
    pairs: Iterable[Pair], first: int, most: int, submit: Callable[[Window], Future[_T]]
) -> Generator[Future[_T] | None]:
    """Give windows of ``pairs`` to ``submit`` as they are needed.

    Args:
        pairs: an iterator, which is a stream; or another iterable, which is data at rest.
        first: pairs in the first window of data at rest; in the next four times as many, and so on.
        most: most pairs in a window.
        submit: begins the work on a window.

    Yields:
        What ``submit`` returned; None where a stream has to be waited for: what was yielded before
        should be finished first.

    Raises:
        BaseException: as ``pairs`` does, after the windows before it.
    """
    if not isinstance(pairs, Iterator):
        yield from map(submit, _fixed_windows(pairs, first, most))
        return
    stream = _Stream(pairs, most)
    try:
        while window := stream.take():
            while window:
                future = submit(window)
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


def _fixed_windows(pairs: Iterable[Pair], first: int, most: int) -> Iterator[Window]:
    """``first`` to ``most`` consecutive pairs, fewer of long texts."""
    window: list[Pair] = []
    size, characters, first_item = first, 0, 0
    error: Exception | None = None
    try:
        for pair in pairs:
            question, context = _as_pair(pair, first_item + len(window))
            window.append((question, context))
            characters += _characters(question, context)
            if len(window) == size or characters >= WINDOW_CHARACTERS:
                yield Window(first_item, window)
                first_item += len(window)
                window, characters = [], 0
                size = min(_GROWTH * size, most)
    except Exception as caught:
        error = caught
    if window:
        yield Window(first_item, window)
    if error is not None:
        raise error


def _as_pair(item: Any, number: int) -> Pair:
    """The question and the context of an item that is to be a pair; their kinds are not checked.

    Raises:
        ValueError: a mapping, a text, or something else that is not made of two.
    """
    if not isinstance(item, (str, bytes, Mapping, set, frozenset)):
        try:
            question, context = item
        except (TypeError, ValueError):
            pass
        else:
            return question, context
    count = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
    raise ValueError(
        f"pair {number} must be a tuple of a question and a context; got {type(item).__name__}{count}"
    )


def _characters(question: object, context: object) -> int:
    return sum(len(text) for text in (question, context) if isinstance(text, str))


class _Stream:
    """An iterator of pairs, and the thread that takes them from it.

    The thread fills one window and waits until that is taken. A source that takes longer for a pair than
    its answer takes is asked for one at a time, each when the result of the last has been taken. From a
    faster one the next window is filled while the last is answered; where it was full in time, the one
    after it has more pairs.

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
        self._first_item = 0  # of the next window
        self._size = 1  # of the next window
        self._limit = 0  # how many pairs may be in it by now
        self._window: list[Pair] = []
        self._characters = 0
        self._taken_at = 0.0  # the window before it
        self._ended = self._closed = False
        # It can be locked twice by one thread, as the garbage collector may call `close` anywhere.
        self._changed = Condition()
        # A source may block for ever: neither the end of a stream nor that of the interpreter waits.
        self._thread = Thread(
            target=copy_context().run, args=(self._pull,), name="qa-fast-source", daemon=True
        )
        self._thread.start()
        # Later, threads stand still, perhaps with the lock, and modules are empty.
        atexit.register(self.close)

    def take(self) -> Window | None:
        """The pairs that are there; waits for one if there are none. None at the end."""
        asked = perf_counter()
        with self._changed:
            if self._window:
                fast = self._is_full()
                return self._cut(_GROWTH * self._size if fast else self._size, followed=fast)
            self._allow(1)
            self._changed.wait_for(lambda: self._window or self._ended)
            if not self._first_item:
                return self._cut(1, followed=True)
            if perf_counter() - asked > asked - self._taken_at:
                return self._cut(1)
            return self._cut(max(2, self._size), followed=self._size == 1)

    def take_full(self, busy: Future[Any]) -> Window | None:
        """The next window if it fills up, or ends the stream, before ``busy`` is done; else None."""
        with self._changed:
            if self._size == 1:
                return None
            busy.add_done_callback(self._wake)
            self._changed.wait_for(lambda: self._is_full() or self._ended or busy.done())
            if self._is_full() or self._ended:
                return self._cut(_GROWTH * self._size, followed=not self._ended)
            return None

    def close(self) -> None:
        """Take no more. The thread ends now, or with the pair that it is waiting for."""
        if self._closed:
            return
        atexit.unregister(self.close)
        if not self._thread.is_alive():  # it may have held the lock when this process was forked
            self._closed = True
            wait_until_gone(self._thread)
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            waits_for_us = self._ended or self._is_full()
        if waits_for_us and self._thread is not current_thread():
            self._thread.join()
            wait_until_gone(self._thread)

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

    def _cut(self, size: int, *, followed: bool = False) -> Window | None:
        """The window as it is; the next may have ``size`` pairs."""
        pairs, self._window, self._characters = self._window, [], 0
        window = Window(self._first_item, pairs, followed and len(pairs) < self._most)
        self._first_item += len(pairs)
        self._size = min(size, self._most)
        self._allow(self._size if self._size > 1 else 0)
        self._taken_at = perf_counter()
        return window if pairs else None

    def _pull(self) -> None:
        try:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._closed:
                    return
            for number, pair in enumerate(self._pairs):
                question, context = _as_pair(pair, number)
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
