"""JSON and JSONL that others wrote: parsed, or refused in an error that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .kinds import not_data, not_text
from .reading import open_file

_BOM = b"\xef\xbb\xbf"


def parse_json(data: bytes, *, unique: bool = False) -> Any:
    """The value that ``data`` holds in JSON.

    Args:
        data: UTF-8, with or without a byte order mark.
        unique: whether a key that an object has twice is an error; else its last value counts.

    Raises:
        ValueError: no JSON, or nested too deep to be read.
    """
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise ValueError(not_data(data) or not_utf8(data, error.start)) from None
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deep") from None
    except json.JSONDecodeError:
        if (problem := not_data(data)) is None:
            raise
        raise ValueError(problem) from None


def not_utf8(data: bytes, start: int) -> str:
    """What is wrong with ``data``, of which the byte at ``start`` is the first that is not UTF-8."""
    return not_text(data) or (
        f"not UTF-8 text (byte 0x{data[start]:02x} at byte offset {start}): convert it to UTF-8 "
        "first, for example with iconv"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def read_json(path: Path, *, unique: bool = False) -> Any:
    """The JSON value of a file; ``unique`` as for `parse_json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON; the message names it.
    """
    with open_file(path) as file:
        data = file.read()
    try:
        return parse_json(data, unique=unique)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def first_line(file: BinaryIO) -> tuple[int, bytes]:
    """The number of blank lines at the beginning, and the line after them, without a BOM."""
    for number, line in enumerate(file):
        line = line.removeprefix(_BOM)
        if line.strip():
            return number, line
    return 0, b""


def chain_line(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """The line that was read to look at it, and the lines after it."""
    yield first
    yield from rest


def begins_json_lines(line: bytes) -> bool:
    """Whether ``line`` is an object by itself, and not a whole SQuAD file."""
    try:
        value = parse_json(line)
    except ValueError:
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)
