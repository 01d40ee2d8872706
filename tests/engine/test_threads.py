"""An engine's threads are gone when it is done with them: no process that is forked has their locks."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qa_fast.engine import Engine, Options
from qa_fast.engine.threads import Threads

from ..helpers.engines import examples
from ..helpers.hashing import Hashing
from ..helpers.tiny import tiny_model, tokenizer_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/task")

MICROSECONDS = 200_000


@pytest.fixture
def ends_late() -> Iterator[Callable[[], Any]]:
    """For a thread to call, which ends late then: after Python has joined it, before version 3.13.

    It gets a variable that the system destroys when the thread ends, with a function that sleeps for as
    long as the variable says.
    """
    libc = ctypes.CDLL(None)
    key = ctypes.c_uint()
    assert libc.pthread_key_create(ctypes.byref(key), libc.usleep) == 0
    yield lambda: libc.pthread_setspecific(key, ctypes.c_void_p(MICROSECONDS))
    assert libc.pthread_key_delete(key) == 0


def of_the_system() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


def test_threads_are_gone_for_the_system_too(ends_late: Callable[[], Any]) -> None:
    before = of_the_system()
    with Threads(2, "late") as threads:
        barrier = threading.Barrier(2)
        for _ in range(2):
            threads.submit(lambda: (ends_late(), barrier.wait(60)))
    assert of_the_system() <= before


def test_an_initializer_is_called_and_a_pool_that_nobody_holds_ends() -> None:
    called: list[int] = []
    threads = Threads(1, "short", called.append, 7)
    thread = threads.submit(threading.current_thread).result()
    assert thread.name == "short_0"
    assert called == [7]
    del threads
    thread.join(60)
    assert not thread.is_alive()


def test_what_a_reader_started_is_gone_when_it_ends(ends_late: Callable[[], Any]) -> None:
    ran_in = set()

    def late(*_: Any) -> None:
        ran_in.add(threading.current_thread().name)
        ends_late()

    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    model.register_forward_pre_hook(late)
    engine = Engine(model, tokenizer, batch_size=1)
    of_caller = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(engine.read([("Who?", "Ada.")], Options()))  # what libraries start and keep
        before = of_the_system()
        list(engine.read(examples(), Options()))
        assert of_the_system() <= before
    finally:
        torch.set_num_threads(of_caller)
    assert any(name.startswith("qa-fast-forward") for name in ran_in)


def test_the_thread_that_takes_pairs_is_gone_with_them(ends_late: Callable[[], Any]) -> None:
    ran_in = []

    def source() -> Iterator[tuple[str, str]]:
        yield from examples()
        ran_in.append(threading.current_thread().name)
        ends_late()

    engine = Engine(Hashing(), tokenizer_of("wordpiece"))
    list(engine.read(examples(), Options()))  # what libraries start and keep
    before = of_the_system()
    list(engine.read(source(), Options()))
    assert of_the_system() <= before
    assert ran_in == ["qa-fast-source"]
