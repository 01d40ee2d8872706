"""The repeated layers of a model, compiled once for all of them and for batches of any shape.

`torch.compile` of a whole model makes code for each of its layers, which for layers of one kind is the
same over again. Compiled by itself, a layer lends its code to all others. That takes so little time that
code for any shape can be made, which takes longer; so batches need not be filled up to a few shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, update_wrapper
from threading import Lock, get_ident
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from .traits import keeps_state, unwrapped

# Attributes of a module that say nothing about what it computes: parts are compared by themselves.
_IGNORED = {"training", "_modules", "_compiled_call_impl"}
_PLAIN = (bool, int, float, str, set, frozenset, torch.dtype, torch.device)


class Regions:
    """A model that is called with its repeated layers compiled; at other times they are as they were.

    Some models cannot be called so, which their first call shows: then the whole model is compiled.

    Args:
        model: the model.
        stacks: its layers, in each stack all of one kind.

    Attributes:
        turn: to be held in a call; one for all engines of a model.
        whole: the model as compiled as a whole; None where that is not needed, or not yet known.
    """

    def __init__(self, model: Module, stacks: Sequence[Sequence[Module]]) -> None:
        self.turn = _turns.setdefault(stacks[0][0], Lock())
        self._model = model
        self._calls = {
            block: partial(self._call, i, block)
            for i, stack in enumerate(stacks)
            for block in stack
        }
        for block, call in self._calls.items():
            update_wrapper(call, block.forward)  # for those that look at its arguments
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self.whole: Callable[..., Any] | None = None
        self._met = self._unfit = False
        self._thread: int | None = None

    def __call__(self, **arguments: Any) -> Any:
        """What the model returns; it must be somebody's `turn`."""
        if self.whole is not None:
            return self.whole(**arguments)
        # Those that the model's owner compiled or changed stay so.
        calls = [
            (block, call)
            for block, call in self._calls.items()
            if block._compiled_call_impl is None and "forward" not in vars(block)
        ]
        self._thread = get_ident()
        try:
            for block, call in calls:
                # Not _compiled_call_impl, which a call reads twice: another thread may be at it.
                vars(block)["forward"] = call
            output = self._model(**arguments)
        finally:
            for block, _ in calls:
                vars(block).pop("forward", None)
            self._thread = None
        if self._unfit or (calls and not self._met):
            self.whole = torch.compile(self._model, dynamic=False)
        return output

    def _call(self, stack: int, block: Module, *args: Any, **kwargs: Any) -> Any:
        if get_ident() != self._thread:  # the model's use elsewhere, meanwhile
            return type(block).forward(block, *args, **kwargs)
        self._met = True
        # In a cache, as of decoders, each layer has a place of its own.
        self._unfit = self._unfit or not (_is_data(args) and _is_data(kwargs))
        if self._unfit:
            return type(block).forward(block, *args, **kwargs)
        # Batches without padding may come without a mask: then there is code of two kinds.
        given = (*(x is None for x in args), *(n for n, x in kwargs.items() if x is None))
        if (stack, given) not in self._compiled:
            # PyTorch keeps a limited number of versions, and counts them by code objects.
            function = FunctionType(_call_block.__code__.replace(), globals())
            self._compiled[stack, given] = torch.compile(function, dynamic=True)
        return self._compiled[stack, given](block, *args, **kwargs)


# One for all engines of a model, whose blocks only one of them may change at a time.
_turns: WeakKeyDictionary[Module, Lock] = WeakKeyDictionary()


def _call_block(block, *args, **kwargs):  # type: ignore[no-untyped-def]
    return type(block).forward(block, *args, **kwargs)


def _is_data(x: Any) -> bool:
    """Whether ``x`` is tensors and plain values only, and nothing that a layer could write into."""
    if isinstance(x, (tuple, list)):
        return all(map(_is_data, x))
    if isinstance(x, dict):
        return all(map(_is_data, x.values()))
    return x is None or isinstance(x, Tensor) or type(x) in _PLAIN


def regions(model: Any) -> Regions | None:
    """The repeated layers of ``model``; None where it is better compiled as a whole.

    That is where the model is in a wrapper or keeps state between calls; where layers of a stack differ
    in kind, as code is kept for few kinds and shapes; where lists lie side by side, so that a layer is
    spread over them; and where other parts than layers and embeddings have most of the weights.
    """
    if keeps_state(model) or unwrapped(model) is not model:
        return None
    found = [[part for part in parts if isinstance(part, ModuleList)] for parts in _families(model)]
    stacks = [[*stack] for lists in found for stack in lists]
    if not stacks or any(len(lists) > 1 for lists in found) or not all(map(_alike, stacks)):
        return None
    blocks = {part for stack in stacks for block in stack for part in block.modules()}
    others = (
        m for m in model.modules() if m not in blocks and not isinstance(m, torch.nn.Embedding)
    )
    return Regions(model, stacks) if _weights(blocks) > _weights(others) else None


def _families(module: Module) -> Iterator[list[Module]]:
    """Children of ``module`` and of all its parts that are not in lists, by their parents."""
    children = [*module.children()]
    yield children
    for child in children:
        if not isinstance(child, ModuleList):
            yield from _families(child)


def _weights(modules: Iterable[Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters(recurse=False))


def _alike(blocks: list[Module]) -> bool:
    """Whether the code for one of ``blocks`` does for all; a block's own number does not count."""
    parts = [[*block.named_modules()] for block in blocks]
    if not parts or isinstance(blocks[0], (ModuleList, torch.nn.ModuleDict)):
        return False  # these cannot be called
    if any("forward" in vars(block) for block in blocks):
        return False
    if any([(n, type(m)) for n, m in one] != [(n, type(m)) for n, m in parts[0]] for one in parts):
        return False
    for column in zip(*parts, strict=True):
        states = [{n: x for n, x in vars(m).items() if n not in _IGNORED} for _, m in column]
        if any(state.keys() != states[0].keys() for state in states):
            return False
        for name in states[0]:
            values = [state[name] for state in states]
            counted = all(type(x) is int and x == i for i, x in enumerate(values))
            if not counted and not all(_same(values[0], x) for x in values):
                return False
    return True


def _same(a: Any, b: Any) -> bool:
    """Whether code that reads ``a`` does for ``b``; False in doubt."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) in (Tensor, torch.nn.Parameter):
        return _form(a) == _form(b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return [*a] == [*b] and all(map(_same, a.values(), b.values()))
    return type(a) in _PLAIN and a == b


def _form(x: Tensor) -> tuple[Any, ...]:
    strides = x.stride() if x.layout == torch.strided else None
    return x.shape, strides, x.layout, x.dtype, x.device, x.requires_grad
