"""Evaluations on disk: ``results_{time}.json`` and, one row a question, ``details_{time}.parquet``."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from qa_fast import __version__
from qa_fast.files.parquet import import_pyarrow_parquet
from qa_fast.files.writing import atomic, write_json

from .evaluate import Evaluation
from .statistics import Reliability

_RECORDED = (
    "beautifulsoup4",
    "nltk",
    "numpy",
    "pyarrow",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
)


def write_results(
    evaluation: Evaluation, folder: str | Path, *, name: str, command_line: list[str] | None = None
) -> tuple[Path, Path]:
    """Write the figures and the details of an evaluation into ``folder``, which is made if needed.

    Args:
        evaluation: what to write.
        folder: where to.
        name: of the data, the key below "results".
        command_line: the command that was run, where one was.

    Returns:
        The JSON file and the Parquet file. Neither is ever there in part.

    Raises:
        ImportError: pyarrow is not installed.
    """
    parquet = import_pyarrow_parquet()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(timezone.utc)
    time = now.strftime("%Y-%m-%dT%H-%M-%S.%f")
    details = folder / f"details_{time}.parquet"
    results = folder / f"results_{time}.json"
    with atomic(details) as unfinished:
        parquet.write_table(_details(evaluation), unfinished, compression="zstd")
    content = {
        "results": {name: evaluation.metrics},
        "confidence_intervals": {
            name: {key: [*interval] for key, interval in evaluation.intervals.items()}
        },
        "breakdowns": {
            feature: [asdict(group) for group in groups]
            for feature, groups in evaluation.breakdowns.items()
        },
        "calibration": {
            of: _reliability_bins(found) for of, found in evaluation.calibration.items()
        },
        "average_precision": {
            of: curve.average_precision for of, curve in evaluation.precision_recall.items()
        },
        "tuned_on_these_data": sorted(k for k in evaluation.metrics if k.startswith("best_")),
        "notes": evaluation.notes,
        "settings": evaluation.settings,
        "prediction_run": evaluation.run or None,
        "versions": scoring_versions(),
        "command_line": command_line,
        "date": now.isoformat(),
        "details": details.name,
    }
    write_json(results, content)
    return results, details


def scoring_versions() -> dict[str, str]:
    """The versions of Python, of this package, and of the libraries that answer, score and store."""
    installed = {
        package: next(iter(metadata.distributions(name=package)), None) for package in _RECORDED
    }
    return {
        "python": platform.python_version(),
        "qa_fast": __version__,
        **{package: found.version for package, found in installed.items() if found},
    }


def _details(evaluation: Evaluation) -> Any:
    import pyarrow as pa

    def text(value: str) -> str:
        # Arrow has no lone surrogates.
        return value.encode("utf-8", "backslashreplace").decode()

    found = evaluation.predictions
    return pa.table(
        {
            "id": [text(example.id) for example in evaluation.examples],
            "title": [text(example.title) for example in evaluation.examples],
            "question": [text(example.question) for example in evaluation.examples],
            "answers": pa.array(
                [[text(answer) for answer in e.answers or ()] for e in evaluation.examples],
                pa.list_(pa.string()),
            ),
            "prediction": [text(answer) for answer in evaluation.answers],
            "exact": pa.array(evaluation.scores.exact, pa.float64()),
            "f1": pa.array(evaluation.scores.f1, pa.float64()),
            "predicted": [p is not None for p in found],
            "score": pa.array([p and p.score for p in found], pa.float64()),
            "null_score": pa.array([p and p.null_score for p in found], pa.float64()),
            "na_prob": pa.array(evaluation.na_prob, pa.float64()),
            "confidence": pa.array(evaluation.confidence, pa.float64()),
            "start": pa.array([p and p.start for p in found], pa.int64()),
            "end": pa.array([p and p.end for p in found], pa.int64()),
            "chunks": pa.array([p and p.chunks for p in found], pa.int32()),
            "context_length": [len(example.context) for example in evaluation.examples],
        }
    )


def _reliability_bins(found: Reliability) -> dict[str, Any]:
    return {
        "ece": found.ece,
        "bins": [
            {"from": low, "to": high, "total": total, "confidence": c, "accuracy": a}
            for low, high, total, c, a in zip(
                found.edges[:-1].tolist(),
                found.edges[1:].tolist(),
                found.total.tolist(),
                found.confidence.tolist(),
                found.accuracy.tolist(),
                strict=True,
            )
            if total
        ],
    }
