"""The plots of a report, as SVG elements to stand inside a page.

Colours are CSS variables of the page, so that one drawing serves light and dark; text stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any, NamedTuple

import numpy as np

from qa_fast.evaluation.statistics import Floats, Reliability
from qa_fast.evaluation.thresholds import PrecisionRecall, ThresholdCurve

# What is drawn in these colours takes the page's.
_VARIABLES = {
    "#010101": "var(--ink)",
    "#020202": "var(--faint)",
    "#030303": "var(--series-1)",
    "#040404": "var(--series-2)",
    "#050505": "var(--series-3)",
    "#060606": "var(--right)",
    "#070707": "var(--wrong)",
}
_INK, _FAINT, _SERIES_1, _SERIES_2, _SERIES_3, _RIGHT, _WRONG = _VARIABLES
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.edgecolor": _FAINT,
}
_INCHES = 4.6, 3.3
# Beyond, the probability is 0 or 1 to the precision of a float.
_MOST_LOG_ODDS = 36.0
# Of a curve; more cannot be seen.
_MOST_POINTS = 600


def threshold_plot(curves: Mapping[str, ThresholdCurve]) -> str:
    """Exact match and F1 by the threshold on the no-answer probability."""
    scale = no_answer_scale(np.concatenate([curve.threshold for curve in curves.values()]))

    def draw(axes: Any) -> None:
        for (name, curve), colour in zip(curves.items(), (_SERIES_1, _SERIES_2), strict=False):
            shown = _thin(len(curve.threshold))
            x = scale.of(curve.threshold)[shown]
            axes.plot(x, curve.score[shown], color=colour, label=_LABELS[name])
            best = scale.of(np.array([curve.best_threshold])), curve.best_score
            axes.plot(*best, "o", color=colour, markersize=4.5)
        axes.set(xlabel=f"Threshold on the {scale.name}", ylabel="Score (%)")
        axes.legend()

    return _svg("threshold", draw)


def precision_recall_plot(curves: Mapping[str, PrecisionRecall]) -> str:
    """Precision by recall as more and more is answered."""

    def draw(axes: Any) -> None:
        for (name, curve), colour in zip(
            curves.items(), (_SERIES_1, _SERIES_2, _SERIES_3), strict=False
        ):
            shown = _thin(len(curve.recall))
            axes.step(
                curve.recall[shown],
                curve.precision[shown],
                where="post",
                color=colour,
                label=f"{_LABELS[name]}, AP {curve.average_precision:.1f}",
            )
        axes.set(xlabel="Recall", ylabel="Precision", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend()

    return _svg("precision-recall", draw)


def reliability_plot(found: Reliability, of: str) -> str:
    """How often the model is right, by how sure it is; the diagonal is perfect calibration."""

    def draw(axes: Any) -> None:
        known = found.total > 0
        width = np.diff(found.edges)
        axes.bar(
            found.edges[:-1][known],
            found.accuracy[known],
            width=width[known],
            align="edge",
            color=_SERIES_1,
            alpha=0.35,
            edgecolor=_SERIES_1,
        )
        axes.plot([0, 1], [0, 1], "--", color=_INK, linewidth=1, alpha=0.6)
        axes.plot(
            found.confidence[known], found.accuracy[known], "o-", color=_SERIES_1, markersize=4
        )
        axes.set(xlabel=_CALIBRATED[of][0], ylabel=_CALIBRATED[of][1], xlim=(0, 1), ylim=(0, 1.02))

    return _svg(f"reliability-{of}", draw)


def histogram_plot(name: str, x_label: str, values: Mapping[str, Floats], *, good: str) -> str:
    """Two groups of numbers side by side: the group ``good`` in the colour of what is right."""

    def draw(axes: Any) -> None:
        edges = np.histogram_bin_edges(np.concatenate([*values.values()]), bins=30)
        for label, group in values.items():
            colour = _RIGHT if label == good else _WRONG
            axes.hist(group, edges, histtype="stepfilled", color=colour, alpha=0.45, label=label)
            axes.hist(group, edges, histtype="step", color=colour, linewidth=1.2)
        axes.set(xlabel=x_label, ylabel="Questions")
        axes.legend()

    return _svg(name, draw)


class Scale(NamedTuple):
    """What numbers are drawn by: its name, and the function from the numbers."""

    name: str
    of: Callable[[Floats], Floats]


def no_answer_scale(na_prob: Floats) -> Scale:
    """The log-odds of no-answer probabilities, which crowd at 0 and 1; other numbers as they are."""
    if ((na_prob < 0) | (na_prob > 1)).any():
        return Scale("no-answer score", lambda numbers: numbers)

    def log_odds(p: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.clip(np.log(p) - np.log1p(-p), -_MOST_LOG_ODDS, _MOST_LOG_ODDS)

    return Scale("no-answer log-odds", log_odds)


_LABELS = {"exact": "Exact match", "f1": "F1", "oracle": "Oracle", "clauses": "Clauses"}
_CALIBRATED = {
    "answer": ("Confidence in the answer", "Exact match"),
    "no answer": ("No-answer probability", "Share of unanswerable questions"),
}


def _thin(count: int) -> Any:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))


def import_matplotlib() -> tuple[Any, Any]:
    """Matplotlib and its class of figures; an `ImportError` that says what to install."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'qa-fast[eval]'") from error
    return matplotlib, Figure


def _svg(name: str, draw: Callable[[Any], None]) -> str:
    """What ``draw`` draws on axes, as an ``<svg>`` element with ids of its own."""
    matplotlib, figure_of = import_matplotlib()
    out = StringIO()
    # With a salt of its own, so that no two plots of a page share the id of a clip path.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = figure_of(figsize=_INCHES, layout="constrained")
        draw(figure.add_subplot())
        keys = ("Creator", "Date", "Format", "Type")
        figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(keys))
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    # The size is the page's business; the proportions are in the view box.
    svg = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    return re.sub("|".join(_VARIABLES), lambda colour: _VARIABLES[colour[0]], svg).strip()
