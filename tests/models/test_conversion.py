"""From PyTorch to graphs: what is refused, what is kept on the disk, and that nobody is told of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from qa_fast.models.conversion.cache import GraphCache, cache_folder, key_of
from qa_fast.texts.calibration import calibration_rows, shipped_pairs

from ..helpers.engines import examples
from ..helpers.programs import run_python
from ..helpers.tiny import tiny_model, tokenizer_of
from ..helpers.zoo import common_tokenizer, family_model, tiny

if find_spec("openvino") is None:  # an import would tell others of it
    pytest.skip("OpenVINO, an extra of the package, is not installed", allow_module_level=True)

from qa_fast.models.conversion.to_openvino import openvino_model


def model_of(seed: int = 0) -> Any:
    return tiny_model(tokenizer_of("wordpiece"), seed)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 45).view(2, 20)
    mask = torch.ones_like(ids)
    arguments = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return torch.stack(model(arguments))


def rows(count: int = 3) -> list[Any]:
    return calibration_rows(
        tokenizer_of("wordpiece"), examples(), max_seq_len=128, most=count, position_limit=512
    )


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_stays_as_it_is(dtype: torch.dtype) -> None:
    model = model_of().to(dtype).train()
    model.bert.pooler = None
    model.qa_outputs.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    openvino_model(model, cache=False)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {tensor.dtype for tensor in after.values() if tensor.is_floating_point()} == {dtype}
    assert [module.training for module in model.modules()] == modes
    assert all("forward" not in vars(module) for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


class ByLength(torch.nn.Module):
    """Does something else with long rows, as no trace of a short one says."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, input_ids, attention_mask, token_type_ids):
        output = self.inner(input_ids, attention_mask, token_type_ids)
        if input_ids.shape[1] > 30:
            output.start_logits = output.start_logits.flip(1)
        return output


class ByRows(ByLength):
    def forward(self, input_ids, attention_mask, token_type_ids):
        output = self.inner(input_ids, attention_mask, token_type_ids)
        output.end_logits = output.end_logits * int(input_ids.shape[0])
        return output


def test_a_conversion_that_is_not_the_model_is_refused() -> None:
    for cls in (ByLength, ByRows):
        with pytest.raises(ValueError, match=rf"conversion of {cls.__name__} .* cannot be trusted"):
            openvino_model(cls(model_of()), cache=False)


def test_what_cannot_be_converted_is_refused() -> None:
    def refused(model: Any, what: str) -> None:
        with pytest.raises(ValueError, match=what) as caught:
            openvino_model(model, cache=False)
        assert "\n" not in str(caught.value)

    refused(family_model("big_bird_sparse"), "BigBird.* hangs on the length of a text")
    refused(family_model("gpt2"), "GPT2ForQuestionAnswering cannot be converted")
    refused(tiny("funnel", common_tokenizer()), "Funnel.* cannot be trusted")
    refused(
        lambda input_ids: input_ids, "a torch module can be converted to OpenVINO; got function"
    )
    with torch.device("meta"):
        refused(type(model_of())(model_of().config), "weights are not loaded")
    with pytest.raises(ValueError, match="needs texts to calibrate"):
        openvino_model(model_of(), dtype="int8", cache=False)
    with pytest.raises(ValueError, match="dtype must be one of"):
        openvino_model(model_of(), dtype="half", cache=False)


def test_what_was_converted_is_kept(tmp_path: Path) -> None:
    first = logits(openvino_model(model_of(), cache=tmp_path))
    (folder,) = entries(tmp_path)
    written = folder.stat().st_mtime_ns, (folder / "openvino_model.bin").stat().st_mtime_ns
    assert torch.equal(logits(openvino_model(model_of(), cache=tmp_path)), first)
    again = openvino_model(deepcopy(model_of()), dtype="float32", cache=str(tmp_path))
    assert torch.equal(logits(again), first)
    assert entries(tmp_path) == [folder]
    assert written == (
        folder.stat().st_mtime_ns,
        (folder / "openvino_model.bin").stat().st_mtime_ns,
    )
    other = openvino_model(model_of(1), cache=tmp_path)
    assert not torch.equal(logits(other), first)
    assert len(entries(tmp_path)) == 2
    # Code of somebody else's may change without a trace in its name.
    hooked = model_of()
    hooked.qa_outputs.register_forward_hook(lambda *given: given[2] * 2)
    torch.testing.assert_close(logits(openvino_model(hooked, cache=tmp_path)), 2 * first)
    assert len(entries(tmp_path)) == 2


