"""The steps of gpu.py, each run in a process of its own.

    python bench/gpu_steps.py STEP --device cuda --output FOLDER ...

A step appends what it finds to FOLDER/gpu.jsonl, a line for each result as soon as it is known. It needs
PyTorch, Triton, Transformers and qa_fast with its kernels on the path; gpu.py sees to that.

On a CPU every step takes the same way with the smallest sizes: the kernels through Triton's interpreter,
the wall clock in place of events, a call in place of a graph's replay. Those times mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle, product
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import check_decode
import decode
import pipeline
import torch
import triton
import triton.language as tl
from backends import assert_identical, assert_same, tolerance
from decode import Workload
from gpu_report import Record
from gpu_variants import VARIANTS, Call, Variant, growing_works, reference, timed_works, tunings
from gpu_workers import described, in_processes
from qa_fast.kernels import merge_topk, span_topk
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import qa_fast
from qa_fast.decoding import spans
from qa_fast.decoding.search import Found, SpanSearch
from qa_fast.engine import Engine, Options
from qa_fast.engine.streams import Pair
from qa_fast.models.checkpoints import BUNDLED_MODEL
from qa_fast.models.devices import is_device_lost

ROOT = Path(__file__).parents[1]
NO_DEVICE = 3  # exit status
TOP_K = (20, 12, 1)


@dataclass
class Run:
    """What a step is asked to do, and where it says what it found.

    Attributes:
        step: its name.
        device: "cuda" or "cpu".
        output: the folder of gpu.jsonl.
        data: questions in SQuAD's format.
        until: when it will be stopped, on the monotonic clock.
        variants: names of the variants to look at, or patterns of them; empty: all.
        seeds: how many inputs of each variant.
        seed: the only one of them.
    """

    step: str
    device: str
    output: Path
    data: Path
    until: float
    variants: list[str]
    seeds: int
    seed: int | None

    def emit(self, **found: Any) -> None:
        """Write a result, in one call of the system: no line is ever half there."""
        card = torch.cuda.get_device_name() if self.gpu else "cpu"
        line = json.dumps({"step": self.step, "device": card, **found}) + "\n"
        with (self.output / "gpu.jsonl").open("ab", buffering=0) as file:
            file.write(line.encode())

    @contextmanager
    def noting(self, **what: Any) -> Iterator[None]:
        """An error of one measurement is written, and the next goes on if there is still a device."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.emit(**what, error=described(error))
            if is_device_lost(error):
                raise

    @property
    def gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.device == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the step is stopped."""
        return self.until - time.monotonic()

    @property
    def job_limit(self) -> float:
        """Seconds to compile a call, for itself and for its reference."""
        return 60 if self.gpu else 120

    def clock(self) -> decode.Clock:
        """For times; on a CPU with the fewest calls."""
        return decode.Clock(self.device) if self.gpu else decode.Clock("cpu", warm_ups=1, least=2)

    def chosen(self, names: Sequence[str] = tuple(VARIANTS), some: int = 8) -> dict[str, Variant]:
        """The variants of ``names`` that are asked for.

        The interpreter gets small ones, and where all are asked for, one in ``some``.
        """
        wanted = list(filter(self.wants, names))
        if not self.variants:
            wanted = list(names) if self.gpu else list(names)[::some]
        return {x: VARIANTS[x] if self.gpu else VARIANTS[x].smaller() for x in wanted}

    def wants(self, name: str) -> bool:
        """Whether ``name`` is asked for, as all are where none is named."""
        return not self.variants or any(fnmatch(name, pattern) for pattern in self.variants)

    def sized(self, work: Workload) -> Workload:
        """The work, or a little of it for the interpreter."""
        if self.gpu:
            return work
        chunks = min(work.chunks, 12 if work.per_question else 3)
        return work._replace(
            n=min(work.n, 96), chunks=chunks, per_question=work.per_question and chunks
        )


def prepare(device: str) -> None:
    """End the process where there is no GPU; on a CPU, let Triton's interpreter decode."""
    if device == "cuda":
        if not torch.cuda.is_available():
            sys.exit(NO_DEVICE)
        torch.cuda.init()
        return
    if not os.environ.get("TRITON_INTERPRET"):
        sys.exit("on a CPU, TRITON_INTERPRET=1 has to be set before Triton is imported")
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # the interpreter is made of NumPy
    spans.decode_on_cpu = _interpreted


def prepare_worker(device: str) -> None:
    """As `prepare`, for one of many processes."""
    torch.set_num_threads(1)
    prepare(device)


