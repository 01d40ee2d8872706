"""OpenVINO: the same answers as PyTorch's, on any thread, in any process, from any folder."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qa_fast.engine import Engine, Options
from qa_fast.models.checkpoints import CheckpointError, load_model
from qa_fast.texts.calibration import calibration_rows

from ..helpers.engines import OPTIONS, answers_of, examples, same
from ..helpers.programs import run_python
from ..helpers.tiny import BUNDLED, tiny_model, tokenizer_of
from ..helpers.zoo import family_model, family_tokenizer

if find_spec("openvino") is None:  # an import would tell others of it
    pytest.skip("OpenVINO, an extra of the package, is not installed", allow_module_level=True)

from qa_fast.models.conversion.openvino_package import load_openvino
from qa_fast.models.conversion.to_openvino import openvino_model
from qa_fast.models.openvino_runtime import OpenVINOModel


def batch(*shape: int) -> dict[str, torch.Tensor]:
    """Random tokens; the second half of the rows is padded."""
    ids = torch.from_numpy(np.random.default_rng(shape[1]).integers(5, 300, shape))
    mask = torch.ones(shape, dtype=torch.int64)
    mask[shape[0] // 2 :, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@cache
def tiny() -> Any:
    return tiny_model(tokenizer_of("wordpiece"))


@cache
def converted(dtype: str = "float32") -> OpenVINOModel:
    rows = calibration_rows(tokenizer_of("wordpiece"), examples()[:6], max_seq_len=128)
    return openvino_model(tiny(), dtype=dtype, calibration=rows, cache=False)


def logits_of(model: Any, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        output = tiny()(**arguments) if model is None else model(**arguments)
    return torch.stack((output.start_logits, output.end_logits))


def difference(model: OpenVINOModel, arguments: dict[str, torch.Tensor]) -> float:
    """How far the model's logits lie from PyTorch's at most, in parts of their range."""
    wanted = logits_of(None, arguments)
    given = torch.stack(model(arguments))
    assert given.shape == wanted.shape
    return float((given - wanted).abs().max() / (wanted.max() - wanted.min()))


def fingerprint(model: OpenVINOModel) -> str:
    digest = hashlib.sha256()
    assert model.fingerprint(digest)
    return digest.hexdigest()


def test_float32_gives_pytorchs_answers() -> None:
    tokenizer = tokenizer_of("bundled")
    model = load_model(BUNDLED, dtype="float32")
    pairs = examples()[:5]
    expected = answers_of(Engine(model, tokenizer), pairs, OPTIONS)
    graph = openvino_model(model, cache=False)
    engine = Engine(graph, tokenizer)
    same(answers_of(engine, pairs, OPTIONS), expected)
    assert engine.runtime is graph
    assert (graph.backend, graph.dtype, graph.position_limit) == ("openvino", "float32", 512)
    same([next(iter(engine.read([pair], OPTIONS))).answers for pair in pairs[:3]], expected[:3])


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-5), ("bfloat16", 0.05), ("int8", 0.25)])
def test_every_type_computes_in_it(dtype: str, near: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a processor without bfloat16
        model = converted(dtype)
    found = [difference(model, batch(*shape)) for shape in ((1, 5), (4, 33), (2, 90), (1, 200))]
    assert max(found) < near
    if model.dtype == dtype != "float32":
        assert max(found) > 1e-5
    assert (model.unquantized is not None) == (dtype == "int8")


def test_what_stays_unquantized_is_said() -> None:
    said = converted("int8").unquantized
    assert said is not None
    assert said.startswith("Not quantized, but float32: ")


def test_inputs_stay_and_outputs_are_fresh() -> None:
    arguments = batch(3, 20)
    before = {name: tensor.clone() for name, tensor in arguments.items()}
    first = converted()(arguments)
    kept = [logits.clone() for logits in first]
    converted()(batch(3, 21))
    converted()({**arguments, "input_ids": arguments["input_ids"].flip(1).contiguous()})
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert all(torch.equal(arguments[name], before[name]) for name in before)


def test_rows_of_any_batch_are_those_read_alone() -> None:
    arguments = batch(5, 40)
    together = torch.stack(converted()(arguments))
    for i in range(5):
        length = int(arguments["attention_mask"][i].sum())
        row = {name: tensor[i : i + 1, :length].contiguous() for name, tensor in arguments.items()}
        alone = torch.stack(converted()(row))
        torch.testing.assert_close(together[:, i : i + 1, :length], alone, rtol=1e-4, atol=1e-4)


def test_threads_and_engines_read_at_a_time() -> None:
    torch.set_num_threads(2)
    model = pickle.loads(pickle.dumps(converted()))
    engine = Engine(model, tokenizer_of("wordpiece"), max_batch_tokens=256)
    pairs = examples() * 3
    expected = answers_of(engine, pairs, OPTIONS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: answers_of(engine, pairs, OPTIONS), range(6)))
    for answers in found:
        same(answers, expected)
    torch.set_num_threads(1)
    same(answers_of(engine, pairs, OPTIONS), expected)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_pickled_model_is_equal(dtype: str) -> None:
    model = converted(dtype)
    again = pickle.loads(pickle.dumps(model))
    assert fingerprint(again) == fingerprint(model)
    assert (again.dtype, again.position_limit, again.vocabulary_size, again.unquantized) == (
        model.dtype,
        model.position_limit,
        model.vocabulary_size,
        model.unquantized,
    )
    for a, b in zip(again(batch(2, 30)), model(batch(2, 30)), strict=True):
        assert torch.equal(a, b)


def test_a_fingerprint_is_of_weights_and_type() -> None:
    other = openvino_model(tiny_model(tokenizer_of("wordpiece"), seed=1), cache=False)
    half = OpenVINOModel(other._graph.clone(), dtype="bfloat16")
    found = {fingerprint(m) for m in (converted(), converted("int8"), other, half)}
    assert len(found) == 4 - (half.dtype == "float32")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_refused_and_ends() -> None:
    """With Python's own end, in which everything is freed; the parent goes on."""
    code = """if True:
        import os, sys, torch, warnings
        warnings.simplefilter("ignore")
        from qa_fast.engine import Engine, ModelError, Options
        from tests.models.test_openvino import batch, converted, tokenizer_of
        engine = Engine(converted(), tokenizer_of("wordpiece"))
        pairs = [("Who wrote it?", "Ada wrote it.")] * 3
        list(engine.read(pairs, Options()))
        expected = torch.stack(converted()(batch(2, 30)))
        pid = os.fork()
        if pid == 0:
            try:
                list(engine.read(pairs, Options()))
            except ModelError as error:
                assert "forked" in str(error), error
                sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert torch.equal(torch.stack(converted()(batch(2, 30))), expected)
        print("both")
    """
    assert run_python(code) == "both"


