"""CUAD: how well clauses are found in contracts, by the answers' probabilities.

Source: TheAtticusProject/cuad, evaluate.py. An answer finds a gold answer where the Jaccard index of
their words is at least 0.5; of a question about the parties also where it holds the gold answer. Words
are what spaces and "/" part, in lower case, without full stops, commas, semicolons and colons; between
two spaces stands an empty word. Of a question's n-best list the answers count whose probability is
above a threshold, a text that comes several times by its last one, the empty one never. Each gold
answer that one of them finds is a hit, each other one a miss, and each answer that finds none is false.
Over 101 thresholds from 0.99 to 0 that gives precision and recall, from which come, in shares of 1: the
area under precision by recall (AUPR) and the precision at 80% and 90% recall, precision being the best
at that recall or a higher one. As in the script, the last threshold does not count for these two.
Hendrycks et al. 2021.

Another state of the script in its repository parts words at any white space. Exact match and F1 of a
question, of which CUAD has no totals, are SQuAD 2.0's of the best answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import isnan, nan

import numpy as np

from qa_fast.data.examples import Example
from qa_fast.evaluation.metrics import Figure, Normalize
from qa_fast.evaluation.thresholds import PrecisionRecall

from .squad import squad2
from .suite import Suite, remembered

SOURCE = "TheAtticusProject/cuad evaluate.py"
FRACTIONS = ("aupr", "prec_at_80_recall", "prec_at_90_recall")
"""The totals, which are shares of 1."""
QUESTION = "Highlight the parts (if any) of this contract related to "
"""What every question of CUAD begins with."""

_THRESHOLDS = [*np.arange(0.99, 0, -0.01).tolist(), 0.001, 0.0]
_RISING = [-threshold for threshold in _THRESHOLDS]
_JACCARD = 0.5
_DROPPED = str.maketrans("", "", ".,;:")


def cuad(normalize: Normalize) -> Suite:
    """CUAD; ``normalize`` is for each question's exact match and F1 alone."""
    squad = squad2(normalize)
    return Suite(
        name="cuad",
        title="CUAD",
        source=SOURCE,
        score=squad.score,
        tokens=squad.tokens,
        totals=squad.totals,
        unanswerable=True,
        by_id=True,
        tally=ClauseTally,
        check=_check,
        # As run.sh beside the script has it.
        model_options={"top_k": 20, "max_answer_len": 512, "handle_impossible_answer": True},
    )


def _check(example: Example) -> None:
    if "" in (example.answers or ()):
        raise ValueError(
            f"question {example.id!r} has an empty gold answer, which CUAD cannot have: a question "
            "without a clause has an empty list"
        )


class ClauseTally:
    """Hits and false answers by threshold, question by question.

    Example:
        >>> tally = ClauseTally()
        >>> tally.add("1__Governing Law", ["laws of Ohio"], ["the laws of Ohio"], [0.75])
        >>> tally.add("1__Parties", [], ["Acme"], [0.5])
        >>> [round(figure.value, 3) for figure in tally.totals().values()]
        [1.0, 1.0, 1.0]
    """

    def __init__(self) -> None:
        # By the first threshold at which they count; behind the last, what never does.
        self._hits = [0] * (len(_THRESHOLDS) + 1)
        self._false = [0] * (len(_THRESHOLDS) + 1)
        self._golds = 0

    def add(
        self,
        id_: str,
        golds: Sequence[str],
        answers: Sequence[str],
        probabilities: Sequence[float | None],
    ) -> None:
        """Count one question.

        Args:
            id_: of the question; one about the parties has "Parties" in it.
            golds: its gold answers; none for a clause that is not there.
            answers: the texts of its n-best list.
            probabilities: as many.

        Raises:
            ValueError: an answer without a probability.
        """
        if None in probabilities:
            raise ValueError(
                f"CUAD needs the probability of each answer; question {id_!r} has an answer "
                "without: give an n-best list (nbest_predictions_.json, or what qa-fast predict "
                "--top-k 20 --no-answer wrote)"
            )
        # The last of equal texts counts.
        known: dict[str, float] = dict(zip(answers, probabilities, strict=True))  # type: ignore[arg-type]
        known.pop("", None)
        parties = "Parties" in id_
        best = [-1.0] * len(golds)
        golds_in_words = [_words(gold) for gold in golds]
        for text, probability in known.items():
            mine = _words(text)
            size = len(mine)
            found = False
            for i, theirs in enumerate(golds_in_words):
                other = len(theirs)
                # The index is at most the ratio of the sizes.
                same = 2 * size >= other and 2 * other >= size
                if same:
                    both = len(mine & theirs)
                    same = both / (size + other - both) >= _JACCARD
                if same or (parties and golds[i] in text):
                    found = True
                    if probability > best[i]:
                        best[i] = probability
            if not found:
                self._false[_first_threshold(probability)] += 1
        for probability in best:
            self._hits[_first_threshold(probability)] += 1
        self._golds += len(golds)

    def curve_points(self) -> tuple[list[float], list[float]]:
        """Precision and recall, [102] each: at no recall, then by falling threshold; NaN for 0 / 0."""
        hits, false = ([*accumulate(counts[:-1])] for counts in (self._hits, self._false))
        precision = [
            hit / (hit + f) if hit + f else nan for hit, f in zip(hits, false, strict=True)
        ]
        recall = [hit / self._golds if self._golds else nan for hit in hits]
        return [1, *precision], [0, *recall]

    def totals(self) -> dict[str, Figure]:
        """AUPR, and the precision at 80% and 90% recall, between 0 and 1."""
        precision, recall = self.curve_points()
        best = _best_from_there_on(precision)
        return {
            "aupr": Figure(_area(best, recall)),
            "prec_at_80_recall": Figure(_precision_at(best, recall, 0.8)),
            "prec_at_90_recall": Figure(_precision_at(best, recall, 0.9)),
        }

    def curve(self) -> PrecisionRecall:
        """The points as they are, with the AUPR, in percent, for their average precision."""
        precision, recall = self.curve_points()
        return PrecisionRecall(
            precision=np.array(precision, np.float64),
            recall=np.array(recall, np.float64),
            average_precision=100.0 * self.totals()["aupr"].value,
        )


@remembered
def _words(text: str) -> frozenset[str]:
    return frozenset(text.translate(_DROPPED).lower().replace("/", " ").split(" "))


def _first_threshold(probability: float) -> int:
    """Which threshold is the first that is below ``probability``."""
    return bisect_right(_RISING, -probability)


def _best_from_there_on(precision: Sequence[float]) -> list[float]:
    best = [*reversed(precision)]
    for i in range(1, len(best)):
        # In this order: over NaN it is the first of the two, in the script as well.
        best[i] = max(best[i - 1], best[i])
    return best[::-1]


def _precision_at(best: Sequence[float], recall: Sequence[float], least: float) -> float:
    points = zip(best[:-1], recall[:-1], strict=True)
    return next((precision for precision, reached in points if reached >= least), 0)


def _area(precision: Sequence[float], recall: Sequence[float]) -> float:
    """By the trapezoidal rule, which scikit-learn's ``auc`` is; 0 where it is not defined."""
    y = np.array(precision, np.float64)
    area = float((np.diff(np.array(recall, np.float64)) * (y[1:] + y[:-1]) / 2.0).sum())
    return 0 if isnan(area) else area
