"""The Python of one call of `decode_spans` on a GPU, measured without one.

    python bench/host_calls.py
    python bench/host_calls.py --quick

A GPU decodes a small batch in less time than Python takes to ask for it, so that is what a caller who
decodes every batch waits for. Timed are calls for 64 chunks of 384 tokens with the GPU taken away where
Triton hands a kernel to the driver: the kernels are not compiled and not launched, tensors lie in the
CPU's memory and say that they do not. Not in the times are therefore the driver's own work, and what
CUDA's allocator takes longer than the CPU's.

Parts, by leaving out one after the other:

- checks: `decode_spans` up to the launcher, and the results made a tuple;
- launcher: results allocated, arguments put together;
- Triton: from the kernel that was compiled for such arguments to the driver.

Times are of the processor, medians over rounds of calls.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import rich
import torch
import triton
import typer
from decode import processor
from qa_fast.kernels import merge_topk, span_topk
from rich.table import Table

import qa_fast
from qa_fast.decoding import triton_backend

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))
from launches import Kernel, gpus  # noqa: E402

RESULTS = Path(__file__).parent / "results"
C, N = 64, 384


def calls() -> dict[str, dict[str, Any]]:
    """Arguments of `decode_spans`, by what is in them."""
    start, end = torch.randn(2, C, N)
    context = torch.tensor([[1, N]] * C)
    question = torch.arange(C) // 4
    plain = {"start_logits": start, "end_logits": end, "context": context.int()}
    return {
        "k=1": {**plain, "top_k": 1},
        "k=12": {**plain, "top_k": 12},
        "k=20": {**plain, "top_k": 20},
        "k=20, whole rows": {**plain, "context": None},
        "k=20, int64 context": {**plain, "context": context},
        "k=20, of 16 questions": {**plain, "question_id": question.int(), "num_questions": 16},
    }


def nothing(*_: Any, **__: Any) -> None:
    """In place of what is not timed."""


@contextmanager
def on_gpu() -> Iterator[None]:
    """Tensors say that they are on the current GPU, at no cost."""
    says = {"is_cuda": True, "is_cpu": False, "get_device": lambda _: 0}
    with ExitStack() as stack:
        for name, value in says.items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, value))
        stack.enter_context(gpus())
        stack.enter_context(mock.patch.object(Kernel, "run", nothing))
        yield


def microseconds(call: Callable[[], Any], rounds: int) -> float:
    """Of one call, the median over rounds of 200."""
    times = []
    for _ in range(rounds):
        begin = time.thread_time()
        for _ in range(200):
            call()
        times.append((time.thread_time() - begin) / 200 * 1e6)
    return statistics.median(times)


def measure(arguments: dict[str, Any], rounds: int) -> dict[str, float]:
    """Microseconds of a call and of its parts."""

    def call() -> Any:
        return qa_fast.decode_spans(**arguments)

    found = tuple(call())

    def found_before(*_: Any) -> Any:
        return found

    total = microseconds(call, rounds)
    with mock.patch.object(triton_backend, "decode", found_before):
        checks = microseconds(call, rounds)
    with (
        mock.patch.object(span_topk, "launch", nothing),
        mock.patch.object(merge_topk, "launch", nothing),
    ):
        untouched = microseconds(call, rounds)
    return {
        "total": total,
        "checks": checks,
        "launcher": untouched - checks,
        "triton": total - untouched,
    }


def main(
    output: Annotated[
        Path | None,
        typer.Option(help="The result file.", show_default="bench/results/host_calls.json"),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Only try that everything runs.")] = False,
) -> None:
    """Measure the calls and write the results as JSON."""
    torch.set_num_threads(1)
    with on_gpu():
        rows = [{"call": name, **measure(arguments, 3 if quick else 51)}
                for name, arguments in calls().items()]  # fmt: skip
    table = Table("call", "total, us", "checks", "launcher", "Triton", title=f"{C} chunks, N={N}")
    for row in rows:
        times = [f"{row[part]:.1f}" for part in ("total", "checks", "launcher", "triton")]
        table.add_row(row["call"], *times)
    rich.print(table)
    if quick:
        return
    results = {
        "device": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "qa_fast": qa_fast.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "chunks": C,
        "tokens": N,
        "microseconds": rows,
    }
    output = output or RESULTS / "host_calls.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + os.linesep)


if __name__ == "__main__":
    typer.run(main)
