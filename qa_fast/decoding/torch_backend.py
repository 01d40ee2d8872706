"""Span decoding with plain torch operations, on any device: O(N) per chunk, no N x N matrix.

Two facts make the outer product unnecessary:

- the best end for every start is a sliding-window maximum of the end logits, and ``log2`` of the window
  many shifted maxima compute it (windows of 1, 2, 4, 8, ..., max_answer_len tokens);
- the k best spans start in the k rows whose best spans are best, so only k x max_answer_len cells of
  the N x N matrix are ever looked at.

Within a chunk the normalizer of the softmax is one constant, so spans are ranked by the plain sum of
logits and the normalizer is subtracted from the k that are left.

Chunks are processed in blocks that fit in a core's cache. All rounding is that of
[`qa_fast.decoding.reference`][]: sums of two float32 numbers, equal sums in the order of their tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .search import Found, SpanSearch

# Logits per block and CPU thread: a block's few buffers stay in cache.
_BLOCK_ELEMENTS = 1 << 15
_BLOCK_ELEMENTS_GPU = 1 << 24
# Of the N x N matrices of a block, looked at together.
_BLOCK_CELLS = 1 << 22


class _Chunks(NamedTuple):
    """Flat logits, and where the C chunks lie in them.

    Attributes:
        start_logits: [T] floats.
        end_logits: [T], of the same dtype.
        mask: [T] bool: False for tokens that are not of the context; None: there are none.
        offset: [C] int64: token i of chunk c is at ``offset[c] + i``.
        context: [C, 2] int32 half-open ranges of context tokens.
        null: [C] int64 null positions; negative for none.
        low: [C] int64 first token that a span may have: of the context, or the null position.
        high: [C] int64 one more than the last such token.
        null_in_spans: whether spans may have the null position.
    """

    start_logits: Tensor
    end_logits: Tensor
    mask: Tensor | None
    offset: Tensor
    context: Tensor
    null: Tensor
    low: Tensor
    high: Tensor
    null_in_spans: bool


class ChunkSpans(NamedTuple):
    """The k best spans of every chunk by ``start logit + end logit``, and what the scores need.

    k is top_k, or less where no chunk holds that many spans.

    Attributes:
        total: [C, k] float32 sums of logits, descending; -inf where there is no candidate.
        start: [C, k] int64 token positions inside the chunk.
        end: [C, k] int64, inclusive.
        log_norm: [2, C] float32 log-sum-exp of the start and of the end logits over the support;
            zeros where the scoring needs none.
        null_total: [C] float32 sum of logits at the null position; +inf where there is none.
        nonfinite: [C] bool, a NaN or +inf logit in the support, or a sum beyond float32.
    """

    total: Tensor
    start: Tensor
    end: Tensor
    log_norm: Tensor
    null_total: Tensor
    nonfinite: Tensor


def decode(search: SpanSearch) -> Found:
    """The spans of a search; ranges and null positions must lie inside their rows."""
    chunks = _chunks_of(search)
    found = chunk_top_k(
        chunks, search.top_k, search.max_answer_len, normalize=search.scoring != "logit"
    )
    return merge(found, chunks.context, search)


def _chunks_of(search: SpanSearch) -> _Chunks:
    """The chunks of a search, whose logits may also be [C, N], as rows of flat ones."""
    context, null_position = search.places()
    offset, mask = search.row_offset, search.context_mask
    if offset is None:
        chunk = torch.arange(context.shape[0], dtype=torch.int64, device=context.device)
        offset = chunk * search.start_logits.shape[1]
    null = null_position.long()
    low, high = context.long().unbind(1)
    if search.null_in_spans:
        low = torch.where(null >= 0, torch.minimum(low, null), low)
        high = torch.where(null >= 0, torch.maximum(high, null + 1), high)
    return _Chunks(
        search.start_logits.reshape(-1),
        search.end_logits.reshape(-1),
        None if mask is None else mask.reshape(-1),
        offset,
        context,
        null,
        low,
        high,
        search.null_in_spans,
    )


def chunk_top_k(
    chunks: _Chunks, top_k: int, max_answer_len: int | None, *, normalize: bool
) -> ChunkSpans:
    """The ``top_k`` best spans of every chunk by the sum of their logits.

    Args:
        chunks: C chunks.
        top_k: spans per chunk; fewer are found where no chunk holds so many.
        max_answer_len: most tokens in a span; None for no limit.
        normalize: whether the log-sum-exps of the logits are wanted.
    """
    device, count = chunks.start_logits.device, len(chunks.offset)
    width = max(int((chunks.high - chunks.low).max()), 1) if count else 1
    window = min(width, max_answer_len or width)
    top_k = min(top_k, width * window - window * (window - 1) // 2)

    total = torch.full((count, top_k), -math.inf, dtype=torch.float32, device=device)
    start = torch.full((count, top_k), -1, dtype=torch.int64, device=device)
    end = start.clone()
    peak = torch.empty(2, count, dtype=torch.float32, device=device)
    spread = torch.zeros(2, count, dtype=torch.float32, device=device)

    step = _chunks_at_once(device, width, window, min(top_k, width), count)
    block_shape = 2, step, width + window - 1
    buffer = torch.full(block_shape, -math.inf, dtype=torch.float32, device=device)
    ceiling = torch.full((2 * width,), -math.inf, dtype=torch.float32, device=device)
    ceiling[:width] = math.inf
    for first in range(0, count, step):
        block = slice(first, min(first + step, count))
        both = buffer[:, : block.stop - first]
        _copy_support(chunks, block, ceiling, both[:, :, :width], peak[:, block])
        if normalize:
            # max(log softmax) = max - logsumexp, in one fused pass; NaN for an all -inf row.
            torch.amax(torch.log_softmax(both, 2), 2, out=spread[:, block])
        values, starts, ends = _block_top_k(both[0, :, :width], both[1], window, top_k)
        kept, low = values.shape[1], chunks.low[block, None]
        total[block, :kept] = values
        start[block, :kept] = torch.where(values > -math.inf, starts + low, -1)
        end[block, :kept] = torch.where(values > -math.inf, ends + low, -1)

    log_norm = torch.where(peak == -math.inf, peak, peak - spread)
    at_null, apart = _null_logits(chunks)
    log_norm = torch.logaddexp(log_norm, apart)
    peak = torch.maximum(peak, apart)
    sums = peak.sum(0)
    nonfinite = peak.isnan().any(0) | (peak == math.inf).any(0) | (sums == math.inf)
    return ChunkSpans(
        total,
        start,
        end,
        log_norm if normalize else torch.zeros_like(log_norm),
        torch.where(chunks.null >= 0, at_null.sum(0), math.inf),
        nonfinite,
    )


def _chunks_at_once(device: torch.device, width: int, window: int, starts: int, count: int) -> int:
    """Chunks in a block: of ``width`` tokens, with ``window`` cells for each of ``starts`` starts."""
    elements = _BLOCK_ELEMENTS_GPU
    if device.type == "cpu":
        elements = _BLOCK_ELEMENTS * torch.get_num_threads()
    step = min(elements // (width + window), _BLOCK_CELLS // (starts * window))
    return min(max(step, 1), max(count, 1))


def _copy_support(
    chunks: _Chunks, block: slice, ceiling: Tensor, out: Tensor, peak: Tensor
) -> None:
    """A block's logits as float32, -inf for tokens that no span may have, and the largest of a row.

    Args:
        chunks: C chunks.
        block: which of them; B.
        ceiling: [2 * W] float32, +inf in its first half and -inf in its second.
        out: [2, B, W] float32 for the start and end logits of W tokens from ``chunks.low`` on.
        peak: [2, B] float32 for the largest of ``out``.
    """
    width = out.shape[2]
    low = chunks.low[block]
    lengths = chunks.high[block] - low
    base = chunks.offset[block] + low
    sides = [_rows(x, base, width) for x in (chunks.start_logits, chunks.end_logits)]
    inside = _inside(chunks, block, width)
    if inside is None:
        # min(x, +inf or -inf) is several times faster than a masked fill, but keeps a NaN.
        limit = _rows(ceiling, width - lengths.clamp_(min=0), width)
        for side, of_side in zip(sides, out, strict=True):
            torch.minimum(side, limit, out=of_side)
        torch.amax(out, 2, out=peak)
        if not peak.isnan().any():
            return
        position = torch.arange(width, dtype=torch.int64, device=out.device)
        inside = position < lengths[:, None]
    for side, of_side in zip(sides, out, strict=True):
        of_side.copy_(torch.where(inside, side.float(), -math.inf))
    torch.amax(out, 2, out=peak)


def _inside(chunks: _Chunks, block: slice, width: int) -> Tensor | None:
    """[B, W] bool: of the W tokens from ``chunks.low`` on, those that spans may have.

    None where that is all up to ``chunks.high``.
    """
    if chunks.mask is None and not chunks.null_in_spans:
        return None
    low, context = chunks.low[block], chunks.context[block]
    place = low[:, None] + torch.arange(width, dtype=torch.int64, device=low.device)
    inside = (place >= context[:, :1]) & (place < context[:, 1:])
    if chunks.mask is not None:
        inside &= _rows(chunks.mask, chunks.offset[block] + low, width)
    if chunks.null_in_spans:
        inside |= place == chunks.null[block, None]
    return inside


def _null_logits(chunks: _Chunks) -> tuple[Tensor, Tensor]:
    """[2, C] float32 start and end logits at the null positions, -inf for none.

    Then the same with -inf also where spans may have the null position: what it adds to the support.
    """
    size, has_null = (2, len(chunks.null)), chunks.null >= 0
    tokens, device = chunks.start_logits.numel(), chunks.start_logits.device
    at_null = torch.full(size, -math.inf, dtype=torch.float32, device=device)
    at = (chunks.offset + chunks.null).clamp_(0, max(tokens - 1, 0))
    if tokens:
        for side, logits in zip(at_null, (chunks.start_logits, chunks.end_logits), strict=True):
            torch.where(has_null, logits[at].float(), side, out=side)
    counted = has_null
    if not chunks.null_in_spans:
        counted = has_null & (chunks.null >= chunks.low) & (chunks.null < chunks.high)
        if chunks.mask is not None and chunks.mask.numel():
            counted = counted & chunks.mask[at]
    return at_null, at_null.masked_fill(counted, -math.inf)


def merge(found: ChunkSpans, context: Tensor, search: SpanSearch) -> Found:
    """The ``top_k`` best spans over all chunks of each question, from the best of each chunk."""
    question_id, num_questions, top_k = search.question_id, search.num_questions, search.top_k
    chunks, kept = found.total.shape
    chunk = torch.arange(chunks, dtype=torch.int64, device=found.total.device)
    if question_id is not None and chunks == num_questions and torch.equal(question_id, chunk):
        question_id = None
    lengths = None if question_id is None else torch.bincount(question_id, minlength=num_questions)

    def per_question(x: Tensor, reduce: str) -> Tensor:
        if lengths is None:
            return x
        return torch.segment_reduce(x, reduce, lengths=lengths, unsafe=True)

    log_norm = found.log_norm
    if search.scoring == "shared" and question_id is not None:
        peak = torch.stack([per_question(side, "max") for side in log_norm])
        peak = peak.clamp_(min=torch.finfo(torch.float32).min)[:, question_id]
        mass = torch.stack([per_question(side, "sum") for side in (log_norm - peak).exp()])
        log_norm = mass.log()[:, question_id] + peak
    norm = log_norm.sum(0)

    null_score = torch.where(found.null_total.isinf(), found.null_total, found.null_total - norm)
    null_score = per_question(null_score, "min")
    null_score.masked_fill_(null_score == math.inf, -math.inf)
    # -inf minus a normalizer of -inf would be NaN.
    score = torch.where(found.total > -math.inf, found.total - norm[:, None], -math.inf)
    start, end, row = found.start, found.end, chunk[:, None].expand(chunks, kept)
    if lengths is None or question_id is None:

        def place(x: Tensor, fill: float) -> Tensor:
            return torch.nn.functional.pad(x, (0, top_k - kept), value=fill)

    else:
        order, slot = _best_of_questions(
            score, start, end, question_id, lengths, context, search.context_offset, top_k
        )

        def place(x: Tensor, fill: float) -> Tensor:
            # The last one takes the losers.
            out = x.new_full((num_questions * top_k + 1,), fill)
            return out.scatter_(0, slot, x.reshape(-1)[order])[:-1].view(num_questions, top_k)

    score = place(score, -math.inf)
    start, end, row = place(start, -1), place(end, -1), place(row, -1)
    nonfinite = per_question(found.nonfinite.float(), "max") > 0
    none = nonfinite[:, None] | (score == -math.inf)
    return (
        score.masked_fill(nonfinite[:, None], math.nan),
        start.masked_fill(none, -1).int(),
        end.masked_fill(none, -1).int(),
        row.masked_fill(none, -1).int(),
        null_score.masked_fill(nonfinite, math.nan),
        nonfinite,
    )


def _best_of_questions(
    score: Tensor,
    start: Tensor,
    end: Tensor,
    question_id: Tensor,
    lengths: Tensor,
    context: Tensor,
    context_offset: Tensor | None,
    top_k: int,
) -> tuple[Tensor, Tensor]:
    """Order of the [C * k] candidates and the slot of each in the [Q * top_k] answers.

    Slot Q * top_k is for those that are none of the answers.
    """
    kept = score.shape[1]
    question = question_id.repeat_interleave(kept)
    order = score.reshape(-1).sort(stable=True, descending=True).indices
    order = order[question[order].sort(stable=True).indices]
    question = question[order]
    keep = score.reshape(-1)[order] > -math.inf
    if context_offset is not None:
        first, last = context.long().unbind(1)
        shift = (context_offset - first)[:, None]
        # A place in the whole context; the null position is the same place in every chunk.
        places = [
            torch.where((x >= first[:, None]) & (x < last[:, None]), x + shift, -1) + 1
            for x in (start, end)
        ]
        span = ((places[0] << 32) + places[1]).view(-1)[order]
        by_span = span.sort(stable=True).indices
        by_span = by_span[question[by_span].sort(stable=True).indices]
        repeated = torch.zeros_like(keep)
        repeated[by_span[1:]] = (span[by_span[1:]] == span[by_span[:-1]]) & (
            question[by_span[1:]] == question[by_span[:-1]]
        )
        keep &= ~repeated
    count = keep.cumsum(0)
    before = torch.nn.functional.pad(count, (1, 0))[(lengths.cumsum(0) - lengths) * kept]
    rank = count - 1 - before[question]
    losers = lengths.numel() * top_k
    return order, torch.where(keep & (rank < top_k), question * top_k + rank, losers)


def _rows(flat: Tensor, base: Tensor, width: int) -> Tensor:
    """[B, width] rows of a flat tensor that begin at ``base`` [B]; past the end: any value."""
    if base.numel() and int(base.max()) + width > flat.numel():
        first = int(base.min())
        flat, base = torch.nn.functional.pad(flat[first:], (0, width)), base - first
    # Whole rows of an overlapping view are copied many times faster than single elements.
    return flat.as_strided(
        (flat.numel() - width + 1, width), (1, 1), flat.storage_offset()
    ).index_select(0, base)


def _block_top_k(
    start: Tensor, end: Tensor, window: int, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Best spans of a block: ``start`` [B, W], ``end`` [B, W + window - 1] padded with -inf."""
    rows, width = start.shape
    best_end, covered = end, 1
    while covered < window:
        shift = min(covered, window - covered)
        best_end = torch.maximum(best_end[:, :-shift], best_end[:, shift:])
        covered += shift
    best = start + best_end
    if top_k == 1:
        starts = best.argmax(1, keepdim=True)
    else:
        starts = _top_k_in_order(best, min(top_k, width), boundary_only=True)[1].sort(1).values
    padded = end.stride(0)
    windows = end.as_strided((rows * padded - window + 1, window), (1, 1), end.storage_offset())
    first = torch.arange(rows, dtype=torch.int64, device=end.device)[:, None] * padded
    windows = windows.index_select(0, (starts + first).view(-1))
    kept = starts.shape[1]
    cells = windows.view(rows, kept, window)
    cells += start.gather(1, starts)[:, :, None]
    values, index = _top_k_in_order(cells.view(rows, -1), min(top_k, kept * window))
    starts = starts.gather(1, index // window)
    return values, starts, starts + index % window


def _top_k_in_order(x: Tensor, k: int, *, boundary_only: bool = False) -> tuple[Tensor, Tensor]:
    """`torch.topk` along dimension 1 with a rule for ties: equal values in order of their index.

    With ``boundary_only`` the right k are returned, but equal values in any order.
    """
    if k == 1:
        index = x.argmax(1, keepdim=True)
        return x.gather(1, index), index
    values, index = x.topk(min(k + 1, x.shape[1]))
    follow = values[:, max(k - 1, 0) :] if boundary_only else values
    tied = ((follow[:, 1:] == follow[:, :-1]) & (follow[:, 1:] > -math.inf)).any(1)
    values, index = values[:, :k], index[:, :k]
    if tied.any():
        # Integers in the order of (value, reversed index): no two are equal.
        # Adding 0.0 makes -0.0 equal to 0.0.
        bits = (x[tied] + 0.0).view(torch.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        position = torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
        key = (ordered.long() << 32) - position
        index[tied] = key.topk(k).indices
        values = x.gather(1, index)
    return values, index
