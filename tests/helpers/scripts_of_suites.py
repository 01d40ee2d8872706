"""The rules of other suites' scripts in plain Python: oracles for `qa_fast.evaluation.suites`.

Written from what the scripts are published to do, one question and one rule at a time, with nothing
of qa_fast in it. Numbers keep the types they have in the scripts, and are added in the same order.
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import nan
from typing import Any

import numpy as np
from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup
from nltk.tokenize import word_tokenize

from .scripts_of_squad import Normalize, score_1, score_2, squad_normalize

Question = tuple[str, str | None, list[str]]
"""An id, a prediction and gold answers."""
OneScore = Callable[[str, list[str]], tuple[float, float]]


# --- one question -------------------------------------------------------------------------------


def squad_score(prediction: str, golds: list[str]) -> tuple[float, float]:
    return score_1(prediction, golds, squad_normalize)


def arcd_score(prediction: str, golds: list[str]) -> tuple[float, float]:
    def normalize(text: str) -> str:
        return " ".join(squad_normalize(text).replace("\u0627\u0644", " ").split())

    return score_1(prediction, golds, normalize)


def korquad_form(text: str) -> str:
    for symbol in "'\"《》<>〈〉()‘’":
        text = text.replace(symbol, " ")
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(text.split())


def korquad2_form(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ParserRejectedMarkup):  # at which the script would stop
            text = BeautifulSoup(text, "html.parser").get_text()
    return korquad_form(text).replace(" ", "")


def by_characters(form: Normalize, *, spaces: bool = False) -> OneScore:
    """Exact match and F1 over the characters of the words, or of all that the form leaves."""

    def score(prediction: str, golds: list[str]) -> tuple[float, float]:
        mine = form(prediction)
        exact = max(int(mine == form(gold)) for gold in golds)

        def f1(gold: str) -> float:
            left = list(gold if spaces else "".join(gold.split()))
            given, total, same = list(mine if spaces else "".join(mine.split())), len(left), 0
            for character in given:
                if character in left:
                    left.remove(character)
                    same += 1
            if same == 0:
                return 0
            precision, recall = 1.0 * same / len(given), 1.0 * same / total
            return (2 * precision * recall) / (precision + recall)

        return exact, max(f1(form(gold)) for gold in golds)

    return score


korquad1_score = by_characters(korquad_form)
korquad2_score = by_characters(korquad2_form)


def persian_form(text: str) -> str:
    return text.replace("\u200c", " ").strip()


def persianqa_score(prediction: str, golds: list[str]) -> tuple[float, float]:
    return by_characters(persian_form, spaces=True)(prediction, golds or [""])


def persianqa_squad2_score(prediction: str, golds: list[str]) -> tuple[float, float]:
    golds = [persian_form(gold) for gold in golds]
    return score_2(persian_form(prediction), golds, squad_normalize)


NOT_COMPARED = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def cmrc_bare(text: str) -> str:
    return "".join(c for c in text.lower().strip() if c not in NOT_COMPARED)


def cmrc_segments(text: str) -> list[str]:
    found: list[str] = []
    run = ""
    for character in [*text.lower().strip(), "\u4e00"]:
        if character in NOT_COMPARED:
            continue
        if "\u4e00" <= character <= "\u9fa5":
            if run:
                found += word_tokenize(run, preserve_line=True)
            run = ""
            found.append(character)
        else:
            run += character
    return found[:-1]


def cmrc_score(prediction: str, golds: list[str]) -> tuple[float, float]:
    exact = max(int(cmrc_bare(prediction) == cmrc_bare(gold)) for gold in golds)
    scores: list[float] = []
    mine = cmrc_segments(prediction)
    for gold in golds:
        theirs = cmrc_segments(gold)
        shared = common_run(theirs, mine)
        if not shared:
            scores.append(0)
            continue
        precision, recall = 1.0 * shared / len(mine), 1.0 * shared / len(theirs)
        scores.append((2 * precision * recall) / (precision + recall))
    return exact, max(scores)


def common_run(one: Sequence[str], other: Sequence[str]) -> int:
    """By a table of the runs that end at each pair of places."""
    longest = 0
    above = [0] * (len(other) + 1)
    for a in one:
        row = [0]
        for j, b in enumerate(other):
            row.append(above[j] + 1 if a == b else 0)
        longest = max(longest, *row)
        above = row
    return longest


SCORES: dict[str, OneScore] = {
    "squad1": squad_score,
    "xquad": squad_score,
    "mrqa": squad_score,
    "tydiqa": squad_score,
    "arcd": arcd_score,
    "korquad1": korquad1_score,
    "korquad2": korquad2_score,
    "cmrc2018": cmrc_score,
    "drcd": cmrc_score,
    "persianqa": persianqa_score,
    "persianqa-squad2": persianqa_squad2_score,
}


# --- totals -------------------------------------------------------------------------------------


def evaluate_rows(score: OneScore, questions: Sequence[Question]) -> dict[str, float]:
    """The totals of the scripts that grew out of SQuAD 1.1's."""
    exact: float = 0
    f1: float = 0
    for _, prediction, golds in questions:
        if prediction is not None:
            one = score(prediction, golds)
            exact += one[0]
            f1 += one[1]
    return {"exact_match": 100.0 * exact / len(questions), "f1": 100.0 * f1 / len(questions)}


