"""Start a kernel without Triton's look at each of its arguments, which takes longer than the rest.

``kernel[grid](...)`` finds out on every call what each argument is compiled for: 10 microseconds for the
kernels here. Their launchers know what differs, so a compiled kernel is kept under a key of just that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

_compiled: dict[tuple[Hashable, ...], Any] = {}


def launch(
    kernel: Any,
    programs: int,
    key: tuple[Hashable, ...],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
) -> None:
    """``kernel[(programs,)](*arguments, **options)`` on the current device and stream.

    Args:
        kernel: a Triton kernel.
        programs: how many of it.
        key: all that decides what is compiled: the device, types and alignment of pointers, which of
            them are None, integers that take 64 bits, constants, options.
        arguments: all of the kernel's, constants included, in its order.
        options: for the compiler.
    """
    key = (kernel, *key)
    compiled = _compiled.get(key)
    if compiled is not None:
        compiled[(programs, 1, 1)](*arguments)
        return
    compiled = kernel[(programs,)](*arguments, **options)
    # Triton's interpreter returns None.
    if compiled is not None:
        _compiled[key] = compiled
