"""The end of a run: its parts put together to what its output's name asks for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qa_fast.data.answers import Prediction
from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.data.predictions import read_predictions, write_jsonl, write_parquet, write_run_qa
from qa_fast.files.writing import TEMPORARY, atomic, is_own_file, locked, naming

from .manifest import (
    SHARD_MANIFEST,
    Manifest,
    find_manifests,
    is_complete,
    read_manifest,
    shard_manifest,
)
from .output import Kind, Output
from .parts import FinishedPart, Part, finished_part, plan_parts

_STAGED = "run_qa"


def merge(name: str | Path) -> dict[str, Any]:
    """Put together what the processes of a run have made.

    Args:
        name: the output that they were given.

    Returns:
        The manifest of the finished run.

    Raises:
        ValueError: no such run, or one of which rows are missing; the message says which processes
            have to run again.
    """
    return merge_shares(Output.of(name)).to_dict()


def merge_shares(output: Output) -> Manifest:
    """`merge`, for an output that is known."""
    found = find_manifests(output)
    if not found:
        raise ValueError(f"{output.path}: no run wrote here")
    if is_complete(output):
        _remove_work(output)
        return found[0]
    num_shards = found[0].num_shards
    with locked(output.folder, "merge"):
        shares, missing = [], []
        for index in range(num_shards):
            path = shard_manifest(output, num_shards, index)
            share = read_manifest(path) if path.exists() else None
            if share is None or share.status != "complete":
                missing.append(str(index))
            else:
                shares.append(share)
        if missing:
            raise ArgumentError(
                f"{output.path}: of {num_shards} processes, those with ",
                Argument("shard_index"),
                f" {', '.join(missing[:20])}{' ...' if missing[20:] else ''} have not finished; run "
                "them again, then merge",
            )
        for share in shares[1:]:
            if share.settings != shares[0].settings:
                raise ValueError(f"{output.path}: its processes had different settings")
        sessions = [session for share in shares for session in share.sessions]
        return finish(output, replace(shares[0], sessions=sessions))


def finish(output: Output, manifest: Manifest) -> Manifest:
    """Check that every row is there once, write what ``output`` asks for and the manifest.

    May be called again after a crash at any point of it.
    """
    parts: list[Part] = []
    finished: list[FinishedPart] = []
    for part in plan_parts(manifest.rows, manifest.part_rows):
        found = finished_part(output.folder, part)
        if found is None or found.rows[1] != part.stop:
            raise ValueError(
                f"{output.folder / part.file}: rows {part.start} to {part.stop - 1} are missing; run "
                "the command that makes them again"
            )
        parts.append(part)
        finished.append(found)
    writers: dict[Kind, Callable[[Iterator[Prediction], Path], object]] = {
        "parquet": write_parquet,
        "jsonl": write_jsonl,
    }
    if output.kind == "run_qa":
        _write_run_qa(output, parts, manifest.scoring)
    elif output.kind != "folder":
        with atomic(output.path) as temporary:
            writers[output.kind](_read_parts(output, parts), temporary)
    if rejected := [part for part in parts if is_own_file(output.folder / part.rejects)]:
        with atomic(output.rejects) as temporary, temporary.open("wb") as file:
            for part in rejected:
                with (output.folder / part.rejects).open("rb") as more:
                    shutil.copyfileobj(more, file)
    manifest.written = sum(part.written for part in finished)
    manifest.rejected = sum(part.rejected for part in finished)
    # Of a single file the parts are gone.
    manifest.parts = [asdict(part) for part in finished] if output.kind == "folder" else []
    manifest.status = "complete"
    manifest.write(output.manifest)
    _remove_work(output)
    return manifest


def _read_parts(output: Output, parts: Iterable[Part]) -> Iterator[Prediction]:
    for part in parts:
        yield from read_predictions(output.folder / part.file)


def _write_run_qa(output: Output, parts: Iterable[Part], scoring: Any) -> None:
    staged = output.folder / _STAGED
    if staged.is_symlink():  # somebody else's, and a way out of the folder
        staged.unlink()
    staged.mkdir(exist_ok=True)
    with naming(output.path):
        predictions = _read_parts(output, parts)
        written = write_run_qa(predictions, staged / output.path.name, scoring=scoring)
    for file in written:
        with atomic(output.path.with_name(file.name)) as temporary:
            file.replace(temporary)


def _remove_work(output: Output) -> None:
    """Remove what is of no use after the end: only names that a run gives."""
    folder = output.folder
    names = [SHARD_MANIFEST.pattern, r"rejects-\d{6,}\.jsonl", rf"\..*{TEMPORARY}"]
    if output.kind != "folder":
        names += [r"manifest\.json", r"part-\d{6,}\.parquet", r"\.lock-.*"]
        shutil.rmtree(folder / _STAGED, ignore_errors=True)  # not through a link
    for path in folder.iterdir() if folder.is_dir() else ():
        if any(re.fullmatch(name, path.name) for name in names):
            path.unlink()
    if output.kind != "folder" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
