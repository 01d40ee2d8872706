"""What gpu.py's results come to: which are bad, what is kept of them, and the table at the end.

    python bench/gpu_report.py found2/summary.json              # the table again
    python bench/gpu_report.py found2/summary.json growth.svg   # time over the length of a row

The plot needs matplotlib.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Record = dict[str, Any]
FINE = ("right", "compiled")  # what comes of a variant
MOST_FAILURES = 25  # in the table; all are in the summary


def read_records(path: Path) -> list[Record]:
    """The lines of a gpu.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_bad(record: Record) -> bool:
    """Whether a result says that something is wrong."""
    equal = record.get("equal", True)
    return (
        "error" in record
        or record.get("result", "right") not in FINE
        or record.get("right") is False
        or record.get("changed") is False
        or record.get("wrong", 0) > 0
        or (equal < 1 and record.get("provider") != "n-best loop")  # it may miss the best span
    )


def summary(records: list[Record]) -> dict[str, Any]:
    """What is worth a place in bench/results: the last run of gpu.py in ``records``."""
    last = max(i for i, x in enumerate(records) if x["step"] == "run")
    run, records = records[last], records[last + 1 :]
    cut_off = {"state": "cut off", "seconds": math.nan}
    steps = {x["step"]: x if "state" in x else cut_off for x in records}
    results = {
        step: _condensed(step, [x for x in records if x["step"] == step and "state" not in x])
        for step in steps
    }
    cards = {x["device"] for x in records if "device" in x}
    return {
        **{name: x for name, x in run.items() if name != "step"},
        "device": ", ".join(sorted(cards)),
        "steps": {
            step: {name: x for name, x in end.items() if name != "step"}
            for step, end in steps.items()
        },
        "results": results,
    }


