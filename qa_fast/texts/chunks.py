"""Chunks of tokenized texts, and how they are put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    """C chunks of Q questions, ragged: chunk c is ``input_ids[row_offset[c]:][:length[c]]``.

    Positions inside a chunk count from its first token; there is no padding.

    Attributes:
        input_ids: [T] int32 token ids, one chunk after the other.
        token_type_ids: [T] int32 segment ids, for the models that take them.
        row_offset: [C] int64 index of each chunk's first token in the flat arrays.
        length: [C] int32 tokens in each chunk.
        question_id: [C] int64, non-decreasing from 0 to Q - 1: the question of each chunk. Every
            question has at least one chunk.
        context: [C, 2] int32 half-open range of the context's tokens in each chunk; never empty.
        context_offset: [C] int32 index, in the whole context's tokens, of the chunk's first context
            token.
        null_position: [C] int32 position of the [CLS] token that the tokenizer adds, -1 where it
            adds none.
        encodings: Q tokenizer encodings of the whole contexts, without special tokens: token
            ``context[c, 0] + i`` of chunk c is token ``context_offset[c] + i`` of its question's
            encoding. Questions about one context share one.
    """

    input_ids: Int32
    token_type_ids: Int32
    row_offset: Int64
    length: Int32
    question_id: Int64
    context: Int32
    context_offset: Int32
    null_position: Int32
    encodings: Sequence[Encoding]

    def __len__(self) -> int:
        return len(self.length)

    def of(self, questions: Int64) -> tuple[Chunks, Int64]:
        """The chunks of some questions, which count from 0 there, and where these chunks are here.

        Args:
            questions: their numbers, ascending.
        """
        number = np.full(len(self.encodings), -1)
        number[questions] = np.arange(len(questions))
        question_id = number[self.question_id]
        (rows,) = np.nonzero(question_id >= 0)
        part = Chunks(
            input_ids=self.input_ids,
            token_type_ids=self.token_type_ids,
            row_offset=self.row_offset[rows],
            length=self.length[rows],
            question_id=question_id[rows],
            context=self.context[rows],
            context_offset=self.context_offset[rows],
            null_position=self.null_position[rows],
            encodings=[self.encodings[q] for q in questions.tolist()],
        )
        return part, rows


class Text(NamedTuple):
    """A tokenized text, or what is wrong with it."""

    encoding: Any
    ids: Int32
    problem: str | None = None


def assemble(
    layout: Layout,
    question_texts: Sequence[Text],
    context_texts: Sequence[Text],
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
    context_len = lengths(context_texts)[context_of]
    step = np.maximum(room - doc_stride, 1)
    count = 1 + np.maximum(-(-(context_len - room) // step), 0)
    question_id = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(question_id)) - np.repeat(np.cumsum(count) - count, count)
    context_offset = nth * step[question_id]
    window_len = np.minimum(room[question_id], context_len[question_id] - context_offset)

    # A pool of all token ids, and for each chunk the five pieces of it that make the chunk.
    pool, pool_start = _concatenate(
        [*layout.special_ids, *(text.ids for text in (*question_texts, *context_texts))]
    )
    special_start, question_start, context_start = np.split(
        pool_start, [3, 3 + len(question_texts)]
    )
    types = [*layout.special_types]
    types += [np.full(len(text.ids), layout.question_type) for text in question_texts]
    types += [np.full(len(text.ids), layout.context_type) for text in context_texts]
    pool_types, _ = _concatenate(types)
    special_len = [len(ids) for ids in layout.special_ids]
    text_start = (
        question_start[question_of][question_id],
        context_start[context_of][question_id] + context_offset,
    )
    text_len = (question_len[question_id], window_len)
    first, second = (0, 1) if layout.question_first else (1, 0)
    piece_start = _columns(
        special_start[0], text_start[first], special_start[1], text_start[second], special_start[2]
    )
    piece_len = _columns(
        special_len[0], text_len[first], special_len[1], text_len[second], special_len[2]
    )
    length = piece_len.sum(axis=1)
    index = ranges(piece_start.ravel(), piece_len.ravel())

    piece_position = np.cumsum(piece_len, axis=1) - piece_len
    context_position = piece_position[:, 3 if layout.question_first else 1]
    null_position = np.full(len(length), -1)
    if layout.null is not None:
        gap, place = layout.null
        null_position = piece_position[:, 2 * gap] + place
    return Chunks(
        input_ids=pool[index],
        token_type_ids=pool_types[index],
        row_offset=np.cumsum(length) - length,
        length=length.astype(np.int32),
        question_id=question_id,
        context=_columns(context_position, context_position + window_len).astype(np.int32),
        context_offset=context_offset.astype(np.int32),
        null_position=null_position.astype(np.int32),
        encodings=[context_texts[i].encoding for i in context_of.tolist()],
    )


def lengths(texts: Iterable[Text]) -> Int64:
    """The tokens of each text."""
    return np.array([len(text.ids) for text in texts], np.int64)


def _concatenate(arrays: Sequence[npt.NDArray[Any]]) -> tuple[Int32, Int64]:
    """All ``arrays`` in one, and where each of them starts in it."""
    length = np.array([len(array) for array in arrays], np.int64)
    return np.concatenate(arrays).astype(np.int32, copy=False), np.cumsum(length) - length


def _columns(*columns: Any) -> Int64:
    """[C, len(columns)]: one-dimensional arrays and numbers side by side."""
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def ranges(start: Int64, length: Int64 | Int32) -> Int64:
    """The integers from start[i] to start[i] + length[i] - 1, for every i in turn, in one array."""
    shift = start - (np.cumsum(length, dtype=np.int64) - length)
    return np.arange(length.sum()) + np.repeat(shift, length)
