"""qa_fast::decode_spans as a PyTorch operator, and what its arguments may be."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

import qa_fast
from qa_fast.decoding import c_backend, spans
from qa_fast.decoding.search import SpanSearch

from ..helpers.backends import DEVICE, assert_identical

C, N = 4, 12


def call(device: str = "cpu", **changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, C, N, generator=generator).to(device)
    context = torch.tensor([[2, N]] * C, device=device)
    question = torch.tensor([0, 0, 1, 2], device=device)
    options: dict[str, Any] = {"top_k": 3, "max_answer_len": 4, "num_questions": 3}
    return (start, end, context, question), {**options, **changes}


def operator_arguments(device: str) -> tuple[Any, ...]:
    (start, end, context, question), _ = call(device)
    null_position = torch.zeros(C, dtype=torch.int32, device=device)
    offset = torch.tensor([0, 3, 0, 0], dtype=torch.int32, device=device)
    return (
        start, end, context.int(), None, None, question.int(), offset, null_position,
        3, 5, 4, "probability", False, N, C,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")
def test_opcheck():
    torch.library.opcheck(spans._decode_spans, operator_arguments(DEVICE))


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
def test_traces_in_full_under_torch_compile(scoring: str):
    arguments, options = call(DEVICE, scoring=scoring)

    def decode(start: torch.Tensor, end: torch.Tensor) -> Any:
        return qa_fast.decode_spans(start * 2, end * 2, *arguments[2:], **options)

    compiled = torch.compile(decode, fullgraph=True, backend="eager")
    assert_identical(spans.Spans(*decode(*arguments[:2])), spans.Spans(*compiled(*arguments[:2])))


# PyTorch 2.11 says that of whatever runs outside of the graph.
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_under_torch_compile_num_questions_is_asked_for():
    """In one graph; where the graph may break, the decoder runs outside of it."""
    arguments, options = call(num_questions=None)

    def decode(start: torch.Tensor, end: torch.Tensor) -> Any:
        return qa_fast.decode_spans(start, end, *arguments[2:], **options)

    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="num_questions must be given"):
        torch.compile(decode, fullgraph=True, backend="eager")(*arguments[:2])
    torch.compiler.reset()
    compiled = torch.compile(decode, backend="eager")
    assert_identical(decode(*arguments[:2]), spans.Spans(*compiled(*arguments[:2])))


def test_fake_tensors_have_the_shapes_and_dtypes_of_real_results():
    arguments = operator_arguments("cpu")
    real = spans._decode_spans(*arguments)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = spans._decode_spans(
            *(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments)
        )
    for a, b in zip(real, fake, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_gpu
@pytest.mark.parametrize("whole_rows", [False, True])
def test_is_captured_in_a_cuda_graph(whole_rows: bool):
    (start, end, context, question), options = call("cuda")
    rest = (None, question) if whole_rows else (context, question)
    eager = qa_fast.decode_spans(start, end, *rest, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = qa_fast.decode_spans(start, end, *rest, **options)
    start.copy_(start.flip(0))
    end.copy_(end.flip(0))
    graph.replay()
    again = qa_fast.decode_spans(start, end, *rest, **options)
    assert_identical(captured, again)
    assert not torch.equal(captured.score, eager.score)


@on_gpu
def test_a_cuda_graph_refuses_what_is_on_the_host_and_goes_on():
    (start, end, context, question), options = call("cuda")
    qa_fast.decode_spans(start, end, context, question, **options)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        with pytest.raises(ValueError, match="context is on cpu, which a CUDA graph"):
            qa_fast.decode_spans(start, end, context.cpu(), question, **options)
        with pytest.raises(ValueError, match="num_questions must be given"):
            qa_fast.decode_spans(start, end, context, question)
        qa_fast.decode_spans(start, end, context, question, **options)


@on_gpu
def test_runs_on_the_current_stream():
    """Behind what is in its queue: logits that are long in the making."""
    arguments, options = call("cuda")
    want = qa_fast.decode_spans(*arguments, **options)
    start = torch.zeros_like(arguments[0])
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        start.copy_(arguments[0])
        found = qa_fast.decode_spans(start, *arguments[1:], **options)
    stream.synchronize()
    assert_identical(found, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("operator", [False, True])
def test_runs_on_the_device_of_the_logits(current: int, operator: bool):
    arguments, options = call("cuda:1")
    want = qa_fast.decode_spans(*call("cpu")[0], **options)
    with torch.cuda.device(current):
        if operator:
            found = spans.Spans(*spans._decode_spans(*operator_arguments("cuda:1")))
            want = spans.Spans(*spans._decode_spans(*operator_arguments("cpu")))
        else:
            found = qa_fast.decode_spans(*arguments, **options)
        assert torch.cuda.current_device() == current
    assert {x.device for x in found} == {torch.device("cuda", 1)}
    for name in ("start", "end", "chunk", "nonfinite"):
        assert torch.equal(getattr(found, name).cpu(), getattr(want, name)), name
    torch.testing.assert_close(found.score.cpu(), want.score)


SAME_FOR_ALL = {
    "nothing": {},
    "null-in-spans": {"null_position": 3, "null_in_spans": True},
    "no-null": {"null_position": -1},
    "many": {"top_k": 50, "max_answer_len": None},
    "best": {"top_k": 1},
    "questions": {"question_id": [0, 0, 1, 2], "context_offset": [0, 3, 0, 0], "num_questions": 3,
                  "distinct": False},
    "shared": {"question_id": [0, 0, 0, 0], "scoring": "shared", "num_questions": 1},
}  # fmt: skip


@pytest.mark.parametrize("options", SAME_FOR_ALL.values(), ids=SAME_FOR_ALL.keys())
def test_what_is_the_same_for_all_chunks_is_no_tensor_on_a_gpu(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Without a GPU the interpreter takes the tensors of a CPU, which say that they are on one."""
    pytest.importorskip("triton")
    start, end = call()[0][:2]
    null = options.get("null_position", 0)
    tensors = {"context": torch.tensor([[0, N]] * C), "null_position": torch.full((C,), null)}
    want = qa_fast.decode_spans(start, end, **{**options, **tensors})
    given = []

    def decode(search: SpanSearch) -> Any:
        given.append((search.context, search.null_position))
        return found_by_kernels(search)

    found_by_kernels = spans.triton_backend.decode
    monkeypatch.setattr(spans.triton_backend, "decode", decode)
    if DEVICE == "cpu":
        for name, value in (("is_cuda", True), ("is_cpu", False), ("get_device", lambda _: 0)):
            monkeypatch.setattr(torch.Tensor, name, value)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found = qa_fast.decode_spans(start.to(DEVICE), end.to(DEVICE), **options)
    monkeypatch.undo()
    assert given == [(None, null)]
    for name in ("start", "end", "chunk", "nonfinite"):
        assert torch.equal(getattr(found, name).cpu(), getattr(want, name)), name
    for name in ("score", "null_score"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(want, name))


