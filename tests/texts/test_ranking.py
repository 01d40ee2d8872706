"""Answers ranked as arrays are those that one span after the other gives."""

from __future__ import annotations

from math import exp, inf
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.texts import readings
from qa_fast.texts.chunker import make_chunks
from qa_fast.texts.chunks import Chunks
from qa_fast.texts.places import TokenSpans
from qa_fast.texts.readings import Reading, rank_answers

from ..helpers.tiny import tokenizer_of

# Letters that change with their case, some in length or by their place; white space of several kinds.
WORDS = [
    "Ada",
    "ADA",
    "ada",
    "İ",
    "i̇",
    "ΟΔΟΣ",
    "οδος",
    "οδοσ",
    "K",
    "k",
    "ſ",
    "S",
    "É",
    "é",
    "1843",
]
SPACES = [" ", "  ", "\n", "\u3000", "-", ", "]
TEXTS = st.lists(st.sampled_from(WORDS + SPACES), min_size=1, max_size=30).map("".join)


def one_by_one(
    chunks: Chunks, contexts: list[str], spans: TokenSpans, asked: dict[str, Any]
) -> list[Reading]:
    scoring, top_k = asked["scoring"], asked["top_k"]
    added, null_probabilities = shared_by_hand(chunks, spans, asked)
    found: list[dict[object, list[Any]]] = [{} for _ in contexts]
    nulls = [inf] * len(contexts)
    for row, null in enumerate(spans.null_score.tolist()):
        question = int(chunks.question_id[row]) if asked["per_chunk"] else row
        nulls[question] = min(nulls[question], null)
        encoding = chunks.encodings[chunks.encoding_of[question]]
        for score, start, end, chunk in zip(
            *(field[row].tolist() for field in spans[:4]), strict=True
        ):
            if chunk < 0:
                continue
            low, high = chunks.context[chunk].tolist()
            shift = int(chunks.context_offset[chunk]) - low
            first, last = start + shift, end + shift
            words = encoding.token_to_word(first), encoding.token_to_word(last)
            if asked["align_to_words"] and None not in words:
                first = encoding.word_to_tokens(words[0])[0]
                last = encoding.word_to_tokens(words[1])[1] - 1
                if scoring == "probability":
                    first, last = max(first, low + shift), min(last, high + shift - 1)
            i, j = encoding.token_to_chars(first)[0], encoding.token_to_chars(last)[1]
            given = contexts[question][i:j]
            text = given.strip()
            i += len(given) - len(given.lstrip())
            j = i + len(text)
            if not text:
                continue
            key = text.lower() if scoring == "probability" else (i, j)
            p = score if scoring == "logit" else float(np.exp(np.float64(score)))
            sure = None if added is None else min(float(np.exp(score + added[row])), 1.0)
            if key not in found[question]:
                found[question][key] = [p, i, j, sure]
                continue
            if sure is not None:
                found[question][key][3] = max(sure, found[question][key][3])
            if scoring == "probability":
                found[question][key][0] += p
            else:
                found[question][key][0] = max(p, found[question][key][0])
    expected = []
    counts = np.bincount(chunks.question_id).tolist()
    for context, mine, null, count, null_probability in zip(
        contexts, found, nulls, counts, null_probabilities, strict=True
    ):
        null_score = None if null == -inf else null if scoring == "logit" else exp(null)
        ranked = list(mine.values())
        if asked["handle_impossible_answer"] and null_score is not None:
            ranked.append([null_score, 0, 0, null_probability])
        ranked.sort(key=lambda answer: -answer[0])
        answers = [
            {"score": p, "start": i, "end": j, "answer": context[i:j]}
            for p, i, j, _ in ranked[:top_k]
        ]
        sure = None if added is None else [answer[3] for answer in ranked[:top_k]]
        null_probability = None if null_score is None else null_probability
        expected.append(Reading(answers, null_score, count, sure, null_probability))
    return expected


