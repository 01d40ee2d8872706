"""The device layer: where a model runs, and how arrays get there and back.

A GPU works through its queue while Python goes on. Copies therefore start from page-locked host
memory and are not waited for; results are asked for with `Device.fetch` and waited for once, when
they are needed. On a CPU the same calls copy nothing and have nothing to wait for, so all code above
is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

_T = TypeVar("_T")


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

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialized host memory that `upload` copies from without waiting."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._pinned)

    def host(self, array: npt.NDArray[Any]) -> Tensor:
        """The same for a copy of ``array`` (on a CPU: the array itself)."""
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

        def wait() -> list[Tensor]:
            done.synchronize()
            return found

        return wait

    def run(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Results of ``calls``; on a CPU several of them run at a time, on a share of its threads each.

        PyTorch's threads within one call wait for each other after every operation: with a small
        model that takes more time than the operations.
        """
        threads = torch.get_num_threads()
        workers = min(threads, len(calls)) if self.device.type == "cpu" else 1
        if workers < 2:
            return [call() for call in calls]
        with ThreadPoolExecutor(
            workers, "qa-fast-forward", torch.set_num_threads, (threads // workers,)
        ) as executor:
            futures = [executor.submit(call) for call in calls]
            # The number is a thread's own, but each setting is also the default of later threads.
            torch.set_num_threads(threads)
            try:
                return [future.result() for future in futures]
            finally:
                executor.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)

    def free_cache(self) -> None:
        """Give unused memory back to the device, after a shortage."""
        getattr(getattr(torch, self.device.type), "empty_cache", lambda: None)()


def to_device(device: str | int | torch.device) -> torch.device:
    """A device by its name, or by a GPU's index (-1: the CPU), as in Transformers' pipelines."""
    if isinstance(device, int) and device < 0:
        device = "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device, or the host, has too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "alloc_failed")
    )
