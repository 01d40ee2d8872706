"""Token spans in, answers as text and character offsets out.

Offsets count code points of the context as given: ``context[start:end] == answer``, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import exp, inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qa_fast.data.answers import Answer

from .chunks import Chunks, Int32, Int64

if TYPE_CHECKING:
    from tokenizers import Encoding

    from qa_fast.decoding.search import Scoring


# The tokenizer goes through a text's tokens to find a word's. Where so many words are looked up, one
# pass through all of them takes less: a long text with a long word would take time by the square.
MANY_TOKENS = 128
# Spans whose characters are looked up together: some 200 bytes each while that is done.
SPANS_AT_ONCE = 1 << 16


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


class TokenSpans(NamedTuple):
    """The arrays of [`Spans`][qa_fast.decoding.spans.Spans] that answers are made from, on the host."""

    score: npt.NDArray[np.float32]
    start: Int32
    end: Int32
    chunk: Int32
    null_score: npt.NDArray[np.float32]


class Readings(NamedTuple):
    """What `make_readings` made of the spans of Q questions.

    Attributes:
        readings: Q readings.
        lacking: the questions with fewer than ``top_k`` answers for white space alone: it made several
            of their spans one or none, and they may have spans that were not looked at.
        hollow: tokens at an end of a span that stand for no characters, says the tokenizer: the
            question, and the token's index in the whole context.
    """

    readings: list[Reading]
    lacking: list[int]
    hollow: set[tuple[int, int]]


def make_readings(
    chunks: Chunks,
    contexts: Sequence[str],
    spans: TokenSpans,
    *,
    scoring: Scoring,
    per_chunk: bool | None = None,
    top_k: int | None,
    align_to_words: bool,
    handle_impossible_answer: bool,
) -> Readings:
    """The readings of Q questions: of each the ``top_k`` best answers, fewer where there are no more.

    An answer neither begins nor ends with white space, which some tokenizers make part of the token
    behind it; a span of nothing else is none.

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
        top_k: most answers per question; None for all.
        align_to_words: widen answers to whole words, as far as the tokenizer knows words.
        handle_impossible_answer: let the null answer compete, where there is a null position.
    """
    merge = scoring == "probability"
    questions = len(contexts)
    per_chunk = merge if per_chunk is None else per_chunk
    row_question = chunks.question_id if per_chunk else np.arange(questions)
    lowest_null = np.full(questions, np.inf)
    # fmin: a question with NaN logits has a NaN score.
    np.fmin.at(lowest_null, row_question, spans.null_score.astype(np.float64))

    places = partial(
        _places,
        chunks,
        contexts,
        spans,
        row_question,
        # Without merging, a word that a chunk's border cuts in two is still given whole.
        within_chunk=merge,
        align_to_words=align_to_words,
    )

    best = _Best(contexts, merge)
    for found in places():
        score = found.score if scoring == "logit" else np.exp(found.score)
        best.add(found, score.tolist())

    readings: list[Reading] = []
    short: set[int] = set()
    for by_key, null, count in zip(
        best.answers,
        lowest_null.tolist(),
        np.bincount(chunks.question_id, minlength=questions).tolist(),
        strict=True,
    ):
        null_score = None if null == -inf else null if scoring == "logit" else exp(null)
        ranked = list(by_key.values())
        by_key.clear()  # one answer after the other may fill the memory
        if top_k is None or len(ranked) < top_k:
            short.add(len(readings))
        if handle_impossible_answer and null_score is not None:
            ranked.append([null_score, 0, 0, ""])
        ranked.sort(key=_SCORE, reverse=True)
        answers = [Answer(score=p, start=i, end=j, answer=text) for p, i, j, text in ranked[:top_k]]
        readings.append(Reading(answers, null_score, count))
    lacking = short & best.trimmed
    if lacking:  # but not where the lists end before their last place
        lacking &= set(row_question[spans.chunk[:, -1] >= 0].tolist())
    lost = _lost_to_space(contexts, lacking, places, merge) if lacking else []
    return Readings(readings, lost, best.hollow)


class _Best:
    """The answers of Q questions as they are found, each once.

    Attributes:
        answers: of each question, its answers [score, start, end, text] by what makes two of them one.
        trimmed: questions with spans that lost white space, or all of their characters.
        hollow: see `Readings`.
    """

    def __init__(self, contexts: Sequence[str], merge: bool) -> None:
        self.answers: list[dict[object, list[Any]]] = [{} for _ in contexts]
        self.trimmed: set[int] = set()
        self.hollow: set[tuple[int, int]] = set()
        self._contexts = contexts
        self._merge = merge

    def add(self, places: _Places, score: Sequence[float]) -> None:
        """Add what spans stand for, best first, with their scores as users see them."""
        self.hollow.update(places.hollow)
        contexts, answers, trimmed, merge = self._contexts, self.answers, self.trimmed, self._merge
        for q, p, i, j in zip(
            places.question.tolist(), score, places.start.tolist(), places.end.tolist(), strict=True
        ):
            given = contexts[q][i:j]
            text = given.strip()
            if text is not given:
                trimmed.add(q)
                i, j = _trimmed(given, i)
            if not text:  # white space, or tokens that stand for no characters
                trimmed.add(q)
                continue
            key = text.lower() if merge else (i, j)
            mine = answers[q]
            if key not in mine:
                mine[key] = [p, i, j, text]
            elif merge:
                mine[key][0] += p
            elif p > mine[key][0]:  # from another chunk
                mine[key][0] = p


def _trimmed(text: str, start: int) -> tuple[int, int]:
    """Where ``text``, which starts at ``start``, has characters that are no white space."""
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _lost_to_space(
    contexts: Sequence[str],
    questions: set[int],
    places: Callable[[], Iterator[_Places]],
    merge: bool,
) -> list[int]:
    """Those of ``questions`` that would have more answers if white space told these apart."""
    given: dict[int, set[tuple[int, int]]] = {q: set() for q in questions}
    for found in places():
        for q, i, j in zip(
            found.question.tolist(), found.start.tolist(), found.end.tolist(), strict=True
        ):
            if q in given:
                given[q].add((i, j))
    lost = []
    for q, mine in sorted(given.items()):
        context = contexts[q]
        kept = {_trimmed(context[i:j], i) for i, j in mine}
        kept = {(i, j) for i, j in kept if i < j}
        if merge:
            before, after = ({context[i:j].lower() for i, j in some} for some in (mine, kept))
            fewer = len(after) < len(before)
        else:
            fewer = len(kept) < len(mine)
        if fewer:
            lost.append(q)
    return lost


class _Places(NamedTuple):
    """What S spans stand for: [S] each, but for ``hollow``, see `Readings`."""

    question: Int64
    score: npt.NDArray[np.float64]
    start: Int64
    end: Int64
    hollow: list[tuple[int, int]]


def _places(
    chunks: Chunks,
    contexts: Sequence[str],
    spans: TokenSpans,
    row_question: Int64,
    *,
    within_chunk: bool,
    align_to_words: bool,
) -> Iterator[_Places]:
    """The characters of all spans, in their order, some of them at a time."""
    start, end, chunk, score = (
        field.ravel() for field in (spans.start, spans.end, spans.chunk, spans.score)
    )
    found = np.flatnonzero(chunk >= 0)  # -1: fewer candidates than asked for
    for begin in range(0, len(found), SPANS_AT_ONCE):
        at = found[begin : begin + SPANS_AT_ONCE]
        question = row_question[at // spans.chunk.shape[1]]
        low, high = chunks.context[chunk[at]].T.astype(np.int64)
        shift = chunks.context_offset[chunk[at]] - low
        ranges = char_ranges(
            chunks.encodings,
            contexts,
            question,
            start[at] + shift,
            end[at] + shift,
            within=(low + shift, high + shift) if within_chunk else None,
            align_to_words=align_to_words,
        )
        yield _Places(question, score[at].astype(np.float64), *ranges)


_SCORE = itemgetter(0)


def char_ranges(
    encodings: Sequence[Encoding],
    contexts: Sequence[str],
    question: Int64,
    first: Int64,
    last: Int64,
    *,
    within: tuple[Int64, Int64] | None = None,
    align_to_words: bool,
) -> tuple[Int64, Int64, list[tuple[int, int]]]:
    """Characters [start, end) that tokens ``first`` to ``last`` of S spans' contexts stand for.

    Some tokenizers say of a token with a text that it stands for no characters. A span that begins or
    ends at such a token gets those between the tokens beside it.

    Args:
        encodings: the whole contexts of Q questions.
        contexts: the same as texts.
        question: [S] the question of each span.
        first: [S] token index in the whole context.
        last: [S] token index in the whole context, inclusive.
        within: with ``align_to_words``, for each span the first token to which it may be widened,
            and one past the last; None for all tokens.
        align_to_words: widen to the words that the two tokens are part of. Where one of the two is
            of no word (some tokenizers know none), both keep their own characters.

    Returns:
        The starts [S], the ends [S], and where a span begins or ends at a token without characters:
        the question and the token.
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
    (start, first_end), (last_start, end) = _look_up(_chars, encodings, encoding, first, last)
    begins, ends = start == first_end, last_start == end
    if not (begins | ends).any():
        return start, end, []
    for text in np.unique(encoding[begins | ends]).tolist():
        mine = encoding == text
        chars = _filled_chars(encodings[text], len(contexts[text]))
        start[mine & begins] = chars[first[mine & begins], 0]
        end[mine & ends] = chars[last[mine & ends], 1]
    hollow = (
        (question[is_hollow], token[is_hollow])
        for is_hollow, token in ((begins, first), (ends, last))
    )
    return (
        start,
        end,
        [pair for q, t in hollow for pair in zip(q.tolist(), t.tolist(), strict=True)],
    )


