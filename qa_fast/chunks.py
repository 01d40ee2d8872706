"""Questions and contexts in, overlapping model inputs (*chunks*) out.

A chunk is what the model reads at once: special tokens, the question and a window of the context.
Where a context does not fit, consecutive chunks of it share ``doc_stride`` tokens, so that no
answer of at most that length is cut at every border.

Every distinct text is tokenized once, in Rust, on all cores; the chunks are then cut from the token
ids with NumPy. The result is what ``tokenizer(question, context, truncation="only_second",
stride=..., return_overflowing_tokens=True)`` gives, token for token, but a context that several
questions share costs its tokenization once, and no Python object is made per token.

Tokenizers that pad on the left (XLNet and its like) read the context first and the question second,
as in Transformers' question-answering pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Encoding

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128


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


def make_chunks(
    tokenizer: Any,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    max_seq_len: int = DEFAULT_MAX_SEQ_LEN,
    doc_stride: int | None = None,
    max_question_len: int | None = None,
    first_item: int = 0,
) -> Chunks:
    """Tokenize pairs of a question and a context into chunks of at most ``max_seq_len`` tokens.

    Args:
        tokenizer: a fast tokenizer of Transformers (``PreTrainedTokenizerFast``).
        questions: Q questions, at least one.
        contexts: Q contexts; repeated ones are tokenized once.
        max_seq_len: most tokens in a chunk, special tokens and question included.
        doc_stride: context tokens that consecutive chunks share; None for
            ``min(max_seq_len // 2, 128)``.
        max_question_len: cut questions to that many tokens; None never cuts one.
        first_item: number of the first pair, for error messages.

    Raises:
        ValueError: a text that is empty, not valid Unicode or has no tokens; a question that leaves
            no room for its context; a number out of range; a tokenizer that is not a fast one.

    Example:
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")  # doctest: +SKIP
        >>> chunks = make_chunks(tokenizer, ["Who?"], ["It was Ada."])      # doctest: +SKIP
        >>> chunks.length, chunks.context, chunks.null_position             # doctest: +SKIP
        (array([9], dtype=int32), array([[4, 8]], dtype=int32), array([0], dtype=int32))
    """
    if doc_stride is None:
        doc_stride = default_doc_stride(max_seq_len)
    if not 0 <= doc_stride < max_seq_len:
        raise ValueError(
            f"doc_stride must be at least 0 and smaller than max_seq_len ({max_seq_len}); "
            f"got {doc_stride}"
        )
    backend = _backend(tokenizer)
    names = [f"question {first_item + i}" for i in range(len(questions))]
    question_of, question_encodings = _encode(backend, questions, names)
    names = [f"context {first_item + i}" for i in range(len(contexts))]
    context_of, context_encodings = _encode(backend, contexts, names)
    layout = _Layout.of(tokenizer, backend, questions[0])

    # How many chunks each question needs, and which part of its context each of them takes.
    question_len = _lengths(question_encodings)[question_of]
    if max_question_len is not None:
        question_len = np.minimum(question_len, max_question_len)
    context_len = _lengths(context_encodings)[context_of]
    room = max_seq_len - layout.special_count - question_len
    _check_room(question_len, context_len, room, max_seq_len, doc_stride, first_item)
    step = np.maximum(room - doc_stride, 1)
    count = 1 + np.maximum(-(-(context_len - room) // step), 0)
    question_id = np.repeat(np.arange(len(questions)), count)
    nth = np.arange(len(question_id)) - np.repeat(np.cumsum(count) - count, count)
    context_offset = nth * step[question_id]
    window_len = np.minimum(room[question_id], context_len[question_id] - context_offset)

    # A pool of all token ids, and for each chunk the five pieces of it that make the chunk.
    pool, pool_start = _concatenate(
        [*layout.special_ids, *map(_ids, question_encodings + context_encodings)]
    )
    special_start, question_start, context_start = np.split(
        pool_start, [3, 3 + len(question_encodings)]
    )
    types = [*layout.special_types]
    types += [np.full(len(e), layout.question_type) for e in question_encodings]
    types += [np.full(len(e), layout.context_type) for e in context_encodings]
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
    index = _ranges(piece_start.ravel(), piece_len.ravel())

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
        encodings=[context_encodings[i] for i in context_of],
    )


def default_max_seq_len(tokenizer: Any, position_limit: int | None = None) -> int:
    """384, or what the model can read where that is less.

    Args:
        tokenizer: its ``model_max_length`` counts where it is set (else it is astronomic).
        position_limit: most tokens the model can take, None where unknown or without limit.
    """
    limits = (tokenizer.model_max_length, position_limit)
    return min(DEFAULT_MAX_SEQ_LEN, *(int(n) for n in limits if n is not None and n > 0))


def default_doc_stride(max_seq_len: int) -> int:
    """128, or half of ``max_seq_len`` where that is less."""
    return min(max_seq_len // 2, DEFAULT_DOC_STRIDE)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a tokenizer puts special tokens around and between two texts.

    ``special_ids`` and ``special_types`` have three items: before the first text, between the two,
    after the second. ``null`` is the place of [CLS] as (which of the three, index in it).
    """

    question_first: bool
    special_ids: tuple[Int32, ...]
    special_types: tuple[Int32, ...]
    question_type: int
    context_type: int
    null: tuple[int, int] | None

    @property
    def special_count(self) -> int:
        return sum(map(len, self.special_ids))

    @classmethod
    def of(cls, tokenizer: Any, backend: Any, text: str) -> _Layout:
        """Read the layout off a pair of two copies of ``text``, which must have tokens."""
        pair = backend.encode(text, text)
        ids, types = np.asarray(pair.ids, np.int32), np.asarray(pair.type_ids, np.int32)
        # -1 for special tokens: they belong to neither text, even where a text spells one out.
        sequence = np.array([-1 if s is None else s for s in pair.sequence_ids])
        (first,), (second,) = np.nonzero(sequence == 0), np.nonzero(sequence == 1)
        cuts = [first[0], first[-1] + 1, second[0], second[-1] + 1]
        gaps = (slice(0, cuts[0]), slice(cuts[1], cuts[2]), slice(cuts[3], None))
        question_first = tokenizer.padding_side == "right"
        question, context = (first[0], second[0]) if question_first else (second[0], first[0])
        null = [
            (gap, int(place))
            for gap, where in enumerate(gaps)
            for place in np.flatnonzero(ids[where] == tokenizer.cls_token_id)
        ]
        return cls(
            question_first=question_first,
            special_ids=tuple(ids[where] for where in gaps),
            special_types=tuple(types[where] for where in gaps),
            question_type=int(types[question]),
            context_type=int(types[context]),
            null=null[0] if null else None,
        )


def _backend(tokenizer: Any) -> Any:
    """The Rust tokenizer, set to neither truncate nor pad (Transformers sets both at each call)."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, and only fast ones know which "
            "characters a token stands for; load it with AutoTokenizer.from_pretrained(..., "
            "use_fast=True)"
        )
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def _encode(
    backend: Any, texts: Sequence[str], names: Sequence[str]
) -> tuple[Int64, list[Encoding]]:
    """Tokenize the distinct ``texts``; returns the encodings, after each text's index in them."""
    for text, name in zip(texts, names, strict=True):
        check_text(text, name)
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    encodings = backend.encode_batch(list(number), add_special_tokens=False)
    for text, name in zip(texts, names, strict=True):
        if not len(encodings[number[text]]):
            raise ValueError(
                f"{name} has no tokens: the tokenizer drops all of its characters ({text[:40]!r})"
            )
    return np.array([number[text] for text in texts], np.int64), encodings


def check_text(text: object, name: str) -> None:
    """Raise a ValueError that calls ``text`` by its ``name`` unless it can be tokenized."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string; got {type(text).__name__}")
    if not text or text.isspace():
        raise ValueError(f"{name} is empty{' but for spaces' if text else ''}; give it some text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} is not valid Unicode: character {error.start} is half of a surrogate "
                "pair; mend it with "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None


def _check_room(
    question_len: Int64,
    context_len: Int64,
    room: Int64,
    max_seq_len: int,
    doc_stride: int,
    first_item: int,
) -> None:
    """A context that does not fit whole needs more room per chunk than chunks share."""
    tight = (context_len > room) & (room <= doc_stride)
    if tight.any():
        item = int(np.argmax(tight))
        length = int(question_len[item])
        fits = max(length + int(room[item]) - doc_stride - 1, 0)
        raise ValueError(
            f"question {first_item + item} is too long: it has {length} tokens, and at most {fits} "
            f"fit with max_seq_len={max_seq_len} and doc_stride={doc_stride}; raise max_seq_len, "
            "lower doc_stride, or set max_question_len to cut the question"
        )


def _ids(encoding: Encoding) -> Int32:
    return np.array(encoding.ids, np.int32)


def _lengths(encodings: Iterable[Encoding]) -> Int64:
    return np.array([len(encoding) for encoding in encodings], np.int64)


def _concatenate(arrays: Sequence[npt.NDArray[Any]]) -> tuple[Int32, Int64]:
    """All ``arrays`` in one, and where each of them starts in it."""
    length = np.array([len(array) for array in arrays], np.int64)
    return np.concatenate(arrays).astype(np.int32, copy=False), np.cumsum(length) - length


def _columns(*columns: Any) -> Int64:
    """[C, len(columns)]: one-dimensional arrays and numbers side by side."""
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _ranges(start: Int64, length: Int64) -> Int64:
    """The integers from start[i] to start[i] + length[i] - 1, for every i in turn, in one array."""
    shift = start - (np.cumsum(length) - length)
    return np.arange(length.sum()) + np.repeat(shift, length)
