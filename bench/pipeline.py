"""Questions per second from texts to answers, next to what people used before.

    python bench/pipeline.py dev-v2.0.json --peer-python older/bin/python --limit 1000

Every provider gets the same questions, contexts and weights. Its answers are compared with ours before
times are printed. Each is run several times, the median counts: of the time that passes, and of the time
that the processor works, all cores added up, which other programs on the machine disturb less. On a CPU
all of them run on the same cores, as many as threads.

- ours: `Engine.read`, in float32 and in the variants asked for, in turns; also from a generator, in
  turns with the list. Variants are a type, for PyTorch, or a backend and a type: ``openvino:int8``.
- removed pipeline: transformers' ``pipeline("question-answering")`` in an interpreter that has
  transformers 5.2.0, the last release with it, at batch sizes 1, 8 and 32, in turns with ours; the best
  one counts
- loop: one question at a time with a matrix of all spans, as courses teach it. It neither widens
  answers to words nor adds up those with the same text, so some differ; how many agree is printed

Models: ``near-free`` (one layer, 16 wide: what is left is everything but the model), ``bundled``, and
``base`` and ``large`` (BERT's shapes). All but ``bundled`` have random weights.

On a GPU it is also printed what share of the time the device waited for the host; see `device_wait`.

Texts: ``shared`` (the questions in the order of the file, so that consecutive ones share a context),
``unique`` (each context is used once, so that nothing can be reused) and ``long`` (all contexts of an
article as one).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from device_wait import DeviceWait
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
)

from qa_fast.engine import Engine, Options, Stats
from qa_fast.engine.loading import ModelSpec, export_model
from qa_fast.engine.streams import Pair
from qa_fast.models.bfloat16 import has_bfloat16
from qa_fast.models.checkpoints import BUNDLED_MODEL
from qa_fast.texts.chunker import Chunker

if TYPE_CHECKING:
    import typer

RESULTS = Path(__file__).parent / "results"
BATCH_SIZES = (1, 8, 32)
LIBRARIES = ("torch", "transformers", "openvino", "nncf", "onnxruntime")
STAGES = ("tokenize", "plan", "forward", "decode", "map")
SHAPES = {  # layers, width, heads
    "near-free": (1, 16, 2),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
# MLPerf Inference v4.1, BERT-Large, offline, per H200, with 99% (in 8 bits) and 99.9% of its accuracy;
# tokenization excluded. A sample is one chunk.
MLPERF_SAMPLES_PER_SECOND = 9164, 7994

PEER = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
import torch, transformers
transformers.logging.set_verbosity_error()
folder, device, dtype = sys.argv[1:]
pairs = json.load(open(folder + "/pairs.json"))
questions, contexts = map(list, zip(*pairs))
qa = transformers.pipeline(
    "question-answering", model=folder, tokenizer=folder, device=device, dtype=getattr(torch, dtype)
)
warm = set()
for line in sys.stdin:  # a batch size: a round
    size = int(line)
    if size not in warm:
        qa(question=questions[:32], context=contexts[:32], batch_size=size)
        warm.add(size)
    begin = time.perf_counter(), time.process_time()
    answers = qa(question=questions, context=contexts, batch_size=size)
    times = time.perf_counter() - begin[0], time.process_time() - begin[1]
    peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"answers": answers, "times": times, "peak_mb": peak}), flush=True)
"""


def texts(path: Path, kind: str, limit: int) -> list[Pair]:
    """``limit`` pairs of a question and a context from a file in SQuAD's format."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    pairs = [
        (qa["question"], paragraph["context"])
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    if kind == "long":
        pairs = [
            (article["paragraphs"][0]["qas"][0]["question"], "\n\n".join(contexts))
            for article in articles
            if (contexts := [p["context"] for p in article["paragraphs"] if p["qas"]])
        ]
    # Evenly from the whole file, in runs that keep the questions of a context together.
    runs = [pairs[i : i + 100] for i in range(0, len(pairs), 100)]
    step = max(1, len(pairs) // limit)
    pairs = [pair for run in runs[::step] for pair in run][:limit]
    if kind == "unique":
        pairs = [(question, f"{i}. {context}") for i, (question, context) in enumerate(pairs)]
    return pairs


def pin(threads: int | None) -> None:
    """Have this process, and those that it starts, on as many cores as threads."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    torch.set_num_threads(len(cores))


