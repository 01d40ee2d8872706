"""The k best answer spans of every chunk, one warp per chunk, in one pass over its logits.

For a chunk with start logits ``s`` and end logits ``e`` over its context tokens, the kernel finds the k
largest of

    s[i] + e[j],    i <= j < i + max_answer_len,

and the log-sum-exp of ``s`` and of ``e`` over the context and the null position. That is all that the
scores need: ``log softmax(s)[i] + log softmax(e)[j]`` is the sum less both log-sum-exps, a constant of
the chunk, so the order of the sums is the order of the scores.

Steps, in registers, with the tokens on the lanes of a warp as `lanes` draws them:

1. Load ``s`` and ``e``, four tokens at a time, from the last multiple of 4 at or before the context.
2. The normalizer, ``peak_s + peak_e + log(mass_s * mass_e)``: the null position is among the masses.
3. ``best[i] = s[i] + max(e[i : i + max_answer_len])``, the best span of every start. A window is the
   rest of its start's lane, whole lanes, and the beginning of a later lane:

       lane         l              l + 1           l + 2           l + 3
       token   . . . i x x x | x x x x x x x | x x x x x x x | x x x . . . .
                    suffix         whole           whole       prefix

   so the prefix and suffix maxima of the lanes, PER - 1 maxima each, serve all windows (the algorithm of
   van Herk and of Gil and Werman), and a whole lane is its last prefix.
4. For k = 1 the largest of them. Else a list of the starts that can matter: those that reach a floor
   which k starts or more reach, but no more than the list has room for. Below it none of the k best
   spans can lie. It is guessed between the largest and the least of the lanes' largest, and found by
   halving where that was no good guess. Where too many starts are equal to it, the first are enough.
5. Pop k times: the best start of the list, its at most max_answer_len ends (read again, from L1), the
   ends that give that best sum, and the start's next lower sum put back in its place. The k best spans
   come out in order, with no sort and no N x N matrix.

A row of more than 512 tokens (1,024 with spans of at most 32) is cut into tiles of starts, each with a
list of its own; the ends of a tile's last starts are read from the tiles that follow. `merge_topk`
merges lists. A program makes several lists, one after the other, so that little scratch memory is needed
to write those of step 4 to.

Ties: equal sums in the order of (start, end). All ends of a start with the same sum are emitted at once,
since nothing comes between them. NaN and +inf: the normalizer becomes NaN, which marks the question.
Accumulation: float32, whatever the dtype of the logits. Sums that are -inf are no candidates.

Bytes per chunk of N tokens: 2 * N * itemsize read, 12 read (context, null position), 16 * k + 5 written.

Comments on branches and loops say how often they are taken, for ``bench/static_cost.py``.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .lanes import (
    LN_2,
    MINUS_INF_KEY,
    NO_INDEX,
    NO_KEY,
    VEC,
    as_bits,
    as_float,
    earlier_max,
    further,
    lane_max,
    later_max,
    load_lanes,
    ordered,
    peak_and_mass,
    unordered,
)
from .launch import launch


@triton.jit
def _is_inside(position, unmasked, tile, null, NULL_IN_SPANS: tl.constexpr):
    """Whether tokens may start or end a span; ``unmasked`` is what the mask has there, or None."""
    _, _, _, _, _, first, last = tile
    inside = (position >= first) & (position < last)
    if unmasked is not None:
        inside = inside & (unmasked != 0)
    if NULL_IN_SPANS:
        inside = inside | (position == null)
    return inside


@triton.jit
def _inside(
    tile,
    shift,
    mask_ptr,
    n_logits,
    null,
    PER: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    ALIGNED: tl.constexpr,
    OWN: tl.constexpr,
):
    """Which tokens of the lanes may start or end a span: PER tensors [32] bool.

    The tokens are ``shift`` further on than the tile's own; OWN says that it is 0.
    """
    lane, origin, delta, before, covered, _, _ = tile
    at = lane * PER + shift
    found = ()
    if mask_ptr is None and not NULL_IN_SPANS:
        ahead = covered - at
        behind = before - at
        for r in tl.static_range(PER):
            if OWN and r < VEC - 1:
                found = found + ((ahead > r) & (behind <= r),)
            else:
                found = found + (ahead > r,)
    else:
        if mask_ptr is not None:
            count = covered - shift
            allowed = load_lanes(mask_ptr, origin + shift, lane, count, n_logits, PER, ALIGNED)
        for r in tl.static_range(PER):
            unmasked = None
            if mask_ptr is not None:
                unmasked = allowed[r]
            inside = _is_inside(at + (delta + r), unmasked, tile, null, NULL_IN_SPANS)
            if OWN and r < VEC - 1:
                inside = inside & (before - at <= r)
            found = found + (inside,)
    return found


@triton.jit
def _logits(ptr, tile, shift, inside, n_logits, PER: tl.constexpr, ALIGNED: tl.constexpr):
    """Logits of the lanes' tokens, ``shift`` further on than the tile's; -inf where not inside."""
    lane, origin, _, _, covered, _, _ = tile
    x = load_lanes(ptr, origin + shift, lane, covered - shift, n_logits, PER, ALIGNED)
    found = ()
    for r in tl.static_range(PER):
        found = found + (tl.where(inside[r], x[r].to(tl.float32), float("-inf")),)
    return found


@triton.jit
def _ends(
    end_ptr,
    tile,
    shift,
    mask_ptr,
    n_logits,
    null,
    PER: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """End logits ``shift`` tokens further on than the tile's own."""
    inside = _inside(tile, shift, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED, False)
    return _logits(end_ptr, tile, shift, inside, n_logits, PER, ALIGNED)


