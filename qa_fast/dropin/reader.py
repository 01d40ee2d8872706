"""`Reader`: the answers to a question in several documents, ranked together.

What it gives is what Haystack's ExtractiveReader gives (TransformersExtractiveReader, as it is called
since Haystack 3): every span of every document is judged by itself, by ``sigmoid(calibration_factor *
(start logit + end logit))``, so that scores compare across documents; answers that overlap a better
one are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod, tanh
from sys import float_info
from typing import Any, TypedDict

import torch

from qa_fast.data.errors import ExampleError
from qa_fast.engine.graphs import Backend
from qa_fast.engine.loading import ModelSpec
from qa_fast.engine.options import Options, check_count, check_flag, is_number
from qa_fast.texts.problems import text_problem

from .inputs import read_texts


class ReaderAnswer(TypedDict):
    """An answer of a [`Reader`][qa_fast.Reader].

    ``answer`` is ``documents[document][start:end]``, and ``score`` how likely it is right, from 0 to
    1. "No answer" is ``""`` at 0 to 0, and its ``document`` is None.
    """

    score: float
    answer: str
    start: int
    end: int
    document: int | None


class Reader:
    """Reads several documents for the answers to a question.

    Args:
        model: as for [`qa_fast.pipeline`][], as the other arguments; None: the bundled model.
        tokenizer: needed with a model instance, else the model's own by default.
        device: where to run; None: a GPU where there is one.
        backend: what runs the model.
        dtype: the weights' type.
        batch_size: most chunks that the model reads at once.
        max_batch_tokens: most tokens, padding included, that the model reads at once.
        num_workers: processes that tokenize and make answers.
        allow_pickle: also load pickled weights.
        trust_remote_code: run code that comes with the model.

    Where it differs from ExtractiveReader:

    - Models that take segment ids (BERT and its kin) get them. ExtractiveReader leaves them out,
      and such a model then reads the context as part of the question.
    - A span that two overlapping chunks contain counts once even without ``overlap_threshold``.
    - A question is never cut to make room for a document; one that leaves none raises an error.
    - Models that read the context first (left-padding tokenizers) are given it first.
    - ``documents`` are texts. ExtractiveReader skips documents without content; here an empty one
      raises an error that says which it is.

    Example:
        >>> import qa_fast
        >>> reader = qa_fast.Reader()
        >>> documents = ["Ada was born in London.", "It rains.", "Marie was born in Warsaw."]
        >>> for answer in reader("Where was Marie born?", documents, top_k=2, no_answer=False):
        ...     print(answer["document"], answer["answer"], round(answer["score"], 2))
        2 Warsaw 0.74
        0 London 0.64
    """

    def __init__(
        self,
        model: Any = None,
        *,
        tokenizer: Any = None,
        device: str | int | torch.device | None = None,
        backend: Backend | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int | None = None,
        max_batch_tokens: int | None = None,
        num_workers: int | None = None,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self.engine = ModelSpec(
            model=model,
            tokenizer=tokenizer,
            device=device,
            backend=backend,
            dtype=dtype,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            num_workers=num_workers,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        ).load()

    def __call__(
        self,
        question: str,
        documents: Sequence[str],
        *,
        top_k: int = 20,
        score_threshold: float | None = None,
        no_answer: bool = True,
        calibration_factor: float = 0.1,
        overlap_threshold: float | None = 0.01,
        answers_per_chunk: int = 20,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
    ) -> list[ReaderAnswer]:
        """The best answers, best first.

        Args:
            question: the question.
            documents: the texts to find its answers in: a list, or a column of pandas, NumPy,
                pyarrow, polars or datasets; with none there are no answers.
            top_k: most answers; "no answer" comes on top.
            score_threshold: leave out answers with a lower score; None for no such limit.
            no_answer: also give "no answer". Its score is the probability that all the ``top_k``
                others are wrong, each taken by itself: the product of 1 minus their scores. It has
                nothing to do with the model's [CLS] logits.
            calibration_factor: how fast scores go to 0 and 1 as logits grow, above 0.
            overlap_threshold: drop an answer that shares a greater part than this, from 0 to 1, of
                the shorter of the two with a better one in its document. At 0.01 a common character
                is nearly always too much. None drops none.
            answers_per_chunk: spans to look at in each part of a document that the model reads at
                once; answers that were dropped for overlap are among them.
            max_answer_len: most tokens in an answer; None for no limit.
            max_seq_len: most tokens that the model reads at once (384, or the model's limit).
            doc_stride: tokens that consecutive parts of a long document share (128, or half of
                ``max_seq_len`` where that is less).

        Returns:
            The answers; of those with the same score the one in the earlier document comes first.

        Raises:
            ValueError: an input or an argument that cannot be used; the message says which and why.
        """
        check_count("top_k", top_k)
        check_count("answers_per_chunk", answers_per_chunk)
        no_answer = check_flag("no_answer", no_answer)
        _check_judging(calibration_factor, overlap_threshold, score_threshold)
        if not isinstance(question, str):
            raise ValueError(f"question {text_problem(question)}")
        documents = _checked_documents(documents)
        options = Options(
            top_k=None,
            max_answer_len=max_answer_len,
            max_seq_len=max_seq_len,
            doc_stride=doc_stride,
            align_to_words=False,
            scoring="logit",
            spans_per_chunk=answers_per_chunk,
        )
        candidates: list[ReaderAnswer] = []
        pairs = [(question, document) for document in documents]
        for number, reading in enumerate(self.engine.read(pairs, options, errors="return")):
            if isinstance(reading, ExampleError):
                raise _about_document(reading)
            candidates += [
                ReaderAnswer(
                    score=_sigmoid(calibration_factor * found["score"]),
                    answer=found["answer"],
                    start=found["start"],
                    end=found["end"],
                    document=number,
                )
                for found in reading.answers
            ]
        answers = _best_apart(candidates, top_k, overlap_threshold)
        if no_answer and documents:
            none_right = prod(1 - answer["score"] for answer in answers)
            answers.append(ReaderAnswer(score=none_right, answer="", start=0, end=0, document=None))
            answers.sort(key=lambda answer: answer["score"], reverse=True)
        if score_threshold is not None:
            answers = [answer for answer in answers if answer["score"] >= score_threshold]
        return answers


def _check_judging(
    calibration_factor: float, overlap_threshold: float | None, score_threshold: float | None
) -> None:
    """Raise a ValueError unless answers can be judged by these numbers."""
    if not (is_number(calibration_factor) and 0 < calibration_factor <= float_info.max):
        raise ValueError(f"calibration_factor must be a number above 0; got {calibration_factor!r}")
    if overlap_threshold is not None and not (
        is_number(overlap_threshold) and 0 <= overlap_threshold <= 1
    ):
        raise ValueError(
            f"overlap_threshold must be from 0 to 1, or None; got {overlap_threshold!r}"
        )
    if score_threshold is not None and not is_number(score_threshold):
        raise ValueError(f"score_threshold must be a number, or None; got {score_threshold!r}")


def _about_document(error: ExampleError) -> ExampleError:
    """The engine's error, of which a context is a document here."""
    if error.text != "context":
        return error
    found = ExampleError(error.item, "document", error.reason, error.remedies, error.quote)
    found.__cause__ = error.__cause__
    return found


def _checked_documents(documents: Any) -> list[str]:
    """The documents as a list; a ValueError where they are no texts."""
    if isinstance(documents, str):
        raise ValueError("documents must be a sequence of texts; got a single string")
    if isinstance(documents, Iterator):
        raise ValueError(
            f"documents must be a sequence of texts, as answers have their numbers; got "
            f"{type(documents).__name__}: pass list(documents)"
        )
    return read_texts("documents", documents)


def _best_apart(
    candidates: list[ReaderAnswer], top_k: int, overlap_threshold: float | None
) -> list[ReaderAnswer]:
    """The ``top_k`` best candidates, best first, without those that overlap a better one too much."""
    answers: list[ReaderAnswer] = []
    for candidate in sorted(candidates, key=lambda answer: answer["score"], reverse=True):
        if len(answers) == top_k:
            break
        if overlap_threshold is None or not any(
            _overlap(candidate, better) > overlap_threshold for better in answers
        ):
            answers.append(candidate)
    return answers


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + tanh(x / 2))


def _overlap(a: ReaderAnswer, b: ReaderAnswer) -> float:
    """The common characters of two answers, as a part of the shorter one."""
    common = min(a["end"], b["end"]) - max(a["start"], b["start"])
    if a["document"] != b["document"] or common <= 0:
        return 0.0
    return common / min(a["end"] - a["start"], b["end"] - b["start"])
