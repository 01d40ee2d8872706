"""What the commands share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


class InputError(Exception):
    """What the user gave cannot be used; the message names it and the remedy."""


@contextmanager
def quiet() -> Iterator[None]:
    """Loads and runs a model without the progress bars and advice of the libraries underneath.

    A download from the hub still shows its own progress.
    """
    from transformers.utils import logging

    getLogger("huggingface_hub").setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        for library in ("transformers", "huggingface_hub", "torch"):
            warnings.filterwarnings("ignore", module=rf"{library}\b")
        yield
