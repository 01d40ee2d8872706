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

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Encoding

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128
CACHED_TOKENS = 1 << 16
# No text has so many. Tokenizers without a limit say that theirs is 10**30, more than NumPy can count.
_MOST_TOKENS = 1 << 62


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


class ExampleError(ValueError):
    """An example that cannot be answered; the message says which one and why.

    Attributes:
        item: the example's number in the stream, from 0.
    """

    def __init__(self, item: int, message: str) -> None:
        super().__init__(message)
        self.item = item

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.item, str(self))


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

    The arguments are those of `Chunker` and `Chunker.cut`.

    Raises:
        ExampleError: the first pair that cannot be used.
        ValueError: a number out of range; a tokenizer that is not a fast one.

    Example:
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")  # doctest: +SKIP
        >>> chunks = make_chunks(tokenizer, ["Who?"], ["It was Ada."])      # doctest: +SKIP
        >>> chunks.length, chunks.context, chunks.null_position             # doctest: +SKIP
        (array([9], dtype=int32), array([[4, 8]], dtype=int32), array([0], dtype=int32))
    """
    chunks, errors = Chunker(tokenizer).cut(
        questions,
        contexts,
        max_seq_len=max_seq_len,
        doc_stride=doc_stride,
        max_question_len=max_question_len,
        first_item=first_item,
    )
    if errors:
        raise errors[0]
    return chunks


class Chunker:
    """Cuts pairs of a question and a context into chunks, and remembers the last contexts.

    Questions about one context follow each other in most data sets, though not always within one
    call. Several threads may share a chunker.

    Args:
        tokenizer: a fast tokenizer of Transformers (``PreTrainedTokenizerFast``). A copy of it is
            used, so that nobody else can switch on its truncation meanwhile.
        vocabulary: token ids that the model knows, from 0; None where that is not known.
        cached_tokens: tokens of contexts to remember (100 to 250 bytes each); the last context is
            kept however long it is.

    Raises:
        ValueError: a tokenizer that is not a fast one, or not the model's: it puts tokens around every
            text that the model does not know.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        vocabulary: int | None = None,
        cached_tokens: int = CACHED_TOKENS,
    ) -> None:
        self._backend = _backend(tokenizer)
        self._layout = _Layout.of(tokenizer, self._backend)
        # Most tokenizers have no token that their model does not know: then none is looked for.
        if vocabulary is not None:
            ids = self._backend.get_vocab(with_added_tokens=True).values()
            if max(ids, default=0) < vocabulary:
                vocabulary = None
        self._vocabulary = vocabulary
        unknown = self._unknown_token(np.concatenate(self._layout.special_ids))
        if unknown:
            raise ValueError(f"{type(tokenizer).__name__} adds {unknown}")
        self._cached_tokens = cached_tokens
        self._cache: OrderedDict[str, _Text] = OrderedDict()
        self._cache_size = 0
        self._lock = Lock()

    def cut(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        max_seq_len: int = DEFAULT_MAX_SEQ_LEN,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        first_item: int = 0,
    ) -> tuple[Chunks, list[ExampleError]]:
        """Chunks of at most ``max_seq_len`` tokens of all pairs that can be used.

        Args:
            questions: questions.
            contexts: as many contexts; repeated ones are tokenized once.
            max_seq_len: most tokens in a chunk, special tokens and question included.
            doc_stride: context tokens that consecutive chunks share; None for
                ``min(max_seq_len // 2, 128)``.
            max_question_len: cut questions to that many tokens; None never cuts one.
            first_item: number of the first pair, for errors.

        Returns:
            The chunks, and an error for each pair that is left out, in order: a text that is empty,
            not a string, not valid Unicode or without tokens, one that the tokenizer fails at or that
            has tokens unknown to the model, or a question too long to leave room for its context.

        Raises:
            ValueError: a ``doc_stride`` that does not go with ``max_seq_len``.
        """
        if doc_stride is None:
            doc_stride = default_doc_stride(max_seq_len)
        if not 0 <= doc_stride < max_seq_len:
            raise ValueError(
                f"doc_stride must be at least 0 and smaller than max_seq_len ({max_seq_len}); "
                f"got {doc_stride}"
            )
        problems: dict[int, str] = {}
        for i, pair in enumerate(zip(questions, contexts, strict=True)):
            for kind, text in zip(("question", "context"), pair, strict=True):
                problem = text_problem(text)
                if problem:
                    problems.setdefault(i, f"{kind} {first_item + i} {problem}")
        kept = [i for i in range(len(questions)) if i not in problems]
        question_of, question_texts = self._encode(questions, kept, self._encode_questions)
        context_of, context_texts = self._encode(contexts, kept, self._encode_contexts)
        for kind, index, texts in (
            ("question", question_of, question_texts),
            ("context", context_of, context_texts),
        ):
            wrong = {number for number, text in enumerate(texts) if text.problem}
            for i, number in zip(kept, index.tolist(), strict=True) if wrong else ():
                if number in wrong:
                    problems.setdefault(i, f"{kind} {first_item + i} {texts[number].problem}")

        question_len = _lengths(question_texts)[question_of]
        context_len = _lengths(context_texts)[context_of]
        for nth in np.flatnonzero((question_len == 0) | (context_len == 0)).tolist():
            i = kept[nth]
            kind, text = (
                ("context", contexts[i]) if question_len[nth] else ("question", questions[i])
            )
            problems.setdefault(
                i,
                f"{kind} {first_item + i} has no tokens: the tokenizer drops all of its "
                f"characters ({text[:40]!r})",
            )
        if max_question_len is not None:
            question_len = np.minimum(question_len, min(max_question_len, _MOST_TOKENS))
        room = min(max_seq_len, _MOST_TOKENS) - self._layout.special_count - question_len
        # A context that does not fit whole needs more room per chunk than chunks share.
        for nth in np.flatnonzero((context_len > room) & (room <= doc_stride)).tolist():
            fits = max(int(question_len[nth] + room[nth]) - doc_stride - 1, 0)
            problems.setdefault(
                kept[nth],
                f"question {first_item + kept[nth]} is too long: it has {question_len[nth]} tokens, "
                f"and at most {fits} fit with max_seq_len={max_seq_len} and "
                f"doc_stride={doc_stride}; raise max_seq_len, lower doc_stride, or set "
                "max_question_len to cut the question",
            )
        usable = np.array([i not in problems for i in kept], bool)
        chunks = _assemble(
            self._layout,
            question_texts,
            context_texts,
            question_of[usable],
            context_of[usable],
            question_len[usable],
            room[usable],
            min(doc_stride, _MOST_TOKENS),
        )
        errors = [ExampleError(first_item + i, problems[i]) for i in sorted(problems)]
        return chunks, errors

    def text_of(self, token: int) -> str:
        """The text of a token, as the tokenizer decodes it."""
        text: str = self._backend.decode([token], skip_special_tokens=False)
        return text

    def _encode(
        self,
        texts: Sequence[str],
        kept: Sequence[int],
        encode: Callable[[list[str]], list[_Text]],
    ) -> tuple[Int64, list[_Text]]:
        """Tokenize the distinct ones of ``kept`` texts, after each text's index among them."""
        number: dict[str, int] = {}
        index = [number.setdefault(texts[i], len(number)) for i in kept]
        return np.array(index, np.int64), encode(list(number))

    def _encode_questions(self, texts: list[str]) -> list[_Text]:
        # "fast": without offsets into the text, for which questions have no use.
        return self._tokenize(texts, self._backend.encode_batch_fast)

    def _encode_contexts(self, texts: list[str]) -> list[_Text]:
        with self._lock:
            known = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in texts if text not in known]
        encoded_now = self._tokenize(missing, self._backend.encode_batch)
        known.update(zip(missing, encoded_now, strict=True))
        found = [known[text] for text in texts]
        with self._lock:
            for text, encoded in zip(texts, found, strict=True):
                if text not in self._cache:
                    self._cache[text] = encoded
                    self._cache_size += len(encoded.ids)
                self._cache.move_to_end(text)
            while self._cache_size > self._cached_tokens and len(self._cache) > 1:
                self._cache_size -= len(self._cache.popitem(last=False)[1].ids)
        return found

    def _tokenize(
        self, texts: list[str], encode_batch: Callable[..., list[Encoding]]
    ) -> list[_Text]:
        """Tokenize ``texts`` together; where that fails, one by one, for the others' sake."""
        try:
            encodings = encode_batch(texts, add_special_tokens=False)
        except BaseException as error:
            if not _is_tokenizers(error):
                raise
            if len(texts) > 1:
                return [text for one in texts for text in self._tokenize([one], encode_batch)]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return [_Text(None, np.empty(0, np.int32), f"cannot be tokenized ({reason})")]
        found = []
        for encoding in encodings:
            ids = np.array(encoding.ids, np.int32)
            unknown = self._unknown_token(ids)
            found.append(_Text(encoding, ids, f"has {unknown}" if unknown else None))
        return found

    def _unknown_token(self, ids: Int32) -> str | None:
        """What is wrong with token ids that the model has no embedding for; it would read past them."""
        if self._vocabulary is None or not len(ids) or ids.max() < self._vocabulary:
            return None
        return (
            f"the token {self._backend.id_to_token(int(ids.max()))!r} with the id {ids.max()}, and the "
            f"model knows only ids below {self._vocabulary}: model and tokenizer do not go together"
        )


