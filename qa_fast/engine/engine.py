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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from qa_fast.data.errors import Argument, ArgumentError, ExampleError
from qa_fast.decoding.tokens import token_probabilities
from qa_fast.models.devices import to_device
from qa_fast.models.runtime import Runtime
from qa_fast.models.torch_runtime import TorchRuntime
from qa_fast.texts.chunker import Chunker, default_doc_stride, default_max_seq_len
from qa_fast.texts.readings import Reading

from .device import side_by_side
from .errors import warn_caller
from .forward import Forward
from .options import Options, check_count
from .streams import Pair, Window, submit_windows
from .threads import Threads
from .windows import Stages, Stats, read_ahead, with_progress
from .workers import Crew

ErrorHandling = Literal["raise", "return"]

# Small for early results, large enough that batches of chunks of similar lengths can be found. Elsewhere
# than on a CPU batches are larger, and so are windows.
WINDOW_QUESTIONS = 256
OFF_CPU_FACTOR = 16


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
        num_workers: processes that tokenize and make answers, for a GPU that is faster than one process
            can do that; they start once, and each has its tokenizer. 0: none. None: some for a long
            stream, with a GPU and cores to spare.

    Attributes:
        model: the model.
        tokenizer: the tokenizer as given.
        device: where the model runs.
        batch_size: as given.
        num_workers: as given.
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
        num_workers: int | None = None,
    ) -> None:
        if num_workers is not None:
            check_count("num_workers", num_workers, 0)
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if max_batch_tokens is not None:
            check_count("max_batch_tokens", max_batch_tokens)
        runtime = _runtime(model, device, dtype, compile)
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.num_workers = num_workers
        if runtime.note is not None:
            warn_caller(runtime.note)
        self.position_limit = runtime.position_limit
        self.stats = Stats()
        chunker = Chunker(tokenizer, vocabulary=runtime.vocabulary_size)
        self._compile = compile
        self._forward = Forward(runtime, tokenizer, max_batch_tokens=max_batch_tokens)
        self._crew = Crew(chunker, on_gpu=self.device.type != "cpu")
        self._lock = Lock()
        self._kernels: dict[tuple[Options, bool], Future[None]] = {}
        self._noted = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled are the model and the tokenizer; another process gets an engine made from them."""
        remade = partial(
            Engine,
            dtype="auto",
            batch_size=self.batch_size,
            max_batch_tokens=self.max_batch_tokens,
            compile=self._compile,
            num_workers=self.num_workers,
        )
        return remade, (self.model, self.tokenizer)

    @property
    def runtime(self) -> Runtime:
        """What runs the model."""
        return self._forward.runtime

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.runtime.device

    @property
    def threads(self) -> int | None:
        """PyTorch's threads, where all of them read a batch, even if it is to be ``reproducible``.

        That is on a CPU with ``compile``, with a model that is no torch module or keeps state between
        calls. None elsewhere: there their number need not change a bit.
        """
        if self.device.type != "cpu" or self.runtime.reentrant:
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
        num_workers: int | None = None,
        errors: ErrorHandling = "raise",
        progress: bool = False,
        reproducible: bool = False,
        probabilities: bool = False,
    ) -> Iterator[Reading | ExampleError]:
        """Read each pair in turn, taking ``pairs`` only a few windows ahead.

        An iterator, such as a generator, is a stream: it is gone through in a thread of its own, with
        the context variables of the caller, and nothing that was taken from it waits for more to come.
        The first reading is yielded before a second pair is taken. While a pair takes longer to come
        than its reading does, each is taken when the reading of the last has been: a source may wait
        for that. From a faster one 1, 4, 16, ... pairs are read together, up to 256 on a CPU and 4,096
        elsewhere, and at most four times as many are on their way (with N workers 2 N + 2 times). When
        the readings are closed or dropped, the thread ends with the pair that it waits for.

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
            num_workers: likewise. With N of them up to N windows wait before the model and N behind
                it, where else one does.
            errors: "raise" the error of a pair that cannot be answered when its turn comes; or
                "return" it in place of its reading, and go on.
            progress: show a bar with questions per second on standard error.
            reproducible: read every batch on one thread of a CPU, also where several would read a few
                batches sooner: the last bits of a score depend on how many read it. Without effect
                where `threads` is a number.
            probabilities: also say how probable each answer is among all spans of its question
                (`Reading.probabilities`): its score under ``scoring="shared"``, whatever the scoring.
                Answers and scores stay what they are; the spans are searched once more, for the best.

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
        if num_workers is not None:
            check_count("num_workers", num_workers, 0)
        if errors not in get_args(ErrorHandling):
            names = " or ".join(map(repr, get_args(ErrorHandling)))
            raise ValueError(f"errors must be {names}; got {errors!r}")
        num_workers = self.num_workers if num_workers is None else num_workers
        stages = self._stages(options, batch_size or self.batch_size, num_workers, probabilities)
        results = self._read(pairs, stages, errors == "raise", not reproducible)
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
        stages = self._stages(options, None)
        window = stages.prepare(Window(0, [(question, context)]))
        if window.errors:
            raise window.errors[0]
        logits = stages.run(window)
        for chunk, error in logits.failed.items():
            raise window.not_read(chunk, error, self.model, self.device)
        chunks = window.chunks
        encoding = chunks.encodings[0]
        start, end = (
            token_probabilities(
                flat.double().cpu().numpy(),
                chunks.context,
                chunks.context_offset,
                chunks.null_position.tolist(),
                window.plan.row_offset,
                len(encoding),
            )
            for flat in (logits.start, logits.end)
        )
        if start is None or end is None:
            raise window.not_finite(0)
        return TokenProbabilities(start, end, np.array(encoding.offsets))

    def _stages(
        self,
        options: Options,
        batch_size: int | None,
        num_workers: int | None = 0,
        probabilities: bool = False,
    ) -> Stages:
        return Stages(
            self.model,
            self._crew,
            self._forward,
            self.resolved(options),
            batch_size,
            num_workers,
            self._done,
            probabilities,
        )

    def _done(self, stats: Stats) -> None:
        with self._lock:
            self.stats.add(stats)

    def _read(
        self, pairs: Iterable[Pair], stages: Stages, strict: bool, share: bool
    ) -> Iterator[Reading | ExampleError]:
        process = os.getpid()
        first = WINDOW_QUESTIONS
        most = first * (1 if self.device.type == "cpu" else OFF_CPU_FACTOR)
        # Windows ahead of the model, and behind it. One thread for the texts of the next window and one
        # for the answers of the last; where processes do both, so many for each of them.
        ahead = max(1, self._crew.most(stages.num_workers))
        with (
            closing(stages),
            Threads(2 * ahead, "qa-fast") as executor,
            side_by_side(self.runtime) as workers,
            closing(
                submit_windows(
                    pairs, first, most, lambda window: executor.submit(stages.prepare, window)
                )
            ) as prepared,
        ):
            if self.device.type == "cuda":
                # By the thread for answers: there are none before the first ones have been decoded.
                stages.compiled = self._compiled(stages, executor)
            started = (
                executor.submit(stages.start(future.result(), workers, share)) if future else None
                for future in read_ahead(prepared, ahead)
            )
            for future in read_ahead(started, ahead):
                results = future.result() if future else ()
                self._warn_once(stages.note)
                for note in self._crew.news():
                    warn_caller(note)
                for result in results:
                    if strict and isinstance(result, ExampleError):
                        raise result
                    yield result
                    if os.getpid() != process:
                        raise RuntimeError(
                            "results that were begun before a fork cannot go on in the new process, "
                            "as the threads that make them are not there: begin anew in it"
                        )

    def _compiled(self, stages: Stages, executor: Threads) -> Future[None]:
        """The kernels that decode with these options, once for all calls with them."""
        wanted = stages.options, stages.probabilities
        if wanted not in self._kernels:
            self._kernels[wanted] = executor.submit(stages.compile, self.device)
        return self._kernels[wanted]

    def _warn_once(self, note: str | None) -> None:
        """What was noted in another thread is told in the caller's."""
        if note is not None and not self._noted:
            self._noted = True
            warn_caller(note)

    def resolved(self, options: Options) -> Options:
        """``options`` with the numbers that None stands for in ``max_seq_len`` and ``doc_stride``.

        Raises:
            ValueError: more tokens in a chunk than the model has positions.
        """
        limit, length = self.position_limit, options.max_seq_len
        if length is None:
            length = default_max_seq_len(self.tokenizer, limit)
        elif limit is not None and length > limit:
            raise ArgumentError(
                Argument("max_seq_len"),
                f" must be at most {limit}, the positions that {type(self.model).__name__} has; got "
                f"{length}",
            )
        stride = default_doc_stride(length) if options.doc_stride is None else options.doc_stride
        return replace(options, max_seq_len=length, doc_stride=stride)


def _runtime(model: Any, device: Any, dtype: str | torch.dtype | None, compile: bool) -> Runtime:
    """What runs ``model``: itself, where it is a `Runtime`."""
    if isinstance(model, type) or not isinstance(model, Runtime):
        return TorchRuntime(model, device=device, dtype=dtype, compile=compile)
    kind = type(model).__name__
    if compile:
        raise ValueError(f"compile is for PyTorch's models; got a {kind}, which is compiled")
    if device is not None and to_device(device) != model.device:
        raise ValueError(f"the {kind} runs on {model.device}; got device={device!r}")
    if dtype not in (None, "auto", model.dtype):
        raise ValueError(f"the {kind} computes in {model.dtype}; got dtype={dtype!r}")
    return model
