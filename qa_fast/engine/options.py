"""What a caller can ask for when questions are read, checked."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import get_args

import numpy as np

from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.decoding.search import Scoring


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller can ask for; every field is checked.

    Attributes:
        top_k: most answers per question; None for all.
        max_answer_len: most tokens in an answer; None for no limit.
        max_seq_len: most tokens in a chunk; None for 384, or the model's limit where that is less.
        doc_stride: context tokens that consecutive chunks share; None for
            ``min(max_seq_len // 2, 128)``.
        max_question_len: cut questions to that many tokens; None never cuts one.
        handle_impossible_answer: let the null answer (``""``) compete. Its score is the [CLS]
            token's, so with a tokenizer that adds none there is no null answer.
        align_to_words: widen answers to whole words.
        scoring: "probability": each chunk by itself, answers with the same text merged, as in
            Transformers' pipeline; "shared": probabilities that compare across chunks; "logit":
            sums of start and end logit.
        spans_per_chunk: with "logit", look at that many spans of each chunk, so that the best chunk
            cannot crowd out the others; None looks at the best spans of the whole context.
    """

    top_k: int | None = 1
    max_answer_len: int | None = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    max_question_len: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    scoring: Scoring = "probability"
    spans_per_chunk: int | None = None

    @property
    def decodes_chunks(self) -> bool:
        """Whether spans are those of each chunk by itself, not of the whole context."""
        return self.scoring == "probability" or self.spans_per_chunk is not None

    def __post_init__(self) -> None:
        for name, least in (
            ("top_k", 1),
            ("max_answer_len", 1),
            ("max_seq_len", 1),
            ("doc_stride", 0),
            ("max_question_len", 1),
            ("spans_per_chunk", 1),
        ):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        for name in ("handle_impossible_answer", "align_to_words"):
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))
        if not isinstance(self.scoring, str) or self.scoring not in get_args(Scoring):
            names = ", ".join(map(repr, get_args(Scoring)))
            raise ArgumentError(
                Argument("scoring"), f" must be one of {names}; got {self.scoring!r}"
            )
        if self.spans_per_chunk is not None and self.scoring != "logit":
            raise ArgumentError(
                Argument("spans_per_chunk"),
                " goes with ",
                Argument("scoring", "logit"),
                " only; got ",
                Argument("scoring", self.scoring),
            )


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise a ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        message = f" must be an integer of at least {least}; got {value!r}"
        raise ArgumentError(Argument(name), message)


def check_flag(name: str, value: object) -> bool:
    """``value`` as a bool; a ValueError unless it is one, or 0 or 1, which were always taken for one.

    What Python counts as true is not asked: ``"False"`` is.
    """
    if not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (0, 1):
        raise ArgumentError(Argument(name), f" must be True or False; got {value!r}")
    return bool(value)


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number: no text, no bool, not NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value
