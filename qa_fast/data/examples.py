"""One question of a data set: what a record must hold to be one, and what is wrong where it is none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal, NamedTuple, get_args

from qa_fast.files.wording import brief, shown

from .errors import Argument, ArgumentError
from .golds import Golds, golds_of

MOST_CHARACTERS = 1 << 31
"""No text has so many: a place at or beyond it is none."""


OnError = Literal["fail", "skip"]
"""What to do at a row that cannot be used: raise an error, or go on without it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the context that may answer it, and what is known about the answer.

    Attributes:
        id: the question's id; where the data has none, its row number from 0.
        question: the question.
        context: the text that may hold the answer.
        answers: the gold answers; () for a question that the context does not answer; None where
            the data does not say.
        answer_starts: the character of the context at which each gold answer begins, by the data, None
            where they do not say; () where they say it of none.
        title: the title of the context's document; "" where there is none.
        is_impossible: what the data say in a field of that name; None where they do not. It makes no
            difference where there are ``answers``, as in the official scripts.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...] | None = None
    answer_starts: tuple[int | None, ...] = ()
    title: str = ""
    is_impossible: bool | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The names that the fields of an `Example` have in the data.

    ``answers`` may be texts, a dict of the lists ``text`` and ``answer_start``, a list of dicts with
    these keys, or any of these written out in a text. Where ``id``, ``answers`` or ``title`` is given
    another name than the usual one, the data must have it.
    """

    id: str = "id"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    title: str = "title"

    def items(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a field and its column."""
        return _pairs(self)[0]

    def required(self) -> tuple[tuple[str, str], ...]:
        """Those of the columns that the data must have."""
        return _pairs(self)[1]


@cache
def _pairs(columns: Columns) -> tuple[tuple[tuple[str, str], ...], ...]:
    """All pairs, and the required ones: they are asked for at every row."""
    pairs = tuple((field.name, getattr(columns, field.name)) for field in fields(columns))
    usual = {"id", "answers", "title"}
    return pairs, tuple(pair for pair in pairs if pair[0] not in usual or pair[0] != pair[1])


class Row(NamedTuple):
    """One row of the data.

    Attributes:
        number: its number from 0.
        place: where it stands, for people: the file and the line.
        example: what it holds; None where that cannot be used.
        problem: why it cannot be used.
        gold_problem: why its gold answers cannot be used; the example then has None of them.
    """

    number: int
    place: str
    example: Example | None
    problem: ValueError | None = None
    gold_problem: ValueError | None = None


def row_of(record: object, columns: Columns, number: int, place: str) -> Row:
    """The row in one record of a data set, which may be an `Example` already, or what is wrong."""
    if isinstance(record, ValueError):
        return Row(number, place, None, record)
    try:
        if isinstance(record, Example):
            _id(record.id, "id", number)
            return Row(number, place, record)
        example, gold_problem = _example(record, columns, number)
        return Row(number, place, example, gold_problem=gold_problem)
    except ValueError as error:
        return Row(number, place, None, error)


def _example(record: object, columns: Columns, number: int) -> tuple[Example, ValueError | None]:
    """The example in one record, and what is wrong with its gold answers.

    Raises:
        ValueError: there is no question in it that can be answered.
    """
    if not isinstance(record, (dict, Mapping)):
        raise ValueError(f"not an object with columns, but {shown(record)}")
    check_columns(record.keys(), columns)
    for name in (columns.question, columns.context):
        if not isinstance(record[name], str):
            raise ValueError(f"{name} must be a text; got {shown(record[name])}")
    context, title = record[columns.context], record.get(columns.title)
    golds, gold_problem = Golds(None, (), None), None
    try:
        golds = golds_of(record, columns.answers, context)
    except ValueError as error:
        gold_problem = error
    example = Example(
        id=_id(record.get(columns.id), columns.id, number),
        question=record[columns.question],
        context=context,
        answers=golds.answers,
        answer_starts=golds.starts,
        title=title if isinstance(title, str) else "",
        is_impossible=golds.is_impossible,
    )
    return example, gold_problem


def check_on_error(on_error: str) -> None:
    """Raise a ValueError unless ``on_error`` is one of `OnError`."""
    if on_error not in get_args(OnError):
        raise ArgumentError(Argument("on_error"), f" must be 'fail' or 'skip'; got {on_error!r}")


def check_columns(present: Collection[str], columns: Columns) -> None:
    """Raise a ValueError unless all required columns are among ``present``."""
    for field, name in columns.required():
        if name not in present:
            raise ArgumentError(
                f"there is no column {name!r} among {brief(list(present))}; say which one holds the "
                f"{field} with ",
                column_argument(field),
            )


def column_argument(field: str) -> Argument:
    """How a caller names the column of a ``field`` of `Columns`."""
    return Argument(f"{field}_column", spelled=f"Columns({field}=...)")


def _id(value: object, name: str, number: int) -> str:
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{name} must be a text or an integer; got {shown(value)}")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode: {ascii(value)[:60]}") from None
    return str(value)
