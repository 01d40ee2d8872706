"""Reader, compared with ExtractiveReader's arithmetic spelled out on the N x N matrix."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from qa_fast import Reader
from qa_fast.dropin.pipeline import pipeline
from qa_fast.engine import Options

from ..helpers import oracle
from ..helpers.tiny import tiny_model, tokenizer_of, xquad
from ..helpers.zoo import family_model, family_tokenizer

QUESTION = "Who wrote the note?"


def documents() -> list[str]:
    """Short ones and long ones, in several scripts, and one of them twice."""
    texts = ["It was Ada who wrote it.", "Nobody knows. " * 40]
    texts += [paragraphs[0]["context"][:300] for paragraphs in xquad().values()]
    return [*texts, texts[0]]


def spelled_out(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    *,
    top_k: int = 20,
    score_threshold: float | None = None,
    no_answer: bool = True,
    calibration_factor: float = 0.1,
    overlap_threshold: float | None = 0.01,
    answers_per_chunk: int = 20,
    max_answer_len: int | None = None,
    max_seq_len: int = 96,
    doc_stride: int = 16,
) -> list[tuple[float, int | None, int, int]]:
    """(score, document, start, end) of the answers; chunks one by one."""
    found: list[tuple[float, int | None, int, int]] = []
    for number, text in enumerate(texts):
        encoded = tokenizer(
            QUESTION,
            text,
            truncation="only_second",
            max_length=max_seq_len,
            stride=doc_stride,
            return_overflowing_tokens=True,
        )
        places: dict[tuple[int, int], float] = {}
        for i, ids in enumerate(encoded["input_ids"]):
            inputs = {k: torch.tensor([encoded[k][i]]) for k in tokenizer.model_input_names}
            with torch.inference_mode():
                output = model(**inputs)
            inside = torch.tensor([s == 1 for s in encoded.sequence_ids(i)])
            start, end = (
                x[0].masked_fill(~inside, -torch.inf)
                for x in (output.start_logits, output.end_logits)
            )
            band = torch.ones(len(ids), len(ids), dtype=torch.bool).triu()
            if max_answer_len is not None:
                band = band.tril(max_answer_len - 1)
            matrix = (start[:, None] + end[None, :]).masked_fill(~band, -torch.inf)
            score = (calibration_factor * matrix).sigmoid().flatten()
            best = score.topk(min(answers_per_chunk, len(score)))
            for p, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                if p > 0:
                    a, b = divmod(at, len(ids))
                    given = encoded[i].token_to_chars(a)[0], encoded[i].token_to_chars(b)[1]
                    place = oracle.trimmed(text, *given)
                    if place[0] < place[1]:
                        places[place] = max(p, places.get(place, 0.0))
        found += [(p, number, *place) for place, p in places.items()]
    found.sort(key=lambda answer: -answer[0])
    kept: list[tuple[float, int | None, int, int]] = []
    for candidate in found:
        lengths = [b - a for _, _, a, b in [candidate]]
        clash = False
        for _, document, a, b in kept:
            common = min(b, candidate[3]) - max(a, candidate[2])
            if document == candidate[1] and common > 0 and overlap_threshold is not None:
                clash |= max(common / (b - a), common / lengths[0]) > overlap_threshold
        if not clash:
            kept.append(candidate)
    kept = kept[:top_k]
    if no_answer:
        kept.append((float(np.prod([1 - answer[0] for answer in kept])), None, 0, 0))
        kept.sort(key=lambda answer: -answer[0])
    return [a for a in kept if score_threshold is None or a[0] >= score_threshold]


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "few": {"top_k": 3},
    "no_null": {"no_answer": False, "top_k": 5},
    "threshold": {"score_threshold": 0.5},
    "all_overlaps": {"overlap_threshold": None, "top_k": 15},
    "half_overlaps": {"overlap_threshold": 0.5},
    "steep": {"calibration_factor": 1.0, "top_k": 4},
    "shallow_pool": {"answers_per_chunk": 2},
    "short": {"max_answer_len": 3},
}


@pytest.fixture(scope="module", params=["roberta", "bert"])
def models(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return family_model(request.param), family_tokenizer(request.param)


@pytest.mark.parametrize("name", OPTIONS)
def test_answers_are_those_of_the_matrix(name: str, models: tuple[Any, Any]) -> None:
    model, tokenizer = models
    texts, options = documents(), OPTIONS[name]
    reader = Reader(model, tokenizer=tokenizer)
    answers = reader(QUESTION, texts, max_seq_len=96, doc_stride=16, **options)
    expected = spelled_out(model, tokenizer, texts, **options)
    assert [a["score"] for a in answers] == pytest.approx([e[0] for e in expected], abs=1e-5)
    places = [(a["document"], a["start"], a["end"]) for a in answers]
    assert places == [e[1:] for e in expected]
    for answer in answers:
        if answer["document"] is None:
            assert answer["answer"] == ""
        else:
            text = texts[answer["document"]]
            assert answer["answer"] == text[answer["start"] : answer["end"]]


def test_the_best_document_answers() -> None:
    reader = Reader(device="cpu")
    texts = ["Ada was born in London. " * 30, "Marie was born in Warsaw.", "It rains."]
    answers = reader("Where was Marie born?", texts, answers_per_chunk=200)
    assert (answers[0]["document"], answers[0]["answer"]) == (1, "Warsaw")
    assert all(0 < answer["score"] < 1 for answer in answers)
    assert [a["document"] for a in answers].count(None) == 1
    # "London" stands all over the long document, and no answer overlaps another.
    spots = sorted((a["start"], a["end"]) for a in answers if a["document"] == 0)
    assert len(spots) > 3
    assert all(end <= start for (_, end), (start, _) in pairwise(spots))


def test_no_documents_no_answers() -> None:
    tokenizer = tokenizer_of("wordpiece")
    assert Reader(tiny_model(tokenizer), tokenizer=tokenizer)("Who?", []) == []


ERRORS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "one_string": ("It was Ada.", {}, "documents must be a sequence of texts; got a single string"),
    "empty": (["Ada.", " "], {}, "document 1 is empty"),
    "top_k": (["Ada."], {"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
    "pool": (["Ada."], {"answers_per_chunk": 0}, "answers_per_chunk must be an integer of at leas"),
    "factor": (["Ada."], {"calibration_factor": 0}, "must be a number above 0; got 0"),
    "overlap": (["Ada."], {"overlap_threshold": 2}, "overlap_threshold must be from 0 to 1, or No"),
    "factor_none": (
        ["Ada."],
        {"calibration_factor": None},
        "calibration_factor must be .*; got None",
    ),
    "factor_nan": (
        ["Ada."],
        {"calibration_factor": np.nan},
        "calibration_factor must be .*; got nan",
    ),
    "factor_huge": (
        ["Ada."],
        {"calibration_factor": 10**400},
        "calibration_factor must be a number above 0;",
    ),
    "overlap_text": (["Ada."], {"overlap_threshold": "1"}, "overlap_threshold must be .*; got '1'"),
    "threshold": (["Ada."], {"score_threshold": "0.5"}, "score_threshold must be .*; got '0.5'"),
    "threshold_nan": (["Ada."], {"score_threshold": np.nan}, "score_threshold must be .*; got nan"),
    "no_answer": (["Ada."], {"no_answer": "False"}, "no_answer must be True or False; got 'False'"),
    "mapping": (
        {"doc-1": "Ada."},
        {},
        "documents must be a seq.*got dict, whose keys would be read",
    ),
    "set": ({"Ada."}, {}, "documents must be a sequence of strings; got set, which has no order"),
    "array_of_none": (np.array("Ada."), {}, "documents must be .*; got ndarray of 0 dimensions"),
    "generator": (
        iter(["Ada."]),
        {},
        r"documents must be .*; got list_iterator: pass list\(documents",
    ),
    "bytes": (["Ada.", b"Ada."], {}, "document 1 must be a string; got bytes; decode it"),
    "none": (["Ada.", None], {}, "document 1 must be a string; got None, a missing value"),
    "length": (["Ada."], {"max_answer_len": 0}, "max_answer_len must be an integer of at least 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    texts, options, message = ERRORS[case]
    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(ValueError, match=message):
        Reader(tiny_model(tokenizer), tokenizer=tokenizer)("Who?", texts, **options)


@pytest.mark.parametrize("question", [["Who?"], b"Who?", None], ids=repr)
def test_a_question_that_is_no_text_is_refused_even_without_documents(question: Any) -> None:
    tokenizer = tokenizer_of("wordpiece")
    reader = Reader(tiny_model(tokenizer), tokenizer=tokenizer)
    for texts in ([], ["Ada."]):
        with pytest.raises(ValueError, match="question must be a string; got "):
            reader(question, texts)


def test_documents_in_a_column() -> None:
    tokenizer = tokenizer_of("wordpiece")
    reader = Reader(tiny_model(tokenizer), tokenizer=tokenizer)
    texts = ["It was Ada.", "It was Ben."]
    columns = [np.array(texts)]
    columns.append(pytest.importorskip("pandas").Series(texts))
    columns.append(pytest.importorskip("pyarrow").array(texts))
    for column in columns:
        assert reader("Who?", column) == reader("Who?", texts)


def test_spans_per_chunk_are_for_logits() -> None:
    with pytest.raises(ValueError, match="spans_per_chunk goes with scoring='logit' only"):
        Options(spans_per_chunk=3)


def test_nan_names_the_document() -> None:
    qa = pipeline(device="cpu")

    def model(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        output = qa.model(input_ids, attention_mask, token_type_ids)
        output.start_logits[input_ids == qa.tokenizer.convert_tokens_to_ids("ben")] = torch.nan
        return output

    reader = Reader(model, tokenizer=qa.tokenizer)
    assert reader("Who?", ["It was Ada. " * 50])
    with pytest.raises(ValueError, match=r"question 1 .* has NaN or infinite logits"):
        reader("Who?", ["It was Ada. " * 50, "It was Ben."])
