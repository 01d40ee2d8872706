"""Answers as records: of one question, and of a data set's.

That a context does not answer its question is an answer too, the *null answer*, with many inherited
names. ``handle_impossible_answer`` (Transformers), ``--no-answer`` (the command line) and
``version_2_with_negative`` (run_qa.py) let it compete with the spans. Its score is the ``null_score``,
its lead over the best span the ``null_odds``, and these odds as a probability ``na_prob``.
`qa_fast.Reader`'s ``no_answer`` (Haystack) alone is something else: that all answers given are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf, isfinite, log
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from qa_fast.decoding.search import Scoring

# JSON has no infinity.
LARGEST_ODDS = 1e30


class Answer(TypedDict):
    """One answer.

    ``score`` is a probability, or a sum of two logits under ``scoring="logit"``; ``answer`` is
    ``context[start:end]``. The null answer ("not answerable") is ``""`` at 0 to 0.
    """

    score: float
    start: int
    end: int
    answer: str


class PartialAnswer(TypedDict):
    """One answer as a file has it, which may leave out all but the text: None where it does."""

    score: float | None
    start: int | None
    end: int | None
    answer: str


class RatedAnswer(PartialAnswer, total=False):
    """One answer of an n-best list in a file, which says how probable it is beside its score."""

    probability: float


@dataclass(slots=True)
class Prediction:
    """What was answered to one question.

    Attributes:
        id: the question's id.
        answer: the answer; "" for "not answerable".
        start: the character of the context at which it begins, 0 for ""; None where a file does not
            say.
        end: the character after its last; None where a file does not say.
        score: of the answer, in the unit of the scoring that was used; None where a file does not say.
        null_score: of the null answer, whether it was allowed or not; None where the model has no null
            position or a file does not say.
        n_best: the best answers, best first, in a run with ``--no-answer`` the null answer among them;
            partial ones where a file does not say all, with a ``probability`` where it says that.
        chunks: how many chunks the context made; None where a file does not say.
        probability: of the answer, among all spans of the question: what its score is under
            ``scoring="shared"``, one softmax of the start logits and one of the end logits over all
            chunks of the context, whatever the scoring and ``top_k`` of the run. Of an answer that
            stands for several spans, the best one's; of "" that of the null answer. None where a file
            does not say, as those of ``run_qa.py`` and of versions before this field, or where no span
            can be the answer.
    """

    id: str
    answer: str
    start: int | None = None
    end: int | None = None
    score: float | None = None
    null_score: float | None = None
    n_best: list[Answer] | list[PartialAnswer] | list[RatedAnswer] = field(default_factory=list)
    chunks: int | None = None
    probability: float | None = None


def n_best_scores(prediction: Prediction) -> list[float] | None:
    """The scores of the n-best list; None where one of them is not known."""
    scores = [answer["score"] for answer in prediction.n_best]
    known = [score for score in scores if score is not None]
    return known if len(known) == len(scores) else None


def n_best_probabilities(prediction: Prediction, scoring: Scoring) -> list[float | None]:
    """How probable each answer of the n-best list is; None where that is not known.

    Where a file says, that; else, under "logit", the softmax over the list, and the scores under the
    other scorings, where they are probabilities.
    """
    said: list[Any] = [answer.get("probability") for answer in prediction.n_best]
    if None not in said:
        return said
    if scoring != "logit":
        return [answer["score"] for answer in prediction.n_best]
    known = n_best_scores(prediction)
    if known is None or not isfinite(max(known, default=0.0)):
        return [None] * len(said)
    return [*softmax(known, over=known)]


def softmax(scores: Sequence[float], over: Sequence[float]) -> list[float]:
    """How probable ``scores`` are where ``over`` are all there can be, as in ``run_qa.py``.

    Args:
        scores: logits, or sums of them.
        over: those of the whole n-best list, of which ``scores`` are some or all.

    Example:
        >>> softmax([2.0], over=[2.0, 2.0, -40.0])
        [0.5]
    """
    best = max(over, default=0.0)
    total = sum(exp(score - best) for score in over)
    return [exp(score - best) / total for score in scores]


def null_odds(prediction: Prediction, scoring: Scoring = "logit") -> float | None:
    """How much better the null answer is than the best span, as ``run_qa.py`` defines it.

    Under "logit" this is the difference of the two scores. The other scorings give probabilities with
    one normalizer per chunk, of which this is the difference of the logarithms: over one chunk the same
    number.

    Returns:
        The difference; positive where "no answer" is the better one. None without a null score.
    """
    if prediction.null_score is None:
        return None
    spans = (answer["score"] for answer in prediction.n_best if answer["answer"])
    best = next(spans, None)
    if best is None:
        return LARGEST_ODDS
    null = prediction.null_score
    if scoring != "logit":
        null, best = (log(p) if p > 0 else -inf for p in (null, best))
    if null == best:
        return 0.0
    return max(-LARGEST_ODDS, min(null - best, LARGEST_ODDS))


def na_prob(odds: float) -> float:
    """The logistic function of `null_odds`: monotone, from 0 to 1, 0.5 where they are 0."""
    if odds >= 0:
        return 1 / (1 + exp(-odds))
    return exp(max(odds, -700)) / (1 + exp(max(odds, -700)))
