"""Running the model: batches of fixed shapes, memory that runs out, the device layer."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering

from qa_fast.engine import Engine, ExampleError, ModelError, Options
from qa_fast.engine.batches import bucket_widths, plan_batches
from qa_fast.engine.device import Device, side_by_side
from qa_fast.models.devices import is_out_of_memory
from qa_fast.models.regions import regions
from qa_fast.models.sharing import masks_padding
from qa_fast.models.torch_runtime import TorchRuntime

from ..helpers.engines import OPTIONS, SHORTAGES, answers_of, examples, same
from ..helpers.tiny import tiny_model, tokenizer_of
from ..helpers.zoo import common_tokenizer, family_model, family_tokenizer, tiny


class Small:
    """A model whose memory holds ``most`` tokens."""

    def __init__(self, model: Any, most: int, error: Exception) -> None:
        self.model, self.most, self.error = model, most, error
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, input_ids, attention_mask, token_type_ids):
        if input_ids.numel() > self.most:
            raise self.error
        self.shapes.append(tuple(input_ids.shape))
        return self.model(input_ids, attention_mask, token_type_ids)


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_batches_that_do_not_fit_are_split(shortage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", 8)
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    small = Small(model, 500, SHORTAGES[shortage])
    engine = Engine(small, tokenizer, max_batch_tokens=4000)
    with pytest.warns(
        RuntimeWarning, match=r"does not fit into the memory of cpu.*split"
    ) as caught:
        same(answers_of(engine, examples(), OPTIONS), expected)
    assert len(caught) == 1
    assert 250 <= engine.max_batch_tokens <= 500
    # Nothing has to be tried again, and nothing is said again.
    small.shapes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(answers_of(engine, examples(), OPTIONS), expected)
    assert all(rows == 1 or rows * width <= 500 for rows, width in small.shapes)


@pytest.mark.parametrize("scoring", ["probability", "shared"])
def test_a_chunk_that_does_not_fit_alone_is_an_error_of_its_question(scoring: Any) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    data = [("Who?", "It was Ada."), ("Who wrote?", "It was Ada. " * 20), ("Why?", "For fun.")]
    options = Options(scoring=scoring)
    expected = list(Engine(model, tokenizer).read(data, options))
    engine = Engine(Small(model, 60, SHORTAGES["gpu"]), tokenizer)
    found = list(engine.read(data, options, errors="return"))
    same([found[0].answers, found[2].answers], [expected[0].answers, expected[2].answers])
    assert isinstance(found[1], ExampleError)
    assert found[1].item == 1
    assert str(found[1]).startswith("question 1 ('Who wrote?') does not fit into the memory of cpu")
    with pytest.raises(ExampleError, match="not even one chunk of"):
        list(engine.read(data, options))


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), KeyError("x")], ids=["runtime", "key"]
)
def test_other_errors_of_the_model_are_not_taken_for_a_shortage(error: Exception) -> None:
    assert not is_out_of_memory(error)
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(Small(tiny_model(tokenizer), 0, error), tokenizer)
    with pytest.raises(ModelError, match=f"^Small raised {type(error).__name__}: ") as caught:
        list(engine.read(examples(), OPTIONS))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("max_seq_len", [1, 7, 64, 130, 384, 512, 4096])
def test_bucket_widths(max_seq_len: int) -> None:
    widths = bucket_widths(max_seq_len)
    assert 1 <= len(widths) <= 8
    assert widths == sorted(set(widths))
    assert widths[-1] == max_seq_len
    assert all(width % 8 == 0 for width in widths[:-1])


@pytest.mark.parametrize("batch_size", [None, 3])
def test_batches_of_fixed_shapes(batch_size: int | None) -> None:
    length = np.random.default_rng(0).integers(1, 385, 200).astype(np.int32)
    widths = bucket_widths(384)
    batches = plan_batches(length, 2048, batch_size, widths)
    assert sorted(c for batch in batches for c in batch.chunks) == list(range(len(length)))
    for batch in batches:
        narrower = max((w for w in widths if w < batch.width), default=0)
        assert narrower < length[batch.chunks].min() <= length[batch.chunks].max() <= batch.width
        assert len(batch.chunks) <= batch.rows
        assert batch.rows * batch.width <= 2048
    shapes = {(batch.rows, batch.width) for batch in batches}
    assert len(shapes) == len({batch.width for batch in batches}) <= 8


@pytest.mark.parametrize("max_seq_len", [96, 90])
def test_rows_filled_up_to_a_multiple_change_no_answer(max_seq_len: int) -> None:
    """As on a GPU, and no row is longer than the model has positions."""
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    options = replace(FEW_SHAPES, max_seq_len=max_seq_len)
    plain = Engine(model, tokenizer)
    expected = answers_of(plain, examples(), options)
    assert plain.runtime.width_step == 1
    engine = Engine(model, tokenizer, batch_size=2)
    engine.runtime.width_step = 16
    widths: list[int] = []
    call = engine.runtime._call

    def noted(input_ids: Any, **arguments: Any) -> Any:
        widths.append(input_ids.shape[1])
        return call(input_ids=input_ids, **arguments)

    engine.runtime._call = noted
    same(answers_of(engine, examples(), options), expected)
    assert len(set(widths)) > 1
    assert all(width % 16 == 0 or width == max_seq_len for width in widths)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `torch.compile`, the real one but for the code generator, makes from now on."""
    found: list[Any] = []

    def backend(graph: Any, _: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: compiler(model, backend=backend, **options)
    )
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", 8)
    return found


