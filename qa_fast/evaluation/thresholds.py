"""No-answer thresholds, and precision and recall by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .metrics import Scores
from .statistics import Floats


def apply_threshold(
    scores: Sequence[float], over: Sequence[bool], has_answer: Sequence[bool]
) -> list[float]:
    """The scores with those of the empty answer in place of each that is ``over`` the threshold."""
    return [
        float(not answerable) if is_over else score
        for score, is_over, answerable in zip(scores, over, has_answer, strict=True)
    ]


class ThresholdCurve(NamedTuple):
    """The total under each threshold that a set of no-answer probabilities allows.

    Attributes:
        threshold: [T] in ascending order; a prediction counts where its no-answer probability is at
            most that, else the empty answer does.
        score: [T] the mean score in percent.
        best_score: the highest score over all prefixes of the questions by no-answer probability,
            as SQuAD 2.0's script finds it. Between questions of the same probability, too, where no
            threshold can cut: it may be higher than every one of ``score``.
        best_threshold: the probability of the last question in that prefix, 0.0 for the empty one.
    """

    threshold: Floats
    score: Floats
    best_score: float
    best_threshold: float


def threshold_curve(
    scores: npt.ArrayLike,
    na_prob: npt.ArrayLike,
    has_answer: npt.ArrayLike,
    empty: npt.ArrayLike,
) -> ThresholdCurve:
    """Sweep the threshold on the no-answer probability over Q questions.

    Args:
        scores: [Q] exact match or F1 of the predictions, no threshold applied.
        na_prob: [Q] higher where an answer is less likely; any scale. Equal ones stay in the given
            order, which the best threshold of SQuAD 2.0's script depends on.
        has_answer: [Q] whether the question has gold answers.
        empty: [Q] whether the prediction is the empty answer.
    """
    na, score, answerable, says_none = _by_na_prob(na_prob, scores, has_answer, empty)
    # Answering one more question: its score in place of the 0 of the empty answer where it has an
    # answer, else the loss of the 1 that the empty answer gets.
    gain = np.where(answerable == 1, score, np.where(says_none == 1, 0.0, -1.0))
    total = np.cumsum(np.concatenate([[np.count_nonzero(answerable == 0)], gain]))
    best = int(np.argmax(total))
    last = _last_of_ties(na)
    percent = 100.0 * total / len(na)
    return ThresholdCurve(
        threshold=na[last],
        score=percent[1:][last],
        best_score=float(percent[best]),
        best_threshold=float(na[best - 1]) if best else 0.0,
    )


class PrecisionRecall(NamedTuple):
    """Precision and recall, between 0 and 1, as questions are answered by rising ``na_prob``.

    Attributes:
        precision: [P] from 1 at no recall.
        recall: [P] non-decreasing from 0.
        average_precision: the area under the steps, in percent.
    """

    precision: Floats
    recall: Floats
    average_precision: float


def precision_recall(
    scores: npt.ArrayLike, na_prob: npt.ArrayLike, has_answer: npt.ArrayLike
) -> PrecisionRecall:
    """The precision-recall curve of SQuAD 2.0's script.

    Args:
        scores: [Q] exact match or F1; or ``has_answer`` itself, for the oracle curve: how well the
            no-answer probability tells the answerable questions, were all of them answered right.
        na_prob: [Q] higher where an answer is less likely; any scale.
        has_answer: [Q] whether the question has gold answers; at least one has.
    """
    na, score, answerable = _by_na_prob(na_prob, scores, has_answer)
    true_positive = np.cumsum(np.where(answerable == 1, score, 0.0))
    last = _last_of_ties(na)
    precision = (true_positive / np.arange(1, len(na) + 1))[last]
    recall = (true_positive / np.count_nonzero(answerable))[last]
    steps = precision * np.diff(recall, prepend=0.0)
    return PrecisionRecall(
        precision=np.concatenate([[1.0], precision]),
        recall=np.concatenate([[0.0], recall]),
        average_precision=100.0 * float(np.cumsum(steps)[-1]),
    )


class NoAnswerCurves(NamedTuple):
    """What no-answer probabilities are good for, by the name of the score.

    Attributes:
        thresholds: for "exact" and "f1"; none without probabilities.
        precision_recall: for "exact", "f1" and "oracle"; none where no question has an answer.
    """

    thresholds: dict[str, ThresholdCurve]
    precision_recall: dict[str, PrecisionRecall]

    def best(self) -> dict[str, float]:
        """The best thresholds and the scores with them, under the keys of SQuAD 2.0's script."""
        found = {}
        for name, curve in self.thresholds.items():
            found[f"best_{name}"] = curve.best_score
            found[f"best_{name}_thresh"] = curve.best_threshold
        return found


def average_precisions(curves: Mapping[str, PrecisionRecall]) -> dict[str, float]:
    """Average precision in percent, under the keys of SQuAD 2.0's script.

    The script has them among its figures only where it draws the curves.
    """
    return {f"pr_{name}_ap": curve.average_precision for name, curve in curves.items()}


class NoAnswerProbabilities(NamedTuple):
    """No-answer probabilities of some of the questions.

    Attributes:
        rows: [P] the questions' numbers. Those with the same probability stay in this order, which the
            best threshold of SQuAD 2.0's script depends on.
        values: [P] higher where an answer is less likely; any scale.
    """

    rows: npt.NDArray[np.int64]
    values: Floats

    @classmethod
    def of(cls, by_row: Mapping[int, float]) -> NoAnswerProbabilities:
        """Those in a dict, by the question's number."""
        count = len(by_row)
        return cls(
            np.fromiter(by_row, np.int64, count), np.fromiter(by_row.values(), np.float64, count)
        )

    def by_question(self, questions: int) -> list[float | None]:
        """[Q] the probabilities; None where they are not known."""
        found: list[float | None] = [None] * questions
        for row, value in zip(self.rows.tolist(), self.values.tolist(), strict=True):
            found[row] = value
        return found


def no_answer_curves(
    scores: Scores,
    na_prob: NoAnswerProbabilities,
    has_answer: Sequence[bool],
    empty: Sequence[bool],
) -> NoAnswerCurves:
    """All curves of Q questions, over those whose no-answer probability is known.

    Args:
        scores: [Q] of the predictions, no threshold applied.
        na_prob: of some of them.
        has_answer: [Q] whether the question has gold answers.
        empty: [Q] whether the prediction is the empty answer.
    """
    rows, probabilities = na_prob
    answerable, says_none = (np.asarray(values, bool)[rows] for values in (has_answer, empty))
    known = {
        name: np.asarray(values, np.float64)[rows] for name, values in scores._asdict().items()
    }
    thresholds: dict[str, ThresholdCurve] = {}
    curves: dict[str, PrecisionRecall] = {}
    if len(rows):
        thresholds = {
            name: threshold_curve(values, probabilities, answerable, says_none)
            for name, values in known.items()
        }
    if answerable.any():
        curves = {
            name: precision_recall(values, probabilities, answerable)
            for name, values in {**known, "oracle": answerable}.items()
        }
    return NoAnswerCurves(thresholds, curves)


def _by_na_prob(na_prob: npt.ArrayLike, *columns: npt.ArrayLike) -> list[Floats]:
    """``na_prob`` and the other columns, in ascending order of it; equal ones stay in order."""
    na = np.asarray(na_prob, np.float64)
    order = np.argsort(na, kind="stable")
    return [np.asarray(column, np.float64)[order] for column in (na, *columns)]


def _last_of_ties(ascending: Floats) -> npt.NDArray[np.bool_]:
    return np.append(ascending[1:] != ascending[:-1], True)
