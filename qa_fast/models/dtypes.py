"""The types that weights are loaded in and run in."""

from __future__ import annotations

import torch


def to_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating point type by its name in torch."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            "dtype must be 'float32', 'bfloat16', 'float16', a torch dtype, or 'auto' for the "
            f"checkpoint's own; got {dtype!r}"
        )
    return found


def dtype_to_load(dtype: str | torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """The type to load weights in that are to become ``dtype`` on ``device``, as `Engine` has them.

    While Transformers makes a model, its type is torch's default, for all threads of the process: code
    that does not expect that has wrong results. On a CPU weights are therefore loaded as float32, the
    default as it is, which holds all 16-bit numbers; what they become is the same to the bit.
    """
    if device.type != "cpu" or dtype == "auto":
        return "auto"
    wanted = torch.float32 if dtype is None else to_dtype(dtype)
    return "auto" if wanted.itemsize > torch.float32.itemsize else torch.float32
