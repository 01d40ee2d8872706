"""The k best answer spans of every chunk, in one pass over its logits.

For a chunk with start logits ``s`` and end logits ``e`` over its context tokens, the kernel finds the k
largest of

    s[i] + e[j],    i <= j < i + max_answer_len,

and the log-sum-exp of ``s`` and of ``e`` over the context and the null position. That is all that the
scores need: ``log softmax(s)[i] + log softmax(e)[j]`` is the sum less both log-sum-exps, a constant of
the chunk, so the order of the sums is the order of the scores.

Steps, all in registers, for a block of tokens seen as a [R, C] tensor (token ``r * C + c``; C is 32, so
that a row is a warp's lanes and moving along it is one shuffle):

1. load ``s``, ``e``, and ``e`` shifted by one row (from L1: those tokens were just read);
2. log-sum-exp of ``s`` and of ``e``;
3. ``best[i] = s[i] + max(e[i : i + max_answer_len])``, the best span of every start. The sliding maximum
   doubles its window: 1, 2, 4, ... tokens, each the maximum of the last one and itself shifted, where
   what leaves a row comes in from the next row's window;
4. pop k times: the best start, its at most max_answer_len ends (read again from L1), the ends that give
   that best sum, and the start's next lower sum put back in its place. The k best spans come out in
   order, with no sort and no N x N matrix. Sums are compared as integers in the order of the floats,
   whose maximum over a warp is a single instruction on NVIDIA GPUs since compute capability 8.0.

Longer rows are cut into tiles of starts; a tile's ends may lie in the next tile, and every tile makes a
list of k spans of its own. `merge_topk` merges the lists of a question.

Ties: equal sums in the order of (start, end). All ends of a start with the same sum are emitted at once,
since nothing comes between them. NaN and +inf: the log-sum-exp becomes NaN, which marks the question.
Accumulation: float32, whatever the dtype of the logits. Sums that are -inf are no candidates.

Bytes per chunk of N tokens: 2 * N * itemsize read, 16 read (context, null position, offset), and
12 * k + 12 written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOWEST = tl.constexpr(-3.4028234663852886e38)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
ORDERED_MINUS_INF = tl.constexpr(-2139095041)  # _ordered(-inf)
NO_KEY = tl.constexpr(-2147483648)
NO_INDEX = tl.constexpr(2147483647)

MAX_BLOCK = 2048  # tokens that one program holds
MAX_WINDOW = 1024  # more tokens in a span, in longer chunks, would spill registers


@triton.jit
def ordered(x):
    """Integers in the order of the float32 numbers ``x``; 0.0 and -0.0 are equal."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered(key):
    """The float32 numbers whose `ordered` integers are ``key``."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def log_add_exp(a, b):
    """``log(exp(a) + exp(b))``; NaN where one of them is NaN or +inf."""
    peak = tl.maximum(tl.maximum(a, b), LOWEST)
    return peak + tl.log2(tl.exp2((a - peak) * LOG2_E) + tl.exp2((b - peak) * LOG2_E)) * LN_2


@triton.jit
def _log_sum_exp(x, EXACT: tl.constexpr):
    """Log-sum-exp of a [R, C] tensor; without EXACT just its maximum. NaN for a NaN or +inf."""
    if EXACT:
        peak = tl.maximum(tl.max(tl.max(x, axis=0), axis=0), LOWEST)
        mass = tl.sum(tl.sum(tl.exp2((x - peak) * LOG2_E), axis=0), axis=0)
        return peak + tl.log2(mass) * LN_2
    peak = tl.max(tl.max(tl.where(x != x, float("inf"), x), axis=0), axis=0)
    return tl.where(peak < float("inf"), peak, float("nan"))


@triton.jit
def _is_inside(
    position, first, last, null, mask_ptr, HAS_MASK: tl.constexpr, NULL_IN_SPANS: tl.constexpr
):
    """Where a token can start or end a span; ``mask_ptr`` points to the chunk's first token."""
    inside = (position >= first) & (position < last)
    if HAS_MASK:
        inside = inside & (tl.load(mask_ptr + position, mask=inside, other=0) != 0)
    if NULL_IN_SPANS:
        inside = inside | (position == null)
    return inside


@triton.jit
def _suffix_max(x, following):
    """Maximum of each token of ``x`` [R, C] and all that follow; ``following`` is one row further on."""
    R: tl.constexpr = x.shape[0]
    C: tl.constexpr = x.shape[1]
    column = tl.arange(0, C)[None, :]
    for step in tl.static_range(0, 32):
        if (1 << step) < C:
            source = tl.broadcast_to(tl.minimum(column + (1 << step), C - 1), [R, C])
            x = tl.maximum(x, tl.gather(x, source, 1))
    next_row_max = tl.max(following, axis=1)
    row = tl.arange(0, R)
    below = row[None, :] >= row[:, None]
    rest = tl.max(tl.where(below, next_row_max[None, :], float("-inf")), axis=1)
    return tl.maximum(x, rest[:, None])


