"""One question of a data set: what a record must hold to be one, and what is wrong where it is none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache

from qa_fast.files.wording import brief, shown

from .errors import Argument, ArgumentError

MOST_CHARACTERS = 1 << 31
"""No text has so many: a place at or beyond it is none."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the context that may answer it, and what is known about the answer.

    Attributes:
        id: the question's id; where the data has none, its row number from 0.
        question: the question.
        context: the text that may hold the answer.
        answers: the gold answers; () for a question that the context does not answer; None where
            the data does not say.
        answer_starts: the character of the context at which each gold answer begins; () where the
            data does not say.
        title: the title of the context's document; "" where there is none.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...] | None = None
    answer_starts: tuple[int, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names that the fields of an `Example` have in the data.

    ``answers`` may be texts, a dict of the lists ``text`` and ``answer_start``, or a list of dicts with
    these keys. Where ``id``, ``answers`` or ``title`` is given another name than the usual one, the
    data must have it.
    """

    id: str = "id"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    title: str = "title"

    def required(self) -> list[str]:
        """The columns that the data must have."""
        return [name for _, name in _required(self)]

    def items(self) -> list[tuple[str, str]]:
        """Pairs of a field and its column."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


@cache
def _required(columns: Columns) -> list[tuple[str, str]]:
    """Pairs of a field and a column that the data must have; asked for once a row."""
    usual = {"id", "answers", "title"}
    return [(field, name) for field, name in columns.items() if field not in usual or name != field]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the data.

    Attributes:
        number: its number from 0.
        place: where it stands, for people: the file and the line.
        example: what it holds; None where that cannot be used.
        problem: why it cannot be used.
    """

    number: int
    place: str
    example: Example | None
    problem: ValueError | None = None


def row_of(record: object, columns: Columns, number: int, place: str) -> Row:
    """The row in one record of a data set, which may be an `Example` already."""
    try:
        if isinstance(record, Example):
            _id(record.id, "id", number)
            return Row(number, place, record)
        return Row(number, place, _example(record, columns, number))
    except ValueError as error:
        return Row(number, place, None, error)


def _example(record: object, columns: Columns, number: int) -> Example:
    """The example in one record; a ValueError says what is wrong with it."""
    if not isinstance(record, (dict, Mapping)):
        raise ValueError(f"not an object with columns, but {shown(record)}")
    check_columns(record, columns)
    for name in (columns.question, columns.context):
        if not isinstance(record[name], str):
            raise ValueError(f"{name} must be a text; got {shown(record[name])}")
    answers, starts = _answers(record.get(columns.answers), columns.answers)
    title = record.get(columns.title)
    return Example(
        id=_id(record.get(columns.id), columns.id, number),
        question=record[columns.question],
        context=record[columns.context],
        answers=answers,
        answer_starts=starts,
        title=title if isinstance(title, str) else "",
    )


def check_columns(present: Collection[str], columns: Columns) -> None:
    """Raise a ValueError unless all required columns are among ``present``."""
    for field, name in _required(columns):
        if name not in present:
            raise ArgumentError(
                f"there is no column {name!r} among {brief([*present])}; say which one holds the "
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


def _answers(value: object, name: str) -> tuple[tuple[str, ...] | None, tuple[int, ...]]:
    """Texts and starts of the gold answers, from any of the forms in use."""
    if value is None:
        return None, ()
    if isinstance(value, list) and all(type(text) is str for text in value):
        return tuple(value), ()
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        texts = [texts] if isinstance(texts, str) else texts
        starts = [starts] if isinstance(starts, int) else starts
    elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        texts = [item.get("text") for item in value]
        starts = [item.get("answer_start") for item in value]
    else:
        texts, starts = value, None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{name} must be texts, or {{'text': [...], 'answer_start': [...]}}; got {shown(value)}"
        )
    if not starts or (isinstance(starts, list) and None in starts):
        return tuple(texts), ()
    if (
        not isinstance(starts, list)
        or len(starts) != len(texts)
        or not all(type(start) is int and 0 <= start < MOST_CHARACTERS for start in starts)
    ):
        raise ValueError(
            f"{name} has {len(texts)} texts, which need as many whole numbers as answer_start; got "
            f"{shown(starts)}"
        )
    return tuple(texts), tuple(starts)
