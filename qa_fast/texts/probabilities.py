"""How probable answers are among all spans of their question, whatever the unit of their scores.

Under ``scoring="shared"`` a score is the logarithm of such a probability: one softmax runs over the
start logits of all chunks of a question, one over the end logits. Each scoring takes some number from
the sums of a chunk's logits, the same for all its spans, which changes no order. So the best span of a
question, decoded under two of them, says by how much all its scores differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .chunks import Int64
from .places import TokenSpans

Float64 = npt.NDArray[np.float64]


class SharedScores(NamedTuple):
    """What the scores of spans of Q questions, in R rows, are under ``scoring="shared"``.

    Attributes:
        shift: [R] what to add to the scores of each row.
        null_score: [Q] the score of the null answer; -inf where no chunk has a null position.
    """

    shift: Float64
    null_score: Float64

    def of_spans(self, spans: TokenSpans) -> Float64:
        """[S] the probabilities of the spans that there are, in their order."""
        row, rank = np.nonzero(spans.chunk >= 0)
        return _probability(spans.score[row, rank] + self.shift[row])

    def of_nulls(self) -> Float64:
        """[Q] those of the null answers; 0 where there is none."""
        return _probability(self.null_score)


def shared_scores(
    spans: TokenSpans, row_question: Int64, best: Sequence[npt.NDArray[Any]]
) -> SharedScores:
    """The shared scores of spans, from the best one of each question.

    Args:
        spans: spans of R rows, best first.
        row_question: [R] the question of each row, ascending.
        best: ``score`` and ``null_score`` of a search for one span, of each question under "shared":
            [Q, 1] and [Q]. Where ``spans`` are of "probability", also those of each row under "logit":
            [R, 1] and [R]. Empty where ``spans`` are of "shared".

    Example:
        >>> score, place = np.array([[3.0, 1.0]], np.float32), np.zeros((1, 2), np.int32)
        >>> spans = TokenSpans(score, place, place, place, np.array([-2.0], np.float32))
        >>> shared = np.array([[-0.5]], np.float32), np.array([-5.5], np.float32)
        >>> shared_scores(spans, np.zeros(1, np.int64), shared).shift  # of sums of logits
        array([-3.5])
    """
    if not best:
        return SharedScores(np.zeros(len(row_question)), spans.null_score.astype(np.float64))
    score, null_score, *sums = (side.ravel().astype(np.float64) for side in best)
    total = sums[0] if sums else spans.score[:, 0].astype(np.float64)
    largest = np.full(len(score), -np.inf)
    np.fmax.at(largest, row_question, total)
    # A row without spans has nothing to be shifted.
    found = spans.chunk[:, 0] >= 0
    row, question = np.flatnonzero(found), row_question[found]
    shift = np.zeros(len(row_question))
    shift[row] = total[row] - spans.score[row, 0] + (score[question] - largest[question])
    return SharedScores(shift, null_score)


def _probability(score: Float64) -> Float64:
    return np.minimum(np.exp(score), 1.0)  # a rounded logarithm of a probability can exceed 0
