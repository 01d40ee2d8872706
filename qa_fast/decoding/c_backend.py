"""Span decoding on a CPU: O(N) per chunk, exact, one thread per core, compiled from ``c_backend.c``.

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
it is subtracted from the k that are left. The lists of a question's chunks are merged with a heap. No
list is longer than the spans that its chunk holds: whatever top_k, they take no more than these.

C takes addresses as they are. Every buffer's is taken in one place, after a look at its dtype, device,
layout and size.

The library is built when the package is installed, if there is a C compiler; it uses the vector
instructions of the processor it runs on. Without it [`qa_fast.decoding.torch_backend`][] does the
same work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, NoReturn

import torch
from torch import Tensor

from .search import Found, SpanSearch

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SCORINGS = {"probability": 0, "shared": 1, "logit": 2}
_CPU = torch.device("cpu")
# A fraction of a millisecond of work, a few times what a thread costs.
_LOGITS_PER_THREAD = 1 << 18


class _Call(ctypes.Structure):
    """The struct ``Call`` of the C file."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "start_logits", "end_logits", "mask", "row_offset", "context", "question",
            "context_offset", "null_position", "score", "start", "end", "row", "null_score",
            "nonfinite",
        )),
        *((name, ctypes.c_int64) for name in (
            "n_logits", "row_stride", "n_chunks", "n_questions", "top_k", "max_answer_len", "dtype",
            "scoring", "null_in_spans",
        )),
        ("own", ctypes.c_void_p * 7),
    ]  # fmt: skip


