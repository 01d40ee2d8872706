"""Loading a model while the process does other things: torch's default dtype is one for all threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.bert import modeling_bert

import qa_fast
from qa_fast.models.checkpoints import load_model

from ..helpers.tiny import save_tiny_model, tiny_model, tokenizer_of


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with float16 weights."""
    folder = save_tiny_model(tmp_path_factory.mktemp("half"))
    tiny_model(tokenizer_of("wordpiece")).half().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def usual_default() -> Any:
    yield
    torch.set_default_dtype(torch.float32)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def same(a: Any, b: Any) -> bool:
    a, b = weights(a), weights(b)
    return all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("dtype", [None, "float32", "float16", torch.bfloat16])
def test_a_load_for_a_cpu_leaves_the_default_dtype_to_other_threads(
    half: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to = []
    set_default = torch.set_default_dtype
    monkeypatch.setattr(
        torch, "set_default_dtype", lambda dtype: (set_to.append(dtype), set_default(dtype))
    )
    model = qa_fast.pipeline(half, device="cpu", dtype=dtype).model
    assert set(set_to) <= {torch.float32}
    monkeypatch.undo()
    # float16 runs as float32 on a CPU.
    wanted = dtype if isinstance(dtype, torch.dtype) else torch.float32
    assert same(model, load_model(half, dtype="auto").to(wanted))


@pytest.mark.parametrize(("least_gain", "expected"), [(0.0, torch.bfloat16), (1e9, torch.float32)])
@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float32])
def test_auto_is_bfloat16_on_a_cpu_where_that_is_faster(
    saved: torch.dtype,
    least_gain: float,
    expected: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qa_fast.models.bfloat16.has_bfloat16", lambda: True)
    monkeypatch.setattr("qa_fast.models.bfloat16.LEAST_GAIN", least_gain)
    save_tiny_model(tmp_path)
    model = tiny_model(tokenizer_of("wordpiece")).to(saved)
    model.save_pretrained(tmp_path)
    found = qa_fast.pipeline(tmp_path, device="cpu", dtype="auto").model
    assert {weight.dtype for weight in found.parameters()} == {expected}
    assert same(found, model.to(expected))


def test_float64_weights_keep_all_their_digits(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    double = tiny_model(tokenizer_of("wordpiece")).double()
    for weight in double.parameters():
        weight.data += 1e-12
    double.save_pretrained(tmp_path)
    assert same(double, qa_fast.pipeline(tmp_path, device="cpu", dtype="float64").model)


def disturb(monkeypatch: pytest.MonkeyPatch, dtypes: list[torch.dtype]) -> None:
    """Let another thread's load begin in the middle of the next ones: one of each type."""
    make = modeling_bert.BertEncoder.__init__

    def disturbed(self: Any, *args: Any, **kwargs: Any) -> None:
        if dtypes:
            torch.set_default_dtype(dtypes.pop())
        make(self, *args, **kwargs)

    monkeypatch.setattr(modeling_bert.BertEncoder, "__init__", disturbed)


@pytest.mark.parametrize("dtype", ["auto", torch.float32])
def test_another_load_in_the_middle_of_one_rounds_no_weights(
    half: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = load_model(half, dtype=dtype)
    disturb(monkeypatch, [torch.bfloat16])
    assert same(undisturbed, load_model(half, dtype=dtype))


def test_loads_without_end_in_the_middle_of_one_are_an_error(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, [torch.bfloat16, torch.float16] * 9)
    with pytest.raises(OSError, match="torch's default dtype changed while it was loaded"):
        load_model(half, dtype=torch.float32)


def test_weights_that_are_narrow_on_purpose_are_loaded(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones every time: then it was no other load."""
    disturb(monkeypatch, [torch.bfloat16] * 9)
    model = load_model(half, dtype=torch.float32)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32, torch.bfloat16}
