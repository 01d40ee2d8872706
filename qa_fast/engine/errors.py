"""What goes wrong with a batch or a model, and warnings that point at the caller's line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

_INSIDE = (__name__.partition(".")[0], "transformers")


def warn_caller(message: str) -> None:
    """Warn at the line that called, outside of this package and of Transformers' pipelines."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level + 1)


class ModelError(ValueError):
    """The model failed, and not at single questions only; the message names those it was reading.

    ``__cause__`` is what the model raised.
    """


def raised_by(model: Any, error: Exception) -> str:
    """What ``model`` raised, in one line."""
    text = " ".join(str(error).split())
    return f"{type(model).__name__} raised {type(error).__name__}{': ' if text else ''}{text[:500]}"


def numbers_in_words(items: Sequence[int]) -> str:
    """Ascending numbers of questions: "questions 3, 5 to 9"."""
    known = set(items)
    starts = [i for i in items if i - 1 not in known]
    ends = [i for i in items if i + 1 not in known]
    ranges = [f"{i}" if i == j else f"{i} to {j}" for i, j in zip(starts, ends, strict=True)]
    more = f" and {len(ranges) - 8} more ranges" if len(ranges) > 8 else ""
    return f"question{'s' if len(items) > 1 else ''} {', '.join(ranges[:8])}{more}"


class BatchError(RuntimeError):
    """The model failed at a batch of a plan, for no reason that lies in single chunks.

    Attributes:
        chunks: the batch's chunks.
        error: what the model raised.
    """

    def __init__(self, chunks: list[int], error: Exception) -> None:
        super().__init__(chunks, error)
        self.chunks = chunks
        self.error = error


class OutOfMemory(Exception):
    """A batch does not fit into the memory of the device. What the device said is not kept."""
