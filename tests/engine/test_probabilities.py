"""How probable answers are: among all spans of their question, whatever is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from qa_fast.engine import Engine, ExampleError, Options
from qa_fast.texts.readings import Reading

from ..helpers import oracle
from ..helpers.engines import examples
from ..helpers.hashing import Hashing
from ..helpers.tiny import tiny_model, tokenizer_of

CUT = Options(max_seq_len=96, doc_stride=24, max_answer_len=30, scoring="logit")
SCORINGS = ["logit", "shared", "probability"]


def read(engine: Engine, pairs: Any, options: Options, **how: Any) -> list[Reading]:
    return list(engine.read(pairs, options, probabilities=True, **how))


def model_of(table: torch.Tensor) -> Any:
    """A model whose start and end logits are those that a table has for each token."""

    def model(*, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = table[input_ids.long()]
        return {"start_logits": logits, "end_logits": logits}

    return model


def test_nobody_is_told_who_does_not_ask() -> None:
    engine = Engine(Hashing(), tokenizer_of("wordpiece"))
    for scoring in SCORINGS:
        options = replace(CUT, top_k=4, scoring=scoring, handle_impossible_answer=True)
        plain = list(engine.read(examples()[:6], options))
        assert {(r.probabilities, r.null_probability) for r in plain} == {(None, None)}
        asked = read(engine, examples()[:6], options)
        assert [reading[:3] for reading in asked] == [reading[:3] for reading in plain]
        assert [len(r.probabilities or ()) for r in asked] == [len(r.answers) for r in asked]


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("family", ["wordpiece", "xlnet", "no_special"])
def test_probabilities_are_those_of_the_raw_logits(family: str, scoring: Any) -> None:
    """In float64, each chunk through the model by itself; of one chunk and of many."""
    tokenizer = tokenizer_of(family)
    model = tiny_model(tokenizer)
    pairs = examples()[:3]
    for align in (False, True):
        options = replace(
            CUT,
            top_k=6,
            scoring=scoring,
            align_to_words=align,
            handle_impossible_answer=True,
        )
        readings = read(Engine(model, tokenizer), pairs, options)
        assert {reading.chunks > 1 for reading in readings} == {True, False}
        for reading, pair in zip(readings, pairs, strict=True):
            wanted = oracle.read(model, tokenizer, *pair, options)
            for answer, p in zip(reading.answers, reading.probabilities or (), strict=True):
                text = answer["answer"]
                place = (answer["start"], answer["end"])
                key = None if not text else text.lower() if scoring == "probability" else place
                assert p == pytest.approx(wanted[key].probability, rel=1e-4)
            null = wanted[None].probability if None in wanted else None
            assert reading.null_probability == (null and pytest.approx(null, rel=1e-4))


def test_they_are_the_same_whatever_is_asked_for() -> None:
    """To the bit on a CPU: the best span is searched for once more by itself, under "shared"."""
    engine = Engine(Hashing(), tokenizer_of("bundled"))
    pairs = examples()[:8]
    shared = replace(CUT, top_k=20, scoring="shared")
    expected = [reading.answers[0]["score"] for reading in read(engine, pairs, shared)]
    assert len(set(expected)) == len(expected)
    for change in (
        *({"top_k": k, "scoring": scoring} for k in (1, 3, 20, None) for scoring in SCORINGS[:2]),
        {"top_k": 2, "handle_impossible_answer": True},
        {"top_k": 2, "spans_per_chunk": 3},
    ):
        for how in ({}, {"batch_size": 1}):
            readings = read(engine, pairs, replace(CUT, **change), **how)
            best = [
                next(
                    p for p, a in zip(r.probabilities or (), r.answers, strict=True) if a["answer"]
                )
                for r in readings
            ]
            assert best == expected, change


@pytest.mark.parametrize("scoring", SCORINGS[:2])
@pytest.mark.parametrize("context", ["It was Ada Lovelace, in 1843.", "It was Ada, they say. " * 9])
def test_those_of_all_spans_are_at_most_one_together(context: str, scoring: Any) -> None:
    engine = Engine(Hashing(), tokenizer_of("wordpiece"))
    options = Options(
        top_k=None, max_answer_len=None, max_seq_len=64, scoring=scoring, align_to_words=False
    )
    (reading,) = read(engine, [("Who?", context)], options)
    assert (reading.chunks > 1) == (len(context) > 64)
    assert reading.probabilities is not None
    assert reading.null_probability is not None
    total = sum(reading.probabilities) + reading.null_probability
    assert 0.01 < total <= 1 + 1e-5


@pytest.mark.parametrize("scoring", SCORINGS)
def test_logits_of_which_little_is_left(scoring: Any) -> None:
    """No span, a sure one, one beside a question that cannot be answered: none is told a warning."""
    tokenizer = tokenizer_of("bundled")
    (ada,), (ben,) = (tokenizer(x, add_special_tokens=False)["input_ids"] for x in ("Ada", "Ben"))
    table = torch.full((len(tokenizer),), -np.inf)
    table[ada], table[ben] = 100.0, np.nan
    pairs = [("Who?", ". . ."), ("Who?", "Ada ."), ("Who?", "Ben ."), ("Who?", ". Ada Ada")]
    options = Options(scoring=scoring, top_k=2, max_seq_len=24, doc_stride=0, align_to_words=False)
    none, sure, error, two = Engine(model_of(table), tokenizer).read(
        pairs, options, errors="return", probabilities=True
    )
    assert isinstance(error, ExampleError)
    assert none == Reading([], None, 1, [], None)
    assert isinstance(sure, Reading)
    assert isinstance(two, Reading)
    assert (sure.probabilities, sure.null_probability) == ([1.0], None)
    assert two.probabilities
    assert two.probabilities[0] == pytest.approx(0.25, rel=1e-4)


def test_a_model_on_one_token_is_never_more_than_sure() -> None:
    """Rounding of logits of many sizes, which takes a logarithm of 1 to above 0, does not show."""
    tokenizer = tokenizer_of("wordpiece")
    random = np.random.default_rng(0)
    for scale in (1.0, 1e3, 1e6, 1e30):
        logits = torch.from_numpy(random.normal(size=(len(tokenizer),)) * scale).float()
        engine = Engine(model_of(logits), tokenizer)
        for scoring in SCORINGS:
            options = replace(CUT, top_k=5, scoring=scoring, handle_impossible_answer=True)
            for reading in read(engine, examples()[:6], options):
                assert all(0 <= p <= 1 for p in reading.probabilities or (2,))
