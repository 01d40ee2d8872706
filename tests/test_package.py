"""The package: what importing it does, its public names, and what it carries."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import qa_fast

from .helpers.programs import run_python

HEAVY = ["torch", "transformers", "tokenizers", "triton", "numpy", "typer", "rich"]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(qa_fast.__path__, "qa_fast.")
    # The compiled decoder is no Python module, and __main__ is the command.
    if not module.name.rpartition(".")[2].startswith("_") and ".kernels." not in module.name
)


def test_import_loads_nothing_heavy() -> None:
    loaded = f"print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(f"import sys; before = set(sys.modules); import qa_fast; {loaded}") == "[]"


def test_dir_and_version_load_nothing_heavy() -> None:
    code = f"""
import sys, qa_fast
dir(qa_fast), qa_fast.__version__
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert run_python(code) == "[]"


def test_public_names() -> None:
    assert qa_fast.__all__ == [
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
    assert set(qa_fast.__all__) <= set(dir(qa_fast))


@pytest.mark.parametrize("name", qa_fast.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(qa_fast, name)
    assert value is getattr(qa_fast, name)
    if name != "__version__":
        assert value.__module__.startswith("qa_fast.")
        assert value.__doc__


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse(Path(qa_fast.__file__).read_text(encoding="utf-8"))
    imports = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(qa_fast.__all__) - {"__version__"} <= imports


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qa_fast' has no attribute 'decode_span'"):
        _ = qa_fast.decode_span
    assert not hasattr(qa_fast, "__wrapped__")


@pytest.mark.parametrize(
    "first",
    [
        "import qa_fast.dropin.pipeline",
        "from qa_fast.dropin.pipeline import pipeline",
        "import qa_fast.cli",
        "import qa_fast.patch",
        "pass",
    ],
)
def test_a_name_is_the_function_whatever_was_imported_first(first: str) -> None:
    code = f"{first}\nimport qa_fast\nprint(type(qa_fast.pipeline), type(qa_fast.register))"
    assert run_python(code) == "<class 'function'> <class 'function'>"


def test_bundled_model_is_complete() -> None:
    folder = Path(qa_fast.__file__).parent / "models" / "minilm-l6-squad"
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "LICENSE"} <= files
    assert (Path(qa_fast.__file__).parent / "py.typed").is_file()


def test_kernels_are_installed_below_the_package() -> None:
    kernels = importlib.import_module("qa_fast.kernels")
    assert kernels.__name__ == "qa_fast.kernels"
    assert kernels.__version__ == "0.0.0"


@pytest.mark.parametrize("name", ["qa_fast", *MODULES])
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    try:
        result = doctest.testmod(module)
    finally:
        qa_fast.unregister()  # which importing qa_fast.patch does
    assert result.failed == 0
    if name in ("qa_fast", "qa_fast.decoding.spans", "qa_fast.dropin.pipeline"):
        assert result.attempted > 0
