"""Chunks of tokenized texts, and how they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Encoding

    from .special_tokens import Layout

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunks:
    """C chunks of Q questions. Positions inside a chunk count from its first token; there is no padding.

    A chunk is five pieces of a pool of tokens: special tokens, a text, special tokens, the other text,
    special tokens. So a text that many chunks hold is there once.

    Attributes:
        pool: [P] int32 token ids: the special tokens, then every distinct text.
        pool_types: [P] int32 segment ids, for the models that take them.
        piece_start: [C, 5] int64 where each piece begins in the pool.
        piece_length: [C, 5] int64 its tokens.
        length: [C] int32 tokens in each chunk.
        question_id: [C] int64, non-decreasing from 0 to Q - 1: the question of each chunk. Every
            question has at least one chunk.
        context: [C, 2] int32 half-open range of the context's tokens in each chunk; never empty.
        context_offset: [C] int32 index, in the whole context's tokens, of the chunk's first context
            token.
        null_position: [C] int32 position of the [CLS] token that the tokenizer adds, -1 where it
            adds none.
        encodings: tokenizer encodings of the distinct contexts, without special tokens.
        encoding_of: [Q] int64 which of them each question has: token ``context[c, 0] + i`` of chunk c is
            token ``context_offset[c] + i`` of its question's encoding.
    """

    pool: Int32
    pool_types: Int32
    piece_start: Int64
    piece_length: Int64
    length: Int32
    question_id: Int64
    context: Int32
    context_offset: Int32
    null_position: Int32
    encodings: Sequence[Encoding]
    encoding_of: Int64

    def __len__(self) -> int:
        return len(self.length)

    @property
    def questions(self) -> int:
        """Q."""
        return len(self.encoding_of)

    @property
    def places(self) -> Int64:
        """[T]: where in the pool the tokens of all chunks are, one chunk after the other."""
        return ranges(self.piece_start.ravel(), self.piece_length.ravel())

    @property
    def row_offset(self) -> Int64:
        """[C]: where each chunk's first token is in `places`."""
        return np.cumsum(self.length, dtype=np.int64) - self.length

    @property
    def input_ids(self) -> Int32:
        """[T]: the token ids of all chunks, one chunk after the other; made anew each time."""
        return self.pool[self.places]

    @property
    def token_type_ids(self) -> Int32:
        """[T]: likewise the segment ids."""
        return self.pool_types[self.places]

    def without_encodings(self) -> Chunks:
        """The same as arrays only, for another process."""
        return replace(self, encodings=())

    def of(self, questions: Int64) -> tuple[Chunks, Int64]:
        """The chunks of some questions, which count from 0 there, and where these chunks are here.

        Args:
            questions: their numbers, ascending.
        """
        number = np.full(self.questions, -1)
        number[questions] = np.arange(len(questions))
        question_id = number[self.question_id]
        (rows,) = np.nonzero(question_id >= 0)
        part = Chunks(
            pool=self.pool,
            pool_types=self.pool_types,
            piece_start=self.piece_start[rows],
            piece_length=self.piece_length[rows],
            length=self.length[rows],
            question_id=question_id[rows],
            context=self.context[rows],
            context_offset=self.context_offset[rows],
            null_position=self.null_position[rows],
            encodings=self.encodings,
            encoding_of=self.encoding_of[questions],
        )
        return part, rows


class Texts(NamedTuple):
    """N distinct tokenized texts.

    Attributes:
        ids: the token ids of all of them, one text after the other.
        length: [N] the tokens of each.
        encodings: [N] what the tokenizer gave; empty where nobody asks for it later.
    """

    ids: Int32
    length: Int64
    encodings: Sequence[Any] = ()


def assemble(
    layout: Layout,
    questions: Texts,
    contexts: Texts,
    question_of: Int64,
    context_of: Int64,
    question_len: Int64,
    room: Int64,
    doc_stride: int,
) -> Chunks:
    """Chunks of Q pairs, each of the ``question_of``-th question and the ``context_of``-th context.

    ``question_len`` and ``room`` are the tokens that each pair has for its question and its context.
    """
    # How many chunks each question needs, and which part of its context each of them takes.
    context_len = contexts.length[context_of]
    step = np.maximum(room - doc_stride, 1)
    count = 1 + np.maximum(-(-(context_len - room) // step), 0)
    question_id = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(question_id)) - np.repeat(np.cumsum(count) - count, count)
    context_offset = nth * step[question_id]
    window_len = np.minimum(room[question_id], context_len[question_id] - context_offset)

    # The pool, and for each chunk the five pieces of it that make the chunk.
    special_len = [len(ids) for ids in layout.special_ids]
    text_len = np.concatenate([questions.length, contexts.length])
    text_start = sum(special_len) + np.cumsum(text_len) - text_len
    question_start, context_start = np.split(text_start, [len(questions.length)])
    first, second = (1, 3) if layout.question_first else (3, 1)
    piece_start = np.empty((len(question_id), 5), np.int64)
    piece_start[:, ::2] = np.cumsum(special_len) - special_len
    piece_start[:, first] = question_start[question_of][question_id]
    piece_start[:, second] = context_start[context_of][question_id] + context_offset
    piece_length = np.empty_like(piece_start)
    piece_length[:, ::2] = special_len
    piece_length[:, first] = question_len[question_id]
    piece_length[:, second] = window_len

    piece_end = np.cumsum(piece_length, axis=1)
    context_end = piece_end[:, second]
    null_position = np.full(len(question_id), -1, np.int32)
    if layout.null is not None:
        gap, place = layout.null
        null_position[:] = piece_end[:, 2 * gap] - special_len[gap] + place
    text_types = np.repeat(
        np.array([layout.question_type, layout.context_type], np.int32),
        [len(questions.ids), len(contexts.ids)],
    )
    return Chunks(
        pool=np.concatenate([*layout.special_ids, questions.ids, contexts.ids]),
        pool_types=np.concatenate([*layout.special_types, text_types]),
        piece_start=piece_start,
        piece_length=piece_length,
        length=piece_end[:, -1].astype(np.int32),
        question_id=question_id,
        context=np.stack([context_end - window_len, context_end], axis=1).astype(np.int32),
        context_offset=context_offset.astype(np.int32),
        null_position=null_position,
        encodings=contexts.encodings,
        encoding_of=context_of,
    )


def ranges(start: Int64, length: Int64 | Int32) -> Int64:
    """The integers from start[i] to start[i] + length[i] - 1, for every i in turn, in one array."""
    shift = start - (np.cumsum(length, dtype=np.int64) - length)
    return np.arange(length.sum()) + np.repeat(shift, length)
