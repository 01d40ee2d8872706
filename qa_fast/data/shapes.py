"""What one JSON value of a data set is: a row, several rows, or a whole set of them.

Data sets for question answering nest their rows in many ways, and name the same things differently. Each
way is a function here that takes a value apart into rows under the caller's `Columns`; spans that people
marked in a text are read in `annotated`. What no extractive question can be made of is named as what it
is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from qa_fast.files.wording import shown

from .annotated import (
    doccano_row,
    is_doccano,
    is_label_studio,
    is_natural_questions,
    label_studio_row,
    nq_row,
)
from .errors import Argument, ArgumentError
from .examples import Columns
from .golds import IS_IMPOSSIBLE

Placed: TypeAlias = tuple[str, object]
"""A row with its place in the file, for people; in its stead a ValueError where it is damaged."""

_Value: TypeAlias = Mapping[str, Any]


class Shape(NamedTuple):
    """A way in which data nest their rows.

    Attributes:
        rows: takes a value of this shape apart; given the names that its rows are to have, and its
            place.
        single: a value of this shape is always one row.
        whole: a value of this shape is always a file by itself, not a line of one.
    """

    rows: Callable[[Any, Columns, str], Iterable[Placed]]
    single: bool = False
    whole: bool = False


def shape_of(value: object, columns: Columns) -> Shape:
    """The shape of a JSON value.

    Raises:
        ValueError: it is known to be something else than extractive questions; the message says what,
            worded to follow the value's place.
    """
    if isinstance(value, list):
        return _LIST
    if not isinstance(value, Mapping):
        return FLAT
    if columns.question in value and columns.context in value:
        by_column = all(
            isinstance(value[name], (list, Mapping)) for name in (columns.question, columns.context)
        )
        return _COLUMNS if by_column else FLAT
    for fits, shape in _SHAPES:
        if fits(value):
            return shape
    first = next(iter(value.values()), None)
    for keys, what in _NOT_READ:
        if keys <= value.keys() or (isinstance(first, Mapping) and keys <= first.keys()):
            raise ValueError(what)
    return FLAT


def rows_of(value: object, columns: Columns, place: str) -> Iterable[Placed]:
    """The rows in a JSON value, each with its place.

    Args:
        value: the value.
        columns: the names that the rows are to have.
        place: where it stands.

    Raises:
        ValueError: the value, or one in it, is damaged or no data of extractive questions.
    """
    try:
        shape = shape_of(value, columns)
    except ValueError as error:
        raise ValueError(f"{place} {error}") from None
    return shape.rows(value, columns, place)


def chosen_split(value: object, split: str | None, place: str) -> object:
    """The set of questions in a file's value: of several splits the one that is asked for.

    Raises:
        ValueError: there are several and none is asked for, or there is none of that name.
    """
    while isinstance(value, Mapping) and isinstance(value.get("data"), Mapping):
        if is_label_studio(value):
            break
        value = value["data"]
    if not isinstance(value, Mapping) or not _has_splits(value):
        if split is not None:
            raise ValueError(f"{place} is a file: it has no splits and no subsets")
        return value
    if split is None and len(value) == 1:
        split = next(iter(value))
    if split not in value:
        raise ArgumentError(
            f"{place} has the splits {list(value)}: choose one with ",
            Argument("split", spelled="split="),
            f"; got {split!r}",
        )
    return value[split]


# --- rows and sets of them ------------------------------------------------------------------------


def _flat_row(value: object, _columns: Columns, place: str) -> list[Placed]:
    return [(place, value)]


def _list_rows(value: list[object], columns: Columns, place: str) -> Iterator[Placed]:
    for i, entry in enumerate(value):
        kind = "article" if isinstance(entry, Mapping) and "paragraphs" in entry else "entry"
        yield from rows_of(entry, columns, f"{place} {kind} {i}")


def _set_rows(value: _Value, columns: Columns, place: str) -> Iterable[Placed]:
    return rows_of(value["data"], columns, place)


def _column_rows(value: _Value, columns: Columns, place: str) -> Iterator[Placed]:
    """Rows of a table that is stored by columns: lists, or dicts from the row's name."""
    table = {
        name: column if isinstance(column, Mapping) else dict(enumerate(column))
        for name, column in value.items()
        if isinstance(column, (list, Mapping))
    }
    for key in table[columns.question]:
        row = {name: column[key] for name, column in table.items() if key in column}
        yield f"{place} row {key}", row


def _split_rows(_value: _Value, _columns: Columns, place: str) -> Iterable[Placed]:
    raise ValueError(f"{place}: splits can only be at the beginning of a file")


def _has_splits(value: _Value) -> bool:
    """Whether a value holds several sets of questions under their names."""
    return bool(value) and all(
        (isinstance(part, list) and part and all(isinstance(entry, Mapping) for entry in part))
        or (isinstance(part, Mapping) and isinstance(part.get("data"), list))
        for part in value.values()
    )


# --- articles and paragraphs ----------------------------------------------------------------------


def _article_rows(value: _Value, columns: Columns, place: str) -> Iterator[Placed]:
    for j, paragraph in enumerate(_list(value, "paragraphs", place)):
        yield from _paragraph(paragraph, columns, f"{place} paragraph {j}", value.get("title"))