@triton.jit
def _suffix_max(e, PER: tl.constexpr):
    """Maximum of a lane's tokens from each one on: ``found[PER - 1 - r]`` from token ``r`` on."""
    found = (e[PER - 1],)
    for t in tl.static_range(1, PER):
        found = found + (tl.maximum(found[t - 1], e[PER - 1 - t]),)
    return found


@triton.jit
def _shifted_max(x, shift: tl.constexpr, PER: tl.constexpr):
    """Of each token of a lane and the one ``shift`` further on, as far as the lane has one."""
    found = ()
    for r in tl.static_range(PER - shift):
        found = found + (tl.maximum(x[r], x[r + shift]),)
    for r in tl.static_range(PER - shift, PER):
        found = found + (x[r],)
    return found


@triton.jit
def _window_max(
    within, suffix, prefix, whole, lane, r: tl.constexpr, PER: tl.constexpr, SPAN: tl.constexpr
):
    """``max(e[i : i + SPAN])`` for the starts that are token ``r`` of their lane."""
    lanes: tl.constexpr = (r + SPAN - 1) // PER
    rest: tl.constexpr = (r + SPAN - 1) % PER
    if lanes == 0:
        best = within[r]
    else:
        best = suffix[PER - 1 - r]
        if rest == PER - 1:
            best = tl.maximum(best, whole[lanes - 1])
        else:
            if lanes >= 2:
                best = tl.maximum(best, whole[lanes - 2])
            best = tl.maximum(best, further(prefix[rest], lane, lanes))
    return best


@triton.jit
def _best_near(s, e, lane, PER: tl.constexpr, SPAN: tl.constexpr):
    """``s[i] + max(e[i : i + SPAN])``, with all windows inside the lanes."""
    prefix = (e[0],)
    for r in tl.static_range(1, PER):
        prefix = prefix + (tl.maximum(prefix[r - 1], e[r]),)
    suffix = _suffix_max(e, PER)
    # Windows that end in their lane: 1, 2, 4, ... tokens, then one more step to SPAN.
    within = e
    if SPAN <= PER:
        for step in tl.static_range(5):
            if (2 << step) <= SPAN:
                within = _shifted_max(within, 1 << step, PER)
            elif (1 << step) < SPAN:
                within = _shifted_max(within, SPAN - (1 << step), PER)
    # whole[q]: maximum over the next q + 1 lanes.
    whole = ()
    reach: tl.constexpr = (PER + SPAN - 2) // PER
    if reach > 0:
        whole = (further(prefix[PER - 1], lane, 1),)
    for q in tl.static_range(2, reach + 1):
        if q < reach or (PER + SPAN - 2) % PER == PER - 1:
            whole = whole + (tl.maximum(whole[q - 2], further(prefix[PER - 1], lane, q)),)
    found = ()
    for r in tl.static_range(PER):
        best = _window_max(within, suffix, prefix, whole, lane, r, PER, SPAN)
        found = found + (s[r] + best,)
    return found