@triton.jit
def _slide_max(x, following, WINDOW: tl.constexpr):
    """Maximum of ``WINDOW`` consecutive tokens of ``x`` [R, C]; ``following`` is one row further on.

    A window reaches at most into the next row.
    """
    R: tl.constexpr = x.shape[0]
    C: tl.constexpr = x.shape[1]
    column = tl.arange(0, C)[None, :]
    # Windows of 1, 2, 4, ... tokens, then one more step to WINDOW.
    for step in tl.static_range(0, 32):
        if (1 << step) < WINDOW:
            shift = tl.minimum(1 << step, WINDOW - (1 << step))
            source = tl.broadcast_to((column + shift) % C, [R, C])
            stays = column + shift < C
            shifted = tl.gather(x, source, 1)
            shifted_following = tl.gather(following, source, 1)
            x = tl.maximum(x, tl.where(stays, shifted, shifted_following))
            following = tl.maximum(following, tl.where(stays, shifted_following, float("-inf")))
    return x


@triton.jit
def span_topk_kernel(
    score_ptr,
    first_ptr,
    last_ptr,
    chunk_ptr,
    log_norm_ptr,
    null_score_ptr,
    nonfinite_ptr,
    start_ptr,
    end_ptr,
    mask_ptr,
    row_offset_ptr,
    context_ptr,
    null_position_ptr,
    row_stride,
    n_logits,
    n_tiles,
    n_lists,
    TOP_K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    MAX_LEN: tl.constexpr,
    BLOCK_LEN: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RAGGED: tl.constexpr,
    HAS_MASK: tl.constexpr,
    NULL_IN_SPANS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    FINAL: tl.constexpr,
):
    """One tile of one chunk: a list of its ``TOP_K`` best spans, and its normalizers.

    With ``FINAL`` the chunk is a question of its own and its list the answer.
    """
    pid = tl.program_id(0).to(tl.int64)
    chunk = pid // n_tiles
    tile = (pid % n_tiles).to(tl.int32)

    # The chunk's row and range. Bounds are clipped, so that no wrong value reads foreign memory.
    if RAGGED:
        base = tl.load(row_offset_ptr + chunk)
        row_len = tl.minimum(n_logits - base, 2147483647).to(tl.int32)
    else:
        base = chunk * row_stride
        row_len = row_stride
    first = tl.maximum(tl.load(context_ptr + 2 * chunk), 0)
    last = tl.minimum(tl.load(context_ptr + 2 * chunk + 1), row_len)
    null = tl.load(null_position_ptr + chunk)
    has_null = (null >= 0) & (null < row_len)
    low = first
    high = last
    if NULL_IN_SPANS:
        low = tl.where(has_null, tl.minimum(low, null), low)
        high = tl.where(has_null, tl.maximum(high, null + 1), high)
    start_ptr += base
    end_ptr += base
    mask_ptr += base

    null_s = float("-inf")
    null_e = float("-inf")
    null_score = float("inf")
    if (tile == 0) & has_null:
        null_s = tl.load(start_ptr + null).to(tl.float32)
        null_e = tl.load(end_ptr + null).to(tl.float32)
        null_score = null_s + null_e
    first_token = low + tile * (ROWS * COLUMNS)
    if not FINAL:
        if first_token >= high:  # past the end of a short chunk, or an empty one
            tl.store(score_ptr + pid * TOP_K, float("-inf"))
            tl.store(log_norm_ptr + pid, null_s)
            tl.store(log_norm_ptr + n_lists + pid, null_e)
            tl.store(null_score_ptr + pid, null_score)
            return

    # 1. A tile of tokens, and the ends one row further on.
    offs = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    token = first_token + offs
    further = token + COLUMNS
    inside = token < high
    inside_further = further < high
    if HAS_MASK or NULL_IN_SPANS:
        inside = _is_inside(token, first, last, null, mask_ptr, HAS_MASK, NULL_IN_SPANS)
        inside_further = _is_inside(further, first, last, null, mask_ptr, HAS_MASK, NULL_IN_SPANS)
    s = tl.load(start_ptr + token, mask=inside, other=float("-inf")).to(tl.float32)
    e = tl.load(end_ptr + token, mask=inside, other=float("-inf")).to(tl.float32)
    e_further = tl.load(end_ptr + further, mask=inside_further, other=float("-inf")).to(tl.float32)

    # 2. Normalizers. The null position joins them unless it is a context token already.
    log_norm_s = _log_sum_exp(s, NORMALIZE)
    log_norm_e = _log_sum_exp(e, NORMALIZE)
    counted = (null >= first) & (null < last)
    if HAS_MASK:
        counted = counted & (tl.load(mask_ptr + null, mask=has_null & counted, other=0) != 0)
    if NULL_IN_SPANS:
        counted = has_null
    log_norm_s = log_add_exp(log_norm_s, tl.where(counted, float("-inf"), null_s))
    log_norm_e = log_add_exp(log_norm_e, tl.where(counted, float("-inf"), null_e))
    # A chunk that is longer than the caller said must not lose its tail without a word.
    log_norm_s = tl.where(high - low > n_tiles * (ROWS * COLUMNS), float("nan"), log_norm_s)
    norm = log_norm_s + log_norm_e

    # 3. The best span of every start.
    if WINDOW is None:
        best_end = _suffix_max(e, e_further)
    else:
        best_end = _slide_max(e, e_further, WINDOW)
    key = ordered(s + best_end)

    # 4. The best start, k times.
    score_ptr += pid * TOP_K
    first_ptr += pid * TOP_K
    last_ptr += pid * TOP_K
    chunk_ptr += pid * TOP_K
    offs_len = tl.arange(0, BLOCK_LEN)
    found = 0
    if FINAL:
        nonfinite = (norm < float("inf")) == 0
        found = tl.where(nonfinite, TOP_K, 0)
        shift = tl.where((norm > float("-inf")) & NORMALIZE, norm, 0.0)
    while found < TOP_K:
        best = tl.max(tl.max(key, axis=0), axis=0)
        if best > ORDERED_MINUS_INF:
            i = tl.min(tl.min(tl.where(key == best, token, NO_INDEX), axis=0), axis=0)
            j = i + offs_len
            allowed = j < high
            if MAX_LEN is not None:
                allowed = allowed & (offs_len < MAX_LEN)
            if HAS_MASK or NULL_IN_SPANS:
                allowed = allowed & _is_inside(
                    j, first, last, null, mask_ptr, HAS_MASK, NULL_IN_SPANS
                )
            s_i = tl.load(start_ptr + i).to(tl.float32)
            e_j = tl.load(end_ptr + j, mask=allowed, other=float("-inf")).to(tl.float32)
            sums = tl.where(allowed, ordered(s_i + e_j), NO_KEY)
            hit = sums == best
            hits = tl.sum(hit.to(tl.int32))
            rank = found + tl.zeros_like(offs_len)
            if hits > 1:
                rank += tl.cumsum(hit.to(tl.int32)) - 1
            stored = hit & (rank < TOP_K)
            score = unordered(best)
            if FINAL:
                score -= shift
                tl.store(chunk_ptr + rank, chunk.to(tl.int32), mask=stored)
            tl.store(score_ptr + rank, score, mask=stored)
            tl.store(first_ptr + rank, i, mask=stored)
            tl.store(last_ptr + rank, j, mask=stored)
            found += tl.maximum(hits, 1)  # a NaN is equal to nothing
            if TOP_K > 1:
                lower = tl.max(tl.where(sums < best, sums, NO_KEY))
                key = tl.where(token == i, lower, key)
        else:
            rest = tl.arange(0, BLOCK_K)
            unfilled = (rest >= found) & (rest < TOP_K)
            tl.store(score_ptr + rest, float("-inf"), mask=unfilled)
            if FINAL:
                tl.store(first_ptr + rest, -1, mask=unfilled)
                tl.store(last_ptr + rest, -1, mask=unfilled)
                tl.store(chunk_ptr + rest, -1, mask=unfilled)
            found = TOP_K

    if FINAL:
        if nonfinite:
            slots = tl.arange(0, BLOCK_K)
            tl.store(score_ptr + slots, float("nan"), mask=slots < TOP_K)
            tl.store(first_ptr + slots, -1, mask=slots < TOP_K)
            tl.store(last_ptr + slots, -1, mask=slots < TOP_K)
            tl.store(chunk_ptr + slots, -1, mask=slots < TOP_K)
        null_score = tl.where(null_score < float("inf"), null_score - shift, float("-inf"))
        tl.store(null_score_ptr + pid, tl.where(nonfinite, float("nan"), null_score))
        tl.store(nonfinite_ptr + pid, nonfinite)
    else:
        tl.store(log_norm_ptr + pid, log_norm_s)
        tl.store(log_norm_ptr + n_lists + pid, log_norm_e)
        tl.store(null_score_ptr + pid, null_score)


