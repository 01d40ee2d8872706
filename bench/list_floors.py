"""How the kernel finds its lists of candidate starts, on a trained model's logits: no GPU needed.

    python bench/list_floors.py [dev-v2.0.json] --limit 300

For k > 1 the kernel lists the starts that reach a floor. A first guess at the floor is right if k starts
or more reach it, and no more than the list has room for; else the floor is halved from there, some 50
instructions a step, and where too many starts are equal, the list takes the first of them. This runs the
bundled model over questions and the kernel in Triton's interpreter over its logits, and counts.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
from qa_fast.kernels import candidates

import qa_fast
from qa_fast.decoding import triton_backend
from qa_fast.decoding.search import SpanSearch
from qa_fast.engine import windows

ROOT = Path(__file__).parents[1]


def logits(path: Path, limit: int) -> list[tuple[torch.Tensor, ...]]:
    """Flat start and end logits, contexts and row offsets of the windows that the engine decodes."""
    pairs = [
        (example.question, example.context)
        for example, _ in zip(qa_fast.read_examples(path), range(limit), strict=False)
    ]
    found: list[tuple[torch.Tensor, ...]] = []
    decode = windows.decode_spans

    def spy(start: Any, end: Any, context: Any, *rest: Any, **options: Any) -> Any:
        found.append((start.clone(), end.clone(), context, options["row_offset"]))
        return decode(start, end, context, *rest, **options)

    with mock.patch.object(windows, "decode_spans", spy):
        question, context = zip(*pairs, strict=True)
        qa_fast.pipeline()(question=list(question), context=list(context))
    return found


@contextmanager
def counted() -> Iterator[collections.Counter[str]]:
    """Counts the floors that are tried, and lists that take the first of equals."""
    counts: collections.Counter[str] = collections.Counter()

    def counting(name: str) -> Any:
        function = getattr(candidates, name)

        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return mock.patch.object(candidates, name, call)

    with counting("_count"), counting("_first_equals"):
        yield counts


def steps(window: tuple[torch.Tensor, ...], top_k: int) -> Iterator[tuple[int, bool]]:
    """Of every chunk: steps after the first guess, and whether it had too many equals."""
    start, end, context, row_offset = window
    for chunk in range(len(row_offset)):
        one = slice(chunk, chunk + 1)
        search = SpanSearch(
            start,
            end,
            context[one].int(),
            context_mask=None,
            row_offset=row_offset[one],
            question_id=None,
            context_offset=None,
            null_position=0,
            num_questions=1,
            top_k=top_k,
            max_answer_len=30,
            scoring="probability",
            null_in_spans=False,
            max_seq_len=384,
            max_chunks=1,
        )
        with counted() as counts, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes with NumPy
            triton_backend.decode(search)
        equals = counts["_first_equals"]
        yield counts["_count"] - 1 - equals, equals > 0


def main() -> None:
    """Print and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    sample = ROOT / "tests/recorded/squad2_sample.json"
    parser.add_argument("data", nargs="?", type=Path, default=sample, help="SQuAD's format")
    parser.add_argument("--limit", type=int, default=300, help="questions")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/list_floors.json")
    given = parser.parse_args()
    windows = logits(given.data, given.limit)
    rows = []
    for top_k in (2, 5, 12, 20, 32, 100):
        found = [x for window in windows for x in steps(window, top_k)]
        counts = [x[0] for x in found]
        row = {
            "top_k": top_k,
            "chunks": len(found),
            "found_at_once": counts.count(0) / len(found),
            "mean_steps": sum(counts) / len(found),
            "most_steps": max(counts),
            "too_many_equals": sum(x[1] for x in found) / len(found),
        }
        rows.append(row)
        print(json.dumps(row))
    result = {"data": given.data.name, "triton": triton.__version__, "rows": rows}
    given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
