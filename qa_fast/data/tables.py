"""CSV and TSV that rows are read from: one record after the other, with the names of a header line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qa_fast.files.json_text import not_utf8
from qa_fast.files.kinds import not_text
from qa_fast.files.reading import fingerprint, is_pipe, open_file

from .errors import ArgumentError
from .examples import Columns, Row, check_columns, row_of

_DELIMITERS = {",": ".csv", ";": "", "\t": ".tsv"}
# The csv module stops at 131,072 characters, which a context may have. Behind a quote that nothing
# closes a field goes on to the end of the file: it must not fill the memory.
_MOST_FIELD = 1 << 26
# A NUL, and bytes that are no UTF-8, as errors="surrogateescape" gives them.
_ODD = re.compile("[\0\ud800-\udfff]")


def names_table(path: Path) -> bool:
    """Whether a file of that name is CSV or TSV, packed or not."""
    return any(suffix.lower() in (".csv", ".tsv") for suffix in path.suffixes)


def begins_table(line: bytes, columns: Columns) -> bool:
    """Whether ``line`` is a header with several names, one of ``columns`` among them."""
    names = {name for _, name in columns.items()}
    text = line.decode(errors="replace")
    return any(
        len(header) > 1 and names.intersection(header)
        for header in (_split(text, delimiter) for delimiter in _DELIMITERS)
    )


def _split(text: str, delimiter: str) -> list[str]:
    """The fields of the first line."""
    try:
        return next(csv.reader(re.split("[\r\n]", text, maxsplit=1)[:1], delimiter=delimiter), [])
    except csv.Error:  # as of a NUL, in Python 3.10
        return []


class CsvSource:
    """CSV or TSV with a header line, as RFC 4180 describes it, in a file.

    Cells are texts. Of the columns that hold no question, context or answers an empty cell is a missing
    value. An empty cell in the column of the answers says that the context does not answer the question;
    without the column nothing is known about the answers.

    Args:
        path: of the file; None is standard input.
        columns: their names in the header.
        stream: the file where it is open already; its kind has been looked at.
    """

    def __init__(self, path: Path | None, columns: Columns, stream: BinaryIO | None = None) -> None:
        self.name = "standard input" if path is None else str(path)
        self.files = [] if path is None or is_pipe(path) else [path]
        self.rereadable = bool(self.files)
        self._path = path
        self._columns = columns
        self._stream = stream

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1; the lines before them are gone through."""
        with self._stream or open_file(self._path) as file, _Lines(file) as lines:
            header, records = self._table(lines)
            self._check_header(header)
            for number, (line, cells, problem) in enumerate(records):
                if stop is not None and number >= stop:
                    return
                if number < start:
                    continue
                place = f"{self.name} line {line}"
                if problem is None and len(cells) != len(header):
                    problem = (
                        f"it has {len(cells)} fields, and the header {len(header)}: a field that holds "
                        "the delimiter, a quote or a line's end must stand in double quotes"
                    )
                if problem is not None:
                    yield Row(number, place, None, ValueError(problem))
                else:
                    record = self._record(header, cells)
                    yield row_of(record, self._columns, number, place)

    def _table(
        self, lines: _Lines
    ) -> tuple[list[str], Iterator[tuple[int, list[str], str | None]]]:
        """The names in the header, and the records: each with its line, its cells and what is wrong."""
        csv.field_size_limit(max(csv.field_size_limit(), _MOST_FIELD))
        first = next((line for line in lines if not line.isspace()), "")
        if not first:
            raise ValueError(f"{self.name} is empty; give it some questions")
        delimiter = self._delimiter(first)
        lines.again(first)
        records = _records(csv.reader(lines, delimiter=delimiter, strict=True), lines)
        line, header, problem = next(records)
        if problem is not None:
            raise ValueError(f"{self.name} line {line}, the header: {problem}")
        return header, records

    def _delimiter(self, line: str) -> str:
        """The one that splits the most of the wanted names from each other; in doubt the name's."""
        names = {name for _, name in self._columns.items()}
        suffixes = [] if self._path is None else [suffix.lower() for suffix in self._path.suffixes]

        def rank(delimiter: str) -> tuple[int, int, bool]:
            header = _split(line, delimiter)
            by_name = _DELIMITERS[delimiter] in suffixes
            return len(names.intersection(header)), len(header), by_name

        return max(_DELIMITERS, key=rank)

    def _check_header(self, header: list[str]) -> None:
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{self.name}: its header has the column {twice!r} twice")
        try:
            check_columns(header, self._columns)
        except ArgumentError as error:
            raise ArgumentError(f"{self.name}: ", *error.parts) from None

    def _record(self, header: list[str], cells: list[str]) -> dict[str, Any]:
        columns = self._columns
        record: dict[str, Any] = dict(zip(header, cells, strict=True))
        for name, cell in record.items():
            if not cell and name not in (columns.question, columns.context):
                record[name] = [] if name == columns.answers else None
        return record

    def count(self) -> int | None:
        """How many rows there are, which takes reading them; None for a pipe."""
        if not self.rereadable:
            return None
        with open_file(self._path) as file, _Lines(file) as lines:
            return sum(1 for _ in self._table(lines)[1])

    def fingerprint(self) -> object:
        """JSON that changes when the file does; None for a pipe."""
        return [fingerprint(path) for path in self.files] or None


class _Lines:
    """The lines of a file as texts, and what is wrong with one since that was last asked.

    Attributes:
        number: of the last line, from 1.
    """

    def __init__(self, file: BinaryIO) -> None:
        # With newline="" a line that ends in CR alone ends there, and one in quotes keeps its CR LF.
        self._lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        self._again: list[str] = []
        self._problem: str | None = None
        self.number = 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.detach()  # the file is not closed with it

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._again:
            return self._again.pop()
        line = next(self._lines)
        self.number += 1
        return self._mended(line) if _ODD.search(line) else line

    def _mended(self, line: str) -> str:
        """The line without what the csv module or Unicode cannot take, which is noted."""
        data = line.encode("utf-8", "surrogateescape")
        problem = None
        try:
            data.decode()
        except UnicodeDecodeError as error:
            problem = not_utf8(data, error.start)
        if problem is None and "\0" in line:
            problem = not_text(data) or "it has a NUL byte: it is damaged, or no text"
        if problem is not None:
            self._problem = self._problem or problem
        return data.decode("utf-8", "replace").replace("\0", "\ufffd")

    def again(self, line: str) -> None:
        """Give ``line``, the last one, once more."""
        self._again.append(line)

    def problem(self) -> str | None:
        """What is wrong with the lines read since this was last asked; None where nothing is."""
        problem, self._problem = self._problem, None
        return problem


def _records(reader: Any, lines: _Lines) -> Iterator[tuple[int, list[str], str | None]]:
    """The records, blank lines left out: the line of each, its cells, and what is wrong with it."""
    first = lines.number - 1
    while True:
        cells: list[str] = []
        problem = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _in_words(error)
        problem = lines.problem() or problem
        if cells or problem is not None:
            yield first + 1, cells, problem
        first = lines.number


def _in_words(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote opens a field here, or in a line below, and nothing closes it"
    if "field larger than" in str(error):
        return f"a field has over {_MOST_FIELD} characters: is a quote not closed?"
    return f"not CSV: {error}: a quote within a quoted field is written twice"
