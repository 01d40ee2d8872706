"""Span decoding on a CPU: O(N) per chunk, exact, one thread per core.

Steps for a block of chunks that fits in a core's cache, with ``s`` and ``e`` the start and end logits
of the context and -inf elsewhere:

1. log-sum-exp of ``s`` and of ``e``, the normalizer of the two softmaxes;
2. ``best[i] = s[i] + max(e[i : i + max_answer_len])`` for every start i: the sliding maximum takes
   log2(max_answer_len) passes, each the maximum of the last one and itself, shifted;
3. a floor under the k-th best span: the k-th largest of the maxima of some classes of starts. At
   least k spans reach it, so no span below it can be among the k best;
4. only starts with ``best[i] >= floor`` (little more than k), and of their at most max_answer_len ends
   only those that reach it, are collected and sorted.

Within a chunk the normalizer is a constant, so spans are ranked by the float32 sum of their logits and
it is subtracted from the k that are left. Equal sums keep the order of their tokens: every sort here
is stable.

NumPy does nearly all of it: its calls cost a microsecond where PyTorch's cost five, and its minimum,
partition, sort and nonzero use vector instructions. Arrays are contiguous, rows padded, because NumPy
takes twice as long for rows with gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Entries = npt.NDArray[Any]
Results = tuple[Entries, ...]
Item = TypeVar("Item")

_BLOCK = 1 << 16  # floats in each of a block's few buffers
_SERIAL = 1 << 15  # elements that PyTorch handles without threads of its own
_QUESTIONS = 1 << 10  # questions that are merged together
_HARMLESS = 69.0  # exp of it and of its negative are far from the limits of float32
_ZERO = np.float32(0)
_HALF = (torch.float16, torch.bfloat16)
_LOWEST = np.finfo(np.float32).min
_LOG2_E = float(np.log2(np.e))


class _Chunks(NamedTuple):
    """What the blocks of one call need to know."""

    logits: tuple[Entries, Entries]  # start and end, flat, as `_flat` gives them
    dtype: torch.dtype
    mask: Entries | None
    row: Ints  # [C] where each chunk begins in the flat logits
    context: Ints  # [2, C]
    null: Ints  # [C]
    low: Ints  # [C] first position of a span
    length: Ints  # [C] positions from there to the last one of a span
    edge: Floats  # ``stride`` times +inf, then as often -inf
    window: int  # most tokens in a span
    stride: int  # columns of a block
    normalize: bool
    null_in_spans: bool
    top_k: int


def decode(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    question_id: Tensor | None,
    context_offset: Tensor | None,
    null_position: Tensor,
    num_questions: int,
    top_k: int,
    max_answer_len: int | None,
    scoring: str,
    null_in_spans: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Decode checked arguments; see [`qa_fast.decode_spans`][] for their meaning."""
    if row_offset is None:
        count, columns = start_logits.shape
        row = np.arange(count) * columns
    else:
        row = row_offset.numpy()
    # One integer type throughout: NumPy is slow at mixing them.
    null = null_position.numpy().astype(np.int64)
    low, high = ranges = context.numpy().T.astype(np.int64, order="C")
    _check_ranges(low, high, null, row, start_logits.shape[-1], row_offset is not None)
    if null_in_spans:
        low = np.where(null >= 0, np.minimum(low, null), low)
        high = np.where(null >= 0, np.maximum(high, null + 1), high)
    length = high - low
    width = int(np.maximum.reduce(length, initial=1))
    window = min(width, max_answer_len or width)
    # Rows are padded by the window, so that it never reaches into the next row.
    stride = -(-(width + window - 1) // 32) * 32
    edge = np.empty(2 * stride, np.float32)
    edge[:stride] = np.inf
    edge[stride:] = -np.inf
    chunks = _Chunks(
        (_flat(start_logits, stride), _flat(end_logits, stride)),
        start_logits.dtype,
        None if context_mask is None else _flat(context_mask, stride),
        row,
        ranges,
        null,
        low,
        length,
        edge,
        window,
        stride,
        scoring != "logit",
        null_in_spans,
        top_k,
    )
    with np.errstate(all="ignore"):
        return _finish(
            chunks,
            _in_blocks(lambda block: _decode_block(chunks, block), len(row), _BLOCK // stride),
            None if question_id is None else question_id.numpy(),
            None if context_offset is None else context_offset.numpy(),
            num_questions,
            scoring,
        )


def _check_ranges(low: Ints, high: Ints, null: Ints, row: Ints, size: int, flat: bool) -> None:
    """Positions must lie in their rows. On a GPU the kernels clip them: reading them costs time."""
    room: Any = size - row if flat else size
    if flat and (row < 0).any():
        at = row.argmin()
        raise ValueError(f"row_offset must not be negative; got {row[at]} for chunk {at}")
    # The sign bit of a bitwise or is set where that of any term is: one comparison for all of them.
    if not ((low | (high - low) | (room - high) | (null + 1) | (room - 1 - null)) < 0).any():
        return
    room = np.broadcast_to(room, low.shape)
    bad = np.flatnonzero((low < 0) | (low > high) | (high > room))
    if len(bad):
        at = bad[0]
        raise ValueError(
            f"context must be half-open ranges inside their rows; got [{low[at]}, {high[at]}) for "
            f"chunk {at}, whose row has room for {room[at]} tokens"
        )
    at = np.flatnonzero((null < -1) | (null >= room))[0]
    raise ValueError(
        f"null_position must be inside its row, or -1 for none; got {null[at]} for chunk {at}, "
        f"whose row has room for {room[at]} tokens"
    )


def _in_blocks(work: Callable[[slice], Results], count: int, step: int) -> Results:
    """The results of ``work`` for slices of ``step`` of ``count`` items, concatenated."""
    step = max(1, step)
    if count <= step:
        return work(slice(0, count))
    blocks = [slice(i, min(i + step, count)) for i in range(0, count, step)]
    threads = min(torch.get_num_threads(), len(blocks) // 2)
    if threads < 2:
        done = list(map(work, blocks))
    else:

        def quietly(block: slice) -> Results:
            with np.errstate(all="ignore"):  # a setting of the thread
                return work(block)

        with ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(quietly, blocks))
    return tuple(np.concatenate(parts) for parts in zip(*done, strict=True))


def _decode_block(chunks: _Chunks, block: slice) -> Results:
    """[B, k] sums, starts and ends of the best spans, and [B] start and end normalizers.

    With raw logits as scores there is no normalizer, and in its place the largest logit. Either is NaN
    or infinite where a logit is.
    """
    low = chunks.low[block]
    at = chunks.row[block] + low
    limits = _limits(chunks, block, at)
    start, end = (_as_floats(x, chunks.dtype) for x in _rows(chunks.logits, at, chunks.stride))
    np.fmin(start, limits, out=start)
    np.fmin(end, limits, out=end)
    work = limits  # not needed any more, and in the cache
    bounds = (_log_sum_exp if chunks.normalize else _peaks)(start, end, work)
    best = _sliding_max(end, chunks.window, work)
    best += start
    find = _best_span if chunks.top_k == 1 else _best_spans
    total, first, last = find(start, end, best, chunks.window, chunks.top_k)
    first += low[:, None]
    last += low[:, None]
    return total, first.astype(np.int32), last.astype(np.int32), *bounds


def _best_span(
    start: Floats, end: Floats, best: Floats, window: int, _: int
) -> tuple[Floats, Ints, Ints]:
    """The same as `_best_spans` for the best one."""
    first = best.argmax(axis=1)
    at = first + np.arange(0, best.size, best.shape[1])
    # The first end that gives the sum, which is not always the first of the largest ends.
    ends = _windows(end, at, window)
    ends += start.take(at)[:, None]
    last = first + ends.argmax(axis=1)
    return best.take(at)[:, None], first[:, None], last[:, None]


def _best_spans(
    start: Floats, end: Floats, best: Floats, window: int, top_k: int
) -> tuple[Floats, Ints, Ints]:
    """Sums and columns of the start and end, [B, k], of the best spans of each row."""
    rows, stride = best.shape
    floor = _floor(best, top_k)
    starts = (best >= floor[:, None]).reshape(-1).nonzero()[0]
    row = starts // stride
    if len(starts) > 4 * top_k * rows:  # many ties
        order = _stable_order((row, rows), (_descending(best.take(starts)), 1 << 32))
        heads, none = _heads(row, rows, top_k)
        starts = np.sort(starts[order[heads if none is None else heads[~none]]], axis=None)
        row = starts // stride
    sums = _windows(end, starts, window)
    sums += start.take(starts)[:, None]
    cells = (sums >= floor[row][:, None]).reshape(-1).nonzero()[0]
    total = sums.take(cells)
    which = cells // window
    group = row[which]
    heads, none = _heads(group, rows, top_k)
    if not len(cells):
        return np.full(heads.shape, -np.inf, np.float32), heads, heads
    picked = _stable_order((group, rows), (_descending(total), 1 << 32))[heads]
    total = total[picked]
    if none is not None:
        total[none] = -np.inf
    which_picked = which[picked]
    first = starts[which_picked] - np.arange(0, best.size, stride)[:, None]
    return total, first, first + (cells[picked] - which_picked * window)


def _floor(best: Floats, top_k: int) -> Floats:
    """[B] lower bounds, above -inf, of the ``top_k``-th largest of each row of ``best``."""
    classes = best
    while classes.shape[1] % 2 == 0 and classes.shape[1] >= 8 * top_k:
        half = classes.shape[1] // 2
        classes = np.maximum(classes[:, :half], classes[:, half:])
    kth = classes.shape[1] - top_k
    if kth < 0:
        return np.full(len(best), _LOWEST)
    floor: Floats = np.maximum(np.partition(classes, kth, axis=1)[:, kth], _LOWEST)
    return floor


def _heads(group: Ints, groups: int, top_k: int) -> tuple[Ints, Bools | None]:
    """[groups, top_k] indices of each group's first entries, and where it has none if any has none.

    ``group`` is non-decreasing. The index is 0 where there is none.
    """
    counts = np.bincount(group, minlength=groups)
    first = np.add.accumulate(counts) - counts
    heads = first[:, None] + np.arange(top_k)
    if not (counts < top_k).any():
        return heads, None
    none = np.arange(top_k) >= counts[:, None]
    heads[none] = 0
    return heads, none


def _descending(value: Floats) -> Int32s:
    """Integers in the order of falling ``value``; not for NaN."""
    bits = (value + _ZERO).view(np.int32)  # + 0 makes -0.0 equal to 0.0
    return ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))


