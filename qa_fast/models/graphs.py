"""Models as graphs, which other runtimes than PyTorch run: what these have in common.

A graph says what it is called with and what it returns, but not how long a row it can read, which ids it
knows, or whether it reads padding. That is asked of its architecture: of the Transformers model that its
configuration describes, made without weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .runtime import Arguments, UnusableOutput, cpu_batch_tokens
from .sharing import Sharing, masks_padding
from .torch_settings import as_by_default
from .traits import is_block_sparse, position_limit, vocabulary_size

ARGUMENTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a graph may be called with."""

OUTPUTS = ("start_logits", "end_logits")

PRECISION = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "int8": 2.0**-7}
"""The types that graphs compute in, and the distance from 1 to the next number of each."""

Array = npt.NDArray[Any]


class Architecture(NamedTuple):
    """What a model can take, whoever runs it.

    Attributes:
        position_limit: most tokens in a row; None for no limit.
        vocabulary_size: ids below that are known; None where that is not known.
        equal_lengths: only rows of one length may share a batch.
        masks_padding: padding is known to change nothing.
    """

    position_limit: int | None = None
    vocabulary_size: int | None = None
    equal_lengths: bool = False
    masks_padding: bool = False


def architecture(model: Any) -> Architecture:
    """That of a torch module, which may be without weights."""
    return Architecture(
        position_limit(model), vocabulary_size(model), is_block_sparse(model), masks_padding(model)
    )


def architecture_of(config: Any) -> Architecture:
    """That of the Transformers model that ``config`` describes; nothing is known where there is none."""
    from transformers import AutoModelForQuestionAnswering

    config = deepcopy(config)
    if config is None:
        return Architecture()
    try:
        # Another type would become torch's default meanwhile, for all threads.
        # The attribute was renamed in Transformers 4.56.
        setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", torch.float32)
        with torch.inference_mode(False), as_by_default("cpu"), torch.device("meta"):
            return architecture(AutoModelForQuestionAnswering.from_config(config))
    except Exception:  # whatever a configuration from elsewhere may lead to
        return Architecture()


class GraphModel(ABC):
    """A graph that is ready to run on the host's memory; see `Runtime`.

    Args:
        inputs: the names of what it is called with.
        config: its configuration as Transformers has them, or None.
        dtype: the type that it computes in, a key of `PRECISION`.
        known: its architecture; None: asked of ``config``.

    Attributes:
        config: as given.
        dtype: as given.

    Raises:
        ValueError: it is called with something else than token ids, a mask and token types.
    """

    backend: str
    device = torch.device("cpu")
    width_step = 1
    few_shapes = False
    reentrant = True

    def __init__(
        self, inputs: set[str], config: Any, dtype: str, known: Architecture | None = None
    ) -> None:
        unknown = sorted(inputs.difference(ARGUMENTS))
        if unknown or "input_ids" not in inputs:
            raise ValueError(
                f"the graph takes {', '.join(sorted(inputs)) or 'nothing'}, where input_ids are needed, "
                "and attention_mask and token_type_ids are all else that it is given"
            )
        known = architecture_of(config) if known is None else known
        self.config = config
        self.dtype: str | None = dtype
        self.position_limit = known.position_limit
        self.vocabulary_size = known.vocabulary_size
        self.batch_tokens = cpu_batch_tokens(config)
        self.sharing = Sharing(
            type(self).__name__,
            equal_lengths=known.equal_lengths,
            masks_padding=known.masks_padding,
            precision=PRECISION[dtype],
        )
        self.note: str | None = None
        self._inputs = inputs

    def arguments(self, tokenizer: Any) -> set[str]:
        """See `Runtime.arguments`."""
        found = set(self._inputs)
        if "token_type_ids" not in tokenizer.model_input_names:
            found.discard("token_type_ids")
        return found

    def ready(self) -> AbstractContextManager[None]:
        """See `Runtime.ready`."""
        return nullcontext()

    def __call__(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """See `Runtime.__call__`."""
        ids = arguments["input_ids"].numpy()
        # What the tokenizer does not make is of one kind.
        arrays = {
            name: arguments[name].numpy() if name in arguments else np.zeros_like(ids)
            for name in self._inputs
        }
        start, end = (torch.from_numpy(array) for array in self._run(arrays))
        for name, logits in zip(OUTPUTS, (start, end), strict=True):
            if logits.shape != ids.shape or not logits.is_floating_point():
                raise UnusableOutput(
                    f"the graph cannot be used: its {name} are of shape {list(logits.shape)} and type "
                    f"{str(logits.dtype).removeprefix('torch.')}, where [batch, tokens] = "
                    f"{list(ids.shape)} and a floating point type are needed"
                )
        return start, end

    def try_out(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """See `Runtime.try_out`."""
        return self(arguments)

    @abstractmethod
    def _run(self, arrays: dict[str, Array]) -> tuple[Array, Array]:
        """Start and end logits, arrays that nothing else holds; ``arrays`` stay as they are."""

    @abstractmethod
    def side_by_side(self) -> int:
        """See `Runtime.side_by_side`."""

    @abstractmethod
    def enter_thread(self) -> None:
        """See `Runtime.enter_thread`."""

    @abstractmethod
    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Runtime.is_out_of_memory`."""

    def is_device_lost(self, error: BaseException) -> bool:  # noqa: ARG002
        """See `Runtime.is_device_lost`."""
        return False

    @abstractmethod
    def free_memory(self) -> None:
        """See `Runtime.free_memory`."""

    @abstractmethod
    def fingerprint(self, digest: Any) -> bool:
        """See `Runtime.fingerprint`."""
