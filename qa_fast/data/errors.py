"""Errors that carry their parts, so that each surface can tell them in its own words.

An error that names an argument holds the name apart from the rest of its message: in Python it is
``max_seq_len``, on the command line ``--max-seq-len``. One about a text of many holds which one it is:
in a call the third question, in a file the question of line 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from qa_fast.files.wording import explain


class Argument(NamedTuple):
    """An argument in a message; as a text as Python spells it: ``top_k``, or ``top_k=5`` with a value.

    Attributes:
        name: its name.
        value: what it was given, or should be; None for the name alone.
        spelled: how Python spells it where not so.
    """

    name: str
    value: object = None
    spelled: str = ""

    def __str__(self) -> str:
        return self.spelled or (self.name if self.value is None else f"{self.name}={self.value!r}")


class OneOf(NamedTuple):
    """Ways out of a trouble: one of them is enough. A surface tells those that it has, or nothing.

    Attributes:
        ways: the ways, each in parts.
        before: what stands before them in the message.
        after: what stands behind them.
    """

    ways: tuple[Words, ...]
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return self.told(["".join(map(str, way)) for way in self.ways])

    def told(self, ways: Sequence[str]) -> str:
        """The text with ``ways`` in a surface's own words: "a, b, or c"; "" where it has none."""
        joined = ", or ".join(filter(None, [", ".join(ways[:-1]), *ways[-1:]]))
        return self.before + joined + self.after if ways else ""


Words = Sequence[str | Argument | OneOf]
"""A message in parts."""


class ArgumentError(ValueError):
    """A ValueError whose message may name arguments.

    Args:
        *parts: the message in parts.

    Attributes:
        parts: the same.

    Example:
        >>> error = ArgumentError(Argument("top_k"), " must be an integer of at least 1; got 0")
        >>> str(error), error.parts[0].name
        ('top_k must be an integer of at least 1; got 0', 'top_k')
    """

    def __init__(self, *parts: str | Argument | OneOf) -> None:
        super().__init__("".join(map(str, parts)))
        self.parts: Words = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.parts)


class ExampleError(ValueError):
    """An example that cannot be answered; the message says which one and why.

    Attributes:
        item: the example's number in the stream, from 0.
        text: what to call the text that is to blame: "question" or "context".
        reason: what is wrong with it, in parts, worded to follow its name.
        remedies: what can be done about it, each in parts: one of them is enough.
        quote: the text's beginning, where it helps to find it.

    Example:
        >>> error = ExampleError(3, "context", "is empty", ["give it some text"])
        >>> str(error), "".join(map(str, error.about("dev.json line 4")))
        ('context 3 is empty; give it some text', 'dev.json line 4 is empty; give it some text')
    """

    def __init__(
        self,
        item: int,
        text: str,
        reason: str | Words,
        remedies: Sequence[str | Words] = (),
        quote: str = "",
    ) -> None:
        self.item = item
        self.text = text
        self.reason = _in_parts(reason)
        self.remedies = tuple(_in_parts(remedy) for remedy in remedies)
        self.quote = quote
        super().__init__("".join(map(str, self.about(f"{text} {item}"))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.item, self.text, self.reason, self.remedies, self.quote)

    def about(self, name: str) -> Words:
        """The message in parts, with the text called ``name``."""
        quote = f" ({self.quote!r})" if self.quote else ""
        return f"{name}{quote} ", *self.reason, OneOf(self.remedies, before="; ")


def _in_parts(message: str | Words) -> Words:
    return (message,) if isinstance(message, str) else tuple(message)


def parts_of(error: Exception) -> Words:
    """The message of any error, in parts; of an OSError in a sentence with its file and what to do."""
    if isinstance(error, ExampleError):
        return error.about(f"{error.text} {error.item}")
    if isinstance(error, ArgumentError):
        return error.parts
    # Of a model that cannot be loaded; its room knows none of this.
    reason: Any = getattr(error, "reason", None)
    if permission := getattr(reason, "permission", ""):
        return reason.before, Argument(permission, True), reason.after
    return (explain(error),)
