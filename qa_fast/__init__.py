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

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .compat import postprocess_qa_predictions as postprocess_qa_predictions
    from .datasets import read_examples as read_examples
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .manifest import merge as merge
    from .notebook import show as show
    from .pipeline import pipeline as pipeline
    from .predict import predict as predict
    from .predictions import Prediction as Prediction
    from .predictions import read_predictions as read_predictions
    from .reader import Reader as Reader
    from .register import register as register
    from .register import unregister as unregister
    from .rows import Columns as Columns
    from .rows import Example as Example
    from .spans import Spans as Spans
    from .spans import decode_spans as decode_spans
    from .spans import warmup as warmup

# Each public name and the module that defines it.
_HOME = {
    "Columns": "rows",
    "Evaluation": "evaluation",
    "Example": "rows",
    "Prediction": "predictions",
    "Reader": "reader",
    "Spans": "spans",
    "decode_spans": "spans",
    "evaluate": "evaluation",
    "merge": "manifest",
    "pipeline": "pipeline",
    "postprocess_qa_predictions": "compat",
    "predict": "predict",
    "read_examples": "datasets",
    "read_predictions": "predictions",
    "register": "register",
    "show": "notebook",
    "unregister": "register",
    "warmup": "spans",
}

__all__ = [
    "Columns",
    "Evaluation",
    "Example",
    "Prediction",
    "Reader",
    "Spans",
    "__version__",
    "decode_spans",
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


class _Package(ModuleType):
    """Keeps `qa_fast.pipeline` the function after the module of the same name has been imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return  # the import system binding a submodule; `sys.modules` still has it
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
