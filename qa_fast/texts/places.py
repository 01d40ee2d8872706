"""Where spans of tokens lie in their texts: widened to words, as characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .chunks import Chunks, Int32, Int64

if TYPE_CHECKING:
    from tokenizers import Encoding

# Spans whose characters are looked up together: some 200 bytes each while that is done.
SPANS_AT_ONCE = 1 << 16


class TokenSpans(NamedTuple):
    """The arrays of [`Spans`][qa_fast.decoding.spans.Spans] that answers are made from, on the host."""

    score: npt.NDArray[np.float32]
    start: Int32
    end: Int32
    chunk: Int32
    null_score: npt.NDArray[np.float32]


class Places(NamedTuple):
    """What S spans stand for.

    Attributes:
        question: [S] the question of each, ascending.
        score: [S] float64, as the decoder gave it.
        start: [S] its first character.
        end: [S] the character after its last.
        hollow: tokens at an end of a span that stand for no characters, says the tokenizer: the
            question, and the token's index in the whole context.
    """

    question: Int64
    score: npt.NDArray[np.float64]
    start: Int64
    end: Int64
    hollow: list[tuple[int, int]]

    def of(self, spans: Int64) -> Places:
        """Those of some spans, as new arrays."""
        question, score, start, end, _ = self
        return Places(question[spans], score[spans], start[spans], end[spans], [])


def places_of(
    chunks: Chunks,
    contexts: Sequence[str],
    spans: TokenSpans,
    row_question: Int64,
    *,
    within_chunk: bool,
    align_to_words: bool,
) -> Iterator[Places]:
    """The characters of all spans, in their order, some of them at a time.

    Args:
        chunks: C chunks of Q questions.
        contexts: the Q contexts that the chunks were made from.
        spans: spans of R rows.
        row_question: [R] the question of each row, ascending.
        within_chunk: a span is widened within its chunk only.
        align_to_words: widen spans to whole words, as far as the tokenizer knows words.
    """
    start, end, chunk, score = (
        field.ravel() for field in (spans.start, spans.end, spans.chunk, spans.score)
    )
    found = np.flatnonzero(chunk >= 0)  # -1: fewer candidates than asked for
    for begin in range(0, len(found), SPANS_AT_ONCE):
        at = found[begin : begin + SPANS_AT_ONCE]
        question = row_question[at // spans.chunk.shape[1]]
        here = chunk[at]
        low, high = chunks.context[here].T.astype(np.int64)
        shift = chunks.context_offset[here] - low
        ranges = char_ranges(
            chunks.encodings,
            chunks.encoding_of[question],
            contexts,
            question,
            start[at] + shift,
            end[at] + shift,
            within=(low + shift, high + shift) if within_chunk else None,
            align_to_words=align_to_words,
        )
        yield Places(question, score[at].astype(np.float64), *ranges)


def joined(parts: Iterable[Places]) -> Places:
    """Those of several parts, one after the other."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    none = np.empty(0, np.int64)
    start = Places(none, np.empty(0), none, none, [])
    arrays = zip(*(part[:4] for part in [start, *found]), strict=True)
    question, score, begin, end = map(np.concatenate, arrays)
    return Places(question, score, begin, end, [pair for part in found for pair in part.hollow])


