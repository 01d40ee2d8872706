"""The manifest of a run: whose results these are, and whether they are all there.

A manifest holds the settings of the run, which decide every byte of the results, and beside them what
does not: command lines, times, counts. The names of files that are read and removed are made here from
numbers, never taken from a manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.files.json_text import read_json
from qa_fast.files.writing import TEMPORARY, write_json

from .output import Output
from .parts import MOST_SHARDS, plan_parts

if TYPE_CHECKING:
    from qa_fast.data.examples import OnError

SHARD_MANIFEST = re.compile(r"manifest-(\d{5})-of-(\d{5})\.json")

_R = TypeVar("_R", bound="_Record")
_ABSENT: Any = ...  # the value of a field whose key is not in the file


# --- what stands in the file --------------------------------------------------------------------


@dataclass(kw_only=True)
class _Record:
    """A JSON object whose known keys are fields.

    What is read is written back as it was, with what a newer version may have put there.

    Attributes:
        more: the other keys and their values.
        order: in which order the keys stand in the file; those that are not named come last.
    """

    more: dict[str, Any] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    @classmethod
    def _known(cls) -> list[str]:
        return [known.name for known in fields(cls) if known.name not in ("more", "order")]

    @classmethod
    def of(cls: type[_R], found: Mapping[str, Any]) -> _R:
        """The record in a JSON object that is sound."""
        known = {name: found[name] for name in cls._known() if name in found}
        more = {name: value for name, value in found.items() if name not in known}
        return cls(**known, more=more, order=tuple(found))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, with its keys in order."""
        values = {name: getattr(self, name) for name in self._known()}
        present = {name: value for name, value in values.items() if value is not _ABSENT}
        present.update(self.more)
        names = [name for name in self.order if name in present]
        return {name: present[name] for name in dict.fromkeys([*names, *present])}


@dataclass(kw_only=True)
class Session(_Record):
    """One go at a run, from the start of a process to its end or its failure.

    Attributes:
        began: when, in ISO 8601.
        seconds: how long it took in all.
        command: the command line.
        device: the name of what the model ran on.
        stages: seconds by stage of the engine; stages run side by side.
        questions: rows that were read, as all these counters in this session only.
        chunks: rows that the model read.
        tokens: tokens in them.
        padded_tokens: the same with the padding.
        batches: calls of the model.
    """

    began: str = _ABSENT
    seconds: float
    command: list[str] = _ABSENT
    device: str = _ABSENT
    stages: dict[str, float]
    questions: int
    chunks: int = _ABSENT
    tokens: int = _ABSENT
    padded_tokens: int = _ABSENT
    batches: int = _ABSENT


@dataclass(kw_only=True)
class Manifest(_Record):
    """What is recorded of a run, or of one process's share of it.

    Attributes:
        status: "running" or "complete".
        rows: of the whole run; None where only its end will tell.
        settings: what decides the bytes of the results.
        source: the name of the data.
        model: the name of the model.
        seed: None, as nothing is random.
        on_error: as in `predict`.
        sessions: the goes at it, in order; a run on Ray has the last three attributes instead.
        written: how many predictions there are; not before the end.
        rejected: how many rows could not be answered; not before the end.
        parts: what each file of a folder holds, [] for a single file; not before the end.
        command: the command line.
        began: when, in ISO 8601.
        seconds: how long it took in all.
    """

    status: Literal["running", "complete"]
    rows: int | None
    settings: dict[str, Any]
    source: str = _ABSENT
    model: str = _ABSENT
    seed: None = _ABSENT
    on_error: OnError = _ABSENT
    sessions: list[Session] = _ABSENT
    written: int = _ABSENT
    rejected: int = _ABSENT
    parts: list[dict[str, Any]] = _ABSENT
    command: list[str] = _ABSENT
    began: str = _ABSENT
    seconds: float = _ABSENT

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Manifest:
        """The manifest in a JSON object that is sound."""
        manifest = super().of(found)
        manifest.sessions = [Session.of(session) for session in found["sessions"]]
        return manifest

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, with its keys in order."""
        record = super().to_dict()
        if "sessions" in record:
            record["sessions"] = [session.to_dict() for session in self.sessions]
        return record

    def write(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all."""
        write_json(path, self.to_dict())

    @property
    def part_rows(self) -> int:
        """Rows of a part."""
        return int(self.settings["part_rows"])

    @property
    def num_shards(self) -> int:
        """How many processes share the run."""
        return int(self.settings["num_shards"])

    @property
    def scoring(self) -> Any:
        """The unit of the scores: a `Scoring`."""
        return self.settings["options"]["scoring"]


def read_manifest(path: Path) -> Manifest:
    """The manifest in ``path``, checked as far as it is used."""
    try:
        found = read_json(path)
        sound = _is_shallow(found) and _is_sound(found)
    except (ValueError, LookupError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"{path} is not the manifest of a run; remove it or name another")
    return Manifest.of(found)


def _is_sound(found: Any) -> bool:
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
        and isinstance(found["sessions"], list)
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


# --- the manifests of an output -----------------------------------------------------------------


def shard_manifest(output: Output, num_shards: int, shard_index: int) -> Path:
    """Where the manifest of one process stands while the run goes on."""
    if num_shards == 1:
        return output.folder / "manifest.json"
    return output.folder / f"manifest-{shard_index:05d}-of-{num_shards:05d}.json"


def find_manifests(output: Output) -> list[Manifest]:
    """The manifests of the run that ``output`` holds, first that of the finished run."""
    paths = [output.manifest, output.folder / "manifest.json", *_shard_manifests(output)]
    return [read_manifest(path) for path in dict.fromkeys(paths) if path.exists()]


def _shard_manifests(output: Output) -> list[Path]:
    if not output.folder.is_dir():
        return []
    return sorted(p for p in output.folder.iterdir() if SHARD_MANIFEST.fullmatch(p.name))


def is_complete(output: Output) -> bool:
    """Whether the run in ``output`` is finished, and what it wrote is still there."""
    if not output.manifest.exists():
        return False
    manifest = read_manifest(output.manifest)
    if manifest.status != "complete":
        return False
    files: Iterable[Path] = output.files[:2]  # the other two of run_qa.py's are not always written
    if output.kind == "folder":
        parts = plan_parts(manifest.rows, manifest.part_rows)
        files = (output.folder / part.file for part in parts)
    return all(file.exists() for file in files)


def is_unbegun(output: Output) -> bool:
    """Whether the run in ``output``, of one process, has finished no part: nothing to go on with."""
    alone = all(
        manifest.status == "running" and manifest.num_shards == 1
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
    now = _leaves(json.loads(json.dumps(settings)))  # as a manifest gives them back
    for manifest in found:
        before = _leaves(manifest.settings)
        changes: list[str | Argument] = []
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                was, is_now = _in_json(before.get(name)), _in_json(now.get(name))
                changes += [
                    "; " if changes else "",
                    Argument(name.removeprefix("options.")),
                    f" was {was} and is now {is_now}",
                ]
        if changes and not (settings["num_shards"] == 1 and is_unbegun(output)):
            raise ArgumentError(
                f"{output.path} holds a run with other settings: ",
                *changes,
                ". Give the same ones to go on with it, name another output, or remove it",
            )


def _leaves(value: object, path: str = "") -> dict[str, object]:
    """The leaves of a nested JSON value, by the paths that lead to them."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    return {
        name: leaf
        for key, inner in items
        for name, leaf in _leaves(inner, f"{path}.{key}" if path else str(key)).items()
    }


def _in_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
