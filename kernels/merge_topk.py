"""Merge the span lists of each question into its k best spans.

A list holds the best spans of a chunk (or of a tile of a long one), best first. One program, a warp,
merges the lists of one group: it keeps the head of every list in a register (32 lists are one for each
lane, 512 are 16) and k times takes the best head and moves that list on by one.

The groups are found by the kernel itself. At the last level a group is all lists of a question. Before
that the lists are cut into blocks of FAN_IN, and a group is what a block holds of a question:

    list        0 . . . . . . . | 8 . . . . . . . | 16 . . .
    question    0 0 0 1 1 1 1 1 | 1 1 1 1 1 1 1 1 | 1 1 2 2
    block       0               | 1               | 2
    group       0     1         | 2               | 3   4        = block + question

The number of a group never falls along the lists, and no two groups share one. So its first list is
found by a search over the lists, FAN_IN probes at a time, and the grid follows from shapes alone:
nothing is read back, nothing is counted beforehand, the order of every operation is fixed. A number that
no group has (after a question without lists) makes an empty group.

Equal scores: the earlier list first, which is the order of (chunk, start, end). With context offsets a
span that was emitted already, by its place in the whole context, is skipped. The k best distinct spans
of a group are among the k best distinct spans of its lists, so this may be done at every level.

Softmax normalizers are added up along the way: the log-sum-exp of a group is that of its lists'.
A NaN in it (a NaN or +inf logit) marks the question at the last level.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .lanes import (
    INF_BITS,
    LN_2,
    LOG2_E,
    LOWEST,
    MINUS_INF_BITS,
    MINUS_INF_KEY,
    NO_INDEX,
    as_bits,
    as_float,
    ordered,
    unordered,
)
from .launch import launch

OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}
FAN_INS = (32, 512)  # lists that one program merges


@triton.jit
def _log_sum_exp(x):
    peak = tl.maximum(tl.max(x, axis=0), LOWEST)
    return peak + tl.log2(tl.sum(tl.exp2((x - peak) * LOG2_E), axis=0)) * LN_2


@triton.jit
def _group_of(list_id, question_ptr, n_tiles, final, valid, FAN_IN: tl.constexpr):
    """Number of the group that a list belongs to."""
    group = tl.load(question_ptr + list_id // n_tiles, mask=valid, other=0)
    return group + tl.where(final != 0, 0, list_id // FAN_IN)


@triton.jit
def _first_list(group, question_ptr, n_lists, n_tiles, final, FAN_IN: tl.constexpr):
    """The first list of a group, or of a later one; ``n_lists`` if there is none."""
    probe = tl.arange(0, FAN_IN)
    low = tl.zeros([], tl.int32)
    high = low + n_lists
    while low < high:  # per search
        step = (high - low + (FAN_IN - 1)) // FAN_IN
        list_id = low + step * (probe + 1) - 1
        valid = list_id < high
        earlier = _group_of(list_id, question_ptr, n_tiles, final, valid, FAN_IN) < group
        skipped = tl.sum((valid & earlier).to(tl.int32), axis=0)
        high = tl.minimum(low + (skipped + 1) * step - 1, high)
        low = low + skipped * step
    return low


@triton.jit
def _place(token, first, last, offset):
    """Index of a chunk's token in the whole context; -1 for the null position."""
    return tl.where((token >= first) & (token < last), token - first + offset, -1)


