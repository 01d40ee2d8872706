"""The blocks of a page, run as its readers would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# The parts of a command line that set things up. They are not run here but by .ci/run, which takes
# the two command lines of the first screen from the README itself.
SET_UP = [
    re.compile(pattern)
    for pattern in (
        r"python3 -m venv \.venv",
        r"\.venv/bin/pip install torch==2\.13\.0 -e ('\.\[(test|dev|eval)\]'|\.)",
        r"\.venv/bin/(pytest( -m \"not slow\")?|ruff check \.|ruff format --check \.|mypy)",
    )
]


class Block(NamedTuple):
    """A fenced block, and the output block that follows it, if one does."""

    language: str
    code: str
    output: str | None
    line: int


def blocks(text: str) -> list[Block]:
    fences = list(re.finditer(r"^```(\w+)\n(.*?)^```\n", text, re.DOTALL | re.MULTILINE))
    found = []
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        output = None
        if (
            following
            and following[1] == "text"
            and not text[fence.end() : following.start()].strip()
        ):
            output = following[2]
        found.append(Block(fence[1], fence[2], output, text.count("\n", 0, fence.start()) + 1))
    return found


def run(arguments: list[str], stdin: bytes = b"", folder: Path = ROOT) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONSAFEPATH": "1"},
    )
    assert done.returncode == 0, done.stderr.decode("utf-8")
    return done.stdout.decode("utf-8")


def run_script(code: str, folder: Path) -> str:
    """What ``code`` prints, run as a file so that the root does not get on sys.path."""
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "example.py").write_text(code, encoding="utf-8")
    return run([sys.executable, str(scripts / "example.py")], folder=folder)


def assert_printed(printed: str, expected: str) -> None:
    """Equal texts; numbers with all their digits may differ by what processors differ."""
    many_digits = r"\d+\.\d{6,}"
    assert re.sub(many_digits, "#", printed) == re.sub(many_digits, "#", expected)
    numbers = [[float(x) for x in re.findall(many_digits, text)] for text in (printed, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
