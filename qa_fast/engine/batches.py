"""Which chunks the model reads together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

# torch.compile makes code for at most 8 shapes of a function (torch._dynamo.config.recompile_limit).
BUCKETS = 8


class Batch(NamedTuple):
    """Chunks that the model reads together.

    Attributes:
        chunks: their numbers.
        rows: rows of the batch; those after the chunks are padding.
        width: tokens in a row.
    """

    chunks: npt.NDArray[np.int64]
    rows: int
    width: int


def plan_batches(
    length: npt.NDArray[np.int32],
    max_tokens: int,
    batch_size: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    step: int = 1,
    most: int | None = None,
    equal_lengths: bool = False,
) -> list[Batch]:
    """Cut chunks into batches of similar lengths, longest first.

    Args:
        length: [C] tokens per chunk.
        max_tokens: most tokens in a batch after padding. A chunk that is longer by itself still
            makes a batch, of one.
        batch_size: most chunks in a batch; None for no such limit.
        widths: the only row widths to use, ascending; then all batches of one width have the same
            number of rows too, the last one's filled up with padding. None: each batch is as wide
            as its longest chunk, or up to the next multiple of ``step``, but no wider than ``most``.
        step: see ``widths``.
        most: likewise; no chunk is longer. None for no such limit.
        equal_lengths: no padding: a batch's chunks are all of one length; ``widths`` and ``step`` do
            not count.

    Returns:
        Batches that together hold every chunk once.

    Example:
        >>> plan = plan_batches(np.array([3, 9, 4, 8], np.int32), 18)
        >>> [(batch.chunks.tolist(), batch.width) for batch in plan]
        [([1, 3], 9), ([2, 0], 4)]
    """
    if equal_lengths:
        widths, step = None, 1
    order = np.argsort(-length, kind="stable")
    batches, done = [], 0
    while done < len(order):
        width = int(length[order[done]])
        if widths is not None:
            width = next(w for w in widths if w >= width)
        else:
            width = -(-width // step) * step
            width = width if most is None else min(width, most)
        rows = max(1, max_tokens // width)
        rows = min(rows, batch_size or rows)
        chunks = order[done : done + rows]
        if equal_lengths:
            chunks = chunks[length[chunks] == width]
        if widths is None:
            rows = len(chunks)
        else:
            shorter = [w for w in widths if w < width]
            chunks = chunks[length[chunks] > (shorter[-1] if shorter else 0)]
        batches.append(Batch(chunks, rows, width))
        done += len(chunks)
    return batches


def bucket_widths(max_seq_len: int) -> list[int]:
    """At most 8 row widths up to ``max_seq_len``, evenly spread: multiples of 8 but for the last."""
    step = -(-max_seq_len // (8 * BUCKETS)) * 8
    return [*range(step, max_seq_len, step), max_seq_len]


@dataclass(frozen=True, slots=True)
class Plan:
    """A window of C chunks, laid out in batches of P tokens in all.

    Attributes:
        batches: the batches, one after the other in the buffers.
        length: [C] int32 tokens in each chunk.
        row_offset: [C] int64 index of each chunk's first token in the buffers.
        buffers: the model's arguments: [P] int64 host tensors, by name.
    """

    batches: list[Batch]
    length: npt.NDArray[np.int32]
    row_offset: npt.NDArray[np.int64]
    buffers: dict[str, Tensor]

    @property
    def padded_tokens(self) -> int:
        """P."""
        return sum(batch.rows * batch.width for batch in self.batches)
