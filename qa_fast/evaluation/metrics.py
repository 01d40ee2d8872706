"""Exact match and F1 as the scripts of SQuAD 1.1, SQuAD 2.0 and MLQA define them.

Both compare normalized answers: lower case, no punctuation, no articles, single spaces. Exact match
is 1 where they are equal. F1 is the harmonic mean of precision and recall over the bag of tokens
that they share. A prediction gets its best score over the gold answers of its question. Rajpurkar
et al. 2016 (SQuAD 1.1) and 2018 (SQuAD 2.0), Lewis et al. 2020 (MLQA).

The figures equal the scripts' to the last digit, run by the same Python. Their order of additions
is therefore kept, and so is whether a score is an ``int``: since Python 3.12 ``sum`` rounds a list
that mixes ints and floats differently from a list of floats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Rules = Literal["1.1", "2.0"]
"""Whose definitions count. "2.0": a question without gold answers is answered by the empty string.
"1.1" (and MLQA): every question has a gold answer."""


class Scores(NamedTuple):
    """Scores of Q questions between 0 and 1, as the numbers that the scripts add up."""

    exact: list[float]
    f1: list[float]


def score_answers(
    predictions: Sequence[str | None],
    golds: Sequence[Sequence[str]],
    normalize: Callable[[str], str],
    rules: Rules = "2.0",
) -> Scores:
    """Exact match and F1 of Q predictions.

    Args:
        predictions: Q answers; None for a question without a prediction, which scores 0.
        golds: Q collections of gold answers; under "2.0" an empty one is an unanswerable question.
        normalize: from `make_normalizer`.
        rules: whose definitions.

    Raises:
        ValueError: a question without gold answers, under "1.1".

    Example:
        >>> from qa_fast.evaluation.normalizers import make_normalizer
        >>> score_answers(["the Seine", ""], [["Seine", "River Seine"], []], make_normalizer())
        Scores(exact=[1, 1], f1=[1.0, 1])
    """
    if rules == "1.1":
        for i, gold in enumerate(golds):
            if not gold:
                raise ValueError(
                    f"question {i} has no gold answer, and the rules of SQuAD 1.1 have no place for "
                    "unanswerable questions; use rules='2.0'"
                )
    token_f1 = _f1_of_1 if rules == "1.1" else _f1_of_2
    exact: list[float] = []
    f1: list[float] = []
    for prediction, gold in zip(predictions, golds, strict=True):
        if prediction is None:
            exact.append(0)
            f1.append(0)
            continue
        mine = normalize(prediction)
        texts = [normalize(text) for text in gold]
        if rules == "2.0":
            texts = [text for text in texts if text] or [""]
        exact.append(int(mine in texts))
        f1.append(max(token_f1(mine, text) for text in dict.fromkeys(texts)))
    return Scores(exact, f1)


def _f1_of_1(prediction: str, gold: str) -> float:
    """F1 of two normalized answers under SQuAD 1.1: 0 where both are empty."""
    if prediction == gold:
        return 1.0 if gold else 0
    mine, theirs = prediction.split(), gold.split()
    same = (Counter(mine) & Counter(theirs)).total() if not set(mine).isdisjoint(theirs) else 0
    if not same:
        return 0
    precision, recall = same / len(mine), same / len(theirs)
    return (2 * precision * recall) / (precision + recall)


def _f1_of_2(prediction: str, gold: str) -> float:
    """F1 of two normalized answers under SQuAD 2.0: 1 where both are empty."""
    return _f1_of_1(prediction, gold) if prediction and gold else int(prediction == gold)


# --- totals -------------------------------------------------------------------------------------


def summarize(scores: Scores, has_answer: Sequence[bool], rules: Rules = "2.0") -> dict[str, float]:
    """The totals that the scripts print, under their keys, in percent.

    Args:
        scores: of Q questions, at least one.
        has_answer: [Q] whether the question has gold answers.
        rules: "2.0" gives exact, f1 and total, and the same three under HasAns_ and NoAns_ where
            there are such questions; "1.1" gives exact_match and f1.

    Example:
        >>> summarize(Scores([1, 0], [1.0, 0.5]), [True, True], "1.1")
        {'exact_match': 50.0, 'f1': 75.0}
    """
    if rules == "1.1":
        return {"exact_match": _percent_1(scores.exact), "f1": _percent_1(scores.f1)}
    found = {}
    for prefix, wanted in (("", {True, False}), ("HasAns_", {True}), ("NoAns_", {False})):
        rows = [i for i, answerable in enumerate(has_answer) if answerable in wanted]
        if rows:
            for name, values in scores._asdict().items():
                found[prefix + name] = 100.0 * sum(values[i] for i in rows) / len(rows)
            found[prefix + "total"] = len(rows)
    return found


def _percent_1(values: Sequence[float]) -> float:
    total: float = 0
    # Without sum(), which the script of 1.1 does not use either.
    for value in values:
        total += value
    return 100.0 * total / len(values)
