"""`decode_spans`: start and end logits in, the best answer spans out.

What the scores mean and how ties are broken is spelled out in [`qa_fast.decoding.reference`][]. This
file registers the PyTorch operator ``qa_fast::decode_spans`` and leaves the work to the compiled
[`qa_fast.decoding.c_backend`][] on a CPU, to the Triton kernels in ``qa_fast.kernels`` on a GPU, and to
[`qa_fast.decoding.torch_backend`][] anywhere else.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import c_backend, torch_backend, triton_backend
from .search import (
    _INT32_MAX,
    _NO_LIMIT,
    Scoring,
    _as_tensors,
    _check_count,
    _check_logits,
    _check_mask,
    _check_question_id,
    _check_scalars,
    _flatten,
    _integers,
    _is_capturing,
    _moved,
    _reach,
)


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
        A [`Spans`][qa_fast.decoding.spans.Spans]. Order: score descending, then chunk, start and end
        ascending, the same on every run and every backend.

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
    if c_backend.library() is None:
        c_backend.check_ranges(start_logits, context, row_offset, rest[2])
        generic: Any = _decode_spans._init_fn
        return generic(*arguments)
    return c_backend.decode(*arguments[:-2])


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