def _load() -> Any:
    spec = find_spec("qa_fast.decoding._c_backend")
    if spec is None or spec.origin is None:
        return None
    found = ctypes.CDLL(spec.origin)
    of_call, of_range = [ctypes.POINTER(_Call)], [ctypes.POINTER(_Call), *2 * [ctypes.c_int64]]
    for name, arguments in (
        ("decode", of_call),
        ("begin", of_call),
        ("decode_chunks", of_range),
        ("merge_questions", of_range),
        ("end", of_call),
    ):
        function = getattr(found, f"qa_fast_{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int64
    found.qa_fast_end.restype = None
    return found


_LIBRARY = _load()


def library() -> Any:
    """The compiled decoder; None where the package was installed without a C compiler."""
    return _LIBRARY


def decode(search: SpanSearch) -> Found:
    """The spans of a search whose tensors are in the memory of the CPU.

    Raises:
        ValueError: a range or a null position outside of its row, or a buffer that C cannot read.
        MemoryError: there is too little memory.
    """
    context, null_position = search.places()
    questions, top_k, chunks = search.num_questions, search.top_k, context.shape[0]
    if search.question_id is None and questions != chunks:
        raise ValueError(f"without question_id there is a question per chunk, not {questions}")
    start_logits, end_logits = _readable(search.start_logits), _readable(search.end_logits)
    mask = None if search.context_mask is None else _readable(search.context_mask)
    dtype, tokens, answers = start_logits.dtype, start_logits.numel(), questions * top_k
    score = torch.empty(questions, top_k, dtype=torch.float32, device=_CPU)
    start = torch.empty(questions, top_k, dtype=torch.int32, device=_CPU)
    end, row = torch.empty_like(start), torch.empty_like(start)
    null_score = torch.empty(questions, dtype=torch.float32, device=_CPU)
    nonfinite = torch.empty(questions, dtype=torch.bool, device=_CPU)
    call = _Call(
        _address("start_logits", start_logits, dtype, tokens),
        _address("end_logits", end_logits, dtype, tokens),
        _address("context_mask", mask, torch.bool, tokens),
        _address("row_offset", search.row_offset, torch.int64, chunks),
        _address("context", context, torch.int32, 2 * chunks),
        _address("question_id", search.question_id, torch.int32, chunks),
        _address("context_offset", search.context_offset, torch.int32, chunks),
        _address("null_position", null_position, torch.int32, chunks),
        _address("score", score, torch.float32, answers),
        _address("start", start, torch.int32, answers),
        _address("end", end, torch.int32, answers),
        _address("row", row, torch.int32, answers),
        _address("null_score", null_score, torch.float32, questions),
        _address("nonfinite", nonfinite, torch.bool, questions),
        tokens,
        0 if search.row_offset is not None else start_logits.shape[1],
        chunks,
        questions,
        top_k,
        search.max_answer_len or 0,
        _DTYPES[dtype],
        _SCORINGS[search.scoring],
        search.null_in_spans,
    )
    threads = min(torch.get_num_threads(), tokens // _LOGITS_PER_THREAD)
    status = _run(call, threads) if threads > 1 else library().qa_fast_decode(call)
    if status > 0:
        _raise_range_error(search, status - 1)
    if status < 0:
        raise MemoryError(f"no memory to decode {chunks} chunks with top_k={top_k}")
    return score, start, end, row, null_score, nonfinite


def _readable(x: Tensor) -> Tensor:
    """``x`` with its values one after the other in memory, none of them yet to be negated."""
    x = x.contiguous()
    return x.resolve_neg().clone() if x.is_neg() or x.data_ptr() % x.itemsize else x


def _address(name: str, buffer: Tensor | None, dtype: torch.dtype, elements: int) -> int | None:
    """Where a buffer begins that is what C takes it for; None for None.

    Raises:
        ValueError: it is something else.
    """
    if buffer is None:
        return None
    if (
        buffer.dtype is dtype
        and buffer.is_cpu
        and buffer.numel() == elements
        and buffer.is_contiguous()
    ):
        address = buffer.data_ptr()
        # Tensors of zeros, and those that only hold others, may have no memory: nothing but an offset.
        in_memory = address != buffer.storage_offset() * dtype.itemsize
        if not address % dtype.itemsize and (in_memory or not elements):
            return address
    raise ValueError(
        f"{name} must be {elements} elements of {dtype} in the memory of the CPU, contiguous and "
        f"aligned; got {buffer.dtype}, {list(buffer.shape)} on {buffer.device} with strides "
        f"{list(buffer.stride())}: pass a clone of it"
    )


def _run(call: _Call, threads: int) -> int:
    """``qa_fast_decode`` in several threads; ctypes lets them run at a time."""
    compiled = library()
    with ThreadPoolExecutor(threads) as pool:

        def share(function: Callable[[_Call, int, int], int], count: int) -> int:
            # A few for each thread, which evens out their lengths.
            parts = min(4 * threads, count)
            edges = [count * i // parts for i in range(parts + 1)] if parts else []
            return min(pool.map(function, [call] * parts, edges[:-1], edges[1:]), default=0)

        try:
            return (
                compiled.qa_fast_begin(call)
                or share(compiled.qa_fast_decode_chunks, call.n_chunks)
                or share(compiled.qa_fast_merge_questions, call.n_questions)
            )
        finally:
            compiled.qa_fast_end(call)


def check_ranges(search: SpanSearch) -> None:
    """What the compiled decoder checks for itself: all ranges and null positions lie in their rows.

    Raises:
        ValueError: the first chunk for which that is not so.
    """
    context, null = search.places()
    row = search.row_offset
    if row is None:
        row = torch.zeros(len(context), dtype=torch.int64, device=_CPU)
    room = search.start_logits.shape[-1] - row
    low, high = context.unbind(1)
    wrong = (row < 0) | (low < 0) | (low > high) | (high > room) | (null < -1) | (null >= room)
    if wrong.any():
        _raise_range_error(search, int(wrong.nonzero()[0]))


def _raise_range_error(search: SpanSearch, chunk: int) -> NoReturn:
    context, null = search.places()
    room = search.start_logits.shape[-1]
    if search.row_offset is not None:
        offset = int(search.row_offset[chunk])
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
