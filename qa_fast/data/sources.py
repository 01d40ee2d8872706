"""Data that rows are read from: JSON, Parquet, and iterables of rows.

Every source goes through its rows in order and can begin at any of them. JSONL and Parquet are streamed;
other JSON, such as SQuAD's, is one value and is loaded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from qa_fast.files.json_text import chain_line, first_line, parse_json
from qa_fast.files.parquet import open_parquet, parquet_files, row_group
from qa_fast.files.reading import fingerprint, is_pipe, open_file
from qa_fast.files.wording import shown

from .errors import ArgumentError
from .examples import Columns, Row, check_columns, row_of
from .golds import IS_IMPOSSIBLE
from .shapes import FLAT, Placed, Shape, chosen_split, rows_of, shape_of


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
    """JSON or JSONL in any of the shapes of `shapes`: in a file, a named pipe or on standard input.

    JSONL is streamed. What a line is, the first one tells: where that is one row, every line is.

    Args:
        path: of the file; None is standard input.
        columns: their names.
        split: which of several sets in the file.
        stream: the file where it is open already; its kind has been looked at.
    """

    def __init__(
        self,
        path: Path | None,
        columns: Columns,
        split: str | None = None,
        stream: BinaryIO | None = None,
    ) -> None:
        self.name = "standard input" if path is None else str(path)
        self.files = [] if path is None or is_pipe(path) else [path]
        self.rereadable = bool(self.files)
        self._path = path
        self._columns = columns
        self._split = split
        self._stream = stream

    def _open(self) -> BinaryIO:
        return self._stream or open_file(self._path)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1; JSONL is read line by line, other JSON whole."""
        with self._open() as file:
            line, first = first_line(file)
            value, shape = self._begin(first)
            records: Iterable[tuple[int, Placed]]
            if shape is None:
                records = enumerate(self._records(first, value, file.read()))
            elif shape.single:
                records = self._lines(file, line, first, start)
            else:
                records = enumerate(self._blocks(file, line, first))
            for number, (place, record) in records:
                if stop is not None and number >= stop:
                    return
                if number >= start:
                    yield row_of(record, self._columns, number, place)

    def _begin(self, first: bytes) -> tuple[object, Shape | None]:
        """What the first line holds, and its shape where every line has one: else the file is a value.

        What it holds is a ValueError where it is no JSON.
        """
        try:
            value = parse_json(first)
        except ValueError as error:
            return error, None
        if not isinstance(value, Mapping):
            return value, None
        try:
            shape = shape_of(value, self._columns)
        except ValueError as error:
            raise ValueError(f"{self.name} {error}") from None
        if shape.whole:
            return value, None
        chosen_split(value, self._split, self.name)  # lines have no splits
        return value, shape

    def _lines(
        self, file: BinaryIO, line: int, first: bytes, start: int
    ) -> Iterator[tuple[int, Placed]]:
        """The numbers and records of JSONL with one row a line, from ``start`` on."""
        number = -1
        for text in chain_line(first, file):
            line += 1
            if text.isspace():
                continue
            number += 1
            if number >= start:
                place = f"{self.name} line {line}"
                rows = list(self._rows_of_line(text, place))
                if len(rows) != 1:
                    several = (
                        f"{len(rows)} rows in a line, but the first line of the file is one row"
                    )
                    rows = [(place, ValueError(several))]
                yield number, (place, rows[0][1])

    def _blocks(self, file: BinaryIO, line: int, first: bytes) -> Iterator[Placed]:
        """The records of JSONL whose lines may hold any number of rows."""
        for text in chain_line(first, file):
            line += 1
            if not text.isspace():
                yield from self._rows_of_line(text, f"{self.name} line {line}")

    def _rows_of_line(self, text: bytes, place: str) -> Iterator[Placed]:
        try:
            value = parse_json(text)
        except ValueError as error:
            yield place, ValueError(f"not JSON: {error}")
            return
        if not isinstance(value, Mapping):
            yield place, value  # told to be no object
            return
        try:
            yield from rows_of(value, self._columns, place)
        except ValueError as error:
            yield place, ValueError(str(error).removeprefix(place).lstrip(": "))

    def _records(self, first: bytes, value: object, rest: bytes) -> Iterable[Placed]:
        """The records of a file that is one value, which may be that of its first line."""
        if isinstance(value, ValueError) or rest.strip():
            if not (first + rest).strip():
                raise ValueError(f"{self.name} is empty; give it some questions")
            try:
                value = parse_json(first + rest)
            except ValueError as error:
                raise ValueError(
                    f"{self.name} is neither JSON ({error}) nor JSONL with an object on every line"
                ) from None
        value = chosen_split(value, self._split, self.name)
        is_rows = isinstance(value, (list, Mapping)) and (
            shape_of(value, self._columns) is not FLAT or self._columns.question in value
        )
        if not is_rows:
            keys = f"an object with {list(value)}" if isinstance(value, Mapping) else shown(value)
            raise ValueError(
                f"{self.name} must be SQuAD JSON, which is an object with a list 'data', or a list "
                f"of rows; got {keys}"
            )
        return rows_of(value, self._columns, self.name)

    def count(self) -> int | None:
        """How many rows there are; None for a pipe, which only reading tells."""
        if not self.rereadable:
            return None
        with self._open() as file:
            line, first = first_line(file)
            value, shape = self._begin(first)
            if shape is None:
                return sum(1 for _ in self._records(first, value, file.read()))
            if shape.single:
                return 1 + sum(not text.isspace() for text in file)
            return sum(1 for _ in self._blocks(file, line, first))

    def fingerprint(self) -> object:
        """JSON that changes when the file does; None for a pipe."""
        return [fingerprint(path) for path in self.files] or None


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
        names = [name for _, name in self._columns.items()]
        return [name for name in [*names, IS_IMPOSSIBLE] if name in present]

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
