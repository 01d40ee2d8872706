"""The backends of decode_spans under one roof, and their comparison with the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch

from qa_fast.decoding import c_backend, reference, spans, torch_backend, triton_backend
from qa_fast.decoding.search import SpanSearch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tolerance(arguments: Any) -> float:
    """What float32 sums and log-sum-exps of these logits may be off: a few units in the last place."""
    largest = max(
        (x.float().nan_to_num(0, 0, 0).abs().max().item() for x in arguments[:2] if x.numel()),
        default=0.0,
    )
    return 2e-5 + 5e-7 * largest


def _triton(search: SpanSearch) -> Any:
    context, null_position = search.places()
    chunks, flat = len(context), search.start_logits.ndim == 1
    longest = search.start_logits.shape[-1]
    if flat and chunks:
        longest = max(int(context[:, 1].max()), int(null_position.max()) + 1)
    # What is the same for all chunks is no tensor, as on a GPU.
    whole = torch.tensor([0, longest])
    whole_rows = not flat and search.context_offset is None and bool((context == whole).all())
    same = chunks and bool((null_position == null_position[0]).all())
    search = search._replace(
        context=None if whole_rows else context,
        null_position=int(null_position[0]) if same else null_position,
        max_seq_len=longest,
        max_chunks=1 if search.question_id is None else max(1, chunks),
    )
    with warnings.catch_warnings():  # Triton's interpreter computes with NumPy
        warnings.simplefilter("ignore", RuntimeWarning)
        found = triton_backend.decode(search)
    if found is None:
        import pytest  # here, so that the benchmarks can use this module without it

        pytest.skip("left to the torch backend")
    return found


def decode(backend: str, *arguments: Any, **options: Any) -> spans.Spans:
    """``decode_spans`` by the cpu, torch or triton backend; results on the CPU."""
    if backend == "triton" and DEVICE == "cuda":
        move = {name: _to_device(x) for name, x in options.items()}
        return spans.Spans(
            *(x.cpu() for x in spans.decode_spans(*map(_to_device, arguments), **move))
        )
    if backend == "cpu" and c_backend.library() is None:
        import pytest

        pytest.skip("qa_fast was installed without a C compiler")
    run = {"cpu": spans.decode_on_cpu, "torch": torch_backend.decode, "triton": _triton}[backend]
    with mock.patch.object(spans, "decode_on_cpu", run):
        return spans.decode_spans(*arguments, **options)


def _to_device(x: Any) -> Any:
    return x.to(DEVICE) if isinstance(x, torch.Tensor) else x


def ragged(
    arguments: tuple[Any, ...], options: dict[str, Any], generator: torch.Generator
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with flat logits: rows in any order, with gaps that must not be looked at."""
    start, end, *rest = arguments
    chunks, n = start.shape
    gap = torch.randint(0, 6, (chunks,), generator=generator)
    order = torch.randperm(chunks, generator=generator)
    offset = torch.zeros(chunks, dtype=torch.int64)
    offset[order] = (gap + n).cumsum(0) - n
    place = offset[:, None] + torch.arange(n)
    size = chunks * (n + 5)  # whatever the gaps are

    def flat(x: torch.Tensor, fill: Any) -> torch.Tensor:
        found = torch.full((size,), fill, dtype=x.dtype)
        found[place] = x
        return found

    options = {**options, "row_offset": offset, "max_seq_len": n}
    if "context_mask" in options:
        options["context_mask"] = flat(options["context_mask"], fill=True)
    return (flat(start, torch.nan), flat(end, torch.nan), *rest), options


def expected(start: Any, end: Any, context: Any, question_id: Any = None, **options: Any) -> Any:
    """The reference's answer to the same call, with room for spans beyond the last one asked for."""
    plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    ids = None if question_id is None else question_id.tolist()
    start, end = start.float().numpy(), end.float().numpy()
    return reference.decode_spans(start, end, context.tolist(), ids, **plain)


def assert_right(got: spans.Spans, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """A call's answer is the reference's."""

    def further(beyond: int) -> Any:
        top_k = options.get("top_k", 20) + beyond
        return expected(*arguments, **{**options, "top_k": top_k, "distinct": False})

    assert_same(got, expected(*arguments, **options), further, tolerance(arguments))


def assert_same(got: spans.Spans, want: Any, further: Callable[[int], Any], atol: float) -> None:
    """Scores as in the reference, and the same spans in the same order.

    Spans of different chunks whose scores are as close as float32 rounding may change places: then the
    reference has to know them with those scores, and those of one chunk have to keep their order.

    Args:
        got: what is looked at.
        want: the reference's answer.
        further: gives the reference's answer with so many more spans, and without ``distinct``.
        atol: how far scores may be away.
    """
    np.testing.assert_array_equal(got.nonfinite.numpy(), want.nonfinite)
    with np.errstate(over="ignore"):  # scores below the least of float32 are -inf
        null_score, score = (x.astype(np.float32) for x in (want.null_score, want.score))
    np.testing.assert_allclose(got.null_score.numpy(), null_score, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(got.score.numpy(), score, rtol=1e-6, atol=atol)
    found = np.stack([x.numpy() for x in (got.chunk, got.start, got.end)], -1)
    wanted = np.stack([want.chunk, want.start, want.end], -1)
    differing = np.unique(np.nonzero((found != wanted).any(-1))[0])
    if len(differing):
        more = _as_deep(want, further, differing, atol)
    for q in differing:
        known = {
            span: place
            for place, span in enumerate(
                zip(more.chunk[q], more.start[q], more.end[q], strict=True)
            )
        }
        last: dict[int, int] = {}
        for rank, span in enumerate(map(tuple, found[q])):
            if score[q, rank] == -np.inf and wanted[q, rank, 0] >= 0 and span == (-1, -1, -1):
                continue  # below the least of float32 a backend may give the span, or none
            where = f"question {q}, rank {rank}: {span} for {tuple(wanted[q, rank])}"
            if span == (-1, -1, -1):
                assert span == tuple(wanted[q, rank]), where
                continue
            assert span in known, f"{where}: no such span"
            place = known[span]
            assert abs(more.score[q, place] - want.score[q, rank]) < atol, where
            assert place > last.get(span[0], -1), f"{where}: order within a chunk"
            last[span[0]] = place


def _as_deep(want: Any, further: Callable[[int], Any], questions: Any, atol: float) -> Any:
    """The reference with all spans whose scores ``want`` has, also where ``distinct`` left most out."""
    lowest = np.where(np.isfinite(want.score), want.score, np.inf).min(1)[questions]
    beyond = 100
    while True:
        more = further(beyond)
        if not (more.score[questions, -1] >= lowest - atol).any():
            return more
        beyond *= 10


def assert_identical(a: spans.Spans, b: spans.Spans) -> None:
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert torch.equal(x.nan_to_num(nan=7.0), y.nan_to_num(nan=7.0)), name
