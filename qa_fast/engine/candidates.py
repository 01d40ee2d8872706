"""How many spans are decoded, and of which questions together.

Lists of spans are arrays with as many places for every question (or chunk), so memory has to be kept to
what there is where a caller asks for all answers: no more places than the chunks hold spans, and no
short text beside a long one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.texts.chunks import Chunks, Int32, Int64

from .options import Options

# Places that any questions may share: 16 MB.
PLACES = 1 << 20
# More spans than any context has.
ALL = 1 << 60
# Times as many candidates as usual, at most, where white space makes several of them one.
DEEPEST = 256


class Part(NamedTuple):
    """Questions of a window that are decoded together.

    Attributes:
        questions: [Q] their numbers in the window, ascending.
        chunks: their C chunks.
        row_offset: [C] where each chunk's logits begin.
        candidates: spans to look at in each chunk, or in each question.
    """

    questions: Int64
    chunks: Chunks
    row_offset: Int64
    candidates: int

    def of(self, questions: Int64, candidates: int) -> Part:
        """Some of the questions, by their place among these."""
        chunks, rows = self.chunks.of(questions)
        return Part(self.questions[questions], chunks, self.row_offset[rows], candidates)

    def deeper(self, questions: list[int], options: Options) -> Part | None:
        """``questions`` with four times as many candidates, for those of them that have more.

        None where there is none, or where enough were looked at: a text of white space must not take
        much longer than the model takes to read it.
        """
        if options.spans_per_chunk is not None:  # so many, and no more
            return None
        held = most_spans(self.chunks, options)
        more = np.array([q for q in questions if held[q] > self.candidates], np.int64)
        if self.candidates >= DEEPEST * wanted(options) or not len(more):
            return None
        return self.of(more, min(4 * self.candidates, int(held[more].max())))


def parts(chunks: Chunks, row_offset: Int64, options: Options) -> list[Part]:
    """All questions of a window: in one part, but where many spans are wanted.

    Args:
        chunks: C chunks of Q questions.
        row_offset: [C] where each chunk's logits begin.
        options: what the caller asks for.
    """
    count = wanted(options)
    rows = len(chunks) if options.decodes_chunks else chunks.questions
    everything = Part(np.arange(chunks.questions), chunks, row_offset, count)
    if count * max(rows, 1) <= PLACES:
        return [everything]
    held = most_spans(chunks, options)
    return [everything.of(questions, most) for questions, most in of_similar_size(held, count)]


def of_similar_size(held: Int64, most: int) -> list[tuple[Int64, int]]:
    """Questions that can share an array without wasting more than half of it, and its places for each.

    Args:
        held: [Q] spans that each question has.
        most: spans wanted of each.
    """
    places = np.minimum(held, min(most, int(held.max(initial=0))))
    size = np.frexp(places)[1]
    groups = [np.flatnonzero(size == n) for n in np.unique(size)[::-1]]
    return [(group, int(places[group].max())) for group in groups]


def wanted(options: Options) -> int:
    """Spans to look at first: of each chunk, or of each question."""
    align = options.align_to_words or not options.decodes_chunks
    return options.spans_per_chunk or candidate_count(options.top_k, align)


def candidate_count(top_k: int | None, align_to_words: bool) -> int:
    """Spans to decode for ``top_k`` answers: more where several spans can become the same words.

    ``2 * top_k + 10`` is what Transformers' question-answering pipeline took, per chunk.
    """
    if top_k is None:
        return ALL
    return 2 * top_k + 10 if align_to_words else top_k


def most_spans(chunks: Chunks, options: Options) -> Int64:
    """[Q]: the spans that a question has; where chunks are decoded, those of its largest one."""
    spans = span_count(chunks.context[:, 1] - chunks.context[:, 0], options.max_answer_len)
    first = np.searchsorted(chunks.question_id, np.arange(chunks.questions))
    reduce = np.maximum if options.decodes_chunks else np.add
    return reduce.reduceat(spans, first)


def span_count(tokens: Int64 | Int32, max_answer_len: int | None) -> Int64:
    """Spans of at most ``max_answer_len`` tokens among so many tokens, for each of an array."""
    tokens = tokens.astype(np.int64)
    longest = tokens
    if max_answer_len is not None:
        longest = np.minimum(tokens, min(max_answer_len, int(tokens.max(initial=0))))
    return tokens * longest - longest * (longest - 1) // 2
