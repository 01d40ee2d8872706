"""The manifest of a run: whose results these are, whether they are all there, and what they become.

A manifest holds the settings of the run, which decide every byte of the results, and beside them what
does not: command lines, times, counts. The names of files that are read and removed are made here from
numbers, never taken from a manifest.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import read_json
from .predictions import Prediction, read_predictions, write_jsonl, write_parquet, write_run_qa
from .shards import (
    MOST_SHARDS,
    TEMPORARY,
    Kind,
    Output,
    Part,
    atomic,
    finished_part,
    is_own_file,
    locked,
    naming,
    plan_parts,
    write_json,
)

_STAGED = "run_qa"
_SHARD_MANIFEST = re.compile(r"manifest-(\d{5})-of-(\d{5})\.json")


def shard_manifest(output: Output, num_shards: int, shard_index: int) -> Path:
    """Where the manifest of one process stands while the run goes on."""
    if num_shards == 1:
        return output.folder / "manifest.json"
    return output.folder / f"manifest-{shard_index:05d}-of-{num_shards:05d}.json"


def find_manifests(output: Output) -> list[dict[str, Any]]:
    """The manifests of the run that ``output`` holds, first that of the finished run."""
    paths = [output.manifest, output.folder / "manifest.json", *_shard_manifests(output)]
    return [read_manifest(path) for path in dict.fromkeys(paths) if path.exists()]


def is_complete(output: Output) -> bool:
    """Whether the run in ``output`` is finished, and what it wrote is still there."""
    if not output.manifest.exists():
        return False
    manifest = read_manifest(output.manifest)
    if manifest["status"] != "complete":
        return False
    files: Iterable[Path] = output.files[:2]  # the other two of run_qa.py's are not always written
    if output.kind == "folder":
        parts = plan_parts(manifest["rows"], manifest["settings"]["part_rows"])
        files = (output.folder / part.file for part in parts)
    return all(file.exists() for file in files)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in ``path``, checked as far as it is used."""
    try:
        manifest = read_json(path)
        sound = _is_shallow(manifest) and _is_manifest(manifest)
    except (ValueError, LookupError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"{path} is not a manifest of qa-fast predict; remove it or name another")
    return manifest


def _is_manifest(found: Any) -> bool:
    """Whether ``found`` has what is taken from a manifest; an error is a no, too."""
    settings, rows, done = found["settings"], found["rows"], found["status"] == "complete"
    counts = [settings["part_rows"], settings["num_shards"]]
    if done or rows is not None:
        counts.append(rows)
    sizes = [found["written"], found["rejected"]] if done else []
    for session in found["sessions"]:
        sizes += [session["seconds"], session["questions"], *session["stages"].values()]
    return (
        (done or found["status"] == "running")
        and isinstance(settings, dict)
        and settings["num_shards"] <= MOST_SHARDS
        and settings["options"]["scoring"] in ("probability", "shared", "logit")
        and all(type(count) is int and count > 0 for count in counts)
        and all(type(size) in (int, float) and 0 <= size < 1e15 for size in sizes)
    )


def _is_shallow(value: object, levels: int = 16) -> bool:
    """Whether lists and objects are nested in no more levels than a manifest's."""
    level = [value]
    for _ in range(levels):
        holders = [x for x in level if isinstance(x, (dict, list))]
        level = [x for y in holders for x in (y.values() if isinstance(y, dict) else y)]
    return not level


def is_unbegun(output: Output) -> bool:
    """Whether the run in ``output``, of one process, has finished no part: nothing to go on with."""
    alone = all(
        manifest["status"] == "running" and manifest["settings"]["num_shards"] == 1
        for manifest in find_manifests(output)
    )
    return alone and not any(output.folder.glob("part-*"))


