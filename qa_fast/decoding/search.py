"""The arguments of `decode_spans`, checked."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from qa_fast.decoding import triton_backend

Scoring = Literal["probability", "shared", "logit"]
_SCORINGS = get_args(Scoring)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
# A max_answer_len that no chunk reaches; much more does not fit into a kernel's int32.
_NO_LIMIT = 1 << 30


def _as_tensors(
    logits: Tensor, context: Tensor | None, null_position: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Contexts [C, 2], the whole rows for None, and null positions [C]; nothing is copied to a GPU."""
    if context is None:
        ends = torch.arange(2, dtype=torch.int32, device=logits.device) * logits.shape[1]
        context = ends.expand(logits.shape[0], 2)
    if isinstance(null_position, int):
        size = (len(context),)
        null_position = torch.full(size, null_position, dtype=torch.int32, device=logits.device)
    return context, null_position


def _flatten(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """[C, N] logits as flat ones with row offsets, which is what the backends take."""
    if row_offset is None:
        chunk = torch.arange(context.shape[0], dtype=torch.int64, device=context.device)
        row_offset = chunk * start_logits.shape[1]
    mask = None if context_mask is None else context_mask.reshape(-1)
    return start_logits.reshape(-1), end_logits.reshape(-1), row_offset, context, mask


def _check_scalars(
    top_k: int,
    max_answer_len: int | None,
    scoring: str,
    num_questions: int | None,
    max_seq_len: int | None,
    distinct: bool,
    null_in_spans: bool,
) -> None:
    if top_k is None:
        raise ValueError("top_k must be an integer of at least 1; got None")
    _check_count("top_k", top_k, 1, _INT32_MAX)
    _check_count("max_answer_len", max_answer_len, 1)
    _check_count("num_questions", num_questions, 0, _INT32_MAX)
    _check_count("max_seq_len", max_seq_len, 0, _INT32_MAX)
    for name, flag in (("distinct", distinct), ("null_in_spans", null_in_spans)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False; got {flag!r}")
    if scoring not in _SCORINGS:
        raise ValueError(
            f"scoring must be one of {', '.join(map(repr, _SCORINGS))}; got {scoring!r}"
        )


def _check_count(name: str, value: int | None, least: int, most: int | None = None) -> None:
    if value is None:
        return
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}; got {value}")


def _check_logits(start: Tensor, end: Tensor, row_offset: Tensor | None) -> None:
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


def _check_mask(mask: Tensor, logits: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"context_mask must be a torch.Tensor; got {type(mask).__name__}")
    if mask.dtype != torch.bool or mask.shape != logits.shape or mask.device != logits.device:
        raise ValueError(
            f"context_mask must be bool and shaped like the logits, {list(logits.shape)}, and on "
            f"their device; got {mask.dtype}, {list(mask.shape)} on {mask.device}"
        )


def _integers(
    name: str, value: Tensor, shape: tuple[int, ...] | None, device: torch.device
) -> Tensor:
    """``value`` where it is, or an error that names it."""
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


def _moved(
    name: str, value: Tensor, device: torch.device, dtype: torch.dtype = torch.int32
) -> Tensor:
    """``value`` as a contiguous tensor of ``dtype`` on ``device``.

    What does not fit becomes the largest or smallest number: it must not wrap around to one that fits.
    """
    if value.dtype is not dtype:
        if dtype is torch.int32:
            value = value.clamp(_INT32_MIN, _INT32_MAX)
        value = value.to(dtype)
    if value.device != device:
        if _is_capturing(device):
            raise ValueError(
                f"{name} is on {value.device}, which a CUDA graph cannot copy from: its replays would "
                f"read memory that is gone. Pass {name} on the logits' device, {device}"
            )
        # Without waiting: CUDA has read pageable memory when the call returns, and PyTorch gives
        # page-locked memory to nobody else before it has been read.
        value = value.to(device, non_blocking=True)
    return value.contiguous()


def _is_capturing(device: torch.device) -> bool:
    """Whether what ``device`` is given to do goes into a CUDA graph."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _reach(
    logits: Tensor,
    null_position: int | Tensor,
    context: Tensor | None,
    chunks: int,
    question_id: Tensor | None,
    num_questions: int | None,
    max_seq_len: int | None,
) -> tuple[int, int]:
    """Most tokens in a row and most chunks in a question, for the grids of a GPU's kernels."""
    if logits.is_cpu or not chunks:
        return 0, 0
    if context is None or logits.ndim == 2:
        longest = logits.shape[1]
    elif max_seq_len is not None and (
        max_seq_len <= triton_backend.ONE_TILE
        or not context.is_cpu
        or not _is_on_host(null_position)
    ):
        longest = max_seq_len
    else:
        if max_seq_len is None and _is_capturing(logits.device):
            raise ValueError("max_seq_len must be given with flat logits in a CUDA graph")
        null = null_position if isinstance(null_position, int) else int(null_position.max())
        longest = max(int(context[:, 1].max()), null + 1)
        if max_seq_len is not None:  # so many tiles as there are, but one kernel more at most
            if longest <= triton_backend.ONE_TILE:
                longest = triton_backend.ONE_TILE
            elif max_seq_len > triton_backend.LARGEST_TILE:
                longest = min(max_seq_len, max(longest, triton_backend.LARGEST_TILE + 1))
            else:
                longest = max_seq_len
    if question_id is None:
        most_chunks = 1
    elif num_questions is None or question_id.is_cpu:
        most_chunks = int(torch.bincount(question_id).max())
    else:
        most_chunks = len(question_id)
    return longest, most_chunks


def _is_on_host(value: int | Tensor) -> bool:
    return isinstance(value, int) or value.is_cpu


def _check_question_id(question_id: Tensor, chunks: int, num_questions: int | None) -> int:
    """Q, after a look at the ids where that costs no synchronization (or one is needed anyway)."""
    if num_questions is not None and (torch.compiler.is_compiling() or not question_id.is_cpu):
        return num_questions
    if num_questions is None and torch.compiler.is_compiling():
        raise ValueError(
            "num_questions must be given with question_id under torch.compile: the number of questions "
            "is part of the results' shape, which cannot depend on values there"
        )
    if chunks == 0:
        return num_questions or 0
    if not question_id.is_cpu and _is_capturing(question_id.device):
        raise ValueError("num_questions must be given with question_id in a CUDA graph")
    falls = (question_id[1:] < question_id[:-1]).nonzero()
    if len(falls):
        at = int(falls[0]) + 1
        raise ValueError(
            "question_id must not decrease: the chunks of a question follow each other; got "
            f"{int(question_id[at])} after {int(question_id[at - 1])} at chunk {at}"
        )
    first, last = int(question_id[0]), int(question_id[-1])
    if first < 0 or last >= (_INT32_MAX if num_questions is None else num_questions):
        raise ValueError(
            f"question_id must be from 0 to num_questions - 1; got {first} to {last} "
            f"with num_questions {num_questions}"
        )
    return last + 1 if num_questions is None else num_questions
