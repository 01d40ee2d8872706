"""Exact match, F1, thresholds and curves, against the rules of the official scripts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qa_fast
from qa_fast.evaluation.metrics import Scored, Scores, totals_of_squad2
from qa_fast.evaluation.normalizers import LANGUAGES, make_normalizer
from qa_fast.evaluation.suites.registry import choose_suite
from qa_fast.evaluation.thresholds import (
    apply_threshold,
    average_precisions,
    precision_recall,
    threshold_curve,
)

from ..helpers import scripts_of_squad as scripts
from ..helpers.strategies import budget

DATA = Path(__file__).parents[1] / "recorded"
SAMPLE = DATA / "squad2_sample.json"


def load(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def with_average_precisions(found: qa_fast.Evaluation) -> dict[str, float]:
    """The totals with those that the script has where it draws curves."""
    return {**found.metrics, **average_precisions(found.precision_recall)}


# --- the official figures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "options"),
    [
        ("without -n", {}),
        ("-t 1.0", {"na_prob": DATA / "squad2_sample_na.json"}),
        ("-t -10", {"na_prob": DATA / "squad2_sample_na.json", "na_prob_thresh": -10.0}),
    ],
)
def test_figures_of_the_official_script(run: str, options: dict[str, Any]) -> None:
    found = qa_fast.evaluate(SAMPLE, DATA / "squad2_sample_pred.json", **options).metrics
    expected = load("squad2_sample_scores.json")[run]
    expected = {key: value for key, value in expected.items() if not key.startswith("pr_")}
    assert list(found) == list(expected)
    # The last digit of a sum depends on the version of Python, in the script as well.
    assert found == pytest.approx(expected, rel=1e-14)


def test_to_the_last_digit() -> None:
    predictions, na = load("squad2_sample_pred.json"), load("squad2_sample_na.json")
    for threshold in (1.0, -9.0, -12.0):
        found = qa_fast.evaluate(SAMPLE, predictions, na_prob=na, na_prob_thresh=threshold)
        expected = scripts.evaluate_2(load(SAMPLE.name), predictions, na, threshold)
        assert with_average_precisions(found) == expected


# --- against the oracle -------------------------------------------------------------------------

WORDS = ["the", "The", "a", "An", "theatre", "us", "U.S.", "U.S", "1,000", "1000", "x-ray", "xray"]
WORDS += [
    "«Haus»",
    "das",
    "the–end",
    "ÉCOLE",
    "école",
    "İ",
    "ß",
    "SS",
    "a\u00a0b",
    "$5",
    "_a_",
    "!",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
EXAMPLES = st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=12)


def squad(golds: list[list[str]]) -> dict[str, Any]:
    """A SQuAD file of questions "0", "1", ... with these gold answers."""
    qas = [
        {
            "id": str(i),
            "question": "Who?",
            "answers": [{"text": text, "answer_start": 0} for text in texts],
        }
        for i, texts in enumerate(golds)
    ]
    return {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": qas}]}]}


def rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    qas = data["data"][0]["paragraphs"][0]["qas"]
    return [{"context": "c", **qa} for qa in qas]


@budget(150)
@given(EXAMPLES, st.data())
def test_rules_of_2(examples: list[tuple[str, list[str]]], draw: Any) -> None:
    data = squad([golds for _, golds in examples])
    ids = draw.draw(st.permutations(range(len(examples))))  # the order of ids decides about ties
    values = st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.9, 2.0])
    na = {str(i): draw.draw(values) for i in ids}
    predictions = {str(i): text for i, (text, _) in enumerate(examples)}
    for threshold in (0.4, 1.0):
        found = qa_fast.evaluate(rows(data), predictions, na_prob=na, na_prob_thresh=threshold)
        expected = scripts.evaluate_2(data, predictions, na, threshold)
        assert with_average_precisions(found) == expected


@budget(100)
@given(EXAMPLES)
def test_rules_of_1(examples: list[tuple[str, list[str]]]) -> None:
    data = squad([golds or ["x"] for _, golds in examples])
    predictions = {str(i): text for i, (text, _) in enumerate(examples)}
    found = qa_fast.evaluate(rows(data), predictions, rules="1.1")
    assert found.metrics == scripts.evaluate_1(data, predictions)


@pytest.mark.parametrize("language", [code for code in LANGUAGES if code != "ar"])
@budget(100)
@given(text=st.text(alphabet="aAdnthelsoiuóáß $–«»।،。？、的分308_ \t", max_size=30))
def test_mlqa_normalization_of_any_text(language: str, text: str) -> None:
    assert make_normalizer("mlqa", language)(text) == scripts.mlqa_normalize(language)(text)


@budget(100)
@given(text=st.text(alphabet="الكتبم ،؟ x", max_size=20))
def test_mlqa_normalization_of_any_arabic_text(text: str) -> None:
    assert make_normalizer("mlqa", "ar")(text) == scripts.mlqa_normalize("ar")(text)


@pytest.mark.parametrize(
    ("name", "language", "text", "expected"),
    [
        pytest.param("squad", None, "The  U.S. — a Theatre", "us — theatre", id="squad"),
        pytest.param("squad", None, "Das «Haus»", "das «haus»", id="squad-knows-ascii-only"),
        pytest.param("mlqa", "en", "The “U.S.” — an end", "us end", id="en"),
        pytest.param("mlqa", "es", "¿Los últimos de la fila?", "últimos de fila", id="es"),
        pytest.param("mlqa", "hi", "एक घर।", "एक घर", id="hi"),
        pytest.param("mlqa", "vi", "Những con của Hà Nội", "con hà nội", id="vi"),
        pytest.param("mlqa", "de", "Der Hut des Mannes, einem", "hut mannes", id="de"),
        pytest.param("mlqa", "ar", "الكتاب، والقلم", "كتاب و قلم", id="ar"),
        pytest.param("mlqa", "zh", "丢了308 分。NFL队", "丢 了 308 分 nfl 队", id="zh"),
    ],
)
def test_normalization(name: str, language: str | None, text: str, expected: str) -> None:
    assert make_normalizer(name, language)(text) == expected


def test_the_normalizers_are_told_apart() -> None:
    rows = [{"question": "Wo?", "context": "Das Haus", "answers": ["Haus"]}]
    assert qa_fast.evaluate(rows, {"0": "das Haus"}).metrics["exact"] == 0
    mlqa = qa_fast.evaluate(rows, {"0": "das Haus"}, normalizer="mlqa", language="de")
    assert mlqa.metrics == {"exact_match": 100.0, "f1": 100.0}
    assert mlqa.settings["language"] == "de"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bleu",), "normalizer must be one of squad, mlqa; got 'bleu'"),
        (("squad", "de"), "'squad' knows no languages; got language='de'"),
        (("mlqa",), "'mlqa' needs one of its languages, en, es, hi, vi, de, ar, zh; got .*None"),
        (("mlqa", "th"), "got language='th'"),
    ],
)
def test_unknown_normalizers(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_normalizer(*arguments)


# --- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "golds", "rules", "exact", "f1"),
    [
        pytest.param("", [], "2.0", 1, 1, id="no-answer-found"),
        pytest.param("Ada", [], "2.0", 0, 0, id="no-answer-missed"),
        pytest.param("", ["Ada"], "2.0", 0, 0, id="answer-missed"),
        pytest.param("the", ["the"], "2.0", 1, 1, id="nothing-left-counts-as-no-answer"),
        pytest.param("the", ["a"], "1.1", 1, 0, id="nothing-left-has-no-f1-under-1.1"),
        pytest.param("b x b c", ["b b d"], "2.0", 0, 4 / 7, id="bag"),
        pytest.param("x", ["a x", "x y", "x"], "2.0", 1, 1, id="best-gold"),
        pytest.param(None, ["Ada"], "2.0", 0, 0, id="no-prediction"),
        pytest.param(None, [], "2.0", 0, 0, id="no-prediction-is-not-the-empty-answer"),
    ],
)
def test_scores(
    prediction: str | None, golds: list[str], rules: Any, exact: int, f1: float
) -> None:
    found = choose_suite(rules=rules).suite.score(prediction, golds)
    assert found == (exact, pytest.approx(f1))


def test_threshold_replaces_by_the_empty_answer() -> None:
    assert apply_threshold([1, 0.5, 0], [True, True, False], [True, False, False]) == [0, 1, 0]


def test_summary_of_one_kind_of_question_only() -> None:
    scored = Scored(["1"], Scores([1], [1]), [False], [True], [True])
    assert list(totals_of_squad2(scored)) == ["exact", "f1", "total"] + [
        f"NoAns_{name}" for name in ("exact", "f1", "total")
    ]


def test_curves_agree_with_every_threshold_tried_by_hand() -> None:
    rng = random.Random(0)
    has_answer = [rng.random() < 0.6 for _ in range(200)]
    empty = [rng.random() < 0.1 for _ in has_answer]
    scores = [
        float(not a) if e else rng.random() * a for a, e in zip(has_answer, empty, strict=True)
    ]
    na = [round(rng.random(), 1) for _ in has_answer]
    curve = threshold_curve(scores, na, has_answer, empty)
    assert curve.threshold.tolist() == sorted(set(na))
    for threshold, score in zip(curve.threshold, curve.score, strict=True):
        over = [p > threshold for p in na]
        # An empty prediction to an answerable question scores 0 on either side.
        final = apply_threshold(scores, over, has_answer)
        assert score == pytest.approx(100 * sum(final) / len(final))
    assert curve.best_score >= curve.score.max()
    found = precision_recall(scores, na, has_answer)
    for precision, recall, threshold in zip(
        found.precision[1:], found.recall[1:], curve.threshold, strict=True
    ):
        answered = [i for i, p in enumerate(na) if p <= threshold]
        hits = sum(scores[i] for i in answered if has_answer[i])
        assert precision == pytest.approx(hits / len(answered))
        assert recall == pytest.approx(hits / sum(has_answer))
