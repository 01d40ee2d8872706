"""Rows in, predictions out: what every way of running a data set has in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from qa_fast.data.answers import Answer, Prediction, null_odds
from qa_fast.data.errors import (
    Argument,
    ArgumentError,
    ExampleError,
    OneOf,
    Words,
    parts_of,
)
from qa_fast.data.examples import OnError, Row, check_on_error
from qa_fast.engine.engine import Engine
from qa_fast.engine.options import Options, check_count
from qa_fast.engine.streams import Pair
from qa_fast.texts.readings import Reading

DEFAULTS: dict[str, Any] = {
    "top_k": 5,
    "max_answer_len": 30,
    "align_to_words": False,
    "scoring": "logit",
}
"""Where whole data sets are answered otherwise than single questions: as by ``run_qa.py``."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be answered.

    Attributes:
        row: its number from 0.
        place: where it stands in the data.
        id: its id; None where it could not be read.
        reason: why.
    """

    row: int
    place: str
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Answering:
    """How the rows of a data set are answered.

    Attributes:
        options: what to return. With ``handle_impossible_answer`` the null answer competes.
        null_threshold: by how much the null score must then exceed that of the best span for the
            answer to be "".
        on_error: "fail" at a row that cannot be answered, or "skip" it and give a `Reject`.
        num_workers: processes that tokenize and make answers; None for as many as the engine has.
    """

    options: Options
    null_threshold: float = 0.0
    on_error: OnError = "fail"
    num_workers: int | None = None

    def __post_init__(self) -> None:
        check_on_error(self.on_error)
        if self.num_workers is not None:
            check_count("num_workers", self.num_workers, 0)
        if self.null_threshold != 0 and not self.options.handle_impossible_answer:
            raise ArgumentError(
                Argument("null_threshold", self.null_threshold),
                " is of use with ",
                Argument("handle_impossible_answer", True),
                " only: without it no answer is empty",
            )

    def run(self, engine: Engine, rows: Iterable[Row]) -> Iterator[Prediction | Reject]:
        """The prediction of each row, or its `Reject`, in order.

        Raises:
            ValueError: with ``on_error="fail"``, at the first row that cannot be answered; the message
                says where it stands.
        """
        waiting: deque[tuple[Row, str] | Reject] = deque()

        def pairs() -> Iterator[Pair]:
            for row in rows:
                example = row.example
                if example is None:
                    assert row.problem is not None
                    waiting.append(self._reject(row, None, parts_of(row.problem)))
                else:
                    waiting.append((row, example.id))
                    yield example.question, example.context

        # The null answer is added here, so that the best span is kept whatever top_k is.
        options = replace(self.options, handle_impossible_answer=False)
        results = engine.read(
            _AtRest(pairs),
            options,
            num_workers=self.num_workers,
            errors="return",
            reproducible=True,
            probabilities=True,
        )
        for result in results:
            while isinstance(first := waiting.popleft(), Reject):
                yield first
            row, id_ = first
            if isinstance(result, ExampleError):
                # Not by the engine's count of the pairs: the row has a place of its own.
                yield self._reject(row, id_, result.about(f"the {result.text}"))
            else:
                yield self._prediction(id_, result)
        for last in waiting:
            assert isinstance(last, Reject)
            yield last

    def _reject(self, row: Row, id_: str | None, reason: Words) -> Reject:
        if self.on_error == "fail":
            go_on = Argument("on_error", "skip"), " goes on and lists such rows"
            raise ArgumentError(f"{row.place}: ", *reason, OneOf((go_on,), before=" (", after=")"))
        return Reject(row.number, row.place, id_, "".join(map(str, reason)))

    def _prediction(self, id_: str, reading: Reading) -> Prediction:
        n_best = list(reading.answers)
        found = Prediction(
            id_, "", 0, 0, None, reading.null_score, n_best=n_best, chunks=reading.chunks
        )
        best = n_best[0] if n_best else None
        found.probability = next(iter(reading.probabilities or ()), None)
        if self.options.handle_impossible_answer and reading.null_score is not None:
            null = Answer(score=reading.null_score, start=0, end=0, answer="")
            odds = null_odds(found, self.options.scoring)
            if odds is None or odds > self.null_threshold:
                best, found.probability = null, reading.null_probability
            n_best.append(null)
            n_best.sort(key=lambda answer: answer["score"], reverse=True)
        if best is not None:
            found.answer, found.score = best["answer"], best["score"]
            found.start, found.end = best["start"], best["end"]
        return found


@dataclass(frozen=True, slots=True)
class _AtRest:
    """An iterable that is no iterator, so that which pairs are read together does not hang on time."""

    pairs: Callable[[], Iterator[Pair]]

    def __iter__(self) -> Iterator[Pair]:
        return self.pairs()
