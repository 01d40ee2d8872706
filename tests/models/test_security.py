"""What a model folder, a model's name or the network may not do."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel
from typer.testing import CliRunner, Result

import qa_fast
from qa_fast.cli import app
from qa_fast.data.examples import Columns
from qa_fast.engine import Options
from qa_fast.engine.loading import ModelSpec
from qa_fast.ray import RowActor
from qa_fast.runs.answering import Answering

from ..helpers.tiny import BUNDLED, save_tiny_model, tiny_model, tokenizer_of

QUESTION, CONTEXT = "Who wrote it?", "It was Ada who wrote the note."


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A folder with a sound model, to be spoiled."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def ask(*arguments: Any) -> Result:
    return CliRunner().invoke(
        app, ["ask", QUESTION, "--context-text", CONTEXT, *map(str, arguments)]
    )


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))


# --- the bundled model --------------------------------------------------------------------------


def test_bundled_files_have_their_checksums() -> None:
    """``sha256sum -c SHA256SUMS`` says the same."""
    lines = (BUNDLED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    assert sums.keys() == {path.name for path in BUNDLED.iterdir()} - {"SHA256SUMS"}
    for name, checksum in sums.items():
        assert hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() == checksum, name


def run_python(code: str, *prefix: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: x for name, x in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**kept, **environment},
    )


NO_PICKLE = """
import pickle, _pickle, torch

def refuse(*_, **__):
    raise AssertionError("something was unpickled")

class Refusing(pickle._Unpickler):
    __init__ = refuse

pickle.load = pickle.loads = _pickle.load = _pickle.loads = torch.load = refuse
pickle.Unpickler = pickle._Unpickler = _pickle.Unpickler = Refusing
"""
NO_NETWORK = """
import socket

tried = []

def refuse(*arguments, **_):
    tried.append(str(arguments))
    raise OSError("there is no network")

class NoSocket(socket.socket):
    def __new__(cls, family=-1, *rest, **named):
        if family != socket.AF_UNIX:
            refuse("socket", family)
        return super().__new__(cls, family, *rest, **named)

socket.socket = NoSocket
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""
USE = """
import json, pathlib, sys, tempfile
import qa_fast
from typer.testing import CliRunner
from qa_fast.cli import app

answer = qa_fast.pipeline()(question="Where was Ada born?", context="Ada was born in London.")
assert answer["answer"] == "London", answer

with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / "data.jsonl"
    row = {"id": "1", "question": "Where was Ada born?", "context": "Ada was born in London."}
    data.write_text(json.dumps({**row, "answers": {"text": ["London"], "answer_start": [16]}}))
    for arguments in (
        ["ask", row["question"], "--context-text", row["context"]],
        ["predict", data, "--output", f"{folder}/predictions.json"],
        ["evaluate", data, "--model", "bundled"],
    ):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, (arguments, done.output, done.exception)
    assert json.loads(pathlib.Path(f"{folder}/predictions.json").read_text()) == {"1": "London"}
print("done")
"""


@pytest.mark.slow
def test_the_bundled_model_needs_no_network_and_nothing_is_unpickled() -> None:
    """No try is made, and where the system can, the process has no network device either."""
    unshare = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        unshare = []
    done = run_python(f"{NO_PICKLE}{NO_NETWORK}{USE}\nassert not tried, tried", *unshare)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


# --- weights ------------------------------------------------------------------------------------


@pytest.fixture
def pickled(model: Path) -> Path:
    """A folder whose weights are pickled only."""
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    return model


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_weights_are_refused_with_the_remedy(pickled: Path) -> None:
    with pytest.raises(
        OSError, match=r"holds no model\.safetensors; allow_pickle=True reads pickled"
    ):
        qa_fast.pipeline(pickled, device="cpu")
    done = ask("--model", pickled)
    assert done.exit_code == 2
    assert "--allow-pickle reads pickled weights" in done.stderr


