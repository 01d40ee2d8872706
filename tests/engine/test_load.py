"""Many threads, several engines, other processes, and very many small calls."""

from __future__ import annotations

import gc
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qa_fast
from qa_fast.engine import Engine, Options

from ..helpers.engines import answers_of, examples, same, worker_threads
from ..helpers.tiny import save_tiny_model, tiny_model, tokenizer_of

THREADS = 32
MIXED = [
    {},
    {"top_k": 3},
    {"top_k": 5, "scoring": "shared", "max_seq_len": 96, "doc_stride": 24},
    {"top_k": 4, "scoring": "logit", "align_to_words": False, "max_answer_len": 3},
    {"handle_impossible_answer": True, "top_k": 2, "batch_size": 2},
    {"max_question_len": 4, "max_seq_len": 64, "doc_stride": 0},
]


def as_lists(results: Any) -> list[list[Any]]:
    return [result if isinstance(result, list) else [result] for result in results]


def test_32_threads_at_once_get_the_answers_of_one_after_the_other() -> None:
    """Calls of every form with mixed options, about contexts that are shared and that are not."""
    tokenizer = tokenizer_of("wordpiece")
    qa = qa_fast.pipeline(tiny_model(tokenizer), tokenizer=tokenizer)
    shared = examples()[4][1]
    jobs = []
    for i in range(2 * THREADS):
        pairs = [*examples()[i % 5 : i % 5 + 3], (f"Who was number {i}?", shared)]
        pairs.append((f"Who wrote note {i}?", f"Note {i} was written by Ada. " * (i % 4 * 20 + 1)))
        jobs.append((pairs, MIXED[i % len(MIXED)]))

    def work(job: Any) -> list[list[Any]]:
        pairs, options = job
        questions, contexts = map(list, zip(*pairs, strict=True))
        if options.get("top_k") == 3:  # as a stream
            data = ({"question": q, "context": c} for q, c in pairs)
            return as_lists(qa(data, **options))
        return as_lists(qa(question=questions, context=contexts, **options))

    expected = [work(job) for job in jobs]
    begin = threading.Barrier(THREADS)

    def at_once(job: Any) -> list[list[Any]]:
        begin.wait(60)
        return work(job)

    with ThreadPoolExecutor(THREADS) as executor:
        for found, theirs in zip(executor.map(at_once, jobs), expected, strict=True):
            same(found, theirs)
    assert not worker_threads()


def test_engines_may_share_a_model() -> None:
    """Also one that is in training: the first engine to finish switches on no dropout for others."""
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    options = [Options(top_k=4, scoring=x, max_seq_len=128) for x in ("logit", "shared")] * 4
    engines = [Engine(model, tokenizer, batch_size=1 + i % 3) for i in range(len(options))]
    # The later ones have more to do, and are at work when the first ones are done.
    data = [examples() * (1 + i % 4) for i in range(len(options))]
    expected = [answers_of(*job) for job in zip(engines, data, options, strict=True)]
    model.train()
    with ThreadPoolExecutor(len(engines)) as executor:
        for found, theirs in zip(
            executor.map(answers_of, engines, data, options), expected, strict=True
        ):
            same(found, theirs)
    assert model.training


def test_pipelines_can_be_pickled() -> None:
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    qa = qa_fast.pipeline(model, tokenizer=tokenizer, top_k=3, batch_size=2, dtype="float64")
    expected = qa(*examples()[4])
    copy = pickle.loads(pickle.dumps(qa))
    assert copy(*examples()[4]) == expected
    assert copy.engine.batch_size == 2
    assert next(copy.model.parameters()).dtype == torch.float64


PROCESSES = """
import multiprocessing, os, signal, sys
import torch
import qa_fast

CONTEXT = "Ada Lovelace was born in London in 1815. " * 30
QUESTIONS = [f"Where was number {i} born?" for i in range(12)]

def work(qa):
    return [qa("Where?", CONTEXT), *qa(question=QUESTIONS, context=CONTEXT, top_k=2)]

class Data(torch.utils.data.Dataset):
    def __init__(self, qa=None):
        self.qa = qa

    def __len__(self):
        return len(QUESTIONS)

    def __getitem__(self, i):
        if self.qa is not None:
            return self.qa(QUESTIONS[i], CONTEXT)["start"]
        return {"question": QUESTIONS[i], "context": CONTEXT}

def forked(qa, expected):
    child = os.fork()
    if not child:
        signal.alarm(100)  # ends it, should it hang
        os._exit(0 if close(work(qa), expected) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def close(found, expected):
    starts = lambda results: [r["start"] if isinstance(r, dict) else r[0]["start"] for r in results]
    return starts(found) == starts(expected)

if __name__ == "__main__":
    signal.alarm(250)
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)
    qa = qa_fast.pipeline(sys.argv[1], device="cpu")
    fresh = qa_fast.pipeline(sys.argv[1], device="cpu")
    expected = work(qa)
    assert forked(fresh, expected) == 0, "fork after a load"
    assert forked(qa, expected) == 0, "fork after a call"
    assert close(work(qa), expected), "the parent goes on"
    assert torch.get_num_threads() == 2
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            for found in pool.map_async(work, [qa, qa]).get(100):
                assert close(found, expected), method
    loader = torch.utils.data.DataLoader(Data(qa), num_workers=2, batch_size=None, timeout=100)
    assert list(loader) == [result["start"] for result in qa(Data())], "workers that answer"
    loader = torch.utils.data.DataLoader(Data(), num_workers=2, batch_size=None, timeout=100)
    assert len(list(qa(iter(loader)))) == len(QUESTIONS), "workers that read"
    print("done")
"""