def make_model(name: str, device: str = "cpu") -> Any:
    """A model in float32."""
    if name == "bundled":
        return AutoModelForQuestionAnswering.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    torch.manual_seed(0)
    layers, width, heads = SHAPES[name]
    config = BertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(BUNDLED_MODEL)),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=(2 if width < 64 else 4) * width,
        # Wide enough apart that noise of 1e-6 does not change which answer is best.
        initializer_range=0.5 if width < 64 else 0.02,
    )
    with torch.device(device):
        return BertForQuestionAnswering(config)


def save_model(name: str, folder: str) -> None:
    """A model and its tokenizer in ``folder``."""
    make_model(name).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED_MODEL).save_pretrained(folder)


def load(folder: str, device: str, variant: str) -> Engine:
    """The engine of a model in ``folder``, by a backend or as `make_engine` has it."""
    backend, _, dtype = variant.rpartition(":")
    if not backend:
        model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
        return make_engine(model, device, variant)
    if backend == "onnx":
        folder = exported(folder, dtype)
    return ModelSpec(model=folder, backend=backend, dtype=dtype, device=device).load()


def exported(folder: str, dtype: str) -> str:
    """A folder beside ``folder`` with its model as a graph for ONNX Runtime."""
    graphs = f"{folder}/onnx-{dtype}"
    if not Path(graphs).exists():
        export_model(ModelSpec(folder), graphs, to="onnx", dtype=dtype)
    return graphs


def make_engine(model: Any, device: str, variant: str) -> Engine:
    """Our engine: float32, bfloat16, float16, int8 (Linear layers), or one of these with +compile."""
    dtype, _, compiled = variant.partition("+")
    model = model.eval()
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    if dtype == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
        dtype = "auto"
    return Engine(model, tokenizer, device=device, dtype=dtype, compile=bool(compiled))


Times = list[tuple[float, float]]
"""Per round the seconds that passed, and the seconds that the processor worked for it."""


def timed(call: Callable[[], Any], rounds: int) -> tuple[Any, Times]:
    """What ``call`` returns, and the times of its rounds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter(), time.process_time()
        result = call()
        times.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return result, times


def median(times: Times) -> tuple[float, float]:
    """The medians of both."""
    passed, worked = zip(*times, strict=True)
    return statistics.median(passed), statistics.median(worked)


class Ours:
    """An engine that reads pairs in rounds; what came of it in `found`.

    Args:
        engine: the engine.
        pairs: what it reads.
        model: PyTorch's model, which the engine runs in one form or another.
    """

    def __init__(self, engine: Engine, pairs: list[Pair], model: Any) -> None:
        self.engine, self.pairs, self.model = engine, pairs, model
        # A compiled model needs all shapes that there are, a GPU its memory.
        few = 32 if engine.device.type == "cpu" else 4096
        whole = getattr(engine.runtime, "compiled", False)
        begin = time.perf_counter()
        list(engine.read(pairs if whole else pairs[:few], Options()))
        self._warm_up = time.perf_counter() - begin
        engine.stats = Stats()
        self._wait = DeviceWait(engine)
        self._times: Times = []
        self._stream_ratios: list[float] = []
        self._answers: list[Any] = []

    def _run(self, data: Iterable[Pair]) -> list[Any]:
        self.engine._crew.chunker = Chunker(self.engine.tokenizer)  # each round tokenizes anew
        with self._wait.run():
            return [reading.answers[0] for reading in self.engine.read(data, Options())]

    def round(self) -> None:
        """Read all pairs once, as a list."""
        self._answers, times = timed(lambda: self._run(self.pairs), 1)
        self._times += times

    def stream(self) -> None:
        """Read them from a generator, and as a list beside it; not counted but in the ratio."""
        kept, self.engine.stats = self.engine.stats, Stats()
        found, stream = timed(lambda: self._run(iter(self.pairs)), 1)
        _, at_rest = timed(lambda: self._run(self.pairs), 1)
        if agreement(found, self._answers) < 1:
            sys.exit("the answers to a stream differ from those to a list")
        self._stream_ratios.append(stream[0][0] / at_rest[0][0])
        self.engine.stats = kept

    def found(self) -> dict[str, Any]:
        """Our answers and times, with the share of every stage."""
        stats, rounds = asdict(self.engine.stats), len(self._times)
        flops = model_flops(self.model, stats["tokens"], stats["chunks"])
        shares, ratios = self._wait.shares, self._stream_ratios
        return {
            "answers": self._answers,
            "seconds": self._times,
            "warm_up_seconds": self._warm_up,
            "stages": {stage: stats[stage] / rounds for stage in STAGES},
            "stream_ratio": statistics.median(ratios) if ratios else None,
            "chunks": stats["chunks"] // rounds,
            "padding": stats["padded_tokens"] / stats["tokens"] - 1,
            "flops_per_second": flops / sum(passed for passed, _ in self._times),
            "peak_mb": peak_mb(self.engine.device),
            **({"device_waited": statistics.median(shares)} if shares else {}),
        }


def ours(engine: Engine, pairs: list[Pair], rounds: int, *, streams: bool = True) -> dict[str, Any]:
    """Our answers and times; with ``streams`` a generator's times too."""
    run = Ours(engine, pairs, engine.model)
    for _ in range(rounds):
        run.round()
    for _ in range(rounds if streams else 0):
        run.stream()
    return run.found()


