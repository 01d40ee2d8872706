"""Decoding time per chunk, next to what people use or used.

    python bench/decode.py --peer-python older/bin/python      # on a CPU, one thread
    python bench/decode.py --device cuda                       # on a GPU

Every provider gets the same logits. Its best spans and their scores are compared with ours first, and
a provider whose answers differ is not timed. Times are medians of repeated calls after a warm-up; on a
GPU they are taken with events, so that the launch of a single call counts and Python's part of it only
where the GPU waits for it.

- ours: `qa_fast.decode_spans`: the compiled decoder on a CPU, the Triton kernels on a GPU
- torch backend: the same call by the backend for any device
- removed pipeline: transformers' ``select_starts_ends``, NumPy, one call per chunk, in an interpreter
  that has transformers 5.2.0, the last release with it
- reader: the N x N sum of logits, masked to the upper triangle, and a top-k over it, as Haystack's
  ExtractiveReader decodes
- textbook: softmax, outer product, upper triangle and length limit, top-k, in torch
- textbook, compiled: the same under `torch.compile`
- n-best loop: every pair of the 20 best starts and ends (or k) tried in Python, as run_qa.py's
  post-processing does. It can miss the best span; ``equal`` is the share of chunks where it does not
- memory floor: the bytes of the logits, over the bandwidth at which this machine copies memory
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import qa_fast
from qa_fast.decoding import spans
from qa_fast.decoding.search import SpanSearch

if TYPE_CHECKING:
    import typer

RESULTS = Path(__file__).parent / "results"
Logits = tuple[Tensor, Tensor, Tensor]
Times = list[float]


class Workload(NamedTuple):
    """Chunks of ``n`` tokens; the ``top_k`` best spans of at most ``max_answer_len`` tokens.

    ``per_question`` is the number of chunks that make a question; 0: every chunk gets its own spans.
    """

    n: int
    top_k: int
    max_answer_len: int | None
    chunks: int
    dtype: str = "float32"
    per_question: int = 0

    def __str__(self) -> str:
        """For people."""
        one = f", {self.per_question:,} chunks per question" if self.per_question else ""
        sizes = f"N={self.n} k={self.top_k} L={self.max_answer_len}"
        return f"{sizes} {self.dtype}, {self.chunks:,} chunks{one}"

    def logits(self, device: str, seed: int = 0) -> Logits:
        """Start and end logits [chunks, n] and context ranges [chunks, 2], with [CLS] at 0."""
        generator = torch.Generator(device).manual_seed(seed)
        shape = self.chunks, self.n
        start, end = (
            torch.randn(shape, generator=generator, device=device)
            .mul_(3)
            .to(getattr(torch, self.dtype))
            for _ in range(2)
        )
        low = torch.randint(10, 20, (self.chunks,), generator=generator, device=device)
        return start, end, torch.stack([low, torch.full_like(low, self.n - 1)], 1).int()

    def options(self, device: str) -> dict[str, Any]:
        """The other arguments of `decode_spans`, with which it reads nothing back from a GPU."""
        found: dict[str, Any] = {"top_k": self.top_k, "max_answer_len": self.max_answer_len}
        if self.per_question:
            question = torch.arange(self.chunks, device=device) // self.per_question
            found |= {"question_id": question.int(), "num_questions": int(question[-1]) + 1}
        return found


SIZES = [(1, 15), (12, 15), (20, 30), (100, 30), (20, None)]
ON_CPU = [
    *(Workload(384, k, limit, 64) for k, limit in SIZES),
    *(Workload(384, 20, 30, 64, dtype) for dtype in ("float16", "bfloat16")),
    Workload(384, 20, 30, 64, per_question=2),
    Workload(384, 20, 30, 100_000, "float16", per_question=100_000),
    Workload(4096, 12, 15, 64),
]
ON_GPU = [
    *(Workload(384, k, 30, 1_000_000, "float16") for k in (1, 12, 20)),
    *(
        Workload(384, k, limit, 1_000_000, "float16")
        for k, limit in SIZES
        if (k, limit) != (20, 30)
    ),
    *(Workload(384, 20, 30, 500_000, dtype) for dtype in ("bfloat16", "float32")),
    Workload(384, 20, 30, 500_000, "float16", per_question=2),
    Workload(384, 20, 30, 100_000, "float16", per_question=100_000),
    *(Workload(384, k, 30, 1_000, "float16") for k in (1, 12, 20)),
]
GROWTH = [2**p for p in range(7, 16)]
PEERS = (
    "torch backend", "reader", "textbook", "textbook, compiled", "n-best loop", "removed pipeline",
)  # fmt: skip
GROWTH_PEERS = ("torch backend", "removed pipeline")

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


def removed_pipeline(python: Path, work: Workload, logits: Logits) -> tuple[Any, Times]:
    """Probabilities, starts and ends of the first chunks, and seconds per chunk."""
    calls = work.chunks if work.n < 1000 else 4
    with tempfile.TemporaryDirectory() as folder:
        for name, x in zip(("start", "end", "context"), logits, strict=True):
            np.save(Path(folder) / f"{name}.npy", x.numpy())
        sizes = [str(x) for x in (work.top_k, work.max_answer_len or work.n, calls)]
        done = subprocess.run(
            [python, "-c", PEER, folder, *sizes], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    s, e, p = (torch.tensor([row[i] for row in found["answers"]]) for i in range(3))
    return (p, s, e), found["times"]


def dense(work: Workload, logits: Logits, *, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, starts and ends by the N x N matrix: the textbook's with softmax, a reader's without."""
    start, end, context = logits
    position = torch.arange(work.n, device=start.device)
    inside = (position >= context[:, :1]) & (position < context[:, 1:])
    longest = work.max_answer_len or work.n
    if softmax:
        support = inside | (position == 0)
        start, end = (x.float().masked_fill(~support, -torch.inf).softmax(1) for x in (start, end))
        start, end = (x.masked_fill(~inside, 0.0) for x in (start, end))
        matrix = (start[:, :, None] * end[:, None, :]).triu().tril(longest - 1)
    else:
        start, end = (x.float().masked_fill(~inside, -torch.inf) for x in (start, end))
        matrix = start[:, :, None] + end[:, None, :]
        band = torch.ones(work.n, work.n, dtype=torch.bool, device=start.device)
        matrix = matrix.masked_fill(~band.triu().tril(longest - 1), -torch.inf)
    score, index = matrix.flatten(1).topk(work.top_k)
    return score, index // work.n, index % work.n


