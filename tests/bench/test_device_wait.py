"""bench/device_wait.py: times of a device's events, and the engine they are recorded around."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import qa_fast
from qa_fast.engine import Options, windows

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from device_wait import DeviceWait, waited_share  # noqa: E402

sys.path.remove(str(BENCH))  # other files there have the names of libraries

PAIRS = [("Who wrote it?", "Ada wrote the note in 1843.")] * 3


@pytest.mark.parametrize(
    ("work", "total", "share"),
    [
        ([], 4, 1),
        ([(0, 4)], 4, 0),
        ([(1, 2), (3, 4)], 4, 0.5),
        ([(3, 4), (1, 2)], 4, 0.5),  # two threads note them in any order
        ([(1, 3), (2, 4)], 4, 0.25),  # overlapping
        ([(0, 4), (1, 2), (3, 3)], 8, 0.5),  # one within the other
        ([(0, 2), (2, 4)], 4, 0),
    ],
)
def test_the_share_of_time_without_work(
    work: list[tuple[float, float]], total: float, share: float
) -> None:
    assert waited_share(work, total) == pytest.approx(share)


class Event:
    """An event of a device that does everything at once: its time is the host's."""

    recorded = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        assert stream == "stream"
        self.time = time.perf_counter()
        Event.recorded += 1

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return (other.time - self.time) * 1e3


class OnGpu:
    """An engine that says that it is on a GPU."""

    device = torch.device("cuda")

    def __init__(self, engine: Any) -> None:
        self._forward = engine._forward


def test_everything_the_device_does_is_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "stream")
    engine = qa_fast.pipeline(device="cpu").engine
    expected = list(engine.read(PAIRS, Options()))
    forward = engine._forward
    before = windows.decode_spans, {*vars(forward)}, {*vars(forward.device)}
    wait = DeviceWait(OnGpu(engine))  # type: ignore[arg-type]
    for run in range(2):
        Event.recorded = 0
        with wait.run():
            assert list(engine.read(PAIRS, Options())) == expected
            time.sleep(0.05)  # the host does something else
        # The run, three arguments of the model, a batch, decoding, fetching.
        assert Event.recorded == 2 * (1 + 3 + 1 + 1 + 1)
        assert 0 < wait.shares[run] < 1
    assert len(wait.shares) == 2
    assert (windows.decode_spans, {*vars(forward)}, {*vars(forward.device)}) == before


def test_on_a_cpu_nothing_is_recorded() -> None:
    engine = qa_fast.pipeline(device="cpu").engine
    wait = DeviceWait(engine)
    with wait.run():
        assert len(list(engine.read(PAIRS, Options()))) == 3
    assert wait.shares == []
