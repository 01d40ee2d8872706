"""Faults in a run: models, tokenizers, devices and inputs that fail at one place or at all.

What every test asks: is the fault named, with the questions that it hit; has every other question the
answer that it has without the fault; is no row lost?
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

import qa_fast
from qa_fast.engine import Engine, ExampleError, ModelError, Options
from qa_fast.engine import forward as forward_module
from qa_fast.models.devices import is_device_lost
from qa_fast.texts.readings import Reading

from ..helpers.engines import (
    OPTIONS,
    SHORTAGES,
    CallableModel,
    answers_of,
    examples,
    same,
    worker_threads,
)
from ..helpers.tiny import tiny_model, tokenizer_of

# A character that the tokenizer has never seen, and knows as [UNK] only.
BAD = "☃"
WINDOW = 8


pytestmark = pytest.mark.usefixtures("ready_workers")


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", WINDOW)


class Faulty(torch.nn.Module):
    """A model that runs ``before`` on its inputs and ``after`` on its logits: these may fail."""

    def __init__(
        self,
        before: Callable[[Any], None] = lambda ids: None,  # noqa: ARG005
        after: Callable[..., Any] = lambda ids, start, end: (start, end),  # noqa: ARG005
    ) -> None:
        super().__init__()
        self.model = tiny_model(tokenizer_of("wordpiece"))
        self.before, self.after = before, after

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        self.before(input_ids)
        output = self.model(input_ids, attention_mask, token_type_ids)
        return self.after(input_ids, output.start_logits, output.end_logits)


def unknown() -> int:
    return int(tokenizer_of("wordpiece").convert_tokens_to_ids("[UNK]"))


def is_bad(ids: torch.Tensor) -> torch.Tensor:
    return (ids == unknown()).any(dim=1)


def fail_at_bad_rows(ids: torch.Tensor) -> None:
    if is_bad(ids).any():
        raise IndexError("index out of range in self")


def spoil(value: float) -> Callable[..., Any]:
    def after(ids: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> Any:
        return torch.where(is_bad(ids)[:, None], value, start), end

    return after


def engine_of(model: Any, **arguments: Any) -> Engine:
    return Engine(model, tokenizer_of("wordpiece"), **arguments)


def sound_engine() -> Engine:
    return engine_of(tiny_model(tokenizer_of("wordpiece")))


def data_with(bad: set[int], count: int = 4 * WINDOW) -> list[tuple[str, str]]:
    """Pairs of which the ``bad`` ones hold the snowman; one of these has many chunks."""
    tokenizer = tokenizer_of("wordpiece")
    pairs = [pair for pair in examples() if unknown() not in tokenizer(*pair)["input_ids"]]
    assert len(pairs) > 4
    found = [pairs[i % len(pairs)] for i in range(count)]
    for nth, i in enumerate(sorted(bad)):
        found[i] = f"Who is {BAD}?", "It was Ada who wrote it. " * (40 if nth == 1 else 1)
    return found


FAULTS: dict[str, tuple[Any, str, type[Exception] | None]] = {
    "raises": (lambda: Faulty(fail_at_bad_rows), "Faulty raised IndexError: index out", IndexError),
    "nan": (lambda: Faulty(after=spoil(torch.nan)), "NaN or infinite logits", None),
    "infinity": (lambda: Faulty(after=spoil(torch.inf)), "NaN or infinite logits", None),
}


@pytest.mark.parametrize(
    ("fault", "scoring", "num_workers"),
    [
        *(
            (fault, scoring, 0)
            for fault in FAULTS
            for scoring in ("probability", "shared", "logit")
        ),
        ("raises", "logit", 2),
        ("nan", "probability", 2),
    ],
)
def test_a_fault_at_single_questions_costs_only_these(
    fault: str, scoring: Any, num_workers: int
) -> None:
    make, message, cause = FAULTS[fault]
    bad = {3, 13, 14, 31}
    data = data_with(bad)
    options = Options(top_k=4, max_seq_len=128, doc_stride=32, scoring=scoring)
    engine = engine_of(make(), num_workers=num_workers)
    results = list(engine.read(data, options, errors="return"))
    assert {i for i, result in enumerate(results) if isinstance(result, ExampleError)} == bad
    for i in bad:
        assert message in str(results[i])
        assert f"question {i} ('Who is {BAD}?')" in str(results[i])
        assert (None if cause is None else type(results[i].__cause__)) == (cause or None)
    good = [data[i] for i in range(len(data)) if i not in bad]
    readings = [result for result in results if isinstance(result, Reading)]
    same([reading.answers for reading in readings], answers_of(sound_engine(), good, options))
    # Raised, each comes after all that was read before it.
    stream = engine.read(data, options)
    assert len(list(islice(stream, 3))) == 3
    with pytest.raises(ExampleError, match="question 3 "):
        next(stream)
    assert not worker_threads()


@pytest.mark.parametrize(("fault", "num_workers"), [*((name, 0) for name in FAULTS), ("raises", 2)])
def test_predict_lists_such_questions_and_loses_no_row(
    fault: str, num_workers: int, tmp_path: Path
) -> None:
    make, message, _ = FAULTS[fault]
    bad = {3, 13, 14, 31}
    rows = [{"id": f"q{i}", "question": q, "context": c} for i, (q, c) in enumerate(data_with(bad))]
    runs = {}
    for name, engine in (("faulty", engine_of(make())), ("sound", sound_engine())):
        path = tmp_path / f"{name}.json"
        run = qa_fast.predict(rows, path, model=engine, on_error="skip", num_workers=num_workers)
        runs[name] = run, json.loads(path.read_text(encoding="utf-8"))
    run, found = runs["faulty"]
    assert (run.written, run.rejected) == (len(rows) - len(bad), len(bad))
    assert run.rejects is not None
    rejects = [json.loads(line) for line in run.rejects.read_text(encoding="utf-8").splitlines()]
    assert [reject["id"] for reject in rejects] == [f"q{i}" for i in sorted(bad)]
    for reject in rejects:
        assert message in reject["reason"]
        assert f"the question ('Who is {BAD}?')" in reject["reason"]
    expected = {id_: text for id_, text in runs["sound"][1].items() if int(id_[1:]) not in bad}
    assert found == expected
    with pytest.raises(ValueError, match=message):
        qa_fast.predict(rows, tmp_path / "failing.json", model=engine_of(make()))


def test_a_model_that_never_works_is_named_after_few_calls() -> None:
    calls = []

    def fail(ids: torch.Tensor) -> None:
        calls.append(tuple(ids.shape))
        raise KeyError("head_mask")

    stream = engine_of(Faulty(fail)).read(data_with(set()), OPTIONS, errors="return")
    with pytest.raises(
        ModelError, match=r"^Faulty raised KeyError: 'head_mask' \(while reading qu"
    ):
        next(stream)
    assert len(calls) < 40  # a few for each batch of the first window
    assert not worker_threads()


def test_a_model_that_stops_working_ends_the_run_after_what_it_read() -> None:
    last: list[bool] = []

    def fail(_: torch.Tensor) -> None:
        if last:
            raise OSError("connection to the server lost")

    stream = engine_of(Faulty(fail)).read(data_with(set()), OPTIONS, errors="return")
    read = list(islice(stream, WINDOW))
    last.append(True)
    with pytest.raises(
        ModelError, match=r"connection .*while reading questions 16 to 23"
    ) as caught:
        read.extend(stream)
    assert len(read) == 2 * WINDOW
    assert all(isinstance(result, Reading) for result in read)
    assert isinstance(caught.value.__cause__, OSError)
    assert not worker_threads()


LOST = RuntimeError("CUDA error: device-side assert triggered")


def test_a_lost_device_is_not_tried_again() -> None:
    assert is_device_lost(LOST)
    assert not is_device_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    calls = []

    def fail(ids: torch.Tensor) -> None:
        calls.append(ids)
        if is_bad(ids).any():
            raise LOST

    model = Faulty(fail)
    stream = engine_of(model, batch_size=1).read(data_with({9}), OPTIONS, errors="return")
    assert len(list(islice(stream, 8))) == 8
    with pytest.raises(
        ModelError, match=r"device-side assert.*while reading question 9\)"
    ) as caught:
        next(stream)
    assert caught.value.__cause__ is LOST
    assert sum(bool(is_bad(ids).any()) for ids in calls) == 1


UNUSABLE: dict[str, tuple[Any, str]] = {
    "none": (lambda s, e: None, "NoneType"),  # noqa: ARG005
    "integers": (lambda s, e: (s.long(), e), r"tuple with 0 \(int64 \[1, 10\]\), 1 \(float32"),
    "booleans": (lambda s, e: (s, e > 0), r"1 \(bool \[1, 10\]\)"),
    "complex": (lambda s, e: (s.cfloat(), e), r"0 \(complex64 "),
    "objects": (lambda s, e: (s.numpy().astype(object), e), r"0 \(object \[1, 10\]\)"),
    "text": (lambda _, e: {"start_logits": "high", "end_logits": e}, r"start_logits \(str\)"),
    "wrong_shape": (lambda s, e: (s[:, :-1], e), r"0 \(float32 \[1, 9\]\)"),
    "transposed": (lambda s, e: (s.T, e.T), r"0 \(float32 \[10, 1\]\)"),
    "no_numbers": (lambda s, e: (s.to("meta"), e), r"tuple with 0 \(float32 \[1, 10\]\)"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_logits_is_refused(case: str) -> None:
    wrap, got = UNUSABLE[case]
    engine = engine_of(CallableModel(tiny_model(tokenizer_of("wordpiece")), wrap))
    for errors in ("raise", "return"):
        with pytest.raises(
            ValueError, match=rf"^CallableModel cannot be used: it returned .*{got}"
        ):
            list(engine.read([("Who?", "It was.")], OPTIONS, errors=errors))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_floating_point_logits_will_do(dtype: torch.dtype) -> None:
    model = Faulty(after=lambda ids, s, e: (s.to(dtype), e.to(dtype)))  # noqa: ARG005
    found = answers_of(engine_of(model), examples()[:9], OPTIONS)
    expected = answers_of(sound_engine(), examples()[:9], OPTIONS)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[0]["score"] == pytest.approx(theirs[0]["score"], rel=1e-2, abs=2e-2)


def test_a_model_without_weights_is_refused() -> None:
    model = tiny_model(tokenizer_of("wordpiece")).to("meta")
    with pytest.raises(ValueError, match="BertForQuestionAnswering has no weights"):
        engine_of(model)


@pytest.mark.parametrize("shortage", SHORTAGES)
@pytest.mark.filterwarnings("ignore:a batch of:RuntimeWarning")
def test_memory_that_is_short_now_and_then_changes_no_answer(shortage: str) -> None:
    """And inputs that a model changed in place before it failed are whole when tried again."""
    random = np.random.default_rng(0)
    calls = {"all": 0, "short": 0, "in a row": 0}

    def sometimes(ids: torch.Tensor) -> None:
        calls["all"] += 1
        short = random.random() < 0.4 and calls["in a row"] < 1
        calls["in a row"] = calls["in a row"] + 1 if short else 0
        if short:
            calls["short"] += 1
            ids.fill_(1)
            raise SHORTAGES[shortage]

    data = data_with(set())
    model = Faulty(sometimes)

    # No module: then batches are run one after the other, and the shortages are the same in each run.
    def one_at_a_time(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return model(input_ids, attention_mask, token_type_ids)

    engine = engine_of(one_at_a_time)
    results = list(engine.read(data, OPTIONS, errors="return"))
    assert calls["short"] > 9
    assert [type(result) for result in results] == [Reading] * len(data)
    same([result.answers for result in results], answers_of(sound_engine(), data, OPTIONS))


def test_batches_grow_again_after_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [True]

    def fail(ids: torch.Tensor) -> None:
        if short and ids.numel() > 150:
            raise SHORTAGES["gpu"]

    engine = engine_of(Faulty(fail), max_batch_tokens=1000)
    with pytest.warns(RuntimeWarning, match="does not fit"):
        list(engine.read(data_with(set()), OPTIONS, errors="return"))
    assert engine.max_batch_tokens <= 150
    short.clear()
    list(engine.read(data_with(set()), OPTIONS))
    assert engine.max_batch_tokens <= 150  # not at once
    monkeypatch.setattr(forward_module, "PATIENCE", 3)
    list(engine.read(data_with(set()), OPTIONS))
    assert engine.max_batch_tokens == 1000


def test_weights_that_are_nan_are_reported_by_question() -> None:
    model = tiny_model(tokenizer_of("wordpiece"))
    with torch.no_grad():
        model.qa_outputs.weight[0, 0] = torch.nan
    results = list(engine_of(model).read(examples()[:9], OPTIONS, errors="return"))
    assert [result.item for result in results] == list(range(9))  # type: ignore[union-attr]
    with pytest.raises(ExampleError, match=r"question 0 .*see that the weights are sound"):
        list(engine_of(model).read(examples(), OPTIONS))
    with pytest.raises(ExampleError, match="NaN or infinite"):
        engine_of(model).token_probabilities(*examples()[0], OPTIONS)


# --- tokenizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_text_that_the_tokenizer_fails_at_is_an_error_of_its_own(num_workers: int) -> None:
    """WordLevel without a token for unknown words raises at one."""
    words = ["[PAD]", "[CLS]", "[SEP]", "Who", "?", "Ada", "Ben", "wrote", "it", "."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", pad_token="[PAD]"
    )
    engine = Engine(tiny_model(tokenizer), tokenizer, num_workers=num_workers)
    good = ("Who wrote it?", "Ada wrote it.")
    data = [good, ("Why?", "Ada."), good, ("Who?", "Zoe wrote it."), good, ("Who?", "Ben.")]
    results = list(engine.read(data, Options(), errors="return"))
    assert [i for i, x in enumerate(results) if isinstance(x, ExampleError)] == [1, 3]
    assert str(results[1]).startswith("question 1 cannot be tokenized (Exception: WordLevel error")
    assert str(results[3]).startswith("context 3 cannot be tokenized (Exception: WordLevel error")
    expected = answers_of(engine, [good, ("Who?", "Ben.")], Options())
    assert results[0].answers == results[2].answers == results[4].answers  # type: ignore[union-attr]
    same([results[0].answers, results[5].answers], expected)  # type: ignore[union-attr]


def test_tokens_that_the_model_does_not_know_are_errors_of_their_questions() -> None:
    """On a CPU they are an IndexError deep inside, on a GPU they end the process' use of it."""
    tokenizer = tokenizer_of("wordpiece")
    pairs = data_with({1, 2})[:4]
    size = 1 + max(max(tokenizer(*pairs[i])["input_ids"]) for i in (0, 3))
    rare = next(
        word for word, id_ in tokenizer.get_vocab().items() if id_ >= size and word.isalpha()
    )
    pairs[1:3] = [("Who?", f"It was {rare}, who."), (f"Who is {rare}?", "Ada.")]
    model = tiny_model(tokenizer)
    model.resize_token_embeddings(size)
    results = list(Engine(model, tokenizer).read(pairs, OPTIONS, errors="return"))
    assert [type(result) for result in results] == [Reading, ExampleError, ExampleError, Reading]
    for i, kind in ((1, "context 1"), (2, "question 2")):
        assert str(results[i]).startswith(f"{kind} has the token {rare!r} with the id ")
        assert f"the model knows only ids below {size}: model and tokenizer" in str(results[i])


