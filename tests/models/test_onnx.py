"""ONNX Runtime: which graph of a folder runs, where, and that it answers as the module does."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qa_fast.engine import Engine, Options
from qa_fast.models.checkpoints import CheckpointError
from qa_fast.models.runtime import Runtime

from ..helpers.engines import OPTIONS, answers_of, examples, same
from ..helpers.tiny import tiny_model, tokenizer_of

onnx = pytest.importorskip("onnx", reason="graphs are read with ONNX")
pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the graphs")

from qa_fast.models.conversion.to_onnx import trace  # noqa: E402
from qa_fast.models.onnx_files import find_graph, read_graph  # noqa: E402
from qa_fast.models.onnx_runtime import OnnxModel  # noqa: E402

from ..helpers.graphs import export_tiny, rows  # noqa: E402

TOKENIZER = "wordpiece"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("graphs") / "tiny").folder


@pytest.fixture(scope="module")
def dynamic(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same graph with dynamic quantization: its scales are those of a whole batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = tmp_path_factory.mktemp("dynamic")
    plain, path = folder / "plain.onnx", folder / "model_quantized.onnx"
    row = rows(tokenizer_of(TOKENIZER))[0]
    example = {name: torch.from_numpy(row[name]) for name in row}
    trace(tiny_model(tokenizer_of(TOKENIZER)), example, plain)
    quantize_dynamic(plain, path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    plain.unlink()
    shutil.copy(exported / "config.json", folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A folder with a sound graph, to be spoiled."""
    return Path(shutil.copytree(exported, tmp_path / "graph"))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def engine(model: Any, **arguments: Any) -> Engine:
    return Engine(model, tokenizer_of(TOKENIZER), **arguments)


# --- the same answers ---------------------------------------------------------------------------


@pytest.mark.usefixtures("two_threads")
def test_a_graph_answers_as_its_module(exported: Path) -> None:
    model = OnnxModel.open(exported)
    assert isinstance(model, Runtime)
    assert (model.backend, model.dtype, model.position_limit) == ("onnx", "float32", 512)
    expected = answers_of(engine(tiny_model(tokenizer_of(TOKENIZER))), examples(), OPTIONS)
    same(answers_of(engine(model, max_batch_tokens=512), examples(), OPTIONS), expected)
    assert 1 in model._sessions
    same(answers_of(engine(model), examples()[:1], OPTIONS), expected[:1])
    # Side by side, and alone.
    assert sorted(model._sessions) == [1, 2]


@pytest.mark.parametrize("kind", ["exported", "dynamic"])
def test_what_else_is_asked_changes_no_answer(kind: str, request: pytest.FixtureRequest) -> None:
    found = engine(OnnxModel.open(request.getfixturevalue(kind)))
    together = answers_of(found, examples(), OPTIONS)
    alone = [answers_of(found, [pair], OPTIONS)[0] for pair in examples()]
    same(together, alone)


def test_rows_of_a_dynamic_graph_change_each_other_so_none_shares_a_batch(dynamic: Path) -> None:
    model = OnnxModel.open(dynamic)
    assert (model.dtype, model.graph.dynamic) == ("int8", True)
    ids = torch.arange(5, 65).view(2, 30)
    both, alone = (
        model({"input_ids": x, "attention_mask": torch.ones_like(x)})[0][0] for x in (ids, ids[:1])
    )
    assert not torch.equal(both, alone)
    shapes = []
    run = model._run
    model._run = lambda arrays: (shapes.append(arrays["input_ids"].shape), run(arrays))[1]
    answers_of(engine(model), [("Who?", "It was Ada. " * 9)] * 5, OPTIONS)
    assert {count for count, _ in shapes} == {1}


def test_many_threads_ask_one_engine(exported: Path) -> None:
    found = engine(OnnxModel.open(exported))
    pairs = examples()[:6]
    expected = answers_of(found, pairs, OPTIONS)
    results: list[Any] = [None] * 4

    def ask(place: int) -> None:
        results[place] = answers_of(found, pairs, OPTIONS)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        same(result, expected)


