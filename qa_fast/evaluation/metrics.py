"""Exact match and F1 as the scripts of SQuAD 1.1 and 2.0 define them, and what other suites' build on.

Answers are compared in a normal form; SQuAD's is lower case, no punctuation, no articles, single spaces.
Exact match is 1 where the forms are equal. F1 is the harmonic mean of precision and recall over the bag
of tokens that they share: words, or characters. A prediction gets its best score over the gold answers
of its question. Rajpurkar et al. 2016 (SQuAD 1.1) and 2018 (SQuAD 2.0).

The figures equal the scripts' to the last digit, run by the same Python. Their order of additions
is therefore kept, and so is whether a score is an ``int``: since Python 3.12 ``sum`` rounds a list
that mixes ints and floats differently from a list of floats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

Normalize = Callable[[str], str]
Score = Callable[[str | None, Sequence[str]], tuple[float, float]]
"""From an answer, None where there is none, and the gold answers: exact match and F1, from 0 to 1."""


class Scores(NamedTuple):
    """Scores of Q questions between 0 and 1, as the numbers that the scripts add up."""

    exact: list[float]
    f1: list[float]


class Scored(NamedTuple):
    """What is kept of Q questions that were scored: little of each.

    Attributes:
        ids: [Q].
        scores: [Q].
        has_answer: [Q] whether the question has gold answers.
        predicted: [Q] whether there is a prediction.
        empty: [Q] whether there is none, or the empty one.
    """

    ids: Sequence[str]
    scores: Scores
    has_answer: Sequence[bool]
    predicted: Sequence[bool]
    empty: Sequence[bool]


class Figure(NamedTuple):
    """A total.

    Attributes:
        value: the number that the script prints.
        samples: of which scores, between 0 and 1, it is the mean; of several lists the mean of their
            means. None where it is no such mean.
    """

    value: float
    samples: Sequence[Sequence[float]] = ()


# --- one question -------------------------------------------------------------------------------


def best_of_golds(
    normalize: Normalize, f1: Callable[[str, str], float], *, unanswerable: bool = False
) -> Score:
    """The scoring of one question by its best gold answer.

    Args:
        normalize: the form in which answers are compared.
        f1: of two answers in that form.
        unanswerable: as in SQuAD 2.0: gold answers of which the form leaves nothing are dropped, and
            without any the empty answer is the right one.

    Example:
        >>> score = best_of_golds(str.lower, words_f1)
        >>> score("The Seine", ["seine", "the river seine"]), score(None, ["Seine"])
        ((0, 0.8), (0, 0))
    """

    def score(prediction: str | None, golds: Sequence[str]) -> tuple[float, float]:
        if prediction is None:
            return 0, 0
        mine = normalize(prediction)
        texts = [normalize(text) for text in golds]
        if unanswerable:
            texts = [text for text in texts if text] or [""]
        return int(mine in texts), max(f1(mine, text) for text in dict.fromkeys(texts))

    return score


def words_f1(prediction: str, gold: str) -> float:
    """F1 over words, of SQuAD 1.1: 0 where both answers are empty."""
    if prediction == gold:
        return 1.0 if gold.split() else 0
    mine, theirs = prediction.split(), gold.split()
    once, once_there = set(mine), set(theirs)
    same = len(once & once_there)
    # Where no word comes twice in one of the two, each shared one counts once.
    if same and len(once) < len(mine) and len(once_there) < len(theirs):
        same = (Counter(mine) & Counter(theirs)).total()
    return harmonic_mean(same, len(mine), len(theirs))


def words_f1_or_none(prediction: str, gold: str) -> float:
    """F1 over words, of SQuAD 2.0: 1 where both answers are empty."""
    return words_f1(prediction, gold) if prediction and gold else int(prediction == gold)


def characters_f1(prediction: str, gold: str) -> float:
    """F1 over all characters: 0 where both answers are empty."""
    if prediction == gold:
        return 1.0 if gold else 0
    both = set(prediction).intersection(gold)
    same = sum([min(prediction.count(c), gold.count(c)) for c in both])
    return harmonic_mean(same, len(prediction), len(gold))


def harmonic_mean(same: int, mine: int, theirs: int) -> float:
    """F1 where ``same`` tokens are shared, of ``mine`` and ``theirs``; 0 where none is."""
    if not same:
        return 0
    precision, recall = same / mine, same / theirs
    return (2 * precision * recall) / (precision + recall)


# --- totals -------------------------------------------------------------------------------------


def totals_of_squad1(scored: Scored) -> dict[str, Figure]:
    """The totals of SQuAD 1.1's script, in percent: exact_match and f1."""
    exact, f1 = scored.scores
    return {"exact_match": mean_in_percent(exact), "f1": mean_in_percent(f1)}


def totals_of_squad2(scored: Scored) -> dict[str, Figure]:
    """The totals of SQuAD 2.0's script, in percent.

    They are exact, f1 and total, and the same three under HasAns_ and NoAns_ where there are such
    questions.
    """
    found = {}
    for prefix, wanted in (("", {True, False}), ("HasAns_", {True}), ("NoAns_", {False})):
        rows = [i for i, answerable in enumerate(scored.has_answer) if answerable in wanted]
        if rows:
            for name, column in scored.scores._asdict().items():
                values = [column[i] for i in rows]
                found[prefix + name] = Figure(100.0 * sum(values) / len(rows), (values,))
            found[prefix + "total"] = Figure(len(rows))
    return found


def mean_in_percent(values: Sequence[float]) -> Figure:
    """The mean of at least one score, added up in their order."""
    total: float = 0
    # Without sum(), which the script of 1.1 does not use either.
    for value in values:
        total += value
    return Figure(100.0 * total / len(values), (values,))
