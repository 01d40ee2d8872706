"""The report of an evaluation: one HTML page that needs nothing else and loads nothing.

The examples are embedded as JSON, with every character escaped that could end its element, and get
onto the page as text nodes. The page's content security policy allows its own script by its hash and
no other, so no text of the data can run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast import __version__
from qa_fast.evaluation.breakdown import FEATURES
from qa_fast.evaluation.evaluate import Evaluation
from qa_fast.evaluation.figures import percentages
from qa_fast.evaluation.results import scoring_versions
from qa_fast.evaluation.suites.tydiqa import LANGUAGES
from qa_fast.files.writing import write_file

from .examples import choose, embedded
from .page import environment, markup, sha256, styles, template_text
from .plots import (
    histogram_plot,
    no_answer_scale,
    precision_recall_plot,
    reliability_plot,
    threshold_plot,
)

_FIGURES = {
    "exact": "Exact match",
    "exact_match": "Exact match",
    "f1": "F1",
    "HasAns_exact": "Exact match, answerable",
    "HasAns_f1": "F1, answerable",
    "NoAns_exact": "Right, unanswerable",
    "best_exact": "Best exact match",
    "best_f1": "Best F1",
    "AVERAGE": "Average of exact match and F1",
    "F1": "F1",
    "EM": "Exact match",
    "aupr": "AUPR",
    "prec_at_80_recall": "Precision at 80% recall",
    "prec_at_90_recall": "Precision at 90% recall",
}
_OF_A_LANGUAGE = {"_exact_match": "Exact match", "_f1": "F1"}
"""What the keys of TyDi QA's languages end with."""


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    *,
    title: str = "Evaluation",
    command_line: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Write the report of an evaluation.

    All figures are over all questions. Of more than 10,000 questions, or of very long contexts, the
    page can be leafed through a random sample of the questions only, and says so.

    Args:
        evaluation: what to report.
        path: the HTML file.
        title: of the page.
        command_line: the command that was run, where one was.
        seed: of the sample.

    Raises:
        ImportError: Jinja2 or Matplotlib is not installed.
    """
    chosen = choose(evaluation, seed)
    script = template_text("report.js")
    page = (
        environment()
        .get_template("report.html")
        .render(
            title=title,
            subtitle=_subtitle(evaluation),
            css=styles("report.css", ":root"),
            script=markup(script),
            script_hash=markup(sha256(script)),
            figures=_figures(evaluation),
            notes=evaluation.notes,
            remarks=evaluation.remarks,
            plots=[{**plot, "svg": markup(plot["svg"])} for plot in _plots(evaluation)],
            breakdowns={
                FEATURES[feature]: groups for feature, groups in evaluation.breakdowns.items()
            },
            stages=_stages(evaluation.run),
            sampled=_sampled(len(chosen), len(evaluation.examples)),
            settings=_settings(evaluation, command_line),
            version=__version__,
            data=embedded(evaluation, chosen),
        )
    )
    # A lone surrogate, which is in no encoding, becomes a visible escape.
    write_file(Path(path), page.encode("utf-8", "backslashreplace"))


# --- what is on the page ------------------------------------------------------------------------


def _subtitle(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    parts = [f"{len(evaluation.examples):,} questions", f"rules of {settings['title']}"]
    if settings["language"]:
        parts.append(f"MLQA's normalization for {settings['language']}")
    elif settings["normalizer"]:
        parts.append(f"answers compared by {settings['normalizer']}")
    return ", ".join(parts)


def _figures(evaluation: Evaluation) -> list[dict[str, Any]]:
    metrics = evaluation.metrics
    percents = percentages(metrics)
    found = []
    for key, name in _names(percents).items():
        detail = ""
        if key in evaluation.intervals:
            low, high = evaluation.intervals[key]
            detail = f"95% interval {low:.1f} to {high:.1f}"
        tuned = key.startswith("best_")
        if tuned:
            detail = f"at threshold {metrics[f'{key}_thresh']:.4g}"
        found.append(
            {"name": name, "value": f"{percents[key]:.2f}", "detail": detail, "tuned": tuned}
        )
    if "f1" in evaluation.precision_recall:
        value = f"{evaluation.precision_recall['f1'].average_precision:.2f}"
        found.append(
            {"name": "Average precision, F1", "value": value, "detail": "", "tuned": False}
        )
    for of, calibrated in evaluation.calibration.items():
        found.append(
            {
                "name": f"Calibration error, {of}",
                "value": f"{calibrated.ece:.3f}",
                "detail": "ECE, 0 is perfect",
                "tuned": False,
            }
        )
    return found


def _names(percents: Iterable[str]) -> dict[str, str]:
    """The keys of the figures that are shown, with what they are called."""
    keys = [*percents]
    found = {key: name for key, name in _FIGURES.items() if key in keys}
    for key in keys:
        for ending, name in _OF_A_LANGUAGE.items():
            if key.removesuffix(ending) in LANGUAGES:
                found[key] = f"{name}, {key.removesuffix(ending).capitalize()}"
    return found


def _plots(evaluation: Evaluation) -> list[dict[str, str]]:
    plots = []

    def add(title: str, svg: str, caption: str) -> None:
        plots.append({"title": title, "svg": svg, "caption": caption})

    if evaluation.thresholds:
        add(
            "Score by no-answer threshold",
            threshold_plot(evaluation.thresholds),
            "Above the threshold a question is taken as unanswerable. The dots are the best "
            "thresholds on these very questions.",
        )
    if evaluation.precision_recall:
        add(
            "Precision and recall",
            precision_recall_plot(evaluation.precision_recall),
            "As answers count from the most probable ones down; each point is a threshold."
            if "clauses" in evaluation.precision_recall
            else "As questions are answered from the lowest no-answer probability up. Oracle: every "
            "answerable question answered right.",
        )
    captions = {
        "answer": "Bars: the share of exact matches among answers of that confidence: how probable "
        "they are among all spans of their question. On the dashed line confidence and share agree.",
        "no answer": "Bars: the share of unanswerable questions at that no-answer probability. On the "
        "dashed line the two agree.",
    }
    for of, found in evaluation.calibration.items():
        add(f"Calibration, {of}", reliability_plot(found, of), captions[of])
    right = [bool(exact) for exact in evaluation.scores.exact]
    scores = [None if p is None else p.score for p in evaluation.predictions]
    unit = "sum of logits" if evaluation.settings["scoring"] == "logit" else "probability"
    answerable = [bool(example.answers) for example in evaluation.examples]
    for title, label, values, good, names in (
        ("Scores of answers", f"Score ({unit})", scores, right, ("right", "wrong")),
        ("No-answer scores", "", evaluation.na_prob, answerable, ("answerable", "unanswerable")),
    ):
        groups = {
            name: np.array(
                [v for v, g in zip(values, good, strict=True) if v is not None and g == is_good]
            )
            for name, is_good in zip(names, (True, False), strict=True)
        }
        everything = np.concatenate([*groups.values()])
        if not len(everything):
            continue
        if not label:
            scale = no_answer_scale(everything)
            label = scale.name.capitalize()
            groups = {name: scale.of(numbers) for name, numbers in groups.items()}
        caption = f"{names[0].capitalize()} and {names[1]}; the further apart, the better."
        add(title, histogram_plot(title, label, groups, good=names[0]), caption)
    return plots


def _stages(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds and rate of each stage of the prediction run, over all its sessions.

    Stages run side by side, so their seconds may add up to more than the whole.
    """
    sessions = run.get("sessions", [])
    total = sum(session["seconds"] for session in sessions)
    if not total:
        return []
    seconds: Counter[str] = Counter()
    for session in sessions:
        seconds.update(session["stages"])
    seconds["everything"] = total
    questions = sum(session["questions"] for session in sessions)
    return [
        {
            "name": name,
            "seconds": spent,
            "share": 100 * spent / total,
            "rate": questions / spent if spent > 0 else 0.0,
        }
        for name, spent in seconds.items()
    ]


def _sampled(chosen: int, total: int) -> str:
    if chosen == total:
        return ""
    return f"A random sample of {chosen:,} of {total:,} questions. The figures above are over all."


def _settings(evaluation: Evaluation, command_line: list[str] | None) -> dict[str, str]:
    found: dict[str, Any] = {}
    if command_line:
        found["Command"] = " ".join(command_line)
    found.update(_by_dotted_name(evaluation.settings))
    found.update(_by_dotted_name(evaluation.run.get("settings", {}), "prediction: "))
    found["versions"] = ", ".join(f"{name} {number}" for name, number in scoring_versions().items())
    return {name: "none" if value is None else str(value) for name, value in found.items()}


def _by_dotted_name(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as rows of a table: ``{"a": {"b": 1}}`` is ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.update(_by_dotted_name(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found
