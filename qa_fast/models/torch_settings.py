"""What a thread may have set for itself in PyTorch, and how to do without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def as_by_default(device_type: str) -> Iterator[None]:
    """Without autocast on devices of ``device_type``, and without a default device.

    Other threads do not take these over from the caller's, and answers must not depend on the thread.
    """
    with ExitStack() as stack:
        if torch.is_autocast_enabled(device_type):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
