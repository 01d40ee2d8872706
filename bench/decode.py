"""Decoding time per chunk on a CPU, next to what people used before.

    python bench/decode.py --peer-python older/bin/python

Every provider gets the same logits. Its best spans and their scores are compared with ours first, and a
provider whose answers differ is not timed. Times are medians over repeated calls on one thread; the
removed pipeline runs in an interpreter that has transformers 5.2.0, the last release with it.

- ours: `qa_fast.decode_spans`, a batch of chunks in one call
- torch backend: the same call through the device-independent backend
- removed pipeline: transformers' ``select_starts_ends``, one call per chunk
- reader: the N x N sum of logits, masked to the upper triangle, and a top-k over it, as Haystack's
  ExtractiveReader decodes
- textbook: softmax, outer product, upper triangle and length limit, top-k, in torch
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import rich
import torch
import typer
from rich.table import Table

import qa_fast
from qa_fast import spans

RESULTS = Path(__file__).parent / "results"


class Workload(NamedTuple):
    """Chunks of ``n`` tokens; the ``top_k`` best spans of at most ``max_answer_len`` tokens of each."""

    n: int
    top_k: int
    max_answer_len: int
    chunks: int

    def logits(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Start and end logits [chunks, n] and context ranges [chunks, 2], with [CLS] at 0."""
        generator = torch.Generator().manual_seed(0)
        start, end = torch.randn(2, self.chunks, self.n, generator=generator) * 3
        low = torch.randint(10, 20, (self.chunks,), generator=generator)
        return start, end, torch.stack([low, torch.full_like(low, self.n - 1)], 1).int()