FEW_SHAPES = Options(top_k=4, max_seq_len=96, doc_stride=16, scoring="logit")


def compiled_engine(model: Any, tokenizer: Any) -> tuple[Engine, set[tuple[int, ...]]]:
    """An engine that compiles, and the shapes of its batches."""
    engine = Engine(model, tokenizer, max_batch_tokens=800, compile=True)
    shapes: set[tuple[int, ...]] = set()
    call = engine.runtime._call

    def noted(input_ids: Any, **arguments: Any) -> Any:
        shapes.add(tuple(input_ids.shape))
        return call(input_ids=input_ids, **arguments)

    engine.runtime._call = noted
    return engine, shapes


def with_layers(count: int) -> Any:
    """A tiny BERT whose layers are alike."""
    config = tiny_model(tokenizer_of("wordpiece")).config
    config.num_hidden_layers = count
    torch.manual_seed(0)
    return BertForQuestionAnswering(config).eval()


def compiled_blocks(model: Any) -> list[Any]:
    return [m for m in model.modules() if "forward" in vars(m)]


@pytest.mark.slow
def test_a_model_compiled_as_a_whole_answers_alike_and_is_compiled_once_per_shape(
    graphs: list[Any],
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), FEW_SHAPES)

    def wrapper(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return model(input_ids, attention_mask, token_type_ids)

    engine, shapes = compiled_engine(wrapper, tokenizer)
    same(answers_of(engine, examples(), FEW_SHAPES), expected)
    first = len(graphs)
    assert 1 <= first <= 8
    assert len(shapes) == first
    assert engine.stats.batches > first
    same(answers_of(engine, examples()[::-1], FEW_SHAPES)[::-1], expected)
    assert len(graphs) == first


@pytest.mark.slow
def test_layers_of_one_kind_are_compiled_once_for_all_shapes_and_for_each_engine_by_itself(
    graphs: list[Any],
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    for count in (12, 3, 12):
        model = with_layers(count)
        expected = answers_of(Engine(model, tokenizer), examples(), FEW_SHAPES)
        engine, shapes = compiled_engine(model, tokenizer)
        graphs.clear()
        same(answers_of(engine, examples(), FEW_SHAPES), expected)
        assert len(shapes) > 3
        assert 1 <= len(graphs) <= 2  # a batch of one row has code of its own
        assert not compiled_blocks(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *((name, True) for name in ("distilbert", "electra", "roberta", "albert", "bart", "xlnet")),
        ("modernbert", False),  # of two kinds
        ("t5", False),  # the first layer has more weights
        ("xlm", False),  # parts of a layer in lists side by side
        ("squeezebert", True),  # their methods are called
        ("gpt2", False),  # a cache
        ("big_bird_sparse", False),  # state
    ],
)
def test_where_layers_are_compiled_and_where_the_model(
    name: str, layers: bool, graphs: list[Any]
) -> None:
    sparse = name == "big_bird_sparse"
    tokenizer = common_tokenizer()
    model = family_model(name) if sparse else tiny(name, tokenizer)
    tokenizer = family_tokenizer(name) if sparse else tokenizer
    whole = []
    made = torch.compile
    with pytest.MonkeyPatch.context() as patch:

        def noted(function: Any, **options: Any) -> Any:
            whole.append(function is model)
            return made(function, **options)

        patch.setattr(torch, "compile", noted)
        data = examples()[:8]
        options = replace(FEW_SHAPES, max_seq_len=120)
        expected = answers_of(Engine(model, tokenizer), data, options)
        engine, shapes = compiled_engine(model, tokenizer)
        same(answers_of(engine, data, options), expected)
    assert whole
    assert not any(whole) if layers else all(whole)
    if layers:
        # A stack of layers has code of its own, and so has a batch without a mask, or of one row.
        stacks = 2 if name == "bart" else 1
        assert len(shapes) > 1
        assert 1 <= len(graphs) / stacks <= 3
    assert not compiled_blocks(model)


def test_other_engines_run_a_compiled_model_as_it_is(graphs: list[Any]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = with_layers(3)
    data = examples()[:6]
    plain = Engine(model, tokenizer)
    expected = answers_of(plain, data, OPTIONS)
    engine = Engine(model, tokenizer, compile=True)
    assert not graphs  # by trials
    found = []

    def meanwhile(*_: Any) -> None:
        assert len(compiled_blocks(model)) == 3
        hook.remove()
        before = len(graphs)
        with ThreadPoolExecutor(1) as other:
            found.append(other.submit(answers_of, plain, data, OPTIONS).result())
        assert len(graphs) == before

    hook = model.qa_outputs.register_forward_hook(meanwhile)
    same(answers_of(engine, data, OPTIONS), expected)
    same(found[0], expected)
    assert graphs
    assert not compiled_blocks(model)
    before = len(graphs)
    same(answers_of(plain, data, OPTIONS), expected)
    assert len(graphs) == before


def test_two_engines_that_compile_a_model_take_turns(graphs: list[Any]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = with_layers(2)
    data = examples()[:6]
    expected = answers_of(Engine(model, tokenizer), data, OPTIONS)
    engines = [Engine(model, tokenizer, compile=True) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda engine: answers_of(engine, data, OPTIONS), engines):
            same(found, expected)
    assert graphs
    assert not compiled_blocks(model)


def test_layers_that_their_owner_compiled_stay_so(graphs: list[Any]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = with_layers(3)
    data = examples()[:6]
    expected = answers_of(Engine(model, tokenizer), data, OPTIONS)
    calls = []
    layers = model.bert.encoder.layer

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return layers[1]._call_impl(*args, **kwargs)

    layers[1]._compiled_call_impl = own
    engine = Engine(model, tokenizer, compile=True)
    calls.clear()
    same(answers_of(engine, data, OPTIONS), expected)
    assert len(calls) == engine.stats.batches
    assert graphs
    assert not compiled_blocks(model)
    assert layers[1]._compiled_call_impl is own
    for layer in layers:
        layer._compiled_call_impl = layer._call_impl
    graphs.clear()
    same(answers_of(engine, data, OPTIONS), expected)
    assert not graphs


def test_layers_are_as_they_were_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    tokenizer = tokenizer_of("wordpiece")
    model = with_layers(3)
    engine = Engine(model, tokenizer, compile=True)

    def fail(*_: Any) -> None:
        assert len(compiled_blocks(model)) == 3
        raise KeyError("layer")

    model.bert.encoder.layer[1].register_forward_hook(fail)
    with pytest.raises(ModelError, match="KeyError"):
        answers_of(engine, examples(), OPTIONS)
    assert not compiled_blocks(model)


class Stack(torch.nn.Module):
    """A stack of blocks, whatever they are."""

    def __init__(self, *blocks: torch.nn.Module) -> None:
        super().__init__()
        self.layer = torch.nn.ModuleList(blocks)

    def forward(self, input_ids: Any) -> Any:
        raise NotImplementedError


class Uncalled(torch.nn.Module):
    """A model that does without its layers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(400, 400) for _ in range(2)])
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return self.model(input_ids, attention_mask, token_type_ids)


def test_a_model_that_does_not_call_its_layers_is_compiled_as_a_whole(graphs: list[Any]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples()[:6], OPTIONS)
    part = model.bert.encoder
    part.layer = torch.nn.Sequential(*part.layer)
    engine = Engine(Uncalled(model).eval(), tokenizer, compile=True)
    for _ in range(2):
        same(answers_of(engine, examples()[:6], OPTIONS), expected)
    assert graphs


def linear(width: int = 4, **attributes: Any) -> torch.nn.Module:
    block = torch.nn.Sequential(torch.nn.Linear(width, width))
    vars(block[0]).update(attributes)
    return block


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([linear(), linear(), linear().train(False)], True),
        ([linear()], True),
        ([linear(number=0), linear(number=1), linear(number=2)], True),
        ([linear(number=1), linear(number=1)], True),
        ([linear(number=0), linear(number=0), linear(number=1)], False),
        ([linear(number=False), linear(number=True)], False),
        ([linear(kind="local"), linear(kind="global")], False),
        ([linear(sizes=(1, [2, None])), linear(sizes=(1, [2, None]))], True),
        ([linear(sizes=(1, [2, None])), linear(sizes=(1, [2, 3]))], False),
        ([linear(table=torch.zeros(3)), linear(table=torch.ones(3))], True),
        ([linear(table=torch.zeros(3)), linear(table=torch.zeros(4))], False),
        ([linear(more=OPTIONS), linear(more=OPTIONS)], True),
        ([linear(more=Options()), linear(more=Options())], False),
        ([linear(), linear(more=1)], False),
        ([linear(4), linear(5)], False),
        ([linear(), linear().double()], False),
        ([linear(), linear().requires_grad_(False)], False),
        ([linear(), torch.nn.Linear(4, 4)], False),
        ([linear(), torch.nn.Sequential(*linear(), *linear())], False),
        ([torch.nn.ModuleList([linear()]), torch.nn.ModuleList([linear()])], False),
        ([], False),
    ],
)
def test_blocks_of_one_kind(blocks: list[torch.nn.Module], expected: bool) -> None:
    assert (regions(Stack(*blocks)) is not None) is expected
    assert regions(torch.nn.DataParallel(Stack(*blocks))) is None


def test_layers_that_are_little_of_a_model_are_not_what_is_compiled() -> None:
    model = Stack(linear(), linear())
    model.embeddings = torch.nn.Embedding(99, 4)
    assert regions(model) is not None
    model.body = torch.nn.Linear(99, 99)
    assert regions(model) is None
    assert regions(torch.nn.Linear(4, 4)) is None
    assert regions(lambda input_ids: input_ids) is None


@pytest.mark.parametrize(
    ("name", "attention", "expected"),
    [
        ("roberta", "sdpa", True),
        ("distilbert", "sdpa", True),
        ("roberta", "eager", False),
        ("gpt2", "sdpa", False),
        ("bart", "sdpa", False),
        ("t5", "eager", False),
    ],
)
def test_a_mask_that_needs_no_work_is_given_where_it_means_the_same(
    name: str, attention: str, expected: bool
) -> None:
    tokenizer, model = family_tokenizer(name), family_model(name)
    if attention != model.config._attn_implementation:
        model = type(model)._from_config(model.config, attn_implementation=attention).eval()
    engine = Engine(model, tokenizer)
    if not expected:
        assert not engine.runtime._mask_as_is
    # Older releases of Transformers may refuse it, which costs time only.
    answers = answers_of(engine, examples(), OPTIONS)
    engine.runtime._mask_as_is = False
    same(answers, answers_of(engine, examples(), OPTIONS))


def test_a_model_that_ignores_the_mask_is_not_trusted_with_another() -> None:
    model = tiny_model(tokenizer_of("wordpiece"))
    if not Engine(model, tokenizer_of("wordpiece")).runtime._mask_as_is:
        pytest.skip("this release of Transformers takes no such mask")
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.value.weight.zero_()  # attention adds nothing
    assert not Engine(model, tokenizer_of("wordpiece")).runtime._mask_as_is


@pytest.mark.parametrize(
    ("width", "expected"), [(16, 4096), (384, 2730), (768, 2048), (None, 2048)]
)
def test_default_batch_tokens_on_a_cpu(width: int | None, expected: int) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = Small(None, 0, KeyError())
    if width is not None:
        model.config = SimpleNamespace(hidden_size=width)
    assert Engine(model, tokenizer).max_batch_tokens == expected


def test_on_a_cpu_nothing_is_copied() -> None:
    device = Device(torch.device("cpu"))
    buffer = device.host_buffer((2, 3), torch.int64)
    assert (buffer.shape, buffer.dtype) == ((2, 3), torch.int64)
    assert device.upload(buffer) is buffer
    array = np.arange(3)
    host = device.host(array)
    array[0] = 7
    assert host[0] == 7
    (fetched,) = device.fetch([host])()
    assert fetched is host


def tiny_runtime() -> TorchRuntime:
    return TorchRuntime(tiny_model(tokenizer_of("wordpiece")))


def test_calls_on_a_cpu_have_a_thread_each() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with side_by_side(tiny_runtime()) as run:
            assert run([torch.get_num_threads] * 9) == [1] * 9
            assert run([torch.get_num_threads] * 3) == [4] * 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)


def test_threads_that_a_caller_sets_between_calls_stay_set() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with side_by_side(tiny_runtime()) as run:
            torch.set_num_threads(3)
            run([torch.get_num_threads] * 9)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_the_first_error_of_several_calls_is_raised() -> None:
    def fail() -> None:
        raise KeyError("batch")

    with side_by_side(tiny_runtime()) as run, pytest.raises(KeyError, match="batch"):
        run([lambda: None, fail, lambda: None])


class Counting:
    """A model in a callable of no known kind, which counts its calls."""

    def __init__(self, model: Any) -> None:
        self.model, self.config, self.calls = model, model.config, 0

    def __call__(self, **inputs: torch.Tensor) -> Any:
        self.calls += 1
        return self.model(**inputs)


def calls_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the batches that the model's innermost part is given from now on."""
    shapes: list[tuple[int, ...]] = []
    forward = type(model).forward

    def noted(self: Any, input_ids: Any = None, **arguments: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **arguments)

    noted.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(type(model), "forward", noted)
    return shapes


class Summing(BertForQuestionAnswering):
    """A subclass, as code of a checkpoint's own may be: it adds the sum over all tokens to each."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.start_logits = output.start_logits + output.start_logits.sum(1, keepdim=True)
        return output


@pytest.mark.parametrize("wrap", [None, "compiled", "parallel"])
def test_known_models_share_batches_and_are_not_tried(
    wrap: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    wrapped: Any = {
        None: lambda: model,
        "compiled": lambda: torch.compile(model, backend="eager"),
        "parallel": lambda: torch.nn.DataParallel(model),
    }[wrap]()
    engine = Engine(wrapped, tokenizer)
    assert engine.position_limit == 512
    if wrap != "compiled":
        shapes = calls_of(model, monkeypatch)
    same(answers_of(engine, examples(), OPTIONS), expected)
    assert engine.stats.padded_tokens > engine.stats.tokens
    if wrap != "compiled":
        assert len(shapes) == engine.stats.batches


def test_a_model_that_reads_padding_is_found_out_whatever_its_configuration_says() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = Summing(tiny_model(tokenizer).config).eval()
    expected = [
        answers_of(Engine(model, tokenizer, batch_size=1), [pair], OPTIONS)[0]
        for pair in examples()
    ]
    engine = Engine(model, tokenizer)
    same(answers_of(engine, examples(), OPTIONS), expected)
    assert engine.stats.padded_tokens == engine.stats.tokens


def test_attention_under_another_name_is_not_taken_for_known() -> None:
    model = tiny_model(tokenizer_of("wordpiece"))
    assert masks_padding(model)
    model.config._attn_implementation = "of_my_own"
    assert not masks_padding(model)


def test_a_model_that_reads_padding_gets_none_when_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    tokenizer = tokenizer_of("wordpiece")
    model = Summing(tiny_model(tokenizer).config).eval()
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    engine = Engine(model, tokenizer, compile=True)
    same(answers_of(engine, examples(), OPTIONS), expected)
    assert engine.stats.padded_tokens == engine.stats.tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reads_padding", [False, True])
def test_rounding_is_not_taken_for_padding_that_is_read(
    dtype: torch.dtype, reads_padding: bool
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    config = tiny_model(tokenizer).config
    config.initializer_range = 0.1
    kind = Summing if reads_padding else BertForQuestionAnswering
    torch.manual_seed(0)
    engine = Engine(Counting(kind(config).eval().to(dtype)), tokenizer)
    assert len(answers_of(engine, examples(), OPTIONS)) == len(examples())
    assert (engine.stats.padded_tokens == engine.stats.tokens) is reads_padding


def test_models_of_no_known_kind_are_tried_once() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = Counting(tiny_model(tokenizer))
    engine = Engine(model, tokenizer)
    model.calls = 0
    answers_of(engine, [("Who?", "It was Ada.")], OPTIONS)
    assert model.calls == 1  # alone there is no padding to be tried
    for tried in (True, False):
        model.calls, before = 0, engine.stats.batches
        answers_of(engine, examples(), OPTIONS)
        assert (model.calls > engine.stats.batches - before) is tried
    assert engine.stats.padded_tokens > engine.stats.tokens


def test_a_model_that_answers_differently_each_time_is_refused() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer).train()  # in a callable, dropout cannot be switched off

    with pytest.raises(ValueError, match=r"^Counting cannot be used: each time .* dropout"):
        answers_of(Engine(Counting(model), tokenizer), examples(), OPTIONS)


def test_a_model_that_fails_when_tried_reads_rows_of_equal_lengths() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)

    def without_padding(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        assert attention_mask.all()
        return model(input_ids, attention_mask, token_type_ids)

    same(answers_of(Engine(without_padding, tokenizer), examples(), OPTIONS), expected)


def test_a_model_of_one_segment_is_not_given_two() -> None:
    tokenizer = tokenizer_of("wordpiece")
    config = tiny_model(tokenizer).config
    config.type_vocab_size = 1
    engine = Engine(BertForQuestionAnswering(config).eval(), tokenizer)
    assert answers_of(engine, examples(), OPTIONS)


def test_a_model_that_keeps_state_is_called_one_at_a_time() -> None:
    """Block-sparse attention is left for good at a short row, and taken up again for each window."""
    tokenizer, model = family_tokenizer("big_bird_sparse"), family_model("big_bird_sparse")
    options = Options(top_k=4, max_seq_len=96, doc_stride=16, scoring="logit")
    expected = answers_of(Engine(model, tokenizer), examples(), options)
    engine = Engine(model, tokenizer, batch_size=1)
    with ThreadPoolExecutor(4) as threads:
        readings = threads.map(lambda _: answers_of(engine, examples(), options), range(4))
        for found in readings:
            same(found, expected)


class Centred(torch.nn.Module):
    """A model whose logits hang on all rows of a batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        start, end = self.model(input_ids, attention_mask, token_type_ids).to_tuple()
        return start - start.abs().max(), end * end.abs().max()


class Rounded(torch.nn.Linear):
    """A layer that rounds by the greatest number of the whole batch, as dynamic quantization does."""

    def forward(self, input: Any) -> Any:
        scale = input.abs().max() / 127
        return super().forward((input / scale).round() * scale)


@pytest.mark.parametrize("kind", ["centred", "rounded"])
@pytest.mark.parametrize("lengths", ["equal", "different"])
def test_rows_that_change_each_other_are_read_one_by_one(kind: str, lengths: str) -> None:
    tokenizer = tokenizer_of("wordpiece")
    model: Any = tiny_model(tokenizer)
    if kind == "centred":
        model = Centred(model).eval()
    else:
        for layer in model.modules():
            if type(layer) is torch.nn.Linear:
                layer.__class__ = Rounded
        assert not masks_padding(model)
    names = ["Ada", "London", "Rome", "Marie"]
    data = [("Who?", f"It was {name}." * (1 + i)) for i, name in enumerate(names)]
    if lengths == "equal":
        data = [("Who?", "It was 1."), ("Who?", "It was 2."), ("Who?", "It was 3.")]
    alone = [answers_of(Engine(model, tokenizer), [pair], OPTIONS)[0] for pair in data]
    engine = Engine(model, tokenizer)
    for order in (data, data[::-1]):
        found = answers_of(engine, order, OPTIONS)
        same(found, alone if order is data else alone[::-1])


def test_models_that_pytorch_quantizes_dynamically_are_taken_with_a_warning() -> None:
    tokenizer = tokenizer_of("wordpiece")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, that this way of quantizing is old
        model = torch.ao.quantization.quantize_dynamic(
            tiny_model(tokenizer), {torch.nn.Linear}, torch.qint8
        )
    with pytest.warns(UserWarning, match="differ far more from float32's") as told:
        engine = Engine(model, tokenizer)
    assert len(told) == 1
    assert told[0].filename == __file__
    alone = [answers_of(engine, [pair], OPTIONS)[0] for pair in examples()]
    same(answers_of(engine, examples(), OPTIONS), alone)


def test_parts_of_a_model_have_their_modes_back() -> None:
    """A frozen part stays without dropout, and one with dropout is read without."""
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    for training in ("qa_outputs", "bert"):
        model.train(training == "qa_outputs")
        model.bert.train(training == "bert")
        modes = {name: part.training for name, part in model.named_modules()}
        same(answers_of(Engine(model, tokenizer), examples(), OPTIONS), expected)
        assert {name: part.training for name, part in model.named_modules()} == modes