def test_a_model_that_does_not_know_the_special_tokens_is_refused() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    model.resize_token_embeddings(3)
    with pytest.raises(
        ValueError, match=r"adds the token '\[SEP\]' with the id 3, and the model knows"
    ):
        Engine(model, tokenizer)


def test_padding_that_the_model_does_not_know_is_not_used() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of("wordpiece").backend_tokenizer,
        cls_token="[CLS]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    assert tokenizer.pad_token_id >= model.config.vocab_size
    same(answers_of(Engine(model, tokenizer), examples(), OPTIONS), expected)


@pytest.mark.parametrize("through", ["pipeline", "engine", "register"])
def test_a_slow_tokenizer_is_refused_with_what_to_use(through: str) -> None:
    tokenizer = ByT5Tokenizer()  # Transformers has no fast one
    assert not tokenizer.is_fast
    make: Any = {
        "pipeline": qa_fast.pipeline,
        "engine": Engine,
        "register": partial(transformers.pipeline, "question-answering"),
    }[through]
    qa_fast.register()
    try:
        with pytest.raises(
            ValueError, match=r"ByT5Tokenizer is not a fast .*use_fast=True.*a tokenizer.json"
        ):
            make(model=tiny_model(tokenizer), tokenizer=tokenizer)
    finally:
        qa_fast.unregister()


