"""The drop-in: the removed pipeline's calls and results, and its answers on recorded examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qa_fast.decoding import reference
from qa_fast.dropin.pipeline import QuestionAnsweringPipeline, pipeline
from qa_fast.dropin.reader import Reader
from qa_fast.engine import Engine, Options, loading
from qa_fast.engine.engine import WINDOW_QUESTIONS
from qa_fast.engine.workers import Crew
from qa_fast.texts.chunker import make_chunks

from ..helpers.tiny import BUNDLED, DATA, tiny_model, tokenizer_of

CONTEXT = "Ada Lovelace was born in London in 1815. Marie Curie was born in Warsaw in 1867."
ADA, MARIE = "Where was Ada Lovelace born?", "Where was Marie Curie born?"


@pytest.fixture(scope="module")
def qa() -> QuestionAnsweringPipeline:
    return pipeline(device="cpu")


def golden() -> list[Any]:
    lines = (DATA / "golden.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    return [pytest.param(case, id=f"{i}-{case['set']}") for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", golden())
def test_answers_of_the_removed_pipeline(
    qa: QuestionAnsweringPipeline, case: dict[str, Any]
) -> None:
    call = {"question": case["question"], "context": case["context"], **case["args"]}
    if "error" in case:  # a question that left no room for the context crashed it
        with pytest.raises(ValueError, match="too long"):
            qa(**call)
        return
    found = qa(**call)
    found = found if isinstance(found, list) else [found]
    places = [(a["start"], a["end"], a["answer"]) for a in found]
    assert places == [(a["start"], a["end"], a["answer"]) for a in case["answers"]]
    scores = [a["score"] for a in case["answers"]]
    assert [a["score"] for a in found] == pytest.approx(scores, abs=1e-5)


def notebook() -> tuple[str, str, dict[str, Any]]:
    meta = json.loads((DATA / "notebook_question.json").read_text(encoding="utf-8"))
    return meta["question"], (DATA / meta["context_file"]).read_text(encoding="utf-8"), meta


@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
def test_an_answer_from_the_second_chunk(qa: QuestionAnsweringPipeline, scoring: Any) -> None:
    question, context, meta = notebook()
    answer = qa(question, context, max_seq_len=384, doc_stride=128, scoring=scoring)
    assert isinstance(answer, dict)
    assert answer["answer"] == meta["answer"] == "Jax, PyTorch and TensorFlow"
    assert (answer["start"], answer["end"]) == (meta["start"], meta["end"]) == (1892, 1919)
    # It is not in the first chunk at all.
    chunks = make_chunks(qa.tokenizer, [question], [context])
    first_end = int(chunks.context[0, 1] - chunks.context[0, 0]) - 1
    assert len(chunks) == 2
    assert chunks.encodings[0].token_to_chars(first_end)[1] < meta["start"]


@pytest.mark.parametrize("align", [False, True], ids=["tokens", "words"])
@pytest.mark.parametrize("scoring", ["shared", "logit"])
def test_the_five_best_over_all_chunks_are_the_references(
    qa: QuestionAnsweringPipeline, scoring: Any, align: bool
) -> None:
    question, context, _ = notebook()
    found = qa(question, context, top_k=5, scoring=scoring, align_to_words=align)
    chunks = make_chunks(qa.tokenizer, [question], [context])
    starts, ends = [], []
    for c, length in enumerate(chunks.length):
        cut = slice(chunks.row_offset[c], chunks.row_offset[c] + length)
        with torch.inference_mode():
            output = qa.model(
                input_ids=torch.from_numpy(chunks.input_ids[cut])[None].long(),
                token_type_ids=torch.from_numpy(chunks.token_type_ids[cut])[None].long(),
            )
        starts.append(output.start_logits[0].numpy())
        ends.append(output.end_logits[0].numpy())
    spans = reference.decode_spans(
        starts,
        ends,
        chunks.context.tolist(),
        chunks.question_id.tolist(),
        top_k=20,
        max_answer_len=15,
        scoring=scoring,
        context_offset=chunks.context_offset.tolist(),
    )
    (encoding,) = chunks.encodings
    expected: dict[tuple[int, int], float] = {}
    for score, c, i, j in zip(
        spans.score[0], spans.chunk[0], spans.start[0], spans.end[0], strict=True
    ):
        shift = int(chunks.context_offset[c] - chunks.context[c, 0])
        first, last = int(i) + shift, int(j) + shift
        if align:
            first = encoding.word_to_tokens(encoding.token_to_word(first))[0]
            last = encoding.word_to_tokens(encoding.token_to_word(last))[1] - 1
        place = (encoding.offsets[first][0], encoding.offsets[last][1])
        expected.setdefault(place, float(score if scoring == "logit" else np.exp(score)))
    best = list(expected)[:5]
    assert [(a["start"], a["end"]) for a in found] == best
    assert [a["score"] for a in found] == pytest.approx([expected[p] for p in best], rel=1e-4)
    assert len({(a["start"], a["end"]) for a in found}) == 5


def test_one_question(qa: QuestionAnsweringPipeline) -> None:
    answer = qa(question=ADA, context=CONTEXT)
    assert isinstance(answer, dict)
    assert list(answer) == ["score", "start", "end", "answer"]
    assert [type(value) for value in answer.values()] == [float, int, int, str]
    assert (answer["answer"], answer["start"], answer["end"]) == ("London", 25, 31)


def test_top_k_gives_a_list(qa: QuestionAnsweringPipeline) -> None:
    answers = qa(question=ADA, context=CONTEXT, top_k=3)
    assert len(answers) == 3
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)


class Sized:
    """A data set with a length and items, and no iterator."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Column(list):
    """A list that keeps its items elsewhere, as the columns of some data sets do."""

    def __init__(self, items: Any) -> None:
        super().__init__()
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass
class SquadExample:
    question_text: str
    context_text: str


