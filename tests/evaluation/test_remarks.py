"""What data say about themselves, with counts."""

from __future__ import annotations

import pytest

from qa_fast.data.examples import Example
from qa_fast.evaluation.remarks import Oddity, Remarks

TEXT = "Lena works in Lisbon. Lisbon is in Portugal."


def lines(*examples: Example) -> list[str]:
    remarks = Remarks()
    for example in examples:
        remarks.add(example)
    return remarks.lines()


@pytest.mark.parametrize(
    "example",
    [
        Example("a", "Where?", TEXT, ("Lisbon", "Lisbon"), (14, 22)),
        Example("a", "Where?", TEXT, ("Lisbon", "Portugal"), (22, None)),
        Example("a", "Where?", TEXT, ("Lisbon",)),
        Example("a", "Where?", TEXT, ("Lisbon",), (), "", False),
        Example("a", "Where?", TEXT, (), (), "", True),
        Example("a", "Where?", TEXT, ()),
        Example("a", "Where?", TEXT),
        Example("a", "Where?", TEXT, (), (), "", None),
    ],
)
def test_nothing_is_said_of_sound_questions(example: Example) -> None:
    assert lines(example, example) == []


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        (Example("b", "Where?", TEXT, ("Lisbon", "Lisbon"), (15, 0)),
         ("gold answers that do not stand where they should start: 2 of 3, first of 'b'; marks are at "
         "the nearest place")),
        (Example("b", "Where?", TEXT, ("Lisbon", "Porto"), (14, 0)),
         ("gold answers that are nowhere in their context: 1 of 3, first of 'b'; no extraction can give "
         "them")),
        (Example("b", "", TEXT, ("Lisbon",)), "questions that are empty: 1 of 3, first of 'b'"),
        (Example("b", "Where?", TEXT, ("Lisbon",), (), "", True),
         ("questions with gold answers whose is_impossible says that there are none: 1 of 3, first of "
         "'b'; the answers count, as in the official scripts")),
        (Example("b", "Where?", TEXT, (), (), "", False),
         ("questions without gold answers whose is_impossible says that there are some: 1 of 3, first "
         "of 'b'; they count as unanswerable, as in the official scripts")),
    ],
)  # fmt: skip
def test_what_is_odd(odd: Example, line: str) -> None:
    sound = Example("a", "Where?", TEXT, ("Lisbon",), (14,))
    unanswerable = Example("c", "Where?", TEXT, ())
    assert lines(sound, odd, unanswerable) == [line]


def test_where_no_gold_is_in_the_context_no_answer_can_be_right() -> None:
    assert lines(Example("a", "Where?", TEXT, ("Porto", "Faro"), (3, None))) == [
        (
            "gold answers that are nowhere in their context: 2 of 2, first of 'a'; no extraction can "
            "give them"
        ),
        (
            "answerable questions without a gold answer in the context: 1 of 1, first of 'a'; no "
            "extraction can be right"
        ),
    ]


def test_what_others_count() -> None:
    remarks = Remarks()
    for id_ in "aba":
        remarks.add(Example(id_, "Where?", TEXT, ()))
    remarks.count(Oddity.DOUBLED, "a")
    assert remarks.lines() == [
        (
            "questions with an id that occurred before: 1 of 3, first of 'a'; each one counts, as in "
            "the suite's script"
        )
    ]