def n_best_loop(work: Workload, logits: Logits) -> list[list[tuple[float, int, int]]]:
    """The n-best spans of each chunk, in Python, from the n-best starts and ends."""
    start, end, context = (x.numpy() for x in logits)
    best = max(20, work.top_k)
    longest = work.max_answer_len or work.n
    answers = []
    for s, e, (low, high) in zip(start, end, context.tolist(), strict=True):
        found = [
            (float(s[i] + e[j]), i, j)
            for i in np.argsort(s)[-1 : -best - 1 : -1].tolist()
            for j in np.argsort(e)[-1 : -best - 1 : -1].tolist()
            if low <= i <= j < high and j < i + longest
        ]
        answers.append(sorted(found, reverse=True)[: work.top_k])
    return answers


class Clock:
    """Measures calls on a device: after ``warm_ups``, ``least`` or more for ``budget`` seconds."""

    def __init__(
        self, device: str, *, warm_ups: int = 3, least: int = 5, budget: float = 0.5
    ) -> None:
        self.device, self.warm_ups, self.least, self.budget = device, warm_ups, least, budget

    def __call__(self, call: Callable[[], Any], budget: float | None = None) -> Times:
        """Seconds of repeated calls after a warm-up, for about ``budget`` seconds."""
        budget = self.budget if budget is None else budget
        for _ in range(self.warm_ups):
            call()
        times: Times = []
        begin = time.perf_counter()
        while len(times) < self.least or (
            time.perf_counter() - begin < budget and len(times) < 2000
        ):
            times.append(self._once(call))
        return times

    def _once(self, call: Callable[[], Any]) -> float:
        if self.device != "cuda":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def bandwidth(self) -> float:
        """Bytes read and written per second while memory is copied."""
        source = torch.rand(1 << (28 if self.device == "cuda" else 26), device=self.device)
        target = torch.empty_like(source)
        seconds = statistics.median(self(lambda: target.copy_(source)))
        return 2 * source.nbytes / seconds