@pytest.mark.slow
def test_processes_that_are_forked_or_spawned_answer(tmp_path: Path) -> None:
    """OpenMP's threads do not live on in a forked process, which would wait for them for ever."""
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, save_tiny_model(tmp_path / "model")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]


# --- very many small calls ----------------------------------------------------------------------

# The suite makes 1,800 calls; QA_FAST_SOAK_SECONDS=600 goes on for ten minutes.
SOAK_SECONDS = float(os.environ.get("QA_FAST_SOAK_SECONDS", "0"))
# At first caches, pools and free lists fill, also NumPy's and Python's own: for some hundred calls.
BLOCK_CALLS, WARM_UP, SAMPLES = 30, 20, 40


def resident() -> int:
    statm = Path("/proc/self/statm").read_text(encoding="utf-8")
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(calls: list[int], values: list[int]) -> float:
    """The median of the slopes between all pairs of samples (Theil-Sen): single jumps do not count."""
    x, y = np.array(calls, float), np.array(values, float)
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' /proc")
def test_small_calls_leak_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.engine.engine.WINDOW_QUESTIONS", 4)
    tokenizer = tokenizer_of("wordpiece")
    model = tiny_model(tokenizer)
    qa = qa_fast.pipeline(model, tokenizer=tokenizer)
    # So small that the contexts that it remembers are others after a few calls.
    qa.engine._crew.chunker._cached_tokens = 500
    rng = random.Random(0)
    start, end = torch.randn(2, 4, 64)
    context = torch.tensor([[8, 60]] * 4, dtype=torch.int32)
    done = 0

    def call() -> None:
        nonlocal done, qa
        done += 1
        number = rng.randrange(10**9)
        qa(f"Who was {number}?", f"Number {number} was Ada. " * rng.randrange(1, 9), top_k=2)
        if done % 10 == 0:
            list(qa({"question": "Who?", "context": f"It was {number}."} for _ in range(3)))
        if done % 5 == 0:
            qa_fast.decode_spans(start, end, context, top_k=3, max_answer_len=8)
        if done % 50 == 0:
            next(qa({"question": "Who?", "context": f"It was {i}."} for i in range(40)))  # dropped
            qa = qa_fast.pipeline(model, tokenizer=tokenizer)
            qa.engine._crew.chunker._cached_tokens = 500
        if done % 20 == 0:
            with pytest.raises(ValueError, match="is empty"):
                qa("Who?", "")

    gc.collect()
    gc.freeze()  # what was there before is not gone through again and again
    tracemalloc.start()
    try:
        samples: list[tuple[int, int, int]] = []
        begin = time.monotonic()
        for block in range(1, WARM_UP + SAMPLES + 1):
            until = begin + SOAK_SECONDS * block / (WARM_UP + SAMPLES)
            while done < block * BLOCK_CALLS or time.monotonic() < until:
                call()
            gc.collect()
            if block > WARM_UP:
                samples.append((done, tracemalloc.get_traced_memory()[0], resident()))
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    calls, traced, pages = map(list, zip(*samples, strict=True))
    per_call = {"traced": slope(calls, traced), "resident": slope(calls, pages)}
    print(f"{done} calls; bytes per call: {per_call}; MiB at the end: {pages[-1] / 2**20:.0f}")
    # The smallest Python object with anything in it takes 48 bytes or more, an answer 400: one that
    # every call left behind would show.
    assert per_call["traced"] < 24
    # Memory outside of Python comes in pages of 4,096 bytes and is not given back at once: 220 bytes per
    # call were seen in a short run, 26 in one of ten minutes. The encoding of one such context takes
    # 2,000 bytes or more.
    assert per_call["resident"] < 1000
