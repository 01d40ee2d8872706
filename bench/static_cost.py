"""What the Triton kernels cost, read from their machine code: no GPU needed.

    python bench/static_cost.py            # every kernel on sm_90, a selection on the other targets
    python bench/static_cost.py --check    # exit code 1 if a kernel spills or a budget is broken
    python bench/static_cost.py --full     # a wider grid, on every target

The launchers run as they would on a GPU, with their launches written down instead of carried out, and
what they launch is compiled ahead of time, specialized as Triton specializes it at a launch.

Instructions are those that a warp issues for one list (the k best spans of a row, or of a tile of a
long one) on the path that is taken in the common case; machine_code.py says how they are counted, and
comments in the kernels what is common. A program makes several lists, one after the other; what it does
once is counted for every list. Of the steps in the search for a list's floor the mean is counted that
bench/list_floors.py finds. The bounds are those of a multiprocessor (132 at 1.98 GHz):

- issue: every instruction of a warp, 4 per cycle;
- ALU: comparisons, selections, minima, maxima, integer additions, logic and shifts, 2 per cycle;
- multiply: integer multiplications and what compilers make of them (IMAD, moves too), 2 per cycle;
- memory pipe: shuffles, loads and stores, 1 per cycle, and reductions over a warp, 1 in 2 cycles;
- special functions (exp2, log2, conversions, bit counts), 1 in 2 cycles.

The rates are those of the CUDA C++ Programming Guide for compute capability 9.0. Beside the bounds
stands the memory floor: the logits read once, at the bandwidth that a copy was measured to reach. Not
modelled are latencies, caches, launches and the rate at which programs start. That a kernel reaches 70
to 80% of its largest bound is a guess, and with few warps on a multiprocessor it is less: how many fit,
by registers and shared memory, stands beside the instructions.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import machine_code
import rich
import torch
import triton
import typer
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from qa_fast.decoding import triton_backend
from qa_fast.decoding.search import SpanSearch

SM_CYCLES = 132 * 1.98e9  # a second, on all multiprocessors together
BANDWIDTH = {"H200": 4.3e12, "H100": 3.0e12}  # bytes a second that a copy reaches
EXPECTED = (0.7, 0.8)  # share of a pipe's rate that a kernel reaches: a guess
CUDA = (80, 86, 89, 90, 100, 120)
AMD = ("gfx90a", "gfx942")

# Warp instructions per multiprocessor and cycle.
PIPES = {
    "ALU": (
        r"BMSK|FMNMX3?|F?SEL|[FI]SETP|IABS|IADD3?|IMNMX|LEA|P?LOP3|MOV|P2R|PRMT|R2P|SHF|V\w+",
        2.0,
    ),
    "multiply": (r"IMAD|IDP", 2.0),
    "memory pipe": (r"LD[GSL]|ST[GSL]|SHFL|ATOM[GS]?|RED", 1.0),
    "reductions": (r"REDUX", 0.5),
    "special": (r"MUFU|F2FP?|F2I|I2FP?|FLO|POPC|BREV", 0.5),
}


class Workload(NamedTuple):
    """A call of the decoder. ``chunks`` per question; None: every chunk is a question of its own.

    ``whole_rows``: no context is given, and one null position for all chunks. ``unaligned``: logits
    begin in the middle of what is loaded at a time.
    """

    top_k: int
    max_answer_len: int | None
    n: int = 384
    dtype: torch.dtype = torch.float16
    chunks: int | None = None
    scoring: str = "probability"
    ragged: bool = False
    mask: bool = False
    null_in_spans: bool = False
    distinct: bool = False
    whole_rows: bool = False
    unaligned: bool = False
    batch: int = 64

    def __str__(self) -> str:
        """The sizes, and what differs from the defaults."""
        dtype = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}[self.dtype]
        sizes = f"N={self.n} k={self.top_k} L={self.max_answer_len} {dtype}"
        return " ".join([sizes, *self._others()])

    def _others(self) -> list[str]:
        flags = ("ragged", "mask", "null_in_spans", "distinct", "whole_rows", "unaligned")
        others = [name.replace("_", " ") for name in flags if getattr(self, name)]
        others += [self.scoring] * (self.scoring != "probability")
        return others + ([f"{self.chunks:,} chunks"] if self.chunks else [])


class Budget(NamedTuple):
    """What a kernel may take: instructions for a list, registers, and warps that must fit."""

    instructions: int
    registers: int = 64
    warps: int = 32


# One chunk per question, rows of 384 tokens, float16. Spills are never allowed.
BUDGETS = {
    Workload(1, 30): Budget(620),
    Workload(12, 30): Budget(1500),
    Workload(20, 30): Budget(2100),
}
# What may cost more than these.
VARIANTS: dict[str, dict[str, Any]] = {
    "whole rows": {"whole_rows": True},
    "context mask": {"mask": True},
    "null in spans": {"null_in_spans": True},
    "ragged": {"ragged": True},
    "N not a multiple of 4": {"n": 381},
    "shared": {"scoring": "shared", "chunks": 2},
    "logit": {"scoring": "logit"},
    "lists for a merge": {"chunks": 2},
    "no span limit": {"max_answer_len": None},
    "spans of 100": {"max_answer_len": 100},
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
}
MANY_CHUNKS = [
    Workload(20, 30, chunks=100_000, batch=100_000, distinct=distinct) for distinct in (False, True)
]
EVERY_BRANCH = [
    *BUDGETS,
    *(work._replace(**variant) for work in BUDGETS for variant in VARIANTS.values()),
    Workload(20, 30, dtype=torch.bfloat16, ragged=True, chunks=2, distinct=True),
    Workload(20, 30, dtype=torch.float32, chunks=2, scoring="shared", mask=True),
    *(Workload(k, 30, dtype=torch.bfloat16, ragged=True, unaligned=True) for k in (1, 20)),
    Workload(20, 30, unaligned=True),
    Workload(100, 30),
    Workload(100, 100),
    Workload(12, 15, n=128),
    Workload(20, 30, n=512),
    Workload(12, 15, n=1024),
    Workload(12, 15, n=2048),
    Workload(12, None, n=1024),
    Workload(20, 1000, n=2048, chunks=2),
    Workload(12, 15, n=32768),
    Workload(128, 1000, n=32768, distinct=True, chunks=2),
    Workload(1, 1, n=1, batch=1),
    Workload(20, 30, batch=1, chunks=1),
    *MANY_CHUNKS,
    Workload(20, 30, chunks=100_000, batch=100_000, scoring="shared", null_in_spans=True),
]
# Where only spills are looked at: the common call, and those with the most in registers.
ELSEWHERE = [
    Workload(20, 30, dtype=torch.bfloat16, ragged=True, chunks=2, distinct=True),
    Workload(20, 30, null_in_spans=True, mask=True),
    Workload(20, None),
    Workload(20, 1000, n=2048, chunks=2),
    Workload(128, 1000, n=32768, distinct=True, chunks=2),
]


def every_workload() -> list[Workload]:
    """The grid of sizes, and every switch at a small, a common and a large size."""
    sizes = [
        Workload(k, limit, n)
        for n, k, limit in itertools.product(
            (128, 384, 512, 1024, 2048, 4096, 32768),
            (1, 12, 20, 100, 128),
            (15, 30, 100, 1000, None),
        )
    ]
    switches: list[dict[str, Any]] = [
        {"dtype": dtype, **switch}
        for dtype in (torch.bfloat16, torch.float32)
        for switch in (
            {"ragged": True, "mask": True},
            {"null_in_spans": True, "scoring": "logit"},
            {"chunks": 2, "distinct": True},
            {"chunks": 40, "scoring": "shared"},
            {"chunks": 100_000, "mask": True, "null_in_spans": True, "ragged": True},
        )
    ]
    sized = [Workload(12, 15, 384), Workload(20, None, 512), Workload(100, 100, 4096)]
    return [*EVERY_BRANCH, *sizes, *(w._replace(**s) for w in sized for s in switches)]


# Steps in the search for the floor under a list of up to so many spans: the mean over questions that
# bench/list_floors.py counts.
STEPS = ((5, 0.05), (12, 0.3), (20, 0.8), (32, 1.8), (128, 0.2))


class Launch(NamedTuple):
    """A kernel as a launcher starts it.

    Attributes:
        module: where it is defined.
        kernel: its name there.
        signature: types of its parameters.
        constants: values that are compiled in, by the index of the parameter.
        attributes: what is known of the others, by index.
        options: warps and the like.
        programs: how many are started.
        integers: the integer arguments, compiled in or not.
    """

    module: str
    kernel: str
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    programs: int
    integers: dict[str, int | None]

    @property
    def code_key(self) -> str:
        """The same for launches of the same machine code."""
        return str(self._replace(programs=0, integers={}))

    @property
    def lists(self) -> int:
        """Lists that the launch makes or, where it makes none, its programs."""
        return self.integers.get("n_lists") or 0 if self.makes_lists else self.programs

    @property
    def makes_lists(self) -> bool:
        """Whether a program makes several lists, one after the other."""
        return "lists_per_program" in self.integers


class _Operations(TorchDispatchMode):
    """Counts the torch operations that are neither views nor allocations: each starts kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels += not func.is_view and "empty" not in str(func)
        return func(*args, **(kwargs or {}))


