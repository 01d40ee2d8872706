"""Processes that work on texts: no reading differs, and whatever becomes of them, none is lost."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from qa_fast.data.errors import ExampleError
from qa_fast.engine import Engine, Options, worker_process
from qa_fast.engine import workers as workers_module
from qa_fast.engine.workers import Crew, WorkerLost

from ..helpers.engines import examples, start_workers, worker_threads
from ..helpers.hashing import Hashing, OfTokens
from ..helpers.tiny import FAMILIES, hollow_tokenizer, save_tiny_model, tokenizer_of

WINDOW = 4
PATIENCE = 60.0  # seconds after which a test has failed


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", WINDOW)


def engine_of(family: str = "wordpiece", model: Any = None) -> Engine:
    return Engine(model or Hashing(), tokenizer_of(family))


class Name(str):
    """A text of a class of its own, which another process does not know."""

    def __reduce__(self) -> Any:
        raise TypeError("stays here")


# Each in two ways: as what it says, and as where it stands.
BAD: list[Any] = [
    (None, "Ada."),
    ("Who?", float("nan")),
    ("Who?", b"Ada."),
    (lambda: 0, "Ada."),
    ("", "Ada."),
    ("Who?", " \n"),
    ("Who?", "half \ud800"),
    ("Who? " * 600, "Ada."),
]
PAIRS = [
    *examples()[:9],
    *BAD,
    (Name("Who wrote it?"), Name("Ada wrote it.")),
    # White space that is left out of answers, and more of them looked for.
    ("Who?", "Ada" + "\n \n" * 20 + "x wrote it."),
    ("Who?", "Ada  wrote\n\n it in \u3000 London.\t東京 \x85 1843 \r\n"),
    *examples()[9:13],
]
OPTIONS = [
    Options(),
    Options(top_k=3, scoring="shared", max_seq_len=96, doc_stride=24),
    Options(top_k=None, scoring="logit", align_to_words=False, max_answer_len=3, max_seq_len=64),
    Options(top_k=4, scoring="logit", spans_per_chunk=5, max_seq_len=128),
    Options(top_k=2, handle_impossible_answer=True, max_question_len=4, doc_stride=0),
]


def read(engine: Engine, options: Options, pairs: Any = PAIRS, **arguments: Any) -> list[Any]:
    """The readings and errors, the latter as what can be compared."""
    found = engine.read(pairs, options, errors="return", **arguments)
    return [(str(x), *x.args) if isinstance(x, ExampleError) else x for x in found]


# --- the same readings --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_readings_are_the_same_to_the_bit_and_in_order(family: str) -> None:
    engine = engine_of(family)
    start_workers(engine, 2)
    for options in OPTIONS if family != "bundled" else OPTIONS[:2]:
        expected = read(engine, options, num_workers=0, probabilities=True)
        assert [type(x) is tuple for x in expected[9:16]] == [True] * 7
        assert read(engine, options, num_workers=2, probabilities=True) == expected


def test_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of which do something; and so in a stream."""
    engine = engine_of()
    expected = read(engine, OPTIONS[1])
    workers = start_workers(engine, 3)
    asked = []
    for number, worker in enumerate(workers):

        def ask(*arguments: Any, _real: Any = worker.ask, _number: int = number, **named: Any):
            asked.append((_number, arguments[1]))
            return _real(*arguments, **named)

        monkeypatch.setattr(worker, "ask", ask)
    for count in (3, 1, 2):
        asked.clear()
        assert read(engine, OPTIONS[1], num_workers=count) == expected
        assert read(engine, OPTIONS[1], iter(PAIRS), num_workers=count) == expected
        assert {number for number, _ in asked} == set(range(count))
        assert {method for _, method in asked} == {"cut", "rank"}


def test_an_error_comes_after_all_that_was_read_before_it() -> None:
    engine = engine_of()
    start_workers(engine, 2)
    for pair in BAD[:2]:
        results = engine.read([*examples()[:9], pair, *examples()], Options(), num_workers=2)
        assert list(islice(results, 9)) == read(engine, Options(), examples()[:9], num_workers=0)
        with pytest.raises(ExampleError, match=r"9 must be a string; got (None|nan), a missing"):
            next(results)
    with pytest.raises(ValueError, match="doc_stride must be at least 0 and smaller than"):
        list(engine.read(examples(), Options(doc_stride=400), num_workers=2))
    assert not worker_threads()


