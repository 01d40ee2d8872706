"""Checks and measures everything that needs a GPU, in two calls of six and seven minutes.

    python bench/gpu.py --call 1 --output found1                       # the kernels
    python bench/gpu.py --call 2 --output found2 --data dev-v2.0.json  # next to others; whole pipelines
    python bench/gpu.py --plan                                         # the steps and their seconds
    python bench/gpu.py --device cpu --call 1 --output tried           # every step without a GPU

It installs nothing, and needs Python, PyTorch with CUDA, Triton, Transformers and NumPy. GPU.md beside
this file says how to read what it finds, and what to change then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_report import is_bad, lines, read_records, summary

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
NO_DEVICE = 3  # a step's exit status

# The steps of each call in turn, and the seconds that they should take on a GPU.
CALLS = {
    1: {
        "machine": 30, "values": 95, "graphs": 20, "engine": 40, "suite": 110, "sweep": 25,
        "question": 20, "ncu": 40,
    },
    2: {
        "machine": 30, "values": 95, "random": 30, "question": 20, "decode": 50, "ncu": 40,
        "pipeline": 155,
    },
}  # fmt: skip
WHAT = {
    "machine": "versions, clocks, copy bandwidth, how fast programs of one warp are launched",
    "values": "every variant compiled, and on fresh inputs against the float64 reference, twice",
    "graphs": "CUDA graphs replayed with changed inputs, other streams and cards, logits past 2^31",
    "sweep": "a million chunks, k = 1, 12, 20, for list sizes, grids and register limits, in turns",
    "question": "one question of 100,000 chunks, as a call, as a graph, and by kernel",
    "ncu": "hardware counters of three kernels, where there is an ncu",
    "random": "calls of any sizes and options against the float64 reference",
    "decode": "decoding at many sizes, next to what others do, ours last",
    "pipeline": "from texts to answers, four models, with and without torch.compile",
    "engine": "qa_fast.pipeline next to the CPU's, and too little memory",
    "suite": "the tests of the operator and of decoding",
}
ON_A_CPU = 240  # seconds for a step


def stage(folder: Path) -> None:
    """The package as an installation lays it out: with kernels/, and the decoder for CPUs compiled."""
    package = folder / "qa_fast"
    package.mkdir()
    for entry in (ROOT / "qa_fast").iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "kernels").symlink_to(ROOT / "kernels")
    decoding = package / "decoding"  # what is compiled does not land in the checkout
    decoding.unlink()
    decoding.mkdir()
    for entry in (ROOT / "qa_fast" / "decoding").iterdir():
        (decoding / entry.name).symlink_to(entry)
    if (compiler := shutil.which("cc")) is not None:
        source, target = decoding / "c_backend.c", decoding / "_c_backend.so"
        options = "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-lm"
        subprocess.run([compiler, source, *options, "-o", target], check=False)


def run_step(
    command: list[str], environment: dict[str, str], log: Path, limit: float
) -> tuple[int | None, str]:
    """Its exit status, None where it took too long, and the last lines it printed.

    It is a group of processes of its own, which ends with it, and with this one.
    """
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, preexec_fn=os.setpgrp
        )
        try:
            status: int | None = process.wait(timeout=max(0.0, limit))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return status, "\n".join(lines[-8:])


def limits(asked: argparse.Namespace) -> dict[str, float]:
    """The steps asked for in turn, and the seconds that they should take."""
    steps = dict(CALLS[asked.call or 1])
    if asked.only:
        every = {**CALLS[2], **CALLS[1]}
        steps = {step: every[step] for step in asked.only}
    if asked.device == "cpu":
        steps = dict.fromkeys(steps, ON_A_CPU)
    return {**steps, **{step: x for step, x in asked.limit if step in steps}}


def print_plan() -> None:
    """The steps of both calls."""
    for call, steps in CALLS.items():
        print(f"call {call}: {sum(steps.values())} seconds")
        for step, seconds in steps.items():
            print(f"  {step:9}{seconds:4} s  {WHAT[step]}")


def run_steps(asked: argparse.Namespace, package: Path) -> bool:
    """All steps, one after the other; whether there is a device at all."""
    results = asked.output / "gpu.jsonl"
    cache = asked.cache or asked.output.with_name(asked.output.name + "-cache")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "TRITON_CACHE_DIR": str(cache.resolve()),
        "TORCHINDUCTOR_CACHE_DIR": str(cache.resolve() / "inductor"),
        "HF_HUB_OFFLINE": "1",
    }
    if asked.device == "cpu":
        environment |= {"TRITON_INTERPRET": "1", "TORCH_COMPILE_DISABLE": "1"}
    arguments = ["--device", asked.device, "--output", str(asked.output.resolve())]
    if asked.data:
        arguments += ["--data", str(asked.data.resolve())]
    arguments += ["--seeds", str(asked.seeds)]
    arguments += [] if asked.seed is None else ["--seed", str(asked.seed)]
    for variant in asked.variant:
        arguments += ["--variant", variant]

    begin = time.monotonic()
    allowed = 0.0
    for step, limit in limits(asked).items():
        # A step may take what those before it have left over.
        allowed += limit
        seconds = min(
            allowed - (time.monotonic() - begin), limit if step in dict(asked.limit) else 1e9
        )
        print(f"{step}: at most {seconds:.0f} s", flush=True)
        since = time.monotonic()
        command = [sys.executable, str(ROOT / "bench" / "gpu_steps.py"), step, *arguments]
        command += ["--until", str(since + seconds)]
        status, last_lines = run_step(command, environment, asked.output / "gpu.log", seconds)
        if status == NO_DEVICE:
            return False
        state = {0: "done", None: "over its limit"}.get(status, f"failed with exit code {status}")
        end = {"step": step, "state": state, "seconds": time.monotonic() - since, "limit": seconds}
        append(results, end if state == "done" else {**end, "last_lines": last_lines})
        print(f"{step}: {state} after {end['seconds']:.0f} s", flush=True)
        write_summary(asked.output)
    return True


def write_summary(output: Path) -> dict[str, Any]:
    """What there is so far, condensed."""
    found = summary(read_records(output / "gpu.jsonl"))
    text = json.dumps(found, indent=1) + "\n"
    (output / "summary.json").write_text(text, encoding="utf-8")
    return found


def append(path: Path, record: dict[str, Any]) -> None:
    """Write a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def a_limit(text: str) -> tuple[str, float]:
    """STEP=SECONDS."""
    step, _, seconds = text.partition("=")
    if step not in WHAT:
        raise argparse.ArgumentTypeError(f"there is no step {step!r}")
    return step, float(seconds)


