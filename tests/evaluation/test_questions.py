"""Data with faults: what is left out, what counts twice, and what is said of it."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import qa_fast
from qa_fast.data.answers import Prediction
from qa_fast.evaluation.results import write_results
from qa_fast.pages.examples import embedded
from qa_fast.pages.report import write_report

CONTEXT = "Lena Okoro works in Lisbon. She met Tomas Vidal in Porto in 2019."


def row(id_: str, *golds: str, **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "question": "Where?",
        "context": CONTEXT,
        "answers": [{"text": text, "answer_start": CONTEXT.find(text)} for text in golds],
        **more,
    }


GOOD = [row("a", "Lisbon"), row("b", "Porto")]
RIGHT = {"a": "Lisbon", "b": "Porto"}
BAD = [
    (row("x", answers=[0]), "answers must be texts"),
    (row("x", answers=None), "question 'x' has no gold answers in the data"),
    (row("x", "Porto", is_impossible="maybe"), "is_impossible must be true or false"),
    (row("x", "Porto", question=None), "question must be a text"),
    ("no object", "not an object with columns"),
]


@pytest.mark.parametrize(("bad", "problem"), BAD)
def test_rows_that_cannot_be_scored(bad: Any, problem: str) -> None:
    rows = [GOOD[0], bad, GOOD[1], bad]
    with pytest.raises(ValueError, match=f"row 1: {problem}.*on_error='skip' leaves such rows out"):
        qa_fast.evaluate(rows, RIGHT)
    predictions = {**RIGHT, "x": "Porto"}
    found = qa_fast.evaluate(rows, predictions, on_error="skip")
    assert found.metrics["total"] == 2
    assert found.metrics["exact"] == 100
    assert found.notes[0].startswith("2 of 4 rows cannot be scored and are left out, the first is ")
    assert problem in found.notes[0]
    # The prediction of a row that was left out is not one too many, if its id is known.
    of_none = [note for note in found.notes if "of no question" in note]
    assert len(of_none) == (not isinstance(bad, dict) or bad["question"] is None)


def test_unanswerable_questions_can_be_left_out_of_a_suite_that_has_none() -> None:
    rows = [GOOD[0], row("n"), GOOD[1]]
    with pytest.raises(ValueError, match="question 'n' is unanswerable, which SQuAD"):
        qa_fast.evaluate(rows, RIGHT, suite="squad1")
    found = qa_fast.evaluate(rows, RIGHT, suite="squad1", on_error="skip")
    assert found.metrics == {"exact_match": 100, "f1": 100}


def test_no_row_is_left() -> None:
    for rows in ([], [BAD[0][0]]):
        with pytest.raises(ValueError, match="the data have no questions that can be scored"):
            qa_fast.evaluate(rows, RIGHT, on_error="skip")
    with pytest.raises(ValueError, match="on_error must be 'fail' or 'skip'; got 'ignore'"):
        qa_fast.evaluate(GOOD, RIGHT, on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [-1, None, "20", 20.0, float("nan"), 10**9, "here"])
def test_starts_do_not_matter(start: object) -> None:
    rows = [row("a", answers=[{"text": "Lisbon", "answer_start": start}]), GOOD[1]]
    found = qa_fast.evaluate(rows, {"a": "Lisbon", "b": "Faro"})
    assert (found.metrics["exact"], found.remarks) == (50, [])


DOUBLED = [row("a", "Lisbon"), row("b", "Porto"), row("a", "2019")]


@pytest.mark.parametrize(
    ("suite", "predictions", "expected"),
    [
        # SQuAD 1.1's script goes through the questions, that of 2.0 keeps scores by the id.
        ("squad1", {"a": "Lisbon", "b": "Porto"}, {"exact_match": 200 / 3}),
        ("squad2", {"a": "Lisbon", "b": "Porto"}, {"exact": 50, "total": 2}),
        ("squad2", {"a": "2019", "b": "Porto"}, {"exact": 100, "total": 2}),
        ("mrqa", {"a": "2019", "b": "Faro"}, {"exact_match": 50}),
        # Of predict's rows each is answered.
        ("squad1", [("a", "Lisbon"), ("b", "Porto"), ("a", "2019")], {"exact_match": 100}),
        ("squad2", [("a", "2019"), ("b", "Porto"), ("a", "Lisbon")], {"exact": 50, "total": 2}),
    ],
)
def test_an_id_that_occurs_twice(suite: str, predictions: Any, expected: dict[str, float]) -> None:
    if isinstance(predictions, list):
        predictions = [Prediction(*pair) for pair in predictions]
    found = qa_fast.evaluate(DOUBLED, predictions, suite=suite)
    assert {key: found.metrics[key] for key in expected} == pytest.approx(expected)
    last = suite != "squad1"
    assert [example.id for example in found.examples] == (["a", "b"] if last else ["a", "b", "a"])
    (remark,) = found.remarks
    how = "the last one counts" if last else "each one counts"
    assert "1 of 3, first of 'a'" in remark
    assert how in remark


def test_no_answer_probabilities_of_an_id_that_occurs_twice() -> None:
    rows = [row("a"), row("b", "Porto"), row("a")]
    found = qa_fast.evaluate(rows, {"a": "Lisbon", "b": "Porto"}, na_prob={"b": 0.1, "a": 0.9})
    assert found.na_prob == [0.9, 0.1]
    assert found.metrics["best_exact"] == 100


def test_what_the_data_say_is_told_everywhere(tmp_path: Path) -> None:
    rows = [
        row("a", answers=[{"text": "Lisbon", "answer_start": 3}]),
        row("b", answers=[{"text": "Faro", "answer_start": 3}], is_impossible="TRUE"),
        row("c", is_impossible=0, question=" "),
    ]
    found = qa_fast.evaluate(rows, {"a": "Lisbon", "b": "Faro", "c": ""})
    assert [line.split(":")[0] for line in found.remarks] == [
        "gold answers that do not stand where they should start",
        "gold answers that are nowhere in their context",
        "answerable questions without a gold answer in the context",
        "questions with gold answers whose is_impossible says that there are none",
        "questions without gold answers whose is_impossible says that there are some",
        "questions that are empty",
    ]
    assert found.metrics["exact"] == 100
    results, _ = write_results(found, tmp_path, name="x")
    assert json.loads(results.read_text())["remarks"] == found.remarks
    write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "What the data say about themselves" in page
    assert "gold answers that are nowhere in their context: 1 of 2" in page
    # The mark is where the answer stands, not where it should.
    (first, *_) = embedded(found, [0])["rows"][0]["golds"]
    assert (first["start"], first["end"]) == (20, 26)


def test_packed_data_and_predictions(tmp_path: Path) -> None:
    data, answers = tmp_path / "data.jsonl.gz", tmp_path / "predictions.json.gz"
    data.write_bytes(gzip.compress("\n".join(map(json.dumps, GOOD)).encode()))
    answers.write_bytes(gzip.compress(json.dumps(RIGHT).encode()))
    assert qa_fast.evaluate(data, answers).metrics["exact"] == 100


def test_answers_that_were_not_given_are_scored_after_those_that_were() -> None:
    """In any order, and where many are kept out of memory."""
    rows = [row(str(i), "Lisbon", context=f"{i} {CONTEXT * 400}") for i in range(1000)]
    predictions = {str(i): "Lisbon" if i % 4 else "x" for i in reversed(range(1000))}
    found = qa_fast.evaluate(rows, predictions)
    assert found.metrics["exact"] == 75
    assert [example.id for example in found.examples[::100]] == [
        str(i) for i in range(0, 1000, 100)
    ]
    assert found.answers[:3] == ["x", "Lisbon", "Lisbon"]


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    data, answers = tmp_path / "data.jsonl", tmp_path / "answers.jsonl"
    with data.open("w") as rows, answers.open("w") as predictions:
        for i in range(1500):  # 45 MB
            rows.write(json.dumps(row(str(i), "Lisbon", context=f"{i} {CONTEXT * 460}")) + "\n")
            best = {"answer": "Lisbon", "score": 1.0}
            predictions.write(json.dumps({"id": str(i), **best, "n_best": [best] * 20}) + "\n")
    qa_fast.evaluate(GOOD, RIGHT)
    tracemalloc.start()
    assert qa_fast.evaluate(data, answers).metrics["exact"] == 100
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25_000_000
