"""Errors and notes, in the command line's words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger

import typer

from qa_fast.files.wording import explain

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


def with_option_names(message: str) -> str:
    """``message`` of the library with its arguments named as on the command line."""
    message = message.replace("handle_impossible_answer=True", "--no-answer")
    message = re.sub(r"\b(allow_pickle|trust_remote_code)=True\b", r"\1", message)
    names = "allow_pickle|trust_remote_code|top_k|max_answer_len|max_seq_len|doc_stride"
    names += "|null_threshold|num_shards|shard_index"
    return re.sub(rf"\b({names})\b", lambda name: "--" + name[0].replace("_", "-"), message)


def input_error(error: Exception) -> InputError:
    """The error of the library in the words of the command line."""
    return InputError(with_option_names(explain(error)))


def say(text: str) -> None:
    """Tell the user, on standard error."""
    typer.echo(visible(text), err=True)
