"""Errors and values in one line of an error message."""

from __future__ import annotations

import errno
import os
from reprlib import Repr

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: where it needs a folder there is a file",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "name another, or remove it",
    errno.EACCES: "give this user the right to it, or name another",
    errno.EPERM: "give this user the right to it, or name another",
    errno.EROFS: "name an output in a place that can be written to",
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room, then run the same command again",
    errno.EFBIG: "allow larger files (ulimit -f), then run the same command again",
    errno.ENAMETOOLONG: "check the path",
}
# Of a long or deeply nested value only the beginning is looked at.
_BRIEF = Repr()
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxdict, _BRIEF.maxstring = 3, 20, 20, 60


def explain(error: Exception) -> str:
    """What went wrong and what to do, in a sentence: of an `OSError` its file first.

    Example:
        >>> explain(FileNotFoundError(2, "No such file or directory", "dev.json"))
        'dev.json: no such file or directory: check the path'
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    reason = error.strerror[:1].lower() + error.strerror[1:]
    parts = [os.fsdecode(error.filename) if error.filename is not None else "", reason]
    return ": ".join(filter(None, [*parts, _REMEDIES.get(error.errno or 0, "")]))


def brief(value: object) -> str:
    """``value`` as Python writes it; of a long or deeply nested one only the beginning."""
    return _BRIEF.repr(value)


def shown(value: object) -> str:
    """The type and the value, short, for an error message."""
    text = brief(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
