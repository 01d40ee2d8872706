"""Texts that other processes work on: the same answers, whatever becomes of the processes."""

from __future__ import annotations

import gc
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from mmap import mmap
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tokenizers import PreTokenizedString, Regex, Tokenizer, models
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import PreTrainedTokenizerFast

import qa_fast
from qa_fast.engine import Engine, ExampleError, Options
from qa_fast.engine import workers as crews
from qa_fast.engine.worker_process import WorkerLost
from qa_fast.texts.channel import Channel

from ..helpers.hashing import Hashing
from ..helpers.tiny import save_tiny_model, tokenizer_of, xquad

OPTIONS = {
    "default": Options(max_seq_len=64, doc_stride=16, handle_impossible_answer=True),
    "logit": Options(max_seq_len=64, top_k=5, scoring="logit", spans_per_chunk=6),
    "all": Options(max_seq_len=96, top_k=None, max_answer_len=2, scoring="shared"),
}
# For white space alone a text has fewer answers than asked for, and more spans are looked at.
SPACED = ("Who?", "Ada \n \n \n \n \n wrote \n \n \n it.")


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", 4)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One with two processes; those that a test ends are replaced by the next test's."""
    engine = new_engine(2)
    yield engine
    engine._crew._ends()


def new_engine(num_workers: int | None, family: str = "wordpiece") -> Engine:
    """An engine whose processes are ready."""
    engine = Engine(Hashing(), tokenizer_of(family), num_workers=num_workers)
    list(engine.read([SPACED], Options()))
    engine._crew.wait()
    return engine


def pairs() -> list[tuple[Any, Any]]:
    """Texts of many languages, one context for several questions, and some that cannot be used."""
    found: list[tuple[Any, Any]] = [
        (qa["question"], p["context"][:400])
        for paragraphs in xquad().values()
        for p in paragraphs[:1]
        for qa in p["qas"][:2]
    ]
    wrong = [
        ("", "Ada."),
        ("Who?", " \n"),
        ("Who?", None),
        (b"Who?", "Ada."),
        ("Who\ud800?", "Ada."),
    ]
    return [*found[:9], *wrong, SPACED, *found[9:], ("Who? " * 80, "It was Ada. " * 90)]


def told(results: Any) -> list[Any]:
    """Results as what can be compared."""
    return [str(r) if isinstance(r, ExampleError) else r for r in results]


@pytest.mark.parametrize("name", OPTIONS)
def test_answers_and_errors_are_the_same(name: str, engine: Engine) -> None:
    expected = told(engine.read(pairs(), OPTIONS[name], errors="return", num_workers=0))
    assert sum(isinstance(result, str) for result in expected) == 6
    with mock.patch.object(crews, "TextWork", side_effect=AssertionError("not by the others")):
        found = told(engine.read(pairs(), OPTIONS[name], errors="return"))
        stream = told(engine.read(iter(pairs()), OPTIONS[name], errors="return"))
    assert found == stream == expected


@pytest.mark.parametrize("family", ["bundled", "byte_bpe", "xlnet", "untrimmed"])
def test_tokenizers_work_the_same_in_other_processes(family: str) -> None:
    engine = new_engine(1, family)
    try:
        expected, found = (
            told(engine.read(pairs(), OPTIONS["default"], errors="return", num_workers=n))
            for n in (0, 1)
        )
        assert found == expected
    finally:
        engine._crew._ends()


def test_an_error_comes_after_the_results_before_it(engine: Engine) -> None:
    results = engine.read([("Who?", "Ada.")] * 9 + [("", "Ada.")], Options())
    with pytest.raises(ExampleError, match="question 9 is empty"):
        for count, _ in enumerate(results, start=1):  # noqa: B007
            pass
    assert count == 9


def test_windows_are_forgotten_once_they_are_answered_or_dropped(engine: Engine) -> None:
    list(engine.read(pairs(), Options(), errors="return"))
    with closing(engine.read([("Who?", "Ada.")] * 99, Options())) as results:
        next(results)
    gc.collect()
    assert [worker.windows for worker in engine._crew._workers] == [set(), set()]


def test_arguments_that_no_call_takes_are_told_as_without(engine: Engine) -> None:
    options = Options(max_seq_len=20, doc_stride=30)
    for num_workers in (0, 2):
        with pytest.raises(ValueError, match="doc_stride must be at least 0 and smaller than"):
            list(engine.read([("Who?", "Ada.")], options, num_workers=num_workers))