DICTS = [{"question": ADA, "context": CONTEXT}, {"question": MARIE, "context": CONTEXT, "id": 7}]
TWO = {
    "lists": {"question": [ADA, MARIE], "context": [CONTEXT, CONTEXT]},
    "one_context": {"question": [ADA, MARIE], "context": CONTEXT},
    "tuple_and_array": {"question": (ADA, MARIE), "context": np.array([CONTEXT] * 2)},
    "columns": {"question": Column([ADA, MARIE]), "context": Column([CONTEXT] * 2)},
    "sized": {"question": Sized([ADA, MARIE]), "context": CONTEXT},
    "generators": {"question": (q for q in [ADA, MARIE]), "context": (CONTEXT for _ in range(2))},
}
TWO_POSITIONAL = {
    "list_of_dicts": [DICTS],
    "tuple_of_dicts": [tuple(DICTS)],
    "dicts": DICTS,
    "dict_of_lists": [{"question": [ADA, MARIE], "context": CONTEXT}],
    "squad_examples": [[SquadExample(ADA, CONTEXT), SquadExample(MARIE, CONTEXT)]],
    "mixed": [[DICTS[0], SimpleNamespace(question_text=MARIE, context_text=CONTEXT)]],
    "sized_data_set": [Sized(DICTS)],
}


def places(results: Any) -> list[str]:
    return [result["answer"] for result in results]


@pytest.mark.parametrize("call", TWO)
def test_two_questions_by_keyword(qa: QuestionAnsweringPipeline, call: str) -> None:
    results = qa(**TWO[call])
    assert isinstance(results, list)
    assert places(results) == ["London", "Warsaw"]


@pytest.mark.parametrize("call", TWO_POSITIONAL)
def test_two_questions_by_position(qa: QuestionAnsweringPipeline, call: str) -> None:
    results = qa(*TWO_POSITIONAL[call])
    assert isinstance(results, list)
    assert places(results) == ["London", "Warsaw"]


def test_one_question_and_many_contexts(qa: QuestionAnsweringPipeline) -> None:
    results = qa(question=ADA, context=["Ada is in Rome.", "Ada is in Oslo."])
    assert places(results) == ["Rome", "Oslo"]