def _stable_order(*columns: tuple[Entries, int]) -> Ints:
    """Stable argsort by columns of integers, the first one the most significant.

    With each column comes how many values it may take. Columns and index are packed into one integer
    where they fit: NumPy sorts that three times as fast as it finds the order of an array.
    """
    count = len(columns[0][0])
    index_bits = count.bit_length()
    bits = [size.bit_length() for _, size in columns]
    if index_bits + sum(bits) > 63:
        return np.lexsort([column for column, _ in reversed(columns)])
    key = columns[0][0].astype(np.int64)
    for (column, _), size in zip(columns[1:], bits[1:], strict=True):
        key <<= size
        key += column
    key <<= index_bits
    key += np.arange(count)
    key.sort()
    key &= (1 << index_bits) - 1
    return key


def _sliding_max(x: Floats, window: int, work: Floats) -> Floats:
    """``max(x[r, i : i + window])`` for rows that end in window - 1 columns of -inf."""
    if window == 1:
        return x.copy()
    source, target, spare = x.reshape(-1), work.reshape(-1), np.empty(x.size, np.float32)
    covered, size = 1, x.size
    while covered < window:
        shift = min(covered, window - covered)
        size -= shift
        np.maximum(source[:size], source[shift : shift + size], out=target[:size])
        source, target, spare = target, spare, target
        covered += shift
    source[size:] = -np.inf
    return source.reshape(x.shape)


