"""From token spans to characters, words and merged answers."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log
from typing import Any

import numpy as np
import pytest

import qa_fast
from qa_fast.engine import Engine, Options
from qa_fast.engine.candidates import candidate_count
from qa_fast.texts.chunker import make_chunks
from qa_fast.texts.places import TokenSpans
from qa_fast.texts.readings import Reading, rank_answers

from ..helpers.hashing import Hashing, OfTokens
from ..helpers.tiny import FAMILIES, char_range, hollow_tokenizer, tokenizer_of


def encode(family: str, text: str):
    return make_chunks(tokenizer_of(family), ["q"], [text]).encodings[0]


def spans_of(rows: list[list[tuple[float, int, int, int]]], null: list[float]) -> TokenSpans:
    """Spans from lists of (score, start, end, chunk) of equal length."""
    score, start, end, chunk = np.moveaxis(np.array(rows, np.float64), -1, 0)
    return TokenSpans(
        score.astype(np.float32),
        start.astype(np.int32),
        end.astype(np.int32),
        chunk.astype(np.int32),
        np.array(null, np.float32),
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


def readings_of(chunks, context: str, spans: TokenSpans, **arguments):
    (reading,) = rank_answers(chunks, [context], spans, **arguments).readings([context])
    return reading


def merged(**changes):
    """Four single-token answers of one chunk, three of them the same but for case."""
    chunks = make_chunks(tokenizer_of("bundled"), ["who"], [CONTEXT])
    at = int(chunks.context[0, 0])
    row = [(log(p), at + t, at + t, 0) for p, t in ((0.3, 1), (0.25, 0), (0.2, 2), (0.1, 4))]
    arguments = {"top_k": 5, **MERGE, **changes}
    return (
        rank_answers(chunks, [CONTEXT], spans_of([row], [log(0.35)]), **arguments)
        .readings([CONTEXT])[0]
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
        rank_answers(chunks, [text], spans_of([row], [0.0]), top_k=3, **arguments)
        .readings([text])[0]
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
    assert (reading.null_score, reading.chunks) == (score, len(chunks))


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


# --- white space --------------------------------------------------------------------------------

SPACED = "Ada  wrote\n\n it in \u3000 London.\t東京 \x85 1843 \r\n"


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_begins_or_ends_with_white_space(family: str, scoring: Any, align: bool) -> None:
    engine = Engine(Hashing(), tokenizer_of(family))
    options = Options(top_k=10**6, max_answer_len=None, scoring=scoring, align_to_words=align)
    (reading,) = engine.read([("Who?", SPACED)], options)
    assert isinstance(reading, Reading)
    for answer in reading.answers:
        assert answer["answer"] == answer["answer"].strip() != ""
        assert SPACED[answer["start"] : answer["end"]] == answer["answer"]
    keys = [
        a["answer"].lower() if scoring == "probability" else a["start"] << 32 | a["end"]
        for a in reading.answers
    ]
    assert len(set(keys)) == len(keys) > 10


def spaced(scoring: Any, **changes: Any) -> list[Any]:
    """Answers of the tokens "▁" and "London", of both together, and of the one before them."""
    context = "Ada  London"
    chunks = make_chunks(tokenizer_of("unigram"), ["who"], [context])
    tokens = chunks.encodings[0].tokens
    space, at = tokens.index("▁"), int(chunks.context[0, 0])
    last = len(tokens) - 1
    assert chunks.encodings[0].offsets[space] == (3, 4)
    spans = [(0.3, space, last), (0.25, space + 1, last), (0.2, space, space), (0.15, 0, space)]
    row = [(log(p), at + i, at + j, 0) for p, i, j in spans]
    arguments = {**MERGE, "scoring": scoring, "top_k": 5, **changes}
    return readings_of(chunks, context, spans_of([row], [log(0.1)]), **arguments).answers


@pytest.mark.parametrize(("scoring", "score"), [("probability", 0.55), ("shared", 0.3)])
def test_spans_that_are_equal_but_for_white_space_are_one_answer(
    scoring: Any, score: float
) -> None:
    best, other = spaced(scoring)
    assert best == {"score": pytest.approx(score), "start": 5, "end": 11, "answer": "London"}
    # The token of nothing but a space is no answer, and ends none.
    assert other == {"score": pytest.approx(0.15), "start": 0, "end": 3, "answer": "Ada"}


def test_the_null_answer_is_none_of_white_space() -> None:
    *_, null = spaced("shared", handle_impossible_answer=True)
    assert null == {"score": pytest.approx(0.1), "start": 0, "end": 0, "answer": ""}


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
def test_white_space_takes_no_answer_from_those_that_exist(scoring: Any, align: bool) -> None:
    """All of the best spans are white space: more of them are looked at."""
    tokenizer = tokenizer_of("no_special")
    space, newline = tokenizer.convert_tokens_to_ids(["Ġ", "Ċ"])
    engine = Engine(OfTokens({space: 9.0, newline: 9.0}), tokenizer)
    context = "Ada" + "\n \n" * 30 + "x wrote it."
    options = Options(top_k=6, scoring=scoring, align_to_words=align)
    (reading,) = engine.read([("Who?", context)], options)
    assert isinstance(reading, Reading)
    assert len(reading.answers) == 6


def test_answers_per_chunk_of_a_reader_stay_so_many() -> None:
    """It is a number of spans, not of answers."""
    tokenizer = tokenizer_of("no_special")
    engine = Engine(OfTokens({tokenizer.convert_tokens_to_ids("Ċ"): 9.0}), tokenizer)
    options = Options(top_k=50, scoring="logit", spans_per_chunk=4, align_to_words=False)
    (reading,) = engine.read([("Who?", "Ada\n\n\n\nwrote it.")], options)
    assert isinstance(reading, Reading)
    assert len(reading.answers) < 4


def test_token_probabilities_are_those_of_the_tokens_with_their_spaces() -> None:
    tokenizer = tokenizer_of("unigram")
    found = Engine(Hashing(), tokenizer).token_probabilities("Who?", "It was Ada.", Options())
    raw = tokenizer("It was Ada.", add_special_tokens=False, return_offsets_mapping=True)
    assert found.characters.tolist() == [list(pair) for pair in raw["offset_mapping"]]
    assert any("It was Ada."[i:j].startswith(" ") for i, j in found.characters)


# --- tokens without characters ------------------------------------------------------------------


HOLLOW = "Ada wrote it  in London."


def answer_at(word: str, **options: Any) -> Any:
    """The best answer where the model's mind is on one word."""
    tokenizer = hollow_tokenizer()
    encoding = tokenizer.backend_tokenizer.encode(HOLLOW)
    assert encoding.offsets == [(0, 4), (4, 4), (10, 10), (14, 14), (14, 14), (17, 24)]
    token = next(
        i for i, t in zip(encoding.ids, encoding.tokens, strict=True) if word == t.strip("Ġ")
    )
    engine = Engine(OfTokens({token: 20.0}), tokenizer)
    (reading,) = engine.read([("in", HOLLOW)], Options(**options))
    assert isinstance(reading, Reading)
    return reading.answers


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("word", ["wrote", "it", "in"])
def test_a_token_without_characters_has_those_before_the_next_token(word: str, align: bool) -> None:
    with pytest.warns(UserWarning, match="no characters"):
        (answer,) = answer_at(word, align_to_words=align)
    start = HOLLOW.index(word)
    assert (answer["answer"], answer["start"], answer["end"]) == (word, start, start + len(word))


