"""Entries of pytest-benchmark for decoding, run by ``pytest bench -n 0``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import qa_fast

sys.path.append(str(Path(__file__).parent))
from decode import ON_CPU, ON_GPU, Workload

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("work", ON_GPU if DEVICE == "cuda" else ON_CPU, ids=str)
def test_decode_spans(benchmark: Any, work: Workload) -> None:
    logits, options = work.logits(DEVICE), work.options(DEVICE)

    def decode() -> qa_fast.Spans:
        found = qa_fast.decode_spans(*logits, **options)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return found

    found = benchmark(decode)
    assert not found.nonfinite.any()
