"""The engine: batches, windows, models of several shapes, errors that name the question."""

from __future__ import annotations

import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, XLNetConfig, XLNetForQuestionAnswering

from qa_fast.engine import Engine, ExampleError, Options, Stats, streams
from qa_fast.engine import engine as engine_module
from qa_fast.engine.batches import plan_batches
from qa_fast.texts.chunker import make_chunks
from qa_fast.texts.readings import Reading

from ..helpers import oracle
from ..helpers.engines import OPTIONS, CallableModel, answers_of, examples, same, worker_threads
from ..helpers.tiny import tiny_model, tokenizer_of


@pytest.mark.parametrize(
    "batch", [{"batch_size": 3}, {"max_batch_tokens": 1}, {"max_batch_tokens": 300}], ids=str
)
def test_batches_change_nothing(batch: dict[str, int]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    same(answers_of(Engine(model, tokenizer, **batch), examples(), OPTIONS), expected)


def test_order_and_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    expected = answers_of(engine, examples(), OPTIONS)
    same(answers_of(engine, examples()[::-1], OPTIONS)[::-1], expected)
    monkeypatch.setattr(engine_module, "WINDOW_QUESTIONS", 3)
    same(answers_of(engine, examples(), OPTIONS), expected)


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize("family", ["wordpiece", "xlnet", "no_special"])
def test_answers_are_those_of_the_reference(family: str, scoring: str) -> None:
    """Each chunk through the model by itself, decoded by the reference."""
    tokenizer = tokenizer_of(family)
    model = tiny_model(tokenizer)
    question, context = examples()[4]
    options = replace(OPTIONS, top_k=5, scoring=scoring, align_to_words=False)
    engine = Engine(model, tokenizer)
    (answers,) = answers_of(engine, [(question, context)], options)
    assert len(make_chunks(tokenizer, [question], [context], max_seq_len=128, doc_stride=32)) > 1
    expected = oracle.read(model, tokenizer, question, context, options)
    order = sorted(expected, key=lambda key: -expected[key].score)[: len(answers)]
    text = scoring == "probability"
    mine = [a["answer"].lower() if text else (a["start"], a["end"]) for a in answers]
    assert mine == order
    scores, probabilities = zip(*(expected[k] for k in order), strict=True)
    assert [a["score"] for a in answers] == pytest.approx(scores, rel=1e-4)
    (sure,) = engine.read([(question, context)], options, probabilities=True)
    assert sure.answers == answers
    assert sure.probabilities == pytest.approx(probabilities, rel=1e-4)


def test_examples_are_read_a_window_at_a_time() -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    taken = []

    class Endless:
        def __iter__(self) -> Any:
            for i in count():
                taken.append(i)
                yield f"Who is number {i}?", f"Number {i} is Ada."

    answers = engine.read(Endless(), Options())
    assert not taken
    next(answers)
    # The next window is with the model by now, and the one after it is tokenized.
    assert len(taken) == 3 * engine_module.WINDOW_QUESTIONS
    assert len(list(islice(answers, len(taken)))) == 3 * engine_module.WINDOW_QUESTIONS
    assert len(taken) == 6 * engine_module.WINDOW_QUESTIONS


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(engine_module, "WINDOW_QUESTIONS", 4)
    return 4


@pytest.mark.parametrize("where", ["pairs", "tokenizer", "model"])
def test_errors_come_after_what_was_read_before_them(
    where: str, small_windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    calls = 0

    def third_call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("third")
        return function(*arguments, **named)

    def pairs() -> Any:
        yield from [("Who?", "It was Ada.")] * (2 * small_windows + 1)
        raise KeyError("third")

    engine = Engine(model, tokenizer)
    data: Any = [("Who?", "It was Ada.")] * (5 * small_windows)
    expected = 2 * small_windows
    if where == "pairs":
        data, expected = pairs(), 2 * small_windows + 1
    else:
        owner, name = {
            "tokenizer": (engine._crew.chunker, "cut"),
            "model": (engine._forward, "run"),
        }[where]
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, third_call)
    stream = engine.read(data, Options())
    assert len(list(islice(stream, expected))) == expected
    with pytest.raises(KeyError, match="third"):
        next(stream)
    assert not worker_threads()


def test_threads_end_with_the_generator(small_windows: int) -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    stream = engine.read((("Who?", f"It was number {i}.") for i in count()), Options())
    assert len(list(islice(stream, small_windows + 1))) == small_windows + 1
    assert worker_threads()
    stream.close()
    assert not worker_threads()
    list(engine.read(examples()[:9], OPTIONS))
    assert not worker_threads()


def test_a_gpu_is_given_the_next_window_before_the_last_ones_results_are_waited_for(
    small_windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    engine = Engine(model, tokenizer)
    device = engine._forward.device
    second_run = threading.Event()
    runs: list[Any] = []
    run, fetch = engine._forward.run, device.fetch

    def logged_run(plan: Any, workers: Any) -> Any:
        runs.append(plan)
        if len(runs) == 2:
            second_run.set()
        return run(plan, workers)

    def fetch_that_waits_for_the_next_run(tensors: Any) -> Any:
        wait = fetch(tensors)

        def slow_wait() -> Any:
            assert second_run.wait(60)
            return wait()

        return slow_wait

    monkeypatch.setattr(engine._forward, "run", logged_run)
    monkeypatch.setattr(device, "fetch", fetch_that_waits_for_the_next_run)
    same(answers_of(engine, examples(), OPTIONS), expected)
    assert len(runs) == -(-len(examples()) // small_windows) > 2


def test_threads_may_share_an_engine(small_windows: int) -> None:  # noqa: ARG001
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    engine = Engine(model, tokenizer)
    data = examples()
    expected = answers_of(engine, data, OPTIONS)
    model.train()
    engine.stats = Stats()

    def read(turn: int) -> list[list[Any]]:
        order = data[turn:] + data[:turn]
        tokenizer("Who?", truncation=True, max_length=2)  # somebody else's use of the tokenizer
        found = answers_of(engine, order, OPTIONS)
        return found[len(data) - turn :] + found[: len(data) - turn]

    with ThreadPoolExecutor(6) as executor:
        for found in executor.map(read, range(6)):
            same(found, expected)
    assert engine.stats.questions == 6 * len(data)
    assert model.training


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_read_ahead(depth: int) -> None:
    taken = []

    def items() -> Any:
        for i in range(5):
            taken.append(i)
            yield i
        raise KeyError("end")

    ahead = engine_module.read_ahead(items(), depth)
    for i in range(5):
        assert next(ahead) == i
        assert len(taken) == min(5, i + 1 + depth)
    with pytest.raises(KeyError, match="end"):
        next(ahead)


def test_nothing_is_read_ahead_where_the_next_must_be_waited_for() -> None:
    ahead = engine_module.read_ahead(iter([0, 1, 2, None, 3, None, 4]), 2)
    assert list(ahead) == [0, 1, 2, None, 3, None, 4]
    taken = []
    source = (taken.append(i) or i for i in [0, 1, None, 2, 3])
    ahead = engine_module.read_ahead(source, 1)
    assert [next(ahead) for _ in range(3)] == [0, 1, None]
    assert taken == [0, 1, None]


def test_progress_counts_questions(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    data = examples()
    assert len(list(engine.read(data, OPTIONS, progress=True))) == len(data)
    shown = capsys.readouterr().err
    assert f"{len(data)}/{len(data)}" in shown
    assert "question/s" in shown
    list(engine.read(iter(data), OPTIONS, progress=True))
    assert f"{len(data)}question" in capsys.readouterr().err
    list(engine.read(data, OPTIONS))
    assert capsys.readouterr().err == ""


def test_errors_is_checked() -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    with pytest.raises(ValueError, match="errors must be 'raise' or 'return'; got 'ignore'"):
        engine.read([], Options(), errors="ignore")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_questions() -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    page = os.sysconf("SC_PAGE_SIZE")
    memory = []
    pairs = ((f"Who was number {i}?", f"Number {i} was Ada, she was {i}.") for i in range(20_000))
    for i, _ in enumerate(engine.read(pairs, Options())):
        if i % 1000 == 999:
            resident = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
            memory.append(int(resident) * page / 2**20)
    assert len(memory) == 20
    # After 8,000 all caches are full. The next 12,000 would need 30 MB if each left 2.5 KB behind,
    # as an encoding of its context is large.
    assert max(memory[8:]) - memory[7] < 10


def test_long_contexts_make_short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WINDOW_CHARACTERS", 100)
    found = streams._fixed_windows([("Who?", "Ada. " * 10)] * 5, 4, 4)
    assert [(window.first_item, len(window.pairs)) for window in found] == [(0, 2), (2, 2), (4, 1)]


def test_windows_of_data_at_rest_grow() -> None:
    found = streams._fixed_windows([("Who?", "Ada.")] * 50, 2, 20)
    assert [(window.first_item, len(window.pairs)) for window in found] == [
        (0, 2), (2, 8), (10, 20), (30, 20),
    ]  # fmt: skip


def test_nothing_in_nothing_out() -> None:
    tokenizer = tokenizer_of("wordpiece")
    assert answers_of(Engine(tiny_model(tokenizer), tokenizer), [], Options()) == []


def test_plan_batches_of_equal_lengths() -> None:
    length = np.array([5, 9, 5, 9, 9, 1], np.int32)
    batches = plan_batches(length, 18, widths=[10], equal_lengths=True)
    assert [(batch.chunks.tolist(), batch.rows, batch.width) for batch in batches] == [
        ([1, 3], 2, 9),
        ([4], 1, 9),
        ([0, 2], 2, 5),
        ([5], 1, 1),
    ]


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "batch_size"),
    [([5], 1, None), ([3, 9, 4, 8, 1, 1], 18, None), ([7] * 10, 30, 3), ([], 10, None)],
    ids=["longer_than_budget", "mixed", "upper_bound", "none"],
)
def test_plan_batches(lengths: list[int], max_tokens: int, batch_size: int | None) -> None:
    length = np.array(lengths, np.int32)
    batches = plan_batches(length, max_tokens, batch_size)
    assert sorted(c for batch in batches for c in batch.chunks) == list(range(len(lengths)))
    for batch in batches:
        assert batch.rows == len(batch.chunks)
        assert batch.width == length[batch.chunks].max()
        assert batch.rows == 1 or batch.rows * batch.width <= max_tokens
        assert batch_size is None or batch.rows <= batch_size
    widths = [batch.width for batch in batches]
    assert widths == sorted(widths, reverse=True)


def test_plan_batches_of_widths_in_steps() -> None:
    length = np.array([45, 44, 30, 17, 16, 3], np.int32)
    batches = plan_batches(length, 100, step=16, most=46)
    assert [(batch.chunks.tolist(), batch.rows, batch.width) for batch in batches] == [
        ([0, 1], 2, 46), ([2, 3, 4], 3, 32), ([5], 1, 16),
    ]  # fmt: skip
    alone = plan_batches(length, 100, step=16, equal_lengths=True)
    assert [batch.width for batch in alone] == length.tolist()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s, e: {"start_logits": s.numpy(), "end_logits": e.numpy()},
        lambda s, e: {"start_logits": s, "end_logits": e, "hidden_states": None},
        lambda s, e: (s, e),
        lambda s, e: (s.double(), e.double(), "more"),
    ],
    ids=["dict_of_numpy", "dict_of_torch", "tuple", "longer_tuple"],
)
def test_any_callable_with_logits_will_do(wrap: Any) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    same(answers_of(Engine(CallableModel(model, wrap), tokenizer), examples(), OPTIONS), expected)