def killed_while(engine: Engine, method: str, count: int) -> Callable[..., Any]:
    """``ask`` of a worker, with the process killed as it is asked for a method, ``count`` times."""
    from qa_fast.engine.worker_process import Worker

    ask, left = Worker.ask, [None] * count

    def killing(self: Worker, window: int, asked: str, *arguments: Any, **named: Any) -> Any:
        if asked == method and left and self in engine._crew._workers:
            left.pop()
            os.kill(self.process.pid, signal.SIGKILL)
        return ask(self, window, asked, *arguments, **named)

    return killing


@pytest.mark.parametrize("method", ["cut", "rank"])
def test_a_killed_process_costs_no_answer(method: str) -> None:
    engine = new_engine(2)
    expected = told(engine.read(pairs(), OPTIONS["default"], errors="return", num_workers=0))
    ask = "qa_fast.engine.worker_process.Worker.ask"
    with (
        mock.patch(ask, killed_while(engine, method, 1)),
        pytest.warns(
            UserWarning, match="was killed by signal 9; its questions are read again"
        ) as caught,
    ):
        found = told(engine.read(pairs(), OPTIONS["default"], errors="return"))
    assert found == expected
    assert {warning.filename for warning in caught} == {__file__}
    assert sum(not worker.lost for worker in engine._crew._workers) == 1
    os.kill(next(w for w in engine._crew._workers if not w.lost).process.pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="the calling process goes on by itself"):
        found = told(engine.read(pairs(), OPTIONS["default"], errors="return"))
    assert found == expected


def test_texts_that_end_two_processes_are_named() -> None:
    engine = new_engine(3)
    ask = "qa_fast.engine.worker_process.Worker.ask"
    with (
        mock.patch(ask, killed_while(engine, "cut", 2)),
        pytest.raises(WorkerLost, match=r"signal 9, as one before it, over .* questions 0 to 3"),
    ):
        list(engine.read([("Who?", "Ada.")] * 4, Options()))
    engine._crew._ends()


def test_nothing_is_chosen_by_itself_but_beside_a_gpu_with_cores_to_spare() -> None:
    engine = Engine(Hashing(), tokenizer_of("wordpiece"))
    assert engine._crew.most(None) == 0
    beside = crews.Crew(engine._chunker, on_gpu=True)
    for cores, expected in ((2, 0), (4, 0), (8, 1), (16, 3), (64, 4)):
        with mock.patch.object(crews, "_cores", return_value=cores):
            assert beside.most(None) == expected
            assert beside.most(7) == 7
            with mock.patch("multiprocessing.current_process") as process:
                process.return_value.daemon = True
                assert beside.most(None) == 0


def test_a_long_stream_beside_a_gpu_gets_processes_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(Hashing(), tokenizer_of("wordpiece"))
    engine._crew = crews.Crew(engine._chunker, on_gpu=True)
    monkeypatch.setattr(crews, "_cores", lambda: 8)
    monkeypatch.setattr(crews, "_LONG_STREAM", 8)
    with caplog.at_level(logging.INFO, "qa_fast"):
        list(engine.read([("Who?", "Ada.")] * 8, Options()))
        assert not engine._crew._workers
        list(engine.read([("Who?", "Ada.")] * 16, Options(), num_workers=0))
        assert not engine._crew._workers
        list(engine.read([("Who?", "Ada.")] * 16, Options()))
    assert len(engine._crew._workers) == 1
    assert "1 processes work on texts, with 8 threads each" in caplog.text
    engine._crew._ends()


class Words:
    """A pre-tokenizer in Python, which cannot be copied to another process."""

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(lambda _, part: part.split(Regex(r"\s+"), "removed"))


