"""What a caller's tensors must be, and how integers get to the device of the logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def check_logits(start: Tensor, end: Tensor, row_offset: Tensor | None) -> None:
    """Dense floats of one shape, dtype and device: [C, N], or flat [T] together with ``row_offset``.

    Raises:
        TypeError: no tensors, or a dtype or layout that is not supported.
        ValueError: a shape that does not fit, or one unlike the other.
    """
    for name, logits in (("start_logits", start), ("end_logits", end)):
        if not isinstance(logits, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(logits).__name__}")
        if logits.dtype not in _FLOATS:
            raise TypeError(
                f"{name} must be float16, bfloat16 or float32; got {logits.dtype} "
                "(scores are computed in float32: pass logits.float())"
            )
        if logits.layout != torch.strided:
            raise TypeError(f"{name} must be dense; got {logits.layout}: pass logits.to_dense()")
    if start.shape != end.shape or start.dtype != end.dtype or start.device != end.device:
        raise ValueError(
            "start_logits and end_logits must have the same shape, dtype and device; got "
            f"{list(start.shape)} {start.dtype} on {start.device} and "
            f"{list(end.shape)} {end.dtype} on {end.device}"
        )
    expected = 2 if row_offset is None else 1
    if start.ndim != expected:
        raise ValueError(
            f"logits must be [C, N], or flat [T] together with row_offset; got {list(start.shape)} "
            f"with{'out' if row_offset is None else ''} row_offset"
        )


def check_mask(mask: Tensor, logits: Tensor) -> None:
    """A bool for each of the ``logits``, on their device.

    Raises:
        TypeError: no tensor.
        ValueError: another dtype, shape or device.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"context_mask must be a torch.Tensor; got {type(mask).__name__}")
    if mask.dtype != torch.bool or mask.shape != logits.shape or mask.device != logits.device:
        raise ValueError(
            f"context_mask must be bool and shaped like the logits, {list(logits.shape)}, and on "
            f"their device; got {mask.dtype}, {list(mask.shape)} on {mask.device}"
        )


def integers(
    name: str, value: Tensor, shape: tuple[int, ...] | None, device: torch.device
) -> Tensor:
    """The argument ``name`` as a tensor of int32 or int64, on the host or on ``device``: not moved.

    Args:
        name: for the error.
        value: a tensor, or what NumPy makes an array of integers.
        shape: the shape that it must have; None: any number of integers, [C].
        device: where the logits are.

    Raises:
        TypeError: no integers.
        ValueError: another shape, or a third device.
    """
    if not isinstance(value, Tensor):
        try:
            value = torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{name} must be a tensor of int32 or int64; got {type(value).__name__}"
            ) from None
    if value.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int32 or int64; got {value.dtype}")
    if value.ndim != 1 if shape is None else value.shape != shape:
        expected = "[C]" if shape is None else list(shape)
        raise ValueError(
            f"{name} must have shape {expected}, a row per chunk; got {list(value.shape)}"
        )
    if not value.is_cpu and value.device != device:
        raise ValueError(f"{name} is on {value.device}, the logits are on {device}")
    return value


def moved(
    name: str, value: Tensor, device: torch.device, dtype: torch.dtype = torch.int32
) -> Tensor:
    """``value``, the argument ``name``, as a contiguous tensor of ``dtype`` on ``device``.

    What does not fit becomes the largest or smallest number: it must not wrap around to one that fits.

    Raises:
        ValueError: it would have to be copied into a CUDA graph.
    """
    if value.dtype is not dtype:
        if dtype is torch.int32:
            value = value.clamp(INT32_MIN, INT32_MAX)
        value = value.to(dtype)
    if value.device != device:
        if is_capturing(device):
            raise ValueError(
                f"{name} is on {value.device}, which a CUDA graph cannot copy from: its replays would "
                f"read memory that is gone. Pass {name} on the logits' device, {device}"
            )
        # Without waiting: CUDA has read pageable memory when the call returns, and PyTorch gives
        # page-locked memory to nobody else before it has been read.
        value = value.to(device, non_blocking=True)
    return value.contiguous()


def is_capturing(device: torch.device) -> bool:
    """Whether what ``device`` is given to do goes into a CUDA graph."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()
