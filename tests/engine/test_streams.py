"""Streams: what has come is answered, however long the rest takes, and no thread stays behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from qa_fast import predict
from qa_fast.engine import Engine, Options, streams
from qa_fast.engine.streams import Pair

from ..helpers.engines import start_workers, worker_threads
from ..helpers.tiny import save_tiny_model, tiny_model, tokenizer_of

WINDOW = 8
PATIENCE = 60.0  # seconds after which a test has failed


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", WINDOW)


@pytest.fixture
def engine() -> Engine:
    tokenizer = tokenizer_of("wordpiece")
    return Engine(tiny_model(tokenizer), tokenizer)


@pytest.fixture(params=[0, 2])
def any_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The same alone, and with two processes that work on its texts."""
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer, num_workers=request.param)
    start_workers(engine, request.param)
    yield engine
    engine._crew._ends()


@pytest.fixture
def sizes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were read together, window after window."""
    found: list[int] = []
    cut = engine._crew.chunker.cut

    def logged(questions: Any, *arguments: Any, **named: Any) -> Any:
        found.append(len(questions))
        return cut(questions, *arguments, **named)

    monkeypatch.setattr(engine._crew.chunker, "cut", logged)
    return found


def pair(number: int) -> Pair:
    return f"Who is number {number}?", f"Number {number} is Ada."


def pairs(stop: int) -> Iterator[Pair]:
    return map(pair, range(stop))


# --- what is taken, and when --------------------------------------------------------------------


def test_the_first_result_comes_after_the_first_pair(any_engine: Engine) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Pair]:
        for i in count():
            taken.append(i)
            yield pair(i)

    results = any_engine.read(endless(), Options())
    assert not taken
    next(results)
    assert taken == [0]
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("ready", [1, 2, 5, WINDOW, 3 * WINDOW + 1, 100])
def test_what_has_come_is_answered_while_the_source_is_waited_for(
    ready: int, engine: Engine
) -> None:
    """The source goes on when the results of all that it gave are there, and so three times."""
    answered = threading.Event()
    last = []

    def source() -> Iterator[Pair]:
        for i in range(3):
            yield from pairs(ready)
            last.append(i)
            assert answered.wait(PATIENCE)
            answered.clear()

    results = engine.read(source(), Options())
    for _ in range(3):
        assert len(list(islice(results, ready))) == ready
        answered.set()
    assert not list(results)
    assert last == [0, 1, 2]


@pytest.mark.parametrize("askers", [1, 3, 2 * WINDOW])
def test_askers_who_wait_for_each_reply(askers: int, any_engine: Engine) -> None:
    asked: queue.Queue[int | None] = queue.Queue()
    replies = [threading.Semaphore(0) for _ in range(askers)]
    order: list[int] = []

    def ask(asker: int) -> None:
        for _ in range(6):
            asked.put(asker)
            assert replies[asker].acquire(timeout=PATIENCE)

    def source() -> Iterator[Pair]:
        while (asker := asked.get(timeout=PATIENCE)) is not None:
            order.append(asker)
            yield pair(asker)

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(askers)]
    for thread in threads:
        thread.start()
    done = 0
    for reading in any_engine.read(source(), Options()):
        assert reading.answers  # type: ignore[union-attr]
        replies[order[done]].release()
        done += 1
        if done == 6 * askers:
            asked.put(None)
    assert done == 6 * askers


def test_a_fast_source_is_read_in_large_windows(engine: Engine, sizes: list[int]) -> None:
    assert sum(1 for _ in engine.read(pairs(500), Options())) == 500
    assert sizes[0] == 1
    assert max(sizes) == WINDOW
    assert sum(sizes) == 500


@pytest.mark.parametrize(("num_workers", "windows"), [(0, 4), (1, 4), (2, 6)])
def test_a_stream_is_taken_at_most_four_windows_ahead(
    num_workers: int, windows: int, engine: Engine
) -> None:
    """With several processes for the texts, two more for each more of them."""
    start_workers(engine, num_workers)
    taken = given = ahead = 0

    def source() -> Iterator[Pair]:
        nonlocal taken, ahead
        for i in range(40 * WINDOW):
            taken += 1
            ahead = max(ahead, taken - given)
            yield pair(i)

    for _ in engine.read(source(), Options(), num_workers=num_workers):
        given += 1
    assert WINDOW < ahead <= windows * WINDOW


def test_long_texts_are_taken_ahead_by_their_characters(
    engine: Engine, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WINDOW_CHARACTERS", 100)
    assert sum(1 for _ in engine.read(iter([("Who?", "Ada. " * 10)] * 60), Options())) == 60
    assert max(sizes) == 2


def test_other_iterables_are_read_in_full_windows_in_the_callers_thread(
    engine: Engine, sizes: list[int]
) -> None:
    class Rows:
        def __iter__(self) -> Iterator[Pair]:
            for i in range(2 * WINDOW + 3):
                threads.add(threading.current_thread())
                yield pair(i)

    threads: set[threading.Thread] = set()
    expected = list(engine.read(list(Rows()), Options()))
    assert list(engine.read(Rows(), Options())) == expected
    assert threads == {threading.current_thread()}
    assert sizes == [WINDOW, WINDOW, 3] * 2


def test_predict_reads_a_generator_in_the_windows_of_a_list(
    engine: Engine, sizes: list[int], tmp_path: Path
) -> None:
    rows = [{"id": str(i), "question": q, "context": c} for i, (q, c) in enumerate(pairs(50))]
    for name, data in (("list", rows), ("generator", (row for row in rows))):
        predict(data, tmp_path / name, model=engine, part_rows=20)
    assert sizes == [8, 8, 4, 8, 8, 4, 8, 2] * 2


def test_context_variables_are_those_of_the_caller(engine: Engine) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    def source() -> Iterator[Pair]:
        seen.append(user.get())
        yield pair(0)

    seen: list[str] = []
    token = user.set("Ada")
    list(engine.read(source(), Options()))
    user.reset(token)
    assert seen == ["Ada"]


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("last"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("before", [0, 1, 3 * WINDOW + 5])
def test_errors_of_the_source_come_after_the_results_before_them(
    before: int, error: BaseException, engine: Engine
) -> None:
    def source() -> Iterator[Pair]:
        yield from pairs(before)
        raise error

    results = engine.read(source(), Options())
    assert len(list(islice(results, before))) == before
    with pytest.raises(type(error)) as caught:
        next(results)
    assert caught.value is error
    assert not worker_threads()


def blocked_after(
    number: int, release: threading.Event, then: Callable[[], None]
) -> Iterator[Pair]:
    """Gives ``number`` pairs; then calls ``then`` and blocks; afterwards it could go on for ever."""
    yield from pairs(number)
    then()
    assert release.wait(PATIENCE)
    for i in count(number):
        yield pair(i)
        assert i == number, "taken from after the stream was closed"


@pytest.mark.parametrize("number", [1, 20])
def test_a_stream_may_be_dropped_while_its_source_blocks(number: int, engine: Engine) -> None:
    release = threading.Event()
    results = engine.read(blocked_after(number, release, lambda: None), Options())
    assert len(list(islice(results, number))) == number
    del results
    assert {t.name for t in threading.enumerate()}.isdisjoint({"qa-fast_0", "qa-fast_1"})
    release.set()
    assert not worker_threads()


def test_ctrl_c_while_the_source_blocks(any_engine: Engine) -> None:
    """It comes at once, and the thread ends with the pair that it waits for."""
    release = threading.Event()
    here = threading.get_ident()
    source = blocked_after(3, release, lambda: signal.pthread_kill(here, signal.SIGINT))
    found: list[Any] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            found.extend(any_engine.read(source, Options()))
        assert [t.name for t in threading.enumerate()].count("qa-fast-source") == 1
    finally:
        signal.signal(signal.SIGINT, before)
        release.set()
    # An interrupt may come while a thread is started: it ends, but nobody knows of it to wait for it.
    for thread in threading.enumerate():
        if thread.name.startswith("qa-fast"):
            thread.join(PATIENCE)
    assert not worker_threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("end", ["next(results)", "results.close()"])
def test_a_stream_from_before_a_fork(end: str, tmp_path: Path) -> None:
    """In the new process none of its threads is there, for which it would wait for ever."""
    save_tiny_model(tmp_path)
    code = FORKED.replace("END", end)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = "RuntimeError results that were begun before a fork" if "next" in end else "closed"
    assert done.stdout.startswith(said)


FORKED = """
import os, signal, sys
import qa_fast

row = {"question": "Who?", "context": "Ada wrote it."}
results = qa_fast.pipeline(sys.argv[1], device="cpu")(row for _ in range(99))
next(results), next(results)
child = os.fork()
if not child:
    signal.alarm(30)  # ends it, should it hang
    try:
        END
        print("closed", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(list(results)) == 97
"""


@pytest.mark.slow
@pytest.mark.parametrize("takes", ["queue.Queue().get()", "next(sys.stdin)"])
def test_an_interpreter_exits_although_a_source_blocks(takes: str, tmp_path: Path) -> None:
    code = f"""
import queue, sys
import qa_fast
qa = qa_fast.pipeline(sys.argv[1], device="cpu")
def source():
    for i in range(20):
        yield {{"question": "Who?", "context": f"It was number {{i}}."}}
    print("blocks", flush=True)
    {takes}
results = qa(source())
print(len([next(results) for _ in range(20)]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, save_tiny_model(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.wait(120) == 0
        assert process.stdout is not None
        assert "20" in process.stdout.read().split()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