def in_turns(
    folder: str,
    device: str,
    variants: list[str],
    pairs: list[Pair],
    rounds: int,
    peer_python: Path | None,
) -> dict[str, dict[str, Any]]:
    """What came of each variant and of the removed pipeline.

    Rounds of all are in turns, as a machine is not always as fast.
    """
    runs, loads = {}, {}
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
    for variant in variants:
        begin = time.perf_counter()
        engine = load(folder, device, variant)
        loads[variant] = time.perf_counter() - begin
        runs[variant] = Ours(engine, pairs, model)
    removed = None
    if peer_python is not None:
        dtype = variants[0].partition("+")[0].rpartition(":")[2]
        removed = RemovedPipeline(peer_python, folder, pairs, device, dtype)
    for _ in range(rounds):
        for run in runs.values():
            run.round()
        if removed is not None:
            removed.round()
    for _ in range(rounds):
        runs[variants[0]].stream()
    found = {}
    for variant, run in runs.items():
        found[f"ours {variant}"] = {**run.found(), "load_seconds": loads[variant]}
        if device == "cpu":
            # In a process of its own: this one holds all of them.
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                peak = alone.submit(peak_of, folder, variant, pairs[:256]).result()
            found[f"ours {variant}"]["peak_mb"] = peak
    if removed is not None:
        found["removed pipeline"] = removed.found()
    return found


def peak_of(folder: str, variant: str, pairs: list[Pair]) -> float:
    """Peak memory of this process, in MiB, after it has read ``pairs`` with a variant."""
    engine = load(folder, "cpu", variant)
    list(engine.read(pairs, Options()))
    return peak_mb(engine.device)


