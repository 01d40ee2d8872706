"""Predictions say how probable their answer is, and what is made of it is the same at any top_k."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_fast import Prediction, evaluate, merge, pipeline, predict, read_predictions
from qa_fast.engine import Engine, Options

from ..helpers import oracle
from ..helpers.sound_files import contents, jsonl
from ..helpers.tiny import DATA, tiny_model, tokenizer_of, xquad

ROWS = [
    {"id": f"{language}{i}", "question": qa["question"], "context": p["context"]}
    for language, paragraphs in xquad().items()
    for i, (p, qa) in enumerate((p, p["qas"][0]) for p in paragraphs[:2])
]
CUT = {"max_seq_len": 128, "doc_stride": 32}


@pytest.fixture(scope="module")
def engine() -> Engine:
    tokenizer = tokenizer_of("wordpiece")
    return Engine(tiny_model(tokenizer), tokenizer)


@pytest.mark.parametrize("scoring", ["logit", "shared", "probability"])
def test_predictions_say_the_probability_of_their_answer(
    scoring: str, engine: Engine, tmp_path: Path
) -> None:
    rows = [*ROWS[:6], {"id": "short", "question": "Who?", "context": "It was Ada."}]
    asked = {"scoring": scoring, "handle_impossible_answer": True, "top_k": 3, **CUT}
    # Half of the answers are empty.
    threshold = -7.0 if scoring == "logit" else -6.0
    predict(rows, tmp_path / "a.jsonl", model=engine, null_threshold=threshold, **asked)
    found = list(read_predictions(tmp_path / "a.jsonl"))
    options = Options(**asked, max_answer_len=30, align_to_words=False)
    kinds = set()
    for prediction, row in zip(found, rows, strict=True):
        wanted = oracle.read(
            engine.model, engine.tokenizer, row["question"], row["context"], options
        )
        text, place = prediction.answer, (prediction.start, prediction.end)
        key = None if not text else text.lower() if scoring == "probability" else place
        assert prediction.probability == pytest.approx(wanted[key].probability, rel=1e-4)
        if scoring == "shared":
            assert prediction.probability == prediction.score
        kinds.add((bool(text), prediction.chunks == 1))
    assert len(kinds) > 2


def test_parquet_and_jsonl_say_the_same_and_other_settings_change_none(
    engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    known = []
    for number, (name, asked) in enumerate(
        {
            "a.parquet": {"top_k": 1},
            "b.jsonl": {"top_k": 3, "part_rows": 4},
            "c": {"top_k": 20, "part_rows": 3},
            "d.parquet": {"top_k": 2, "scoring": "shared"},
        }.items()
    ):
        output = tmp_path / str(number) / name
        output.parent.mkdir()
        predict(tmp_path / "rows.jsonl", output, model=engine, **CUT, **asked)
        known.append([(p.id, p.answer, p.probability) for p in read_predictions(output)])
    # A part is read by itself, in batches of its own: the last bits of logits hang on them.
    first = [p for _, _, p in known[0]]
    assert len(set(first)) == len(ROWS)
    for other in known[1:]:
        assert [row[:2] for row in other] == [row[:2] for row in known[0]]
        assert [p for _, _, p in other] == pytest.approx(first, rel=1e-5)
    assert known[3] == known[0]  # nor does the scoring


def test_where_no_span_can_be_the_answer_none_is_known(tmp_path: Path) -> None:
    def rules_out_all(*, input_ids: Any) -> Any:
        nothing = input_ids.float() * 0 - float("inf")
        return {"start_logits": nothing, "end_logits": nothing}

    model = Engine(rules_out_all, tokenizer_of("wordpiece"))
    predict(ROWS[:1], tmp_path / "a.jsonl", model=model)
    (found,) = read_predictions(tmp_path / "a.jsonl")
    assert found == Prediction(ROWS[0]["id"], "", 0, 0, chunks=found.chunks)


# --- what older versions wrote ------------------------------------------------------------------


def as_older(folder: Path) -> None:
    """What a run has written so far, as if by a version without probabilities."""
    for part in folder.glob("part-*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.drop(["probability"]), part)
    for path in folder.glob("manifest*.json"):
        manifest = json.loads(path.read_text())
        del manifest["settings"]["fields"]
        path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_of_an_older_version_is_not_gone_on_with(
    finished: bool, engine: Engine, tmp_path: Path
) -> None:
    """In one output some rows would have a probability and others none."""
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    arguments = {"source": tmp_path / "rows.jsonl", "output": tmp_path / "a", "model": engine}
    predict(**arguments, part_rows=4)
    as_older(tmp_path / "a")
    if not finished:
        (tmp_path / "a" / "part-000001.parquet").unlink()
        path = tmp_path / "a" / "manifest.json"
        path.write_text(path.read_text().replace('"complete"', '"running"'))
    before = contents(tmp_path)
    message = 'other settings: fields was null and is now "id, answer, .*, chunks, probability"'
    with pytest.raises(ValueError, match=message):
        predict(**arguments, part_rows=4)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["a", "a.parquet", "a.jsonl"])
def test_finished_shares_of_an_older_version_are_merged(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    rows = [{**row, "answers": ["Ada"]} for row in ROWS]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(rows))
    arguments = {"source": tmp_path / "rows.jsonl", "output": tmp_path / name, "model": engine}
    for index in (0, 1):
        predict(**arguments, part_rows=3, num_shards=2, shard_index=index)
    work = tmp_path / (name if name == "a" else f"{name}.parts")
    as_older(work)
    merge(tmp_path / name)
    found = list(read_predictions(tmp_path / name))
    assert len(found) == len(ROWS)
    assert {p.probability for p in found} == {None}
    evaluation = evaluate(rows, tmp_path / name)
    assert "answer" not in evaluation.calibration
    assert any(f"{len(rows)} of {len(rows)} predictions do not say" in n for n in evaluation.notes)


def test_shares_of_two_versions_are_not_merged(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    arguments = {"source": tmp_path / "rows.jsonl", "output": tmp_path / "a", "model": engine}
    for index in (0, 1):
        predict(**arguments, part_rows=3, num_shards=2, shard_index=index)
    path = tmp_path / "a" / "manifest-00001-of-00002.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["fields"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="its processes had different settings"):
        merge(tmp_path / "a")


# --- what is made of them -----------------------------------------------------------------------


def test_calibration_is_the_same_at_any_top_k(tmp_path: Path) -> None:
    """Of the bundled model's answers to a recorded sample."""
    sample, bundled = DATA / "squad2_sample.json", pipeline().engine
    found = {}
    for top_k in (1, 20):
        output = tmp_path / f"{top_k}.parquet"
        predict(sample, output, model=bundled, top_k=top_k, limit=24)
        found[top_k] = evaluate(sample, output, limit=24)
        schema = pq.read_schema(output)
        assert schema.field("probability").type == pa.float64()
    one, many = found[1], found[20]
    assert None not in one.confidence
    assert one.confidence == many.confidence
    assert 0.2 < sum(map(float, one.confidence)) / 24 < 0.7
    assert one.calibration["answer"].ece == many.calibration["answer"].ece
    assert one.calibration["answer"].total.sum() == 24
