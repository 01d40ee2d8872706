"""How often a warp issues each instruction of a compiled Triton kernel, read from its machine code.

The control-flow graph comes from the disassembly (SASS). Which of its paths a warp takes, and how
often, comes from marks in the kernel's source, beside the statement that they speak of:

    if hits > 1:  # rare                  the body is not counted (so for `else:  # rare`)
    while found < top_k:  # per pop       the loop runs once per pop
    while turn < 32:  # per list: ...     once per list; after a ":" anything may follow

A mark is a comment that begins so, on a line of the statement's head. Loops need one, unless they are
unrolled or lie in something rare.

Every instruction carries its source line, and the lines where that was inlined. It asks to run as often
as the product of the marks around these says. Compilers move code, so a majority decides what a block
of instructions asks for. It gets the nearest (least sum of differences, over the instructions) among
the numbers that a run can have: the kernel is entered once, a block is left as often as it is entered,
and a loop runs only if it is come to. So

- of two branches that no mark tells apart the longer one counts;
- a predicated instruction counts whether its predicate holds or not, as it is issued, and so do
  branches that were turned into predicated instructions, rare ones too;
- what was moved out of a loop or a branch counts as often as the block that it was moved to;
- instructions of the uniform datapath, barriers, jumps and NOPs on the way count, as they are issued.

Not counted is what only diverged warps run (behind ``BRA.DIV``: the kernels' branches are uniform), nor
the slow ways of divisions (subroutines) where there is a way around them. All warps of a program are
taken to do the same.
"""

from __future__ import annotations

import ast
import functools
import io
import math
import re
import subprocess
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix
from triton.compiler.compiler import make_backend

# What steers the warp: compilers give it any line.
CONTROL = {
    "BAR", "BMOV", "BRA", "BREAK", "BSSY", "BSYNC", "CALL", "EXIT", "NOP", "RET", "WARPSYNC", "YIELD",
}  # fmt: skip


class Instruction(NamedTuple):
    """One instruction, such as ``@P0 FMNMX R1, R2, R3, !PT``, and the source lines it is made from."""

    address: int
    predicate: str
    name: str
    operands: str
    lines: tuple[tuple[str, int], ...]

    @property
    def kind(self) -> str:
        """The name without its modifiers."""
        return self.name.split(".")[0]


class Block(NamedTuple):
    """Instructions that run one after the other; the blocks that may follow, -1 for the end; a call."""

    instructions: list[Instruction]
    successors: list[int]
    calls: int | None


class Mark(NamedTuple):
    """What a comment says of lines ``first`` to ``last``: "rare", or the name after "per"."""

    first: int
    last: int
    name: str


class Count(NamedTuple):
    """How often every block of a kernel runs, and how often control goes along every edge."""

    blocks: list[Block]
    times: list[int]
    edges: dict[tuple[int, int], int]

    @property
    def total(self) -> int:
        """Instructions that a warp issues."""
        return sum(len(b.instructions) * n for b, n in zip(self.blocks, self.times, strict=True))

    @property
    def mix(self) -> dict[str, int]:
        """Instructions by kind, the most frequent first."""
        mix: Counter[str] = Counter()
        for block, n in zip(self.blocks, self.times, strict=True):
            for instruction in block.instructions:
                mix[instruction.kind] += n
        return {kind: n for kind, n in mix.most_common() if n}


