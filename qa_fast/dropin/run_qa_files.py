"""The files of Transformers' run_qa example: texts, n-best lists and null odds by the example's id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from .run_qa_answers import EMPTY, Bool, NBest


def check_keys(ids: list[Any]) -> None:
    """Raise a ValueError unless the ids tell the examples apart as keys of a file, which are texts."""
    seen: dict[str, int] = {}
    for i, name in enumerate(ids):
        try:
            (key,) = json.loads(json.dumps({name: 0}))
        except TypeError:
            raise ValueError(
                f"the id of example {i} is {name!r}, and a file's keys are strings or numbers; got "
                f"{type(name).__name__}"
            ) from None
        if key in seen:
            raise ValueError(
                f"the ids of examples {seen[key]} and {i}, {ids[seen[key]]!r} and {name!r}, are both "
                f"{key!r} in a file"
            )
        seen[key] = i


def n_best_lines(ids: list[Any], contexts: list[str], nbest: NBest, found: Bool) -> list[str]:
    """For each of Q examples its id and its n-best list as JSON.

    The keys are run_qa's, with the two logits of a span. A run of `predict` keeps their sum only, and
    writes other keys (`qa_fast.data.predictions.write_run_qa`).

    Args:
        ids: [Q] the examples' ids.
        contexts: [Q] their contexts.
        nbest: their lists.
        found: [Q] whether there is an answer; where not, a made-up one comes first, as in run_qa.
    """
    score = np.where(nbest.valid, nbest.score.astype(np.float64), -np.inf)
    score = np.concatenate([np.where(found, -np.inf, 0.0)[:, None], score], axis=1)
    # In NumPy as in run_qa: `qa_fast.data.answers.softmax` rounds otherwise, and takes one list a call.
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    probability = weight / weight.sum(axis=1, keepdims=True)
    length = nbest.valid.sum(axis=1).tolist()
    columns = [field.tolist() for field in nbest[2:]]
    lines = []
    for i, (name, context, n) in enumerate(zip(ids, contexts, length, strict=True)):
        rows = zip(*(field[i][:n] for field in columns), probability[i, 1:].tolist(), strict=False)
        entries = [
            {"start_logit": s, "end_logit": e, "text": context[begin:stop], "probability": p}
            for s, e, begin, stop, p in rows
        ]
        if not found[i]:
            p = float(probability[i, 0])
            entries.insert(
                0, {"text": EMPTY, "start_logit": 0.0, "end_logit": 0.0, "probability": p}
            )
        lines.append(json.dumps({name: entries})[1:-1])
    return lines


def file_texts(
    answers: Mapping[Any, str], lines: list[str], null_odds: Mapping[Any, float] | None
) -> dict[str, str]:
    """What the files hold, by their names without ``.json``; null odds only where there are any."""
    texts = {"predictions": json.dumps(answers, indent=4)}
    # As run_qa writes them, but an example a line: to indent them takes longer.
    texts["nbest_predictions"] = "{\n    " + ",\n    ".join(lines) + "\n}"
    if null_odds is not None:
        texts["null_odds"] = json.dumps(null_odds, indent=4)
    return texts
