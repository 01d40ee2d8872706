"""Settings of torch that a program, or a thread beside, may make: no answer is another under them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = [
    "default dtype float16",
    "default dtype bfloat16",
    "default dtype float64",
    "default device meta",
    "inside of torch.device",
    "autocast",
    "inference mode",
    "no_grad",
    "deterministic algorithms",
    "1 thread",
    "8 threads",
    "a default dtype that changes",
    "while another thread loads models",
]


@pytest.fixture(scope="module")
def differing() -> dict[str, list[str]]:
    """What differs, by setting; from one process for all, which may die."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "helpers" / "surroundings.py")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert list(found) == SETTINGS
    return found


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_answer_differs_by_a_bit(setting: str, differing: dict[str, list[str]]) -> None:
    assert differing[setting] == []
