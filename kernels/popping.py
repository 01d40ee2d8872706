"""Step 5 of a list: the spans of the best starts, and where they are written."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .candidates import candidates
from .lanes import (
    MINUS_INF_KEY,
    NO_INDEX,
    NO_KEY,
    as_bits,
    lane_max,
    ordered,
    unordered,
)
from .tiles import is_inside


class Spans(NamedTuple):
    """Spans, one a lane, that are to be written together.

    Attributes:
        key: [32] `ordered` sums.
        first: [32] starts.
        last: [32] ends.
    """

    key: Any
    first: Any
    last: Any


class Slots(NamedTuple):
    """Where a list's spans are written.

    Attributes:
        ptr: the score of its first span.
        field: from there to the span's start, from that to its end, and to its chunk.
        count: spans of the list.
        chunk: the chunk of them all.
        shift: what to subtract from the sums of logits.
        empty: what stands in place of a score where there is no span.
    """

    ptr: Any
    field: Any
    count: Any
    chunk: Any
    shift: Any
    empty: Any


@triton.jit
def slots_of(list_id, chunk, norm, out_ptr, batch, config: tl.constexpr):
    """The `Slots` of a list."""
    field = batch.n_lists.to(tl.int64) * batch.top_k
    ptr = out_ptr + list_id.to(tl.int64) * batch.top_k
    empty = unordered(tl.full([], MINUS_INF_KEY, tl.int32))
    if config.FINAL:
        empty = tl.where(norm.nonfinite, float("nan"), empty)
    return Slots(ptr, field, batch.top_k, chunk, norm.shift, empty)


@triton.jit
def _sums_of(i, from_j, row, tile, config: tl.constexpr):
    """The spans of start ``i``, from end ``from_j`` on: ends [BLOCK_LEN], and `ordered` sums."""
    j = from_j + tl.arange(0, config.BLOCK_LEN)
    allowed = j < tile.covered + tile.delta
    if config.SPAN is not None:
        if config.SPAN != config.BLOCK_LEN:
            allowed = allowed & (j < i + config.SPAN)
    if config.MASKED or config.NULL_IN_SPANS:
        unmasked = None
        if config.MASKED:
            unmasked = tl.load(row.mask_ptr + j, mask=allowed, other=0)
        allowed = allowed & is_inside(j, unmasked, row, config)
    s_i = tl.load(row.start_ptr + i).to(tl.float32)
    e_j = tl.load(row.end_ptr + j, mask=allowed, other=float("-inf")).to(tl.float32)
    return j, ordered(s_i + e_j)


@triton.jit
def _until(i, tile, config: tl.constexpr):
    """The position after the last end that a span of start ``i`` may have."""
    until = tile.delta + tile.covered
    if config.SPAN is not None:
        until = tl.minimum(until, i + config.SPAN)
    return until


# ---- the best span alone ------------------------------------------------------------------------------


@triton.jit
def _best_span(best, key, row, tile, config: tl.constexpr):
    """Start and end of the first span whose sum is ``best``, the largest of the starts' ``key``."""
    at = tile.lane * config.PER
    token = tl.full([32], config.PER, tl.int32)
    for r in tl.static_range(config.PER):
        is_best = key[config.PER - 1 - r] == unordered(best)
        token = tl.where(is_best, config.PER - 1 - r, token)
    i = tl.min(tl.where(token < config.PER, at + token, NO_INDEX), axis=0) + tile.delta
    end = tl.full([config.BLOCK_LEN], NO_INDEX, tl.int32)
    if config.SPAN is not None and config.SPAN <= config.BLOCK_LEN:
        j, sums = _sums_of(i, i, row, tile, config)
        end = tl.where(sums == best, j, NO_INDEX)
    else:
        from_j = i
        until = _until(i, tile, config)
        while from_j < until:  # per block
            j, sums = _sums_of(i, from_j, row, tile, config)
            end = tl.minimum(end, tl.where(sums == best, j, NO_INDEX))
            from_j += config.BLOCK_LEN
    return i, tl.min(end, axis=0)


@triton.jit
def _store_first(score, first, last, chunk, slots):
    """Write a span to the first slot."""
    tl.store(slots.ptr, as_bits(score))
    tl.store(slots.ptr + slots.field, first)
    tl.store(slots.ptr + 2 * slots.field, last)
    tl.store(slots.ptr + 3 * slots.field, chunk)


@triton.jit
def store_best_span(key, nonfinite, slots, row, tile, config: tl.constexpr):
    """Find the best span and write it; ``key`` has the best sum of every start."""
    best = tl.max(ordered(lane_max(key, config.PER)), axis=0)
    if config.POSITIONS:
        if (best > MINUS_INF_KEY) & (nonfinite == 0):
            i, end = _best_span(best, key, row, tile, config)
            _store_first(unordered(best) - slots.shift, i, end, slots.chunk, slots)
        else:  # rare
            _store_first(slots.empty, -1, -1, -1, slots)
    else:
        score = tl.where(nonfinite, float("-inf"), unordered(best) - slots.shift)
        tl.store(slots.ptr, as_bits(score))


