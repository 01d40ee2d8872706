"""Offsets in scripts without spaces, with combining marks, right to left, and after emoji."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from qa_fast.dropin.pipeline import pipeline
from qa_fast.engine import Engine, Options
from qa_fast.texts.chunker import make_chunks

from ..helpers.tiny import FAMILIES, char_range, tiny_model, tokenizer_of, xquad

LANGUAGES = ("zh", "ar", "th", "hi")
EMOJI = "\U0001f917\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301\U0001f1eb\U0001f1f7 "


@cache
def engine_of(family: str) -> Engine:
    if family == "bundled":
        return pipeline().engine
    tokenizer = tokenizer_of(family)
    return Engine(tiny_model(tokenizer), tokenizer)


def examples(language: str, before: str = "") -> list[tuple[dict[str, Any], str]]:
    return [
        ({**qa, "start": qa["start"] + len(before)}, before + paragraph["context"])
        for paragraph in xquad()[language]
        for qa in paragraph["qas"]
    ]


@pytest.mark.parametrize("before", ["", EMOJI], ids=["plain", "emoji_before"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_slices_of_the_context(family: str, language: str, before: str) -> None:
    found = examples(language, before)[:: 4 if family == "bundled" else 1]
    data = [(qa["question"], context) for qa, context in found]
    for align in (False, True):
        for scoring in ("probability", "shared"):
            options = Options(
                top_k=5, max_seq_len=256, doc_stride=32, align_to_words=align, scoring=scoring
            )
            readings = engine_of(family).read(data, options)
            for (_, context), reading in zip(data, readings, strict=True):
                assert 1 <= len(reading.answers) <= 5
                for answer in reading.answers:
                    start, end = answer["start"], answer["end"]
                    assert 0 <= start <= end <= len(context)
                    assert context[start:end] == answer["answer"]


@pytest.mark.parametrize("before", ["", EMOJI], ids=["plain", "emoji_before"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_gold_answer_map_back_to_it(family: str, language: str, before: str) -> None:
    for qa, context in examples(language, before):
        chunks = make_chunks(tokenizer_of(family), [qa["question"]], [context], max_seq_len=4000)
        (encoding,) = chunks.encodings
        gold = range(qa["start"], qa["start"] + len(qa["answer"]))
        tokens = [t for t, (a, b) in enumerate(encoding.offsets) if a <= gold[-1] and gold[0] < b]
        for align in (False, True):
            start, end = char_range(
                encoding, context, tokens[0], tokens[-1], 0, len(encoding), align_to_words=align
            )
            # Accents that a tokenizer strips have no token: at the answer's end they are left out.
            last = encoding.token_to_chars(tokens[-1])[1]
            assert start <= gold[0] < end
            assert end >= min(gold[-1] + 1, last)
            assert qa["answer"][: last - gold[0]] in context[start:end]
            if family != "bundled":
                assert qa["answer"] in context[start:end]
