"""The manifest's keys: which, in which order, and what becomes of those that are not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qa_fast import merge, predict
from qa_fast.engine import Engine
from qa_fast.runs.manifest import Manifest, Session, read_manifest

from ..helpers.sound_files import jsonl
from ..helpers.tiny import tiny_model, tokenizer_of

SETTINGS = {"options": {"scoring": "logit"}, "part_rows": 2, "num_shards": 1}
SESSION = {"note": None, "stages": {"forward": 0.5}, "questions": 2, "seconds": 1.0, "more": 3}


@pytest.mark.parametrize(
    "found",
    [
        pytest.param({"sessions": [], "settings": SETTINGS, "rows": None, "status": "running"},
                     id="least"),
        pytest.param({"new": {"x": [None]}, "status": "complete", "rows": 2, "rejected": 0, "seed": None,
                      "written": 2, "settings": SETTINGS, "sessions": [SESSION], "order": ["rows"],
                      "more": None, "command": None, "parts": 5}, id="not-known"),
    ],
)  # fmt: skip
def test_what_is_read_is_written_back_byte_for_byte(found: dict[str, Any], tmp_path: Path) -> None:
    path, copy = tmp_path / "manifest.json", tmp_path / "copy.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    read_manifest(path).write(copy)
    assert copy.read_bytes() == path.read_bytes()


def test_keys_that_are_set_later_come_last() -> None:
    manifest = Manifest.of(
        {"new": 1, "rows": 2, "status": "running", "settings": {}, "sessions": []}
    )
    manifest.written, manifest.status = 2, "complete"
    manifest.sessions.append(Session(seconds=1.0, questions=2, stages={}))
    assert json.dumps(manifest.to_dict()) == (
        '{"new": 1, "rows": 2, "status": "complete", "settings": {}, "sessions": '
        '[{"seconds": 1.0, "stages": {}, "questions": 2}], "written": 2}'
    )


def test_the_keys_of_a_run_and_of_its_merged_shares(tmp_path: Path) -> None:
    keys = ["status", "rows", "settings", "source", "model", "seed", "on_error", "sessions"]
    tokenizer = tokenizer_of("wordpiece")
    rows = [{"id": str(i), "question": "Who?", "context": "It was Ada."} for i in range(4)]
    data = tmp_path / "q.jsonl"
    data.write_bytes(jsonl(rows))
    engine = Engine(tiny_model(tokenizer), tokenizer)
    for index in (0, 1):
        run = predict(
            data, tmp_path / "a", model=engine, part_rows=2, num_shards=2, shard_index=index
        )
        assert list(run.manifest) == [*keys, "written", "rejected"]
    path = tmp_path / "a" / "manifest-00000-of-00002.json"
    share = json.loads(path.read_text())
    assert list(share["sessions"][0]) == [
        *("began", "seconds", "command", "device", "stages"),
        *("questions", "chunks", "tokens", "padded_tokens", "batches"),
    ]
    share["sessions"][0]["newer"] = 1
    path.write_text(json.dumps({"newer": 2, **share}))
    merged = merge(tmp_path / "a")
    assert list(merged) == ["newer", *keys, "written", "rejected", "parts"]
    assert [session.get("newer") for session in merged["sessions"]] == [1, None]
    assert merged == json.loads((tmp_path / "a" / "manifest.json").read_text())
