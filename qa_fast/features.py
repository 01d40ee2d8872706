"""Rows as Transformers' run_qa example makes them: columns, and the offsets of a feature's tokens.

A *feature* is what the example calls a chunk. Its ``offset_mapping`` has an entry per token: the
characters (start, end) that it stands for, or None outside the context. Data are a
`datasets.Dataset`, a sequence of dicts or a dict of columns; a data set's offsets are read where
they lie in its Arrow table, without a Python object per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Int64 = npt.NDArray[np.int64]

BLOCK = 1000
"""Features whose tokens are looked at together."""


def column(data: Any, name: str, what: str) -> list[Any]:
    """The values of a column as Python objects.

    Args:
        data: a `datasets.Dataset`, a sequence of dicts or a dict of columns.
        name: the column's.
        what: what a row is called in an error message.

    Raises:
        ValueError: a row without it, or data in another form.
    """
    if isinstance(data, Mapping):
        if name not in data:
            raise ValueError(f"the {what}s have no column {name!r}; they have {list(data)}")
        return list(data[name])
    if isinstance(data, (str, bytes)) or not hasattr(data, "__len__"):
        raise ValueError(
            f"{what}s must be a datasets.Dataset, a sequence of dicts or a dict of columns; "
            f"got {type(data).__name__}"
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


def optional_column(data: Any, name: str, what: str) -> list[Any] | None:
    """As [`column`][qa_fast.features.column]; None where no row has it, None for a row without."""
    if isinstance(data, Mapping) or hasattr(data, "column_names"):
        there = name in (data if isinstance(data, Mapping) else data.column_names)
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
            start (third argument 0) or end (1), [n].
    """

    context: Int64
    gaps: dict[int, Int64]
    characters: Callable[[Int64, Int64, int], Int64]

    @classmethod
    def of(cls, features: Any) -> Offsets:
        """Read the column ``offset_mapping``."""
        name = "offset_mapping"
        if hasattr(features, "column_names"):
            parts: list[Any] = [_ArrowPart(part) for part in _arrow(features, name, "feature")]
        else:
            rows = column(features, name, "feature")
            for i, row in enumerate(rows):
                if isinstance(row, (np.ndarray, Tensor)) or not isinstance(row, Sequence):
                    raise ValueError(
                        f"offset_mapping of feature {i} is of type {type(row).__name__}; it must be "
                        "a list, with None outside the context"
                    )
            parts = [_ListPart(rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)]
        first = np.cumsum([0, *(len(part.length) for part in parts)])
        contexts, gaps = [np.empty((0, 2), np.int64)], {}
        for part, begin in zip(parts, first.tolist(), strict=False):
            context, inner = _ranges(part.inside, part.length)
            contexts.append(context)
            gaps.update({begin + row: where for row, where in inner.items()})

        def characters(row: Int64, position: Int64, side: int) -> Int64:
            found = np.empty(len(row), np.int64)
            owner = np.searchsorted(first, row, side="right") - 1
            for number in np.unique(owner).tolist():
                mine = owner == number
                local = row[mine] - first[number]
                found[mine] = parts[number].characters(local, position[mine], side)
            return found

        return cls(np.concatenate(contexts), gaps, characters)


class _ListPart:
    """The offsets of some features as Python lists of pairs and None."""

    def __init__(self, rows: list[Sequence[Any]]) -> None:
        self.rows = rows
        self.length = np.array([len(row) for row in rows], np.int64)
        # Neither None nor an empty list, which some data sets' None has become.
        self.inside = np.frombuffer(b"".join(bytes(map(bool, row)) for row in rows), np.bool_)

    def characters(self, row: Int64, position: Int64, side: int) -> Int64:
        places = zip(row.tolist(), position.tolist(), strict=True)
        return np.array([self.rows[r][p][side] for r, p in places], np.int64)


class _ArrowPart:
    """The same from an Arrow array of lists of lists, without copying it."""

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

    def characters(self, row: Int64, position: Int64, side: int) -> Int64:
        return self.value[self.pair_begin[self.begin[row] + position] + side]


def _arrow(data: Any, name: str, what: str) -> list[Any]:
    """A data set's column as Arrow arrays, whatever format the data set is set to."""
    if name not in data.column_names:
        raise ValueError(f"the {what}s have no column {name!r}; they have {data.column_names}")
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
