"""Warnings that point at the line of the caller."""

from __future__ import annotations

import sys
import warnings

_INSIDE = (__name__.partition(".")[0], "transformers")


def warn_caller(message: str) -> None:
    """Warn at the line that called, outside of this package and of Transformers' pipelines."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level + 1)