@pytest.mark.parametrize(
    "inputs",
    [
        [ADA, CONTEXT],
        [DICTS[0]],
        [[DICTS[0]]],
        [SquadExample(ADA, CONTEXT)],
        [{"question": [ADA], "context": [CONTEXT]}],
    ],
    ids=["strings", "dict", "list_of_one", "squad_example", "dict_of_lists_of_one"],
)
def test_one_question_by_position_is_one_result(
    qa: QuestionAnsweringPipeline, inputs: list[Any]
) -> None:
    assert qa(*inputs)["answer"] == "London"


@pytest.mark.parametrize("one", [Column, Sized, np.array, iter], ids=lambda kind: kind.__name__)
def test_a_column_of_one_is_a_column(qa: QuestionAnsweringPipeline, one: Any) -> None:
    """Code that goes through a data set's rows gets as many results as there are rows."""
    assert places(qa(question=one([ADA]), context=one([CONTEXT]))) == ["London"]


def test_batches_with_top_k_are_lists_of_lists(qa: QuestionAnsweringPipeline) -> None:
    results = qa(DICTS, top_k=2)
    assert [len(answers) for answers in results] == [2, 2]


def test_no_inputs_no_results(qa: QuestionAnsweringPipeline) -> None:
    assert qa([]) == []
    assert qa(question=[], context=[]) == []


def test_a_generator_is_streamed() -> None:
    tokenizer = tokenizer_of("wordpiece")
    stream = pipeline(tiny_model(tokenizer), tokenizer=tokenizer)
    taken = 0

    def endless() -> Iterator[dict[str, str]]:
        nonlocal taken
        while True:
            taken += 1
            yield DICTS[taken % 2]

    results = stream(endless())
    assert isinstance(results, Iterator)
    assert taken == 0
    assert next(results)["answer"]
    assert taken == 1


class TorchData(Sized, torch.utils.data.Dataset):
    pass


class TorchStream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter(DICTS)


def data_sets() -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{**row, "id": i} for i, row in enumerate(DICTS)])
    return {"rows": rows, "stream": rows.to_iterable_dataset()}


def test_data_sets_of_torch_are_streamed(qa: QuestionAnsweringPipeline) -> None:
    for data, length in ((TorchData(DICTS), 2), (TorchStream(), None)):
        results = qa(data)
        assert isinstance(results, Iterator)
        assert getattr(results, "__len__", lambda: None)() == length
        assert places(results) == ["London", "Warsaw"]


def test_iterators_of_a_loader_of_torch_are_streamed(qa: QuestionAnsweringPipeline) -> None:
    """They have a length, which is an error over data that have none."""
    for data in (TorchData(DICTS), TorchStream()):
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        assert places(qa(iter(loader))) == ["London", "Warsaw"]


def test_data_sets_of_the_datasets_library_are_streamed(qa: QuestionAnsweringPipeline) -> None:
    for name, data in data_sets().items():
        results = qa(data)
        assert isinstance(results, Iterator)
        assert hasattr(results, "__len__") == (name == "rows")
        assert places(results) == ["London", "Warsaw"]


def test_columns_of_the_datasets_library(qa: QuestionAnsweringPipeline) -> None:
    rows = data_sets()["rows"]
    results = qa(question=rows["question"], context=rows["context"])
    assert places(results) == ["London", "Warsaw"]


def test_memory_stays_flat_in_a_stream() -> None:
    """What has been answered is not kept: no more than four windows' questions are alive at once."""
    tokenizer = tokenizer_of("wordpiece")
    stream = pipeline(tiny_model(tokenizer), tokenizer=tokenizer)
    alive = most = 0

    class Text(str):
        def __init__(self, _: str) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    rows = range(6 * WINDOW_QUESTIONS)
    count = 0
    for result in stream({"question": Text(f"{i}?"), "context": "Ada is here"} for i in rows):
        assert result["answer"]
        count += 1
    assert count == len(rows)
    assert WINDOW_QUESTIONS <= most <= 4 * WINDOW_QUESTIONS