def test_a_tokenizer_that_cannot_be_copied_is_told_and_works_here() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "Ada": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    engine = Engine(Hashing(), tokenizer, num_workers=1)
    # Whoever copies a tokenizer sees this; it is put in later, as the engine copies its own.
    engine._chunker._backend.tokenizer.pre_tokenizer = PreTokenizer.custom(Words())
    with pytest.warns(
        UserWarning, match="num_workers has no effect: the tokenizer cannot be copied"
    ):
        (found,) = engine.read([("Who ?", "Ada wrote")], Options())
    assert found.answers[0]["answer"]
    assert not engine._crew._workers
    list(
        engine.read([("Who ?", "Ada wrote")], Options())
    )  # without a word: warnings are errors here


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_what_is_no_number_of_processes(value: Any, engine: Engine) -> None:
    for call in (
        lambda: Engine(Hashing(), engine.tokenizer, num_workers=value),
        lambda: engine.read([], Options(), num_workers=value),
        lambda: qa_fast.pipeline(num_workers=value),
        lambda: qa_fast.predict([], "x.jsonl", num_workers=value),
    ):
        with pytest.raises(
            ValueError, match=f"num_workers must be an integer of at least 0; got {value!r}"
        ):
            call()


def test_an_engine_is_pickled_with_its_number_of_processes() -> None:
    qa = qa_fast.pipeline(device="cpu", num_workers=0)
    assert pickle.loads(pickle.dumps(qa.engine)).num_workers == 0


@pytest.mark.parametrize("shared", [None, 1 << 12])
def test_a_channel_takes_arrays_of_any_kind(shared: int | None) -> None:
    value = {
        "small": np.arange(5),
        "none": np.empty((0, 3), np.int32),
        "large": np.arange(5000.0),
        "behind": np.arange(7, dtype=np.int8),
        "columns": np.arange(12).reshape(3, 4)[:, ::2],
        "text": "Ada",
    }
    pipe = io.BytesIO()
    memory = None if shared is None else mmap(-1, shared)
    Channel(pipe, pipe, memory).send(value)
    through_pipe = pipe.tell()
    pipe.seek(0)
    found = Channel(pipe, pipe, memory).receive()
    assert found.keys() == value.keys()
    for name, array in value.items():
        assert np.array_equal(found[name], array), name
    found["small"][0] = 9  # they are copies
    assert pipe.read() == b""
    assert through_pipe > 40_000
    assert shared is None or through_pipe < 41_000
    with pytest.raises(EOFError):
        Channel(pipe, pipe).receive()


SCRIPT = """
import os, sys, time, qa_fast
qa = qa_fast.pipeline({model!r}, device="cpu", num_workers=2)
qa(question="Who?", context="Ada wrote it.")
qa.engine._crew.wait()
print(*(w.process.pid for w in qa.engine._crew._workers), flush=True)
print(qa(question="Who?", context="Ada wrote it.")["answer"], flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["returns", "sleeps", "forks"])
def test_processes_end_with_the_one_that_started_them(end: str, tmp_path: Path) -> None:
    """The script's main module has no guard, as none is needed."""
    ends = {
        "returns": "",
        "sleeps": "time.sleep(60)",
        "forks": """
child = os.fork()
answer = qa(question="Who?", context="Ada wrote it.", num_workers=2)["answer"]
assert child or qa.engine._crew.most(2) == 0
print(answer, flush=True)
if not child:
    os._exit(0)
os.waitpid(child, 0)
""",
    }
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=str(save_tiny_model(tmp_path / "m")), end=ends[end]))
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2
    assert process.stdout.readline().strip()
    if end == "sleeps":
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if end == "sleeps":
        assert err.count("Traceback") == 1
        assert "KeyboardInterrupt" in err
    else:
        assert (process.returncode, err) == (0, "")
        assert len(out.split("\n")) == (3 if end == "forks" else 1)
    assert_gone(workers)


def test_processes_end_with_a_killed_one(tmp_path: Path) -> None:
    script = SCRIPT.format(model=str(save_tiny_model(tmp_path)), end="time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(number) for number in process.stdout.readline().split()]
    process.kill()
    process.communicate()
    assert_gone(workers)


def assert_gone(processes: list[int]) -> None:
    """That processes end within some seconds."""
    for _ in range(100):
        if not any(Path(f"/proc/{number}/cmdline").exists() for number in processes):
            return
        time.sleep(0.1)
    raise AssertionError(f"{processes} go on")


def test_several_threads_share_the_processes(engine: Engine) -> None:
    expected = told(engine.read(pairs(), OPTIONS["logit"], errors="return", num_workers=0))
    found: list[Any] = []

    def read() -> None:
        found.append(told(engine.read(pairs(), OPTIONS["logit"], errors="return")))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6
