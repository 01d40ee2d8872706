"""PyTorch's devices: by name, a model's place on one, and what their errors say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .dtypes import to_dtype
from .traits import float_weights


def to_device(device: str | int | torch.device) -> torch.device:
    """A device by its name, or by a GPU's index (-1: the CPU), as in Transformers' pipelines."""
    if isinstance(device, np.integer):
        device = int(device)
    if not isinstance(device, (str, int, torch.device)) or isinstance(device, bool):
        raise ValueError(
            f"device must be a name such as 'cuda:1', a number, or a torch.device; got {device!r}"
        )
    if isinstance(device, int) and device < 0:
        device = "cpu"
    try:
        found = torch.empty(0, dtype=torch.uint8, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from None
    if found.type == "meta":
        raise ValueError(
            f"device {device!r} cannot be used: it has no memory, so nothing can run there"
        )
    return found


def is_device_lost(error: BaseException) -> bool:
    """Whether ``error`` says that a device cannot be used any more by this process."""
    lost = getattr(torch, "AcceleratorError", ())  # new in PyTorch 2.8
    return isinstance(error, lost) or "CUDA error" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device, or the host, has too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "alloc_failed")
    )


def place_model(
    model: Any, device: str | int | torch.device | None, dtype: str | torch.dtype | None
) -> torch.device:
    """Move and convert ``model`` in place, as far as asked and needed; returns its device."""
    if not isinstance(model, torch.nn.Module):
        return torch.device("cpu")
    weights = float_weights(model)
    now = weights[0].device if weights else torch.device("cpu")
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no weights: they are on the device 'meta'; load them first"
        )
    target = now if device is None else to_device(device)
    wanted = None if dtype in (None, "auto") else to_dtype(dtype)
    if target.type == "cpu":
        # float16 is slow and inexact there, and some operations lack it.
        types = {p.dtype for p in weights} if wanted is None else {wanted}
        if dtype is None or torch.float16 in types:
            wanted = torch.float32
    if target != now:
        model.to(target)
    if wanted is not None and any(p.dtype != wanted for p in weights):
        model.to(wanted)
    return target