def tool(name: str, *arguments: str | Path) -> str:
    """What a program among Triton's CUDA tools prints."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, bytes of it that are spilled, bytes of shared memory of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
    found = {n: int(size) for n, size in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    spills = found["STACK"] + found["LOCAL"]
    return {"registers": found["REG"], "spills": spills, "shared": found["SHARED"]}


def disassemble(compiled: Any) -> str:
    """SASS of what ``triton.compile`` returns, with source lines and where these are inlined."""
    ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
    if "inlined_at" in ptx or "@[" not in ptx:
        return _disassemble(cubin)
    # Triton 3.6 says where a line was inlined in comments only: the PTX is assembled once more with
    # line n of a made-up file in the place of the n-th such comment. That changes no code.
    places: list[str] = []
    file = 1 + max(int(n) for n in re.findall(r"\t\.file\t(\d+)", ptx))

    def number(found: re.Match[str]) -> str:
        places.append(found[1])
        return f"\t.loc\t{file} {len(places)} 0\n"

    numbered = re.sub(r"\t\.loc\t[^/\n]*// *(.*)\n", number, ptx) + f'\t.file\t{file} "places"\n'
    metadata = compiled.metadata
    backend = make_backend(metadata.target)
    options = backend.parse_options(metadata._asdict())
    code = _disassemble(backend.make_cubin(numbered, {}, options, metadata.target.arch))
    if _without_lines(code) != _without_lines(_disassemble(cubin)):
        raise RuntimeError("other line numbers made other code")
    paths = {Path(path).name: path for path in re.findall(r'\.file\t\d+ "([^"]+)"', ptx)}

    def name(found: re.Match[str]) -> str:
        lines = re.findall(r"([^\s\[]+):(\d+):\d+", places[int(found[1]) - 1])
        return "\n".join(f'//## File "{paths[file]}", line {line}' for file, line in lines)

    return re.sub(r'//## File ".*places", line (\d+)', name, code)


def _disassemble(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tool("nvdisasm", "-c", "-gi", file.name)


def _without_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if "//##" not in line]


_LINE = re.compile(r'\s*//## File "([^"]*)", line (\d+)')
_LABEL = re.compile(r"(\S+):\s*$")
_CODE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.]*)([^;]*);")


def blocks_of(code: str) -> list[Block]:
    """The control-flow graph of a disassembled kernel; its first block is the entry."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    lines: list[tuple[str, int]] = []
    used = True
    for text in code.splitlines():
        if found := _LINE.match(text):
            lines = [] if used else lines
            lines.append((found[1], int(found[2])))
            used = False
        elif found := _CODE.match(text):
            address, predicate, name, operands = found.groups()
            made = Instruction(
                int(address, 16), (predicate or "").strip(), name, operands.strip(), tuple(lines)
            )
            instructions.append(made)
            used = True
        elif found := _LABEL.match(text):
            labels[found[1]] = len(instructions)
    # Jumps: where to, whether the next instruction may follow, and what is called.
    jumps: dict[int, tuple[list[int], bool, int | None]] = {}
    for i, instruction in enumerate(instructions):
        named = re.search(r"`\(([.$\w]+)\)", instruction.operands)
        target = labels.get(named[1]) if named else None
        # The condition of a jump stands before it, or first among its operands, or in both places.
        condition = re.match(r"!?(U?P\d)\b", instruction.operands)
        conditional = bool(instruction.predicate) or condition is not None
        if instruction.kind == "BRA" and ".DIV" in instruction.name:
            jumps[i] = ([], True, None)
        elif instruction.kind in ("BRA", "CALL") and target is None:
            raise NotImplementedError(f"a jump to a computed address: {instruction}")
        elif instruction.kind == "BRA":
            jumps[i] = ([target], conditional, None)  # type: ignore[list-item]
        elif instruction.kind == "CALL":
            jumps[i] = ([], True, target)
        elif instruction.kind in ("EXIT", "RET"):
            jumps[i] = ([-1], conditional, None)
        elif instruction.kind in ("BRX", "BRXU", "JMP", "JMX", "JMXU"):
            raise NotImplementedError(f"control flow of a kind not known here: {instruction}")
    leaders = {0, *labels.values(), *(i + 1 for i in jumps)}
    starts = sorted(i for i in leaders if i < len(instructions))
    index = {start: b for b, start in enumerate(starts)}
    blocks = []
    for start, stop in zip(starts, [*starts[1:], len(instructions)], strict=True):
        targets, falls, called = jumps.get(stop - 1, ([], True, None))
        successors = [to if to == -1 else index[to] for to in targets]
        if falls and stop < len(instructions):
            successors.append(index[stop])
        body = instructions[start:stop]
        blocks.append(Block(body, successors, None if called is None else index[called]))
    return blocks


@functools.cache
def marks_of(path: str) -> list[Mark]:
    """The marks of a source file; none where there is no such file."""
    try:
        source = Path(path).read_text(encoding="utf-8")
    except OSError:
        return []
    return marks_in(source)