def _paragraph_rows(value: _Value, columns: Columns, place: str) -> Iterator[Placed]:
    return _paragraph(value, columns, place, value.get("title"))


def _paragraph(paragraph: object, columns: Columns, place: str, title: object) -> Iterator[Placed]:
    """The questions of a paragraph, in the words of SQuAD, MRQA, KorQuAD 2 or CMRC 2018."""
    questions = _list(paragraph, "qas", place)
    assert isinstance(paragraph, Mapping)
    context = _first(paragraph, "context", "context_text")
    for k, question in enumerate(questions):
        where = f"{place} question {k}"
        if not isinstance(question, Mapping):
            yield where, question
            continue
        row = {
            columns.id: _first(question, "qid", "id", "query_id"),
            columns.context: context,
            columns.answers: _answers(question),
            columns.title: title,
            IS_IMPOSSIBLE: question.get(IS_IMPOSSIBLE),
        }
        for name in ("query_text", "question"):
            if name in question:
                row[columns.question] = question[name]
        yield where, row


def _answers(question: _Value) -> object:
    answers = _first(question, "answers", "answer")
    marked = question.get("detected_answers")
    if not isinstance(answers, list) or not isinstance(marked, list):
        return answers
    # MRQA's: the texts are those of the data set they come from; found in the context were these.
    starts: dict[object, object] = {}
    for found in marked:
        if isinstance(found, Mapping) and isinstance(found.get("text"), str):
            spans = found.get("char_spans")
            first = spans[0] if isinstance(spans, list) and spans else None
            starts.setdefault(
                found["text"], first[0] if isinstance(first, list) and first else None
            )
    return {
        "text": answers,
        "answer_start": [starts.get(text) if isinstance(text, str) else None for text in answers],
    }


def _no_rows(_value: object, _columns: Columns, _place: str) -> list[Placed]:
    return []


def _list(holder: object, key: str, place: str) -> list[Any]:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    if not isinstance(found, list):
        raise ValueError(f"{place}: must be an object with a list {key!r}; got {shown(holder)}")
    return found


def _first(holder: _Value, *keys: str) -> Any:
    return next((holder[key] for key in keys if holder.get(key) is not None), None)


# --- what is what ---------------------------------------------------------------------------------


def _single(read: Callable[[_Value, Columns], _Value]) -> Shape:
    """The shape of values that are one row each, which ``read`` makes."""

    def rows(value: _Value, columns: Columns, place: str) -> list[Placed]:
        try:
            return [(place, read(value, columns))]
        except KeyError as error:
            return [(place, ValueError(f"{error} is missing in {shown(value)}"))]
        except (TypeError, IndexError, AttributeError, ValueError) as error:
            return [(place, ValueError(f"its answers cannot be read: {error}"))]

    return Shape(rows, single=True)


FLAT = Shape(_flat_row, single=True)
"""One question with its context; or what is told that it is none."""
_LIST = Shape(_list_rows, whole=True)
_COLUMNS = Shape(_column_rows, whole=True)

# The first one that fits.
_SHAPES: list[tuple[Callable[[_Value], bool], Shape]] = [
    (lambda value: "paragraphs" in value, Shape(_article_rows)),
    (lambda value: "qas" in value, Shape(_paragraph_rows)),
    # The first line of MRQA's files.
    (lambda value: list(value) == ["header"], Shape(_no_rows)),
    (is_natural_questions, _single(nq_row)),
    (is_label_studio, _single(label_studio_row)),
    (is_doccano, _single(doccano_row)),
    (lambda value: isinstance(value.get("data"), (list, Mapping)), Shape(_set_rows, whole=True)),
    (_has_splits, Shape(_split_rows, whole=True)),
]

# What it is, by keys that it has.
_NOT_READ: list[tuple[set[str], str]] = [
    (
        {"document_html", "question_text"},
        (
            "is Natural Questions in its full form, of HTML tokens: simplify_nq_data.py of its "
            "repository makes the simplified form, which can be read"
        ),
    ),
    (
        {"document", "question", "annotations", "long_answer_candidates"},
        (
            "is Natural Questions in the form of the Hugging Face hub, of HTML tokens: take the "
            "simplified form of its own site, which can be read"
        ),
    ),
    (
        {"document_plaintext", "passage_answer_candidates"},
        (
            "is TyDi QA for its primary tasks, whose contexts are whole articles: take its gold "
            "passage task, tydiqa-goldp, which can be read"
        ),
    ),
    (
        {"Data", "Domain"},
        (
            "is TriviaQA in its own form, whose contexts are files of their own: "
            "utils/convert_to_squad_format.py of its repository makes SQuAD JSON, which can be read"
        ),
    ),
    (
        {"story", "questions"},
        (
            "is CoQA, a conversation, whose questions cannot be understood without those before them: "
            "no extractive questions"
        ),
    ),
    (
        {"passage", "qa_pairs"},
        (
            "is DROP, most of whose answers are computed and no spans of the passage; what MRQA made "
            "of it can be read"
        ),
    ),
]