class _Text(NamedTuple):
    """A tokenized text, or what is wrong with it."""

    encoding: Any
    ids: Int32
    problem: str | None = None


def _is_tokenizers(error: BaseException) -> bool:
    """Whether ``error`` is of the tokenizer: an exception, or a panic of its Rust code."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _assemble(
    layout: _Layout,
    question_texts: Sequence[_Text],
    context_texts: Sequence[_Text],
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
    context_len = _lengths(context_texts)[context_of]
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


def default_max_seq_len(tokenizer: Any, position_limit: int | None = None) -> int:
    """384, or what the model can read where that is less.

    Args:
        tokenizer: its ``model_max_length`` counts where it is set (else it is astronomic).
        position_limit: most tokens the model can take, None where unknown or without limit.

    Raises:
        ValueError: a ``model_max_length`` that is no number.
    """
    limit = tokenizer.model_max_length
    if limit is not None and not isinstance(limit, (int, float)):
        raise ValueError(
            f"the tokenizer's model_max_length must be a number of tokens; got {limit!r}"
        )
    limits = (DEFAULT_MAX_SEQ_LEN, limit, position_limit)
    return int(min(n for n in limits if n is not None and n >= 1))


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
    def of(cls, tokenizer: Any, backend: Any) -> _Layout:
        """Read the layout off a pair of two copies of a text that has tokens."""
        # Any text will do; these are tokens of every tokenizer but the oddest.
        texts = ("a", "1", "the", *tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
        text = next(t for t in texts if _has_tokens(backend, t))
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


def _has_tokens(backend: Any, text: str) -> bool:
    try:
        return len(backend.encode(text, add_special_tokens=False)) > 0
    except Exception:  # of a tokenizer without a token for what it does not know
        return False


def _backend(tokenizer: Any) -> Any:
    """A copy of the Rust tokenizer that neither truncates nor pads."""
    if isinstance(tokenizer, type):
        raise ValueError(
            f"tokenizer must be an instance; got the class {tokenizer.__name__}: pass "
            f"{tokenizer.__name__}.from_pretrained(...)"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, and only fast ones know which "
            "characters a token stands for; load it with AutoTokenizer.from_pretrained(..., "
            "use_fast=True), or take a model that has one (a tokenizer.json)"
        )
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend


def text_problem(text: object) -> str | None:
    """Why ``text`` cannot be tokenized, worded to follow its name; None where it can."""
    if isinstance(text, (bytes, bytearray)):
        return f"must be a string; got {type(text).__name__}: decode it, as in text.decode('utf-8')"
    if not isinstance(text, str):
        return f"must be a string; got {_kind(text)}"
    if not text or text.isspace():
        return f"is empty{' but for spaces' if text else ''}; give it some text"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return (
                f"is not valid Unicode: character {error.start} is half of a surrogate pair; mend "
                "it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            )
    return None


def _kind(value: object) -> str:
    """What is no text, in an error: a missing value by itself, all else by its type."""
    missing = value is None or (isinstance(value, float) and value != value)
    if missing or type(value).__name__ in {"NAType", "NaTType"}:
        return f"{value!r}, a missing value"
    return type(value).__name__


def _lengths(texts: Iterable[_Text]) -> Int64:
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
