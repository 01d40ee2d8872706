"""Scoring 100,000 questions by each suite, next to the suite's rules in plain Python.

    python bench/evaluate.py [--suite NAME] [--script NAME=PATH]
    python bench/evaluate.py DATA.json PREDICTIONS.json NA_PROB.json

Without files the questions are those recorded with the tests, for suites without a recording those of
another one that score alike; with files they are SQuAD 2.0's of the files. They are repeated under new
ids until there are 100,000 of them. The peer is the oracle of the tests, which takes one question and
one rule at a time as the official script does, on the first 10,000: that both give the same totals for
them is checked first. `evaluate` does more in its time: bootstrap intervals, breakdowns and calibration.

``--script`` times a copy of an official script, too, on the same 10,000: one that is called as SQuAD's
are, with a SQuAD file of the gold answers and a file of predictions. Several can be given. None of them
is here.

Writes bench/results/evaluate.json.
"""

from __future__ import annotations

import importlib
import json
import lzma
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import typer

import qa_fast

QUESTIONS = 100_000
FEWER = 10_000
ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "recorded" / "suites"
LIKE = {
    "squad1": "mrqa",
    "xquad": "arcd",
    "mlqa": "arcd",
    "tydiqa": "mrqa",
    "drcd": "cmrc2018",
    "persianqa-squad2": "persianqa",
}
"""Where the questions come from for suites without a recording."""


class Asked(NamedTuple):
    """Questions, their predictions by id, and what else goes to `evaluate`."""

    rows: list[dict[str, Any]]
    predictions: dict[str, Any]
    options: dict[str, Any]

    def fewer(self) -> Asked:
        """The first 10,000 questions."""
        rows = self.rows[:FEWER]

        def of_them(values: dict[str, Any]) -> dict[str, Any]:
            return {row["id"]: values[row["id"]] for row in rows}

        options = {
            name: of_them(value) if name == "na_prob" else value
            for name, value in self.options.items()
        }
        return Asked(rows, of_them(self.predictions), options)

    def squad(self) -> dict[str, Any]:
        """A SQuAD file of the questions."""
        qas = [
            {
                **row,
                "answers": [{"text": text, "answer_start": 0} for text in row["answers"]],
                "is_impossible": not row["answers"],
            }
            for row in self.rows
        ]
        return {"version": "1.1", "data": [{"paragraphs": [{"context": "C", "qas": qas}]}]}


def load(name: str) -> Any:
    """A module of the tests' helpers."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"tests.helpers.{name}")
    finally:
        sys.path.pop(0)


def timed(function: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Median seconds of ``function``, and what it returned."""
    seconds = []
    for _ in range(repeats):
        begin = perf_counter()
        result = function()
        seconds.append(perf_counter() - begin)
    return median(seconds), result


# --- the questions ------------------------------------------------------------------------------


def recorded(suite: str) -> Asked:
    """100,000 questions for ``suite``."""
    file = RECORDED / f"{LIKE.get(suite, suite)}.json.xz"
    found = json.loads(lzma.decompress(file.read_bytes()))["rows"]
    golds = found["answers"]
    if suite == "cuad":
        given: list[Any] = [
            [{"text": text, "probability": p} for text, p in n_best] for n_best in found["n_best"]
        ]
    else:
        # Of the plain peers not all know a question without a prediction.
        given = [text or "" for text in found["prediction"]]
    begins = {"tydiqa": ["arabic-", "english-", "korean-", "telugu-", "finnish-"]}.get(suite, [""])
    kinds = [id_.partition("__")[2] for id_ in found.get("id", [])]
    rows, predictions = [], {}
    for i in range(QUESTIONS):
        j = i % len(golds)
        id_ = f"{begins[i % len(begins)]}{i}" + (f"__{kinds[j]}" if kinds else "")
        rows.append({"id": id_, "question": "Who was it?", "context": "C", "answers": golds[j]})
        predictions[id_] = given[j]
    if suite == "persianqa-squad2":
        rows = [
            {**row, "answers": [text for text in row["answers"] if text.strip()]} for row in rows
        ]
    return Asked(rows, predictions, {"language": "ar"} if suite == "mlqa" else {})


def of_files(data: Path, predictions: Path, na_prob: Path) -> Asked:
    """100,000 questions of SQuAD 2.0 with no-answer probabilities."""
    examples = list(qa_fast.read_examples(data))
    texts, na = (json.loads(path.read_text(encoding="utf-8")) for path in (predictions, na_prob))
    chosen = [examples[i % len(examples)] for i in range(QUESTIONS)]
    rows = [
        {
            "id": str(i),
            "question": e.question,
            "context": e.context,
            "answers": list(e.answers or ()),
        }
        for i, e in enumerate(chosen)
    ]
    of_all = {str(i): texts[e.id] for i, e in enumerate(chosen)}
    return Asked(rows, of_all, {"na_prob": {str(i): na[e.id] for i, e in enumerate(chosen)}})


