"""What a model can take: positions, a vocabulary, arguments, padding behind a row."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import lcm
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

# One for all engines of a model: the first that is done must not switch dropout on for the others.
_eval_modes: WeakKeyDictionary[torch.nn.Module, EvalMode] = WeakKeyDictionary()

# Encoders in which every token attends to every other, so that one mask does for all layers.
FULL_ATTENTION = {"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"}
_POSITION_TABLES = (
    "position_embeddings",
    "char_position_embeddings",
    "embed_positions",
    "wpe",
    "positions_embed",
    "pos_encoding",
)


def unwrapped(model: Any) -> Any:
    """The model inside of `torch.compile`'s, DataParallel's and such wrappers."""
    parallel = torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel
    while isinstance(model, torch.nn.Module):
        name = "module" if isinstance(model, parallel) else "_orig_mod"
        if not isinstance(inner := getattr(model, name, None), torch.nn.Module):
            break
        model = inner
    return model


def check_model(model: Any) -> None:
    """Raise a ValueError unless ``model`` can be called as one, as far as that can be seen."""
    kind = type(model).__name__
    wrapped = getattr(model, "model", None), getattr(model, "tokenizer", None)
    if isinstance(model, type):
        problem = (
            f"an instance; got the class {model.__name__}: load one with its from_pretrained()"
        )
    elif not callable(model):
        problem = (
            f"an instance or a callable; got {kind}: qa_fast.pipeline() loads a model by its name"
        )
    elif not isinstance(model, torch.nn.Module) and None not in wrapped:
        problem = f"the model itself; got {kind}, a pipeline: pass its .model, and its .tokenizer"
    elif not _has_signature(model):
        problem = (
            f"one whose arguments can be seen; got {kind}, as of torch.jit: pass the model itself, or "
            "a function of input_ids and attention_mask that calls it"
        )
    else:
        return
    raise ValueError(f"model must be {problem}")


def _has_signature(model: Any) -> bool:
    try:
        inspect.signature(getattr(model, "forward", model))
    except (TypeError, ValueError):
        return False
    return True


def is_block_sparse(model: Any) -> bool:
    """Whether the pattern of the attention hangs on the width of a row (BigBird)."""
    return getattr(_config(model), "attention_type", None) == "block_sparse"


def keeps_state(model: Any) -> bool:
    """Whether what ``model`` does at a time is seen by its other calls.

    Block-sparse attention is left for good at the first short row; Reformer seeds PyTorch's own
    generator. Callables of any kind may do such things.
    """
    return (
        not isinstance(model, torch.nn.Module)
        or is_block_sparse(model)
        or hasattr(_config(model), "hash_seed")
    )


def is_dynamic_int8(model: Any) -> bool:
    """Whether layers of ``model`` are quantized as they are called, as quantize_dynamic() makes them."""
    return isinstance(model, torch.nn.Module) and any(
        type(module).__module__.startswith("torch.ao.nn.quantized.dynamic")
        for module in model.modules()
    )


def refuse_random(model: Any) -> None:
    """See that ``model`` does not choose what attends to what by new random numbers in each call.

    Raises:
        ValueError: it does.
    """
    config = _config(model)
    name = type(unwrapped(model)).__name__
    if "lsh" in _layers(config) and None in (config.hash_seed, config.num_buckets):
        raise ValueError(
            f"{name} cannot be used as it is: its hashes are new random ones in each call, and their "
            "number is that of the first text, so the same question gets different answers. Load it "
            "with a configuration in which hash_seed and num_buckets are set, such as hash_seed=0, "
            "num_buckets=64"
        )
    if getattr(config, "use_expectation", True) is False:
        raise ValueError(
            f"{name} cannot be used as it is: its hashes are new random ones in each call, so the same "
            "question gets different answers. Load it with use_expectation=True in its configuration"
        )


def position_limit(model: Any) -> int | None:
    """Most tokens that ``model`` has positions for; None where it has no table of them.

    Learned and sinusoidal position embeddings are looked up in a table. Tables of RoBERTa and its
    kin begin after the padding index, BART's after an offset of its own, and Nyströmformer's where its
    ``position_ids`` begin; these may also end before the table. Models with relative or rotary
    positions have no table, and no hard limit; but beyond what they were trained with some turn by
    frequencies that hang on the longest row of the batch, and on rows read before.
    """
    if not isinstance(model, torch.nn.Module):
        return None
    config = _config(model)
    limits = []
    for module in model.modules():
        limits.append(_steady_positions(module, config))
        # A table may be a module, a buffer or, as GPT-J's in some releases, a plain tensor.
        parts = (
            vars(module) | dict(module.named_buffers(recurse=False)) | dict(module.named_children())
        )
        for name in _POSITION_TABLES:
            table = parts.get(name)
            if table is not None:
                limits.append(_positions(table, parts, config))
    if not any(limits):  # MPT has slopes instead, for that many tokens
        limits.append(getattr(config, "max_seq_len", None))
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _steady_positions(rotary: Any, config: Any) -> int | None:
    """Positions up to which ``rotary`` embeddings turn all rows alike; None for no such limit."""
    kinds = getattr(rotary, "rope_type", None)
    kinds = {*kinds.values()} if isinstance(kinds, dict) else {kinds}
    if "dynamic" in kinds:
        return getattr(rotary, "original_max_seq_len", None)
    if "longrope" not in kinds:
        return None
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    name = "original_max_position_embeddings"
    by_layer = (layer for layer in given.values() if isinstance(layer, dict))
    found = [place[name] for place in (given, *by_layer) if isinstance(place.get(name), int)]
    found += [n for n in (getattr(config, name, None),) if isinstance(n, int)]
    return min(found, default=getattr(config, "max_position_embeddings", None))


def _positions(table: Any, parts: dict[str, Any], config: Any) -> int | None:
    """Positions in a ``table`` that lies among the ``parts`` of a module; None where it is none."""
    if isinstance(table, Tensor):
        return len(table) if table.dim() == 2 else None
    rows = _rows(table)
    if rows is None:
        # Reformer's axial positions: the module around them knows their number.
        rows = parts.get("max_position_embeddings")
        if not isinstance(rows, int):
            return None
    pad = getattr(table, "padding_idx", None)
    first = 0 if pad is None else pad + 1
    ids = parts.get("position_ids")
    last = rows
    if isinstance(ids, Tensor) and ids.numel() and not ids.is_meta:
        smallest = int(ids.flatten()[0])
        first, last = max(first, smallest), min(rows, smallest + ids.numel())
    limit = last - first - getattr(table, "offset", 0)
    # Rows that are filled up inside have positions there too, but for a padding index.
    return limit - limit % _multiple(config) if pad is None else limit


def _multiple(config: Any) -> int:
    """Tokens of which a row is filled up to a multiple inside the model: of a window, block or chunk."""
    if getattr(config, "attention_type", None) == "block_sparse":
        return config.block_size
    window = getattr(config, "attention_window", None)
    windows = window if isinstance(window, (list, tuple)) else [window]
    chunks = [getattr(config, f"{kind}_attn_chunk_length", None) for kind in _layers(config)]
    return lcm(
        max((w for w in windows if isinstance(w, int)), default=1), *(c or 1 for c in chunks)
    )


def _layers(config: Any) -> Sequence[Any]:
    """Kinds of attention, layer by layer, as Reformer's configuration has them."""
    layers = getattr(config, "attn_layers", None)
    return layers if isinstance(layers, (list, tuple)) else ()