def test_another_process_gets_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((converted(), batch(2, 30))))
    code = f"""if True:
        import hashlib, pickle, torch
        torch.set_num_threads(1)
        with open({str(path)!r}, "rb") as file:
            model, arguments = pickle.load(file)
        digest = hashlib.sha256()
        model.fingerprint(digest)
        print(digest.hexdigest(), torch.stack(model(arguments)).numpy().tobytes().hex())
    """
    mark, logits = run_python(code).split()
    assert mark == fingerprint(converted())
    found = torch.frombuffer(bytearray.fromhex(logits), dtype=torch.float32).view(2, 2, 30)
    torch.testing.assert_close(found, torch.stack(converted()(batch(2, 30))), rtol=1e-5, atol=1e-5)


def test_ctrl_c_interrupts_and_nothing_is_broken() -> None:
    model, arguments = converted(), batch(16, 500)
    expected = torch.stack(model(arguments))

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def read_on() -> None:
        timer = threading.Timer(0.2, interrupt)
        timer.start()
        while True:
            model(arguments)

    with pytest.raises(KeyboardInterrupt):
        read_on()
    assert torch.equal(torch.stack(model(arguments)), expected)


def test_short_memory_gives_an_error_or_the_right_logits() -> None:
    """OpenVINO may end such a call in silence, and would give the logits of an earlier one."""
    code = """if True:
        import pickle, resource, warnings
        import torch
        warnings.simplefilter("ignore")
        from tests.models.test_openvino import batch, converted
        torch.set_num_threads(1)
        data = pickle.dumps(converted())
        arguments = {shape: batch(*shape) for shape in ((8, 100), (128, 512), (256, 512))}
        model = pickle.loads(data)
        expected = {shape: torch.stack(model(a)) for shape, a in arguments.items()}
        del model
        found = []
        no_limit = resource.RLIM_INFINITY
        for megabytes in (30, 60):
            for shape in arguments:
                model = pickle.loads(data)
                model(batch(2, 30))
                lines = open("/proc/self/status").read().splitlines()
                size = int(next(l for l in lines if l.startswith("VmSize")).split()[1]) << 10
                resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), no_limit))
                try:
                    given = torch.stack(model(arguments[shape]))
                    found.append("right" if torch.equal(given, expected[shape]) else "wrong")
                except Exception as error:
                    found.append("short" if model.is_out_of_memory(error) else repr(error))
                resource.setrlimit(resource.RLIMIT_AS, (no_limit, no_limit))
                model.free_memory()
                again = torch.stack(model(arguments[shape]))
                assert torch.allclose(again, expected[shape], atol=1e-4), "wrong afterwards"
        print(sorted(set(found)), flush=True)
        import os
        os._exit(0)
    """
    assert run_python(code) == "['right', 'short']"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One as Optimum Intel writes it."""
    tiny().config.save_pretrained(tmp_path)
    converted().save(tmp_path / "openvino_model.xml")
    return tmp_path


def test_a_folder_is_opened(folder: Path) -> None:
    found = OpenVINOModel.open(folder)
    assert difference(found, batch(2, 40)) < 1e-5
    assert (found.dtype, found.position_limit) == ("float32", 512)
    assert found.config.hidden_size == 16
    below = folder / "openvino"
    below.mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (folder / name).rename(below / name)
    assert difference(OpenVINOModel.open(str(folder)), batch(2, 40)) < 1e-5
    (folder / "config.json").unlink()
    found = OpenVINOModel.open(folder)
    assert (found.config, found.position_limit) == (None, None)
    assert difference(found, batch(2, 40)) < 1e-5
    (folder / "config.json").write_text('{"model_type": "of_tomorrow", "hidden_size": 16}')
    assert OpenVINOModel.open(folder).config.hidden_size == 16


def test_the_type_chooses_the_graph(folder: Path) -> None:
    converted("int8").save(folder / "openvino_model_qint8_quantized.xml")
    assert OpenVINOModel.open(folder).dtype == "float32"
    assert OpenVINOModel.open(folder, "int8").dtype == "int8"
    (folder / "openvino_model.xml").unlink()
    assert OpenVINOModel.open(folder).dtype == "int8"
    with pytest.raises(CheckpointError, match=r"nothing for dtype='float32', but .*qint8.*int8"):
        OpenVINOModel.open(folder, "float32")
    converted("int8").save(folder / "openvino_model_int8.xml")
    with pytest.raises(CheckpointError, match=r"which of them is meant.*_int8.*_qint8_quantized"):
        OpenVINOModel.open(folder, "int8")


def test_a_bad_folder_gets_one_line(folder: Path, tmp_path: Path) -> None:
    def refused(what: str, dtype: str | None = None) -> None:
        with pytest.raises(OSError, match=what) as caught:
            OpenVINOModel.open(folder, dtype)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)

    with pytest.raises(ValueError, match=r"dtype must be one of 'float32'.*'float16'"):
        OpenVINOModel.open(folder, "float16")
    with pytest.raises(CheckpointError, match=r"there is no openvino_model\.xml"):
        OpenVINOModel.open(tmp_path / "nowhere")
    refused("nothing for dtype='int8', but openvino_model.xml \\(float32\\)", "int8")
    (folder / "config.json").write_text("{", encoding="utf-8")
    refused("cannot load the model")
    (folder / "config.json").unlink()
    xml = (folder / "openvino_model.xml").read_text(encoding="utf-8")
    weights = (folder / "openvino_model.bin").read_bytes()
    (folder / "openvino_model.bin").write_bytes(weights[: len(weights) // 2])
    refused("cannot load the model")
    (folder / "openvino_model.bin").unlink()
    refused("cannot load the model")
    (folder / "openvino_model.xml").write_text(xml[:1000], encoding="utf-8")
    refused("cannot load the model")


def graph_of(shape: list[int], count: int = 2, name: str = "input_ids", kind: str = "f32") -> Any:
    """A graph that gives its ids as logits, of another shape with ``shape`` of two numbers."""
    op = load_openvino().opset13
    ids = op.parameter(shape, np.int64, name=name)
    ids.output(0).get_tensor().set_names({name})
    logits = op.convert(ids, kind)
    outputs = [op.result(op.add(logits, op.constant(i, openvino_type(kind)))) for i in range(count)]
    return load_openvino().Model(outputs, [ids], "ids")


def openvino_type(kind: str) -> Any:
    return getattr(load_openvino().Type, kind)


def test_graphs_of_other_shapes_and_types() -> None:
    ids = torch.arange(6).view(2, 3)
    for shape in ([-1, -1], [1, 8]):
        for kind in ("f32", "f16", "f64"):
            model = OpenVINOModel(graph_of(shape, kind=kind))
            start, end = model({"input_ids": ids, "attention_mask": ids, "token_type_ids": ids})
            assert start.dtype == torch.float32
            assert torch.equal(start, ids.float())
            assert torch.equal(end, ids.float() + 1)
    with pytest.raises(ValueError, match=r"start and end logits, .* it gives"):
        OpenVINOModel(graph_of([-1, -1], 1))
    with pytest.raises(ValueError, match="the graph takes pixels"):
        OpenVINOModel(graph_of([-1, -1], name="pixels"))
    with pytest.raises(ValueError, match="not quantized, so it cannot compute in dtype='int8'"):
        OpenVINOModel(graph_of([-1, -1]), dtype="int8")
    with pytest.raises(ValueError, match="dtype must be one of"):
        OpenVINOModel(graph_of([-1, -1]), dtype="half")


def test_a_graph_that_fails_for_some_rows_is_met_row_by_row() -> None:
    """Rows of 7 tokens: no table fits these."""
    op = load_openvino().opset13
    ids = op.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).get_tensor().set_names({"input_ids"})
    logits = op.convert(ids, "f32")
    half = op.reshape(logits, op.constant(np.array([0, -1, 2])), special_zero=True)
    whole = op.reshape(half, op.shape_of(ids), special_zero=False)
    outputs = [
        op.result(op.add(whole, op.constant(float(i), openvino_type("f32")))) for i in (0, 1)
    ]
    model = OpenVINOModel(load_openvino().Model(outputs, [ids], "even"))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        good = {"input_ids": torch.arange(16).view(2, 8)}
        assert torch.equal(model(good)[0], good["input_ids"].float())
        for _ in range(2):
            with pytest.raises((RuntimeError, MemoryError)):
                model({"input_ids": torch.arange(14).view(2, 7)})
            assert torch.equal(model(good)[1], good["input_ids"].float() + 1)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["roberta", "albert", "deberta_v2", "modernbert"])
def test_families_give_pytorchs_answers(name: str) -> None:
    tokenizer, model = family_tokenizer(name), family_model(name)
    pairs = examples()[:8]
    options = Options(top_k=3, max_seq_len=128, doc_stride=16, scoring="logit")
    expected = answers_of(Engine(model, tokenizer), pairs, options)
    same(
        answers_of(Engine(openvino_model(model, cache=False), tokenizer), pairs, options), expected
    )