@pytest.mark.parametrize("scoring", ["probability", "logit"])
def test_white_space_takes_no_answer_from_those_that_exist(
    scoring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is asked for answers of one window again, with more spans."""
    tokenizer = tokenizer_of("no_special")
    space, newline = tokenizer.convert_tokens_to_ids(["Ġ", "Ċ"])
    engine = engine_of("no_special", OfTokens({space: 9.0, newline: 9.0}))
    (worker,) = start_workers(engine, 1)
    asked, real = [], worker.ask
    monkeypatch.setattr(worker, "ask", lambda *a, **named: asked.append(a[1]) or real(*a, **named))
    pairs = [("Who?", "Ada" + "\n \n" * 30 + "x wrote it."), ("Who?", "Ada wrote it.")]
    options = Options(top_k=6, scoring=scoring)
    found = read(engine, options, pairs, num_workers=1)
    assert found == read(engine, options, pairs, num_workers=0)
    assert len(found[0].answers) == 6
    assert asked[0] == "cut"
    assert asked.count("rank") > 1


def test_a_token_without_characters_is_named_at_the_callers_line() -> None:
    pair = ("in", "Ada wrote it  in London.")
    for num_workers in (0, 1):
        engine = Engine(OfTokens({2: 20.0}), hollow_tokenizer())
        start_workers(engine, num_workers)
        message = r"the token 'wrote *' no characters .*token 1 of context 1, at character 4"
        with pytest.warns(UserWarning, match=message) as caught:
            found = read(engine, Options(), [("in", ""), pair], num_workers=num_workers)
        assert [warning.filename for warning in caught] == [__file__]
        assert found[1].answers[0]["answer"] == "wrote"


def test_several_threads_share_the_processes() -> None:
    engine = engine_of()
    expected = read(engine, OPTIONS[1])
    start_workers(engine, 2)
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda _: read(engine, OPTIONS[1], num_workers=2), range(6))
    assert list(found) == [expected] * 6


# --- how many -----------------------------------------------------------------------------------


def test_how_many_there_are_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    chunker = engine_of()._crew.chunker
    on_cpu, on_gpu = (Crew(chunker, on_gpu=on_gpu) for on_gpu in (False, True))
    cores = {1: 0, 4: 0, 7: 0, 8: 1, 16: 3, 20: 4, 256: 4}
    for count, expected in cores.items():
        monkeypatch.setattr(workers_module, "_cores", lambda count=count: count)
        assert (on_cpu.most(None), on_gpu.most(None)) == (0, expected)
        assert on_cpu.most(5) == on_gpu.most(5) == 5
        assert on_cpu.most(0) == on_gpu.most(0) == 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "frozen", True, raising=False)
        assert on_gpu.most(None) == 0
    monkeypatch.setattr(
        workers_module.multiprocessing.current_process(), "_config", {"daemon": True}
    )
    assert on_gpu.most(None) == 0
    assert on_gpu.most(2) == 2


def test_unasked_there_are_some_for_a_long_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    monkeypatch.setattr(Crew, "most", lambda _, asked: 1 if asked is None else asked)
    monkeypatch.setattr(workers_module, "_LONG_STREAM", 2 * WINDOW)
    read(engine, Options(), examples()[: 2 * WINDOW])
    assert engine._crew._workers == []
    read(engine, Options(), examples()[: 2 * WINDOW + 1])
    assert len(engine._crew._workers) == 1


def test_an_engine_is_pickled_with_its_number() -> None:
    engine = Engine(Hashing(), tokenizer_of("wordpiece"), num_workers=1)
    start_workers(engine, 1)
    copy = pickle.loads(pickle.dumps(engine))
    assert (copy.num_workers, copy._crew._workers) == (1, [])


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_a_number_that_cannot_be_used_is_named(value: Any) -> None:
    message = f"num_workers must be an integer of at least 0; got {value!r}"
    with pytest.raises(ValueError, match=message):
        Engine(Hashing(), tokenizer_of("wordpiece"), num_workers=value)
    with pytest.raises(ValueError, match=message):
        engine_of().read([], Options(), num_workers=value)


# --- none to be had -----------------------------------------------------------------------------


class Words:
    """Python code in a tokenizer, which cannot be copied."""

    def pre_tokenize(self, text: Any) -> None:
        text.split(lambda _, part: part.split(" ", "removed"))


def test_a_tokenizer_that_cannot_be_copied() -> None:
    engine = engine_of()
    engine._crew.chunker._backend.tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(
        Words()
    )
    expected = read(engine, Options(), num_workers=0)
    with pytest.warns(UserWarning, match=r"num_workers has no effect: .*Custom PreTok") as caught:
        assert read(engine, Options(), num_workers=2) == expected
    assert [warning.filename for warning in caught] == [__file__]
    assert read(engine, Options(), num_workers=2) == expected  # told once: warnings are errors here


@pytest.mark.parametrize("fails", [0, 1])
def test_a_process_that_cannot_be_started(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, real, started = engine_of(), subprocess.Popen, []

    def start(*arguments: Any, **named: Any) -> Any:
        if len(started) == fails:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(real(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    expected = read(engine, Options(), num_workers=0)
    message = f"of 2 worker processes only {fails} can be started .*temporarily unavailable"
    with pytest.warns(UserWarning, match=message):
        assert read(engine, Options(), num_workers=2) == expected
    engine._crew.wait()
    assert read(engine, Options(), num_workers=2) == expected
    assert len(engine._crew._workers) == fails


def test_a_process_that_ends_before_it_can_work(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker_process, "_PROGRAM", "qa_fast.no_such_program")
    engine = engine_of()
    expected = read(engine, Options(), num_workers=0)
    # The first window starts it; the second comes when it has ended.
    engine._crew._idlest(1)
    engine._crew.wait()
    message = "a worker process ended with exit code 1; .*, and the calling process goes on"
    with pytest.warns(UserWarning, match=message):
        assert read(engine, Options(), num_workers=1) == expected
    assert read(engine, Options(), num_workers=1) == expected
    assert "No module named qa_fast.no_such_program" in capfd.readouterr().err


@pytest.mark.parametrize("room", [True, False])
def test_no_file_is_left_and_none_is_needed(
    room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while they run."""
    folders = [tmp_path / "shared", tmp_path / "temporary"]
    for folder in folders if room else ():
        folder.mkdir()
    monkeypatch.setattr(worker_process, "_SHARED_FOLDER", folders[0])
    monkeypatch.setattr(tempfile, "tempdir", str(folders[1]))
    engine = engine_of()
    expected = read(engine, OPTIONS[1])
    (worker,) = start_workers(engine, 1)
    assert (worker._channel.shared is not None) == room
    assert read(engine, OPTIONS[1], num_workers=1) == expected
    assert list(tmp_path.rglob("*")) == (sorted(folders) if room else [])


# --- killed -------------------------------------------------------------------------------------


def kill(worker: Any) -> None:
    """Kill it while it is at work on nothing; what it is asked for next, it does not get."""
    with worker._turn:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait(PATIENCE)


def test_one_that_is_killed_between_two_windows() -> None:
    engine = engine_of()
    expected = read(engine, OPTIONS[1])
    workers = start_workers(engine, 2)
    kill(workers[0])
    message = (
        "^a worker process was killed by signal 9; its questions .* again, and 1 other goes on$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        assert read(engine, OPTIONS[1], num_workers=2) == expected
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert read(engine, OPTIONS[1], num_workers=2) == expected
    kill(workers[1])
    with pytest.warns(UserWarning, match="and the calling process goes on by itself"):
        assert read(engine, OPTIONS[1], num_workers=2) == expected
    assert read(engine, OPTIONS[1], num_workers=2) == expected


def test_all_that_are_killed_while_the_model_has_their_windows() -> None:
    """Those windows have been cut, and their answers are still to be made."""
    workers: list[Any] = []

    class Killing(Hashing):
        def __call__(self, *, input_ids: Any, token_type_ids: Any = 0) -> Any:
            while workers:
                kill(workers.pop())
            return super().__call__(input_ids=input_ids, token_type_ids=token_type_ids)

    engine = engine_of(model=Killing())
    expected = read(engine, OPTIONS[1])
    workers += start_workers(engine, 2)
    with pytest.warns(UserWarning, match="was killed by signal 9") as caught:
        assert read(engine, OPTIONS[1], num_workers=2) == expected
    assert not workers
    assert len(caught) == 2


FATAL = """
import os
from pathlib import Path
from qa_fast.texts.chunker import Chunker

class Fatal(Chunker):
    def cut(self, questions, contexts, **cutting):
        for text in contexts:
            if text.startswith("once ") and Path(text[5:]).exists():
                Path(text[5:]).unlink()
                os._exit(3)
            if text == "always" and os.getpid() != self.started:
                os._exit(3)
        return super().cut(questions, contexts, **cutting)
"""


@pytest.fixture
def fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine with two processes that end when they come to certain texts."""
    (tmp_path / "fatal_chunker.py").write_text(FATAL, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names: dict[str, Any] = {}
    exec(FATAL, names)
    names["Fatal"].__module__ = "fatal_chunker"
    module = type(sys)("fatal_chunker")
    module.Fatal = names["Fatal"]
    monkeypatch.setitem(sys.modules, "fatal_chunker", module)
    engine = engine_of()
    engine._crew.chunker.started = os.getpid()
    engine._crew.chunker.__class__ = module.Fatal
    start_workers(engine, 2)
    return engine


def test_one_that_ends_at_work(fatal: Engine, tmp_path: Path) -> None:
    pairs = [*examples()[:5], ("Who?", f"once {tmp_path}/flag"), *examples()[:9]]
    expected = read(fatal, Options(), pairs, num_workers=0)
    (tmp_path / "flag").touch()
    with pytest.warns(UserWarning, match="ended with exit code 3; .* 1 other goes on"):
        assert read(fatal, Options(), pairs, num_workers=2) == expected
    assert not (tmp_path / "flag").exists()


def test_a_text_that_ends_two_of_them_is_told(fatal: Engine) -> None:
    pairs = [*examples()[:5], ("Who?", "always"), *examples()[:9]]
    expected = read(fatal, Options(), pairs, num_workers=0)
    found: list[Any] = []
    results = fatal.read(pairs, Options(), num_workers=2)
    message = (
        "^a worker process ended with exit code 3, as one before it, over .* questions 4 to 7$"
    )
    with pytest.warns(UserWarning, match="exit code 3; its questions are read again") as caught:  # noqa: PT031
        with pytest.raises(WorkerLost, match=message):
            found.extend(results)
        assert found == expected[:WINDOW]
        # Without any of them the calling process goes on.
        assert read(fatal, Options(), pairs, num_workers=2) == expected
    assert len(caught) == 1
    assert not worker_threads()


# --- what stays behind --------------------------------------------------------------------------


def test_windows_of_readers_that_are_closed_early_are_forgotten() -> None:
    engine = engine_of()
    (worker,) = start_workers(engine, 1)
    sizes = []
    for number in range(12):
        pairs = [("Who?", f"{number}{i} " + "Ada wrote it. " * 300) for i in range(6 * WINDOW)]
        results = engine.read(pairs, Options(top_k=1, doc_stride=0), num_workers=1)
        next(results)
        results.close()  # type: ignore[attr-defined]
        del results
        gc.collect()
        assert worker.windows == set()
        assert len(worker._done) > 0
        start_workers(engine, 1)
        assert len(worker._done) <= 1  # its own
        if Path("/proc/self/statm").exists():
            statm = Path(f"/proc/{worker.process.pid}/statm").read_text(encoding="utf-8")
            sizes.append(int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    # A window that was kept would hold some megabytes, and each reader leaves two or three.
    assert not sizes or sizes[-1] - sizes[4] < 8 << 20


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (ProcessLookupError, FileNotFoundError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # dead, and its new parent is in no hurry


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + PATIENCE
    while not all(map(is_gone, pids)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_they_end_with_the_engine() -> None:
    engine = engine_of()
    workers = start_workers(engine, 2)
    pids = [worker.process.pid for worker in workers]
    del workers
    begin = time.monotonic()
    del engine
    gc.collect()
    wait_until_gone(pids)
    assert time.monotonic() - begin < worker_process._PATIENCE


# A script as people write them: without a guard around its main part.
SCRIPT = """
import os, sys, time
import qa_fast
qa = qa_fast.pipeline(sys.argv[1], device="cpu", num_workers=2)
rows = [{"question": "Who?", "context": f"It was number {i}."} for i in range(20)]
first = qa(rows)
if sys.argv[2] == "ready":
    qa.engine._crew.wait()
assert qa(rows) == first == qa(rows, num_workers=0)
print(*(worker.process.pid for worker in qa.engine._crew._workers), time.time())
"""


@pytest.mark.parametrize("when", ["ready", "starting"])
def test_a_script_without_a_guard_works_and_ends_at_once(when: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    model = save_tiny_model(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", model, when],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    *pids, ended = done.stdout.split()
    assert (done.returncode, len(pids), done.stderr) == (0, 2, "")
    assert time.time() - float(ended) < worker_process._PATIENCE
    assert all(map(is_gone, map(int, pids)))


# In a process of its own, at the head of a group; it reads until it is stopped.
READING = """
import itertools, os, signal
import qa_fast
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
qa = qa_fast.pipeline(model, device="cpu", num_workers=2)
rows = ({"question": "Who?", "context": f"It was number {i}."} for i in itertools.count())
pids = []
if forks:
    qa("Who?", "Ada.")
    qa.engine._crew.wait()
    expected = qa("Who?", "Ada wrote it.")
    child = os.fork()
    if not child:
        assert qa.engine._crew.most(2) == 0
        assert qa("Who?", "Ada wrote it.") == expected
        os.write(2, b"the child reads;")
        signal.pause()
    pids.append(child)
try:
    for number, _ in enumerate(qa(rows)):
        if number == 0:
            pids += [worker.process.pid for worker in qa.engine._crew._workers]
            with open(log + ".new", "w") as file:
                print(*pids, file=file)
            os.rename(log + ".new", log + ".pids")
except KeyboardInterrupt:
    os.write(2, b"stopped")
"""


def run_reading(fork: Any, folder: Path, *, forks: bool) -> tuple[Any, list[int]]:
    """The process, and those that it started, which may not be ready yet."""
    model = save_tiny_model(folder / "model")
    process = fork(READING, model=str(model), log=str(folder / "log"), forks=forks)
    until = time.monotonic() + PATIENCE
    while not (folder / "log.pids").exists():
        assert time.monotonic() < until, (folder / "log").read_text()
        time.sleep(0.01)
    return process, list(map(int, (folder / "log.pids").read_text().split()))


@pytest.mark.parametrize("pause", [0, 1.5], ids=["starting", "reading"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_the_process_that_started_them(
    number: signal.Signals, pause: float, fork: Any, tmp_path: Path
) -> None:
    """Ctrl-C goes to the whole group, and nothing but the caller's own words is said of it."""
    process, pids = run_reading(fork, tmp_path, forks=False)
    assert len(pids) == 2
    time.sleep(pause)
    os.killpg(process.pid, number)
    process.join(PATIENCE)
    wait_until_gone(pids)
    stopped = number == signal.SIGINT
    assert process.exitcode == (0 if stopped else -number)
    assert (tmp_path / "log").read_text() == ("stopped" if stopped else "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_reads_without_them_and_does_not_keep_them(
    fork: Any, tmp_path: Path
) -> None:
    process, (child, *pids) = run_reading(fork, tmp_path, forks=True)
    try:
        assert len(pids) == 2
        until = time.monotonic() + PATIENCE
        while (tmp_path / "log").read_text() != "the child reads;":
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.01)
        assert not any(map(is_gone, pids))
        process.kill()
        wait_until_gone(pids)
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)
        process.join()