def clock_rate(device: str) -> int | None:
    """Megahertz of a card's multiprocessors at this moment, where it tells."""
    try:
        return torch.cuda.clock_rate() if device == "cuda" else None
    except (ImportError, RuntimeError):
        return None


def as_graph(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call without Python: captured once in a CUDA graph, then replayed."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(
    work: Workload,
    clock: Clock,
    bandwidth: float,
    python: Path | None = None,
    peers: Collection[str] = PEERS,
) -> list[dict[str, Any]]:
    """Microseconds per chunk of every provider, after its answers were compared with ours.

    Of ``peers`` those count that can do the work, and that are not too slow for it.
    """
    options = work.options(clock.device)
    # Several batches in turn: caches and branch predictors must not learn one by heart.
    batches = [work.logits(clock.device, seed) for seed in range(16 if work.chunks < 1000 else 1)]
    logits = batches[0]
    providers: dict[str, tuple[float, Times]] = {}

    def timed(run: Callable[[Logits], Any]) -> Times:
        turn = itertools.cycle(batches)
        return clock(lambda: run(next(turn)))

    def add(name: str, run: Callable[[Logits], Any], scores: str) -> None:
        equal = float(_same(run(logits), expected(scores)))
        providers[name] = equal, timed(run) if equal == 1 else []

    def decode(x: Logits) -> spans.Spans:
        return qa_fast.decode_spans(*x, **options)

    @functools.cache
    def expected(scores: str) -> spans.Spans:
        """Our answer with log-probabilities, probabilities or sums of logits, and with a span more."""
        scoring = "logit" if scores == "logit" else "probability"
        more = {**options, "top_k": work.top_k + 1, "scoring": scoring}
        found = qa_fast.decode_spans(*logits, **more)
        return found._replace(score=found.score.exp()) if scores == "probability" else found

    providers["ours"] = 1.0, timed(decode)
    if clock.device == "cuda":
        providers["ours, CUDA graph"] = 1.0, clock(as_graph(lambda: decode(logits)))
    if "torch backend" in peers and work.chunks <= 100_000:
        add("torch backend", lambda x: _by_torch_backend(work, x, options), "log-probability")
    small = work.chunks * work.n**2 <= 1 << (30 if clock.device == "cuda" else 28)
    if small and not work.per_question:
        if "reader" in peers:
            add("reader", lambda x: dense(work, x, softmax=False), "logit")
        if "textbook" in peers:
            add("textbook", lambda x: dense(work, x, softmax=True), "probability")
        if "textbook, compiled" in peers:
            compiled = torch.compile(dense, dynamic=False)
            run = lambda x: compiled(work, x, softmax=True)  # noqa: E731
            add("textbook, compiled", run, "probability")
    on_cpu = clock.device == "cpu" and work.dtype == "float32" and not work.per_question
    if "n-best loop" in peers and on_cpu and work.n <= 512:
        answers = n_best_loop(work, logits)
        first = expected("logit").start[:, 0], expected("logit").end[:, 0]
        best = [(int(i), int(j)) for i, j in zip(*first, strict=True)]
        found = [
            row[0][1:] == span if row else False for row, span in zip(answers, best, strict=True)
        ]
        providers["n-best loop"] = sum(found) / len(found), timed(lambda x: n_best_loop(work, x))
    if "removed pipeline" in peers and python is not None and on_cpu and work.n <= 4096:
        answer, times = removed_pipeline(python, work, logits)
        equal = float(_same(answer, expected("probability")))
        providers["removed pipeline"] = equal, [t * work.chunks for t in times] if equal else []
    size = sum(x.nbytes for x in logits[:2])
    providers["memory floor"] = 1.0, [size / bandwidth]

    fastest = statistics.median(providers["ours"][1])
    return [
        {
            **work._asdict(),
            "provider": name,
            "equal": equal,
            "microseconds": statistics.median(times) / work.chunks * 1e6 if times else None,
            "ratio": statistics.median(times) / fastest if times else None,
            "calls": len(times),
        }
        for name, (equal, times) in providers.items()
    ]


