"""Windows of pairs on their way through the engine's stages, and what was done to them in all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np

from qa_fast.data.sources import length_of
from qa_fast.decoding.spans import Spans

from .batches import Plan
from .chunks import Chunks
from .errors import ExampleError
from .options import Options
from .streams import Pair

_T = TypeVar("_T")


@dataclass(slots=True)
class Stats:
    """What an engine has done since it was made, or since its ``stats`` were replaced by new ones.

    Stages overlap: their times may add up to more than has passed. On a GPU "forward" is the time
    spent on starting the model and on waiting for the results of a window.

    Attributes:
        tokenize: seconds spent on making chunks from texts.
        plan: seconds spent on laying them out in batches.
        forward: seconds spent on the model.
        decode: seconds spent on finding spans.
        map: seconds spent on making answers of them.
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
    def timed(self, stage: str) -> Iterator[None]:
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
    chunks: Chunks
    errors: list[ExampleError]
    plan: Plan
    stats: Stats

    def items(self) -> range:
        """The numbers of its pairs."""
        return range(self.first_item, self.first_item + len(self.questions))

    def shown(self, item: int) -> str:
        """The question of a pair, as errors show it."""
        return repr(self.questions[item - self.first_item][:60])

    def kept(self) -> list[int]:
        """Those of the pairs that have chunks, by question as these count them."""
        wrong = {error.item for error in self.errors}
        return [item for item in self.items() if item not in wrong]


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


def not_finite_error(window: Prepared, item: int) -> ExampleError:
    """That of a pair for which the model gave logits that are not finite."""
    return ExampleError(
        item,
        f"the model gave NaN or infinite logits for question {item} ({window.shown(item)}); try "
        "dtype='float32', and see that the weights are sound",
    )


def nonfinite_questions(chunks: Chunks, spans: Spans, options: Options) -> list[int]:
    """The questions whose logits are not all finite."""
    (rows,) = np.nonzero(spans.nonfinite.numpy())
    return np.unique(chunks.question_id[rows] if options.decodes_chunks else rows).tolist()
