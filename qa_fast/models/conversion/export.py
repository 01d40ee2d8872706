"""Folders with a graph that another runtime runs, held against the module that it is from.

Such a folder holds what a model on the Hub does: ``config.json``, the tokenizer, and the graph in place
of PyTorch's weights. Before it gets its name, the graph that lies in it is loaded and run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from qa_fast.files.writing import atomic_folder
from qa_fast.models.runtime import Arguments, Runtime
from qa_fast.models.sharing import LEAK
from qa_fast.models.torch_runtime import TorchRuntime
from qa_fast.models.traits import accepted_arguments, is_block_sparse, unwrapped

from . import to_onnx
from .int8 import Row

Format = Literal["onnx", "openvino"]
GraphType = Literal["float32", "int8"]

# Rows that a graph is tried with, and tokens in the longest of them.
_TRIED = 8
_LONGEST = 1024
# What may change in the logits of a float32 graph, of the range that they take in a row.
_ROUNDING = 10 * LEAK


class Exported(NamedTuple):
    """What lies in a folder that was written.

    Attributes:
        folder: the folder.
        sizes: bytes of each of its files, by name.
        batches: how many batches of text the graph was tried with.
        difference: how far its probabilities of a token as a start or an end lie from the module's, at
            most.
        remark: what is not quantized; "" for float32.
    """

    folder: Path
    sizes: dict[str, int]
    batches: int
    difference: float
    remark: str


def export(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    to: Format,
    rows: Sequence[Row],
    dtype: GraphType = "float32",
) -> Exported:
    """Write a folder with ``model`` as a graph; whole, or nothing.

    The graph is loaded from there and compared with ``model``, on rows alone and in a batch with
    padding, short and long.

    Args:
        model: a model of Transformers for extractive question answering. It stays as it is.
        tokenizer: its tokenizer.
        folder: a folder that is not there, or is empty.
        to: "onnx" for ONNX Runtime, "openvino" for OpenVINO.
        rows: what the model is called with for some texts of the usual kind, as `calibration_rows` has
            them: to see that the graph does the same; for int8, a hundred of them, also for the scales.
        dtype: "int8" quantizes after training, with scales that do not depend on the batch.

    Returns:
        What was written, and how far it is from ``model``.

    Raises:
        ValueError: a folder that is in use, a model that cannot be exported, a graph that gives other
            logits than ``model``.
        OSError: the folder cannot be written.
        ImportError: a package is missing.
    """
    for name, value, kind in (("to", to, Format), ("dtype", dtype, GraphType)):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {get_args(kind)}; got {value!r}")
    if not rows:
        raise ValueError(
            "rows of text are needed, to see that the graph does the same as the model"
        )
    with atomic_folder(Path(folder)) as place:
        module = _copy(model)
        reference = TorchRuntime(module)
        names = sorted(accepted_arguments(module) & reference.arguments(tokenizer))
        rows = [{name: row[name] for name in names} for row in rows]
        tensors = [{name: torch.from_numpy(row[name]) for name in names} for row in rows]
        batches = _batches(tensors, reference)
        wanted = [reference_logits(reference, batch) for batch in batches]
        _write_config(module, place)
        tokenizer.save_pretrained(place)
        # Padding, so that what hangs on it is traced too.
        example = next((b for b in batches if not bool(_mask(b).all())), batches[0])
        if to == "onnx":
            graph, remark = _write_onnx(module, place, dtype, example, rows, batches, wanted)
        else:
            graph, remark = _write_openvino(module, place, dtype, rows)
        difference = _compare(graph, batches, wanted, exact=dtype == "float32")
        sizes = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
    return Exported(Path(folder), sizes, len(batches), difference, remark)


def _copy(model: Any) -> Any:
    """A copy on the CPU, in float32 and eval mode."""
    model = unwrapped(model)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise ValueError(
            f"a model of Transformers is needed to export it; got {type(model).__name__}"
        )
    if is_block_sparse(model):
        raise ValueError(
            f"{type(model).__name__} cannot be exported: what attends to what hangs on the width "
            'of a row; load it with attention_type="original_full"'
        )
    if any(
        p.is_meta or type(p) is not torch.nn.Parameter or not p.is_floating_point()
        for p in model.parameters()
    ):
        raise ValueError(
            f"{type(model).__name__} cannot be exported: its weights are not loaded, or are quantized"
        )
    with torch.inference_mode(False):
        return deepcopy(model).to("cpu", torch.float32).eval()


def reference_logits(runtime: Runtime, batch: Arguments) -> Tensor:
    """Start and end logits [2, rows, width] of ``batch``, float32; padding is minus infinity."""
    with runtime.ready(), torch.inference_mode():
        logits = torch.stack(runtime(batch)).float().cpu()
    return logits.masked_fill(~_mask(batch), float("-inf"))


def _mask(batch: Arguments) -> Tensor:
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]).bool() if mask is None else mask.bool()


def _batches(rows: Sequence[Arguments], runtime: TorchRuntime) -> list[Arguments]:
    """Batches to try a graph with: of one row or several, padded or not, long and short."""
    taken = sorted(rows, key=lambda row: row["input_ids"].shape[1])
    step = max(1, len(taken) // _TRIED)
    taken = taken[step // 2 :: step][:_TRIED]
    limit = min(runtime.position_limit or _LONGEST, _LONGEST)
    short = [_cut(row, max(2, row["input_ids"].shape[1] // n)) for n, row in enumerate(taken, 2)]
    long = _stretched(taken[-1], limit)
    found = [*taken, *short[:2], long, _together([short[-1]] * 3)]
    if not runtime.sharing.equal_lengths and "attention_mask" in taken[0]:
        pad = getattr(runtime.config, "pad_token_id", None) or 0
        found += [_together(taken, pad), _together([long, short[0]], pad)]
    return found


def _cut(row: Arguments, tokens: int) -> Arguments:
    """The first tokens of a row and its last one."""
    return {name: torch.cat([x[:, : tokens - 1], x[:, -1:]], 1) for name, x in row.items()}


def _stretched(row: Arguments, tokens: int) -> Arguments:
    """A row with the middle of its second half, the text, again and again."""
    width = row["input_ids"].shape[1]
    if width >= tokens:
        return row
    middle = slice(width // 2, max(width // 2 + 1, width - 2))
    times = -(-tokens // (middle.stop - middle.start))
    found = {}
    for name, x in row.items():
        more = x[:, middle].repeat(1, times)[:, : tokens - width]
        found[name] = torch.cat([x[:, : middle.stop], more, x[:, middle.stop :]], 1)
    return found


def _together(rows: Sequence[Arguments], pad: int = 0) -> Arguments:
    """Rows as a batch, filled up with padding on the right."""
    width = max(row["input_ids"].shape[1] for row in rows)
    fill = {"input_ids": pad}
    return {
        name: torch.cat(
            [
                torch.nn.functional.pad(
                    row[name], (0, width - row[name].shape[1]), value=fill.get(name, 0)
                )
                for row in rows
            ]
        )
        for name in rows[0]
    }


# --- writing ------------------------------------------------------------------------------------


def _write_onnx(
    module: Any,
    place: Path,
    dtype: GraphType,
    example: Arguments,
    rows: Sequence[Row],
    batches: list[Arguments],
    wanted: list[Tensor],
) -> tuple[Runtime, str]:
    from qa_fast.models.onnx_files import PLAIN
    from qa_fast.models.onnx_runtime import OnnxModel

    # In few operators, a tenth faster there.
    getattr(module, "set_attn_implementation", lambda _: None)("eager")
    path = place / PLAIN["float32"]
    more = {"use_cache": False} if "use_cache" in accepted_arguments(module) else {}
    to_onnx.trace(module, example, path, **more)
    if dtype == "float32":
        return OnnxModel.open(path), ""
    # Else the products of a graph that is wrong would be quantized.
    _compare(OnnxModel.open(path), batches, wanted, exact=True)
    quantized = place / PLAIN[dtype]
    remark = to_onnx.quantize(path, rows, quantized)
    to_onnx.remove(path)
    return OnnxModel.open(quantized), remark


def _write_openvino(
    module: Any, place: Path, dtype: GraphType, rows: Sequence[Row]
) -> tuple[Runtime, str]:
    from qa_fast.models.openvino_runtime import FILE, OpenVINOModel

    from .to_openvino import openvino_model

    made = openvino_model(
        module, dtype=dtype, calibration=rows if dtype == "int8" else None, cache=False
    )
    made.save(place / FILE)
    return OpenVINOModel.open(place), made.unquantized or ""


def _write_config(module: Any, place: Path) -> None:
    """The configuration, of a model without weights of PyTorch's."""
    module.config.save_pretrained(place)
    path = place / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [type(module).__name__]
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _compare(
    graph: Runtime, batches: list[Arguments], wanted: list[Tensor], *, exact: bool
) -> float:
    """How far the graph's probabilities lie from those wanted, at most.

    Raises:
        ValueError: with ``exact``, where its logits are others by more than rounding; without, where
            they are not finite.
    """
    found = 0.0
    for batch, theirs in zip(batches, wanted, strict=True):
        mine = reference_logits(graph, batch)
        mask = _mask(batch)
        shape = list(batch["input_ids"].shape)
        a, b = (logits[:, mask] for logits in (mine, theirs))
        off = float((a - b).abs().max() / (b.max() - b.min()))
        if not off <= (_ROUNDING if exact else float("inf")):
            raise ValueError(
                f"the graph gives other logits than the model for a batch of {shape}, by {off:.2g} "
                "of their range, so nothing was written: the exporter does not take this architecture"
            )
        found = max(found, float((mine.softmax(-1) - theirs.softmax(-1)).abs().max()))
    return found
