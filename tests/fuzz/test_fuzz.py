"""Generated texts and arguments: answered as the plainest code would, or refused in words.

``pytest --hypothesis-profile=deep tests/fuzz/test_fuzz.py`` tries a hundred times as many.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import qa_fast
from qa_fast.dropin.pipeline import QuestionAnsweringPipeline, pipeline
from qa_fast.engine import Engine, ExampleError, Options
from qa_fast.engine import engine as engine_module
from qa_fast.texts.readings import Reading

from ..helpers import oracle, strategies
from ..helpers.hashing import Hashing
from ..helpers.tiny import FAMILIES, tokenizer_of


@cache
def engine_of(family: str) -> Engine:
    return Engine(Hashing(), tokenizer_of(family))


def read(engine: Engine, pairs: Any, options: Options, **how: Any) -> list[Any]:
    return [
        (type(x), str(x), x.item) if isinstance(x, ExampleError) else x
        for x in engine.read(pairs, options, errors="return", probabilities=True, **how)
    ]


def make_options(drawn: dict[str, Any]) -> Options | None:
    """None where max_seq_len and doc_stride do not go together, after checking that this is told."""
    options = Options(**drawn)
    length, stride = options.max_seq_len or 384, options.doc_stride
    if stride is None or stride < length:
        return options
    with pytest.raises(ValueError, match=rf"smaller than max_seq_len \({length}\); got {stride}"):
        list(engine_of("wordpiece").read([("Who?", "Ada.")], options))
    return None


def usable(text: str) -> bool:
    return bool(text.strip()) and text.encode("utf-8", "ignore").decode() == text


def check_refusal(family: str, pair: tuple[str, str], options: Options, reason: str) -> None:
    """Only what cannot be answered may be refused."""
    if not all(map(usable, pair)):
        assert "is not valid Unicode" in reason or "is empty" in reason
        return
    tokenizer = tokenizer_of(family)
    question, context = (
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in pair
    )
    if not question or not context:
        assert "has no tokens" in reason
        return
    assert "is too long" in reason
    length = options.max_seq_len or 384
    stride = min(length // 2, 128) if options.doc_stride is None else options.doc_stride
    question = min(question, options.max_question_len or question)
    room = length - tokenizer.num_special_tokens_to_add(pair=True) - question
    assert context > room <= stride


def check_reading(family: str, pair: tuple[str, str], options: Options, reading: Reading) -> None:
    question, context = pair
    assert all(map(usable, pair))
    scores = [answer["score"] for answer in reading.answers]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) <= options.top_k
    merge = options.scoring == "probability"
    wanted = oracle.read(Hashing(), tokenizer_of(family), question, context, options)
    best = sorted((found.score for found in wanted.values()), reverse=True)[: options.top_k]
    assert scores == pytest.approx(best, rel=1e-5, abs=1e-5)
    keys = set()
    for answer, probability in zip(reading.answers, reading.probabilities, strict=True):
        start, end, text = answer["start"], answer["end"], answer["answer"]
        assert 0 <= start <= end <= len(context)
        assert context[start:end] == text == text.strip()
        key = text.lower() if merge else (start, end)
        # No other answer is empty than the null answer.
        expected = wanted[key if text else None]
        assert (answer["score"], probability) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        keys.add(key)
    assert len(keys) == len(reading.answers)


pairs = st.lists(st.tuples(strategies.texts(4), strategies.any_texts()), min_size=1, max_size=5)


@pytest.mark.parametrize("family", [*FAMILIES, "untrimmed"])
@strategies.budget(30)
@given(pairs=pairs, drawn=strategies.options())
def test_any_text_is_answered_like_the_oracle_or_refused(
    family: str, pairs: list[tuple[str, str]], drawn: dict[str, Any]
) -> None:
    options = make_options(drawn)
    if options is None:
        return
    results = list(engine_of(family).read(pairs, options, errors="return", probabilities=True))
    assert len(results) == len(pairs)
    for i, (pair, result) in enumerate(zip(pairs, results, strict=True)):
        if isinstance(result, ExampleError):
            assert result.item == i
            assert f" {i} " in str(result)
            check_refusal(family, pair, options, str(result))
        else:
            check_reading(family, pair, options, result)


@pytest.mark.parametrize("family", ["bundled", "untrimmed"])
@strategies.budget(10)
@given(
    pairs=st.lists(st.tuples(strategies.texts(2), strategies.texts(3)), min_size=1, max_size=4),
    drawn=strategies.options(),
    huge=st.sampled_from([10**6, 2**31, 2**63, 2**70]),
)
def test_all_answers_are_as_many_as_there_are(
    family: str, pairs: list[tuple[str, str]], drawn: dict[str, Any], huge: int
) -> None:
    drawn = {**drawn, "max_answer_len": min(drawn["max_answer_len"] or huge, 20)}
    # More than the spans of any of these chunks.
    plenty, everything = (make_options({**drawn, "top_k": k}) for k in (10_000, huge))
    if plenty is not None and everything is not None:
        engine = engine_of(family)
        assert read(engine, pairs, everything) == read(engine, pairs, plenty)


@pytest.mark.parametrize("family", FAMILIES)
@strategies.budget(15)
@given(
    pairs=pairs,
    drawn=strategies.options(),
    order=st.randoms(use_true_random=False),
    batch=st.sampled_from([{"batch_size": 1}, {"batch_size": 3}]),
    window=st.integers(1, 3),
    threads=st.integers(1, 4),
)
def test_neither_batches_nor_order_nor_threads_change_an_answer(
    family: str,
    pairs: list[tuple[str, str]],
    drawn: dict[str, Any],
    order: Any,
    batch: dict[str, int],
    window: int,
    threads: int,
) -> None:
    options = make_options(drawn)
    if options is None:
        return
    engine = engine_of(family)
    pairs = pairs * 3
    plain = read(engine, pairs, options)
    mixed = list(range(len(pairs)))
    order.shuffle(mixed)
    before, used = engine_module.WINDOW_QUESTIONS, torch.get_num_threads()
    engine_module.WINDOW_QUESTIONS = window
    torch.set_num_threads(threads)
    try:
        found = read(
            Engine(Hashing(), tokenizer_of(family)), [pairs[i] for i in mixed], options, **batch
        )
    finally:
        engine_module.WINDOW_QUESTIONS = before
        torch.set_num_threads(used)
    for i, result in zip(mixed, found, strict=True):
        if isinstance(plain[i], Reading):
            assert result == plain[i]
        else:
            assert result[0] is ExampleError


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("word", ["a", "e\u0301", "ab-"], ids=ascii)
def test_a_megabyte_without_a_space(family: str, word: str) -> None:
    context = word * (1_000_000 // len(word.encode()))
    options = Options(top_k=3, max_seq_len=384, align_to_words=True)
    (result,) = engine_of(family).read([("Who?", context)], options, errors="return")
    if isinstance(result, ExampleError):
        assert "has no tokens" in str(result)
        return
    for answer in result.answers:
        assert context[answer["start"] : answer["end"]] == answer["answer"]


# --- arguments ----------------------------------------------------------------------------------


@cache
def small_pipeline() -> QuestionAnsweringPipeline:
    tokenizer = tokenizer_of("wordpiece")
    return pipeline(model=Hashing(), tokenizer=tokenizer)


def attempt(function: Any, *arguments: Any, **options: Any) -> Any:
    """The result; None where the arguments are refused in words."""
    try:
        return function(*arguments, **options)
    except (ValueError, TypeError) as error:
        message = str(error)
    assert 0 < len(message) < 1000
    return None


def arguments_of(function: Any, *, but: set[str]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in but]


options_of_a_call = arguments_of(
    QuestionAnsweringPipeline.__call__, but={"self", "inputs", "question", "context"}
)


@strategies.budget(200)
@given(
    inputs=st.lists(strategies.anything, max_size=3),
    question=strategies.anything | st.just("Who?"),
    context=strategies.anything | st.just("Ada."),
    others=st.dictionaries(
        st.sampled_from([*options_of_a_call, "nonsense"]), strategies.scalars, max_size=2
    ),
)
@pytest.mark.filterwarnings("ignore:topk is deprecated")
def test_a_call_with_anything_is_answered_or_refused(
    inputs: list[Any], question: Any, context: Any, others: dict[str, Any]
) -> None:
    qa = small_pipeline()
    for result in (
        attempt(qa, question=question, context=context, **others),
        attempt(qa, *inputs, **others),
        attempt(qa, SimpleNamespace(question_text=question, context_text=context)),
    ):
        assert result is None or isinstance(result, (dict, list))


@strategies.budget(200)
@given(
    changes=st.dictionaries(
        st.sampled_from(arguments_of(qa_fast.decode_spans, but=set())),
        strategies.scalars | strategies.tensors | st.lists(strategies.numbers, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_decode_spans_with_anything_answers_or_refuses(changes: dict[str, Any]) -> None:
    start, end = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    arguments = {"start_logits": start, "end_logits": end, "context": torch.tensor([[1, 4]] * 2)}
    try:
        attempt(qa_fast.decode_spans, **{**arguments, **changes})
    except MemoryError:
        assert changes["top_k"] > 1_000_000 or changes["num_questions"] > 1_000_000
