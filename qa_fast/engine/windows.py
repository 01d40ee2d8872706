"""Windows of pairs on their way through the engine's stages, and what was done to them in all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from time import perf_counter
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from qa_fast.data.errors import Argument, ExampleError, Words
from qa_fast.data.sources import length_of
from qa_fast.decoding.search import Scoring
from qa_fast.decoding.spans import Spans, decode_spans, warmup
from qa_fast.texts.chunks import Chunks
from qa_fast.texts.places import TokenSpans
from qa_fast.texts.readings import Reading

from .batches import Plan
from .candidates import Part, parts, wanted
from .device import Runner, one_by_one
from .errors import BatchError, ModelError, OutOfMemory, numbers_in_words, raised_by
from .forward import Forward, Logits
from .options import Options
from .streams import Pair, Window
from .workers import Crew, Work

# Kernels for questions of up to so many chunks are compiled before they are needed. More are rare.
USUAL_CHUNKS = 100

_T = TypeVar("_T")

Stage = Literal["tokenize", "plan", "forward", "decode", "map"]
"""Where time is spent; each has its seconds in `Stats`."""


@dataclass(slots=True)
class Stats:
    """What an engine has done since it was made, or since its ``stats`` were replaced by new ones.

    Stages overlap: their times may add up to more than has passed. On a GPU "forward" is the time
    spent on starting the model and on waiting for the results of a window.

    Attributes:
        tokenize: seconds spent on making chunks from texts, or on waiting for a process that makes them.
        plan: seconds spent on laying them out in batches.
        forward: seconds spent on the model.
        decode: seconds spent on finding spans.
        map: seconds spent on making answers of them, or on waiting for a process that does.
        questions: pairs read, those with an error included.
        chunks: rows that the model read.
        tokens: tokens in them.
        padded_tokens: the same with the padding of the batches.
        batches: calls of the model that were planned.
    """

    tokenize: float = 0.0
    plan: float = 0.0
    forward: float = 0.0
    decode: float = 0.0
    map: float = 0.0
    questions: int = 0
    chunks: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0

    def add(self, other: Stats) -> None:
        """Add the counters of ``other`` to these."""
        for counter in fields(self):
            name = counter.name
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Adds the seconds that a ``with`` block takes to ``stage``."""
        begin = perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + perf_counter() - begin)


class Prepared(NamedTuple):
    """Consecutive pairs on their way through the stages."""

    first_item: int
    followed: bool
    questions: tuple[str, ...]
    contexts: tuple[str, ...]
    work: Work
    plan: Plan
    stats: Stats

    @property
    def chunks(self) -> Chunks:
        """The chunks of the pairs that can be used."""
        return self.work.cut.chunks

    @property
    def errors(self) -> list[ExampleError]:
        """An error for each of the others."""
        return self.work.cut.errors

    def items(self) -> range:
        """The numbers of its pairs."""
        return range(self.first_item, self.first_item + len(self.questions))

    def kept(self) -> list[int]:
        """Those of the pairs that have chunks, by question as these count them."""
        wrong = {error.item for error in self.errors}
        return [item for item in self.items() if item not in wrong]

    def not_finite(self, item: int) -> ExampleError:
        """The error of a pair for which the model gave logits that are not finite."""
        return self._error(
            item,
            "has NaN or infinite logits from the model",
            ["try ", Argument("dtype", "float32")],
            "see that the weights are sound",
        )

    def not_read(self, chunk: int, error: Exception, model: Any, device: object) -> ExampleError:
        """The error of a chunk's question, where the model failed at the chunk; see `Logits.failed`."""
        item = self.kept()[self.chunks.question_id[chunk]]
        if not isinstance(error, OutOfMemory):
            failure = self._error(item, f"cannot be read: {raised_by(model, error)}")
            failure.__cause__ = error
            return failure
        return self._error(
            item,
            f"does not fit into the memory of {device}, not even one chunk of "
            f"{self.chunks.length[chunk]} tokens by itself",
            ["lower ", Argument("max_seq_len")],
            "use a smaller model or dtype",
        )

    def _error(self, item: int, reason: str, *remedies: str | Words) -> ExampleError:
        quote = self.questions[item - self.first_item][:60]
        return ExampleError(item, "question", reason, remedies, quote)


Results = list[Reading | ExampleError]
"""A window's, in the order of its pairs."""


class _Search(NamedTuple):
    """The best spans of each chunk, or of each question."""

    scoring: Scoring
    per_chunk: bool
    top_k: int


