"""Span decoding on a GPU: one Triton kernel for all chunks, one more to merge those of a question."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_TOP_K = 128


def decode(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    question_id: Tensor | None,
    context_offset: Tensor | None,
    null_position: Tensor,
    num_questions: int,
    top_k: int,
    max_answer_len: int | None,
    scoring: str,
    null_in_spans: bool,
    max_seq_len: int,
    max_chunks: int,
) -> Any:
    """Decode checked arguments; see [`qa_fast.decode_spans`][] for their meaning.

    None where the kernels do not reach: more than 128 spans per question, or spans of more than 1,024
    tokens in chunks longer than that. The torch backend answers then.
    """
    from .kernels.merge_topk import merge_topk
    from .kernels.span_topk import span_topk, tiling

    width = max(max_seq_len, 1)
    tiles = tiling(width, max_answer_len)
    if tiles is None or top_k > MAX_TOP_K:
        return None
    final = tiles.tiles == 1 and question_id is None
    lists = span_topk(
        start_logits,
        end_logits,
        context,
        context_mask,
        row_offset,
        null_position,
        top_k=top_k,
        max_answer_len=max_answer_len,
        width=width,
        tiles=tiles,
        null_in_spans=null_in_spans,
        normalize=scoring != "logit",
        final=final,
    )
    if final:
        return lists
    if question_id is None:
        question_id = torch.arange(num_questions, dtype=torch.int32, device=context.device)
    return merge_topk(
        *lists,
        context,
        question_id,
        context_offset,
        n_questions=num_questions,
        n_tiles=tiles.tiles,
        max_chunks=max_chunks,
        scoring=scoring,
    )
