"""Where bfloat16 is chosen: on processors that have it, for models that are faster, and near, in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qa_fast.models import bfloat16
from qa_fast.models.bfloat16 import bfloat16_pays, has_bfloat16

from ..helpers.tiny import tiny_model, tokenizer_of

BATCH = {
    "input_ids": torch.arange(5, 21, dtype=torch.int64).view(2, 8),
    "attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3]),
    "token_type_ids": torch.zeros(2, 8, dtype=torch.int64),
}


def test_processors_say_whether_they_have_it() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("this system does not list its processor's instructions")
    words = cpuinfo.read_text(encoding="utf-8").split()
    assert has_bfloat16() == any(name in words for name in ("avx512_bf16", "amx_bf16", "bf16"))


def model_of() -> Any:
    return tiny_model(tokenizer_of("wordpiece")).eval()


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As on a processor that has it, with any gain enough."""
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: True)
    monkeypatch.setattr(bfloat16, "LEAST_GAIN", 0.0)
    return monkeypatch


def test_models_that_stay_near_may_be_faster(native: pytest.MonkeyPatch) -> None:
    model = model_of()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert bfloat16_pays(model, [BATCH])
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    native.setattr(bfloat16, "LEAST_GAIN", float("inf"))
    assert not bfloat16_pays(model, [BATCH])


@pytest.mark.usefixtures("native")
def test_models_that_drift_stay_in_float32() -> None:
    model = model_of()
    with torch.no_grad():  # what sets tokens apart is lost beside a large number
        model.qa_outputs.bias += 300
    assert not bfloat16_pays(model, [BATCH])


@pytest.mark.usefixtures("native")
def test_models_that_cannot_run_in_it_stay_in_float32() -> None:
    class Single(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model_of()

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            output = self.model(input_ids, attention_mask, token_type_ids)
            if output.start_logits.dtype != torch.float32:
                raise NotImplementedError("only float32")
            return output

    assert not bfloat16_pays(Single().eval(), [BATCH])


def test_without_instructions_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: False)
    assert not bfloat16_pays(None, [BATCH])
