"""The images that the official SQuAD 2.0 script draws of no-answer probabilities, under its names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.evaluation.evaluate import Evaluation
from qa_fast.files.writing import atomic

from .plots import import_matplotlib

_TITLES = {
    "exact": "Precision and recall, exact match",
    "f1": "Precision and recall, F1",
    "oracle": "Precision and recall, oracle: answerable questions told from unanswerable ones",
}
_BINS = 20


def write_images(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write ``pr_exact.png``, ``pr_f1.png`` and ``pr_oracle.png``, and how probable no answer is.

    The latter are histograms, ``na_prob_hist_hasAns.png`` of the questions with an answer and
    ``na_prob_hist_noAns.png`` of those without, where there are such.

    Args:
        evaluation: with no-answer probabilities.
        folder: where to; it is made if needed.

    Returns:
        The files.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: the evaluation has no no-answer probabilities.
    """
    known = [p for p in evaluation.na_prob if p is not None]
    if not known:
        raise ValueError("there are no no-answer probabilities that images could be made of")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []

    def add(name: str, draw: Callable[[Any], None], **labels: Any) -> None:
        files.append(folder / name)
        _save(files[-1], draw, labels)

    for of, curve in evaluation.precision_recall.items():
        points = curve.recall, curve.precision

        def draw_curve(axes: Any, points: Any = points) -> None:
            axes.step(*points, where="post")
            axes.fill_between(*points, step="post", alpha=0.2)

        limits = {"xlim": (0, 1.05), "ylim": (0, 1.05)}
        add(
            f"pr_{of}.png",
            draw_curve,
            title=_TITLES[of],
            xlabel="Recall",
            ylabel="Precision",
            **limits,
        )
    # Beyond 0 to 1 they are scores.
    range_ = (0.0, 1.0) if 0 <= min(known) <= max(known) <= 1 else (min(known), max(known))
    for name, wanted in (("hasAns", True), ("noAns", False)):
        values = [
            p
            for p, example in zip(evaluation.na_prob, evaluation.examples, strict=True)
            if p is not None and bool(example.answers) == wanted
        ]

        def draw_histogram(axes: Any, values: Any = values) -> None:
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, weights=weights, bins=_BINS, range=range_)

        if values:
            add(
                f"na_prob_hist_{name}.png",
                draw_histogram,
                title=f"Probability of no answer, {'with' if wanted else 'without'} an answer",
                xlabel="Probability of no answer",
                ylabel="Share of the questions",
            )
    return files


def _save(path: Path, draw: Callable[[Any], None], labels: dict[str, Any]) -> None:
    _, figure_of = import_matplotlib()
    figure = figure_of(layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.set(**labels)
    with atomic(path) as unfinished:
        figure.savefig(unfinished, format="png")
