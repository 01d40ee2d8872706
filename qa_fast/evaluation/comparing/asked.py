"""The questions that all models read: of one data set or of several, with gold answers or without."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from qa_fast.data.examples import OnError, Row
from qa_fast.data.sources import Source
from qa_fast.evaluation.matching import read_questions
from qa_fast.evaluation.pairs import Examples
from qa_fast.evaluation.suites.suite import Suite


class DataSet(NamedTuple):
    """The questions of one data set.

    Attributes:
        name: of the file, or what else it is.
        examples: the questions.
        suite: by whose rules they are scored; None where they have no gold answers.
    """

    name: str
    examples: Examples
    suite: Suite | None


class Asked:
    """The questions of all data sets, one after the other.

    Args:
        sources: the data sets, at least one.
        suite: by whose rules they are scored.
        limit: the most questions of each; None for all.
        on_error: what to do at a row that cannot be scored.

    Attributes:
        sets: the data sets.
        remarks: what they say about themselves.
        notes: what a reader of the figures must know.

    Raises:
        ValueError: a data set twice; a row that cannot be used; a data set without questions.
    """

    def __init__(
        self, sources: Sequence[Source], suite: Suite, limit: int | None, on_error: OnError
    ) -> None:
        self.sets: list[DataSet] = []
        self.remarks: list[str] = []
        self.notes: list[str] = []
        for source in sources:
            if source.name in (known.name for known in self.sets):
                raise ValueError(f"{source.name} is among the data twice")
            self._read(source, suite, limit, on_error, of_many=len(sources) > 1)
        self._ends = [*accumulate(len(one.examples) for one in self.sets)]

    def _read(
        self, source: Source, suite: Suite, limit: int | None, on_error: OnError, *, of_many: bool
    ) -> None:
        scored, rows = _are_scored(islice(source.rows(), limit))
        questions = read_questions(rows, suite if scored else None, on_error)
        examples, notes = questions.examples, questions.notes
        if scored and suite.by_id and questions.again:
            examples.take(questions.last_of_each_id())
        if not scored:
            notes.append("no gold answers: there is no exact match and no F1")
        elif better := questions.fitting.better_than(suite.name):
            notes.append(better)
        name = f"{source.name}: " if of_many else ""
        self.remarks += [f"{name}{line}" for line in questions.remarks.lines()]
        self.notes += [f"{name}{note}" for note in notes]
        self.sets.append(DataSet(source.name, examples, suite if scored else None))

    def __len__(self) -> int:
        """How many questions there are."""
        return self._ends[-1]

    def rows(self) -> Iterator[Row]:
        """All questions, numbered."""
        number = 0
        for one in self.sets:
            for example in one.examples:
                yield Row(number, f"{one.name} question {example.id!r}", example)
                number += 1

    def set_of(self, number: int) -> int:
        """The number of the data set that question ``number`` is of."""
        return bisect_right(self._ends, number)

    def id_of(self, number: int) -> str:
        """The id of question ``number``."""
        place = self.set_of(number)
        examples = self.sets[place].examples
        return examples.ids[number - self._ends[place] + len(examples)]

    def unanswerable(self) -> int:
        """How many questions are known to have no answer."""
        scored = (one.examples for one in self.sets if one.suite is not None)
        return sum(not example.answers for example in chain.from_iterable(scored))


def each_data(data: Any) -> list[Any]:
    """What `open_source` takes, one by one: a list of names is one data set each."""
    names = isinstance(data, (list, tuple)) and all(isinstance(x, (str, Path)) for x in data)
    return list(data) if names and data else [data]


def _are_scored(rows: Iterator[Row]) -> tuple[bool, Iterable[Row]]:
    """Whether the first question has gold answers, right or wrong ones, and all the rows."""
    seen = []
    for row in rows:
        seen.append(row)
        if row.example is not None:
            scored = row.example.answers is not None or row.gold_problem is not None
            return scored, chain(seen, rows)
    return True, seen
