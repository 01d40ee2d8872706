"""ONNX Runtime: graphs that it runs, from folders as many on the Hugging Face Hub are."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from .devices import is_out_of_memory
from .graphs import OUTPUTS, Array, GraphModel, architecture_of
from .onnx_files import Graph, find_graph, read_graph, refusal
from .torch_runtime import BATCH_TOKENS, WIDTH_STEP

_INTEGERS = {"tensor(int64)": "int64", "tensor(int32)": "int32"}
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
"""By the name of a device: what runs graphs there, and the package that has it."""

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"

_importing = threading.RLock()
_models: WeakSet[OnnxModel] = WeakSet()


class OnnxModel(GraphModel):
    """A graph that ONNX Runtime runs; see `Runtime`.

    Calls side by side have one thread each, and a call alone as many as PyTorch has, which is another
    session: a process that does both holds the weights twice. In a process that was forked, sessions
    are made anew, since their threads do not live on. Pickled is the path of the graph, not the graph:
    a process that unpickles it needs the same file.

    Where a graph scales numbers by the greatest of a whole batch, as dynamic quantization does, its rows
    are read one by one, so that no text changes the answers about another. Other graphs with integers
    are tried with a few rows; see `Sharing`.

    Args:
        graph: the file; see `read_graph`.
        config: the model's configuration as Transformers has them, or None.
        device: see `open`.

    Attributes:
        graph: as given.

    Raises:
        CheckpointError: a graph that cannot be used.
        ValueError: a device that cannot be used.
        ImportError: without ONNX Runtime.
    """

    backend = "onnx"

    def __init__(
        self, graph: Graph, config: Any = None, device: str | int | torch.device | None = None
    ) -> None:
        self.graph = graph
        self._given_device = device
        self._provider = _provider(device)
        self._lock = threading.Lock()
        self._sessions: dict[int, Any] = {}
        self._thread = threading.local()
        _models.add(self)
        session = self._session()
        self._types = _types(session, graph.path)
        self._outputs = _outputs(session, graph.path)
        known = architecture_of(config)
        if graph.dtype == "int8":
            known = known._replace(masks_padding=False)
        try:
            super().__init__(set(self._types), config, graph.dtype, known)
        except ValueError as error:
            raise refusal(graph.path, str(error)) from error
        if graph.dynamic:
            self.sharing.keep_apart()
        if not self._on_cpu:
            self.batch_tokens, self.width_step = BATCH_TOKENS, WIDTH_STEP

    @classmethod
    def open(
        cls,
        source: str | Path,
        dtype: str | None = None,
        device: str | int | torch.device | None = None,
    ) -> OnnxModel:
        """The graph of a folder, of a repository on the Hub, or of one file.

        Args:
            source: a folder that holds ``config.json`` and graphs, beside it or in ``onnx/``; a model
                id on the Hub; or the path of an ``.onnx`` file.
            dtype: which of several graphs: "float32", "float16" or "int8"; None for ``model.onnx``, or
                the only one there is.
            device: "cpu" or None; "cuda", "cuda:1" or a GPU's index; "openvino" for OpenVINO inside of
                ONNX Runtime.

        Raises:
            CheckpointError: no graph, none of that type, several, or one that cannot be used.
            ValueError: a type that is none of these; a device that this build of ONNX Runtime lacks.
            ImportError: without ONNX Runtime.
        """
        _provider(device)  # before anything is fetched
        path, folder = find_graph(source, dtype)
        graph = read_graph(path)
        if dtype is not None and graph.dtype != dtype:
            raise refusal(path, f"it computes in {graph.dtype}, where {dtype} was asked for")
        return cls(graph, None if folder is None else _config(folder, path), device)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.graph, self.config, self._given_device)

    @property
    def _on_cpu(self) -> bool:
        return self._provider[0] == _PROVIDERS["cpu"][0]

    def _run(self, arrays: dict[str, Array]) -> tuple[Array, Array]:
        given = {
            name: array.astype(self._types[name], copy=False) for name, array in arrays.items()
        }
        start, end = self._session().run(self._outputs, given)
        return start, end

    def _session(self) -> Any:
        """The session for this thread's calls."""
        alone = getattr(self._thread, "side_by_side", False)
        threads = 1 if alone or not self._on_cpu else torch.get_num_threads()
        with self._lock:
            if threads not in self._sessions:
                self.graph.check_unchanged()
                # The number of threads was another before; the session of that serves no more.
                self._sessions = {n: s for n, s in self._sessions.items() if n == 1}
                self._sessions[threads] = _new_session(self.graph.path, self._provider, threads)
            return self._sessions[threads]

    def side_by_side(self) -> int:
        """See `Runtime.side_by_side`."""
        return torch.get_num_threads() if self._on_cpu else 1

    def enter_thread(self) -> None:
        """See `Runtime.enter_thread`."""
        self._thread.side_by_side = True

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Runtime.is_out_of_memory`."""
        if is_out_of_memory(error):
            return True
        text = str(error).lower()
        return type(error).__module__.startswith("onnxruntime") and any(
            words in text
            for words in ("failed to allocate", "bad_alloc", "out of memory", "alloc_failed")
        )

    def is_device_lost(self, error: BaseException) -> bool:
        """See `Runtime.is_device_lost`."""
        return "CUDA failure" in str(error) and not self.is_out_of_memory(error)

    def free_memory(self) -> None:
        """See `Runtime.free_memory`: sessions keep theirs as long as they live."""
        with self._lock:
            self._sessions = {}

    def fingerprint(self, digest: Any) -> bool:
        """See `Runtime.fingerprint`: the bytes of all files of the graph."""
        self.graph.check_unchanged()
        for path in (self.graph.path, *self.graph.data):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return True

    def _abandon(self) -> None:
        """In a process that was forked: leave sessions whose threads are not there any more.

        To end one, it would wait for its threads, so they are kept for good.
        """
        for session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = {}
        self._lock = threading.Lock()
        self._thread = threading.local()


def _abandon_all() -> None:
    for model in list(_models):
        model._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


# --- sessions -----------------------------------------------------------------------------------


def load_onnxruntime() -> Any:
    """The package onnxruntime, which reports nothing of its use.

    Raises:
        ImportError: it is not installed.
    """
    with _importing:
        before = os.environ.get(_NO_TELEMETRY)
        # Read at the import. A forked process would not end for the threads that send reports.
        os.environ[_NO_TELEMETRY] = "1"
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("ONNX Runtime is needed: pip install 'qa-fast[onnx]'") from error
        finally:
            if before is None:
                del os.environ[_NO_TELEMETRY]
            else:
                os.environ[_NO_TELEMETRY] = before
        onnxruntime.disable_telemetry_events()  # if a program has imported it before
    return onnxruntime


def _provider(device: str | int | torch.device | None) -> tuple[str, dict[str, str]]:
    """The name of the execution provider for a device, and its options.

    Raises:
        ValueError: no such device, or the installed build has no provider for it.
    """
    library = load_onnxruntime()
    if isinstance(device, int) and not isinstance(device, bool):
        device = "cpu" if device < 0 else f"cuda:{device}"
    kind, _, index = str(device or "cpu").partition(":")
    if kind not in _PROVIDERS or (index and (kind != "cuda" or not index.isdecimal())):
        raise ValueError(
            "device of an ONNX model must be 'cpu', 'cuda', 'cuda:1', a GPU's index or 'openvino'; got "
            f"{device!r}"
        )
    name, package = _PROVIDERS[kind]
    there = library.get_available_providers()
    if name not in there:
        raise ValueError(
            f"device {device!r} needs the {name}, and this build of ONNX Runtime has only "
            f"{', '.join(there)}: pip uninstall onnxruntime, then pip install {package}"
        )
    return name, {"device_id": index or "0"} if kind == "cuda" else {}


def _new_session(path: Path, provider: tuple[str, dict[str, str]], threads: int) -> Any:
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    # Made for one shape of batch each, of which there are too many.
    options.enable_mem_pattern = False
    # Threads that wait would keep a core from others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    name, settings = provider
    providers: list[Any] = [(name, settings)]
    if name != _PROVIDERS["cpu"][0]:
        providers.append(_PROVIDERS["cpu"][0])
    try:
        session = library.InferenceSession(
            str(path), options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # each of its kinds is a class of its own, none derived from another
        short = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")[:300]
        raise refusal(path, f"ONNX Runtime cannot use it ({short})") from error
    # Another provider for the rest of its life, after an error of this one.
    session.disable_fallback()
    if session.get_providers()[0] != name:
        raise ValueError(
            f"ONNX Runtime could not start the {name}, so it would run on the CPU: see what it wrote "
            "above, such as libraries of CUDA that are missing"
        )
    return session


def _types(session: Any, path: Path) -> dict[str, str]:
    """The type of each of a graph's inputs, by name."""
    found = {}
    for value in session.get_inputs():
        if value.type not in _INTEGERS:
            raise refusal(path, f"it takes {value.name} as {value.type}, where integers are needed")
        if any(isinstance(size, int) for size in value.shape) or len(value.shape) != 2:
            raise refusal(
                path,
                f"it takes {value.name} of shape {list(value.shape)} only, where any number of rows "
                "and of tokens is needed; qa-fast export makes such a graph",
            )
        found[value.name] = _INTEGERS[value.type]
    return found


def _outputs(session: Any, path: Path) -> list[str]:
    """The names of the start and the end logits."""
    values = {value.name: value for value in session.get_outputs()}
    if set(OUTPUTS) <= set(values):
        return list(OUTPUTS)
    logits = [
        name
        for name, value in values.items()
        if len(value.shape or ()) == 2 and value.type.startswith(("tensor(float", "tensor(bfloat"))
    ]
    if len(values) == len(logits) == 2:
        return logits
    listed = ", ".join(f"{n} ({v.type} {v.shape})" for n, v in values.items())
    raise refusal(
        path,
        f"it gives {listed}, where start_logits and end_logits are needed, of [batch, tokens] each: "
        "it is no graph for extractive question answering",
    )


def _config(folder: Path, path: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # of any kind, as with `checkpoints`
        short = " ".join(str(error).split()).partition(". ")[0][:300]
        raise refusal(path, f"the config.json of its folder cannot be read ({short})") from error