@triton.jit(
    # Few kernels: none for a 1, or a multiple of 16, or for a view that begins in the middle.
    do_not_specialize_on_alignment=[
        "out_ptr",
        "lists_ptr",
        "per_list_ptr",
        "question_ptr",
        "best_ptr",
        "floor_ptr",
        "chunk_norm_ptr",
        "context_ptr",
        "context_offset_ptr",
    ],
    do_not_specialize=[
        "n_lists",
        "n_tiles",
        "list_k",
        "n_groups",
        "top_k",
        "final",
        "shared",
        "second_round",
    ],
)
def merge_topk_kernel(
    out_ptr,
    lists_ptr,
    per_list_ptr,
    question_ptr,
    best_ptr,
    floor_ptr,
    chunk_norm_ptr,
    context_ptr,
    context_offset_ptr,
    n_lists,
    n_tiles,
    list_k,
    n_groups,
    top_k,
    final,
    shared,
    second_round,
    BLOCK_K: tl.constexpr,
    FAN_IN: tl.constexpr,
):
    """One group of lists; with ``final`` all lists of a question.

    ``lists_ptr`` has score, start, end and chunk [n_lists, list_k], all of 4 bytes, and ``per_list_ptr``
    null score and log-sum-exps of starts and ends [n_lists], as `span_topk_kernel` writes them.
    ``out_ptr`` takes the same for [n_groups, top_k], and the question [n_groups]; with ``final``,
    after the null scores, one byte [n_groups] that says whether logits were not finite.
    """
    group = tl.program_id(0)
    begin = _first_list(group, question_ptr, n_lists, n_tiles, final, FAN_IN)
    question = group - tl.where(final != 0, 0, tl.minimum(begin, n_lists - 1) // FAN_IN)
    which = begin + tl.arange(0, FAN_IN)
    present = which < n_lists
    present = present & (_group_of(which, question_ptr, n_tiles, final, present, FAN_IN) == group)
    after = begin + FAN_IN
    beyond = _group_of(after, question_ptr, n_tiles, final, after < n_lists, FAN_IN)
    too_many = (after < n_lists) & (beyond == group)  # more chunks than the caller said

    norm_s = _log_sum_exp(
        as_float(tl.load(per_list_ptr + n_lists + which, mask=present, other=MINUS_INF_BITS))
    )
    norm_e = _log_sum_exp(
        as_float(tl.load(per_list_ptr + 2 * n_lists + which, mask=present, other=MINUS_INF_BITS))
    )
    norm = norm_s + norm_e
    null_scores = as_float(tl.load(per_list_ptr + which, mask=present, other=INF_BITS))

    # What to subtract from the sums of logits: the normalizer of each list's chunk, or of all of them.
    list_norm = tl.zeros([FAN_IN], tl.float32)
    if chunk_norm_ptr is not None:
        list_norm = tl.load(chunk_norm_ptr + which // n_tiles, mask=present, other=0.0)
        null_scores -= list_norm
    shift = tl.where((shared != 0) & (norm > float("-inf")), norm, 0.0)
    null_score = tl.min(null_scores, axis=0)

    lowest = tl.full([], MINUS_INF_KEY, tl.int32)
    if second_round != 0:  # rare
        floor = as_float(tl.load(floor_ptr + question.to(tl.int64) * top_k + (top_k - 1)))
        best = as_float(tl.load(best_ptr + which, mask=present, other=0)) - list_norm
        present = present & (best >= floor)
        # No span below the floor is among the k best. Rounding is left room for.
        floor -= 1e-5 * tl.abs(floor) + 1e-5
        lowest = tl.where(floor > float("-inf"), tl.maximum(ordered(floor), lowest), lowest)

    nonfinite = ((norm < float("inf")) == 0) | too_many
    row_ptr = lists_ptr + which.to(tl.int64) * list_k
    head = ordered(as_float(tl.load(row_ptr, mask=present, other=MINUS_INF_BITS)) - list_norm)
    slots = tl.arange(0, BLOCK_K)
    keys = tl.full([BLOCK_K], MINUS_INF_KEY, tl.int32)
    # The list that a span was taken from, and its rank there.
    winners = tl.full([BLOCK_K], -1, tl.int32)
    ranks = tl.zeros([BLOCK_K], tl.int32)
    field = n_lists.to(tl.int64) * list_k
    if context_offset_ptr is not None:
        taken = tl.zeros([FAN_IN], tl.int32)
        seen_first = tl.full([BLOCK_K], -2, tl.int32)
        seen_last = tl.full([BLOCK_K], -2, tl.int32)
    found = 0
    best = tl.max(head, axis=0)
    if nonfinite:  # rare
        best = tl.full([], MINUS_INF_KEY, tl.int32)
    while (found < top_k) & (best > lowest):  # per pop
        winner = tl.min(tl.where(head == best, which, NO_INDEX), axis=0)
        is_winner = which == winner
        if context_offset_ptr is None:
            rank = tl.sum((winners == winner).to(tl.int32), axis=0)
        else:
            rank = tl.sum(tl.where(is_winner, taken, 0), axis=0)
            taken += is_winner.to(tl.int32)
        at = lists_ptr + winner.to(tl.int64) * list_k + rank
        following = tl.full([], float("-inf"), tl.float32)
        if list_k > 1:
            following = as_float(tl.load(at + 1, mask=rank + 1 < list_k, other=MINUS_INF_BITS))
            if chunk_norm_ptr is not None:
                following -= tl.load(chunk_norm_ptr + winner // n_tiles)
        is_slot = slots == found
        if context_offset_ptr is not None:
            first = tl.load(at + field)
            last = tl.load(at + 2 * field)
            chunk = tl.load(at + 3 * field)
            low = tl.load(context_ptr + 2 * chunk.to(tl.int64))
            high = tl.load(context_ptr + 2 * chunk.to(tl.int64) + 1)
            offset = tl.load(context_offset_ptr + chunk)
            place_first = _place(first, low, high, offset)
            place_last = _place(last, low, high, offset)
            repeated = (seen_first == place_first) & (seen_last == place_last)
            new = tl.sum(repeated.to(tl.int32), axis=0) == 0
            is_slot = slots == tl.where(new, found, -1)
            seen_first = tl.where(is_slot, place_first, seen_first)
            seen_last = tl.where(is_slot, place_last, seen_last)
            found += new.to(tl.int32)
        else:
            found += 1
        keys = tl.where(is_slot, best, keys)
        winners = tl.where(is_slot, winner, winners)
        ranks = tl.where(is_slot, rank, ranks)
        head = tl.where(is_winner, ordered(following), head)
        best = tl.max(head, axis=0)

    # Where the spans are is read once all of them are known: in the loop each would be waited for.
    filled = slots < found
    asked = slots < top_k
    at = lists_ptr + winners.to(tl.int64) * list_k + ranks
    out_field = n_groups.to(tl.int64) * top_k
    out_row_ptr = out_ptr + group.to(tl.int64) * top_k + slots
    empty = tl.where(nonfinite, float("nan"), float("-inf"))
    tl.store(out_row_ptr, as_bits(tl.where(filled, unordered(keys) - shift, empty)), mask=asked)
    for side in tl.static_range(1, 4):
        index = tl.load(at + side * field, mask=filled, other=-1)
        tl.store(out_row_ptr + side * out_field, index, mask=asked)
    out_per_list_ptr = out_ptr + 4 * out_field + group
    if final != 0:
        null_score = tl.where(null_score < float("inf"), null_score - shift, float("-inf"))
        null_score = tl.where(nonfinite, float("nan"), null_score)
        flags_ptr = (out_ptr + 4 * out_field + n_groups).to(tl.pointer_type(tl.int8))
        tl.store(flags_ptr + group, nonfinite.to(tl.int8))
    else:
        tl.store(out_per_list_ptr + n_groups, as_bits(tl.where(too_many, float("nan"), norm_s)))
        tl.store(out_per_list_ptr + 2 * n_groups, as_bits(norm_e))
        tl.store(out_per_list_ptr + 3 * n_groups, question)
    tl.store(out_per_list_ptr, as_bits(null_score))


@triton.jit(
    do_not_specialize_on_alignment=["per_list_ptr"], do_not_specialize=["n_lists", "n_tiles"]
)
def chunk_norm_kernel(out_ptr, per_list_ptr, n_lists, n_tiles, BLOCK: tl.constexpr):
    """What to subtract from the sums of a chunk's logits, from those of its tiles; 0 without support."""
    chunk = tl.program_id(0)
    tile = tl.arange(0, BLOCK)
    norm = tl.zeros([], tl.float32)
    for side in tl.static_range(1, 3):
        begin = per_list_ptr + side * n_lists + chunk * n_tiles
        log_mass = tl.full([BLOCK], float("-inf"), tl.float32)
        at = 0
        while at < n_tiles:  # per block
            x = as_float(tl.load(begin + at + tile, mask=at + tile < n_tiles, other=MINUS_INF_BITS))
            peak = tl.maximum(tl.maximum(log_mass, x), LOWEST)
            mass = tl.exp2((log_mass - peak) * LOG2_E) + tl.exp2((x - peak) * LOG2_E)
            log_mass = peak + tl.log2(mass) * LN_2
            at += BLOCK
        norm += _log_sum_exp(log_mass)
    tl.store(out_ptr + chunk, tl.where(norm == float("-inf"), 0.0, norm))


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