def test_int8_is_kept_by_its_texts(tmp_path: Path) -> None:

    def make(count: int) -> Any:
        return openvino_model(model_of(), dtype="int8", calibration=rows(count), cache=tmp_path)

    first = make(3)
    assert len(entries(tmp_path)) == 2  # the float32 graph, too
    again = make(3)
    assert torch.equal(logits(again), logits(first))
    assert again.unquantized == first.unquantized
    assert len(entries(tmp_path)) == 2
    make(2)
    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize("how", ["cut", "changed", "missing", "no manifest", "bad manifest"])
def test_a_damaged_graph_is_made_anew(tmp_path: Path, how: str) -> None:
    first = logits(openvino_model(model_of(), cache=tmp_path))
    (folder,) = entries(tmp_path)
    weights, manifest = folder / "openvino_model.bin", folder / "manifest.json"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "cut": lambda: weights.write_bytes(data[:-1]),
        "changed": lambda: weights.write_bytes(data),
        "missing": weights.unlink,
        "no manifest": manifest.unlink,
        "bad manifest": lambda: manifest.write_text("[]"),
    }[how]()
    with pytest.warns(RuntimeWarning, match="damaged model, which is made anew|cannot be read"):
        assert torch.equal(logits(openvino_model(model_of(), cache=tmp_path)), first)
    assert torch.equal(logits(openvino_model(model_of(), cache=tmp_path)), first)
    assert len(entries(tmp_path)) == 1


def test_a_disk_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    expected = logits(openvino_model(model_of(), cache=False))
    file = tmp_path / "file"
    file.write_text("no folder")
    for place in (file, file / "below"):
        store = GraphCache(place)
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            assert torch.equal(logits(openvino_model(model_of(), cache=store)), expected)
        # Once: another warning would be an error here.
        assert torch.equal(logits(openvino_model(model_of(), cache=store)), expected)
    full = Path("/dev/full")
    if full.exists():

        def write(folder: Path) -> None:
            (folder / "a").write_bytes(b"x")
            full.write_bytes(b"x")

        with pytest.warns(RuntimeWarning, match="No space left"):
            assert GraphCache(tmp_path / "cache").keep("key", write, {}) is None
        assert entries(tmp_path / "cache") == []


def test_writers_of_the_same_key_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = GraphCache(tmp_path)

    def keep(number: int) -> str:
        def write(folder: Path) -> None:
            for name in ("a", "b"):
                (folder / name).write_text(str(number))

        entry = store.keep("key", write, {"number": number})
        assert entry is not None
        found = {(entry.folder / name).read_text() for name in ("a", "b")}
        assert found == {str(entry.notes["number"])}
        return found.pop()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(keep, range(32)))) == 1
    assert entries(tmp_path) == [tmp_path / "key"]


def test_where_graphs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("QA_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "qa_fast" / "graphs"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "qa_fast" / "graphs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "qa_fast" / "graphs"
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "graphs"
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})


def test_nobody_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """No connection, no file in the home, no remarks, and PyTorch and logging as they were."""
    code = f"""if True:
        import logging, os, socket, sys, torch
        for name in ("CI", "TF_BUILD", "JENKINS_URL"):
            os.environ.pop(name, None)
        os.environ["HOME"] = {str(tmp_path)!r}
        tried = []
        def connect(*given):
            tried.append(given)
            raise OSError("no network here")
        socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = connect
        from tests.helpers.tiny import tiny_model, tokenizer_of
        from qa_fast.texts.calibration import calibration_rows
        tokenizer = tokenizer_of("wordpiece")
        model = tiny_model(tokenizer)
        rows = calibration_rows(tokenizer, most=3)
        torch_before = {{name: id(value) for name, value in vars(torch.nn.functional).items()}}
        made_by = logging.getLoggerClass()
        from qa_fast.models.conversion.to_openvino import openvino_model
        openvino_model(model, dtype="int8", calibration=rows, cache=False)
        assert logging.getLoggerClass() is made_by
        now = {{name: id(vars(torch.nn.functional)[name]) for name in torch_before}}
        assert now == torch_before
        assert not tried, tried
        print(os.listdir({str(tmp_path)!r}), "openvino_telemetry" in sys.modules)
    """
    assert run_python(code) == "[] False"


def test_shipped_texts_are_calibrated_with() -> None:
    pairs = shipped_pairs()
    assert len(pairs) == 240
    assert len({context for _, context in pairs}) == 240
    found = calibration_rows(tokenizer_of("bundled"), most=30)
    assert len(found) == 30
    assert len({row["input_ids"].shape[1] for row in found}) > 20
    long = calibration_rows(tokenizer_of("bundled"), [("Who?", "Ada wrote. " * 400)], most=2)
    assert [row["input_ids"].shape for row in long] == [(1, 384)] * 2
    assert set(long[0]["token_type_ids"][0]) == {0, 1}
    with pytest.raises(ValueError, match="texts are needed; got none"):
        calibration_rows(tokenizer_of("bundled"), [])
