"""What a caller may pass as questions and contexts, and the pairs that it means.

All call forms of the pipeline that Transformers removed, with any sequence where it took lists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from .engine import Pair


class Inputs(NamedTuple):
    """The pairs of a call, and in what the caller expects their results.

    Attributes:
        pairs: a list, or an iterator where the caller gave something to stream.
        lone: where there is only one pair: its result is given bare, not in a list.
        length: the number of pairs of a stream, None where it does not tell.
    """

    pairs: list[Pair] | Iterator[Pair]
    lone: bool = False
    length: int | None = None


def read_inputs(positional: tuple[Any, ...], question: Any, context: Any) -> Inputs:
    """Make pairs of a call's arguments.

    A plain list or tuple of one counts as one question, as it always has; a column of a data set
    with one row is still a column.

    Args:
        positional: a question and a context; a dict; an object with ``question_text`` and
            ``context_text``; an iterable of such dicts and objects; or several of them.
        question: the argument of that name: a text, several, or None.
        context: the argument of that name: a text, several, or None.

    Raises:
        ValueError: something else; the message says what was given.
    """
    if not positional:
        return _paired(question, context)
    if question is not None or context is not None:
        raise ValueError("give either question= and context=, or positional inputs, not both")
    if len(positional) == 2 and all(isinstance(text, str) for text in positional):
        return _paired(*positional)
    data = positional[0] if len(positional) == 1 else list(positional)
    if isinstance(data, Mapping) and {"question", "context"} <= data.keys():
        return _paired(data["question"], data["context"])
    if isinstance(data, (str, bytes, Mapping)) or not _is_many(data):
        return Inputs([_pair(data, 0)], lone=True)
    pairs = (_pair(item, i) for i, item in enumerate(_iterate(data)))
    if _is_streamed(data):
        return Inputs(pairs, length=len(data) if hasattr(data, "__len__") else None)
    return Inputs(list(pairs), lone=_is_plain(data))


def _paired(question: Any, context: Any) -> Inputs:
    """Pairs of questions and contexts, each one text or several."""
    for name, value in (("question", question), ("context", context)):
        if value is None:
            raise ValueError(f"{name} is missing: both question= and context= are needed")
        if not isinstance(value, str) and not _is_many(value):
            raise ValueError(
                f"{name} must be a string or a sequence of strings; got {type(value).__name__}"
            )
    lone = all(isinstance(value, str) or _is_plain(value) for value in (question, context))
    if isinstance(question, str):
        contexts = [context] if isinstance(context, str) else _iterate(context)
        return Inputs([(question, text) for text in contexts], lone)
    if isinstance(context, str):
        return Inputs([(text, context) for text in _iterate(question)], lone)
    questions, contexts = list(_iterate(question)), list(_iterate(context))
    if len(questions) != len(contexts):
        raise ValueError(
            f"there are {len(questions)} questions and {len(contexts)} contexts: give as many "
            "of one as of the other, or a single string for one of them"
        )
    return Inputs(list(zip(questions, contexts, strict=True)), lone)


def _pair(item: Any, number: int) -> Pair:
    """The pair in a dict or an object like Transformers' SquadExample."""
    if isinstance(item, Mapping):
        missing = [key for key in ("question", "context") if item.get(key) is None]
        if missing:
            raise ValueError(
                f"input {number} has no {' and no '.join(missing)}; it has {list(item)}"
            )
        return item["question"], item["context"]
    if hasattr(item, "question_text") and hasattr(item, "context_text"):
        return item.question_text, item.context_text
    raise ValueError(
        f"input {number} is of type {type(item).__name__}; each must be a dict with the keys "
        "question and context, or an object with question_text and context_text"
    )


def _is_plain(data: Any) -> bool:
    return type(data) in (list, tuple)


def _is_many(data: Any) -> bool:
    """Whether ``data`` can be gone through; some data sets only have a length and items."""
    return hasattr(data, "__iter__") or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _is_streamed(data: Any) -> bool:
    """Whether ``data`` may be too much for memory: iterators and data sets."""
    streamed: tuple[type, ...] = (Iterator, torch.utils.data.Dataset)
    if "datasets" in sys.modules:  # else it cannot be one of that library's
        datasets = sys.modules["datasets"]
        streamed += (datasets.Dataset, datasets.IterableDataset)
    return isinstance(data, streamed)


def _iterate(data: Any) -> Iterable[Any]:
    if hasattr(data, "__iter__"):
        return iter(data)
    return (data[i] for i in range(len(data)))
