"""The rules of the scripts of SQuAD 2.0, SQuAD 1.1 and MLQA in plain Python: an oracle for metrics.

Written from what the scripts are published to do, one question and one rule at a time, with nothing
of qa_fast in it. Numbers keep the types they have in the scripts, and are added in the same order.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

Normalize = Callable[[str], str]

ARTICLES = {
    "en": ["a", "an", "the"],
    "es": ["un", "una", "unos", "unas", "el", "la", "los", "las"],
    "hi": [],
    "vi": ["của", "là", "cái", "chiếc", "những"],
    "de": [
        "ein",
        "eine",
        "einen",
        "einem",
        "eines",
        "einer",
        "der",
        "die",
        "das",
        "den",
        "dem",
        "des",
    ],
    "zh": [],
}


def squad_normalize(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(without_articles(text, "en").split())


def mlqa_normalize(language: str) -> Normalize:
    def normalize(text: str) -> str:
        text = "".join(
            c
            for c in text.lower()
            if c not in string.punctuation and unicodedata.category(c)[0] != "P"
        )
        if language == "ar":
            text = text.replace("ال", " ")
        elif language == "zh":
            text = "".join(f" {c} " if "\u4e00" <= c <= "\u9fa5" else c for c in text)
        else:
            text = without_articles(text, language)
        return " ".join(text.split())

    return normalize


def without_articles(text: str, language: str) -> str:
    # One at a time: no article is a word inside another one.
    for article in ARTICLES[language]:
        text = re.sub(rf"\b{article}\b", " ", text)
    return text


def overlap_f1(prediction: str, gold: str) -> float:
    mine, theirs = prediction.split(), gold.split()
    left, same = list(theirs), 0
    for token in mine:
        if token in left:
            left.remove(token)
            same += 1
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(mine), 1.0 * same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def score_1(prediction: str, golds: list[str], normalize: Normalize) -> tuple[int, float]:
    """Exact match and F1 under SQuAD 1.1 and MLQA."""
    mine = normalize(prediction)
    exact = max(int(mine == normalize(gold)) for gold in golds)
    return exact, max(overlap_f1(mine, normalize(gold)) for gold in golds)


def score_2(prediction: str, golds: list[str], normalize: Normalize) -> tuple[int, float]:
    """Exact match and F1 under SQuAD 2.0."""
    golds = [gold for gold in golds if normalize(gold)] or [""]
    mine = normalize(prediction)
    exact = [int(mine == normalize(gold)) for gold in golds]
    f1 = [
        overlap_f1(mine, gold) if mine and gold else int(mine == gold)
        for gold in map(normalize, golds)
    ]
    return max(exact), max(f1)


def questions(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """The gold answers of each question of a SQuAD file."""
    return {
        qa["id"]: [answer["text"] for answer in qa["answers"]]
        for article in data["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }


def evaluate_1(
    data: Mapping[str, Any], predictions: Mapping[str, str], normalize: Normalize = squad_normalize
) -> dict[str, float]:
    golds = questions(data)
    exact = f1 = 0.0
    for qid, texts in golds.items():
        if qid in predictions:
            one_exact, one_f1 = score_1(predictions[qid], texts, normalize)
            exact += one_exact
            f1 += one_f1
    return {"exact_match": 100.0 * exact / len(golds), "f1": 100.0 * f1 / len(golds)}


def evaluate_2(
    data: Mapping[str, Any],
    predictions: Mapping[str, str],
    na_prob: Mapping[str, float] | None = None,
    threshold: float = 1.0,
    normalize: Normalize = squad_normalize,
) -> dict[str, float]:
    golds = questions(data)
    raw = {qid: score_2(predictions[qid], texts, normalize) for qid, texts in golds.items()}
    final: dict[str, tuple[float, float]] = {}
    for qid, pair in raw.items():
        if na_prob is not None and na_prob[qid] > threshold:
            final[qid] = (float(not golds[qid]), float(not golds[qid]))
        else:
            final[qid] = pair
    result: dict[str, float] = {}
    for prefix, wanted in (("", None), ("HasAns_", True), ("NoAns_", False)):
        ids = [qid for qid in golds if wanted is None or bool(golds[qid]) == wanted]
        if ids:
            result[prefix + "exact"] = 100.0 * sum(final[qid][0] for qid in ids) / len(ids)
            result[prefix + "f1"] = 100.0 * sum(final[qid][1] for qid in ids) / len(ids)
            result[prefix + "total"] = len(ids)
    if na_prob is None:
        return result
    order = sorted((qid for qid in na_prob if qid in golds), key=lambda qid: na_prob[qid])
    for kind, name in enumerate(("exact", "f1")):
        score: float = sum(1 for texts in golds.values() if not texts)
        best, best_threshold = score, 0.0
        for qid in order:
            if golds[qid]:
                score += raw[qid][kind]
            elif predictions[qid]:
                score -= 1
            if score > best:
                best, best_threshold = score, na_prob[qid]
        result[f"best_{name}"] = 100.0 * best / len(golds)
        result[f"best_{name}_thresh"] = best_threshold
    answerable = sum(1 for texts in golds.values() if texts)
    for name in ("exact", "f1", "oracle"):
        hits, last_recall, area = 0.0, 0.0, 0.0
        for i, qid in enumerate(order):
            if golds[qid]:
                hits += {"exact": raw[qid][0], "f1": raw[qid][1], "oracle": 1.0}[name]
            if i + 1 == len(order) or na_prob[order[i + 1]] != na_prob[qid]:
                precision, recall = hits / (i + 1), hits / answerable if answerable else 0.0
                area += precision * (recall - last_recall)
                last_recall = recall
        if answerable:
            result[f"pr_{name}_ap"] = 100.0 * area
    return result
