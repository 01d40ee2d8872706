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

import numpy.typing as npt
import torch
from torch import Tensor

from qa_fast.models.runtime import Runtime

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
def side_by_side(runtime: Runtime) -> Iterator[Runner]:
    """A function that gives the results of calls of ``runtime``, several at a time where that pays."""
    threads = runtime.side_by_side()
    if threads < 2:
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

    with Threads(threads, "qa-fast-forward", runtime.enter_thread) as executor:
        yield run


@cache
def _one_thread_after_fork() -> None:
    """Let processes that are forked from this one work.

    The threads of OpenMP do not live on in them, and it would wait for these for ever. PyTorch's
    DataLoader does the same in its workers.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
