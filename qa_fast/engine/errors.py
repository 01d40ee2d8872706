"""What goes wrong with a batch or a model, and warnings that point at the caller's line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

_INSIDE = (__name__.partition(".")[0], "transformers")


def warn_caller(message: str) -> None:
    """Warn at the line that called, outside of this package and of Transformers' pipelines."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level + 1)


class TextProblem(NamedTuple):
    """Why a text cannot be read, worded to follow its name, and what to do; as a text both."""

    reason: str
    remedies: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join([self.reason, *self.remedies])


def text_problem(text: object) -> TextProblem | None:
    """Why ``text`` cannot be tokenized; None where it can."""
    if isinstance(text, (bytes, bytearray)):
        return TextProblem(
            f"must be a string; got {type(text).__name__}",
            ("decode it, as in text.decode('utf-8')",),
        )
    if not isinstance(text, str):
        return TextProblem(f"must be a string; got {_kind(text)}")
    if not text or text.isspace():
        return TextProblem(f"is empty{' but for spaces' if text else ''}", ("give it some text",))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return TextProblem(
                f"is not valid Unicode: character {error.start} is half of a surrogate pair",
                (
                    "mend it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')",
                ),
            )
    return None


def _kind(value: object) -> str:
    """What is no text, in an error: a missing value by itself, all else by its type."""
    missing = value is None or (isinstance(value, float) and value != value)
    if missing or type(value).__name__ in {"NAType", "NaTType"}:
        return f"{value!r}, a missing value"
    return type(value).__name__


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
