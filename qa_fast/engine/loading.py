"""An engine for a model that is named: which model, and how it is to run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from qa_fast.models.bfloat16 import bfloat16_pays
from qa_fast.models.checkpoints import BUNDLED_MODEL, load_model, load_tokenizer
from qa_fast.models.conversion.export import Exported, Format, GraphType, export
from qa_fast.models.devices import to_device
from qa_fast.models.dtypes import dtype_to_load, to_dtype
from qa_fast.models.graphs import GraphModel
from qa_fast.models.traits import check_model
from qa_fast.texts.calibration import CALIBRATION_ROWS, calibration_rows

from .engine import Engine
from .errors import warn_caller
from .graphs import (
    Backend,
    backend_of,
    calibration_pairs,
    check_backend,
    make_graph,
    open_graph,
    probe,
    tokenizer_folder,
)
from .options import check_count, check_flag

# To see that a graph does what the model does, few texts are enough.
_EXPORT_ROWS = 64


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model and how it is to run; every field is checked, and nothing is loaded yet.

    Attributes:
        model: a model id on the Hugging Face Hub, a folder, or a model instance; None for the
            bundled model. For `load_engine` also an `Engine`, or what has one.
        tokenizer: an id, a folder or an instance of a fast tokenizer; None for the model's own.
        device: "cpu", "cuda", "cuda:1", "mps", a GPU's index, or -1 for the CPU. None: a GPU where
            there is one; a model instance stays where it is.
        backend: what runs the model: "torch", "openvino" or "onnx"; None for PyTorch, but for a folder
            that holds graphs of one of the others only.
        dtype: the weights' type by its name in PyTorch or as a `torch.dtype`; "auto" for the
            checkpoint's own, or, of a named model on a CPU, for bfloat16 where that is faster, and near,
            and else float32; None for float32 on a CPU and "auto" elsewhere. Of the other backends
            "float32", "bfloat16", "float16" or "int8", as far as they have it.
        calibrate: texts that show "int8" the range of its numbers; see `calibration_pairs`.
        batch_size: most chunks that the model reads at once.
        max_batch_tokens: most tokens, padding included, that the model reads at once.
        compile: run the model through `torch.compile`.
        num_workers: processes that tokenize and make answers; 0 for none, None for what pays.
        allow_pickle: also load weights that are pickled.
        trust_remote_code: run code that comes with the model or its tokenizer.

    Example:
        >>> ModelSpec(device="cpu", batch_size=8).load().batch_size
        8
    """

    model: Any = None
    tokenizer: Any = None
    device: str | int | torch.device | None = None
    backend: Backend | None = None
    dtype: str | torch.dtype | None = None
    calibrate: Any = None
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    compile: bool = False
    num_workers: int | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("compile", "allow_pickle", "trust_remote_code"):
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))
        for name in ("batch_size", "max_batch_tokens"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.num_workers is not None:
            check_count("num_workers", self.num_workers, 0)
        check_backend(self.backend, self.dtype, self.compile)
        if self.backend in (None, "torch") and self.dtype not in (None, "auto"):
            to_dtype(self.dtype)

    def load(self) -> Engine:
        """The engine.

        Raises:
            OSError: a model or tokenizer that cannot be found or loaded, or that would need a permission
                that was not given; or a model without weights for the layer that answers.
            ValueError: a model, a tokenizer, a device or a backend that cannot be used.
            ImportError: a backend that is not installed.
        """
        model = BUNDLED_MODEL if self.model is None else self.model
        backend = self.backend or backend_of(model)
        check_backend(backend, self.dtype, self.compile)
        tokenizer, named = self.tokenizer, isinstance(model, (str, Path))
        if isinstance(model, (str, Path)):
            tokenizer = tokenizer_folder(model) if tokenizer is None else tokenizer
            self._warn_of_code(model, tokenizer)
            model, device = self._named(model, backend)
        else:
            if not isinstance(model, GraphModel):
                check_model(model)
            if tokenizer is None:
                raise ValueError(
                    f"a tokenizer is needed with a model instance ({type(model).__name__}); pass "
                    "tokenizer=AutoTokenizer.from_pretrained(...)"
                )
            self._warn_of_code(tokenizer)
            device = self.device
        if isinstance(tokenizer, (str, Path)):
            tokenizer = load_tokenizer(tokenizer, trust_remote_code=self.trust_remote_code)
        dtype: Any = self.dtype
        if backend != "torch" and not isinstance(model, GraphModel):
            model = make_graph(model, tokenizer, backend, dtype, self.device, self.calibrate)
        elif self.calibrate is not None:
            raise ValueError(
                "calibrate is for a model that becomes one of dtype='int8' by backend='openvino'"
            )
        elif dtype == "auto" and named and device.type == "cpu":
            dtype = "bfloat16" if bfloat16_pays(model, probe(model, tokenizer)) else "float32"
        return Engine(
            model,
            tokenizer,
            device=None if isinstance(model, GraphModel) else device,
            dtype=None if isinstance(model, GraphModel) else dtype,
            batch_size=self.batch_size,
            max_batch_tokens=self.max_batch_tokens,
            compile=self.compile,
            num_workers=self.num_workers,
        )

    def _named(self, model: str | Path, backend: Backend) -> tuple[Any, Any]:
        """The model of a name, in the form of a graph where it lies there as one; and its device."""
        dtype: Any = self.dtype
        if backend != "torch":
            graph = open_graph(model, backend, dtype, self.device)
            if graph is not None:
                return graph, None
            dtype, device = None, torch.device("cpu")
        else:
            automatic = "cuda" if torch.cuda.is_available() else "cpu"
            device = to_device(automatic if self.device is None else self.device)
            # float32 holds what any checkpoint for a CPU does, and bfloat16 is tried beside it.
            dtype = None if dtype == "auto" and device.type == "cpu" else dtype
        found = load_model(
            model,
            dtype=dtype_to_load(dtype, device),
            allow_pickle=self.allow_pickle,
            trust_remote_code=self.trust_remote_code,
        )
        return found, device

    def _warn_of_code(self, *sources: Any) -> None:
        if self.trust_remote_code:
            names = dict.fromkeys(str(x) for x in sources if isinstance(x, (str, Path)))
            warn_caller(
                f"trust_remote_code=True: code that comes with {' or '.join(map(repr, names))} runs "
                "with all your rights"
            )


def export_model(
    spec: ModelSpec,
    folder: str | Path,
    *,
    to: Format,
    dtype: GraphType = "float32",
    calibrate: Any = None,
) -> Exported:
    """Write a folder with a model as a graph for ONNX Runtime or OpenVINO; see `export`.

    Args:
        spec: which model; how it is to run does not count.
        folder: a folder that is not there, or is empty.
        to: "onnx" or "openvino".
        dtype: "float32" or "int8".
        calibrate: see `calibration_pairs`; the graph is tried with them, too.

    Raises:
        ValueError: as `export`, and `ModelSpec.load`.
        OSError: likewise.
        ImportError: a package is missing.
    """
    engine = replace(spec, device="cpu", backend="torch", dtype="float32").load()
    rows = calibration_rows(
        engine.tokenizer,
        calibration_pairs(calibrate),
        position_limit=engine.position_limit,
        vocabulary=engine.runtime.vocabulary_size,
        most=CALIBRATION_ROWS if dtype == "int8" else _EXPORT_ROWS,
    )
    return export(engine.model, engine.tokenizer, folder, to=to, dtype=dtype, rows=rows)


def load_engine(spec: ModelSpec) -> Engine:
    """The engine that ``spec`` asks for: a new one, or the one that it holds.

    Args:
        spec: its model may also be an `Engine`, or a pipeline or a reader, which has one.

    Raises:
        OSError: as `ModelSpec.load`.
        ValueError: as `ModelSpec.load`; or an engine, and beside it how one is to be made.
    """
    held = getattr(spec.model, "engine", spec.model)
    if not isinstance(held, Engine):
        return spec.load()
    given = [
        field.name
        for field in fields(spec)
        if field.name != "model" and getattr(spec, field.name) != field.default
    ]
    if given:
        raise ValueError(f"{', '.join(given)}: give it where the engine is made, not here")
    return held
