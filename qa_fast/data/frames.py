"""Tables in memory that rows are read from: of pandas, polars and pyarrow, none of which is imported.

A table is told by its class, which can only be that of a library that is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import ArgumentError
from .examples import Columns, Row, check_columns, row_of

_BATCH_ROWS = 256  # few, as a context may be long


def table_columns(data: Any) -> list[Any] | None:
    """The names of a table's columns, of pandas, pyarrow, polars or datasets; None for another kind."""
    if isinstance(data, (list, tuple, Mapping)):
        return None
    names = getattr(data, "column_names", None)
    shape = getattr(data, "shape", None)
    if names is None and isinstance(shape, tuple) and len(shape) == 2:
        names = getattr(data, "columns", None)
    return None if names is None else list(names)


def _of(data: Any, module: str, *names: str) -> bool:
    """Whether ``data`` is an instance of one of these classes, of a library that may not be loaded."""
    loaded = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(loaded, name, None), type))
    return isinstance(data, kinds)


def is_frame(data: Any) -> bool:
    """Whether ``data`` is a table that `FrameSource` reads."""
    return _of(data, "pandas", "DataFrame") or _of(data, "polars", "DataFrame") or _is_arrow(data)


def is_lazy(data: Any) -> bool:
    """Whether ``data`` is a table of polars that is still to be computed."""
    return _of(data, "polars", "LazyFrame")


class FrameSource:
    """A DataFrame of pandas or polars; a Table, RecordBatch, RecordBatchReader or Dataset of pyarrow.

    Missing values (None, NaN, NaT, NA) are None, NumPy's arrays are lists, its scalars Python's. The
    index of pandas is no column.
    """

    def __init__(self, data: Any, columns: Columns) -> None:
        self.name = f"the {type(data).__name__}"
        self.rereadable = not _of(data, "pyarrow", "RecordBatchReader")
        self.files: list[Path] = []
        self._data = data
        self._columns = columns
        self._names = list(data.schema.names if _is_arrow(data) else data.columns)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1; those before them are not turned into rows."""
        self._check_names()
        for number, record in enumerate(self._records(start), start):
            if stop is not None and number >= stop:
                return
            values = {name: _value(cell) for name, cell in record.items()}
            yield row_of(values, self._columns, number, f"{self.name} row {number}")

    def _check_names(self) -> None:
        wanted = {name for _, name in self._columns.items()}
        twice = next((name for name in wanted if self._names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{self.name} has the column {twice!r} twice")
        try:
            check_columns(self._names, self._columns)
        except ArgumentError as error:
            raise ArgumentError(f"{self.name}: ", *error.parts) from None

    def _records(self, start: int) -> Iterator[dict[str, Any]]:
        """The rows from ``start`` on, with cells as the library has them."""
        for piece in self._pieces(start):
            try:
                if _is_arrow(piece):
                    records = piece.to_pylist()
                elif hasattr(piece, "to_dicts"):
                    records = piece.to_dicts()
                else:  # of pandas, a column at a time, so that each keeps its kind of values
                    cells = [list(piece.iloc[:, i]) for i in range(len(self._names))]
                    records = [
                        dict(zip(self._names, row, strict=True)) for row in zip(*cells, strict=True)
                    ]
            except Exception as error:  # the libraries raise many kinds
                raise ValueError(
                    f"{self.name}: one of its rows {start} to {start + len(piece) - 1} cannot be read "
                    f"({' '.join(str(error).split())})"
                ) from error
            start += len(records)
            yield from records

    def _pieces(self, start: int) -> Iterator[Any]:
        """The table from row ``start`` on, in pieces of some rows."""
        data = self._data
        if _of(data, "pyarrow.dataset", "Dataset"):
            # By itself it would read far ahead.
            batches = data.to_batches(
                batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1
            )
        elif self.rereadable:
            batches = [data]
        else:
            batches = data
        for batch in batches:
            for at in range(start, len(batch), _BATCH_ROWS):
                if hasattr(batch, "iloc"):
                    yield batch.iloc[at : at + _BATCH_ROWS]
                else:
                    yield batch.slice(at, _BATCH_ROWS)
            start = max(0, start - len(batch))

    def count(self) -> int | None:
        """How many rows there are; None for a RecordBatchReader, which only reading tells."""
        if _of(self._data, "pyarrow.dataset", "Dataset"):
            return self._data.count_rows()
        return len(self._data) if self.rereadable else None

    def fingerprint(self) -> object:
        """None: a table has none of its own."""
        return None


def _is_arrow(data: Any) -> bool:
    return _of(data, "pyarrow", "Table", "RecordBatch", "RecordBatchReader") or _of(
        data, "pyarrow.dataset", "Dataset"
    )


def _value(cell: Any) -> Any:
    """A cell as JSON would have it, where it can."""
    kind = type(cell)
    if cell is None or kind in (str, int, bool):
        return cell
    if isinstance(cell, float):
        return None if cell != cell else float(cell)
    if isinstance(cell, str):  # of NumPy
        return str(cell)
    if isinstance(cell, Mapping):
        return {name: _value(item) for name, item in cell.items()}
    if isinstance(cell, (list, tuple)):
        return [_value(item) for item in cell]
    if kind.__name__ in ("NAType", "NaTType"):
        return None
    for method in ("tolist", "to_list", "as_py"):  # NumPy and pandas, polars, pyarrow
        if hasattr(cell, method):
            found = getattr(cell, method)()
            return found if type(found) is kind else _value(found)
    return cell
