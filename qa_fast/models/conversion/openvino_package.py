"""The packages openvino and nncf, without what they would do besides.

They report their use to a server, unless the package that does so cannot be imported; and NNCF changes
the class of all loggers.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import Any

_QUANTIZED_TYPES = ("i4", "u4", "i8", "u8", "nf4", "f8e4m3", "f8e5m2")

_telemetry = RLock()


@contextmanager
def without_telemetry() -> Iterator[None]:
    """A block in which OpenVINO and NNCF send no reports of their use, and get ready for none.

    Both do without the package that sends them where it cannot be imported. Where it has been, by a
    program that uses OpenVINO itself, what it is given meanwhile is dropped.
    """
    name = "openvino_telemetry"
    with _telemetry:
        if sys.modules.get(name) is None:
            sys.modules[name] = None  # type: ignore[assignment] # an import of it fails
            try:
                yield
            finally:
                sys.modules.pop(name, None)
            return
        sender = sys.modules[f"{name}.utils.sender"].TelemetrySender
        send = sender.send
        sender.send = lambda *_: None
        try:
            yield
        finally:
            sender.send = send


def load_openvino() -> Any:
    """The package openvino.

    Raises:
        ImportError: it is not installed.
    """
    with without_telemetry():
        try:
            import openvino
        except ImportError as error:
            raise ImportError("OpenVINO is needed: pip install 'qa-fast[openvino]'") from error
    return openvino


def load_nncf() -> Any:
    """The package nncf, which quantizes.

    Raises:
        ImportError: it is not installed.
    """
    made_by = logging.getLoggerClass()
    with without_telemetry():
        try:
            import nncf
        except ImportError as error:
            raise ImportError(
                "to quantize to int8, NNCF is needed: pip install 'qa-fast[openvino]'"
            ) from error
        finally:
            logging.setLoggerClass(made_by)
    return nncf


@cache
def _core() -> tuple[int, Any]:
    return os.getpid(), load_openvino().Core()


def core() -> Any:
    """OpenVINO's own state, one for the process.

    Raises:
        RuntimeError: see `refuse_after_fork`.
    """
    refuse_after_fork()
    return _core()[1]


def refuse_after_fork() -> None:
    """Raise a RuntimeError in a process that was forked from one that has used OpenVINO.

    Its calls would wait for ever for threads of OpenVINO's, which are not there.
    """
    if _core.cache_info().currsize and _core()[0] != os.getpid():
        raise RuntimeError(
            "OpenVINO cannot be used in a process that was forked from one that has used it, as its "
            'threads are not there: start the process with multiprocessing\'s "spawn" or "forkserver"'
        )


def computes_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; OpenVINO does without them in silence."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def is_quantized(graph: Any) -> bool:
    """Whether some of the graph's numbers are of 8 bits or less."""
    for operation in graph.get_ops():
        kind = operation.get_type_name()
        if kind == "FakeQuantize":
            return True
        if (
            kind == "Constant"
            and operation.get_element_type().get_type_name() in _QUANTIZED_TYPES
            and len(operation.get_output_shape(0)) > 1
        ):
            return True
    return False