class Stages:
    """What is done to the windows of one call of `Engine.read`, and by what.

    Args:
        model: the model.
        crew: works on texts.
        forward: runs the model.
        options: what the caller asks for, resolved.
        batch_size: most chunks in a batch.
        num_workers: processes for texts that the caller asks for; None: what pays.
        done: is given the `Stats` of each window that is finished.
        probabilities: whether the answers' probabilities are wanted.

    Attributes:
        options: as given.
        probabilities: as given.
        num_workers: as given.
        compiled: the kernels, where they are being compiled.
        note: what the caller should know of the tokenizer, once there is something.
    """

    def __init__(
        self,
        model: Any,
        crew: Crew,
        forward: Forward,
        options: Options,
        batch_size: int | None,
        num_workers: int | None,
        done: Callable[[Stats], None],
        probabilities: bool = False,
    ) -> None:
        self.options = options
        self.probabilities = probabilities
        self.compiled: Future[None] | None = None
        self.note: str | None = None
        self._model = model
        self._crew = crew
        self._works: set[Work] = set()
        self.num_workers = num_workers
        self._forward = forward
        self._batch_size = batch_size
        self._done = done

    def close(self) -> None:
        """Forget the windows that were not finished."""
        for work in list(self._works):
            self._forget(work)

    def _forget(self, work: Work) -> None:
        work.forget()
        self._works.discard(work)

    def compile(self, device: torch.device) -> None:
        """Have the kernels compiled that decode with these options on ``device``."""
        for search in self._searches(wanted(self.options)):
            warmup(
                device,
                top_k=search.top_k,
                max_answer_len=self.options.max_answer_len,
                scoring=search.scoring,
                max_seq_len=self._longest_chunk(),
                flat=True,
                max_chunks=None if search.per_chunk else USUAL_CHUNKS,
            )

    def prepare(self, asked: Window) -> Prepared:
        """What can be done before it is the window's turn with the model."""
        stats = Stats(questions=len(asked.pairs))
        options = self.options
        assert options.max_seq_len is not None  # they are resolved
        questions, contexts = zip(*asked.pairs, strict=True)
        with stats.timed("tokenize"):
            work = self._crew.work(
                (questions, contexts, asked.first_item),
                self.num_workers,
                max_seq_len=options.max_seq_len,
                doc_stride=options.doc_stride,
                max_question_len=options.max_question_len,
            )
        self._works.add(work)
        chunks = work.cut.chunks
        with stats.timed("plan"):
            plan = self._forward.plan(chunks, options.max_seq_len, self._batch_size)
        stats.chunks = len(chunks)
        stats.tokens = int(chunks.length.sum())
        stats.padded_tokens = plan.padded_tokens
        stats.batches = len(plan.batches)
        return Prepared(asked.first_item, asked.followed, questions, contexts, work, plan, stats)

    def run(self, window: Prepared, workers: Runner = one_by_one) -> Logits:
        """Run the model; on a GPU this returns before the work is done.

        Raises:
            ModelError: it failed, and not at single questions only.
        """
        with window.stats.timed("forward"), self._naming_questions(window):
            return self._forward.run(window.plan, workers)

    def start(self, window: Prepared, workers: Runner, share: bool) -> Callable[[], Results]:
        """Run the model and the decoder; on a GPU they go on while others are started.

        Args:
            window: the window.
            workers: run several batches at a time.
            share: see `Runner`.

        Returns:
            A function that waits for the results.
        """
        logits = self.run(window, partial(workers, share=share and not window.followed))
        with window.stats.timed("decode"):
            found = [
                (part, self._decode(part, logits))
                for part in parts(window.chunks, window.plan.row_offset, self.options)
            ]
        # An executor holds what it ran for some time after the result is there: not the window too.
        work = [(window, logits, deque(found))]
        return lambda: self._finish(*work.pop())

    def _searches(self, candidates: int) -> list[_Search]:
        """Per chunk for "probability" or on request, else per question; then for probabilities."""
        options = self.options
        searches = [_Search(options.scoring, options.decodes_chunks, candidates)]
        if self.probabilities and options.scoring != "shared":
            searches.append(_Search("shared", False, 1))
            if options.scoring == "probability":
                searches.append(_Search("logit", True, 1))
        return searches

    def _decode(self, part: Part, logits: Logits) -> Callable[[], list[Tensor]]:
        """Start finding spans, and their best ones under the other scorings of `_searches`."""
        chunks, device = part.chunks, self._forward.device
        if self.compiled is not None:
            wait([self.compiled])  # if it failed, so will this, and say why
        context, question_id = device.host(chunks.context), device.host(chunks.question_id)
        context_offset = device.host(chunks.context_offset)
        null_position, row_offset = device.host(chunks.null_position), device.host(part.row_offset)
        found: list[Tensor] = []
        for search in self._searches(part.candidates):
            spans = decode_spans(
                logits.start,
                logits.end,
                context,
                None if search.per_chunk else question_id,
                top_k=search.top_k,
                max_answer_len=self.options.max_answer_len,
                scoring=search.scoring,
                context_offset=None if search.per_chunk else context_offset,
                null_position=null_position,
                row_offset=row_offset,
                num_questions=len(chunks) if search.per_chunk else chunks.questions,
                max_seq_len=self._longest_chunk(),
            )
            found += [spans.score, spans.null_score] if found else spans
        return device.fetch(found)

    def _longest_chunk(self) -> int:
        """Most tokens in a chunk, in the 32 bits that the decoder has for it."""
        assert self.options.max_seq_len is not None
        return min(self.options.max_seq_len, 2**31 - 1)

    def _finish(
        self,
        window: Prepared,
        logits: Logits,
        decoded: deque[tuple[Part, Callable[[], list[Tensor]]]],
    ) -> Results:
        options, stats = self.options, window.stats
        results: dict[int, Reading | ExampleError] = {e.item: e for e in window.errors}
        kept = window.kept()
        while decoded:
            part, found_spans = decoded.popleft()
            with stats.timed("forward"), self._naming_questions(window):
                tensors = found_spans()
            spans, best = Spans(*tensors[:6]), [tensor.numpy() for tensor in tensors[6:]]
            items = [kept[question] for question in part.questions.tolist()]
            with stats.timed("map"):
                found = window.work.rank(
                    part.questions,
                    TokenSpans(*(tensor.numpy() for tensor in spans[:5])),
                    scoring=options.scoring,
                    per_chunk=options.decodes_chunks,
                    top_k=options.top_k,
                    align_to_words=options.align_to_words,
                    handle_impossible_answer=options.handle_impossible_answer,
                    best=best if self.probabilities else None,
                )
                contexts = [window.contexts[item - window.first_item] for item in items]
                results.update(zip(items, found.readings(contexts), strict=True))
            if found.hollow and self.note is None:
                self.note = window.work.hollow_note(part.questions, items, found.hollow)
            for question in self._nonfinite(part, spans):
                failure = window.not_finite(items[question])
                results[failure.item] = failure
            deeper = part.deeper(found.lacking, options) if found.lacking else None
            if deeper is not None:
                with stats.timed("decode"):
                    decoded.append((deeper, self._decode(deeper, logits)))
        for chunk, error in logits.failed.items():
            failure = window.not_read(chunk, error, self._model, self._forward.device.device)
            results[failure.item] = failure
        self._forget(window.work)
        self._done(stats)
        return [results[item] for item in window.items()]

    def _nonfinite(self, part: Part, spans: Spans) -> list[int]:
        """The questions whose logits are not all finite."""
        (rows,) = np.nonzero(spans.nonfinite.numpy())
        per_chunk = self.options.decodes_chunks
        return np.unique(part.chunks.question_id[rows] if per_chunk else rows).tolist()

    @contextmanager
    def _naming_questions(self, window: Prepared) -> Iterator[None]:
        """Errors of the model or of its device, with the questions that they hit."""
        try:
            yield
        except BatchError as failure:
            question = window.chunks.question_id[failure.chunks]
            hit, error = np.unique(question), failure.error
        except RuntimeError as caught:
            if not self._forward.runtime.is_device_lost(caught):
                raise
            hit, error = np.arange(window.chunks.questions), caught
        else:
            return
        kept = window.kept()
        items = numbers_in_words([kept[i] for i in hit])
        raise ModelError(f"{raised_by(self._model, error)} (while reading {items})") from error


def read_ahead(items: Iterator[_T | None], depth: int) -> Iterator[_T | None]:
    """Yields ``items`` with the next ``depth`` of them already taken.

    None among them, which is yielded too, means that the next one has to be waited for: those before
    it are yielded first. What ``items`` raises is raised after the items before it have been yielded.
    """
    taken: deque[_T] = deque()
    error: Exception | None = None
    try:
        for item in items:
            if item is None:
                yield from taken
                taken.clear()
                yield None
                continue
            taken.append(item)
            if len(taken) > depth:
                yield taken.popleft()
    except Exception as caught:
        error = caught
    yield from taken
    if error is not None:
        raise error


def with_progress(results: Iterator[_T], pairs: Iterable[Pair]) -> Iterator[_T]:
    """``results``, with a bar on standard error that counts them."""
    from tqdm.auto import tqdm

    with tqdm(total=length_of(pairs), unit="question") as bar:
        for result in results:
            bar.update()
            yield result
