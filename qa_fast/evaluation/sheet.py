"""What is kept of questions while they are scored one by one: a few numbers of each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isnan, nan
from typing import TYPE_CHECKING

from qa_fast.data.answers import Prediction, null_odds
from qa_fast.data.examples import Example
from qa_fast.files.wording import shown

from .breakdown import Breakdown
from .metrics import Scores
from .suites.suite import Suite

if TYPE_CHECKING:
    from qa_fast.decoding.search import Scoring


class ScoreSheet:
    """The scores of Q questions, and what else comes of a question and its prediction.

    Args:
        suite: by whose rules they are scored.
        scoring: the unit of the predictions' scores; None where nobody said it: it is then told by the
            scores of n-best lists, which are logits where one is beyond 0 to 1.

    Attributes:
        scores: [Q] with no threshold applied.
        has_answer: [Q] whether the question has gold answers.
        predicted: [Q] whether there is a prediction.
        empty: [Q] whether there is none, or what the suite takes for the empty one.
        lacking: how many predictions have a score but do not say how probable they are.
        breakdown: the questions told apart by features.
    """

    def __init__(self, suite: Suite, scoring: Scoring | None) -> None:
        self.scores = Scores([], [])
        self.has_answer: list[bool] = []
        self.predicted: list[bool] = []
        self.empty: list[bool] = []
        self.lacking = 0
        self.breakdown = Breakdown(suite.tokens)
        self._score = suite.score
        self._is_empty = suite.is_empty
        self._told = scoring
        self._logits = False
        # NaN where unknown. Which odds are right is known at the end, if it was not told.
        self._probability = array("d")
        self._odds: dict[Scoring, array[float]] = {
            unit: array("d") for unit in ([scoring] if scoring else ("logit", "shared"))
        }

    def __len__(self) -> int:
        """Q, so far."""
        return len(self.has_answer)

    @property
    def scoring(self) -> Scoring:
        """The unit of the predictions' scores."""
        return self._told or ("logit" if self._logits else "shared")

    def add(self, example: Example, prediction: Prediction | None) -> None:
        """Score a question."""
        golds = example.answers or ()
        answer = None if prediction is None else prediction.answer
        exact, f1 = self._score(answer, golds)
        self.scores.exact.append(exact)
        self.scores.f1.append(f1)
        self.has_answer.append(bool(golds))
        self.predicted.append(prediction is not None)
        self.empty.append(answer is None or self._is_empty(answer))
        self.breakdown.add(example, prediction)
        probability = None
        if prediction is not None:
            probability = _probability(prediction, self._told)
            self.lacking += probability is None and prediction.score is not None
            if self._told is None and not self._logits:
                self._logits = any(
                    (score := entry["score"]) is not None and not 0 <= score <= 1
                    for entry in prediction.n_best
                )
        self._probability.append(nan if probability is None else probability)
        rated = None if prediction is None or prediction.null_score is None else prediction
        for unit, column in self._odds.items():
            odds = None if rated is None else null_odds(rated, unit)
            column.append(nan if odds is None else odds)

    def take(self, rows: Sequence[int]) -> None:
        """Go on with the questions ``rows`` only, in that order."""
        for scores in self.scores:
            scores[:] = [scores[row] for row in rows]
        for flags in (self.has_answer, self.predicted, self.empty):
            flags[:] = [flags[row] for row in rows]
        for numbers in (self._probability, *self._odds.values()):
            numbers[:] = array("d", [numbers[row] for row in rows])
        self.breakdown.take(rows)

    def probabilities(self) -> list[float | None]:
        """[Q] how probable the predicted answers are among all spans."""
        return [None if isnan(p) else p for p in self._probability]

    def null_odds(self) -> array[float]:
        """[Q] how much better the null answer is than the best span; NaN where unknown.

        See `qa_fast.data.answers.null_odds`.
        """
        return self._odds[self.scoring]


def _probability(prediction: Prediction, scoring: Scoring | None) -> float | None:
    """How probable the prediction is among all spans, where it says so.

    Scores of "shared" are that, before rounding, in files without the probability too. Those of
    "probability" are not: of one chunk each, and sums over equal answers.
    """
    probability = prediction.probability
    if probability is None and scoring == "shared" and prediction.score is not None:
        probability = min(max(prediction.score, 0.0), 1.0)
    if probability is not None and not 0 <= probability <= 1:
        raise ValueError(
            f"the probability of a prediction must be from 0 to 1; got {shown(probability)} of "
            f"{prediction.id!r}"
        )
    return probability
