"""README.md and EVALUATION.md: every command and Python block is run, and prints what they say."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from ..helpers.documents import ROOT, SET_UP, Block, assert_printed, blocks, run, run_script

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "EVALUATION.md")}
README = PAGES["README.md"]
COMMAND = [sys.executable, "-c", "from qa_fast.cli import main; main()"]


def of(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{page}-line-{block.line}")
        for page, text in PAGES.items()
        for block in blocks(text)
        if block.language == language
    ]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_known_languages(page: str) -> None:
    found = blocks(PAGES[page])
    assert PAGES[page].count("```") == 2 * len(found)
    assert {block.language for block in found} == {"sh", "python", "text"}
    outputs = sum(block.output is not None for block in found)
    assert outputs == sum(block.language == "text" for block in found)


@pytest.mark.parametrize("block", of("python"))
def test_python_block_prints_what_follows_it(block: Block, folder: Path) -> None:
    assert block.output is not None
    assert_printed(run_script(block.code, folder), block.output)


@pytest.mark.parametrize("block", of("sh"))
def test_command_prints_what_follows_it(block: Block, folder: Path) -> None:
    printed = ""
    for line in block.code.splitlines():
        for part in line.split(" && "):
            if any(pattern.fullmatch(part) for pattern in SET_UP):
                continue
            words = shlex.split(part)
            stdin = b""
            if words[0] == "cat":
                assert words[2] == "|", f"line {block.line}: cannot run {part!r}"
                stdin = (ROOT / words[1]).read_bytes()
                words = words[3:]
            assert words[0].removeprefix(".venv/bin/") == "qa-fast", f"cannot run {part!r}"
            printed += run([*COMMAND, *words[1:]], stdin, folder)
    if block.output is not None:
        assert_printed(printed, block.output)


def test_example_commands_in_the_text_are_ours() -> None:
    """What stands in the running text names options that exist."""
    options = {name for text in PAGES.values() for name in re.findall(r"`(--[a-z-]+)", text)}
    commands = ("ask", "compare", "drift", "evaluate", "export", "merge", "predict")
    shown = "".join(run([*COMMAND, command, "--help"]) for command in commands)
    assert options
    assert all(option in shown for option in options)


@pytest.mark.skipif(sys.platform == "win32", reason=".ci/run is a shell script")
def test_ci_runs_the_two_commands_as_written() -> None:
    lines = [block.code.strip() for block in blocks(README) if block.language == "sh"]
    assert run(["bash", ".ci/run", "--show"]).splitlines() == lines[:2]


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_repository_exist(page: str) -> None:
    for target in set(re.findall(r"\]\(([^)#]+)", PAGES[page])):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_figures_of_runtimes_are_those_that_were_measured() -> None:
    drift = json.loads((ROOT / "bench" / "results" / "drift_cpu.json").read_text())
    names = {"PyTorch": "torch", "OpenVINO": "openvino", "ONNX Runtime": "onnx"}
    lines = re.findall(r"^\| (PyTorch|OpenVINO|ONNX Runtime) (\w+) \|(.*)\|$", README, re.MULTILINE)
    found = [f"{names[runtime]} {dtype}" for runtime, dtype, _ in lines]
    assert found == [variant["name"] for variant in drift["variants"]]
    for variant, (_, _, cells) in zip(drift["variants"], lines, strict=True):
        f1 = variant["by_answer"]["HasAns"]["f1"]
        low, high = f1["interval"]
        assert [cell.strip() for cell in cells.split("|")] == [
            f"{variant['times_as_fast']['median']:.2f}x",
            f"{variant['same_text'] / variant['questions']:.1%}",
            f"{f1['difference']:+.2f} ({low:+.2f} to {high:+.2f})",
            f"{variant['score_difference']['largest']:.2f}",
        ]


def test_the_figures_of_a_gpu_are_those_that_were_measured() -> None:
    results = json.loads((ROOT / "bench" / "results" / "gpu_h200.json").read_text())["results"]
    alone: dict[Any, dict[str, Any]] = {}
    beside: dict[Any, dict[str, float]] = {}
    for row in results["decode"]:
        key = row.get("top_k"), row.get("dtype")
        if row.get("table") == "alone" and row["chunks"] == 1_000_000:
            alone.setdefault(key, {})[row["provider"]] = row["microseconds"]
        if row.get("table") == "next to others" and row["chunks"] == 4096:
            beside.setdefault(key, {})[row["provider"]] = row["microseconds"]
    lines = re.findall(r"^\| (\d+), (float\d+) \|(.*)\|$", README, re.MULTILINE)
    assert len(lines) == 6
    for top_k, dtype, cells in lines:
        ours, floor = (alone[int(top_k), dtype][name] for name in ("ours", "memory floor"))
        peers = beside[int(top_k), dtype]
        graph = peers["ours, CUDA graph"]
        ratios = (
            f"{peers[name] / graph:,.0f}x" if peers[name] else ""
            for name in ("torch backend", "reader", "textbook")
        )
        expected = [f"{ours * 1e3:.2f}", f"{floor / ours:.0%}", *ratios]
        assert [cell.strip() for cell in cells.split("|")] == expected
    models = {(row["model"], row["provider"]): row for row in results["pipeline"] if "model" in row}
    for name, model, provider in (
        ("1 layer, 16 wide, float32", "near-free", "ours float32"),
        ("BERT-base, bfloat16", "base", "ours bfloat16"),
        ("BERT-Large, bfloat16", "large", "ours bfloat16"),
        ("BERT-Large, bfloat16, `compile=True`", "large", "ours bfloat16+compile"),
    ):
        row = models[model, provider]
        used = f"{row['utilization']:.0%}" if row["utilization"] > 0.01 else ""
        rates = (f"{row[f'{x}_per_second']:,.0f}" for x in ("questions", "chunks"))
        cells = " | ".join([name, *rates, used, f"{row['device_busy']:.0%}"])
        assert f"| {cells} |".replace("|  |", "| |") in README
