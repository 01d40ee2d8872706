"""Chunks against the tokenizer's own pair encoding with overflow, and the rules they must obey."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qa_fast.texts.chunker import Chunker, default_max_seq_len, make_chunks
from qa_fast.texts.chunks import Chunks

from ..helpers.tiny import FAMILIES, tokenizer_of, xquad

# (max_seq_len, doc_stride); None: the default.
SIZES = {
    "one_chunk": (4000, 128),
    "default": (384, None),
    "short": (192, 48),
    "no_overlap": (192, 0),
}


def pairs() -> tuple[list[str], list[str]]:
    """Questions and contexts: several scripts, contexts shared and not, short and long."""
    examples = [
        (qa["question"], paragraph["context"])
        for paragraphs in xquad().values()
        for paragraph in paragraphs[:2]
        for qa in paragraph["qas"][:2]
    ]
    examples += [("Who?", "Ada."), ("Who is [SEP] or </s>?", "It was Ada, who wrote it. " * 60)]
    questions, contexts = zip(*examples, strict=True)
    return list(questions), list(contexts)


def row(chunks: Chunks, c: int, ids: Any = None) -> list[int]:
    """Chunk c's token ids, or its part of another flat array."""
    start = chunks.row_offset[c]
    flat = chunks.input_ids if ids is None else ids
    return flat[start : start + chunks.length[c]].tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_same_tokens_as_the_tokenizer_itself_gives(family: str, size: str) -> None:
    tokenizer, (max_seq_len, doc_stride) = tokenizer_of(family), SIZES[size]
    max_seq_len = 3 * max_seq_len if "byte" in family or "no_" in family else max_seq_len
    questions, contexts = pairs()
    chunks = make_chunks(
        tokenizer, questions, contexts, max_seq_len=max_seq_len, doc_stride=doc_stride
    )
    right = tokenizer.padding_side == "right"
    expected = tokenizer(
        questions if right else contexts,
        contexts if right else questions,
        truncation="only_second" if right else "only_first",
        max_length=max_seq_len,
        stride=min(max_seq_len // 2, 128) if doc_stride is None else doc_stride,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
    )
    assert chunks.question_id.tolist() == expected["overflow_to_sample_mapping"]
    for c in range(len(chunks)):
        assert row(chunks, c) == expected["input_ids"][c]
        # tokenizers gives the template's type ids to the first chunk only: in the others the
        # second text is of type 1, even where the template says 0.
        if chunks.context_offset[c] == 0 or family not in ("unigram", "byte_bpe"):
            assert row(chunks, c, chunks.token_type_ids) == expected["token_type_ids"][c]
        sequence = expected.sequence_ids(c)
        (mine,) = np.nonzero([s == (1 if right else 0) for s in sequence])
        assert chunks.context[c].tolist() == [mine[0], mine[-1] + 1]
        # Each token of the chunk's context has the characters that the pair encoding gives it.
        encoding = chunks.encodings[chunks.encoding_of[chunks.question_id[c]]]
        here = [
            encoding.token_to_chars(int(chunks.context_offset[c]) + i) for i in range(len(mine))
        ]
        assert here == [expected[c].offsets[i] for i in mine]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_cover_the_context_and_share_doc_stride_tokens(family: str, size: str) -> None:
    max_seq_len, doc_stride = SIZES[size]
    max_seq_len *= 3 if "byte" in family or "no_" in family else 1
    questions, contexts = pairs()
    chunks = make_chunks(
        tokenizer_of(family), questions, contexts, max_seq_len=max_seq_len, doc_stride=doc_stride
    )
    assert (chunks.length <= max_seq_len).all()
    overlap = 128 if doc_stride is None else doc_stride
    context_len = chunks.context[:, 1] - chunks.context[:, 0]
    for q, number in enumerate(chunks.encoding_of):
        encoding = chunks.encodings[number]
        (mine,) = np.nonzero(chunks.question_id == q)
        begin, length = chunks.context_offset[mine], context_len[mine]
        assert begin[0] == 0
        assert begin[-1] + length[-1] == len(encoding)
        assert (begin[:-1] + length[:-1] - begin[1:] == overlap).all()
        ids = [encoding.ids[b : b + n] for b, n in zip(begin, length, strict=True)]
        assert ids == [row(chunks, c)[slice(*chunks.context[c])] for c in mine]


@pytest.mark.parametrize(
    ("family", "place"),
    [("bundled", 0), ("wordpiece", 0), ("byte_bpe", 0), ("unigram", 0), ("xlnet", -1)],
)
def test_null_position_is_where_the_tokenizer_puts_cls(family: str, place: int) -> None:
    tokenizer = tokenizer_of(family)
    # The text spells [CLS] out, which is then a token of the question and of the context too.
    text = f"{tokenizer.cls_token} Ada wrote it {tokenizer.cls_token} then."
    chunks = make_chunks(tokenizer, [text], [text * 40], max_seq_len=128, doc_stride=32)
    assert len(chunks) > 1
    assert (chunks.null_position == (0 if place == 0 else chunks.length - 1)).all()
    at = chunks.row_offset + chunks.null_position
    assert (chunks.input_ids[at] == tokenizer.cls_token_id).all()


def test_no_cls_no_null_position() -> None:
    chunks = make_chunks(tokenizer_of("no_special"), ["Who?", "Why?"], ["Ada.", "For fun."])
    assert chunks.null_position.tolist() == [-1, -1]


def test_a_shared_context_is_encoded_once() -> None:
    chunks = make_chunks(tokenizer_of("bundled"), ["Who?", "Why?", "When?"], ["A.", "B.", "A."])
    assert len(chunks.encodings) == 2
    assert chunks.encoding_of.tolist() == [0, 1, 0]


class Counting:
    """A tokenizer's backend that notes the texts it encodes with offsets."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.texts = backend, []

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.texts += texts
        return self.backend.encode_batch(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def test_a_context_is_encoded_once_for_questions_of_several_calls() -> None:
    chunker = Chunker(tokenizer_of("bundled"))
    chunker._backend = counting = Counting(chunker._backend)
    first, _ = chunker.cut(["Who?", "Why?"], ["It was Ada.", "For fun."])
    second, _ = chunker.cut(["Where?", "When?"], ["For fun.", "In May."])
    assert counting.texts == ["It was Ada.", "For fun.", "In May."]
    assert second.encodings[0] is first.encodings[1]


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago() -> None:
    chunker = Chunker(tokenizer_of("bundled"), cached_tokens=20)
    chunker._backend = counting = Counting(chunker._backend)
    contexts = [f"ada {'was ' * 6} {i}" for i in range(3)]  # 8 tokens each
    for context in (*contexts[:2], contexts[0], contexts[2], contexts[0]):
        chunker.cut(["Who?"], [context])
    assert counting.texts == contexts
    chunker.cut(["Who?"], [contexts[1]])
    assert counting.texts == [*contexts, contexts[1]]
    for i in range(50):
        chunker.cut(["Who?"] * 3, [f"{i} {word}" for word in ("one", "two", "three")])
        assert sum(len(text.ids) for text in chunker._cache.values()) <= 20
    # A context that is too long is kept for the next question, alone.
    counting.texts.clear()
    for _ in range(3):
        chunker.cut(["Who?"], ["ada " * 100])
    assert len(counting.texts) == len(chunker._cache) == 1


def test_one_bad_pair_leaves_the_others() -> None:
    tokenizer = tokenizer_of("bundled")
    questions = ["Who?", "", "who " * 90, "Why?"]
    contexts = ["It was Ada.", "x", "ada " * 90, "For fun."]
    chunks, errors = Chunker(tokenizer).cut(questions, contexts, max_seq_len=96, first_item=5)
    assert [error.item for error in errors] == [6, 7]
    expected = make_chunks(tokenizer, ["Who?", "Why?"], ["It was Ada.", "For fun."], max_seq_len=96)
    assert chunks.input_ids.tolist() == expected.input_ids.tolist()
    assert chunks.question_id.tolist() == [0, 1]
    nothing, errors = Chunker(tokenizer).cut(["", " "], ["x", "y"])
    assert (len(nothing), len(errors)) == (0, 2)


def test_truncation_and_padding_left_on_the_tokenizer_have_no_effect() -> None:
    tokenizer = tokenizer_of("wordpiece")
    questions, contexts = ["Who?"], ["It was Ada who wrote the note. " * 40]
    expected = make_chunks(tokenizer, questions, contexts)
    tokenizer("a b c d e", truncation=True, max_length=4, padding="max_length")
    again = make_chunks(tokenizer, questions, contexts)
    assert again.input_ids.tolist() == expected.input_ids.tolist()


def test_max_question_len_cuts_the_question() -> None:
    tokenizer = tokenizer_of("bundled")
    chunks = make_chunks(tokenizer, ["who wrote the note"], ["Ada did."], max_question_len=2)
    assert tokenizer.decode(row(chunks, 0)) == "[CLS] who wrote [SEP] ada did. [SEP]"


def test_a_context_that_fits_needs_no_room_for_the_stride() -> None:
    # 3 special tokens, 8 of the question, 5 of the context: less room than doc_stride, but enough.
    chunks = make_chunks(
        tokenizer_of("bundled"), ["who " * 8], ["it was ada ."], max_seq_len=16, doc_stride=8
    )
    assert len(chunks) == 1


GOOD = {"questions": ["Who?"], "contexts": ["It was Ada."]}
BAD = {
    "empty_question": ({"questions": [""]}, "question 7 is empty"),
    "blank_question": ({"questions": [" \n\t "]}, "question 7 is empty but for spaces"),
    "empty_context": ({"contexts": [""]}, "context 7 is empty"),
    "second_context": (
        {"questions": ["Who?", "Why?"], "contexts": ["It was Ada.", "\u3000"]},
        "context 8 is empty but for spaces",
    ),
    "question_not_a_string": ({"questions": [3]}, "question 7 must be a string; got int"),
    "context_none": ({"contexts": [None]}, "context 7 must be a string; got None, a missing value"),
    "surrogate": ({"contexts": ["ab\ud83e"]}, "context 7 is not valid Unicode: character 2"),
    "question_without_tokens": ({"questions": ["\u200d"]}, "question 7 has no tokens"),
    "context_without_tokens": ({"contexts": ["\x00\x01"]}, "context 7 has no tokens"),
    "stride_too_large": (
        {"doc_stride": 384},
        r"doc_stride must be .* max_seq_len \(384\); got 384",
    ),
    "stride_negative": ({"doc_stride": -1}, "doc_stride must be at least 0"),
    "question_too_long": (
        {"questions": ["who " * 90], "contexts": ["ada " * 90], "max_seq_len": 96},
        "it has 90 tokens, and at most 44 fit with max_seq_len=96 and doc_stride=48; raise",
    ),
    "no_room_for_the_stride": (
        {"questions": ["who " * 50], "contexts": ["ada " * 90], "max_seq_len": 96},
        "it has 50 tokens, and at most 44 fit",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    changes, message = BAD[case]
    arguments = {**GOOD, **changes}
    with pytest.raises(ValueError, match=message):
        make_chunks(tokenizer_of("bundled"), first_item=7, **arguments)


def test_the_longest_question_that_the_message_allows_fits() -> None:
    arguments = {"contexts": ["ada " * 90], "max_seq_len": 96, "doc_stride": 48}
    assert len(make_chunks(tokenizer_of("bundled"), ["who " * 44], **arguments)) > 1
    with pytest.raises(ValueError, match="at most 44 fit"):
        make_chunks(tokenizer_of("bundled"), ["who " * 45], **arguments)


def test_slow_tokenizers_are_refused() -> None:
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match=r"not a fast tokenizer.*use_fast=True"):
        make_chunks(slow, ["Who?"], ["Ada."])


@pytest.mark.parametrize(
    ("model_max_length", "position_limit", "expected"),
    [(512, 512, 384), (256, 512, 256), (512, 130, 130), (int(1e30), None, 384), (None, 64, 64)],
)
def test_default_max_seq_len(
    model_max_length: int | None, position_limit: int | None, expected: int
) -> None:
    tokenizer = SimpleNamespace(model_max_length=model_max_length)
    assert default_max_seq_len(tokenizer, position_limit) == expected
