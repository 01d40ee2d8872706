"""Records that are kept out of memory, so that it does not grow with their number."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from operator import itemgetter
from tempfile import SpooledTemporaryFile
from typing import Any, Generic, TypeVar, overload
from weakref import finalize

T = TypeVar("T")

_IN_MEMORY = 8 << 20  # bytes; what is more goes to a temporary file
_BLOCK = 64  # items; a text that several of them share is written once


class _Sequence(Sequence[T], Generic[T]):
    """What sequences have in common whose items are made when they are asked for."""

    def _item(self, index: int) -> T:
        """The item at an index from 0 to the length - 1."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The item at ``index``; a list of those of a slice."""
        places = range(len(self))[index]
        return self._item(places) if isinstance(places, int) else list(map(self._item, places))

    def __iter__(self) -> Iterator[T]:
        """All items."""
        return map(self._item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has equal items."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """As a list shows itself, but not beyond a few items."""
        more = ", ..." if len(self) > 3 else ""
        return f"[{', '.join(map(repr, self[:3]))}{more}]"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as a list."""
        return list, (list(self),)


class Derived(_Sequence[T]):
    """A sequence of N items that are worked out from others.

    Args:
        length: N.
        item: gives an item by its index.

    Example:
        >>> Derived(3, lambda i: i * i)[1:]
        [1, 4]
    """

    def __init__(self, length: int, item: Callable[[int], T]) -> None:
        self._length = length
        self._of = item

    def __len__(self) -> int:
        """How many items there are."""
        return self._length

    def _item(self, index: int) -> T:
        return self._of(index)


class Kept(_Sequence[T]):
    """A sequence that lies in a temporary file once it is large.

    Items are written and read in blocks, and made anew whenever they are asked for: all of them in one
    pass is cheapest.

    Args:
        fields: takes an item apart into a tuple that can be pickled.
        make: puts it together again.

    Example:
        >>> squares = Kept(lambda pair: pair, lambda *pair: pair)
        >>> for n in range(4):
        ...     squares.append((n, n * n))
        >>> squares[2], len(squares), [square for _, square in squares]
        ((2, 4), 4, [0, 1, 4, 9])
    """

    def __init__(self, fields: Callable[[T], tuple[Any, ...]], make: Callable[..., T]) -> None:
        self._fields = fields
        self._make = make
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        finalize(self, self._file.close)
        self._ends = array("Q", [0])  # of the blocks in the file
        self._last: list[tuple[Any, ...]] = []  # the block behind them
        self._read: tuple[int, list[tuple[Any, ...]]] = (-1, [])  # the one that was read last
        self._rows: array[int] | None = None  # those to go on with

    def append(self, item: T) -> None:
        """Add an item."""
        self._last.append(self._fields(item))
        if len(self._last) == _BLOCK:
            data = pickle.dumps(self._last, pickle.HIGHEST_PROTOCOL)
            self._file.seek(self._ends[-1])
            self._file.write(data)
            self._ends.append(self._ends[-1] + len(data))
            self._last = []

    def take(self, rows: Sequence[int]) -> None:
        """Go on with the items at ``rows`` only, in that order; none can be added any more."""
        old = self._rows
        self._rows = array("Q", rows if old is None else [old[row] for row in rows])

    def __len__(self) -> int:
        """How many items there are."""
        if self._rows is not None:
            return len(self._rows)
        return (len(self._ends) - 1) * _BLOCK + len(self._last)

    def __iter__(self) -> Iterator[T]:
        """All items."""
        return starmap(self._make, self._tuples())

    def column(self, place: int) -> Column:
        """What all items have at a place of the tuples that ``fields`` makes."""
        return Column(self, place)

    def _item(self, index: int) -> T:
        return self._make(*self._tuple(index))

    def _tuple(self, index: int) -> tuple[Any, ...]:
        number, place = divmod(index if self._rows is None else self._rows[index], _BLOCK)
        if number == len(self._ends) - 1:
            return self._last[place]
        if number != self._read[0]:
            self._read = number, self._block(number)
        return self._read[1][place]

    def _tuples(self) -> Iterator[tuple[Any, ...]]:
        if self._rows is not None:
            yield from map(self._tuple, range(len(self)))
            return
        number = 0
        while number < len(self._ends) - 1:
            yield from self._block(number)
            number += 1
        yield from self._last

    def _block(self, number: int) -> list[tuple[Any, ...]]:
        begin, end = self._ends[number : number + 2]
        self._file.seek(begin)
        found: list[tuple[Any, ...]] = pickle.loads(self._file.read(end - begin))
        return found


class Column(_Sequence[Any]):
    """What all items of a `Kept` have at one place, read without making the items."""

    def __init__(self, kept: Kept[Any], place: int) -> None:
        self._kept = kept
        self._place = place

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._kept)

    def __iter__(self) -> Iterator[Any]:
        """All of them."""
        return map(itemgetter(self._place), self._kept._tuples())

    def _item(self, index: int) -> Any:
        return self._kept._tuple(index)[self._place]
