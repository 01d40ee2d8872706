"""From pairs of texts to answers: tokenize, plan batches, run the model, decode, map to characters.

Examples are worked through in *windows*. A window's texts are tokenized in one call, its chunks are
sorted by length and cut into batches of at most ``max_batch_tokens`` padded tokens, the batches'
logits land in one flat buffer, and one `decode_spans` finds the answers of the whole window. Memory
therefore depends on the window, not on the number of examples, and which batch a chunk shares
changes no answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .answers import Reading, candidate_count, make_readings
from .chunks import Chunker, Chunks, ExampleError, default_max_seq_len
from .spans import Scoring, Spans, decode_spans

Pair = tuple[str, str]
"""A question and its context."""

ErrorHandling = Literal["raise", "return"]

STAGES = ("tokenize", "plan", "forward", "decode", "map")

WINDOW_QUESTIONS = 256
WINDOW_CHARACTERS = 1 << 22
BATCH_TOKENS = {"cpu": 2048, "other": 32768}


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


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller can ask for; every field is checked.

    Attributes:
        top_k: most answers per question.
        max_answer_len: most tokens in an answer.
        max_seq_len: most tokens in a chunk; None for 384, or the model's limit where that is less.
        doc_stride: context tokens that consecutive chunks share; None for
            ``min(max_seq_len // 2, 128)``.
        max_question_len: cut questions to that many tokens; None never cuts one.
        handle_impossible_answer: let the null answer (``""``) compete. Its score is the [CLS]
            token's, so with a tokenizer that adds none there is no null answer.
        align_to_words: widen answers to whole words.
        scoring: "probability": each chunk by itself, answers with the same text merged, as in
            Transformers' pipeline; "shared": probabilities that compare across chunks; "logit":
            sums of start and end logit.
    """

    top_k: int = 1
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    max_question_len: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    scoring: Scoring = "probability"

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k)
        check_count("max_answer_len", self.max_answer_len)
        for name, least in (("max_seq_len", 1), ("doc_stride", 0), ("max_question_len", 1)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        for name in ("handle_impossible_answer", "align_to_words"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; got {getattr(self, name)!r}")
        if self.scoring not in get_args(Scoring):
            names = ", ".join(map(repr, get_args(Scoring)))
            raise ValueError(f"scoring must be one of {names}; got {self.scoring!r}")


@dataclass(slots=True)
class Stats:
    """What an engine has done since it was made, or since its ``stats`` were replaced by new ones.

    Attributes:
        seconds: per stage the time spent in it: "tokenize" (chunks made from texts), "plan"
            (batches), "forward" (the model), "decode" (spans) and "map" (answers).
        questions: pairs read, those with an error included.
        chunks: rows that the model read.
        tokens: tokens in them.
        padded_tokens: the same with the padding of the batches.
        batches: calls of the model.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    questions: int = 0
    chunks: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0


class Engine:
    """A question answering model and its tokenizer, ready to answer streams of questions.

    Args:
        model: a Transformers model for extractive question answering, or anything callable with
            ``input_ids``, ``attention_mask`` (and ``token_type_ids``) that returns ``start_logits``
            and ``end_logits`` of shape [B, N], as torch tensors or NumPy arrays.
        tokenizer: the model's fast tokenizer.
        device: where to run, such as "cpu", "cuda", a GPU's index, -1 for the CPU; None leaves the
            model where it is. The model is moved in place. A callable that is no torch module gets
            CPU tensors.
        dtype: the weights' type, as a `torch.dtype` or its name; "auto" leaves them as they are.
            None means float32 on a CPU, where 16-bit types are slow and inexact, and "auto"
            elsewhere. The model is converted in place.
        batch_size: most chunks in a batch.
        max_batch_tokens: most tokens in a batch, padding included; a single longer chunk is a batch
            of its own. None: 2,048 on a CPU, 32,768 elsewhere.

    Example:
        >>> import qa_fast
        >>> engine = qa_fast.pipeline().engine
        >>> for reading in engine.read([("Who wrote it?", "Ada wrote the note.")], Options()):
        ...     print(reading.answers[0]["answer"])
        Ada

    Attributes:
        stats: counters; set ``engine.stats = Stats()`` to count anew.
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
    ) -> None:
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if max_batch_tokens is not None:
            check_count("max_batch_tokens", max_batch_tokens)
        self.model = model
        self.tokenizer = tokenizer
        self.device = _place(model, device, dtype)
        self.batch_size = batch_size
        self.max_batch_tokens = max_batch_tokens or BATCH_TOKENS.get(
            self.device.type, BATCH_TOKENS["other"]
        )
        self.position_limit = position_limit(model)
        self.stats = Stats()
        self._chunker = Chunker(tokenizer)
        self._accepted = _accepted_arguments(model, tokenizer)
        config = getattr(model, "config", None)
        pads = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), 0)
        self._pad_id = next(pad for pad in pads if pad is not None)

    def read(
        self,
        pairs: Iterable[Pair],
        options: Options,
        *,
        batch_size: int | None = None,
        errors: ErrorHandling = "raise",
    ) -> Iterator[Reading | ExampleError]:
        """Read each pair in turn, taking ``pairs`` only as far as the current window.

        Args:
            pairs: a question and a context each, in any iterable.
            options: what to return.
            batch_size: in place of the engine's.
            errors: "raise" the error of a pair that cannot be answered when its turn comes, after
                the readings of the pairs before it; or "return" it in place of its reading, and go
                on.

        Yields:
            Per pair its reading, or its `ExampleError`: bad text, a question too long, logits that
            are not finite.

        Raises:
            ExampleError: with ``errors="raise"``.
            ValueError: an option that cannot be used, or a model whose output cannot.

        Example:
            >>> import qa_fast
            >>> engine = qa_fast.pipeline().engine
            >>> pairs = [("Who wrote it?", "Ada wrote it."), ("Who?", "")]
            >>> [type(x).__name__ for x in engine.read(pairs, Options(), errors="return")]
            ['Reading', 'ExampleError']
        """
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if errors not in get_args(ErrorHandling):
            names = " or ".join(map(repr, get_args(ErrorHandling)))
            raise ValueError(f"errors must be {names}; got {errors!r}")
        return self._read(pairs, self._cut(options), options, batch_size, errors == "raise")

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
        chunks, errors = self._cut(options)([question], [context])
        if errors:
            raise errors[0]
        *logits, row_offset = self._forward(chunks, None)
        encoding = chunks.encodings[0]
        has_null = chunks.null_position >= 0
        found = []
        for flat in logits:
            values = flat.double().cpu().numpy()
            inside = [
                values[row + first : row + last]
                for row, (first, last) in zip(row_offset, chunks.context, strict=True)
            ]
            support = np.concatenate(
                [*inside, values[(row_offset + chunks.null_position)[has_null]]]
            )
            total = np.logaddexp.reduce(support)
            probability = np.zeros(len(encoding))
            for offset, part in zip(chunks.context_offset, inside, strict=True):
                place = probability[offset : offset + len(part)]
                np.maximum(place, np.exp(part - total), out=place)
            found.append(probability)
        start, end = found
        return TokenProbabilities(start, end, np.array(encoding.offsets))

    def _cut(self, options: Options) -> Callable[..., tuple[Chunks, list[ExampleError]]]:
        return partial(
            self._chunker.cut,
            max_seq_len=self._max_seq_len(options),
            doc_stride=options.doc_stride,
            max_question_len=options.max_question_len,
        )

    def _read(
        self,
        pairs: Iterable[Pair],
        cut: Callable[..., tuple[Chunks, list[ExampleError]]],
        options: Options,
        batch_size: int | None,
        strict: bool,
    ) -> Iterator[Reading | ExampleError]:
        first_item = 0
        for window in _windows(pairs):
            questions, contexts = zip(*window, strict=True)
            with self._timed("tokenize"):
                chunks, found = cut(questions, contexts, first_item=first_item)
            results: dict[int, Reading | ExampleError] = {e.item - first_item: e for e in found}
            kept = [i for i in range(len(window)) if i not in results]
            if kept:
                logits = self._forward(chunks, batch_size)
                with self._timed("decode"):
                    spans = self._decode(chunks, *logits, options)
                with self._timed("map"):
                    readings = make_readings(
                        chunks,
                        [contexts[i] for i in kept],
                        spans,
                        scoring=options.scoring,
                        top_k=options.top_k,
                        align_to_words=options.align_to_words,
                        handle_impossible_answer=options.handle_impossible_answer,
                    )
                results.update(zip(kept, readings, strict=True))
                for nth in _nonfinite(chunks, spans, options):
                    i = kept[nth]
                    results[i] = ExampleError(
                        first_item + i,
                        "the model gave NaN or infinite logits for question "
                        f"{first_item + i} ({questions[i][:60]!r}); try dtype='float32', and see "
                        "that the weights are sound",
                    )
            self.stats.questions += len(window)
            for i in range(len(window)):
                result = results[i]
                if strict and isinstance(result, ExampleError):
                    raise result
                yield result
            first_item += len(window)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.stats.seconds[stage] += perf_counter() - begin

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

    def _forward(
        self, chunks: Chunks, batch_size: int | None
    ) -> tuple[Tensor, Tensor, npt.NDArray[np.int64]]:
        """Start and end logits of all chunks, flat float32, and the offset of each chunk's row."""
        with self._timed("plan"):
            batches = plan_batches(
                chunks.length, self.max_batch_tokens, batch_size or self.batch_size
            )
        # A batch's logits are stored as they come, padding included: the decoder finds each row by
        # its offset and reads only the context, so nothing has to be cut out or sorted back.
        widths = [int(chunks.length[rows].max()) for rows in batches]
        sizes = [len(rows) * width for rows, width in zip(batches, widths, strict=True)]
        row_offset = np.empty(len(chunks), np.int64)
        start, end = (torch.empty(sum(sizes), device=self.device) for _ in range(2))
        done = 0
        self.stats.chunks += len(chunks)
        self.stats.tokens += int(chunks.length.sum())
        self.stats.padded_tokens += sum(sizes)
        self.stats.batches += len(batches)
        with self._timed("forward"), torch.inference_mode(), _eval_mode(self.model):
            for rows, width, size in zip(batches, widths, sizes, strict=True):
                row_offset[rows] = done + np.arange(len(rows)) * width
                output = self.model(**self._inputs(chunks, rows, width))
                logits = _logits(output, self.model, (len(rows), width))
                start[done : done + size], end[done : done + size] = logits
                done += size
        return start, end, row_offset

    def _inputs(
        self, chunks: Chunks, rows: npt.NDArray[np.int64], width: int
    ) -> dict[str, Tensor | bool]:
        """The model's arguments for a batch, padded on the right.

        On the right whatever the tokenizer says: then a token's position does not depend on the
        batch.
        """
        place = np.arange(width)
        mask = place < chunks.length[rows, None]
        index = np.minimum(chunks.row_offset[rows, None] + place, len(chunks.input_ids) - 1)
        arrays = {
            "input_ids": np.where(mask, chunks.input_ids[index], self._pad_id),
            "attention_mask": mask,
            "token_type_ids": np.where(mask, chunks.token_type_ids[index], 0),
        }
        inputs: dict[str, Tensor | bool] = {
            name: torch.from_numpy(array.astype(np.int64)).to(self.device)
            for name, array in arrays.items()
            if name in self._accepted
        }
        if "use_cache" in self._accepted:
            inputs["use_cache"] = False
        return inputs

    def _decode(
        self,
        chunks: Chunks,
        start: Tensor,
        end: Tensor,
        row_offset: npt.NDArray[np.int64],
        options: Options,
    ) -> Spans:
        """The window's spans, on the CPU: per chunk for "probability", else per question."""
        per_chunk = options.scoring == "probability"

        def put(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        spans = decode_spans(
            start,
            end,
            put(chunks.context),
            None if per_chunk else put(chunks.question_id),
            top_k=candidate_count(options.top_k, options.align_to_words),
            max_answer_len=options.max_answer_len,
            scoring=options.scoring,
            context_offset=None if per_chunk else put(chunks.context_offset),
            null_position=put(chunks.null_position),
            row_offset=put(row_offset),
            num_questions=len(chunks) if per_chunk else len(chunks.encodings),
        )
        return Spans(*(field.cpu() for field in spans))


def plan_batches(
    length: npt.NDArray[np.int32], max_tokens: int, batch_size: int | None = None
) -> list[npt.NDArray[np.int64]]:
    """Cut chunks into batches of similar lengths, longest first.

    Args:
        length: [C] tokens per chunk.
        max_tokens: most tokens in a batch after padding to its longest chunk. A chunk that is
            longer by itself still makes a batch, of one.
        batch_size: most chunks in a batch; None for no such limit.

    Returns:
        Index arrays that together hold every chunk once.

    Example:
        >>> [rows.tolist() for rows in plan_batches(np.array([3, 9, 4, 8], np.int32), 18)]
        [[1, 3], [2, 0]]
    """
    order = np.argsort(-length, kind="stable")
    batches, done = [], 0
    while done < len(order):
        rows = max(1, max_tokens // int(length[order[done]]))
        rows = min(rows, batch_size or rows)
        batches.append(order[done : done + rows])
        done += rows
    return batches


def position_limit(model: Any) -> int | None:
    """Most tokens that ``model`` has positions for; None where it has no table of them.

    Learned and sinusoidal position embeddings are looked up in a table. Tables of RoBERTa and its
    kin begin after the padding index, BART's after an offset of its own. Models with relative or
    rotary positions have no table, and no hard limit.
    """
    limits = [
        table.num_embeddings
        - (0 if table.padding_idx is None else table.padding_idx + 1)
        - getattr(table, "offset", 0)
        for name, table in (model.named_modules() if isinstance(model, torch.nn.Module) else ())
        if name.rpartition(".")[2] in {"position_embeddings", "embed_positions", "wpe"}
        and isinstance(table, torch.nn.Embedding)
    ]
    return min(limits, default=None)


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise a ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")


def _windows(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Consecutive pairs, as many at a time as are worth working on together."""
    window: list[Pair] = []
    characters = 0
    for question, context in pairs:
        window.append((question, context))
        characters += sum(len(text) for text in (question, context) if isinstance(text, str))
        if len(window) == WINDOW_QUESTIONS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _place(
    model: Any, device: str | int | torch.device | None, dtype: str | torch.dtype | None
) -> torch.device:
    """Move and convert ``model`` in place, as far as asked and needed; returns its device."""
    if not isinstance(model, torch.nn.Module):
        return torch.device("cpu")
    weights = [p for p in model.parameters() if p.is_floating_point()]
    now = weights[0].device if weights else torch.device("cpu")
    target = now if device is None else to_device(device)
    if dtype is None and target.type == "cpu":
        dtype = torch.float32
    wanted = None if dtype in (None, "auto") else to_dtype(dtype)
    if target != now:
        model.to(target)
    if wanted is not None and any(p.dtype != wanted for p in weights):
        model.to(wanted)
    return target


def to_device(device: str | int | torch.device) -> torch.device:
    """A device by its name, or by a GPU's index (-1: the CPU), as in Transformers' pipelines."""
    if isinstance(device, int) and device < 0:
        device = "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from None


def to_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating point type by its name in torch."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            "dtype must be 'float32', 'bfloat16', 'float16', a torch dtype, or 'auto' for the "
            f"checkpoint's own; got {dtype!r}"
        )
    return found


def _accepted_arguments(model: Any, tokenizer: Any) -> set[str]:
    """Those of the engine's arguments that ``model`` takes and ``tokenizer`` means it to have."""
    function = model.forward if hasattr(model, "forward") else model
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    accepted = {"input_ids", "attention_mask", "token_type_ids", "use_cache"} & set(parameters)
    if "input_ids" not in accepted:
        if not takes_any:
            raise ValueError(
                f"{type(model).__name__} takes no input_ids; a model for extractive question "
                "answering is needed"
            )
        accepted = {"input_ids", "attention_mask", "token_type_ids"}
    if "token_type_ids" not in tokenizer.model_input_names:
        accepted.discard("token_type_ids")
    return accepted


@contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    """Without dropout; a model in training goes back to it afterwards."""
    if not getattr(model, "training", False):
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _logits(output: Any, model: Any, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Start and end logits, flat, from what ``model`` returned for a batch of ``shape``."""
    if isinstance(output, Mapping):
        found: Sequence[Any] = [output.get("start_logits"), output.get("end_logits")]
    else:
        found = output[:2] if isinstance(output, (tuple, list)) else []
    logits = [
        torch.as_tensor(x) if isinstance(x, (Tensor, np.ndarray)) else torch.empty(0) for x in found
    ]
    if [tuple(x.shape) for x in logits] != [shape, shape]:
        got = (
            f"{type(output).__name__} with "
            + (", ".join(map(str, output)) if isinstance(output, Mapping) else "other contents")
            if isinstance(output, (Mapping, tuple, list))
            else type(output).__name__
        )
        raise ValueError(
            f"{type(model).__name__} cannot be used: it returned {got}, where start_logits and "
            f"end_logits are needed, each of shape [batch, tokens] = {list(shape)}; use a "
            "...ForQuestionAnswering class (XLNet and XLM: ...ForQuestionAnsweringSimple)"
        )
    start, end = (x.reshape(-1) for x in logits)
    return start, end


def _nonfinite(chunks: Chunks, spans: Spans, options: Options) -> list[int]:
    """The questions whose logits are not all finite."""
    (rows,) = np.nonzero(spans.nonfinite.numpy())
    per_chunk = options.scoring == "probability"
    return np.unique(chunks.question_id[rows] if per_chunk else rows).tolist()
