"""What the processes of several devices are told, what they say, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_fast import Columns
from qa_fast.data.errors import Argument, OneOf
from qa_fast.runs.processes import Failure, Job, Progress, message_of, run_processes, to_line

# In place of the program that answers: it does what the name of its device says.
PROGRAM = """
import sys
from qa_fast.runs.processes import Failure, Job, Progress, to_line
device = Job.of(sys.stdin.readline()).device
for _ in range(3):
    print(to_line(Progress(2)), flush=True)
if device == "broken":
    print(to_line(Failure(["no such thing"])), flush=True)
if device == "waits":
    sys.stdin.read()
sys.exit({"broken": 1, "dead": 3}.get(device, 0))
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("qa_fast.runs.processes._PROGRAM", "stand_in")


def jobs(*devices: str) -> list[Job]:
    return [Job(device, len(devices), i, {"columns": None}) for i, device in enumerate(devices)]


def test_rows_of_all_are_reported() -> None:
    done: list[int] = []
    run_processes(jobs("cpu", "cpu"), done.append)
    assert done == [2] * 6


@pytest.mark.parametrize(
    ("device", "message"),
    [
        pytest.param("broken", "^device broken: no such thing$", id="told"),
        pytest.param("dead", "^device dead: its process ended with exit code 3$", id="dead"),
    ],
)
def test_one_that_fails_stops_the_others(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_processes(jobs("waits", device), lambda _: None)


def test_what_is_said_is_heard_as_it_was() -> None:
    arguments = {"source": "q.jsonl", "columns": Columns(id="key"), "top_k": 3, "model": None}
    line = Job("cpu", 2, 1, {**arguments, "tokenizer": Path("a/b")}).to_line()
    assert Job.of(line) == Job("cpu", 2, 1, {**arguments, "tokenizer": "a/b"})
    hint = OneOf((("use ", Argument("on_error", "skip")), ("x",)), before=" (", after=")")
    parts = 'line 2: "x"\nis wrong with ', Argument("top_k", 5), Argument("id", spelled="x="), hint
    for message in (Progress(5), Failure(parts)):
        line = to_line(message)
        assert "\n" not in line
        assert message_of(line) == message
        assert type(message_of(line)) is type(message)
