"""The program of a process that works on texts: `engine.workers` starts it with ``python -m``."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import sys
from traceback import format_exc
from typing import Any

from .channel import Channel
from .chunker import Chunker
from .work import TextWork


def main() -> None:
    """Do what the messages on standard input ask for, until it ends.

    The argument is the descriptor of a file that is memory for this process and the other; there may be
    none.
    """
    # Ctrl-C is for the process that asks for the work: that ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is printed by others, in Rust too, must not be taken for a message.
    if sys.stderr is None:  # closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sender = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(sys.stdin.buffer, sender)
    for file in map(int, sys.argv[1:]):
        channel.shared = mmap.mmap(file, 0)
        os.close(file)
    with contextlib.suppress(EOFError, BrokenPipeError):
        chunker = pickle.loads(channel.receive())
        channel.send(None)
        _serve(channel, chunker)
    os._exit(0)


def _serve(channel: Channel, chunker: Chunker) -> None:
    """Answer requests: of which window, what is asked for, and which windows need not be kept."""
    windows: dict[int, TextWork] = {}
    while True:
        window, method, arguments, named, done = channel.receive()
        for number in done:
            windows.pop(number, None)
        try:
            message = True, _done(windows, chunker, window, method, arguments, named)
        except BaseException as error:
            message = False, _that_travels(error)
        channel.send(message)


def _done(
    windows: dict[int, TextWork],
    chunker: Chunker,
    window: int,
    method: str,
    arguments: Any,
    named: Any,
) -> Any:
    """What a method of a window returns."""
    if method != "cut":
        return getattr(windows[window], method)(*arguments, **named)
    windows[window] = work = TextWork(chunker, *arguments, **named)
    chunks, errors = work.cut
    return chunks.without_encodings(), errors


def _that_travels(error: BaseException) -> BaseException:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(format_exc())


if __name__ == "__main__":
    main()
