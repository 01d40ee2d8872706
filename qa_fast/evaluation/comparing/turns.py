"""Models that read the same questions in turns, so that what slows the machine down hits all of them.

A turn is some hundred questions that one model reads from texts to answers. All models have read these
before the next ones come, every other time in the reverse order. Times are medians over turns, and how
much faster a model is the median of the ratios turn by turn, as each of these is of the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, NamedTuple

from qa_fast.data.answers import Prediction
from qa_fast.data.errors import ArgumentError, parts_of
from qa_fast.data.examples import Row

from .contestants import Contestant

if TYPE_CHECKING:
    from qa_fast.runs.answering import Answering, Reject

# Two windows of the engine, on a CPU: one is prepared while the other is read.
_WINDOWS = 2
_WARM_UP = 64  # questions


class Turn(NamedTuple):
    """What one turn of a model took.

    Attributes:
        questions: how many it read.
        seconds: from texts to answers.
        cpu_seconds: of all threads of this process meanwhile.
        forward_seconds: of these in the model; see `qa_fast.engine.Stats`.
    """

    questions: int
    seconds: float
    cpu_seconds: float
    forward_seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model is: medians over its turns.

    Attributes:
        questions_per_second: from texts to answers.
        forward_questions_per_second: in the model alone.
        milliseconds: per question, from texts to answers.
        cpu_milliseconds: per question, of all threads of this process.
    """

    questions_per_second: float
    forward_questions_per_second: float
    milliseconds: float
    cpu_milliseconds: float


class Ratio(NamedTuple):
    """How many times as fast as the baseline: the median over turns, the least and the most."""

    median: float
    low: float
    high: float


def speed_of(turns: Sequence[Turn]) -> Speed:
    """The speed of a model that had these turns, at least one."""
    return Speed(
        median(turn.questions / turn.seconds for turn in turns),
        median(turn.questions / turn.forward_seconds for turn in turns),
        median(1000 * turn.seconds / turn.questions for turn in turns),
        median(1000 * turn.cpu_seconds / turn.questions for turn in turns),
    )


def times_as_fast(baseline: Sequence[float], variant: Sequence[float]) -> Ratio:
    """How many times as fast a variant is, by the seconds of [T] turns on the same questions.

    Example:
        >>> times_as_fast([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
        Ratio(median=3.0, low=2.0, high=4.0)
    """
    ratios = [slow / fast for slow, fast in zip(baseline, variant, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


class Schedule(NamedTuple):
    """Who reads how much, how often.

    Attributes:
        sizes: [T] questions of each turn in a pass over the data.
        passes: how often the data are gone through.
    """

    sizes: list[int]
    passes: int


def schedule(questions: int, rounds: int, *, off_cpu: bool) -> Schedule:
    """Turns of about equal sizes, and as many passes as it takes for at least ``rounds`` of them.

    Args:
        questions: how many there are, at least one.
        rounds: the least number of turns of each model.
        off_cpu: whether a model runs elsewhere than on a CPU, where it reads more questions at a time.
    """
    from qa_fast.engine.engine import OFF_CPU_FACTOR, WINDOW_QUESTIONS

    most = _WINDOWS * WINDOW_QUESTIONS * (OFF_CPU_FACTOR if off_cpu else 1)
    turns = -(-questions // most)
    ends = [questions * i // turns for i in range(turns + 1)]
    sizes = [end - start for start, end in pairwise(ends)]
    return Schedule(sizes, -(-rounds // turns))


Found = list["Prediction | Reject"]
"""What a model makes of the rows of a turn, in order."""


class Turns:
    """Lets models read the same rows in turns.

    Args:
        contestants: the models.
        answering: how rows are answered.
        rows: gives the rows anew each time.
        plan: the turns.

    Attributes:
        plan: as given.
        times: the turns that each model had.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        answering: Answering,
        rows: Callable[[], Iterable[Row]],
        plan: Schedule,
    ) -> None:
        self.times: list[list[Turn]] = [[] for _ in contestants]
        self._contestants = contestants
        self._answering = answering
        self._rows = rows
        self.plan = plan

    def run(self, report: Callable[[int], object]) -> Iterator[tuple[list[Row], list[Found]]]:
        """Have all turns; yields those of the first pass: the rows, and what each model makes of them.

        Args:
            report: is called with the number of questions that were read.

        Raises:
            ValueError: with ``on_error="fail"``, at a row that a model cannot answer.
        """
        number = 0
        for i in range(self.plan.passes):
            stream = iter(self._rows())
            if i == 0:
                self._warm_up()
            for size in self.plan.sizes:
                rows = list(islice(stream, size))
                found = self._turn(rows, number % 2 == 1, report)
                if i == 0:
                    yield rows, found
                number += 1

    def _warm_up(self) -> None:
        """What a model does once only, such as compiling for a shape, is not timed."""
        rows = list(islice(self._rows(), _WARM_UP))
        for contestant in self._contestants:
            self._read(contestant, rows)

    def _turn(
        self, rows: list[Row], backwards: bool, report: Callable[[int], object]
    ) -> list[Found]:
        found: list[Found] = [[] for _ in self._contestants]
        order = list(enumerate(self._contestants))
        for i, contestant in reversed(order) if backwards else order:
            before = contestant.engine.stats.forward
            clock, cpu = perf_counter(), process_time()
            found[i] = self._read(contestant, rows)
            seconds, cpu_seconds = perf_counter() - clock, process_time() - cpu
            # Not 0, where a model was given nothing.
            forward = max(contestant.engine.stats.forward - before, 1e-9)
            self.times[i].append(Turn(len(rows), seconds, cpu_seconds, forward))
            report(len(rows))
        return found

    def _read(self, contestant: Contestant, rows: list[Row]) -> Found:
        try:
            return list(self._answering.run(contestant.engine, rows))
        except ArgumentError as error:
            raise ArgumentError(f"{contestant.name}: ", *parts_of(error)) from error
