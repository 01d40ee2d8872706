"""What data say about themselves: golds in the wrong place, contradictions, doubled ids, with counts."""

from __future__ import annotations

from enum import Enum

from qa_fast.data.examples import Example


class Oddity(Enum):
    """What may be odd about questions with gold answers: in words, and what is made of it."""

    MOVED = (
        "gold answers that do not stand where they should start",
        "marks are at the nearest place",
    )
    ABSENT = (
        "gold answers that are nowhere in their context",
        "no extraction can give them",
    )
    HOPELESS = (
        "answerable questions without a gold answer in the context",
        "no extraction can be right",
    )
    IMPOSSIBLE = (
        "questions with gold answers whose is_impossible says that there are none",
        "the answers count, as in the official scripts",
    )
    POSSIBLE = (
        "questions without gold answers whose is_impossible says that there are some",
        "they count as unanswerable, as in the official scripts",
    )
    EMPTY = ("questions that are empty", "")
    DOUBLED = (
        "questions with an id that occurred before",
        "each one counts, as in the suite's script",
    )
    REPEATED = (
        "questions with an id that occurs again",
        "the last one counts, as in the suite's script",
    )


class Remarks:
    """Counts what is odd about the questions of a data set, taken one by one.

    Example:
        >>> remarks = Remarks()
        >>> remarks.add(Example("a", "Who?", "It was Ada.", ("Ada", "Bob"), (0, None)))
        >>> remarks.add(Example("b", "Who?", "It was Ada.", (), is_impossible=True))
        >>> for line in remarks.lines():
        ...     print(line)
        gold answers that do not stand where they should start: 1 of 2, first of 'a'; marks are at \
the nearest place
        gold answers that are nowhere in their context: 1 of 2, first of 'a'; no extraction can give them
    """

    def __init__(self) -> None:
        self._counts: dict[Oddity, int] = {}
        self._first: dict[Oddity, str] = {}
        self._golds = 0
        self._answerable = 0
        self._questions = 0

    def add(self, example: Example) -> None:
        """Take a question into account."""
        golds = example.answers
        self._questions += 1
        if not example.question.strip():
            self.count(Oddity.EMPTY, example.id)
        if not golds:
            if golds is not None and example.is_impossible is False:
                self.count(Oddity.POSSIBLE, example.id)
            return
        if example.is_impossible:
            self.count(Oddity.IMPOSSIBLE, example.id)
        self._golds += len(golds)
        self._answerable += 1
        starts = example.answer_starts or (None,) * len(golds)
        context, absent = example.context, 0
        for text, start in zip(golds, starts, strict=True):
            if start is not None and context.startswith(text, start):
                continue
            if text not in context:
                absent += 1
                self.count(Oddity.ABSENT, example.id)
            elif start is not None:
                self.count(Oddity.MOVED, example.id)
        if absent == len(golds):
            self.count(Oddity.HOPELESS, example.id)

    def count(self, oddity: Oddity, id_: str) -> None:
        """Count one more, of the question with the id ``id_``."""
        self._counts[oddity] = self._counts.get(oddity, 0) + 1
        self._first.setdefault(oddity, id_)

    def lines(self) -> list[str]:
        """A line for each kind of oddity that there is."""
        totals = {
            Oddity.MOVED: self._golds,
            Oddity.ABSENT: self._golds,
            Oddity.HOPELESS: self._answerable,
        }
        found = []
        for oddity in Oddity:
            if number := self._counts.get(oddity, 0):
                what, consequence = oddity.value
                total = totals.get(oddity, self._questions)
                line = f"{what}: {number:,} of {total:,}, first of {self._first[oddity]!r}"
                found.append(f"{line}; {consequence}" if consequence else line)
        return found