def arguments() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--plan", action="store_true", help="print the steps, and run nothing")
    add("--call", type=int, choices=CALLS, help="run the steps of this call")
    add("--only", metavar="STEP", choices=WHAT, action="append", help="run this step")
    add("--output", type=Path, help="a folder for gpu.jsonl, gpu.log and summary.json")
    add(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only try that all steps run"
    )
    add("--data", type=Path, help="questions in SQuAD's format; without it, the tests' few")
    add("--cache", type=Path, help="for compiled kernels; without it, OUTPUT-cache")
    add("--limit", type=a_limit, action="append", default=[], metavar="STEP=SECONDS")
    add("--variant", action="append", default=[], metavar="PATTERN", help="only these")
    add("--seeds", type=int, default=5, help="inputs of each variant")
    add("--seed", type=int, help="only this one")
    found = parser.parse_args()
    if not found.plan:
        if (found.call is None) == (not found.only):
            parser.error("one of --plan, --call and --only is needed")
        if found.output is None:
            parser.error("--output is needed")
        if found.device == "cpu" and RESULTS in (
            found.output.resolve(),
            *found.output.resolve().parents,
        ):
            parser.error("what a CPU gives is no result: --output must not be in bench/results")
    return found


def main() -> None:
    """Run what was asked for; exit with 1 if something is wrong, with 2 if nothing could be run."""
    asked = arguments()
    if asked.plan:
        print_plan()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked.output.mkdir(parents=True, exist_ok=True)
    results = asked.output / "gpu.jsonl"
    append(results, {"step": "run", "date": time.strftime("%Y-%m-%d"), "call": asked.call})
    try:
        with tempfile.TemporaryDirectory() as folder:
            stage(Path(folder))
            if not run_steps(asked, Path(folder)):
                print(
                    "error: PyTorch finds no CUDA GPU; --device cpu tries the steps",
                    file=sys.stderr,
                )
                sys.exit(2)
    finally:
        found = write_summary(asked.output)
        print(*lines(found), sep="\n", flush=True)
    steps = found["steps"].values()
    wrong = [x for records in found["results"].values() for x in records if is_bad(x)]
    if wrong or any(step["state"] != "done" for step in steps):
        sys.exit(1)


if __name__ == "__main__":
    main()
