"""From pairs of texts to readings: tokenize, plan batches, run the model, decode, map to characters.

Examples are worked through in windows, which `windows` cuts. A window's texts are tokenized in one
call, its chunks are sorted by length and cut into batches of at most ``max_batch_tokens`` padded
tokens, the batches' logits land in one flat buffer, and one `decode_spans` finds the answers of the
whole window. Memory therefore depends on the window, not on the number of examples, and which batch a
chunk shares changes no answer.

While the model reads one window, a thread makes the chunks of the next, and another the answers of the
last. So a GPU is given its next window before the results of the last one are waited for, which is the
only wait per window.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qa_fast.decoding.spans import Spans, decode_spans, warmup
from qa_fast.models.traits import check_model, position_limit, vocabulary_size

from .candidates import Part, parts, wanted
from .chunker import Chunker
from .device import Runner, is_device_lost
from .errors import BatchError, ExampleError, ModelError, numbers_in_words, raised_by, warn_caller
from .forward import Forward, Logits
from .options import Options, check_count, default_max_seq_len
from .readings import Reading, make_readings
from .streams import Pair, Window, submit_windows
from .windows import (
    Prepared,
    Stats,
    nonfinite_questions,
    not_finite_error,
    read_ahead,
    with_progress,
)

ErrorHandling = Literal["raise", "return"]

# Small for early results, large enough that batches of chunks of similar lengths can be found. Elsewhere
# than on a CPU batches are larger, and so are windows.
WINDOW_QUESTIONS = 256
OFF_CPU_FACTOR = 16
# Kernels for questions of up to so many chunks are compiled before they are needed. More are rare.
USUAL_CHUNKS = 100

_T = TypeVar("_T")


class TokenProbabilities(NamedTuple):
    """What `Engine.token_probabilities` found for a context of T tokens.

    Attributes:
        start: [T] the probability that an answer starts at each token.
        end: [T] that it ends there.
        characters: [T, 2] the half-open range of characters of each token.
    """

    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    characters: npt.NDArray[np.int64]


class Engine:
    """A question answering model and its tokenizer, ready to answer streams of questions.

    Several threads may read at a time. Callables and compiled models, which may keep state, are then
    called one after the other.

    Texts of different lengths share a batch, filled up with padding, where that changes no logits. Of
    most architectures of Transformers that is known; any other model is tried with a few rows when
    lengths first differ, and where padding does change them, or the trial fails, only rows of equal
    lengths share a batch.

    Args:
        model: a Transformers model for extractive question answering, or anything callable with
            ``input_ids``, ``attention_mask`` (and ``token_type_ids``) that returns ``start_logits``
            and ``end_logits`` of shape [B, N], as torch tensors or NumPy arrays.
        tokenizer: the model's fast tokenizer. The engine works with a copy.
        device: where to run, such as "cpu", "cuda", a GPU's index, -1 for the CPU; None leaves the
            model where it is. The model is moved in place. A callable that is no torch module gets
            CPU tensors.
        dtype: the weights' type, as a `torch.dtype` or its name; "auto" leaves them as they are.
            None means float32 on a CPU, where 16-bit types are slow and inexact, and "auto"
            elsewhere. float16 becomes float32 on a CPU. The model is converted in place.
        batch_size: most chunks in a batch.
        max_batch_tokens: most tokens in a batch, padding included; a single longer chunk is a batch
            of its own. None: on a CPU 2,048 to 4,096, the
            more the narrower the model; 65,536 elsewhere. Where a batch does not fit into
            memory, it is split, and the number lowered.
        compile: run the model through `torch.compile`. Where it repeats a layer, this layer is compiled,
            once for all layers and all batches; what lies around them is not. Another model is compiled
            as a whole: its batches then have at most 8 shapes, filled up with padding, unless the model
            reads padding, and the first batch of each takes long. It is for long streams.

    Attributes:
        model: the model.
        tokenizer: the tokenizer as given.
        device: where the model runs.
        batch_size: as given.
        position_limit: most tokens that the model can read at once; None where it has no limit.
        stats: counters; set ``engine.stats = Stats()`` to count anew.

    Example:
        >>> import qa_fast
        >>> engine = qa_fast.pipeline().engine
        >>> for reading in engine.read([("Who wrote it?", "Ada wrote the note.")], Options()):
        ...     print(reading.answers[0]["answer"])
        Ada
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: str | int | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int | None = None,
        max_batch_tokens: int | None = None,
        compile: bool = False,
    ) -> None:
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if max_batch_tokens is not None:
            check_count("max_batch_tokens", max_batch_tokens)
        check_model(model)
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.position_limit = position_limit(model)
        self.stats = Stats()
        self._chunker = Chunker(tokenizer, vocabulary=vocabulary_size(model))
        self._forward = Forward(
            model,
            tokenizer,
            device=device,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
            compile=compile,
        )
        self._lock = Lock()
        self._kernels: dict[Options, Future[None]] = {}
        self._note: str | None = None
        self._noted = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled are the model and the tokenizer; another process gets an engine made from them."""
        remade = partial(
            Engine,
            dtype="auto",
            batch_size=self.batch_size,
            max_batch_tokens=self.max_batch_tokens,
            compile=self._forward.compiled,
        )
        return remade, (self.model, self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._forward.device.device

    @property
    def threads(self) -> int | None:
        """PyTorch's threads, where all of them read a batch, even if it is to be ``reproducible``.

        That is on a CPU with ``compile``, with a model that is no torch module or keeps state between
        calls. None elsewhere: there their number need not change a bit.
        """
        if self.device.type != "cpu" or self._forward.reentrant:
            return None
        return torch.get_num_threads()

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens in a batch; less than asked for once memory has run out."""
        return self._forward.max_batch_tokens

    def read(
        self,
        pairs: Iterable[Pair],
        options: Options,
        *,
        batch_size: int | None = None,
        errors: ErrorHandling = "raise",
        progress: bool = False,
        reproducible: bool = False,
    ) -> Iterator[Reading | ExampleError]:
        """Read each pair in turn, taking ``pairs`` only a few windows ahead.

        An iterator, such as a generator, is a stream: it is gone through in a thread of its own, with
        the context variables of the caller, and nothing that was taken from it waits for more to come.
        The first reading is yielded before a second pair is taken. While a pair takes longer to come
        than its reading does, each is taken when the reading of the last has been: a source may wait
        for that. From a faster one 1, 4, 16, ... pairs are read together, up to 256 on a CPU and 4,096
        elsewhere, and at most four times as many are on their way. When the readings are closed or
        dropped, the thread ends with the pair that it waits for.

        Any other iterable, such as a list, is gone through in the caller's thread, 256 pairs at a time
        (elsewhere than on a CPU 256, 1,024, and then 4,096 each time). So is an object that has
        ``__iter__`` and is no iterator itself: for sources that work in one thread only, such as a
        cursor of sqlite3.

        What was read before an error, of an example, of ``pairs`` itself or of the model, is yielded
        before it is raised.

        Args:
            pairs: a question and a context each, in any iterable.
            options: what to return.
            batch_size: in place of the engine's.
            errors: "raise" the error of a pair that cannot be answered when its turn comes; or
                "return" it in place of its reading, and go on.
            progress: show a bar with questions per second on standard error.
            reproducible: read every batch on one thread of a CPU, also where several would read a few
                batches sooner: the last bits of a score depend on how many read it. Without effect
                where `threads` is a number.

        Yields:
            Per pair its reading, or its `ExampleError`: bad text, a question too long, logits that
            are not finite, a chunk that does not fit into memory or that the model fails at.

        Raises:
            ExampleError: with ``errors="raise"``.
            ModelError: the model failed, and not at single questions only.
            ValueError: an option that cannot be used, or a model whose output cannot; an item of
                ``pairs`` that is no pair.

        Example:
            >>> import qa_fast
            >>> engine = qa_fast.pipeline().engine
            >>> pairs = [("Who wrote it?", "Ada wrote it."), ("Who?", "")]
            >>> [type(x).__name__ for x in engine.read(pairs, Options(), errors="return")]
            ['Reading', 'ExampleError']
        """
        if not isinstance(options, Options):
            raise ValueError(f"options must be Options(...); got {type(options).__name__}")
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if errors not in get_args(ErrorHandling):
            names = " or ".join(map(repr, get_args(ErrorHandling)))
            raise ValueError(f"errors must be {names}; got {errors!r}")
        prepare = partial(
            self._prepare,
            options=options,
            max_seq_len=self._max_seq_len(options),
            batch_size=batch_size or self.batch_size,
        )
        results = self._read(pairs, prepare, options, errors == "raise", not reproducible)
        return with_progress(results, pairs) if progress else results

    def token_probabilities(
        self, question: str, context: str, options: Options
    ) -> TokenProbabilities:
        """How probable it is that an answer starts, or ends, at each token of ``context``.

        Each softmax runs over all chunks of the context and their null positions, as under
        ``scoring="shared"``. A token that stands in several chunks has its highest probability.

        Args:
            question: the question.
            context: the text, of T tokens.
            options: how it is cut into chunks.

        Raises:
            ExampleError: a pair that cannot be read.
        """
        max_seq_len = self._max_seq_len(options)
        window = self._prepare(
            Window(0, [(question, context)]),
            options=options,
            max_seq_len=max_seq_len,
            batch_size=None,
        )
        if window.errors:
            raise window.errors[0]
        chunks, row_offset = window.chunks, window.plan.row_offset
        with self._naming_questions(window):
            logits = self._forward.run(window.plan)
        for chunk, error in logits.failed.items():
            raise self._chunk_failure(window, chunk, error)
        encoding = chunks.encodings[0]
        has_null = chunks.null_position >= 0

        def probabilities(flat: Tensor) -> npt.NDArray[np.float64]:
            values = flat.double().cpu().numpy()
            inside = [
                values[row + first : row + last]
                for row, (first, last) in zip(row_offset, chunks.context, strict=True)
            ]
            null = values[(row_offset + chunks.null_position)[has_null]]
            support = np.concatenate([*inside, null])
            if not (support < np.inf).all():  # -inf is legal, NaN is not
                raise not_finite_error(window, 0)
            total = np.logaddexp.reduce(support)
            found = np.zeros(len(encoding))
            for offset, part in zip(chunks.context_offset, inside, strict=True):
                place = found[offset : offset + len(part)]
                np.maximum(place, np.exp(part - total), out=place)
            return found

        return TokenProbabilities(
            probabilities(logits.start), probabilities(logits.end), np.array(encoding.offsets)
        )

    def _read(
        self,
        pairs: Iterable[Pair],
        prepare: Callable[[Window], Prepared],
        options: Options,
        strict: bool,
        share: bool,
    ) -> Iterator[Reading | ExampleError]:
        process = os.getpid()
        first = WINDOW_QUESTIONS
        most = first * (1 if self.device.type == "cpu" else OFF_CPU_FACTOR)
        # One thread for the texts of the next window, one for the answers of the last.
        with (
            ThreadPoolExecutor(2, "qa-fast") as executor,
            self._forward.device.workers() as workers,
            closing(
                submit_windows(pairs, first, most, lambda window: executor.submit(prepare, window))
            ) as prepared,
        ):
            if self.device.type == "cuda" and options not in self._kernels:
                # By the thread for answers: there are none before the first ones have been decoded.
                self._kernels[options] = executor.submit(self._compile, options)
            started = (
                executor.submit(self._start(future.result(), options, workers, share))
                if future
                else None
                for future in read_ahead(prepared, 1)
            )
            for future in read_ahead(started, 1):
                results = future.result() if future else ()
                self._warn_once()
                for result in results:
                    if strict and isinstance(result, ExampleError):
                        raise result
                    yield result
                    if os.getpid() != process:
                        raise RuntimeError(
                            "results that were begun before a fork cannot go on in the new process, "
                            "as the threads that make them are not there: begin anew in it"
                        )

    def _compile(self, options: Options) -> None:
        """Have the kernels that decode with ``options`` compiled."""
        warmup(
            self.device,
            top_k=wanted(options),
            max_answer_len=options.max_answer_len,
            scoring=options.scoring,
            max_seq_len=self._longest_chunk(options),
            flat=True,
            max_chunks=None if options.decodes_chunks else USUAL_CHUNKS,
        )

    def _longest_chunk(self, options: Options) -> int:
        """`_max_seq_len` as the decoder takes it, in 32 bits: longer chunks there are none."""
        return min(self._max_seq_len(options), 2**31 - 1)

    def _max_seq_len(self, options: Options) -> int:
        limit = self.position_limit
        if options.max_seq_len is None:
            return default_max_seq_len(self.tokenizer, limit)
        if limit is not None and options.max_seq_len > limit:
            raise ValueError(
                f"max_seq_len must be at most {limit}, the positions that "
                f"{type(self.model).__name__} has; got {options.max_seq_len}"
            )
        return options.max_seq_len

    def _prepare(
        self,
        asked: Window,
        *,
        options: Options,
        max_seq_len: int,
        batch_size: int | None,
    ) -> Prepared:
        """What can be done before it is the window's turn with the model."""
        stats = Stats(questions=len(asked.pairs))
        questions, contexts = zip(*asked.pairs, strict=True)
        with stats.timed("tokenize"):
            chunks, errors = self._chunker.cut(
                questions,
                contexts,
                max_seq_len=max_seq_len,
                doc_stride=options.doc_stride,
                max_question_len=options.max_question_len,
                first_item=asked.first_item,
            )
        with stats.timed("plan"):
            plan = self._forward.plan(chunks, max_seq_len, batch_size)
        stats.chunks = len(chunks)
        stats.tokens = int(chunks.length.sum())
        stats.padded_tokens = plan.padded_tokens
        stats.batches = len(plan.batches)
        return Prepared(
            asked.first_item, asked.followed, questions, contexts, chunks, errors, plan, stats
        )

    def _start(
        self, window: Prepared, options: Options, workers: Runner, share: bool
    ) -> Callable[[], list[Reading | ExampleError]]:
        """Run the model and the decoder; on a GPU they go on while others are started."""
        workers = partial(workers, share=share and not window.followed)
        with window.stats.timed("forward"), self._naming_questions(window):
            logits = self._forward.run(window.plan, workers)
        with window.stats.timed("decode"):
            found = [
                (part, self._decode(part, logits, options))
                for part in parts(window.chunks, window.plan.row_offset, options)
            ]
        # An executor holds what it ran for some time after the result is there: not the window too.
        work = [(window, logits, deque(found))]
        return lambda: self._finish(*work.pop(), options)

    def _finish(
        self,
        window: Prepared,
        logits: Logits,
        decoded: deque[tuple[Part, Callable[[], list[Tensor]]]],
        options: Options,
    ) -> list[Reading | ExampleError]:
        """The window's results, in the order of its pairs."""
        first_item, stats = window.first_item, window.stats
        results: dict[int, Reading | ExampleError] = {e.item: e for e in window.errors}
        kept = window.kept()
        while decoded:
            part, wait = decoded.popleft()
            with stats.timed("forward"), self._naming_questions(window):
                spans = Spans(*wait())
            items = [kept[question] for question in part.questions.tolist()]
            with stats.timed("map"):
                found = make_readings(
                    part.chunks,
                    [window.contexts[item - first_item] for item in items],
                    spans,
                    scoring=options.scoring,
                    per_chunk=options.decodes_chunks,
                    top_k=options.top_k,
                    align_to_words=options.align_to_words,
                    handle_impossible_answer=options.handle_impossible_answer,
                )
            results.update(zip(items, found.readings, strict=True))
            if found.hollow and self._note is None:
                self._note = self._hollow_note(part, items, found.hollow)
            for question in nonfinite_questions(part.chunks, spans, options):
                failure = not_finite_error(window, items[question])
                results[failure.item] = failure
            deeper = part.deeper(found.lacking, options) if found.lacking else None
            if deeper is not None:
                with stats.timed("decode"):
                    decoded.append((deeper, self._decode(deeper, logits, options)))
        for chunk, error in logits.failed.items():
            failure = self._chunk_failure(window, chunk, error)
            results[failure.item] = failure
        with self._lock:
            self.stats.add(stats)
        return [results[item] for item in window.items()]

    def _warn_once(self) -> None:
        """What was noted in another thread is told in the caller's."""
        if self._note is not None and not self._noted:
            self._noted = True
            warn_caller(self._note)

    def _hollow_note(
        self, part: Part, items: list[int], hollow: set[tuple[int, int]]
    ) -> str | None:
        """What to tell of the first of ``hollow`` tokens that has a text; see `Readings`."""
        for question, token in sorted(hollow):
            encoding = part.chunks.encodings[question]
            text = self._chunker.text_of(encoding.ids[token])
            # A space may have none: no answer ends with it. (So it is spelled without a decoder.)
            if text.strip().strip("Ġ▁"):
                return (
                    f"the tokenizer gives the token {text!r} no characters of its own (token {token} "
                    f"of context {items[question]}, at character {encoding.offsets[token][0]}): "
                    "answers that begin or end there may be a little too long or too short; a newer "
                    "version of tokenizers, or of the model's tokenizer.json, may do better"
                )
        return None

    def _chunk_failure(self, window: Prepared, chunk: int, error: Exception | None) -> ExampleError:
        """That of a chunk's question, where the model failed at the chunk; see `Logits.failed`."""
        reason = (
            f"does not fit into the memory of {self.device}, not even one chunk of "
            f"{window.chunks.length[chunk]} tokens by itself; lower max_seq_len, or use a smaller model "
            "or dtype"
        )
        if error is not None:
            reason = f"cannot be read: {raised_by(self.model, error)}"
        item = window.kept()[window.chunks.question_id[chunk]]
        failure = ExampleError(item, f"question {item} ({window.shown(item)}) {reason}")
        failure.__cause__ = error
        return failure

    @contextmanager
    def _naming_questions(self, window: Prepared) -> Iterator[None]:
        """Errors of the model or of its device, with the questions that they hit."""
        try:
            yield
        except BatchError as failure:
            question = window.chunks.question_id[failure.chunks]
            hit, error = np.unique(question), failure.error
        except RuntimeError as caught:
            if not is_device_lost(caught):
                raise
            hit, error = np.arange(len(window.chunks.encodings)), caught
        else:
            return
        kept = window.kept()
        items = numbers_in_words([kept[i] for i in hit])
        raise ModelError(f"{raised_by(self.model, error)} (while reading {items})") from error

    def _decode(self, part: Part, logits: Logits, options: Options) -> Callable[[], list[Tensor]]:
        """Start finding spans: per chunk for "probability" or on request, else per question."""
        chunks, device, per_chunk = part.chunks, self._forward.device, options.decodes_chunks
        host = device.host
        if options in self._kernels:
            wait([self._kernels[options]])  # if it failed, so will this, and say why
        spans = decode_spans(
            logits.start,
            logits.end,
            host(chunks.context),
            None if per_chunk else host(chunks.question_id),
            top_k=part.candidates,
            max_answer_len=options.max_answer_len,
            scoring=options.scoring,
            context_offset=None if per_chunk else host(chunks.context_offset),
            null_position=host(chunks.null_position),
            row_offset=host(part.row_offset),
            num_questions=len(chunks) if per_chunk else len(chunks.encodings),
            max_seq_len=self._longest_chunk(options),
        )
        return device.fetch(spans)
