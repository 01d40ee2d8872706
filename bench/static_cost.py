"""What the Triton kernels cost, read from their machine code: no GPU needed.

    python bench/static_cost.py            # tables for every target
    python bench/static_cost.py --check    # the same, and exit code 1 if a kernel spills registers

Every variant is compiled ahead of time. The predicted time per chunk on an H200 is the larger of two
bounds, both at their theoretical rates, so a measurement can only be slower:

- bytes of logits read once, over 4.8 TB/s of memory bandwidth;
- warp instructions, over 132 SMs x 4 schedulers x 1.98 GHz = 1.045e12 a second. Instructions of the pop
  loop count k times, all others once; the branch inside the loop for tied spans is left out.
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import rich
import triton
import typer
from qa_fast.kernels import merge_topk, span_topk
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BANDWIDTH = 4.8e12
ISSUE_RATE = 132 * 4 * 1.98e9
CUDA = (80, 86, 89, 90, 100, 120)
AMD = ("gfx90a", "gfx942")
KERNELS = {"chunk": span_topk.span_topk_kernel, "merge": merge_topk.merge_kernel}


class Variant(NamedTuple):
    """A kernel with its constants, and the workload that they come from."""

    name: str
    kernel: str
    constants: dict[str, Any]
    dtype: str
    warps: int
    tokens: int
    top_k: int


def span(
    top_k: int,
    max_len: int | None,
    tokens: int = 384,
    dtype: str = "fp16",
    **flags: bool,
) -> Variant:
    """The chunk kernel as its launcher would start it; flags are RAGGED, FINAL, and so on."""
    tiles = span_topk.tiling(tokens, max_len)
    assert tiles is not None
    longest = min(tokens, max_len or tokens)
    switches = {
        "RAGGED": False,
        "HAS_MASK": False,
        "NULL_IN_SPANS": False,
        "NORMALIZE": True,
        "FINAL": tiles.tiles == 1,
        **flags,
    }
    constants = {
        "TOP_K": top_k,
        "BLOCK_K": triton.next_power_of_2(top_k),
        "MAX_LEN": max_len,
        "BLOCK_LEN": triton.next_power_of_2(longest),
        "WINDOW": tiles.window,
        "ROWS": tiles.rows,
        "COLUMNS": tiles.columns,
        **switches,
    }
    extra = " ".join(name.lower() for name, on in flags.items() if on)
    name = f"chunk {dtype} N={tokens} k={top_k} L={max_len} {extra}".strip()
    return Variant(name, "chunk", constants, dtype, tiles.warps, tokens, top_k)


def merge(top_k: int, fan_in: int, **flags: bool) -> Variant:
    """The merge kernel; flags are LEAF, FINAL, and so on."""
    switches = dict.fromkeys(("LEAF", "CHUNK_NORM", "SHARED_NORM", "DISTINCT", "FINAL"), False)
    constants = {
        "TOP_K": top_k,
        "BLOCK_K": triton.next_power_of_2(top_k),
        "FAN_IN": fan_in,
        **switches,
        **flags,
    }
    extra = " ".join(name.lower() for name in flags)
    return Variant(f"merge k={top_k} of {fan_in} {extra}", "merge", constants, "fp32", 1, 0, top_k)


VARIANTS = [
    span(1, 15),
    span(12, 15),
    span(20, 30),
    span(20, 30, dtype="bf16", RAGGED=True),
    span(20, 30, dtype="fp32", RAGGED=True, FINAL=False),
    span(20, 30, HAS_MASK=True),
    span(20, 30, NULL_IN_SPANS=True),
    span(20, 30, NORMALIZE=False),
    span(100, 30),
    span(20, None),
    span(100, 100),
    span(12, 15, tokens=128),
    span(12, 15, tokens=512),
    span(12, 15, tokens=1024),
    span(12, 15, tokens=2048),
    span(12, None, tokens=1024),
    span(12, 15, tokens=32768),
    span(128, 1000, tokens=32768),
    merge(20, 2, LEAF=True, CHUNK_NORM=True, DISTINCT=True, FINAL=True),
    merge(20, 64, LEAF=True, CHUNK_NORM=True, DISTINCT=True),
    merge(20, 64, SHARED_NORM=True, FINAL=True),
    merge(128, 64, DISTINCT=True, FINAL=True),
]
# One of each kind is enough where only spills are looked at.
ELSEWHERE = [VARIANTS[i] for i in (2, 4, 9, 15, 17, 18, 21)]

POINTERS = {
    "nonfinite_ptr": "*i1",
    "row_offset_ptr": "*i64",
    "lists_ptr": "*i64",
    "groups_ptr": "*i64",
    "mask_ptr": "*i1",
}
FLOATS = ("score_ptr", "log_norm_ptr", "null_score_ptr", "chunk_norm_ptr")


def signature(variant: Variant) -> dict[str, str]:
    """Argument types as at launch."""
    types = {}
    for name in KERNELS[variant.kernel].arg_names:
        if name in variant.constants:
            types[name] = "constexpr"
        elif name in POINTERS:
            types[name] = POINTERS[name]
        elif name in ("start_ptr", "end_ptr"):
            types[name] = f"*{variant.dtype}"
        elif name.removeprefix("out_") in FLOATS:
            types[name] = "*fp32"
        else:
            types[name] = "*i32" if name.endswith("_ptr") else "i32"
    return types


def compile_variant(job: tuple[Variant, str | int]) -> dict[str, Any]:
    """Registers, spills and shared memory of a variant; on sm_90 also the instruction mix."""
    variant, target = job
    warnings.simplefilter("ignore")
    source = ASTSource(
        fn=KERNELS[variant.kernel], signature=signature(variant), constexprs=variant.constants
    )
    gpu = GPUTarget("cuda", target, 32) if isinstance(target, int) else GPUTarget("hip", target, 64)
    options = {"num_warps": variant.warps, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=gpu, options=options)
    row = {"variant": variant.name, "target": f"sm_{target}" if isinstance(target, int) else target}
    if isinstance(target, str):
        text = compiled.asm["amdgcn"]
        found = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count):\s*(\d+)", text))
        spills = int(found["vgpr_spill_count"]) + int(found["sgpr_spill_count"])
        return {**row, "registers": int(found["vgpr_count"]), "spills": spills,
                "shared": compiled.metadata.shared}  # fmt: skip
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name) if target == 90 else ""
    found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    row |= {
        "registers": int(found["REG"]),
        "spills": int(found["STACK"]) + int(found["LOCAL"]),
        "shared": int(found["SHARED"]),
    }
    return row | (instruction_cost(code, variant) if code and variant.tokens else {})


def _tool(name: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def instruction_cost(code: str, variant: Variant) -> dict[str, Any]:
    """Warp instructions per chunk and their mix, from a disassembly."""
    operations: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(operations)
        elif found := re.match(r"\s*(?:/\*\w+\*/)?\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)(.*);", line):
            operations.append((found[1], found[2]))
    weights = [1] * len(operations)
    jumps = []
    for i, (operation, rest) in enumerate(operations):
        target = re.search(r"\.L_x_\d+", rest)
        if operation == "BRA" and target and target[0] in labels:
            jumps.append((i, labels[target[0]]))
    for i, to in sorted(jumps, reverse=True):  # the loop's own jump is its last
        body = {name.split(".")[0] for name, _ in operations[to : i + 1]}
        if to < i and "LDG" in body:  # a loop that reads logits: the pops
            for at in range(to, i + 1):
                weights[at] = variant.top_k
        shuffles = sum(name.startswith("SHFL.UP") or name == "SHFL" for name, _ in operations[i:to])
        if i < to < i + 60 and weights[i] > 1 and shuffles >= 4:
            for at in range(i + 1, to):  # the scan that ranks tied spans
                weights[at] = 0
    mix: collections.Counter[str] = collections.Counter()
    for (operation, _), weight in zip(operations, weights, strict=True):
        if operation != "NOP":
            mix[operation.split(".")[0]] += weight
    issued = sum(mix.values()) * variant.warps * -(-variant.tokens // _tokens_per_program(variant))
    traffic = 2 * variant.tokens * (4 if variant.dtype == "fp32" else 2)
    floor, issue = traffic / BANDWIDTH * 1e9, issued / ISSUE_RATE * 1e9
    return {
        "instructions": issued,
        "floor_ns": floor,
        "predicted_ns": max(floor, issue),
        "mix": dict(mix.most_common(8)),
    }


def _tokens_per_program(variant: Variant) -> int:
    return int(variant.constants["ROWS"] * variant.constants["COLUMNS"])


def main(
    check: Annotated[bool, typer.Option(help="Exit with 1 if a kernel spills.")] = False,
    full: Annotated[bool, typer.Option(help="Every variant on every target.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this file.")] = None,
) -> None:
    """Compile the Triton kernels for many GPUs and print what they cost."""
    jobs = [(variant, 90) for variant in VARIANTS]
    for target in (*CUDA, *AMD):
        if target != 90:
            jobs += [(variant, target) for variant in (VARIANTS if full else ELSEWHERE)]
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(compile_variant, jobs))
    table = Table(
        "variant", "target", "registers", "spills", "shared", "instructions", "predicted ns",
        "of the memory floor", title=f"triton {triton.__version__}",
    )  # fmt: skip
    for row in rows:
        cost = ["", "", ""]
        if "instructions" in row:
            share = f"{row['floor_ns'] / row['predicted_ns']:.0%}"
            cost = [str(row["instructions"]), f"{row['predicted_ns']:.2f}", share]
        counts = [str(row[name]) for name in ("registers", "spills", "shared")]
        table.add_row(row["variant"], row["target"], *counts, *cost)
    rich.print(table)
    for row in rows[:3]:
        rich.print(f"{row['variant']}: {row['mix']}")
    if json is not None:
        import json as encoder

        json.write_text(encoder.dumps({"triton": triton.__version__, "rows": rows}, indent=1))
    spilled = [row for row in rows if row["spills"]]
    rich.print(f"{len(rows)} kernels compiled, {len(spilled)} with spills")
    if check and spilled:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
