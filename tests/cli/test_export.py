"""``qa-fast export``: what it writes, says, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qa_fast.cli import app

from ..helpers.tiny import save_tiny_model, xquad

pytest.importorskip("onnx", reason="graphs are written with ONNX")
pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the graphs")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "questions.jsonl"
    lines = [
        json.dumps({"query": qa["question"], "context": paragraph["context"]})
        for paragraphs in xquad().values()
        for paragraph in paragraphs[:1]
        for qa in paragraph["qas"][:1]
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_what_it_writes_and_says(model: Path, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    arguments = ["--to", "onnx", "--calibrate", texts, "--question-column", "query"]
    done = run(model, folder, *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    sizes = {path.name for path in folder.iterdir()}
    assert {line.split()[0] for line in lines[:-2]} == {f"{folder}/{name}" for name in sizes}
    assert lines[-2].startswith("held against the original on ")
    assert lines[-1] == (
        f'use it: qa-fast ask QUESTION --context FILE --model "{folder}" --backend onnx'
    )
    again = run(model, folder, *arguments)
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr == (
        f"qa-fast: error: {folder} is there already: name a new folder, or remove it first\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tensorrt"], "Invalid value for '--to'"),
        (["--to", "onnx", "--dtype", "float16"], "Invalid value for '--dtype'"),
        (["--to", "onnx", "--split", "dev"], "--split is of use with --calibrate only"),
        (["--to", "onnx", "--calibrate", "no.jsonl"], "no.jsonl"),
        ([], "Missing option '--to'"),
    ],
)
def test_mistakes_are_a_line(
    arguments: list[str], message: str, model: Path, tmp_path: Path
) -> None:
    done = run(model, tmp_path / "graph", *arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_texts_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Who?", "context": ""}\n', encoding="utf-8")
    done = run(model, tmp_path / "graph", "--to", "onnx", "--calibrate", path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "empty" in done.stderr
    path.write_text("\n", encoding="utf-8")
    done = run(model, tmp_path / "graph", "--to", "onnx", "--calibrate", path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_model_that_is_not_there(texts: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "no", tmp_path / "graph", "--to", "onnx", "--calibrate", texts)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "cannot load the model" in done.stderr