def launches(work: Workload) -> tuple[list[Launch], int]:
    """What the launchers start for a workload, and how many kernels of torch they start between."""
    chunks = work.batch
    questions = chunks if work.chunks is None else max(1, chunks // work.chunks)
    shape = (chunks * work.n,) if work.ragged else (chunks, work.n)
    # Shapes alone: nothing reads them.
    logits = torch.zeros(2, dtype=work.dtype)[int(work.unaligned)].expand(shape)
    ids = torch.arange(chunks, dtype=torch.int32)
    context = torch.tensor([[1, work.n]] * chunks, dtype=torch.int32)
    search = SpanSearch(
        logits,
        logits,
        context=None if work.whole_rows else context,
        context_mask=torch.ones((), dtype=torch.bool).expand(shape) if work.mask else None,
        row_offset=torch.arange(chunks) * work.n if work.ragged else None,
        question_id=None if work.chunks is None else ids * questions // chunks,
        context_offset=ids if work.distinct else None,
        null_position=0 if work.whole_rows else torch.zeros_like(ids),
        num_questions=questions,
        top_k=work.top_k,
        max_answer_len=work.max_answer_len,
        scoring=work.scoring,
        null_in_spans=work.null_in_spans,
        max_seq_len=work.n,
        max_chunks=work.chunks or 1,
    )
    found: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: Any, **kwargs: Any) -> None:
        kwargs.pop("warmup")
        found.append(launch_of(kernel, grid, args, kwargs)[0])

    with mock.patch.object(JITFunction, "run", record), _Operations() as operations:
        done = triton_backend.decode(search)
    return (found, operations.kernels) if done is not None else ([], 0)


