"""How many spans are decoded: all answers, in the memory that they take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qa_fast
from qa_fast.engine import Engine, Options
from qa_fast.engine.candidates import PLACES, Part, most_spans, parts, span_count
from qa_fast.texts.chunker import make_chunks

from ..helpers.hashing import Hashing
from ..helpers.tiny import tokenizer_of

TEXT = "Ada Lovelace was born in London. She published a program in 1843. "
HUGE = [10**5, 10**9, sys.maxsize, 10**30]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Hashing(), tokenizer_of("bundled"))


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize("huge", HUGE)
def test_all_answers_are_those_of_a_top_k_that_is_just_enough(
    engine: Engine, scoring: Any, huge: int
) -> None:
    """Of texts of one chunk and of several, side by side."""
    pairs = [("Who?", TEXT), ("Who?", TEXT * 9), ("Who?", "Ada.")]
    options = {"scoring": scoring, "max_seq_len": 64, "doc_stride": 16}
    found = list(engine.read(pairs, Options(top_k=huge, **options)))
    expected = list(engine.read(pairs, Options(top_k=5000, **options)))
    assert found == expected
    all_of_them = 103 if scoring == "probability" else 105  # of which two have the text of another
    assert [len(reading.answers) for reading in found][::2] == [all_of_them, 3]


def test_all_answers_of_the_pipeline_and_of_the_registered_one() -> None:
    """As many as Transformers' own pipeline gave, but for two fillers of score 0."""
    import transformers

    qa = qa_fast.pipeline(device="cpu")
    ours = [qa("Where was Ada born?", TEXT, top_k=k) for k in (1000, 10**9)]
    qa_fast.register()
    try:
        removed: Any = transformers.pipeline("question-answering", qa.model, tokenizer=qa.tokenizer)
        ours.append(removed(question="Where was Ada born?", context=TEXT, top_k=sys.maxsize))
    finally:
        qa_fast.unregister()
    assert [len(answers) for answers in ours] == [103] * 3
    assert ours[0] == ours[1] == ours[2]


def test_all_spans_of_the_reader(engine: Engine) -> None:
    reader = qa_fast.Reader(engine.model, tokenizer=engine.tokenizer)
    everything = {"top_k": 10**9, "overlap_threshold": None, "no_answer": False}
    found = [
        reader("Who?", [TEXT, "Ada."], answers_per_chunk=n, **everything)
        for n in (200, sys.maxsize)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 15 * 16 // 2 + 3


@pytest.mark.parametrize("max_answer_len", [1, 3, 15, None, 10**30])
def test_span_count(max_answer_len: int | None) -> None:
    tokens = np.array([0, 1, 2, 3, 14, 15, 16, 40])
    expected = [
        sum(j - i < (max_answer_len or n) for i in range(n) for j in range(i, n))
        for n in tokens.tolist()
    ]
    assert span_count(tokens, max_answer_len).tolist() == expected


def window(scoring: Any, top_k: int) -> tuple[list[Part], int]:
    """A long text among 255 short ones, and how many spans all of them have."""
    contexts = ["Ada wrote it."] * 256
    contexts[100] = "Ada wrote the note. " * 500
    chunks = make_chunks(tokenizer_of("bundled"), ["Who?"] * 256, contexts, max_seq_len=128)
    options = Options(top_k=top_k, scoring=scoring, max_answer_len=None)
    tokens = chunks.context[:, 1] - chunks.context[:, 0]
    return parts(chunks, chunks.row_offset, options), int(span_count(tokens, None).sum())


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
def test_places_are_in_proportion_to_the_spans_that_exist(scoring: Any) -> None:
    found, spans = window(scoring, 10**9)
    rows = [len(p.chunks) if scoring == "probability" else len(p.questions) for p in found]
    places = sum(n * part.candidates for n, part in zip(rows, found, strict=True))
    assert spans <= places <= 4 * spans
    assert sorted(q for part in found for q in part.questions.tolist()) == list(range(256))


def test_few_places_are_one_array() -> None:
    """What nearly all callers ask for is decoded in one call."""
    (part,), _ = window("probability", 100)
    assert part.candidates == 210
    assert part.candidates * len(part.chunks) <= PLACES


def test_parts_have_the_chunks_of_their_questions() -> None:
    found, _ = window("logit", 10**9)
    assert len(found) == 2
    for part in found:
        assert part.chunks.question_id[-1] == len(part.questions) - 1 == part.chunks.questions - 1
        assert len(part.chunks) == len(part.row_offset) == len(part.chunks.null_position)
        assert (np.diff(part.row_offset) >= part.chunks.length[:-1]).all()
        options = Options(max_answer_len=None, scoring="logit")
        assert most_spans(part.chunks, options).max() == part.candidates


MEMORY = """
import resource, sys
from qa_fast.engine import Engine, Options
from tests.helpers.hashing import Hashing
from tests.helpers.tiny import tokenizer_of

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

engine = Engine(Hashing(), tokenizer_of("bundled"))
text = "Ada Lovelace was born in London. She published a program in 1843. " * 3000
list(engine.read([("Who?", text[:1000])], Options()))
before = megabytes()
pairs = [("Who?", text), *[("Who?", "Ada.")] * 50]
readings = list(engine.read(pairs, Options(top_k=1_000_000, scoring=sys.argv[1])))
print(len(readings[0].answers), megabytes() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="asks for the memory as Unix does")
@pytest.mark.parametrize(
    ("scoring", "all_of_them", "most"), [("probability", 225, 250), ("logit", 590_908, 600)]
)
def test_a_million_answers_of_a_long_text_take_little_memory(
    scoring: str, all_of_them: int, most: int
) -> None:
    """For 2,000,010 places in each of 180 chunks, or of 51 questions, it took gigabytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, scoring],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers, megabytes = done.stdout.split()
    assert int(answers) == all_of_them
    assert float(megabytes) < most