def _windows(x: Entries, at: Ints, width: int) -> Entries:
    """[len(at), width] copies of ``x.flat[at : at + width]``."""
    step = x.itemsize
    view: Entries = np.ndarray((x.size - width + 1, width), x.dtype, x, 0, (step, step))
    return view[at]


def _log_sum_exp(start: Floats, end: Floats, work: Floats) -> Floats:
    """[2, B] ``log(sum(exp(x)))`` of the rows. Infinite rows are emptied, see `_peaks`."""
    found = np.empty((2, len(work)), np.float32)
    _sum_exp(start, work, found[0])
    _sum_exp(end, work, found[1])
    np.log(found, out=found)
    # Far from the limits of float32, as nearly always, no peak has to be subtracted.
    if np.maximum.reduce(np.abs(found), axis=None, initial=0.0) < _HARMLESS:
        return found
    peaks = _peaks(start, end, work)
    shift = np.maximum(peaks, _LOWEST)[:, :, None]
    _sum_exp(start - shift[0], work, found[0])
    _sum_exp(end - shift[1], work, found[1])
    return np.log(found, out=found) + peaks


def _sum_exp(x: Floats, work: Floats, out: Floats) -> None:
    """``sum(exp(x))`` of the rows: PyTorch's exp2 takes half the time of its exp, and of NumPy's."""
    np.multiply(x, _LOG2_E, out=work)
    for part in _parts(work):
        torch.from_numpy(part).exp2_()
    np.einsum("ij->i", work, out=out)


