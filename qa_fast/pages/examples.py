"""The examples that a report holds: which ones, and their answers' places in the text."""

from __future__ import annotations

import random
from typing import Any

from qa_fast.data.golds import nearest
from qa_fast.evaluation.evaluate import Evaluation

MOST_EXAMPLES = 10_000
# Of all contexts together.
_MOST_CHARACTERS = 30_000_000


def choose(evaluation: Evaluation, seed: int) -> list[int]:
    """Rows to embed: all, or a random sample that fits; in the order of the data."""
    rows = list(range(len(evaluation.examples)))
    random.Random(seed).shuffle(rows)
    chosen: list[int] = []
    contexts: set[str] = set()
    characters = 0
    for row in rows[:MOST_EXAMPLES]:
        context = evaluation.examples[row].context
        if context not in contexts:
            contexts.add(context)
            characters += len(context)
        if characters > _MOST_CHARACTERS and chosen:
            break
        chosen.append(row)
    return sorted(chosen)


def embedded(evaluation: Evaluation, rows: list[int]) -> dict[str, Any]:
    """The examples of ``rows`` for the page's script; offsets count UTF-16 units, as it does."""
    number: dict[str, int] = {}
    found = []
    for i in rows:
        example, prediction = evaluation.examples[i], evaluation.predictions[i]
        context, answer = example.context, evaluation.answers[i]
        place, located = None, False
        if prediction is not None and answer:
            place, located = _find(context, answer, prediction.start)
        starts = example.answer_starts or [None] * len(example.answers or ())
        golds = [
            {"text": text, **_span(context, _find(context, text, start)[0])}
            for text, start in dict.fromkeys(zip(example.answers or (), starts, strict=True))
        ]
        found.append(
            {
                "id": example.id,
                "question": example.question,
                "context": number.setdefault(context, len(number)),
                "golds": golds,
                "answer": answer,
                **_span(context, place),
                "located": located,
                "exact": evaluation.scores.exact[i],
                "f1": evaluation.scores.f1[i],
                "confidence": evaluation.confidence[i],
                "na_prob": evaluation.na_prob[i],
                "chunks": prediction and prediction.chunks,
                "n_best": [
                    [a["answer"], a["score"]] for a in (prediction.n_best if prediction else [])
                ],
            }
        )
    return {"contexts": list(number), "rows": found}


def _find(context: str, text: str, start: int | None) -> tuple[tuple[int, int] | None, bool]:
    """Where ``text`` stands, as near to ``start`` as it does; and whether it had to be searched for."""
    found = nearest(context, text, start)
    return (None, False) if found is None else ((found, found + len(text)), found != start)


def _span(context: str, place: tuple[int, int] | None) -> dict[str, int | None]:
    """``start`` and ``end`` in UTF-16 units."""
    if place is None:
        return {"start": None, "end": None}
    start, end = (p + sum(c > "\uffff" for c in context[:p]) for p in place)
    return {"start": start, "end": end}
