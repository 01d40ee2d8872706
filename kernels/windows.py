"""Step 3 of a list: the best span of every start, ``s[i] + max(e[i : i + max_answer_len])``.

A window of ends is the rest of its start's lane, whole lanes, and the beginning of a later lane:

    lane         l              l + 1           l + 2           l + 3
    token   . . . i x x x | x x x x x x x | x x x x x x x | x x x . . . .
                 suffix         whole           whole       prefix

so the prefix and suffix maxima of the lanes, PER - 1 maxima each, serve all windows (the algorithm of
van Herk and of Gil and Werman), and a whole lane is its last prefix.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .lanes import earlier_max, further, lane_max, later_max, ordered, unordered
from .tiles import later_ends


@triton.jit
def best_sums(s, e, batch, row, tile, config: tl.constexpr):
    """The largest sum of every start ``s`` and an end of its window: PER tensors [32] float32."""
    if config.SPAN is None:
        found = _unlimited(s, e, batch, row, tile, config)
    elif config.SPAN <= 32:
        found = _near(s, e, tile.lane, config.PER, config.SPAN)
    else:
        found = _far(s, e, batch, row, tile, config)
    return found


@triton.jit
def _suffix_max(e, PER: tl.constexpr):
    """Maximum of a lane's tokens from each one on: ``found[PER - 1 - r]`` from token ``r`` on."""
    found = (e[PER - 1],)
    for t in tl.static_range(1, PER):
        found = found + (tl.maximum(found[t - 1], e[PER - 1 - t]),)
    return found


@triton.jit
def _max_of_all(x):
    """Maximum of ``x`` [32] over the lanes."""
    return unordered(tl.max(ordered(x), axis=0))


# ---- all ends from the start on -----------------------------------------------------------------------


@triton.jit
def _unlimited(s, e, batch, row, tile, config: tl.constexpr):
    """``s[i] + max(e[i:])``."""
    suffix = _suffix_max(e, config.PER)
    rest = later_max(suffix[config.PER - 1], tile.lane)
    if config.TILED:
        beyond = tl.full([32], float("-inf"), tl.float32)
        shift = 32 * config.PER
        while shift < tile.covered:  # per further
            later = later_ends(shift, batch, row, tile, config)
            beyond = tl.maximum(beyond, lane_max(later, config.PER))
            shift += 32 * config.PER
        rest = tl.maximum(rest, _max_of_all(beyond))
    found = ()
    for r in tl.static_range(config.PER):
        found = found + (s[r] + tl.maximum(suffix[config.PER - 1 - r], rest),)
    return found


# ---- short windows: all of them inside the lanes ------------------------------------------------------


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
def _near(s, e, lane, PER: tl.constexpr, SPAN: tl.constexpr):
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


# ---- long windows: the whole lanes between are a window of lanes --------------------------------------


@triton.jit
def _max_of_some_lanes(here, lanes: tl.constexpr, batch, row, tile, config: tl.constexpr):
    """Maximum of the lanes ``l + 1`` to ``l + lanes - 1``, 31 at most; ``here`` has one lane's."""
    # Windows of 1, 2, 4, ... lanes, then one more step to lanes - 1.
    after = tl.full([32], float("-inf"), tl.float32)
    if config.TILED:
        later = later_ends(32 * config.PER, batch, row, tile, config)
        after = lane_max(later, config.PER)
    for step in tl.static_range(0, 5):
        if (1 << step) < lanes - 1:
            shift = tl.minimum(1 << step, lanes - 1 - (1 << step))
            source = (tile.lane + shift) % 32
            stays = tile.lane + shift < 32
            moved = tl.gather(here, source, 0)
            moved_after = tl.gather(after, source, 0)
            here = tl.maximum(here, tl.where(stays, moved, moved_after))
            after = tl.maximum(after, tl.where(stays, moved_after, float("-inf")))
    between = tl.gather(here, (tile.lane + 1) % 32, 0)
    return tl.where(tile.lane < 31, between, tl.gather(after, tile.lane * 0, 0))


@triton.jit
def _max_of_many_lanes(here, lanes: tl.constexpr, batch, row, tile, config: tl.constexpr):
    """Maximum of the lanes ``l + 1`` to ``l + lanes - 1``, more than 31; ``here`` has one lane's.

    These are the tile's own later lanes, full rows of 32 lanes that all windows hold, and a beginning of
    two more rows.
    """
    full: tl.constexpr = lanes // 32
    more: tl.constexpr = lanes % 32
    between = later_max(here, tile.lane)
    if full > 1:
        shared = tl.full([32], float("-inf"), tl.float32)
        for n in range(1, full):  # per further
            later = later_ends(n * (32 * config.PER), batch, row, tile, config)
            shared = tl.maximum(shared, lane_max(later, config.PER))
        between = tl.maximum(between, _max_of_all(shared))
    shift = full * (32 * config.PER)
    begun = lane_max(later_ends(shift, batch, row, tile, config), config.PER)
    shift += 32 * config.PER
    begun_after = lane_max(later_ends(shift, batch, row, tile, config), config.PER)
    begun_after = earlier_max(begun_after, tile.lane)
    all_begun = _max_of_all(begun)
    begun = earlier_max(begun, tile.lane)
    # The lane of the two rows up to which a window goes; -1 for none.
    upto = tile.lane + (more - 1)
    early = tl.gather(begun, tl.maximum(upto, 0) % 32, 0)
    late = tl.gather(begun_after, tl.maximum(upto, 0) % 32, 0)
    begun = tl.where(upto < 32, early, tl.maximum(late, all_begun))
    return tl.maximum(between, tl.where(upto < 0, float("-inf"), begun))


@triton.jit
def _far(s, e, batch, row, tile, config: tl.constexpr):
    """``s[i] + max(e[i : i + SPAN])`` for long spans."""
    # The window's last lane, or the one after it.
    lanes: tl.constexpr = (config.SPAN - 1) // config.PER
    rest: tl.constexpr = (config.SPAN - 1) % config.PER
    suffix = _suffix_max(e, config.PER)
    between = tl.full([32], float("-inf"), tl.float32)
    if lanes > 32:
        between = _max_of_many_lanes(suffix[config.PER - 1], lanes, batch, row, tile, config)
    elif lanes > 1:
        between = _max_of_some_lanes(suffix[config.PER - 1], lanes, batch, row, tile, config)

    # The windows' last tokens: in the lane l + lanes, and the next one.
    shift = lanes * config.PER
    ends = later_ends(shift, batch, row, tile, config)
    if rest > 0:
        ends = ends + later_ends(shift + config.PER, batch, row, tile, config)
    prefix = ends[0]
    for t in tl.static_range(1, rest + 1):
        prefix = tl.maximum(prefix, ends[t])
    found = ()
    for r in tl.static_range(config.PER):
        if r > 0:
            prefix = tl.maximum(prefix, ends[r + rest])
        best = tl.maximum(tl.maximum(suffix[config.PER - 1 - r], between), prefix)
        found = found + (s[r] + best,)
    return found
