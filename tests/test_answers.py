"""From token spans to characters, words and merged answers."""

from __future__ import annotations

from math import exp, inf, log

import pytest
import torch

from qa_fast.answers import make_readings
from qa_fast.candidates import candidate_count
from qa_fast.chunks import make_chunks
from qa_fast.spans import Spans

from .tiny import char_range, tokenizer_of


def encode(family: str, text: str):
    return make_chunks(tokenizer_of(family), ["q"], [text]).encodings[0]


def spans_of(rows: list[list[tuple[float, int, int, int]]], null: list[float]) -> Spans:
    """Spans from lists of (score, start, end, chunk) of equal length."""
    score, start, end, chunk = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    return Spans(
        score.float(),
        start.int(),
        end.int(),
        chunk.int(),
        torch.tensor(null, dtype=torch.float32),
        torch.zeros(len(rows), dtype=torch.bool),
    )


@pytest.mark.parametrize(
    ("family", "text", "first", "last", "aligned", "plain"),
    [
        # Tokens: un ##fl ##ag ##ging work
        ("bundled", "unflagging work", 1, 2, "unflagging", "flag"),
        ("bundled", "unflagging work", 3, 4, "unflagging work", "ging work"),
        ("bundled", "\U0001f917 unflagging", 2, 3, "unflagging", "flag"),
    ],
    ids=["inside_a_word", "across_words", "after_an_emoji"],
)
def test_align_to_words(
    family: str, text: str, first: int, last: int, aligned: str, plain: str
) -> None:
    encoding = encode(family, text)
    for align, expected in ((True, aligned), (False, plain)):
        start, end = char_range(encoding, text, first, last, 0, len(encoding), align_to_words=align)
        assert text[start:end] == expected


def test_a_word_is_widened_only_within_the_window() -> None:
    text = "unflagging work"
    encoding = encode("bundled", text)
    start, end = char_range(encoding, text, 2, 2, 1, 3, align_to_words=True)
    assert text[start:end] == "flag"


def test_without_words_tokens_keep_their_characters() -> None:
    # A tokenizer without pre-tokenizer takes the whole text for one word; an added token has none.
    text = "Ada [SEP] wrote"
    encoding = encode("bundled", text)
    token = encoding.tokens.index("[SEP]")
    start, end = char_range(encoding, text, token, token, 0, len(encoding), align_to_words=True)
    assert text[start:end] == "[SEP]"


@pytest.mark.parametrize("align", [False, True])
def test_tokens_that_share_a_character_cover_it_whole(align: bool) -> None:
    text = "so \U0001f9ec\U0001f9ec it is"
    encoding = encode("byte_bpe", text)
    inside = [t for t in range(len(encoding)) if encoding.token_to_chars(t) in {(3, 4), (4, 5)}]
    assert len(inside) > 2  # several tokens per character, or this shows nothing
    for token in inside:
        start, end = char_range(
            encoding, text, token, token, 0, len(encoding), align_to_words=align
        )
        assert text[start:end] == ("\U0001f9ec\U0001f9ec" if align else "\U0001f9ec")


CONTEXT = "Ada met ada and ADA"
MERGE = {"scoring": "probability", "align_to_words": False, "handle_impossible_answer": False}


def readings_of(chunks, context: str, spans: Spans, **arguments):
    (reading,) = make_readings(chunks, [context], spans, **arguments).readings
    return reading


def merged(**changes):
    """Four single-token answers of one chunk, three of them the same but for case."""
    chunks = make_chunks(tokenizer_of("bundled"), ["who"], [CONTEXT])
    at = int(chunks.context[0, 0])
    row = [(log(p), at + t, at + t, 0) for p, t in ((0.3, 1), (0.25, 0), (0.2, 2), (0.1, 4))]
    arguments = {"top_k": 5, **MERGE, **changes}
    return (
        make_readings(chunks, [CONTEXT], spans_of([row], [log(0.35)]), **arguments)
        .readings[0]
        .answers
    )


def test_the_same_text_is_one_answer_with_the_summed_score() -> None:
    answers = merged()
    assert [a["answer"] for a in answers] == ["Ada", "met"]
    assert [(a["start"], a["end"]) for a in answers] == [(0, 3), (4, 7)]
    assert [a["score"] for a in answers] == pytest.approx([0.55, 0.3])


@pytest.mark.parametrize("scoring", ["shared", "logit"])
def test_other_scorings_do_not_merge_by_text(scoring: str) -> None:
    answers = merged(scoring=scoring)
    assert [a["answer"] for a in answers] == ["met", "Ada", "ada", "ADA"]
    scores = [0.3, 0.25, 0.2, 0.1]
    scores = [log(p) for p in scores] if scoring == "logit" else scores
    assert [a["score"] for a in answers] == pytest.approx(scores)


def test_other_scorings_give_a_place_once() -> None:
    text = "unflagging work"
    chunks = make_chunks(tokenizer_of("bundled"), ["who"], [text])
    at = int(chunks.context[0, 0])
    row = [(-1.0, at, at + 1, 0), (-2.0, at + 1, at + 2, 0), (-3.0, at + 4, at + 4, 0)]
    arguments = {**MERGE, "scoring": "shared", "align_to_words": True}
    answers = (
        make_readings(chunks, [text], spans_of([row], [0.0]), top_k=3, **arguments)
        .readings[0]
        .answers
    )
    assert [a["answer"] for a in answers] == ["unflagging", "work"]
    assert [a["score"] for a in answers] == pytest.approx([exp(-1.0), exp(-3.0)])


def test_top_k_cuts_after_merging() -> None:
    assert [a["answer"] for a in merged(top_k=1)] == ["Ada"]


def test_the_null_answer_competes_by_its_score() -> None:
    answers = merged(handle_impossible_answer=True, top_k=2)
    assert answers[1] == {"score": pytest.approx(0.35), "start": 0, "end": 0, "answer": ""}


def test_the_null_score_is_the_least_of_the_chunks() -> None:
    context = "word " * 200
    chunks = make_chunks(tokenizer_of("bundled"), ["who"], [context], max_seq_len=128)
    nulls = [-1.0, -5.0] + [-2.0] * (len(chunks) - 2)
    nothing = [[(-inf, -1, -1, -1)]] * len(chunks)
    arguments = {**MERGE, "handle_impossible_answer": True}
    reading = readings_of(chunks, context, spans_of(nothing, nulls), top_k=3, **arguments)
    score = pytest.approx(exp(-5.0))
    assert reading.answers == [{"score": score, "start": 0, "end": 0, "answer": ""}]
    assert reading[1:] == (score, len(chunks))


def test_fewer_candidates_than_asked_for_are_not_filled_up() -> None:
    chunks = make_chunks(tokenizer_of("bundled"), ["who"], ["Ada"])
    at = int(chunks.context[0, 0])
    spans = spans_of([[(0.0, at, at, 0), (-inf, -1, -1, -1)]], [-inf])
    assert len(readings_of(chunks, "Ada", spans, top_k=2, **MERGE).answers) == 1


def test_plain_python_types() -> None:
    for answer in merged(handle_impossible_answer=True):
        assert [type(answer[key]) for key in ("score", "start", "end", "answer")] == [
            float,
            int,
            int,
            str,
        ]


def test_candidate_count() -> None:
    assert candidate_count(3, align_to_words=True) == 16
    assert candidate_count(3, align_to_words=False) == 3
