"""Token spans in, answers as text and character offsets out.

Offsets count code points of the context as given: ``context[start:end] == answer``, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from .chunks import Chunks

if TYPE_CHECKING:
    from .spans import Scoring, Spans


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
    top_k: int,
    align_to_words: bool,
    handle_impossible_answer: bool,
) -> list[Reading]:
    """The readings of Q questions: of each the ``top_k`` best answers, fewer where there are no more.

    With ``scoring="probability"`` the rows of ``spans`` are chunks, and answers with the same text
    (but for case), wherever they stand, become one: the first of them, with the sum of their
    scores. So did Transformers' question-answering pipeline; the sum can exceed 1. With the other
    scorings the rows are questions, and the same place in the context counts once, with its best
    score.

    Args:
        chunks: C chunks of Q questions.
        contexts: the Q contexts that the chunks were made from.
        spans: spans of each chunk, or of each question (see above), best first.
        scoring: the one that ``spans`` were decoded with.
        top_k: most answers per question.
        align_to_words: widen answers to whole words, as far as the tokenizer knows words.
        handle_impossible_answer: let the null answer compete, where there is a null position.
    """
    merge = scoring == "probability"
    questions = len(contexts)
    row_question = chunks.question_id if merge else np.arange(questions)
    score = spans.score.double()
    if scoring != "logit":
        score = score.exp()

    found: list[dict[object, Answer]] = [{} for _ in range(questions)]
    windows = _windows(chunks)
    rows = zip(
        row_question.tolist(),
        score.tolist(),
        spans.start.tolist(),
        spans.end.tolist(),
        spans.chunk.tolist(),
        strict=True,
    )
    for question, row_score, row_start, row_end, row_chunk in rows:
        encoding, context = chunks.encodings[question], contexts[question]
        for p, i, j, c in zip(row_score, row_start, row_end, row_chunk, strict=True):
            if c < 0:  # fewer candidates than asked for
                break
            shift, *window = windows[c]
            # Without merging, a word that a chunk's border cuts in two is still given whole.
            lowest, highest = window if merge else (0, len(encoding))
            start, end = char_range(
                encoding, i + shift, j + shift, lowest, highest, align_to_words=align_to_words
            )
            text = context[start:end]
            key = text.lower() if merge else (start, end)
            answer = found[question].get(key)
            if answer is None:
                found[question][key] = Answer(score=p, start=start, end=end, answer=text)
            elif merge:
                answer["score"] += p

    lowest_null = np.full(questions, np.inf)
    # fmin: a question with NaN logits has a NaN score.
    np.fmin.at(lowest_null, row_question, spans.null_score.double().numpy())
    readings = []
    for by_key, null, count in zip(
        found,
        lowest_null.tolist(),
        np.bincount(chunks.question_id, minlength=questions).tolist(),
        strict=True,
    ):
        mine = list(by_key.values())
        null_score = None if null == -inf else null if scoring == "logit" else exp(null)
        if handle_impossible_answer and null_score is not None:
            mine.append(Answer(score=null_score, start=0, end=0, answer=""))
        mine.sort(key=lambda answer: answer["score"], reverse=True)
        readings.append(Reading(mine[:top_k], null_score, count))
    return readings


def char_range(
    encoding: Any, first: int, last: int, lowest: int, highest: int, *, align_to_words: bool
) -> tuple[int, int]:
    """Characters [start, end) of a context that its tokens ``first`` to ``last`` stand for.

    Args:
        encoding: the whole context's ``tokenizers.Encoding``.
        first: token index in the whole context.
        last: token index in the whole context, inclusive.
        lowest: with ``align_to_words``, the first token to which the answer may be widened.
        highest: one past the last token to which it may be widened.
        align_to_words: widen to the words that the two tokens are part of. Tokens that are of no
            word (some tokenizers know none) keep their own characters.
    """
    if align_to_words:
        words = encoding.token_to_word(first), encoding.token_to_word(last)
        if None not in words:
            first = max(encoding.word_to_tokens(words[0])[0], lowest)
            last = min(encoding.word_to_tokens(words[1])[1], highest) - 1
    return encoding.token_to_chars(first)[0], encoding.token_to_chars(last)[1]


def _windows(chunks: Chunks) -> list[list[int]]:
    """Per chunk: its positions' shift to tokens of the context, and its range of those."""
    first, end = chunks.context[:, 0], chunks.context[:, 1]
    shift = chunks.context_offset - first
    return np.stack([shift, first + shift, end + shift], axis=1).tolist()
