"""Folders with graphs: the same logits as the module's, and whole or not there."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_fast.engine import Engine
from qa_fast.files.writing import locked

from ..helpers.engines import OPTIONS, answers_of, examples, same
from ..helpers.tiny import BUNDLED, tiny_model, tokenizer_of
from ..helpers.zoo import family_model, family_tokenizer

pytest.importorskip("onnx", reason="graphs are written with ONNX")
pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the graphs")

from qa_fast.models.conversion import export as module
from qa_fast.models.conversion import to_onnx
from qa_fast.models.conversion.export import export
from qa_fast.models.onnx_runtime import OnnxModel

from ..helpers.graphs import export_tiny, rows

# One of each kind of attention, positions and segments; the others are their kin.
FAMILIES = ["bert", "roberta", "albert", "modernbert", "deberta_v2"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are tried with no rows as long as usual, which take long."""
    monkeypatch.setattr(module, "_LONGEST", 180)


# --- the same logits ----------------------------------------------------------------------------


@pytest.mark.usefixtures("short_rows")
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    model, tokenizer = family_model(family), family_tokenizer(family)
    found = export(model, tokenizer, tmp_path / "graph", to="onnx", rows=rows(tokenizer, 60, 6))
    assert found.difference < 1e-4


@pytest.mark.usefixtures("short_rows")
def test_the_bundled_model_answers_the_same(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    model = AutoModelForQuestionAnswering.from_pretrained(BUNDLED, dtype="auto")
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()
    folder = tmp_path / "graph"
    found = export(model, tokenizer, folder, to="onnx", rows=rows(tokenizer, 120, 3))
    assert found.difference < 1e-4
    assert names(folder) == ["config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"]
    assert found.sizes == {name: (folder / name).stat().st_size for name in names(folder)}
    # It is as it was.
    assert model.training
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float16"}
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert model.config._attn_implementation != "eager"
    pairs = examples()[:6]
    expected = answers_of(Engine(model, tokenizer), pairs, OPTIONS)
    again = AutoTokenizer.from_pretrained(folder)
    same(answers_of(Engine(OnnxModel.open(folder), again), pairs, OPTIONS), expected)


def test_int8_has_scales_that_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="NNCF quantizes")
    found = export_tiny(tmp_path / "graph", dtype="int8")
    assert names(tmp_path / "graph") == [
        "config.json",
        "model_int8.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert 1e-4 < found.difference < 0.5
    assert found.remark.startswith("Not quantized, but float32: 2 of 9 matrix products;")
    model = OnnxModel.open(found.folder)
    assert (model.dtype, model.graph.dynamic) == ("int8", False)
    runs = Engine(model, tokenizer_of("wordpiece"))
    together = answers_of(runs, examples(), OPTIONS)
    assert not model.sharing.equal_lengths
    same(together, [answers_of(runs, [pair], OPTIONS)[0] for pair in examples()])


def test_weights_that_are_too_large_for_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "MOST_BYTES", 1000)
    folder = export_tiny(tmp_path / "graph").folder
    assert "model.onnx_data" in names(folder)
    assert (folder / "model.onnx_data").stat().st_size > (folder / "model.onnx").stat().st_size
    model = OnnxModel.open(folder)
    assert model.graph.data == (folder / "model.onnx_data",)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_openvino(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO runs the graphs")
    from qa_fast.models.openvino_runtime import OpenVINOModel

    found = export_tiny(tmp_path / "graph", to="openvino", dtype=dtype)
    assert {"config.json", "openvino_model.xml", "openvino_model.bin"} < set(names(found.folder))
    assert (found.difference < 1e-4) == (dtype == "float32") == (found.remark == "")
    model = OpenVINOModel.open(found.folder)
    assert model.dtype == dtype
    if dtype == "float32":
        tokenizer = tokenizer_of("wordpiece")
        pairs = examples()[:4]
        expected = answers_of(Engine(tiny_model(tokenizer), tokenizer), pairs, OPTIONS)
        same(answers_of(Engine(model, tokenizer), pairs, OPTIONS), expected)


# --- what cannot be exported --------------------------------------------------------------------


class Branch(torch.nn.Module):
    """A model that does something else with long rows: a branch that no trace of a short one holds."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        output = self.model(input_ids, attention_mask, token_type_ids)
        if input_ids.shape[1] > 80:
            output.start_logits = output.start_logits * 2
        return output


def sparse() -> Any:
    return family_model("big_bird_sparse"), family_tokenizer("big_bird_sparse")


REFUSED = {
    "branch": (
        lambda: (Branch(tiny_model(tokenizer_of("wordpiece"))), tokenizer_of("wordpiece")),
        "the graph gives other logits than the model for a batch of [1, ",
    ),
    "sparse": (sparse, "BigBirdForQuestionAnswering cannot be exported: what attends to what"),
    "operator": (
        lambda: (family_model("fnet"), family_tokenizer("fnet")),
        "FNetForQuestionAnswering cannot be exported to ONNX (",
    ),
    "weightless": (
        lambda: (family_model("bert").to("meta"), family_tokenizer("bert")),
        "BertForQuestionAnswering cannot be exported: its weights are not loaded",
    ),
    "callable": (lambda: (print, tokenizer_of("wordpiece")), "a model of Transformers is needed"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_leaves_nothing(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, message = REFUSED[kind]
    model, tokenizer = make()
    with pytest.raises(ValueError, match=r"cannot be exported|other logits|is needed") as told:
        export(model, tokenizer, tmp_path / "graph", to="onnx", rows=rows(tokenizer, 60, 6))
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    assert names(tmp_path) == []
    assert "graph(" not in capfd.readouterr().out


@pytest.mark.parametrize(("name", "value"), [("to", "tensorrt"), ("dtype", "float16")])
def test_no_such_kind(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of .*; got '{value}'"):
        export_tiny(tmp_path / "graph", **{name: value})


# --- folders ------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [500, 50_000])
def test_no_room(size: int, tmp_path: Path) -> None:
    """Too little for a configuration, and for the graph."""
    with file_size_limit(size), pytest.raises(OSError, match="File too large") as told:
        export_tiny(tmp_path / "graph")
    assert str(tmp_path / "graph") in str(told.value)
    assert names(tmp_path) == []


def test_a_folder_that_is_in_use_stays_as_it_is(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    file.write_text("mine")
    for place in (folder, file):
        with pytest.raises(ValueError, match=r"name a new folder, or remove it first"):
            export_tiny(place)
    assert names(tmp_path) == ["file", "folder"]
    assert names(folder) == ["notes.txt"]


def test_an_empty_folder_and_what_a_killed_process_left(tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    left = tmp_path / ".graph.unfinished" / "traced"
    left.mkdir(parents=True)
    (left / "model.onnx").touch()
    export_tiny(folder)
    assert names(tmp_path) == ["graph"]
    assert "model.onnx" in names(folder)


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **more: Any) -> None:
        trace(*arguments, **more)
        raise KeyboardInterrupt

    trace = to_onnx.trace
    monkeypatch.setattr(to_onnx, "trace", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_tiny(tmp_path / "graph")
    assert names(tmp_path) == []


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path, "graph"),
        pytest.raises(ValueError, match="another process is writing"),
    ):
        export_tiny(tmp_path / "graph")
    assert names(tmp_path) == []


def test_without_rows_nothing_can_be_compared(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(ValueError, match="rows of text are needed"):
        export(tiny_model(tokenizer), tokenizer, tmp_path / "graph", to="onnx", rows=[])


def test_batches_are_short_and_long_padded_and_not() -> None:
    tokenizer = tokenizer_of("wordpiece")
    runtime = module.TorchRuntime(tiny_model(tokenizer))
    tensors = [{name: torch.from_numpy(row[name]) for name in row} for row in rows(tokenizer)]
    batches = module._batches(tensors, runtime)
    shapes = [tuple(batch["input_ids"].shape) for batch in batches]
    assert (1, 512) in shapes
    assert min(width for _, width in shapes) < 40
    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    assert len({count for count, _ in shapes}) > 2
    for batch in batches:
        assert {tensor.shape for tensor in batch.values()} == {batch["input_ids"].shape}
        # Each row begins and ends as the tokenizer has it.
        last = batch["attention_mask"].sum(1) - 1
        assert set(batch["input_ids"].gather(1, last[:, None])[:, 0].tolist()) == {
            tokenizer.convert_tokens_to_ids("[SEP]")
        }
