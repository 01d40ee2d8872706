"""The program of a process that works on texts: `engine.workers` starts it with ``python -m``."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import sys
from pathlib import Path
from traceback import format_exc
from typing import Any

from .channel import Channel
from .chunker import Chunker
from .work import TextWork


def main() -> None:
    """Do what the messages on standard input ask for, until it ends."""
    # Ctrl-C goes to all processes of a terminal: the one that asks for the work ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is printed by others, in Rust too, must not be taken for a message.
    sender = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(sys.stdin.buffer, sender)
    with contextlib.suppress(EOFError, BrokenPipeError):
        state, shared = channel.receive()
        if shared is not None:
            with Path(shared).open("r+b") as file:
                channel.shared = mmap.mmap(file.fileno(), 0)
        chunker = pickle.loads(state)
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
        reply: Any
        try:
            if method == "cut":
                windows[window] = work = TextWork(chunker, *arguments, **named)
                chunks, errors = work.cut
                reply = chunks.without_encodings(), errors
            else:
                reply = getattr(windows[window], method)(*arguments, **named)
            channel.send((True, reply))
        except OSError:
            raise
        except BaseException as error:
            channel.send((False, _that_travels(error)))


def _that_travels(error: BaseException) -> BaseException:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(format_exc())


if __name__ == "__main__":
    main()
