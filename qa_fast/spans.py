"""`decode_spans`: start and end logits in, the best answer spans out.

What the scores mean and how ties are broken is spelled out in [`qa_fast.reference`][]. This file
checks arguments, registers the PyTorch operator ``qa_fast::decode_spans`` and leaves the work to the
compiled [`qa_fast.cpu_backend`][] on a CPU, to the Triton kernels in ``qa_fast.kernels`` on a GPU, and
to [`qa_fast.torch_backend`][] anywhere else.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from . import cpu_backend, torch_backend, triton_backend

Scoring = Literal["probability", "shared", "logit"]

_SCORINGS = get_args(Scoring)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
# A max_answer_len that no chunk reaches; much more does not fit into a kernel's int32.
_NO_LIMIT = 1 << 30


class Spans(NamedTuple):
    """The best spans of Q questions, best first.

    Attributes:
        score: [Q, top_k] float32: log-probability, or the sum of logits under ``scoring="logit"``;
            -inf where there are fewer candidates than ``top_k``.
        start: [Q, top_k] int32 token position inside its chunk; -1 where there is no candidate.
        end: [Q, top_k] int32 token position inside its chunk, inclusive; -1 likewise.
        chunk: [Q, top_k] int32 row of the input; -1 likewise.
        null_score: [Q] float32 score of the null answer: the span (z, z) at the null position z, the
            minimum over the question's chunks; -inf where no chunk has a null position.
        nonfinite: [Q] bool: the support of one of the question's chunks holds a NaN or a +inf logit
            (or two logits whose sum float32 cannot hold). Such a question has no spans and NaN scores.
    """

    score: Tensor
    start: Tensor
    end: Tensor
    chunk: Tensor
    null_score: Tensor
    nonfinite: Tensor


def decode_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor | None = None,
    question_id: Tensor | None = None,
    *,
    top_k: int = 20,
    max_answer_len: int | None = 30,
    scoring: Scoring = "probability",
    distinct: bool = True,
    context_offset: Tensor | None = None,
    null_position: int | Tensor = 0,
    null_in_spans: bool = False,
    context_mask: Tensor | None = None,
    row_offset: Tensor | None = None,
    num_questions: int | None = None,
    max_seq_len: int | None = None,
) -> Spans:
    """The ``top_k`` best answer spans of every question, exact, over all its chunks.

    The score of the span from token i to token j of a chunk is

        log softmax(start_logits)[i] + log softmax(end_logits)[j],    i <= j < i + max_answer_len,

    both softmaxes over the chunk's context tokens and its null position; ``exp(score)`` is the score of
    Transformers' question-answering pipeline. Everything is computed in float32.

    Args:
        start_logits: [C, N] float16, bfloat16 or float32, a row per chunk; or, with ``row_offset``,
            flat [T]. Logits that are not contiguous are copied.
        end_logits: same shape, dtype and device.
        context: [C, 2] int: the half-open range of context tokens in each chunk, counted from the
            chunk's first token. None: the whole row (only with [C, N] logits).
        question_id: [C] int, non-decreasing, from 0 to Q - 1: the question each chunk belongs to
            (Transformers' ``overflow_to_sample_mapping``). None: each chunk is a question of its own,
            which gives the best ``top_k`` per chunk.
        top_k: spans per question, at least 1.
        max_answer_len: most tokens in a span, at least 1; None for no limit.
        scoring: "probability" (above); "shared", where each softmax runs over all the question's
            chunks together, so that scores compare across chunks (Clark & Gardner 2018); or "logit",
            the sum of the two logits, as BERT's and run_qa.py's post-processing ranks.
        distinct: count a span that several overlapping chunks contain once, with its best score. Takes
            effect where ``context_offset`` says how chunks overlap.
        context_offset: [C] int: the index, in the whole context's tokens, of each chunk's first context
            token. None: no two chunks share tokens.
        null_position: where the null position ([CLS]) is in each chunk, an int or [C] int; -1 for none.
        null_in_spans: let the null position also be the start or the end of a span.
        context_mask: bool, shaped like the logits: False takes a token out of the context.
        row_offset: [C] int: token i of chunk c is at ``row_offset[c] + i`` of the flat logits.
        num_questions: Q. Without it Q is one more than the last ``question_id``, which has to be read
            back from a GPU. With it nothing is read back: ids on a GPU are then taken as given. Under
            `torch.compile` it is needed, in one graph (``fullgraph=True``).
        max_seq_len: no chunk has more tokens; with flat logits. Without it, it is taken from
            ``context``, which has to be read back from a GPU. A chunk that is longer is reported in
            ``nonfinite``.

    On a GPU the call does not wait for the device if the integer arguments are on the host, or if
    ``num_questions`` and, for flat logits, ``max_seq_len`` are given. Those on the host are copied;
    page-locked memory may be read after the call has returned.

    A CUDA graph can hold the call where it does not wait and copies nothing: every tensor is on the
    logits' device, and ``top_k`` at most 128, beyond which the call waits. Python integers and None stay
    what they were at the capture.

    Returns:
        A [`Spans`][qa_fast.spans.Spans]. Order: score descending, then chunk, start and end ascending,
        the same on every run and every backend.

    Raises:
        ValueError: a shape, a range or a value that does not fit; the message says which and why.
        TypeError: a dtype that is not supported.

    Example:
        >>> import torch
        >>> start = torch.tensor([[0.0, 1.0, 5.0, 1.0], [0.0, 1.0, 0.0, 2.0]])
        >>> end = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 3.0, 0.0, 1.0]])
        >>> context = torch.tensor([[1, 4], [1, 4]])  # token 0 is [CLS]
        >>> spans = decode_spans(start, end, context, torch.tensor([0, 0]), top_k=2)
        >>> spans.chunk.tolist(), spans.start.tolist(), spans.end.tolist()
        ([[0, 1]], [[2, 1]], [[3, 1]])
        >>> [round(p, 3) for p in spans.score[0].exp().tolist()]
        [0.796, 0.182]
    """
    _check_scalars(
        top_k, max_answer_len, scoring, num_questions, max_seq_len, distinct, null_in_spans
    )
    _check_logits(start_logits, end_logits, row_offset)
    if max_answer_len is not None and max_answer_len >= _NO_LIMIT:
        max_answer_len = None
    device = start_logits.device
    if row_offset is None:
        chunks = start_logits.shape[0]
    else:
        row_offset = _integers("row_offset", row_offset, None, device)
        chunks = row_offset.shape[0]
        if context is None:
            raise ValueError("flat logits with row_offset need context: [C, 2] token ranges")
    if context is not None:
        context = _integers("context", context, (chunks, 2), device)
    if not isinstance(null_position, int):
        null_position = _integers("null_position", null_position, (chunks,), device)
    elif not -1 <= null_position <= _INT32_MAX:
        raise ValueError(
            f"null_position must be inside its row, or -1 for none; got {null_position}"
        )
    elif row_offset is None and chunks and null_position >= start_logits.shape[1]:
        raise ValueError(
            f"null_position must be inside its row, or -1 for none; got {null_position} for chunk 0, "
            f"whose row has room for {start_logits.shape[1]} tokens"
        )
    if context_offset is not None:
        context_offset = _integers("context_offset", context_offset, (chunks,), device)
    if context_mask is not None:
        _check_mask(context_mask, start_logits)
    if question_id is not None:
        question_id = _integers("question_id", question_id, (chunks,), device)
        found_questions = _check_question_id(question_id, chunks, num_questions)
    elif num_questions is None or num_questions == chunks:
        found_questions = chunks
    else:
        raise ValueError(
            f"num_questions is {num_questions}, but without question_id each of the {chunks} "
            "chunks is a question of its own"
        )
    longest, most_chunks = _reach(
        start_logits, null_position, context, chunks, question_id, num_questions, max_seq_len
    )
    # The operator's own Python takes as long as 20 chunks on a CPU, or as most of this on a GPU.
    plain = type(start_logits) is type(end_logits) is Tensor and not torch.compiler.is_compiling()
    decode: Any = _decode_spans
    if plain and start_logits.is_cuda:
        decode = _decode_on_gpu
    elif plain and start_logits.is_cpu:
        decode = _decode_on_cpu
    if not distinct:
        context_offset = None
    if decode is not _decode_on_gpu or (context is None and context_offset is not None):
        context, null_position = _as_tensors(start_logits, context, null_position)
    if context is not None:
        context = _moved("context", context, device)
    if not isinstance(null_position, int):
        null_position = _moved("null_position", null_position, device)
    if row_offset is not None:
        row_offset = _moved("row_offset", row_offset, device, torch.int64)
    if question_id is not None:
        question_id = _moved("question_id", question_id, device)
    if context_offset is not None:
        context_offset = _moved("context_offset", context_offset, device)
    return Spans(
        *decode(
            start_logits,
            end_logits,
            context,
            context_mask,
            row_offset,
            question_id,
            context_offset,
            null_position,
            found_questions,
            top_k,
            max_answer_len,
            scoring,
            null_in_spans,
            longest,
            most_chunks,
        )
    )


def warmup(
    device: str | torch.device = "cuda",
    *,
    top_k: int = 20,
    max_answer_len: int | None = 30,
    scoring: Scoring = "probability",
    distinct: bool = True,
    null_in_spans: bool = False,
    dtype: torch.dtype = torch.float32,
    max_seq_len: int = 384,
    flat: bool = False,
    max_chunks: int | None = None,
) -> None:
    """Compile ahead of time what calls of `decode_spans` need on a GPU, by decoding a few zeros.

    A kernel is compiled when it is first needed, which takes seconds. It is kept for the process, and
    by Triton in a folder for later ones. Pipelines and readers do this by themselves.

    What a call gives decides which kernel it is: its ``top_k`` only as 1, up to 32 or up to 128. Here
    ``context`` is a tensor and ``context_mask`` is none; ``null_position`` is an integer, or a tensor
    with flat logits.

    Args:
        device: where the logits will be. Nothing is compiled for a CPU.
        top_k: as in the calls.
        max_answer_len: as in the calls.
        scoring: as in the calls.
        distinct: whether calls with ``question_id`` give ``context_offset``.
        null_in_spans: as in the calls.
        dtype: that of the logits.
        max_seq_len: most tokens in a chunk: N of [C, N] logits, or as in the calls.
        flat: whether the logits will be flat, with ``row_offset``.
        max_chunks: most chunks of a question, for calls with ``question_id``; None: without it.

    Raises:
        ValueError: as `decode_spans`.
        TypeError: as `decode_spans`.

    Example:
        >>> device = "cuda" if torch.cuda.is_available() else "cpu"
        >>> warmup(device, top_k=5, dtype=torch.float16)  # before the first
        >>> logits = torch.zeros(8, 384, dtype=torch.float16, device=device)
        >>> spans = decode_spans(logits, logits, torch.tensor([[1, 384]] * 8), top_k=5)
    """
    _check_scalars(top_k, max_answer_len, scoring, None, max_seq_len, distinct, null_in_spans)
    _check_count("max_chunks", max_chunks, 1)
    on_gpu = torch.device(device).type == "cuda" and _has_triton()
    counts = triton_backend.chunk_counts(top_k, max_chunks or 2) if on_gpu else [2]
    # Rows of flat logits are as long as they happen to be; see `_reach`.
    widths = {max_seq_len, min(max_seq_len, triton_backend.ONE_TILE)} if flat else {max_seq_len}
    for chunks, width in product(counts, widths):
        zeros = torch.zeros((chunks,), dtype=torch.int32, device=device)
        shape = (width,) if flat else (chunks, width)
        logits = torch.zeros(shape, dtype=dtype, device=device)
        decode_spans(
            logits,
            logits,
            zeros[:, None].expand(chunks, 2),
            None if max_chunks is None else zeros,
            top_k=top_k,
            max_answer_len=max_answer_len,
            scoring=scoring,
            context_offset=zeros if distinct and max_chunks is not None else None,
            null_position=zeros if flat else -1,
            null_in_spans=null_in_spans,
            row_offset=zeros if flat else None,
            num_questions=None if max_chunks is None else 1,
            max_seq_len=width,
        )


@torch.library.custom_op("qa_fast::decode_spans", mutates_args=())
def _decode_spans(
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
    max_seq_len: int,  # noqa: ARG001  # only the kernels need to know
    max_chunks: int,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    flat = _flatten(start_logits, end_logits, context, context_mask, row_offset)
    return torch_backend.decode(
        *flat,
        question_id,
        context_offset,
        null_position,
        num_questions,
        top_k,
        max_answer_len,
        scoring,
        null_in_spans,
    )


@_decode_spans.register_kernel("cpu")
def _decode_on_cpu(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    arguments = start_logits, end_logits, context, context_mask, row_offset, *rest
    if cpu_backend.library() is None:
        cpu_backend.check_ranges(start_logits, context, row_offset, rest[2])
        generic: Any = _decode_spans._init_fn
        return generic(*arguments)
    return cpu_backend.decode(*arguments[:-2])


@_decode_spans.register_kernel("cuda")
def _decode_on_gpu_operator(
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `_decode_on_gpu`; an operator's results must not share memory."""
    score, start, end, chunk, null_score, nonfinite = map(Tensor.clone, _decode_on_gpu(*arguments))
    return score, start, end, chunk, null_score, nonfinite