# --- interruptions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "num_workers"), [("pairs", 0), ("model", 0), ("pairs", 2), ("model", 2)]
)
def test_ctrl_c_in_the_middle_ends_the_threads(where: str, num_workers: int) -> None:
    taken = 0

    def pairs() -> Iterator[tuple[str, str]]:
        nonlocal taken
        for pair in data_with(set()):
            if where == "pairs" and taken == 20:
                raise KeyboardInterrupt
            taken += 1
            yield pair

    def interrupt(_: torch.Tensor) -> None:
        if where == "model" and taken > 20:
            raise KeyboardInterrupt

    engine = engine_of(Faulty(interrupt), num_workers=num_workers)
    with pytest.raises(KeyboardInterrupt):
        list(engine.read(pairs(), OPTIONS, errors="return"))
    assert not worker_threads()
    # The engine goes on as if nothing had been.
    taken = 0
    where = "nowhere"
    same(
        answers_of(engine, examples()[:3], OPTIONS),
        answers_of(sound_engine(), examples()[:3], OPTIONS),
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_that_is_dropped_half_read_ends_its_threads(num_workers: int) -> None:
    stream = sound_engine().read(data_with(set()), OPTIONS, num_workers=num_workers)
    next(stream)
    assert worker_threads()
    del stream
    gc.collect()
    assert not worker_threads()


def test_pairs_may_come_from_the_same_engine() -> None:
    engine = sound_engine()
    data = data_with(set(), 3 * WINDOW)

    def pairs() -> Iterator[tuple[str, str]]:
        for question, context in data:
            (answers,) = answers_of(engine, [(question, context)], OPTIONS)
            yield question, context if answers else ""

    same(answers_of(engine, pairs(), OPTIONS), answers_of(engine, data, OPTIONS))


def test_threads_may_take_turns_at_a_stream() -> None:
    """As a web framework's thread pool does: each result may be asked for by another thread."""
    data = data_with(set())
    stream = sound_engine().read(data, OPTIONS)
    found: list[Any] = []
    for _ in data:
        thread = threading.Thread(target=lambda: found.append(next(stream).answers))
        thread.start()
        thread.join()
    same(found, answers_of(sound_engine(), data, OPTIONS))


@pytest.mark.slow
def test_an_interpreter_that_exits_with_a_half_read_stream_does_not_hang() -> None:
    code = """
import qa_fast
qa = qa_fast.pipeline(device="cpu")
results = qa({"question": "Who?", "context": f"It was number {i}."} for i in range(100_000))
print(next(results)["answer"] != "")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