def test_pickled_weights_are_read_where_that_is_allowed(
    pickled: Path, sound: Path, tmp_path: Path
) -> None:
    expected = qa_fast.pipeline(sound, device="cpu")(QUESTION, CONTEXT)
    assert qa_fast.pipeline(pickled, device="cpu", allow_pickle=True)(QUESTION, CONTEXT) == expected
    shown = json.loads(ask("--model", pickled, "--allow-pickle", "--json").stdout)["answers"][0]
    assert (shown["start"], shown["score"]) == (expected["start"], expected["score"])
    qa_fast.Reader(pickled, device="cpu", allow_pickle=True)
    rows = [{"id": "1", "question": QUESTION, "context": CONTEXT, "answers": ["Ada"]}]
    qa_fast.predict(rows, tmp_path / "a.json", model=pickled, device="cpu", allow_pickle=True)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")).keys() == {"1"}
    qa_fast.evaluate(rows, model=pickled, device="cpu", allow_pickle=True)
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(rows[0]), encoding="utf-8")
    for arguments in (
        ["evaluate", data, "--model", pickled],
        ["predict", data, "--model", pickled, "--output", tmp_path / "b.json"],
    ):
        for allowed, code in ((["--allow-pickle"], 0), ([], 2)):
            done = CliRunner().invoke(app, [*map(str, arguments), *allowed])
            assert done.exit_code == code, done.output
            (tmp_path / "b.json").unlink(missing_ok=True)
    threads = torch.get_num_threads()
    try:
        RowActor(
            ModelSpec(str(pickled), allow_pickle=True), Answering(Options()), Columns(), threads
        )
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_that_does_more_than_hold_tensors_does_not_run(
    pickled: Path, tmp_path: Path, allowed: bool
) -> None:
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()
    trace.unlink()
    torch.save({"qa_outputs.weight": Bomb(trace)}, pickled / "pytorch_model.bin")
    for name in ("vocab.pkl", "tokenizer.pkl", "training_args.bin"):
        (pickled / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(OSError, match="cannot load the model"):
        qa_fast.pipeline(pickled, device="cpu", allow_pickle=allowed)
    assert not trace.exists()


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../other/model.safetensors", "/etc/passwd"]
)
def test_an_index_of_weights_names_safetensors_beside_it_only(pickled: Path, shard: str) -> None:
    index = {"metadata": {}, "weight_map": {"qa_outputs.weight": shard}}
    (pickled / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(
        OSError, match=rf"index\.json names '{shard}', which is no safetensors file"
    ):
        qa_fast.pipeline(pickled, device="cpu")


def test_sharded_weights_are_read(model: Path, sound: Path) -> None:
    tiny_model(tokenizer_of("wordpiece")).save_pretrained(model, max_shard_size="20KB")
    (model / "model.safetensors").unlink()
    assert len(list(model.glob("model-*.safetensors"))) > 1
    found, expected = (qa_fast.pipeline(x, device="cpu")(QUESTION, CONTEXT) for x in (model, sound))
    assert found == expected


def test_a_model_without_the_layer_that_answers_is_refused(model: Path) -> None:
    BertModel(tiny_model(tokenizer_of("wordpiece")).config).save_pretrained(model)
    with pytest.raises(
        OSError, match=r"no weights for qa_outputs of .*answers would be random: it was not trained"
    ):
        qa_fast.pipeline(model, device="cpu")
    assert ask("--model", model).exit_code == 2


def test_single_missing_weights_are_said_loudly(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.bias"
    del weights[name]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=f"lacks weights that are random now.*: {name}$"):
        qa_fast.pipeline(model, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside of tests
        done = ask("--model", model)
    # Whatever the random weights lead to.
    assert done.stderr.splitlines()[0].startswith("qa-fast: warning: the checkpoint of ")


# --- code that comes with a model ---------------------------------------------------------------

CODE = """
import os
from transformers import BertConfig, BertForQuestionAnswering

open(os.environ["QA_FAST_TRACE"], "w").close()

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertForQuestionAnswering):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(model: Path) -> Path:
    """A folder whose model is of a class of its own."""
    (model / "own.py").write_text(CODE, encoding="utf-8")
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForQuestionAnswering": "own.OwnModel"}
    edit(model / "config.json", auto_map=names, model_type="own")
    return model


def test_code_that_comes_with_a_model_does_not_run(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("QA_FAST_TRACE", str(trace))
    # Transformers itself would ask on the terminal: nobody must be asked.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(OSError, match=r"comes with code of its own, .*trust_remote_code=True$"):
        qa_fast.pipeline(with_code, device="cpu")
    done = ask("--model", with_code)
    assert done.exit_code == 2
    assert "load with --trust-remote-code" in done.stderr
    assert not trace.exists()


def test_code_that_comes_with_a_tokenizer_does_not_run(model: Path) -> None:
    (model / "own.py").write_text("raise SystemError('the code ran')", encoding="utf-8")
    names = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    edit(model / "tokenizer_config.json", auto_map=names, tokenizer_class="OwnTokenizer")
    try:
        qa_fast.pipeline(model, device="cpu")  # the class that Transformers has of it is fine
    except OSError as error:
        assert "code of its own" in str(error)  # noqa: PT017


def test_code_runs_where_that_is_asked_for_and_that_is_said(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("QA_FAST_TRACE", str(trace))
    # Transformers copies the code to a folder of its own, and imports it from there.
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code")
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = ask("--model", with_code, "--trust-remote-code")
    assert done.exit_code == 0, done.output
    assert trace.exists()
    said = f"qa-fast: warning: trust_remote_code=True: code that comes with '{with_code}' runs with"
    assert said in done.stderr


def test_trust_is_said_in_python_too(sound: Path) -> None:
    with pytest.warns(
        UserWarning, match="^trust_remote_code=True: code that comes with .* runs with"
    ):
        qa_fast.pipeline(sound, device="cpu", trust_remote_code=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qa_fast.pipeline(sound, device="cpu")


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_attention_code_from_the_hub_is_not_fetched(model: Path, name: str) -> None:
    edit(model / "config.json", **{name: "somebody/attention"})
    try:
        qa_fast.pipeline(model, device="cpu")  # releases of Transformers that do not look at it
    except OSError as error:
        assert "asks for attention code from 'somebody/attention'" in str(error)  # noqa: PT017


# --- folders that are broken, or made to break --------------------------------------------------


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Changes what the header of the weights says."""

    def spoil(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        entries = json.loads(data[8 : 8 + size])
        change(entries)
        text = json.dumps(entries).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + size :]
        (folder / "model.safetensors").write_bytes(data)

    return spoil


def weights(data: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / "model.safetensors")
        .write_bytes(data((folder / "model.safetensors").read_bytes()))
        .__index__()
    )


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data).__index__()


