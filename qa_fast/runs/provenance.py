"""Where numbers come from: the model, how it ran, and with which versions."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qa_fast import __version__
from qa_fast.engine.engine import Engine
from qa_fast.models.checkpoints import BUNDLED_MODEL


def engine_settings(engine: Engine) -> dict[str, Any]:
    """What about the engine decides the numbers that come out of it."""
    return {
        "model": {"class": type(engine.model).__name__, "sha256": model_hash(engine)},
        "backend": engine.runtime.backend,
        "dtype": engine.runtime.dtype,
        "device": engine.device.type,
        "batch_size": engine.batch_size,
        "max_batch_tokens": engine.max_batch_tokens,
        "threads": engine.threads,
    }


def model_hash(engine: Engine) -> str | None:
    """SHA-256 of the weights as they are used and of the tokenizer; None for a plain callable."""
    digest = hashlib.sha256(engine.tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest() if engine.runtime.fingerprint(digest) else None


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
