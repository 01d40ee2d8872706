"""Data that rows are read from: JSON, Parquet, and iterables of rows.

Every source goes through its rows in order and can begin at any of them. JSONL and Parquet are streamed;
a SQuAD JSON file is one value and is loaded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from qa_fast.files.json_text import begins_json_lines, chain_line, first_line, parse_json
from qa_fast.files.parquet import open_parquet, parquet_files, row_group
from qa_fast.files.reading import fingerprint, is_pipe, open_file
from qa_fast.files.wording import shown

from .errors import ArgumentError
from .examples import Columns, Row, check_columns, row_of


class Source(Protocol):
    """Data that can be gone through row by row.

    Attributes:
        name: what to call it in a sentence.
        rereadable: whether `rows` can be called more than once.
        files: what it is read from, which must not change meanwhile; none where there are no files.
    """

    name: str
    rereadable: bool
    files: list[Path]

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


# --- JSON ---------------------------------------------------------------------------------------


class JsonSource:
    """SQuAD JSON or JSONL, in a file, a named pipe or on standard input.

    Args:
        path: of the file; None is standard input.
        columns: their names.
        stream: the file where it is open already; its kind has been looked at.
    """

    def __init__(self, path: Path | None, columns: Columns, stream: BinaryIO | None = None) -> None:
        self.name = "standard input" if path is None else str(path)
        self.files = [] if path is None or is_pipe(path) else [path]
        self.rereadable = bool(self.files)
        self._path = path
        self._columns = columns
        self._stream = stream

    def _open(self) -> BinaryIO:
        return self._stream or open_file(self._path)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1; JSONL is read line by line, SQuAD JSON whole."""
        with self._open() as file:
            line, first = first_line(file)
            if begins_json_lines(first):
                yield from self._lines(file, line, first, start, stop)
            else:
                records = self._records(self._value(first + file.read()))
                for number, (place, record) in enumerate(islice(records, start, stop), start):
                    yield row_of(record, self._columns, number, place)

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
                record = parse_json(text)
            except ValueError as error:
                yield Row(number, place, None, ValueError(f"not JSON: {error}"))
            else:
                yield row_of(record, self._columns, number, place)

    def _value(self, text: bytes) -> object:
        if not text.strip():
            raise ValueError(f"{self.name} is empty; give it some questions")
        try:
            return parse_json(text)
        except ValueError as error:
            raise ValueError(
                f"{self.name} is neither JSON ({error}) nor JSONL with an object on every line"
            ) from None

    def _records(self, value: object) -> Iterator[tuple[str, object]]:
        """The records of a whole JSON value, each with its place."""
        data = value.get("data") if isinstance(value, Mapping) else value
        if not isinstance(data, list):
            keys = f"an object with {list(value)}" if isinstance(value, Mapping) else shown(value)
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
        """How many rows there are; None for a pipe, which only reading tells."""
        if not self.rereadable:
            return None
        with self._open() as file:
            _, first = first_line(file)
            if begins_json_lines(first):
                return 1 + sum(not line.isspace() for line in file)
            return sum(1 for _ in self._records(self._value(first + file.read())))

    def fingerprint(self) -> object:
        """JSON that changes when the file does; None for a pipe."""
        return [fingerprint(path) for path in self.files] or None


def _list(holder: object, key: str, place: str) -> list[Any]:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    if not isinstance(found, list):
        raise ValueError(f"{place}: must be an object with a list {key!r}; got {shown(holder)}")
    return found


# --- Parquet ------------------------------------------------------------------------------------


class ParquetSource:
    """A Parquet file or a folder of them, a row group at a time."""

    rereadable = True

    def __init__(self, path: Path, columns: Columns) -> None:
        self.name = str(path)
        self._columns = columns
        self.files = parquet_files(path)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1; row groups without any of them are not read."""
        # Number of the first row of the row group at hand.
        first = 0
        for path in self.files:
            with open_parquet(path) as file:
                names = self._present(path, file.schema_arrow.names)
                in_file = 0
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    if stop is not None and first >= stop:
                        return
                    if first + size > start:
                        records = row_group(path, file, group, names)
                        low = max(start - first, 0)
                        high = size if stop is None else min(size, stop - first)
                        for i, record in enumerate(islice(records, low, high), low):
                            place = f"{path} row {in_file + i}"
                            yield row_of(record, self._columns, first + i, place)
                    first += size
                    in_file += size

    def _present(self, path: Path, present: list[str]) -> list[str]:
        try:
            check_columns(present, self._columns)
        except ArgumentError as error:
            raise ArgumentError(f"{path}: ", *error.parts) from None
        return [name for _, name in self._columns.items() if name in present]

    def count(self) -> int | None:
        """How many rows the files say they have."""
        total = 0
        for path in self.files:
            with open_parquet(path) as file:
                total += file.metadata.num_rows
        return total

    def fingerprint(self) -> object:
        """JSON that changes when the files do."""
        return [fingerprint(path) for path in self.files]


# --- rows in memory and data sets of Hugging Face -----------------------------------------------


class RowsSource:
    """A data set of the ``datasets`` library, or any iterable of rows."""

    def __init__(self, data: Any, columns: Columns, name: str) -> None:
        self.name = name
        self.rereadable = iter(data) is not data
        self.files: list[Path] = []
        self._data = data
        self._columns = columns

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1."""
        select: Callable[[range], Any] | None = getattr(self._data, "select", None)
        if select is not None and (count := self.count()) is not None:
            data: Iterable[Any] = select(range(start, count if stop is None else min(stop, count)))
        else:
            data = islice(self._data, start, stop)
        for number, record in enumerate(data, start):
            yield row_of(record, self._columns, number, f"{self.name} row {number}")

    def count(self) -> int | None:
        """How many rows there are; None where the data do not tell."""
        return length_of(self._data)

    def fingerprint(self) -> object:
        """The data set's own fingerprint, with its rows; None for other iterables."""
        # Hugging Face's covers the files of a data set and all that was done to them.
        found = getattr(self._data, "_fingerprint", None)
        return None if found is None else {"fingerprint": found, "rows": self.count()}


def length_of(data: Any) -> int | None:
    """How many items there are; None where ``data`` does not tell.

    Iterators of torch's DataLoader have a ``__len__`` that raises a TypeError over data without one.
    """
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None
