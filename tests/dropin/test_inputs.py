"""What counts as texts and as inputs: every ordered container, and nothing that only looks like one."""

from __future__ import annotations

from collections import UserList, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qa_fast.dropin.inputs import SquadExample, make_samples, read_inputs

TEXTS = ["Where?", "When?"]
PAIRS = [("Where?", "In Rome."), ("When?", "In May.")]


def pandas() -> Any:
    return pytest.importorskip("pandas")


def pyarrow() -> Any:
    return pytest.importorskip("pyarrow")


def datasets() -> Any:
    return pytest.importorskip("datasets")


def polars() -> Any:
    return pytest.importorskip("polars")


# Made when they are needed, as not all libraries are there.
SEQUENCES: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "user_list": UserList,
    "dict_keys": lambda texts: dict.fromkeys(texts).keys(),
    "dict_values": lambda texts: dict(enumerate(texts)).values(),
    "generator": lambda texts: (text for text in texts),
    "array_of_strings": np.array,
    "array_of_objects": lambda texts: np.array(texts, dtype=object),
    "pandas_series": lambda texts: pandas().Series(texts, index=[7] * len(texts)),
    "pandas_category": lambda texts: pandas().Series(texts, dtype="category"),
    "pandas_index": lambda texts: pandas().Index(texts),
    "pandas_column": lambda texts: pandas().DataFrame({"x": texts})["x"],
    "pyarrow_array": lambda texts: pyarrow().array(texts),
    "pyarrow_dictionary": lambda texts: pyarrow().array(texts).dictionary_encode(),
    "pyarrow_column": lambda texts: pyarrow().table({"x": texts})["x"],
    "pyarrow_scalars": lambda texts: [pyarrow().scalar(text) for text in texts],
    "datasets_column": lambda texts: datasets().Dataset.from_dict({"x": texts})["x"],
    "polars_series": lambda texts: polars().Series(texts),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_of_texts(kind: str) -> None:
    make = SEQUENCES[kind]
    found = read_inputs((), question=make(TEXTS), context=make(["In Rome.", "In May."]))
    assert found.pairs == PAIRS
    assert all(isinstance(text, str) for pair in found.pairs for text in pair)
    assert found.lone == (kind in ("list", "tuple", "pyarrow_scalars"))


def test_one_text_of_pyarrow_is_a_text() -> None:
    scalar = pyarrow().scalar
    found = read_inputs((), question=scalar("Where?"), context=scalar("In Rome."))
    assert found == (PAIRS[:1], True, None)


NO_SEQUENCES: dict[str, tuple[Callable[[], Any], str]] = {
    "dict": (
        lambda: {"q1": "Where?"},
        r"got dict, whose keys .*: pass list\(question.values\(\)\)",
    ),
    "set": (lambda: set(TEXTS), "got set, which has no order: pass a list"),
    "frozenset": (lambda: frozenset(TEXTS), "got frozenset, which has no order"),
    "bytes": (lambda: b"Where?", r"got bytes: decode it, as in question.decode\('utf-8'\)"),
    "bytearray": (lambda: bytearray(b"Where?"), "got bytearray: decode it"),
    "number": (lambda: 3, "a string or a sequence of strings; got int"),
    "array_of_none": (
        lambda: np.array("Where?"),
        r"got ndarray of 0 dim.*: pass question.item\(\)",
    ),
    "array_of_two": (lambda: np.array([TEXTS]), r"got ndarray of 2 dim.*: pass question.ravel\(\)"),
    "tensor_of_none": (lambda: torch.tensor(3), "got Tensor of 0 dimensions"),
    "pandas_table": (
        lambda: pandas().DataFrame({"question": TEXTS}),
        r"got DataFrame: pass one column of it, such as question\['question'\]",
    ),
    "pyarrow_table": (lambda: pyarrow().table({"q": TEXTS}), r"got Table: .* question\['q'\]"),
    "datasets_table": (
        lambda: datasets().Dataset.from_dict({"q": TEXTS}),
        r"got Dataset: .* question\['q'\]",
    ),
    "polars_table": (lambda: polars().DataFrame({"q": TEXTS}), r"got DataFrame: .*\['q'\]"),
    "list_of_a_dict": (
        lambda: [{"q1": "Where?"}],
        "a sequence of strings; got dict, whose keys",
    ),
}


