"""Models as graphs that other runtimes than PyTorch run: from a folder, or made in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from qa_fast.data.opening import read_examples
from qa_fast.models.devices import to_device
from qa_fast.models.graphs import PRECISION, GraphModel

Backend = Literal["torch", "openvino", "onnx"]

# Where folders hold graphs, by names that Optimum gives them.
_FILES = {
    "openvino": ("openvino_model*.xml", "openvino/openvino_model*.xml"),
    "onnx": ("*.onnx", "onnx/*.onnx"),
}
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def check_backend(backend: Any, dtype: Any, compile: bool) -> None:
    """Raise a ValueError for a runtime that there is not, or one that cannot do what else is asked."""
    if backend is not None and backend not in get_args(Backend):
        names = ", ".join(map(repr, get_args(Backend)))
        raise ValueError(f"backend must be one of {names}; got {backend!r}")
    if backend in (None, "torch"):
        return
    if dtype not in (None, *PRECISION):
        names = ", ".join(map(repr, PRECISION))
        raise ValueError(f"with backend={backend!r} dtype must be one of {names}; got {dtype!r}")
    if compile:
        raise ValueError(f"compile is for PyTorch's models; got backend={backend!r}")


def backend_of(model: Any) -> Backend:
    """What runs ``model`` where nobody says: PyTorch, but for a folder of graphs of one kind only."""
    if not isinstance(model, (str, Path)):
        return getattr(model, "backend", "torch") if isinstance(model, GraphModel) else "torch"
    path = Path(model)
    if path.suffix == ".onnx" and path.is_file():
        return "onnx"
    if any(_holds(path, _WEIGHTS)):
        return "torch"
    held: list[Any] = [kind for kind, names in _FILES.items() if any(_holds(path, names))]
    return held[0] if len(held) == 1 else "torch"


def _holds(folder: Path, names: Iterable[str]) -> Iterable[Path]:
    return (path for name in names for path in folder.glob(name)) if folder.is_dir() else ()


def tokenizer_folder(model: str | Path) -> str | Path:
    """Where the tokenizer of a named model is: for the file of a graph, the folder above."""
    path = Path(model)
    if path.suffix not in (".onnx", ".xml") or not path.is_file():
        return model
    return path.parent.parent if path.parent.name in _FILES else path.parent


def open_graph(
    model: str | Path, backend: Backend, dtype: str | None, device: Any
) -> GraphModel | None:
    """The graph that a folder holds; None where it has to be made of PyTorch's model.

    Raises:
        OSError: there is none of that type, or it cannot be loaded.
        ValueError: a device that the runtime does not run on.
        ImportError: the runtime is not installed.
    """
    if backend == "onnx":
        from qa_fast.models.onnx_runtime import OnnxModel

        return OnnxModel.open(model, dtype=dtype, device=device)
    _check_cpu(device)
    if not any(_holds(Path(model), _FILES["openvino"])):
        return None
    from qa_fast.models.openvino_runtime import OpenVINOModel

    return OpenVINOModel.open(model, dtype=dtype)


def make_graph(
    model: Any, tokenizer: Any, backend: Backend, dtype: str | None, device: Any, calibrate: Any
) -> GraphModel:
    """The graph of PyTorch's ``model``, from the cache where it was made before.

    Args:
        model: a torch module, which stays as it is.
        tokenizer: its tokenizer.
        backend: "openvino"; "onnx" is an error.
        dtype: "float32", "bfloat16", "int8"; None for the first.
        device: "cpu" or None.
        calibrate: texts for "int8": see `calibration_pairs`.

    Raises:
        ValueError: a graph of the model would not compute what the model does.
        ImportError: the runtime is not installed.
    """
    if backend == "onnx":
        raise ValueError(
            "backend='onnx' runs a graph that lies in a folder, by the folder's name; got a "
            f"{type(model).__name__}"
        )
    _check_cpu(device)
    from qa_fast.models.openvino_runtime import openvino_model

    from .calibration import calibration_rows

    rows = None
    if dtype == "int8":
        rows = calibration_rows(model, tokenizer, calibration_pairs(calibrate))
    elif calibrate is not None:
        raise ValueError(f"calibrate is for dtype='int8'; got dtype={dtype!r}")
    return openvino_model(model, dtype=dtype or "float32", calibration=rows)


def calibration_pairs(given: Any) -> list[tuple[str, str]]:
    """Questions and their contexts, by which the scales of 8-bit numbers are chosen.

    Args:
        given: a list of pairs, or what `read_examples` reads, such as the name of a file; None for the
            SQuAD questions that the package has.
    """
    from .calibration import shipped_pairs

    if given is None:
        return shipped_pairs()
    if isinstance(given, (list, tuple)) and all(isinstance(pair, tuple) for pair in given):
        pairs = [(question, context) for question, context in given]
    else:
        pairs = [(example.question, example.context) for example in read_examples(given)]
    if not pairs:
        raise ValueError("calibrate holds no questions")
    return pairs


def _check_cpu(device: Any) -> None:
    if device is not None and to_device(device) != torch.device("cpu"):
        raise ValueError(f"backend='openvino' runs on the CPU; got device={device!r}")