def loop(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)

    return spoil


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
LIE = "bert.embeddings.word_embeddings.weight"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "huge_vocabulary": (config(vocab_size=10**12), "the model"),
    "huge_width": (config(hidden_size=10**9), "the model"),
    "negative_size": (config(vocab_size=-5), "the model"),
    "other_size": (
        config(vocab_size=77),
        "the model .*not have the shapes that its config.json says",
    ),
    "text_for_a_number": (config(hidden_size="sixteen"), "the model"),
    "list_for_a_number": (config(num_hidden_layers=[1]), "the model"),
    "no_heads": (config(num_attention_heads=0), "the model .*ZeroDivisionError"),
    "unknown_function": (config(hidden_act="__import__"), "the model .*KeyError"),
    "unknown_dtype": (config(dtype="floaty", torch_dtype="floaty"), "the model .*floaty"),
    "unknown_type": (config(model_type="nonesuch"), "the model .*nonesuch"),
    "image_model": (config(model_type="vit"), "the model .*ViTConfig"),
    "config_of_depth": (text("config.json", DEEP), "the model .*RecursionError"),
    "config_is_a_list": (text("config.json", "[1, 2]"), "the model"),
    "config_truncated": (text("config.json", '{"model_type": "be'), "the model .*not a valid JSON"),
    "config_not_utf8": (text("config.json", b"\xff\xfe\x00\x80"), "the model .*not a valid JSON"),
    "config_loop": (loop("config.json"), "the model"),
    "weights_truncated": (
        weights(lambda data: data[: len(data) // 2]),
        "the model .*weights is broken",
    ),
    "weights_empty": (weights(lambda _: b""), "the model .*the file of its weights is broken"),
    "weights_git_lfs": (
        weights(lambda _: b"version https://git-lfs.github.com/spec/v1\nsize 1\n"),
        "the model .*the file of its weights is broken",
    ),
    "header_of_an_exabyte": (
        weights(lambda data: struct.pack("<Q", 2**60) + data[8:]),
        "the model .*(header too large|HeaderTooLarge)",
    ),
    "offset_beyond_the_file": (
        header(lambda entries: entries[LIE].update(data_offsets=[0, 10**15])),
        "the model .*the file of its weights is broken",
    ),
    "shape_that_overflows": (
        header(lambda entries: entries[LIE].update(shape=[2**40, 2**40])),
        "the model .*the file of its weights is broken",
    ),
    "weights_of_other_names": (
        header(
            lambda entries: entries.update({f"x{n}": entries.pop(n) for n in list(entries)[1:]})
        ),
        "the model .*no weights for .*qa_outputs",
    ),
    "weights_loop": (loop("model.safetensors"), r"the model .*holds no model\.safetensors$"),
    "tokenizer_truncated": (
        lambda folder: (folder / "tokenizer.json").write_bytes(
            (folder / "tokenizer.json").read_bytes()[:1000]
        ),
        r"the tokenizer .*its tokenizer\.json is broken \(EOF",
    ),
    "tokenizer_empty": (text("tokenizer.json", ""), r"the tokenizer .*tokenizer\.json is broken"),
    "tokenizer_of_nothing": (text("tokenizer.json", "{}"), r"the tokenizer .*json is broken"),
    "tokenizer_of_depth": (text("tokenizer.json", DEEP), r"the tokenizer .*json is broken"),
    "tokenizer_missing": (no_tokenizer, "the tokenizer "),
    "tokenizer_config_is_a_list": (text("tokenizer_config.json", "[]"), "the tokenizer "),
    "tokenizer_class_is_a_number": (
        text("tokenizer_config.json", '{"tokenizer_class": 7}'),
        "the tokenizer ",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_broken_folder_is_one_line_that_names_it(case: str, model: Path) -> None:
    spoil, message = HOSTILE[case]
    spoil(model)
    with pytest.raises(OSError, match=f"^cannot load {message}") as caught:
        qa_fast.pipeline(model, device="cpu")
    assert f" '{model}': " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    done = ask("--model", model)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("qa-fast: error: cannot load ")
    assert done.stderr.count("\n") == 1


def test_a_limit_that_is_no_number_is_named(model: Path) -> None:
    edit(model / "tokenizer_config.json", model_max_length="many")
    with pytest.raises(ValueError, match="model_max_length must be a number of tokens; got 'many'"):
        qa_fast.pipeline(model, device="cpu")(QUESTION, CONTEXT)


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), 10**30, -1, 0, 0.5])
def test_a_limit_that_is_none_is_none(model: Path, limit: float) -> None:
    edit(model / "tokenizer_config.json", model_max_length=limit)
    assert qa_fast.pipeline(model, device="cpu")(QUESTION, CONTEXT)


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_what_is_there_but_no_folder_is_not_looked_for_on_the_hub(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    if kind == "file":
        path.write_text("", encoding="utf-8")
    else:
        path.symlink_to(path)
    with pytest.raises(OSError, match=r"cannot load the model '.*model': it is not a folder$"):
        qa_fast.pipeline(path, device="cpu")


# --- the Hugging Face Hub -----------------------------------------------------------------------


@pytest.fixture
def hub(sound: Path, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that speaks the Hub's language: its address, and what it was asked for."""
    repositories = tmp_path / "hub" / "me"
    for name in ("safe", "pickled", "mixed"):
        shutil.copytree(sound, repositories / name)
    for name in ("pickled", "mixed"):
        folder = repositories / name
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"qa_outputs.weight": "pytorch_model.bin"}}
    (repositories / "mixed" / "model.safetensors.index.json").write_text(json.dumps(index))
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            asked.append(f"{self.command} /{'/'.join(parts)}")
            commit = "a" * 40
            body, status = b"", 404
            if parts[2:3] == ["resolve"]:
                file = repositories.parent / parts[0] / parts[1] / "/".join(parts[4:])
                if file.is_file():
                    body, status = file.read_bytes(), 200
            elif parts[:2] == ["api", "models"] and len(parts) == 4:
                name = "/".join(parts[2:])
                found = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": []}
                body, status = json.dumps({**found, "siblings": []}).encode(), 200
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


FROM_HUB = """
import qa_fast
for name in ("me/safe", "me/pickled", "me/mixed"):
    try:
        print(name, qa_fast.pipeline(name, device="cpu")("Who?", "It was Ada.")["answer"] != "")
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_models_from_the_hub(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    """Safetensors only; and no service converts pickled weights, for which it gets the user's token."""
    address, asked = hub
    done = run_python(
        FROM_HUB, HF_ENDPOINT=address, HF_HOME=str(tmp_path / "home"), HF_TOKEN="hf_secret"
    )
    safe, pickled, mixed = done.stdout.splitlines()
    assert safe == "me/safe True"
    assert "there is no model.safetensors in it; allow_pickle=True reads pickled weights" in pickled
    assert "names 'pytorch_model.bin', which is no safetensors file beside it" in mixed
    assert not [request for request in asked if request.endswith(".bin")]
    # Conversion begins with a look at the commits and the discussions.
    assert not [x for x in asked if "/commits/" in x or "/discussions" in x or x.startswith("POST")]
