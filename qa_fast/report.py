"""The report of an evaluation: one HTML page that needs nothing else and loads nothing.

The examples are embedded as JSON, with every character escaped that could end its element, and get
onto the page as text nodes. The page's content security policy allows its own script by its hash and
no other, so no text of the data can run.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__
from .breakdown import FEATURES
from .evaluation import Evaluation
from .plots import (
    histogram_plot,
    no_answer_scale,
    precision_recall_plot,
    reliability_plot,
    threshold_plot,
)
from .results import versions
from .shards import write_file

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_EXAMPLES = 10_000
_MOST_CHARACTERS = 30_000_000  # of contexts
_TEMPLATES = resources.files("qa_fast") / "templates"
_FIGURES = {
    "exact": "Exact match",
    "exact_match": "Exact match",
    "f1": "F1",
    "HasAns_exact": "Exact match, answerable",
    "HasAns_f1": "F1, answerable",
    "NoAns_exact": "Right, unanswerable",
    "best_exact": "Best exact match",
    "best_f1": "Best F1",
    "pr_f1_ap": "Average precision, F1",
}


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
    chosen = _choose(evaluation, seed)
    script = template_text("report.js")
    page = (
        environment()
        .get_template("report.html")
        .render(
            title=title,
            subtitle=_subtitle(evaluation),
            css=styles("report.css", ":root"),
            script=_markup(script),
            script_hash=_markup(_sha256(script)),
            figures=_figures(evaluation),
            notes=evaluation.notes,
            plots=[{**plot, "svg": _markup(plot["svg"])} for plot in _plots(evaluation)],
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


# --- templates ----------------------------------------------------------------------------------


def environment() -> Environment:
    """Jinja2 with the package's templates; everything is escaped that is not marked as markup."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("a report needs Jinja2: pip install 'qa-fast[eval]'") from error
    return Environment(
        loader=PackageLoader("qa_fast", "templates"), autoescape=True, undefined=StrictUndefined
    )


def template_text(name: str) -> str:
    """A template file as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def styles(name: str, selector: str) -> Any:
    """Style sheets for what is below ``selector``: colours, marks in a text, and ``name``."""
    sheets = (environment().get_template(n) for n in ("colours.css", "marks.css", name))
    return _markup("\n".join(sheet.render(selector=selector) for sheet in sheets))


def _markup(text: str) -> Any:
    """``text`` of our own, which must not be escaped."""
    from markupsafe import Markup

    return Markup(text)


def _sha256(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


# --- what is on the page ------------------------------------------------------------------------


def _subtitle(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    parts = [f"{len(evaluation.examples):,} questions", f"rules of SQuAD {settings['rules']}"]
    if settings["normalizer"] == "mlqa":
        parts.append(f"MLQA's normalization for {settings['language']}")
    return ", ".join(parts)


def _figures(evaluation: Evaluation) -> list[dict[str, Any]]:
    metrics = evaluation.metrics
    found = []
    for key, name in _FIGURES.items():
        if key not in metrics:
            continue
        detail = ""
        if key in evaluation.intervals:
            low, high = evaluation.intervals[key]
            detail = f"95% interval {low:.1f} to {high:.1f}"
        tuned = key.startswith("best_")
        if tuned:
            detail = f"at threshold {metrics[f'{key}_thresh']:.4g}"
        found.append(
            {"name": name, "value": f"{metrics[key]:.2f}", "detail": detail, "tuned": tuned}
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
            "As questions are answered from the lowest no-answer probability up. Oracle: every "
            "answerable question answered right.",
        )
    captions = {
        "answer": "Bars: the share of exact matches among answers of that confidence. On the dashed "
        "line confidence and share agree.",
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
    found.update(_flat(evaluation.settings))
    found.update(_flat(evaluation.run.get("settings", {}), "prediction: "))
    found["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    return {name: "none" if value is None else str(value) for name, value in found.items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


# --- examples -----------------------------------------------------------------------------------


def _choose(evaluation: Evaluation, seed: int) -> list[int]:
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
                "n_best": [[a["answer"], a["score"]] for a in prediction.n_best]
                if prediction
                else [],
            }
        )
    return {"contexts": list(number), "rows": found}


def _find(context: str, text: str, start: int | None) -> tuple[tuple[int, int] | None, bool]:
    """Where ``text`` stands, at ``start`` if it does; and whether it had to be searched for."""
    if start is not None and context.startswith(text, start):
        return (start, start + len(text)), False
    start = context.find(text)
    return (None, False) if start < 0 else ((start, start + len(text)), True)


def _span(context: str, place: tuple[int, int] | None) -> dict[str, int | None]:
    """``start`` and ``end`` in UTF-16 units."""
    if place is None:
        return {"start": None, "end": None}
    start, end = (p + sum(c > "\uffff" for c in context[:p]) for p in place)
    return {"start": start, "end": end}
