"""What an evaluation suite is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import not_
from typing import Any, Protocol

from qa_fast.data.examples import Example
from qa_fast.evaluation.metrics import Figure, Normalize, Score, Scored
from qa_fast.evaluation.thresholds import PrecisionRecall

remembered = lru_cache(maxsize=1 << 14)
"""For what is made of one text: most come several times, yet not all can be kept."""


class Tally(Protocol):
    """Adds up what a suite counts over whole n-best lists, of which none is kept."""

    def add(
        self,
        id_: str,
        golds: Sequence[str],
        answers: Sequence[str],
        probabilities: Sequence[float | None],
    ) -> None:
        """Count one question: its gold answers, and its n-best list with the probabilities."""
        ...

    def totals(self) -> dict[str, Figure]:
        """The suite's totals."""
        ...

    def curve(self) -> PrecisionRecall:
        """Precision and recall of the answers, from the most probable ones down."""
        ...


@dataclass(frozen=True, slots=True)
class Suite:
    """The rules by which a suite's official script scores, under the script's own keys.

    Attributes:
        name: what it is called with.
        title: what it is called in a sentence.
        source: the repository and the path of the script that defines it.
        score: exact match and F1 of one question.
        tokens: what F1 counts of an answer: words, characters, segments.
        totals: the script's totals.
        unanswerable: whether it knows questions without an answer.
        thresholds: whether its script takes no-answer probabilities.
        skips_missing: whether its script can leave out the questions without a prediction.
        by_id: whether its script keeps scores by the id, so that of several questions with one id the
            last counts.
        is_empty: whether an answer is the empty one, as the script's thresholds see it.
        tally: where the totals are not of answers but of n-best lists, what counts them.
        check: raises a ValueError for a question that the suite cannot have.
        model_options: how its own script has a model answer, where not as `predict` does.
    """

    name: str
    title: str
    source: str
    score: Score
    tokens: Callable[[str], Sequence[str]]
    totals: Callable[[Scored], dict[str, Figure]]
    unanswerable: bool = False
    thresholds: bool = False
    skips_missing: bool = False
    by_id: bool = False
    is_empty: Callable[[str], bool] = not_
    tally: Callable[[], Tally] | None = None
    check: Callable[[Example], None] | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)


def words_of(normalize: Normalize) -> Callable[[str], list[str]]:
    """The words that `normalize` leaves of a text."""
    return lambda text: normalize(text).split()
