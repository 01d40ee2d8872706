"""Token spans in, answers as text and character offsets out.

Offsets count code points of the context as given: ``context[start:end] == answer``, always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from .chunks import Chunks, Int64

if TYPE_CHECKING:
    from tokenizers import Encoding

    from .spans import Scoring, Spans


# The tokenizer goes through a text's tokens to find a word's. Where so many words are looked up, one
# pass through all of them takes less: a long text with a long word would take time by the square.
MANY_TOKENS = 128


class Answer(TypedDict):
    """One answer.

    ``score`` is a probability, or a sum of two logits under ``scoring="logit"``; ``answer`` is
    ``context[start:end]``. The null answer ("not answerable") is ``""`` at 0 to 0.
    """

    score: float
    start: int
    end: int
    answer: str


class Reading(NamedTuple):
    """What reading one question's context gave.

    Attributes:
        answers: at most ``top_k`` answers, best first (the n-best list); empty only where the model
            rules out every span.
        null_score: score of "not answerable", the minimum over the question's chunks: a
            probability, or a sum of two logits under ``scoring="logit"``. None where the tokenizer
            adds no [CLS].
        chunks: the parts that the context was read in, at least 1.
    """

    answers: list[Answer]
    null_score: float | None
    chunks: int


def candidate_count(top_k: int, align_to_words: bool) -> int:
    """Spans to decode for ``top_k`` answers: more where several spans can become the same words.

    ``2 * top_k + 10`` is what Transformers' question-answering pipeline took, per chunk.
    """
    return 2 * top_k + 10 if align_to_words else top_k


def make_readings(
    chunks: Chunks,
    contexts: Sequence[str],
    spans: Spans,
    *,
    scoring: Scoring,
    per_chunk: bool | None = None,
    top_k: int,
    align_to_words: bool,
    handle_impossible_answer: bool,
) -> list[Reading]:
    """The readings of Q questions: of each the ``top_k`` best answers, fewer where there are no more.

    With ``scoring="probability"`` answers with the same text (but for case), wherever they stand,
    become one: the first of them, with the sum of their scores. So did Transformers'
    question-answering pipeline; the sum can exceed 1. With the other scorings the same place in the
    context counts once, with its best score.

    Args:
        chunks: C chunks of Q questions.
        contexts: the Q contexts that the chunks were made from.
        spans: spans of each chunk, or of each question, best first.
        scoring: the one that ``spans`` were decoded with.
        per_chunk: whether the rows of ``spans`` are chunks; None: with "probability" they are.
        top_k: most answers per question.
        align_to_words: widen answers to whole words, as far as the tokenizer knows words.
        handle_impossible_answer: let the null answer compete, where there is a null position.
    """
    merge = scoring == "probability"
    questions = len(contexts)
    per_chunk = merge if per_chunk is None else per_chunk
    row_question = chunks.question_id if per_chunk else np.arange(questions)
    found = spans.chunk.numpy() >= 0  # -1: fewer candidates than asked for
    chunk = spans.chunk.numpy()[found]
    question = np.repeat(row_question, found.sum(axis=1))
    low, high = chunks.context[chunk].T.astype(np.int64)
    shift = chunks.context_offset[chunk] - low
    first, last = (position.numpy()[found] + shift for position in (spans.start, spans.end))
    start, end = char_ranges(
        chunks.encodings,
        question,
        first,
        last,
        # Without merging, a word that a chunk's border cuts in two is still given whole.
        within=(low + shift, high + shift) if merge else None,
        align_to_words=align_to_words,
    )
    score = spans.score.numpy()[found].astype(np.float64)
    lowest_null = np.full(questions, np.inf)
    # fmin: a question with NaN logits has a NaN score.
    np.fmin.at(lowest_null, row_question, spans.null_score.double().numpy())
    if scoring != "logit":
        score = np.exp(score)

    best: list[dict[object, list[Any]]] = [{} for _ in range(questions)]
    for q, p, i, j in zip(
        question.tolist(), score.tolist(), start.tolist(), end.tolist(), strict=True
    ):
        text = contexts[q][i:j]
        key = text.lower() if merge else (i, j)
        mine = best[q]
        if key not in mine:
            mine[key] = [p, i, j, text]
        elif merge:
            mine[key][0] += p
        elif p > mine[key][0]:  # from another chunk
            mine[key][0] = p

    readings = []
    for by_key, null, count in zip(
        best,
        lowest_null.tolist(),
        np.bincount(chunks.question_id, minlength=questions).tolist(),
        strict=True,
    ):
        null_score = None if null == -inf else null if scoring == "logit" else exp(null)
        ranked = list(by_key.values())
        if handle_impossible_answer and null_score is not None:
            ranked.append([null_score, 0, 0, ""])
        ranked.sort(key=_SCORE, reverse=True)
        answers = [Answer(score=p, start=i, end=j, answer=text) for p, i, j, text in ranked[:top_k]]
        readings.append(Reading(answers, null_score, count))
    return readings


_SCORE = itemgetter(0)


def char_ranges(
    encodings: Sequence[Encoding],
    question: Int64,
    first: Int64,
    last: Int64,
    *,
    within: tuple[Int64, Int64] | None = None,
    align_to_words: bool,
) -> tuple[Int64, Int64]:
    """Characters [start, end) that tokens ``first`` to ``last`` of S spans' contexts stand for.

    Args:
        encodings: the whole contexts of Q questions.
        question: [S] the question of each span.
        first: [S] token index in the whole context.
        last: [S] token index in the whole context, inclusive.
        within: with ``align_to_words``, for each span the first token to which it may be widened,
            and one past the last; None for all tokens.
        align_to_words: widen to the words that the two tokens are part of. Where one of the two is
            of no word (some tokenizers know none), both keep their own characters.
    """
    number = {id(encoding): i for i, encoding in enumerate(encodings)}
    encoding = np.array([number[id(e)] for e in encodings], np.int64)[question]
    if align_to_words:
        (first_from, first_to), (last_from, last_to) = _look_up(
            _word_tokens, encodings, encoding, first, last
        )
        if within is not None:
            first_from, last_to = np.maximum(first_from, within[0]), np.minimum(last_to, within[1])
        has_words = (first_to > 0) & (last_from >= 0)
        first, last = np.where(has_words, first_from, first), np.where(has_words, last_to - 1, last)
    (start, _), (_, end) = _look_up(_chars, encodings, encoding, first, last)
    return start, end


def _word_tokens(encoding: Encoding, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """For each token the half-open range of its word's tokens; (-1, -1) where it is of none."""
    if len(tokens) < MANY_TOKENS:
        word_of, tokens_of = encoding.token_to_word, encoding.word_to_tokens
        return [
            (-1, -1) if (word := word_of(token)) is None else tokens_of(word) or (-1, -1)
            for token in tokens
        ]
    words = np.array([-1 if word is None else word for word in encoding.word_ids])
    edges = np.flatnonzero(np.diff(words, prepend=-2, append=-2))
    at = np.searchsorted(edges, tokens, side="right")
    ranges = np.stack([edges[at - 1], edges[at]], axis=1)
    ranges[words[tokens] < 0] = -1
    return list(map(tuple, ranges.tolist()))


def _chars(encoding: Encoding, tokens: Sequence[int]) -> list[tuple[int, int]]:
    return [encoding.token_to_chars(token) or (0, 0) for token in tokens]


def _look_up(
    of: Callable[[Encoding, Sequence[int]], list[tuple[int, int]]],
    encodings: Sequence[Encoding],
    encoding: Int64,
    first: Int64,
    last: Int64,
) -> tuple[Int64, Int64]:
    """``of`` each span's first and last token, each [2, S].

    The best spans of a question begin and end at few tokens, and questions share contexts: each
    token is looked up once.
    """
    keys, index = np.unique(
        np.concatenate([encoding << 32 | first, encoding << 32 | last]), return_inverse=True
    )
    number, token = keys >> 32, (keys & 0xFFFFFFFF).tolist()
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(token)]
    values: list[tuple[int, int]] = []
    for begin, end in pairwise(edges if token else ()):
        values += of(encodings[number[begin]], token[begin:end])
    found = np.array(values, np.int64).reshape(-1, 2).T[:, index.ravel()]
    return found[:, : len(first)], found[:, len(first) :]