def marks_in(source: str) -> list[Mark]:
    """The marks of a source.

    Raises:
        ValueError: a mark that is on no statement's head.
    """
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        found = re.match(r"#\s*(?:(rare)\b|per ([\w ]*\w))", token.string)
        if token.type == tokenize.COMMENT and found:
            comments[token.start[0]] = found[1] or found[2]
    marks: list[Mark] = []

    def look(head: range, first: int, last: int) -> None:
        marks.extend(Mark(first, last, comments.pop(line)) for line in head if line in comments)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If | ast.While | ast.For):
            begin, last = node.body[0].lineno, node.body[-1].end_lineno or 0
            # The condition of a loop is looked at in every round.
            look(
                range(node.lineno, begin), begin if isinstance(node, ast.If) else node.lineno, last
            )
            if node.orelse:
                begin_else = node.orelse[0].lineno
                look(range(last + 1, begin_else), begin_else, node.orelse[-1].end_lineno or 0)
    if comments:
        raise ValueError(f"marks on no statement's head: {comments}")
    return marks


def unmarked_loops(source: str) -> list[int]:
    """Lines of loops that are not unrolled and have no mark, and none around them that says "rare"."""
    marks = marks_in(source)
    lines = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or not any(
            "jit" in ast.unparse(decorator) for decorator in function.decorator_list
        ):
            continue
        for node in ast.walk(function):
            unrolled = isinstance(node, ast.For) and "static_range" in ast.unparse(node.iter)
            if not isinstance(node, ast.While | ast.For) or unrolled:
                continue
            around = [mark for mark in marks if mark.first <= node.lineno <= mark.last]
            if not any(mark.first == node.lineno or mark.name == "rare" for mark in around):
                lines.append(node.lineno)
    return lines


def rounds_asked(instruction: Instruction, rounds: Mapping[str, int]) -> int:
    """How often an instruction runs by the marks around its source lines."""
    names = [
        mark.name
        for path, line in instruction.lines
        for mark in marks_of(path)
        if mark.first <= line <= mark.last
    ]
    return 0 if "rare" in names else math.prod(rounds[name] for name in names)


def count(code: str, rounds: Mapping[str, int]) -> Count:
    """How often each block of a disassembled kernel runs.

    Args:
        code: from `disassemble`.
        rounds: how often a loop runs each time it is come to, by the name after "per".

    Raises:
        KeyError: a name that ``rounds`` does not have.
        ValueError: a loop without a mark, or a mark on no statement's head.
    """
    blocks = blocks_of(code)
    files = {path for b in blocks for i in b.instructions for path, _ in i.lines if marks_of(path)}
    for path in files:
        if lines := unmarked_loops(Path(path).read_text(encoding="utf-8")):
            raise ValueError(f"{path}: loops without a mark at lines {lines}")
    called = {block.calls for block in blocks if block.calls is not None}
    subroutines = _reached(blocks, called)
    asked: list[tuple[int, float]] = []
    times = 1
    for b, block in enumerate(blocks):
        votes: Counter[int] = Counter()
        for instruction in block.instructions:
            if instruction.kind in CONTROL or b in subroutines:
                continue
            # Where only lines of Triton's library are known it goes with what is before it.
            known = any(path in files for path, _ in instruction.lines) or not files
            if known:
                times = rounds_asked(instruction, rounds)
            votes[times] += 10 if known else 1
        asked.append(max(((n, t) for t, n in votes.items()), default=(0, 0))[::-1])
    most = math.prod(max(n, 1) for n in rounds.values())
    return _nearest_run(blocks, asked, most)


