"""`pipeline()`: Transformers' question-answering pipeline, back and faster.

The calls, their results and the scores are those of ``transformers.pipeline("question-answering")``
before its removal in Transformers 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qa_fast.data.answers import Answer
from qa_fast.decoding.search import Scoring
from qa_fast.engine.engine import Engine
from qa_fast.engine.errors import warn_caller
from qa_fast.engine.graphs import Backend
from qa_fast.engine.loading import ModelSpec
from qa_fast.engine.options import Options, check_flag

from .inputs import make_samples, read_inputs

TASK = "question-answering"
_PADDING = (True, False, "longest", "max_length", "do_not_pad")

Result = Answer | list[Answer]
"""The answers to one question: the answer itself where there is one, else a list, best first."""


def pipeline(
    task_or_model: Any = None,
    /,
    model: Any = None,
    *,
    tokenizer: Any = None,
    task: str = TASK,
    device: str | int | torch.device | None = None,
    backend: Backend | None = None,
    dtype: str | torch.dtype | None = None,
    calibrate: Any = None,
    batch_size: int | None = None,
    max_batch_tokens: int | None = None,
    compile: bool = False,
    num_workers: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    **options: Any,
) -> QuestionAnsweringPipeline:
    """Load a model for extractive question answering.

    The first argument may be the model, or the task's name, so that a call of `transformers.pipeline`
    works as it is: ``pipeline("question-answering", model=...)``.

    Args:
        task_or_model: "question-answering", or what ``model`` takes.
        model: a model id on the Hugging Face Hub, a folder, or a model instance. None: the small
            English model that comes with qa_fast, which needs no network.
        tokenizer: an id, a folder or an instance of a fast tokenizer; needed with a model instance,
            else the model's own by default.
        task: "question-answering"; there is no other.
        device: "cpu", "cuda", "cuda:1", "mps", a GPU's index, or -1 for the CPU. None: a GPU where
            there is one; a model instance stays where it is. With ``backend="onnx"`` also "openvino".
        backend: what runs the model. "torch": PyTorch. "openvino": OpenVINO, on a CPU; the model is
            converted once, and kept in a folder of the user's cache; a folder with OpenVINO's IR is read
            as it is. "onnx": ONNX Runtime, for a folder, or a model of the Hub, with a ``model.onnx``.
            None: PyTorch, but for a folder that holds graphs of one of the others only.
        dtype: "float32", "bfloat16", "float16", a `torch.dtype`, or "auto" for the checkpoint's own.
            None: float32 on a CPU, "auto" elsewhere. On a CPU float16, slow and inexact there, becomes
            float32. A model instance is moved and converted in place. OpenVINO has "float32",
            "bfloat16" and "int8"; ONNX Runtime what the folder holds, with None the plain model.
        calibrate: for ``dtype="int8"`` of OpenVINO, texts that show the range of the model's numbers:
            pairs of question and context, or what `read_examples` reads; some hundreds like those to be
            answered. None: questions of SQuAD that come with the package.
        batch_size: most chunks that the model reads at once. Usually best left out: batches are cut
            by tokens.
        max_batch_tokens: most tokens, padding included, that the model reads at once; None for a
            default by device.
        compile: run the model through `torch.compile`; see `Engine`.
        num_workers: processes that tokenize and make answers beside the one that runs the model, for
            a GPU that would wait for these; they start once, and change no answer. 0: none. None:
            some for a long stream, with a GPU and cores to spare.
        allow_pickle: also load weights that are pickled (``pytorch_model.bin``), where a model has no
            safetensors. They are unpickled as tensors only.
        trust_remote_code: run code that comes with the model or its tokenizer, with all that you may
            do on this machine. For models whose code you have read; there is a warning each time.
        **options: defaults for the arguments of every call, such as ``top_k=3``; see
            `QuestionAnsweringPipeline.__call__`.

    Raises:
        OSError: a model or tokenizer that cannot be found or loaded, or that would need one of the two
            permissions above; or a model without weights for the layer that answers.
        ValueError: an argument that is out of range; a model that a backend cannot run.
        ImportError: a backend that is not installed.

    Example:
        >>> import qa_fast
        >>> qa = qa_fast.pipeline()
        >>> qa(question="Where do I live?", context="I am Wolfgang and I live in Berlin.")["answer"]
        'Berlin'
    """
    options_of_calls = with_options(Options(), options)
    if task != TASK:
        raise ValueError(f"task must be {TASK!r}, the only one there is; got {task!r}")
    if task_or_model is not None and not (isinstance(task_or_model, str) and task_or_model == TASK):
        if model is not None:
            first, second = (
                repr(x) if isinstance(x, (str, Path)) else f"a {type(x).__name__}"
                for x in (task_or_model, model)
            )
            raise ValueError(
                f"the model was given twice, as {first} and {second}: the first argument is the model, "
                f"or {TASK!r} with the model as the second"
            )
        model = task_or_model
    spec = ModelSpec(
        model=model,
        tokenizer=tokenizer,
        device=device,
        backend=backend,
        dtype=dtype,
        calibrate=calibrate,
        batch_size=batch_size,
        max_batch_tokens=max_batch_tokens,
        compile=compile,
        num_workers=num_workers,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return QuestionAnsweringPipeline(spec.load(), options_of_calls)


class QuestionAnsweringPipeline:
    """Answers questions with spans of their contexts; made by [`pipeline`][qa_fast.pipeline].

    Attributes:
        engine: the model, its tokenizer and how they are run.
        options: defaults of every call.
    """

    task = TASK

    def __init__(self, engine: Engine, options: Options | None = None) -> None:
        self.engine = engine
        self.options = options or Options()

    @property
    def model(self) -> Any:
        """The model."""
        return self.engine.model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.engine.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.engine.device

    @staticmethod
    def create_sample(question: str | Iterable[str], context: str | Iterable[str]) -> Any:
        """A question and a context in one object that a call takes; a list of them for several.

        Example:
            >>> import qa_fast
            >>> qa = qa_fast.pipeline()
            >>> qa(qa.create_sample("Who wrote it?", "Ada wrote the note."))["answer"]
            'Ada'
        """
        return make_samples(question, context)

    def __call__(
        self,
        *inputs: Any,
        question: str | Iterable[str] | None = None,
        context: str | Iterable[str] | None = None,
        top_k: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        scoring: Scoring | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        num_workers: int | None = None,
        padding: bool | str | None = None,
        topk: int | None = None,
        data: Any = None,
        X: Any = None,
    ) -> Result | list[Result] | Iterator[Result]:
        """Answer one question or many.

        Args:
            *inputs: in place of ``question`` and ``context``: a question and a context; a dict with
                these two keys; an object with ``question_text`` and ``context_text``; any iterable
                of such dicts and objects; or a table of pandas, pyarrow or polars with these two
                columns. An iterator (a generator, say) or a data set of torch or of the datasets
                library is read as the results are taken, in constant memory.
            question: a question, or several: a list, a tuple, or a column of pandas, NumPy, pyarrow,
                polars or datasets.
            context: the text that holds the answer, or one per question. One context may serve many
                questions, and one question many contexts.
            top_k: most answers per question (1).
            max_answer_len: most tokens in an answer (15).
            max_seq_len: most tokens that the model reads at once: question, special tokens and a
                part of the context (384, or the model's limit where that is less).
            doc_stride: tokens that consecutive parts of a long context share (128, or half of
                ``max_seq_len`` where that is less).
            max_question_len: cut questions to that many tokens (questions are never cut).
            handle_impossible_answer: let "no answer", the empty string, compete (False). Its score
                is the [CLS] token's: with a tokenizer that adds none, it is never an answer.
            align_to_words: widen answers to whole words (True). Better off for texts without spaces
                between words.
            scoring: "probability" (the default): the removed pipeline's scores. Each part of a long
                context has probabilities of its own, and those of answers with the same text are
                added up, so a score can exceed 1. "shared": probabilities over the whole context,
                at most 1 in sum. "logit": start logit plus end logit, the ranking of run_qa.py.
            batch_size: most chunks that the model reads at once.
            progress: show a bar with questions per second (False).
            num_workers: in place of the pipeline's: processes that tokenize and make answers. In the
                removed pipeline they only tokenized.
            padding: without effect on answers; the removed pipeline had it. Batches are padded as
                far as they need.
            topk: the old name of ``top_k``.
            data: an old name of the first of ``inputs``.
            X: another one.

        Returns:
            For one question a dict with the keys score, start, end and answer, where ``answer`` is
            ``context[start:end]``; with ``top_k`` above 1 a list of them, best first. It is a list
            whenever there is not exactly one answer. For several questions a list of such results,
            in their order; for an iterator or a data set an iterator over them. A list of one
            question counts as one question, as it always has; a data set's column of one does not,
            nor a list of one that holds a list.

        Raises:
            ValueError: an input or an argument that cannot be used; the message says which and why.

        Example:
            >>> import qa_fast
            >>> qa = qa_fast.pipeline()
            >>> answers = qa(
            ...     question=["Where was Ada Lovelace born?", "When was she born?"],
            ...     context="Ada Lovelace was born in London in 1815.",
            ... )
            >>> [answer["answer"] for answer in answers]
            ['London', '1815']
        """
        progress = check_flag("progress", progress)
        options = with_options(
            self.options,
            {
                "top_k": top_k,
                "max_answer_len": max_answer_len,
                "max_seq_len": max_seq_len,
                "doc_stride": doc_stride,
                "max_question_len": max_question_len,
                "handle_impossible_answer": handle_impossible_answer,
                "align_to_words": align_to_words,
                "scoring": scoring,
                "padding": padding,
                "topk": topk,
            },
        )
        asked = read_inputs(inputs, question, context, data, X)
        readings: Any = self.engine.read(
            asked.pairs,
            options,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        )
        results: Iterator[Result] = (_result(reading.answers) for reading in readings)
        if isinstance(asked.pairs, list):
            everything = list(results)
            return everything[0] if asked.lone and len(everything) == 1 else everything
        return results if asked.length is None else _SizedStream(results, asked.length)


def with_options(options: Options, given: Mapping[str, Any]) -> Options:
    """``options`` with what a caller gave for some of them; see `known_options`."""
    return replace(options, **known_options(given))


def known_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller ``given`` for some of the `Options`, by their names; None is as good as nothing.

    Takes the removed pipeline's names too: ``topk``, deprecated long ago, and ``padding``, which never
    changed an answer.

    Raises:
        TypeError: a name that is none of them.
        ValueError: a ``padding`` that there is not.
    """
    known = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in given.items()
        if value is not None
    }
    padding = known.pop("padding", False)
    if not isinstance(padding, (bool, str)) or padding not in _PADDING:
        raise ValueError(f"padding must be one of {_PADDING}; got {padding!r}")
    if "topk" in known:
        warn_caller("topk is deprecated, use top_k instead")
        known = {"top_k": known.pop("topk"), **known}
    names = [field.name for field in fields(Options)]
    unknown = known.keys() - set(names)
    if unknown:
        raise TypeError(
            f"unknown argument {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    return known


def _result(answers: list[Answer]) -> Result:
    """A single answer stands for itself, as it always has."""
    return answers[0] if len(answers) == 1 else answers


class _SizedStream(Iterator[Result]):
    """Results as they come, with the number of all of them as ``len``: progress bars ask for it."""

    def __init__(self, results: Iterator[Result], length: int) -> None:
        self._results = results
        self._length = length

    def __next__(self) -> Result:
        return next(self._results)

    def __len__(self) -> int:
        return self._length