# ---- several ------------------------------------------------------------------------------------------


@triton.jit
def _store(slot, found, spans, slots):
    """Write the 32 spans that the lanes hold to the slots of the list; none from ``found`` on."""
    asked = slot < slots.count
    filled = slot < found
    score = tl.where(filled, unordered(spans.key) - slots.shift, slots.empty)
    ptr = slots.ptr + slot
    tl.store(ptr, as_bits(score), mask=asked)
    tl.store(slots.ptr + slots.field + slot, tl.where(filled, spans.first, -1), mask=asked)
    tl.store(slots.ptr + 2 * slots.field + slot, tl.where(filled, spans.last, -1), mask=asked)
    tl.store(slots.ptr + 3 * slots.field + slot, tl.where(filled, slots.chunk, -1), mask=asked)


@triton.jit
def _put(found, lane, best, i, j, spans, slots, MOST_K: tl.constexpr):
    """``spans`` with one more, the one of number ``found``; written when all lanes have theirs."""
    slot = found
    if MOST_K > 32:
        slot = found & 31
    here = lane == slot
    spans = Spans(
        tl.where(here, best, spans.key),
        tl.where(here, i, spans.first),
        tl.where(here, j, spans.last),
    )
    if MOST_K > 32:
        if slot == 31:  # rare
            _store(found - 31 + lane, found + 1, spans, slots)
    return spans


@triton.jit
def _emit(found, lane, best, i, from_j, sums, spans, slots, MOST_K: tl.constexpr):
    """Add the spans of start ``i`` whose sum is ``best`` to ``spans``; how many there are."""
    offs = tl.arange(0, sums.shape[0])
    # Their number, and the place of the one where there is one, by one sum.
    hit = sums == best
    both = tl.sum(tl.where(hit, offs + 262144, 0), axis=0)
    hits = both >> 18
    if hits > 1:  # rare
        rest = tl.where(hit, offs, NO_INDEX)
        n = 0
        while n < hits:  # per tie
            at = tl.min(rest, axis=0)
            spans = _put(found + n, lane, best, i, from_j + at, spans, slots, MOST_K)
            rest = tl.where(rest == at, NO_INDEX, rest)
            n += 1
    else:
        j = from_j + (both & 262143)
        spans = _put(found, lane, best, i, j, spans, slots, MOST_K)
    return hits, spans


@triton.jit
def _pop(i, best, found, spans, slots, row, tile, config: tl.constexpr):
    """Add all spans of start ``i`` whose sum is ``best`` to the ``found`` ones.

    Returns how many are found now, ``spans``, and the start's next lower sum.
    """
    if config.SPAN is not None and config.SPAN <= config.BLOCK_LEN:
        _, sums = _sums_of(i, i, row, tile, config)
        hits, spans = _emit(found, tile.lane, best, i, i, sums, spans, slots, config.MOST_K)
        below = tl.where(sums < best, sums, NO_KEY)
        found += hits
    else:
        below = tl.full([config.BLOCK_LEN], NO_KEY, tl.int32)
        from_j = i
        until = _until(i, tile, config)
        while from_j < until:  # per block
            _, sums = _sums_of(i, from_j, row, tile, config)
            hits, spans = _emit(
                found, tile.lane, best, i, from_j, sums, spans, slots, config.MOST_K
            )
            below = tl.maximum(below, tl.where(sums < best, sums, NO_KEY))
            found += hits
            from_j += config.BLOCK_LEN
    return found, spans, tl.max(below, axis=0)


@triton.jit
def _lowest(least, shift, FINAL: tl.constexpr):
    """The `ordered` sum that a span has to exceed for its score to reach ``least``."""
    lowest = tl.full([], MINUS_INF_KEY, tl.int32)
    if not FINAL:
        # Room for rounding: scores may have been computed in another order.
        reach = least + shift
        reach -= 1e-5 * (tl.abs(least) + tl.abs(reach) + 1.0)
        lowest = tl.where(least > float("-inf"), ordered(reach), lowest)
    return lowest


@triton.jit
def store_best_spans(key, nonfinite, least, slots, scratch_ptr, row, tile, config: tl.constexpr):
    """Find the best spans and write them; ``key`` has the best sum of every start."""
    none = tl.full([32], -1, tl.int32)
    spans = Spans(none, none, none)
    found = 0
    if nonfinite == 0:
        list_key, list_at = candidates(scratch_ptr, key, tile, slots.count, config.PER, config.LIST)
        best = tl.max(list_key, axis=0)
        lowest = _lowest(least, slots.shift, config.FINAL)
        while (found < slots.count) & (best > lowest):  # per pop
            at_best = tl.min(tl.where(list_key == best, list_at, NO_INDEX), axis=0)
            i = at_best + tile.delta
            found, spans, next_best = _pop(i, best, found, spans, slots, row, tile, config)
            list_key = tl.where(list_at == at_best, next_best, list_key)
            best = tl.max(list_key, axis=0)
    begun = 0
    if config.MOST_K > 32:
        begun = found & -32
    for block in tl.static_range(config.MOST_K // 32):
        _store(begun + 32 * block + tile.lane, found, spans, slots)
