"""Questions in: SQuAD JSON, JSONL, Parquet, Hugging Face data sets, or any iterable of rows.

Every reader goes through its rows in order, as `Row`s that know where they come from, and can begin at
any of them. A row that cannot be used is a `Row` with a reason, so that the caller decides whether to
stop or to go on. JSONL and Parquet are streamed; a SQuAD JSON file is one value and is loaded whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

STANDARD_INPUT = "-"
_BATCH_ROWS = 256
_HASHED_WHOLE = 64 << 20  # bytes; of a larger file, samples are hashed
_SAMPLE, _SAMPLES = 1 << 20, 64


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
        usual = {"id", "answers", "title"}
        return [name for field, name in self.items() if field not in usual or name != field]

    def items(self) -> list[tuple[str, str]]:
        """Pairs of a field and its column."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


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
    problem: str = ""


class Source(Protocol):
    """Data that can be gone through row by row.

    Attributes:
        name: what to call it in a sentence.
        rereadable: whether `rows` can be called more than once.
    """

    name: str
    rereadable: bool

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1, or to the last."""
        ...

    def count(self) -> int | None:
        """How many rows there are; None where only reading them tells."""
        ...

    def fingerprint(self) -> object:
        """JSON that changes when the data does; None where it cannot be told.

        Of files over 64 MiB the size, the ends and samples are hashed, not every byte.
        """
        ...


def read_examples(
    source: Any,
    *,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Iterator[Example]:
    """Read questions in any of the usual forms, one by one and in order.

    Args:
        source: one of

            - a SQuAD file, v1.1 or v2.0 (``.json``; a list of rows, or rows below ``data``, will do);
            - a JSONL file, one object a line; it is told from SQuAD JSON by its content;
            - a Parquet file (``.parquet``), or a folder of them, read in the order of their names;
            - "-": SQuAD JSON or JSONL on standard input;
            - the name of a data set on the Hugging Face Hub, such as "rajpurkar/squad_v2";
            - a data set of the ``datasets`` library, or any other iterable of dicts.
        columns: the names of the columns, where they are not those of `Example`.
        split: which split of a data set with several.
        subset: which subset (configuration) of a data set on the Hub.

    Raises:
        OSError: a file that cannot be read.
        ValueError: data in no such form, or a row that cannot be used; the message says where.

    Example:
        >>> rows = [{"id": 7, "question": "Who wrote it?", "context": "Ada wrote the note."}]
        >>> next(read_examples(rows))
        Example(id='7', question='Who wrote it?', context='Ada wrote the note.', answers=None, \
answer_starts=(), title='')
    """
    for row in open_source(source, columns=columns, split=split, subset=subset).rows():
        if row.example is None:
            raise ValueError(f"{row.place}: {row.problem}")
        yield row.example


def open_source(
    source: Any,
    *,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Source:
    """The reader for ``source``; the arguments are those of `read_examples`."""
    columns = columns or Columns()
    if isinstance(source, (str, Path)):
        path = Path(source)
        if str(source) == STANDARD_INPUT:
            found: Source = _JsonSource(None, columns)
        elif path.is_dir() or path.suffix == ".parquet":
            found = _ParquetSource(path, columns)
        elif path.exists() or path.suffix in (".json", ".jsonl", ".ndjson"):
            found = _JsonSource(path, columns)
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
            return _RowsSource(_load_from_hub(str(source), split, subset), columns, str(source))
        else:
            raise FileNotFoundError(f"{source}: no such file, and no name of a data set either")
        if split is not None or subset is not None:
            raise ValueError(f"{found.name} is a file: it has no splits and no subsets")
        return found
    if subset is not None:
        raise ValueError("a subset can be chosen of a data set on the Hub only, by its name")
    if isinstance(source, Mapping):  # a DatasetDict, or one row by mistake
        source = _choose_split(source, split)
    elif split is not None:
        raise ValueError(f"{type(source).__name__} has no splits; got split={split!r}")
    if not hasattr(source, "__iter__"):
        raise ValueError(
            "the data must be a file, a folder, the name of a data set or an iterable of dicts; "
            f"got {type(source).__name__}"
        )
    return _RowsSource(source, columns, f"the {type(source).__name__}")


# --- rows ---------------------------------------------------------------------------------------


def _row(record: object, columns: Columns, number: int, place: str) -> Row:
    try:
        return Row(number, place, _example(record, columns, number))
    except ValueError as error:
        return Row(number, place, None, str(error))


def _example(record: object, columns: Columns, number: int) -> Example:
    """The example in one record; a ValueError says what is wrong with it."""
    if not isinstance(record, Mapping):
        raise ValueError(f"not an object with columns, but {_shown(record)}")
    _check_columns(record, columns)
    for name in (columns.question, columns.context):
        if not isinstance(record[name], str):
            raise ValueError(f"{name} must be a text; got {_shown(record[name])}")
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


def _check_columns(present: Iterable[str], columns: Columns) -> None:
    present = list(present)
    for field, name in columns.items():
        if name in columns.required() and name not in present:
            raise ValueError(
                f"there is no column {name!r} among {present}; say which one holds the {field} with "
                f"Columns({field}=...), on the command line with --{field}-column"
            )


def _id(value: object, name: str, number: int) -> str:
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{name} must be a text or an integer; got {_shown(value)}")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode: {value!a}") from None
    return str(value)


def _answers(value: object, name: str) -> tuple[tuple[str, ...] | None, tuple[int, ...]]:
    """Texts and starts of the gold answers, from any of the forms in use."""
    if value is None:
        return None, ()
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
            f"{name} must be texts, or {{'text': [...], 'answer_start': [...]}}; got {_shown(value)}"
        )
    if not starts or None in starts:
        return tuple(texts), ()
    if len(starts) != len(texts) or not all(type(start) is int for start in starts):
        raise ValueError(
            f"{name} has {len(texts)} texts, which need as many whole numbers as answer_start; got "
            f"{_shown(starts)}"
        )
    return tuple(texts), tuple(starts)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


# --- JSON ---------------------------------------------------------------------------------------


class _JsonSource:
    """SQuAD JSON or JSONL, in a file or on standard input."""

    def __init__(self, path: Path | None, columns: Columns) -> None:
        self.name = "standard input" if path is None else str(path)
        self.rereadable = path is not None
        self._path = path
        self._columns = columns

    def _open(self) -> BinaryIO:
        if self._path is None:
            return sys.stdin.buffer
        try:
            return self._path.open("rb")
        except OSError as error:
            raise type(error)(f"{self.name}: {error.strerror}") from None

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        with self._open() as file:
            line, first = first_line(file)
            if begins_json_lines(first):
                yield from self._lines(file, line, first, start, stop)
            else:
                records = self._flatten(self._value(first + file.read()))
                for number, (place, record) in enumerate(islice(records, start, stop), start):
                    yield _row(record, self._columns, number, place)

    def _lines(
        self, file: BinaryIO, line: int, first: bytes, start: int, stop: int | None
    ) -> Iterator[Row]:
        number = -1
        for text in chain_line(first, file):
            line += 1
            if text.isspace():
                continue
            number += 1
            if number < start:
                continue
            if stop is not None and number >= stop:
                return
            place = f"{self.name} line {line}"
            try:
                record = json.loads(text)
            except ValueError as error:  # not JSON, or not UTF-8
                yield Row(number, place, None, f"not JSON: {error}")
            else:
                yield _row(record, self._columns, number, place)

    def _value(self, text: bytes) -> object:
        if not text.strip():
            raise ValueError(f"{self.name} is empty; give it some questions")
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{self.name} is neither JSON ({error}) nor JSONL with an object on every line"
            ) from None

    def _flatten(self, value: object) -> Iterator[tuple[str, object]]:
        """The records of a whole JSON value, each with its place."""
        data = value.get("data") if isinstance(value, Mapping) else value
        if not isinstance(data, list):
            keys = f"an object with {list(value)}" if isinstance(value, Mapping) else _shown(value)
            raise ValueError(
                f"{self.name} must be SQuAD JSON, which is an object with a list 'data', or a list "
                f"of rows; got {keys}"
            )
        for i, article in enumerate(data):
            if not isinstance(article, Mapping) or "paragraphs" not in article:
                yield f"{self.name} entry {i}", article
                continue
            title = article.get("title")
            for j, paragraph in enumerate(_list(article, "paragraphs", f"{self.name} article {i}")):
                where = f"{self.name} article {i} paragraph {j}"
                for k, question in enumerate(_list(paragraph, "qas", where)):
                    place = f"{where} question {k}"
                    yield place, self._squad_record(question, paragraph, title)

    def _squad_record(
        self, question: object, paragraph: Mapping[str, Any], title: object
    ) -> object:
        if not isinstance(question, Mapping):
            return question
        answers = question.get("answers")
        if answers is None and question.get("is_impossible"):
            answers = []
        columns = self._columns
        record = {
            columns.id: question.get("id"),
            columns.context: paragraph.get("context"),
            columns.answers: answers,
            columns.title: title,
        }
        if "question" in question:
            record[columns.question] = question["question"]
        return record

    def count(self) -> int | None:
        if self._path is None:
            return None
        with self._open() as file:
            _, first = first_line(file)
            if begins_json_lines(first):
                return 1 + sum(not line.isspace() for line in file)
            return sum(1 for _ in self._flatten(self._value(first + file.read())))

    def fingerprint(self) -> object:
        return None if self._path is None else [_file_fingerprint(self._path)]


def first_line(file: BinaryIO) -> tuple[int, bytes]:
    """The number of blank lines at the beginning, and the line after them, without a BOM."""
    for number, line in enumerate(file):
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            return number, line
    return 0, b""


def chain_line(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """The line that was read to look at it, and the lines after it."""
    yield first
    yield from rest


def begins_json_lines(line: bytes) -> bool:
    """Whether ``line`` is an object by itself, and not a whole SQuAD file."""
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _list(holder: object, key: str, place: str) -> list[Any]:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    if not isinstance(found, list):
        raise ValueError(f"{place}: must be an object with a list {key!r}; got {_shown(holder)}")
    return found


# --- Parquet ------------------------------------------------------------------------------------


class _ParquetSource:
    """A Parquet file or a folder of them, a row group at a time."""

    rereadable = True

    def __init__(self, path: Path, columns: Columns) -> None:
        self.name = str(path)
        self._columns = columns
        self._files = parquet_files(path)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        first = 0  # number of the first row of the row group at hand
        for path in self._files:
            with _parquet(path) as file:
                names = self._present(path, file.schema_arrow.names)
                in_file = 0
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    if stop is not None and first >= stop:
                        return
                    if first + size > start:
                        records = _records(file, group, names)
                        low = max(start - first, 0)
                        high = size if stop is None else min(size, stop - first)
                        for i, record in enumerate(islice(records, low, high), low):
                            place = f"{path} row {in_file + i}"
                            yield _row(record, self._columns, first + i, place)
                    first += size
                    in_file += size

    def _present(self, path: Path, present: list[str]) -> list[str]:
        try:
            _check_columns(present, self._columns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return [name for _, name in self._columns.items() if name in present]

    def count(self) -> int | None:
        total = 0
        for path in self._files:
            with _parquet(path) as file:
                total += file.metadata.num_rows
        return total

    def fingerprint(self) -> object:
        return [_file_fingerprint(path) for path in self._files]


def parquet_files(path: Path) -> list[Path]:
    """The Parquet file ``path``, or those in the folder ``path``, by name."""
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        return [path]
    files = sorted(
        file
        for file in path.rglob("*.parquet")
        # Names that begin so are not data, by the convention of Hive and Spark.
        if not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )
    if not files:
        raise FileNotFoundError(f"{path}: there is no .parquet file in this folder")
    return files


def _parquet(path: Path) -> Any:
    """An open ``pyarrow.parquet.ParquetFile``."""
    parquet = import_pyarrow_parquet()
    try:
        # Without the buffer a row group is read page by page, not whole.
        return parquet.ParquetFile(path, pre_buffer=False)
    except ValueError as error:  # of pyarrow
        raise ValueError(f"{path}: not a Parquet file that can be read ({error})") from None


def _records(file: Any, group: int, names: list[str]) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names):
        yield from batch.to_pylist()


def read_records(path: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with those of the columns ``names`` that it has."""
    with _parquet(path) as file:
        present = [name for name in names if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            yield from _records(file, group, present)


def import_pyarrow_parquet() -> Any:
    """The module ``pyarrow.parquet``, which comes with the extra ``eval``."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'qa-fast[eval]'") from error
    return pyarrow.parquet


def _file_fingerprint(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            while block := file.read(_SAMPLE):
                digest.update(block)
        else:
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return {"file": path.name, "bytes": size, "sha256": digest.hexdigest()}


# --- rows in memory and data sets of Hugging Face -----------------------------------------------


class _RowsSource:
    """A data set of the ``datasets`` library, or any iterable of rows."""

    def __init__(self, data: Any, columns: Columns, name: str) -> None:
        self.name = name
        self.rereadable = iter(data) is not data
        self._data = data
        self._columns = columns

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        select: Callable[[range], Any] | None = getattr(self._data, "select", None)
        if select is not None and (count := self.count()) is not None:
            data: Iterable[Any] = select(range(start, count if stop is None else min(stop, count)))
        else:
            data = islice(self._data, start, stop)
        for number, record in enumerate(data, start):
            place = f"{self.name} row {number}"
            if isinstance(record, Example):
                yield Row(number, place, record)
            else:
                yield _row(record, self._columns, number, place)

    def count(self) -> int | None:
        return len(self._data) if hasattr(self._data, "__len__") else None

    def fingerprint(self) -> object:
        # That of a data set of Hugging Face covers its files and all that was done to them.
        found = getattr(self._data, "_fingerprint", None)
        return None if found is None else {"fingerprint": found, "rows": self.count()}


def _load_from_hub(name: str, split: str | None, subset: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{name}: no such file; to read the data set of that name from the Hugging Face Hub, "
            "pip install datasets"
        ) from error
    try:
        data = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name}: no such file, and the data set of that name cannot be loaded: {reason}"
        ) from error
    return _choose_split(data, split) if isinstance(data, Mapping) else data


def _choose_split(data: Mapping[str, Any], split: str | None) -> Any:
    if not data or any(isinstance(value, (str, int)) for value in data.values()):
        raise ValueError("the data must be an iterable of dicts; got a single dict")
    if split is None and len(data) == 1:
        return next(iter(data.values()))
    if split is None or split not in data:
        raise ValueError(
            f"the data set has the splits {list(data)}: choose one with split=, on the command line "
            f"with --split; got {split!r}"
        )
    return data[split]
