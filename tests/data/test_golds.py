"""Gold answers: every form in use, starts that are known or not, and what contradicts itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.data.golds import Golds, golds_of, nearest

CONTEXT = "Lena Okoro works in Lisbon. She met Tomas Vidal in Porto in 2019."
UNKNOWN = Golds(None, (), None)
LISBON = Golds(("Lisbon",), (20,), None)


def golds(answers: object, **more: object) -> Golds:
    return golds_of({"answers": answers, **more}, "answers", CONTEXT)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param("Lisbon", (("Lisbon",), ()), id="text"),
        pytest.param(["Lisbon", "Porto"], (("Lisbon", "Porto"), ()), id="texts"),
        pytest.param(("Lisbon",), (("Lisbon",), ()), id="tuple"),
        pytest.param({"text": "Lisbon", "answer_start": 20}, (("Lisbon",), (20,)), id="one-dict"),
        pytest.param([{"text": "Lisbon"}], (("Lisbon",), ()), id="no-starts"),
        pytest.param({"text": None, "answer_start": None}, ((), ()), id="none-in-a-dict"),
        pytest.param([], ((), ()), id="none"),
        pytest.param("", ((), ()), id="an-empty-cell"),
        pytest.param(None, (None, ()), id="unknown"),
        pytest.param(float("nan"), (None, ()), id="a-missing-cell"),
        pytest.param([{"text": 2019, "answer_start": 60}], (("2019",), (60,)), id="a-number"),
        pytest.param(["two", 2], (("two", "2"), ()), id="a-number-among-texts"),
    ],
)
def test_forms_of_answers(answers: object, expected: object) -> None:
    assert golds(answers)[:2] == expected


def test_a_start_beside_a_single_text() -> None:
    assert golds("Lisbon", answer_start="20") == LISBON


@pytest.mark.parametrize("start", [20, "20", " 20 ", 20.0, "20.0", np.float64(20)], ids=repr)
def test_starts_that_are_known(start: object) -> None:
    assert golds([{"text": "Lisbon", "answer_start": start}]) == LISBON


@pytest.mark.parametrize(
    "start",
    [-1, float("nan"), None, "", "abc", 0.5, "inf", 10**30, len(CONTEXT), True, [20], "-1"],
    ids=repr,
)
def test_starts_that_are_not(start: object) -> None:
    assert golds([{"text": "Lisbon", "answer_start": start}]) == Golds(("Lisbon",), (), None)
    two = [{"text": "Lisbon", "answer_start": 20}, {"text": "Lisboa", "answer_start": start}]
    assert golds(two) == Golds(("Lisbon", "Lisboa"), (20, None), None)


def test_as_many_starts_as_texts_or_none() -> None:
    assert golds({"text": ["Lisbon"], "answer_start": [20, 30]}).starts == ()
    assert golds({"text": ["Lisbon", "Porto"], "answer_start": 20}).starts == ()


SPELLED = [
    "{'text': ['Lisbon'], 'answer_start': [20]}",
    '{"answer_start": [20], "text": ["Lisbon"]}',
    "{'text': array(['Lisbon'], dtype=object), 'answer_start': array([20], dtype=int32)}",
    "{'text': np.array(['Lisbon'],\n      dtype=object), 'answer_start': np.array([20])}",
    " [{'text': 'Lisbon', 'answer_start': 20}]",
]


@pytest.mark.parametrize("text", SPELLED)
def test_answers_that_are_written_out(text: str) -> None:
    assert golds(text) == LISBON


@pytest.mark.parametrize("array", [np.array(["Lisbon"], object), np.array([], object)])
def test_answers_as_tables_write_them(array: np.ndarray) -> None:
    """What NumPy itself prints of them, long ones too."""
    spelled = repr({"text": array, "answer_start": np.full(len(array), 20)})
    assert golds(spelled).answers == tuple(array)


def test_an_array_that_was_cut_short_is_refused() -> None:
    spelled = repr({"text": np.arange(2000).astype(str).astype(object), "answer_start": [0]})
    with pytest.raises(ValueError, match="answers must be texts"):
        golds(spelled)


@pytest.mark.parametrize(
    "text", ["[1]", "[1] and [2]", "{x | x > 0}", "{}", "['", "{'a': 1}", "[[]]", "array([1])"]
)
def test_texts_that_only_look_so(text: str) -> None:
    assert golds(text) == Golds((text,), (), None)


def test_no_code_runs() -> None:
    text = "{'text': [__import__('os').getcwd()], 'answer_start': [0]}"
    with pytest.raises(ValueError, match="looks like answers written out"):
        golds(text)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_what_was_spelled_is_read(texts: list[str]) -> None:
    value = {"text": texts, "answer_start": [0] * len(texts)}
    for spelled in (repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert golds(spelled) == golds(value) == Golds(tuple(texts), (0,) * len(texts), None)


TRUE = [True, 1, 1.0, "True", "TRUE", "true", " yes", "1", "1.0", "T", np.float64(1)]
FALSE = [False, 0, 0.0, "False", "false", "No", "0", "f"]
NEITHER = [None, float("nan"), "", "None", "null"]


@pytest.mark.parametrize("answers", [None, [], ["Lisbon"]])
def test_is_impossible_in_all_spellings(answers: Any) -> None:
    known = None if answers is None else tuple(answers)
    for spelling in TRUE:
        unanswerable = () if known is None else known
        assert golds(answers, is_impossible=spelling) == Golds(unanswerable, (), True)
    for spelling in FALSE:
        assert golds(answers, is_impossible=spelling) == Golds(known, (), False)
    for spelling in NEITHER:
        assert golds(answers, is_impossible=spelling) == Golds(known, (), None)


def test_an_empty_text_of_a_question_that_has_an_answer_is_unknown() -> None:
    assert golds("", is_impossible=False) == Golds(None, (), False)


@pytest.mark.parametrize("value", ["perhaps", 2, [True], {}, -1])
def test_is_impossible_that_is_no_boolean(value: object) -> None:
    with pytest.raises(ValueError, match="is_impossible must be true or false; got"):
        golds(["Lisbon"], is_impossible=value)


@pytest.mark.parametrize(
    "answers", [7, [0], [0, 2], [True], [["x"]], [{}], {"text": [1.5]}, {"x": 1}, [{"text": None}]]
)
def test_answers_that_are_no_texts(answers: object) -> None:
    with pytest.raises(ValueError, match=r"answers must be texts, or .*; got"):
        golds(answers)


@given(st.text("ab ", max_size=12), st.text("ab", min_size=1, max_size=2), st.integers(0, 12))
def test_the_nearest_place(context: str, text: str, start: int) -> None:
    places = [i for i in range(len(context)) if context.startswith(text, i)]
    found = nearest(context, text, start)
    assert (found is None) == (not places)
    if found is not None:
        assert found in places
        assert abs(found - start) == min(abs(place - start) for place in places)
