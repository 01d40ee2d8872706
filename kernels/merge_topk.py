"""The k best spans of every question from the lists of its chunks: the levels, and the launches.

[`merge_kernel`][qa_fast.kernels.merge_kernel] says how lists are merged.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .launch import launch
from .merge_kernel import chunk_norm_kernel, merge_topk_kernel

OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}
# Lists that one program merges.
FAN_INS = (32, 512)


def chunk_norm(lists: Tensor, *, n_chunks: int, n_tiles: int, list_k: int) -> Tensor:
    """[C] float32: what to subtract from the sums of a chunk's logits; from `span_topk`'s lists."""
    n_lists = n_chunks * n_tiles
    norm = torch.empty(n_chunks, dtype=torch.float32, device=lists.device)
    per_list = lists[4 * n_lists * list_k :]
    arguments = norm, per_list, n_lists, n_tiles, 32
    launch(chunk_norm_kernel, n_chunks, (lists.device.index,), arguments, OPTIONS)
    return norm


def merge_topk(
    lists: Tensor,
    question_id: Tensor,
    context: Tensor | None,
    context_offset: Tensor | None,
    *,
    n_lists: int,
    list_k: int,
    top_k: int,
    n_questions: int,
    n_tiles: int,
    max_chunks: int,
    chunk_norm: Tensor | None,
    shared: bool,
    second_round: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Merge the lists of [`span_topk`][qa_fast.kernels.span_topk.span_topk] into one per question.

    Args:
        lists: from `span_topk`.
        question_id: [C] int32.
        context: [C, 2] int32; needed with ``context_offset``.
        context_offset: [C] int32; None: nothing to skip.
        n_lists: L.
        list_k: spans per list.
        top_k: k, spans per question, at most 128.
        n_questions: Q.
        n_tiles: lists per chunk, L / C.
        max_chunks: no question has more chunks.
        chunk_norm: [C] float32 to subtract from the sums of a chunk's logits.
        shared: subtract the normalizer of all of a question's lists.
        second_round: lists of one span from the first round, and the merged ones, which say which of
            ``lists`` were made again.

    Returns:
        [Q * (4 * k + 1) + Q / 4] int32, fields as of final lists.
    """
    device = lists.device
    per_list = lists[4 * n_lists * list_k :]
    best = floor = lists
    if second_round is not None:
        best, floor = second_round
        per_list = best[4 * n_lists :]
    longest = max_chunks * n_tiles
    fan_in = FAN_INS[0] if longest <= FAN_INS[0] else FAN_INS[1]
    # Of ids on a GPU only a bound of the most is known. If the average is small, so are most groups of
    # every level; where there are several levels anyhow, small blocks are less work.
    if longest > FAN_INS[1] and n_lists <= FAN_INS[0] * n_questions:
        fan_in = FAN_INS[0]
    block_k = 32 if top_k <= 32 else 128
    while True:
        final = longest <= fan_in
        n_groups = n_questions if final else triton.cdiv(n_lists, fan_in) + n_questions - 1
        extra = -(-n_groups // 4) if final else 3 * n_groups
        out = torch.empty(n_groups * (4 * top_k + 1) + extra, dtype=torch.int32, device=device)
        if n_groups:
            arguments = (
                out,
                lists,
                per_list,
                question_id,
                best,
                floor,
                chunk_norm,
                context,
                context_offset,
                n_lists,
                n_tiles,
                list_k,
                n_groups,
                top_k,
                1 if final else 0,
                1 if shared and final else 0,
                0 if second_round is None else 1,
                block_k,
                fan_in,
            )
            key = (
                device.index,
                chunk_norm is None,
                context is None,
                context_offset is None,
                block_k,
                fan_in,
            )
            launch(merge_topk_kernel, n_groups, key, arguments, OPTIONS)
        if final:
            return out
        # Groups of a block at most, one for what it begins in, and an empty one.
        longest = triton.cdiv(longest, fan_in) + 2
        per_list = out[4 * n_groups * top_k :]
        question_id = per_list[3 * n_groups :]
        lists, list_k, n_lists, n_tiles = out, top_k, n_groups, 1
        chunk_norm, second_round = None, None