FLOATS = torch.zeros(C, N)

BAD_CALLS = {
    "top-k-zero": ({"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
    "top-k-not-an-integer": ({"top_k": 2.5}, "got 2.5"),
    "top-k-past-32-bits": ({"top_k": 2**62}, "top_k must be at most 2147483647; got 4611686018427387904"),
    "num-questions-past-32-bits": ({"num_questions": 2**40}, "num_questions must be at most 2147483647"),
    "max-seq-len-no-number": ({"max_seq_len": "x"}, "max_seq_len must be an integer of at least 0; got 'x'"),
    "distinct-no-flag": ({"distinct": "no"}, "distinct must be True or False; got 'no'"),
    "sparse": ({"start_logits": FLOATS.to_sparse()}, "start_logits must be dense; got torch.sparse_coo"),
    "max-answer-len-zero": ({"max_answer_len": 0}, "max_answer_len must be an integer of at least 1"),
    "unknown-scoring": ({"scoring": "softmax"}, "'probability', 'shared', 'logit'; got 'softmax'"),
    "float64": ({"start_logits": FLOATS.double()}, "float16, bfloat16 or float32; got torch.float64"),
    "not-a-tensor": ({"start_logits": [[0.0]]}, "start_logits must be a torch.Tensor; got list"),
    "shapes-differ": ({"end_logits": FLOATS[:, 1:]}, "[4, 12] torch.float32 on cpu and [4, 11]"),
    "dtypes-differ": ({"end_logits": FLOATS.half()}, "must have the same shape, dtype and device"),
    "flat-without-row-offset": (
        {"start_logits": FLOATS.view(-1), "end_logits": FLOATS.view(-1)},
        "flat [T] together with row_offset; got [48] without row_offset",
    ),
    "context-shape": ({"context": torch.zeros(3, 2).int()}, "context must have shape [4, 2]"),
    "context-dtype": ({"context": torch.zeros(4, 2)}, "context must be int32 or int64"),
    "context-no-numbers": ({"context": "all"}, "context must be a tensor of int32 or int64; got str"),
    "context-past-32-bits": ({"context": torch.tensor([[2**32, 2**32 + 4]] * C)}, "for chunk 0, whose row"),
    "context-past-the-row": ({"context": torch.tensor([[0, 5]] * 3 + [[2, 13]])}, "[2, 13) for chunk 3"),
    "context-negative": ({"context": torch.tensor([[-1, 5]] * 4)}, "[-1, 5) for chunk 0"),
    "context-backwards": ({"context": torch.tensor([[0, 5], [6, 5]] * 2)}, "[6, 5) for chunk 1"),
    "null-position-past-the-row": ({"null_position": 12}, "got 12 for chunk 0"),
    "null-position-past-32-bits": ({"null_position": 2**32}, "-1 for none; got 4294967296"),
    "null-position-missing": ({"null_position": None}, "null_position must be a tensor of int32 or int64"),
    "question-id-past-32-bits": (
        {"question_id": torch.tensor([0, 1, 2, 2**32]), "num_questions": None}, "got 0 to 4294967296"
    ),
    "question-id-no-numbers": ({"question_id": "abcd"}, "question_id must be a tensor of int32 or int64"),
    "question-id-decreases": ({"question_id": torch.tensor([0, 1, 0, 2])}, "got 0 after 1 at chunk 2"),
    "question-id-too-large": ({"question_id": torch.tensor([0, 1, 2, 3])}, "got 0 to 3 with num_questions 3"),
    "question-id-negative": ({"question_id": torch.tensor([-1, 0, 1, 2])}, "got -1 to 2"),
    "question-id-shape": ({"question_id": torch.tensor([0, 1])}, "question_id must have shape [4]"),
    "num-questions-without-ids": ({"question_id": None}, "each of the 4 chunks is a question of its own"),
    "null-position-past-the-row-of-a-gpu": (
        {"start_logits": FLOATS.to("meta"), "end_logits": FLOATS.to("meta"), "null_position": 12},
        "got 12 for chunk 0, whose row has room for 12 tokens",
    ),
    "mask-dtype": ({"context_mask": torch.ones(C, N)}, "context_mask must be bool"),
    "mask-shape": ({"context_mask": torch.ones(C, 2).bool()}, "got torch.bool, [4, 2] on cpu"),
    "mask-not-a-tensor": ({"context_mask": [[True] * N] * C}, "context_mask must be a torch.Tensor; got list"),
    "context-offset-shape": ({"context_offset": torch.zeros(2).int()}, "context_offset must have shape [4]"),
    "row-offset-needs-context": (
        {"start_logits": FLOATS.view(-1), "end_logits": FLOATS.view(-1), "context": None,
         "row_offset": torch.arange(4) * 12},
        "need context",
    ),
    "row-offset-scalar": (
        {"start_logits": FLOATS.view(-1), "end_logits": FLOATS.view(-1), "row_offset": torch.tensor(3)},
        "row_offset must have shape [C], a row per chunk; got []",
    ),
    "row-offset-negative": (
        {"start_logits": FLOATS.view(-1), "end_logits": FLOATS.view(-1),
         "row_offset": torch.arange(4) * 12 - 1},
        "row_offset must not be negative; got -1",
    ),
    "row-offset-past-the-end": (
        {"start_logits": FLOATS.view(-1), "end_logits": FLOATS.view(-1),
         "row_offset": torch.arange(4) * 12 + 1},
        "for chunk 3, whose row has room for 11 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("compiled", [True, False], ids=["", "no-compiler"])
@pytest.mark.parametrize(("changes", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_arguments_are_named(
    changes: dict[str, Any], message: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
):
    if not compiled:
        monkeypatch.setattr(c_backend, "library", lambda: None)
    (start, end, context, question), options = call()
    arguments = {
        "start_logits": start, "end_logits": end, "context": context, "question_id": question,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        qa_fast.decode_spans(**{**arguments, **options, **changes})


@pytest.mark.parametrize("limit", [2**30, 2**31, 2**63 + 3, 2**70])
def test_a_length_that_no_chunk_reaches_is_no_limit(limit: int):
    arguments, options = call()
    wanted = qa_fast.decode_spans(*arguments, **{**options, "max_answer_len": None})
    assert_identical(
        wanted, qa_fast.decode_spans(*arguments, **{**options, "max_answer_len": limit})
    )


def test_scores_are_the_probabilities_of_the_two_softmaxes():
    start, end = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(1))
    found = qa_fast.decode_spans(start, end, top_k=45, max_answer_len=None, null_position=-1)
    p, q = start[0].softmax(0), end[0].softmax(0)
    total = sum(float(p[i] * q[j]) for i in range(9) for j in range(i, 9))
    assert math.isclose(found.score.exp().sum().item(), total, rel_tol=1e-5)
    assert found.null_score.item() == -math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
        ({"scoring": "best"}, "'probability', 'shared', 'logit'; got 'best'"),
        ({"max_seq_len": -1}, "max_seq_len must be an integer of at least 0; got -1"),
        ({"max_chunks": 0}, "max_chunks must be an integer of at least 1; got 0"),
        ({"max_chunks": "many"}, "max_chunks must be an integer of at least 1; got 'many'"),
        ({"dtype": torch.float64}, "float16, bfloat16 or float32; got torch.float64"),
        ({"distinct": 2}, "distinct must be True or False; got 2"),
    ],
    ids=str,
)
def test_warmup_names_bad_arguments(changes: dict[str, Any], message: str):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        qa_fast.warmup("cpu", **changes)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("max_chunks", [None, 1, 1000])
def test_warmup_on_a_cpu_returns(max_chunks: int | None, flat: bool):
    assert qa_fast.warmup("cpu", top_k=3, max_chunks=max_chunks, flat=flat) is None