def peak_mb(device: torch.device) -> float:
    """Peak memory of the device, or of this process (with everything that it did before)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return own_peak_mb()


def own_peak_mb() -> float:
    """Peak memory of this process, in MiB; getrusage counts the one that it was forked from, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def model_flops(model: Any, tokens: int, chunks: int) -> float:
    """Floating point operations of the matrix products for that many tokens without padding.

    A weight of a linear layer is one multiplication and one addition per token; attention has two
    products of [N, width] by [width, N] per layer, N taken as the mean.
    """
    linear = sum(
        module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)
    )
    config = model.config
    attention = 4 * config.num_hidden_layers * config.hidden_size * tokens / max(1, chunks)
    return tokens * (2.0 * linear + attention)


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large matrix product: the roof for the model."""
    n = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(n, n, device=device).to(dtype)

    def run() -> None:
        for _ in range(5):
            a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    run()
    return 5 * 2 * n**3 / min(timed(run, 5)[1])[0]


class RemovedPipeline:
    """The removed pipeline in a process of its own, which reads the pairs round by round."""

    def __init__(
        self, python: Path, folder: str, pairs: list[Pair], device: str, dtype: str
    ) -> None:
        (Path(folder) / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        self._times: dict[int, Times] = {size: [] for size in BATCH_SIZES}
        self._last: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [python, "-c", PEER, folder, device, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self) -> None:
        """Read all pairs once at each batch size."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for size, times in self._times.items():
            print(size, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
            if not line:
                sys.exit("the removed pipeline failed: see above")
            self._last = json.loads(line)
            times.append(tuple(self._last.pop("times")))

    def found(self) -> dict[str, Any]:
        """Its answers, and its times at its best batch size; the process ends."""
        self._process.communicate()
        by_size = {size: median(times) for size, times in self._times.items()}
        best = min(by_size, key=by_size.__getitem__)
        kept = {"seconds": self._times[best], "batch_size": best, "by_size": by_size}
        return {**self._last, **kept}


def loop(engine: Engine, pairs: list[Pair]) -> dict[str, Any]:
    """One question at a time, every span of a chunk in a matrix."""
    tokenizer, model = AutoTokenizer.from_pretrained(BUNDLED_MODEL), engine.model

    def answer(question: str, context: str) -> dict[str, Any]:
        inputs = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=384,
            stride=128,
            padding="longest",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        inputs.pop("overflow_to_sample_mapping")
        offsets = inputs.pop("offset_mapping")
        with torch.no_grad():
            output = model(**inputs.to(engine.device))
        outside = torch.tensor(
            [[s != 1 for s in inputs.sequence_ids(c)] for c in range(len(offsets))]
        )
        outside[:, 0] = False  # [CLS]
        start, end = (
            x.float().cpu().masked_fill(outside, -10000).softmax(-1)
            for x in (output.start_logits, output.end_logits)
        )
        best = {"score": -1.0}
        for c in range(len(offsets)):
            scores = (start[c][:, None] * end[c][None, :]).triu().tril(14)
            scores[0] = 0
            place = int(scores.argmax())
            i, j = divmod(place, scores.shape[1])
            if float(scores[i, j]) > best["score"]:
                first, last = int(offsets[c, i, 0]), int(offsets[c, j, 1])
                best = {"score": float(scores[i, j]), "start": first, "end": last}
                best["answer"] = context[first:last]
        return best

    answer(*pairs[0])
    answers, times = timed(lambda: [answer(*pair) for pair in pairs], 1)
    return {"answers": answers, "seconds": times}


def agreement(found: list[Any], expected: list[Any]) -> float:
    """Share of answers that are the same, or as good: their scores differ by rounding only."""
    same = [
        (mine["start"], mine["end"]) == (theirs["start"], theirs["end"])
        or abs(mine["score"] - theirs["score"]) <= 1e-4 * abs(theirs["score"])
        for mine, theirs in zip(found, expected, strict=True)
    ]
    return sum(same) / len(same)


def memory_growth(engine: Engine, pairs: list[Pair], questions: int) -> dict[str, float]:
    """Resident memory, in MiB, after a tenth of ``questions`` from a generator, and at the end."""

    def stream() -> Iterator[Pair]:
        for i, (question, context) in enumerate(islice(cycle(pairs), questions)):
            yield question, f"{i}. {context}"

    page = os.sysconf("SC_PAGE_SIZE") / 2**20

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * page

    before = highest = 0.0
    for i, _ in enumerate(engine.read(stream(), Options(), progress=True), 1):
        if i == questions // 10:
            before = resident()
        if i % 1000 == 0:
            highest = max(highest, resident())
    return {"questions": questions, "mb_after_a_tenth": before, "mb_at_most": highest}


def main(
    data: Annotated[Path, typer.Argument(help="Questions in SQuAD's format.")],
    peer_python: Annotated[
        Path | None,
        typer.Option(help="A Python with transformers 5.2.0, for the removed pipeline."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="near-free, bundled, base, large.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="shared, unique, long.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="float32, bfloat16, float16 or int8 (PyTorch's dynamic one), with +compile or without; "
            "openvino:float32, openvino:bfloat16, openvino:int8, onnx:float32, onnx:int8."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Questions.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Runs of each provider; the median counts.")] = 3,
    device: str = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Threads and cores of every provider.", min=1)
    ] = None,
    with_loop: Annotated[bool, typer.Option("--loop", help="Time the loop too.")] = False,
    memory: Annotated[int, typer.Option(help="Also stream so many questions, 0: none.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "pipeline_cpu",
) -> None:
    """Measure whole pipelines and write bench/results/NAME.json."""
    rows: list[dict[str, Any]] = []
    variants = variant or ["float32"]
    growth = None
    if device == "cpu":
        pin(threads)
    for model_name in model or ["near-free", "bundled"]:
        with tempfile.TemporaryDirectory() as folder:
            save_model(model_name, folder)
            os.environ["QA_FAST_CACHE"] = f"{folder}/cache"
            for kind in text or ["shared", "unique"]:
                pairs = texts(data, kind, limit)
                found = in_turns(folder, device, variants, pairs, rounds, peer_python)
                if with_loop:
                    found["loop"] = loop(load(folder, device, variants[0]), pairs)
                shown = rows_of(model_name, kind, pairs, found, device)
                report(shown, device)
                rows += shown
            if memory and growth is None:
                engine = load(folder, device, variants[0])
                growth = memory_growth(engine, texts(data, "shared", 5000), memory)
                print(growth)
    results = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "cores": sorted(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES if find_spec(name)},
        "date": time.strftime("%Y-%m-%d"),
        "memory": growth,
        "runs": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    wrong = [row for row in rows if row["provider"] == "removed pipeline" and row["agree"] < 1]
    if wrong:
        sys.exit("the removed pipeline's answers differ from ours: see the tables")


def rows_of(
    model: str, kind: str, pairs: list[Pair], found: dict[str, dict[str, Any]], device: str
) -> list[dict[str, Any]]:
    """What is written of each provider; the first is what the others are compared with."""
    first = next(iter(found))
    expected = found[first]["answers"]
    ours_seconds, ours_cpu = median(found[first]["seconds"])
    rows = []
    for provider, run in found.items():
        seconds, cpu = median(run["seconds"])
        row = {
            "model": model,
            "text": kind,
            "questions": len(pairs),
            "provider": provider,
            "agree": agreement(run["answers"], expected),
            "questions_per_second": len(pairs) / seconds,
            "ms_per_question": seconds / len(pairs) * 1e3,
            "ratio": seconds / ours_seconds,
            "cpu_ms_per_question": cpu / len(pairs) * 1e3,
            "cpu_ratio": cpu / ours_cpu,
            **{k: v for k, v in run.items() if k not in ("answers", "seconds")},
        }
        if "flops_per_second" in row:
            name = provider.split()[1].partition("+")[0].rpartition(":")[2]
            dtype = torch.float32 if name == "int8" else getattr(torch, name)
            row["utilization"] = row["flops_per_second"] / matmul_rate(device, dtype)
            row["chunks_per_second"] = run["chunks"] / seconds
        rows.append(row)
    return rows


def report(rows: list[dict[str, Any]], device: str) -> None:
    """Print the rows of one model and one kind of texts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110)
    model, kind, questions = (rows[0][name] for name in ("model", "text", "questions"))
    title = f"{model} model, {kind} contexts, {questions} questions"
    table = Table(
        "provider",
        "agree",
        "questions/s",
        "ms each",
        "times ours",
        "CPU ms",
        "times ours",
        "batch",
        "peak MB",
        title=title,
    )
    for row in rows:
        table.add_row(
            row["provider"],
            f"{row['agree']:.1%}",
            f"{row['questions_per_second']:.0f}",
            f"{row['ms_per_question']:.3f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_ms_per_question']:.3f}",
            f"{row['cpu_ratio']:.2f}",
            str(row.get("batch_size", "")),
            f"{row['peak_mb']:.0f}" if "peak_mb" in row else "",
        )
    console.print(table)
    for row in rows:
        if "stages" in row:
            stages = ", ".join(
                f"{stage} {seconds / questions * 1e6:.0f}"
                for stage, seconds in row["stages"].items()
            )
            console.print(
                f"  {row['provider']}: microseconds per question by stage: {stages}; padding "
                f"{row['padding']:.1%}; model FLOP utilization {row['utilization']:.1%}"
            )
            if row["stream_ratio"] is not None:
                console.print(
                    f"  a generator takes {row['stream_ratio']:.2f} times as long as a list"
                )
            if "device_waited" in row:
                console.print(
                    f"  the device waited for the host {row['device_waited']:.1%} of the time"
                )
            if model == "large" and device.startswith("cuda"):
                console.print(
                    f"  {row['chunks_per_second']:.0f} chunks/s; MLPerf's BERT-Large on an H200: "
                    f"{' and '.join(map(str, MLPERF_SAMPLES_PER_SECOND))}"
                )


if __name__ == "__main__":
    import typer  # here: what gpu.py takes from this file runs where there is none

    typer.run(main)
