"""Scoring 100,000 questions, next to the rules of the SQuAD 2.0 script in plain Python.

    python bench/evaluate.py DATA.json PREDICTIONS.json NA_PROB.json

The questions are repeated under new ids until there are 100,000 of them. The peer is the oracle of the
tests, which takes one question and one rule at a time as the official script does and gives its figures;
that both give the same totals is checked first. `evaluate` does more in its time: bootstrap intervals,
breakdowns and calibration. Writes bench/results/evaluate.json.
"""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import typer

import qa_fast
from qa_fast.evaluation.metrics import score_answers
from qa_fast.evaluation.normalizers import make_normalizer

QUESTIONS = 100_000
ROOT = Path(__file__).parents[1]


def load_oracle() -> Any:
    path = ROOT / "tests" / "helpers" / "scripts_of_squad.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(function: Any, repeats: int = 3) -> tuple[float, Any]:
    """Median seconds of ``function``, and what it returned."""
    seconds = []
    for _ in range(repeats):
        begin = perf_counter()
        result = function()
        seconds.append(perf_counter() - begin)
    return median(seconds), result


def main(
    data: Annotated[Path, typer.Argument()],
    predictions: Annotated[Path, typer.Argument()],
    na_prob: Annotated[Path, typer.Argument()],
) -> None:
    """Measure and write bench/results/evaluate.json."""
    examples = list(qa_fast.read_examples(data))
    texts, na = (json.loads(path.read_text(encoding="utf-8")) for path in (predictions, na_prob))
    rows = [
        {
            "id": str(i),
            "question": e.question,
            "context": e.context,
            "answers": list(e.answers or ()),
        }
        for i, e in ((i, examples[i % len(examples)]) for i in range(QUESTIONS))
    ]
    texts, na = (
        {str(i): known[examples[i % len(examples)].id] for i in range(QUESTIONS)}
        for known in (texts, na)
    )
    qas = [{**row, "answers": [{"text": text} for text in row["answers"]]} for row in rows]
    squad = {"data": [{"paragraphs": [{"qas": qas}]}]}

    oracle = load_oracle()
    peer, expected = timed(lambda: oracle.evaluate_2(squad, texts, na))
    whole, found = timed(lambda: qa_fast.evaluate(rows, texts, na_prob=na))
    assert found.metrics == expected, "the totals differ"
    golds = [row["answers"] for row in rows]
    answers = [*texts.values()]
    scoring, _ = timed(lambda: score_answers(answers, golds, make_normalizer()))
    results = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "questions": QUESTIONS,
        "equal": True,
        "seconds": {
            "official rules in plain Python": peer,
            "qa_fast.evaluate, everything": whole,
            "of that, exact match and F1 without a cache of texts": scoring,
        },
    }
    path = ROOT / "bench" / "results" / "evaluate.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(main)
