"""Span decoding on a GPU: one Triton kernel for all chunks, one more to merge those of a question."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_TOP_K = 128
MANY_CHUNKS = (
    32  # chunks for every span that is wanted, from which on two passes are fewer instructions
)


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

    None where the kernels do not reach: more than 128 spans per question, spans of more than 1,024
    tokens in chunks longer than that, or Triton before 3.3. The torch backend answers then.
    """
    import triton.language as tl

    from .kernels.merge_topk import chunk_norm, merge_topk
    from .kernels.span_topk import span_topk, tiling

    width = max(max_seq_len, 1)
    tiles = tiling(width, max_answer_len)
    if tiles is None or top_k > MAX_TOP_K or not hasattr(tl, "gather"):  # Triton 3.2 has none
        return None
    final = tiles.tiles == 1 and question_id is None

    def lists_of(context: Tensor, top_k: int) -> tuple[Tensor, ...]:
        return span_topk(
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
        return lists_of(context, top_k)
    if question_id is None:
        question_id = torch.arange(num_questions, dtype=torch.int32, device=context.device)

    def merge(lists: tuple[Tensor, ...], scoring: str) -> tuple[Tensor, ...]:
        return merge_topk(
            *lists,
            context,
            question_id,
            context_offset,
            top_k=top_k,
            n_questions=num_questions,
            n_tiles=tiles.tiles,
            max_chunks=max_chunks,
            scoring=scoring,
        )

    lists_to_keep = top_k * num_questions * tiles.tiles
    if top_k == 1 or null_in_spans or len(context) < MANY_CHUNKS * lists_to_keep:
        return merge(lists_of(context, top_k), scoring)
    # Many chunks for few spans: the best span of every chunk first. The k-th best of these is a floor
    # under the k-th best span of the question, and rules out nearly all chunks for the second pass.
    # (Under "shared" the chunks of a question have one normalizer, which changes no order.)
    best, first, last, log_norm, null_score = lists_of(context, 1)
    order_by = "logit" if scoring == "shared" else scoring
    floor = merge((best, first, last, log_norm, null_score), order_by)[0][:, -1]
    best = best.view(-1, tiles.tiles).amax(1)
    if scoring == "probability":
        best = best - chunk_norm(log_norm, tiles.tiles)
    ruled_out = best < floor[question_id.long()]
    score, first, last, *_ = lists_of(context.masked_fill(ruled_out[:, None], 0), top_k)
    return merge((score, first, last, log_norm, null_score), scoring)
