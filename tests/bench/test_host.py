"""bench/host.py: the model that costs nothing, Rust taken out, and a run of all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from host_process import Recorded, free_forward  # noqa: E402

sys.path.remove(str(BENCH))  # other files there have the names of libraries


def test_the_free_model_gives_a_row_the_same_logits_in_every_batch() -> None:
    forward = free_forward()
    alone = forward(torch.tensor([[7, 8, 9]]))
    together = forward(torch.tensor([[5, 6, 7, 8], [7, 8, 9, 0]]))  # 0 is padding
    for name in ("start_logits", "end_logits"):
        assert torch.equal(alone[name][0], together[name][1, :3])
        assert not torch.equal(together[name][0], together[name][1])


class Rust:
    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
        assert not add_special_tokens
        self.calls.append(("whole", texts))
        return [("whole", text) for text in texts]

    def encode_batch_fast(self, texts: list[str]) -> list[Any]:
        self.calls.append(("fast", texts))
        return [("fast", text) for text in texts]

    def decode(self, tokens: list[int]) -> str:
        return str(tokens)


def test_encodings_are_handed_out_again() -> None:
    rust = Rust()
    recorded = Recorded(rust)
    recorded.encode_batch(["a", "b"], add_special_tokens=False)
    recorded.encode_batch_fast(["a"])
    assert recorded.encoding.seconds > 0
    assert recorded.freeing.seconds > 0
    rust.calls.clear()
    recorded.replays = True
    assert recorded.encode_batch(["b"], add_special_tokens=False) == [("whole", "b")]
    assert recorded.encode_batch_fast(["a"]) == [("fast", "a")]
    assert rust.calls == []
    assert recorded.decode([1]) == "[1]"


@pytest.mark.slow
def test_everything_runs() -> None:
    command = [sys.executable, BENCH / "host.py", "--questions", "20", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--text", "unique", "--option", "run_qa"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ("questions/s", "unique", "run_qa", "worker", "prepare", "4096"):
        assert words in done.stdout
    done = subprocess.run(
        [*command, "--profile", "--text", "shared", "--option", "logit"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rank_answers" in done.stdout


def test_a_version_that_is_not_there_is_not_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "host.py", "--questions", "4", "--against", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"not from {tmp_path}" in done.stderr