def shared_by_hand(
    chunks: Chunks, spans: TokenSpans, asked: dict[str, Any]
) -> tuple[list[float] | None, list[float | None]]:
    """What makes shared scores of those of each row; the probability of each question's null answer."""
    best = asked["best"]
    if best is None:
        return None, [None] * chunks.questions
    if not best:
        return [0.0] * len(spans.score), [exp(null) for null in spans.null_score.tolist()]
    score, null, sums = best[0].tolist(), best[1].tolist(), (best[2:] or [spans.score])[0].tolist()
    rows = range(len(spans.score))
    of = [int(chunks.question_id[row]) if asked["per_chunk"] else row for row in rows]
    shift = []
    for row in rows:
        first = spans.score[row, 0].item()
        largest = max(sums[other][0] for other in rows if of[other] == of[row])
        known = first > -inf
        shift.append(sums[row][0] - first + (score[of[row]][0] - largest) if known else 0.0)
    return shift, [exp(x) for x in null]


def spans_in(draw: Any, chunks: Chunks, rows: int, per_chunk: bool) -> TokenSpans:
    """Spans as a decoder could have found them: of few scores, so that some are equal."""
    most = 6
    spans = TokenSpans(
        np.full((rows, most), -np.inf, np.float32),
        *(np.full((rows, most), -1, np.int32) for _ in range(3)),
        np.array(
            draw(st.lists(st.sampled_from([-1, -2, -np.inf]), min_size=rows, max_size=rows)),
            np.float32,
        ),
    )
    for row in range(rows):
        scores = sorted(draw(st.lists(st.sampled_from([-0.5, -1, -1.25, -2, -3]), max_size=most)))[
            ::-1
        ]
        mine = [row] if per_chunk else np.flatnonzero(chunks.question_id == row).tolist()
        for place, score in enumerate(scores):
            chunk = draw(st.sampled_from(mine))
            low, high = chunks.context[chunk].tolist()
            start = draw(st.integers(low, high - 1))
            spans.score[row, place], spans.chunk[row, place] = score, chunk
            spans.start[row, place] = start
            spans.end[row, place] = draw(st.integers(start, min(high - 1, start + 3)))
    return spans


@st.composite
def best_of(draw: Any, spans: TokenSpans, questions: int, scoring: str) -> list[Any]:
    """What the searches for one span could have found beside ``spans``; one above 0 by rounding."""
    if scoring == "shared":
        return []
    numbers = st.sampled_from([1e-6, -0.25, -1, -2.5])
    found = [np.array(draw(st.lists(numbers, min_size=n, max_size=n)), np.float32) for n in (
        questions, questions, len(spans.score)
    )]  # fmt: skip
    score, null, sums = found
    sums[spans.chunk[:, 0] < 0] = -np.inf
    of_rows = [sums[:, None]] if scoring == "probability" else []
    return [score[:, None], np.minimum(null, 0), *of_rows]


@pytest.mark.parametrize("family", ["bundled", "byte_bpe", "unigram", "untrimmed"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_answers_are_those_of_one_span_after_the_other(family: str, data: st.DataObject) -> None:
    contexts = data.draw(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=4))
    contexts += data.draw(st.lists(st.sampled_from(contexts), max_size=2))
    chunks = make_chunks(
        tokenizer_of(family), ["Who?"] * len(contexts), contexts, max_seq_len=24, doc_stride=4
    )
    scoring = data.draw(st.sampled_from(["probability", "shared", "logit"]))
    per_chunk = scoring == "probability" or (scoring == "logit" and data.draw(st.booleans()))
    asked = {
        "scoring": scoring,
        "per_chunk": per_chunk,
        "top_k": data.draw(st.sampled_from([1, 3, None])),
        "align_to_words": data.draw(st.booleans()),
        "handle_impossible_answer": data.draw(st.booleans()),
    }
    rows = len(chunks) if per_chunk else len(contexts)
    spans = spans_in(data.draw, chunks, rows, per_chunk)
    asked["best"] = data.draw(st.none() | best_of(spans, len(contexts), scoring))
    with mock.patch.object(readings, "FEW", data.draw(st.sampled_from([0, readings.FEW]))):
        found = rank_answers(chunks, contexts, spans, **asked)
    assert found.readings(contexts) == one_by_one(chunks, contexts, spans, asked)


def test_what_is_taken_of_letters_holds_for_all_of_unicode() -> None:
    characters = list(map(chr, range(0x110000)))
    assert [c for c in characters if len(c.lower()) != 1] == ["İ"]
    assert max(c for c in characters if c.isspace()) == "\u3000"
