"""Whether a model is better computed in bfloat16 on this CPU: faster, with answers that stay near."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .runtime import Arguments
from .sharing import difference
from .torch_runtime import TorchRuntime

# Processors compute in bfloat16 by these instructions. Without them PyTorch converts each number, and is
# slower than in float32.
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}
_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)
# What a probe has to show: its times differ by some percent from run to run.
LEAST_GAIN = 1.2
# Logits may differ by so many parts of their range. Those of the bundled model do by 0.004 to 0.008.
FARTHEST = 0.05
_ROUNDS = 3


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 by instructions of its own, as far as that is known."""
    # New in PyTorch 2.11.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(capabilities.get(name) for name in _INSTRUCTIONS):
        return True
    try:
        flags = _FLAGS.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False
    return flags is not None and not _INSTRUCTIONS.isdisjoint(flags[1].split())


def bfloat16_pays(model: Any, batches: Iterable[Arguments]) -> bool:
    """Whether ``model`` in bfloat16 is faster, and near to what it is in float32.

    Args:
        model: a torch module on the CPU, in float32, which stays as it is.
        batches: what to try it with, masks included: real texts, as others say little about how far it
            drifts. Not taken where the processor has no bfloat16.
    """
    if not has_bfloat16():
        return False
    batches = list(batches)
    full = TorchRuntime(model)
    try:
        narrow = TorchRuntime(deepcopy(model), dtype=torch.bfloat16)
        for batch in batches:
            exact, found = _logits(full, batch), _logits(narrow, batch)
            for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
                if difference(exact[row, :length], found[row, :length]) > FARTHEST:
                    return False
        # In turns, so that what else the machine does is the same for both.
        times = [[_seconds(runtime, batches) for runtime in (full, narrow)] for _ in range(_ROUNDS)]
    except Exception:  # it has operations that bfloat16 lacks, or no room for a copy
        return False
    in_float32, in_bfloat16 = map(min, zip(*times, strict=True))
    return in_float32 >= LEAST_GAIN * in_bfloat16


@torch.inference_mode()
def _logits(runtime: TorchRuntime, batch: Arguments) -> Tensor:
    """[rows, width, 2]."""
    with runtime.ready():
        return torch.stack(runtime(batch), dim=-1).float()


def _seconds(runtime: TorchRuntime, batches: Sequence[Arguments]) -> float:
    begin = perf_counter()
    for batch in batches:
        _logits(runtime, batch)
    return perf_counter() - begin