def test_integers_of_32_bits_and_outputs_without_names(folder: Path) -> None:
    path = folder / "model.onnx"
    graph = onnx.load(path)
    for value in graph.graph.input:
        # What was int64 inside stays so.
        old, value.name = value.name, value.name
        value.type.tensor_type.elem_type = onnx.TensorProto.INT32
        wide = f"{old}_wide"
        for node in graph.graph.node:
            node.input[:] = [wide if name == old else name for name in node.input]
        cast = onnx.helper.make_node("Cast", [old], [wide], to=onnx.TensorProto.INT64)
        graph.graph.node.insert(0, cast)
    for value, name in zip(graph.graph.output, ("a", "b"), strict=True):
        for node in graph.graph.node:
            node.output[:] = [name if x == value.name else x for x in node.output]
        value.name = name
    expected = answers_of(engine(OnnxModel.open(folder)), examples()[:4], OPTIONS)
    onnx.save(graph, path)
    same(answers_of(engine(OnnxModel.open(folder)), examples()[:4], OPTIONS), expected)


# --- which graph --------------------------------------------------------------------------------

NAMES = [
    (["model.onnx", "model_O3.onnx", "model_int8.onnx"], None, "model.onnx"),
    (["onnx/model.onnx", "onnx/model_fp16.onnx"], "float32", "onnx/model.onnx"),
    (["onnx/model.onnx", "onnx/model_fp16.onnx"], "float16", "onnx/model_fp16.onnx"),
    (["model.onnx", "onnx/model.onnx"], None, "model.onnx"),
    (["model_quantized.onnx"], None, "model_quantized.onnx"),
    (["model.onnx", "model_qint8_avx512_vnni.onnx"], "int8", "model_qint8_avx512_vnni.onnx"),
    (["model.onnx", "model_uint8.onnx", "model_int8.onnx"], "int8", "model_int8.onnx"),
    (["model.onnx", "model_O4.onnx"], "float16", "model_O4.onnx"),
]
NONE_OF_THEM = [
    ([], None, "there is no file whose name ends in .onnx in it"),
    (["model_O1.onnx", "model_O2.onnx"], None, "which one is not said (model_O1.onnx, model_O2.onnx)"),
    (["model.onnx", "model_q4.onnx"], "int8", "none of its graphs is int8 by its name; there are mode"),
    (["model.onnx", "model_bnb4.onnx"], "float16", "none of its graphs is float16"),
    (["model_uint8.onnx", "onnx/model_quantized.onnx"], "int8", "several are int8 (model_uint8.onnx, o"),
]  # fmt: skip


