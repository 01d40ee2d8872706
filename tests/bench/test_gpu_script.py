"""bench/gpu.py without a GPU: steps that fail, hang or are killed, and every step on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
SCRIPT = BENCH / "gpu.py"
pytest.importorskip("triton", minversion="3.4")

Done = subprocess.CompletedProcess[str]


def gpu(*arguments: Any, **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def on_cpu(output: Path, *arguments: Any, **environment: str) -> Done:
    return gpu("--device", "cpu", "--output", output, *arguments, **environment)


def lines_of(output: Path) -> list[dict[str, Any]]:
    """Every line is whole."""
    text = (output / "gpu.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ends_of(output: Path) -> dict[str, str]:
    return {x["step"]: x["state"] for x in lines_of(output) if "state" in x}


def python(code: str, *, interpret: bool = True) -> str:
    """Runs code next to the steps' modules, and returns what it prints."""
    head = f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        capture_output=True,
        text=True,
        env=environment | ({"TRITON_INTERPRET": "1"} if interpret else {}),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_plan_is_printed_and_nothing_run() -> None:
    done = gpu("--plan")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    totals = [int(row[2]) for row in rows if row[0] == "call"]
    seconds = [int(row[1]) for row in rows if row[0] != "call"]
    assert sum(totals) == sum(seconds) <= 800  # of 900, two starts of the machine taken off
    assert {"values", "suite", "ncu", "pipeline"} <= {row[0] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "x"), "one of --plan, --call and --only is needed"),
        (("--call", "1"), "--output is needed"),
        (("--call", "1", "--output", "x", "--limit", "nap=3"), "there is no step 'nap'"),
        (
            ("--call", "1", "--device", "cpu", "--output", BENCH / "results" / "x"),
            "--output must not be in bench/results",
        ),
    ],
)
def test_a_command_that_makes_no_sense(arguments: tuple[Any, ...], message: str) -> None:
    done = gpu(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = gpu("--call", "1", "--output", tmp_path)
    assert done.returncode == 2
    assert "PyTorch finds no CUDA GPU; --device cpu tries the steps" in done.stderr
    assert [x["step"] for x in lines_of(tmp_path)] == ["run"]


def test_after_a_step_that_fails_and_one_that_hangs_the_next_one_runs(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    done = on_cpu(
        tmp_path / "out", "--only", "pipeline", "--only", "values", "--only", "machine",
        "--data", missing, "--limit", "values=3",
    )  # fmt: skip
    assert done.returncode == 1
    assert ends_of(tmp_path / "out") == {
        "pipeline": "failed with exit code 1",
        "values": "over its limit",
        "machine": "done",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "missing.json" in summary["steps"]["pipeline"]["last_lines"]
    assert summary["device"] == "cpu"
    assert any(x.get("what") == "copy" for x in summary["results"]["machine"])
    assert "FileNotFoundError" in (tmp_path / "out" / "gpu.log").read_text()


def test_when_it_is_stopped_its_processes_end_and_the_summary_is_written(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--device", "cpu", "--only", "values", "--output", tmp_path]
    process = subprocess.Popen(
        [*map(str, command), "--variant", "many-*"], stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "gpu.log"
    children: list[int] = []
    deadline = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < deadline:  # the step, and what it has started
        time.sleep(0.1)
        children = [int(x) for x in _children_of(process.pid)]
        children += [int(x) for child in children for x in _children_of(child)]
    assert len(children) >= 2, log.read_text()
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert json.loads((tmp_path / "summary.json").read_text())["call"] is None
    assert shown
    deadline = time.monotonic() + 20
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_is_alive, children))


def _children_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_jobs_that_raise_die_or_hang_cost_themselves_only(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(BENCH)!r})\n"
        "from gpu_workers import in_processes\n"
        "def ready(): pass\n"
        "def work(job):\n"
        "    if job == 'raise': raise ValueError('no\\nline')\n"
        "    if job == 'lost': raise RuntimeError('CUDA error: an illegal memory access')\n"
        "    if job == 'die': os._exit(9)\n"
        "    if job == 'hang': time.sleep(1000)\n"
        "    return {'job': job, 'by': os.getpid()}\n"
        "if __name__ == '__main__':\n"
        "    jobs = ['raise', 'die', 'hang', 'lost', *range(8)]\n"
        "    until = time.monotonic() + 120\n"
        "    for job, found in in_processes(work, jobs, ready, limit=3, until=until):\n"
        "        print(repr((job, found)))\n"
        "    assert [*in_processes(work, [1, 2], ready, limit=3, until=0)] == []\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "jobs.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(eval(line) for line in done.stdout.splitlines())
    assert found["raise"] == {"error": "ValueError: no line"}
    assert found["lost"] == {"error": "RuntimeError: CUDA error: an illegal memory access"}
    assert found["die"] == {"error": "its process ended with exit code 9"}
    assert found["hang"] == {"error": "took longer than 3 seconds"}
    assert all(found[i]["job"] == i for i in range(8))


def test_wrong_and_changing_values_are_found() -> None:
    found = python(
        "import gpu_steps\n"
        "gpu_steps.prepare('cpu')\n"
        "right = gpu_steps.decoded\n"
        "job = 'k20', gpu_steps.VARIANTS['n33-k12'], 5, 'cpu'\n"
        "def moved(call):\n"
        "    found = right(call)\n"
        "    return found._replace(end=found.end.where(found.start != found.start[1, 3], 30))\n"
        "def random(call):\n"
        "    found = right(call)\n"
        "    return found._replace(score=found.score + gpu_steps.torch.rand(()))\n"
        "for gpu_steps.decoded in (right, moved, random):\n"
        "    found = gpu_steps._check(job)\n"
        "    assert len(found.pop('seconds')) == 2\n"
        "    assert found.pop('kernels') == []\n"
        "    print(found)\n"
    )
    results = [eval(line) for line in found.splitlines()]
    assert results[0] == {"result": "right"}
    assert results[1]["result"] == "wrong"
    assert "no such span" in results[1]["first"]
    assert results[2] == {"result": "not repeatable", "first": "score"}


def test_the_reference_for_long_rows_is_the_reference() -> None:
    python(
        "import numpy as np\n"
        "from gpu_variants import Variant, long_reference, reference\n"
        "for options in (\n"
        "    {}, {'max_answer_len': None, 'scoring': 'logit', 'logits': 'ties'},\n"
        "    {'max_answer_len': 1},\n"
        "    {'top_k': 100, 'null': 'absent', 'context': 'any'}, {'logits': 'peaked', 'n': 50},\n"
        "):\n"
        "    variant = Variant('x', **{'n': 130, **options})\n"
        "    for seed in range(10):\n"
        "        call = variant.call(seed)\n"
        "        (start, end, context, _), options = call\n"
        "        found = long_reference(start, end, context, options, variant.top_k)\n"
        "        for name, x, y in zip(found._fields, found, reference(call)[0]):\n"
        "            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12, err_msg=name)\n"
    )


def test_the_empty_programs_hold_as_many_registers_as_they_should() -> None:
    found = python(
        "import gpu_steps, pathlib, re, subprocess, tempfile\n"
        "from triton.backends.compiler import GPUTarget\n"
        "from triton.compiler import ASTSource\n"
        "import triton\n"
        "tool = pathlib.Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'\n"
        "for registers, held in gpu_steps.EMPTY.items():\n"
        "    signature = {'ptr': '*fp32', 'never': 'i32', 'HELD': 'constexpr'}\n"
        "    source = ASTSource(gpu_steps.empty_kernel, signature, {(2,): held})\n"
        "    options = {'num_warps': 1, 'maxnreg': registers}\n"
        "    kernel = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options)\n"
        "    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:\n"
        "        file.write(kernel.asm['cubin'])\n"
        "        file.flush()\n"
        "        command = [tool, '--dump-resource-usage', file.name]\n"
        "        usage = subprocess.check_output(command, text=True)\n"
        "    print(registers, *(re.search(name + r':(\\d+)', usage)[1] for name in ('REG', 'STACK')))\n",
        interpret=False,
    )
    for line in found.splitlines():
        asked, used, stack = map(int, line.split())
        # They are given out by eights.
        assert -(-used // 8) * 8 == asked
        assert stack == 0


STALLED = "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio"
OLDER_STALLED = "smsp__average_warp_latency_issue_stalled_math_pipe_throttle.ratio"
NCU = f"""#!/bin/sh
case "$*" in *--metrics*) echo '==ERROR== Failed to find metric'; exit 9;; esac
echo '==PROF== Connected to process 1'
cat <<'CSV'
"ID","Kernel Name","Grid Size","sm__cycles_active.avg","sm__cycles_elapsed.max",\\
"smsp__inst_executed.sum","dram__bytes.sum","{STALLED}","{OLDER_STALLED}"
"","","","cycle","cycle","inst","byte","inst","inst"
"0","span_topk_kernel","(3, 1, 1)","750.5","1,000","6,000","4,608","1.5","2.5"
"1","span_topk_kernel","(3, 1, 1)","800","1,000","3,000","4,608","n/a","2.5"
CSV
""".replace("\\\n", "")


def test_the_counters_of_ncu_are_read(tmp_path: Path) -> None:
    """What it prints, and that it may not know one of the counters, as its manual has it."""
    program = tmp_path / "ncu"
    program.write_text(NCU)
    program.chmod(0o755)
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    output = tmp_path / "out"
    done = on_cpu(output, "--only", "ncu", PATH=path)
    assert done.returncode == 0, done.stdout
    note, first, second = (x for x in lines_of(output) if x["step"] == "ncu" and "state" not in x)
    assert "Failed to find metric" in note["text"]
    assert first["top_k"] == 20
    assert first["instructions_per_chunk"] == 2000
    assert first["cycles_active_share"] == 0.7505
    assert first["memory_bytes_per_chunk"] == 1536
    assert first["stalls"] == {"math_pipe_throttle": 2.5, "wait": 1.5}
    assert second["top_k"] == 12
    assert second["stalls"] == {"math_pipe_throttle": 2.5}
    assert "instructions_per_chunk=2000" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        ["--call", "1"],
        ["--only", "random", "--only", "decode", "--only", "pipeline"],  # the rest of the second
    ],
    ids=["first", "second"],
)
def test_every_step_runs_on_a_cpu(tmp_path: Path, steps: list[str]) -> None:
    hidden = "import sys; sys.modules['rich'] = sys.modules['typer'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)  # they may not be on a machine with a GPU
    done = on_cpu(tmp_path / "out", *steps, "--seeds", 1, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    ends = ends_of(tmp_path / "out")
    assert set(ends.values()) == {"done"}
    assert len(ends) == (8 if "--call" in steps else 3)
    found = [x for x in lines_of(tmp_path / "out") if "state" not in x and x["step"] != "run"]
    assert {x["device"] for x in found} == {"cpu"}
    assert {x["step"] for x in found} == set(ends)
    if "--call" in steps:
        calls = [x for x in found if x["step"] == "values" and "seed" in x]
        assert len(calls) > 10
        assert {x["result"] for x in calls} == {"right"}
        tunings = [x["tuning"] for x in found if x["step"] == "sweep" and "tuning" in x]
        assert {} in tunings
        assert any(tunings)
        assert all(x["right"] for x in found if "right" in x)
    else:
        providers = {x["provider"] for x in found if x["step"] == "decode" and "provider" in x}
        assert {"ours", "torch backend", "reader", "textbook"} <= providers
        assert sum(x["step"] == "pipeline" and "utilization" in x for x in found) == 3
