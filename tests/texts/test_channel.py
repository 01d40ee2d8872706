"""The channel between two processes: values arrive as they were, whichever way their bytes go."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread
from typing import Any

import numpy as np
import pytest

from qa_fast.texts import channel
from qa_fast.texts.channel import Channel

ARRAYS: dict[str, Any] = {
    "none": [],
    "small": [np.arange(5, dtype=np.int32), np.array([[0.5, -0.0], [np.nan, np.inf]])],
    "empty": [np.empty(0, np.int64), np.empty((3, 0), np.int32), np.arange(2)],
    "one_that_fills_it": [np.arange(channel.SHARED_BYTES, dtype=np.uint8)],
    "one_that_is_too_large": [np.arange(channel.SHARED_BYTES + 1, dtype=np.uint8), np.arange(3)],
    "many": [np.full(100_000, i, np.int64) for i in range(9)],
    "with_gaps": [np.arange(20)[::3], np.arange(12).reshape(3, 4)[:, ::2]],
    "transposed": [np.arange(12).reshape(3, 4).T, np.asfortranarray(np.eye(3))],
    "read_only": [np.frombuffer(b"abc", np.uint8)],
    "objects": [np.array(["Ada", None], object), np.zeros((), np.float32)],
}


@pytest.fixture
def pipes() -> Iterator[list[Any]]:
    """The reading and the writing end of two pipes."""
    with ExitStack() as stack:
        ends = [end for _ in range(2) for end in os.pipe()]
        yield [
            stack.enter_context(os.fdopen(end, mode))
            for end, mode in zip(ends, ["rb", "wb"] * 2, strict=True)
        ]


@pytest.fixture(params=[None, 4096, channel.SHARED_BYTES], ids=["pipes", "little", "shared"])
def ends(request: Any, pipes: list[Any]) -> tuple[Channel, Channel]:
    """Both ends, with no shared memory, with little, and with as much as there is."""
    shared = None if request.param is None else mmap.mmap(-1, request.param)
    there, to_there, back, to_back = pipes
    return Channel(there, to_back, shared), Channel(back, to_there, shared)


@pytest.mark.parametrize("case", ARRAYS)
def test_values_arrive_as_they_were(case: str, ends: tuple[Channel, Channel]) -> None:
    """Those of one message stay when the next has come."""
    one, other = ends
    values = [("first", ARRAYS[case]), {"second": ARRAYS[case][::-1], "text": "東京 \ud800"}, None]

    def echo() -> None:
        for _ in values:
            one.send(one.receive())

    thread = Thread(target=echo)
    thread.start()
    found = []
    for value in values:
        other.send(value)
        found.append(other.receive())
    thread.join()
    np.testing.assert_equal(found, values)
    for array, sent in zip(found[0][1], ARRAYS[case], strict=True):
        assert array.dtype == sent.dtype
        assert array.flags.writeable or not sent.flags.writeable


def test_the_end_of_the_other_is_told(pipes: list[Any]) -> None:
    there, to_there, back, to_back = pipes
    end = Channel(there, to_back)
    to_there.write(b"half a head")
    to_there.close()
    with pytest.raises(EOFError):
        end.receive()
    back.close()
    with pytest.raises(BrokenPipeError):
        end.send("anything")
    with pytest.raises(BrokenPipeError):  # what is left in the buffer
        to_back.close()