def touch(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


@pytest.mark.parametrize(("names", "dtype", "chosen"), NAMES)
def test_the_file_is_chosen_by_its_name(
    names: list[str], dtype: str | None, chosen: str, tmp_path: Path
) -> None:
    touch(tmp_path, names)
    assert find_graph(tmp_path, dtype) == (tmp_path / chosen, None)


@pytest.mark.parametrize(("names", "dtype", "message"), NONE_OF_THEM)
def test_no_file_or_several_is_an_error_that_names_them(
    names: list[str], dtype: str | None, message: str, tmp_path: Path
) -> None:
    touch(tmp_path, names)
    with pytest.raises(CheckpointError) as told:
        find_graph(tmp_path, dtype)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_a_name_that_says_another_type_than_the_graph_is_told(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "model_int8.onnx")
    with pytest.raises(CheckpointError, match="it computes in float32, where int8 was asked for"):
        OnnxModel.open(folder, "int8")
    assert OnnxModel.open(folder).dtype == "float32"
    assert OnnxModel.open(folder / "model_int8.onnx").position_limit == 512


@pytest.mark.parametrize("dtype", ["bfloat16", "int4", "double"])
def test_a_type_that_is_none(exported: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match="must be one of 'float32', 'float16', 'int8', or None"):
        OnnxModel.open(exported, dtype)


# --- graphs that cannot be used -----------------------------------------------------------------


def outside(location: str) -> Callable[[Any, Path], None]:
    def spoil(graph: Any, path: Path) -> None:
        onnx.save(graph, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        shutil.copy(path.parent / "w.bin", path.parent.parent / "w.bin")
        (path.parent / "link.bin").symlink_to("../w.bin")
        graph = onnx.load(path, load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location.replace("HERE", str(path.parent.parent))
        path.write_bytes(graph.SerializeToString())

    return spoil


def shape(*sizes: Any) -> Callable[[Any, Path], None]:
    def spoil(graph: Any, path: Path) -> None:
        for value in graph.graph.input:
            for size, dimension in zip(sizes, value.type.tensor_type.shape.dim, strict=True):
                dimension.dim_value = size
        onnx.save(graph, path)

    return spoil


def another_input(graph: Any, path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.INT64, ["a", "b"])
    graph.graph.input.append(value)
    onnx.save(graph, path)


def one_output(graph: Any, path: Path) -> None:
    del graph.graph.output[1:]
    onnx.save(graph, path)


def unknown_operator(graph: Any, path: Path) -> None:
    graph.graph.node[-1].domain = "of.somebody"
    onnx.save(graph, path)


BAD = {
    "above": (outside("../w.bin"), "which leads out of its folder"),
    "absolute": (outside("HERE/w.bin"), "which leads out of its folder"),
    "link": (outside("link.bin"), "'link.bin', which leads out of its folder"),
    "missing": (outside("no.bin"), "should be in 'no.bin', and there is no such file"),
    "cut": (lambda _, path: path.write_bytes(path.read_bytes()[:-99]), "its file is broken"),
    "empty": (lambda _, path: path.write_bytes(b""), "its file holds no graph"),
    "noise": (lambda _, path: path.write_bytes(b"noise" * 99), "its file is broken"),
    "fixed": (shape(1, 384), "of shape [1, 384] only, where any number of rows and of tokens"),
    "input": (another_input, "takes attention_mask, input_ids, pixel_values, token_type_ids"),
    "output": (one_output, "where start_logits and end_logits are needed"),
    "operator": (unknown_operator, "ONNX Runtime cannot use it"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_graph_that_cannot_be_used_is_told_in_a_line(kind: str, folder: Path) -> None:
    spoil, message = BAD[kind]
    path = folder / "model.onnx"
    spoil(onnx.load(path), path)
    with pytest.raises(CheckpointError) as told:
        OnnxModel.open(folder)
    assert message in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_weights_in_a_file_beside_the_graph(folder: Path) -> None:
    path = folder / "model.onnx"
    expected = answers_of(engine(OnnxModel.open(folder)), examples()[:3], OPTIONS)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = OnnxModel.open(folder)
    assert model.graph.data == (folder / "w.bin",)
    same(answers_of(engine(model), examples()[:3], OPTIONS), expected)

    def digest() -> str:
        found = hashlib.sha256()
        assert OnnxModel.open(folder).fingerprint(found)
        return found.hexdigest()

    before = digest()
    assert digest() == before
    data = bytearray((folder / "w.bin").read_bytes())
    data[-2] ^= 1
    (folder / "w.bin").write_bytes(data)
    assert digest() != before
    with pytest.raises(CheckpointError, match="has changed since it was first read"):
        pickle.loads(pickle.dumps(model))


def test_a_config_that_cannot_be_read(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the config\.json of its folder cannot be read"):
        OnnxModel.open(folder)


def test_without_a_config_nothing_is_known_of_padding(folder: Path) -> None:
    (folder / "config.json").unlink()
    model = OnnxModel.open(folder)
    assert (model.config, model.position_limit, model.vocabulary_size) == (None, None, None)
    pairs = examples()[:5]
    expected = answers_of(engine(tiny_model(tokenizer_of(TOKENIZER))), pairs, OPTIONS)
    same(answers_of(engine(model), pairs, OPTIONS), expected)


@pytest.mark.parametrize("name", ["no/such/folder", "nothing.onnx", "config.json"])
def test_no_such_place(name: str, exported: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file or folder|neither a folder nor a"):
        OnnxModel.open(exported / name)


# --- where it runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:1", 0, "openvino"])
def test_a_provider_that_is_not_installed_is_named(device: Any, exported: Path) -> None:
    import onnxruntime

    kind = "OpenVINO" if device == "openvino" else "CUDA"
    if f"{kind}ExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip(f"this build has the provider for {kind}")
    package = "onnxruntime-openvino" if device == "openvino" else "onnxruntime-gpu"
    with pytest.raises(ValueError, match=f"{kind}ExecutionProvider.*CPU.*pip install {package}"):
        OnnxModel.open(exported, device=device)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in there:
        pytest.skip("this build has the provider for CUDA")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [*there, "CUDAExecutionProvider"]
    )
    with pytest.raises(ValueError, match="could not start the CUDAExecutionProvider"):
        OnnxModel.open(exported, device="cuda")


@pytest.mark.parametrize("device", ["mps", "cpu:1", "cuda:x", "tpu"])
def test_a_device_that_is_none(device: str, exported: Path) -> None:
    with pytest.raises(ValueError, match="device of an ONNX model must be 'cpu', 'cuda'"):
        OnnxModel.open(exported, device=device)


@pytest.mark.parametrize("device", [None, "cpu", -1, torch.device("cpu")])
def test_the_cpu_by_any_name(device: Any, exported: Path) -> None:
    assert OnnxModel.open(exported, device=device).device == torch.device("cpu")


def test_another_number_of_threads_needs_no_third_session(exported: Path) -> None:
    before = torch.get_num_threads()
    try:
        model = OnnxModel.open(exported)
        ids = {"input_ids": torch.full((1, 8), 7)}
        for threads in (2, 3, 1):
            torch.set_num_threads(threads)
            model(ids)
            assert len(model._sessions) <= 2
            assert model.side_by_side() == threads
    finally:
        torch.set_num_threads(before)


# --- processes ----------------------------------------------------------------------------------

PROGRAM = """
import os, pickle, resource, sys, threading
import torch
torch.set_num_threads(2)
from transformers import AutoTokenizer
from qa_fast.engine import Engine, Options
from qa_fast.models.onnx_runtime import OnnxModel

folder, pickled = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
pairs = [("Who wrote it?", "Ada wrote the note."), ("Who?", "It was Ada. " * 50)] * 3

def answers(model):
    return [r.answers[0]["answer"] for r in Engine(model, tokenizer).read(pairs, Options())]

model = OnnxModel.open(folder)
expected = answers(model)
assert answers(pickle.loads(open(pickled, "rb").read())) == expected
assert answers(OnnxModel.open("someone/graphs")) == expected
assert "ORT_DISABLE_TELEMETRY" not in os.environ
pid = os.fork()
if not pid:
    assert answers(model) == expected
    assert answers(pickle.loads(pickle.dumps(model))) == expected
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)
    ids = torch.full((4000, 500), 7)
    try:
        model({"input_ids": ids})
    except Exception as error:
        assert model.is_out_of_memory(error), error
    else:
        raise AssertionError("there was enough memory")
    model.free_memory()
    assert answers(model) == expected
    del model
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert answers(model) == expected
print("done")
"""


def in_cache(folder: Path, home: Path) -> None:
    """Put a folder's files where the Hub's client would."""
    repository = home / "hub" / "models--someone--graphs"
    commit = "0" * 40
    snapshot = repository / "snapshots" / commit
    for place in (repository / "refs", repository / "blobs", snapshot / "onnx"):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for path in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.name.encode()).hexdigest()
        shutil.copy(path, blob)
        is_graph = path.suffix in (".onnx", ".onnx_data")
        (snapshot / ("onnx" if is_graph else "") / path.name).symlink_to(blob)


def test_other_processes(folder: Path, tmp_path: Path) -> None:
    """One that unpickles, one that is forked and ends, one without memory, and one off line."""
    pickled = tmp_path / "model.pickle"
    pickled.write_bytes(pickle.dumps(OnnxModel.open(folder)))
    outside = tmp_path / "elsewhere"
    shutil.copytree(folder, outside)
    path = outside / "model.onnx"
    location = "model.onnx_data"
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location=location, size_threshold=0
    )
    in_cache(outside, tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(pickled)],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # Nothing but warnings: the sessions log nothing.
    assert "onnxruntime" not in done.stderr


def test_without_the_package(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"ONNX Runtime is needed: pip install 'qa-fast\[onnx\]'"):
        OnnxModel.open(exported)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"ONNX is needed: pip install 'qa-fast\[onnx\]'"):
        read_graph(exported / "model.onnx")


def test_an_engine_is_pickled_with_its_graph(exported: Path) -> None:
    found = engine(OnnxModel.open(exported), batch_size=2)
    again = pickle.loads(pickle.dumps(found))
    options = Options(max_seq_len=64)
    same(answers_of(again, examples()[:3], options), answers_of(found, examples()[:3], options))
    assert json.loads((exported / "config.json").read_text())["model_type"] == "bert"