def _nearest_run(blocks: list[Block], asked: list[tuple[int, float]], most: int) -> Count:
    """The run whose blocks run nearest to what is asked: an integer linear program.

    Args:
        blocks: the control-flow graph.
        asked: for each block a number of times, and how many votes it has.
        most: rounds of a loop each time it is come to, at most.
    """
    edges = [(b, to) for b, block in enumerate(blocks) for to in block.successors]
    # Columns: how often each edge is taken, each block is run, and by how much what a block asks for is
    # missed: as it is, and with a round to spare.
    first_block = len(edges)
    first_miss = first_block + len(blocks)
    columns = first_miss + 2 * len(blocks)
    rows: list[dict[int, float]] = []
    limits: list[tuple[float, float]] = []

    def constrain(row: dict[int, float], low: float, high: float) -> None:
        rows.append(row)
        limits.append((low, high))

    for b, block in enumerate(blocks):
        entered: dict[int, float] = defaultdict(
            float, {n: -1.0 for n, edge in enumerate(edges) if edge[1] == b}
        )
        for caller, other in enumerate(blocks):
            if other.calls == b:
                entered[first_block + caller] -= 1.0
        entered[first_block + b] += 1.0
        constrain(dict(entered), float(b == 0), float(b == 0))
        if block.successors:
            left = {n: -1.0 for n, edge in enumerate(edges) if edge[0] == b}
            constrain({first_block + b: 1.0, **left}, 0, 0)
    cost = np.zeros(columns)
    for b, (times, votes) in enumerate(asked):
        # The test of a loop may run once more than its body, and its end once less.
        for column, spare, weight in (
            (first_miss + 2 * b, 0, 0.01 * votes),
            (first_miss + 2 * b + 1, int(times > 1), votes),
        ):
            cost[column] = weight
            constrain({first_block + b: 1.0, column: -1.0}, -np.inf, times + spare)
            constrain({first_block + b: 1.0, column: 1.0}, times - spare, np.inf)
    loops = _loops(blocks)
    integral = np.zeros(columns)
    while True:
        cells = [(r, c, value) for r, row in enumerate(rows) for c, value in row.items()]
        row_of, column_of, values = zip(*cells, strict=True)
        low, high = zip(*limits, strict=True)
        solved = milp(
            cost,
            constraints=LinearConstraint(
                csr_matrix((values, (row_of, column_of)), shape=(len(rows), columns)), low, high
            ),
            bounds=Bounds(0, np.inf),
            integrality=integral,
        )
        if solved.x is None:
            raise ValueError(f"no run fits this code: {solved.message}")
        found = np.rint(solved.x[:first_miss]).astype(int)
        taken = dict(zip(edges, found[: len(edges)].tolist(), strict=True))
        # The flows of a network come out as integers, and loops mostly are come to. Where not, ask.
        strange = [
            (head, back)
            for head, back in loops
            if sum(taken[b, head] for b in back) > 0
            and not any(n for (b, to), n in taken.items() if to == head and b not in back)
        ]
        if not strange and np.abs(found - solved.x[:first_miss]).max() < 1e-6:
            return Count(blocks, found[first_block:].tolist(), taken)
        if integral.any() and not strange:
            raise ValueError("no run was found that fits this code")
        integral[:first_miss] = 1
        for head, back in strange:
            row = {n: 1.0 if edge[0] in back else -float(most)
                   for n, edge in enumerate(edges) if edge[1] == head}  # fmt: skip
            constrain(row, -np.inf, 0)


def _loops(blocks: list[Block]) -> list[tuple[int, list[int]]]:
    """Natural loops: the block that each begins with, and those that jump back to it."""
    before: list[set[int]] = [set() for _ in blocks]
    for b, block in enumerate(blocks):
        for to in block.successors:
            if to >= 0:
                before[to].add(b)
    everything = set(range(len(blocks)))
    roots = {0} | {block.calls for block in blocks if block.calls is not None}
    roots |= {b for b in everything if not before[b]}
    dominators = [{b} if b in roots else everything for b in range(len(blocks))]
    changed = True
    while changed:
        changed = False
        for b in sorted(everything - roots):
            new = {b} | set.intersection(*(dominators[p] for p in before[b]))
            changed |= new != dominators[b]
            dominators[b] = new
    jumping = {
        head: sorted(b for b in before[head] if head in dominators[b]) for head in everything
    }
    return [(head, back) for head, back in jumping.items() if back]


def _reached(blocks: list[Block], starts: set[int]) -> set[int]:
    """The blocks that can be reached from ``starts``."""
    reached: set[int] = set()
    todo = list(starts)
    while todo:
        b = todo.pop()
        if b >= 0 and b not in reached:
            reached.add(b)
            todo += blocks[b].successors
    return reached
