"""The manifest of a run: whose results these are, whether they are all there, and what they become.

A manifest holds the settings of the run, which decide every byte of the results, and beside them what
does not: command lines, times, counts. The names of files that are read and removed are made here from
numbers, never taken from a manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qa_fast.files.json_text import read_json
from qa_fast.files.writing import TEMPORARY

from .output import Output
from .parts import MOST_SHARDS, plan_parts

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
