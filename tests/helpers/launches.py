"""GPUs that are not there: Triton launches on them, and nothing is carried out.

All of Triton's own Python runs for a launch: arguments are bound and specialized, kernels looked up;
what would be compiled, and what would be given to a device, is written down instead. Tensors lie in the
CPU's memory and say that they are on a GPU. So results are whatever was in that memory.

Triton's interpreter takes the place of all that where TRITON_INTERPRET is set while Triton and the
kernels are imported; it must not be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from qa_fast.kernels import launch, merge_topk, span_topk
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction


class Launch(NamedTuple):
    """What a kernel was started with, and the types, constants and alignments that it is for."""

    kernel: str
    compiled_for: str
    grid: tuple[int, int, int]
    device: int
    stream: int
    arguments: dict[str, Any]


class Gpus(TorchFunctionMode):
    """Two GPUs of compute capability 9.0, where PyTorch and Triton look for them; see `gpus`.

    In a ``with`` block of the object, and in its thread, tensors can be on them. What is computed from
    those is, too.

    Attributes:
        launches: what was launched.
        compiled: the kernels that had to be compiled for that.
        waits: operations that waited for a GPU, by name.
        copies: operations that copied from the host to a GPU, by name.
        switches: how often another device became the current one.
        capturing: whether a CUDA graph is being captured.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.compiled: list[str] = []
        self.waits: list[str] = []
        self.copies: list[str] = []
        self.switches = 0
        self.capturing = False
        self._current = 0

    # ---- tensors --------------------------------------------------------------------------------------

    def __torch_function__(
        self, function: Any, _: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """An operation in the CPU's memory, whose results say that they are where the inputs are."""
        if function is torch.device:
            return function(*arguments, **(named or {}))
        given, _structure = tree_flatten((arguments, named or {}))
        tensors = [x for x in given if isinstance(x, Tensor)]
        name = getattr(function, "__name__", "")
        at = {_index(x) for x in tensors if x.ndim or _index(x) is not None}
        here = max((i for i in at if i is not None), default=None)
        if name == "__get__":
            about = {Tensor.device: _device(here), Tensor.is_cuda: here is not None,
                     Tensor.is_cpu: here is None}  # fmt: skip
            for attribute, value in about.items():
                if function == attribute.__get__:
                    return value
        if function is Tensor.get_device:
            return -1 if here is None else here
        wanted = [torch.device(x) for x in given if _names_device(x)]
        there = here
        if wanted:
            there = wanted[0].index or 0 if wanted[0].type == "cuda" else None
            arguments, named = (
                tuple(torch.device("cpu") if _names_device(x) else x for x in arguments),
                {
                    k: torch.device("cpu") if _names_device(x) else x
                    for k, x in (named or {}).items()
                },
            )
        elif name in ("cpu", "tolist", "item", "numpy"):
            there = None
        if here is not None and (there is None or name in WAITS):
            self.waits.append(name)
        if there is not None and ((here is None and tensors) or function is torch.tensor):
            self.copies.append(name)
        if len(at) > 1 and name != "copy_":
            raise RuntimeError(f"{name} of tensors on different devices: {at}")
        result = function(*arguments, **(named or {}))

        def placed(x: Tensor) -> Tensor:
            if any(x is y for y in tensors):
                if _index(x) == there:
                    return x
                x = x.clone()
            x.gpu = there
            return x

        return tree_map_only(Tensor, placed, result)

    # ---- Triton's driver ------------------------------------------------------------------------------

    def get_current_device(self) -> int:
        return self._current

    def get_current_stream(self, device: int) -> int:
        return stream(device)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def forget(self) -> None:
        """No kernel is known to have been compiled any more."""
        launch._compiled.clear()

    # ---- what the compiler would do, and PyTorch's own driver -----------------------------------------

    def compile(self, source: Any, **_: Any) -> CompiledKernel:
        source.hash()  # which finds the globals that each launch looks at
        self.compiled.append(source.fn.__name__)
        return Kernel(source, self)

    def exchange(self, device: int) -> int:
        if device < 0:
            return self._current
        self.switches += device != self._current
        self._current, before = device, self._current
        return before


# What a GPU's queue has to be waited for, because a shape or a value is read back.
WAITS = {
    "nonzero",
    "bincount",
    "__int__",
    "__bool__",
    "__float__",
    "__index__",
    "unique",
    "masked_select",
}


class Kernel(CompiledKernel):
    """One that was not compiled."""

    def __init__(self, source: Any, gpus: Gpus) -> None:
        self.src, self.name, self._gpus = source, source.fn.__name__, gpus
        self.module, self.function, self.packed_metadata = 0, None, None
        self._module_pid = None
        self._run = self._start

    def _start(self, x: int, y: int, z: int, stream: int, *rest: Any) -> None:
        arguments = dict(zip(self.src.fn.arg_names, rest[5:], strict=True))
        device = self._gpus.get_current_device()
        source = self.src
        compiled_for = f"{self.name} {source.signature} {source.constants} {source.attrs}"
        self._gpus.launches.append(
            Launch(self.name, compiled_for, (x, y, z), device, stream, arguments)
        )


def _index(x: Tensor) -> int | None:
    return getattr(x, "gpu", None)


def _device(index: int | None) -> torch.device:
    return torch.device("cpu") if index is None else torch.device("cuda", index)


def _names_device(x: Any) -> bool:
    return isinstance(x, torch.device) or (
        isinstance(x, str) and x.partition(":")[0] in ("cpu", "cuda")
    )


def stream(device: int) -> int:
    """The handle of a device's current stream."""
    return 1000 + device


@contextmanager
def gpus() -> Iterator[Gpus]:
    """PyTorch and Triton find two GPUs, on which no kernel is compiled yet."""
    found = Gpus()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(launch._compiled, clear=True))
        for module in (span_topk, merge_topk):
            for kernel in vars(module).values():
                if isinstance(kernel, JITFunction):
                    fresh = defaultdict(kernel.create_binder)
                    stack.enter_context(mock.patch.object(kernel, "device_caches", fresh))
        for owner, name, value in (
            (triton.compiler, "compile", found.compile),
            (triton.runtime.driver, "_active", found),
            (torch.cuda, "current_device", found.get_current_device),
            (torch.cuda, "_exchange_device", found.exchange),
            (torch.cuda, "_maybe_exchange_device", found.exchange),
            (torch.cuda, "is_current_stream_capturing", lambda: found.capturing),
            (
                torch.cuda,
                "get_device_properties",
                lambda _: SimpleNamespace(multi_processor_count=132),
            ),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield found
