"""bench/static_cost.py: what it counts is what the kernels' machine code runs, and budgets are held."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..helpers import warp

pytest.importorskip("triton")
BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import machine_code  # noqa: E402
import static_cost  # noqa: E402

sys.path.remove(str(BENCH))  # other files there have the names of libraries

SOURCE = """\
import triton

@triton.jit
def kernel(x, n):
    a = x
    if a > 1:  # rare
        b = 1
    else:
        b = 2
    while b < n:  # per pop
        c = 1
        if c:
            d = 1
        else:  # rare: why
            d = 2
    e = 1
"""
# Lines 5 and 6 in the first block; 7 is rare; 8 to 15 a loop, of which 15 is rare; 16.
CODE = """\
.text.kernel:
//## File "{path}", line 5
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   MOV R1, 0x1 ;
//## File "{path}", line 6
        /*0020*/              @!P0 BRA `(.L_x_0) ;
//## File "{path}", line 7
        /*0030*/                   MOV R2, R1 ;
        /*0040*/                   IADD3 R2, R2, 0x1, RZ ;
.L_x_0:
//## File "{path}", line 11
        /*0050*/                   FADD R3, R3, R3 ;
        /*0060*/                   BRA.DIV UR4, `(.L_x_4) ;
.L_x_1:
//## File "{path}", line 10
        /*0070*/                   ISETP.GE.AND P1, PT, R3, R4, PT ;
        /*0080*/               @P1 BRA `(.L_x_2) ;
//## File "{path}", line 13
        /*0090*/               @P2 FMUL R5, R5, R5 ;
        /*00a0*/                   FMUL R5, R5, R5 ;
        /*00b0*/                   NOP ;
//## File "{path}", line 11
        /*00c0*/                   BRA P3, `(.L_x_0) ;
.L_x_2:
//## File "{path}", line 15
        /*00d0*/                   SEL R6, R6, R6, P0 ;
        /*00e0*/               @P1 BRA `(.L_x_0) ;
//## File "{path}", line 16
        /*00f0*/               @P0 EXIT ;
        /*0100*/                   STG.E desc[UR4][R2.64], R6 ;
        /*0110*/                   EXIT ;
.L_x_4:
        /*0120*/                   WARPSYNC.COLLECTIVE R6, `(.L_x_1) ;
        /*0130*/                   BRA `(.L_x_1) ;
.L_x_5:
        /*0140*/                   BRA `(.L_x_5);
        /*0150*/                   NOP;
