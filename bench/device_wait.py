"""What share of a run a GPU waits for the host.

CUDA events are recorded around everything that the engine gives the device to do: uploads, the model's
batches, decoding, and fetching what was found. An event gets its time when the device comes to it. While
work is queued, one piece follows the other and the gaps between them are short; where the host comes
late, the device has nothing to do until it does. So the gaps, from the run's beginning to its end, are
the time that the device waited.

Events cost the host a few microseconds per batch. Within a batch nobody looks: where PyTorch launches
kernels more slowly than the device runs them, as with a tiny model, the device is idle for some of the
time that counts as work here. ``device_busy`` in ``gpu.py`` adds up the kernels themselves, and tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch

from qa_fast.engine import Engine, windows


def waited_share(work: Iterable[tuple[float, float]], total: float) -> float:
    """The share of the time from 0 to ``total`` in which there was no work.

    Args:
        work: when each piece began and ended; in any order, and they may overlap.
        total: when all was over; more than 0.
    """
    busy = done = 0.0
    for begin, end in sorted(work):
        busy += max(0.0, end - max(begin, done))
        done = max(done, end)
    return 1 - busy / total


class DeviceWait:
    """Records when an engine's GPU has work.

    Args:
        engine: the engine.

    Attributes:
        shares: of each run so far, the share of it in which the device waited.
    """

    def __init__(self, engine: Engine) -> None:
        self.shares: list[float] = []
        self._engine = engine
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def run(self) -> Iterator[None]:
        """The run is what is done within; elsewhere than on a GPU nothing is recorded."""
        if self._engine.device.type != "cuda":
            yield
            return
        forward = self._engine._forward
        self._events.clear()
        with ExitStack() as stack:
            for owner, name in (
                (forward.device, "upload"),
                (forward, "_try"),  # a batch: the model, and copies around it
                (windows, "decode_spans"),
                (forward.device, "fetch"),
            ):
                call = partial(self._recorded, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, call))
            first = self._event()
            yield
            last = self._event()
        last.synchronize()
        work = [(first.elapsed_time(begin), first.elapsed_time(end)) for begin, end in self._events]
        self.shares.append(waited_share(work, first.elapsed_time(last)))

    def _recorded(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begin = self._event()
        result = call(*arguments, **options)
        self._events.append((begin, self._event()))
        return result

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._engine.device))
        return event
