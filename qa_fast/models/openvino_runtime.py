"""OpenVINO as what runs a model, on the host's processor: its intermediate representation (IR)."""

from __future__ import annotations

import ctypes
import json
import os
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, local
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch

from .checkpoints import CheckpointError, Reason
from .conversion.openvino_package import (
    computes_bfloat16,
    core,
    is_quantized,
    load_openvino,
    refuse_after_fork,
)
from .devices import is_out_of_memory
from .graphs import ARGUMENTS, OUTPUTS, Architecture, Array, GraphModel

FILE = "openvino_model.xml"
"""What Optimum Intel calls a model's graph; its weights lie in a .bin beside it."""

DTYPES = ("float32", "bfloat16", "int8")

# Bytes of the numbers that an output is filled with before a call: a NaN that no operation makes.
_UNWRITTEN = np.uint32(0x7FA5_C3E1)
# What OpenVINO says of its own and of the C++ library's errors, when memory is short.
_NO_MEMORY = ("bad_alloc", "bad allocation", "can't alloc")
_models: WeakSet[OpenVINOModel] = WeakSet()


class _Compiled(NamedTuple):
    """A graph that was compiled, and requests of it that no thread uses now."""

    model: Any
    idle: deque[Any]


class OpenVINOModel(GraphModel):
    """A model for question answering in OpenVINO's IR; see `Runtime`.

    Calls from threads that have entered (`enter_thread`) have one of PyTorch's threads each, and run at
    a time; any other call has all of them. No processor core is held: other processes may be at work.
    A process that is forked from one that has used OpenVINO cannot use it, as OpenVINO's threads are not
    there: start it with "spawn" or "forkserver".

    Args:
        source: an ``openvino.Model``, which is taken over; or the path of an .xml with a .bin beside it.
        config: its configuration as Transformers has them, or None.
        dtype: "float32"; "bfloat16", in which a processor with instructions for it computes about
            twice as fast; or "int8", which only a quantized model has, as it has no other. None: what
            the model is.
        known: its architecture; None: asked of ``config``.
        unquantized: with "int8", a sentence on what is not quantized; see `int8.what_stays`.

    Attributes:
        config: as given.
        dtype: as given; "float32" where the processor has no instructions for bfloat16.
        unquantized: as given.

    Raises:
        ImportError: OpenVINO is not installed.
        OSError: the files cannot be read.
        ValueError: another dtype; a graph that does not read token ids or give two logits of each.

    Warns:
        RuntimeWarning: the processor has no instructions for bfloat16.
    """

    backend = "openvino"
    # A batch of a new shape needs 10 to 30 ms to get ready, of 200 to 500. Where widths are multiples of
    # 8, int8 takes 5% less for the first 2,000 questions of SQuAD 2.0, bfloat16 1%; with 16 no less.
    width_step = 8

    def __init__(
        self,
        source: Any,
        *,
        config: Any = None,
        dtype: str | None = None,
        known: Architecture | None = None,
        unquantized: str | None = None,
    ) -> None:
        openvino = load_openvino()
        graph = source if isinstance(source, openvino.Model) else _read(Path(source))
        kind = "int8" if is_quantized(graph) else "float32"
        dtype = kind if dtype is None else dtype
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}; got {dtype!r}")
        if (dtype == "int8") != (kind == "int8"):
            which = "quantized" if kind == "int8" else "not quantized"
            raise ValueError(f"the graph is {which}, so it cannot compute in dtype={dtype!r}")
        if dtype == "bfloat16" and not computes_bfloat16():
            warnings.warn(
                "this processor has no instructions for bfloat16: the model computes in float32",
                RuntimeWarning,
                stacklevel=2,
            )
            dtype = "float32"
        names = {_name(port, "input_ids") for port in graph.inputs}
        super().__init__(names, config, dtype, known)
        self.unquantized = unquantized
        self._known = known
        self._outputs = _outputs(graph)
        self._graph = graph = _for_any_batch(graph, self._outputs)
        self._types = {
            _name(port, "input_ids"): np.dtype(port.get_element_type().to_dtype())
            for port in graph.inputs
        }
        self._side_by_side = 1
        self._here = local()
        self._lock = Lock()
        # By the number of streams, and of threads.
        self._compiled: dict[tuple[int, int], _Compiled] = {}
        _models.add(self)

    @classmethod
    def open(cls, folder: str | Path, dtype: str | None = None) -> OpenVINOModel:
        """A model in a folder, as Optimum Intel writes them.

        Args:
            folder: with an IR, or a folder ``openvino`` with one in it, and beside it a config.json,
                which may be missing.
            dtype: see the class; None: int8 where there is nothing else.

        Raises:
            ImportError: OpenVINO is not installed.
            OSError: no IR of that type, or several; files that cannot be read.
            ValueError: a dtype that there is not.
        """
        if dtype not in (None, *DTYPES):
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}; got {dtype!r}")
        load_openvino()
        with _one_line_errors(folder):
            path, graph = _graph_in(Path(folder), dtype)
            return cls(graph, config=_config_of(path.parent, Path(folder)), dtype=dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled is the graph as files have it: another process gets an equal model."""
        rest = self.config, self.dtype, self._known, self.unquantized
        return _from_bytes, (*self.to_bytes(), *rest)

    def to_bytes(self) -> tuple[bytes, bytes]:
        """The graph's .xml and .bin."""
        with TemporaryDirectory(prefix="qa-fast-") as folder:
            path = Path(folder, FILE)
            self.save(path)
            return path.read_bytes(), path.with_suffix(".bin").read_bytes()

    def save(self, path: Path) -> None:
        """Write the graph to ``path``, an .xml, and a .bin beside it."""
        load_openvino().serialize(self._graph, str(path), str(path.with_suffix(".bin")))

    def side_by_side(self) -> int:
        """One call per thread of PyTorch; see `TorchRuntime.side_by_side`."""
        self._side_by_side = torch.get_num_threads()
        return self._side_by_side

    def enter_thread(self) -> None:
        """See `Runtime.enter_thread`."""
        self._here.entered = True

    def _run(self, arrays: dict[str, Array]) -> tuple[Array, Array]:
        refuse_after_fork()
        compiled = self._ready_to_run()
        try:
            request = compiled.idle.pop()
        except IndexError:
            request = compiled.model.create_infer_request()
        shape = arrays["input_ids"].shape
        found = [np.empty(shape, np.float32) for _ in OUTPUTS]
        tensor = load_openvino().Tensor
        for array, index in zip(found, self._outputs, strict=True):
            array.view(np.uint32).fill(_UNWRITTEN)
            request.set_output_tensor(index, tensor(array, shared_memory=True))
        inputs = {
            name: array.astype(self._types[name], copy=False) for name, array in arrays.items()
        }
        try:
            request.infer(inputs, share_inputs=True, share_outputs=True)
        except Exception:
            self._discard(compiled)
            raise
        for i, index in enumerate(self._outputs):
            unwritten = found[i].view(np.uint32) == _UNWRITTEN
            output = request.get_output_tensor(index)
            if tuple(output.shape) != shape and not unwritten.all():
                found[i] = output.data.copy()
            elif unwritten.any():
                # On one thread OpenVINO loses errors: a call ends, and nothing has been done.
                self._discard(compiled, forever=True)
                raise MemoryError("OpenVINO gave no logits and no reason: memory may have run out")
        compiled.idle.append(request)
        return found[0], found[1]

    def _discard(self, compiled: _Compiled, *, forever: bool = False) -> None:
        """Compile anew at the next call: one that failed left parts of the graph ready for its shape.

        Args:
            compiled: what failed.
            forever: never free it: where it ended without an error, something of it is still at work.
        """
        if forever:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(compiled))
        with self._lock:
            for key in [key for key, found in self._compiled.items() if found is compiled]:
                del self._compiled[key]

    def _ready_to_run(self) -> _Compiled:
        """The graph, compiled for calls such as the one that this thread makes."""
        entered = getattr(self._here, "entered", False)
        threads = self._side_by_side if entered else torch.get_num_threads()
        streams = threads if entered else 1
        found = self._compiled.get((streams, threads))
        if found is None:
            with self._lock:
                found = self._compiled.get((streams, threads))
                if found is None:
                    # One for each kind of call, as each has its own copy of the weights.
                    for other in list(self._compiled):
                        if (other[0] > 1) == (streams > 1):
                            del self._compiled[other]
                    found = _Compiled(self._compile(streams, threads), deque())
                    self._compiled[streams, threads] = found
        return found

    def _compile(self, streams: int, threads: int) -> Any:
        hint = "bf16" if self.dtype == "bfloat16" else "f32"
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
            # Each process would hold the same cores, and all of them wait for these.
            "ENABLE_CPU_PINNING": False,
        }
        return core().compile_model(self._graph, "CPU", settings)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Runtime.is_out_of_memory`."""
        text = str(error)
        return is_out_of_memory(error) or (
            isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
        )

    def free_memory(self) -> None:
        """Give back what requests that no thread uses hold."""
        for compiled in list(self._compiled.values()):
            compiled.idle.clear()
            compiled.model.release_memory()

    def fingerprint(self, digest: Any) -> bool:
        """See `Runtime.fingerprint`: the operations, and the numbers that are constant."""
        digest.update(str(self.dtype).encode())
        for operation in self._graph.get_ordered_ops():
            kind = operation.get_type_name()
            shapes = [
                f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}"
                for port in operation.outputs()
            ]
            digest.update(f"{kind} {shapes}".encode())
            if kind == "Constant":
                digest.update(np.ascontiguousarray(operation.data).reshape(-1).view(np.uint8))
        return True


def _from_bytes(
    xml: bytes, weights: bytes, config: Any, dtype: str, known: Any, unquantized: str | None
) -> OpenVINOModel:
    graph = core().read_model(xml, weights)
    return OpenVINOModel(graph, config=config, dtype=dtype, known=known, unquantized=unquantized)


def _after_fork() -> None:
    """In a process that was forked: what is compiled is never freed, as that would wait for threads."""
    for model in list(_models):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(model._compiled))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _read(path: Path) -> Any:
    with _one_line_errors(path):
        return core().read_model(str(path))


def _name(port: Any, otherwise: str) -> str:
    """The name of an input, of those that a model may have; ``otherwise`` where it has none at all."""
    names = port.get_names()
    return next((name for name in ARGUMENTS if name in names), min(names, default=otherwise))


def _outputs(graph: Any) -> list[int]:
    """Which outputs are start and end logits: those that are called so, or the first two."""
    named = [
        [i for i, port in enumerate(graph.outputs) if name in port.get_names()] for name in OUTPUTS
    ]
    found = [places[0] for places in named] if all(named) else [0, 1]
    ranks = [port.get_partial_shape().rank for port in graph.outputs]
    if len(ranks) < 2 or any(ranks[i].is_static and ranks[i].get_length() != 2 for i in found):
        raise ValueError(
            "the graph must give start and end logits, [batch, tokens] each; it gives "
            + (", ".join(str(port.get_partial_shape()) for port in graph.outputs) or "nothing")
        )
    return found


def _for_any_batch(graph: Any, outputs: list[int]) -> Any:
    """``graph`` with inputs of any number of rows and tokens, and ``outputs`` of float32."""
    openvino = load_openvino()
    any_shape = openvino.PartialShape([-1, -1])
    if any(port.get_partial_shape() != any_shape for port in graph.inputs):
        try:
            graph.reshape(dict.fromkeys(graph.inputs, any_shape))
        except RuntimeError as error:
            shapes = ", ".join(str(port.get_partial_shape()) for port in graph.inputs)
            raise ValueError(
                f"the graph takes {shapes} only, where [batch, tokens] of any size is needed"
            ) from error
    if any(graph.output(i).get_element_type() != openvino.Type.f32 for i in outputs):
        steps = openvino.preprocess.PrePostProcessor(graph)
        for i in outputs:
            steps.output(i).tensor().set_element_type(openvino.Type.f32)
        graph = steps.build()
    return graph


@contextmanager
def _one_line_errors(source: str | Path) -> Iterator[None]:
    """Whatever goes wrong with files inside, as one OSError of one line."""
    try:
        yield
    except (ImportError, CheckpointError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[-300:]
        raise CheckpointError(Reason(f"cannot load the model {str(source)!r}: {text}")) from error


def _graph_in(folder: Path, dtype: str | None) -> tuple[Path, Any]:
    """The graph of ``folder`` that can compute in ``dtype``, and its path.

    What a graph is, is seen from what is in it: Optimum Intel has several names for quantized ones.
    """
    paths = sorted(
        path
        for place in (folder, folder / "openvino")
        for path in place.glob("openvino_model*.xml")
    )
    if not paths:
        raise _refusal(folder, f"there is no {FILE}, nor one in its folder openvino")
    found = {path: core().read_model(str(path)) for path in paths}
    kinds = {path: "int8" if is_quantized(graph) else "float32" for path, graph in found.items()}
    wanted = [p for p in paths if dtype is None or (kinds[p] == "int8") == (dtype == "int8")]
    listed = ", ".join(f"{p.relative_to(folder).as_posix()} ({kinds[p]})" for p in paths)
    if not wanted:
        raise _refusal(folder, f"it holds nothing for dtype={dtype!r}, but {listed}")
    first = [path for path in wanted if path.name == FILE] or wanted
    if len(first) > 1:
        raise _refusal(folder, f"which of them is meant? It holds {listed}; leave one there")
    return first[0], found[first[0]]


def _refusal(source: Path, reason: str) -> CheckpointError:
    return CheckpointError(Reason(f"cannot load the model {str(source)!r}: {reason}"))


def _config_of(*folders: Path) -> Any:
    """The configuration in the first of ``folders`` that has one, as data; None where none has."""
    from transformers import AutoConfig, PretrainedConfig

    path = next((f / "config.json" for f in folders if (f / "config.json").is_file()), None)
    if path is None:
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    try:
        return AutoConfig.from_pretrained(
            str(path.parent), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError):  # an architecture that Transformers has not
        return PretrainedConfig.from_dict(values)