def _condensed(step: str, records: list[Record]) -> list[Record]:
    left_out = ("step", "device", "metrics")
    records = [{k: v for k, v in x.items() if k not in left_out} for x in records]
    if step == "values":
        calls = [x for x in records if "seconds" in x]
        kernels = {kernel["hash"]: kernel for x in calls for kernel in x.pop("kernels")}
        first = {x["variant"]: x["seconds"][0] for x in reversed(calls)}
        return [
            {"what": "right", "calls": sum(x.get("result") == "right" for x in records)},
            *(x for x in records if x.get("result") not in FINE),
            {"what": "first call", "seconds": first},
            {"what": "kernels", "kernels": list(kernels.values())},
        ]
    return records


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A summary as people read it."""
    for step, end in found["steps"].items():
        results = found["results"][step]
        yield ""
        yield f"{step}: {end['state']}, {end['seconds']:.0f} s, {found['device']}"
        if end["state"] != "done":
            yield from (f"    | {line[:150]}" for line in end.get("last_lines", "").splitlines())
        bad = [x for x in results if is_bad(x)]
        good = [x for x in results if not is_bad(x)]
        yield from (f"  {line}" for line in _LINES.get(step, _as_they_are)(good))
        for x in bad[:MOST_FAILURES]:
            yield f"  WRONG {json.dumps(x)[:300]}"
        if len(bad) > MOST_FAILURES:
            yield f"  and {len(bad) - MOST_FAILURES} more that are wrong"


def _as_they_are(results: list[Record]) -> Iterator[str]:
    for x in results:
        yield json.dumps(x)[:200]


def _shown(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:.4g}"
    if isinstance(x, dict):
        return " ".join(f"{name}={_shown(value)}" for name, value in x.items()) or "default"
    return "-" if x is None else str(x)


def _table(results: list[Record], *columns: str) -> Iterator[str]:
    """The results that have all columns, one a row."""
    rows: list[Sequence[str]] = [
        [_shown(x[name]) for name in columns] for x in results if all(name in x for name in columns)
    ]
    if not rows:
        return
    rows.insert(0, columns)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(x.ljust(width) for x, width in zip(row, widths, strict=True)).rstrip()


def _of_values(results: list[Record]) -> Iterator[str]:
    for x in results:
        if x["what"] == "right":
            yield f"{x['calls']} calls right"
        if x["what"] == "all":
            yield f"of {x['calls']} with the seeds {x['seeds']}; {x['kernels']} kernels"
        if x["what"] == "first call" and x["seconds"]:
            slowest = max(x["seconds"], key=x["seconds"].__getitem__)
            yield f"slowest first call: {slowest}, {x['seconds'][slowest]:.1f} s"
        if x["what"] == "kernels":
            registers = sorted({kernel["registers"] for kernel in x["kernels"]})
            spilling = sum(kernel["spills"] > 0 for kernel in x["kernels"])
            yield f"registers {registers}, kernels that spill: {spilling}"


def _of_graphs(results: list[Record]) -> Iterator[str]:
    yield f"{len(results)} of them equal"


def _of_sweep(results: list[Record]) -> Iterator[str]:
    """Per input the default, as often as it was timed, and the best few."""

    def kind(x: Record) -> tuple[int, str]:
        return x["top_k"], x["logits"]

    timed = sorted((x for x in results if "top_k" in x), key=kind)
    best: list[Record] = []
    for _, some in groupby(timed, kind):
        rows = list(some)
        changed = sorted((x for x in rows if x["tuning"]), key=lambda x: x["microseconds"])
        best += [x for x in rows if not x["tuning"]] + changed[:3]
    yield from _table(best, "top_k", "logits", "nanoseconds_per_chunk", "share_of_floor", "tuning")


def _of_question(results: list[Record]) -> Iterator[str]:
    columns = "logits", "distinct", "microseconds", "microseconds_in_a_graph", "floor_microseconds"
    yield from _table(results, *columns)
    for x in results:
        yield f"{x['logits']}, distinct {x['distinct']}: the kernels, in microseconds"
        yield from (f"  {microseconds:8.1f}  {name}" for name, microseconds in x["launches"])


def _of_ncu(results: list[Record]) -> Iterator[str]:
    yield from _as_they_are([x for x in results if "top_k" not in x])
    percent = [f"{x}_percent" for x in ("issue_active", "alu", "fma", "lsu", "xu", "warps_active")]
    columns = "instructions_per_chunk", "memory_bytes_per_chunk", "cycles_active_share"
    for x in results:
        if "top_k" in x:
            yield f"k={x['top_k']}: {_shown({n: x[n] for n in (*columns, *percent) if n in x})}"
            yield f"    stalls: {_shown(x['stalls'])}"


def _of_decode(results: list[Record]) -> Iterator[str]:
    yield from _table(
        results, "n", "top_k", "max_answer_len", "dtype", "chunks", "per_question", "provider",
        "microseconds", "ratio",
    )  # fmt: skip


def _of_pipeline(results: list[Record]) -> Iterator[str]:
    yield from _as_they_are([x for x in results if "model" not in x])
    yield from _table(
        results, "model", "provider", "questions_per_second", "chunks_per_second", "padding",
        "utilization", "decoding_share", "device_busy",
    )  # fmt: skip
    yield from _table(results, "model", "provider", "device_waited")
    for x in results:
        if "stages" in x:
            stages = {stage: s / x["questions"] * 1e6 for stage, s in x["stages"].items()}
            yield f"{x['model']} {x['provider']}: microseconds per question: {_shown(stages)}"


_LINES = {
    "values": _of_values,
    "graphs": _of_graphs,
    "sweep": _of_sweep,
    "question": _of_question,
    "ncu": _of_ncu,
    "decode": _of_decode,
    "pipeline": _of_pipeline,
}


def growth(found: Record) -> list[Record]:
    """Times of decoding for each provider and length of a row, at the most rows that it was given."""
    rows = [x for x in found["results"]["decode"] if x.get("table") == "growth"]
    most = {x["n"]: max(y["chunks"] for y in rows if y["n"] == x["n"]) for x in rows}
    return [x for x in rows if x["chunks"] == most[x["n"]] or x["provider"] == "textbook"]


def main() -> None:
    """Print a summary, or draw its times over the length of a row."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) < 3:
        print(*lines(found), sep="\n")
        return
    from decode import plot  # here: it needs matplotlib

    plot(growth(found), Path(sys.argv[2]), f"{found['device']}: k=12, L=15, float16")


if __name__ == "__main__":
    main()
