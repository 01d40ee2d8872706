"""Settings that must be made before the first test.

Without a GPU, Triton kernels run through Triton's interpreter: set before Triton is imported. Where
tests run in several processes (pytest-xdist), these share the cores. Generated examples are the same
in every run; ``--hypothesis-profile=deep`` draws a hundred times as many, new ones each time.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

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