def launch_of(kernel: Any, grid: tuple[int, ...], args: Any, kwargs: Any) -> tuple[Launch, Any]:
    """What ``kernel[grid](*args, **kwargs)`` starts, and the arguments by name."""
    bound, specialization, options = _binder(kernel)(*args, **kwargs)
    backend = make_backend(GPUTarget("cuda", 90, 32))
    _, signature, constants, attributes = kernel._pack_args(
        backend, dict(options), bound, specialization, dict(options)
    )
    integers = {name: int(x) if isinstance(x, int) else None for name, x in bound.items()
                if x is None or isinstance(x, int)}  # fmt: skip
    module = kernel.fn.__module__
    name = kernel.__name__
    launch = Launch(module, name, signature, constants, attributes, options, grid[0], integers)
    return launch, bound


@functools.cache
def _binder(kernel: Any) -> Any:
    """What Triton uses at a launch to tell constants and attributes of the arguments."""
    backend = make_backend(GPUTarget("cuda", 90, 32))
    return create_function_from_signature(kernel.signature, kernel.params, backend)


def rounds_of(work: Workload, launch: Launch) -> dict[str, int]:
    """How often the kernels' marked loops run each time they are come to, on the average.

    A search for the floor under a list that needs no step, as most do; see `STEPS`.
    """
    at = {name: x for name, x in launch.integers.items() if x is not None}
    top_k, n_tiles = at.get("top_k", 0), at.get("n_tiles", 1)
    rounds = {"list": 1, "pop": top_k, "halving": 0}
    if "PER" in at:  # makes lists
        tile, span = 32 * at["PER"], at.get("SPAN")
        if span is None:  # of all tiles and starts, what follows in the row
            further = [-(-(work.n - i * at["STARTS"]) // tile) - 1 for i in range(n_tiles)]
            blocks = [-(-(work.n - i) // at["BLOCK_LEN"]) for i in range(work.n)]
        else:
            further = [(span - 1) // tile - 1]
            blocks = [-(-span // at["BLOCK_LEN"])]
        rounds["further"] = max(0, round(sum(further) / len(further)))
        rounds["block"] = max(1, round(sum(blocks) / len(blocks)))
    elif "FAN_IN" in at:  # merges them
        rounds["search"] = math.ceil(math.log(at["n_lists"] + 1, at["FAN_IN"]))
    elif "BLOCK" in at:
        rounds["block"] = -(-n_tiles // at["BLOCK"])
    return rounds


def compile_launch(launch: Launch, target: int | str) -> dict[str, Any]:
    """Registers, spills and shared memory of a kernel; for sm_90 also its code."""
    warnings.simplefilter("ignore")
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    source = ASTSource(kernel, launch.signature, launch.constants, launch.attributes)
    gpu = GPUTarget("cuda", target, 32) if isinstance(target, int) else GPUTarget("hip", target, 64)
    try:
        compiled = triton.compile(source, target=gpu, options=dict(launch.options))
    except RuntimeError as error:
        return {"error": str(error)}
    if isinstance(target, str):
        # Bytes of memory: scalar registers that are spilled to lanes of vector registers take none.
        names = r"\.(vgpr_count|private_segment_fixed_size):\s*(\d+)"
        found = {name: int(n) for name, n in re.findall(names, compiled.asm["amdgcn"])}
        return {
            "registers": found["vgpr_count"],
            "spills": found["private_segment_fixed_size"],
            "shared": compiled.metadata.shared,
        }
    code = machine_code.disassemble(compiled) if target == 90 else None
    return {**machine_code.resources(compiled.asm["cubin"]), "code": code}


def warps_per_sm(registers: int, shared: int, warps: int = 1) -> int:
    """Warps that fit on a multiprocessor of compute capability 9.0.

    Each of its four quarters has 16,384 registers, which a warp takes in units of 256, and room for 16
    warps. All programs, 32 at most, share 228 KiB; each takes 1 KiB more than it asks for.
    """
    of_a_warp = -(-registers * 32 // 256) * 256
    by_registers = 4 * min(16, 16384 // of_a_warp)
    programs = min(32, by_registers // warps, 228 * 1024 // (shared + 1024))
    return programs * warps


def cycles_of(mix: dict[str, int]) -> dict[str, float]:
    """Cycles of a multiprocessor that a warp's instructions take, by bound."""
    cycles = {"issue": sum(mix.values()) / 4}
    for pipe, (names, rate) in PIPES.items():
        cycles[pipe] = sum(n for name, n in mix.items() if re.fullmatch(names, name)) / rate
    cycles["memory pipe"] += cycles.pop("reductions")
    return cycles


def count_launch(code: str, rounds: dict[str, int]) -> dict[str, Any]:
    """Instructions of a warp for a list: all, per pop, per step, by kind, and cycles by bound."""
    counted = machine_code.count(code, rounds)
    per = {}
    for name in ("pop", "halving"):
        more = (
            machine_code.count(code, {**rounds, name: rounds[name] + 1})
            if rounds["pop"]
            else counted
        )
        per[name] = more.total - counted.total
    steps = next((mean for most, mean in STEPS if rounds["pop"] <= most), 0.0)
    mix = {kind: round(n + steps * (more.mix[kind] - n)) for kind, n in counted.mix.items()}
    return {
        "instructions": sum(mix.values()),
        "per_pop": per["pop"],
        "per_step": per["halving"],
        "mix": mix,
        "cycles": cycles_of(mix),
    }


def rows_of(jobs: list[tuple[Workload, int | str]]) -> list[dict[str, Any]]:
    """What every launch of every workload costs; a kernel is compiled once per target."""
    asked = []
    for work, target in jobs:
        found, operations = launches(work)
        asked += [(work, target, launch, operations) for launch in found]
    kernels = {(x.code_key, target): (x, target) for _, target, x, _ in asked}
    counts = {(x.code_key, str(rounds_of(work, x))): (x.code_key, rounds_of(work, x))
              for work, target, x, _ in asked if target == 90}  # fmt: skip
    with ProcessPoolExecutor() as pool:
        results = pool.map(compile_launch, *zip(*kernels.values(), strict=True))
        compiled = dict(zip(kernels, results, strict=True))
        counts = {key: x for key, x in counts.items() if "error" not in compiled[x[0], 90]}
        codes = [compiled[key, 90]["code"] for key, _ in counts.values()]
        totals = pool.map(count_launch, codes, [rounds for _, rounds in counts.values()])
        counted = dict(zip(counts, totals, strict=True))
    rows = []
    for work, target, x, operations in asked:
        row = {
            "workload": str(work),
            "kernel": x.kernel,
            "target": f"sm_{target}" if isinstance(target, int) else target,
            "chunks": work.batch,
            "k": x.integers.get("top_k"),
            "programs": x.programs,
            "lists": x.lists,
            "warps": x.options["num_warps"],
            "operations": operations,
            **{name: x for name, x in compiled[x.code_key, target].items() if name != "code"},
        }
        if target == 90 and "error" not in row:
            row |= counted[x.code_key, str(rounds_of(work, x))]
            row["warps_per_sm"] = warps_per_sm(row["registers"], row["shared"], row["warps"])
        rows.append(row)
    return rows


def prediction(work: Workload, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Nanoseconds per chunk by each bound, all launches of a call together, and the floors."""
    bounds: dict[str, float] = {}
    for row in rows:
        share = row["lists"] * row["warps"] / row["chunks"]
        for name, cycles in row["cycles"].items():
            bounds[name] = bounds.get(name, 0) + share * cycles / SM_CYCLES * 1e9
    limit = max(bounds, key=lambda name: bounds[name])
    size = 2 * work.n * work.dtype.itemsize
    floors = {gpu: size / bandwidth * 1e9 for gpu, bandwidth in BANDWIDTH.items()}
    return {"bounds_ns": bounds, "limit": limit, "floors_ns": floors}


def broken(rows: list[dict[str, Any]]) -> list[str]:
    """Which budgets are broken, and what spills."""
    found = []
    for row in rows:
        name = f"{row['kernel']}, {row['workload']}, {row['target']}"
        if "error" in row:
            found.append(f"{name}: {row['error']}")
        elif row["spills"]:
            found.append(f"{name}: {row['spills']} bytes spilled")
    for work, budget in BUDGETS.items():
        for row in rows:
            if row["workload"] != str(work) or "instructions" not in row:
                continue
            checks = (
                ("instructions", row["instructions"] > budget.instructions, budget.instructions),
                ("registers", row["registers"] > budget.registers, budget.registers),
                ("warps_per_sm", row["warps_per_sm"] < budget.warps, budget.warps),
            )
            found += [
                f"{row['workload']}: {row[name]:,} {name.replace('_', ' ')}, budget {limit:,}"
                for name, is_broken, limit in checks
                if is_broken
            ]
    return found


def show(rows: list[dict[str, Any]], works: list[Workload]) -> None:
    """Print what kernels take, bounds, budgets, variants, and the launches for many chunks."""
    # Wide enough for a log file, where there is no terminal to ask.
    console = Console(width=None if sys.stdout.isatty() else 170)
    counted: dict[Workload, list[dict[str, Any]]] = {work: [] for work in works}
    for row in rows:
        for work in works:
            if row["workload"] == str(work) and "instructions" in row:
                counted[work].append(row)
    console.print(_resources_table(rows))
    console.print(_bounds_table(counted))
    console.print(_budgets_table(counted))
    console.print(_variants_table(counted))
    for work in MANY_CHUNKS:
        if found := counted.get(work):
            operations = found[0]["operations"]
            console.print(
                f"{work}: {len(found)} launches, {operations} operations of torch between"
            )
            for row in found:
                console.print(
                    f"    {row['kernel']}, k={row['k']}: {row['instructions']:,} instructions, for "
                    f"each of at most {row['lists']:,}"
                )
    for work in BUDGETS:
        for row in counted.get(work, []):
            mix = list(row["mix"].items())[:14]
            console.print(f"{work}: " + ", ".join(f"{n} {name}" for name, n in mix))


def _resources_table(rows: list[dict[str, Any]]) -> Table:
    names = "registers", "spills", "shared", "warps_per_sm", "instructions", "per_pop", "per_step"
    heads = (name.replace("_", " ") for name in names)
    table = Table("kernel", "workload", "k", "target", *heads, title=f"Triton {triton.__version__}")
    lines = {(row["kernel"], row["workload"], row["k"], row["target"]): row for row in rows}
    for (kernel, workload, k, target), row in lines.items():
        cells = [f"{row[name]:,}" if name in row else "" for name in names]
        cells[1] = cells[1] if cells[1] == "0" else f"[bold red]{cells[1]}[/]"
        table.add_row(kernel, workload, str(k), target, *cells)
    return table


def _bounds_table(counted: dict[Workload, list[dict[str, Any]]]) -> Table:
    pipes = ("issue", "ALU", "multiply", "memory pipe", "special")
    gpus = ", ".join(BANDWIDTH)
    table = Table(
        "workload", *pipes, f"floor ({gpus})", f"at best of the floor ({gpus})",
        "to expect (a guess)", title="sm_90: bounds, nanoseconds per chunk",
    )  # fmt: skip
    for work, found in counted.items():
        # Of many chunks most are not decoded again in the second round: how many, the logits say.
        if not found or (work.chunks or 1) > 1000:
            continue
        predicted = prediction(work, found)
        bounds, floors = predicted["bounds_ns"], predicted["floors_ns"].values()
        bound = bounds[predicted["limit"]]
        cells = [f"[bold]{bounds[name]:.2f}[/]" if name == predicted["limit"] else f"{bounds[name]:.2f}"
                 for name in pipes]  # fmt: skip
        table.add_row(
            str(work),
            *cells,
            ", ".join(f"{floor:.2f}" for floor in floors),
            ", ".join(f"{floor / max(bound, floor):.0%}" for floor in floors),
            " to ".join(f"{bound / share:.2f}" for share in reversed(EXPECTED)),
        )
    return table


def _budgets_table(counted: dict[Workload, list[dict[str, Any]]]) -> Table:
    names = ("instructions", "registers", "warps_per_sm")
    heads = [head for name in names for head in (name.replace("_", " "), "budget")]
    table = Table("workload", *heads, "spills", title="sm_90: budgets for a list")
    for work, budget in BUDGETS.items():
        for row in counted.get(work, []):
            pairs = zip((row[name] for name in names), budget, strict=True)
            cells = [f"{x:,}" for pair in pairs for x in pair]
            table.add_row(str(work), *cells, str(row["spills"]))
    return table


def _variants_table(counted: dict[Workload, list[dict[str, Any]]]) -> Table:
    table = Table(
        "variant", *(f"k={work.top_k}" for work in BUDGETS), title="sm_90: instructions for a list"
    )
    for name, variant in {"plain": {}, **VARIANTS}.items():
        cells = []
        for plain in BUDGETS:
            counts = [
                next((row["instructions"] for row in counted.get(work, [])), 0)
                for work in (plain, plain._replace(**variant))
            ]
            cells.append(f"{counts[1]:,} ({counts[1] - counts[0]:+,})")
        table.add_row(name, *cells)
    return table


def main(
    check: Annotated[
        bool, typer.Option(help="Exit with 1 if a kernel spills or breaks a budget.")
    ] = False,
    full: Annotated[bool, typer.Option(help="A wider grid, on every target.")] = False,
    sm90: Annotated[bool, typer.Option(help="Only sm_90.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Compile the Triton kernels for many GPUs and print what they cost."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        sys.exit("TRITON_INTERPRET is set: unset it, the interpreter compiles nothing")
    here = every_workload() if full else EVERY_BRANCH
    elsewhere = here if full else ELSEWHERE
    jobs: list[tuple[Workload, int | str]] = [(work, 90) for work in here]
    others = () if sm90 else (*CUDA, *AMD)
    jobs += [(w, target) for target in others if target != 90 for w in elsewhere]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # nothing left over from another version
        rows = rows_of(jobs)
    show(rows, here)
    if output is not None:
        output.write_text(json.dumps({"triton": triton.__version__, "rows": rows}, indent=1) + "\n")
    faults = broken(rows)
    rich.print(f"{len(rows)} launches, {len(faults)} of them over budget or with spills")
    for fault in faults:
        rich.print(f"[bold red]{fault}[/]")
    if check and faults:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
