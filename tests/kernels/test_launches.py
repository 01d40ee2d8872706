"""What a GPU is given to do: how many kernels, on which device and stream, with no copy and no wait.

Where Triton's interpreter takes the place of its launches, the tests run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import qa_fast
from qa_fast.decoding import spans
from qa_fast.engine import Engine, Options, windows

from ..helpers.tiny import tokenizer_of, xquad

pytest.importorskip("triton", minversion="3.4")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
launched = pytest.mark.skipif(INTERPRETED, reason="run by test_all_of_this_without_the_interpreter")


@pytest.mark.skipif(not INTERPRETED, reason="it is not used here")
def test_all_of_this_without_the_interpreter(tmp_path: Path) -> None:
    code = f"import pytest; raise SystemExit(pytest.main(['-n0', '-q', {__file__!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        cwd=tmp_path,  # not the root, whose kernels/ would be taken for another package
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.fixture
def gpus() -> Iterator[Any]:
    from ..helpers.launches import gpus

    with gpus() as found, found:
        yield found


def logits(c: int, n: int, device: str = "cuda:0", dtype: torch.dtype = torch.float32) -> Any:
    return torch.randn(2, c, n, dtype=dtype).to(device).unbind()


SCORINGS = ["probability", "shared", "logit"]


def ids(c: int, questions: int = 1, device: str = "cuda:0") -> torch.Tensor:
    return (torch.arange(c, dtype=torch.int32) * questions // c).to(device)


# ---- how many kernels ---------------------------------------------------------------------------------


def tokens_as_logits(input_ids: Any, **_: Any) -> Any:
    """A model that costs nothing: a token's logits depend on the token alone."""
    start, end = (input_ids * 37 % 101).float(), (input_ids * 59 % 103).float()
    return {"start_logits": start / 10, "end_logits": end / 10}


def pairs(count: int) -> list[tuple[str, str]]:
    """Questions about texts of one word to many chunks, in several scripts; some of white space."""
    paragraphs = [p for of_language in xquad().values() for p in of_language]
    found = []
    for i in range(count):
        paragraph = paragraphs[i % len(paragraphs)]
        text = paragraph["context"]
        length = [3, 17, 60, 200, 450, 900, 2000, 9000][i % 8] * (1 + i % 5)
        context = "a" + " " * 3000 + "b" if i % 97 == 5 else (text * 60)[:length].strip()
        found.append((paragraph["qas"][0]["question"], context))
    return found


