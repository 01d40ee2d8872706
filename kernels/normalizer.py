"""Step 2 of a list: the log-sum-exps of its logits, or whether these are finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .lanes import LN_2, ordered, peak_and_mass, unordered


class Normalizer(NamedTuple):
    """What a list's scores are normalized with.

    Attributes:
        start: log-sum-exp of the start logits; NaN for a NaN or +inf.
        end: that of the end logits.
        shift: what to subtract from the sums of logits.
        nonfinite: whether a logit is NaN or +inf, or the chunk is longer than the caller said.
    """

    start: Any
    end: Any
    shift: Any
    nonfinite: Any


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
def _null_logits(row, tile, config: tl.constexpr):
    """Start and end logit of the null position; -inf where it is counted as a token already."""
    counted = (row.null >= row.first) & (row.null < row.last)
    if config.MASKED:
        unmasked = tl.load(row.mask_ptr + row.null, mask=row.has_null & counted, other=0)
        counted = counted & (unmasked != 0)
    if config.NULL_IN_SPANS:
        counted = row.has_null
    if config.TILED:
        counted = counted | (tile.number > 0)
    null_s = tl.where(counted, float("-inf"), row.null_s)
    null_e = tl.where(counted, float("-inf"), row.null_e)
    return null_s, null_e


@triton.jit
def normalizer_of(s, e, n_tiles, row, tile, config: tl.constexpr):
    """The `Normalizer` of the starts ``s``, the ends ``e`` and the null position."""
    null_s, null_e = _null_logits(row, tile, config)
    # What is not used of the three sums is not computed.
    if config.NORMALIZE:
        peak_s, mass_s = peak_and_mass(s, null_s, tile.lane, config.PER)
        peak_e, mass_e = peak_and_mass(e, null_e, tile.lane, config.PER)
        both = peak_s + peak_e + tl.log2(mass_s * mass_e) * LN_2
        start = peak_s + tl.log2(mass_s) * LN_2
        end = peak_e + tl.log2(mass_e) * LN_2
    else:
        start = _finite_max(s, null_s, config.PER)
        end = _finite_max(e, null_e, config.PER)
        both = start + end
    # A chunk that is longer than the caller said must not lose its tail without a word.
    if config.FINAL:
        if not config.ALIGNED:
            both = tl.where(tile.covered > 32 * config.PER, float("nan"), both)
        nonfinite = (both < float("inf")) == 0
    else:
        if config.TILED:
            too_long = row.high - row.low > n_tiles * config.STARTS
            start = tl.where(too_long, float("nan"), start)
        elif not config.ALIGNED:
            start = tl.where(tile.covered > 32 * config.PER, float("nan"), start)
        nonfinite = (start + end < float("inf")) == 0
    shift = 0.0
    if config.SHIFT:
        shift = tl.where(both > float("-inf"), both, 0.0)
    return Normalizer(start, end, shift, nonfinite)