def char_ranges(
    encodings: Sequence[Encoding],
    encoding: Int64,
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
        encodings: the distinct whole contexts of Q questions.
        encoding: [S] which of them is each span's.
        contexts: the Q contexts as texts.
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
    if align_to_words:
        tokens = _Tokens(encodings, encoding, first, last)
        (first_from, first_to), (last_from, last_to) = tokens.words()
        if within is not None:
            first_from, last_to = np.maximum(first_from, within[0]), np.minimum(last_to, within[1])
        has_words = (first_to > 0) & (last_from >= 0)
        first, last = np.where(has_words, first_from, first), np.where(has_words, last_to - 1, last)
    tokens = _Tokens(encodings, encoding, first, last)
    (start, first_end), (last_start, end) = tokens.characters()
    begins, ends = start == first_end, last_start == end
    if not (begins | ends).any():
        return start, end, []
    for text in np.unique(encoding[begins | ends]).tolist():
        mine = encoding == text
        context = contexts[question[mine][0]]
        chars = _filled_chars(encodings[text], len(context))
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


class _Tokens:
    """The tokens at the ends of S spans, each once: the best spans begin and end at few of them.

    All tokens of E encodings have numbers: those of an encoding begin where the last one's end.

    Args:
        encodings: the encodings.
        encoding: [S] which of them is each span's.
        first: [S] the first token of each span.
        last: [S] its last one.
    """

    def __init__(
        self, encodings: Sequence[Encoding], encoding: Int64, first: Int64, last: Int64
    ) -> None:
        self._encodings = encodings
        self._begin = np.cumsum([0, *map(len, encodings)])
        shift = self._begin[encoding]
        self._at = np.concatenate([shift + first, shift + last])
        asked = np.zeros(self._begin[-1], bool)
        asked[self._at] = True
        self._numbers = np.flatnonzero(asked)
        self._edges = np.searchsorted(self._numbers, self._begin)

    def words(self) -> tuple[Int64, Int64]:
        """The half-open range of each token's word's tokens, [2, S] for both ends of the spans.

        (-1, -1) where a token is of no word.
        """
        found = np.empty((len(self._numbers), 2), np.int64)
        count = np.diff(self._edges)
        # To find a word's tokens the tokenizer goes through the text's up to there. One pass through all
        # of them, with what it needs for itself, takes less where many are asked for.
        length = np.diff(self._begin)
        many = count * (8 + length // 128) > 64 + length
        whole = np.repeat(many, count)
        found[~whole] = self._each(_word_tokens, np.flatnonzero(~many))
        if many.any():
            found[whole] = self._words_of_whole(np.flatnonzero(many))[self._numbers[whole]]
        return self._of_spans(found)

    def characters(self) -> tuple[Int64, Int64]:
        """The half-open range of each token's characters, [2, S] for both ends of the spans."""
        return self._of_spans(self._each(_chars, np.arange(len(self._encodings))))

    def _each(
        self,
        of: Callable[[Encoding, Sequence[int]], Iterable[tuple[int, int]]],
        encodings: Int64,
    ) -> Int64:
        """``of`` every token that is asked for of some encodings: [N, 2]."""
        edges = self._edges
        values = []
        for number in encodings.tolist():
            mine = self._numbers[edges[number] : edges[number + 1]] - self._begin[number]
            values.append(of(self._encodings[number], mine.tolist()))
        flat = chain.from_iterable(chain.from_iterable(values))
        return np.fromiter(flat, np.int64).reshape(-1, 2)

    def _words_of_whole(self, encodings: Int64) -> Int64:
        """By number, for all tokens of some encodings, what `words` says of them."""
        begin = self._begin
        words = np.full(begin[-1], -1)
        for number in encodings.tolist():
            ids = self._encodings[number].word_ids
            if None in ids:
                ids = [-1 if word is None else word for word in ids]
            words[begin[number] : begin[number + 1]] = np.fromiter(ids, np.int64, len(ids))
        changes = np.append(True, words[1:] != words[:-1])
        changes[begin[:-1][np.diff(begin) > 0]] = True
        edges = np.append(np.flatnonzero(changes), len(words))
        word = np.cumsum(changes) - 1
        text = np.repeat(begin[:-1], np.diff(begin))
        ranges = np.stack([edges[word] - text, edges[word + 1] - text], axis=1)
        ranges[words < 0] = -1
        return ranges

    def _of_spans(self, found: Int64) -> tuple[Int64, Int64]:
        place = np.empty(self._begin[-1], np.int64)
        place[self._numbers] = np.arange(len(self._numbers))
        first, last = np.split(found[place[self._at]].T, 2, axis=1)
        return first, last


def _word_tokens(encoding: Encoding, tokens: Sequence[int]) -> list[tuple[int, int]]:
    word_of, tokens_of = encoding.token_to_word, encoding.word_to_tokens
    return [
        (-1, -1) if (word := word_of(token)) is None else tokens_of(word) or (-1, -1)
        for token in tokens
    ]


def _chars(encoding: Encoding, tokens: Sequence[int]) -> list[tuple[int, int]]:
    return [encoding.token_to_chars(token) or (0, 0) for token in tokens]


def hollow_note(
    chunks: Chunks,
    items: Sequence[int],
    hollow: Iterable[tuple[int, int]],
    text_of: Callable[[int], str],
) -> str | None:
    """What to tell of the first of ``hollow`` tokens that has a text; see `Places`.

    Args:
        chunks: the chunks of Q questions.
        items: what the Q questions are called.
        hollow: questions and tokens.
        text_of: gives the text of a token by its id.
    """
    for question, token in sorted(hollow):
        encoding = chunks.encodings[chunks.encoding_of[question]]
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
