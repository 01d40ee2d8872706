"""`register()`: transformers.pipeline("question-answering") works again, and can be given back."""

from __future__ import annotations

import importlib
import importlib.util
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
from qa_fast.dropin.inputs import SquadExample
from qa_fast.dropin.pipeline import pipeline as light
from qa_fast.dropin.registration import QuestionAnsweringArgumentHandler
from qa_fast.engine.workers import Crew

from ..helpers.programs import run_python
from ..helpers.tiny import BUNDLED, tiny_model, tokenizer_of

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
    assert type(make()).__module__ == "qa_fast.dropin.registration"
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


@pytest.mark.usefixtures("registered")
def test_processes_for_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Transformers itself takes for its own workers, where nothing is given, is not asked for."""
    asked = []
    monkeypatch.setattr(Crew, "most", lambda _, number: asked.append(number) or 0)
    for given, expected in (({}, None), ({"num_workers": 0}, 0), ({"num_workers": 2}, 2)):
        qa = make(**given)
        for in_call in (expected, 1):
            asked.clear()
            call = {} if in_call is expected else {"num_workers": in_call}
            assert qa(question=ADA, context=CONTEXT, **call)["answer"] == "London"
            assert set(asked) == {in_call}


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


STEPS = ["preprocess", "_forward", "forward", "postprocess", "run_single", "get_indices"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("registered")
def test_a_subclass_with_a_step_of_its_own_is_refused_when_it_is_made(step: str) -> None:
    base = pipelines.QuestionAnsweringPipeline
    with pytest.raises(TypeError, match=rf"Mine\.{step} would never run"):
        type("Mine", (base,), {step: lambda *_: None})
    mixin = type("Mixin", (), {step: lambda *_: None})
    with pytest.raises(TypeError, match=rf"Mine\.{step} would never run"):
        type("Mine", (mixin, base), {})


@pytest.mark.parametrize("step", [*STEPS, "_args_parser"])
@pytest.mark.usefixtures("registered")
def test_a_step_that_is_put_there_later_is_refused_in_the_call(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    qa = make()
    call = {"question": ADA, "context": CONTEXT}
    for place in (qa, type(qa)):
        with monkeypatch.context() as patch:
            patch.setattr(place, step, lambda *_, **__: None, raising=False)
            with pytest.raises(TypeError, match=rf"{NAME}\.{step} would never run"):
                qa(**call)
    assert qa(**call)["answer"] == "London"


@pytest.mark.usefixtures("registered")
def test_what_is_put_on_the_class_of_all_pipelines_is_no_step_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Programs that trace calls do that."""
    monkeypatch.setattr(transformers.Pipeline, "forward", lambda *_, **__: None)
    assert make()(question=ADA, context=CONTEXT)["answer"] == "London"


