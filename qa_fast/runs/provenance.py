"""Where numbers come from: the model, how it ran, and with which versions."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from qa_fast import __version__
from qa_fast.engine.engine import Engine
from qa_fast.models.checkpoints import BUNDLED_MODEL


def engine_settings(engine: Engine) -> dict[str, Any]:
    """What about the engine decides the numbers that come out of it."""
    return {
        "model": {"class": type(engine.model).__name__, "sha256": model_hash(engine)},
        "dtype": _dtype(engine.model),
        "device": engine.device.type,
        "batch_size": engine.batch_size,
        "max_batch_tokens": engine.max_batch_tokens,
        "threads": engine.threads,
    }


def _dtype(model: Any) -> str | None:
    if not isinstance(model, torch.nn.Module):
        return None
    return next((str(p.dtype) for p in model.parameters() if p.is_floating_point()), None)


def model_hash(engine: Engine) -> str | None:
    """SHA-256 of the weights as they are used and of the tokenizer; None for a plain callable."""
    if not isinstance(engine.model, torch.nn.Module):
        return None
    digest = hashlib.sha256(engine.tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(engine.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def model_name(model: Any, engine: Engine) -> str:
    """What to call the model that was asked for as ``model``."""
    if model is None:
        return BUNDLED_MODEL.name
    if isinstance(model, (str, Path)):
        return str(model)
    return str(getattr(getattr(engine.model, "config", None), "_name_or_path", ""))


def prediction_versions() -> dict[str, str]:
    """Of what can change the answers or the bytes that hold them."""
    libraries = ("torch", "transformers", "tokenizers", "pyarrow")
    return {"qa_fast": __version__, **{name: version(name) for name in libraries}}