@pytest.mark.parametrize("kind", NO_SEQUENCES)
def test_what_only_looks_like_a_sequence_of_texts_is_refused(kind: str) -> None:
    make, message = NO_SEQUENCES[kind]
    with pytest.raises(ValueError, match=rf"^question must be .*{message}"):
        read_inputs((), question=make(), context="In Rome.")


NO_TEXTS: dict[str, tuple[Callable[[], Any], str]] = {
    "bytes": (lambda: ["Where?", b"When?"], "got bytes; decode it"),
    "array_of_bytes": (
        lambda: np.array(TEXTS).astype("S")[::-1],
        "question 0 .*; got bytes_; decode",
    ),
    "none": (lambda: ["Where?", None], "got None, a missing value"),
    "number": (lambda: ["Where?", 3], "got int"),
    "pandas_none": (lambda: pandas().Series(["Where?", None]), "a missing value"),
    "pandas_nan": (
        lambda: pandas().Series(["Where?", float("nan")], dtype=object),
        "got nan, a miss",
    ),
    "pandas_na": (
        lambda: pandas().Series(["Where?", pandas().NA], dtype="string[python]"),
        "got <NA>, a missing value",
    ),
    "pyarrow_null": (lambda: pyarrow().array(["Where?", None]), "got None, a missing value"),
    "lists": (lambda: [["Where?"], ["When?"]], "question 0 .*; got list"),
}


@pytest.mark.parametrize("kind", NO_TEXTS)
def test_an_item_that_is_no_text_is_named(kind: str) -> None:
    make, message = NO_TEXTS[kind]
    expected = message if message.startswith("question") else f"question 1 must be .*{message}"
    with pytest.raises(ValueError, match=expected):
        read_inputs((), question=make(), context="In Rome.")


TABLES: dict[str, Callable[[dict[str, list[str]]], Any]] = {
    "pandas": lambda columns: pandas().DataFrame(columns),
    "pyarrow": lambda columns: pyarrow().table(columns),
    "polars": lambda columns: polars().DataFrame(columns),
}


@pytest.mark.parametrize("library", TABLES)
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_table_is_a_list_of_rows(library: str, rows: int) -> None:
    questions, contexts = [q for q, _ in PAIRS[:rows]], [c for _, c in PAIRS[:rows]]
    texts = {"context": contexts, "id": ["x"] * rows, "question": questions}
    assert read_inputs((TABLES[library](texts),)) == (PAIRS[:rows], False, None)


@pytest.mark.parametrize("library", TABLES)
def test_a_table_without_the_columns_is_told_which(library: str) -> None:
    table = TABLES[library]({"question": TEXTS, "text": TEXTS})
    with pytest.raises(ValueError, match=r"has no column context; it has 'question', 'text'"):
        read_inputs((table,))


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_table_with_two_columns_of_one_name_is_refused(library: str) -> None:
    rows, names = [["Where?", "In Rome.", "When?"]], ["question", "context", "question"]
    if library == "pandas":
        table = pandas().DataFrame(rows, columns=names)
    else:
        table = pyarrow().table([[text] for text in rows[0]], names=names)
    with pytest.raises(ValueError, match=r"(Table|DataFrame) has 2 columns named 'question'"):
        read_inputs((table,))


def test_a_missing_value_in_a_table_is_named() -> None:
    table = pandas().DataFrame({"question": TEXTS, "context": ["In Rome.", None]})
    with pytest.raises(ValueError, match=r"context 1 must be a string; got .*, a missing value"):
        read_inputs((table,))


@pytest.mark.parametrize(
    "call",
    [
        {"question": [TEXTS], "context": [["In Rome.", "In May."]]},
        {"question": (TEXTS,), "context": [("In Rome.", "In May.")]},
        {"question": [np.array(TEXTS)], "context": [np.array(["In Rome.", "In May."])]},
        {"data": [{"question": TEXTS, "context": ["In Rome.", "In May."]}]},
        {"X": ({"question": tuple(TEXTS), "context": ["In Rome.", "In May."]},)},
    ],
    ids=["lists", "tuples", "arrays", "dict", "tuple_of_a_dict"],
)
def test_a_list_of_one_that_holds_lists_stands_for_them(call: dict[str, Any]) -> None:
    assert read_inputs((), **call) == (PAIRS, False, None)


