"""Step 1 of a list: the chunk's row, the tile that the list is made of, and its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .lanes import VEC, load_lanes


class Config(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        PER: tokens of a lane.
        SPAN: most tokens of a span; None for no limit.
        BLOCK_LEN: ends of a start that are looked at together.
        LIST: starts that the list of step 4 has room for; 1 where only the best span is wanted.
        MOST_K: 32 or 128, no less than the spans that are wanted.
        NULL_IN_SPANS: the null position may start or end a span.
        NORMALIZE: the normalizer is wanted; else only whether the logits are finite.
        SHIFT: it is subtracted from the scores.
        FINAL: a list is the answer to a question.
        TILED: a chunk may have several tiles.
        STARTS: starts of a tile.
        ALIGNED: all rows begin at multiples of 4.
        POSITIONS: start, end and chunk of spans are written.
        MASKED: there is a mask of tokens.
    """

    PER: int
    SPAN: int | None
    BLOCK_LEN: int
    LIST: int
    MOST_K: int
    NULL_IN_SPANS: bool
    NORMALIZE: bool
    SHIFT: bool
    FINAL: bool
    TILED: bool
    STARTS: int
    ALIGNED: bool
    POSITIONS: bool
    MASKED: bool


class Batch(NamedTuple):
    """What a call decodes, all of it, as `span_topk_kernel` takes it."""

    start_ptr: Any
    end_ptr: Any
    context_ptr: Any
    null_position_ptr: Any
    mask_ptr: Any
    row_offset_ptr: Any
    row_stride: Any
    n_logits: Any
    n_lists: Any
    n_tiles: Any
    top_k: Any
    null: Any


class Row(NamedTuple):
    """A chunk's row of logits. Positions are counted from its beginning.

    Attributes:
        base: where it begins in the tensors of logits.
        start_ptr: its start logits.
        end_ptr: its end logits.
        mask_ptr: its mask, where there is one.
        first: position of the context's first token.
        last: position after its last one.
        null: the null position; -1 for none.
        has_null: whether there is one.
        null_s: start logit there; -inf for none.
        null_e: end logit there.
        low: first position that may start or end a span.
        high: the position after the last one.
    """

    base: Any
    start_ptr: Any
    end_ptr: Any
    mask_ptr: Any
    first: Any
    last: Any
    null: Any
    has_null: Any
    null_s: Any
    null_e: Any
    low: Any
    high: Any


class Tile(NamedTuple):
    """The part of a row that a list's starts are in. Tokens are counted from ``origin``.

    Attributes:
        number: 0 for the row's first tile.
        lane: [32] numbers of the lanes.
        origin: where it begins in the tensors of logits, a multiple of 4 if need be.
        delta: added to a token gives its position in the row.
        before: tokens before the tile's first start.
        covered: tokens up to the end of the row's range: all ends of the starts.
    """

    number: Any
    lane: Any
    origin: Any
    delta: Any
    before: Any
    covered: Any


@triton.jit
def row_of(chunk, batch, config: tl.constexpr):
    """The `Row` of a chunk. Bounds are clipped, so that no wrong value reads foreign memory."""
    if batch.row_offset_ptr is not None:
        base = tl.load(batch.row_offset_ptr + chunk)
        row_len = tl.minimum(batch.n_logits - base, 2147483647).to(tl.int32)
    else:
        base = chunk.to(tl.int64) * batch.row_stride
        row_len = batch.row_stride
    if batch.context_ptr is not None:
        first = tl.maximum(tl.load(batch.context_ptr + 2 * chunk.to(tl.int64)), 0)
        last = tl.minimum(tl.load(batch.context_ptr + 2 * chunk.to(tl.int64) + 1), row_len)
    else:
        first = 0
        last = row_len
    null = batch.null
    if batch.null_position_ptr is not None:
        null = tl.load(batch.null_position_ptr + chunk)
    has_null = (null >= 0) & (null < row_len)
    null = tl.where(has_null, null, -1)
    start_ptr = batch.start_ptr + base
    end_ptr = batch.end_ptr + base
    # A tuple that is returned holds no None.
    mask_ptr = start_ptr
    if config.MASKED:
        mask_ptr = batch.mask_ptr + base
    null_s = tl.load(start_ptr + null, mask=has_null, other=float("-inf")).to(tl.float32)
    null_e = tl.load(end_ptr + null, mask=has_null, other=float("-inf")).to(tl.float32)
    low = first
    high = last
    if config.NULL_IN_SPANS:
        low = tl.where(has_null, tl.minimum(low, null), low)
        high = tl.where(has_null, tl.maximum(high, null + 1), high)
    return Row(
        base, start_ptr, end_ptr, mask_ptr, first, last, null, has_null, null_s, null_e, low, high
    )


