"""The answers of Transformers' run_qa example: n-best lists, and null answers among them.

They are arrays over many examples, in the same order and with the same ties as run_qa's own lists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qa_fast.texts.chunks import Int64

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

EMPTY = "empty"
"""The text that run_qa gives where no answer has any."""


class NBest(NamedTuple):
    """The n-best lists of Q examples, [Q, n] each; ``valid`` is False past the end of a list.

    A span has the characters ``start`` to ``end`` of its example's context.
    """

    valid: Bool
    score: Float32
    start_logit: Float32
    end_logit: Float32
    start: Int64
    end: Int64

    @classmethod
    def of_scores(cls, valid: Bool, score: Float32) -> NBest:
        """Lists with these scores, whose other fields are 0 and wait to be filled."""
        start_logit, end_logit = np.zeros((2, *score.shape), np.float32)
        start, end = np.zeros((2, *score.shape), np.int64)
        return cls(valid, score, start_logit, end_logit, start, end)

    def ordered(self, ranks: Int64) -> NBest:
        """The lists with the spans of numbers ``ranks``, [Q, m], in this order."""
        fields: Any = (np.take_along_axis(field, ranks, axis=1) for field in self)
        return NBest(*fields)


class NullAnswers(NamedTuple):
    """The null answers of Q examples, [Q] each; 0 for an example without features."""

    exists: Bool
    score: Float32
    start_logit: Float32
    end_logit: Float32

    def of(self, examples: Int64) -> NullAnswers:
        """Those of some examples."""
        fields: Any = (field[examples] for field in self)
        return NullAnswers(*fields)


def lowest_null_answers(
    start: Float32, end: Float32, example_of: Int64, examples: int
) -> NullAnswers:
    """Per example the null answer of the feature with the lowest score, the first of equals.

    Args:
        start: [C] start logits of the features' null answers.
        end: [C] their end logits.
        example_of: [C] the example of each feature.
        examples: Q.
    """
    score = start + end
    order = np.lexsort((score, example_of))
    place = np.searchsorted(example_of[order], np.arange(examples + 1))
    exists = place[:-1] < place[1:]
    chosen = order[place[:-1][exists]]
    null = NullAnswers(exists, *(np.zeros(examples, np.float32) for _ in range(3)))
    for field, values in zip(null[1:], (score, start, end), strict=True):
        field[exists] = values[chosen]
    return null


def with_null_answers(nbest: NBest, null: NullAnswers) -> NBest:
    """The lists with the null answer in its rank, after spans of the same score, or else last.

    It is put last where it has not made the list, unless a span has its offsets, (0, 0).
    """
    most = nbest.score.shape[1]
    ahead = (nbest.valid & (nbest.score >= null.score[:, None])).sum(axis=1)
    place = np.arange(most + 1)
    source = place - (place > ahead[:, None])
    fields: Any = [np.pad(field, ((0, 0), (0, 1))) for field in nbest]
    longer = NBest(*fields).ordered(source)
    row = np.arange(len(ahead))
    values: Any = *null, 0, 0
    arrays: tuple[Any, ...] = longer
    for array, value in zip(arrays, values, strict=True):
        array[row, ahead] = value
    at_origin = (nbest.valid & (nbest.start == 0) & (nbest.end == 0)).any(axis=1)
    longer.valid[:, -1] &= (ahead == most) & ~at_origin
    return longer


def best_answers(
    nbest: NBest, null: NullAnswers, contexts: list[str], version_2_with_negative: bool
) -> tuple[list[str], Bool, Float32]:
    """The best answer of each example, whether it has one, and the null score less its score.

    run_qa takes an answer without text only if it cannot be the null answer and others follow it.
    """
    has_text = nbest.valid & (nbest.end > nbest.start)
    found = has_text.sum(axis=1) > 0
    best = has_text.argmax(axis=1)
    if not version_2_with_negative:
        found |= nbest.valid.sum(axis=1) > 1
        best[:] = 0
    at = np.arange(len(contexts)), best
    texts = [
        context[begin:stop] if some else EMPTY
        for context, begin, stop, some in zip(
            contexts, nbest.start[at].tolist(), nbest.end[at].tolist(), found.tolist(), strict=True
        )
    ]
    odds = np.where(found, null.score - nbest.start_logit[at] - nbest.end_logit[at], null.score)
    return texts, found, odds
