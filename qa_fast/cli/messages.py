"""Errors and notes, in the command line's words."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path

import typer

from qa_fast.data.errors import Argument, OneOf, Words, parts_of

from .terminal import visible


class InputError(Exception):
    """What the user gave cannot be used; the message names it and the remedy."""


@contextmanager
def quiet() -> Iterator[None]:
    """Loads and runs a model without the progress bars and advice of the libraries underneath.

    A download from the hub still shows its own progress. Other warnings are a line each.
    """
    from transformers.utils import logging

    getLogger("huggingface_hub").setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"qa-fast: warning: {message}")
        for library in ("transformers", "huggingface_hub", "torch"):
            warnings.filterwarnings("ignore", module=rf"{library}\b")
        yield


def input_error(error: Exception, command: Callable[..., None]) -> InputError:
    """The library's error in the words of the command line.

    Args:
        error: the error.
        command: the command that runs: its parameters are the options that there are.
    """
    return InputError(in_options(parts_of(error), command))


def in_options(parts: Words, command: Callable[..., None]) -> str:
    """A message in which arguments are named as options of ``command``, where they are.

    Of several ways out only those are told that these options give.
    """
    known = inspect.signature(command).parameters

    def is_known(part: object) -> bool:
        return not isinstance(part, Argument) or _option_of(part) in known

    def told(part: str | Argument | OneOf) -> str:
        if isinstance(part, OneOf):
            ways = [way for way in part.ways if all(map(is_known, way))]
            return part.told(["".join(map(told, way)) for way in ways])
        if isinstance(part, str) or not is_known(part):
            return str(part)
        name = "--" + _option_of(part).replace("_", "-")
        return name if part.value in (None, True) else f"{name} {part.value}"

    return "".join(map(told, parts))


def _option_of(argument: Argument) -> str:
    """The name of the parameter that a command has for ``argument``."""
    return "no_answer" if argument.name == "handle_impossible_answer" else argument.name


def check_writable(file: Path) -> None:
    """Raise an `InputError` where ``file`` could not be written: told before the work."""
    folder = file.resolve().parent
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise InputError(
            f"{file}: cannot be written: its folder {folder} is not there, or this user has no right to "
            "write to it"
        )


def say(text: str) -> None:
    """Tell the user, on standard error."""
    typer.echo(visible(text), err=True)