def _peaks(start: Floats, end: Floats, _: Floats) -> Floats:
    """[2, B] maxima of the rows. Infinite rows are emptied.

    The question of such a row gets no spans, and its infinities must not reach the rows beside it.
    """
    peaks = np.stack([start.max(axis=1), end.max(axis=1)])
    infinite = (peaks == np.inf).any(axis=0)
    if infinite.any():
        start[infinite] = end[infinite] = -np.inf
    return peaks


def _flat(x: Tensor, least: int) -> Entries:
    """A contiguous vector of ``x``, of at least ``least`` entries; of 16-bit floats the bits."""
    x = x.detach().contiguous().view(-1)
    if len(x) < least:
        x = torch.nn.functional.pad(x, (0, least - len(x)))
    return (x.view(torch.int16) if x.dtype in _HALF else x).numpy()


def _as_floats(x: Entries, dtype: torch.dtype) -> Floats:
    """Logits of `_flat` as float32. NumPy is slow at float16 and has no bfloat16."""
    if dtype not in _HALF:
        return x
    out = np.empty(x.shape, np.float32)
    for source, target in zip(_parts(x), _parts(out), strict=True):
        torch.from_numpy(target).copy_(torch.from_numpy(source).view(dtype))
    return out


def _parts(x: Entries) -> list[Entries]:
    """Flat slices of x, so short that PyTorch starts no threads of its own for them."""
    x = x.reshape(-1)
    return [x[i : i + _SERIAL] for i in range(0, len(x), _SERIAL)]


def _rows(flats: Sequence[Entries], at: Ints, width: int) -> list[Entries]:
    """Of vectors of one length, [len(at), width] copies of ``flat[at : at + width]``.

    What lies beyond the end is arbitrary.
    """
    size = len(flats[0])
    near = np.minimum(at, size - width)
    found = [_windows(flat, near, width) for flat in flats]
    for i in (near != at).nonzero()[0].tolist():
        there = size - int(at[i])
        for rows in found:
            rows[i, :there] = rows[i, width - there :]
    return found


def _limits(chunks: _Chunks, block: slice, at: Ints) -> Floats:
    """[B, stride] upper limits that leave nothing outside the candidates: +inf, or -inf outside.

    With `np.fmin` they turn NaN into an infinity, too.
    """
    stride = chunks.stride
    limits: Floats = _windows(chunks.edge, stride - chunks.length[block], stride)
    if chunks.mask is not None or chunks.null_in_spans:
        place = np.arange(stride) + chunks.low[block, None]
        first, last = chunks.context[:, block, None]
        inside = (place >= first) & (place < last)
        if chunks.mask is not None:
            inside &= _rows([chunks.mask], at, stride)[0]
        if chunks.null_in_spans:
            inside |= place == chunks.null[block, None]
        limits[~inside] = -np.inf
    return limits


