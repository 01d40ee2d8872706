"""`register()`: transformers.pipeline("question-answering") works again, and can be given back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipelines
from transformers.pipelines.pt_utils import KeyDataset

import qa_fast
from qa_fast.pipeline import pipeline as light

from .test_package import run_python
from .tiny import BUNDLED, tiny_model, tokenizer_of

CONTEXT = "Ada Lovelace was born in London in 1815. Marie Curie was born in Warsaw in 1867."
ADA, MARIE = "Where was Ada Lovelace born?", "Where was Marie Curie born?"
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
NAME = "QuestionAnsweringPipeline"
DTYPE = "dtype" if VERSION >= (4, 56) else "torch_dtype"


@pytest.fixture
def registered() -> Iterator[None]:
    qa_fast.register()
    yield
    qa_fast.unregister()


@pytest.fixture(scope="module")
def qa() -> Any:
    """A registered pipeline, which works on after `unregister`."""
    qa_fast.register()
    try:
        return make()
    finally:
        qa_fast.unregister()


def make(**arguments: Any) -> Any:
    arguments = {"model": str(BUNDLED), "device": "cpu", **arguments}
    return transformers.pipeline("question-answering", **arguments)


def state() -> list[Any]:
    removed = getattr(pipelines, "REMOVED_TASKS", {})
    return [
        pipelines.PIPELINE_REGISTRY.supported_tasks.get("question-answering"),
        removed.get("question-answering"),
        *(getattr(m, NAME, None) for m in (sys.modules["transformers"], pipelines)),
    ]


def test_register_and_unregister_leave_transformers_as_it_was() -> None:
    before = state()
    if VERSION >= (5, 3):
        with pytest.raises(KeyError, match="has been removed"):
            make()
    qa_fast.register()
    qa_fast.register()  # a second time is no other
    assert state() != before
    assert type(make()).__module__ == "qa_fast.register"
    qa_fast.unregister()
    assert state() == before
    qa_fast.unregister()
    assert state() == before
    if VERSION >= (5, 3):
        with pytest.raises(KeyError, match="has been removed"):
            make()
    else:
        assert type(make()).__module__ == "transformers.pipelines.question_answering"


@pytest.mark.usefixtures("registered")
def test_what_other_libraries_look_at() -> None:
    qa = make()
    assert isinstance(qa, transformers.Pipeline)
    assert isinstance(qa, sys.modules["transformers"].QuestionAnsweringPipeline)
    assert isinstance(qa, pipelines.QuestionAnsweringPipeline)
    assert qa.task == "question-answering"
    assert qa.device == torch.device("cpu")
    task, entry, _ = pipelines.check_task("question-answering")
    assert (task, entry["impl"].__name__, entry["type"]) == ("question-answering", NAME, "text")
    assert entry["pt"] == (AutoModelForQuestionAnswering,)
    default = entry["default"]["model"]
    if isinstance(default, dict):  # Transformers 4: one for each framework
        default = default["pt"]
    assert default == ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")
    assert "BertForQuestionAnswering" in repr(qa) or VERSION < (5, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"tokenizer": str(BUNDLED)},
        {"device": -1},
        {"device": torch.device("cpu"), "batch_size": 4},
        {"model": Path(BUNDLED)} if VERSION >= (4, 57) else {},
        {"framework": "pt"} if VERSION < (5, 0) else {},
    ],
    ids=["model", "tokenizer", "device_number", "device_and_batch_size", "path", "framework"],
)
@pytest.mark.usefixtures("registered")
def test_arguments_of_the_factory(arguments: dict[str, Any]) -> None:
    assert make(**arguments)(question=ADA, context=CONTEXT)["answer"] == "London"


@pytest.mark.usefixtures("registered")
def test_instances() -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(BUNDLED)
    qa = make(model=model, tokenizer=AutoTokenizer.from_pretrained(BUNDLED))
    assert qa.model is model
    assert qa(question=ADA, context=CONTEXT)["answer"] == "London"


@pytest.mark.parametrize(
    ("asked", "runs"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")],
)
@pytest.mark.usefixtures("registered")
def test_dtype(asked: str, runs: str) -> None:
    qa = make(**{DTYPE: getattr(torch, asked)})
    assert qa.model.dtype == getattr(torch, runs)
    assert qa(question=ADA, context=CONTEXT)["answer"] == "London"


@pytest.mark.usefixtures("registered")
def test_torch_dtype_still_works() -> None:
    assert make(torch_dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_answers_are_those_of_the_engine(qa: Any) -> None:
    call = {"question": [ADA, MARIE], "context": CONTEXT, "top_k": 3}
    assert qa(**call) == light(device="cpu")(**call)
    assert qa.engine.model is qa.model


@pytest.mark.usefixtures("registered")
def test_defaults_for_every_call() -> None:
    qa = make(top_k=2, handle_impossible_answer=True)
    assert len(qa(question=ADA, context=CONTEXT)) == 2
    assert len(qa(question=ADA, context=CONTEXT, top_k=3)) == 3
    with pytest.raises(ValueError, match="top_k must be an integer of at least 1; got 0"):
        make(top_k=0)


def test_names_of_transformers_4(qa: Any) -> None:
    data = [{"question": ADA, "context": CONTEXT}, {"question": MARIE, "context": CONTEXT}]
    for results in (qa(data), qa(data=data), qa(X=data), qa.predict(data), qa.transform(data)):
        assert [result["answer"] for result in results] == ["London", "Warsaw"]
    with pytest.warns(UserWarning, match="topk is deprecated, use top_k instead") as caught:
        assert len(qa(question=ADA, context=CONTEXT, topk=2)) == 2
    assert caught[0].filename == __file__
    assert qa(question=ADA, context=CONTEXT, padding="max_length", num_workers=0)


def test_streams(qa: Any) -> None:
    rows = [{"x": {"question": question, "context": CONTEXT}} for question in (ADA, MARIE)]
    results = qa(KeyDataset(rows, "x"), batch_size=2)
    assert len(results) == 2  # a progress bar's total
    assert [result["answer"] for result in results] == ["London", "Warsaw"]
    results = qa(row["x"] for row in rows)
    assert next(results)["answer"] == "London"


@pytest.mark.usefixtures("registered")
def test_unknown_arguments_are_ignored_with_a_warning(qa: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"ignored: truncation; .* takes align_to_words, "
    ) as caught:
        assert qa(question=ADA, context=CONTEXT, truncation=True)["answer"] == "London"
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="ignored: top_n"):
        make(top_n=3)


@pytest.mark.usefixtures("registered")
def test_a_model_put_in_place_later_is_used() -> None:
    qa = make()
    first = qa(question=ADA, context=CONTEXT)
    other = tiny_model(tokenizer_of("bundled"))
    kept, qa.model = qa.model, other
    assert qa(question=ADA, context=CONTEXT) != first
    assert qa.engine.model is other
    qa.model = kept
    assert qa(question=ADA, context=CONTEXT) == first


@pytest.mark.usefixtures("registered")
def test_a_model_of_another_kind_is_an_error_that_names_it() -> None:
    tokenizer = tokenizer_of("bundled")
    config = tiny_model(tokenizer).config
    model = transformers.BertForTokenClassification(config)
    qa = make(model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="BertForTokenClassification cannot be used"):
        qa(question=ADA, context=CONTEXT)


@pytest.mark.usefixtures("registered")
def test_save_pretrained_is_no_custom_code(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert make(model=str(tmp_path))(question=ADA, context=CONTEXT)["answer"] == "London"


def test_steps_of_a_pipeline_are_not_there_by_themselves(qa: Any) -> None:
    for step in (qa.preprocess, qa.forward, qa.postprocess):
        with pytest.raises(NotImplementedError, match="call the pipeline itself"):
            step({})


def test_importing_patch_registers() -> None:
    code = f"""
import transformers
import qa_fast.patch
from transformers import QuestionAnsweringPipeline, pipeline
qa = pipeline("question-answering", model={str(BUNDLED)!r}, device="cpu")
print(type(qa) is QuestionAnsweringPipeline is transformers.QuestionAnsweringPipeline)
print(qa(question={ADA!r}, context={CONTEXT!r})["answer"])
"""
    assert run_python(code).split() == ["True", "London"]
