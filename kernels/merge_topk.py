"""Merge the span lists of each question into its k best spans.

A list holds the n best spans of a chunk (or of a tile of a long chunk), best first. One program merges
the lists of one group: it keeps the head of every list in a register and k times takes the best head
and moves that list on by one. A question with more lists than a program has room for is merged in
levels, each with ``FAN_IN`` times fewer lists than the last; the grid of a level follows from shapes
alone, so nothing is read back and the order of every operation is fixed.

Equal scores: the earlier list first, which is the order of (chunk, start, end). With ``DISTINCT`` a span
that was emitted already, by its place in the whole context, is skipped. The k best distinct spans of a
group are among the k best distinct spans of its lists, so this may be done at every level.

Softmax normalizers are added up along the way: the log-sum-exp of a group is that of its lists'.
A NaN in it (a NaN or +inf logit) marks the question at the last level.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .span_topk import LN_2, LOG2_E, LOWEST, ORDERED_MINUS_INF, ordered


@triton.jit
def _log_sum_exp(x):
    peak = tl.maximum(tl.max(x, axis=0), LOWEST)
    return peak + tl.log2(tl.sum(tl.exp2((x - peak) * LOG2_E), axis=0)) * LN_2


@triton.jit
def _place(token, first, last, offset):
    """Index of a chunk's token in the whole context; -1 for the null position."""
    return tl.where((token >= first) & (token < last), token - first + offset, -1)


@triton.jit
def merge_kernel(
    out_score_ptr,
    out_first_ptr,
    out_last_ptr,
    out_chunk_ptr,
    out_log_norm_ptr,
    out_null_score_ptr,
    nonfinite_ptr,
    score_ptr,
    first_ptr,
    last_ptr,
    chunk_ptr,
    log_norm_ptr,
    chunk_norm_ptr,
    null_score_ptr,
    lists_ptr,
    groups_ptr,
    context_ptr,
    context_offset_ptr,
    n_questions,
    n_groups,
    n_lists,
    n_tiles,
    LIST_K: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FAN_IN: tl.constexpr,
    LEAF: tl.constexpr,
    CHUNK_NORM: tl.constexpr,
    SHARED_NORM: tl.constexpr,
    DISTINCT: tl.constexpr,
    FINAL: tl.constexpr,
):
    """One group: at the last level all lists of a question, before that ``FAN_IN`` of them."""
    group = tl.program_id(0).to(tl.int64)
    if FINAL:
        begin = tl.load(lists_ptr + group)
        end = tl.load(lists_ptr + group + 1)
    else:
        # The question of a group: the last one whose first group is not beyond it.
        question = tl.zeros([], tl.int64)
        beyond = question + n_questions  # a 1 arrives as a Python number
        while beyond - question > 1:
            middle = (question + beyond) // 2
            if tl.load(groups_ptr + middle) <= group:
                question = middle
            else:
                beyond = middle
        begin = tl.load(lists_ptr + question) + (group - tl.load(groups_ptr + question)) * FAN_IN
        end = tl.minimum(tl.load(lists_ptr + question + 1), begin + FAN_IN)
    begin = tl.maximum(begin, 0)
    end = tl.minimum(end, n_lists)
    too_many = end - begin > FAN_IN  # more chunks than the caller said

    which = begin + tl.arange(0, FAN_IN)
    present = which < end
    log_norm_s = _log_sum_exp(tl.load(log_norm_ptr + which, mask=present, other=float("-inf")))
    log_norm_e = _log_sum_exp(
        tl.load(log_norm_ptr + n_lists + which, mask=present, other=float("-inf"))
    )
    norm = log_norm_s + log_norm_e
    null_scores = tl.load(null_score_ptr + which, mask=present, other=float("inf"))

    # What to subtract from the sums of logits: the normalizer of each list's chunk, or of all of them.
    list_norm = tl.zeros([FAN_IN], tl.float32)
    if CHUNK_NORM:
        list_norm = tl.load(chunk_norm_ptr + which // n_tiles, mask=present, other=0.0)
        null_scores -= list_norm
    shift = 0.0
    if SHARED_NORM:
        shift = tl.where(norm > float("-inf"), norm, 0.0)
    null_score = tl.min(null_scores, axis=0)

    nonfinite = ((norm < float("inf")) == 0) | too_many
    slots = tl.arange(0, BLOCK_K)
    out = group * TOP_K
    taken = tl.zeros([FAN_IN], tl.int32)
    head = tl.load(score_ptr + which * LIST_K, mask=present, other=float("-inf")) - list_norm
    seen_first = tl.full([BLOCK_K], -2, tl.int32)
    seen_last = tl.full([BLOCK_K], -2, tl.int32)
    found = tl.where(nonfinite, TOP_K, 0)
    while found < TOP_K:
        key = ordered(head)
        best = tl.max(key, axis=0)
        if best > ORDERED_MINUS_INF:
            winner = tl.min(tl.where(key == best, which, n_lists), axis=0)
            is_winner = which == winner
            rank = tl.sum(tl.where(is_winner, taken, 0), axis=0)
            score = tl.sum(tl.where(is_winner, head, 0.0), axis=0)
            at = winner * LIST_K + rank
            first = tl.load(first_ptr + at)
            last = tl.load(last_ptr + at)
            if LEAF:
                chunk = (winner // n_tiles).to(tl.int32)
            else:
                chunk = tl.load(chunk_ptr + at)
            new = True
            if DISTINCT:
                low = tl.load(context_ptr + 2 * chunk)
                high = tl.load(context_ptr + 2 * chunk + 1)
                offset = tl.load(context_offset_ptr + chunk)
                place_first = _place(first, low, high, offset)
                place_last = _place(last, low, high, offset)
                repeated = (seen_first == place_first) & (seen_last == place_last)
                new = tl.sum(repeated.to(tl.int32), axis=0) == 0
                is_slot = slots == tl.where(new, found, -1)
                seen_first = tl.where(is_slot, place_first, seen_first)
                seen_last = tl.where(is_slot, place_last, seen_last)
            if new:
                tl.store(out_score_ptr + out + found, score - shift)
                tl.store(out_first_ptr + out + found, first)
                tl.store(out_last_ptr + out + found, last)
                tl.store(out_chunk_ptr + out + found, chunk)
                found += 1
            taken += is_winner.to(tl.int32)
            more = is_winner & (taken < LIST_K)
            following = (
                tl.load(score_ptr + which * LIST_K + taken, mask=more, other=float("-inf"))
                - list_norm
            )
            head = tl.where(is_winner, following, head)
        else:
            unfilled = (slots >= found) & (slots < TOP_K)
            tl.store(out_score_ptr + out + slots, float("-inf"), mask=unfilled)
            tl.store(out_first_ptr + out + slots, -1, mask=unfilled)
            tl.store(out_last_ptr + out + slots, -1, mask=unfilled)
            tl.store(out_chunk_ptr + out + slots, -1, mask=unfilled)
            found += TOP_K

    if nonfinite:
        tl.store(out_score_ptr + out + slots, float("nan"), mask=slots < TOP_K)
        tl.store(out_first_ptr + out + slots, -1, mask=slots < TOP_K)
        tl.store(out_last_ptr + out + slots, -1, mask=slots < TOP_K)
        tl.store(out_chunk_ptr + out + slots, -1, mask=slots < TOP_K)
    if FINAL:
        null_score = tl.where(null_score < float("inf"), null_score - shift, float("-inf"))
        tl.store(out_null_score_ptr + group, tl.where(nonfinite, float("nan"), null_score))
        tl.store(nonfinite_ptr + group, nonfinite)
    else:
        tl.store(out_log_norm_ptr + group, log_norm_s)
        tl.store(out_log_norm_ptr + n_groups + group, log_norm_e)
        tl.store(out_null_score_ptr + group, null_score)


FAN_IN = 64  # lists that one program merges


def chunk_norm(log_norm: Tensor, n_tiles: int) -> Tensor:
    """[C] what to subtract from the sums of a chunk's logits, from the [2, L] log-sum-exps of its lists.

    0 where a chunk has no support.
    """
    norm = log_norm.view(2, -1, n_tiles).logsumexp(2).sum(0)
    return norm.masked_fill(norm == float("-inf"), 0.0)


def merge_topk(
    score: Tensor,
    first: Tensor,
    last: Tensor,
    log_norm: Tensor,
    null_score: Tensor,
    context: Tensor,
    question_id: Tensor,
    context_offset: Tensor | None,
    *,
    top_k: int,
    n_questions: int,
    n_tiles: int,
    max_chunks: int,
    scoring: str,
) -> tuple[Tensor, ...]:
    """Merge the lists of [`span_topk`][qa_fast.kernels.span_topk.span_topk] into one per question.

    Args:
        score: [L, n] float32 sums of logits, best first, -inf for none.
        first: [L, n] int32.
        last: [L, n] int32.
        log_norm: [2, L] float32.
        null_score: [L] float32.
        context: [C, 2] int32.
        question_id: [C] int32.
        context_offset: [C] int32; None: nothing to skip.
        top_k: k, spans per question.
        n_questions: Q.
        n_tiles: lists per chunk, L / C.
        max_chunks: no question has more chunks.
        scoring: "probability", "shared" or "logit".

    Returns:
        score [Q, k] float32, start, end and chunk [Q, k] int32, null_score [Q] float32 and nonfinite
        [Q] bool.
    """
    device = score.device
    n_lists = len(score)
    edges = torch.arange(n_questions + 1, dtype=question_id.dtype, device=device)
    lists = torch.searchsorted(question_id, edges) * n_tiles
    norm = chunk_norm(log_norm, n_tiles)
    chunk = first  # not read at the first level
    longest, leaf = max_chunks * n_tiles, True
    while True:
        final = longest <= FAN_IN
        fan_in = triton.next_power_of_2(longest) if final else FAN_IN
        if final:
            groups, n_groups = lists, n_questions
        else:
            counts = torch.div(lists.diff() + (FAN_IN - 1), FAN_IN, rounding_mode="floor")
            groups = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
            n_groups = triton.cdiv(n_lists, FAN_IN) + n_questions
        out_score = torch.empty((n_groups, top_k), dtype=torch.float32, device=device)
        spans = [torch.empty_like(out_score, dtype=torch.int32) for _ in range(3)]
        out_log_norm = score.new_empty((2, 1 if final else n_groups))
        out_null_score = score.new_empty(n_groups)
        nonfinite = torch.empty(n_groups if final else 1, dtype=torch.bool, device=device)
        if n_groups:
            merge_kernel[(n_groups,)](
                out_score_ptr=out_score,
                out_first_ptr=spans[0],
                out_last_ptr=spans[1],
                out_chunk_ptr=spans[2],
                out_log_norm_ptr=out_log_norm,
                out_null_score_ptr=out_null_score,
                nonfinite_ptr=nonfinite,
                score_ptr=score,
                first_ptr=first,
                last_ptr=last,
                chunk_ptr=chunk,
                log_norm_ptr=log_norm,
                chunk_norm_ptr=norm,
                null_score_ptr=null_score,
                lists_ptr=lists,
                groups_ptr=groups,
                context_ptr=context,
                context_offset_ptr=context if context_offset is None else context_offset,
                n_questions=n_questions,
                n_groups=n_groups,
                n_lists=n_lists,
                n_tiles=n_tiles,
                LIST_K=score.shape[1],
                TOP_K=top_k,
                BLOCK_K=triton.next_power_of_2(top_k),
                FAN_IN=fan_in,
                LEAF=leaf,
                CHUNK_NORM=leaf and scoring == "probability",
                SHARED_NORM=final and scoring == "shared",
                DISTINCT=context_offset is not None,
                FINAL=final,
                num_warps=1,
                enable_fp_fusion=False,
            )
        if final:
            return out_score, *spans, out_null_score, nonfinite
        score, (first, last, chunk) = out_score, spans
        log_norm, null_score, lists = out_log_norm, out_null_score, groups
        n_lists, longest, leaf = n_groups, triton.cdiv(longest, FAN_IN), False