def _finish(
    chunks: _Chunks,
    found: Results,
    question: Entries | None,
    context_offset: Entries | None,
    num_questions: int,
    scoring: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normalize, and merge the chunks of each question."""
    total, start, end, *bounds = found
    chunk = np.empty_like(start)
    chunk[:] = np.arange(len(chunk))[:, None]
    if question is not None and len(question) == num_questions and (np.diff(question) == 1).all():
        question = None

    null_score, *null_logits = _null_logits(chunks)
    bounds = list(map(np.logaddexp if chunks.normalize else np.maximum, bounds, null_logits))
    norm = np.add(*bounds)
    nonfinite = ~(norm < np.inf)  # a NaN, a +inf, or a sum beyond float32
    score = total
    if chunks.normalize:
        if scoring == "shared" and question is not None:
            norm = np.add(*(_shared(x, question, num_questions) for x in bounds))
        # Where there is no support there is no span either.
        norm[norm == -np.inf] = 0.0
        score = total - norm[:, None]
        null_score -= norm

    spans = [score, start, end, chunk]
    if question is not None:
        # A chunk without a null position has no say in the minimum.
        null_score[chunks.null < 0] = np.inf
        null_score = _reduce(np.minimum, null_score, question, num_questions, np.inf)
        null_score[null_score == np.inf] = -np.inf
        nonfinite = _reduce(np.logical_or, nonfinite, question, num_questions, False)
        kept = _merge(score, start, end, chunks, question, context_offset, num_questions)
        spans = [_pick(x, kept) for x in spans]
    if nonfinite.any():
        spans[0][nonfinite] = null_score[nonfinite] = np.nan
    none = ~(spans[0] > -np.inf)
    if none.any():
        for x in spans[1:]:
            x[none] = -1
    best, first, last, row = map(torch.from_numpy, spans)
    return best, first, last, row, torch.from_numpy(null_score), torch.from_numpy(nonfinite)


def _pick(x: Entries, at: Ints) -> Entries:
    """``x.flat[at]``, and -inf or -1 where ``at`` is -1."""
    out = np.full(at.shape, -1 if x.dtype == np.int32 else -np.inf, x.dtype)
    there = at >= 0
    out[there] = x.reshape(-1)[at[there]]
    return out


def _null_logits(chunks: _Chunks) -> tuple[Floats, Floats, Floats]:
    """Of the null positions: sums of the logits, and the start and end logits that join the support.

    All [C]. -inf where there is none, or, of the latter, where it is among the candidates already.
    """
    null = chunks.null
    missing = null < 0
    start, end = (_as_floats(x[chunks.row + null], chunks.dtype) for x in chunks.logits)
    if missing.any():
        start[missing] = end[missing] = -np.inf
    total = start + end
    if chunks.null_in_spans:
        counted = ~missing
    else:
        first, last = chunks.context
        counted = (first <= null) & (null < last)
        if chunks.mask is not None:
            counted &= chunks.mask[chunks.row + null]
    if counted.any():
        start[counted] = end[counted] = -np.inf
    return total, start, end


def _reduce(how: np.ufunc, x: Entries, question: Entries, questions: int, empty: float) -> Entries:
    """[Q] reductions of ``x`` [C] over the chunks of each question."""
    out = np.full(questions, empty, x.dtype)
    if len(x):
        begins = np.flatnonzero(np.diff(question, prepend=-1))
        out[question[begins]] = how.reduceat(x, begins)
    return out


def _shared(log_norm: Floats, question: Entries, questions: int) -> Floats:
    """[C] log-sum-exp over all chunks of the chunk's question."""
    top = np.maximum(_reduce(np.maximum, log_norm, question, questions, -np.inf), _LOWEST)
    mass = _reduce(np.add, np.exp(log_norm - top[question]), question, questions, 0.0)
    shared: Floats = (top + np.log(mass))[question]
    return shared


def _merge(
    score: Floats,
    start: Int32s,
    end: Int32s,
    chunks: _Chunks,
    question: Entries,
    context_offset: Entries | None,
    questions: int,
) -> Ints:
    """[Q, k] flat indices of the best of each question's [C, k] candidates; -1 for none."""

    def merge_some(some: slice) -> Results:
        begin, stop = np.searchsorted(question, (some.start, some.stop))
        part = slice(begin, stop)
        kept = _merge_block(
            score[part],
            start[part],
            end[part],
            chunks.context[:, part],
            question[part] - some.start,
            None if context_offset is None else context_offset[part],
            some.stop - some.start,
        )
        return (np.where(kept < 0, -1, kept + begin * score.shape[1]),)

    return _in_blocks(merge_some, questions, _QUESTIONS)[0]


def _merge_block(
    score: Floats,
    start: Int32s,
    end: Int32s,
    context: Ints,
    question: Entries,
    context_offset: Entries | None,
    questions: int,
) -> Ints:
    """The same for some questions."""
    top_k = score.shape[1]
    # k spans of a single chunk are a floor under the k-th best of its question.
    floor = np.fmax(_reduce(np.fmax, score[:, -1], question, questions, -np.inf), _LOWEST)
    kept = np.flatnonzero(score >= floor[question][:, None])
    chunk = kept // top_k
    group = question[chunk]
    value = score.reshape(-1)[kept]
    order = _stable_order((group, questions), (_descending(value), 1 << 32))
    kept, chunk = kept[order], chunk[order]
    if context_offset is not None:
        # A place in the whole context; the null position is the same place in every chunk.
        first, last = context[:, chunk]
        places = [
            np.where((x >= first) & (x < last), x + context_offset[chunk] - first + 1, 0)
            for x in (start.reshape(-1)[kept], end.reshape(-1)[kept])
        ]
        same = _stable_order((group, questions), *((x, int(x.max(initial=0)) + 1) for x in places))
        keys = np.stack((group, *places))[:, same]
        fresh = np.ones(len(kept), bool)
        fresh[same[1:]] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
        kept, group = kept[fresh], group[fresh]
    heads, none = _heads(group, questions, top_k)
    if none is None:
        return kept[heads]
    found = np.full(heads.shape, -1)
    found[~none] = kept[heads[~none]]
    return found
