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

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Rules = Literal["1.1", "2.0"]
"""Whose definitions count. "2.0": a question without gold answers is answered by the empty string.
"1.1" (and MLQA): every question has a gold answer."""

NORMALIZERS = ("squad", "mlqa")
LANGUAGES = ("en", "es", "hi", "vi", "de", "ar", "zh")
"""The languages that MLQA's script knows."""

_ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    # The script's pattern is "\sال^|ال". The first half can never match, so the article goes
    # wherever the two letters stand, inside words as well.
    "ar": "ال",
}
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE = re.compile("([\u4e00-\u9fa5])")


def make_normalizer(name: str = "squad", language: str | None = None) -> Callable[[str], str]:
    """The function that brings an answer into the form in which answers are compared.

    Args:
        name: "squad", English and ASCII punctuation only, also what XQuAD's results are reported
            with; or "mlqa", which knows all of Unicode's punctuation, the articles of ``language``,
            and for Chinese makes every character a token.
        language: of the answers; with "mlqa" only, where it is needed: en, es, hi, vi, de, ar, zh.

    Raises:
        ValueError: an unknown name or language, or a language with "squad", which has none.

    Example:
        >>> make_normalizer()("The  U.S. Army!")
        'us army'
        >>> make_normalizer("mlqa", "de")("Das «Haus» am See")
        'haus am see'
        >>> make_normalizer("mlqa", "zh")("308分")
        '308 分'
    """
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}; got {name!r}")
    if name == "squad":
        if language is not None:
            raise ValueError(
                f"the normalizer 'squad' knows no languages; got language={language!r}: leave it "
                "out, or choose the normalizer 'mlqa'"
            )
        return _normalizer(_SQUAD_PUNCTUATION, _ARTICLES["en"])
    if language not in LANGUAGES:
        raise ValueError(
            f"the normalizer 'mlqa' needs one of its languages, {', '.join(LANGUAGES)}; got "
            f"language={language!r}"
        )
    return _normalizer(_mlqa_punctuation(), _ARTICLES.get(language), language == "zh")


def _normalizer(
    punctuation: dict[int, int | None], articles: str | None, characters: bool = False
) -> Callable[[str], str]:
    pattern = re.compile(articles or r"(?!)")

    def normalize(text: str) -> str:
        text = pattern.sub(" ", text.lower().translate(punctuation))
        if characters:
            text = _CHINESE.sub(r" \1 ", text)
        return " ".join(text.split())

    return normalize


@cache
def _mlqa_punctuation() -> dict[int, int | None]:
    unicode = (i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P"))
    return {**_SQUAD_PUNCTUATION, **dict.fromkeys(unicode)}


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
    for value in values:  # not sum(), which the script of 1.1 does not use either
        total += value
    return 100.0 * total / len(values)


def apply_threshold(
    scores: Sequence[float], over: Sequence[bool], has_answer: Sequence[bool]
) -> list[float]:
    """The scores with those of the empty answer in place of each that is ``over`` the threshold."""
    return [
        float(not answerable) if is_over else score
        for score, is_over, answerable in zip(scores, over, has_answer, strict=True)
    ]


# --- thresholds ---------------------------------------------------------------------------------


class ThresholdCurve(NamedTuple):
    """The total under each threshold that a set of no-answer probabilities allows.

    Attributes:
        threshold: [T] in ascending order; a prediction counts where its no-answer probability is at
            most that, else the empty answer does.
        score: [T] the mean score in percent.
        best_score: the highest score over all prefixes of the questions by no-answer probability,
            as SQuAD 2.0's script finds it. Between questions of the same probability, too, where no
            threshold can cut: it may be higher than every one of ``score``.
        best_threshold: the probability of the last question in that prefix, 0.0 for the empty one.
    """

    threshold: Floats
    score: Floats
    best_score: float
    best_threshold: float


def threshold_curve(
    scores: Sequence[float],
    na_prob: Sequence[float],
    has_answer: Sequence[bool],
    empty: Sequence[bool],
) -> ThresholdCurve:
    """Sweep the threshold on the no-answer probability over Q questions.

    Args:
        scores: [Q] exact match or F1 of the predictions, no threshold applied.
        na_prob: [Q] higher where an answer is less likely; any scale. Equal ones stay in the given
            order, which the best threshold of SQuAD 2.0's script depends on.
        has_answer: [Q] whether the question has gold answers.
        empty: [Q] whether the prediction is the empty answer.
    """
    na, score, answerable, says_none = _by_na_prob(na_prob, scores, has_answer, empty)
    # Answering one more question: its score in place of the 0 of the empty answer where it has an
    # answer, else the loss of the 1 that the empty answer gets.
    gain = np.where(answerable == 1, score, np.where(says_none == 1, 0.0, -1.0))
    total = np.cumsum(np.concatenate([[np.count_nonzero(answerable == 0)], gain]))
    best = int(np.argmax(total))
    last = _last_of_ties(na)
    percent = 100.0 * total / len(na)
    return ThresholdCurve(
        threshold=na[last],
        score=percent[1:][last],
        best_score=float(percent[best]),
        best_threshold=float(na[best - 1]) if best else 0.0,
    )


class PrecisionRecall(NamedTuple):
    """Precision and recall, between 0 and 1, as questions are answered by rising ``na_prob``.

    Attributes:
        precision: [P] from 1 at no recall.
        recall: [P] non-decreasing from 0.
        average_precision: the area under the steps, in percent.
    """

    precision: Floats
    recall: Floats
    average_precision: float


def precision_recall(
    scores: Sequence[float], na_prob: Sequence[float], has_answer: Sequence[bool]
) -> PrecisionRecall:
    """The precision-recall curve of SQuAD 2.0's script.

    Args:
        scores: [Q] exact match or F1; or ``has_answer`` itself, for the oracle curve: how well the
            no-answer probability tells the answerable questions, were all of them answered right.
        na_prob: [Q] higher where an answer is less likely; any scale.
        has_answer: [Q] whether the question has gold answers; at least one has.
    """
    na, score, answerable = _by_na_prob(na_prob, scores, has_answer)
    true_positive = np.cumsum(np.where(answerable == 1, score, 0.0))
    last = _last_of_ties(na)
    precision = (true_positive / np.arange(1, len(na) + 1))[last]
    recall = (true_positive / np.count_nonzero(answerable))[last]
    steps = precision * np.diff(recall, prepend=0.0)
    return PrecisionRecall(
        precision=np.concatenate([[1.0], precision]),
        recall=np.concatenate([[0.0], recall]),
        average_precision=100.0 * float(np.cumsum(steps)[-1]),
    )


def _by_na_prob(na_prob: Sequence[float], *columns: Sequence[float]) -> list[Floats]:
    """``na_prob`` and the other columns, in ascending order of it; equal ones stay in order."""
    na = np.asarray(na_prob, np.float64)
    order = np.argsort(na, kind="stable")
    return [np.asarray(column, np.float64)[order] for column in (na, *columns)]


def _last_of_ties(ascending: Floats) -> Bools:
    return np.append(ascending[1:] != ascending[:-1], True)