# --- the peers ----------------------------------------------------------------------------------


def by_the_rules(suite: str, asked: Asked) -> dict[str, float]:
    """The totals by the plain peer, under the keys that `evaluate` has."""
    squad, suites = load("scripts_of_squad"), load("scripts_of_suites")
    if suite == "cuad":
        clauses = [
            (row["id"], row["answers"], [(a["text"], a["probability"]) for a in of_one])
            for row, of_one in zip(asked.rows, asked.predictions.values(), strict=True)
        ]
        curve = ("precisions", "recalls")
        return {k: v for k, v in suites.evaluate_cuad(clauses).items() if k not in curve}
    if suite == "squad2":
        return squad.evaluate_2(asked.squad(), asked.predictions, asked.options["na_prob"])
    if suite == "persianqa-squad2":
        texts = {id_: suites.persian_form(text) for id_, text in asked.predictions.items()}
        cleaned = [
            {**row, "answers": [suites.persian_form(text) for text in row["answers"]]}
            for row in asked.rows
        ]
        data = asked._replace(rows=cleaned).squad()
        return squad.evaluate_2(data, texts, dict.fromkeys(texts, 0.0))
    if suite == "mlqa":
        normalize = squad.mlqa_normalize(asked.options["language"])
        return squad.evaluate_1(asked.squad(), asked.predictions, normalize)
    questions = [(row["id"], asked.predictions[row["id"]], row["answers"]) for row in asked.rows]
    if suite == "tydiqa":
        return suites.evaluate_tydiqa(questions)
    if suite in ("cmrc2018", "drcd"):
        return suites.evaluate_cmrc(questions)
    return suites.evaluate_rows(suites.SCORES[suite], questions)


def seconds_of_script(path: Path, asked: Asked) -> float:
    """How long an official script takes, with its start."""
    with TemporaryDirectory() as folder:
        data, predictions = Path(folder) / "data.json", Path(folder) / "predictions.json"
        data.write_text(json.dumps(asked.squad()), encoding="utf-8")
        predictions.write_text(json.dumps(asked.predictions), encoding="utf-8")
        command = [sys.executable, str(path), str(data), str(predictions)]
        seconds, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True), 1)
    return seconds


def main(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA PREDICTIONS NA_PROB]")
    ] = None,
    *,
    suite: Annotated[list[str] | None, typer.Option(help="Only these; all by default.")] = None,
    script: Annotated[list[str] | None, typer.Option(metavar="SUITE=PATH")] = None,
) -> None:
    """Measure and write bench/results/evaluate.json."""
    path = ROOT / "bench" / "results" / "evaluate.json"
    results: dict[str, Any] = {"suites": {}}
    if path.exists():
        results["suites"] = json.loads(path.read_text(encoding="utf-8")).get("suites", {})
    results["machine"] = platform.processor() or platform.machine()
    results["python"] = platform.python_version()
    scripts = {name: Path(file) for name, _, file in (s.partition("=") for s in script or ())}
    if files:
        names = ["squad2"]
    else:
        every = (p.name.partition(".")[0] for p in sorted(RECORDED.glob("*.xz")))
        names = [*(suite or (*every, *LIKE))]
    for name in names:
        asked = of_files(*files) if files else recorded(name)
        few = asked.fewer()
        peer, expected = timed(lambda n=name, a=few: by_the_rules(n, a), 1)
        found = qa_fast.evaluate(few.rows, few.predictions, suite=name, **few.options)
        expected = {key: value for key, value in expected.items() if key[:3] != "pr_"}
        assert found.metrics == expected, f"the totals of {name} differ"
        whole, _ = timed(
            lambda n=name, a=asked: qa_fast.evaluate(a.rows, a.predictions, suite=n, **a.options)
        )
        seconds = {
            f"qa_fast.evaluate, everything, {QUESTIONS:,}": whole,
            f"official rules in plain Python, {FEWER:,}": peer,
        }
        if name in scripts:
            seconds[f"official script, {FEWER:,}"] = seconds_of_script(scripts[name], few)
        results["suites"][name] = {"equal": True, "seconds": seconds}
        print(
            f"{name:17}", *(f"{key}: {value:.2f} s;" for key, value in seconds.items()), flush=True
        )
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
