"""One process's share of a run: its rows, part by part."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Columns, Row
from qa_fast.data.sources import Source
from qa_fast.engine.engine import Engine
from qa_fast.engine.loading import ModelSpec, load_engine
from qa_fast.engine.windows import Stats
from qa_fast.files.reading import Watch
from qa_fast.files.writing import locked

from .answering import Answering, Reject
from .manifest import (
    Manifest,
    Session,
    check_settings,
    is_complete,
    is_unbegun,
    read_manifest,
    shard_manifest,
)
from .merging import finish, merge_shares
from .output import Output
from .parts import Part, finished_part, plan_parts, remove_unfinished, write_part
from .progress import reporting
from .provenance import engine_settings, model_name, prediction_versions
from .stopping import Interrupted, OnInterrupt, Stopping, telling_how_to_go_on

_MOST_PART_ROWS, _LEAST_PART_ROWS = 8192, 256
_PARTS = 64  # that many, where the sizes above allow it


class AnsweredPart(NamedTuple):
    """A part with what its rows have become."""

    part: Part
    predictions: list[Prediction]
    rejects: list[Reject]

    @property
    def end(self) -> int:
        """The row after its last, of those that there are."""
        return self.part.start + len(self.predictions) + len(self.rejects)


@dataclass(frozen=True, slots=True)
class Share:
    """What one process of a run has to do.

    Attributes:
        data: the questions of the whole run.
        watch: over the files that they are in.
        rows: how many they are; None where only reading them tells.
        target: what the run writes.
        spec: the model.
        answering: how it answers.
        columns: as in `predict`.
        limit: as in `predict`.
        part_rows: rows of a part.
        num_shards: how many processes share the run.
        index: which of them this is, from 0.
        on_interrupt: as in `predict`.
    """

    data: Source
    watch: Watch
    rows: int | None
    target: Output
    spec: ModelSpec
    answering: Answering
    columns: Columns
    limit: int | None
    part_rows: int
    num_shards: int
    index: int
    on_interrupt: OnInterrupt

    def answer(self, progress: bool | Callable[[int], object]) -> Manifest:
        """Answer the rows that are not answered yet.

        Returns:
            The manifest of the finished run; of this share, where it has others.
        """
        with locked(self.target.folder, f"{self.index}-of-{self.num_shards}"):
            engine = load_engine(self.spec)
            answering = replace(
                self.answering,
                options=engine.resolved(self.answering.options),
                num_workers=self._num_workers(engine),
            )
            settings = self._settings(engine, answering)
            self._check_output(settings)
            if is_complete(self.target):
                return merge_shares(self.target)
            manifest = Manifest(
                status="running",
                rows=self.rows,
                settings=settings,
                source=self.data.name,
                model=model_name(self.spec.model, engine),
                seed=None,  # nothing is random
                on_error=answering.on_error,
                sessions=read_manifest(self._path).sessions if self._path.exists() else [],
            )
            manifest.write(self._path)
            # Processes that began at the same time see each other here at the latest.
            check_settings(self.target, settings)
            end = self._answer_missing(engine, answering, manifest, progress)
            if self.rows is None:
                if not end:
                    raise ValueError(f"{self.data.name} holds no questions")
                manifest.rows = end
            return finish(self.target, manifest) if self.num_shards == 1 else self._end(manifest)

    @property
    def _path(self) -> Path:
        """Of its manifest."""
        return shard_manifest(self.target, self.num_shards, self.index)

    def _num_workers(self, engine: Engine) -> int | None:
        """Processes that share the rows share the cores too: none of them takes some by itself."""
        asked = self.answering.num_workers
        asked = engine.num_workers if asked is None else asked
        return 0 if asked is None and self.num_shards > 1 else asked

    def _parts(self) -> Iterator[Part]:
        return plan_parts(self.rows, self.part_rows, self.num_shards, self.index)

    def _settings(self, engine: Engine, answering: Answering) -> dict[str, Any]:
        """What decides the bytes of the results."""
        return {
            "input": self.data.fingerprint(),
            "columns": asdict(self.columns),
            "limit": self.limit,
            "output": self.target.kind,
            # What is stored of each answer: parts of versions that store something else do not mix.
            "fields": ", ".join(field.name for field in fields(Prediction)),
            **engine_settings(engine),
            "compile": self.spec.compile,
            "options": asdict(answering.options),
            "null_threshold": answering.null_threshold,
            "part_rows": self.part_rows,
            "num_shards": self.num_shards,
            "versions": prediction_versions(),
        }

    def _check_output(self, settings: dict[str, Any]) -> None:
        """Raise a ValueError where the run cannot begin or go on there."""
        check_settings(self.target, settings)
        if settings["input"] is None and not is_unbegun(self.target):
            raise ValueError(
                f"{self.target.path} holds a run, and whether that was on the same data cannot be "
                f"told, as {self.data.name} is no file; name another output, or remove it"
            )

    def _answer_missing(
        self,
        engine: Engine,
        answering: Answering,
        manifest: Manifest,
        progress: bool | Callable[[int], object],
    ) -> int:
        """Write the parts that are not there; the row after the last of them, or 0."""
        missing: Iterable[Part] = self._parts()
        total, done = None, 0
        if self.rows is not None:
            parts = list(missing)
            remove_unfinished(self.target.folder, parts)
            missing = [p for p in parts if finished_part(self.target.folder, p) is None]
            total = _size_of(parts)
            done = total - _size_of(missing)
        stopping = Stopping() if self.on_interrupt == "finish" else nullcontext(Stopping())
        with (
            telling_how_to_go_on(self.target, self.data),
            _session(manifest, self._path, engine),
            reporting(progress, total, done) as report,
            stopping as stop,
        ):
            todo = _until_stopped(missing, stop)
            last = self.rows or self.limit
            return self._write(_answer_parts(self.data, todo, last, answering, engine, report))

    def _write(self, answered: Iterable[AnsweredPart]) -> int:
        """Write the parts; the row after the last of them, or 0."""
        end = 0
        try:
            for found in answered:
                self.watch.check()
                write_part(self.target.folder, found.part, found.predictions, found.rejects)
                end = found.end
        except (ValueError, OSError):
            self.watch.check()  # where the data changed, that is what to tell
            raise
        return end

    def _end(self, manifest: Manifest) -> Manifest:
        """Record that the share is complete; others may not be."""
        parts = [finished_part(self.target.folder, part) for part in self._parts()]
        manifest.written = sum(part.written for part in parts if part is not None)
        manifest.rejected = sum(part.rejected for part in parts if part is not None)
        manifest.status = "complete"
        manifest.write(self._path)
        return manifest


def _until_stopped(parts: Iterable[Part], stop: Stopping) -> Iterator[Part]:
    """``parts``, until a signal says to stop."""
    for part in parts:
        if stop.signal is not None:
            raise Interrupted("", stop.signal)
        yield part


def _answer_parts(
    data: Source,
    parts: Iterable[Part],
    stop: int | None,
    answering: Answering,
    engine: Engine,
    report: Callable[[int], object],
) -> Iterator[AnsweredPart]:
    """The parts answered, until they or the rows end."""
    stream: Iterator[Row] = iter(())
    position = -1
    for part in parts:
        if position != part.start:
            stream = data.rows(part.start, stop)
        found = AnsweredPart(part, [], [])
        # A part is read by itself, so that its batches, and with them the last bits of its scores, do
        # not depend on where a run began.
        for result in answering.run(engine, islice(stream, part.stop - part.start)):
            if isinstance(result, Reject):
                found.rejects.append(result)
            else:
                found.predictions.append(result)
            report(1)
        position = found.end
        if position == part.start:
            break
        yield found


def default_part_rows(rows: int | None) -> int:
    """Rows of a part, for so many rows in all; None where that is not known."""
    if rows is None:
        return _MOST_PART_ROWS
    blocks = -(-rows // (_PARTS * _LEAST_PART_ROWS))
    return min(blocks * _LEAST_PART_ROWS, _MOST_PART_ROWS)


def _size_of(parts: Iterable[Part]) -> int:
    return sum(part.stop - part.start for part in parts)


@contextmanager
def _session(manifest: Manifest, path: Path, engine: Engine) -> Iterator[None]:
    """Adds to the manifest what is done inside, and how long it takes, also if an error ends it."""
    engine.stats = Stats()
    began, clock = datetime.now(timezone.utc), perf_counter()
    try:
        yield
    finally:
        counters = asdict(engine.stats)
        stages = {name: x for name, x in counters.items() if isinstance(x, float)}  # seconds
        session = Session(
            began=began.isoformat(timespec="seconds"),
            seconds=perf_counter() - clock,
            command=sys.argv,
            device=_device_name(engine.device),
            stages=stages,
            **{name: x for name, x in counters.items() if name not in stages},
        )
        manifest.sessions.append(session)
        with suppress(OSError):  # a full disk, of which the error above tells
            manifest.write(path)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
