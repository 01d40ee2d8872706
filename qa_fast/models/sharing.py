"""Which rows may share a batch, so that none changes the logits of another.

Rows of a batch are filled up to one width with padding, which a mask is to hide. Of most architectures
of Transformers it is known that nothing reads it; any other model is tried with a few rows.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .traits import is_block_sparse, unwrapped

# fmt: off
MASKS_PADDING = {
    "albert", "arcee", "bart", "bert", "big_bird", "bloom", "camembert", "data2vec", "deberta",
    "deberta_v2", "diffllama", "distilbert", "electra", "ernie", "exaone4", "falcon", "flaubert",
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "ibert", "layoutlmv3", "led", "lilt", "llama",
    "longformer", "luke", "markuplm", "mbart", "megatron_bert", "minimax", "ministral",
    "ministral3", "mistral", "mixtral", "modernbert", "mpnet", "mpt", "mt5", "mvp", "nemotron",
    "opt", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "rembert", "roberta",
    "roberta_prelayernorm", "roc_bert", "roformer", "seed_oss", "smollm3", "splinter",
    "squeezebert", "t5", "umt5", "xlm", "xlm_roberta", "xlm_roberta_xl", "xlnet", "xmod",
}
# fmt: on
"""Packages of transformers.models in which nothing reads the padding behind a row.

Tests hold each of them against rows read alone. A model that is not of them is tried when it is used.
"""

# The kinds of attention that the tests run; any function can be registered under another name.
_TESTED_ATTENTION = (None, "eager", "sdpa")
_PLAIN_MODULES = ("torch.nn.modules.", "transformers.")
# What padding may change in logits, of the range that they take in a row; but at least a few roundings.
LEAK = 1e-4

Row = npt.NDArray[np.int64]
"""The indices of a row's tokens."""


def masks_padding(model: Any) -> bool:
    """Whether ``model`` is known to give a row the same logits with padding behind it.

    What counts is where its class is from, and those of its parts, not the name in its configuration:
    code that comes with a checkpoint, subclasses and quantized layers may do anything.
    """
    model = unwrapped(model)
    parts = type(model).__module__.split(".")
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return (
        parts[:2] == ["transformers", "models"]
        and parts[2] in MASKS_PADDING
        and attention in _TESTED_ATTENTION
        and not is_block_sparse(model)
        and all(type(module).__module__.startswith(_PLAIN_MODULES) for module in model.modules())
        and all(type(weight) is torch.nn.Parameter for weight in model.parameters())
    )


class Read(Protocol):
    """Reads batches with the model: the logits [rows, width, 2] of each.

    A batch of several rows is ``width`` wide, one of a row as wide as that. None where the model fails.
    """

    def __call__(self, *batches: list[Row], width: int) -> list[Tensor] | None: ...  # noqa: D102


class Sharing:
    """Which rows may share a batch with a model, as far as that is known or was tried by now.

    Args:
        name: the model's, for errors.
        equal_lengths: only rows of one length may.
        masks_padding: padding is known to change nothing; see `masks_padding`.
        precision: the distance from 1 to the next number of the type that the model computes in.

    Attributes:
        equal_lengths: only rows of one length.
    """

    def __init__(
        self, name: str, *, equal_lengths: bool, masks_padding: bool, precision: float
    ) -> None:
        self.equal_lengths = equal_lengths
        self._name = name
        self._precision = precision
        # Tokens in the widest rows in which padding is known to change nothing.
        self._masked_to = float("inf") if masks_padding else 0
        # Whether rows of a batch leave each other alone; None where that has not been tried yet.
        self._apart = True if equal_lengths or masks_padding else None

    def keep_apart(self) -> None:
        """Let no two rows share a batch: of the model it is known that they would change each other."""
        self.equal_lengths, self._apart = True, False

    def masks_padding(
        self, width: int, most: int, row_offset: Row, length: npt.NDArray[np.int32], read: Read
    ) -> bool:
        """Whether padding in rows of ``width`` tokens changes no logits, as far as a trial shows.

        A few rows are read alone, and padded in one batch; see `_trial_rows`. What the trial shows holds
        for rows up to a power of two wide.

        Args:
            width: tokens in the widest row with padding; 0 where there is none.
            most: most tokens that a row can have.
            row_offset: [C] index of each chunk's first token.
            length: [C] tokens in each chunk.
            read: runs the model.

        Raises:
            ValueError: the same row alone has other logits each time.
        """
        if self.equal_lengths or width <= self._masked_to:
            return True
        width = min(most, 1 << (width - 1).bit_length())
        rows = _trial_rows(row_offset, length)
        found = read(*([row] for row in rows), rows, rows[:1], width=width)
        if found is None:
            return False
        *alone, together, again = found
        noise = self._noise(together)
        if difference(alone[0][0], again[0]) > noise:
            raise ValueError(
                f"{self._name} cannot be used: each time it reads the same tokens, it "
                "gives other logits, so the same question would get different answers; is there "
                "dropout in it, or hashing by random numbers?"
            )
        masked = all(
            difference(row[0], padded_row[: row.shape[1]]) <= noise
            for row, padded_row in zip(alone, together, strict=True)
        )
        if masked:
            self._masked_to = width
            self._apart = True
        else:
            self.equal_lengths = True
        return masked

    def keeps_rows_apart(self, row_offset: Row, length: npt.NDArray[np.int32], read: Read) -> bool:
        """Whether rows of one length leave each other alone in a batch, as far as a trial shows.

        They do not where numbers are scaled by the greatest of the whole batch, as dynamic quantization
        does. The arguments are those of `masks_padding`.
        """
        if self._apart is None:
            row = _trial_rows(row_offset, length)[0]
            rows = [row, np.r_[row[-2::-1], row[-1:]]]
            found = read(*([row] for row in rows), rows, width=len(row))
            if found is None:
                return True
            *alone, together = found
            noise = self._noise(together)
            self._apart = all(
                difference(a[0], b) <= noise for a, b in zip(alone, together, strict=True)
            )
        return self._apart

    def _noise(self, logits: Tensor) -> float:
        """What another way to compute them may change in ``logits``; see `difference`."""
        return max(LEAK, 4 * self._precision, 4 * torch.finfo(logits.dtype).eps)


def _trial_rows(row_offset: Row, length: npt.NDArray[np.int32]) -> list[Row]:
    """Rows to try a model with.

    The longest chunk without one and without two of its tokens, as a model may read tokens in groups; a
    half and a third of it, as what attends to what may depend on the number of groups; and the shortest
    chunk.
    """
    longest, shortest = int(length.argmax()), int(length.argmin())
    begin, size = int(row_offset[longest]), int(length[longest])
    sizes = {max(1, n) for n in (size - 1, size - 2, size // 2, size // 3)}
    return [
        # The last token stays, as one that the model may look for.
        *(np.r_[begin : begin + n - 1, begin + size - 1] for n in sorted(sizes, reverse=True)),
        row_offset[shortest] + np.arange(length[shortest]),
    ]


def difference(logits: Tensor, others: Tensor) -> float:
    """How far logits [N, 2] lie from ``others`` at most, in parts of the range that they take.

    Infinity where they are not finite at the same tokens.
    """
    found = 0.0
    for a, b in zip(logits.float().unbind(-1), others.float().unbind(-1), strict=True):
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()):
            return float("inf")
        a, b = a[finite], b[finite]
        if not torch.equal(a, b):
            found = max(found, float((a - b).abs().max() / (a.max() - a.min())))
    return found
