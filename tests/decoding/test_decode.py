"""Every backend of decode_spans against the float64 reference."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from qa_fast.decoding import c_backend, spans, triton_backend

from ..helpers import strategies
from ..helpers.backends import assert_identical, assert_right, decode, expected

BACKENDS = ["cpu", "torch", "triton"]
INF = float("inf")


@dataclass
class Case:
    """Arguments of a call: C chunks of N tokens, and what is special about them."""

    id: str
    chunks: int = 3
    n: int = 40
    context: list[tuple[int, int]] | None = None
    question: list[int] | None = None
    dtype: torch.dtype = torch.float32
    grid: float | None = None  # logits are rounded to multiples of this: many ties
    edit: Any = None  # changes the logits in place
    mask: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(len(self.id))
        start, end = torch.randn(2, self.chunks, self.n, generator=generator) * 4
        if self.grid:
            start, end = ((x / self.grid).round() * self.grid for x in (start, end))
        if self.edit:
            self.edit(start, end)
        context = self.context or [(min(1, self.n - 1), self.n)] * self.chunks
        options = {
            name: torch.tensor(x) if isinstance(x, list) else x for name, x in self.options.items()
        }
        if self.mask:
            options["context_mask"] = torch.rand(self.chunks, self.n, generator=generator) < 0.6
        question = None if self.question is None else torch.tensor(self.question)
        arguments = start.to(self.dtype), end.to(self.dtype), torch.tensor(context), question
        return arguments, options


def put(value: float, *places: tuple[int, int], both: bool = True) -> Any:
    def edit(start: torch.Tensor, end: torch.Tensor) -> None:
        for place in places:
            start[place] = value
            if both:
                end[place] = value

    return edit


def fill(value: float) -> Any:
    def edit(start: torch.Tensor, end: torch.Tensor) -> None:
        start.fill_(value)
        end.fill_(value)

    return edit


def peaks(*centers: int, height: float = 15.0) -> Any:
    """As trained models give them: a few starts and ends, their neighbours less, the rest far below."""

    def edit(start: torch.Tensor, end: torch.Tensor) -> None:
        position = torch.arange(start.shape[1])
        start.mul_(0.2).sub_(6)
        end.mul_(0.2).sub_(6)
        for x, shift in ((start, 0), (end, 2)):
            for rank, center in enumerate(centers):
                distance = (position - center - shift).abs()
                x += (height - 2 * rank) * torch.exp(-distance / 3.0)

    return edit


def all_but(value: float, *places: int) -> Any:
    """``value`` everywhere in the row, but at a few places."""

    def edit(start: torch.Tensor, end: torch.Tensor) -> None:
        for x in (start, end):
            kept = x[:, list(places)].clone()
            x.fill_(value)
            x[:, list(places)] = kept

    return edit


CASES = [
    *(
        Case(f"{str(dtype)[6:]}-{scoring}", dtype=dtype, options={"scoring": scoring})
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
        for scoring in ("probability", "shared", "logit")
    ),
    *(Case(f"n-{n}", chunks=2, n=n, options={"max_answer_len": 7})
      for n in (1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 511, 512, 513)),
    *(Case(f"n-{n}", chunks=1, n=n, options={"max_answer_len": 5, "top_k": 4})
      for n in (1023, 1025, 2048, 2049, 3100)),
    *(Case(f"max-answer-len-{length}", n=70, options={"max_answer_len": length})
      for length in (1, 2, 3, 31, 32, 33, 34, 35, 64, 69, 70, 71, 1000, None)),
    *(Case(f"top-k-{k}", n=20, options={"top_k": k, "max_answer_len": 6}) for k in (1, 2, 3, 64, 128)),
    *(Case(f"top-k-{k}-of-many", chunks=1, n=384, options={"top_k": k}) for k in (12, 20, 32, 33, 100)),
    *(Case(f"peaked-top-k-{k}", chunks=1, n=384, dtype=torch.float16, edit=peaks(100, 250, 104),
           options={"top_k": k}) for k in (2, 12, 20, 32, 100)),
    Case("peaked-in-one-lane", chunks=1, n=380, edit=peaks(48), options={"top_k": 32, "max_answer_len": 4}),
    Case("equals-beyond-the-list", chunks=2, n=300, edit=all_but(0.5, 7, 150, 151), options={"top_k": 20}),
    Case("equals-beyond-the-long-list", chunks=1, n=500, edit=all_but(0.5, 7, 450),
         options={"top_k": 100, "max_answer_len": 3, "scoring": "logit"}),
    Case("fewer-than-asked-in-a-long-row", chunks=2, n=200, edit=all_but(-INF, 11, 12, 90, 150),
         options={"top_k": 20}),
    Case("two-scales", chunks=1, n=200, edit=lambda s, e: (s[0, ::3].mul_(1e-30), e.mul_(1e-30), s[0, 5].fill_(3e30)),
         options={"top_k": 20, "scoring": "logit"}),
    *(Case(f"spans-of-{length}-in-{n}", chunks=1, n=n, options={"max_answer_len": length, "top_k": 4})
      for length, n in ((2, 100), (4, 100), (15, 384), (16, 512), (12, 700), (15, 1000), (24, 760), (32, 1024))),
    *(Case(f"long-spans-{length}-in-{n}", chunks=1, n=n, options={"max_answer_len": length, "top_k": 5})
      for length, n in ((34, 128), (100, 384), (383, 384), (40, 700), (300, 700), (530, 1200), (None, 1200), (1100, 1700))),
    Case("long-spans-of-equals", chunks=1, n=400, edit=all_but(0.0, 3),
         options={"max_answer_len": 300, "top_k": 128, "scoring": "logit"}),
    Case("long-spans-mask", chunks=1, n=600, mask=True, context=[(9, 598)],
         options={"max_answer_len": 90, "top_k": 9, "null_in_spans": True}),
    *(Case(f"rows-at-any-place-{n}", chunks=5, n=n, context=[(0, n)] * 5, dtype=torch.bfloat16,
           options={"top_k": 3}) for n in (125, 126, 127, 381, 382, 383)),
    Case("more-than-all-spans", n=6, options={"top_k": 50}),
    Case("one-token-contexts", context=[(0, 1), (39, 40), (17, 18)]),
    Case("empty-contexts", context=[(0, 0), (40, 40), (5, 5)]),
    Case("contexts-at-either-end", context=[(0, 9), (31, 40), (0, 40)]),
    Case("all-minus-inf", edit=fill(-INF)),
    Case("starts-minus-inf", edit=put(-INF, *((1, i) for i in range(40)), both=False)),
    Case("minus-inf-but-one", chunks=1, edit=lambda s, e: (s[0, :30].fill_(-INF), e[0, 5:].fill_(-INF), s[0, 3].fill_(1.0))),
    Case("all-equal", edit=fill(0.5), options={"scoring": "logit"}),
    Case("zeros-of-both-signs", edit=put(-0.0, (0, 3), (0, 5), (1, 7)), grid=4.0, options={"scoring": "logit"}),
    Case("ties-everywhere", grid=8.0, options={"scoring": "logit", "top_k": 30, "max_answer_len": 4}),
    Case("ties-across-chunks", grid=8.0, question=[0, 0, 0], options={"scoring": "logit", "top_k": 40}),
    Case("nan", edit=put(float("nan"), (1, 7)), question=[0, 0, 1]),
    Case("nan-in-ends-only", edit=lambda s, e: e[2, 30].fill_(float("nan"))),
    Case("plus-inf", edit=put(INF, (0, 9)), options={"scoring": "logit"}),
    Case("nan-outside-the-support", context=[(5, 20)] * 3, edit=put(float("nan"), (0, 3), (1, 20), (2, 39))),
    Case("inf-at-the-null-position", context=[(5, 20)] * 3, edit=put(INF, (1, 0))),
    Case("sum-beyond-float32", edit=put(3e38, (1, 7))),
    Case("huge", edit=put(1e38, (1, 7)), options={"scoring": "logit"}),
    Case("lowest", edit=fill(torch.finfo(torch.float32).min)),
    Case("largest-start", edit=put(3e38, (1, 7), both=False)),
    Case("lowest-alone", chunks=4, n=1, context=[(0, 1), (1, 1), (0, 1), (0, 1)], edit=put(-3.4e38, (0, 0), (3, 0)),
         options={"null_position": [0, 0, -1, -1], "null_in_spans": True, "max_answer_len": None}),
    Case("lowest-in-lists", chunks=2, n=3, question=[0, 0], context=[(0, 3)] * 2, edit=fill(-3e38),
         options={"null_position": -1, "scoring": "shared"}),
    Case("tiny", edit=lambda s, e: (s.mul_(1e-42), e.mul_(1e-42)), options={"scoring": "logit"}),
    Case("far-from-zero", edit=lambda s, e: (s.add_(5000), e.sub_(5000))),
    Case("null-first", context=[(8, 40)] * 3, options={"null_position": 0}),
    Case("null-last", context=[(0, 30)] * 3, options={"null_position": 39}),
    Case("null-absent", context=[(8, 40)] * 3, options={"null_position": -1}),
    Case("null-here-and-there", context=[(8, 40)] * 3, options={"null_position": [0, -1, 39]}, question=[0, 0, 1]),
    Case("null-inside-the-context", options={"null_position": [1, 20, 39]}),
    Case("null-minus-inf", context=[(8, 40)] * 3, edit=put(-INF, (0, 0))),
    Case("null-in-spans", context=[(8, 40)] * 3, options={"null_in_spans": True, "max_answer_len": None}),
    Case("null-in-spans-near", context=[(3, 40)] * 3, options={"null_in_spans": True, "max_answer_len": 9}),
    Case("null-in-spans-last", context=[(2, 33)] * 3, options={"null_in_spans": True, "null_position": [36, 0, -1]}),
    Case("mask", mask=True),
    Case("mask-and-null-in-spans", mask=True, context=[(4, 40)] * 3, options={"null_in_spans": True}),
    Case("mask-over-the-null-position", mask=True, options={"null_position": [3, 9, 27]}),
    *(
        Case(f"questions-{scoring}", chunks=6, question=[0, 0, 1, 2, 2, 2],
             options={"scoring": scoring, "top_k": 9})
        for scoring in ("probability", "shared", "logit")
    ),
    Case("questions-without-chunks", chunks=3, question=[1, 1, 3], options={"num_questions": 6}),
    *(
        Case(f"overlapping-chunks-{scoring}", chunks=4, n=20, question=[0, 0, 0, 1], grid=2.0,
             context=[(5, 20), (5, 20), (5, 12), (5, 20)],
             options={"scoring": scoring, "context_offset": [0, 9, 18, 0], "top_k": 60, "max_answer_len": 5})
        for scoring in ("probability", "shared", "logit")
    ),
    Case("overlapping-not-distinct", chunks=2, question=[0, 0],
         options={"context_offset": [0, 5], "distinct": False, "top_k": 40}),
    Case("overlap-with-null-in-spans", chunks=2, n=12, question=[0, 0], context=[(4, 12)] * 2, grid=2.0,
         options={"context_offset": [0, 4], "null_in_spans": True, "top_k": 50, "max_answer_len": None}),
    Case("many-chunks", chunks=75, n=6, question=[0] * 70 + [2] * 5,
         options={"context_offset": [3 * c for c in range(75)], "max_answer_len": 3, "top_k": 9}),
    Case("many-chunks-shared", chunks=70, n=6, question=[0] * 3 + [1] * 67,
         options={"scoring": "shared", "max_answer_len": 3, "top_k": 9}),
    *(
        Case(f"many-chunks-for-two-spans-{scoring}", chunks=70, n=8, question=[0] * 70, grid=grid, mask=mask,
             options={"scoring": scoring, "top_k": 2, "max_answer_len": 3,
                      "context_offset": [c // 2 for c in range(70)]})
        for scoring, grid, mask in (("probability", None, False), ("shared", 4.0, False), ("logit", 8.0, True))
    ),
    Case("many-chunks-one-bad", chunks=70, n=8, question=[0] * 66 + [1] * 4, edit=put(INF, (69, 3)),
         options={"top_k": 1, "max_answer_len": 3}),
    Case("tiles-of-two-chunks", chunks=2, n=2100, question=[0, 0],
         options={"max_answer_len": 40, "top_k": 6, "context_offset": [0, 1500]}),
    Case("tiles-shared", chunks=2, n=2100, question=[0, 0],
         options={"max_answer_len": 5, "top_k": 6, "scoring": "shared"}),
    Case("empty-batch", chunks=0),
    Case("empty-batch-of-questions", chunks=0, question=[], options={"num_questions": 3}),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_equals_the_reference(case: Case, backend: str):
    arguments, options = case.arguments()
    if not case.chunks:
        arguments = (*arguments[:2], torch.zeros(0, 2, dtype=torch.int32), *arguments[3:])
        if arguments[3] is not None:
            arguments = (*arguments[:3], torch.zeros(0, dtype=torch.int32))
    got = decode(backend, *arguments, **options)
    assert_right(got, arguments, options)


def test_before_triton_3_4_the_torch_backend_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    arguments, options = Case("plain").arguments()
    want = decode("torch", *arguments, **options)
    monkeypatch.setattr(triton, "__version__", "3.3.1")
    monkeypatch.setattr(spans, "decode_on_cpu", spans.decode_on_gpu)
    triton_backend._is_new_enough.cache_clear()
    try:
        assert not triton_backend._is_new_enough()
        assert_identical(spans.decode_spans(*arguments, **options), want)
    finally:
        triton_backend._is_new_enough.cache_clear()


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize("fan_in", [4, 8])
@pytest.mark.parametrize("rounds", [1, 2])
def test_lists_are_merged_in_levels(
    monkeypatch: pytest.MonkeyPatch, scoring: str, fan_in: int, rounds: int
):
    """As those of a hundred thousand chunks are: blocks of lists, several questions in one, some in none."""
    pytest.importorskip("triton", minversion="3.4")
    from qa_fast.kernels import merge_topk

    monkeypatch.setattr(merge_topk, "FAN_INS", (fan_in, fan_in))
    monkeypatch.setattr(triton_backend, "MANY_LISTS", 0 if rounds == 2 else 1000)
    question = [0] * 20 + [3] + [4] * 15 + [9] * 5
    chunks = len(question)
    case = Case(
        f"levels-{scoring}",
        chunks=chunks,
        n=5,
        question=question,
        grid=2.0,
        edit=put(float("nan"), (chunks - 1, 2)),
        options={
            "scoring": scoring,
            "top_k": 3,
            "num_questions": 11,
            "max_answer_len": 2,
            "context_offset": [c // 2 for c in range(chunks)],
        },
    )
    arguments, options = case.arguments()
    assert_right(decode("triton", *arguments, **options), arguments, options)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_near_equals_of_many_chunks_that_overlap(backend: str):
    """They may change places with any of the many that ``distinct`` leaves out."""
    case = Case(
        "near-equals",
        chunks=40,
        n=30,
        question=[0] * 40,
        edit=lambda s, e: (s.mul_(1e-6), e.mul_(1e-6)),
        options={"context_offset": [0] * 40, "max_answer_len": 5, "top_k": 100},
    )
    arguments, options = case.arguments()
    assert_right(decode(backend, *arguments, **options), arguments, options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("top_k", [1, 5, 40])
@pytest.mark.parametrize("max_answer_len", [1, 3, None])
def test_ties_are_in_the_order_of_chunk_start_end(
    backend: str, top_k: int, max_answer_len: int | None
):
    generator = torch.Generator().manual_seed(5)
    start, end = torch.randint(-1, 2, (2, 5, 33), generator=generator).float()
    arguments = start, end, torch.tensor([[3, 33]] * 5), torch.tensor([0, 0, 1, 1, 1])
    options: dict[str, Any] = {"top_k": top_k, "max_answer_len": max_answer_len, "scoring": "logit"}
    got = decode(backend, *arguments, **options)
    want = expected(*arguments, **options)
    for name in ("score", "chunk", "start", "end"):
        np.testing.assert_array_equal(getattr(got, name).numpy(), getattr(want, name), err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_far_from_the_others(dtype: torch.dtype, scoring: str, backend: str):
    for large in (7e4, -7e4, 3e6, 1e10, -1e10, 1e20, 1e30, -1e30):
        rows = torch.arange(2 * 3 * 40, dtype=torch.float32).view(2, 3, 40).mul(0.37).sin()
        rows[0, 1, 7] = rows[1, 1, 9] = rows[1, 2, 30] = large
        start, end = rows.to(dtype)
        context = torch.tensor([[1, 40]] * 3)
        arguments = start, end, context, torch.tensor([0, 0, 1])
        options = {"top_k": 4, "max_answer_len": 9, "scoring": scoring}
        assert_right(decode(backend, *arguments, **options), arguments, options)


@pytest.mark.parametrize(("backend", "share"), [("cpu", 150), ("torch", 100), ("triton", 40)])
def test_any_call_equals_the_reference(backend: str, share: int):
    @strategies.budget(share)
    @given(strategies.calls(most_spans=128 if backend == "triton" else 300))
    def check(call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        arguments, options = call
        got = decode(backend, *arguments, **options)
        assert_right(got, arguments, options)
        assert_identical(got, decode(backend, *arguments, **options))

    check()


def big_call(seed: int = 0, chunks: int = 300) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, chunks, 120, generator=generator)
    low = torch.randint(0, 30, (chunks,), generator=generator)
    high = torch.randint(40, 121, (chunks,), generator=generator)
    question = torch.randint(0, chunks // 2, (chunks,), generator=generator).sort().values
    offset = torch.randint(0, 40, (chunks,), generator=generator)
    arguments = start, end, torch.stack([low, high], 1), question
    return arguments, {"context_offset": offset, "num_questions": chunks // 2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
def test_two_runs_are_the_same_to_the_bit(backend: str, scoring: str):
    arguments, options = big_call(chunks=14)
    runs = [decode(backend, *arguments, scoring=scoring, **options) for _ in range(2)]
    assert_identical(*runs)


def test_the_number_of_threads_changes_nothing():
    arguments, options = big_call(chunks=3000)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(decode("cpu", *arguments, **options))
    finally:
        torch.set_num_threads(threads)
    assert_identical(runs[0], runs[1])
    assert_identical(runs[0], runs[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_question_gets_the_same_answer_alone_and_in_a_batch(backend: str):
    (start, end, context, question), options = big_call(chunks=14)
    offset = options["context_offset"]
    batch = decode(backend, start, end, context, question, context_offset=offset, num_questions=7)
    for q in question.unique().tolist():
        own = question == q
        alone = decode(
            backend,
            start[own],
            end[own],
            context[own],
            question[own] - q,
            context_offset=offset[own],
        )
        torch.testing.assert_close(alone.score[0], batch.score[q], rtol=1e-6, atol=1e-6)
        assert torch.equal(alone.start[0], batch.start[q])
        assert torch.equal(alone.end[0], batch.end[q])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mask", [False, True], ids=["range", "mask"])
def test_ragged_logits_are_padded_ones_without_the_padding(
    backend: str, dtype: torch.dtype, mask: bool
):
    (start, end, context, question), options = big_call(seed=1, chunks=12)
    start, end = start.to(dtype), end.to(dtype)
    lengths = context[:, 1] + torch.arange(12) % 3
    lengths = lengths.clamp(max=start.shape[1])
    if mask:
        options["context_mask"] = torch.arange(120).remainder(3).ne(0).repeat(12, 1)
    padded = decode(backend, start, end, context, question, **options)
    # The rows in any order, with gaps between them.
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    offset, position = torch.zeros(12, dtype=torch.int64), 5
    for c in order.tolist():
        offset[c] = position
        position += int(lengths[c]) + 2
    flat = {"start": start, "end": end, "context_mask": options.get("context_mask")}
    for name, rows in flat.items():
        if rows is not None:
            flat[name] = torch.full((position - 2,), 9.0 if name != "context_mask" else 1).to(
                rows.dtype
            )
            for c in range(12):
                n = int(lengths[c])
                flat[name][offset[c] : offset[c] + n] = rows[c, :n]
    if mask:
        options["context_mask"] = flat["context_mask"]
    ragged = decode(
        backend, flat["start"], flat["end"], context, question, row_offset=offset, **options
    )
    torch.testing.assert_close(ragged.score, padded.score, rtol=1e-6, atol=1e-6)
    for name in ("start", "end", "chunk"):
        assert torch.equal(getattr(ragged, name), getattr(padded, name)), name


def test_logits_of_any_strides():
    (start, end, context, question), options = big_call(seed=4, chunks=8)
    both = torch.stack([start, end], -1)
    wide = torch.cat([start, end], 1)
    plain = spans.decode_spans(start, end, context, question, **options)
    halves = both.unbind(-1)
    assert_identical(plain, spans.decode_spans(*halves, context, question, **options))
    halves = wide[:, :120], wide[:, 120:]
    assert_identical(plain, spans.decode_spans(*halves, context, question, **options))


def test_logits_that_require_gradients():
    (start, end, context, question), options = big_call(seed=4, chunks=8)
    plain = spans.decode_spans(start, end, context, question, **options)
    start.requires_grad_()
    assert_identical(plain, spans.decode_spans(start, end, context, question, **options))


def test_without_context_the_whole_row_is_context():
    start, end = torch.randn(2, 3, 17, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([[0, 17]] * 3)
    assert_identical(spans.decode_spans(start, end), spans.decode_spans(start, end, whole))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_compiled_decoder_is_there():
    assert c_backend.library() is not None


def test_without_the_compiled_decoder_torch_does_its_work(monkeypatch: pytest.MonkeyPatch):
    arguments, options = big_call(seed=3, chunks=20)
    compiled = spans.decode_spans(*arguments, **options)
    monkeypatch.setattr(c_backend, "library", lambda: None)
    monkeypatch.setattr(c_backend, "decode", None)
    plain = spans.decode_spans(*arguments, **options)
    torch.testing.assert_close(plain.score, compiled.score, rtol=1e-6, atol=2e-6)
    for name in ("start", "end", "chunk"):
        assert torch.equal(getattr(plain, name), getattr(compiled, name)), name


@pytest.mark.parametrize("top_k", [2, 20, 300])
@pytest.mark.parametrize("max_answer_len", [20, None])
def test_many_ties_in_a_long_chunk(top_k: int, max_answer_len: int | None):
    """More equal spans than any buffer holds: the first ones in the order of (start, end) are kept."""
    generator = torch.Generator().manual_seed(7)
    start, end = torch.randint(0, 3, (2, 1, 900), generator=generator).float()
    arguments = start, end, torch.tensor([[1, 900]]), None
    options: dict[str, Any] = {"top_k": top_k, "max_answer_len": max_answer_len, "scoring": "logit"}
    got, want = decode("cpu", *arguments, **options), expected(*arguments, **options)
    for name in ("score", "start", "end"):
        np.testing.assert_array_equal(getattr(got, name).numpy(), getattr(want, name), err_msg=name)


def test_growing_top_k_only_appends():
    arguments, options = big_call(seed=6, chunks=20)
    long = spans.decode_spans(*arguments, top_k=64, **options)
    for k in (1, 2, 5, 12, 33):
        short = spans.decode_spans(*arguments, top_k=k, **options)
        for name, x in itertools.islice(zip(short._fields, short, strict=True), 4):
            assert torch.equal(x, getattr(long, name)[:, :k]), (k, name)
