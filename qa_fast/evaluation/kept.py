"""Records that are kept out of memory, so that it does not grow with their number."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any, Generic, TypeVar, overload
from weakref import finalize

T = TypeVar("T")

_IN_MEMORY = 16 << 20  # bytes; what is more goes to a temporary file


class Kept(Sequence[T], Generic[T]):
    """A sequence that lies in a temporary file once it is large; it can only grow.

    Items are made anew whenever they are asked for; all of them in one pass is cheapest.

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
        self._ends = array("Q", [0])
        self._at = 0  # in the file: a call to seek costs a system call

    def append(self, item: T) -> None:
        """Add an item."""
        data = pickle.dumps(self._fields(item), pickle.HIGHEST_PROTOCOL)
        self._go_to(end := self._ends[-1])
        self._at += self._file.write(data)
        self._ends.append(end + len(data))

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The item at ``index``; a list of those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[T]:
        """All items."""
        return map(self._read, range(len(self)))

    def _read(self, index: int) -> T:
        begin, end = self._ends[index : index + 2]
        self._go_to(begin)
        data = self._file.read(end - begin)
        self._at = end
        return self._make(*pickle.loads(data))

    def _go_to(self, place: int) -> None:
        if self._at != place:
            self._file.seek(place)
            self._at = place

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
