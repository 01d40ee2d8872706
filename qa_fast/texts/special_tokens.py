"""Where a tokenizer puts special tokens around and between two texts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .chunks import Int32


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tokenizer puts special tokens around and between two texts.

    ``special_ids`` and ``special_types`` have three items: before the first text, between the two,
    after the second. ``null`` is the place of [CLS] as (which of the three, index in it).
    """

    question_first: bool
    special_ids: tuple[Int32, ...]
    special_types: tuple[Int32, ...]
    question_type: int
    context_type: int
    null: tuple[int, int] | None

    @property
    def special_count(self) -> int:
        """How many there are."""
        return sum(map(len, self.special_ids))

    @classmethod
    def of(cls, tokenizer: Any, backend: Any) -> Layout:
        """Read the layout off a pair of two copies of a text that has tokens."""
        # Any text will do; these are tokens of every tokenizer but the oddest.
        texts = ("a", "1", "the", *tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
        text = next(t for t in texts if _has_tokens(backend, t))
        pair = backend.encode(text, text)
        ids, types = np.asarray(pair.ids, np.int32), np.asarray(pair.type_ids, np.int32)
        # -1 for special tokens: they belong to neither text, even where a text spells one out.
        sequence = np.array([-1 if s is None else s for s in pair.sequence_ids])
        (first,), (second,) = np.nonzero(sequence == 0), np.nonzero(sequence == 1)
        cuts = [first[0], first[-1] + 1, second[0], second[-1] + 1]
        gaps = (slice(0, cuts[0]), slice(cuts[1], cuts[2]), slice(cuts[3], None))
        question_first = tokenizer.padding_side == "right"
        question, context = (first[0], second[0]) if question_first else (second[0], first[0])
        null = [
            (gap, int(place))
            for gap, where in enumerate(gaps)
            for place in np.flatnonzero(ids[where] == tokenizer.cls_token_id)
        ]
        return cls(
            question_first=question_first,
            special_ids=tuple(ids[where] for where in gaps),
            special_types=tuple(types[where] for where in gaps),
            question_type=int(types[question]),
            context_type=int(types[context]),
            null=null[0] if null else None,
        )


def _has_tokens(backend: Any, text: str) -> bool:
    try:
        return len(backend.encode(text, add_special_tokens=False)) > 0
    except Exception:  # of a tokenizer without a token for what it does not know
        return False


def rust_tokenizer(tokenizer: Any) -> Any:
    """A copy of the Rust tokenizer that neither truncates nor pads."""
    if isinstance(tokenizer, type):
        raise ValueError(
            f"tokenizer must be an instance; got the class {tokenizer.__name__}: pass "
            f"{tokenizer.__name__}.from_pretrained(...)"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, and only fast ones know which "
            "characters a token stands for; load it with AutoTokenizer.from_pretrained(..., "
            "use_fast=True), or take a model that has one (a tokenizer.json)"
        )
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend
