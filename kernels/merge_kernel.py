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

from typing import Any, NamedTuple

import triton
import triton.language as tl

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


class Inputs(NamedTuple):
    """What a call merges, as `merge_topk_kernel` takes it."""

    lists_ptr: Any
    per_list_ptr: Any
    question_ptr: Any
    best_ptr: Any
    floor_ptr: Any
    chunk_norm_ptr: Any
    context_ptr: Any
    context_offset_ptr: Any
    n_lists: Any
    n_tiles: Any
    list_k: Any
    top_k: Any
    final: Any


class Group(NamedTuple):
    """The lists that a program merges.

    Attributes:
        number: of the group.
        question: whose lists they are.
        ids: [FAN_IN] numbers of the lists.
        present: [FAN_IN] whether they belong to the group.
        too_many: whether still more do: the question has more chunks than the caller said.
    """

    number: Any
    question: Any
    ids: Any
    present: Any
    too_many: Any


class Norms(NamedTuple):
    """What a group's scores are normalized with, and its null score.

    Attributes:
        of_list: [FAN_IN] what to subtract from the sums of logits of each list.
        start: log-sum-exp of all start logits.
        end: that of the end logits.
        shift: what to subtract from the sums of all lists.
        null_score: the least of the lists', without ``shift``.
        nonfinite: whether a logit is NaN or +inf, or there are too many lists.
    """

    of_list: Any
    start: Any
    end: Any
    shift: Any
    null_score: Any
    nonfinite: Any


class Picks(NamedTuple):
    """The spans that were taken from the lists, in their order.

    Attributes:
        found: how many they are.
        key: [BLOCK_K] `ordered` sums.
        winner: [BLOCK_K] the lists that they were taken from.
        rank: [BLOCK_K] their ranks there.
    """

    found: Any
    key: Any
    winner: Any
    rank: Any


# ---- which lists --------------------------------------------------------------------------------------


@triton.jit
def _number_of(list_id, inputs, valid, FAN_IN: tl.constexpr):
    """Number of the group that a list belongs to."""
    number = tl.load(inputs.question_ptr + list_id // inputs.n_tiles, mask=valid, other=0)
    return number + tl.where(inputs.final != 0, 0, list_id // FAN_IN)


@triton.jit
def _first_list(number, inputs, FAN_IN: tl.constexpr):
    """The first list of a group, or of a later one; ``n_lists`` if there is none."""
    probe = tl.arange(0, FAN_IN)
    low = tl.zeros([], tl.int32)
    high = low + inputs.n_lists
    while low < high:  # per search
        step = (high - low + (FAN_IN - 1)) // FAN_IN
        list_id = low + step * (probe + 1) - 1
        valid = list_id < high
        earlier = _number_of(list_id, inputs, valid, FAN_IN) < number
        skipped = tl.sum((valid & earlier).to(tl.int32), axis=0)
        high = tl.minimum(low + (skipped + 1) * step - 1, high)
        low = low + skipped * step
    return low


@triton.jit
def _group_of(number, inputs, FAN_IN: tl.constexpr):
    """The `Group` of this number."""
    begin = _first_list(number, inputs, FAN_IN)
    before = tl.minimum(begin, inputs.n_lists - 1) // FAN_IN
    question = number - tl.where(inputs.final != 0, 0, before)
    ids = begin + tl.arange(0, FAN_IN)
    present = ids < inputs.n_lists
    present = present & (_number_of(ids, inputs, present, FAN_IN) == number)
    after = begin + FAN_IN
    beyond = _number_of(after, inputs, after < inputs.n_lists, FAN_IN)
    too_many = (after < inputs.n_lists) & (beyond == number)
    return Group(number, question, ids, present, too_many)


# ---- normalizers --------------------------------------------------------------------------------------


@triton.jit
def _log_sum_exp(x):
    """Log-sum-exp of all ``x``; -inf if they all are."""
    peak = tl.maximum(tl.max(x, axis=0), LOWEST)
    return peak + tl.log2(tl.sum(tl.exp2((x - peak) * LOG2_E), axis=0)) * LN_2


@triton.jit
def _log_sum_exp_of(ptr, group):
    """Log-sum-exp of the numbers that the group's lists have at ``ptr``."""
    x = tl.load(ptr + group.ids, mask=group.present, other=MINUS_INF_BITS)
    return _log_sum_exp(as_float(x))


@triton.jit
def _norms_of(group, inputs, shared, FAN_IN: tl.constexpr):
    """The `Norms` of a group; with ``shared`` all its lists have one normalizer."""
    start = _log_sum_exp_of(inputs.per_list_ptr + inputs.n_lists, group)
    end = _log_sum_exp_of(inputs.per_list_ptr + 2 * inputs.n_lists, group)
    norm = start + end
    null_scores = tl.load(inputs.per_list_ptr + group.ids, mask=group.present, other=INF_BITS)
    null_scores = as_float(null_scores)
    of_list = tl.zeros([FAN_IN], tl.float32)
    if inputs.chunk_norm_ptr is not None:
        of_chunk = inputs.chunk_norm_ptr + group.ids // inputs.n_tiles
        of_list = tl.load(of_chunk, mask=group.present, other=0.0)
        null_scores -= of_list
    shift = tl.where((shared != 0) & (norm > float("-inf")), norm, 0.0)
    null_score = tl.min(null_scores, axis=0)
    nonfinite = ((norm < float("inf")) == 0) | group.too_many
    return Norms(of_list, start, end, shift, null_score, nonfinite)


# ---- spans --------------------------------------------------------------------------------------------


@triton.jit
def _second_round(group, norms, inputs):
    """Which lists can have spans among the k best, and the `ordered` sum that these have to exceed."""
    floor_ptr = inputs.floor_ptr + group.question.to(tl.int64) * inputs.top_k
    floor = as_float(tl.load(floor_ptr + (inputs.top_k - 1)))
    best = as_float(tl.load(inputs.best_ptr + group.ids, mask=group.present, other=0))
    present = group.present & (best - norms.of_list >= floor)
    # No span below the floor is among the k best. Rounding is left room for.
    floor -= 1e-5 * tl.abs(floor) + 1e-5
    lowest = tl.full([], MINUS_INF_KEY, tl.int32)
    lowest = tl.where(floor > float("-inf"), tl.maximum(ordered(floor), lowest), lowest)
    return present, lowest


@triton.jit
def _following(span_ptr, winner, rank, inputs):
    """The sum of the span that follows in the list ``winner``; -inf for none."""
    following = tl.full([], float("-inf"), tl.float32)
    if inputs.list_k > 1:
        is_there = rank + 1 < inputs.list_k
        following = as_float(tl.load(span_ptr + 1, mask=is_there, other=MINUS_INF_BITS))
        if inputs.chunk_norm_ptr is not None:
            following -= tl.load(inputs.chunk_norm_ptr + winner // inputs.n_tiles)
    return following


@triton.jit
def _place(token, first, last, offset):
    """Index of a chunk's token in the whole context; -1 for the null position."""
    return tl.where((token >= first) & (token < last), token - first + offset, -1)


@triton.jit
def _places(span_ptr, field, inputs):
    """Start and end of a span as indices in the whole context."""
    first = tl.load(span_ptr + field)
    last = tl.load(span_ptr + 2 * field)
    chunk = tl.load(span_ptr + 3 * field)
    low = tl.load(inputs.context_ptr + 2 * chunk.to(tl.int64))
    high = tl.load(inputs.context_ptr + 2 * chunk.to(tl.int64) + 1)
    offset = tl.load(inputs.context_offset_ptr + chunk)
    return _place(first, low, high, offset), _place(last, low, high, offset)


@triton.jit
def _pop(group, present, norms, lowest, inputs, BLOCK_K: tl.constexpr, FAN_IN: tl.constexpr):
    """The `Picks` from the lists that are ``present``; all exceed ``lowest``."""
    row_ptr = inputs.lists_ptr + group.ids.to(tl.int64) * inputs.list_k
    head = as_float(tl.load(row_ptr, mask=present, other=MINUS_INF_BITS))
    head = ordered(head - norms.of_list)
    slots = tl.arange(0, BLOCK_K)
    keys = tl.full([BLOCK_K], MINUS_INF_KEY, tl.int32)
    winners = tl.full([BLOCK_K], -1, tl.int32)
    ranks = tl.zeros([BLOCK_K], tl.int32)
    field = inputs.n_lists.to(tl.int64) * inputs.list_k
    # For context offsets: how many spans of each list were looked at, and the places of those taken.
    looked_at = tl.zeros([FAN_IN], tl.int32)
    firsts = tl.full([BLOCK_K], -2, tl.int32)
    lasts = tl.full([BLOCK_K], -2, tl.int32)
    found = 0
    best = tl.max(head, axis=0)
    if norms.nonfinite:  # rare
        best = tl.full([], MINUS_INF_KEY, tl.int32)
    while (found < inputs.top_k) & (best > lowest):  # per pop
        winner = tl.min(tl.where(head == best, group.ids, NO_INDEX), axis=0)
        is_winner = group.ids == winner
        if inputs.context_offset_ptr is None:
            rank = tl.sum((winners == winner).to(tl.int32), axis=0)
        else:
            rank = tl.sum(tl.where(is_winner, looked_at, 0), axis=0)
            looked_at += is_winner.to(tl.int32)
        span_ptr = inputs.lists_ptr + winner.to(tl.int64) * inputs.list_k + rank
        following = _following(span_ptr, winner, rank, inputs)
        is_slot = slots == found
        if inputs.context_offset_ptr is not None:
            first, last = _places(span_ptr, field, inputs)
            repeated = (firsts == first) & (lasts == last)
            new = tl.sum(repeated.to(tl.int32), axis=0) == 0
            is_slot = slots == tl.where(new, found, -1)
            firsts = tl.where(is_slot, first, firsts)
            lasts = tl.where(is_slot, last, lasts)
            found += new.to(tl.int32)
        else:
            found += 1
        keys = tl.where(is_slot, best, keys)
        winners = tl.where(is_slot, winner, winners)
        ranks = tl.where(is_slot, rank, ranks)
        head = tl.where(is_winner, ordered(following), head)
        best = tl.max(head, axis=0)
    return Picks(found, keys, winners, ranks)


# ---- what is written ----------------------------------------------------------------------------------


@triton.jit
def _store_spans(picks, group, norms, inputs, out_ptr, n_groups, BLOCK_K: tl.constexpr):
    """Write score, start, end and chunk of the spans that were taken."""
    # Where the spans are is read once all of them are known: in the loop each would be waited for.
    slots = tl.arange(0, BLOCK_K)
    filled = slots < picks.found
    asked = slots < inputs.top_k
    span_ptr = inputs.lists_ptr + picks.winner.to(tl.int64) * inputs.list_k + picks.rank
    field = inputs.n_lists.to(tl.int64) * inputs.list_k
    out_field = n_groups.to(tl.int64) * inputs.top_k
    out_row_ptr = out_ptr + group.number.to(tl.int64) * inputs.top_k + slots
    empty = tl.where(norms.nonfinite, float("nan"), float("-inf"))
    score = tl.where(filled, unordered(picks.key) - norms.shift, empty)
    tl.store(out_row_ptr, as_bits(score), mask=asked)
    for side in tl.static_range(1, 4):
        index = tl.load(span_ptr + side * field, mask=filled, other=-1)
        tl.store(out_row_ptr + side * out_field, index, mask=asked)


@triton.jit
def _store_group_fields(group, norms, inputs, out_ptr, n_groups):
    """Write what belongs to the group as a whole: its null score, and log-sum-exps or a flag."""
    fields_ptr = out_ptr + 4 * (n_groups.to(tl.int64) * inputs.top_k)
    ptr = fields_ptr + group.number
    null_score = norms.null_score
    if inputs.final != 0:
        null_score = tl.where(null_score < float("inf"), null_score - norms.shift, float("-inf"))
        null_score = tl.where(norms.nonfinite, float("nan"), null_score)
        flags_ptr = (fields_ptr + n_groups).to(tl.pointer_type(tl.int8))
        tl.store(flags_ptr + group.number, norms.nonfinite.to(tl.int8))
    else:
        start = tl.where(group.too_many, float("nan"), norms.start)
        tl.store(ptr + n_groups, as_bits(start))
        tl.store(ptr + 2 * n_groups, as_bits(norms.end))
        tl.store(ptr + 3 * n_groups, group.question)
    tl.store(ptr, as_bits(null_score))


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
    inputs = Inputs(
        lists_ptr, per_list_ptr, question_ptr, best_ptr, floor_ptr, chunk_norm_ptr, context_ptr,
        context_offset_ptr, n_lists, n_tiles, list_k, top_k, final,
    )  # fmt: skip
    group = _group_of(tl.program_id(0), inputs, FAN_IN)
    norms = _norms_of(group, inputs, shared, FAN_IN)
    present = group.present
    lowest = tl.full([], MINUS_INF_KEY, tl.int32)
    if second_round != 0:  # rare
        present, lowest = _second_round(group, norms, inputs)
    picks = _pop(group, present, norms, lowest, inputs, BLOCK_K, FAN_IN)
    _store_spans(picks, group, norms, inputs, out_ptr, n_groups, BLOCK_K)
    _store_group_fields(group, norms, inputs, out_ptr, n_groups)


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
