"""Rows as Transformers' run_qa example makes them: columns, and the offsets of a feature's tokens.

A *feature* is what the example calls a chunk. Its ``offset_mapping`` has an entry per token: the
characters (start, end) that it stands for, or None outside the context. Data are a
`datasets.Dataset`, a sequence of dicts, a dict of columns or a DataFrame; a data set's offsets are
read where they lie in its Arrow table, without a Python object per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from qa_fast.texts.chunks import Int64

BLOCK = 1000
"""Features whose tokens are looked at together."""


def column(data: Any, name: str, what: str) -> list[Any]:
    """The values of a column as Python objects.

    Args:
        data: a `datasets.Dataset`, a sequence of dicts, a dict of columns or a pandas DataFrame.
        name: the column's.
        what: what a row is called in an error message.

    Raises:
        ValueError: a row without it, or data in another form.
    """
    if _has_columns(data):
        if name not in data:
            raise ValueError(f"the {what}s have no column {name!r}; they have {list(data)}")
        return list(data[name])
    if isinstance(data, (str, bytes)) or not hasattr(data, "__len__"):
        raise ValueError(
            f"{what}s must be a datasets.Dataset, a sequence of dicts, a dict of columns or a "
            f"pandas DataFrame; got {type(data).__name__}"
        )
    if hasattr(data, "column_names"):
        return [value for part in _arrow(data, name, what) for value in part.to_pylist()]
    values = []
    for i in range(len(data)):
        row = data[i]
        if not isinstance(row, Mapping) or name not in row:
            keys = list(row) if isinstance(row, Mapping) else f"type {type(row).__name__}"
            raise ValueError(f"{what} {i} has no {name!r}; it has {keys}")
        values.append(row[name])
    return values


def _has_columns(data: Any) -> bool:
    """Whether ``data[name]`` is a column: of a dict of columns, or of a pandas DataFrame."""
    return isinstance(data, Mapping) or (hasattr(data, "columns") and hasattr(data, "iloc"))


def optional_column(data: Any, name: str, what: str) -> list[Any] | None:
    """The values of a column that may be missing: None for a row without it, None where all are."""
    if _has_columns(data) or hasattr(data, "column_names"):
        there = name in (data if _has_columns(data) else data.column_names)
        return column(data, name, what) if there else None
    values = [data[i].get(name) for i in range(len(data))]
    return None if all(value is None for value in values) else values


@dataclass(frozen=True, slots=True)
class Offsets:
    """What the tokens of C features stand for.

    Attributes:
        context: [C, 2] int64 half-open range of positions that holds all context tokens; (0, 0)
            where a feature has none.
        gaps: per feature that has any, the positions inside that range that are not of the context.
        characters: from feature numbers [n] and positions of context tokens [n] to where those
            start and end, [n, 2].
    """

    context: Int64
    gaps: dict[int, Int64]
    characters: Callable[[Int64, Int64], Int64]

    @classmethod
    def of(cls, features: Any) -> Offsets:
        """Read the column ``offset_mapping``."""
        name = "offset_mapping"
        if hasattr(features, "column_names"):
            parts: list[Any] = [_ArrowPart(part) for part in _arrow(features, name, "feature")]
        else:
            rows = [_as_list(row, i) for i, row in enumerate(column(features, name, "feature"))]
            parts = [_ListPart(rows[i : i + BLOCK], i) for i in range(0, len(rows), BLOCK)]
        first = np.cumsum([0, *(len(part.length) for part in parts)])
        contexts, gaps = [np.empty((0, 2), np.int64)], {}
        for part, begin in zip(parts, first.tolist(), strict=False):
            context, inner = _ranges(part.inside, part.length)
            contexts.append(context)
            gaps.update({begin + row: where for row, where in inner.items()})

        def characters(row: Int64, position: Int64) -> Int64:
            found = np.empty((len(row), 2), np.int64)
            owner = np.searchsorted(first, row, side="right") - 1
            for number in np.unique(owner).tolist():
                mine = owner == number
                local = row[mine] - first[number]
                found[mine] = parts[number].characters(local, position[mine])
            return found

        return cls(np.concatenate(contexts), gaps, characters)


def _as_list(row: Any, number: int) -> Sequence[Any]:
    """The offsets of a feature, where they are a list, or an array of objects as DataFrames hold it."""
    if isinstance(row, np.ndarray) and row.dtype == object and row.ndim == 1:
        return [pair.tolist() if isinstance(pair, np.ndarray) else pair for pair in row]
    if isinstance(row, (np.ndarray, Tensor, str, bytes)) or not isinstance(row, Sequence):
        raise ValueError(
            f"offset_mapping of feature {number} is of type {type(row).__name__}; it must be "
            "a list, with None outside the context"
        )
    return row


class _ListPart:
    """The offsets of some features, the first of number ``first``, as Python lists of pairs and None."""

    def __init__(self, rows: list[Sequence[Any]], first: int) -> None:
        self.rows = rows
        self.first = first
        self.length = np.array([len(row) for row in rows], np.int64)
        # Neither None nor an empty list, which some data sets' None has become.
        try:
            inside = [bytes(map(bool, row)) for row in rows]
        except (ValueError, RuntimeError):
            # Arrays and tensors are neither true nor false.
            self.rows = [list(map(_as_plain_pair, row)) for row in rows]
            inside = [bytes(map(bool, row)) for row in self.rows]
        self.inside = np.frombuffer(b"".join(inside), np.bool_)

    def characters(self, row: Int64, position: Int64) -> Int64:
        places = list(zip(row.tolist(), position.tolist(), strict=True))
        pairs = [self.rows[r][p] for r, p in places]
        try:
            if set(map(len, pairs)) <= {2}:
                # An array of a list of tuples takes longer.
                flat = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * len(pairs))
                return flat.reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            pass
        r, p = next(place for place, pair in zip(places, pairs, strict=True) if not _is_pair(pair))
        raise ValueError(
            f"offset_mapping of feature {self.first + r} has {self.rows[r][p]!r} at token {p}; it "
            "must be the characters (start, end), or None outside the context"
        )


def _as_plain_pair(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, Tensor)) else value


def _is_pair(value: Any) -> bool:
    try:
        return len(value) == 2 and np.fromiter(value, np.int64, 2).shape == (2,)
    except (TypeError, ValueError, OverflowError):
        return False


class _ArrowPart:
    """The offsets of some features as an Arrow array of lists of lists, which is not copied."""

    def __init__(self, array: Any) -> None:
        import pyarrow as pa

        if array.null_count:
            raise ValueError("a feature's offset_mapping is missing (null)")
        array = array.cast(pa.list_(pa.list_(pa.int64())))
        self.begin = array.offsets.to_numpy()
        pairs = array.values
        self.pair_begin = pairs.offsets.to_numpy()
        values = pairs.values
        self.value = (values.fill_null(0) if values.null_count else values).to_numpy()
        self.length = np.diff(self.begin).astype(np.int64)
        mine = slice(self.begin[0], self.begin[-1])
        valid = pairs.is_valid().to_numpy(zero_copy_only=False)
        self.inside = (valid & (np.diff(self.pair_begin) == 2))[mine]

    def characters(self, row: Int64, position: Int64) -> Int64:
        pair = self.pair_begin[self.begin[row] + position]
        return np.stack([self.value[pair], self.value[pair + 1]], axis=1)


def _arrow(data: Any, name: str, what: str) -> list[Any]:
    """A data set's column as Arrow arrays, whatever format the data set is set to."""
    if name not in data.column_names:
        raise ValueError(f"the {what}s have no column {name!r}; they have {data.column_names}")
    # A data set, or a table of pyarrow itself.
    table = data
    if hasattr(data, "with_format"):
        table = data.select_columns([name]).with_format("arrow")[:]
    return list(table.column(name).chunks)


def _ranges(inside: npt.NDArray[np.bool_], length: Int64) -> tuple[Int64, dict[int, Int64]]:
    """First and one past the last True of each row, and the positions of the False between them."""
    row_start = np.cumsum(length) - length
    at = np.flatnonzero(inside)
    low, high = np.searchsorted(at, row_start), np.searchsorted(at, row_start + length)
    context = np.zeros((len(length), 2), np.int64)
    (some,) = np.nonzero(low < high)
    context[some, 0] = at[low[some]] - row_start[some]
    context[some, 1] = at[high[some] - 1] + 1 - row_start[some]
    gaps = {}
    for row in np.flatnonzero(context[:, 1] - context[:, 0] != high - low).tolist():
        begin, end = (context[row] + row_start[row]).tolist()
        gaps[row] = np.flatnonzero(~inside[begin:end]) + context[row, 0]
    return context, gaps
