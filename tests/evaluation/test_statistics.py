"""Intervals and tests against SciPy and by hand; breakdowns; comparisons of runs."""

from __future__ import annotations

from math import comb, isnan, nan

import numpy as np
import pytest
from scipy.stats import bootstrap

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Example
from qa_fast.evaluation.breakdown import Breakdown, question_word
from qa_fast.evaluation.comparing.compare import ScoredAnswer, compare
from qa_fast.evaluation.metrics import Scores
from qa_fast.evaluation.statistics import bootstrap_means, mcnemar, mean_interval, reliability
from qa_fast.evaluation.suites.registry import choose_suite


@pytest.mark.parametrize("kind", ["exact", "f1", "differences"])
def test_intervals_are_those_of_scipy(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "exact": rng.integers(0, 2, 400).astype(float),
        "f1": rng.integers(0, 5, 400) / rng.integers(4, 9, 400),
        "differences": rng.integers(-1, 2, 400).astype(float),
    }[kind]
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=1)
    # Two draws of 9,999 resamples differ; by much less than the interval is wide.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    found = mean_interval(values)
    assert [*found] == pytest.approx([*theirs.confidence_interval], abs=0.05 * width)
    means = bootstrap_means(values, resamples=9999, seed=0)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02 * width)
    assert means.std() == pytest.approx(theirs.standard_error, rel=0.05)


def test_intervals_depend_on_the_seed_and_nothing_else() -> None:
    values = np.random.default_rng(0).random(50)
    assert mean_interval(values, seed=3) == mean_interval(values[::-1], seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)
    assert mean_interval([2.0]) == (2.0, 2.0)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (3, 9), (9, 3), (20, 20), (0, 30)])
def test_mcnemar_by_the_binomial_formula(a: int, b: int) -> None:
    tail = sum(comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b)
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))


def test_reliability_by_hand() -> None:
    confidence = [0.0, 0.1, 0.11, 0.95, 1.0, 0.5]
    right = [0, 1, 1, 1, 0, 1]
    found = reliability(confidence, right)
    assert found.total.tolist() == [2, 1, 0, 0, 1, 0, 0, 0, 0, 2]
    assert found.confidence[[0, 1, 4, 9]] == pytest.approx([0.05, 0.11, 0.5, 0.975])
    assert found.accuracy[[0, 1, 4, 9]] == pytest.approx([0.5, 1, 1, 0.5])
    assert isnan(found.accuracy[2])
    gaps = [2 * 0.45, 1 * 0.89, 1 * 0.5, 2 * 0.475]
    assert found.ece == pytest.approx(sum(gaps) / 6)


@pytest.mark.parametrize(
    ("confidence", "message"),
    [([0.5, 1.5], "got 1.5 for number 1"), ([nan], "got nan for number 0"), ([], "got none")],
)
def test_confidences_that_are_none(confidence: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1; {message}"):
        reliability(confidence, [1] * len(confidence))


# --- breakdowns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Who was it?", "who"),
        ("To whom did it go?", "who"),
        ("How much?", "how many"),
        ("How old is it?", "how"),
        ("In WHICH year did what happen?", "which"),
        ("Name the somewhat whole whereabouts.", "other"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word


def test_every_question_is_in_one_group_of_each_feature() -> None:
    contexts = ["x" * n for n in (499, 500, 999, 20_000)]
    golds = [("one", "one of three"), (), ("the", "nine " * 9), ("a b c",)]
    examples = [
        Example(str(i), question, context, answers)
        for i, (question, context, answers) in enumerate(
            zip(["Who?", "Why?", "Where?", "x?"], contexts, golds, strict=True)
        )
    ]
    predictions = [Prediction(str(i), "a", chunks=n) for i, n in enumerate((1, 2, 4, 9))]
    scores = Scores([1, 0, 0, 1], [1.0, 0.0, 0.5, 1.0])
    breakdown = Breakdown(choose_suite().suite.tokens)
    for example, prediction in zip(examples, predictions, strict=True):
        breakdown.add(example, prediction)
    found = breakdown.groups(scores, [False, True, False, False])
    labels = {feature: [group.label for group in groups] for feature, groups in found.items()}
    assert labels == {
        "answer_length": ["1", "2", "9+", "no answer"],
        "context_length": ["0-499", "500-999", "20000+"],
        "chunks": ["1", "2", "3-4", "9+"],
        "question_word": ["who", "where", "why", "other"],
    }
    for groups in found.values():
        assert sum(group.total for group in groups) == 4
        assert sum(group.f1 * group.total for group in groups) == pytest.approx(250)
    (middle,) = [group for group in found["context_length"] if group.label == "500-999"]
    assert (middle.total, middle.exact, middle.f1, middle.empty) == (2, 0, 25, 50)


def test_unknown_features_are_left_out() -> None:
    example = Example("0", "Wer war es?", "Ada", ("Ada",))
    breakdown = Breakdown(str.split)
    breakdown.add(example, None)
    found = breakdown.groups(Scores([0], [0]), [True])
    assert list(found) == ["answer_length", "context_length"]


# --- comparisons --------------------------------------------------------------------------------


def answers(exact: str, f1: float = 0.5) -> list[ScoredAnswer]:
    """One answer per character: right where it is 1."""
    return [
        ScoredAnswer(str(i), f"Q{i}?", ("Ada",), "Ada" if c == "1" else "Bob", int(c), f1 or int(c))
        for i, c in enumerate(exact)
    ]


def test_comparison_counts_what_changed() -> None:
    a, b = answers("1111000000", 0), answers("0111111100", 0)
    found = compare(a, b[::-1])
    assert (found.total, found.only_a, found.only_b) == (10, 1, 4)
    assert found.p_value == mcnemar(1, 4)
    assert (found.differences["exact"].a, found.differences["exact"].b) == (40, 70)
    gains = [100.0 * (y.exact - x.exact) for x, y in zip(a, b, strict=True)]
    assert found.differences["exact"].interval == mean_interval(gains)
    assert [x.id for x, _ in found.changed] == ["0", "4", "5", "6", "7"]
    assert all(x.id == y.id for x, y in found.changed)


def test_equal_runs() -> None:
    found = compare(answers("101"), answers("101"))
    assert (found.p_value, found.changed) == (1.0, [])
    assert found.differences["f1"].interval == (0, 0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("11", "1", "same questions; 1 are in one of them only, the first '1'"),
        ("1", "11", "same questions; 1 are in one of them only, the first '1'"),
        ("", "", "the runs have no questions"),
    ],
)
def test_runs_on_different_questions(a: str, b: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(answers(a), answers(b))