def test_no_answer_is_empty() -> None:
    with pytest.warns(UserWarning, match="no characters"):
        answers = answer_at("it", top_k=100)
    assert len(answers) > 10
    assert all(HOLLOW[a["start"] : a["end"]] == a["answer"] != "" for a in answers)


def test_a_token_without_characters_is_named_once_at_the_callers_line() -> None:
    tokenizer = hollow_tokenizer()
    qa = qa_fast.pipeline(OfTokens({2: 20.0}), tokenizer=tokenizer)
    message = r"the token 'wrote *' no characters .*token 1 of context 0, at character 4"
    with pytest.warns(UserWarning, match=message) as caught:
        answer = qa("in", HOLLOW)
    assert [warning.filename for warning in caught] == [__file__]
    assert qa("in", HOLLOW) == answer  # without a word: warnings are errors here


def test_spaces_without_characters_are_not_worth_a_word() -> None:
    """RoBERTa's tokenizer gives the second of two spaces so: warnings are errors here."""
    tokenizer = tokenizer_of("byte_bpe")
    context = "Ada  wrote   it."
    assert any(a == b for a, b in tokenizer.backend_tokenizer.encode(context).offsets[1:-1])
    (reading,) = Engine(Hashing(), tokenizer).read([("Who?", context)], Options(top_k=100))
    assert isinstance(reading, Reading)
    assert all(a["answer"].strip() == a["answer"] != "" for a in reading.answers)


def test_candidate_count() -> None:
    assert candidate_count(3, align_to_words=True) == 16
    assert candidate_count(3, align_to_words=False) == 3


def test_a_best_span_without_characters_does_not_hide_the_others() -> None:
    """Byte-level tokenizers have tokens for spaces alone, which stand for no characters."""
    engine = Engine(Hashing(), tokenizer_of("byte_bpe"))
    for context in ("'s Ada  ½", "Ada  ½  was", "½  Ada  ½"):
        for scoring in ("probability", "logit"):
            everything = Options(top_k=None, align_to_words=False, scoring=scoring)
            (expected,) = engine.read([("Ada", context)], everything)
            (found,) = engine.read([("Ada", context)], replace(everything, top_k=1))
            assert found.answers[0]["answer"] == expected.answers[0]["answer"]
