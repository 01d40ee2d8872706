"""What the commands print of data that tries to steer the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from qa_fast import evaluate
from qa_fast.cli.terminal import json_line, visible
from qa_fast.evaluation.results import write_results

from ..helpers.hostile import TERMINAL
from ..helpers.sound_files import ROWS, jsonl, qa_fast
from ..helpers.tiny import save_tiny_model

STEERING = [c for c in TERMINAL if not c.isprintable()]
# What a file can be called.
NAME = TERMINAL.replace("/", "|")
GOOD = {**ROWS[0], "context": "Ada wrote it."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Data, predictions, a text and results in which every text and every name is hostile."""
    rows = [
        {key: f"{value} {TERMINAL}" for key, value in GOOD.items() if key != "answers"}
        | {"id": f"{i} {TERMINAL}", "title": TERMINAL, "answers": [f"Ada {TERMINAL}"]}
        for i in range(3)
    ]
    found = {
        name: tmp_path / f"{name} {NAME}{ending}"
        for name, ending in (
            ("data", ".jsonl"),
            ("bad", ".jsonl"),
            ("one", ".json"),
            ("two", ".json"),
        )
    }
    found["text"] = tmp_path / f"text {NAME}.txt"
    found["data"].write_bytes(jsonl(rows))
    found["bad"].write_bytes(jsonl([rows[0], {**rows[1], "question": [TERMINAL]}]))
    for name, answers in (("one", ["Ada", TERMINAL, "x"]), ("two", [TERMINAL, "Ada"])):
        by_id = {row["id"]: answer for row, answer in zip(rows, answers, strict=False)}
        found[name].write_text(json.dumps({**by_id, f"extra {TERMINAL}": "x"}))
    found["text"].write_text(f"Ada {TERMINAL} wrote it.", newline="")
    found["results"], _ = write_results(evaluate(found["data"], found["one"]), tmp_path, name="x")
    return found


def check(text: str) -> None:
    assert not {c for c in text if c in STEERING and c != "\n"}, ascii(text)
    assert "\\x1b]0;pwned" in text or "\\u001b]0;pwned" in text, "no hostile text was printed"


COMMANDS: dict[str, list[str]] = {
    "predict": ["predict", "{data}", "-o", "{tmp}/out " + NAME + ".jsonl", "--model", "{model}"],
    "predict-skip": ["predict", "{bad}", "-o", "{tmp}/" + NAME + "/", "--model", "{model}",
                     "--on-error=skip"],
    "predict-fail": ["predict", "{bad}", "-o", "{tmp}/x.jsonl", "--model", "{model}"],
    "predict-shard": ["predict", "{data}", "-o", "{tmp}/" + NAME + "/", "--model", "{model}",
                      "--num-shards=2", "--shard-index=0"],
    "predict-column": ["predict", "{data}", "-o", "{tmp}/x.jsonl", "--question-column", TERMINAL],
    "predict-split": ["predict", "{data}", "-o", "{tmp}/x.jsonl", "--split", TERMINAL],
    "predict-model": ["predict", "{data}", "-o", "{tmp}/x.jsonl", "--model", NAME],
    "predict-device": ["predict", "{data}", "-o", "{tmp}/x.jsonl", "--device", TERMINAL],
    "merge": ["merge", "{tmp}/" + NAME],
    "evaluate": ["evaluate", "{data}", "{two}"],
    "evaluate-bad": ["evaluate", "{bad}", "{one}"],
    "evaluate-ids": ["evaluate", "{data}", "{data}"],
    "evaluate-results": ["evaluate", "{data}", "{two}", "--results", "{tmp}/results " + NAME],
    "compare": ["compare", "{one}", "{two}", "--data", "{data}"],
    "compare-json": ["compare", "{one}", "{two}", "--data", "{data}", "--json"],
    "compare-results": ["compare", "{results}", "{two}", "--data", "{data}"],
    "compare-other": ["compare", "{bad}", "{two}", "--data", "{data}"],
    "ask": ["ask", "Who wrote it?", "-c", "{text}", "--max-answer-len=40", "-k", "5"],
    "ask-json": ["ask", TERMINAL, "-c", "{text}", "--json"],
    "ask-missing": ["ask", "Who?", "-c", NAME],
    "usage": ["predict", "{data}", TERMINAL, "-o", "{tmp}/x.jsonl"],
    "option": ["predict", f"--{TERMINAL}"],
    "command": [TERMINAL],
}  # fmt: skip


def filled(command: Iterable[str], where: Mapping[str, Path]) -> list[str]:
    """The arguments of a command, with paths in place of ``{their names}``."""
    arguments = []
    for part in command:
        for key, value in where.items():
            part = part.replace(f"{{{key}}}", str(value))
        arguments.append(part)
    return arguments


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_steers_the_terminal(
    name: str,
    files: dict[str, Path],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = filled(COMMANDS[name], {"tmp": tmp_path, "model": model, **files})
    result = qa_fast(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    check(result.stdout + result.stderr)


def test_json_stays_json() -> None:
    text = json_line({"answer": TERMINAL, "plain": "Zoë 🤗\ud800"})
    assert json.loads(text) == {"answer": TERMINAL, "plain": "Zoë 🤗\ud800"}
    check(text)
    assert text == visible(text)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict-skip", "compare", "evaluate", "ask"])
def test_on_a_terminal(command: str, files: dict[str, Path], model: Path, tmp_path: Path) -> None:
    """With progress bars, tables and colours, whose sequences are the only ones."""
    arguments = filled(COMMANDS[command], {"tmp": tmp_path, "model": model, **files})
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", "from qa_fast.cli import main; main()", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    said = b""
    # Reading fails when the other end is closed.
    with suppress(OSError):
        while block := os.read(master, 65536):
            said += block
    os.close(master)
    assert process.wait() in (0, 2)
    text = said.decode()
    assert "\\x1b]0;pwned" in text
    for sequence in ("\x1b]", "\x07", "\x9b", "\x08", "\x7f", "\u202e", "\u2028"):
        assert sequence not in text
    if command == "predict-skip":
        # The progress bar.
        assert "questions" in text
