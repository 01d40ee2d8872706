"""Predictions and the files that hold them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import exp
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qa_fast import Prediction, read_predictions
from qa_fast.data.answers import Answer, na_prob, null_odds
from qa_fast.data.predictions import parquet_schema, write_jsonl, write_parquet, write_run_qa

BEST = Answer(score=2.5, start=3, end=6, answer="Ada")
NULL = Answer(score=-1.25, start=0, end=0, answer="")
PREDICTIONS = [
    Prediction("q1", "Ada", 3, 6, 2.5, -1.25, [BEST, NULL], 2, 0.1),
    Prediction(
        "q2", "", 0, 0, 4.0, 4.0, [{**NULL, "score": 4.0}, {**BEST, "answer": "Ādа 😀"}], 1, 1.0
    ),
    Prediction("q3", "Ada", 3, 6, 2.5, None, [BEST], 1),
    Prediction("q4", "", 0, 0, None, None, [], 1),
]


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_our_files_give_back_what_was_written(name: str, tmp_path: Path) -> None:
    write = write_parquet if name.endswith("parquet") else write_jsonl
    write(iter(PREDICTIONS), tmp_path / name)
    assert list(read_predictions(tmp_path / name)) == PREDICTIONS


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for i, prediction in enumerate(PREDICTIONS):
        write_parquet([prediction], tmp_path / f"part-{i:06d}.parquet")
    assert list(read_predictions(tmp_path)) == PREDICTIONS
    assert pq.read_schema(tmp_path / "part-000000.parquet").equals(parquet_schema())


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_files_of_before_there_was_a_probability(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        write_parquet(PREDICTIONS, path)
        pq.write_table(pq.read_table(path).drop(["probability"]), path)
    else:
        older = [{k: v for k, v in asdict(p).items() if k != "probability"} for p in PREDICTIONS]
        path.write_text("".join(json.dumps(record) + "\n" for record in older))
    expected = [replace(prediction, probability=None) for prediction in PREDICTIONS]
    assert list(read_predictions(path)) == expected


def test_the_files_of_run_qa(tmp_path: Path) -> None:
    files = write_run_qa(PREDICTIONS[:2], tmp_path / "eval_predictions.json")
    assert [file.name for file in files] == [
        "eval_predictions.json",
        "eval_nbest_predictions.json",
        "eval_null_odds.json",
        "eval_na_prob.json",
    ]
    texts, n_best, odds, probabilities = (json.loads(f.read_text("utf-8")) for f in files)
    assert texts == {"q1": "Ada", "q2": ""}
    assert odds == {"q1": -3.75, "q2": 1.5}
    assert probabilities == pytest.approx({"q1": 1 / (1 + exp(3.75)), "q2": 1 / (1 + exp(-1.5))})
    assert [entry["text"] for entry in n_best["q1"]] == ["Ada", ""]
    assert sum(entry["probability"] for entry in n_best["q1"]) == pytest.approx(1)
    assert n_best["q1"][0]["probability"] == pytest.approx(1 / (1 + exp(-3.75)))

    assert [(p.id, p.answer) for p in read_predictions(files[0])] == [("q1", "Ada"), ("q2", "")]
    first, second = read_predictions(files[1])
    rated = [
        {**answer, "probability": entry["probability"]}
        for answer, entry in zip((BEST, NULL), n_best["q1"], strict=True)
    ]
    assert (first.n_best, first.score, first.null_score) == (rated, 2.5, -1.25)
    assert (second.answer, second.null_score) == ("", 4.0)
    # Theirs is a share among the n best.
    assert (first.probability, second.probability) == (None, None)


def test_run_qa_files_without_null_scores_or_with_an_id_twice(tmp_path: Path) -> None:
    files = write_run_qa(PREDICTIONS[2:], tmp_path / "p.json", scoring="probability")
    assert [file.name for file in files] == ["p.json", "p_nbest_predictions.json"]
    n_best = json.loads(files[1].read_text())
    assert n_best["q3"][0]["probability"] == 2.5  # such scores are probabilities
    with pytest.raises(ValueError, match="id 'q1' occurs twice"):
        write_run_qa([PREDICTIONS[0], Prediction("q1", "Bob")], tmp_path / "p.json")
    files = write_run_qa([PREDICTIONS[0]] * 2, tmp_path / "twice.json")
    assert [(p.id, p.answer) for p in read_predictions(files[0])] == [("q1", "Ada")]


def test_n_best_lists_without_all_scores_have_no_probabilities(tmp_path: Path) -> None:
    record = {
        "id": "q",
        "answer": "Ada",
        "n_best": [{"answer": "Ada", "score": 1.5}, {"answer": ""}],
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    files = write_run_qa(read_predictions(tmp_path / "p.jsonl"), tmp_path / "p.json")
    entries = json.loads(files[1].read_text())["q"]
    assert [(e["text"], e["score"], e["probability"]) for e in entries] == [
        ("Ada", 1.5, None),
        ("", None, None),
    ]


def test_nbest_of_run_qa_itself(tmp_path: Path) -> None:
    """Its entries have two logits and no offsets."""
    entry = {"text": "Ada", "probability": 0.5, "start_logit": 1.0, "end_logit": 2.5}
    (tmp_path / "n.json").write_text(json.dumps({"q": [entry]}))
    (found,) = read_predictions(tmp_path / "n.json")
    assert (found.answer, found.score, found.start) == ("Ada", 3.5, None)


def test_null_odds_are_differences_of_logits() -> None:
    assert null_odds(PREDICTIONS[0]) == -3.75
    assert null_odds(PREDICTIONS[2]) is None
    probable = Prediction("q", "x", 0, 1, 0.5, 0.125, [{**BEST, "score": 0.5}])
    assert null_odds(probable, "probability") == pytest.approx(-1.3862943611)
    assert null_odds(Prediction("q", "", null_score=0.0), "probability") == 1e30
    probable.null_score = 0.0
    assert null_odds(probable, "shared") == -1e30


def test_na_prob_is_monotone() -> None:
    odds = [-1e30, -500.0, -30.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 30.0, 1e30]
    values = [na_prob(x) for x in odds]
    assert values == sorted(set(values))
    assert (values[5], values[-1]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("nope", "not JSON", id="text"),
        pytest.param("[1]", "must be an object from ids to texts; got a list", id="list"),
        pytest.param('{"q": 3}', "value of id 'q' must be a text or a list", id="number"),
        pytest.param('{"id": "q", "answer": 3}', "line 1: answer must be a text; got int", id="answer"),
        pytest.param('{"id": "q", "answer": "x"}\n{"id": "r"}', "line 2: a prediction has an id and "
                     "an answer", id="no-answer"),
        pytest.param('{"id": "q", "answer": "x"}\nnope', "line 2: not JSON", id="line"),
    ],
)  # fmt: skip
def test_files_that_hold_no_predictions(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_predictions(file))
