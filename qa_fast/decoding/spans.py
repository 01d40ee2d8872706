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
from .reach import ONE_TILE
from .search import Found, Scoring, SpanSearch, check_count, check_options, checked_search
from .tensors import is_capturing


class Spans(NamedTuple):
    """The best spans of Q questions, best first.

    Attributes:
        score: [Q, top_k] float32: log-probability, or the sum of logits under ``scoring="logit"``;
            -inf where there are fewer candidates than ``top_k``.
        start: [Q, top_k] int32 token position inside its chunk; -1 where there is no candidate.
        end: [Q, top_k] int32 token position inside its chunk, inclusive; -1 where there is no candidate.
        chunk: [Q, top_k] int32 row of the input; -1 where there is no candidate.
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
        end_logits: of the same shape, dtype and device as ``start_logits``.
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
    search = checked_search(
        start_logits,
        end_logits,
        context,
        question_id,
        top_k=top_k,
        max_answer_len=max_answer_len,
        scoring=scoring,
        distinct=distinct,
        context_offset=context_offset,
        null_position=null_position,
        null_in_spans=null_in_spans,
        context_mask=context_mask,
        row_offset=row_offset,
        num_questions=num_questions,
        max_seq_len=max_seq_len,
    )
    # The operator's own Python takes as long as 20 chunks on a CPU, or as most of this on a GPU.
    if type(start_logits) is type(end_logits) is Tensor and not torch.compiler.is_compiling():
        if start_logits.is_cuda:
            return Spans(*decode_on_gpu(search))
        if start_logits.is_cpu:
            return Spans(*decode_on_cpu(search))
    return Spans(*_decode_spans(*search.as_tensors()))


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
        ValueError: a value that does not fit; the message says which and why.
        TypeError: a dtype that is not supported.

    Example:
        >>> device = "cuda" if torch.cuda.is_available() else "cpu"
        >>> warmup(device, top_k=5, dtype=torch.float16)  # before the first
        >>> logits = torch.zeros(8, 384, dtype=torch.float16, device=device)
        >>> spans = decode_spans(logits, logits, torch.tensor([[1, 384]] * 8), top_k=5)
    """
    check_options(top_k, max_answer_len, scoring, None, max_seq_len, distinct, null_in_spans)
    check_count("max_chunks", max_chunks, 1)
    on_gpu = torch.device(device).type == "cuda" and _has_triton()
    counts = triton_backend.chunk_counts(top_k, max_chunks or 2) if on_gpu else [2]
    # Rows of flat logits are as long as they happen to be; see `longest_row`.
    widths = {max_seq_len, min(max_seq_len, ONE_TILE)} if flat else {max_seq_len}
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


def decode_on_cpu(search: SpanSearch) -> Found:
    """By the compiled decoder, or without one by PyTorch's operations."""
    if c_backend.library() is not None:
        return c_backend.decode(search)
    c_backend.check_ranges(search)
    return torch_backend.decode(search)


def decode_on_gpu(search: SpanSearch) -> Found:
    """By the kernels, on the device of the logits, or where they do not reach by PyTorch's operations.

    The results may share memory.
    """
    logits = search.start_logits
    if logits.is_cuda and logits.get_device() != torch.cuda.current_device():
        # Triton launches on the current device.
        with torch.cuda.device(logits.device):
            return _decode_by_kernels(search)
    return _decode_by_kernels(search)


def _decode_by_kernels(search: SpanSearch) -> Found:
    if _has_triton():
        if search.context is None and search.context_offset is not None:
            search = search.as_tensors()
        found = triton_backend.decode(search.contiguous())
        if found is not None:
            return found
    if is_capturing(search.start_logits.device):
        raise ValueError(
            "a CUDA graph can hold the Triton kernels only, which need a recent Triton and top_k of at "
            f"most 128: else results are read back; got top_k={search.top_k}"
        )
    return torch_backend.decode(search)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


# The attributes of a `SpanSearch` in, those of `Spans` out.
_SCHEMA = """(
    Tensor start_logits, Tensor end_logits, Tensor context, Tensor? context_mask, Tensor? row_offset,
    Tensor? question_id, Tensor? context_offset, Tensor null_position, SymInt num_questions,
    SymInt top_k, SymInt? max_answer_len, str scoring, bool null_in_spans, SymInt max_seq_len,
    SymInt max_chunks
) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"""


@torch.library.custom_op("qa_fast::decode_spans", mutates_args=(), schema=_SCHEMA)
def _decode_spans(*arguments: Any) -> Found:
    return torch_backend.decode(SpanSearch(*arguments))


@_decode_spans.register_kernel("cpu")
def _operator_on_cpu(*arguments: Any) -> Found:
    return decode_on_cpu(SpanSearch(*arguments))


@_decode_spans.register_kernel("cuda")
def _operator_on_gpu(*arguments: Any) -> Found:
    """What an operator gives must not share memory."""
    score, start, end, chunk, null_score, nonfinite = map(
        Tensor.clone, decode_on_gpu(SpanSearch(*arguments))
    )
    return score, start, end, chunk, null_score, nonfinite


@_decode_spans.register_fake
def _(*arguments: Any) -> Found:
    search = SpanSearch(*arguments)
    logits, questions, top_k = search.start_logits, search.num_questions, search.top_k
    score = logits.new_empty((questions, top_k), dtype=torch.float32)
    index = torch.empty_like(score, dtype=torch.int32)
    null_score = logits.new_empty((questions,), dtype=torch.float32)
    nonfinite = torch.empty_like(null_score, dtype=torch.bool)
    return score, index, torch.empty_like(index), torch.empty_like(index), null_score, nonfinite
