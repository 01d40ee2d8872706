"""How far a run is, told while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def reporting(
    progress: bool | Callable[[int], object], total: int | None = None, done: int = 0
) -> Iterator[Callable[[int], object]]:
    """A function to call with every number of rows that were done.

    Args:
        progress: as in `predict`.
        total: the rows of all, where that is known.
        done: those of them that were done before.
    """
    if callable(progress):
        yield progress
        return
    # In a log, where lines cannot be drawn over, there is one a minute.
    slow = {} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60, "delay": 60}
    with tqdm(total=total, initial=done, unit=" questions", disable=not progress, **slow) as bar:
        yield bar.update