def check_settings(output: Output, settings: Mapping[str, Any]) -> None:
    """Raise a ValueError if ``output`` holds a run with other settings, or something else."""
    found = find_manifests(output)
    if not found:
        taken = [path for path in output.files if path.exists()]
        if output.folder.exists():
            # A process that was killed before its first manifest leaves no more than these.
            begun = re.compile(rf"\.lock-.*|\..*manifest.*{TEMPORARY}")
            taken += [p for p in output.folder.iterdir() if not begun.fullmatch(p.name)]
        if taken:
            raise ValueError(
                f"{taken[0]} is there already and is not from a run of this command; name another "
                "output, or remove it"
            )
    now = _flat(json.loads(json.dumps(settings)))  # as a manifest gives them back
    for manifest in found:
        before = _flat(manifest["settings"])
        changes = [
            f"{name.removeprefix('options.')} was {_shown(before.get(name))} and is now "
            + _shown(now.get(name))
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if changes and not (settings["num_shards"] == 1 and is_unbegun(output)):
            raise ValueError(
                f"{output.path} holds a run with other settings: {'; '.join(changes)}. Give the same "
                "ones to go on with it, name another output, or remove it"
            )


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """A nested JSON value by the paths to its leaves."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {
        name: leaf
        for key, inner in items
        for name, leaf in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shard_manifests(output: Output) -> list[Path]:
    if not output.folder.is_dir():
        return []
    return sorted(p for p in output.folder.iterdir() if _SHARD_MANIFEST.fullmatch(p.name))


# --- the end ------------------------------------------------------------------------------------


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
    output = Output.of(name)
    found = find_manifests(output)
    if not found:
        raise ValueError(f"{output.path}: no run of qa-fast predict wrote here")
    if is_complete(output):
        _remove_work(output)
        return found[0]
    num_shards = found[0]["settings"]["num_shards"]
    with locked(output.folder, "merge"):
        manifests, missing = [], []
        for index in range(num_shards):
            path = shard_manifest(output, num_shards, index)
            shard = read_manifest(path) if path.exists() else None
            if shard is None or shard["status"] != "complete":
                missing.append(str(index))
            else:
                manifests.append(shard)
        if missing:
            raise ValueError(
                f"{output.path}: of {num_shards} processes, those with --shard-index "
                f"{', '.join(missing[:20])}{' ...' if missing[20:] else ''} have not finished; run them "
                "again, then merge"
            )
        for shard in manifests[1:]:
            if shard["settings"] != manifests[0]["settings"]:
                raise ValueError(f"{output.path}: its processes had different settings")
        sessions = [session for shard in manifests for session in shard["sessions"]]
        return finish(output, {**manifests[0], "sessions": sessions})


def finish(output: Output, manifest: dict[str, Any]) -> dict[str, Any]:
    """Check that every row is there once, write what ``output`` asks for and the manifest.

    May be called again after a crash at any point of it.
    """
    parts: list[Part] = []
    records: list[dict[str, Any]] = []
    for part in plan_parts(manifest["rows"], manifest["settings"]["part_rows"]):
        record = finished_part(output.folder, part)
        if record is None or record["rows"][1] != part.stop:
            raise ValueError(
                f"{output.folder / part.file}: rows {part.start} to {part.stop - 1} are missing; run "
                "the command that makes them again"
            )
        parts.append(part)
        records.append(record)
    scoring = manifest["settings"]["options"]["scoring"]
    writers: dict[Kind, Callable[[Iterator[Prediction], Path], object]] = {
        "parquet": write_parquet,
        "jsonl": write_jsonl,
    }
    if output.kind == "run_qa":
        _write_run_qa(output, parts, scoring)
    elif output.kind != "folder":
        with atomic(output.path) as temporary:
            writers[output.kind](_predictions(output, parts), temporary)
    if rejected := [part for part in parts if is_own_file(output.folder / part.rejects)]:
        with atomic(output.rejects) as temporary, temporary.open("wb") as file:
            for part in rejected:
                with (output.folder / part.rejects).open("rb") as more:
                    shutil.copyfileobj(more, file)
    for size in ("written", "rejected"):
        manifest[size] = sum(record[size] for record in records)
    # Of a single file the parts are gone.
    manifest["parts"] = records if output.kind == "folder" else []
    manifest["status"] = "complete"
    write_json(output.manifest, manifest)
    _remove_work(output)
    return manifest


def _predictions(output: Output, parts: Iterable[Part]) -> Iterator[Prediction]:
    for part in parts:
        yield from read_predictions(output.folder / part.file)


def _write_run_qa(output: Output, parts: Iterable[Part], scoring: Any) -> None:
    staged = output.folder / _STAGED
    if staged.is_symlink():  # somebody else's, and a way out of the folder
        staged.unlink()
    staged.mkdir(exist_ok=True)
    with naming(output.path):
        predictions = _predictions(output, parts)
        written = write_run_qa(predictions, staged / output.path.name, scoring=scoring)
    for file in written:
        with atomic(output.path.with_name(file.name)) as temporary:
            file.replace(temporary)


def _remove_work(output: Output) -> None:
    """Remove what is of no use after the end: only names that a run gives."""
    folder = output.folder
    names = [_SHARD_MANIFEST.pattern, r"rejects-\d{6,}\.jsonl", rf"\..*{TEMPORARY}"]
    if output.kind != "folder":
        names += [r"manifest\.json", r"part-\d{6,}\.parquet", r"\.lock-.*"]
        shutil.rmtree(folder / _STAGED, ignore_errors=True)  # not through a link
    for path in folder.iterdir() if folder.is_dir() else ():
        if any(re.fullmatch(name, path.name) for name in names):
            path.unlink()
    if output.kind != "folder" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
