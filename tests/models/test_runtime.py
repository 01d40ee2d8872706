"""What runs a model: one protocol, whoever keeps it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from qa_fast.engine import Engine, ModelError
from qa_fast.engine.graphs import backend_of
from qa_fast.engine.loading import ModelSpec
from qa_fast.models.checkpoints import BUNDLED_MODEL
from qa_fast.models.graphs import Architecture, GraphModel, architecture, architecture_of
from qa_fast.models.runtime import Runtime
from qa_fast.models.torch_runtime import TorchRuntime

from ..helpers.engines import OPTIONS, answers_of, examples, same
from ..helpers.tiny import tiny_model, tokenizer_of
from ..helpers.zoo import ZOO, family_model


class Arrays(GraphModel):
    """A graph that NumPy arrays go in and out of; PyTorch computes it."""

    backend = "onnx"

    def __init__(self, model: Any, inputs: set[str], **others: Any) -> None:
        super().__init__(inputs, model.config, "float32", **others)
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def _run(self, arrays: dict[str, Any]) -> tuple[Any, Any]:
        self.shapes.append(arrays["input_ids"].shape)
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(a) for name, a in arrays.items()})
        return output.start_logits.numpy(), output.end_logits.numpy()

    def side_by_side(self) -> int:
        return 2

    def enter_thread(self) -> None:
        torch.set_num_threads(1)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def free_memory(self) -> None:
        pass

    def fingerprint(self, digest: Any) -> bool:  # noqa: ARG002
        return False


ALL = {"input_ids", "attention_mask", "token_type_ids"}


def test_runtimes_keep_the_protocol() -> None:
    model = tiny_model(tokenizer_of("wordpiece"))
    for runtime in (TorchRuntime(model), Arrays(model, ALL)):
        assert isinstance(runtime, Runtime)
    assert not isinstance(model, Runtime)


def test_a_graph_answers_as_the_model_that_it_is_of() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer).eval()
    graph = Arrays(model, ALL)
    engine = Engine(graph, tokenizer)
    assert (engine.model, engine.device.type, engine.runtime.dtype) == (graph, "cpu", "float32")
    assert engine.position_limit == TorchRuntime(model).position_limit
    same(
        answers_of(engine, examples(), OPTIONS),
        answers_of(Engine(model, tokenizer), examples(), OPTIONS),
    )


def test_what_a_graph_takes_and_the_tokenizer_does_not_make_is_zero() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer).eval()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    same(answers_of(Engine(Arrays(model, ALL), tokenizer), examples(), OPTIONS), expected)


@pytest.mark.parametrize("inputs", [set(), {"attention_mask"}, {*ALL, "position_ids"}])
def test_a_graph_with_other_arguments_is_refused(inputs: set[str]) -> None:
    with pytest.raises(ValueError, match="where input_ids are needed"):
        Arrays(tiny_model(tokenizer_of("wordpiece")), inputs)


def test_a_graph_that_gives_something_else_than_logits_is_refused() -> None:
    class Other(Arrays):
        def _run(self, arrays: dict[str, Any]) -> tuple[Any, Any]:
            start, end = super()._run(arrays)
            return start, end[:, :1]

    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(Other(tiny_model(tokenizer), ALL), tokenizer)
    with pytest.raises(
        ValueError, match=r"its end_logits are of shape \[.*where \[batch, tokens\]"
    ):
        answers_of(engine, examples(), OPTIONS)


def test_a_graph_that_has_no_memory_gets_smaller_batches() -> None:
    class Small(Arrays):
        def _run(self, arrays: dict[str, Any]) -> tuple[Any, Any]:
            if len(arrays["input_ids"]) > 1:
                raise MemoryError
            return super()._run(arrays)

    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer).eval()
    expected = answers_of(Engine(model, tokenizer), examples(), OPTIONS)
    with pytest.warns(RuntimeWarning, match="does not fit into the memory of cpu"):
        same(answers_of(Engine(Small(model, ALL), tokenizer), examples(), OPTIONS), expected)


def test_a_graph_that_fails_names_the_questions() -> None:
    class Broken(Arrays):
        def _run(self, arrays: dict[str, Any]) -> tuple[Any, Any]:
            raise RuntimeError(f"no operation for {sorted(arrays)[0]}")

    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(ModelError, match=r"Broken raised RuntimeError: no operation .*question"):
        answers_of(Engine(Broken(tiny_model(tokenizer), ALL), tokenizer), examples(), OPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "meta"}, "device 'meta' cannot be used"),
        ({"dtype": "bfloat16"}, "the Arrays computes in float32; got dtype='bfloat16'"),
        ({"compile": True}, "compile is for PyTorch's models; got a Arrays"),
    ],
)
def test_a_graph_runs_as_it_was_made(given: dict[str, Any], message: str) -> None:
    tokenizer = tokenizer_of("wordpiece")
    graph = Arrays(tiny_model(tokenizer), ALL)
    Engine(graph, tokenizer, device="cpu", dtype="float32")
    with pytest.raises(ValueError, match=message):
        Engine(graph, tokenizer, **given)


# --- architectures ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ZOO)
def test_a_configuration_tells_what_its_model_takes(family: str) -> None:
    model = family_model(family)
    assert architecture_of(model.config) == architecture(model)


def test_of_configurations_that_describe_no_model_nothing_is_known() -> None:
    config = AutoConfig.from_pretrained(BUNDLED_MODEL)
    config.num_attention_heads = 7  # of 384
    for odd in (None, object(), config):
        assert architecture_of(odd) == Architecture()


def test_making_an_architecture_changes_no_configuration() -> None:
    config = AutoConfig.from_pretrained(BUNDLED_MODEL)
    before = config.to_dict()
    default = torch.get_default_dtype()
    assert architecture_of(config).position_limit == 512
    assert config.to_dict() == before
    assert torch.get_default_dtype() == default


# --- which backend ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "torch"),
        (["model.safetensors", "model.onnx"], "torch"),
        (["pytorch_model.bin", "openvino_model.xml"], "torch"),
        (["model.onnx"], "onnx"),
        (["onnx/model_quantized.onnx"], "onnx"),
        (["openvino_model.xml"], "openvino"),
        (["openvino/openvino_model_int8.xml"], "openvino"),
        (["model.onnx", "openvino_model.xml"], "torch"),
    ],
)
def test_what_a_folder_holds_says_what_runs_it(
    files: list[str], expected: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert backend_of(tmp_path) == backend_of(str(tmp_path)) == expected


def test_models_in_memory_and_names_on_the_hub_are_pytorchs() -> None:
    model = tiny_model(tokenizer_of("wordpiece"))
    assert backend_of("somebody/some-model") == backend_of(model) == "torch"
    assert backend_of(Arrays(model, ALL)) == "onnx"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"backend": "tensorrt"},
            "backend must be one of 'torch', 'openvino', 'onnx'; got 'tensorrt'",
        ),
        (
            {"backend": "openvino", "dtype": "int4"},
            "dtype must be one of 'float32', .*; got 'int4'",
        ),
        (
            {"backend": "onnx", "compile": True},
            "compile is for PyTorch's models; got backend='onnx'",
        ),
        ({"dtype": "int8"}, "dtype must be 'float32', .*; got 'int8'"),
        ({"calibrate": [("Who?", "Ada.")]}, "calibrate is for .*dtype='int8'"),
        ({"backend": "openvino", "device": "cuda"}, "device 'cuda' cannot be used|runs on the CPU"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec(**given).load()


def test_fingerprints_tell_weights_apart() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)

    def fingerprint() -> str:
        digest = hashlib.sha256()
        assert TorchRuntime(model).fingerprint(digest)
        return digest.hexdigest()

    before = fingerprint()
    assert fingerprint() == before
    with torch.no_grad():
        model.qa_outputs.bias[0] += 1
    assert fingerprint() != before
    assert not TorchRuntime(lambda input_ids: input_ids).fingerprint(hashlib.sha256())
