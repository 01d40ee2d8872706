"""What the Triton kernels cost, read from their machine code: no GPU needed.

    python bench/static_cost.py            # every kernel on sm_90, a selection on the other targets
    python bench/static_cost.py --check    # the same, and exit code 1 if a kernel spills registers
    python bench/static_cost.py --full     # a wider grid, on every target (half an hour)

The launchers run as they would on a GPU, with their launches written down instead of carried out, and
what they launch is compiled ahead of time, specialized as Triton does at launch: an integer argument of
1 becomes a constant, multiples of 16 and pointers are known to be aligned.

The predicted time per chunk on an H200 (132 SMs at 1.98 GHz) is the largest of these bounds, each at its
theoretical rate, so a measurement can only be slower:

- bytes: the logits read once, at 4.8 TB/s;
- issue: every warp instruction, 4 per SM and cycle;
- ALU: comparisons, selections, minima, maxima, integer additions, logic and shifts, 2 per SM and cycle;
- memory pipe: shuffles, loads and stores, 1 per SM and cycle (warp reductions: 0.5);
- special functions (exp2, log2, conversions), 0.5 per SM and cycle.

Instructions of the pop loop count k times, all others once. Left out is the one forward branch inside
that loop that ranks tied spans: it is taken only when two ends of a start give the same sum.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import rich
import torch
import triton
import typer
from qa_fast.kernels import merge_topk, span_topk
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qa_fast import triton_backend

SM_CYCLES = 132 * 1.98e9  # a second, on all SMs together
BANDWIDTH = 4.8e12
CUDA = (80, 86, 89, 90, 100, 120)
AMD = ("gfx90a", "gfx942")
KERNELS = {"span": span_topk.span_topk_kernel, "merge": merge_topk.merge_kernel}

# Warp instructions per SM and cycle, from the throughput table of the CUDA C++ Programming Guide, 9.0.
PIPES = {
    "ALU": (
        r"FMNMX|FSEL|FSETP?|IADD3|IABS|ISETP|LEA|LOP3|MOV|PLOP3|PRMT|SEL|SHF|VIADD|VIADDMNMX|VIMNMX3?",
        2.0,
    ),
    "memory pipe": (r"LD[GSL]|ST[GSL]|SHFL|ATOMG?|RED", 1.0),
    "reductions": (r"REDUX", 0.5),
    "special": (r"MUFU|F2FP?|F2I|I2F|FLO|POPC", 0.5),
}


class Workload(NamedTuple):
    """A call of the decoder. ``chunks`` per question; None: every chunk is a question of its own."""

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
    batch: int = 64

    def __str__(self) -> str:
        """The sizes, and what differs from the defaults."""
        plain = Workload(0, 0)
        flags = ("ragged", "mask", "null_in_spans", "distinct")
        extra = [name for name in flags if getattr(self, name)]
        extra += [self.scoring] * (self.scoring != plain.scoring)
        extra += [f"{self.chunks:,} chunks"] if self.chunks else []
        dtype = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}[self.dtype]
        sizes = f"N={self.n} k={self.top_k} L={self.max_answer_len} {dtype}"
        return " ".join([sizes, *extra])


EVERY_BRANCH = [
    Workload(1, 30),
    Workload(12, 30),
    Workload(20, 30),
    Workload(1, 15),
    Workload(12, 15),
    Workload(20, 30, dtype=torch.bfloat16, ragged=True, chunks=2, distinct=True),
    Workload(20, 30, dtype=torch.float32, chunks=2, scoring="shared"),
    Workload(20, 30, dtype=torch.float32, scoring="logit"),
    Workload(20, 30, mask=True),
    Workload(20, 30, null_in_spans=True),
    Workload(100, 30),
    Workload(20, None),
    Workload(100, 100),
    Workload(12, 15, n=128),
    Workload(12, 15, n=1024),
    Workload(12, 15, n=2048),
    Workload(12, None, n=1024),
    Workload(20, 1000, n=2048, chunks=2),
    Workload(12, 15, n=32768),
    Workload(128, 1000, n=32768, distinct=True, chunks=2),
    Workload(1, 1, n=1, batch=1),  # all sizes 1, which Triton makes constants
    Workload(20, 30, batch=1, chunks=1),
    Workload(20, 30, chunks=100_000, batch=1000),  # enough of them for two passes
    Workload(20, 30, chunks=100_000, batch=1000, scoring="shared", distinct=True),
]
# Where only spills are looked at: the common call, and those with the most in registers.
ELSEWHERE = [
    Workload(20, 30, dtype=torch.bfloat16, ragged=True, chunks=2, distinct=True),
    Workload(20, 30, null_in_spans=True),
    Workload(20, None),
    Workload(12, None, n=1024),
    Workload(20, 1000, n=2048, chunks=2),
    Workload(128, 1000, n=32768, distinct=True, chunks=2),
]


def every_workload() -> list[Workload]:
    """The grid of sizes, and every switch at a small, a common and a large size."""
    sizes = [
        Workload(k, limit, n)
        for n, k, limit in itertools.product(
            (128, 384, 512, 1024, 2048, 4096, 32768), (1, 20, 128), (15, 30, 100, 1000, None)
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


class Launch(NamedTuple):
    """A kernel as a launcher starts it: types, constants and alignment of its arguments, options."""

    kernel: str
    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int], list[list[Any]]]
    options: dict[str, Any]


def launches(work: Workload) -> list[Launch]:
    """What the launchers start for a workload."""
    found: list[Launch] = []
    with (
        mock.patch.object(span_topk, "span_topk_kernel", _Recorder("span", found)),
        mock.patch.object(merge_topk, "merge_kernel", _Recorder("merge", found)),
    ):
        chunks = work.batch
        questions = chunks if work.chunks is None else max(1, chunks // work.chunks)
        shape = (chunks * work.n,) if work.ragged else (chunks, work.n)
        logits = torch.zeros(shape, dtype=work.dtype)
        ids = torch.arange(chunks, dtype=torch.int32)
        done = triton_backend.decode(
            logits,
            logits,
            torch.tensor([[1, work.n]] * chunks, dtype=torch.int32),
            torch.ones(shape, dtype=torch.bool) if work.mask else None,
            torch.arange(chunks) * work.n if work.ragged else None,
            None if work.chunks is None else ids * questions // chunks,
            ids if work.distinct else None,
            torch.zeros_like(ids),
            questions,
            work.top_k,
            work.max_answer_len,
            work.scoring,
            work.null_in_spans,
            work.n,
            work.chunks or 1,
        )
    return found if done is not None else []


class _Recorder:
    """Stands in for a kernel and keeps what it is launched with."""

    def __init__(self, kernel: str, found: list[Launch]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: Any) -> Any:
        return self.launch

    def launch(self, **arguments: Any) -> None:
        types = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32",
                 torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1"}  # fmt: skip
        signature, constants, attributes = {}, {}, {}
        for i, parameter in enumerate(KERNELS[self.kernel].params):
            value = arguments.pop(parameter.name)
            if parameter.is_constexpr or (type(value) is int and value == 1):
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            tensor = isinstance(value, torch.Tensor)
            wide = not tensor and value >= 2**31
            signature[parameter.name] = types[value.dtype] if tensor else "i64" if wide else "i32"
            if tensor or value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        launch = Launch(self.kernel, signature, constants, attributes, arguments)
        self.found.append(launch)


def compile_launch(job: tuple[Launch, int | str]) -> dict[str, Any]:
    """Registers, spills and shared memory of a kernel; for sm_90 also its code."""
    launch, target = job
    warnings.simplefilter("ignore")
    source = ASTSource(
        KERNELS[launch.kernel], launch.signature, launch.constants, launch.attributes
    )
    gpu = GPUTarget("cuda", target, 32) if isinstance(target, int) else GPUTarget("hip", target, 64)
    compiled = triton.compile(source, target=gpu, options=launch.options)
    if isinstance(target, str):
        counts = re.findall(r"\.([vs]gpr(?:_spill)?_count):\s*(\d+)", compiled.asm["amdgcn"])
        found = {name: int(count) for name, count in counts}
        return {
            "registers": found["vgpr_count"],
            "spills": found["vgpr_spill_count"] + found["sgpr_spill_count"],
            "shared": compiled.metadata.shared,
        }
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name) if target == 90 else None
    found = {n: int(count) for n, count in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return {
        "registers": found["REG"],
        "spills": found["STACK"] + found["LOCAL"],
        "shared": found["SHARED"],
        "code": code,
    }


def _tool(name: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def instructions(code: str, pops: int) -> dict[str, int]:
    """How often a warp issues each kind of instruction, from a disassembly."""
    operations: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(operations)
        elif found := re.match(r"\s*(?:/\*\w+\*/)?\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)(.*);", line):
            operations.append((found[1], found[2]))
    jumps = []
    for i, (operation, rest) in enumerate(operations):
        target = re.search(r"\.L_x_\d+", rest)
        if operation == "BRA" and target and target[0] in labels:
            jumps.append((i, labels[target[0]]))
    weights = [1] * len(operations)
    for i, to in sorted(jumps, reverse=True):  # the loop's own jump is its last
        if to < i and any(name.startswith("LDG") for name, _ in operations[to : i + 1]):
            weights[to : i + 1] = [pops] * (i + 1 - to)  # a loop that reads logits: the pops
        scan = sum(name.startswith("SHFL.UP") for name, _ in operations[i:to])
        if i < to < i + 60 and weights[i] == pops and scan >= 3:
            weights[i + 1 : to] = [0] * (to - i - 1)  # the scan that ranks tied spans
    mix: collections.Counter[str] = collections.Counter()
    for (operation, _), weight in zip(operations, weights, strict=True):
        if operation != "NOP":
            mix[operation.split(".")[0]] += weight
    return dict(mix.most_common())


def predict(work: Workload, launch: Launch, mix: dict[str, int]) -> dict[str, Any]:
    """Nanoseconds per chunk by each bound."""
    warps = launch.options["num_warps"] * launch.constants.get("n_tiles", 0)
    if not warps:  # n_tiles is an argument where it is not 1
        tiles = span_topk.tiling(work.n, work.max_answer_len)
        assert tiles is not None
        warps = launch.options["num_warps"] * tiles.tiles
    cycles = collections.Counter({"issue": sum(mix.values()) / 4})
    for pipe, (names, rate) in PIPES.items():
        cycles[pipe] = sum(n for name, n in mix.items() if re.fullmatch(names, name)) / rate
    cycles["memory pipe"] += cycles.pop("reductions")
    bounds = {name: warps * n / SM_CYCLES * 1e9 for name, n in cycles.items()}
    bounds["bytes"] = 2 * work.n * work.dtype.itemsize / BANDWIDTH * 1e9
    limit = max(bounds, key=lambda name: bounds[name])
    return {
        "warp_instructions": sum(mix.values()) * warps,
        "bounds_ns": bounds,
        "predicted_ns": bounds[limit],
        "limit": limit,
        "mix": mix,
    }


def rows_of(jobs: list[tuple[Workload, int | str]]) -> list[dict[str, Any]]:
    """Compile what the workloads launch, each kernel once per target, on all cores."""
    kernels = {(str(x), target): (work, x, target)
               for work, target in jobs for x in launches(work)}  # fmt: skip
    with ProcessPoolExecutor() as pool:
        costs = pool.map(compile_launch, [(x, target) for _, x, target in kernels.values()])
        rows = []
        for (work, x, target), cost in zip(kernels.values(), costs, strict=True):
            code = cost.pop("code", None)
            name = f"sm_{target}" if isinstance(target, int) else target
            row = {"kernel": x.kernel, "workload": str(work), "target": name, **cost}
            if x.constants["TOP_K"] != work.top_k:
                row["workload"] += f": first pass, k={x.constants['TOP_K']}"
            if x.kernel == "merge":
                flags = [f.lower() for f, on in x.constants.items() if on is True]
                row["workload"] += f": {x.constants['FAN_IN']} lists {' '.join(flags)}"
            elif code:
                row |= predict(work, x, instructions(code, x.constants["TOP_K"]))
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Two tables: what every kernel takes, and the predictions."""
    # Wide enough for a log file, where there is no terminal to ask.
    console = Console(width=None if sys.stdout.isatty() else 140)
    versions = f"triton {triton.__version__}"
    table = Table("kernel", "workload", "target", "registers", "spills", "shared", title=versions)
    for row in rows:
        spills = f"[bold red]{row['spills']}[/]" if row["spills"] else "0"
        resources = str(row["registers"]), spills, str(row["shared"])
        table.add_row(row["kernel"], row["workload"], row["target"], *resources)
    console.print(table)
    table = Table(
        "workload", "warp instructions", "bytes", "issue", "ALU", "memory pipe", "special",
        "predicted", "of the memory floor", title="sm_90, nanoseconds per chunk on an H200",
    )  # fmt: skip
    for row in rows:
        if "predicted_ns" not in row:
            continue
        bounds = row["bounds_ns"]
        shown = [f"{bounds.get(name, 0):.2f}" for name in table_columns(table)]
        share = f"{bounds['bytes'] / row['predicted_ns']:.0%}"
        count = f"{row['warp_instructions']:,}"
        table.add_row(row["workload"], count, *shown, f"{row['predicted_ns']:.2f}", share)
    console.print(table)
    for row in rows:
        if "mix" in row:
            top = list(row["mix"].items())[:10]
            console.print(f"{row['workload']}: " + ", ".join(f"{n} {name}" for name, n in top))


def table_columns(table: Table) -> list[str]:
    """The columns that are bounds."""
    return [str(column.header) for column in table.columns[2:7]]


def main(
    check: Annotated[bool, typer.Option(help="Exit with 1 if a kernel spills.")] = False,
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
    show(rows)
    if output is not None:
        output.write_text(json.dumps({"triton": triton.__version__, "rows": rows}, indent=1) + "\n")
    spilled = [row for row in rows if row["spills"]]
    rich.print(f"{len(rows)} kernels compiled, {len(spilled)} with spills")
    if check and spilled:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
