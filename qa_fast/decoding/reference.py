"""The scoring contract, spelled out in float64 over the full N x N matrix.

This file is the oracle that every backend is tested against. It is written to be checked by eye, not
to be fast: one chunk at a time, one step of the textbook recipe after the other.

The recipe, for one chunk with start logits ``s`` and end logits ``e``:

1. mask everything but the context and the null position ([CLS]): ``-inf`` outside this *support*;
2. softmax over the support, here as ``log softmax(s)[i] = s[i] - logsumexp(s)``;
3. outer product, here a sum of logs: ``M[i, j] = log softmax(s)[i] + log softmax(e)[j]``;
4. upper triangle and answer length: keep ``i <= j < i + max_answer_len`` inside the context;
5. the k largest cells over all chunks of the question, as (chunk, start token, end token).

``exp(M)`` is the score that Transformers' question-answering pipeline gave. With
``null_in_spans=True`` the null position is also a candidate in steps 4 and 5, as in the plain version
of the textbook recipe.

Shared normalization: Clark & Gardner 2018, "Simple and Effective Multi-Paragraph Reading
Comprehension", section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class ReferenceSpans(NamedTuple):
    """What [`decode_spans`][qa_fast.decode_spans] returns, as NumPy arrays with float64 scores."""

    score: npt.NDArray[np.float64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    chunk: npt.NDArray[np.int64]
    null_score: npt.NDArray[np.float64]
    nonfinite: npt.NDArray[np.bool_]


def decode_spans(
    start_logits: Sequence[npt.ArrayLike],
    end_logits: Sequence[npt.ArrayLike],
    context: Sequence[tuple[int, int]],
    question_id: Sequence[int] | None = None,
    *,
    top_k: int = 20,
    max_answer_len: int | None = 30,
    scoring: str = "probability",
    distinct: bool = True,
    context_offset: Sequence[int] | None = None,
    null_position: int | Sequence[int] = 0,
    null_in_spans: bool = False,
    context_mask: Sequence[npt.ArrayLike] | None = None,
    num_questions: int | None = None,
) -> ReferenceSpans:
    """[`qa_fast.decode_spans`][] on a list of rows, one per chunk, of any lengths.

    Args:
        start_logits: C rows; row c holds the N_c start logits of chunk c.
        end_logits: C rows of end logits, of the same lengths.
        context: per chunk the half-open range of its context tokens.
        question_id: per chunk the question it belongs to, non-decreasing; None: one question each.
        top_k: spans returned per question.
        max_answer_len: most tokens in a span; None for no limit.
        scoring: "probability", "shared" or "logit".
        distinct: count a span that occurs in several overlapping chunks once, with its best score.
        context_offset: per chunk the index, in the whole context's tokens, of its first context
            token; without it no two chunks are known to overlap.
        null_position: position of [CLS], for all chunks or per chunk; -1 for none.
        null_in_spans: let the null position be the start or the end of a span.
        context_mask: per chunk a boolean row; where False a token is not of the context.
        num_questions: Q, where the last questions have no chunk.

    Returns:
        Arrays of shape [Q, top_k] and [Q], as described at [`qa_fast.decoding.spans.Spans`][].

    Example:
        >>> spans = decode_spans([[0.0, 1.0, 3.0]], [[0.0, 1.0, 2.0]], [(1, 3)], top_k=2)
        >>> spans.start.tolist(), spans.end.tolist()
        ([[2, 1]], [[2, 2]])
    """
    rows = len(start_logits)
    question = list(range(rows)) if question_id is None else [int(q) for q in question_id]
    count = num_questions if num_questions is not None else (question[-1] + 1 if question else 0)
    null_at = [null_position] * rows if isinstance(null_position, int) else list(null_position)

    found = ReferenceSpans(
        score=np.full((count, top_k), -np.inf),
        start=np.full((count, top_k), -1),
        end=np.full((count, top_k), -1),
        chunk=np.full((count, top_k), -1),
        null_score=np.full(count, -np.inf),
        nonfinite=np.zeros(count, dtype=bool),
    )
    for q in range(count):
        # 1. Support: context tokens and the null position; the rest is -inf.
        chunks: dict[int, Chunk] = {}
        for c in range(rows):
            if question[c] == q:
                mask = None if context_mask is None else context_mask[c]
                logits = start_logits[c], end_logits[c]
                chunks[c] = support(*logits, context[c], mask, null_at[c], null_in_spans)
        if any(is_nonfinite(chunk) for chunk in chunks.values()):
            found.nonfinite[q] = True
            found.score[q] = found.null_score[q] = np.nan
            continue
        # 2. The normalizer that log softmax subtracts, for start and end together.
        norm = normalizers(chunks, scoring)
        # 3. and 4. All candidate cells of all chunks.
        cells = candidate_cells(chunks, norm, max_answer_len)
        # 5. The best of them in their order; a repeated span counts once.
        order = in_order(cells, context, context_offset if distinct else None)
        for rank, (score, c, i, j) in enumerate(islice(order, top_k)):
            found.score[q, rank] = score
            found.start[q, rank], found.end[q, rank], found.chunk[q, rank] = i, j, c
        found.null_score[q] = null_score(chunks, norm, null_at)
    return found


class Chunk(NamedTuple):
    """A chunk of N tokens after step 1.

    Attributes:
        start: [N] start logits, -inf outside the support.
        end: [N] end logits, likewise.
        candidate: [N] which tokens may be the start or the end of a span.
    """

    start: Array
    end: Array
    candidate: npt.NDArray[np.bool_]


def support(
    start_logits: npt.ArrayLike,
    end_logits: npt.ArrayLike,
    context: tuple[int, int],
    context_mask: npt.ArrayLike | None,
    null_at: int,
    null_in_spans: bool,
) -> Chunk:
    """Step 1: mask everything but the context tokens and the null position."""
    start, end = (np.asarray(logits, dtype=np.float64) for logits in (start_logits, end_logits))
    position = np.arange(len(start))
    inside = (context[0] <= position) & (position < context[1])
    if context_mask is not None:
        inside &= np.asarray(context_mask, dtype=bool)
    supported = inside | (position == null_at)
    return Chunk(
        start=np.where(supported, start, -np.inf),
        end=np.where(supported, end, -np.inf),
        candidate=supported if null_in_spans else inside,
    )


def is_nonfinite(chunk: Chunk) -> bool:
    """Whether the support holds a NaN, a +inf, or a best sum that float32 cannot hold."""
    with np.errstate(invalid="ignore"):
        peak = np.max(chunk.start, initial=-np.inf) + np.max(chunk.end, initial=-np.inf)
    too_large = bool(np.isnan(peak) or peak > np.finfo(np.float32).max)
    return too_large or np.inf in chunk.start or np.inf in chunk.end


def logsumexp(x: Array) -> float:
    """``log(sum(exp(x)))``; -inf for an empty or all -inf ``x``."""
    peak = np.max(x, initial=-np.inf)
    return float(peak + np.log(np.sum(np.exp(x - peak)))) if np.isfinite(peak) else float(peak)


def normalizers(chunks: dict[int, Chunk], scoring: str) -> dict[int, float]:
    """Step 2: per chunk what is subtracted from the sum of a start and an end logit."""
    if scoring == "probability":
        return {c: logsumexp(chunk.start) + logsumexp(chunk.end) for c, chunk in chunks.items()}
    if scoring == "shared":
        starts = [chunk.start for chunk in chunks.values()] or [np.empty(0)]
        ends = [chunk.end for chunk in chunks.values()] or [np.empty(0)]
        shared = logsumexp(np.concatenate(starts)) + logsumexp(np.concatenate(ends))
        return dict.fromkeys(chunks, shared)
    return dict.fromkeys(chunks, 0.0)


def span_matrix(
    start: Array, end: Array, candidate: npt.NDArray[np.bool_], max_answer_len: int | None
) -> Array:
    """Steps 3 and 4: ``[N, N]`` sums of start and end logits, -inf where (i, j) is no candidate.

    The sum is rounded to float32, the precision in which scores are defined, so that two spans whose
    scores are the same float32 number are tied.
    """
    n = len(start)
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    band = (i <= j) & (j < i + (n if max_answer_len is None else max_answer_len))
    with np.errstate(over="ignore"):
        total = (start[:, None] + end[None, :]).astype(np.float32).astype(np.float64)
    return np.where(band & candidate[:, None] & candidate[None, :], total, -np.inf)


def candidate_cells(
    chunks: dict[int, Chunk], norm: dict[int, float], max_answer_len: int | None
) -> Array:
    """Steps 3 and 4 for all chunks: ``[5, M]`` score, chunk, sum of logits, start and end of M cells."""
    cells = [np.empty((5, 0))]
    for c, chunk in chunks.items():
        matrix = span_matrix(chunk.start, chunk.end, chunk.candidate, max_answer_len)
        places = np.nonzero(matrix > -np.inf)
        total = matrix[places]
        cells.append(np.stack([total - norm[c], np.full(len(total), c), total, *places]))
    return np.concatenate(cells, axis=1)


def in_order(
    cells: Array, context: Sequence[tuple[int, int]], context_offset: Sequence[int] | None
) -> Iterator[tuple[float, int, int, int]]:
    """Step 5: score, chunk, start and end of the cells; with ``context_offset`` no span twice.

    Order: score descending, then chunk, start, end ascending.
    """
    scores, chunk_of, sums, starts, ends = cells
    seen: set[tuple[int, ...]] = set()
    for at in np.lexsort((ends, starts, -sums, chunk_of, -scores)):
        c, i, j = int(chunk_of[at]), int(starts[at]), int(ends[at])
        if context_offset is not None:
            # The place in the whole context; the null position is the same in every chunk.
            first, last = context[c]
            place = tuple(
                int(context_offset[c]) + x - first if first <= x < last else -1 for x in (i, j)
            )
            if place in seen:
                continue
            seen.add(place)
        yield scores[at], c, i, j


def null_score(chunks: dict[int, Chunk], norm: dict[int, float], null_at: Sequence[int]) -> float:
    """The score of (z, z) at the null position z, the minimum over the chunks that have one."""
    nulls = []
    for c, chunk in chunks.items():
        if 0 <= (z := null_at[c]) < len(chunk.start):
            with np.errstate(over="ignore"):
                total = float(np.float32(chunk.start[z] + chunk.end[z]))
            nulls.append(total - norm[c] if total > -np.inf else -np.inf)
    return min(nulls, default=-np.inf)
