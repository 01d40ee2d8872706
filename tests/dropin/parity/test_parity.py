"""The removed pipeline next to ours: the same calls, weights and answers, or a listed difference.

The other side is a live one, in the interpreter that QA_FAST_PEER_PYTHON names: one with a
Transformers before 5.3 (4.48 to 5.2). QA_FAST_PARITY_DATA may name a folder of SQuAD-format files and
recorded calls, to compare those too (of the former, each QA_FAST_PARITY_STEP-th question);
QA_FAST_PARITY_REPORT begins the names of files for the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import transformers

import qa_fast
from qa_fast.dropin.pipeline import QuestionAnsweringPipeline, pipeline

from ...helpers.tiny import BUNDLED, FAMILIES, tiny_model, tokenizer_of
from .cases import Case, folder_cases, sample_cases, tiny_cases
from .compare import FILLERS, NULL_POSITION, SCORE, TIES, TOO_LONG, WHITE_SPACE, Report
from .forms import FORMS, outcome

PEER = os.environ.get("QA_FAST_PEER_PYTHON")
TINY_FAMILIES = [family for family in FAMILIES if family != "bundled"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PEER, reason="QA_FAST_PEER_PYTHON names no Python with Transformers < 5.3"
    ),
    pytest.mark.xdist_group("parity"),
]


# The classes of the other side without a difference, by its name.
MENDED = {WHITE_SPACE: "WithoutSpace", NULL_POSITION: "Mended"}

# Forms of calls that the removed pipeline took and that give something else here, as MIGRATION.md says.
DIFFERENT_FORMS = {
    "iterator": "streamed as generators are; it was read into a list",
    "few_candidates": "no fillers of score 0",
    "topk": "ignored by Transformers 5, taken here as Transformers 4 did",
    "unknown_argument": "ignored as before, with a warning",
    "max_seq_len_unneeded": "more than the model has positions for is an error, needed or not",
    "blank_question": "an error, not an answer to nothing",
    "blank_context": "an error, not an empty answer of score 0",
}


def ask_peer(jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The other side's answers to ``jobs``."""
    assert PEER
    paths = [folder / "jobs.jsonl", folder / "answers.jsonl"]
    paths[0].write_text("".join(json.dumps(job) + "\n" for job in jobs), encoding="utf-8")
    script = Path(__file__).with_name("peer.py")
    command = [PEER, str(script), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    head, *answers = map(json.loads, paths[1].read_text(encoding="utf-8").splitlines())
    assert tuple(map(int, head["transformers"].split(".")[:2])) < (5, 3)
    assert len(answers) == len(jobs)
    return answers


def ask_ours(qa: QuestionAnsweringPipeline, cases: list[Case]) -> list[dict[str, Any]]:
    """Ours, in as few calls as there are different arguments: batches must not matter."""
    together = defaultdict(list)
    for i, case in enumerate(cases):
        together[json.dumps(case.args)].append(i)
    answers: list[Any] = [None] * len(cases)
    for args, numbers in together.items():
        pairs = [{"question": cases[i].question, "context": cases[i].context} for i in numbers]
        for i, found in zip(numbers, _results(qa, pairs, json.loads(args)), strict=True):
            answers[i] = found
    return answers


def _results(
    qa: QuestionAnsweringPipeline, pairs: list[dict[str, str]], args: dict[str, Any]
) -> Iterable[dict[str, Any]]:
    try:
        results: Any = qa(pairs, **args)
    except ValueError as error:
        if len(pairs) == 1:
            return [{"error": f"{type(error).__name__}: {error}"}]
        return [result for pair in pairs for result in _results(qa, [pair], args)]
    if len(pairs) == 1:
        results = [results]
    return [{"answers": r if isinstance(r, list) else [r]} for r in results]


def compare(cases: list[Case], models: dict[str, str], folder: Path) -> dict[str, Report]:
    """A report for each set of ``cases``."""
    jobs = [
        {"model": models[c.model], "question": c.question, "context": c.context, "args": c.args}
        for c in cases
    ]
    # Random models come thrice: with faults mended that only they can show.
    again = [i for i, case in enumerate(cases) if case.model != "bundled"]
    for mend in MENDED.values():
        jobs += [{**jobs[i], "mend": mend} for i in again]
    theirs = ask_peer(jobs, folder)
    mended: list[dict[str, Any]] = [{} for _ in cases]
    for nth, name in enumerate(MENDED):
        for i, answer in zip(again, theirs[len(cases) + nth * len(again) :], strict=False):
            mended[i][name] = answer
    ours: list[Any] = [None] * len(cases)
    for model in models:
        numbers = [i for i, case in enumerate(cases) if case.model == model]
        found = ask_ours(pipeline(models[model], device="cpu"), [cases[i] for i in numbers])
        for i, answer in zip(numbers, found, strict=True):
            ours[i] = answer
    reports: dict[str, Report] = defaultdict(Report)
    for i, case in enumerate(cases):
        reports[case.set].add(case._asdict(), ours[i], theirs[i], mended[i])
    return reports


def checked(reports: dict[str, Report], name: str) -> Report:
    """All reports in one, without a mismatch that is unexplained."""
    whole = Report()
    for report in reports.values():
        whole.include(report)
    path = os.environ.get("QA_FAST_PARITY_REPORT")
    if path:
        sets = {key: report.summary() for key, report in reports.items()}
        figures = {"all": whole.summary(), "sets": sets, "unexplained": whole.unexplained}
        Path(f"{path}.{name}.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    print(json.dumps(whole.summary(), indent=1))
    assert whole.unexplained == []
    return whole


def test_the_same_answers(tmp_path: Path) -> None:
    cases = list(sample_cases())
    if folder := os.environ.get("QA_FAST_PARITY_DATA"):
        cases += folder_cases(Path(folder), int(os.environ.get("QA_FAST_PARITY_STEP", "1")))
    report = checked(compare(cases, {"bundled": str(BUNDLED)}, tmp_path), "bundled")
    assert report.compared == len(cases) >= 100
    assert set(report.differences) <= {FILLERS, TIES, TOO_LONG}
    assert report.equal > 0.95 * report.compared
    assert report.largest_score_difference < 1e-5


def test_the_same_answers_with_other_tokenizers(tmp_path: Path) -> None:
    models = {}
    for family in TINY_FAMILIES:
        models[family] = str(tmp_path / family)
        tokenizer_of(family).save_pretrained(models[family])
        tiny_model(tokenizer_of(family)).save_pretrained(models[family])
    cases = [case for family in TINY_FAMILIES for case in tiny_cases(family)]
    reports = compare(cases, models, tmp_path)
    report = checked(reports, "tiny")
    assert report.compared == len(cases)
    # The two families whose [CLS] is not first show that it matters, the others are equal.
    assert reports["tiny_xlnet"].differences[NULL_POSITION] > 0
    # Those whose tokens carry the space before them differ by it.
    assert reports["tiny_unigram"].differences[WHITE_SPACE] > 0
    for family in ("wordpiece", "byte_bpe", "unigram"):
        listed = {FILLERS, TIES} | ({WHITE_SPACE} if family != "wordpiece" else set())
        assert set(reports[f"tiny_{family}"].differences) <= listed


def test_the_same_calls(tmp_path: Path) -> None:
    jobs = [{"model": str(BUNDLED), "form": form} for form in FORMS]
    theirs = dict(zip(FORMS, ask_peer(jobs, tmp_path), strict=True))
    qa_fast.register()
    try:
        qa = transformers.pipeline("question-answering", model=str(BUNDLED), device="cpu")
    finally:
        qa_fast.unregister()
    ours = {name: outcome(form, qa) for name, form in FORMS.items()}
    different = set()
    for name in FORMS:
        if "error" in theirs[name]:  # a mistake, which is a clear one here, or something new
            assert ours[name].get("error", "ValueError") == "ValueError", ours[name]
        elif not same_outcome(ours[name], theirs[name]):
            different.add(name)
    assert different <= set(DIFFERENT_FORMS), {n: (ours[n], theirs[n]) for n in different}
    assert {"few_candidates", "unknown_argument", "blank_question"} <= different
    same = [n for n in FORMS if n not in different and "error" not in theirs[n]]
    assert len(same) >= 12  # of Transformers 5, which takes keywords only


def same_outcome(ours: Any, theirs: Any) -> bool:
    """Equal but for scores, which may differ a little."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= SCORE
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same_outcome(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_outcome, ours, theirs))
    return bool(ours == theirs)