WORKLOADS = [
    Workload(384, 1, 15, 64),
    Workload(384, 12, 15, 64),
    Workload(384, 20, 30, 64),
    Workload(4096, 12, 15, 64),
]
GROWTH = [Workload(n, 12, 15, max(1, 2**16 // n)) for n in (2**p for p in range(7, 16))]

PEER = """
import json, sys, time
import numpy as np, torch
from transformers.pipelines.question_answering import select_starts_ends
torch.set_num_threads(1)
start, end, context = (np.load(f"{sys.argv[1]}/{name}.npy") for name in ("start", "end", "context"))
top_k, max_answer_len, calls = map(int, sys.argv[2:])
attention = np.ones((1, start.shape[1]), dtype=np.int64)
answers, times = [], []
for i in range(calls):
    c = i % len(start)
    outside = np.ones((1, start.shape[1]), dtype=bool)
    outside[0, context[c, 0] : context[c, 1]] = False
    outside[0, 0] = False
    begin = time.perf_counter()
    s, e, p, _ = select_starts_ends(
        start[c : c + 1], end[c : c + 1], outside, attention, top_k=top_k, max_answer_len=max_answer_len
    )
    times.append(time.perf_counter() - begin)
    answers.append((s.tolist(), e.tolist(), p.tolist()))
print(json.dumps({"answers": answers, "times": times}))
"""


def removed_pipeline(python: Path, work: Workload, logits: Any) -> tuple[list[Any], list[float]]:
    """Answers of the first chunks, and seconds per chunk."""
    calls = work.chunks if work.n < 1000 else 4
    with tempfile.TemporaryDirectory() as folder:
        for name, x in zip(("start", "end", "context"), logits, strict=True):
            np.save(Path(folder) / f"{name}.npy", x.numpy())
        sizes = [str(x) for x in (work.top_k, work.max_answer_len, calls)]
        done = subprocess.run(
            [python, "-c", PEER, folder, *sizes], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    return found["answers"], found["times"]


def dense(work: Workload, logits: Any, *, softmax: bool) -> spans.Spans:
    """The N x N matrix: the textbook's with softmax, a reader's without."""
    start, end, context = logits
    position = torch.arange(work.n)
    inside = (position >= context[:, :1]) & (position < context[:, 1:])
    if softmax:
        support = inside | (position == 0)
        start, end = (x.masked_fill(~support, -torch.inf).softmax(1) for x in (start, end))
        start, end = (x.masked_fill(~inside, 0.0) for x in (start, end))
        matrix = start[:, :, None] * end[:, None, :]
        matrix = matrix.triu().tril(work.max_answer_len - 1)
    else:
        start, end = (x.masked_fill(~inside, -torch.inf) for x in (start, end))
        matrix = start[:, :, None] + end[:, None, :]
        band = torch.ones(work.n, work.n, dtype=torch.bool).triu().tril(work.max_answer_len - 1)
        matrix = matrix.masked_fill(~band, -torch.inf)
    score, index = matrix.flatten(1).topk(work.top_k)
    zero = torch.zeros(len(start))
    return spans.Spans(score, index // work.n, index % work.n, index, zero, zero)


def seconds(call: Callable[[], Any], budget: float = 1.0) -> list[float]:
    """Times of repeated calls after a warm-up."""
    call()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def measure(work: Workload, python: Path | None) -> list[dict[str, Any]]:
    """Microseconds per chunk of every provider, after its answers were compared with ours."""
    logits = work.logits()
    options: dict[str, Any] = {"top_k": work.top_k, "max_answer_len": work.max_answer_len}
    ours = qa_fast.decode_spans(*logits, **options)
    by_logit = qa_fast.decode_spans(*logits, **options, scoring="logit")

    def generic() -> Any:
        flat = spans._flatten(*logits, None, None)
        null = torch.zeros(work.chunks, dtype=torch.int32)
        return spans.torch_backend.decode(
            *flat,
            None,
            None,
            null,
            work.chunks,
            work.top_k,
            work.max_answer_len,
            "probability",
            False,
        )

    def same(found: Any, expected: spans.Spans, score: torch.Tensor) -> bool:
        rows = len(found[0])
        close = torch.allclose(found[0], score[:rows], rtol=1e-4, atol=1e-6)
        return close and all(torch.equal(found[i].int(), expected[i][:rows]) for i in (1, 2))

    providers: dict[str, tuple[bool, list[float]]] = {
        "ours": (True, seconds(lambda: qa_fast.decode_spans(*logits, **options)))
    }
    equal = same(generic(), ours, ours.score)
    providers["torch backend"] = equal, seconds(generic) if equal else []
    if work.n <= 512:
        for name, softmax in (("textbook", True), ("reader", False)):
            found = dense(work, logits, softmax=softmax)
            expected = ours if softmax else by_logit
            equal = same(found, expected, expected.score.exp() if softmax else expected.score)
            run = lambda softmax=softmax: dense(work, logits, softmax=softmax)  # noqa: E731
            providers[name] = equal, seconds(run) if equal else []
    if python is not None and work.n <= 4096:
        answers, times = removed_pipeline(python, work, logits)
        s, e, p = (torch.tensor([row[i] for row in answers]) for i in range(3))
        equal = same((p, s, e), ours, ours.score.exp())
        providers["removed pipeline"] = equal, [t * work.chunks for t in times] if equal else []

    fastest = statistics.median(providers["ours"][1])
    return [
        {
            **work._asdict(),
            "provider": name,
            "equal": equal,
            "microseconds": statistics.median(times) / work.chunks * 1e6 if times else None,
            "ratio": statistics.median(times) / fastest if times else None,
        }
        for name, (equal, times) in providers.items()
    ]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time per chunk against its length, both logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "qa_fast"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name in dict.fromkeys(row["provider"] for row in rows):
        own = [row for row in rows if row["provider"] == name and row["microseconds"]]
        axes.loglog([r["n"] for r in own], [r["microseconds"] for r in own], marker="o", label=name)
    axes.set(xlabel="tokens in a chunk (N)", ylabel="microseconds per chunk", title="k=12, L=15")
    axes.legend()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main(
    peer_python: Annotated[
        Path | None,
        typer.Option(help="A Python with transformers 5.2.0, for the removed pipeline."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the result files.")] = "decode_cpu",
    svg: Annotated[bool, typer.Option(help="Also draw time against N.")] = False,
) -> None:
    """Measure decoding on a CPU and write bench/results/NAME.json."""
    torch.set_num_threads(1)
    results = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "decode": [row for work in WORKLOADS for row in measure(work, peer_python)],
        "growth": [row for work in GROWTH for row in measure(work, peer_python)],
    }
    for section in ("decode", "growth"):
        table = Table(
            "N", "k", "L", "provider", "equal", "us per chunk", "times ours", title=section
        )
        for row in results[section]:
            timed = row["microseconds"] is not None
            shown = (f"{row['microseconds']:.2f}", f"{row['ratio']:.1f}") if timed else ("-", "-")
            sizes = [str(row[x]) for x in ("n", "top_k", "max_answer_len")]
            table.add_row(*sizes, row["provider"], "yes" if row["equal"] else "NO", *shown)
        rich.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    if svg:
        plot(results["growth"], RESULTS / f"{name}.svg")
    if not all(row["equal"] for section in ("decode", "growth") for row in results[section]):
        sys.exit("a provider's answers differ from ours: see the tables")


if __name__ == "__main__":
    typer.run(main)