def _interpreted(search: SpanSearch) -> Found:
    """As on a GPU, where the longest row and the most chunks of a question are passed along."""
    search = search.as_tensors()
    start, context, question = search.start_logits, search.context, search.question_id
    longest = start.shape[1] if start.ndim == 2 else int(context[:, 1].max())
    most = 1 if question is None or not len(question) else int(torch.bincount(question).max())
    return spans.decode_on_gpu(search._replace(max_seq_len=longest, max_chunks=most))


def on_device(call: Call, device: str, *, shifted: bool = False) -> Call:
    """A variant's call with its tensors there; ``shifted`` by a number from where allocations begin."""

    def moved(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not shifted:
            return x.to(device)
        memory = torch.empty(x.numel() + 1, dtype=x.dtype, device=device)
        return memory[1:].view(x.shape).copy_(x)

    arguments, options = call
    return tuple(map(moved, arguments)), {name: moved(x) for name, x in options.items()}


def decoded(call: Call) -> spans.Spans:
    """What the call gives, on its device."""
    arguments, options = call
    return qa_fast.decode_spans(*arguments, **options)


def on_host(found: spans.Spans) -> spans.Spans:
    """Waits for the device."""
    return spans.Spans(*(x.to("cpu", copy=True) for x in found))


def poison(device: str) -> None:
    """Fill memory that the next allocations get with NaN, so that what no kernel writes shows."""
    sizes = [1 << 8, 1 << 12, 1 << 16] * 3 + [1 << 20, 1 << 22]
    held = [torch.full((size,), torch.nan, device=device) for size in sizes]
    del held


def loaded_kernels() -> dict[int, dict[str, Any]]:
    """Every kernel that this process has loaded, by its identity; none under the interpreter."""
    found = {}
    for module in (span_topk, merge_topk):
        for name, function in vars(module).items():
            for caches in getattr(function, "device_caches", {}).values():
                for kernel in caches[0].values():
                    found[id(kernel)] = {
                        "kernel": name,
                        "registers": kernel.n_regs,
                        "spills": kernel.n_spills,
                        "shared_bytes": kernel.metadata.shared,
                        "warps": kernel.metadata.num_warps,
                        "hash": kernel.hash[:12],
                    }
    return found


@contextmanager
def tuned(**fields: Any) -> Iterator[None]:
    """Launches with a `Tuning` in which these ``fields`` differ from the default."""
    if not fields:
        yield
        return
    tuning = span_topk.TUNING._replace(**fields)
    with mock.patch.dict(span_topk.span_topk.__kwdefaults__, tuning=tuning):
        yield


def nvidia_smi() -> dict[str, str]:
    """The card's state, only read; empty where there is no nvidia-smi."""
    fields = (
        "name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
        "power.draw", "power.limit", "temperature.gpu", "memory.used", "memory.total",
    )  # fmt: skip
    if shutil.which("nvidia-smi") is None:
        return {}
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return dict(zip(fields, done.stdout.splitlines()[0].split(", "), strict=True))


def replayable(
    call: Callable[[], spans.Spans], device: str
) -> tuple[Callable[[], Any], spans.Spans]:
    """The call as a CUDA graph's replay, and the tensors that it fills; on a CPU, calls that copy."""
    call()  # compiles
    if device == "cuda":
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = call()
        return graph.replay, found
    found = call()

    def again() -> None:
        for x, y in zip(found, call(), strict=True):
            x.copy_(y)

    return again, found


def trained_logits(work: Workload, device: str, data: Path) -> decode.Logits:
    """What the bundled model says of full chunks of real texts: peaked, unlike noise.

    A few hundred chunks, drawn again and again.
    """
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    model = AutoModelForQuestionAnswering.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    model.to(device).eval()
    pairs = pipeline.texts(data, "long", 40)
    inputs = tokenizer(
        *map(list, zip(*pairs, strict=True)),
        truncation="only_second",
        max_length=work.n,
        stride=work.n // 3,
        return_overflowing_tokens=True,
        padding="max_length",
        return_tensors="pt",
    )
    inputs.pop("overflow_to_sample_mapping")
    full = inputs["attention_mask"].all(1).nonzero()[:256, 0]
    inputs = {name: x[full].to(device) for name, x in inputs.items()}
    with torch.inference_mode():
        logits = [
            model(**{name: x[i : i + 32] for name, x in inputs.items()})
            for i in range(0, len(full), 32)
        ]
    drawn = torch.randint(0, len(full), (work.chunks,), device=device)
    dtype = getattr(torch, work.dtype)
    start, end = (
        torch.cat([x[name] for x in logits]).to(dtype)[drawn]
        for name in ("start_logits", "end_logits")
    )
    low = inputs["token_type_ids"].argmax(1)[drawn]
    return start, end, torch.stack([low, torch.full_like(low, work.n - 1)], 1).int()


# --- call 1: the kernels ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["never"])
def empty_kernel(ptr, never, HELD: tl.constexpr):
    """Ends at once. The branch that is never taken holds HELD registers at a time."""
    if never:
        lane = tl.arange(0, 32)
        held = ()
        for r in tl.static_range(HELD):
            held = held + (tl.load(ptr + lane + 32 * r),)  # noqa: RUF005  # Triton has no star
        total = held[0]
        for r in tl.static_range(1, HELD):
            total += held[r]
        for r in tl.static_range(HELD):
            tl.store(ptr + lane + 32 * r, held[r] * total)


EMPTY = {64: 54, 120: 96}  # registers: how many values to hold for them


def machine(run: Run) -> None:
    """Versions, the card, copy bandwidth, and the rate at which programs of one warp are launched."""
    names = ("torch", "triton", "transformers", "numpy")
    run.emit(
        what="versions",
        python=platform.python_version(),
        **{name: version(name) for name in names},
        cuda=torch.version.cuda,
        qa_fast=qa_fast.__version__,
        cores=os.cpu_count(),
    )
    if run.gpu:
        card = torch.cuda.get_device_properties(0)
        run.emit(
            what="card",
            name=card.name,
            capability=f"{card.major}.{card.minor}",
            multiprocessors=card.multi_processor_count,
            l2_bytes=card.L2_cache_size,
            memory_bytes=card.total_memory,
            cards=torch.cuda.device_count(),
        )
    with run.noting(what="state at first"):
        run.emit(what="state at first", **nvidia_smi())
    clock = run.clock()
    with run.noting(what="copy"):
        run.emit(what="copy", bytes_per_second=clock.bandwidth())
    with run.noting(what="state after copying"):
        run.emit(what="state after copying", **nvidia_smi())
    programs = 1 << 20 if run.gpu else 4
    memory = torch.zeros(32 * max(EMPTY.values()), device=run.device)
    for registers, held in EMPTY.items():
        with run.noting(what="empty programs", asked_registers=registers):
            options = {"num_warps": 1, "maxnreg": registers} if run.gpu else {}
            call = partial(empty_kernel[(programs,)], memory, 0, HELD=held, **options)
            kernel = call()
            seconds = statistics.median(clock(call))
            run.emit(
                what="empty programs",
                asked_registers=registers,
                registers=getattr(kernel, "n_regs", None),
                spills=getattr(kernel, "n_spills", None),
                programs=programs,
                microseconds=seconds * 1e6,
                per_nanosecond=programs / seconds / 1e9,
            )
    with run.noting(what="graph of empty kernels"):

        def launch() -> spans.Spans:
            for _ in range(6):
                empty_kernel[(1,)](memory, 0, HELD=8)
            return ()

        replay, _ = replayable(launch, run.device)
        seconds = statistics.median(clock(replay))
        run.emit(what="graph of empty kernels", kernels=6, microseconds=seconds * 1e6)


def both(variant: Variant, call: Call, device: str) -> list[Call]:
    """The call there, and again for a second run."""
    return [on_device(call, device, shifted=variant.shifted and i == 1) for i in range(2)]


def _check(job: tuple[str, Variant, int, str]) -> dict[str, Any]:
    """Two runs of a variant on one input, compared with each other and with the reference.

    The first may have to compile kernels, or to load them.
    """
    _, variant, seed, device = job
    call = variant.call(seed)
    before, runs, seconds = loaded_kernels(), [], []
    with tuned(**variant.tuning):
        for there in both(variant, call, device):
            poison(device)
            begin = time.perf_counter()
            runs.append(on_host(decoded(there)))
            seconds.append(time.perf_counter() - begin)
    new = [x for identity, x in loaded_kernels().items() if identity not in before]
    found = {"seconds": seconds, "kernels": new}
    if not variant.compared:
        return {"result": "compiled", **found}
    try:
        assert_identical(*runs)
    except AssertionError as error:
        return {"result": "not repeatable", "first": str(error), **found}
    try:
        assert_same(runs[0], *reference(call), tolerance(call[0]))
    except AssertionError as error:
        return {"result": "wrong", "first": " ".join(str(error).split())[:600], **found}
    return {"result": "right", **found}


def values(run: Run) -> None:
    """Every variant on fresh inputs against the float64 reference; failures are gone past.

    Kernels are compiled on the way, in many processes, into the cache that later steps use.
    """
    variants = run.chosen()
    seeds = [secrets.randbelow(1 << 62) for _ in range(run.seeds)]
    seeds = seeds if run.seed is None else [run.seed]
    # All variants with the first seed, then with the second: time runs out for the last seeds only.
    jobs = [
        (name, x, seed, run.device)
        for seed in seeds
        for name, x in sorted(variants.items(), key=lambda x: -x[1].n)  # the slow ones first
        if x.compared or (run.gpu and seed == seeds[0])
    ]
    hashes = set()
    for (name, _, seed, _), found in in_processes(
        _check, jobs, partial(prepare_worker, run.device), limit=run.job_limit, until=run.until - 3
    ):
        run.emit(variant=name, seed=seed, **{"result": "failed", **found})
        hashes |= {kernel["hash"] for kernel in found.get("kernels", ())}
    run.emit(what="all", variants=len(variants), kernels=len(hashes), seeds=seeds, calls=len(jobs))


def _random(job: tuple[int, str, str | None]) -> dict[str, Any]:
    """A call drawn by check_decode.py."""
    try:
        return {"kind": check_decode.check(*job)}
    except AssertionError as error:
        return {"error": " ".join(str(error).split())[:600]}


def random_calls(run: Run) -> None:
    """Calls of any sizes and options against the reference, until the time is over."""
    kinds: Counter[str] = Counter()
    until = run.until - 5 if run.gpu else time.monotonic() + 8
    backend = None if run.gpu else "triton"
    jobs = iter(lambda: (secrets.randbelow(1 << 62), run.device, backend), None)
    for (seed, *_), found in in_processes(
        _random, jobs, partial(prepare_worker, run.device), limit=run.job_limit, until=until
    ):
        if "error" in found:
            run.emit(seed=seed, **found)
        kinds[found.get("kind", "wrong")] += 1
    run.emit(what="all", calls=kinds.total(), wrong=kinds.pop("wrong", 0), kinds=dict(kinds))


GRAPHS = (
    "k1", "k20", "k100", "context-none-k20", "context-none-k1", "null-any-k1", "ragged-k20", "mask-k20",
    "limit-None-k20", "n2100-k12", "questions-probability-k20", "questions-shared-k20",
    "many-70-shared-k2", "many-700-probability-k20", "many-3000-logit-k12", "long-32768-k1",
)  # fmt: skip


def graphs(run: Run) -> None:
    """Graphs replayed with changed inputs, and calls on other streams and cards, give what others do."""
    for name, variant in run.chosen(GRAPHS, 8).items():
        with run.noting(what="graph", variant=name):
            seeds = [secrets.randbelow(1 << 62) for _ in range(2)]
            held, other = (on_device(variant.call(seed), run.device) for seed in seeds)
            replay, found = replayable(partial(decoded, held), run.device)
            replay()
            before = on_host(found)
            _overwrite(held, other)
            poison(run.device)
            replay()
            after = on_host(found)
            run.emit(
                what="graph",
                variant=name,
                seeds=seeds,
                equal=_identical(after, on_host(decoded(other))),
                changed=not _identical(before, after),
            )
    if not run.gpu:
        return
    with run.noting(what="past 32 bits"):
        if torch.cuda.mem_get_info()[0] < 20 << 30:
            raise RuntimeError("that takes 20 GiB of memory")
        seed = secrets.randbelow(1 << 62)
        run.emit(what="past 32 bits", seed=seed, equal=_equal_past_32_bits(seed))
    for name in run.chosen(("k1", "k20", "questions-probability-k20", "many-700-probability-k20")):
        with run.noting(what="stream", variant=name):
            run.emit(what="stream", variant=name, equal=_equal_on_a_stream(VARIANTS[name]))
        if torch.cuda.device_count() > 1:
            with run.noting(what="second card", variant=name):
                call = VARIANTS[name].call(secrets.randbelow(1 << 62))
                one, other = (on_host(decoded(on_device(call, f"cuda:{i}"))) for i in range(2))
                run.emit(what="second card", variant=name, equal=_identical(one, other))


def _equal_past_32_bits(seed: int) -> bool:
    """Whether rows that begin past 2^31 elements of flat logits give what they give by themselves."""
    generator = torch.Generator("cuda").manual_seed(seed)
    rows = torch.randn(2, 4, 384, generator=generator, device="cuda").half()
    context = torch.tensor([[5, 380]] * 4, device="cuda")
    begins = torch.tensor([0, (1 << 31) - 200, (1 << 31) + 999, (1 << 32) + 1], device="cuda")
    flat = torch.full((2, (1 << 32) + 400), torch.nan, dtype=torch.float16, device="cuda")
    flat[:, begins[:, None] + torch.arange(384, device="cuda")] = rows
    options = {"row_offset": begins, "max_seq_len": 384}
    found = qa_fast.decode_spans(*flat, context, **options)
    return _identical(on_host(found), on_host(qa_fast.decode_spans(*rows, context)))


def _identical(one: spans.Spans, other: spans.Spans) -> bool:
    try:
        assert_identical(one, other)
    except AssertionError:
        return False
    return True


def _overwrite(held: Call, other: Call) -> None:
    """Put the tensors of one call in the place of another's."""
    for x, y in zip((*held[0], *held[1].values()), (*other[0], *other[1].values()), strict=True):
        if isinstance(x, Tensor):
            x.copy_(y)


def _equal_on_a_stream(variant: Variant) -> bool:
    """Whether kernels run on the stream that their inputs are written on, when these come late."""
    call = on_device(variant.call(secrets.randbelow(1 << 62)), "cuda")
    late = on_device(variant.call(secrets.randbelow(1 << 62)), "cuda")
    expected = on_host(decoded(call))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        _overwrite(late, call)
        found = decoded(late)
    stream.synchronize()
    return _identical(expected, on_host(found))


def sweep(run: Run) -> None:
    """Times of a million chunks for each `Tuning`, on noise and on the logits of a trained model."""
    clock = run.clock()
    bandwidth = clock.bandwidth()

    def inputs(work: Workload, logits: str) -> list[decode.Logits]:
        if logits == "trained":
            return [trained_logits(work, run.device, run.data)]
        return [work.logits(run.device, secrets.randbelow(1 << 62)) for _ in range(2)]

    work = run.sized(Workload(384, 1, 30, 1_000_000, "float16"))
    sets = {logits: inputs(work, logits) for logits in ("noise", "trained")}
    floor = {
        logits: sum(x.nbytes for x in some[0][:2]) / bandwidth for logits, some in sets.items()
    }
    plan = [{}, *tunings(), {}]  # the default twice: two times of the same tell what is noise
    if not run.gpu:
        plan = plan[:3]
    found: dict[Any, Record] = {}
    # In turns: a card's clock changes while it warms up.
    for turn, (i, fields), logits, top_k in product(range(5), enumerate(plan), sets, TOP_K):
        with run.noting(tuning=fields, logits=logits, top_k=top_k), tuned(**fields):
            options = work._replace(top_k=top_k).options(run.device)
            each = cycle(sets[logits])
            before = loaded_kernels()
            call = lambda: qa_fast.decode_spans(*next(each), **options)  # noqa: B023, E731
            new = {"tuning": fields, "logits": logits, "top_k": top_k, "times": [], "kernels": []}
            row = found.setdefault((i, logits, top_k), new)
            row["times"] += clock(call, 0.02 if run.gpu else 0)
            row["kernels"] += [x for key, x in loaded_kernels().items() if key not in before]
            row["megahertz"] = decode.clock_rate(run.device)
        if not run.gpu and turn:
            break
    for row in found.values():
        times = row.pop("times")
        seconds = statistics.median(times)
        run.emit(
            **row,
            microseconds=seconds * 1e6,
            nanoseconds_per_chunk=seconds / work.chunks * 1e9,
            fastest=min(times) * 1e6,
            share_of_floor=floor[row["logits"]] / seconds,
            calls=len(times),
        )
    with run.noting(what="state at last"):
        run.emit(what="state at last", **nvidia_smi())


def question(run: Run) -> None:
    """One question of 100,000 chunks: its time as a call and as a graph, and the kernels it runs."""
    clock = run.clock()
    work = run.sized(Workload(384, 20, 30, 100_000, "float16", per_question=100_000))
    floor = 2 * 2 * work.chunks * work.n / clock.bandwidth()
    sets = {"noise": work.logits(run.device), "trained": trained_logits(work, run.device, run.data)}
    overlap = torch.arange(work.chunks, dtype=torch.int32, device=run.device) * (work.n // 3)
    plan = product(sets, (False, True)) if run.gpu else (("trained", True),)
    for logits, distinct in plan:
        options = work.options(run.device) | ({"context_offset": overlap} if distinct else {})
        call = partial(decoded, (sets[logits], options))
        what = {"logits": logits, "distinct": distinct}
        with run.noting(**what):
            eager = statistics.median(clock(call))
            replay, _ = replayable(call, run.device)
            replayed = statistics.median(clock(replay))
            run.emit(
                **what,
                microseconds=eager * 1e6,
                microseconds_in_a_graph=replayed * 1e6,
                floor_microseconds=floor * 1e6,
                launches=launch_times(call, run.device),
            )


def profile_of(call: Callable[[], Any], device: str, calls: int = 1) -> Any:
    """PyTorch's profile of some calls, after one that is not in it."""
    call()
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[activity.CPU] + [activity.CUDA] * (device == "cuda")
    ) as profile:
        for _ in range(calls):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
    return profile


def launch_times(call: Callable[[], Any], device: str) -> list[tuple[str, float]]:
    """What runs on the device in a call, in its order, with microseconds; on a CPU nothing does."""
    if device != "cuda":
        return []
    events = [
        event
        for event in profile_of(call, device).events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return [
        (event.name[:60], event.time_range.elapsed_us())
        for event in sorted(events, key=lambda event: event.time_range.start)
    ]


def kernel_times(call: Callable[[], Any], device: str, calls: int = 1) -> list[dict[str, Any]]:
    """What runs on the device in a call, the longest first; on a CPU PyTorch's own operators."""
    profile = profile_of(call, device, calls)
    kind = getattr(torch.autograd.DeviceType, device.upper())
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found = [
        {
            "name": event.key[:100],
            "count": event.count / calls,
            "microseconds": getattr(event, field) / calls,
        }
        for event in profile.key_averages()
        if event.device_type == kind
    ]
    return sorted(found, key=lambda x: -x["microseconds"])[:40]


# What ncu is asked for besides its sections, by the name that a result has it under.
COUNTERS = {
    "nanoseconds": "gpu__time_duration.sum",
    "instructions": "smsp__inst_executed.sum",
    "issue_active_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "alu_percent": "sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active",
    "fma_percent": "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active",
    "lsu_percent": "sm__inst_executed_pipe_lsu.avg.pct_of_peak_sustained_active",
    "xu_percent": "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "warps_active_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "cycles_active": "sm__cycles_active.avg",
    "cycles_elapsed": "sm__cycles_elapsed.max",
    "memory_bytes": "dram__bytes.sum",
}
STALLED = re.compile(
    r"smsp__average_warps?_(?:latency_)?issue_stalled_(\w+?)(?:_per_issue_active)?\.ratio"
)
SECTIONS = (
    "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats", "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
)  # fmt: skip


def ncu(run: Run) -> None:
    """Hardware counters of the kernels for k = 20, 12 and 1, where there is an ncu to read them."""
    program = shutil.which("ncu")
    if program is None:
        run.emit(what="note", text="there is no ncu on the path")
        return
    target = [
        sys.executable,
        __file__,
        "profiled",
        "--device",
        run.device,
        "--output",
        str(run.output),
    ]
    asked = [option for name in SECTIONS for option in ("--section", name)]
    counters = ["--metrics", ",".join(COUNTERS.values())]
    chunks = profiled_work(run).chunks
    # First all; where this ncu does not know one of the counters, what its own sections bring.
    for more in (counters, []):
        command = [
            program, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none",
            "--kernel-name", "regex:span", "--launch-count", str(len(TOP_K)), *asked, *more, *target,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        kernels = counters_of(done.stdout)
        for top_k, (kernel, metrics) in zip(TOP_K, kernels, strict=False):
            run.emit(top_k=top_k, kernel=kernel, **figures_of(metrics, chunks), metrics=metrics)
        if kernels:
            return
        last = " ".join((done.stdout + done.stderr).split())[-1500:]
        run.emit(what="note", text=f"ncu ended with exit code {done.returncode}: {last}")


def counters_of(text: str) -> list[tuple[str, dict[str, float]]]:
    """Each kernel's name and numbers, from ncu's raw page: a row of names, one of units, kernels."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found = []
    for row in list(csv.DictReader(lines[first:]))[1:]:
        numbers = {}
        for name, value in row.items():
            with suppress(ValueError, AttributeError):
                if name and "__" in name:
                    numbers[name] = float(value.replace(",", ""))
        found.append((row["Kernel Name"], numbers))
    return found


def figures_of(metrics: dict[str, float], chunks: int) -> dict[str, Any]:
    """The counters that decide something, by plain names."""
    found = {name: metrics[counter] for name, counter in COUNTERS.items() if counter in metrics}
    if "instructions" in found:
        found["instructions_per_chunk"] = found["instructions"] / chunks
    if "cycles_elapsed" in found and "cycles_active" in found:
        found["cycles_active_share"] = found["cycles_active"] / found["cycles_elapsed"]
    if "memory_bytes" in found:
        found["memory_bytes_per_chunk"] = found["memory_bytes"] / chunks
    stalls = {
        match[1]: value for name, value in metrics.items() if (match := STALLED.fullmatch(name))
    }
    found["stalls"] = dict(sorted(stalls.items(), key=lambda x: -x[1])[:8])
    return found


def profiled_work(run: Run) -> Workload:
    """What ncu looks at: fewer chunks, since it runs each kernel a dozen times."""
    return run.sized(Workload(384, 1, 30, 1 << 18, "float16"))


def profiled(run: Run) -> None:
    """The program that ncu runs: one launch for each k."""
    work = profiled_work(run)
    logits = work.logits(run.device)
    for top_k in TOP_K:
        on_host(decoded((logits, work._replace(top_k=top_k).options(run.device))))


# --- call 2: next to others, and the whole way ------------------------------------------------------


def decode_table(run: Run) -> None:
    """Times of decoding: next to what others do at sizes that they can take, then ours at more."""
    clock = run.clock()
    bandwidth = clock.bandwidth()
    run.emit(what="copy", bytes_per_second=bandwidth)
    (alone, next_to_others), growing = timed_works(), growing_works()
    if not run.gpu:
        alone, next_to_others, growing = alone[:7:3], next_to_others[1::6], growing[1:2]
    eager = [x for x in decode.PEERS if "compiled" not in x]
    plan = [
        *(("alone", work, ()) for work in alone),
        *(("next to others", work, eager) for work in next_to_others),
        *(
            ("growth", work, ["textbook" if matrix else "torch backend"])
            for work, matrix in growing
        ),
    ]
    clock.budget = 0.25
    for table, work, peers in plan:
        with run.noting(work=str(work)):
            for row in decode.measure(run.sized(work), clock, bandwidth, peers=peers):
                run.emit(table=table, megahertz=decode.clock_rate(run.device), **row)


PIPELINES = (
    ("large", "bfloat16"), ("near-free", "float32"), ("base", "bfloat16"), ("bundled", "bfloat16"),
    ("bundled", "float32"), ("large", "bfloat16+compile"), ("base", "bfloat16+compile"),
    ("bundled", "bfloat16+compile"),
)  # fmt: skip


def pipelines(run: Run) -> None:
    """From texts to answers, in BERT's shapes, with the share of each stage."""
    questions, rounds = 12_000, 2
    if not run.gpu:
        questions, rounds = 4, 1
        pipeline.SHAPES |= {"base": (2, 32, 2), "large": (3, 48, 3)}
        run.emit(
            what="note", text="small stand-ins for BERT's shapes; torch.compile is switched off"
        )
    pairs = pipeline.texts(run.data, "shared", questions)
    pairs = (pairs * -(-questions // len(pairs)))[:questions]  # as many as an engine is made for
    rate = pipeline.matmul_rate(run.device, torch.bfloat16)
    run.emit(what="matrix product", dtype="bfloat16", flops_per_second=rate)
    run.emit(what="MLPerf, BERT-Large, H200", samples_per_second=pipeline.MLPERF_SAMPLES_PER_SECOND)
    for model, variant in PIPELINES if run.gpu else PIPELINES[1:6:2]:
        if not run.wants(f"{model} {variant}"):
            continue
        if run.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with run.noting(model=model, variant=variant):
            engine = pipeline.make_engine(
                pipeline.make_model(model, run.device), run.device, variant
            )
            found = {f"ours {variant}": pipeline.ours(engine, pairs, rounds, streams=False)}
            (row,) = pipeline.rows_of(model, "shared", pairs, found, run.device)
            run.emit(**row, **shares(engine, pairs[:4096], run.device))
            del engine, found


def shares(engine: Engine, pairs: list[Pair], device: str) -> dict[str, Any]:
    """What share of the device's working time goes into decoding, and of all time into work."""

    def call() -> None:
        list(engine.read(pairs, Options()))

    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    times = kernel_times(call, device)
    ours = ("span_topk", "merge_topk", "chunk_norm")
    decoding = sum(x["microseconds"] for x in times if any(name in x["name"] for name in ours))
    busy = sum(x["microseconds"] for x in times)
    return {
        "decoding_share": decoding / max(1e-9, busy),
        "device_busy": busy / 1e6 / seconds,
        "device_kernels": times[:12],
    }


def whole_engine(run: Run) -> None:
    """`qa_fast.pipeline` on the card next to the CPU's, and a batch that does not fit."""
    pairs = pipeline.texts(run.data, "shared", 100 if run.gpu else 8)
    questions, contexts = map(list, zip(*pairs, strict=True))

    def answers(device: str, **how: Any) -> Any:
        return qa_fast.pipeline(device=device, **how)(question=questions, context=contexts)

    exact = answers("cpu")
    for compiled in (False, True):
        what = "float32, compiled" if compiled else "float32"
        with run.noting(what=what):
            agree = pipeline.agreement(answers(run.device, compile=compiled), exact)
            run.emit(what=what, agree=agree, right=agree >= 0.98)
    with run.noting(what="bfloat16"):
        # What bfloat16 explains is what it does to the same answers on a CPU.
        there, here = (_away(answers(x, dtype="bfloat16"), exact) for x in (run.device, "cpu"))
        right = there["agree"] >= here["agree"] - 0.05 and there["off"] <= 2 * here["off"] + 0.01
        run.emit(what="bfloat16", on_device=there, cpu=here, right=right)
    with run.noting(what="out of memory"):
        _with_too_little_memory(run, pairs, exact)


def _away(found: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the same spans, and how far scores are off in the middle, in their logarithm."""
    same = [
        (x["start"], x["end"]) == (y["start"], y["end"]) for x, y in zip(found, exact, strict=True)
    ]
    off = [abs(math.log(x["score"] / y["score"])) for x, y in zip(found, exact, strict=True)]
    return {"agree": sum(same) / len(same), "off": statistics.median(off)}


def _with_too_little_memory(run: Run, pairs: list[Pair], exact: list[dict[str, Any]]) -> None:
    """A batch larger than what is left of the card's memory is split, and no answer changes."""
    model = pipeline.make_model("bundled")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    read, most = model.forward, 400

    def small(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        if input_ids.numel() > most:
            raise torch.OutOfMemoryError("a stand-in for a card that is full")
        return read(input_ids, attention_mask, token_type_ids)

    if not run.gpu:
        model.forward = small
    engine = Engine(model, tokenizer, device=run.device, dtype="float32", max_batch_tokens=1 << 20)
    times, free = 1, 0
    if run.gpu:
        times, left = 16, 256 << 20
        list(engine.read(pairs[:1], Options()))  # the libraries' own memory
        torch.cuda.empty_cache()
        ballast = torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda")
        free = torch.cuda.mem_get_info()[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [reading.answers[0] for reading in engine.read(pairs * times, Options())]
    agree = pipeline.agreement(found, exact * times)
    split = engine.max_batch_tokens < 1 << 20
    run.emit(
        what="out of memory",
        free_bytes=free,
        max_batch_tokens=engine.max_batch_tokens,
        warnings=[str(x.message)[:200] for x in caught],
        split=split,
        agree=agree,
        right=split and agree >= 0.995,
    )
    if run.gpu:
        del ballast


def suite(run: Run) -> None:
    """The tests of the operator and of decoding, which use a GPU where there is one."""
    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        run.emit(what="note", text="pytest or hypothesis is not installed: the tests were not run")
        return
    tests = ["test_operator.py"] + (["test_decode.py"] if run.gpu else [])
    # `random_calls` has done what hypothesis would: each of its many kernels in turn, in one process.
    parallel = ["-n", str(os.cpu_count())] if run.gpu and find_spec("xdist") else ["-p", "no:xdist"]
    # Not in the root, where kernels/ would shadow a package.
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
            "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-o", "addopts=",
            "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:benchmark", "-q",
            f"--junitxml={report}", *parallel,
            "-k", "not cpu and not torch- and not any_call",
            *(str(ROOT / "tests" / "decoding" / name) for name in tests),
        ]  # fmt: skip
        seconds = max(5, min(run.left - 5, 600))
        environment = {k: v for k, v in os.environ.items() if k != "TORCH_COMPILE_DISABLE"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            run.emit(what="tests", error=f"not done after {seconds:.0f} seconds")
            return
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcome: Counter[str] = Counter()
    for case in cases:
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped") is not None
        outcome["failed" if bad is not None else "skipped" if skipped else "passed"] += 1
        if bad is not None:
            run.emit(what="test", test=case.get("name"), error=str(bad.get("message"))[:600])
    run.emit(what="tests", **outcome, right=done.returncode == 0)


STEPS: dict[str, Callable[[Run], None]] = {
    "machine": machine,
    "values": values,
    "graphs": graphs,
    "sweep": sweep,
    "question": question,
    "ncu": ncu,
    "random": random_calls,
    "decode": decode_table,
    "pipeline": pipelines,
    "engine": whole_engine,
    "suite": suite,
    "profiled": profiled,
}


def main() -> None:
    """Run a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, default=ROOT / "tests" / "recorded" / "squad2_sample.json"
    )
    parser.add_argument("--until", type=float, default=math.inf, help="on the monotonic clock")
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    prepare(asked.device)
    STEPS[asked.step](
        Run(
            step=asked.step,
            device=asked.device,
            output=asked.output,
            data=asked.data,
            until=asked.until,
            variants=asked.variant,
            seeds=asked.seeds,
            seed=asked.seed,
        )
    )


if __name__ == "__main__":
    main()
