"""Settings that must be made before the first test.

Without a GPU, Triton kernels run through Triton's interpreter: set before Triton is imported. Where
tests run in several processes (pytest-xdist), these share the cores. Generated examples are the same
in every run; ``--hypothesis-profile=deep`` draws a hundred times as many, new ones each time.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Graphs that tests convert: one folder for all of their processes, not the user's own.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["QA_FAST_CACHE"] = tempfile.mkdtemp(prefix="qa-fast-tests-")
    atexit.register(shutil.rmtree, os.environ["QA_FAST_CACHE"], ignore_errors=True)

# A shell starts background commands with SIGINT ignored, and their children would ignore it too:
# also those that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, torch.get_num_threads() // _workers))

# No deadline: machines are slow at times. Health checks judge speed too.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "deep", settings.get_profile("suite"), derandomize=False, max_examples=10_000, print_blob=True
)
settings.load_profile("suite")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that has what the root has, so that what is written does not land there."""
    for entry in Path(__file__).parents[1].iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.fixture
def ready_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine waits until the processes that it starts for texts can work."""
    # Not before the settings above are made.
    from qa_fast.engine.workers import Crew

    real = Crew._start

    def start(crew: Crew, count: int) -> None:
        real(crew, count)
        crew.wait()

    monkeypatch.setattr(Crew, "_start", start)


@pytest.fixture(scope="session")
def fork() -> Any:
    """Starts processes that have PyTorch loaded already."""
    context = multiprocessing.get_context("forkserver")
    loaded = ["pandas", "pyarrow.parquet", "transformers.models.bert.modeling_bert"]
    context.set_forkserver_preload(["qa_fast.runs.predict", "qa_fast.cli", *loaded])

    def start(code: str, **names: Any) -> Any:
        # One thread each: several of them share the cores with the tests.
        threads = "import torch; torch.set_num_threads(1)\n"
        process = context.Process(target=exec, args=(threads + code, names))
        process.start()
        return process

    return start
