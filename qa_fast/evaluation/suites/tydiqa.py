"""TyDi QA's gold passage task: SQuAD 1.1's figures by language, and their mean without English.

Source: google-research-datasets/tydiqa, gold_passage_baseline: the script eval_gold_passage_baseline.sh
scores each language by SQuAD 1.1's script, split_predictions.py tells the language by the first part of
the id, ``arabic-2387335860751143628-1``, and README.md has the mean over all languages but English
reported. The mean and the languages' figures come as ``exact_match`` and ``f1``, ``arabic_exact_match``
and so on; where English is all there is, there is no mean. Clark et al. 2020.
"""

from __future__ import annotations

from qa_fast.data.examples import Example
from qa_fast.evaluation.metrics import (
    Figure,
    Normalize,
    Scored,
    best_of_golds,
    mean_in_percent,
    words_f1,
)
from qa_fast.files.wording import shown

from .suite import Suite, words_of

LANGUAGES = (
    "english",
    "arabic",
    "bengali",
    "finnish",
    "indonesian",
    "swahili",
    "korean",
    "russian",
    "telugu",
)
"""In the order in which the script goes through them."""


def tydiqa(normalize: Normalize) -> Suite:
    """TyDi QA's gold passage task."""
    return Suite(
        name="tydiqa",
        title="TyDiQA-GoldP",
        source="google-research-datasets/tydiqa gold_passage_baseline/eval_gold_passage_baseline.sh",
        score=best_of_golds(normalize, words_f1),
        tokens=words_of(normalize),
        totals=_totals,
        check=_check,
    )


def language_of(id_: str) -> str | None:
    """The language that an id of TyDi QA begins with; None for other ids.

    Example:
        >>> language_of("arabic-2387335860751143628-1"), language_of("56be4db0acb8001400a502ec")
        ('arabic', None)
    """
    language, dash, _ = id_.partition("-")
    return language if dash and language in LANGUAGES else None


def _check(example: Example) -> None:
    if language_of(example.id) is None:
        raise ValueError(
            "an id of TyDi QA begins with its language and a dash, such as 'arabic-...', one of "
            f"{', '.join(LANGUAGES)}; got {shown(example.id)}"
        )


def _totals(scored: Scored) -> dict[str, Figure]:
    rows: dict[str, list[int]] = {language: [] for language in LANGUAGES}
    for i, id_ in enumerate(scored.ids):
        rows[id_.partition("-")[0]].append(i)
    columns = {"exact_match": scored.scores.exact, "f1": scored.scores.f1}
    by_language = {
        language: {
            name: mean_in_percent([column[i] for i in of_it]) for name, column in columns.items()
        }
        for language, of_it in rows.items()
        if of_it
    }
    averaged = [figures for language, figures in by_language.items() if language != "english"]
    found = {}
    for name in columns if averaged else ():
        figures = [of_one[name] for of_one in averaged]
        mean = sum(figure.value for figure in figures) / len(figures)
        found[name] = Figure(mean, [sample for figure in figures for sample in figure.samples])
    for language, of_one in by_language.items():
        found.update({f"{language}_{name}": figure for name, figure in of_one.items()})
    return found
