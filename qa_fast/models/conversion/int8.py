"""Quantization to int8 after training, by NNCF: weights, and what they are multiplied with."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .openvino_package import core, load_nncf, load_openvino, without_telemetry

Row = dict[str, npt.NDArray[np.int64]]
"""What a model is called with, for one row: arrays [1, tokens] by name."""

OUTLIER = 80
"""A matrix product stays float32 where the greatest activation is so many times their root mean square.

8 bits then leave nothing of the others: in BERT-like models that is behind the first layers' activation
functions, which a scale for each channel cannot be moved to. In the bundled model two of 37 products
have such, of 88 and 93 times; with these in int8 too, 7.0% of its answers to SQuAD 2.0 would be others
than in float32, instead of 4.8%, for 3% of the time.
"""
OUTLIER_ROWS = 32
"""Rows to look for outliers in."""

# NNCF's settings are for the whole process.
_one_at_a_time = Lock()


def quantized(graph: Any, rows: Sequence[Row]) -> Any:
    """A quantized copy of an ``openvino.Model``.

    Weights have a scale for each output, activations one for each tensor, found by what ``rows`` give.

    Args:
        graph: float32.
        rows: texts such as the model will read.

    Raises:
        ImportError: NNCF is not installed.
        ValueError: no rows; or rows that the model fails at.
    """
    if not rows:
        raise ValueError("to quantize a model to int8, texts to calibrate it are needed; got none")
    names = {name for port in graph.inputs for name in port.get_names()}
    lacking = sorted(names.difference(rows[0]))
    if lacking:
        raise ValueError(f"rows to calibrate the model lack {', '.join(lacking)}")
    items = [{name: row[name] for name in row if name in names} for row in rows]
    ignored = _with_outliers(graph, items[:OUTLIER_ROWS])
    return calibrated(graph.clone(), items, ignored)


def calibrated(graph: Any, items: Sequence[Row], ignored: Sequence[str] = ()) -> Any:
    """``graph``, of any of NNCF's formats, quantized by what ``items``, its inputs by name, give.

    Args:
        graph: float32.
        items: its inputs.
        ignored: the names of operations that stay as they are.

    Raises:
        ImportError: NNCF is not installed.
        ValueError: an item that the graph fails at.
    """
    nncf = load_nncf()
    with _one_at_a_time, without_telemetry(), _quiet(nncf):
        try:
            return nncf.quantize(
                graph,
                nncf.Dataset(items),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(items),
                ignored_scope=nncf.IgnoredScope(names=list(ignored)),
            )
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise ValueError(f"the model cannot be quantized to int8: {text}") from error


def what_stays(graph: Any) -> str:
    """What of a quantized graph computes in float32 still, in a sentence."""
    found: dict[str, list[int]] = {}
    for operation in graph.get_ops():
        kind = operation.get_type_name()
        if kind not in ("MatMul", "Gather", "ScaledDotProductAttention"):
            continue
        sources = [port.get_node() for port in operation.input_values()]
        if kind == "Gather" and not _has_floats(operation):
            continue
        number = found.setdefault(kind, [0, 0])
        number[0] += 1
        if kind == "MatMul":
            done = all(_is_quantized(node) for node in sources)
        else:
            done = kind == "Gather" and _is_quantized(sources[0])
        number[1] += not done
    names = {
        "MatMul": "matrix products",
        "Gather": "tables of embeddings",
        "ScaledDotProductAttention": "attentions",
    }
    parts = [f"{rest} of {all_} {names[kind]}" for kind, (all_, rest) in found.items() if rest]
    return (
        f"Not quantized, but float32: {', '.join(parts) or 'no matrix products or embeddings'}; "
        "normalizations, activation functions and sums."
    )


def _has_floats(operation: Any) -> bool:
    return operation.get_output_element_type(0).is_real()


def _is_quantized(node: Any) -> bool:
    """Whether ``node`` gives what 8 bits hold: quantized here, or scaled from stored integers."""
    for _ in range(4):
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return True
        if kind == "Constant":
            return node.get_element_type().get_type_name() in ("i8", "u8")
        if kind not in ("Multiply", "Subtract", "Convert", "Reshape", "Transpose"):
            return False
        node = node.input_value(0).get_node()
    return False


def _with_outliers(graph: Any, rows: Sequence[Row]) -> list[str]:
    """The names of matrix products with weights whose other factor has outliers; see `OUTLIER`."""
    openvino = load_openvino()
    products = [
        operation
        for operation in graph.get_ordered_ops()
        if operation.get_type_name() == "MatMul"
        and operation.input_value(1).get_node().get_type_name() == "Constant"
    ]
    results = [openvino.opset13.result(product.input_value(0)) for product in products]
    if not results:
        return []
    probe = openvino.Model(results, graph.get_parameters(), "probe")
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    request = core().compile_model(probe, "CPU", settings).create_infer_request()
    greatest, squares = np.zeros(len(products)), np.zeros(len(products))
    for row in rows:
        found = request.infer(row, share_outputs=True)
        for i in range(len(products)):
            values = found[i]
            greatest[i] = max(greatest[i], float(np.abs(values).max()))
            squares[i] += float(np.square(values).mean()) / len(rows)
    outlying = greatest > OUTLIER * np.sqrt(squares)
    return [
        p.get_friendly_name()
        for p, is_outlying in zip(products, outlying, strict=True)
        if is_outlying
    ]


@contextmanager
def _quiet(nncf: Any) -> Iterator[None]:
    """Without NNCF's bars and remarks, and with the warnings' filters as they were."""
    from nncf.common.logging import track_progress

    logger, bars = nncf.nncf_logger, track_progress.Progress
    level = logger.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.ERROR)
            track_progress.Progress = lambda *columns, **more: bars(
                *columns, **more | {"disable": True}
            )
            yield
    finally:
        track_progress.Progress = bars
        logger.setLevel(level)
