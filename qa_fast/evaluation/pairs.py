"""The prediction of each question, taken from a stream of predictions while the questions stream by.

Files of predictions mostly have the order of the data. As long as they do, one prediction at a time is
in memory; those that come too early are kept on the disk.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Example
from qa_fast.files.wording import shown

from .kept import Column, Kept

_FIELDS = [field.name for field in fields(Example)]


class Examples(Kept[Example]):
    """Room for questions, out of memory."""

    def __init__(self) -> None:
        super().__init__(attrgetter(*_FIELDS), Example)

    @property
    def ids(self) -> Column:
        """[Q] the ids."""
        return self.column(_FIELDS.index("id"))


class Predictions(Kept[Prediction | None]):
    """Room for predictions, out of memory; None for a question without one."""

    def __init__(self) -> None:
        values = attrgetter(*(field.name for field in fields(Prediction)))
        super().__init__(
            lambda prediction: () if prediction is None else values(prediction),
            lambda *values: Prediction(*values) if values else None,
        )


class Pairing:
    """Gives each question its prediction, by the id.

    Of a question whose id occurs again, each time has the next prediction with that id; where there is
    no other, the same one.

    Args:
        predictions: any number of them, in any order.

    Attributes:
        found: what was given so far.

    Example:
        >>> pairing = Pairing([Prediction("a", "Ada"), Prediction("b", "Bob"), Prediction("x", "")])
        >>> [p and p.answer for p in map(pairing.take, ["b", "a", "c"])]
        ['Bob', 'Ada', None]
        >>> pairing.left_over()
        (1, 'x')
    """

    def __init__(self, predictions: Iterable[Any]) -> None:
        self.found = Predictions()
        self._coming = map(_checked, predictions)
        self._early = Predictions()
        # By the id: those that came before their questions, and of questions whose turn has been.
        self._waiting: dict[str, deque[int]] = {}
        self._given: dict[str, int] | None = None
        self._asked = array("q")

    def take(self, id_: str) -> Prediction | None:
        """The prediction of the next question; None where there is none."""
        prediction = self._next(id_)
        if self._given is not None and prediction is not None:
            self._given[id_] = len(self.found)
        self._asked.append(hash(id_))
        self.found.append(prediction)
        return prediction

    def _next(self, id_: str) -> Prediction | None:
        if id_ in self._waiting:
            places = self._waiting[id_]
            place = places.popleft()
            if not places:
                del self._waiting[id_]
            return self._early[place]
        for prediction in self._coming:
            if prediction.id == id_:
                return prediction
            self._waiting.setdefault(prediction.id, deque()).append(len(self._early))
            self._early.append(prediction)
        if self._given is None:
            self._given = {p.id: i for i, p in enumerate(self.found) if p is not None}
        place = self._given.get(id_, -1)
        return None if place < 0 else self.found[place]

    def left_over(self, ignored: Collection[str] = ()) -> tuple[int, str | None]:
        """How many predictions are of no question, and the id of the first, once all questions are done.

        Args:
            ignored: ids of questions that were left out on purpose.

        Raises:
            ValueError: there are more predictions with an id than questions.
        """
        asked = set(self._asked)
        number, first = 0, None
        for id_ in self._left_ids():
            if id_ in ignored:
                continue
            # Different ids may have the same hash.
            if hash(id_) in asked and any(p is not None and p.id == id_ for p in self.found):
                raise ValueError(
                    f"id {id_!r} occurs twice in the predictions, or more often than in the data"
                )
            number, first = number + 1, id_ if first is None else first
        return number, first

    def _left_ids(self) -> Iterator[str]:
        for id_, places in self._waiting.items():
            for _ in places:
                yield id_
        for prediction in self._coming:
            yield prediction.id


def _checked(prediction: Any) -> Prediction:
    if not isinstance(prediction, Prediction) or not isinstance(prediction.answer, str):
        raise ValueError(
            f"predictions must be texts by their ids, or Prediction objects; got {shown(prediction)}"
        )
    return prediction