"""


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    """Disassembled code whose lines are those of a source file."""
    path = tmp_path / "kernel.py"
    path.write_text(SOURCE)
    return CODE.replace("{path}", str(path))


def test_marks() -> None:
    marks = machine_code.marks_in(SOURCE)
    assert sorted(marks) == [(7, 7, "rare"), (10, 15, "pop"), (15, 15, "rare")]
    assert machine_code.unmarked_loops(SOURCE) == []


def test_loop_without_a_mark() -> None:
    source = SOURCE.replace("  # per pop", "")
    assert machine_code.unmarked_loops(source) == [10]
    assert machine_code.unmarked_loops(source.replace("while b < n", "for b in tl.range(n)")) == [
        10
    ]
    assert (
        machine_code.unmarked_loops(source.replace("while b < n", "for b in tl.static_range(n)"))
        == []
    )
    assert machine_code.unmarked_loops(source.replace("@triton.jit", "@functools.cache")) == []
    rare = SOURCE.replace("        b = 1\n", "        while b:\n            b = 1\n", 1)
    assert machine_code.unmarked_loops(rare) == []


def test_mark_on_no_statement() -> None:
    with pytest.raises(ValueError, match=r"no statement's head: \{5: 'rare'\}"):
        machine_code.marks_in(SOURCE.replace("a = x", "a = x  # rare"))


def test_every_mark_of_the_kernels_is_known() -> None:
    names = set()
    for path in (BENCH.parent / "kernels").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert machine_code.unmarked_loops(source) == [], path
        names |= {mark.name for mark in machine_code.marks_in(source)}
    assert {"rare", "pop", "list"} <= names


@pytest.mark.parametrize("pops", [1, 2, 20])
def test_count(kernel: str, pops: int) -> None:
    counted = machine_code.count(kernel, {"pop": pops})
    # The entry and the end once, the loop for every pop, and what is rare not at all.
    assert [len(block.instructions) for block in counted.blocks] == [
        3,
        2,
        2,
        2,
        4,
        2,
        1,
        2,
        2,
        1,
        1,
    ]
    assert counted.mix["S2R"] == 1
    assert counted.mix["STG"] == 1
    assert counted.mix["FMUL"] in (2 * pops, 2 * (pops - 1))
    assert counted.mix["ISETP"] == pops
    assert "IADD3" not in counted.mix
    assert "WARPSYNC" not in counted.mix
    assert counted.mix["SEL"] == 1  # in the way from the loop to the end


def test_a_run_is_counted(kernel: str) -> None:
    """What goes in comes out, block by block, and the counts are those of one walk from the entry."""
    counted = machine_code.count(kernel, {"pop": 7})
    for b, times in enumerate(counted.times):
        came = sum(n for (_, to), n in counted.edges.items() if to == b)
        went = sum(n for (at, _), n in counted.edges.items() if at == b)
        assert came + (b == 0) == times
        assert went == times or not counted.blocks[b].successors
    assert _walked(counted) == counted.total


def _walked(counted: Any) -> int:
    """Instructions on a walk that takes every edge as often as counted (Hierholzer's algorithm)."""
    left = dict(counted.edges)
    path, walk = [0], []
    while path:
        onward = next((to for (at, to), n in left.items() if at == path[-1] and n), None)
        if onward is None:
            walk.append(path.pop())
        else:
            left[path[-1], onward] -= 1
            path.append(onward)
    walk.reverse()
    assert not any(left.values())
    assert set(itertools.pairwise(walk)) <= set(counted.edges)
    return sum(len(counted.blocks[b].instructions) for b in walk if b >= 0)


def test_unknown_mark(kernel: str) -> None:
    with pytest.raises(KeyError, match="pop"):
        machine_code.count(kernel, {"list": 1})


def test_warps_per_sm() -> None:
    assert static_cost.warps_per_sm(registers=64, shared=0) == 32  # no more than 32 programs
    assert static_cost.warps_per_sm(registers=64, shared=0, warps=2) == 32
    assert static_cost.warps_per_sm(registers=32, shared=0, warps=2) == 64
    assert static_cost.warps_per_sm(registers=65, shared=0) == 28
    assert static_cost.warps_per_sm(registers=96, shared=0) == 20
    assert static_cost.warps_per_sm(registers=114, shared=0) == 16
    assert static_cost.warps_per_sm(registers=255, shared=0) == 8
    assert static_cost.warps_per_sm(registers=32, shared=113 * 1024, warps=4) == 8


def _run(script: str | Path, *arguments: str, folder: Path) -> str:
    """What a script prints; it compiles kernels, which this process can only interpret."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


REPORT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import static_cost
if __name__ == "__main__":
    works = [*static_cost.BUDGETS, *static_cost.MANY_CHUNKS]
    rows = static_cost.rows_of([(work, 90) for work in works])
    static_cost.show(rows, works)
    plain = [row for row in rows if row["workload"] in map(str, static_cost.BUDGETS)]
    found = [static_cost.broken(plain)]
    for lower in ({"instructions": 100}, {"registers": 40}, {"warps": 40}):
        for work, budget in static_cost.BUDGETS.items():
            static_cost.BUDGETS[work] = budget._replace(**lower)
        found.append(static_cost.broken(plain))
    rows[0]["spills"] = 4
    found.append(static_cost.broken(rows[:1]))
    print(json.dumps([found, rows]))
"""


def test_budgets_and_launches(tmp_path: Path) -> None:
    """Budgets are held, each would be missed, and a question of 100,000 chunks takes few launches."""
    script = tmp_path / "report.py"
    script.write_text(REPORT)
    printed = _run(script, str(BENCH), folder=tmp_path)
    (broken, *lower, spilled), rows = json.loads(printed.splitlines()[-1])
    assert broken == []
    for found, name in zip(lower, ("instructions", "registers", "warps per sm"), strict=True):
        assert sum(name in line for line in found) == len(static_cost.BUDGETS), found
    assert "4 bytes spilled" in spilled[0]
    for work in static_cost.MANY_CHUNKS:
        found = [row for row in rows if row["workload"] == str(work)]
        assert 5 <= len(found) <= 6
        assert {row["operations"] for row in found} == {0}
    assert "6 launches, 0 operations of torch between" in printed


def _check(run: dict[str, Any], share: float) -> None:
    assert run["same"], run
    for launch in run["launches"]:
        if launch["lists"] == 1:
            # Ties take more, and are not counted: the least is the common path, after so many steps to
            # the floor of its list as it took.
            executed = min(launch["executed"])
            counts = [launch["counted"] + steps * launch["per_step"] for steps in range(6)]
            assert min(abs(count - executed) for count in counts) <= share * executed, run


def test_counts_are_what_runs(tmp_path: Path) -> None:
    """The machine code, run on the CPU: its answers are right, and as many instructions as counted."""
    lines = _run(warp.__file__, *map(str, range(6)), folder=tmp_path).splitlines()
    assert len(lines) == 6
    for line in lines:
        _check(json.loads(line), share=0.005)


@pytest.mark.slow
def test_machine_code_of_every_kind(tmp_path: Path) -> None:
    """Masks, ragged rows, tiles, merges, two rounds: the machine code's answers are right."""
    lines = _run(warp.__file__, folder=tmp_path).splitlines()
    assert len(lines) > 25
    runs = [json.loads(line) for line in lines]
    for run in runs:
        assert run["same"], run
        # Lists of tiles differ, and averages are counted; the second round of a merge takes a branch
        # that is counted as rare.
        if "L=30 " in run["workload"]:
            _check(run, share=0.08)
