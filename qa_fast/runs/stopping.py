"""Stopping a run: by Ctrl-C and SIGTERM, after the part at hand or at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from qa_fast.data.sources import Source

    from .output import Output

OnInterrupt = Literal["drop", "finish"]


class Interrupted(KeyboardInterrupt):
    """A run was stopped; the message says how far it is and how it goes on.

    Attributes:
        signal: by which signal.
    """

    def __init__(self, message: str, signal: signal.Signals = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


def signal_of(stopped: KeyboardInterrupt) -> signal.Signals:
    """The signal that stopped a run: SIGINT where the interrupt says no other."""
    found: signal.Signals = getattr(stopped, "signal", signal.SIGINT)
    return found


class Stopping:
    """Inside its block the first SIGINT or SIGTERM is noted only, for the block to end in good order.

    A SIGINT after that raises `KeyboardInterrupt`, a further SIGTERM is ignored: what sends one to every
    process of a job may send it twice. For the main thread.

    Attributes:
        signal: the one that was noted; None before.
    """

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        """``then`` is called when it is noted, between two instructions of anything."""
        self.signal: signal.Signals | None = None
        self._then = then
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            # Not by print: that could be what was interrupted.
            with suppress(OSError):
                os.write(
                    2, b"\nfinishing the part at hand; Ctrl-C again stops at once and drops it\n"
                )
        if self._then is not None:
            self._then()


@contextmanager
def telling_how_to_go_on(target: Output, data: Source) -> Iterator[None]:
    """Gives an interrupt a message that says so."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        then = "and the same command goes on with the others"
        if not data.files and data.fingerprint() is None:
            then = f"but {data.name} cannot be read again: remove them to begin anew"
        raise Interrupted(
            f"stopped; the parts that are finished are in {target.folder}, {then}",
            signal_of(stopped),
        ) from None
