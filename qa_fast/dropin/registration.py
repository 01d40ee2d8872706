"""`register()`: makes ``transformers.pipeline("question-answering")`` work again, on qa_fast's engine.

Transformers finds the class of a pipeline by its task's name in a registry. `register` puts a class
there that is a real `transformers.Pipeline`, which other libraries check for, and that answers as
`qa_fast.pipeline` does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import fields
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import MappingProxyType, ModuleType
from typing import Any, NoReturn

# By this name alone: another import from Transformers, were it the first, could put a second module in
# the place of the one that the caller has, and `register` would not reach that one.
import transformers

from qa_fast.engine.engine import Engine
from qa_fast.engine.errors import warn_caller
from qa_fast.engine.options import Options
from qa_fast.texts.problems import text_problem

from .inputs import SquadExample, read_inputs
from .pipeline import TASK, Result, known_options, with_options

# The class that `qa_fast.pipeline` returns. Its namesake below is a pipeline of Transformers around it.
from .pipeline import QuestionAnsweringPipeline as PlainPipeline

# What transformers.pipeline() loads when no model is named: as the removed pipeline did.
DEFAULT_MODEL = ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")

_OPTIONS = {field.name for field in fields(Options)} | {"topk", "padding"}
_READING = {"max_seq_len", "doc_stride", "max_question_len"}
_TEXTS = ("question", "context")
_INPUTS = {*_TEXTS, "data", "X"}
_IN_CALL = _INPUTS | {"batch_size", "num_workers", "progress"}

# Arguments for loading that transformers.pipeline() also hands to the class.
_FOR_LOADING = {"dtype", "torch_dtype", "local_files_only", "model_kwargs"}

# What the removed pipeline and its base class ran in a call, and this one does not.
_STEPS = (
    "preprocess",
    "forward",
    "_forward",
    "postprocess",
    "run_single",
    "run_multi",
    "iterate",
    "get_iterator",
    "get_inference_context",
    "_ensure_tensor_on_device",
    "get_indices",
    "get_answer",
    "_args_parser",
)


class QuestionAnsweringPipeline(transformers.Pipeline):
    """The class behind ``transformers.pipeline("question-answering")`` after `qa_fast.register`.

    Made by Transformers, which loads the model, moves it to ``device`` and gives it its ``dtype``;
    float16 on a CPU, slow and inexact there, becomes float32. Calls are those of
    [`qa_fast.pipeline`][]. As in the removed pipeline, an argument that it does not know is ignored, but
    with a warning.

    A subclass may have its own ``__init__``, ``__call__`` and ``_sanitize_parameters``. One with steps
    of its own, such as ``postprocess``, is a TypeError when its class is made: there are no such steps.

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
    # save_pretrained() of 5.2 asks for it, though nothing sets it any more.
    modelcard: Any = None

    create_sample = staticmethod(PlainPipeline.create_sample)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_steps(cls)

    def __init__(self, model: Any, tokenizer: Any = None, task: str = TASK, **kwargs: Any) -> None:
        self._plain: PlainPipeline | None = None
        super().__init__(model=model, tokenizer=tokenizer, task=task or TASK, **kwargs)
        # Now, so that what cannot be used is an error here.
        self._current_pipeline()

    def __call__(self, *inputs: Any, **arguments: Any) -> Result | list[Result] | Iterator[Result]:
        """Answer one question or many; the arguments are those of [`qa_fast.pipeline`][]'s calls."""
        # Steps may have been put there after the class was made.
        _refuse_steps(type(self), vars(self))
        ours = {name: arguments.pop(name) for name in _IN_CALL & arguments.keys()}
        options = self._arguments(*self._sanitize_parameters(**arguments))
        return self._current_pipeline()(*inputs, **ours, **options)

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return self._current_pipeline().engine

    @property
    def options(self) -> Options:
        """Defaults of every call."""
        return with_options(Options(), self._arguments())

    def _arguments(self, *more: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of every call, with ``more`` over them."""
        given = (self._preprocess_params, self._forward_params, self._postprocess_params, *more)
        return {name: value for some in given for name, value in some.items()}

    def _current_pipeline(self) -> PlainPipeline:
        """The one for the model and the tokenizer of now: callers may put others in their place."""
        held = self._plain
        if held is None or held.model is not self.model or held.tokenizer is not self.tokenizer:
            engine = Engine(
                self.model,
                self.tokenizer,
                dtype="auto",
                batch_size=self._batch_size,
                num_workers=self._num_workers,
            )
            held = self._plain = PlainPipeline(engine)
        return held

    def _sanitize_parameters(self, **arguments: Any) -> tuple[dict[str, Any], ...]:
        """What to read by, nothing, and what to return; of what the caller or the base class gives.

        Called by the base class once, with the defaults of every call, and in every call.
        """
        arguments = {k: v for k, v in arguments.items() if k not in _FOR_LOADING}
        options = known_options(_only(_OPTIONS, arguments))
        # An error where one of them cannot be used.
        with_options(Options(), options)
        reading = {name: options.pop(name) for name in _READING & options.keys()}
        return reading, {}, options

    def preprocess(self, *_: Any, **__: Any) -> NoReturn:
        """There is no such step by itself."""
        raise NotImplementedError(
            "qa_fast tokenizes, runs the model and decodes in batches: call the pipeline itself, or "
            "see qa_fast.decode_spans to decode logits of your own"
        )

    _forward = preprocess
    postprocess = preprocess


_OWN_STEPS = {name: vars(QuestionAnsweringPipeline).get(name) for name in _STEPS}


def _refuse_steps(owner: type, attributes: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raise a TypeError where a class, or an object's ``attributes``, has steps that would never run."""
    inherited = QuestionAnsweringPipeline.__mro__[1:]
    for name, own in _OWN_STEPS.items():
        home = next((kind for kind in owner.__mro__ if name in vars(kind)), None)
        foreign = home not in (None, *inherited) and vars(home)[name] is not own
        if foreign or name in attributes:
            raise TypeError(
                f"{owner.__name__}.{name} would never run: qa_fast tokenizes, runs the model and "
                "decodes in batches, without such steps. Put what it does around the pipeline's call, "
                "in a __call__ of your own or a function; or decode logits of your own with "
                "qa_fast.decode_spans; or, with Transformers up to 5.2, make it a subclass of "
                "transformers.pipelines.question_answering.QuestionAnsweringPipeline"
            )


class QuestionAnsweringArgumentHandler(transformers.pipelines.base.ArgumentHandler):
    """Makes a list of `SquadExample` of a call's inputs, whatever their form.

    The class of that name in Transformers up to 5.2, for code that calls it by itself.
    """

    # Read by Transformers wherever a class of a pipeline may stand.
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def normalize(self, item: Any) -> Any:
        """The sample, or for a dict of lists the samples, in one input.

        Raises:
            ValueError: an input that cannot be used, or a text that is empty.
        """
        samples = self(item)
        texts = [item.get(name) for name in _TEXTS] if isinstance(item, Mapping) else []
        return samples[0] if all(isinstance(text, str) for text in texts) else samples

    def __call__(self, *inputs: Any, **arguments: Any) -> Any:
        """The samples in the inputs of a call of the pipeline; its other arguments are ignored.

        Inputs that are such objects stay the same ones. Iterators and data sets are not looked into,
        and come back as they are.
        """
        named = {name: arguments[name] for name in _INPUTS & arguments.keys()}
        pairs = read_inputs(inputs, **named).pairs
        given = [*inputs, *(named[name] for name in ("data", "X") if name in named)]
        if not isinstance(pairs, list):
            return given[0]
        for number, pair in enumerate(pairs):
            for name, text in zip(_TEXTS, pair, strict=True):
                if problem := text_problem(text):
                    raise ValueError(f"{name} {number} {problem}")
        if len(given) == 1 and isinstance(given[0], (list, tuple)):
            given = list(given[0])
        if all(hasattr(item, "question_text") for item in given) and len(given) == len(pairs):
            return given
        return [PlainPipeline.create_sample(question, context) for question, context in pairs]


# Where Transformers up to 5.2 has names that go with its pipeline.
_OLD_NAMES: dict[str, tuple[type, ...]] = {
    "transformers": (SquadExample,),
    "transformers.data": (SquadExample,),
    "transformers.data.processors": (SquadExample,),
    "transformers.data.processors.squad": (SquadExample,),
    "transformers.pipelines": (QuestionAnsweringArgumentHandler,),
    "transformers.pipelines.question_answering": (
        QuestionAnsweringPipeline,
        QuestionAnsweringArgumentHandler,
        SquadExample,
    ),
}


def register() -> None:
    """Make ``transformers.pipeline("question-answering")`` work, with qa_fast's engine.

    On Transformers 5.3 and later this brings the task back; before, it takes the place of the
    pipeline that was there. ``transformers.QuestionAnsweringPipeline`` is set too, and what else old
    code imports is there again where Transformers lacks it: the module
    ``transformers.pipelines.question_answering``, `QuestionAnsweringArgumentHandler` and
    `SquadExample`. Pipelines made before keep working as they did. Doing it twice does nothing more.

    There Transformers loads the model, by its own rules: it also reads pickled weights, and where a
    model comes with code of its own it asks on the terminal. ``model_kwargs={"use_safetensors": True}``
    and ``trust_remote_code=False`` are as strict as `qa_fast.pipeline`.

    Example:
        >>> import qa_fast
        >>> from transformers import pipeline
        >>> from qa_fast.models.checkpoints import BUNDLED_MODEL
        >>> qa_fast.register()
        >>> oracle = pipeline("question-answering", model=str(BUNDLED_MODEL))
        >>> oracle(question="Where do I live?", context="I live in Berlin.")["answer"]
        'Berlin'
        >>> qa_fast.unregister()
    """
    global _registered
    if _registered is not None:
        return
    pipelines = transformers.pipelines
    tasks = pipelines.PIPELINE_REGISTRY.supported_tasks
    # Transformers looks here before it looks into the registry.
    removed = getattr(pipelines, "REMOVED_TASKS", {})
    with ExitStack() as undo:
        for mapping in (tasks, removed):
            _restore_later(undo, mapping, TASK)
        removed.pop(TASK, None)
        # Taken out, or the registry would warn of it.
        before = tasks.pop(TASK, {})
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=QuestionAnsweringPipeline,
            pt_model=transformers.AutoModelForQuestionAnswering,
            default=before.get("default", {"model": DEFAULT_MODEL}),
            type="text",
        )
        # Else save_pretrained() would take the class for custom code, and store this file.
        delattr(QuestionAnsweringPipeline, "_registered_impl")
        # transformers twice, because the first import of a class can put a second module in the place
        # of the lazy one, which code that imported it before then still has.
        for module in (transformers, sys.modules["transformers"], pipelines):
            _put(undo, vars(module), QuestionAnsweringPipeline.__name__, QuestionAnsweringPipeline)
        for path, kinds in _OLD_NAMES.items():
            module = _module(path, undo)
            for kind in kinds:
                if not hasattr(module, kind.__name__):
                    _put(undo, vars(module), kind.__name__, kind)
        _registered = undo.pop_all()


def unregister() -> None:
    """Undo `register`: Transformers is as it was. Without a `register` before, it does nothing."""
    global _registered
    if _registered is not None:
        _registered.close()
        _registered = None


_registered: ExitStack | None = None


def _module(path: str, undo: ExitStack) -> ModuleType:
    """The module of that name; a new one where there is none."""
    try:
        return import_module(path)
    except ModuleNotFoundError:
        package = any(name.startswith(f"{path}.") for name in _OLD_NAMES)
        module = module_from_spec(ModuleSpec(path, None, is_package=package))
        _put(undo, sys.modules, path, module)
        parent, _, name = path.rpartition(".")
        _put(undo, vars(sys.modules[parent]), name, module)
        return module


def _put(undo: ExitStack, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
    _restore_later(undo, mapping, key)
    mapping[key] = value


def _restore_later(undo: ExitStack, mapping: MutableMapping[str, Any], key: str) -> None:
    undo.callback(_restore, mapping, key, *([mapping[key]] if key in mapping else []))


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