def test_defaults_of_every_call(qa: QuestionAnsweringPipeline) -> None:
    three = pipeline(top_k=3, align_to_words=False)
    expected = {k: qa(question=ADA, context=CONTEXT, top_k=k, align_to_words=False) for k in (2, 3)}
    assert len(expected[3]) == 3
    assert three(question=ADA, context=CONTEXT) == expected[3]
    assert three(question=ADA, context=CONTEXT, top_k=2) == expected[2]
    assert three(question=ADA, context=CONTEXT) == expected[3]


def test_scores_and_answers_do_not_depend_on_batch_size(qa: QuestionAnsweringPipeline) -> None:
    question, context, _ = notebook()
    data = [*DICTS, {"question": question, "context": context}]
    alone = [qa(item, top_k=3) for item in data]
    for batch_size in (1, 2, 8):
        for mine, expected in zip(qa(data, top_k=3, batch_size=batch_size), alone, strict=True):
            assert places(mine) == places(expected)
            scores = [answer["score"] for answer in expected]
            assert [answer["score"] for answer in mine] == pytest.approx(scores, abs=1e-5)


def test_fewer_answers_than_asked_for_are_no_junk(qa: QuestionAnsweringPipeline) -> None:
    answers = qa(question="Who?", context="Ada Bob", top_k=20)
    assert sorted(places(answers)) == ["Ada", "Ada Bob", "Bob"]


class Logits:
    """A model that gives the logits that ``of`` makes from the ids of each token."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        logits = self.of(input_ids.double()).where(
            attention_mask.bool(), torch.tensor(0.0).double()
        )
        return {"start_logits": logits, "end_logits": logits}


def test_small_scores_do_not_underflow() -> None:
    """Products of float32 probabilities would be 0 below 1e-45, and their order arbitrary."""
    tokenizer = tokenizer_of("wordpiece")
    # Each word of the context is likelier than the one before by a factor of about e^40.
    steep = Logits(lambda ids: 40.0 * torch.arange(ids.shape[1]).double().expand_as(ids))
    qa = pipeline(steep, tokenizer=tokenizer, max_answer_len=1, top_k=6, align_to_words=False)
    answers = qa("Who?", "a b c d e f")
    assert places(answers) == list("fedcba")
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < 1e-150


def test_results_do_not_depend_on_their_order(qa: QuestionAnsweringPipeline) -> None:
    question, context, _ = notebook()
    data = [
        *DICTS,
        {"question": question, "context": context},
        {"question": "Who?", "context": "A b"},
    ]
    forward, backward = qa(data, top_k=3), qa(data[::-1], top_k=3)
    for mine, expected in zip(forward, backward[::-1], strict=True):
        assert places(mine) == places(expected)
        scores = [answer["score"] for answer in expected]
        assert [answer["score"] for answer in mine] == pytest.approx(scores, abs=1e-5)


def test_equal_scores_come_in_order_of_place() -> None:
    flat = Logits(lambda ids: torch.zeros_like(ids))
    qa = pipeline(flat, tokenizer=tokenizer_of("wordpiece"), top_k=4, align_to_words=False)
    answers = qa("Who?", "a b c d")
    assert [(a["start"], a["end"]) for a in answers] == [(0, 1), (0, 3), (0, 5), (0, 7)]


def test_scores_of_an_answer_that_occurs_often(qa: QuestionAnsweringPipeline) -> None:
    """Added up as in the removed pipeline, above 1; at most 1 where they are to compare."""
    long = {"context": CONTEXT * 6, "max_seq_len": 48, "doc_stride": 8}
    call = {"question": MARIE, **long, "top_k": 5}
    removed, shared = qa(**call), qa(**call, scoring="shared")
    assert removed[0]["score"] > 1
    assert sum(answer["score"] for answer in shared) <= 1


def test_a_long_question_can_be_cut(qa: QuestionAnsweringPipeline) -> None:
    long = " ".join([ADA] * 100)
    with pytest.raises(ValueError, match="question 0 is too long: it has 700 tokens"):
        qa(question=long, context=CONTEXT)
    cut = qa(question=long, context=CONTEXT, max_question_len=7)
    assert cut == qa(question=ADA, context=CONTEXT)


@pytest.mark.parametrize("family", ["xlnet", "no_special"])
def test_the_first_token_can_be_an_answer_where_it_is_not_cls(family: str) -> None:
    """It was taken for [CLS]; here it is the best token, and the question's are better still."""
    tokenizer = tokenizer_of(family)
    question, context = "Who is it?", "Ada is here"
    first = tokenizer(context, add_special_tokens=False)["input_ids"][0]
    asked = tokenizer(question, add_special_tokens=False)["input_ids"]

    def of(ids: torch.Tensor) -> torch.Tensor:
        return 9.0 * (ids == first) + 20.0 * torch.isin(ids, torch.tensor(asked[-1:]).double())

    found = pipeline(Logits(of), tokenizer=tokenizer)(question, context)
    assert (found["start"], found["answer"]) == (0, "Ada")


