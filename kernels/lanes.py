"""A row of tokens on the lanes of one warp.

Lane ``l`` holds ``PER`` tokens that follow each other, as a tuple of ``PER`` tensors [32]:

    lane     0                1                         31
    token    0 1 ... PER-1  |  PER ... 2 PER-1  |  ...  |  31 PER ... 32 PER-1

So a row of 384 tokens takes 12 registers of every thread, is read 4 tokens at a time, and what lies
within a lane needs no talk between threads.

Numbers are compared as integers in the order of the floats, whose maximum over a warp is a single
instruction on NVIDIA GPUs since compute capability 8.0.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The lowest float32: in place of a peak of -inf, which nothing may be subtracted from.
LOWEST = tl.constexpr(-3.4028234663852886e38)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Of peaks below it LOG2_E times the peak is rounded by 0.004 at most.
LARGEST_PEAK = tl.constexpr(65536.0)
# ordered(-inf), a key below it, and an index above all.
MINUS_INF_KEY = tl.constexpr(-2139095041)
NO_KEY = tl.constexpr(-2147483648)
NO_INDEX = tl.constexpr(2147483647)
# as_bits of inf and of -inf.
INF_BITS = tl.constexpr(2139095040)
MINUS_INF_BITS = tl.constexpr(-8388608)
# Tokens that a lane loads at a time.
VEC = tl.constexpr(4)


@triton.jit
def as_bits(x):
    """The 32 bits of the float32 numbers ``x``."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def as_float(bits):
    """The float32 numbers that have these 32 ``bits``."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def ordered(x):
    """Integers in the order of the float32 numbers ``x``; 0.0 and -0.0 are equal."""
    bits = as_bits(x + 0.0)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered(key):
    """The float32 numbers whose `ordered` integers are ``key``."""
    return as_float(key ^ ((key >> 31) & 0x7FFFFFFF))


@triton.jit
def _load_by_fours(ptr, lane, count, PER: tl.constexpr):
    c = tl.arange(0, VEC)[None, :]
    found = ()
    for g in tl.static_range(PER // VEC):
        at = lane[:, None] * PER + g * VEC
        v = tl.load(ptr + (at + c), mask=(at < count) & (c >= 0), other=0)
        even, odd = tl.split(v.reshape(32, 2, 2))
        v0, v2 = tl.split(even)
        v1, v3 = tl.split(odd)
        found = found + (v0, v1, v2, v3)
    return found


@triton.jit
def _load_one_by_one(ptr, lane, count, PER: tl.constexpr):
    found = ()
    for r in tl.static_range(PER):
        at = lane * PER + r
        found = found + (tl.load(ptr + at, mask=at < count, other=0),)
    return found


@triton.jit
def load_lanes(ptr, origin, lane, count, n_elements, PER: tl.constexpr, ALIGNED: tl.constexpr):
    """Tokens ``origin`` and following on the lanes; what is past ``count`` of them is undefined.

    Four at a time where they lie so. ALIGNED says that they always do: ``origin`` is a multiple of 4,
    and the four around the last token are all in the tensor of ``n_elements``. Else it is looked at.
    """
    start = (origin >> 2) * VEC
    if ALIGNED:
        found = _load_by_fours(ptr + start, lane, count, PER)
    else:
        last_four = origin + (tl.minimum(count, 32 * PER) + 3) // 4 * 4
        if (start == origin) & (last_four <= n_elements):
            found = _load_by_fours(ptr + start, lane, count, PER)
        else:  # rare
            found = _load_one_by_one(ptr + origin, lane, count, PER)
    return found


@triton.jit
def lane_max(x, PER: tl.constexpr):
    """[32] maximum of every lane's tokens."""
    found = x[0]
    for r in tl.static_range(1, PER):
        found = tl.maximum(found, x[r])
    return found


@triton.jit
def further(x, lane, distance: tl.constexpr):
    """``x`` [32] of the lane that is ``distance`` lanes further on; -inf past the last."""
    y = tl.gather(x, tl.minimum(lane + distance, 31), 0)
    return tl.where(lane + distance < 32, y, float("-inf"))


@triton.jit
def later_max(x, lane):
    """Maximum of ``x`` [32] over all later lanes; -inf for the last."""
    found = further(x, lane, 1)
    for step in tl.static_range(5):
        found = tl.maximum(found, further(found, lane, 1 << step))
    return found


@triton.jit
def earlier_max(x, lane):
    """Maximum of ``x`` [32] over a lane and all earlier ones."""
    for step in tl.static_range(5):
        y = tl.gather(x, tl.maximum(lane - (1 << step), 0), 0)
        x = tl.maximum(x, y)
    return x


@triton.jit
def peak_and_mass(x, extra, lane, PER: tl.constexpr):
    """``peak`` and ``mass`` with ``mass * exp(peak) = exp(extra) + sum of exp(x)``.

    A NaN or +inf makes the mass NaN; if all are -inf it is 0.
    """
    peak = unordered(tl.max(ordered(tl.maximum(lane_max(x, PER), extra)), axis=0))
    extra = tl.where(lane == 0, extra, float("-inf"))
    if (peak > -LARGEST_PEAK) & (peak < LARGEST_PEAK):
        c = -peak * LOG2_E
        mass = tl.exp2(tl.fma(extra, LOG2_E, c))
        for r in tl.static_range(PER):
            mass += tl.exp2(tl.fma(x[r], LOG2_E, c))
    else:  # rare: what is lost when the product is rounded would be as large as the differences
        peak = tl.maximum(peak, LOWEST)
        mass = tl.exp2((extra - peak) * LOG2_E)
        for r in tl.static_range(PER):
            mass += tl.exp2((x[r] - peak) * LOG2_E)
    return peak, tl.sum(mass, axis=0)