@triton.jit
def tile_of(number, lane, row, config: tl.constexpr):
    """The `Tile` of this number; its origin is aligned, at or before its first token."""
    begin = row.base + row.low + number * config.STARTS
    origin = (begin >> 2) * VEC
    before = (begin - origin).to(tl.int32)
    covered = row.high - row.low - number * config.STARTS + before
    if not config.TILED and not config.ALIGNED:
        too_wide = covered > 32 * config.PER
        origin = tl.where(too_wide, begin, origin)
        covered = tl.where(too_wide, covered - before, covered)
        before = tl.where(too_wide, 0, before)
    delta = (origin - row.base).to(tl.int32)
    return Tile(number, lane, origin, delta, before, covered)


@triton.jit
def is_inside(position, unmasked, row, config: tl.constexpr):
    """Whether tokens may start or end a span; ``unmasked`` is what the mask has there, or None."""
    inside = (position >= row.first) & (position < row.last)
    if unmasked is not None:
        inside = inside & (unmasked != 0)
    if config.NULL_IN_SPANS:
        inside = inside | (position == row.null)
    return inside


@triton.jit
def _inside(shift, batch, row, tile, OWN: tl.constexpr, config: tl.constexpr):
    """Which tokens of the lanes may start or end a span: PER tensors [32] bool.

    The tokens are ``shift`` further on than the tile's own; OWN says that it is 0.
    """
    at = tile.lane * config.PER + shift
    found = ()
    if not config.MASKED and not config.NULL_IN_SPANS:
        ahead = tile.covered - at
        behind = tile.before - at
        for r in tl.static_range(config.PER):
            if OWN and r < VEC - 1:
                found = found + ((ahead > r) & (behind <= r),)
            else:
                found = found + (ahead > r,)
    else:
        if config.MASKED:
            allowed = _load(batch.mask_ptr, shift, batch, tile, config)
        for r in tl.static_range(config.PER):
            unmasked = None
            if config.MASKED:
                unmasked = allowed[r]
            inside = is_inside(at + (tile.delta + r), unmasked, row, config)
            if OWN and r < VEC - 1:
                inside = inside & (tile.before - at <= r)
            found = found + (inside,)
    return found


@triton.jit
def _load(ptr, shift, batch, tile, config: tl.constexpr):
    """What a tensor like the logits has for the lanes' tokens, ``shift`` further on."""
    count = tile.covered - shift
    origin = tile.origin + shift
    return load_lanes(ptr, origin, tile.lane, count, batch.n_logits, config.PER, config.ALIGNED)


@triton.jit
def _logits(ptr, shift, inside, batch, tile, config: tl.constexpr):
    """Logits of the lanes' tokens, ``shift`` further on than the tile's; -inf where not inside."""
    x = _load(ptr, shift, batch, tile, config)
    found = ()
    for r in tl.static_range(config.PER):
        found = found + (tl.where(inside[r], x[r].to(tl.float32), float("-inf")),)
    return found


@triton.jit
def logits_of(batch, row, tile, config: tl.constexpr):
    """Logits of the tile's starts; of all ends on its lanes; and of the ends that it has to count.

    The ends after its own ones are counted by the next tile.
    """
    inside = _inside(0, batch, row, tile, True, config)
    s = _logits(batch.start_ptr, 0, inside, batch, tile, config)
    e = _logits(batch.end_ptr, 0, inside, batch, tile, config)
    own_s = s
    own_e = e
    if config.TILED:
        own = tile.before + config.STARTS - tile.lane * config.PER
        own_s = ()
        own_e = ()
        for r in tl.static_range(config.PER):
            own_s = own_s + (tl.where(own > r, s[r], float("-inf")),)
            own_e = own_e + (tl.where(own > r, e[r], float("-inf")),)
    return own_s, e, own_e


@triton.jit
def later_ends(shift, batch, row, tile, config: tl.constexpr):
    """End logits ``shift`` tokens further on than the tile's own."""
    inside = _inside(shift, batch, row, tile, False, config)
    return _logits(batch.end_ptr, shift, inside, batch, tile, config)