BAD_CALLS = {
    "no_context": ({"question": ADA}, "context is missing"),
    "nothing": ({}, "question is missing"),
    "question_int": (
        {"question": 3, "context": CONTEXT},
        "question must be a string or a seq.*int",
    ),
    "counts": (
        {"question": [ADA, MARIE, ADA], "context": [CONTEXT, CONTEXT]},
        "there are 3 questions and 2 contexts",
    ),
    "empty_question": ({"question": "", "context": CONTEXT}, "question 0 is empty"),
    "blank_question": ({"question": "  ", "context": CONTEXT}, "question 0 is empty but"),
    "blank_context": (
        {"question": [ADA, MARIE], "context": [CONTEXT, " "]},
        "context 1 is empty but",
    ),
    "none_in_list": ({"question": [ADA, None], "context": CONTEXT}, "question 1 must be a string"),
    "top_k": ({"question": ADA, "context": CONTEXT, "top_k": 0}, "top_k must be .*; got 0"),
    "doc_stride": (
        {"question": ADA, "context": CONTEXT, "doc_stride": 384},
        r"doc_stride must be at least 0 and smaller than max_seq_len \(384\); got 384",
    ),
    "max_seq_len": (
        {"question": ADA, "context": CONTEXT, "max_seq_len": 513},
        "max_seq_len must be at most 512.*got 513",
    ),
    "batch_size": ({"question": ADA, "context": CONTEXT, "batch_size": 0}, "batch_size must be"),
    "num_workers": (
        {"question": ADA, "context": CONTEXT, "num_workers": -1},
        "num_workers must be",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(qa: QuestionAnsweringPipeline, case: str) -> None:
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        qa(**call)


# Each is told before a model is looked for, let alone loaded.
BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"device": "meta"}, "device 'meta' cannot be used"),
    "device_kind": ({"device": 1.5}, "device must be a name .*; got 1.5"),
    "dtype": ({"dtype": "int4"}, "dtype must be 'float32', .*; got 'int4'"),
    "batch_size": ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
    "max_batch_tokens": ({"max_batch_tokens": "many"}, "max_batch_tokens must be an integer of"),
    "num_workers": ({"num_workers": -1}, "num_workers must be an integer of at least 0; got -1"),
    "top_k": ({"top_k": 2.0}, "top_k must be an integer of at least 1; got 2.0"),
    "compile": ({"compile": "no"}, "compile must be True or False; got 'no'"),
    "allow_pickle": ({"allow_pickle": "False"}, "allow_pickle must be True or False; got 'False'"),
    "trust": ({"trust_remote_code": "no"}, "trust_remote_code must be True or False; got 'no'"),
    "padding": ({"padding": ["longest"]}, r"padding must be one of .*; got \['longest'\]"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_are_checked_before_a_model_is_loaded(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("loaded"))
    arguments, message = BAD_ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        pipeline("some/model", **arguments)


def traced(model: torch.nn.Module) -> Any:
    ids = torch.ones(1, 8, dtype=torch.int64)
    return torch.jit.trace(model, (ids, torch.ones_like(ids)), strict=False)


NO_MODELS: dict[str, tuple[Any, str]] = {
    "class": (type, "model must be an instance; got the class BertForQuestionAnswering"),
    "traced": (traced, "model must be one whose arguments can be seen; got TopLevelTracedModule"),
    "weights": (torch.nn.Module.state_dict, "model must be an instance or a callable; got Ordered"),
    "bytes": (lambda _: b"bert", "model must be an instance or a callable; got bytes"),
    "pipeline": (
        lambda model: pipeline(model, tokenizer=tokenizer_of("wordpiece")),
        "model must be the model itself; got QuestionAnsweringPipeline, a pipeline: pass its .model",
    ),
}


@pytest.mark.filterwarnings("ignore")  # of tracing
@pytest.mark.parametrize("case", NO_MODELS)
def test_what_is_no_model_is_refused(case: str) -> None:
    make, message = NO_MODELS[case]
    tokenizer = tokenizer_of("wordpiece")
    model = make(tiny_model(tokenizer))
    for load in (pipeline, Engine):
        with pytest.raises(ValueError, match=message):
            load(model, tokenizer=tokenizer)


def test_a_tokenizer_class_is_refused() -> None:
    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(ValueError, match="tokenizer must be an instance; got the class"):
        pipeline(tiny_model(tokenizer), tokenizer=type(tokenizer))


@pytest.mark.parametrize("one", [1, np.int64(1), np.bool_(True)], ids=repr)
def test_0_and_1_are_taken_for_false_and_true(qa: QuestionAnsweringPipeline, one: Any) -> None:
    call = {"question": ADA, "context": "Bob is in Paris.", "top_k": 30}
    expected = qa(**call, handle_impossible_answer=True, align_to_words=False)
    assert qa(**call, handle_impossible_answer=one, align_to_words=type(one)(0)) == expected
    assert Options(handle_impossible_answer=one).handle_impossible_answer is True


@pytest.mark.parametrize("value", [2, -1, 1.0, "True", "", [1]], ids=repr)
def test_other_values_are_no_flags(qa: QuestionAnsweringPipeline, value: Any) -> None:
    for name in ("handle_impossible_answer", "align_to_words", "progress"):
        with pytest.raises(ValueError, match=f"{name} must be True or False; got "):
            qa(question=ADA, context=CONTEXT, **{name: value})


@pytest.mark.parametrize(
    "name", ["max_answer_len", "max_question_len", "max_seq_len", "batch_size", "doc_stride"]
)
def test_a_count_of_any_size(name: str) -> None:
    """More than there are is all there are; tokenizers without a limit call theirs 10**30."""
    tokenizer = tokenizer_of("wordpiece")
    flat = Logits(lambda ids: torch.zeros_like(ids))  # has no limit of positions
    qa = pipeline(flat, tokenizer=tokenizer, max_seq_len=10**30)
    expected = qa(ADA, CONTEXT)
    for count in (1 << 62, 2**63, 10**29):
        assert qa(ADA, CONTEXT, **{name: count}) == expected


BAD_INPUTS = {
    "one_string": ([ADA], "input 0 is of type str; each must be a dict"),
    "missing_key": ([{"question": ADA}], r"input 0 has no context; it has \['question'\]"),
    "none_value": ([[DICTS[0], {"question": None, "context": "x"}]], "question 1 must be .* None"),
    "list_of_strings": ([[ADA, CONTEXT]], "input 0 is of type str"),
    "number": ([3], "input 0 is of type int"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(qa: QuestionAnsweringPipeline, case: str) -> None:
    inputs, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        qa(*inputs)


def test_a_table_gives_a_list_of_results(qa: QuestionAnsweringPipeline) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(DICTS)
    assert places(qa(table)) == ["London", "Warsaw"]
    assert places(qa(table[:1])) == ["London"]
    assert places(qa(question=table["question"], context=table["context"])) == ["London", "Warsaw"]


def test_lists_in_a_list_of_one_are_answered_one_by_one(qa: QuestionAnsweringPipeline) -> None:
    """As the removed pipeline did; programs that make tables of their inputs call it so."""
    several = {"question": [ADA, MARIE], "context": [CONTEXT, CONTEXT]}
    expected = qa(**several, top_k=2)
    assert [len(answers) for answers in expected] == [2, 2]
    assert qa([several], top_k=2) == expected
    assert qa(**{name: [texts] for name, texts in several.items()}, top_k=2) == expected
    assert places(qa([{"question": [ADA], "context": [CONTEXT]}])) == ["London"]


def test_old_names_of_the_inputs(qa: QuestionAnsweringPipeline) -> None:
    assert qa(data=DICTS[0])["answer"] == qa(X=DICTS[0])["answer"] == "London"
    assert places(qa(data=DICTS)) == places(qa(X=iter(DICTS))) == ["London", "Warsaw"]


def test_samples_are_answered(qa: QuestionAnsweringPipeline) -> None:
    assert qa(qa.create_sample(question=ADA, context=CONTEXT))["answer"] == "London"
    samples = qa.create_sample(question=[ADA, MARIE], context=[CONTEXT, CONTEXT])
    assert places(qa(samples)) == ["London", "Warsaw"]


PAIRS_OF_AN_ENGINE: dict[str, tuple[Any, str]] = {
    "mapping": (DICTS[0], "got dict"),
    "two_letters": ("ab", "got str"),
    "set": ({ADA, CONTEXT}, "got set"),
    "three": ((ADA, CONTEXT, 3), "got tuple of 3"),
    "number": (3, "got int"),
}


@pytest.mark.parametrize("case", PAIRS_OF_AN_ENGINE)
def test_an_item_that_is_no_pair_is_named(qa: QuestionAnsweringPipeline, case: str) -> None:
    item, message = PAIRS_OF_AN_ENGINE[case]
    message = f"pair 1 must be a tuple of a question and a context; {message}"
    with pytest.raises(ValueError, match=message):
        list(qa.engine.read([(ADA, CONTEXT), item], Options()))


def test_pairs_of_any_kind_of_two(qa: QuestionAnsweringPipeline) -> None:
    pairs = [[ADA, CONTEXT], np.array([MARIE, CONTEXT])]
    readings: Any = qa.engine.read(pairs, Options())
    assert [reading.answers[0]["answer"] for reading in readings] == ["London", "Warsaw"]
    with pytest.raises(ValueError, match=r"options must be Options\(...\); got dict"):
        qa.engine.read(pairs, {"top_k": 3})


def test_inputs_in_two_ways_are_refused(qa: QuestionAnsweringPipeline) -> None:
    with pytest.raises(ValueError, match="not both"):
        qa(DICTS, question=ADA, context=CONTEXT)


def test_unknown_arguments_are_refused(qa: QuestionAnsweringPipeline) -> None:
    with pytest.raises(TypeError, match="top_n"):
        qa(question=ADA, context=CONTEXT, top_n=3)
    with pytest.raises(TypeError, match="unknown argument top_n; there are top_k, max_answer_len"):
        pipeline(top_n=3)


def test_old_names_of_arguments(qa: QuestionAnsweringPipeline) -> None:
    with pytest.warns(UserWarning, match="topk is deprecated, use top_k instead") as caught:
        assert len(qa(question=ADA, context=CONTEXT, topk=3)) == 3
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="topk is deprecated"):
        assert len(qa(question=ADA, context=CONTEXT, topk=3, top_k=2)) == 2
    expected = qa(question=ADA, context=CONTEXT)
    for padding in (True, False, "longest", "max_length", "do_not_pad"):
        assert qa(question=ADA, context=CONTEXT, padding=padding, num_workers=2) == expected
    with pytest.raises(ValueError, match=r"padding must be one of .*; got 'long'"):
        qa(question=ADA, context=CONTEXT, padding="long")


def test_processes_for_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's, or in their place the call's."""
    tokenizer = tokenizer_of("bundled")
    qa = pipeline(tiny_model(tokenizer), tokenizer=tokenizer, num_workers=0)
    call = {"question": [ADA, MARIE], "context": CONTEXT}
    expected = qa(**call)
    assert qa.engine._crew._workers == []
    for count in (1, np.int64(1)):
        assert qa(**call, num_workers=count) == expected
        assert len(qa.engine._crew._workers) == 1
    asked = []
    monkeypatch.setattr(Crew, "most", lambda _, number: asked.append(number) or 0)
    for given in (0, 3):
        pipeline(tiny_model(tokenizer), tokenizer=tokenizer, num_workers=given)(**call)
        Reader(tiny_model(tokenizer), tokenizer=tokenizer, num_workers=given)(ADA, [CONTEXT])
    assert sorted(set(asked)) == [0, 3]
    for wrong in (-1, True, "2"):
        with pytest.raises(ValueError, match="num_workers must be an integer of at least 0; got"):
            qa(**call, num_workers=wrong)


def test_numpy_numbers_are_numbers(qa: QuestionAnsweringPipeline) -> None:
    call = {"question": ADA, "context": CONTEXT}
    assert qa(**call, top_k=np.int64(2), align_to_words=np.bool_(False)) == qa(
        **call, top_k=2, align_to_words=False
    )


@pytest.mark.parametrize("make", [str, lambda path: path], ids=["str", "path"])
def test_a_folder(make: Any) -> None:
    assert pipeline(make(BUNDLED), device="cpu")(ADA, CONTEXT)["answer"] == "London"


def test_instances() -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(BUNDLED)
    qa = pipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(BUNDLED))
    assert qa.model is model
    assert qa(ADA, CONTEXT)["answer"] == "London"


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        (None, torch.float32),
        ("float16", torch.float32),
        (torch.half, torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float64", torch.float64),
    ],
)
def test_float16_runs_as_float32_on_a_cpu(asked: Any, runs: torch.dtype) -> None:
    """The bundled checkpoint is float16. Some operations, such as FNet's, do not have it on a CPU."""
    assert {p.dtype for p in pipeline(device="cpu", dtype=asked).model.parameters()} == {runs}


def test_a_model_with_some_weights_in_float16_runs_as_float32_on_a_cpu() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    model.qa_outputs.half()
    qa = pipeline(model, tokenizer=tokenizer, device="cpu", dtype="auto")
    assert {p.dtype for p in qa.model.parameters()} == {torch.float32}
    assert qa(ADA, CONTEXT)["answer"]


def test_a_model_instance_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"a tokenizer is needed with a model instance .*BertFor"):
        pipeline(tiny_model(tokenizer_of("wordpiece")))


def test_an_unknown_model_is_named_in_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Offline, or the test would ask the Hub.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("no-such-folder/no-such-model", str(tmp_path)):
        with pytest.raises(OSError, match="cannot load the model") as caught:
            pipeline(name, device="cpu")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_empty_answer(qa: QuestionAnsweringPipeline) -> None:
    answers = qa(ADA, "Bob is in Paris.", handle_impossible_answer=True, top_k=30)
    (null,) = [answer for answer in answers if not answer["answer"]]
    assert (null["start"], null["end"]) == (0, 0)
    assert 0 < null["score"] <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        (("question-answering",), {}),
        (("question-answering",), {"model": str(BUNDLED)}),
        (("question-answering", str(BUNDLED)), {}),
        ((), {"task": "question-answering", "model": str(BUNDLED)}),
        ((str(BUNDLED),), {"tokenizer": str(BUNDLED)}),
    ],
    ids=["task", "task-and-model", "both-positional", "task-by-name", "model-first"],
)
def test_calls_of_transformers_pipeline_work_with_the_import_changed(arguments):
    positional, named = arguments
    qa = pipeline(*positional, **named)
    found = qa(question="Where do I live?", context="My name is Wolfgang and I live in Berlin")
    assert found["answer"] == "Berlin"


def test_another_task_or_two_models_are_errors():
    with pytest.raises(ValueError, match="only one there is; got 'summarization'"):
        pipeline(task="summarization")
    with pytest.raises(ValueError, match="given twice, as 'a' and 'b':"):
        pipeline("a", "b")
