"""PyTorch as what runs a model: its modules, and a user's own callables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .devices import is_device_lost, is_out_of_memory, place_model
from .regions import regions
from .runtime import Arguments, UnusableOutput, cpu_batch_tokens
from .sharing import Sharing, masks_padding
from .torch_settings import as_by_default
from .traits import (
    accepted_arguments,
    check_model,
    eval_mode,
    float_weights,
    is_block_sparse,
    is_dynamic_int8,
    keeps_state,
    logits_in,
    position_limit,
    refuse_random,
    takes_mask_as_is,
    unusable_output,
    unwrapped,
    vocabulary_size,
)

# A GPU is kept busy by few large calls: with BERT-Large on an H200 5% more than by half as many tokens.
BATCH_TOKENS = 65536
# Elsewhere than on a CPU rows are filled up to a multiple of that: for a batch of a new shape cuDNN's
# attention, for one, needs 10 ms to get ready.
WIDTH_STEP = 16


class TorchRuntime:
    """A torch module, or a callable that gives tensors or arrays; see `Runtime`.

    Args:
        model: see `Engine`, as the other arguments. A module is moved and converted in place.
        device: where to run.
        dtype: the weights' type.
        compile: compile its repeated layers; or the model as a whole, for batches of few fixed shapes.

    Attributes:
        model: as given.
        compiled: whether it is.

    Raises:
        ValueError: the model, its device or its type cannot be used.
    """

    backend = "torch"

    def __init__(
        self,
        model: Any,
        *,
        device: str | int | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        check_model(model)
        self.position_limit = position_limit(model)
        self.vocabulary_size = vocabulary_size(model)
        self.model = model
        self.config = getattr(unwrapped(model), "config", None)
        self.device = place_model(model, device, dtype)
        on_cpu = self.device.type == "cpu"
        self.batch_tokens = cpu_batch_tokens(self.config) if on_cpu else BATCH_TOKENS
        self.width_step = 1 if on_cpu else WIDTH_STEP
        self.compiled = compile
        layers = regions(model) if compile else None
        # Trials call the model itself: their shapes are not worth compiling.
        whole = torch.compile(model, dynamic=False) if compile and layers is None else model
        self._call = whole if layers is None else layers
        refuse_random(model)
        self._accepted = accepted_arguments(model)
        self._sparse = is_block_sparse(model)
        self.reentrant = not compile and not keeps_state(model)
        self._turn: AbstractContextManager[Any] = nullcontext() if self.reentrant else Lock()
        if layers is not None:
            self._turn = layers.turn
        self._layers = layers
        self.sharing = Sharing(
            type(model).__name__,
            equal_lengths=self._sparse,
            masks_padding=masks_padding(model),
            precision=max((torch.finfo(p.dtype).eps for p in float_weights(model)), default=0.0),
        )
        self.note = _of_dynamic_int8(model) if is_dynamic_int8(model) else None
        self._eval = eval_mode(model)
        self._mask_as_is = takes_mask_as_is(model, self.device, self.ready())

    @property
    def dtype(self) -> str | None:
        """The type of its weights, of the first one where they differ."""
        kinds = (str(p.dtype).removeprefix("torch.") for p in float_weights(self.model))
        return next(kinds, None)

    @property
    def few_shapes(self) -> bool:
        """Whether there is code for every single shape of batch."""
        return self.compiled and (self._layers is None or self._layers.whole is not None)

    def arguments(self, tokenizer: Any) -> set[str]:
        """See `Runtime.arguments`."""
        found = self._accepted - {"use_cache"}
        if "token_type_ids" not in tokenizer.model_input_names:
            found.discard("token_type_ids")
        return found

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The model without dropout, none of the caller's modes in its way, and no other's calls."""
        with self._turn, self._eval.of(self.model), as_by_default(self.device.type):
            if self._sparse and isinstance(self.model, torch.nn.Module):
                # It leaves block-sparse attention for good at the first short row: here, for the
                # window's last ones, since the longest come first.
                modules: Any = self.model.modules()
                next(m for m in modules if hasattr(m, "set_attention_type")).set_attention_type(
                    "block_sparse"
                )
            yield

    def __call__(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """See `Runtime.__call__`."""
        return self._logits(self._call, arguments)

    def try_out(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """See `Runtime.try_out`."""
        return self._logits(self.model, arguments)

    def _logits(self, call: Any, given: Arguments) -> tuple[Tensor, Tensor]:
        # Copies: a model that writes into them must find them whole when a batch is tried again.
        arguments: dict[str, Any] = {name: tensor.clone() for name, tensor in given.items()}
        if self._mask_as_is:
            arguments["attention_mask"] = given["attention_mask"].bool()[:, None, None]
        if "use_cache" in self._accepted:
            arguments["use_cache"] = False
        rows, width = given["input_ids"].shape
        output = call(**arguments)
        logits = logits_in(output, (rows, width))
        if logits is None:
            raise UnusableOutput(unusable_output(output, self.model, (rows, width)))
        return logits

    def side_by_side(self) -> int:
        """One call per thread of a CPU.

        PyTorch's threads within one call wait for each other after every operation: with a small
        model, or where other programs use the processor too, that takes more time than the operations.
        """
        return torch.get_num_threads() if self.device.type == "cpu" and self.reentrant else 1

    def enter_thread(self) -> None:
        """See `Runtime.enter_thread`."""
        torch.set_num_threads(1)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Runtime.is_out_of_memory`."""
        return is_out_of_memory(error)

    def is_device_lost(self, error: BaseException) -> bool:
        """See `Runtime.is_device_lost`."""
        return is_device_lost(error)

    def free_memory(self) -> None:
        """See `Runtime.free_memory`."""
        getattr(getattr(torch, self.device.type), "empty_cache", lambda: None)()

    def fingerprint(self, digest: Any) -> bool:
        """See `Runtime.fingerprint`."""
        if not isinstance(self.model, torch.nn.Module):
            return False
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return True


def _of_dynamic_int8(model: Any) -> str:
    return (
        f"{type(model).__name__} is quantized dynamically by PyTorch: how its numbers are rounded hangs "
        "on all rows of a batch, so rows of different texts are read one by one, and its answers differ "
        "far more from float32's than 8 bits need; backend='openvino' with dtype='int8', of the model "
        "as it was, is nearer and faster"
    )
