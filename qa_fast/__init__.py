"""Extractive question answering at the speed of the hardware.

Example:
    >>> import qa_fast
    >>> qa = qa_fast.pipeline()  # the bundled model: no download
    >>> context = "Ada Lovelace was born in London. She published a program in 1843."
    >>> answer = qa(question="Where was Ada born?", context=context)
    >>> answer["answer"], answer["start"], answer["end"]
    ('London', 25, 31)

Importing the package loads nothing heavy: PyTorch and Transformers are imported at the first use of
a name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data.answers import Prediction as Prediction
    from .data.examples import Columns as Columns
    from .data.examples import Example as Example
    from .data.opening import read_examples as read_examples
    from .data.predictions import read_predictions as read_predictions
    from .decoding.spans import Spans as Spans
    from .decoding.spans import decode_spans as decode_spans
    from .decoding.spans import warmup as warmup
    from .dropin.pipeline import pipeline as pipeline
    from .dropin.reader import Reader as Reader
    from .dropin.registration import register as register
    from .dropin.registration import unregister as unregister
    from .dropin.run_qa import postprocess_qa_predictions as postprocess_qa_predictions
    from .evaluation.comparing.drift import Drift as Drift
    from .evaluation.comparing.drift import drift as drift
    from .evaluation.evaluate import Evaluation as Evaluation
    from .evaluation.evaluate import evaluate as evaluate
    from .pages.notebook import show as show
    from .runs.merging import merge as merge
    from .runs.predict import predict as predict

# Each public name and the module that defines it.
_HOME = {
    "Columns": "data.examples",
    "Drift": "evaluation.comparing.drift",
    "Evaluation": "evaluation.evaluate",
    "Example": "data.examples",
    "Prediction": "data.answers",
    "Reader": "dropin.reader",
    "Spans": "decoding.spans",
    "decode_spans": "decoding.spans",
    "drift": "evaluation.comparing.drift",
    "evaluate": "evaluation.evaluate",
    "merge": "runs.merging",
    "pipeline": "dropin.pipeline",
    "postprocess_qa_predictions": "dropin.run_qa",
    "predict": "runs.predict",
    "read_examples": "data.opening",
    "read_predictions": "data.predictions",
    "register": "dropin.registration",
    "show": "pages.notebook",
    "unregister": "dropin.registration",
    "warmup": "decoding.spans",
}

__all__ = [
    "Columns",
    "Drift",
    "Evaluation",
    "Example",
    "Prediction",
    "Reader",
    "Spans",
    "__version__",
    "decode_spans",
    "drift",
    "evaluate",
    "merge",
    "pipeline",
    "postprocess_qa_predictions",
    "predict",
    "read_examples",
    "read_predictions",
    "register",
    "show",
    "unregister",
    "warmup",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
