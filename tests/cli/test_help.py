"""What the commands say of themselves, at once and all in the same way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, groupby
from pathlib import Path

import pytest
import typer
from typer.core import TyperOption
from typer.testing import CliRunner

import qa_fast
from qa_fast.cli import app

COMMANDS = ["ask", "predict", "merge", "evaluate", "compare", "drift", "export"]
PANELS = ["Input", "Output", "Answers", "Model", "Scoring", "Several processes"]
# Shared options whose help is not the same in every command, and why.
OWN_HELP = {
    "--data": "compare takes the gold answers of predictions, drift the questions to read",
    "--dtype": "graphs are written in other types than weights are run in",
    "--json": "every command prints something else",
    "--model": "evaluate takes one instead of PREDICTIONS, and has none by default",
    "--no-answer": "evaluate takes it with --model only",
    "--out-file": "evaluate writes the totals only, as the official script does",
    "--on-error": "a row cannot be answered, or cannot be scored",
    "--top-k": "the answers of predict are n-best lists",
}


def options_of(command: str) -> dict[str, TyperOption]:
    """The options of a command by their names, in the order of its help."""
    params = typer.main.get_command(app).commands[command].params
    options = [param for param in params if isinstance(param, TyperOption)]
    return {next(name for name in o.opts if name.startswith("--")): o for o in options}


def help_of(*command: str) -> str:
    env = {"COLUMNS": "120", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*command, "--help"], env=env)
    assert result.exit_code == 0
    return result.stdout


# --- all in the same way ------------------------------------------------------------------------


def test_shared_options_are_the_same_in_every_command() -> None:
    other_help = set()
    shared = 0
    for one, two in combinations(map(options_of, COMMANDS), 2):
        names = [name for name in one if name in two]
        assert names == [name for name in two if name in one]
        for name in names:
            a, b = one[name], two[name]
            assert a.rich_help_panel == b.rich_help_panel, name
            assert a.metavar == b.metavar, name
            assert (a.opts, a.secondary_opts) == (b.opts, b.secondary_opts), name
            if a.help != b.help:
                other_help.add(name)
        shared += len(names)
    assert shared >= 20
    assert other_help == set(OWN_HELP)


@pytest.mark.parametrize("command", COMMANDS)
def test_panels_come_in_one_order(command: str) -> None:
    panels = [name for name, _ in groupby(o.rich_help_panel for o in options_of(command).values())]
    assert panels == [name for name in PANELS if name in panels]
    shown = help_of(command)
    places = [shown.index(f"\u2500 {panel} \u2500") for panel in panels]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(command: str) -> None:
    shown = help_of(command)
    for name, option in options_of(command).items():
        assert f" {name} " in shown
        assert option.help, name


# --- what it says -------------------------------------------------------------------------------


def test_help_names_every_option_its_default_and_examples() -> None:
    shown = help_of("ask")
    for option in ("context", "context-text", "top-k", "max-answer-len", "no-answer", "json"):
        assert f"--{option} " in shown
    for option in ("model", "device", "max-seq-len", "doc-stride"):
        assert f"--{option} " in shown
    assert "[default: 15]" in shown
    assert 'qa-fast ask "Who wrote it?" --context notes.txt' in shown


def test_help_tells_the_exit_codes() -> None:
    shown = help_of()
    assert "Exit codes: 0 done; 1 a bug" in shown
    assert "130 stopped by Ctrl-C; 143 stopped by SIGTERM" in " ".join(shown.split())


def test_no_arguments_prints_the_help() -> None:
    result = CliRunner().invoke(app, [])
    # Which one is Typer's choice, and differs from version to version.
    assert result.exit_code in (0, 2)
    assert "Usage: " in result.output
    assert "error:" not in result.output


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"qa-fast {qa_fast.__version__}\n")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--version", f"qa-fast {qa_fast.__version__}\n"),
        ("--help", "Usage: qa-fast [OPTIONS] COMMAND"),
    ],
)
def test_the_package_runs_as_the_command(option: str, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qa_fast", option],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


# --- at once ------------------------------------------------------------------------------------

RUN = ["predict", "rows.jsonl", "-o", "answers"]
MISTAKES = [
    (["ask", "", "-c-"], "the question is empty"),
    (["evaluate", "gold.json"], "either PREDICTIONS or --model is needed; neither was given"),
    (["evaluate", "gold.json", "p.json", "--no-answer"], "are for --model, which was not given"),
    (
        ["drift", "model"],
        "nothing to hold against the model: give a variant, by --backend, --dtype or",
    ),
    (["drift", "--variant", "tpu:int8"], "a backend of torch, openvino, onnx, or a folder; got"),
    ([*RUN, "--top-k", "0"], "Invalid value for '--top-k'"),
    ([*RUN, "--num-workers", "-1"], "Invalid value for '--num-workers'"),
    ([*RUN, "--num-workers", "2", "--ray", "local"], "--num-workers cannot be used with --ray"),
    ([*RUN, "--num-shards", "2"], "--num-shards and --shard-index go together: give both"),
    ([*RUN, "--shard-index", "0"], "--num-shards and --shard-index go together: give both"),
    ([*RUN, "--concurrency", "2"], "--concurrency is of use with --ray only"),
    (
        [*RUN, "--ray", "local", "--batch-size", "8", "--shard-index", "0", "--split", "dev"],
        "error: --split, --shard-index, --batch-size cannot be used with --ray",
    ),
]


def run_light(args: Sequence[str]) -> tuple[int, str]:
    """The exit code and standard error of a command that loads nothing heavy."""
    code = f"""
import sys
from qa_fast.cli import main
sys.argv = ["qa-fast", *{args}]
try:
    main()
finally:
    print("loaded", [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert "loaded []" in done.stdout
    return done.returncode, done.stderr


@pytest.mark.parametrize("args", [["--help"], ["ask", "--help"], ["--version"]])
def test_help_answers_without_loading_torch(args: list[str]) -> None:
    assert run_light(args) == (0, "")


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=lambda value: str(value)[-30:])
def test_mistakes_answer_without_loading_torch(args: list[str], message: str) -> None:
    code, told = run_light(args)
    assert (code, told.count("\n")) == (2, 1)
    assert message in told
