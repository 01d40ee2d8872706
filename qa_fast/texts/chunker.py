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
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.data.errors import Argument, ArgumentError, ExampleError, Words

from .backend import Backend, is_tokenizers
from .chunks import Chunks, Int32, Int64, Text, assemble, lengths
from .problems import text_problem
from .special_tokens import Layout, rust_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding


DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128
CACHED_TOKENS = 1 << 16
# No text has so many. Tokenizers without a limit say that theirs is 10**30, more than NumPy can count.
_MOST_TOKENS = 1 << 62


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


class _Errors:
    """The pairs of a call that cannot be used: of each the first thing that is wrong with it.

    Attributes:
        found: the errors, by the number of the pair in the call.
    """

    def __init__(self, first_item: int) -> None:
        self.found: dict[int, ExampleError] = {}
        self._first_item = first_item

    def check_texts(self, questions: Sequence[object], contexts: Sequence[object]) -> None:
        """Notes texts that cannot be tokenized."""
        for i, pair in enumerate(zip(questions, contexts, strict=True)):
            for kind, text in zip(("question", "context"), pair, strict=True):
                problem = text_problem(text)
                if problem:
                    self._add(i, kind, problem.reason, *problem.remedies)

    def check_tokens(
        self,
        kind: str,
        texts: Sequence[str],
        kept: Sequence[int],
        index: Int64,
        tokenized: Sequence[Text],
    ) -> None:
        """Notes texts with tokens that the model does not know, or with none.

        Args:
            kind: "question" or "context".
            texts: all texts of that kind.
            kept: the pairs that were tokenized.
            index: for each of these pairs its text among the ``tokenized``.
            tokenized: the distinct ones of the texts.
        """
        wrong = {n for n, text in enumerate(tokenized) if text.problem or not len(text.ids)}
        for i, number in zip(kept, index.tolist(), strict=True) if wrong else ():
            if number in wrong:
                nothing = (
                    f"has no tokens: the tokenizer drops all of its characters ({texts[i][:40]!r})"
                )
                self._add(i, kind, tokenized[number].problem or nothing)

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
        self._cache: OrderedDict[str, Text] = OrderedDict()
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
            raise ArgumentError(
                Argument("doc_stride"),
                " must be at least 0 and smaller than ",
                Argument("max_seq_len"),
                f" ({max_seq_len}); got {doc_stride}",
            )
        errors = _Errors(first_item)
        errors.check_texts(questions, contexts)
        kept = [i for i in range(len(questions)) if i not in errors.found]
        question_of, question_texts = self._encode(questions, kept, self._encode_questions)
        context_of, context_texts = self._encode(contexts, kept, self._encode_contexts)
        errors.check_tokens("question", questions, kept, question_of, question_texts)
        errors.check_tokens("context", contexts, kept, context_of, context_texts)
        question_len = lengths(question_texts)[question_of]
        context_len = lengths(context_texts)[context_of]
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
            question_texts,
            context_texts,
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

    def _encode(
        self,
        texts: Sequence[str],
        kept: Sequence[int],
        encode: Callable[[list[str]], list[Text]],
    ) -> tuple[Int64, list[Text]]:
        """Tokenize the distinct ones of ``kept`` texts, after each text's index among them."""
        number: dict[str, int] = {}
        index = [number.setdefault(texts[i], len(number)) for i in kept]
        return np.array(index, np.int64), encode(list(number))

    def _encode_questions(self, texts: list[str]) -> list[Text]:
        # "fast": without offsets into the text, for which questions have no use.
        return self._tokenize(texts, self._backend.encode_batch_fast)

    def _encode_contexts(self, texts: list[str]) -> list[Text]:
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
    ) -> list[Text]:
        """Tokenize ``texts`` together; where that fails, one by one, for the others' sake."""
        try:
            encodings = encode_batch(texts, add_special_tokens=False)
        except BaseException as error:
            if not is_tokenizers(error):
                raise
            if len(texts) > 1:
                return [text for one in texts for text in self._tokenize([one], encode_batch)]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return [Text(None, np.empty(0, np.int32), f"cannot be tokenized ({reason})")]
        found = []
        for encoding in encodings:
            ids = np.array(encoding.ids, np.int32)
            unknown = self._unknown_token(ids)
            found.append(Text(encoding, ids, f"has {unknown}" if unknown else None))
        return found

    def _unknown_token(self, ids: Int32) -> str | None:
        """What is wrong with token ids that the model has no embedding for; it would read past them."""
        if self._vocabulary is None or not len(ids) or ids.max() < self._vocabulary:
            return None
        token = self._backend.tokenizer.id_to_token(int(ids.max()))
        return (
            f"the token {token!r} with the id {ids.max()}, and the "
            f"model knows only ids below {self._vocabulary}: model and tokenizer do not go together"
        )


def default_doc_stride(max_seq_len: int) -> int:
    """128, or half of ``max_seq_len`` where that is less."""
    return min(max_seq_len // 2, DEFAULT_DOC_STRIDE)
