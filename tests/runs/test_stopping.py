"""Runs that are stopped: what is finished first, what is said, the exit code, and how they go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qa_fast import merge, predict
from qa_fast.runs.stopping import Interrupted, Stopping

from ..helpers.sound_files import contents, jsonl
from ..helpers.tiny import save_tiny_model

ROWS = [
    {"id": f"q{i}", "question": "Who wrote it?", "context": f"Ada wrote note {i}."}
    for i in range(30)
]
INT, TERM = signal.SIGINT, signal.SIGTERM

# Runs in a process of its own, which gets each signal as the row of that number, from 1, is answered.
SIGNALLED = """
import os, signal, sys
from qa_fast.runs.answering import Answering
from qa_fast.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
answered, real = 0, Answering._prediction
def counted(*arguments):
    global answered
    answered += 1
    for row, number in signals:
        if row == answered:
            os.kill(os.getpid(), number)
    return real(*arguments)
Answering._prediction = counted
sys.argv = ["qa-fast", *command]
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "q.jsonl"
    path.write_bytes(jsonl(ROWS))
    return path


@pytest.fixture(scope="module")
def wanted(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of an undisturbed run."""
    folder = tmp_path_factory.mktemp("wanted")
    predict(data, folder / "answers", model=model, part_rows=10)
    return contents(folder / "answers")


@pytest.mark.parametrize(
    ("signals", "code", "parts"),
    [
        pytest.param([(15, INT)], 130, 2, id="int"),
        pytest.param([(15, INT), (17, INT)], 130, 1, id="int-int"),
        pytest.param([(15, INT), (17, TERM)], 130, 2, id="int-term"),
        pytest.param([(15, TERM)], 143, 2, id="term"),
        pytest.param([(15, TERM), (17, TERM)], 143, 2, id="term-term"),
        pytest.param([(15, TERM), (17, INT)], 130, 1, id="term-int"),
        pytest.param([(25, INT)], 0, 3, id="in-the-last-part"),
    ],
)
def test_the_part_at_hand_is_finished(
    signals: list[tuple[int, int]],
    code: int,
    parts: int,
    fork: Any,
    data: Path,
    model: Path,
    wanted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    output, log = tmp_path / "answers", tmp_path / "log"
    command = ["predict", str(data), "-o", str(output), "--model", str(model), "--part-rows", "10"]
    process = fork(SIGNALLED, signals=signals, command=command, log=str(log))
    process.join()
    said = log.read_text()
    assert process.exitcode == code, said
    assert "Traceback" not in said
    first = signals[0][1] == INT
    assert ("finishing the part at hand; Ctrl-C again stops at once" in said) == first
    assert ("the same command goes on with the others" in said) == (code != 0)
    assert contents(output) == dict(list(wanted.items())[:parts])
    before = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    run = predict(data, output, model=model, part_rows=10)
    assert contents(output) == wanted
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(run.manifest["sessions"]) == (2 if code else 1)
    assert sum(session["questions"] for session in run.manifest["sessions"]) >= len(ROWS)


@pytest.mark.parametrize(
    ("on_interrupt", "parts"),
    [pytest.param("drop", 1, id="drop"), pytest.param("finish", 2, id="finish")],
)
def test_from_python(
    on_interrupt: Any, parts: int, data: Path, model: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    """A KeyboardInterrupt, at once unless asked otherwise; handlers of signals are as before."""
    done = 0

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        if done == 15:
            signal.raise_signal(INT)

    before = signal.signal(INT, signal.default_int_handler), signal.getsignal(TERM)
    try:
        with pytest.raises(KeyboardInterrupt, match="the same command goes on") as stopped:
            predict(
                data,
                tmp_path / "answers",
                model=model,
                part_rows=10,
                progress=report,
                on_interrupt=on_interrupt,
            )
        assert isinstance(stopped.value, Interrupted)
        assert stopped.value.signal == INT
        assert (signal.getsignal(INT), signal.getsignal(TERM)) == (
            signal.default_int_handler,
            before[1],
        )
    finally:
        signal.signal(INT, before[0])
    assert contents(tmp_path / "answers") == dict(list(wanted.items())[:parts])


def test_a_stream_cannot_go_on_and_says_so(model: Path, tmp_path: Path) -> None:
    def rows() -> Any:
        yield from ROWS[:15]
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="the generator cannot be read again: remove them"):
        predict(rows(), tmp_path / "answers", model=model, part_rows=10)


def test_only_the_main_thread_may_ask_for_it(data: Path, model: Path, tmp_path: Path) -> None:
    found: list[BaseException] = []

    def run() -> None:
        try:
            predict(data, tmp_path / "a", model=model, on_interrupt="finish")
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])
    with pytest.raises(ValueError, match="on_interrupt must be 'drop' or 'finish'; got 'wait'"):
        predict(data, tmp_path / "b", model=model, on_interrupt="wait")  # type: ignore[arg-type]


def test_what_is_called_when_a_stop_is_noted() -> None:
    called = []
    with Stopping(then=lambda: called.append(1)) as stop:
        assert stop.signal is None
        signal.raise_signal(TERM)
        signal.raise_signal(TERM)
        assert (stop.signal, called) == (TERM, [1])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(INT)


@pytest.fixture(scope="module")
def slow_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with questions, and their answers by the bundled model, which takes its time."""
    folder = tmp_path_factory.mktemp("slow")
    rows = [{**ROWS[i], "context": ROWS[i]["context"] * 60} for i in range(24)]
    (folder / "q.jsonl").write_bytes(jsonl(rows))
    predict(folder / "q.jsonl", folder / "wanted", part_rows=2, device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        pytest.param([INT], 130, id="int"),
        pytest.param([TERM], 143, id="term"),
        pytest.param([signal.SIGKILL], -9, id="kill"),
    ],
)
def test_several_processes_stop_together(
    signals: list[int], code: int, slow_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers"
    command = ["predict", str(slow_data / "q.jsonl"), "-o", str(output), "--devices", "cpu,cpu"]
    command += ["--part-rows", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from qa_fast.cli import main; main()", *command],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(output.glob("part-*")):
        time.sleep(0.005)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said
    if code > 0:
        assert "the same command goes on with the others" in said
    # After a SIGKILL the children notice that the parent has gone, and end.
    for index in (0, 1):
        for _ in range(200):
            try:
                predict(
                    slow_data / "q.jsonl",
                    output,
                    device="cpu",
                    part_rows=2,
                    num_shards=2,
                    shard_index=index,
                )
                break
            except ValueError as error:
                if "another process is writing" not in str(error):
                    raise
                time.sleep(0.1)
    merge(output)
    assert contents(output) == contents(slow_data / "wanted")