@pytest.mark.usefixtures("registered")
def test_a_subclass_may_have_what_runs() -> None:
    class Mine(pipelines.QuestionAnsweringPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return {"found": super().__call__(*args, **kwargs)}

        def _sanitize_parameters(self, best: int | None = None, **kwargs: Any) -> Any:
            preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
            if best is not None:
                postprocess["top_k"] = best
            return preprocess, forward, postprocess

    qa = make(pipeline_class=Mine, best=2)
    assert type(qa) is Mine
    assert len(qa(question=ADA, context=CONTEXT)["found"]) == 2
    assert len(qa(question=ADA, context=CONTEXT, best=3)["found"]) == 3
    assert len(qa(question=ADA, context=CONTEXT)["found"]) == 2


@pytest.mark.usefixtures("registered")
def test_defaults_are_where_the_base_class_keeps_them() -> None:
    qa = make(top_k=3, max_seq_len=64)
    assert (qa.options.top_k, qa.options.max_seq_len) == (3, 64)
    qa._postprocess_params["top_k"] = 2
    assert len(qa(question=ADA, context=CONTEXT)) == 2


def test_show_reads_with_a_registered_pipeline(qa: Any) -> None:
    shown = qa_fast.show(qa(ADA, CONTEXT), CONTEXT, ADA, pipeline=qa)
    assert "London</mark>" in shown.html


OLD_IMPORTS = {
    "transformers": ["SquadExample", NAME],
    "transformers.data": ["SquadExample"],
    "transformers.data.processors": ["SquadExample"],
    "transformers.data.processors.squad": ["SquadExample"],
    "transformers.pipelines": ["QuestionAnsweringArgumentHandler", NAME],
    "transformers.pipelines.question_answering": [
        "SquadExample",
        "QuestionAnsweringArgumentHandler",
        NAME,
    ],
}


def found_old_imports() -> dict[tuple[str, str], Any]:
    found = {}
    for path, names in OLD_IMPORTS.items():
        for name in names:
            try:
                module = importlib.import_module(path)
            except ModuleNotFoundError:
                continue
            if hasattr(module, name):
                found[path, name] = getattr(module, name)
    return found


def test_old_imports_work_between_register_and_unregister() -> None:
    before = found_old_imports()
    modules = {name for name in sys.modules if name.startswith("transformers")}
    qa_fast.register()
    try:
        during = found_old_imports()
        samples = {kind for (_, name), kind in during.items() if name == "SquadExample"}
        assert len(samples) == 1
        spec = importlib.util.find_spec("transformers.data.processors.squad")
        assert spec is not None
    finally:
        qa_fast.unregister()
    assert during.keys() == {(p, name) for p, names in OLD_IMPORTS.items() for name in names}
    assert found_old_imports() == before
    assert {name for name in sys.modules if name.startswith("transformers")} == modules
    if VERSION < (5, 3):  # its own stay, but for the class behind the task
        replaced = {key for key in during if during[key] is not before[key]}
        assert replaced == {("transformers", NAME), ("transformers.pipelines", NAME)}


@pytest.mark.usefixtures("registered")
def test_samples_by_their_old_name() -> None:
    from transformers.data.processors.squad import SquadExample as OldName

    qa = make()
    sample = qa.create_sample(question=ADA, context=CONTEXT)
    assert isinstance(sample, OldName)
    assert isinstance(light(device="cpu").create_sample(ADA, CONTEXT), OldName)
    assert qa(sample)["answer"] == "London"
    assert qa(OldName(None, ADA, CONTEXT, None, None, None))["answer"] == "London"


def test_the_handler_makes_samples_of_all_inputs() -> None:
    handler = QuestionAnsweringArgumentHandler()
    pair = {"question": ADA, "context": CONTEXT}
    for samples in (
        handler(**pair, top_k=3),
        handler(ADA, CONTEXT),
        handler(pair),
        handler([pair]),
        [handler.normalize(pair)],
        handler.normalize({"question": [ADA], "context": [CONTEXT]}),
    ):
        (found,) = samples
        assert (found.question_text, found.context_text) == (ADA, CONTEXT)
    assert len(handler(question=[ADA, MARIE], context=CONTEXT)) == 2
    assert len(handler.normalize({"question": [ADA, MARIE], "context": [CONTEXT] * 2})) == 2
    with pytest.raises(ValueError, match="context 0 is empty"):
        handler(question=ADA, context="")
    with pytest.raises(ValueError, match="input 0 has no context"):
        handler.normalize({"question": ADA})


def test_the_handler_leaves_samples_and_streams_as_they_are() -> None:
    handler = QuestionAnsweringArgumentHandler()
    sample = SquadExample("7", ADA, CONTEXT, "London", 25, "Lovelace")
    assert handler(sample) == handler([sample]) == handler(data=sample) == [sample]
    assert handler.normalize(sample) is sample
    stream = (item for item in [sample])
    assert handler(stream) is stream


@pytest.mark.usefixtures("registered")
def test_odd_inputs_are_told_as_by_the_engine(qa: Any) -> None:
    with pytest.raises(ValueError, match="got dict, whose keys would be read"):
        qa(question={"q1": ADA}, context=CONTEXT)
    several = {"question": [ADA, MARIE], "context": [CONTEXT, CONTEXT]}
    assert [result["answer"] for result in qa([several])] == ["London", "Warsaw"]
    with pytest.raises(ValueError, match="give the inputs once"):
        qa([several], data=[several])


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
