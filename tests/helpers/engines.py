"""What tests of the engine have in common: examples, their answers, and models that fail."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from qa_fast.engine import Engine, Options

from .tiny import xquad

# Enough answers that a difference anywhere in the logits shows.
OPTIONS = Options(top_k=4, max_seq_len=128, doc_stride=32, scoring="logit")


SHORTAGES = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 17.87 GB)"),
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
    ),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "python": MemoryError(),
}


def examples() -> list[tuple[str, str]]:
    """Questions of very different lengths over contexts of one to many chunks."""
    found = [("Who?", "Ada."), ("Who wrote the note?", "It was Ada who wrote it. " * 30)]
    for paragraphs in xquad().values():
        found += [(qa["question"], p["context"]) for p in paragraphs[:2] for qa in p["qas"][:2]]
    return found


def answers_of(engine: Engine, pairs: Any, options: Options) -> list[list[Any]]:
    return [reading.answers for reading in engine.read(pairs, options)]


def same(found: list[list[Any]], expected: list[list[Any]]) -> None:
    """Equal but for the noise of float32 sums, whose order depends on the batch's shape.

    Where two answers' scores differ by no more than that, either may be the better one.
    """
    noise = 1e-3
    for mine, theirs in zip(found, expected, strict=True):
        assert [a["score"] for a in mine] == pytest.approx(
            [a["score"] for a in theirs], rel=1e-4, abs=1e-4
        )
        worst = min(a["score"] for a in theirs)
        clear, score = (
            {(a["start"], a["end"]): a["score"] for a in side} for side in (theirs, mine)
        )
        for place, value in clear.items():
            assert place in score or value <= worst + noise


def worker_threads() -> list[str]:
    """The engine's threads. One that is at a pair ends with it: it has a minute for that."""
    for _ in range(6000):
        names = [t.name for t in threading.enumerate() if t.name.startswith("qa-fast")]
        if set(names) != {"qa-fast-source"}:
            return names
        time.sleep(0.01)
    return names


def start_workers(engine: Engine, count: int) -> list[Any]:
    """The processes that work on texts, once so many are ready; until then nobody waits for them."""
    list(engine.read([("Who?", "Ada.")], Options(), num_workers=count))
    engine._crew.wait()
    workers = engine._crew._workers
    assert [worker.is_ready() for worker in workers] == [True] * count
    return workers


class CallableModel:
    """Like an ONNX Runtime model: no module, takes named arguments, returns what it likes."""

    def __init__(self, model: Any, wrap: Any) -> None:
        self.model, self.wrap = model, wrap

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, **kwargs):
        assert not kwargs
        with torch.inference_mode():
            output = self.model(input_ids, attention_mask, token_type_ids)
        return self.wrap(output.start_logits, output.end_logits)
