"""The suites that score as SQuAD's scripts do: SQuAD 1.1 and 2.0, XQuAD, MLQA, MRQA, ARCD.

Sources: the scripts of SQuAD 1.1 (allenai/bi-att-flow, squad/evaluate-v1.1.py) and 2.0
(rajpurkar.github.io/SQuAD-explorer, evaluate-v2.0.py); XQuAD is reported with that of 1.1
(google-deepmind/xquad, README.md). MLQA's (facebookresearch/MLQA, mlqa_evaluation_v1.py) is that of 1.1
with a normalizer for each language. MRQA's (mrqa/MRQA-Shared-Task-2019, mrqa_official_eval.py) is that
of 1.1, too; with ``--skip-no-answer`` it leaves out the questions without a prediction, which else
score 0. ARCD's (husseinmozannar/SOQAL, bert/evaluate.py) is that of 1.1 with a normalizer that takes
the Arabic article for a space as well, wherever its two letters stand; its third figure,
``exact_sentence``, needs a model that splits sentences and is not computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qa_fast.evaluation.metrics import (
    Normalize,
    best_of_golds,
    totals_of_squad1,
    totals_of_squad2,
    words_f1,
    words_f1_or_none,
)
from qa_fast.evaluation.normalizers import make_normalizer

from .suite import Suite, words_of

SOURCE_1 = "allenai/bi-att-flow squad/evaluate-v1.1.py"
SOURCE_2 = "rajpurkar.github.io/SQuAD-explorer evaluate-v2.0.py"


def _like_1(
    name: str,
    title: str,
    source: str,
    normalize: Normalize,
    *,
    skips_missing: bool = False,
    by_id: bool = False,
) -> Suite:
    return Suite(
        name=name,
        title=title,
        source=source,
        score=best_of_golds(normalize, words_f1),
        tokens=words_of(normalize),
        totals=totals_of_squad1,
        skips_missing=skips_missing,
        by_id=by_id,
    )


squad1: Callable[[Normalize], Suite] = partial(_like_1, "squad1", "SQuAD 1.1", SOURCE_1)
xquad: Callable[[Normalize], Suite] = partial(_like_1, "xquad", "XQuAD", SOURCE_1)
mlqa: Callable[[Normalize], Suite] = partial(
    _like_1, "mlqa", "MLQA", "facebookresearch/MLQA mlqa_evaluation_v1.py"
)
mrqa: Callable[[Normalize], Suite] = partial(
    _like_1,
    "mrqa",
    "MRQA 2019",
    "mrqa/MRQA-Shared-Task-2019 mrqa_official_eval.py",
    skips_missing=True,
    by_id=True,
)
arcd: Callable[[Normalize], Suite] = partial(
    _like_1, "arcd", "ARCD", "husseinmozannar/SOQAL bert/evaluate.py"
)


def make_arcd_normalizer() -> Normalize:
    """The function that gives the form in which ARCD compares answers.

    Example:
        >>> make_arcd_normalizer()("في the البيت، عام 2019.")
        'في بيت، عام 2019'
    """
    normalize = make_normalizer()
    return lambda text: " ".join(normalize(text).replace("ال", " ").split())


def squad2(normalize: Normalize) -> Suite:
    """SQuAD 2.0, with unanswerable questions and no-answer probabilities."""
    return Suite(
        name="squad2",
        title="SQuAD 2.0",
        source=SOURCE_2,
        score=best_of_golds(normalize, words_f1_or_none, unanswerable=True),
        tokens=words_of(normalize),
        totals=totals_of_squad2,
        unanswerable=True,
        thresholds=True,
        by_id=True,
    )
