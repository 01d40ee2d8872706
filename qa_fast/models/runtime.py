"""What runs a model: the protocol that PyTorch, OpenVINO and ONNX Runtime keep alike.

The engine plans batches, splits them when memory runs out and finds out whose fault an error is. It
does all of this through a `Runtime`, and knows of no other kind of model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .sharing import Sharing

Arguments = dict[str, Tensor]
"""What a model is called with: int64 token ids, mask and token types, [rows, width] each, by name."""

CPU_BATCH_TOKENS = (2048, 4096)
"""Least and most tokens in a batch on a CPU; see `cpu_batch_tokens`."""


def cpu_batch_tokens(config: Any) -> int:
    """Most tokens in a batch on a CPU, for a model of that configuration.

    A batch's activations should stay in the cache: about 2^20 of them per layer, within limits.
    """
    least, most = CPU_BATCH_TOKENS
    width = getattr(config, "hidden_size", None)
    return min(max(least, (1 << 20) // width), most) if isinstance(width, int) else least


class UnusableOutput(ValueError):
    """A model returns something else than logits: no batch of it can be used."""


@runtime_checkable
class Runtime(Protocol):
    """A model that is ready to run: named integer arrays in, start and end logits out.

    A row is a chunk of tokens, filled up with padding on the right to the width of its batch. Batches
    may have any number of rows and any width up to ``position_limit``, unless ``few_shapes``.

    Attributes:
        backend: what runs it: "torch", "openvino" or "onnx".
        config: its configuration as Transformers has them; None where it has none.
        dtype: the type that it computes in, by its name; None where that is not known.
        device: where its arguments have to lie, and where it leaves logits.
        position_limit: most tokens in a row; None for no limit.
        vocabulary_size: ids below that are known; None where that is not known.
        batch_tokens: most tokens in a batch, unless the caller says otherwise.
        width_step: tokens of which a row's width should be a multiple.
        few_shapes: whether each single shape of a batch costs, so that there should be few of them.
        reentrant: whether several threads may call it at a time.
        sharing: which rows may share a batch.
        note: what its user should know; None for nothing.
    """

    backend: str
    config: Any
    device: torch.device
    position_limit: int | None
    vocabulary_size: int | None
    batch_tokens: int
    width_step: int
    reentrant: bool
    sharing: Sharing
    note: str | None

    @property
    def dtype(self) -> str | None: ...  # noqa: D102

    @property
    def few_shapes(self) -> bool: ...  # noqa: D102

    def arguments(self, tokenizer: Any) -> set[str]:
        """The names of what it takes, of those that ``tokenizer`` means it to have."""
        ...

    def ready(self) -> AbstractContextManager[None]:
        """A state in which it can be called, as long as the block lasts; not for one thread only."""
        ...

    def __call__(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """Start and end logits, [rows, width] each, of a floating point type, on its device.

        Raises:
            UnusableOutput: the model returns something else.
            Exception: whatever the model raises; `is_out_of_memory` tells which of them a smaller
                batch may cure, `is_device_lost` those that nothing cures.
        """
        ...

    def try_out(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """As a call, for a batch of a shape that may never come again."""
        ...

    def side_by_side(self) -> int:
        """Calls at a time that are faster than one after the other; 1 where there are none."""
        ...

    def enter_thread(self) -> None:
        """To be called first in a thread that makes calls side by side with others."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether ``error``, of a call, says that the batch does not fit into memory."""
        ...

    def is_device_lost(self, error: BaseException) -> bool:
        """Whether ``error`` says that this process cannot use the device any more."""
        ...

    def free_memory(self) -> None:
        """Give unused memory back, after a shortage."""
        ...

    def fingerprint(self, digest: Any) -> bool:
        """Update ``digest``, of hashlib, with the weights as they are used; False without any."""
        ...
