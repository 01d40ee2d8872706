"""What is wrong with a text that cannot be tokenized."""

from __future__ import annotations

from typing import NamedTuple


class TextProblem(NamedTuple):
    """Why a text cannot be read, worded to follow its name, and what to do; as a text both."""

    reason: str
    remedies: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join([self.reason, *self.remedies])


def text_problem(text: object) -> TextProblem | None:
    """Why ``text`` cannot be tokenized; None where it can. A problem stands for a text that has it."""
    if isinstance(text, TextProblem):
        return text
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
