"""Span decoding on a GPU: one Triton kernel for all chunks, one more to merge those of a question."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .search import Found, SpanSearch

# Lists for every span that is wanted, from which on two rounds are fewer instructions.
MANY_LISTS = 32


def decode(search: SpanSearch) -> Found | None:
    """The spans of a search on the current GPU. The results share one allocation.

    Args:
        search: with contiguous logits and mask, and with a context if it has a ``context_offset``.

    Returns:
        None where the kernels do not reach: more than 128 spans per question, or Triton before 3.4.
    """
    if not _is_new_enough():
        return None
    span_topk, _ = _kernels()
    if search.top_k > span_topk.MAX_TOP_K:
        return None
    shape = span_topk.shape_of(max(search.max_seq_len, 1), search.max_answer_len)
    if shape.tiles == 1 and search.question_id is None:
        lists = _make_lists(search, shape, search.top_k, final=True)
        return _fields(lists, search.n_chunks, search.top_k)
    return _fields(_merged(search, shape), search.num_questions, search.top_k)


def _merged(search: SpanSearch, shape: Any) -> Tensor:
    """The best spans of every question, from lists of the best in every tile of its chunks."""
    top_k, tiles, chunks = search.top_k, shape.tiles, search.n_chunks
    if search.question_id is None:
        device = search.start_logits.device
        ids = torch.arange(chunks, dtype=torch.int32, device=device)
        search = search._replace(question_id=ids)
    if top_k == 1 or chunks * tiles < MANY_LISTS * top_k * max(search.num_questions, 1):
        lists = _make_lists(search, shape, top_k)
        chunk_norm = _norm_of_chunks(search, tiles, lists, top_k)
        return _merge_lists(search, tiles, lists, top_k, chunk_norm)
    # Many lists for few spans: the best span of every list first. The k-th best of these is a floor
    # under the k-th best span of the question, and rules out nearly all lists for the second round.
    best = _make_lists(search, shape, 1, positions=search.context_offset is not None)
    chunk_norm = _norm_of_chunks(search, tiles, best, 1)
    # Under "shared" the chunks of a question have one normalizer, which changes no order.
    floor = _merge_lists(search, tiles, best, 1, chunk_norm, shared=False)
    known = best, floor, search.question_id, chunk_norm
    lists = _make_lists(search, shape, top_k, second_round=known)
    return _merge_lists(search, tiles, lists, top_k, chunk_norm, second_round=(best, floor))


def _make_lists(
    search: SpanSearch,
    shape: Any,
    top_k: int,
    *,
    final: bool = False,
    positions: bool = True,
    second_round: Any = None,
) -> Tensor:
    """Lists of the ``top_k`` best spans of every tile; `span_topk` says what the options do."""
    span_topk, _ = _kernels()
    return span_topk.span_topk(
        search.start_logits,
        search.end_logits,
        search.context,
        search.context_mask,
        search.row_offset,
        search.null_position,
        n_chunks=search.n_chunks,
        top_k=top_k,
        shape=shape,
        scoring=search.scoring,
        null_in_spans=search.null_in_spans,
        final=final,
        positions=positions,
        second_round=second_round,
    )


def _merge_lists(
    search: SpanSearch,
    tiles: int,
    lists: Tensor,
    list_k: int,
    chunk_norm: Tensor | None,
    *,
    shared: bool = True,
    second_round: Any = None,
) -> Tensor:
    """Lists of ``list_k`` spans merged into one per question.

    Without ``shared`` scores lack the normalizer that all chunks of a question have in common.
    """
    _, merge_topk = _kernels()
    return merge_topk.merge_topk(
        lists,
        search.question_id,
        search.context,
        search.context_offset,
        n_lists=search.n_chunks * tiles,
        list_k=list_k,
        top_k=search.top_k,
        n_questions=search.num_questions,
        n_tiles=tiles,
        max_chunks=search.max_chunks,
        chunk_norm=chunk_norm,
        shared=shared and search.scoring == "shared",
        second_round=second_round,
    )


def _norm_of_chunks(search: SpanSearch, tiles: int, lists: Tensor, list_k: int) -> Tensor | None:
    """[C] float32 normalizers of chunks that were cut into tiles; None where no one needs them."""
    if tiles == 1 or search.scoring != "probability":
        return None
    _, merge_topk = _kernels()
    return merge_topk.chunk_norm(lists, n_chunks=search.n_chunks, n_tiles=tiles, list_k=list_k)


def chunk_counts(top_k: int, most: int) -> list[int]:
    """Numbers of chunks, up to ``most``, of questions that take all the kernels which such ones need."""
    if not _is_new_enough():
        return [2]
    _, merge_topk = _kernels()
    return [n for n in (2, merge_topk.FAN_INS[0] + 1, MANY_LISTS * top_k) if n <= max(most, 2)]


@cache
def _is_new_enough() -> bool:
    """Whether Triton has what the kernels need: tuples of tensors."""
    import triton

    return tuple(int(x) for x in triton.__version__.split(".")[:2]) >= (3, 4)


@cache
def _kernels() -> tuple[Any, Any]:
    """The modules of the two kernels, imported late: Triton need not be there, and takes its time."""
    from qa_fast.kernels import merge_topk, span_topk

    return span_topk, merge_topk


def _fields(found: Tensor, count: int, top_k: int) -> Found:
    """Score, start, end, chunk, null score and flags as views of what the kernels wrote."""
    size, by_rank = (count, top_k), (top_k, 1)
    field = count * top_k
    floats = found.view(torch.float32)
    return (
        floats.as_strided(size, by_rank, 0),
        found.as_strided(size, by_rank, field),
        found.as_strided(size, by_rank, 2 * field),
        found.as_strided(size, by_rank, 3 * field),
        floats.as_strided((count,), (1,), 4 * field),
        found.view(torch.bool).as_strided((count,), (1,), 4 * (4 * field + count)),
    )
