"""Span decoding on a GPU: one Triton kernel for all chunks, one more to merge those of a question."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

# Tokens of a row that the kernels take at once, and those that they do with short spans; longer rows are
# cut into tiles.
ONE_TILE, LARGEST_TILE = 512, 1024
# Lists for every span that is wanted, from which on two rounds are fewer instructions.
MANY_LISTS = 32


def decode(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor | None,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    question_id: Tensor | None,
    context_offset: Tensor | None,
    null_position: Tensor | int,
    num_questions: int,
    top_k: int,
    max_answer_len: int | None,
    scoring: str,
    null_in_spans: bool,
    max_seq_len: int,
    max_chunks: int,
) -> Any:
    """Decode checked arguments; see [`qa_fast.decode_spans`][] for their meaning.

    Logits and mask are contiguous. ``context`` None stands for whole rows, and an int
    ``null_position`` for the same one in all chunks. The results share one allocation.

    None where the kernels do not reach: more than 128 spans per question, or Triton before 3.4. The
    torch backend answers then.
    """
    if not _is_new_enough():
        return None
    from qa_fast.kernels import merge_topk, span_topk

    if top_k > span_topk.MAX_TOP_K:
        return None
    n_chunks = len(start_logits) if row_offset is None else len(row_offset)
    shape = span_topk.shape_of(max(max_seq_len, 1), max_answer_len)
    final = shape.tiles == 1 and question_id is None

    def lists_of(top_k: int, second_round: Any = None, positions: bool = True) -> Tensor:
        return span_topk.span_topk(
            start_logits,
            end_logits,
            context,
            context_mask,
            row_offset,
            null_position,
            n_chunks=n_chunks,
            top_k=top_k,
            shape=shape,
            scoring=scoring,
            null_in_spans=null_in_spans,
            final=final,
            positions=positions,
            second_round=second_round,
        )

    if final:
        return _fields(lists_of(top_k), n_chunks, top_k)
    if question_id is None:
        question_id = torch.arange(n_chunks, dtype=torch.int32, device=start_logits.device)
    n_lists = n_chunks * shape.tiles

    def merge(lists: Tensor, list_k: int, *, shared: bool, second_round: Any = None) -> Tensor:
        return merge_topk.merge_topk(
            lists,
            question_id,
            context,
            context_offset,
            n_lists=n_lists,
            list_k=list_k,
            top_k=top_k,
            n_questions=num_questions,
            n_tiles=shape.tiles,
            max_chunks=max_chunks,
            chunk_norm=chunk_norm,
            shared=shared,
            second_round=second_round,
        )

    def norm_of(lists: Tensor, list_k: int) -> Tensor | None:
        if shape.tiles == 1 or scoring != "probability":
            return None
        return merge_topk.chunk_norm(lists, n_chunks=n_chunks, n_tiles=shape.tiles, list_k=list_k)

    shared = scoring == "shared"
    if top_k == 1 or n_lists < MANY_LISTS * top_k * max(num_questions, 1):
        lists = lists_of(top_k)
        chunk_norm = norm_of(lists, top_k)
        return _fields(merge(lists, top_k, shared=shared), num_questions, top_k)
    # Many lists for few spans: the best span of every list first. The k-th best of these is a floor
    # under the k-th best span of the question, and rules out nearly all lists for the second round.
    # (Under "shared" the chunks of a question have one normalizer, which changes no order.)
    best = lists_of(1, positions=context_offset is not None)
    chunk_norm = norm_of(best, 1)
    floor = merge(best, 1, shared=False)
    lists = lists_of(top_k, (best, floor, question_id, chunk_norm))
    found = merge(lists, top_k, shared=shared, second_round=(best, floor))
    return _fields(found, num_questions, top_k)


def chunk_counts(top_k: int, most: int) -> list[int]:
    """Numbers of chunks, up to ``most``, of questions that take all the kernels which such ones need."""
    if not _is_new_enough():
        return [2]
    from qa_fast.kernels.merge_topk import FAN_INS

    return [n for n in (2, FAN_INS[0] + 1, MANY_LISTS * top_k) if n <= max(most, 2)]


@cache
def _is_new_enough() -> bool:
    """Whether Triton has what the kernels need: tuples of tensors."""
    import triton

    return tuple(int(x) for x in triton.__version__.split(".")[:2]) >= (3, 4)


def _fields(found: Tensor, count: int, top_k: int) -> tuple[Tensor, ...]:
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