def _decode_on_gpu(start_logits: Tensor, *rest: Any) -> Any:
    """As the operator, but what is the same for all chunks is no tensor.

    A null position is an integer then, and a context None, which is the whole row (where there is no
    context_offset). The results may share memory.
    """
    if start_logits.is_cuda and start_logits.get_device() != torch.cuda.current_device():
        with torch.cuda.device(start_logits.device):  # Triton launches on the current one
            return _decode_by_kernels(start_logits, *rest)
    return _decode_by_kernels(start_logits, *rest)


def _decode_by_kernels(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor | None,
    context_mask: Tensor | None,
    *rest: Any,
) -> Any:
    if _has_triton():
        logits = start_logits.contiguous(), end_logits.contiguous()
        mask = None if context_mask is None else context_mask.contiguous()
        found = triton_backend.decode(*logits, context, mask, *rest)
        if found is not None:
            return found
    row_offset, question_id, context_offset, null_position, num_questions, top_k, *others = rest
    if _is_capturing(start_logits.device):
        raise ValueError(
            "a CUDA graph can hold the Triton kernels only, which need a recent Triton and top_k of at "
            f"most 128: else results are read back; got top_k={top_k}"
        )
    context, null_position = _as_tensors(start_logits, context, null_position)
    chunks = context, context_mask, row_offset, question_id, context_offset, null_position
    generic: Any = _decode_spans._init_fn
    return generic(start_logits, end_logits, *chunks, num_questions, top_k, *others)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _as_tensors(
    logits: Tensor, context: Tensor | None, null_position: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Contexts [C, 2], the whole rows for None, and null positions [C]; nothing is copied to a GPU."""
    if context is None:
        ends = torch.arange(2, dtype=torch.int32, device=logits.device) * logits.shape[1]
        context = ends.expand(logits.shape[0], 2)
    if isinstance(null_position, int):
        size = (len(context),)
        null_position = torch.full(size, null_position, dtype=torch.int32, device=logits.device)
    return context, null_position


def _flatten(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """[C, N] logits as flat ones with row offsets, which is what the backends take."""
    if row_offset is None:
        chunk = torch.arange(context.shape[0], dtype=torch.int64, device=context.device)
        row_offset = chunk * start_logits.shape[1]
    mask = None if context_mask is None else context_mask.reshape(-1)
    return start_logits.reshape(-1), end_logits.reshape(-1), row_offset, context, mask


@_decode_spans.register_fake
def _(_start_logits, _end_logits, context, *args):  # type: ignore[no-untyped-def]
    num_questions, top_k = args[5:7]
    index = context.new_empty((num_questions, top_k), dtype=torch.int32)
    score = torch.empty_like(index, dtype=torch.float32)
    null_score = context.new_empty((num_questions,), dtype=torch.float32)
    return (
        score,
        index,
        torch.empty_like(index),
        torch.empty_like(index),
        null_score,
        torch.empty_like(null_score, dtype=torch.bool),
    )


def _check_scalars(
    top_k: int,
    max_answer_len: int | None,
    scoring: str,
    num_questions: int | None,
    max_seq_len: int | None,
    distinct: bool,
    null_in_spans: bool,
) -> None:
    if top_k is None:
        raise ValueError("top_k must be an integer of at least 1; got None")
    _check_count("top_k", top_k, 1, _INT32_MAX)
    _check_count("max_answer_len", max_answer_len, 1)
    _check_count("num_questions", num_questions, 0, _INT32_MAX)
    _check_count("max_seq_len", max_seq_len, 0, _INT32_MAX)
    for name, flag in (("distinct", distinct), ("null_in_spans", null_in_spans)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False; got {flag!r}")
    if scoring not in _SCORINGS:
        raise ValueError(
            f"scoring must be one of {', '.join(map(repr, _SCORINGS))}; got {scoring!r}"
        )


def _check_count(name: str, value: int | None, least: int, most: int | None = None) -> None:
    if value is None:
        return
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}; got {value}")


def _check_logits(start: Tensor, end: Tensor, row_offset: Tensor | None) -> None:
    for name, logits in (("start_logits", start), ("end_logits", end)):
        if not isinstance(logits, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(logits).__name__}")
        if logits.dtype not in _FLOATS:
            raise TypeError(
                f"{name} must be float16, bfloat16 or float32; got {logits.dtype} "
                "(scores are computed in float32: pass logits.float())"
            )
        if logits.layout != torch.strided:
            raise TypeError(f"{name} must be dense; got {logits.layout}: pass logits.to_dense()")
    if start.shape != end.shape or start.dtype != end.dtype or start.device != end.device:
        raise ValueError(
            "start_logits and end_logits must have the same shape, dtype and device; got "
            f"{list(start.shape)} {start.dtype} on {start.device} and "
            f"{list(end.shape)} {end.dtype} on {end.device}"
        )
    expected = 2 if row_offset is None else 1
    if start.ndim != expected:
        raise ValueError(
            f"logits must be [C, N], or flat [T] together with row_offset; got {list(start.shape)} "
            f"with{'out' if row_offset is None else ''} row_offset"
        )


def _check_mask(mask: Tensor, logits: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"context_mask must be a torch.Tensor; got {type(mask).__name__}")
    if mask.dtype != torch.bool or mask.shape != logits.shape or mask.device != logits.device:
        raise ValueError(
            f"context_mask must be bool and shaped like the logits, {list(logits.shape)}, and on "
            f"their device; got {mask.dtype}, {list(mask.shape)} on {mask.device}"
        )


def _integers(
    name: str, value: Tensor, shape: tuple[int, ...] | None, device: torch.device
) -> Tensor:
    """``value`` where it is, or an error that names it."""
    if not isinstance(value, Tensor):
        try:
            value = torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{name} must be a tensor of int32 or int64; got {type(value).__name__}"
            ) from None
    if value.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int32 or int64; got {value.dtype}")
    if value.ndim != 1 if shape is None else value.shape != shape:
        expected = "[C]" if shape is None else list(shape)
        raise ValueError(
            f"{name} must have shape {expected}, a row per chunk; got {list(value.shape)}"
        )
    if not value.is_cpu and value.device != device:
        raise ValueError(f"{name} is on {value.device}, the logits are on {device}")
    return value


def _moved(
    name: str, value: Tensor, device: torch.device, dtype: torch.dtype = torch.int32
) -> Tensor:
    """``value`` as a contiguous tensor of ``dtype`` on ``device``.

    What does not fit becomes the largest or smallest number: it must not wrap around to one that fits.
    """
    if value.dtype is not dtype:
        if dtype is torch.int32:
            value = value.clamp(_INT32_MIN, _INT32_MAX)
        value = value.to(dtype)
    if value.device != device:
        if _is_capturing(device):
            raise ValueError(
                f"{name} is on {value.device}, which a CUDA graph cannot copy from: its replays would "
                f"read memory that is gone. Pass {name} on the logits' device, {device}"
            )
        # Without waiting: CUDA has read pageable memory when the call returns, and PyTorch gives
        # page-locked memory to nobody else before it has been read.
        value = value.to(device, non_blocking=True)
    return value.contiguous()


def _is_capturing(device: torch.device) -> bool:
    """Whether what ``device`` is given to do goes into a CUDA graph."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _reach(
    logits: Tensor,
    null_position: int | Tensor,
    context: Tensor | None,
    chunks: int,
    question_id: Tensor | None,
    num_questions: int | None,
    max_seq_len: int | None,
) -> tuple[int, int]:
    """Most tokens in a row and most chunks in a question, for the grids of a GPU's kernels."""
    if logits.is_cpu or not chunks:
        return 0, 0
    if context is None or logits.ndim == 2:
        longest = logits.shape[1]
    elif max_seq_len is not None and (
        max_seq_len <= triton_backend.ONE_TILE
        or not context.is_cpu
        or not _is_on_host(null_position)
    ):
        longest = max_seq_len
    else:
        if max_seq_len is None and _is_capturing(logits.device):
            raise ValueError("max_seq_len must be given with flat logits in a CUDA graph")
        null = null_position if isinstance(null_position, int) else int(null_position.max())
        longest = max(int(context[:, 1].max()), null + 1)
        if max_seq_len is not None:  # so many tiles as there are, but one kernel more at most
            if longest <= triton_backend.ONE_TILE:
                longest = triton_backend.ONE_TILE
            elif max_seq_len > triton_backend.LARGEST_TILE:
                longest = min(max_seq_len, max(longest, triton_backend.LARGEST_TILE + 1))
            else:
                longest = max_seq_len
    if question_id is None:
        most_chunks = 1
    elif num_questions is None or question_id.is_cpu:
        most_chunks = int(torch.bincount(question_id).max())
    else:
        most_chunks = len(question_id)
    return longest, most_chunks


