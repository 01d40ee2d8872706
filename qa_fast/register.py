"""`register()`: makes ``transformers.pipeline("question-answering")`` work again, on qa_fast's engine.

Transformers finds the class of a pipeline by its task's name in a registry. `register` puts a class
there that is a real `transformers.Pipeline`, which other libraries check for, and that answers as
`qa_fast.pipeline` does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack
from dataclasses import fields
from typing import Any, NoReturn

import torch
import transformers
from transformers import AutoModelForQuestionAnswering, Pipeline, pipelines

from .engine import Engine
from .notes import warn_caller
from .options import Options
from .pipeline import TASK, Result, with_options
from .pipeline import QuestionAnsweringPipeline as Answerer

# What transformers.pipeline() loads when no model is named: as the removed pipeline did.
DEFAULT_MODEL = ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")

_ARGUMENTS = {field.name for field in fields(Options)} | {"topk", "padding", "num_workers"}

# Arguments for loading that transformers.pipeline() also hands to the class.
_FOR_LOADING = {"dtype", "torch_dtype", "local_files_only", "model_kwargs"}


class QuestionAnsweringPipeline(Pipeline):
    """The class behind ``transformers.pipeline("question-answering")`` after `qa_fast.register`.

    Made by Transformers, which loads the model, moves it to ``device`` and gives it its ``dtype``;
    float16 on a CPU, slow and inexact there, becomes float32. Calls are those of
    [`qa_fast.pipeline`][qa_fast.pipeline.QuestionAnsweringPipeline]. As in the removed pipeline, an
    argument that it does not know is ignored, but with a warning.

    Args:
        model: a model instance.
        tokenizer: its fast tokenizer.
        task: "question-answering".
        **kwargs: the arguments of `transformers.Pipeline`, and defaults for every call.
    """

    # Read by transformers.pipeline(): what else to load.
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    default_input_names: Any = "question,context"
    modelcard: Any = None  # save_pretrained() of 5.2 asks for it, though nothing sets it any more

    def __init__(self, model: Any, tokenizer: Any = None, task: str = TASK, **kwargs: Any) -> None:
        self._options = Options()
        self._answerer: Answerer | None = None
        super().__init__(model=model, tokenizer=tokenizer, task=task or TASK, **kwargs)
        self._current_answerer()  # now, so that what cannot be used is an error here

    def __call__(self, *inputs: Any, **arguments: Any) -> Result | list[Result] | Iterator[Result]:
        """Answer one question or many; see `qa_fast.pipeline.QuestionAnsweringPipeline.__call__`."""
        for name in ("data", "X"):  # names of the first positional argument in Transformers 4
            if name in arguments and not inputs:
                inputs = (arguments.pop(name),)
        known = _ARGUMENTS | {"question", "context", "batch_size", "progress"}
        return self._current_answerer()(*inputs, **_only(known, arguments))

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return self._current_answerer().engine

    def _current_answerer(self) -> Answerer:
        """The one for the model and the tokenizer of now: callers may put others in their place."""
        held = self._answerer
        if held is None or held.model is not self.model or held.tokenizer is not self.tokenizer:
            weights = getattr(self.model, "dtype", None)
            halved = self.device.type == "cpu" and weights == torch.float16
            engine = Engine(
                self.model,
                self.tokenizer,
                dtype="float32" if halved else "auto",
                batch_size=self._batch_size,
            )
            held = self._answerer = Answerer(engine, self._options)
        return held

    def _sanitize_parameters(self, **arguments: Any) -> tuple[dict[str, Any], ...]:
        """Called by the base class, once, with what it does not know itself."""
        arguments = {k: v for k, v in arguments.items() if k not in _FOR_LOADING}
        self._options = with_options(self._options, _only(_ARGUMENTS, arguments))
        return {}, {}, {}

    def preprocess(self, *_: Any, **__: Any) -> NoReturn:
        """There is no such step by itself."""
        raise NotImplementedError(
            "qa_fast tokenizes, runs the model and decodes in batches: call the pipeline itself, or "
            "see qa_fast.decode_spans to decode logits of your own"
        )

    _forward = preprocess
    postprocess = preprocess


def register() -> None:
    """Make ``transformers.pipeline("question-answering")`` work, with qa_fast's engine.

    On Transformers 5.3 and later this brings the task back; before, it takes the place of the
    pipeline that was there. ``transformers.QuestionAnsweringPipeline`` is set too. Pipelines made
    before keep working as they did. Doing it twice does nothing more.

    There Transformers loads the model, by its own rules: it also reads pickled weights, and where a
    model comes with code of its own it asks on the terminal. ``model_kwargs={"use_safetensors": True}``
    and ``trust_remote_code=False`` are as strict as `qa_fast.pipeline`.

    Example:
        >>> import qa_fast
        >>> from transformers import pipeline
        >>> from qa_fast.pipeline import BUNDLED_MODEL
        >>> qa_fast.register()
        >>> oracle = pipeline("question-answering", model=str(BUNDLED_MODEL))
        >>> oracle(question="Where do I live?", context="I live in Berlin.")["answer"]
        'Berlin'
        >>> qa_fast.unregister()
    """
    global _registered
    if _registered is not None:
        return
    name = QuestionAnsweringPipeline.__name__
    # Two modules, because the first import of a class can put a second one in the place of the
    # lazy one, which code that imported it before then still has.
    modules = [vars(m) for m in (transformers, sys.modules["transformers"], pipelines)]
    tasks = pipelines.PIPELINE_REGISTRY.supported_tasks
    removed = getattr(pipelines, "REMOVED_TASKS", {})  # looked at before the registry is
    with ExitStack() as undo:
        for mapping, key in [(tasks, TASK), (removed, TASK), *((m, name) for m in modules)]:
            undo.callback(_restore, mapping, key, *([mapping[key]] if key in mapping else []))
        removed.pop(TASK, None)
        before = tasks.pop(TASK, {})  # or the registry would warn of it
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=QuestionAnsweringPipeline,
            pt_model=AutoModelForQuestionAnswering,
            default=before.get("default", {"model": DEFAULT_MODEL}),
            type="text",
        )
        # Else save_pretrained() would take the class for custom code, and store this file.
        delattr(QuestionAnsweringPipeline, "_registered_impl")
        for module in modules:
            module[name] = QuestionAnsweringPipeline
        _registered = undo.pop_all()


def unregister() -> None:
    """Undo `register`: Transformers is as it was. Without a `register` before, it does nothing."""
    global _registered
    if _registered is not None:
        _registered.close()
        _registered = None


_registered: ExitStack | None = None


def _restore(mapping: MutableMapping[str, Any], key: str, *value: Any) -> None:
    if value:
        (mapping[key],) = value
    else:
        mapping.pop(key, None)


def _only(known: set[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the ``arguments`` that are ``known``, with a warning about the others."""
    ignored = arguments.keys() - known
    if ignored:
        warn_caller(
            f"ignored: {', '.join(sorted(ignored))}; a question-answering pipeline takes "
            f"{', '.join(sorted(known))}"
        )
    return {name: value for name, value in arguments.items() if name in known}
