"""Answers of every public entry point under settings of torch that are not the usual ones.

    python tests/helpers/surroundings.py

Prints a JSON object: for each setting what differs from the answers under the usual ones; then the same
for threads that answer while another one loads models. A process of its own, because the settings are
the process's, and because code that is wrong about them writes where it should not.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import qa_fast
from qa_fast.decoding import c_backend
from qa_fast.engine import Engine, Options

sys.path.append(str(Path(__file__).parent))
from tiny import tiny_model, tokenizer_of

CONTEXT = "Ada Lovelace was born in London. She published a program in 1843. "
QUESTION = "Where was Ada born?"
PAIRS = [(QUESTION, CONTEXT), ("When was it published?", CONTEXT * 9), ("Who?", CONTEXT * 2)]
ROWS = [{"question": question, "context": context} for question, context in PAIRS]
OFFSETS = [None, None, None, (0, 3), (4, 9), (10, 12), (12, 13), None]


LOADS = "pipeline, loaded"
# The argument was renamed in Transformers 4.56.
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
DTYPE = "dtype" if VERSION >= (4, 56) else "torch_dtype"


@contextmanager
def setting(set_it: Callable[[Any], object], value: Any, usual: Any) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(usual)


@contextmanager
def changing_dtype() -> Iterator[None]:
    """Another thread changes the default dtype all the time, as loads of 16-bit models do."""
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for dtype in (torch.bfloat16, torch.float64, torch.float16, torch.float32):
                torch.set_default_dtype(dtype)
                over.wait(0.0003)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    **{
        f"default dtype {str(dtype)[6:]}": lambda dtype=dtype: setting(
            torch.set_default_dtype, dtype, torch.float32
        )
        for dtype in (torch.float16, torch.bfloat16, torch.float64)
    },
    "default device meta": lambda: setting(torch.set_default_device, "meta", None),
    "inside of torch.device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic algorithms": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "1 thread": lambda: setting(torch.set_num_threads, 1, torch.get_num_threads()),
    "8 threads": lambda: setting(torch.set_num_threads, 8, torch.get_num_threads()),
}


def entry_points(folder: Path) -> dict[str, Callable[[], Any]]:
    """Calls without arguments; what they give can be compared by ``==``."""
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 6, 40, generator=generator)
    context, question = [[1, 40], [2, 30], [0, 0], [5, 40], [39, 40], [1, 3]], [0, 0, 0, 1, 2, 2]
    logits = np.array([[0, 0, 0, 4, 1, 0, 0, 0]], np.float32)
    examples = [{"id": "a", "context": "Ada wrote it."}]
    features = [{"example_id": "a", "offset_mapping": OFFSETS}]
    model, tokenizer = str(folder / "model"), tokenizer_of("wordpiece")
    tiny_model(tokenizer).half().save_pretrained(model)
    tokenizer.save_pretrained(model)
    qa = qa_fast.pipeline(model, device="cpu")
    reader = qa_fast.Reader(model, device="cpu")
    bundled = qa_fast.pipeline(device="cpu")
    qa_fast.register()
    registered = transformers.pipeline("question-answering", model=model)

    def decode(**options: Any) -> Any:
        for _ in range(5):  # what was overwritten shows later
            found = qa_fast.decode_spans(
                start, end, context, question, context_offset=[0, 3, 0, 0, 0, 0], **options
            )
        return [[field.dtype, field.device.type, field.tolist()] for field in found]

    def decode_by_torch() -> Any:
        compiled, c_backend.library = c_backend.library, lambda: None
        try:
            return [decode(top_k=k, scoring=s) for k in (3, 90) for s in ("shared", "logit")]
        finally:
            c_backend.library = compiled

    def post(predictions: Any) -> Any:
        return qa_fast.postprocess_qa_predictions(
            examples, features, predictions, version_2_with_negative=True, output_dir=str(folder)
        ), Path(folder, "nbest_predictions.json").read_text()

    def predict() -> str:
        output = Path(tempfile.mkdtemp(dir=folder)) / "predictions.jsonl"
        rows = [{"id": str(i), **row} for i, row in enumerate(ROWS)]
        qa_fast.predict(rows, output, model=qa, top_k=3)
        return output.read_text()

    def probabilities() -> Any:
        found = qa.engine.token_probabilities(*PAIRS[1], Options(max_seq_len=64, doc_stride=16))
        return [part.tolist() for part in found]

    return {
        "decode_spans": lambda: decode(top_k=3),
        "decode_spans, more than all": lambda: decode(top_k=400, max_answer_len=None),
        "decode_spans, torch backend": decode_by_torch,
        "postprocess_qa_predictions of arrays": lambda: post((logits, logits)),
        "postprocess_qa_predictions of lists": lambda: post((logits.tolist(), logits.tolist())),
        "postprocess_qa_predictions of tensors": lambda: post(
            (torch.from_numpy(logits), torch.from_numpy(logits))
        ),
        "pipeline": lambda: qa(ROWS, top_k=3, max_seq_len=64, doc_stride=16),
        "pipeline, a stream": lambda: list(qa(iter(ROWS * 3), scoring="shared")),
        "pipeline, the bundled model": lambda: bundled(QUESTION, CONTEXT, top_k=4),
        LOADS: lambda: qa_fast.pipeline(model, device="cpu")(QUESTION, CONTEXT),
        "registered pipeline": lambda: registered(ROWS, top_k=2),
        "Reader": lambda: reader(QUESTION, [context for _, context in PAIRS], top_k=4),
        "Engine": lambda: list(Engine(qa.model, tokenizer).read(PAIRS, Options(top_k=3))),
        "token_probabilities": probabilities,
        "predict": predict,
    }


LOADING = "while another thread loads models"
CHANGING = "a default dtype that changes"


def differences(
    calls: dict[str, Callable[[], Any]],
    usual: dict[str, Any],
    changed: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[str]:
    """What the calls give that is not the usual."""
    found = []
    for name, call in calls.items():
        result: Any
        try:
            with changed():
                result = call()
        except Exception as error:
            result = error
        if result != usual[name]:
            found.append(f"{name}: {result!r} for {usual[name]}"[:1000])
    return found


def while_loading(
    folder: Path, calls: dict[str, Callable[[], Any]], usual: dict[str, Any]
) -> list[str]:
    """What differs for two threads that answer, while a third loads models of several types."""
    found: list[str] = []
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            found.extend(differences(calls, usual))

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    model = str(folder / "model")
    try:
        for _ in range(12):
            qa_fast.pipeline(model, device="cpu")
            qa_fast.pipeline(model, device="cpu", dtype="auto")
            for dtype in (torch.bfloat16, torch.float32, torch.float16):
                transformers.AutoModelForQuestionAnswering.from_pretrained(model, **{DTYPE: dtype})
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    differing: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        calls = entry_points(Path(folder))
        usual = {name: call() for name, call in calls.items()}
        for name, changed in SETTINGS.items():
            print(name, file=sys.stderr, flush=True)  # the last one, should the process die
            differing[name] = differences(calls, usual, changed)
        del calls[LOADS]  # it says, after some tries, that it is disturbed
        print(CHANGING, file=sys.stderr, flush=True)
        differing[CHANGING] = differences(calls, usual, changing_dtype)
        print(LOADING, file=sys.stderr, flush=True)
        for name in [name for name in calls if name.startswith(("postprocess", "predict"))]:
            del calls[name]  # two threads would write the same files, or a run that takes long
        del calls["decode_spans, torch backend"]  # it is for one thread
        differing[LOADING] = while_loading(Path(folder), calls, usual)
    print(json.dumps(differing))


if __name__ == "__main__":
    main()
