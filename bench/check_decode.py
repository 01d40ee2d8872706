"""Checks `decode_spans` on a device against the float64 reference, on fresh random inputs.

    python bench/check_decode.py --device cuda --seconds 60
    python bench/check_decode.py --backend triton --seconds 600     # Triton's interpreter, without a GPU

Every call draws its sizes, dtype, layout, scoring and logits anew: smooth ones, peaked ones, ones full
of ties, ones with NaN and infinities; contexts at both ends of their rows, empty ones, no chunks at all;
more spans wanted than there are. The first wrong answer ends the run with the seed that gives it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch

import qa_fast

if TYPE_CHECKING:
    import typer

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from backends import assert_identical, assert_right, decode, ragged


def draw(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a random call, on the CPU; sizes are mostly small, since the reference is slow."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def pick(*values: Any) -> Any:
        return values[integer(0, len(values) - 1)]

    rare = pick(integer(201, 600), 512, 513, integer(601, 2300))
    n = pick(*[integer(1, 40)] * 8, *[integer(41, 200)] * 3, rare)
    chunks = integer(pick(0, *[1] * 9), pick(3, 12, 100) if n < 50 else 4)
    start, end = torch.randn(2, chunks, n, generator=generator) * pick(0.1, 1.0, 4.0, 30.0)
    kind = pick("smooth", "smooth", "peaked", "grid", "minus-inf", "bad")
    if kind == "peaked":
        distance = (torch.arange(n) - torch.randint(0, n, (chunks, 1), generator=generator)).abs()
        start += pick(5.0, 15.0) * torch.exp(-distance / pick(1.0, 4.0))
        end += 12 * torch.exp(-(distance - 1).abs() / 3.0)
    if kind == "grid":
        start, end = start.round(), end.round()
    if kind == "minus-inf":
        start[torch.rand(chunks, n, generator=generator) < 0.5] = -torch.inf
    if kind == "bad" and chunks:
        for side in pick([start], [end], [start, end]):
            side[integer(0, chunks - 1), pick(0, n - 1, integer(0, n - 1))] = pick(
                torch.inf, torch.nan
            )
    dtype = pick(torch.float16, torch.bfloat16, torch.float32)
    low = torch.randint(0, n + 1, (chunks,), generator=generator)
    high = torch.randint(0, n + 1, (chunks,), generator=generator)
    context = torch.stack([torch.minimum(low, high), torch.maximum(low, high)], 1)
    if pick(True, False):
        ends = [min(n - 1, 8), n], [min(n - 1, 8), n], [0, n], [0, 0], [n, n], [0, 1], [n - 1, n]
        context[:] = torch.tensor(pick(*ends))
    questions = pick(1, 2, max(chunks, 1))
    question = torch.randint(0, questions, (chunks,), generator=generator).sort().values
    options = {
        "top_k": pick(1, 2, 5, 12, 20, 33, 100, n * n + 1 if n < 50 else 600),
        "max_answer_len": pick(1, 5, 15, 30, 33, 64, 300, 700, None),
        "scoring": pick("probability", "shared", "logit"),
        "null_position": torch.randint(-1, n, (chunks,), generator=generator),
        "null_in_spans": pick(True, False, False),
        "num_questions": questions,
    }
    if pick(True, False):
        options["context_offset"] = torch.randint(0, n, (chunks,), generator=generator)
    if pick(True, False, False):
        options["context_mask"] = torch.rand(chunks, n, generator=generator) < 0.7
    if pick(True, False, False):
        options["null_position"] = pick(-1, 0, n - 1)
    return (start.to(dtype), end.to(dtype), context, question), options


def check(seed: int, device: str, backend: str | None = None) -> str:
    """Decode a random call twice and compare; returns what kind of call it was."""
    arguments, options = draw(seed)
    if backend == "triton":  # the kernels go no further than 128, and their interpreter is slow
        most = min(128, 400 // max(len(arguments[0]), 1))
        options["top_k"] = min(options["top_k"], most)
    layout = "rows" if seed % 3 else "ragged"
    given = arguments, options
    if layout == "ragged":
        given = ragged(arguments, options, torch.Generator().manual_seed(seed))

    def run() -> qa_fast.Spans:
        if backend is not None:
            return decode(backend, *given[0], **given[1])
        moved = {name: _to(device, x) for name, x in given[1].items()}
        found = qa_fast.decode_spans(*(_to(device, x) for x in given[0]), **moved)
        return qa_fast.Spans(*(x.cpu() for x in found))

    runs = [run() for _ in range(2)]
    assert_identical(*runs)
    assert_right(runs[0], arguments, options)
    return f"{str(arguments[0].dtype)[6:]} {options['scoring']} {layout}"


def _to(device: str, x: Any) -> Any:
    return x.to(device) if isinstance(x, torch.Tensor) else x


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    backend: Annotated[
        str | None, typer.Option(help="cpu, torch or triton, instead of the device's own.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to go on.")] = 30,
    seed: Annotated[int | None, typer.Option(help="Only the call with this seed.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the counts here, as JSON.")] = None,
) -> None:
    """Compare random calls with the reference until the time is over."""
    if backend == "triton" and not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
    counts: Counter[str] = Counter()
    begin = time.perf_counter()
    seeds = iter(lambda: secrets.randbelow(2**62), None) if seed is None else iter([seed])
    for current in seeds:
        try:
            counts[check(current, device, backend)] += 1
        except AssertionError as error:
            sys.exit(f"wrong answer, again with --seed {current}: {error}")
        if time.perf_counter() - begin > seconds:
            break
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    found = {"device": name, "calls": counts.total(), "wrong": 0, "kinds": dict(counts)}
    print(json.dumps(found))
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    import typer  # here: what gpu.py takes from this file runs where there is none

    typer.run(main)
