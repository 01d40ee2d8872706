"""The models that are held against each other: which they are, loaded and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.files.wording import shown

if TYPE_CHECKING:
    from qa_fast.engine.engine import Engine


class Contestant(NamedTuple):
    """A model that is ready to read.

    Attributes:
        name: what runs it and in which type, such as "openvino int8".
        engine: what reads.
        load_seconds: how long it took to load; None where that was done elsewhere.
    """

    name: str
    engine: Engine
    load_seconds: float | None


def load_contestants(
    model: Any, variants: Sequence[Any], loading: Mapping[str, Any], notes: list[str]
) -> list[Contestant]:
    """The baseline and the variants, in this order, each with a name of its own.

    Args:
        model: of the baseline, as in `drift`.
        variants: as in `drift`.
        loading: arguments of `pipeline` with which all models are loaded that are not there yet.
        notes: to be added to.

    Raises:
        OSError: a model that cannot be loaded.
        ValueError: models that cannot be held against each other.
    """
    from qa_fast.engine.loading import ModelSpec

    if not variants:
        raise ArgumentError(
            "there is nothing to hold against the model: say in which variant it should run, by ",
            Argument("backend", spelled='{"backend": "openvino"}'),
            " or ",
            Argument("dtype", spelled='{"dtype": "bfloat16"}'),
        )
    if _is_loaded(model):
        baseline = ModelSpec(model=model)
        if given := [name for name, value in loading.items() if value]:
            raise ValueError(
                f"{', '.join(given)}: give it where the pipeline is made, which is there already"
            )
    elif _is_name(model):
        baseline = ModelSpec(model=model, backend="torch", dtype="float32", **loading)
    else:
        raise ValueError(
            "the model must be a name, a folder, or what pipeline() returned; got a "
            f"{type(model).__name__}"
        )
    specs = [_spec(variant, i, model, loading) for i, variant in enumerate(variants)]
    found: list[Contestant] = []
    for spec in (baseline, *specs):
        found.append(_load(spec, [contestant.name for contestant in found]))
    notes.extend(_notes_on(found, specs))
    return found


def _is_loaded(model: Any) -> bool:
    """Whether it is an engine, or has one."""
    from qa_fast.engine.engine import Engine

    return isinstance(getattr(model, "engine", model), Engine)


def _is_name(model: Any) -> bool:
    return model is None or isinstance(model, (str, Path))


def _spec(variant: Any, number: int, model: Any, loading: Mapping[str, Any]) -> Any:
    """The `ModelSpec` of a variant."""
    from qa_fast.engine.loading import ModelSpec

    if _is_loaded(variant):
        return ModelSpec(model=variant)
    if not isinstance(variant, Mapping):
        raise ValueError(
            "a variant must be a dict of arguments of pipeline(), or what that returned; got "
            f"{shown(variant)}"
        )
    known = [field.name for field in fields(ModelSpec)]
    if unknown := [name for name in variant if name not in known]:
        raise ValueError(
            f"variant {number} has {shown(unknown[0])}; what a variant can have is "
            f"{', '.join(known)}"
        )
    wanted = {"model": model, **loading, **variant}
    if not _is_name(wanted["model"]):
        # Another type would change the weights of the one model that there is.
        raise ValueError(
            f"variant {number} is made of a model that is named, or in a folder; got a "
            f"{type(wanted['model']).__name__}: give what pipeline() returned as the variant"
        )
    return ModelSpec(**wanted)


def _load(spec: Any, taken: Sequence[str]) -> Contestant:
    from qa_fast.engine.loading import load_engine

    clock = perf_counter()
    engine = load_engine(spec)
    seconds = None if _is_loaded(spec.model) else perf_counter() - clock
    name = plain = " ".join(filter(None, (engine.runtime.backend, engine.runtime.dtype)))
    number = 1
    while name in taken:
        number += 1
        name = f"{plain} ({number})"
    return Contestant(name, engine, seconds)


def _notes_on(contestants: Sequence[Contestant], specs: Sequence[Any]) -> list[str]:
    """Which variants are the same as the baseline after all, and which run elsewhere."""
    baseline, *variants = contestants
    runtime = baseline.engine.runtime
    elsewhere = [
        f"{variant.name} runs on {variant.engine.device}, and {baseline.name} on "
        f"{baseline.engine.device}: how fast they are is of these devices, too"
        for variant in variants
        if variant.engine.device != baseline.engine.device
    ]
    return elsewhere + [
        f"{variant.name} is asked for as {spec.dtype}, and computes as the baseline does on "
        f"{variant.engine.device}"
        for variant, spec in zip(variants, specs, strict=True)
        if variant.load_seconds is not None
        and spec.dtype is not None
        and (variant.engine.runtime.backend, variant.engine.runtime.dtype)
        == (runtime.backend, runtime.dtype)
    ]
