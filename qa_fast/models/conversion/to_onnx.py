"""ONNX graphs made from PyTorch's modules: traced, and quantized.

PyTorch's exporter that traces is the one of its two that takes all common architectures, and it needs no
package besides. What it gets wrong, as a branch that the example did not take, `export` finds. Operators
of ONNX Runtime's own, fused by its scripts, are no faster on a CPU, and nothing else runs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qa_fast.models.graphs import OUTPUTS
from qa_fast.models.onnx_runtime import load_onnxruntime
from qa_fast.models.runtime import Arguments
from qa_fast.models.torch_settings import as_by_default

from .int8 import Row, calibrated

# LayerNorm is one operator since then.
_OPSET = 17
# A file of protobuf's format cannot have more than 2 GiB: then weights lie in one beside it.
MOST_BYTES = (1 << 31) - (1 << 20)


class _Logits(torch.nn.Module):
    """A model that takes arguments by position and returns start and end logits."""

    def __init__(self, model: Any, names: Sequence[str], **more: Any) -> None:
        super().__init__()
        self.model, self._names, self._more = model, names, more

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self._names, arguments, strict=True))
        output = self.model(**named, **self._more)
        return tuple(output[name] for name in OUTPUTS)


def trace(model: Any, example: Arguments, path: Path, **more: Any) -> None:
    """Write ``model`` as a graph for any number of rows and of tokens.

    Args:
        model: a torch module on the CPU, in eval mode, with float32 weights.
        example: arguments of a batch, with padding.
        path: the file to write; where the weights are more than 2 GiB, they come into ``path`` with
            "_data" behind its name.
        more: other arguments for each call.

    Raises:
        ValueError: the exporter cannot do it.
    """
    names = list(example)
    axes = {name: {0: "batch", 1: "tokens"} for name in (*names, *OUTPUTS)}
    scratch = path.with_name("traced")  # many files where the weights are large
    scratch.mkdir()
    made = scratch / path.name
    try:
        with _quietly(), torch.inference_mode(False), torch.no_grad(), as_by_default("cpu"):
            torch.onnx.export(
                _Logits(model, names, **more).eval(),
                tuple(example.values()),
                str(made),
                input_names=names,
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of many kinds
        short = " ".join(str(error).split()).partition(". ")[0][:300]
        raise ValueError(
            f"{type(model).__name__} cannot be exported to ONNX ({type(error).__name__}: {short})"
        ) from error
    graph = _load(made)
    _remove_folder(scratch)
    save(graph, path)


def quantize(path: Path, rows: Sequence[Row], to: Path) -> str:
    """Write the graph at ``path`` with products of 8-bit integers to ``to``; what of it is not in them.

    Scales are those of ``rows``, once and for all: so rows of a batch do not change each other.

    Args:
        path: a float32 graph.
        rows: what it is called with for texts like those to come, [1, tokens] each.
        to: the file to write.

    Raises:
        ImportError: without NNCF.
    """
    load_onnxruntime()  # before NNCF imports it
    graph = _load(path)
    names = [value.name for value in graph.graph.input]
    with _quietly():
        graph = calibrated(graph, [{name: row[name] for name in names} for row in rows])
    save(graph, to)
    return _left(graph)


def save(graph: Any, path: Path) -> None:
    """Write ``graph``, in one file where it fits."""
    import onnx

    weights = sum(len(t.raw_data) for t in graph.graph.initializer)
    if weights <= MOST_BYTES:
        path.write_bytes(graph.SerializeToString())
    else:
        # The graph itself is left without weights by this.
        onnx.save_model(
            graph,
            str(path),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=f"{path.name}_data",
        )


def _load(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX is needed: pip install 'qa-fast[onnx]'") from error
    return onnx.load(str(path))


def _left(graph: Any) -> str:
    """What of a quantized graph computes in float32 still, in a sentence."""
    made_by = {name: node.op_type for node in graph.graph.node for name in node.output}
    products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    left = sum(
        {made_by.get(name) for name in node.input[:2]} != {"DequantizeLinear"} for node in products
    )
    return (
        f"Not quantized, but float32: {left} of {len(products)} matrix products; normalizations, "
        "activation functions and sums."
    )


def remove(path: Path) -> None:
    """Remove a graph, with the file of its weights if there is one."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}_data").unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters print, log and warn of: whether all went well is found out in the end."""
    loggers = [getLogger(name) for name in ("onnxruntime", "nncf", "torch.onnx", "root")]
    before = [logger.disabled for logger in loggers]
    # At an operator that it does not know, the exporter prints the whole graph, from C++.
    dump = getattr(torch._C, "_jit_onnx_log", None)
    try:
        if dump is not None:
            torch._C._jit_onnx_log = lambda *_: None
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if dump is not None:
            torch._C._jit_onnx_log = dump
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
