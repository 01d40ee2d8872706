"""The published algorithm of Transformers' run_qa example, in plain Python: the oracle of `test_compat`.

Written from what the example does, one step after the other: features with None outside the context;
then per feature the best starts x the best ends, per example the best of those and the null answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def make_features(
    tokenizer: Any, examples: Sequence[dict[str, Any]], max_length: int = 384, stride: int = 128
) -> list[dict[str, Any]]:
    """Features padded to ``max_length``, one dict each, with everything that a model needs."""
    left = tokenizer.padding_side == "left"
    questions = [example["question"].lstrip() for example in examples]
    contexts = [example["context"] for example in examples]
    encoded = tokenizer(
        *((contexts, questions) if left else (questions, contexts)),
        truncation="only_first" if left else "only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    features = []
    for i, number in enumerate(encoded["overflow_to_sample_mapping"]):
        context = [sequence == (0 if left else 1) for sequence in encoded.sequence_ids(i)]
        feature = {name: encoded[name][i] for name in tokenizer.model_input_names}
        feature["example_id"] = examples[number]["id"]
        feature["offset_mapping"] = [
            offset if inside else None
            for offset, inside in zip(encoded["offset_mapping"][i], context, strict=True)
        ]
        features.append(feature)
    return features


def postprocess(
    examples: Any,
    features: Any,
    predictions: Any,
    version_2_with_negative: bool = False,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    null_score_diff_threshold: float = 0.0,
    *,
    all_candidates: bool = False,
    cls_index: int = 0,
) -> tuple[dict[str, str], dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Texts, n-best lists and null odds by example id.

    With ``all_candidates`` every start and every end is looked at, not only the ``n_best_size``
    greatest; equal logits then come in the order of their positions. The null position is
    ``cls_index``, which in the example is 0.
    """
    features_of: dict[str, list[int]] = {}
    for number, feature in enumerate(features):
        features_of.setdefault(feature["example_id"], []).append(number)

    texts, nbest_lists, null_odds = {}, {}, {}
    for example in examples:
        found: list[dict[str, Any]] = []
        null: dict[str, Any] | None = None
        for number in features_of.get(example["id"], []):
            start, end = predictions[0][number], predictions[1][number]
            # Two reads of the row, as in the example: what they cost is part of what it costs.
            offsets = features[number]["offset_mapping"]
            may_start = features[number].get("token_is_max_context")

            null_score = start[cls_index] + end[cls_index]
            if null is None or null_score < null["score"]:
                null = {
                    "place": (0, 0),
                    "score": null_score,
                    "start_logit": start[cls_index],
                    "end_logit": end[cls_index],
                }

            if all_candidates:
                starts = np.argsort(-start, kind="stable").tolist()
                ends = np.argsort(-end, kind="stable").tolist()
            else:
                starts = np.argsort(start)[::-1][:n_best_size].tolist()
                ends = np.argsort(end)[::-1][:n_best_size].tolist()
            for i in starts:
                for j in ends:
                    if i >= len(offsets) or j >= len(offsets) or not offsets[i] or not offsets[j]:
                        continue
                    if j < i or j - i + 1 > max_answer_length:
                        continue
                    if may_start is not None and not may_start.get(str(i), False):
                        continue
                    found.append(
                        {
                            "place": (offsets[i][0], offsets[j][1]),
                            "score": start[i] + end[j],
                            "start_logit": start[i],
                            "end_logit": end[j],
                        }
                    )

        if version_2_with_negative and null is not None:
            found.append(null)
        found.sort(key=lambda span: -span["score"])
        nbest = found[:n_best_size]
        if (
            version_2_with_negative
            and null is not None
            and all(s["place"] != (0, 0) for s in nbest)
        ):
            nbest.append(null)
        for span in nbest:
            begin, stop = span["place"]
            span["text"] = example["context"][begin:stop]
        if not nbest or (len(nbest) == 1 and not nbest[0]["text"]):
            fake = {"text": "empty", "score": 0.0, "start_logit": 0.0, "end_logit": 0.0}
            nbest.insert(0, fake)

        highest = max(float(span["score"]) for span in nbest)
        weights = [math.exp(float(span["score"]) - highest) for span in nbest]
        nbest_lists[example["id"]] = [
            {
                "start_logit": float(span["start_logit"]),
                "end_logit": float(span["end_logit"]),
                "text": span["text"],
                "probability": weight / math.fsum(weights),
            }
            for span, weight in zip(nbest, weights, strict=True)
        ]

        best = nbest[0]
        if version_2_with_negative:
            best = next(span for span in nbest if span["text"])
            null_score = null["score"] if null is not None else 0.0
            null_odds[example["id"]] = float(null_score - best["start_logit"] - best["end_logit"])
        refused = null_odds.get(example["id"], -math.inf) > null_score_diff_threshold
        texts[example["id"]] = "" if refused else best["text"]
    return texts, nbest_lists, null_odds