def _is_on_host(value: int | Tensor) -> bool:
    return isinstance(value, int) or value.is_cpu


def _check_question_id(question_id: Tensor, chunks: int, num_questions: int | None) -> int:
    """Q, after a look at the ids where that costs no synchronization (or one is needed anyway)."""
    if num_questions is not None and (torch.compiler.is_compiling() or not question_id.is_cpu):
        return num_questions
    if num_questions is None and torch.compiler.is_compiling():
        raise ValueError(
            "num_questions must be given with question_id under torch.compile: the number of questions "
            "is part of the results' shape, which cannot depend on values there"
        )
    if chunks == 0:
        return num_questions or 0
    if not question_id.is_cpu and _is_capturing(question_id.device):
        raise ValueError("num_questions must be given with question_id in a CUDA graph")
    falls = (question_id[1:] < question_id[:-1]).nonzero()
    if len(falls):
        at = int(falls[0]) + 1
        raise ValueError(
            "question_id must not decrease: the chunks of a question follow each other; got "
            f"{int(question_id[at])} after {int(question_id[at - 1])} at chunk {at}"
        )
    first, last = int(question_id[0]), int(question_id[-1])
    if first < 0 or last >= (_INT32_MAX if num_questions is None else num_questions):
        raise ValueError(
            f"question_id must be from 0 to num_questions - 1; got {first} to {last} "
            f"with num_questions {num_questions}"
        )
    return last + 1 if num_questions is None else num_questions
