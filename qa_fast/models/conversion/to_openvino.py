"""A module of Transformers as a graph of OpenVINO's, held against it.

A trace is of one call: what a model does by the values that it sees, or by the shape of the batch, is
not in it. So the graph must give what the model gives for batches of other shapes, too.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qa_fast import __version__
from qa_fast.models.graphs import ARGUMENTS, OUTPUTS, Architecture, architecture
from qa_fast.models.openvino_runtime import FILE, OpenVINOModel
from qa_fast.models.runtime import Arguments
from qa_fast.models.torch_settings import as_by_default
from qa_fast.models.traits import (
    accepted_arguments,
    eval_mode,
    is_block_sparse,
    logits_in,
    refuse_random,
    unwrapped,
)

from .cache import Entry, GraphCache, key_of
from .int8 import Row, quantized, what_stays
from .openvino_package import core, load_nncf, load_openvino, without_telemetry

TOLERANCE = 1e-3
"""What a graph's logits may differ from the model's, of their range in a row.

Of all architectures that convert, tiny random ones differ by 2e-5 at most.
"""

_TRACED = 2, 19
_CHECKED = (2, 19), (1, 7), (3, 40), (2, 150)

# PyTorch's tracer, and OpenVINO, which changes modules while it traces, work on one at a time.
_one_at_a_time = Lock()


def openvino_model(
    model: Any,
    *,
    dtype: str = "float32",
    calibration: Iterable[Row] | None = None,
    cache: bool | str | Path | GraphCache = True,
) -> OpenVINOModel:
    """A module of Transformers, converted once and kept on the disk.

    The model stays as it is. Kept are only models all of whose code is Transformers' and PyTorch's own,
    as another's may change without a trace in its name or weights.

    Args:
        model: the torch module; on a CPU and of float32, it is not copied.
        dtype: see `OpenVINOModel`.
        calibration: with "int8": what a model is called with, row by row: int64 arrays [1, tokens] by
            name; see `calibration_rows`.
        cache: keep the graph in `cache_folder`, or in another folder; False: do not.

    Returns:
        What runs it.

    Raises:
        ImportError: OpenVINO, or for int8 NNCF, is not installed.
        ValueError: it cannot be converted, or the graph gives other logits than the model; or int8
            without rows.

    Warns:
        RuntimeWarning: the disk cannot be read or written; see also `OpenVINOModel`.
    """
    load_openvino()
    rows = list(calibration or ())
    if dtype == "int8":
        load_nncf()
        if not rows:
            raise ValueError("dtype='int8' needs texts to calibrate the model; got none")
    module = unwrapped(model)
    _refuse(module)
    if isinstance(cache, (str, Path)):
        cache = GraphCache(cache)
    store = (cache if isinstance(cache, GraphCache) else GraphCache()) if cache else None
    if store is None or not _is_plain(module):
        store = None
    known = architecture(module)

    def ready(graph: Any, dtype: str, unquantized: str | None = None) -> OpenVINOModel:
        config = deepcopy(getattr(module, "config", None))
        return OpenVINOModel(
            graph, config=config, dtype=dtype, known=known, unquantized=unquantized
        )

    plain = _parts(module) if store else {}
    if dtype == "int8":
        parts = {**plain, "calibration": _digest(rows), "nncf": load_nncf().__version__}
        entry = store.find(key_of(parts)) if store else None
        if entry is not None:
            return ready(_graph(entry), dtype, entry.notes["unquantized"])
        graph = quantized(_float_graph(module, known, store, plain), rows)
        found = ready(graph, dtype, what_stays(graph))
        if store is not None:
            notes = {"unquantized": found.unquantized}
            store.keep(key_of(parts), lambda folder: found.save(folder / FILE), notes)
        return found
    return ready(_float_graph(module, known, store, plain), dtype)


def _float_graph(
    module: Any, known: Architecture, store: GraphCache | None, parts: dict[str, Any]
) -> Any:
    """The float32 graph of ``module``, made from ``parts``: the one that is kept, or a new one."""
    entry = store.find(key_of(parts)) if store else None
    if entry is not None:
        return _graph(entry)
    graph = converted(module, known)
    if store is not None:
        openvino = load_openvino()

        def write(folder: Path) -> None:
            path = folder / FILE
            openvino.serialize(graph, str(path), str(path.with_suffix(".bin")))

        store.keep(key_of(parts), write, {})
    return graph


def _graph(entry: Entry) -> Any:
    return core().read_model(str(entry.folder / FILE))


def converted(module: Any, known: Architecture) -> Any:
    """A torch module as an ``openvino.Model`` that was found to give the same logits.

    Raises:
        ValueError: it cannot be converted, or gives others.
    """
    kind = type(module).__name__
    with _one_at_a_time, eval_mode(module).of(module):
        on_cpu = _on_cpu(module)
        wrapper = _Wrapper(on_cpu)
        names = [name for name in ARGUMENTS if name in accepted_arguments(module)]
        example = _batch(_TRACED, names, module, known)
        try:
            with _as_for_tracing():
                graph = load_openvino().convert_model(wrapper, example_input=example)
            _name_ports(graph)
        except Exception as error:
            # The reason stands at the beginning, or behind a long list of what was tried.
            text = " ".join(str(error).split())[:300]
            raise ValueError(f"{kind} cannot be converted to OpenVINO: {text}") from error
        _check(graph, on_cpu, names, known)
    return graph


class _Wrapper(torch.nn.Module):
    """A model that returns its logits only."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        given = dict(zip(ARGUMENTS, (input_ids, attention_mask, token_type_ids), strict=True))
        return _logits(self.model, {n: tensor for n, tensor in given.items() if tensor is not None})


