"""Scores by kind of question: where a model is good, and where it is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Example

from .metrics import Scores

FEATURES = {
    "answer_length": "Answer length (tokens of the shortest gold answer)",
    "context_length": "Context length (characters)",
    "chunks": "Chunks",
    "question_word": "Question word",
}
"""What questions are told apart by, and how it is called on a page."""

NO_ANSWER = "no answer"
_QUESTION_WORD = re.compile(r"\b(what|who|whom|whose|when|where|which|why|how(?: many| much)?)\b")
_QUESTION_WORDS = ("what", "who", "when", "where", "which", "why", "how", "how many", "other")


@dataclass(frozen=True, slots=True)
class Group:
    """The scores of the questions of one kind, in percent.

    Attributes:
        label: the kind, such as "3-4".
        total: how many questions.
        exact: exact match.
        f1: F1.
        empty: the share of them that was answered by the empty string.
    """

    label: str
    total: int
    exact: float
    f1: float
    empty: float


def break_down(
    examples: Sequence[Example],
    predictions: Sequence[Prediction | None],
    answers: Sequence[str],
    scores: Scores,
    tokens: Callable[[str], Sequence[str]],
) -> dict[str, list[Group]]:
    """Scores of Q questions by each of several features; a feature that is not known is left out.

    Args:
        examples: Q questions with their gold answers.
        predictions: Q predictions, or None.
        answers: Q answers that were scored.
        scores: theirs.
        tokens: what F1 counts of an answer; it tells how long one is.

    Returns:
        By the feature, its groups that have questions, in their natural order.
    """
    words = [question_word(example.question) for example in examples]
    features: dict[str, tuple[list[str], Sequence[str]]] = {
        "answer_length": _in_ranges(
            [_answer_length(example, tokens) for example in examples], (1, 2, 3, 5, 9)
        ),
        "context_length": _in_ranges(
            [len(example.context) for example in examples], (0, 500, 1000, 2000, 5000, 20000)
        ),
    }
    chunks = [None if p is None else p.chunks for p in predictions]
    if all(count is not None for count in chunks):
        features["chunks"] = _in_ranges(chunks, (1, 2, 3, 5, 9))
    # Where no question has one of them, the questions are not in English.
    if not all(word == "other" for word in words):
        features["question_word"] = (words, _QUESTION_WORDS)
    return {
        name: _score_groups(labels, order, answers, scores)
        for name, (labels, order) in features.items()
    }


def question_word(question: str) -> str:
    """The English question word of ``question``, the first where there are several.

    Example:
        >>> question_word("In how many cities is the Louvre?"), question_word("Name a city.")
        ('how many', 'other')
    """
    found = _QUESTION_WORD.search(question.lower())
    if not found:
        return "other"
    return {"whom": "who", "whose": "who", "how much": "how many"}.get(found[1], found[1])


def _answer_length(example: Example, tokens: Callable[[str], Sequence[str]]) -> int | None:
    lengths = (len(tokens(text)) for text in example.answers or ())
    return min((length for length in lengths if length), default=None)


def _in_ranges(values: Sequence[int | None], first: Sequence[int]) -> tuple[list[str], list[str]]:
    """The label of each value's range, and all labels; a range begins at each number of ``first``."""
    order = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in pairwise(first)]
    order += [f"{first[-1]}+", NO_ANSWER]
    place = np.searchsorted(first, [-1 if v is None else v for v in values], side="right") - 1
    return [NO_ANSWER if i < 0 else order[i] for i in place.tolist()], order


def _score_groups(
    labels: Sequence[str], order: Sequence[str], answers: Sequence[str], scores: Scores
) -> list[Group]:
    rows_of: dict[str, list[int]] = {label: [] for label in order}
    for i, label in enumerate(labels):
        rows_of[label].append(i)
    found = []
    for label, rows in rows_of.items():
        if rows:
            exact, f1 = (100 * sum(values[i] for i in rows) / len(rows) for values in scores)
            empty = 100 * sum(not answers[i] for i in rows) / len(rows)
            found.append(Group(label, len(rows), exact, f1, empty))
    return found
