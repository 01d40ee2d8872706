"""Sound files of every kind and what the command line says, for the tests that break files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner, Result

from qa_fast import Prediction
from qa_fast.cli import app
from qa_fast.data.predictions import write_parquet

ROWS = [
    {
        "id": f"q{i}",
        "question": "Who wrote it?",
        "context": f"Ada wrote note {i}.",
        "answers": ["Ada"],
    }
    for i in range(6)
]
PREDICTIONS = [Prediction(row["id"], "Ada", 0, 3, 2.0, -1.0, probability=0.5) for row in ROWS]
OUTPUTS = ["answers", "a.parquet", "a.jsonl", "predictions.json"]


def qa_fast(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    """The files below ``folder``; manifests have times in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("manifest.json")
    }


def told(result: Result) -> str:
    """The one line of a run that could not go on."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("qa-fast: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- sound files --------------------------------------------------------------------------------


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def squad(rows: list[Any]) -> bytes:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [{**row, "answers": [{"text": "Ada", "answer_start": 0}]}],
        }
        for row in rows
    ]
    return json.dumps({"data": [{"paragraphs": paragraphs}]}).encode()


def csv(rows: list[Any]) -> bytes:
    lines = [f'{r["id"]},{r["question"]},"{r["context"]}",{r["answers"][0]}' for r in rows]
    return "\n".join(["id,question,context,answers", *lines, ""]).encode()


def parquet(rows: list[Any] | dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pylist(rows)
    pq.write_table(table, sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def texts(_: object) -> bytes:
    return json.dumps({p.id: p.answer for p in PREDICTIONS}).encode()


def na_prob(_: object) -> bytes:
    return json.dumps({p.id: 0.25 for p in PREDICTIONS}).encode()


def predicted(_: object) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_parquet(PREDICTIONS, Path(folder, "p.parquet"))
        return Path(folder, "p.parquet").read_bytes()