def _logits(model: Any, arguments: Arguments) -> tuple[Tensor, Tensor]:
    more = {"use_cache": False} if "use_cache" in accepted_arguments(model) else {}
    rows, width = arguments["input_ids"].shape
    found = logits_in(model(**arguments, **more), (int(rows), int(width)))
    if found is None:
        raise ValueError("it gives no start and end logits of [batch, tokens]")
    return found


def _refuse(module: Any) -> None:
    """Raise a ValueError for what no trace holds."""
    kind = type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"a torch module can be converted to OpenVINO; got {kind}")
    if is_block_sparse(module):
        raise ValueError(
            f"{kind} cannot be converted to OpenVINO: the pattern of its block-sparse attention hangs "
            "on the length of a text; load it with attention_type='original_full'"
        )
    refuse_random(module)
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(f"{kind} cannot be converted to OpenVINO: its weights are not loaded")
    if any(
        type(p) is not torch.nn.Parameter or not p.is_floating_point() for p in module.parameters()
    ):
        raise ValueError(
            f"{kind} cannot be converted to OpenVINO: its weights are quantized already; load it "
            "without that, and with dtype='int8' it is quantized here"
        )


def _on_cpu(module: Any) -> Any:
    """``module``, or a copy of it, on the CPU and of float32."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(t.device.type == "cpu" for t in tensors) and all(
        p.dtype == torch.float32 for p in module.parameters()
    ):
        return module
    with torch.inference_mode(False):
        return deepcopy(module).to(device="cpu", dtype=torch.float32)


@contextmanager
def _as_for_tracing() -> Iterator[None]:
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        as_by_default("cpu"),
        without_telemetry(),
        warnings.catch_warnings(),
    ):
        # Of what is constant in a trace; whether that matters is seen afterwards.
        warnings.simplefilter("ignore")
        yield


def _name_ports(graph: Any) -> None:
    for port, name in zip(graph.outputs, OUTPUTS, strict=True):
        port.get_tensor().set_names({name})
    load = load_openvino()
    graph.reshape(dict.fromkeys(graph.inputs, load.PartialShape([-1, -1])))


def _batch(
    shape: tuple[int, int], names: Sequence[str], module: Any, known: Architecture
) -> Arguments:
    """A batch of random tokens in rows of several lengths, with padding behind them.

    Three separators are in each row, as some architectures look for them.
    """
    rows, width = shape
    config = module.config if hasattr(module, "config") else None
    size = known.vocabulary_size or getattr(config, "vocab_size", None) or 2
    random = np.random.default_rng(rows * 1000 + width)
    ids = random.integers(0, size, shape)
    special = {
        name: getattr(config, f"{name}_token_id", None) for name in ("pad", "sep", "bos", "cls")
    }
    used = {i for i in special.values() if isinstance(i, int)}
    plain = next((i for i in range(size - 1, -1, -1) if i not in used), 0)
    ids[np.isin(ids, list(used))] = plain
    mask = np.ones(shape, np.int64)
    types = np.zeros(shape, np.int64)
    for row in range(rows):
        length = max(4, width - row * width // (2 * rows))
        mask[row, length:] = 0
        ids[row, length:] = special["pad"] if isinstance(special["pad"], int) else 0
        middle = length // 3
        if isinstance(special["sep"], int) and 0 <= special["sep"] < size:
            ids[row, [middle, middle + 1, length - 1]] = special["sep"]
        if (getattr(config, "type_vocab_size", None) or 2) > 1:
            types[row, middle + 2 : length] = 1
    found = dict(zip(ARGUMENTS, (ids, mask, types), strict=True))
    return {name: torch.from_numpy(found[name]) for name in names}


def _check(graph: Any, module: Any, names: Sequence[str], known: Architecture) -> None:
    """Raise a ValueError unless ``graph`` gives what ``module`` gives."""
    kind = type(module).__name__
    runtime = OpenVINOModel(graph, dtype="float32", known=known)
    most = known.position_limit or max(width for _, width in _CHECKED)
    worst = 0.0
    for rows, width in _CHECKED:
        shape = rows, min(width, most)
        batch = _batch(shape, names, module, known)
        with _as_for_tracing():
            wanted = _logits(module, {name: tensor.clone() for name, tensor in batch.items()})
        try:
            given = runtime(batch)
        except (RuntimeError, ValueError, MemoryError) as error:
            text = "it gives no logits"
            if not isinstance(error, MemoryError):
                text = " ".join(str(error).split())[-200:]
            raise ValueError(
                f"the conversion of {kind} to OpenVINO cannot be trusted: it fails for a batch of "
                f"{list(shape)}: {text}"
            ) from error
        read = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        for a, b in zip(wanted, given, strict=True):
            worst = max(worst, _difference(a[read], b[read]))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the conversion of {kind} to OpenVINO cannot be trusted: its logits differ by {worst:.2g} "
            f"of their range from those of the model itself, where roundings make {TOLERANCE} at most"
        )


def _difference(wanted: Tensor, given: Tensor) -> float:
    """How far logits lie from those wanted at most, in parts of their range; infinity if not finite."""
    wanted, given = wanted.double(), given.double()
    if not bool(wanted.isfinite().all()) or not bool(given.isfinite().all()):
        return 0.0 if torch.equal(wanted, given) else float("inf")
    spread = float(wanted.max() - wanted.min())
    return float((wanted - given).abs().max()) / max(spread, 1e-12)


def _is_plain(module: Any) -> bool:
    """Whether all code of ``module`` is Transformers' and PyTorch's own, and nothing is hooked in."""
    return type(module).__module__.startswith("transformers.models.") and all(
        type(part).__module__.startswith(("torch.nn.modules.", "transformers."))
        and "forward" not in vars(part)
        and not part._forward_hooks
        and not part._forward_pre_hooks
        for part in module.modules()
    )


def _parts(module: Any) -> dict[str, Any]:
    """What the float32 graph of ``module`` is made from."""
    import transformers

    digest = hashlib.sha256()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    config = module.config.to_dict()
    config.pop("_name_or_path", None)
    return {
        "runs": "openvino",
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "weights": digest.hexdigest(),
        "config": json.loads(json.dumps(config, sort_keys=True, default=str)),
        "attention": getattr(module.config, "_attn_implementation", None),
        "qa_fast": __version__,
        "openvino": load_openvino().__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _digest(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        for name in sorted(row):
            array = np.ascontiguousarray(row[name], dtype=np.int64)
            digest.update(f"{name} {list(array.shape)}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
