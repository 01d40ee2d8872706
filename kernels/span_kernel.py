"""The k best answer spans of every chunk, one warp per chunk, in one pass over its logits.

For a chunk with start logits ``s`` and end logits ``e`` over its context tokens, the kernel finds the k
largest of

    s[i] + e[j],    i <= j < i + max_answer_len,

and the log-sum-exp of ``s`` and of ``e`` over the context and the null position. That is all that the
scores need: ``log softmax(s)[i] + log softmax(e)[j]`` is the sum less both log-sum-exps, a constant of
the chunk, so the order of the sums is the order of the scores.

Steps, in registers, with the tokens on the lanes of a warp as `lanes` draws them:

1. `tiles`: load ``s`` and ``e``, four tokens at a time, from the last multiple of 4 at or before the
   context.
2. `normalizer`: ``peak_s + peak_e + log(mass_s * mass_e)``: the null position is among the masses.
3. `windows`: ``best[i] = s[i] + max(e[i : i + max_answer_len])``, the best span of every start, from the
   prefix and suffix maxima of the lanes.
4. For k = 1 the largest of them. Else `candidates`: a list of the starts that can matter, those that
   reach a floor which k starts or more reach, but no more than the list has room for. Below it none of
   the k best spans can lie. It is guessed between the largest and the least of the lanes' largest, and
   found by halving where that was no good guess. Where too many starts are equal to it, the first are
   enough.
5. `popping`, k times: the best start of the list, its at most max_answer_len ends (read again, from L1),
   the ends that give that best sum, and the start's next lower sum put back in its place. The k best
   spans come out in order, with no sort and no N x N matrix.

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

import triton
import triton.language as tl

from .lanes import NO_KEY, as_bits, as_float, ordered, unordered
from .normalizer import normalizer_of
from .popping import slots_of, store_best_span, store_best_spans
from .tiles import Batch, Config, logits_of, row_of, tile_of
from .windows import best_sums


@triton.jit
def _store_list_fields(list_id, norm, row, tile, out_ptr, batch, config: tl.constexpr):
    """Write what belongs to the list as a whole: its null score, and log-sum-exps or a flag."""
    field = batch.n_lists.to(tl.int64) * batch.top_k
    ptr = out_ptr + 4 * field + list_id
    if config.FINAL:
        null_score = tl.where(row.has_null, row.null_s + row.null_e - norm.shift, float("-inf"))
        null_score = tl.where(norm.nonfinite, float("nan"), null_score)
        flags_ptr = (out_ptr + 4 * field + batch.n_lists).to(tl.pointer_type(tl.int8))
        tl.store(flags_ptr + list_id, norm.nonfinite.to(tl.int8))
    else:
        no_null = row.has_null == 0
        if config.TILED:
            no_null = no_null | (tile.number > 0)
        null_score = tl.where(no_null, float("inf"), row.null_s + row.null_e - norm.shift)
        tl.store(ptr + batch.n_lists, as_bits(norm.start))
        tl.store(ptr + 2 * batch.n_lists, as_bits(norm.end))
    tl.store(ptr, as_bits(null_score))


@triton.jit
def _make_list(list_id, lane, least, out_ptr, scratch_ptr, batch, config: tl.constexpr):
    """The list of one tile; see `span_topk_kernel`. Scores below ``least`` may be left out."""
    chunk = list_id
    number = 0
    if config.TILED:
        chunk = list_id // batch.n_tiles
        number = list_id - chunk * batch.n_tiles
    # 1. The logits of the tile.
    row = row_of(chunk, batch, config)
    tile = tile_of(number, lane, row, config)
    s, e, own_e = logits_of(batch, row, tile, config)
    # 2. The normalizer.
    norm = normalizer_of(s, own_e, batch.n_tiles, row, tile, config)
    _store_list_fields(list_id, norm, row, tile, out_ptr, batch, config)
    # 3. The best span of every start.
    key = best_sums(s, e, batch, row, tile, config)
    # 4 and 5. The best starts, and their spans.
    slots = slots_of(list_id, chunk, norm, out_ptr, batch, config)
    if config.LIST == 1:
        store_best_span(key, norm.nonfinite, slots, row, tile, config)
    else:
        store_best_spans(key, norm.nonfinite, least, slots, scratch_ptr, row, tile, config)


@triton.jit
def _second_round(
    list_ids, wanted, n_tiles, top_k, best_ptr, chunk_norm_ptr, floor_ptr, question_id_ptr
):
    """Which of the lists are ``wanted`` still, and the least score or sum that matters in each."""
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
    return wanted, least


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
            wanted, least = _second_round(
                list_ids,
                wanted,
                n_tiles,
                top_k,
                best_ptr,
                chunk_norm_ptr,
                floor_ptr,
                question_id_ptr,
            )
    batch = Batch(
        start_ptr, end_ptr, context_ptr, null_position_ptr, mask_ptr, row_offset_ptr,
        row_stride, n_logits, n_lists, n_tiles, top_k, null,
    )  # fmt: skip
    config: tl.constexpr = Config(
        PER, SPAN, BLOCK_LEN, LIST, MOST_K, NULL_IN_SPANS, NORMALIZE, SHIFT, FINAL, TILED, STARTS,
        ALIGNED, POSITIONS, mask_ptr is not None,
    )  # fmt: skip
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
            first_list + turn, lane + zero, least_here, out_ptr, scratch_ptr + zero, batch, config
        )
        turn = tl.min(tl.where(wanted & (lane > turn), lane, 32), axis=0)
