"""What a model is called with for texts, row by row: to find the ranges of its activations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .chunker import Chunker, default_max_seq_len

CALIBRATION_FILE = Path(__file__).parent / "squad1-train-240" / "questions.jsonl"
CALIBRATION_ROWS = 300
"""Most rows: with more of them ranges hardly change, and each takes time."""


@cache
def shipped_pairs() -> tuple[tuple[str, str], ...]:
    """Questions and contexts that come with the package: 240 of SQuAD's training set, in English."""
    with CALIBRATION_FILE.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple((row["question"], row["context"]) for row in rows)


def calibration_rows(
    tokenizer: Any,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    position_limit: int | None = None,
    vocabulary: int | None = None,
    max_seq_len: int | None = None,
    most: int = CALIBRATION_ROWS,
) -> list[dict[str, npt.NDArray[np.int64]]]:
    """What a model is called with for ``pairs``, cut into chunks as an `Engine` cuts them.

    Args:
        tokenizer: the model's fast tokenizer.
        pairs: questions and contexts; None for `shipped_pairs`. No more than needed are taken.
        position_limit: most tokens that the model can read.
        vocabulary: token ids that it knows; None where that is not known.
        max_seq_len: most tokens in a row; None for what an engine takes.
        most: most rows.

    Returns:
        Per row the int64 arrays "input_ids", "attention_mask" and "token_type_ids", [1, tokens] each.

    Raises:
        ExampleError: a pair that cannot be read.
        ValueError: no pairs.

    Example:
        >>> import qa_fast
        >>> engine = qa_fast.pipeline().engine
        >>> rows = calibration_rows(engine.tokenizer, [("Who wrote it?", "Ada wrote it.")])
        >>> [row["input_ids"].shape for row in rows]
        [(1, 11)]
    """
    chunker = Chunker(tokenizer, vocabulary=vocabulary)
    length = max_seq_len or default_max_seq_len(tokenizer, position_limit)
    found: list[dict[str, npt.NDArray[np.int64]]] = []
    for item, (question, context) in enumerate(shipped_pairs() if pairs is None else pairs):
        chunks, errors = chunker.cut([question], [context], max_seq_len=length, first_item=item)
        if errors:
            raise errors[0]
        places = chunks.places
        for begin, size in zip(chunks.row_offset.tolist(), chunks.length.tolist(), strict=True):
            row = places[None, begin : begin + size]
            ids = chunks.pool[row].astype(np.int64)
            types = chunks.pool_types[row].astype(np.int64)
            found.append(
                {
                    "input_ids": ids,
                    "attention_mask": np.ones_like(ids),
                    "token_type_ids": types,
                }
            )
        if len(found) >= most:
            break
    if not found:
        raise ValueError("to calibrate a model, texts are needed; got none")
    return found[:most]
