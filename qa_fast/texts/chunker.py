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

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from qa_fast.data.errors import Argument, ArgumentError, ExampleError, Words

from .backend import Backend, is_tokenizers
from .chunks import Chunks, Int32, Int64, Texts, assemble
from .problems import text_problem
from .special_tokens import Layout, rust_tokenizer

DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128
CACHED_TOKENS = 1 << 16
# No text has so many. Tokenizers without a limit say that theirs is 10**30, more than NumPy can count.
_MOST_TOKENS = 1 << 62
_NONE = np.empty(0, np.int32)


def make_chunks(
    tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], **cutting: Any
) -> Chunks:
    """Tokenize pairs of a question and a context into chunks of at most ``max_seq_len`` tokens.

    Args:
        tokenizer: as of `Chunker`.
        questions: questions.
        contexts: as many contexts.
        **cutting: as of `Chunker.cut`.

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
    chunks, errors = Chunker(tokenizer).cut(questions, contexts, **cutting)
    if errors:
        raise errors[0]
    return chunks


class _Errors:
    """The pairs of a call that cannot be used: of each the first thing that is wrong with it.

    Attributes:
        found: the errors, by the number of the pair in the call.
    """

    def __init__(self, first_item: int) -> None:
        self.found: dict[int, ExampleError] = {}
        self._first_item = first_item

    def check_texts(self, kind: str, texts: Sequence[object]) -> None:
        """Notes texts of a kind, "question" or "context", that cannot be tokenized."""
        # Most are sound, which takes less time to see than what is wrong with the others.
        doubtful = [
            i
            for i, text in enumerate(texts)
            if type(text) is not str or not text.isascii() or not text or text.isspace()
        ]
        for i in doubtful:
            problem = text_problem(texts[i])
            if problem:
                self._add(i, kind, problem.reason, *problem.remedies)

    def check_tokens(
        self, kind: str, texts: Sequence[str], kept: Sequence[int], index: Int64, found: _Tokens
    ) -> None:
        """Notes texts with tokens that the model does not know, or with none.

        Args:
            kind: "question" or "context".
            texts: all texts of that kind.
            kept: the pairs that were tokenized.
            index: for each of these pairs its text among the distinct ones.
            found: the tokens of those.
        """
        if not found.problems and found.texts.length.all():
            return
        wrong = {*found.problems, *np.flatnonzero(found.texts.length == 0).tolist()}
        for i, number in zip(kept, index.tolist(), strict=True):
            if number in wrong:
                nothing = (
                    f"has no tokens: the tokenizer drops all of its characters ({texts[i][:40]!r})"
                )
                self._add(i, kind, found.problems.get(number, nothing))

    def add_long_question(
        self, i: int, tokens: int, fits: int, max_seq_len: int, doc_stride: int
    ) -> None:
        """Notes that the question of pair ``i`` leaves no room for its context."""
        self._add(
            i,
            "question",
            [
                f"is too long: it has {tokens} tokens, and at most {fits} fit with ",
                Argument("max_seq_len", max_seq_len),
                " and ",
                Argument("doc_stride", doc_stride),
            ],
            ["raise ", Argument("max_seq_len")],
            ["lower ", Argument("doc_stride")],
            "shorten the question",
            ["set ", Argument("max_question_len"), " to have it cut"],
        )

    def _add(self, i: int, kind: str, reason: str | Words, *remedies: str | Words) -> None:
        error = ExampleError(self._first_item + i, kind, reason, remedies)
        self.found.setdefault(i, error)


class _Tokens(NamedTuple):
    """The tokens of distinct texts, and what is wrong with some of the texts, by their numbers."""

    texts: Texts
    problems: dict[int, str]


class _Context(NamedTuple):
    """A context that is remembered."""

    encoding: Encoding
    ids: Int32
    problem: str | None


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
        self._backend = Backend(rust_tokenizer(tokenizer))
        self._layout = Layout.of(tokenizer, self._backend.tokenizer)
        # Most tokenizers have no token that their model does not know: then none is looked for.
        if vocabulary is not None:
            ids = self._backend.tokenizer.get_vocab(with_added_tokens=True).values()
            if max(ids, default=0) < vocabulary:
                vocabulary = None
        self._vocabulary = vocabulary
        unknown = self._unknown_token(np.concatenate(self._layout.special_ids))
        if unknown:
            raise ValueError(f"{type(tokenizer).__name__} adds {unknown}")
        self._cached_tokens = cached_tokens
        self._cache: OrderedDict[str, _Context] = OrderedDict()
        self._cache_size = 0
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Another process begins with no contexts to remember."""
        fresh = {"_cache": OrderedDict(), "_cache_size": 0}
        return {k: v for k, v in {**self.__dict__, **fresh}.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
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
            raise ArgumentError(
                Argument("doc_stride"),
                " must be at least 0 and smaller than ",
                Argument("max_seq_len"),
                f" ({max_seq_len}); got {doc_stride}",
            )
        errors = _Errors(first_item)
        errors.check_texts("question", questions)
        errors.check_texts("context", contexts)
        kept = [i for i in range(len(questions)) if i not in errors.found]
        question_of, distinct = _distinct(questions, kept)
        # "fast": without offsets into the text, for which questions have no use.
        asked = self._tokenize(distinct, self._backend.encode_batch_fast)
        context_of, distinct = _distinct(contexts, kept)
        read = self._tokenize_contexts(distinct)
        errors.check_tokens("question", questions, kept, question_of, asked)
        errors.check_tokens("context", contexts, kept, context_of, read)
        question_len = asked.texts.length[question_of]
        context_len = read.texts.length[context_of]
        if max_question_len is not None:
            question_len = np.minimum(question_len, min(max_question_len, _MOST_TOKENS))
        room = min(max_seq_len, _MOST_TOKENS) - self._layout.special_count - question_len
        # A context that does not fit whole needs more room per chunk than chunks share.
        (short,) = np.nonzero((context_len > room) & (room <= doc_stride))
        for nth in short.tolist():
            tokens = int(question_len[nth])
            fits = max(tokens + int(room[nth]) - doc_stride - 1, 0)
            errors.add_long_question(kept[nth], tokens, fits, max_seq_len, doc_stride)
        usable = np.array([i not in errors.found for i in kept], bool)
        chunks = assemble(
            self._layout,
            asked.texts,
            read.texts,
            question_of[usable],
            context_of[usable],
            question_len[usable],
            room[usable],
            min(doc_stride, _MOST_TOKENS),
        )
        return chunks, [errors.found[i] for i in sorted(errors.found)]

    def text_of(self, token: int) -> str:
        """The text of a token, as the tokenizer decodes it."""
        text: str = self._backend.tokenizer.decode([token], skip_special_tokens=False)
        return text

    def _tokenize_contexts(self, texts: list[str]) -> _Tokens:
        with self._lock:
            known = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in texts if text not in known]
        if missing:
            now = self._tokenize(missing, self._backend.encode_batch)
            end = np.cumsum(now.texts.length).tolist()
            for n, (text, encoding) in enumerate(zip(missing, now.texts.encodings, strict=True)):
                # A copy: one context must not keep those that it was tokenized with.
                ids = now.texts.ids[end[n - 1] if n else 0 : end[n]].copy()
                known[text] = _Context(encoding, ids, now.problems.get(n))
        found = [known[text] for text in texts]
        with self._lock:
            for text, context in zip(texts, found, strict=True):
                if text not in self._cache:
                    self._cache[text] = context
                    self._cache_size += len(context.ids)
                self._cache.move_to_end(text)
            while self._cache_size > self._cached_tokens and len(self._cache) > 1:
                self._cache_size -= len(self._cache.popitem(last=False)[1].ids)
        own = [context.ids for context in found]
        return _Tokens(
            Texts(
                np.concatenate([_NONE, *own]),
                np.array([len(text) for text in own], np.int64),
                [context.encoding for context in found],
            ),
            {n: context.problem for n, context in enumerate(found) if context.problem},
        )

    def _tokenize(self, texts: list[str], encode_batch: Callable[..., list[Encoding]]) -> _Tokens:
        """Tokenize ``texts`` together; where that fails, one by one, for the others' sake."""
        encodings: list[Encoding] = []
        problems = {}
        try:
            encodings += encode_batch(texts, add_special_tokens=False)
        except BaseException as error:
            if not is_tokenizers(error):
                raise
            if len(texts) > 1:
                return _joined([self._tokenize([text], encode_batch) for text in texts])
            encodings.append(Encoding())
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            problems[0] = f"cannot be tokenized ({reason})"
        tokens = [encoding.ids for encoding in encodings]
        length = np.array(list(map(len, tokens)), np.int64)
        ids = np.fromiter(chain.from_iterable(tokens), np.int32, int(length.sum()))
        if self._unknown_token(ids):
            for n, own in enumerate(np.split(ids, np.cumsum(length)[:-1])):
                unknown = self._unknown_token(own)
                if unknown:
                    problems[n] = f"has {unknown}"
        return _Tokens(Texts(ids, length, encodings), problems)

    def _unknown_token(self, ids: Int32) -> str | None:
        """What is wrong with token ids that the model has no embedding for; it would read past them."""
        if self._vocabulary is None or not len(ids) or ids.max() < self._vocabulary:
            return None
        token = self._backend.tokenizer.id_to_token(int(ids.max()))
        return (
            f"the token {token!r} with the id {ids.max()}, and the "
            f"model knows only ids below {self._vocabulary}: model and tokenizer do not go together"
        )


def _distinct(texts: Sequence[str], kept: Sequence[int]) -> tuple[Int64, list[str]]:
    """The distinct ones of the ``kept`` texts, after each text's index among them."""
    number: dict[str, int] = {}
    index = [number.setdefault(texts[i], len(number)) for i in kept]
    return np.array(index, np.int64), list(number)


def _joined(parts: Sequence[_Tokens]) -> _Tokens:
    """Those of single texts as one."""
    texts = [part.texts for part in parts]
    return _Tokens(
        Texts(
            np.concatenate([text.ids for text in texts]),
            np.concatenate([text.length for text in texts]),
            [encoding for text in texts for encoding in text.encodings],
        ),
        {n: problem for n, part in enumerate(parts) for problem in part.problems.values()},
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
