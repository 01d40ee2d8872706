"""Lists of the k best answer spans of every chunk: how chunks are cut up, and the launch.

[`span_kernel`][qa_fast.kernels.span_kernel] says how they are found.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .launch import launch
from .span_kernel import span_topk_kernel


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
# Tokens of a lane, by the width of the rows.
PER_LANE = (4, 8, 12, 16, 24, 32)
MAX_TOP_K = 128
# Starts that a list of 33 to 128 spans has room for.
LARGE_LIST = 256


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


def _constants(
    shape: Shape,
    list_size: int,
    top_k: int,
    scoring: str,
    null_in_spans: bool,
    final: bool,
    rows_aligned: bool,
    positions: bool,
) -> tuple[Hashable, ...]:
    """The kernel's constants, from PER on."""
    tiled = shape.tiles > 1
    normalize = scoring != "logit"
    return (
        shape.per,
        shape.span,
        shape.block_len,
        list_size,
        32 if top_k <= 32 else MAX_TOP_K,
        null_in_spans,
        normalize,
        normalize and (final or (scoring == "probability" and not tiled)),
        final,
        tiled,
        shape.starts,
        rows_aligned,
        positions,
    )


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
    words = n_lists * (4 * top_k + 1) + (-(-n_lists // 4) if final else 2 * n_lists)
    out = torch.empty(words, dtype=torch.int32, device=device)
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
    nulls = isinstance(null_position, Tensor)
    best = floor = question_id = chunk_norm = None
    if second_round is not None:
        best, floor, question_id, chunk_norm = second_round
    elif not final and top_k > 1:
        # The same kernel as in a second round; not read.
        best = floor = question_id = out
    rows_aligned = row_offset is None and shape.tiles == 1 and row_stride % 4 == 0
    constants = _constants(
        shape, list_size, top_k, scoring, null_in_spans, final, rows_aligned, positions
    )
    aligned = start_logits.data_ptr() % 16 == 0, end_logits.data_ptr() % 16 == 0
    max_registers = tuning.max_registers
    plain = final and all(aligned) and context_mask is None and not null_in_spans
    if not plain or shape.tiles > 1 or shape.per > 12 or shape.block_len > 32 or top_k > 32:
        max_registers = None
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
        out, scratch,
        start_logits, end_logits, context, null_position if nulls else None, context_mask, row_offset,
        best, chunk_norm, floor, question_id,
        row_stride, n_logits, n_lists, shape.tiles, top_k, 0 if nulls else null_position,
        per_program, 0 if second_round is None else 1,
        *constants,
    )  # fmt: skip
    launch(span_topk_kernel, programs, key, arguments, _options(max_registers))
    return out
