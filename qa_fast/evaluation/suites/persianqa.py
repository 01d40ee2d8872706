"""PersianQA, by both of its methods.

Source: sajjjadayobi/PersianQA, src/evaluation.py. Before anything else both turn zero-width non-joiners
into spaces and strip the ends. Method one then has the metric ``squad_v2`` of Hugging Face's datasets
score: SQuAD 2.0's script with no-answer probabilities that are all 0, so that its best thresholds are
among the figures. Method two, which the script calls the official one, compares what is left as it is,
F1 over characters with white space among them; to an unanswerable question the empty answer is an exact
match, with an F1 of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from qa_fast.evaluation.metrics import (
    Figure,
    Normalize,
    Scored,
    best_of_golds,
    characters_f1,
    totals_of_squad1,
    totals_of_squad2,
    words_f1_or_none,
)
from qa_fast.evaluation.thresholds import NoAnswerProbabilities, no_answer_curves

from .suite import Suite, words_of

SOURCE = "sajjjadayobi/PersianQA src/evaluation.py"


def clean_persian(text: str) -> str:
    """``text`` with spaces for zero-width non-joiners, and nothing blank at its ends."""
    return text.replace("\u200c", " ").strip()


def persianqa(normalize: Normalize) -> Suite:
    """Method two."""
    score = best_of_golds(normalize, characters_f1)

    def score_question(prediction: str | None, golds: Sequence[str]) -> tuple[float, float]:
        return score(prediction, golds or [""])

    return Suite(
        name="persianqa",
        title="PersianQA (method two)",
        source=SOURCE,
        score=score_question,
        tokens=normalize,
        totals=totals_of_squad1,
        unanswerable=True,
    )


def persianqa_squad2(normalize: Normalize) -> Suite:
    """Method one; ``normalize`` is SQuAD's, after the cleaning."""
    return Suite(
        name="persianqa-squad2",
        title="PersianQA (method one)",
        source=SOURCE,
        score=best_of_golds(normalize, words_f1_or_none, unanswerable=True),
        tokens=words_of(normalize),
        totals=_totals_with_thresholds,
        unanswerable=True,
        by_id=True,
        is_empty=lambda text: not clean_persian(text),
    )


def _totals_with_thresholds(scored: Scored) -> dict[str, Figure]:
    asked = [i for i, predicted in enumerate(scored.predicted) if predicted]
    na_prob = NoAnswerProbabilities.of(dict.fromkeys(asked, 0.0))
    curves = no_answer_curves(scored.scores, na_prob, scored.has_answer, scored.empty)
    return {
        **totals_of_squad2(scored),
        **{key: Figure(value) for key, value in curves.best().items()},
    }
