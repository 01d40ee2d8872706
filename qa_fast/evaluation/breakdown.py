"""Scores by kind of question: where a model is good, and where it is not."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

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


class _Ranges:
    """Whole numbers told apart by the range that they are in.

    Args:
        first: where each range begins.
    """

    def __init__(self, *first: int) -> None:
        labels = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in pairwise(first)]
        self.labels = (*labels, f"{first[-1]}+", NO_ANSWER)
        self._first = first

    def place(self, number: int | None) -> int:
        """The place of the number's range among the labels; the last one of a number below all."""
        place = bisect_right(self._first, -1 if number is None else number) - 1
        return place if place >= 0 else len(self._first)


_ANSWER_LENGTHS = _Ranges(1, 2, 3, 5, 9)
_CONTEXT_LENGTHS = _Ranges(0, 500, 1000, 2000, 5000, 20000)
_CHUNKS = _Ranges(1, 2, 3, 5, 9)


class Breakdown:
    """Tells questions apart, one by one, by each of several features.

    Args:
        tokens: what F1 counts of an answer; it tells how long one is.

    Example:
        >>> breakdown = Breakdown(str.split)
        >>> breakdown.add(Example("a", "Who was it?", "It was Ada.", ("Ada",)), None)
        >>> groups = breakdown.groups(Scores([1], [1.0]), [False])
        >>> groups["question_word"]
        [Group(label='who', total=1, exact=100.0, f1=100.0, empty=0.0)]
    """

    def __init__(self, tokens: Callable[[str], Sequence[str]]) -> None:
        self._length = lru_cache(1 << 14)(lambda text: len(tokens(text)))
        # [Q] the place of each question's label, by the feature.
        self._places = {feature: array("b") for feature in FEATURES}

    def add(self, example: Example, prediction: Prediction | None) -> None:
        """Take a question into account."""
        lengths = map(self._length, example.answers or ())
        length = min(filter(None, lengths), default=None)
        chunks = None if prediction is None else prediction.chunks
        places = self._places
        places["answer_length"].append(_ANSWER_LENGTHS.place(length))
        places["context_length"].append(_CONTEXT_LENGTHS.place(len(example.context)))
        places["chunks"].append(-1 if chunks is None else _CHUNKS.place(chunks))
        places["question_word"].append(_QUESTION_WORDS.index(question_word(example.question)))

    def take(self, rows: Sequence[int]) -> None:
        """Go on with the questions ``rows`` only, in that order."""
        for feature, places in self._places.items():
            self._places[feature] = array("b", [places[row] for row in rows])

    def groups(self, scores: Scores, empty: Sequence[bool]) -> dict[str, list[Group]]:
        """Scores of the Q questions by each feature; a feature that is not known is left out.

        Args:
            scores: theirs.
            empty: [Q] whether the answer that was scored is the empty one.

        Returns:
            By the feature, its groups that have questions, in their natural order.
        """
        labels: dict[str, Sequence[str]] = {
            "answer_length": _ANSWER_LENGTHS.labels,
            "context_length": _CONTEXT_LENGTHS.labels,
            "chunks": _CHUNKS.labels,
            "question_word": _QUESTION_WORDS,
        }
        columns = [np.asarray(column, np.float64) for column in (*scores, empty)]
        found = {}
        for feature, places in self._places.items():
            place = np.frombuffer(places, np.int8)
            if feature == "chunks" and (place < 0).any():
                continue
            # Where no question has one of them, the questions are not in English.
            if feature == "question_word" and (place == len(_QUESTION_WORDS) - 1).all():
                continue
            found[feature] = _groups(place, labels[feature], columns)
        return found


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


def _groups(
    place: npt.NDArray[np.int8], labels: Sequence[str], columns: Sequence[npt.NDArray[np.float64]]
) -> list[Group]:
    total = np.bincount(place, minlength=len(labels)).tolist()
    sums = [np.bincount(place, column, len(labels)).tolist() for column in columns]
    return [
        Group(label, count, *(100 * of_all / count for of_all in of_label))
        for label, count, *of_label in zip(labels, total, *sums, strict=True)
        if count
    ]
