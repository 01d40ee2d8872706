"""Span decoding on a CPU: O(N) per chunk, exact, one thread per core, compiled from ``cpu_backend.c``.

Steps for a chunk, with ``s`` and ``e`` the start and end logits of the context as float32 and -inf
elsewhere; everything stays in a core's first-level cache:

1. log-sum-exp of ``s`` and of ``e``, the normalizer of the two softmaxes;
2. ``best[i] = s[i] + max(e[i : i + max_answer_len])`` for every start i: the sliding maximum takes
   log2(max_answer_len) passes, each the maximum of the last one and itself, shifted;
3. a floor under the k-th best span: the k-th largest of the maxima of some classes of starts, found by
   bisection. At least k spans reach it, so no span below it can be among the k best;
4. of the starts with ``best[i] >= floor`` (little more than k), the ends that reach it are collected and
   sorted by (sum, start, end). A full buffer is cut to its k best, which raises the floor.

Within a chunk the normalizer is a constant, so spans are ranked by the float32 sum of their logits and
it is subtracted from the k that are left. The lists of a question's chunks are merged with a heap.

The library is built when the package is installed, if there is a C compiler; it uses the vector
instructions of the processor it runs on. Without it [`qa_fast.torch_backend`][] does the same work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SCORINGS = {"probability": 0, "shared": 1, "logit": 2}
_LOGITS_PER_THREAD = 1 << 18  # a fraction of a millisecond of work, a few times what a thread costs


class _Call(ctypes.Structure):
    """The struct ``Call`` of the C file."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "start_logits", "end_logits", "mask", "row_offset", "context", "question",
            "context_offset", "null_position",
        )),
        *((name, ctypes.c_int64) for name in (
            "n_logits", "row_stride", "n_chunks", "top_k", "max_answer_len", "dtype", "scoring",
            "null_in_spans",
        )),
        *((name, ctypes.c_void_p) for name in (
            "total", "list_start", "list_end", "log_norm", "null_total", "chunk_nonfinite",
            "score", "start", "end", "row", "null_score", "nonfinite",
        )),
    ]  # fmt: skip


@cache
def library() -> Any:
    """The compiled decoder; None where the package was installed without a C compiler."""
    spec = find_spec("qa_fast._cpu_backend")
    if spec is None or spec.origin is None:
        return None
    found = ctypes.CDLL(spec.origin)
    found.qa_fast_bad_chunk.argtypes = [ctypes.POINTER(_Call)]
    found.qa_fast_bad_chunk.restype = ctypes.c_int64
    for function in (found.qa_fast_decode_chunks, found.qa_fast_merge_questions):
        function.argtypes = [ctypes.POINTER(_Call), ctypes.c_int64, ctypes.c_int64]
        function.restype = ctypes.c_int
    return found


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
    compiled = library()
    chunks = len(context)
    # Named here, so that they live as long as the call.
    logits = start_logits.contiguous(), end_logits.contiguous()
    mask = None if context_mask is None else context_mask.contiguous()
    score, null_score, *spans = _outputs(num_questions, top_k)
    start, end, row, nonfinite = spans
    # A chunk that is a question of its own is merged in place.
    lists = score, null_score, *spans
    if question_id is not None:
        lists = _outputs(chunks, top_k)
    total, null_total, list_start, list_end, _, chunk_nonfinite = lists
    log_norm = torch.empty(chunks, 2)
    inputs = (*logits, mask, row_offset, context, question_id, context_offset, null_position)
    sizes = (
        start_logits.numel(),
        0 if row_offset is not None else start_logits.shape[1],
        chunks,
        top_k,
        max_answer_len or 0,
        _DTYPES[start_logits.dtype],
        _SCORINGS[scoring],
        null_in_spans,
    )
    found = (total, list_start, list_end, log_norm, null_total, chunk_nonfinite)
    results = (score, start, end, row, null_score, nonfinite)
    call = _Call(*map(_pointer, inputs), *sizes, *map(_pointer, found), *map(_pointer, results))

    bad = compiled.qa_fast_bad_chunk(call)
    if bad >= 0:
        _raise_range_error(bad, start_logits, context, row_offset, null_position)
    threads = min(torch.get_num_threads(), start_logits.numel() // _LOGITS_PER_THREAD)
    _in_threads(threads, compiled.qa_fast_decode_chunks, call, chunks)
    _in_threads(threads, compiled.qa_fast_merge_questions, call, num_questions)
    return results


def _outputs(rows: int, top_k: int) -> tuple[Tensor, ...]:
    """Uninitialized: scores [rows, top_k] and [rows], three indices [rows, top_k], a flag [rows]."""
    index = (torch.empty(rows, top_k, dtype=torch.int32) for _ in range(3))
    return torch.empty(rows, top_k), torch.empty(rows), *index, torch.empty(rows, dtype=torch.bool)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _in_threads(
    threads: int, function: Callable[[_Call, int, int], int], call: _Call, count: int
) -> None:
    """``function`` for all of ``count`` items; ctypes lets other threads run meanwhile."""
    if threads < 2 or count < 2:
        failed = function(call, 0, count)
    else:
        parts = min(4 * threads, count)  # a few for each, which evens out their lengths
        edges = [count * i // parts for i in range(parts + 1)]
        with ThreadPoolExecutor(threads) as pool:
            failed = any(pool.map(function, [call] * parts, edges[:-1], edges[1:]))
    if failed:
        raise MemoryError(f"no memory to decode {count} items")


def _raise_range_error(
    chunk: int, logits: Tensor, context: Tensor, row_offset: Tensor | None, null: Tensor
) -> None:
    room = logits.shape[-1]
    if row_offset is not None:
        offset = int(row_offset[chunk])
        if offset < 0:
            raise ValueError(f"row_offset must not be negative; got {offset} for chunk {chunk}")
        room -= offset
    low, high = context[chunk].tolist()
    where = f"for chunk {chunk}, whose row has room for {room} tokens"
    if not 0 <= low <= high <= room:
        raise ValueError(
            f"context must be half-open ranges inside their rows; got [{low}, {high}) {where}"
        )
    raise ValueError(
        f"null_position must be inside its row, or -1 for none; got {int(null[chunk])} {where}"
    )