@triton.jit
def _best_unlimited(
    s,
    e,
    end_ptr,
    tile,
    mask_ptr,
    n_logits,
    null,
    PER: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    TILED: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """``s[i] + max(e[i:])``."""
    lane, _, _, _, covered, _, _ = tile
    suffix = _suffix_max(e, PER)
    rest = later_max(suffix[PER - 1], lane)
    if TILED:
        beyond = tl.full([32], float("-inf"), tl.float32)
        shift = 32 * PER
        while shift < covered:  # per further
            row = _ends(end_ptr, tile, shift, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED)
            beyond = tl.maximum(beyond, lane_max(row, PER))
            shift += 32 * PER
        rest = tl.maximum(rest, unordered(tl.max(ordered(beyond), axis=0)))
    found = ()
    for r in tl.static_range(PER):
        found = found + (s[r] + tl.maximum(suffix[PER - 1 - r], rest),)
    return found


@triton.jit
def _best_far(
    s,
    e,
    end_ptr,
    tile,
    mask_ptr,
    n_logits,
    null,
    PER: tl.constexpr,
    SPAN: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    TILED: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """``s[i] + max(e[i : i + SPAN])`` for long spans: whole lanes between are a window of lanes."""
    lane, _, _, _, _, _, _ = tile
    lanes: tl.constexpr = (SPAN - 1) // PER  # the window's last lane, or the one after it
    rest: tl.constexpr = (SPAN - 1) % PER
    suffix = _suffix_max(e, PER)

    # between: maximum of the lanes l + 1 .. l + lanes - 1
    between = tl.full([32], float("-inf"), tl.float32)
    if lanes > 1 and lanes <= 32:
        # Windows of 1, 2, 4, ... lanes, then one more step to lanes - 1.
        here = suffix[PER - 1]
        after = tl.full([32], float("-inf"), tl.float32)
        if TILED:
            row = _ends(
                end_ptr, tile, 32 * PER, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED
            )
            after = lane_max(row, PER)
        for step in tl.static_range(0, 5):
            if (1 << step) < lanes - 1:
                shift = tl.minimum(1 << step, lanes - 1 - (1 << step))
                source = (lane + shift) % 32
                stays = lane + shift < 32
                moved = tl.gather(here, source, 0)
                moved_after = tl.gather(after, source, 0)
                here = tl.maximum(here, tl.where(stays, moved, moved_after))
                after = tl.maximum(after, tl.where(stays, moved_after, float("-inf")))
        between = tl.gather(here, (lane + 1) % 32, 0)
        between = tl.where(lane < 31, between, tl.gather(after, lane * 0, 0))
    elif lanes > 32:
        # The tile's own later lanes, full rows of 32 lanes that all windows hold, and a beginning of
        # two more rows.
        full: tl.constexpr = lanes // 32
        more: tl.constexpr = lanes % 32
        between = later_max(suffix[PER - 1], lane)
        if full > 1:
            shared = tl.full([32], float("-inf"), tl.float32)
            for n in range(1, full):  # per further
                shift = n * (32 * PER)
                row = _ends(
                    end_ptr, tile, shift, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED
                )
                shared = tl.maximum(shared, lane_max(row, PER))
            between = tl.maximum(between, unordered(tl.max(ordered(shared), axis=0)))
        shift = full * (32 * PER)
        row = _ends(end_ptr, tile, shift, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED)
        begun = lane_max(row, PER)
        shift += 32 * PER
        row = _ends(end_ptr, tile, shift, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED)
        begun_after = earlier_max(lane_max(row, PER), lane)
        all_begun = unordered(tl.max(ordered(begun), axis=0))
        begun = earlier_max(begun, lane)
        upto = lane + (more - 1)  # lane of the two rows up to which a window goes; -1 for none
        early = tl.gather(begun, tl.maximum(upto, 0) % 32, 0)
        late = tl.gather(begun_after, tl.maximum(upto, 0) % 32, 0)
        begun = tl.where(upto < 32, early, tl.maximum(late, all_begun))
        between = tl.maximum(between, tl.where(upto < 0, float("-inf"), begun))

    # The windows' last tokens: in the lane l + lanes, and the next one.
    shift = lanes * PER
    ends = _ends(end_ptr, tile, shift, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED)
    if rest > 0:
        ends = ends + _ends(
            end_ptr, tile, shift + PER, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED
        )
    prefix = ends[0]
    for t in tl.static_range(1, rest + 1):
        prefix = tl.maximum(prefix, ends[t])
    found = ()
    for r in tl.static_range(PER):
        if r > 0:
            prefix = tl.maximum(prefix, ends[r + rest])
        best = tl.maximum(tl.maximum(suffix[PER - 1 - r], between), prefix)
        found = found + (s[r] + best,)
    return found


@triton.jit
def _sums_of(
    i,
    from_j,
    start_row_ptr,
    end_row_ptr,
    row_mask_ptr,
    tile,
    null,
    SPAN: tl.constexpr,
    BLOCK_LEN: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
):
    """The spans of start ``i``, from end ``from_j`` on: ends [BLOCK_LEN], and `ordered` sums."""
    _, _, delta, _, covered, _, _ = tile
    j = from_j + tl.arange(0, BLOCK_LEN)
    allowed = j < covered + delta
    if SPAN is not None:
        if SPAN != BLOCK_LEN:
            allowed = allowed & (j < i + SPAN)
    if row_mask_ptr is not None or NULL_IN_SPANS:
        unmasked = None
        if row_mask_ptr is not None:
            unmasked = tl.load(row_mask_ptr + j, mask=allowed, other=0)
        allowed = allowed & _is_inside(j, unmasked, tile, null, NULL_IN_SPANS)
    s_i = tl.load(start_row_ptr + i).to(tl.float32)
    e_j = tl.load(end_row_ptr + j, mask=allowed, other=float("-inf")).to(tl.float32)
    return j, ordered(s_i + e_j)


@triton.jit
def _best_span(
    best,
    key,
    at,
    range_end,
    start_row_ptr,
    end_row_ptr,
    row_mask_ptr,
    tile,
    null,
    PER: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_LEN: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
):
    """Start and end of the first span whose sum is ``best``, the largest of the starts' ``key``."""
    _, _, delta, _, _, _, _ = tile
    row = tl.full([32], PER, tl.int32)
    for r in tl.static_range(PER):
        row = tl.where(key[PER - 1 - r] == unordered(best), PER - 1 - r, row)
    i = tl.min(tl.where(row < PER, at + row, NO_INDEX), axis=0) + delta
    end = tl.full([BLOCK_LEN], NO_INDEX, tl.int32)
    if SPAN is not None and SPAN <= BLOCK_LEN:
        j, sums = _sums_of(
            i,
            i,
            start_row_ptr,
            end_row_ptr,
            row_mask_ptr,
            tile,
            null,
            SPAN,
            BLOCK_LEN,
            NULL_IN_SPANS,
        )
        end = tl.where(sums == best, j, NO_INDEX)
    else:
        from_j = i
        until = range_end
        if SPAN is not None:
            until = tl.minimum(until, i + SPAN)
        while from_j < until:  # per block
            j, sums = _sums_of(
                i, from_j, start_row_ptr, end_row_ptr, row_mask_ptr, tile, null, SPAN, BLOCK_LEN,
                NULL_IN_SPANS,
            )  # fmt: skip
            end = tl.minimum(end, tl.where(sums == best, j, NO_INDEX))
            from_j += BLOCK_LEN
    return i, tl.min(end, axis=0)


@triton.jit
def _no_score(nonfinite, FINAL: tl.constexpr):
    """What stands in place of a score where there is no span."""
    score = unordered(tl.full([], MINUS_INF_KEY, tl.int32))
    if FINAL:
        score = tl.where(nonfinite, float("nan"), score)
    return score


@triton.jit
def _store(slot, found, spans, out, top_k):
    """Write the 32 spans that the lanes hold to the slots of the list; none from ``found`` on."""
    key, first, last = spans
    list_ptr, field, chunk, shift, empty = out
    asked = slot < top_k
    filled = slot < found
    score = tl.where(filled, unordered(key) - shift, empty)
    tl.store(list_ptr + slot, as_bits(score), mask=asked)
    tl.store(list_ptr + field + slot, tl.where(filled, first, -1), mask=asked)
    tl.store(list_ptr + 2 * field + slot, tl.where(filled, last, -1), mask=asked)
    tl.store(list_ptr + 3 * field + slot, tl.where(filled, chunk, -1), mask=asked)


@triton.jit
def _put(found, lane, best, i, j, spans, out, top_k, MOST_K: tl.constexpr):
    """``spans`` with one more, the one of number ``found``; written when all lanes have theirs."""
    key, first, last = spans
    slot = found
    if MOST_K > 32:
        slot = found & 31
    here = lane == slot
    spans = (tl.where(here, best, key), tl.where(here, i, first), tl.where(here, j, last))
    if MOST_K > 32:
        if slot == 31:  # rare
            _store(found - 31 + lane, found + 1, spans, out, top_k)
    return spans


@triton.jit
def _emit(found, lane, best, i, from_j, sums, spans, out, top_k, MOST_K: tl.constexpr):
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
            spans = _put(found + n, lane, best, i, from_j + at, spans, out, top_k, MOST_K)
            rest = tl.where(rest == at, NO_INDEX, rest)
            n += 1
    else:
        j = from_j + (both & 262143)
        spans = _put(found, lane, best, i, j, spans, out, top_k, MOST_K)
    return hits, spans


@triton.jit
def _count(key, floor, PER: tl.constexpr):
    """[32] starts of each lane that reach ``floor``."""
    found = (key[0] >= floor).to(tl.int32)
    for r in tl.static_range(1, PER):
        found += (key[r] >= floor).to(tl.int32)
    return found


@triton.jit
def _first_equals(key, floor, room, PER: tl.constexpr):
    """``key``, of those equal to ``floor`` only the first ones, so that ``room`` reach it."""
    above = tl.zeros([32], tl.int32)
    equal = tl.zeros([32], tl.int32)
    for r in tl.static_range(PER):
        above += (key[r] > floor).to(tl.int32)
        equal += (key[r] == floor).to(tl.int32)
    rank = tl.sum(above, axis=0) + tl.cumsum(equal, axis=0) - equal
    found = ()
    for r in tl.static_range(PER):
        is_equal = key[r] == floor
        found = found + (tl.where(is_equal & (rank >= room), float("-inf"), key[r]),)
        rank += is_equal.to(tl.int32)
    return found


@triton.jit
def _list_start(scratch_ptr, place, key, at, wanted):
    bits = key.to(tl.uint32, bitcast=True).to(tl.int64)
    low = at.to(tl.uint32, bitcast=True).to(tl.int64)  # not extended by its sign: it has none
    tl.store(scratch_ptr + place, (bits << 32) | low, mask=wanted)


@triton.jit
def _floor(key, covered, top_k, PER: tl.constexpr, LIST: tl.constexpr):
    """A floor that k starts or more reach but, if there is one, no more than LIST.

    Returns the floor, and how many starts of each lane [32], and of all, reach it. Fewer than k only if
    there are no more; more than LIST only if too many are equal to the floor.
    """
    lowest = unordered(tl.full([], MINUS_INF_KEY + 1, tl.int32))
    floor = lowest
    if LIST < 32 * PER:
        # The first guess is between the largest and the least of the lanes' largest: with logits of
        # trained models, and with noise, two of three lists are found at once.
        peaks = ordered(lane_max(key, PER))
        peak_key = tl.max(peaks, axis=0)
        peak = unordered(peak_key)
        least = unordered(tl.min(tl.where(peaks > MINUS_INF_KEY, peaks, NO_INDEX), axis=0))
        guess = peak - (peak - least) * (0.65 if LIST <= 128 else 1.0)
        floor = tl.where((covered > LIST) & (guess > lowest), guess, lowest)
    mine = _count(key, floor, PER)
    total = tl.sum(mine, axis=0)
    if LIST < 32 * PER:
        # From there halve the numbers between one that enough starts reach (supposed to be less than the
        # least by twice the difference) and one that too few do.
        enough = total >= top_k
        low = tl.where(enough, floor, least - 2.0 * (peak - least))
        high = tl.where(enough, peak, floor)
        middle = 0.5 * low + 0.5 * high
        searching = ((total > LIST) | (total < top_k)) & (floor > lowest)
        while searching & (middle > low) & (middle < high):  # per halving
            floor = middle
            mine = _count(key, floor, PER)
            total = tl.sum(mine, axis=0)
            enough = total >= top_k
            low = tl.where(enough, floor, low)
            high = tl.where(enough, high, floor)
            middle = 0.5 * low + 0.5 * high
            searching = (total > LIST) | (total < top_k)
        # Where that led nowhere, halve the floats between the lowest and the peak.
        if (total > LIST) | ((total < top_k) & (floor > lowest)):  # rare
            floor = lowest
            mine = _count(key, floor, PER)
            total = tl.sum(mine, axis=0)
            low_key = ordered(floor).to(tl.int64)
            high_key = peak_key.to(tl.int64) + 1
            while (total > LIST) & (high_key - low_key > 1):  # per halving
                middle_key = (low_key + high_key) >> 1
                tried = _count(key, unordered(middle_key.to(tl.int32)), PER)
                reached = tl.sum(tried, axis=0)
                if reached >= top_k:
                    low_key = middle_key
                    mine = tried
                    total = reached
                else:
                    high_key = middle_key
            floor = unordered(low_key.to(tl.int32))
    return floor, mine, total


@triton.jit
def _candidates(scratch_ptr, key, at, covered, top_k, PER: tl.constexpr, LIST: tl.constexpr):
    """Up to LIST starts, the k best among them: `ordered` keys and tokens [LIST], through memory."""
    floor, mine, total = _floor(key, covered, top_k, PER, LIST)
    if total > LIST:  # rare
        key = _first_equals(key, floor, LIST, PER)
        mine = _count(key, floor, PER)
        total = tl.sum(mine, axis=0)
    place = tl.cumsum(mine, axis=0) - mine
    for r in tl.static_range(PER):
        wanted = key[r] >= floor
        _list_start(scratch_ptr, place, key[r], at + r, wanted)
        place += wanted.to(tl.int32)
    tl.debug_barrier()
    slot = tl.arange(0, LIST)
    both = tl.load(scratch_ptr + slot, mask=slot < total, other=0)
    list_key = ordered(as_float((both >> 32).to(tl.int32)))
    tl.debug_barrier()
    return (
        tl.where(slot < total, list_key, NO_KEY),
        tl.where(slot < total, both.to(tl.int32), NO_INDEX),
    )


@triton.jit
def _finite_max(x, extra, PER: tl.constexpr):
    """Maximum of the lanes' tokens and ``extra``; NaN for a NaN or +inf."""
    highest = tl.zeros([32], tl.float32) + extra
    bad = (highest < float("inf")) == 0
    for r in tl.static_range(PER):
        highest = tl.maximum(highest, x[r])
        bad = bad | ((x[r] < float("inf")) == 0)
    found = unordered(tl.max(ordered(highest), axis=0))
    return tl.where(tl.max(bad.to(tl.int32), axis=0) > 0, float("nan"), found)


@triton.jit
def _make_list(
    list_id,
    lane,
    least,
    out_ptr,
    scratch_ptr,
    start_ptr,
    end_ptr,
    context_ptr,
    null_position_ptr,
    mask_ptr,
    row_offset_ptr,
    row_stride,
    n_logits,
    n_lists,
    n_tiles,
    top_k,
    null,
    PER: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_LEN: tl.constexpr,
    LIST: tl.constexpr,
    MOST_K: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SHIFT: tl.constexpr,
    FINAL: tl.constexpr,
    TILED: tl.constexpr,
    STARTS: tl.constexpr,
    ALIGNED: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """The list of one tile; see `span_topk_kernel`. Scores below ``least`` may be left out."""
    chunk = list_id
    tile_id = 0
    if TILED:
        chunk = list_id // n_tiles
        tile_id = list_id - chunk * n_tiles

    # The chunk's row and range. Bounds are clipped, so that no wrong value reads foreign memory.
    if row_offset_ptr is not None:
        base = tl.load(row_offset_ptr + chunk)
        row_len = tl.minimum(n_logits - base, 2147483647).to(tl.int32)
    else:
        base = chunk.to(tl.int64) * row_stride
        row_len = row_stride
    if context_ptr is not None:
        first = tl.maximum(tl.load(context_ptr + 2 * chunk.to(tl.int64)), 0)
        last = tl.minimum(tl.load(context_ptr + 2 * chunk.to(tl.int64) + 1), row_len)
    else:
        first = 0
        last = row_len
    if null_position_ptr is not None:
        null = tl.load(null_position_ptr + chunk)
    has_null = (null >= 0) & (null < row_len)
    null = tl.where(has_null, null, -1)
    start_row_ptr = start_ptr + base
    end_row_ptr = end_ptr + base
    row_mask_ptr = mask_ptr
    if mask_ptr is not None:
        row_mask_ptr = mask_ptr + base
    null_s = tl.load(start_row_ptr + null, mask=has_null, other=float("-inf")).to(tl.float32)
    null_e = tl.load(end_row_ptr + null, mask=has_null, other=float("-inf")).to(tl.float32)
    low = first
    high = last
    if NULL_IN_SPANS:
        low = tl.where(has_null, tl.minimum(low, null), low)
        high = tl.where(has_null, tl.maximum(high, null + 1), high)

    # 1. The tile: tokens relative to an aligned origin at or before its first one.
    begin = base + low + tile_id * STARTS
    origin = (begin >> 2) * VEC
    before = (begin - origin).to(tl.int32)
    covered = high - low - tile_id * STARTS + before  # tokens from the origin to the range's end
    if not TILED and not ALIGNED:
        too_wide = covered > 32 * PER
        origin = tl.where(too_wide, begin, origin)
        covered = tl.where(too_wide, covered - before, covered)
        before = tl.where(too_wide, 0, before)
    delta = (origin - base).to(tl.int32)  # from tokens of the tile to positions in the row
    tile = (lane, origin, delta, before, covered, first, last)
    inside = _inside(tile, 0, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, ALIGNED, True)
    s = _logits(start_ptr, tile, 0, inside, n_logits, PER, ALIGNED)
    e = _logits(end_ptr, tile, 0, inside, n_logits, PER, ALIGNED)
    own_e = e
    if TILED:  # the ends after the own ones are counted by the next tile
        own = before + STARTS - lane * PER
        own_s = ()
        own_e = ()
        for r in tl.static_range(PER):
            own_s = own_s + (tl.where(own > r, s[r], float("-inf")),)
            own_e = own_e + (tl.where(own > r, e[r], float("-inf")),)
        s = own_s

    # 2. The normalizer. The null position joins it unless it is a context token already.
    counted = (null >= first) & (null < last)
    if mask_ptr is not None:
        counted = counted & (tl.load(row_mask_ptr + null, mask=has_null & counted, other=0) != 0)
    if NULL_IN_SPANS:
        counted = has_null
    if TILED:
        counted = counted | (tile_id > 0)
    extra_s = tl.where(counted, float("-inf"), null_s)
    extra_e = tl.where(counted, float("-inf"), null_e)
    if NORMALIZE:
        peak_s, mass_s = peak_and_mass(s, extra_s, lane, PER)
        peak_e, mass_e = peak_and_mass(own_e, extra_e, lane, PER)
        if FINAL or SHIFT:
            norm = peak_s + peak_e + tl.log2(mass_s * mass_e) * LN_2
        if not FINAL:
            norm_s = peak_s + tl.log2(mass_s) * LN_2
            norm_e = peak_e + tl.log2(mass_e) * LN_2
    else:
        norm_s = _finite_max(s, extra_s, PER)
        norm_e = _finite_max(own_e, extra_e, PER)
        norm = norm_s + norm_e
    # A chunk that is longer than the caller said must not lose its tail without a word.
    if FINAL:
        if not ALIGNED:
            norm = tl.where(covered > 32 * PER, float("nan"), norm)
        nonfinite = (norm < float("inf")) == 0
    else:
        if TILED:
            norm_s = tl.where(high - low > n_tiles * STARTS, float("nan"), norm_s)
        elif not ALIGNED:
            norm_s = tl.where(covered > 32 * PER, float("nan"), norm_s)
        nonfinite = (norm_s + norm_e < float("inf")) == 0
    shift = 0.0
    if SHIFT:
        shift = tl.where(norm > float("-inf"), norm, 0.0)

    # What belongs to the list as a whole.
    field = n_lists.to(tl.int64) * top_k
    per_list_ptr = out_ptr + 4 * field + list_id
    if FINAL:
        null_score = tl.where(has_null, null_s + null_e - shift, float("-inf"))
        null_score = tl.where(nonfinite, float("nan"), null_score)
        flags_ptr = (out_ptr + 4 * field + n_lists).to(tl.pointer_type(tl.int8))
        tl.store(flags_ptr + list_id, nonfinite.to(tl.int8))
    else:
        no_null = has_null == 0
        if TILED:
            no_null = no_null | (tile_id > 0)
        null_score = tl.where(no_null, float("inf"), null_s + null_e - shift)
        tl.store(per_list_ptr + n_lists, as_bits(norm_s))
        tl.store(per_list_ptr + 2 * n_lists, as_bits(norm_e))
    tl.store(per_list_ptr, as_bits(null_score))

    # 3. The best span of every start.
    if SPAN is None:
        key = _best_unlimited(
            s, e, end_ptr, tile, mask_ptr, n_logits, null, PER, NULL_IN_SPANS, TILED, ALIGNED
        )
    elif SPAN <= 32:
        key = _best_near(s, e, lane, PER, SPAN)
    else:
        key = _best_far(
            s, e, end_ptr, tile, mask_ptr, n_logits, null, PER, SPAN, NULL_IN_SPANS, TILED, ALIGNED
        )

    # 4 and 5. The best starts, and their spans.
    list_ptr = out_ptr + list_id.to(tl.int64) * top_k
    at = lane * PER
    found = 0
    range_end = delta + covered  # of positions in the row
    if LIST == 1:
        best = tl.max(ordered(lane_max(key, PER)), axis=0)
        if POSITIONS:
            if (best > MINUS_INF_KEY) & (nonfinite == 0):
                i, end = _best_span(
                    best, key, at, range_end, start_row_ptr, end_row_ptr, row_mask_ptr, tile, null,
                    PER, SPAN, BLOCK_LEN, NULL_IN_SPANS,
                )  # fmt: skip
                tl.store(list_ptr, as_bits(unordered(best) - shift))
                tl.store(list_ptr + field, i)
                tl.store(list_ptr + 2 * field, end)
                tl.store(list_ptr + 3 * field, chunk)
            else:  # rare
                tl.store(list_ptr, as_bits(_no_score(nonfinite, FINAL)))
                tl.store(list_ptr + field, -1)
                tl.store(list_ptr + 2 * field, -1)
                tl.store(list_ptr + 3 * field, -1)
        else:
            score = tl.where(nonfinite, float("-inf"), unordered(best) - shift)
            tl.store(list_ptr, as_bits(score))
    else:
        out = (list_ptr, field, chunk, shift, _no_score(nonfinite, FINAL))
        none = tl.full([32], -1, tl.int32)
        spans = (none, none, none)
        if nonfinite == 0:
            list_key, list_at = _candidates(scratch_ptr, key, at, covered, top_k, PER, LIST)
            best = tl.max(list_key, axis=0)
            lowest = tl.full([], MINUS_INF_KEY, tl.int32)
            if not FINAL:
                # Room for rounding: scores may have been computed in another order.
                reach = least + shift
                reach -= 1e-5 * (tl.abs(least) + tl.abs(reach) + 1.0)
                lowest = tl.where(least > float("-inf"), ordered(reach), lowest)
            while (found < top_k) & (best > lowest):  # per pop
                at_best = tl.min(tl.where(list_key == best, list_at, NO_INDEX), axis=0)
                i = at_best + delta
                if SPAN is not None and SPAN <= BLOCK_LEN:
                    _, sums = _sums_of(
                        i, i, start_row_ptr, end_row_ptr, row_mask_ptr, tile, null, SPAN,
                        BLOCK_LEN, NULL_IN_SPANS,
                    )  # fmt: skip
                    hits, spans = _emit(found, lane, best, i, i, sums, spans, out, top_k, MOST_K)
                    below = tl.where(sums < best, sums, NO_KEY)
                    found += hits
                else:
                    below = tl.full([BLOCK_LEN], NO_KEY, tl.int32)
                    from_j = i
                    until = range_end
                    if SPAN is not None:
                        until = tl.minimum(until, i + SPAN)
                    while from_j < until:  # per block
                        _, sums = _sums_of(
                            i, from_j, start_row_ptr, end_row_ptr, row_mask_ptr, tile, null, SPAN,
                            BLOCK_LEN, NULL_IN_SPANS,
                        )  # fmt: skip
                        hits, spans = _emit(
                            found, lane, best, i, from_j, sums, spans, out, top_k, MOST_K
                        )
                        lower = tl.where(sums < best, sums, NO_KEY)
                        below = tl.maximum(below, lower)
                        found += hits
                        from_j += BLOCK_LEN
                next_best = tl.max(below, axis=0)
                list_key = tl.where(list_at == at_best, next_best, list_key)
                best = tl.max(list_key, axis=0)
        begun = 0
        if MOST_K > 32:
            begun = found & -32
        for block in tl.static_range(MOST_K // 32):
            _store(begun + 32 * block + lane, found, spans, out, top_k)


@triton.jit(
    # Few kernels: none for a 1, or a multiple of 16, or for a view that begins in the middle.
    do_not_specialize_on_alignment=[
        "context_ptr",
        "null_position_ptr",
        "row_offset_ptr",
        "best_ptr",
        "chunk_norm_ptr",
        "floor_ptr",
        "question_id_ptr",
    ],
    do_not_specialize=[
        "row_stride",
        "n_logits",
        "n_lists",
        "n_tiles",
        "top_k",
        "null",
        "lists_per_program",
        "second_round",
    ],
)
def span_topk_kernel(
    out_ptr,
    scratch_ptr,
    start_ptr,
    end_ptr,
    context_ptr,
    null_position_ptr,
    mask_ptr,
    row_offset_ptr,
    best_ptr,
    chunk_norm_ptr,
    floor_ptr,
    question_id_ptr,
    row_stride,
    n_logits,
    n_lists,
    n_tiles,
    top_k,
    null,
    lists_per_program,
    second_round,
    PER: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_LEN: tl.constexpr,
    LIST: tl.constexpr,
    MOST_K: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SHIFT: tl.constexpr,
    FINAL: tl.constexpr,
    TILED: tl.constexpr,
    STARTS: tl.constexpr,
    ALIGNED: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Lists of the ``top_k`` best spans of the tiles of chunks, one after the other.

    ``out_ptr`` takes, all of 4 bytes, field after field: score, start, end and chunk [n_lists, top_k];
    the null score [n_lists]; and the log-sum-exps of the starts and the ends [n_lists] each or, with
    FINAL, where a chunk is a question of its own and its list the answer, one byte [n_lists] that says
    whether its logits were not finite. Scores are normalized with SHIFT, else sums of logits.

    Without POSITIONS no start, end and chunk are written.

    In the second round only lists whose best span, known from the first, reaches the question's
    floor are made, and of these only the spans that do.
    """
    lane = tl.arange(0, 32)
    pid = tl.program_id(0)
    first_list = pid * lists_per_program
    list_ids = first_list + lane
    wanted = (lane < lists_per_program) & (list_ids < n_lists)
    least = tl.full([32], float("-inf"), tl.float32)
    if best_ptr is not None:
        if second_round != 0:  # rare
            chunk = list_ids // n_tiles
            question = tl.load(question_id_ptr + chunk, mask=wanted, other=0).to(tl.int64)
            floor = tl.load(floor_ptr + question * top_k + (top_k - 1), mask=wanted, other=0)
            least = as_float(floor)
            best = as_float(tl.load(best_ptr + list_ids, mask=wanted, other=0))
            if chunk_norm_ptr is not None:
                norm = tl.load(chunk_norm_ptr + chunk, mask=wanted, other=0.0)
                wanted = wanted & (best - norm >= least)
                least += norm
            else:
                wanted = wanted & (best >= least)
    scratch_ptr += pid.to(tl.int64) * LIST
    turn = tl.min(tl.where(wanted, lane, 32), axis=0)
    while turn < 32:  # per list
        # 0, which the compiler does not know: so what depends on it is not computed before the loop and
        # kept in registers, of which there are too few.
        zero = turn >> 5
        least_here = tl.full([], float("-inf"), tl.float32)
        if best_ptr is not None:
            least_here = unordered(tl.max(tl.where(lane == turn, ordered(least), NO_KEY), axis=0))
        _make_list(
            first_list + turn,
            lane + zero,
            least_here,
            out_ptr,
            scratch_ptr + zero,
            start_ptr,
            end_ptr,
            context_ptr,
            null_position_ptr,
            mask_ptr,
            row_offset_ptr,
            row_stride,
            n_logits,
            n_lists,
            n_tiles,
            top_k,
            null,
            PER,
            SPAN,
            BLOCK_LEN,
            LIST,
            MOST_K,
            NULL_IN_SPANS,
            NORMALIZE,
            SHIFT,
            FINAL,
            TILED,
            STARTS,
            ALIGNED,
            POSITIONS,
        )
        turn = tl.min(tl.where(wanted & (lane > turn), lane, 32), axis=0)


class Tuning(NamedTuple):
    """What a measurement decides.

    Attributes:
        list_size: starts that a list of 2 to 32 spans has room for: 64 or 128.
        programs_per_sm: programs on a multiprocessor, where there are lists for so many.
        lists_per_program: most lists that a program makes, one after the other. More of them take less
            scratch memory; fewer end at nearly the same time on all multiprocessors.
        max_registers: registers of a thread, in kernels that need not spill others for it: 64 let 32
            warps run on a multiprocessor. None for as many as the compiler takes.
    """

    list_size: int = 64
    programs_per_sm: int = 32
    lists_per_program: int = 8
    max_registers: int | None = 64


TUNING = Tuning()
PER_LANE = (4, 8, 12, 16, 24, 32)  # tokens of a lane, by the width of the rows
MAX_TOP_K = 128
LARGE_LIST = 256  # starts that a list of 33 to 128 spans has room for


class Shape(NamedTuple):
    """How chunks are cut up.

    Attributes:
        per: tokens of a lane.
        span: most tokens of a span; None for no limit.
        block_len: ends of a start that are looked at together.
        tiles: tiles of a chunk.
        starts: starts of a tile.
    """

    per: int
    span: int | None
    block_len: int
    tiles: int
    starts: int


@functools.cache
def shape_of(width: int, max_answer_len: int | None) -> Shape:
    """How chunks of at most ``width`` tokens are cut up for spans of ``max_answer_len`` tokens.

    A table, not a search: autotuning would synchronize and could not be captured in a CUDA graph. Few
    different ones: each is a kernel to compile.
    """
    span = None if max_answer_len is None or max_answer_len >= width else max_answer_len
    # Beyond 512 tokens many registers leave room for few warps: only where it saves the most.
    widest = 16 if span is None or span > 32 else 32
    per = next((x for x in PER_LANE if width <= 32 * x and x <= widest), 16)
    starts, tiles = 32 * per, 1
    if width > starts:
        # A tile begins up to 3 tokens before its first start, and ends near its last one are its own.
        starts -= 4 if span is None or span > 32 else -(-(span + 2) // 4) * 4
        tiles = triton.cdiv(width, starts)
    # Ends are looked at 128 at a time where there are more.
    block_len = 32 if span is not None and span <= 32 else 128
    return Shape(per, span, block_len, tiles, starts)


@functools.cache
def _programs(device: torch.device, per_multiprocessor: int) -> int:
    """Programs that keep a device busy; few where there is no GPU, so that each has several lists."""
    if device.type != "cuda":
        return 4
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count * per_multiprocessor


@functools.cache
def _options(max_registers: int | None) -> dict[str, Any]:
    """For the compiler. A warp has all it needs; sums must be the same in every kernel."""
    options: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": False}
    if max_registers is not None and torch.version.hip is None:
        options["maxnreg"] = max_registers
    return options


def span_topk(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor | None,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    null_position: Tensor | int,
    *,
    n_chunks: int,
    top_k: int,
    shape: Shape,
    scoring: str,
    null_in_spans: bool,
    final: bool,
    positions: bool = True,
    second_round: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None,
    tuning: Tuning = TUNING,
) -> Tensor:
    """Launch `span_topk_kernel` on checked arguments.

    Args:
        start_logits: [C, N] or flat [T], contiguous.
        end_logits: the same.
        context: [C, 2] int32; None: the whole rows.
        context_mask: bool like the logits.
        row_offset: [C] int64, with flat logits.
        null_position: [C] int32, or one for all chunks.
        n_chunks: C.
        top_k: k, spans per list, at most 128.
        shape: from `shape_of`.
        scoring: "probability", "shared" or "logit".
        null_in_spans: the null position may start or end a span.
        final: the lists are the answer: one per chunk, scores normalized.
        positions: False, which goes with k = 1 and without ``final``: only the scores are wanted, and
            the other fields of spans are left as they are.
        second_round: lists of the best spans from the first round, the questions' k best of these, [C]
            int32 questions, and normalizers of chunks or None: only lists are made that can matter.
        tuning: choices that change no answer.

    Returns:
        With L = C * shape.tiles lists: [L * (4 * k + 3)] int32, or under ``final``
        [L * (4 * k + 1) + L / 4], fields as `span_topk_kernel` describes them.
    """
    device = start_logits.device
    n_lists = n_chunks * shape.tiles
    words = n_lists * (4 * top_k + 1)
    out = torch.empty(
        words + (-(-n_lists // 4) if final else 2 * n_lists), dtype=torch.int32, device=device
    )
    if not n_lists:
        return out
    list_size = 1 if top_k == 1 else tuning.list_size if top_k <= 32 else LARGE_LIST
    list_size = min(list_size, 32 * shape.per)
    per_program = -(-n_lists // _programs(device, tuning.programs_per_sm))
    per_program = min(tuning.lists_per_program, per_program)
    programs = -(-n_lists // per_program)
    scratch = out
    if list_size > 1:
        scratch = torch.empty(programs * list_size, dtype=torch.int64, device=device)
    n_logits = start_logits.numel()
    row_stride = 0 if row_offset is not None else n_logits // n_chunks
    tiled = shape.tiles > 1
    nulls = isinstance(null_position, Tensor)
    aligned = start_logits.data_ptr() % 16 == 0, end_logits.data_ptr() % 16 == 0
    fits = not tiled and shape.per <= 12 and shape.block_len == 32 and top_k <= 32
    fits = fits and all(aligned)
    max_registers = tuning.max_registers
    if not (fits and final) or context_mask is not None or null_in_spans:
        max_registers = None
    best = floor = question_id = chunk_norm = None
    if second_round is not None:
        best, floor, question_id, chunk_norm = second_round
    elif not final and top_k > 1:
        best = floor = question_id = out  # the same kernel as in a second round; not read
    constants = (
        shape.per,
        shape.span,
        shape.block_len,
        list_size,
        32 if top_k <= 32 else MAX_TOP_K,
        null_in_spans,
        scoring != "logit",
        scoring != "logit" and (final or (scoring == "probability" and not tiled)),
        final,
        tiled,
        shape.starts,
        row_offset is None and not tiled and row_stride % 4 == 0,
        positions,
    )
    key = (
        device.index,
        start_logits.dtype,
        *aligned,
        None if context_mask is None else context_mask.data_ptr() % 16 == 0,
        context is None,
        nulls,
        row_offset is None,
        best is None,
        chunk_norm is None,
        n_logits >= 1 << 31,
        max_registers,
        constants,
    )
    arguments = (
        out,
        scratch,
        start_logits,
        end_logits,
        context,
        null_position if nulls else None,
        context_mask,
        row_offset,
        best,
        chunk_norm,
        floor,
        question_id,
        row_stride,
        n_logits,
        n_lists,
        shape.tiles,
        top_k,
        0 if nulls else null_position,
        per_program,
        0 if second_round is None else 1,
        *constants,
    )
    launch(span_topk_kernel, programs, key, arguments, _options(max_registers))
    return out
