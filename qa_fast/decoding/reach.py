"""How far the kernels have to reach: the longest row and the most chunks of a question."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import is_capturing

# Tokens of a row that the kernels take at once, and those that they do with short spans; longer rows are
# cut into tiles.
ONE_TILE, LARGEST_TILE = 512, 1024


def longest_row(
    logits: Tensor,
    context: Tensor | None,
    null_position: int | Tensor,
    max_seq_len: int | None,
) -> int:
    """Most tokens in a row: N, or of flat logits what their contexts and null positions say.

    These are read where they lie on the host, or where there is no ``max_seq_len`` to take instead.

    Raises:
        ValueError: they would have to be read back from a GPU while it captures a CUDA graph.
    """
    if context is None or logits.ndim == 2:
        return logits.shape[1]
    on_host = context.is_cpu and (isinstance(null_position, int) or null_position.is_cpu)
    if max_seq_len is not None and (max_seq_len <= ONE_TILE or not on_host):
        return max_seq_len
    if max_seq_len is None and is_capturing(logits.device):
        raise ValueError("max_seq_len must be given with flat logits in a CUDA graph")
    null = null_position if isinstance(null_position, int) else int(null_position.max())
    longest = max(int(context[:, 1].max()), null + 1)
    if max_seq_len is None:
        return longest
    # So many tiles as there are, but one kernel more at most.
    if longest <= ONE_TILE:
        return ONE_TILE
    if max_seq_len > LARGEST_TILE:
        return min(max_seq_len, max(longest, LARGEST_TILE + 1))
    return max_seq_len


def most_chunks(question_id: Tensor | None, num_questions: int | None) -> int:
    """Most chunks in a question; of ids on a GPU, whose number of questions is given, a bound."""
    if question_id is None:
        return 1
    if num_questions is None or question_id.is_cpu:
        return int(torch.bincount(question_id).max())
    return len(question_id)