def _same(found: Any, expected: spans.Spans) -> bool:
    """Whether the first spans are the k best of ``expected``, with scores as close as float32 allows.

    Spans with equal scores, which 16-bit logits often give, have no order for others than us: where a
    score is that of a neighbour in rank, the place is not compared. ``expected`` has one span more, the
    neighbour of the last.
    """
    rows, top_k = found[0].shape
    score = expected.score[:rows]
    if not torch.allclose(found[0].float(), score[:, :top_k], rtol=1e-4, atol=1e-6):
        return False
    as_next = torch.isclose(score[:, :-1], score[:, 1:], rtol=3e-6)
    alone = ~(as_next | torch.nn.functional.pad(as_next[:, :-1], (1, 0)))
    return all(
        torch.equal(found[i].int()[alone], expected[i][:rows, :top_k][alone]) for i in (1, 2)
    )


def _by_torch_backend(work: Workload, logits: Logits, options: dict[str, Any]) -> Any:
    start, end, context = logits
    chunks = torch.arange(work.chunks, device=start.device)
    return spans.torch_backend.decode(
        SpanSearch(
            start.view(-1),
            end.view(-1),
            context,
            context_mask=None,
            row_offset=chunks * work.n,
            question_id=options.get("question_id"),
            context_offset=None,
            null_position=torch.zeros_like(chunks, dtype=torch.int32),
            num_questions=options.get("num_questions", work.chunks),
            top_k=work.top_k,
            max_answer_len=work.max_answer_len,
            scoring="probability",
            null_in_spans=False,
            max_seq_len=work.n,
            max_chunks=work.per_question or 1,
        )
    )


def show(rows: list[dict[str, Any]]) -> None:
    """A table per workload."""
    import rich
    from rich.table import Table

    for work in dict.fromkeys(Workload(*(row[x] for x in Workload._fields)) for row in rows):
        table = Table("provider", "equal", "us per chunk", "times ours", title=str(work))
        for row in rows:
            if Workload(*(row[x] for x in Workload._fields)) != work:
                continue
            timed = row["microseconds"] is not None
            shown = (f"{row['microseconds']:.4g}", f"{row['ratio']:.3g}") if timed else ("-", "-")
            table.add_row(row["provider"], f"{row['equal']:.0%}", *shown)
        rich.print(table)


def plot(rows: list[dict[str, Any]], path: Path, title: str = "k=12, L=15") -> None:
    """Time per chunk against its length, both logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "qa_fast"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name in dict.fromkeys(row["provider"] for row in rows):
        own = [row for row in rows if row["provider"] == name and row["microseconds"]]
        axes.loglog([r["n"] for r in own], [r["microseconds"] for r in own], marker="o", label=name)
    axes.set(xlabel="tokens in a chunk (N)", ylabel="microseconds per chunk", title=title)
    axes.legend()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.partition(": ")[2] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    peer_python: Annotated[
        Path | None,
        typer.Option(help="A Python with transformers 5.2.0, for the removed pipeline."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The result file.", show_default="bench/results/decode_DEVICE.json"),
    ] = None,
    svg: Annotated[bool, typer.Option(help="Also draw time against N.")] = False,
    quick: Annotated[bool, typer.Option(help="Only try that everything runs.")] = False,
) -> None:
    """Measure decoding and write the results as JSON."""
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 1 << 10
    output = output or RESULTS / f"decode_{device}.json"
    clock = Clock(device)
    bandwidth = clock.bandwidth()
    works = ON_GPU if device == "cuda" else ON_CPU
    rate = 2**22 if device == "cuda" else 2**16
    growth = [Workload(n, 12, 15, max(1, rate // n)) for n in GROWTH]
    if quick:
        works, growth = [w._replace(chunks=4, per_question=0) for w in works[:2]], growth[:1]
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "qa_fast": qa_fast.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "copy_bandwidth": bandwidth,
    }
    for name, some, peers in (("decode", works, PEERS), ("growth", growth, GROWTH_PEERS)):
        results[name] = []
        for work in some:
            rows = measure(work, clock, bandwidth, peer_python, peers)
            results[name] += rows
            show(rows)
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + os.linesep)
    if svg:
        plot(results["growth"], output.with_suffix(".svg"))
    wrong = [
        row
        for name in ("decode", "growth")
        for row in results[name]
        if row["equal"] < 1 and row["provider"] != "n-best loop"
    ]
    if wrong:
        sys.exit(f"answers differ from ours: {wrong}")


if __name__ == "__main__":
    import typer  # here: what gpu.py takes from this file runs where there is none

    typer.run(main)