def evaluate_cmrc(questions: Sequence[Question]) -> dict[str, float]:
    found = evaluate_rows(cmrc_score, questions)
    exact, f1 = found["exact_match"], found["f1"]
    return {
        "AVERAGE": (exact + f1) * 0.5,
        "F1": f1,
        "EM": exact,
        "TOTAL": len(questions),
        "SKIP": sum(1 for _, prediction, _ in questions if prediction is None),
    }


def evaluate_tydiqa(questions: Sequence[Question]) -> dict[str, float]:
    names = ["english", "arabic", "bengali", "finnish", "indonesian", "swahili", "korean"]
    names += ["russian", "telugu"]
    by_language: dict[str, dict[str, float]] = {}
    for name in names:
        mine = [question for question in questions if question[0].split("-")[0] == name]
        if mine:
            by_language[name] = evaluate_rows(squad_score, mine)
    found = {}
    others = [figures for name, figures in by_language.items() if name != "english"]
    for key in ("exact_match", "f1") if others else ():
        found[key] = sum(figures[key] for figures in others) / len(others)
    for name, figures in by_language.items():
        found.update({f"{name}_{key}": value for key, value in figures.items()})
    return found


# --- CUAD ---------------------------------------------------------------------------------------

Clauses = Sequence[tuple[str, list[str], list[tuple[str, float]]]]
"""Ids, gold answers, and n-best lists of texts and probabilities."""


def finds(id_: str, answer: str, gold: str) -> bool:
    def words(text: str) -> set[str]:
        for mark in ".,;:":
            text = text.replace(mark, "")
        return set(text.lower().replace("/", " ").split(" "))

    mine, theirs = words(answer), words(gold)
    return len(mine & theirs) / len(mine | theirs) >= 0.5 or ("Parties" in id_ and gold in answer)


def clause_counts(clauses: Clauses, threshold: float) -> tuple[float, float]:
    """Precision and recall of the answers above a threshold."""
    hits = missed = false = 0
    for id_, golds, n_best in clauses:
        known = {text: probability for text, probability in n_best if text}
        answers = [text for text, probability in known.items() if probability > threshold]
        for gold in golds:
            if any(finds(id_, answer, gold) for answer in answers):
                hits += 1
            else:
                missed += 1
        false += sum(not any(finds(id_, answer, gold) for gold in golds) for answer in answers)
    return (
        hits / (hits + false) if hits + false else nan,
        hits / (hits + missed) if hits + missed else nan,
    )


def evaluate_cuad(clauses: Clauses) -> dict[str, Any]:
    precision: list[float] = [1]
    recall: list[float] = [0]
    for threshold in [*np.arange(0.99, 0, -0.01), 0.001, 0]:
        one = clause_counts(clauses, float(threshold))
        precision.append(one[0])
        recall.append(one[1])
    best = precision[:]
    for i in reversed(range(len(best) - 1)):
        best[i] = max(best[i + 1], best[i])
    heights = np.array(best)
    area = float((np.diff(np.array(recall)) * (heights[1:] + heights[:-1]) / 2.0).sum())
    found: dict[str, Any] = {"aupr": 0 if np.isnan(area) else area}
    for least in (0.8, 0.9):
        reached = [p for p, r in zip(best[:-1], recall[:-1], strict=True) if r >= least]
        found[f"prec_at_{100 * least:.0f}_recall"] = reached[0] if reached else 0
    return {**found, "precisions": precision, "recalls": recall}
