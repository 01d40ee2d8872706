"""What is kept of each question that several models have read, and the figures of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Example
from qa_fast.evaluation.statistics import Floats, mcnemar
from qa_fast.evaluation.suites.suite import Suite

from .compare import Difference, difference

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """How far a variant's scores are from the baseline's, over the questions of which both have one.

    The score of an answer is how probable it is among all spans of its question
    (`qa_fast.Prediction.probability`), whatever the scoring. Each model's is that of its own answer,
    also where the answers differ.

    Attributes:
        median: of the absolute differences, from 0 to 1.
        largest: the largest of them.
        largest_id: the id of the question that has it.
    """

    median: float
    largest: float
    largest_id: str


@dataclass(frozen=True, slots=True)
class Differences:
    """How far a variant's answers are from the baseline's, on Q questions.

    Attributes:
        questions: Q.
        same_text: questions to which both give the same text.
        same_characters: questions to which both give the same characters of the context; the same text
            may stand in it twice.
        scored: the questions that have gold answers, or are known to have none: S of Q.
        exact: exact match of the baseline ("a") and of the variant ("b"), the means over S questions in
            percent, with the 95% paired bootstrap interval of their difference; None where S is 0.
        f1: the same of F1.
        only_baseline: questions that only the baseline gets right (exact match).
        only_variant: questions that only the variant gets right.
        p_value: of McNemar's exact test that both are right equally often; None where S is 0.
        score: how far scores are apart; None where no question has both.
    """

    questions: int
    same_text: int
    same_characters: int
    scored: int
    exact: Difference | None
    f1: Difference | None
    only_baseline: int
    only_variant: int
    p_value: float | None
    score: ScoreDifference | None

    @property
    def changed(self) -> float:
        """The share of questions with another text, from 0 to 1."""
        return 1 - self.same_text / self.questions


class _Column:
    """One model's answers; NaN where there is no score."""

    def __init__(self) -> None:
        self.exact = array("d")
        self.f1 = array("d")
        self.probability = array("d")
        self.same_text = bytearray()
        self.same_characters = bytearray()


class Sheet:
    """A few numbers of each question that models have read; the baseline is the first of them.

    Args:
        models: how many.
    """

    def __init__(self, models: int) -> None:
        self._columns = [_Column() for _ in range(models)]
        self._rows = array("Q")
        self._has_answer = bytearray()  # of questions without gold answers 0, too

    def __len__(self) -> int:
        """How many questions there are, so far."""
        return len(self._rows)

    def add(
        self,
        row: int,
        example: Example,
        suite: Suite | None,
        predictions: Sequence[Prediction | None],
    ) -> None:
        """Keep what is to be kept of a question.

        Args:
            row: its number.
            example: the question.
            suite: by whose rules it is scored; None where it has no gold answers.
            predictions: each model's; None where it could not answer, which scores 0 and equals nothing.
        """
        self._rows.append(row)
        self._has_answer.append(bool(example.answers))
        baseline = predictions[0]
        for column, found in zip(self._columns, predictions, strict=True):
            exact, f1 = nan, nan
            if suite is not None:
                answer = None if found is None else found.answer
                exact, f1 = suite.score(answer, example.answers or ())
            column.exact.append(exact)
            column.f1.append(f1)
            probability = None if found is None else found.probability
            column.probability.append(nan if probability is None else probability)
            same_text = same_characters = False
            if found is not None and baseline is not None:
                same_text = found.answer == baseline.answer
                places = ((one.start, one.end) for one in (found, baseline))
                same_characters = same_text and len(set(places)) == 1
            column.same_text.append(same_text)
            column.same_characters.append(same_characters)

    def answerable(self, wanted: bool) -> Places:
        """Where the questions are that have gold answers; or those that are known to have none."""
        scored = ~np.isnan(np.asarray(self._columns[0].exact))
        has_answer = np.frombuffer(self._has_answer, np.bool_)
        return np.flatnonzero(scored & (has_answer == wanted))

    def differences(
        self, variant: int, id_of: Callable[[int], str], places: Places, *, seed: int
    ) -> Differences:
        """How far a model's answers to some of the questions are from the baseline's.

        Args:
            variant: the number of the model, from 1.
            id_of: gives the id of a question by its number.
            places: [Q] which questions, by the order in which they were added; at least one.
            seed: of the bootstrap.
        """
        ours, theirs = self._columns[0], self._columns[variant]
        exact = [np.asarray(column.exact)[places] for column in (ours, theirs)]
        f1 = [np.asarray(column.f1)[places] for column in (ours, theirs)]
        same = [
            int(np.frombuffer(flags, np.bool_)[places].sum())
            for flags in (theirs.same_text, theirs.same_characters)
        ]
        scored = int((~np.isnan(exact[0])).sum())
        # Comparisons with NaN are false.
        only_a, only_b = int((exact[0] > exact[1]).sum()), int((exact[1] > exact[0]).sum())
        return Differences(
            questions=len(places),
            same_text=same[0],
            same_characters=same[1],
            scored=scored,
            exact=_difference(exact, seed),
            f1=_difference(f1, seed),
            only_baseline=only_a,
            only_variant=only_b,
            p_value=mcnemar(only_a, only_b) if scored else None,
            score=self._score_difference(variant, id_of, places),
        )

    def _score_difference(
        self, variant: int, id_of: Callable[[int], str], places: Places
    ) -> ScoreDifference | None:
        ours, theirs = (np.asarray(self._columns[i].probability)[places] for i in (0, variant))
        apart = np.abs(theirs - ours)
        if np.isnan(apart).all():
            return None
        largest = int(np.nanargmax(apart))
        return ScoreDifference(
            median=float(np.nanmedian(apart)),
            largest=float(apart[largest]),
            largest_id=id_of(self._rows[places[largest]]),
        )


def _difference(scores: Sequence[Floats], seed: int) -> Difference | None:
    scored = ~np.isnan(scores[0])
    if not scored.any():
        return None
    a, b = (values[scored].tolist() for values in scores)
    return difference(a, b, seed=seed)