def vocabulary_size(model: Any) -> int | None:
    """Token ids that ``model`` has embeddings for; None where it does not say."""
    try:
        table = unwrapped(model).get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return _rows(table)


def _rows(table: Any) -> int | None:
    """Entries of an embedding: PyTorch's, or one of its shape, such as I-BERT's quantized one."""
    if isinstance(table, torch.nn.Embedding):
        return table.num_embeddings
    weight = getattr(table, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2 and hasattr(table, "padding_idx"):
        return len(weight)
    return None


def accepted_arguments(model: Any) -> set[str]:
    """Those of the engine's arguments that ``model`` takes."""
    model = unwrapped(model)
    function = model.forward if hasattr(model, "forward") else model
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    accepted = {"input_ids", "attention_mask", "token_type_ids", "use_cache"} & set(parameters)
    if "input_ids" not in accepted:
        if not takes_any:
            raise ValueError(
                f"{type(model).__name__} takes no input_ids; a model for extractive question "
                "answering is needed"
            )
        accepted = {"input_ids", "attention_mask", "token_type_ids"}
    # Of one segment, there is no second to tell from it.
    if getattr(_config(model), "type_vocab_size", None) in (0, 1):
        accepted.discard("token_type_ids")
    return accepted


def _config(model: Any) -> Any:
    return getattr(unwrapped(model), "config", None)


def takes_mask_as_is(model: Any, device: torch.device, ready: AbstractContextManager[None]) -> bool:
    """Whether ``model`` on ``device`` takes a mask of shape [B, 1, 1, N], as its attention needs it.

    From [B, N] Transformers makes one of [B, 1, N, N], in every batch and with a look at its values,
    which a GPU has to be waited for. Which models take the other shape depends on the release and on
    the attention, so a small batch is tried, within ``ready``: it must give the same, and something else
    without a mask.
    """
    if getattr(getattr(model, "config", None), "model_type", None) not in FULL_ATTENTION:
        return False
    ids = torch.arange(1, 9, dtype=torch.int64, device=device).view(2, 4)
    rows = [True] * 4, [True, True, False, False]
    mask = torch.tensor(rows, dtype=torch.bool, device=device)
    try:
        with torch.inference_mode(), ready:
            plain, none, as_is = (
                model(input_ids=ids, attention_mask=m).start_logits[mask]
                for m in (mask.long(), None, mask[:, None, None])
            )
    except Exception:  # whatever a model may do with an argument it does not expect
        return False
    near = partial(torch.allclose, rtol=1e-3, atol=1e-5)
    return near(plain, as_is) and not near(plain, none)


def float_weights(model: Any) -> list[Tensor]:
    """Those parameters of ``model`` that are of a floating point type."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return [p for p in parameters if p.is_floating_point()]


class EvalMode:
    """Keeps a model without dropout while any thread or engine uses it; then it is as it was."""

    def __init__(self) -> None:
        self._users = 0
        self._before: list[tuple[torch.nn.Module, bool]] = []
        self._lock = Lock()

    @contextmanager
    def of(self, model: Any) -> Iterator[None]:
        """``model`` without dropout, as long as the block lasts."""
        with self._lock:
            if not self._users and isinstance(model, torch.nn.Module):
                modes = [(module, module.training) for module in _parts(model)]
                # Parts of a model have modes of their own: a frozen part, a wrapper's inside.
                if any(training for _, training in modes):
                    self._before = modes
                    model.eval()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    for module, training in self._before:  # from the outside in
                        if module.training != training:
                            module.train(training)
                    self._before = []


def _parts(model: torch.nn.Module) -> list[torch.nn.Module]:
    """``model`` and its parts, from the outside in, each once.

    ``model.modules()`` takes several times as long, as it makes their names: too much for every call.
    """
    found, seen = [model], {model}
    for module in found:  # which grows
        for part in module._modules.values():
            if part is not None and part not in seen:
                seen.add(part)
                found.append(part)
    return found


def eval_mode(model: Any) -> EvalMode:
    """The one of ``model``, which all its engines share."""
    if not isinstance(model, torch.nn.Module):
        return EvalMode()
    return _eval_modes.setdefault(model, EvalMode())


def logits_in(output: Any, shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """Start and end logits from what a model returned for a batch of ``shape``; None if not there."""
    if isinstance(output, Mapping):
        found: Sequence[Any] = [output.get("start_logits"), output.get("end_logits")]
    else:
        found = output[:2] if isinstance(output, (tuple, list)) else []
    logits = [
        torch.from_numpy(x) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for x in found
    ]
    if len(logits) == 2 and all(
        isinstance(x, Tensor) and x.shape == shape and x.is_floating_point() and not x.is_meta
        for x in logits
    ):
        return logits[0], logits[1]
    return None


def unusable_output(output: Any, model: Any, shape: tuple[int, int]) -> str:
    """What is wrong with an ``output`` that holds no logits."""
    items: Any = None
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, (tuple, list)):
        items = enumerate(output)
    got = type(output).__name__
    if items is not None:
        got += " with " + (", ".join(f"{name} ({_kind(x)})" for name, x in items) or "nothing")
    return (
        f"{type(model).__name__} cannot be used: it returned {got}, where start_logits and end_logits "
        f"are needed, each of shape [batch, tokens] = {list(shape)} and of a floating point type; use "
        "a ...ForQuestionAnswering class (XLNet and XLM: ...ForQuestionAnsweringSimple)"
    )


def _kind(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
