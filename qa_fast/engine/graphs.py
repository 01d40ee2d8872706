"""Models as graphs that other runtimes than PyTorch run: from a folder, or made in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.data.opening import read_examples
from qa_fast.models.devices import to_device
from qa_fast.models.graphs import PRECISION, GraphModel
from qa_fast.models.runtime import Arguments
from qa_fast.models.torch_runtime import TorchRuntime
from qa_fast.models.traits import position_limit, vocabulary_size
from qa_fast.texts.calibration import calibration_rows

from .streams import Pair

Backend = Literal["torch", "openvino", "onnx"]

PROBE_ROWS = 6

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
        raise ArgumentError(Argument("backend"), f" must be one of {names}; got {backend!r}")
    if backend in (None, "torch"):
        if dtype == "int8":
            openvino = Argument("backend", "openvino")
            raise ArgumentError(
                Argument("dtype", "int8"), " needs ", openvino, ", or a graph in int8"
            )
        return
    if dtype not in (None, *PRECISION):
        names = ", ".join(map(repr, PRECISION))
        with_backend = Argument("backend", backend)
        raise ArgumentError(
            "with ", with_backend, " ", Argument("dtype"), f" must be one of {names}; got {dtype!r}"
        )
    if compile:
        raise ArgumentError(
            Argument("compile"), " is for PyTorch's models; got ", Argument("backend", backend)
        )


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
    if path.suffix != ".onnx" or not path.is_file():
        return model
    return path.parent.parent if path.parent.name == "onnx" else path.parent


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
        raise ArgumentError(
            Argument("backend", "onnx"),
            " runs a graph that lies in a folder, by the folder's name; got a "
            f"{type(model).__name__}",
        )
    _check_cpu(device)
    from qa_fast.models.conversion.to_openvino import openvino_model

    rows = None
    if dtype == "int8":
        rows = calibration_rows(
            tokenizer,
            calibration_pairs(calibrate),
            position_limit=position_limit(model),
            vocabulary=vocabulary_size(model),
        )
    elif calibrate is not None:
        raise ArgumentError("calibrate is for ", Argument("dtype", "int8"), f"; got {dtype!r}")
    return openvino_model(model, dtype=dtype or "float32", calibration=rows)


def probe(model: Any, tokenizer: Any) -> Iterator[Arguments]:
    """A few texts as ``model`` reads them; nothing is done before the first is taken."""
    takes = TorchRuntime(model).arguments(tokenizer)
    rows = calibration_rows(
        tokenizer,
        position_limit=position_limit(model),
        vocabulary=vocabulary_size(model),
        most=PROBE_ROWS,
    )
    for row in rows:
        yield {name: torch.from_numpy(array) for name, array in row.items() if name in takes}


def calibration_pairs(given: Any) -> Iterable[Pair] | None:
    """Questions and their contexts, by which the ranges of 8-bit numbers are chosen.

    Args:
        given: pairs in a list or an iterator; or what `read_examples` reads, such as the name of a file;
            None for those that come with the package.
    """
    if given is None or isinstance(given, Iterator):
        return given
    if isinstance(given, (list, tuple)) and isinstance(next(iter(given), None), tuple):
        return given
    return ((example.question, example.context) for example in read_examples(given))


def _check_cpu(device: Any) -> None:
    if device is not None and to_device(device) != torch.device("cpu"):
        raise ArgumentError(
            Argument("backend", "openvino"), f" runs on the CPU; got device {device!r}"
        )