def test_a_list_in_a_list_of_one_is_no_lone_question() -> None:
    """The removed pipeline gave a list of one result."""
    assert read_inputs((), [["Where?"]], [["In Rome."]]) == (PAIRS[:1], False, None)
    assert read_inputs(([{"question": ["Where?"], "context": "In Rome."}],)).lone is False
    assert read_inputs((), ["Where?"], ["In Rome."]).lone is True


@pytest.mark.parametrize("context", ["In Rome.", ["In Rome."]], ids=["text", "list_of_one"])
def test_lists_in_a_list_share_one_text(context: Any) -> None:
    assert read_inputs((), [TEXTS], context).pairs == [(text, "In Rome.") for text in TEXTS]


def test_lists_in_a_list_of_other_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 2 questions and 1 contexts"):
        read_inputs((), [TEXTS], [["In Rome."]])
    with pytest.raises(
        ValueError, match="a list in a list goes with a text, or with a list of one"
    ):
        read_inputs((), [TEXTS], ["In Rome.", "In May."])


def test_data_and_x_are_positional_inputs() -> None:
    pair = {"question": "Where?", "context": "In Rome."}
    for given in (pair, [pair], [pair, pair], SquadExample(None, *PAIRS[0], None, None, None)):
        assert read_inputs((), data=given) == read_inputs((), X=given) == read_inputs((given,))


@pytest.mark.parametrize(
    "call",
    [
        {"positional": ({},), "data": {}},
        {"positional": (), "data": {}, "X": {}},
        {"positional": (), "data": {}, "question": "Where?"},
    ],
    ids=["positional", "both", "question"],
)
def test_inputs_are_given_once(call: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give (the inputs once|either question= and context=)"):
        read_inputs(**call)


def test_inputs_without_an_order_are_refused() -> None:
    samples = {SquadExample(None, *pair, None, None, None) for pair in PAIRS}
    with pytest.raises(ValueError, match="inputs must have an order; got a set: pass a list"):
        read_inputs((samples,))


def test_texts_in_inputs_are_checked_before_any_is_read() -> None:
    good = {"question": "Where?", "context": "In Rome."}
    for bad in (
        {**good, "context": b"In Rome."},
        SimpleNamespace(question_text=3, context_text="x"),
    ):
        with pytest.raises(
            ValueError, match=r"(context|question) 1 must be a string; got (bytes|int)"
        ):
            read_inputs(([good, bad],))


def test_samples_are_what_they_were_made_of() -> None:
    one = make_samples("Where?", "In Rome.")
    assert (one.question_text, one.context_text, one.title) == ("Where?", "In Rome.", None)
    many = make_samples(TEXTS, ["In Rome.", "In May."])
    assert [(sample.question_text, sample.context_text) for sample in many] == PAIRS
    assert read_inputs((many,)).pairs == PAIRS
    shared = make_samples(TEXTS, "In Rome.")
    assert [sample.context_text for sample in shared] == ["In Rome."] * 2


@pytest.mark.parametrize(
    ("context", "answer", "start"),
    [
        ("In  Rome,\tin\u202fMay.\n", "Rome,\tin", 4),
        (" a b", "b", 3),
        ("a\u00a0b c", "a\u00a0b c", 0),  # a space that does not end a word there
        ("short", "longer than the text", 2),
        ("", None, None),
        ("  ", None, None),
    ],
)
def test_words_of_a_sample(context: str, answer: str | None, start: int | None) -> None:
    """Next to the loop over characters that makes them in Transformers up to 5.2."""
    words: list[str] = []
    word_of = []
    in_word = False
    for character in context:
        space = character in " \t\r\n\u202f"
        if not space:
            words = [*words[:-1], words[-1] + character] if in_word else [*words, character]
        in_word = not space
        word_of.append(len(words) - 1)
    sample = SquadExample("1", "Where?", context, answer, start, "A title")
    assert sample.doc_tokens == words
    assert sample.char_to_word_offset == word_of
    if start is not None and answer is not None:
        last = min(start + len(answer), len(context)) - 1
        assert (sample.start_position, sample.end_position) == (word_of[start], word_of[last])
    impossible = SquadExample("1", "Where?", context, answer, start, None, is_impossible=True)
    assert (impossible.start_position, impossible.end_position) == (0, 0)
