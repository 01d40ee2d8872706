"""Step 4 of a list: the starts that can matter, by way of scratch memory.

They are those that reach a floor, which k starts or more reach, but no more than the list has room for.
Below it none of the k best spans can lie.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .lanes import (
    MINUS_INF_KEY,
    NO_INDEX,
    NO_KEY,
    as_float,
    lane_max,
    ordered,
    unordered,
)


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
    """Write a start of every lane, where it is wanted: its sum and its token, as one number."""
    bits = key.to(tl.uint32, bitcast=True).to(tl.int64)
    # Not extended by its sign: it has none.
    low = at.to(tl.uint32, bitcast=True).to(tl.int64)
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
def candidates(scratch_ptr, key, tile, top_k, PER: tl.constexpr, LIST: tl.constexpr):
    """Up to LIST starts, the k best among them: `ordered` keys and tokens [LIST]."""
    at = tile.lane * PER
    floor, mine, total = _floor(key, tile.covered, top_k, PER, LIST)
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