@launched
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 5, "scoring": "shared"},
        {"scoring": "logit", "max_answer_len": None},
        {"scoring": "logit", "spans_per_chunk": 20},
        {"max_seq_len": 200, "doc_stride": 20},
        {"probabilities": True},
    ],
    ids=str,
)
def test_a_long_run_compiles_few_kernels(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ..helpers.launches import gpus

    count = 200
    probabilities = options.get("probabilities", False)
    options = {name: value for name, value in options.items() if name != "probabilities"}
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", 3)
    engine = Engine(tokens_as_logits, tokenizer_of("wordpiece"))
    calls = []
    with gpus() as found:

        def decode_on_gpu(start: Any, end: Any, *rest: Any, **named: Any) -> Any:
            calls.append(int(named["row_offset"].shape[0]))
            with found:
                spans.decode_spans(start.to("cuda:0"), end.to("cuda:0"), *rest, **named)
            return spans.decode_spans(start, end, *rest, **named)

        monkeypatch.setattr(windows, "decode_spans", decode_on_gpu)
        asked = Options(**options)
        readings = list(engine.read(pairs(3 * count), asked, probabilities=probabilities))
    assert len(readings) == 3 * count
    assert len(calls) >= count
    assert len(set(calls)) > 10
    assert len(found.launches) >= count
    assert found.waits == []
    # Probabilities take two searches more here, each for one span.
    assert len(found.compiled) <= (8 if probabilities else 4), found.compiled


TEN_OF_TOP_K = [1, 2, 3, 7, 12, 20, 32, 33, 100, 128]


@launched
@pytest.mark.parametrize(("questions", "most"), [(None, 3), (5, 6)])
def test_top_k_given_anew_compiles_few_kernels(gpus: Any, questions: Any, most: int) -> None:
    start, end = logits(20, 384)
    question = None if questions is None else ids(20, questions)
    for top_k in TEN_OF_TOP_K:
        spans.decode_spans(start, end, None, question, top_k=top_k, num_questions=questions)
    assert len(gpus.launches) >= len(TEN_OF_TOP_K)
    assert len(gpus.compiled) <= most, gpus.compiled


@launched
@pytest.mark.parametrize("max_answer_len", [1, 15, 30, None])
def test_rows_of_many_widths_need_few_kernels(gpus: Any, max_answer_len: int | None) -> None:
    """Up to 1,024 tokens six widths, and the narrowest also without the limit that is none for them; for
    each, rows that begin at a multiple of four tokens, or anywhere. Beyond, one for parts of rows, one
    that adds up what they have in common, and two that merge them.
    """
    for n in [*range(1, 1025, 13), 512, 513, 1024, 1025, *range(1100, 40_000, 1777)]:
        for c in (1, 3, 16):
            start, end = (logits(c, n)[0].clone() for _ in range(2))
            spans.decode_spans(start, end, max_answer_len=max_answer_len, top_k=5)
    assert len(gpus.launches) > 200
    assert len(gpus.compiled) <= (6 + 1) * 2 + 4, gpus.compiled


@launched
def test_rows_that_could_be_long_take_no_more_programs_than_they_are(gpus: Any) -> None:
    """With integers on the host. Up to 512 tokens they share a kernel."""
    start = torch.randn(4000).to("cuda:0")
    for longest, programs in ((3, 100), (300, 100), (512, 100), (600, 300), (3000, 700)):
        spans.decode_spans(
            start,
            start,
            [[0, longest]] * 100,
            row_offset=[0] * 100,
            max_seq_len=100_000,
            num_questions=100,
        )
        lists = gpus.launches[-1 if programs == 100 else -3].arguments["n_lists"]
        assert lists == programs, longest
    assert len(gpus.compiled) == 4
    assert gpus.waits == []


def misaligned(x: Any) -> Any:
    """The same, one element further on in memory."""
    memory = torch.empty(x.numel() + 1, dtype=x.dtype).to(x.device)
    return memory[1:].view(x.shape).copy_(x)


@launched
def test_a_kernel_that_is_kept_is_the_one_that_triton_would_take(gpus: Any) -> None:
    """Kernels are found again by a few facts; none that Triton compiles for is missing among them."""
    c, n = 12, 64
    context = torch.tensor([[1, n]] * c, dtype=torch.int32).to("cuda:0")
    question, null = ids(c, 3), ids(c, c)
    mask = torch.ones(c, n, dtype=torch.bool).to("cuda:0")
    row_offset = torch.arange(c).to("cuda:0") * n
    one_chunk = {"num_questions": 1, "question_id": ids(1), "context_offset": ids(1)}
    flat = {"row_offset": row_offset, "max_seq_len": n}
    calls: list[dict[str, Any]] = []
    for dtype in (torch.float32, torch.float16):
        start, end = (logits(c, n, dtype=dtype)[0].clone() for _ in range(2))
        plain = {"start_logits": start, "end_logits": end, "context": context}
        changes: list[dict[str, Any]] = [
            {},
            {"top_k": 1},
            {"top_k": 100},
            {"max_answer_len": None},
            {"scoring": "logit"},
            {"start_logits": misaligned(start)},
            {"end_logits": misaligned(end)},
            {"context": misaligned(context)},
            {"context": None},
            {"null_position": null},
            {"null_position": misaligned(null)},
            {"null_position": 1, "null_in_spans": True},
            {"null_position": 16},
            {"context_mask": mask},
            {"context_mask": misaligned(mask)},
            {"start_logits": start.view(-1), "end_logits": end.view(-1), **flat},
            {"start_logits": start.view(-1)[1:], "end_logits": end.view(-1)[1:], **flat},
            {"start_logits": start.view(-1), "end_logits": end.view(-1), **flat,
             "row_offset": misaligned(row_offset)},
            {"question_id": question, "num_questions": 3},
            {"question_id": question, "num_questions": 3, "top_k": 100},
            {"question_id": misaligned(question), "num_questions": 3, "scoring": "shared"},
            {"question_id": question, "num_questions": 3, "context_offset": misaligned(null)},
            {"start_logits": start[:1], "end_logits": end[:1], "context": context[:1], **one_chunk},
            {"start_logits": start[:, :63], "end_logits": end[:, :63]},
            *({"start_logits": x, "end_logits": x, "context": None, "max_answer_len": limit}
              for x in (start[:, :1], start.view(3, -1), start.view(1, -1)) for limit in (5, None)),
            *({"start_logits": long, "end_logits": long, "question_id": ids(70), "num_questions": 1,
               "context": ranges, "top_k": 2, "scoring": scoring}
              for long in (logits(70, 60, dtype=dtype)[0], logits(70, 1100, dtype=dtype)[0])
              for ranges in (None, ids(140).view(70, 2)) for scoring in SCORINGS),
        ]  # fmt: skip
        calls += [{**plain, **change} for change in changes]
    for kept in (False, True, True):
        for arguments in calls:
            if not kept:
                gpus.forget()
            spans.decode_spans(**arguments)
    third = len(gpus.launches) // 3
    assert third > len(calls)
    compiled_for = [launch.compiled_for for launch in gpus.launches]
    assert compiled_for[:third] == compiled_for[third:-third]
    assert compiled_for[:third] == compiled_for[-third:]
    assert 10 < len(set(compiled_for)) < third


@launched
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize(
    ("chunks", "questions", "launches"), [(64, 64, 2), (64, 16, 2), (1000, 300, 4), (10_000, 1, 6)]
)
def test_a_call_is_few_launches(
    gpus: Any, chunks: int, questions: int, launches: int, distinct: bool
) -> None:
    """Also where ids on the GPU say how many chunks a question has, so that only a bound is known."""
    places = {"context_offset": [0] * chunks} if distinct else {}
    spans.decode_spans(
        *logits(chunks, 40),
        None,
        ids(chunks, questions),
        num_questions=questions,
        top_k=20,
        **places,
    )
    assert len(gpus.launches) == launches


# ---- where --------------------------------------------------------------------------------------------


@launched
@pytest.mark.parametrize("question", [False, True])
@pytest.mark.parametrize("device", [0, 1])
def test_kernels_run_on_the_device_of_the_logits(gpus: Any, device: int, question: bool) -> None:
    """Also where another one is current, on its current stream; which is current does not change."""
    from ..helpers.launches import stream

    name = f"cuda:{device}"
    asked = (ids(9, 2, name), [0] * 9) if question else (None, None)
    found = spans.decode_spans(
        *logits(9, 50, name),
        None,
        asked[0],
        context_offset=asked[1],
        num_questions=2 if question else 9,
    )
    assert gpus.launches
    for launch in gpus.launches:
        assert (launch.device, launch.stream) == (device, stream(device))
        tensors = [x for x in launch.arguments.values() if isinstance(x, torch.Tensor)]
        assert tensors
        assert {x.device for x in tensors} == {torch.device(name)}
    assert {x.device for x in found} == {torch.device(name)}
    assert torch.cuda.current_device() == 0
    assert (gpus.switches > 0) == (device == 1)


@launched
@pytest.mark.usefixtures("gpus")
def test_results_of_the_operator_share_no_memory() -> None:
    start, end = logits(4, 50)
    context = torch.tensor([[0, 50]] * 4, dtype=torch.int32).to("cuda:0")
    arguments = start, end, context, None, None, None, None, context[:, 0].contiguous(), 4, 3, 9
    found = spans._operator_on_gpu(*arguments, "probability", False, 50, 1)
    assert [x.dtype for x in found] == [
        torch.float32,
        *3 * [torch.int32],
        torch.float32,
        torch.bool,
    ]
    assert [tuple(x.shape) for x in found] == [*4 * [(4, 3)], (4,), (4,)]
    assert len({x.untyped_storage().data_ptr() for x in found}) == 6


# ---- copies and waits ---------------------------------------------------------------------------------


HOST = {
    "context": torch.tensor([[0, 40]] * 4),
    "question_id": torch.tensor([0, 0, 1, 1], dtype=torch.int32),
    "context_offset": [0, 10, 0, 10],
    "null_position": torch.zeros(4, dtype=torch.int32),
    "row_offset": torch.arange(4) * 40,
}


def on_gpu(value: Any) -> torch.Tensor:
    return (value if isinstance(value, torch.Tensor) else torch.tensor(value)).to("cuda:0")


def arguments_on_gpu(flat: bool) -> dict[str, Any]:
    start, end = logits(4, 40)
    if flat:
        start, end = start.reshape(-1), end.reshape(-1)
    found = {name: on_gpu(value) for name, value in HOST.items() if flat or name != "row_offset"}
    limits = {"num_questions": 2, "max_seq_len": 40} if flat else {"num_questions": 2}
    return {"start_logits": start, "end_logits": end, **found, **limits}


@launched
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("capturing", [False, True])
def test_what_is_on_the_gpu_is_not_waited_for(gpus: Any, flat: bool, capturing: bool) -> None:
    arguments = arguments_on_gpu(flat)
    gpus.capturing = capturing
    gpus.copies.clear()
    qa_fast.decode_spans(**arguments)
    if not flat:
        qa_fast.decode_spans(**{**arguments, "context": None, "null_position": 3})
        qa_fast.decode_spans(arguments["start_logits"], arguments["end_logits"])
    assert gpus.launches
    assert (gpus.copies, gpus.waits) == ([], [])


@launched
@pytest.mark.parametrize("name", HOST)
def test_a_cuda_graph_copies_nothing_from_the_host(gpus: Any, name: str) -> None:
    """A replay would read the memory again, which is the caller's, or nobody's, by then."""
    arguments = {**arguments_on_gpu(flat=True), name: HOST[name]}
    gpus.copies.clear()
    qa_fast.decode_spans(**arguments)
    assert len(gpus.copies) == 1
    gpus.capturing = True
    message = f"{name} is on cpu, which a CUDA graph .* Pass {name} on the logits' device, cuda:0"
    with pytest.raises(ValueError, match=message):
        qa_fast.decode_spans(**arguments)
    assert len(gpus.copies) == 1
    assert gpus.waits == []


@launched
def test_a_cuda_graph_holds_no_other_backend_than_the_kernels(gpus: Any) -> None:
    qa_fast.decode_spans(*logits(4, 40), top_k=200)
    assert gpus.launches == []
    gpus.capturing = True
    with pytest.raises(ValueError, match=r"top_k of at most 128: .*; got top_k=200"):
        qa_fast.decode_spans(*logits(4, 40), top_k=200)


@launched
@pytest.mark.parametrize(
    ("missing", "why"), [("num_questions", "question_id"), ("max_seq_len", "flat logits")]
)
def test_a_cuda_graph_reads_nothing_back(gpus: Any, missing: str, why: str) -> None:
    arguments = arguments_on_gpu(flat=True)
    del arguments[missing]
    qa_fast.decode_spans(**arguments)
    assert gpus.waits
    gpus.waits.clear()
    gpus.capturing = True
    with pytest.raises(ValueError, match=f"{missing} must be given with {why} in a CUDA graph"):
        qa_fast.decode_spans(**arguments)
    assert gpus.waits == []


# ---- ahead of time ------------------------------------------------------------------------------------


@launched
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("max_chunks", [None, 2, 40, 1000])
def test_after_warmup_calls_compile_nothing(
    gpus: Any, max_chunks: int | None, scoring: Any, flat: bool
) -> None:
    options = {"top_k": 7, "max_answer_len": 15, "scoring": scoring}
    qa_fast.warmup("cuda:0", **options, dtype=torch.float16, flat=flat, max_chunks=max_chunks)
    assert gpus.waits == []
    compiled = len(gpus.compiled)
    assert compiled
    for c in sorted({1, 2, 16, 33, 40, 300, max_chunks or 1}):
        if c > (max_chunks or c):
            continue
        start, end = logits(c, 384, dtype=torch.float16)
        asked = {} if max_chunks is None else {"question_id": ids(c), "num_questions": 1}
        if max_chunks is not None:
            asked["context_offset"] = ids(c, c)
        if flat:
            start, end = start.reshape(-1), end.reshape(-1)
            asked |= {"row_offset": ids(c, c) * 384, "max_seq_len": 384, "null_position": ids(c)}
        context = torch.tensor([[1, 384]] * c).to("cuda:0")
        spans.decode_spans(start, end, context, **asked, **options)
    assert len(gpus.compiled) == compiled, gpus.compiled[compiled:]


@launched
@pytest.mark.parametrize(
    "options",
    [{}, {"scoring": "logit", "top_k": 3}, {"scoring": "shared", "max_seq_len": 1000}],
    ids=str,
)
@pytest.mark.parametrize("probabilities", [False, True])
def test_an_engine_compiles_ahead_of_its_first_answer(
    probabilities: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ..helpers.launches import gpus

    engine = Engine(tokens_as_logits, tokenizer_of("wordpiece"))
    with gpus() as found:
        order = []

        def warm_gpu(device: torch.device, **named: Any) -> None:
            time.sleep(0.3)  # the model is done before
            with found:
                spans.warmup(device, **named)
            order.append(("warmup", len(found.compiled)))

        def decode_on_gpu(start: Any, end: Any, *rest: Any, **named: Any) -> Any:
            with found:
                spans.decode_spans(start.to("cuda:0"), end.to("cuda:0"), *rest, **named)
            order.append(("decode", len(found.compiled)))
            return spans.decode_spans(start, end, *rest, **named)

        monkeypatch.setattr(windows, "warmup", warm_gpu)
        monkeypatch.setattr(windows, "decode_spans", decode_on_gpu)
        monkeypatch.setattr(Engine, "device", torch.device("cuda", 0))
        for given in (pairs(20), [("Who?", "Ada.")]):
            list(engine.read(given, Options(**options), probabilities=probabilities))
    kernels = len(found.compiled)
    # What makes probabilities is searched for by itself, but under "shared".
    searches = {"shared": 1, "logit": 2}.get(options.get("scoring", ""), 3) if probabilities else 1
    assert [what for what, _ in order] == ["warmup"] * searches + ["decode"] * 2 * searches
    assert {compiled for _, compiled in order[searches - 1 :]} == {kernels}


def test_an_engine_on_a_cpu_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "warmup", None)
    engine = Engine(tokens_as_logits, tokenizer_of("wordpiece"))
    assert len(list(engine.read(pairs(3), Options()))) == 3
