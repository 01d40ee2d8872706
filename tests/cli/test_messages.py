"""Errors of the library in the words of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qa_fast.cli import app
from qa_fast.cli.ask import ask
from qa_fast.cli.evaluate import evaluate
from qa_fast.cli.messages import in_options, input_error
from qa_fast.cli.predict import predict
from qa_fast.data.errors import Argument, ArgumentError, ExampleError, OneOf
from qa_fast.data.examples import Columns, check_columns
from qa_fast.models.checkpoints import CheckpointError, Reason

LONG = ExampleError(
    1,
    "question",
    ["is too long: more than fit with ", Argument("max_seq_len", 384)],
    [
        ["raise ", Argument("max_seq_len")],
        ["set ", Argument("max_question_len"), " to have it cut"],
        "shorten the question",
    ],
)


def test_arguments_are_named_as_options() -> None:
    error = ArgumentError(Argument("null_threshold", 0.5), " needs ", Argument("scoring", "logit"))
    assert str(error) == "null_threshold=0.5 needs scoring='logit'"
    assert str(input_error(error, predict)) == "--null-threshold 0.5 needs --scoring logit"
    flags = ArgumentError(
        Argument("handle_impossible_answer", True), ", ", Argument("compile", True)
    )
    assert str(input_error(flags, predict)) == "--no-answer, --compile"


def test_what_a_command_has_no_option_for_is_named_as_in_python() -> None:
    error = ArgumentError(Argument("scoring"), " is not right")
    assert str(input_error(error, ask)) == "scoring is not right"


def test_of_several_ways_out_those_are_told_that_the_command_has() -> None:
    assert str(LONG) == (
        "question 1 is too long: more than fit with max_seq_len=384; raise max_seq_len, set "
        "max_question_len to have it cut, or shorten the question"
    )
    assert in_options(LONG.about("the question"), ask) == (
        "the question is too long: more than fit with --max-seq-len 384; raise --max-seq-len, or "
        "shorten the question"
    )
    hint = OneOf((("use ", Argument("on_error", "skip")),), before=" (", after=")")
    assert in_options(["wrong", hint], predict) == "wrong (use --on-error skip)"
    assert in_options(["wrong", hint], evaluate) == "wrong (use --on-error skip)"
    assert in_options(["wrong", hint], ask) == "wrong"


@pytest.mark.parametrize("field", ["id", "question", "context"])
def test_a_column_is_chosen_in_each_ones_words(field: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check_columns(["text"], Columns(**{field: "other"}))
    _, missing = Columns(**{field: "other"}).required()[0]
    assert str(caught.value).startswith(f"there is no column {missing!r} among ['text']; say ")
    assert "Columns(" in str(caught.value)
    assert "-column" in str(input_error(caught.value, predict))
    assert "Columns(" not in str(input_error(caught.value, predict))


def test_a_permission_is_an_option() -> None:
    error = CheckpointError(Reason("cannot load it; ", "allow_pickle", " reads pickles"))
    assert str(error) == "cannot load it; allow_pickle=True reads pickles"
    assert str(input_error(error, ask)) == "cannot load it; --allow-pickle reads pickles"


def test_a_file_is_named_with_what_to_do() -> None:
    error = FileNotFoundError(2, "No such file or directory", "dev.json")
    assert str(input_error(error, ask)) == "dev.json: no such file or directory: check the path"


def test_predict_tells_a_row_by_its_place_and_its_own_options(tmp_path: Path) -> None:
    row = {"id": "a", "question": "Who? " * 800, "context": "Ada."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    source, output = str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")
    done = CliRunner().invoke(app, ["predict", source, "-o", output, "--device", "cpu"])
    message = " ".join(done.output.split())
    assert done.exit_code == 2
    assert f"error: {source} line 1: the question is too long: it has 1600 tokens" in message
    assert "raise --max-seq-len, lower --doc-stride, or shorten the question" in message
    assert "(--on-error skip goes on and lists such rows)" in message
    assert "max_" not in message


def test_merge_tells_which_processes_are_missing_in_the_words_of_predict(tmp_path: Path) -> None:
    row = {"id": "a", "question": "Who?", "context": "It was Ada."}
    source, output = tmp_path / "rows.jsonl", str(tmp_path / "out.jsonl")
    source.write_text("".join(json.dumps({**row, "id": i}) + "\n" for i in range(4)))
    shard = ["--device", "cpu", "--part-rows", "1", "--num-shards", "2", "--shard-index", "0"]
    assert CliRunner().invoke(app, ["predict", str(source), "-o", output, *shard]).exit_code == 0
    done = CliRunner().invoke(app, ["merge", output])
    assert done.exit_code == 2
    assert "of 2 processes, those with --shard-index 1 have not finished" in done.output
