"""The device layer: where a model runs, and how arrays get there and back.

A GPU works through its queue while Python goes on. Copies therefore start from page-locked host
memory and are not waited for; results are asked for with `Device.fetch` and waited for once, when
they are needed. On a CPU the same calls copy nothing and have nothing to wait for, so all code above
is the same for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qa_fast.models.dtypes import to_dtype
from qa_fast.models.traits import (
    float_weights,
)

from .threads import Threads

_T = TypeVar("_T")


class Runner(Protocol):
    """Gives the results of calls, in their order; raises the first error among them.

    With ``share`` fewer calls than threads have several threads each. How many a call has changes the
    order of its sums, and so the last bits of what it gives.
    """

    def __call__(  # noqa: D102
        self, calls: Sequence[Callable[[], _T]], /, *, share: bool = True
    ) -> list[_T]: ...


def one_by_one(calls: Sequence[Callable[[], _T]], /, *, share: bool = True) -> list[_T]:  # noqa: ARG001
    """Results of ``calls``, one after the other, each with all threads."""
    return [call() for call in calls]


class Device:
    """A device's memory and its queue.

    Args:
        device: a `torch.device`.

    Attributes:
        device: the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned = device.type == "cuda"
        if device.type == "cpu":
            _one_thread_after_fork()

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialized host memory that `upload` copies from without waiting."""
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=self._pinned)

    def host(self, array: npt.NDArray[Any]) -> Tensor:
        """A copy of ``array`` that `upload` copies from without waiting; on a CPU ``array`` itself."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._pinned else tensor

    def upload(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device; on a CPU itself."""
        return tensor.to(self.device, non_blocking=True)

    def fetch(self, tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Start copying ``tensors`` to the host; the function returned waits for them, and only them."""
        if not self._pinned:
            return lambda: [tensor.cpu() for tensor in tensors]
        found = []
        for tensor in tensors:
            buffer = self.host_buffer(tuple(tensor.shape), tensor.dtype)
            found.append(buffer.copy_(tensor, non_blocking=True))
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))

        def found_at_last() -> list[Tensor]:
            done.synchronize()
            return found

        return found_at_last

    @contextmanager
    def workers(self) -> Iterator[Runner]:
        """A function that gives the results of calls; on a CPU it runs one per thread at a time.

        PyTorch's threads within one call wait for each other after every operation: with a small
        model, or where other programs use the processor too, that takes more time than the operations.
        """
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads < 2:
            yield one_by_one
            return

        def run(calls: Sequence[Callable[[], _T]], /, *, share: bool = True) -> list[_T]:
            if share and len(calls) < threads:
                return one_by_one(calls)
            set_by_caller = torch.get_num_threads()  # may be another between two results
            futures = [executor.submit(call) for call in calls]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
                wait(futures)
                # The number is a thread's own, but each setting is also the default of later threads.
                torch.set_num_threads(set_by_caller)

        with Threads(threads, "qa-fast-forward", torch.set_num_threads, 1) as executor:
            yield run

    def free_cache(self) -> None:
        """Give unused memory back to the device, after a shortage."""
        getattr(getattr(torch, self.device.type), "empty_cache", lambda: None)()


@cache
def _one_thread_after_fork() -> None:
    """Let processes that are forked from this one work.

    The threads of OpenMP do not live on in them, and it would wait for these for ever. PyTorch's
    DataLoader does the same in its workers.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


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