UNUSABLE = {
    "nothing": (lambda s, e: None, "NoneType"),  # noqa: ARG005
    "other_keys": (lambda s, e: {"logits": s}, "dict with logits"),  # noqa: ARG005
    "one_tensor": (lambda s, e: (s,), "tuple"),  # noqa: ARG005
    "wrong_shape": (lambda s, e: (s[..., None], e[..., None]), "tuple"),
    "shorter_rows": (lambda s, e: {"start_logits": s[:, 1:], "end_logits": e}, "dict with st"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_other_outputs_are_refused_by_name(case: str) -> None:
    wrap, got = UNUSABLE[case]
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(CallableModel(tiny_model(tokenizer), wrap), tokenizer)
    with pytest.raises(ValueError, match=rf"^CallableModel .*returned {got}.*ForQuestionAnswering"):
        answers_of(engine, [("Who?", "Ada.")], Options())


@pytest.mark.parametrize(
    "model",
    [
        lambda n: BertModel(BertConfig(vocab_size=n, num_hidden_layers=1, type_vocab_size=3)),
        lambda n: XLNetForQuestionAnswering(
            XLNetConfig(vocab_size=n, d_model=16, n_layer=1, n_head=2)
        ),
    ],
    ids=["no_head", "beam_search_head"],
)
def test_models_without_logits_are_refused(model: Any) -> None:
    tokenizer = tokenizer_of("xlnet")
    engine = Engine(model(len(tokenizer)).eval(), tokenizer)
    with pytest.raises(ValueError, match=r"cannot be used: it returned .*start_logits and end_"):
        answers_of(engine, [("Who?", "Ada.")], Options())


@pytest.mark.parametrize("scoring", ["probability", "logit"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_name_the_question(value: float, scoring: Any) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)

    data = [("Who was it then, pray?", "It was Ada. " * 4), ("Who did it?", "It was Ben.")]
    chunks = make_chunks(tokenizer, *map(list, zip(*data, strict=True)))

    def spoil(start: Any, end: Any) -> Any:
        start = start.clone()
        start[-1, chunks.context[1, 0]] = value  # the shortest chunk is the batch's last
        return start, end

    engine = Engine(CallableModel(model, spoil), tokenizer)
    with pytest.raises(
        ValueError, match=r"question 1 \('Who did it\?'\) has NaN or infinite logits"
    ):
        answers_of(engine, data, Options(scoring=scoring))


def test_errors_count_examples_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WINDOW_QUESTIONS", 2)
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    data = [("Who?", "Ada.")] * 5
    for bad, message in ((("Who?", ""), "context 5 is empty"), (("Who?", "\x00"), "context 5 has")):
        answers = engine.read([*data, bad, *data], Options())
        assert len(list(islice(answers, 5))) == 5
        with pytest.raises(ValueError, match=message):
            list(answers)


BAD_PAIRS = {
    "empty": ("Who?", ""),
    "blank": (" ", "Ada."),
    "not_a_string": ("Who?", None),
    "surrogate": ("Who?", "Ada \ud83e"),
    "no_tokens": ("Who?", "\x00"),
    "too_long": ("Who " * 200, "Ada. " * 200),
}


@pytest.mark.parametrize("bad", BAD_PAIRS)
def test_an_error_takes_the_place_of_its_reading(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WINDOW_QUESTIONS", 4)
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    good = [("Who wrote it?", "It was Ada."), ("Who did?", "Ben did.")]
    data = [*good, BAD_PAIRS[bad], *good, *[BAD_PAIRS[bad]] * 4, *good]
    results = list(engine.read(data, OPTIONS, errors="return"))
    wrong = [2, 5, 6, 7, 8]
    assert [i for i, x in enumerate(results) if isinstance(x, ExampleError)] == wrong
    assert [results[i].item for i in wrong] == wrong
    for i in wrong:
        assert re.match(rf"(question|context) {i} ", str(results[i]))
    readings = [x for x in results if not isinstance(x, ExampleError)]
    same([r.answers for r in readings], answers_of(engine, good, OPTIONS) * 3)
    # Raised, it costs no reading before it.
    stream = engine.read(data, OPTIONS)
    assert list(islice(stream, 2)) == readings[:2]
    with pytest.raises(ExampleError) as caught:
        next(stream)
    assert caught.value.item == 2
    assert pickle.loads(pickle.dumps(caught.value)).item == 2


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
def test_a_window_without_a_usable_pair(scoring: Any) -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer)
    results = engine.read([("", "x"), ("Who?", "")], Options(scoring=scoring), errors="return")
    assert [getattr(result, "item", None) for result in results] == [0, 1]


def test_stats_count_what_was_done() -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer, batch_size=2)
    data = [("Who wrote it?", "It was Ada."), ("Who?", ""), ("Who?", "Ada. " * 200)]
    readings = list(engine.read(data, OPTIONS, errors="return"))
    chunks = make_chunks(
        tokenizer,
        ["Who wrote it?", "Who?"],
        [data[0][1], data[2][1]],
        max_seq_len=128,
        doc_stride=32,
    )
    stats = engine.stats
    assert (stats.questions, stats.chunks) == (3, len(chunks))
    assert stats.tokens == chunks.length.sum()
    assert stats.padded_tokens >= stats.tokens
    assert stats.batches == -(-len(chunks) // 2)
    assert min(stats.tokenize, stats.plan, stats.forward, stats.decode, stats.map) > 0
    assert sum(r.chunks for r in readings if isinstance(r, Reading)) == len(chunks)


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize(("family", "nulls"), [("wordpiece", 1), ("xlnet", 1), ("no_special", 0)])
def test_the_null_answer_is_cls(family: str, nulls: int, scoring: Any) -> None:
    tokenizer = tokenizer_of(family)
    options = Options(top_k=100, handle_impossible_answer=True, scoring=scoring)
    engine = Engine(tiny_model(tokenizer), tokenizer)
    (answers,) = answers_of(engine, [("Who?", "It was Ada Lovelace.")], options)
    assert [answer["answer"] for answer in answers].count("") == nulls


@pytest.mark.parametrize(
    ("given", "asked", "expected"),
    [
        (torch.float16, None, torch.float32),
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.float16, torch.float64, torch.float64),
    ],
    ids=str,
)
def test_dtype(given: torch.dtype, asked: Any, expected: torch.dtype) -> None:
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer).to(given), tokenizer, dtype=asked)
    assert next(engine.model.parameters()).dtype == expected
    assert len(answers_of(engine, examples()[:3], OPTIONS)) == 3


