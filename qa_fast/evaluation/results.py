"""Evaluations on disk: ``results_{time}.json`` and, one row a question, ``details_{time}.parquet``."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast import __version__
from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Example
from qa_fast.files.parquet import import_pyarrow_parquet
from qa_fast.files.writing import atomic, write_json

from .evaluate import Evaluation
from .statistics import Reliability

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 8192
_RECORDED = (
    "beautifulsoup4",
    "nltk",
    "numpy",
    "onnxruntime",
    "openvino",
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
    import_pyarrow_parquet()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(timezone.utc)
    time = now.strftime("%Y-%m-%dT%H-%M-%S.%f")
    details = folder / f"details_{time}.parquet"
    results = folder / f"results_{time}.json"
    with atomic(details) as unfinished:
        _write_details(evaluation, unfinished)
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
        "remarks": evaluation.remarks,
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


def machine() -> dict[str, Any]:
    """The machine that times were measured on: its processor, cores and GPUs, and its system."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": next(names, platform.processor() or platform.machine()),
        "cores": cores,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def _write_details(evaluation: Evaluation, path: Path) -> None:
    """One row a question, so many at a time that memory does not grow with their number."""
    import pyarrow as pa

    parquet = import_pyarrow_parquet()
    schema = _details_schema()
    questions = zip(evaluation.examples, evaluation.predictions, evaluation.answers, strict=True)
    figures = zip(*evaluation.scores, evaluation.na_prob, evaluation.confidence, strict=True)
    rows = map(_details_row, questions, figures)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := [*islice(rows, _BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _details_schema() -> pyarrow.Schema:
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    columns: dict[str, pyarrow.DataType] = {
        "id": text,
        "title": text,
        "question": text,
        "answers": pa.list_(text),
        "prediction": text,
        "exact": number,
        "f1": number,
        "predicted": pa.bool_(),
        "score": number,
        "null_score": number,
        "na_prob": number,
        "confidence": number,
        "start": whole,
        "end": whole,
        "chunks": pa.int32(),
        "context_length": whole,
    }
    return pa.schema(columns)


def _details_row(
    question: tuple[Example, Prediction | None, str], figures: tuple[float | None, ...]
) -> dict[str, Any]:
    example, prediction, answer = question
    exact, f1, na_prob, confidence = figures
    of_prediction = ("score", "null_score", "start", "end", "chunks")
    return {
        "id": _text(example.id),
        "title": _text(example.title),
        "question": _text(example.question),
        "answers": [_text(gold) for gold in example.answers or ()],
        "prediction": _text(answer),
        "exact": float(exact or 0),
        "f1": float(f1 or 0),
        "predicted": prediction is not None,
        **{name: getattr(prediction, name, None) for name in of_prediction},
        "na_prob": na_prob,
        "confidence": confidence,
        "context_length": len(example.context),
    }


def _text(value: str) -> str:
    # Arrow has no lone surrogates.
    return value.encode("utf-8", "backslashreplace").decode()


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