class Tiling(NamedTuple):
    """How a chunk is cut up: tiles of ``rows * columns`` starts, one program of ``warps`` each.

    Attributes:
        rows: registers of a thread that a tile takes, times the warps.
        columns: tokens in a row.
        tiles: tiles per chunk.
        warps: warps per program.
        window: tokens that the sliding maximum covers; None for all that follow.
    """

    rows: int
    columns: int
    tiles: int
    warps: int
    window: int | None


def tiling(width: int, max_answer_len: int | None) -> Tiling | None:
    """Tiling of chunks of at most ``width`` tokens for spans of at most ``max_answer_len`` tokens.

    A table, not a search: autotuning would synchronize and could not be captured in a CUDA graph. None
    where the kernel does not reach: spans of more than 1,024 tokens in chunks longer than that.
    """
    block = max(32, triton.next_power_of_2(width))
    window = min(width, max_answer_len or width)
    if window <= 33:  # a row of 32 and the first token of the next: one warp's lanes
        columns = 32
    elif window == width and block <= 512:
        return Tiling(block // 32, 32, 1, max(1, block // 256), None)
    else:
        columns = triton.next_power_of_2(window - 1)
    if columns > MAX_WINDOW:
        return None
    if (
        block > MAX_BLOCK or columns > 512
    ):  # long rows take many registers: no more than one in a tile
        block = 1024
    columns, tiles = min(columns, block), triton.cdiv(width, block)
    per_warp = 512 if columns == 32 else 256 if columns <= 512 else 128 if tiles == 1 else 64
    return Tiling(block // columns, columns, tiles, max(1, block // per_warp), window)


def span_topk(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    null_position: Tensor,
    *,
    top_k: int,
    max_answer_len: int | None,
    width: int,
    tiles: Tiling,
    null_in_spans: bool,
    normalize: bool,
    final: bool,
) -> tuple[Tensor, ...]:
    """Launch `span_topk_kernel` on checked arguments.

    Args:
        start_logits: [C, N] or flat [T], contiguous.
        end_logits: the same.
        context: [C, 2] int32.
        context_mask: bool like the logits.
        row_offset: [C] int64, with flat logits.
        null_position: [C] int32.
        top_k: spans per list.
        max_answer_len: most tokens of a span.
        width: no chunk has more tokens to look at.
        tiles: from `tiling`.
        null_in_spans: the null position may start or end a span.
        normalize: compute log-sum-exps; otherwise only maxima, which tell NaN and +inf.
        final: the lists are the answer: one per chunk, scores normalized.

    Returns:
        With L = C * tiles lists. Under ``final``: score [L, k] float32, start, end and chunk [L, k]
        int32, null_score [L] float32, nonfinite [L] bool. Else: sums of logits [L, k] float32, start
        and end [L, k] int32, log-sum-exps [2, L] float32, sums at the null position [L] float32.
    """
    device = start_logits.device
    n_lists = context.shape[0] * tiles.tiles
    score = torch.empty((n_lists, top_k), dtype=torch.float32, device=device)
    first, last = (torch.empty_like(score, dtype=torch.int32) for _ in range(2))
    null_score = torch.empty(n_lists, dtype=torch.float32, device=device)
    chunk = torch.empty_like(first) if final else first
    nonfinite = torch.empty(n_lists if final else 1, dtype=torch.bool, device=device)
    log_norm = null_score if final else null_score.new_empty((2, n_lists))
    longest = min(width, max_answer_len or width)
    if n_lists:
        span_topk_kernel[(n_lists,)](
            score_ptr=score,
            first_ptr=first,
            last_ptr=last,
            chunk_ptr=chunk,
            log_norm_ptr=log_norm,
            null_score_ptr=null_score,
            nonfinite_ptr=nonfinite,
            start_ptr=start_logits,
            end_ptr=end_logits,
            mask_ptr=start_logits if context_mask is None else context_mask,
            row_offset_ptr=context if row_offset is None else row_offset,
            context_ptr=context,
            null_position_ptr=null_position,
            row_stride=0 if row_offset is not None else start_logits.shape[1],
            n_logits=start_logits.numel(),
            n_tiles=tiles.tiles,
            n_lists=n_lists,
            TOP_K=top_k,
            BLOCK_K=triton.next_power_of_2(top_k),
            MAX_LEN=max_answer_len,
            BLOCK_LEN=triton.next_power_of_2(longest),
            WINDOW=tiles.window,
            ROWS=tiles.rows,
            COLUMNS=tiles.columns,
            RAGGED=row_offset is not None,
            HAS_MASK=context_mask is not None,
            NULL_IN_SPANS=null_in_spans,
            NORMALIZE=normalize,
            FINAL=final,
            num_warps=tiles.warps,
            enable_fp_fusion=False,
        )
    if final:
        return score, first, last, chunk, null_score, nonfinite
    return score, first, last, log_norm, null_score