def _filled_chars(encoding: Encoding, length: int) -> Int64:
    """[T, 2]: the tokens' characters; those without any get the ones up to where the next begins.

    The byte-level tokenizers of some checkpoints (Llama 3's, of some versions) give whole words so: at
    the right place, but without an end.
    """
    start, end = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
    begin = np.maximum(start, np.maximum.accumulate(np.append(0, end[:-1])))
    stop = np.maximum(begin, np.append(start[1:], length))
    return np.where(start == end, [begin, stop], [start, end]).T


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


def hollow_note(
    encodings: Sequence[Encoding],
    items: Sequence[int],
    hollow: Iterable[tuple[int, int]],
    text_of: Callable[[int], str],
) -> str | None:
    """What to tell of the first of ``hollow`` tokens that has a text; see `Readings`.

    Args:
        encodings: the whole contexts of Q questions.
        items: what the Q questions are called.
        hollow: questions and tokens.
        text_of: gives the text of a token by its id.
    """
    for question, token in sorted(hollow):
        encoding = encodings[question]
        text = text_of(encoding.ids[token])
        # A space may have none: no answer ends with it. (So it is spelled without a decoder.)
        if text.strip().strip("Ġ▁"):
            return (
                f"the tokenizer gives the token {text!r} no characters of its own (token {token} "
                f"of context {items[question]}, at character {encoding.offsets[token][0]}): "
                "answers that begin or end there may be a little too long or too short; a newer "
                "version of tokenizers, or of the model's tokenizer.json, may do better"
            )
    return None