def test_a_model_in_training_answers_without_dropout_and_goes_on_training() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    engine = Engine(model, tokenizer)
    expected = answers_of(engine, examples(), OPTIONS)
    model.train()
    same(answers_of(engine, examples(), OPTIONS), expected)
    assert model.training
    assert model.bert.training


BAD_OPTIONS = [
    ({"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
    ({"top_k": 2.5}, "top_k must be an integer of at least 1; got 2.5"),
    ({"top_k": True}, "top_k must be an integer of at least 1; got True"),
    ({"max_answer_len": 0}, "max_answer_len must be an integer of at least 1; got 0"),
    ({"max_seq_len": 0}, "max_seq_len must be"),
    ({"doc_stride": -1}, "doc_stride must be an integer of at least 0; got -1"),
    ({"max_question_len": 0}, "max_question_len must be"),
    ({"align_to_words": "yes"}, "align_to_words must be True or False; got 'yes'"),
    ({"scoring": np.array(["logit"])}, r"scoring must be one of .*; got array\("),
    ({"scoring": "best"}, "scoring must be one of 'probability', 'shared', 'logit'; got 'best'"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=lambda x: str(x)[:30])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


BAD_ENGINES = [
    ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
    ({"max_batch_tokens": 0}, "max_batch_tokens must be"),
    ({"dtype": "float33"}, "dtype must be 'float32'.*got 'float33'"),
    ({"dtype": torch.int8}, r"dtype must be .*got torch\.int8"),
    ({"device": "gpu"}, "device 'gpu' cannot be used: "),
    ({"device": 99}, "device 99 cannot be used: "),
    ({"device": 10**30}, "device 1000000000000000000000000000000 cannot be used: "),
    ({"device": b"cpu"}, "device must be a name such as 'cuda:1', a number, .*; got b'cpu'"),
    ({"device": True}, "device must be a name .*; got True"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ENGINES, ids=lambda x: str(x)[:30])
def test_bad_engine_arguments(arguments: dict[str, Any], message: str) -> None:
    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(ValueError, match=message):
        Engine(tiny_model(tokenizer), tokenizer, **arguments)
