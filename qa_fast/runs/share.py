"""One process's share of a run: its rows, part by part."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Row
from qa_fast.data.sources import Source
from qa_fast.engine.engine import Engine
from qa_fast.engine.options import Options, default_doc_stride, default_max_seq_len
from qa_fast.engine.windows import Stats
from qa_fast.files.writing import write_json

from .answering import Answering, Reject
from .parts import Part
from .stopping import Interrupted, Stopping

_MOST_PART_ROWS, _LEAST_PART_ROWS = 8192, 256
_PARTS = 64  # that many, where the sizes above allow it


def until_stopped(parts: Iterable[Part], stop: Stopping) -> Iterator[Part]:
    """``parts``, until a signal says to stop."""
    for part in parts:
        if stop.signal is not None:
            raise Interrupted("", stop.signal)
        yield part


def answer_parts(
    data: Source,
    parts: Iterable[Part],
    stop: int | None,
    answering: Answering,
    engine: Engine,
    report: Callable[[int], object],
) -> Iterator[tuple[Part, list[Prediction], list[Reject]]]:
    """Each part with its predictions and its rejects, until the parts or the rows end."""
    stream: Iterator[Row] = iter(())
    position = -1
    for part in parts:
        if position != part.start:
            stream, position = data.rows(part.start, stop), part.start
        predictions: list[Prediction] = []
        rejects: list[Reject] = []
        # A part is read by itself, so that its batches, and with them the last bits of its scores, do
        # not depend on where a run began.
        for result in answering.run(engine, islice(stream, part.stop - part.start)):
            if isinstance(result, Reject):
                rejects.append(result)
            else:
                predictions.append(result)
            report(1)
        position += len(predictions) + len(rejects)
        if position == part.start:
            break
        yield part, predictions, rejects


def default_part_rows(rows: int | None) -> int:
    """Rows of a part, for so many rows in all; None where that is not known."""
    if rows is None:
        return _MOST_PART_ROWS
    blocks = -(-rows // (_PARTS * _LEAST_PART_ROWS))
    return min(blocks * _LEAST_PART_ROWS, _MOST_PART_ROWS)


def size_of(parts: Iterable[Part]) -> int:
    """The rows of ``parts``."""
    return sum(part.stop - part.start for part in parts)


def resolved(engine: Engine, options: Options) -> Options:
    """``options`` with the numbers that None stands for."""
    length = options.max_seq_len or default_max_seq_len(engine.tokenizer, engine.position_limit)
    stride = default_doc_stride(length) if options.doc_stride is None else options.doc_stride
    return replace(options, max_seq_len=length, doc_stride=stride)


@contextmanager
def session(manifest: dict[str, Any], path: Path, engine: Engine) -> Iterator[None]:
    """Adds to the manifest what is done inside, and how long it takes, also if an error ends it."""
    engine.stats = Stats()
    began, clock = datetime.now(timezone.utc), perf_counter()
    try:
        yield
    finally:
        counters = asdict(engine.stats)
        stages = {name: x for name, x in counters.items() if isinstance(x, float)}  # seconds
        manifest["sessions"].append(
            {
                "began": began.isoformat(timespec="seconds"),
                "seconds": perf_counter() - clock,
                "command": sys.argv,
                "device": _device_name(engine.device),
                "stages": stages,
                **{name: x for name, x in counters.items() if name not in stages},
            }
        )
        with suppress(OSError):  # a full disk, of which the error above tells
            write_json(path, manifest)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
