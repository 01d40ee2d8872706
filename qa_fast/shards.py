"""Where predictions go: in parts that are finished one by one, under a manifest that says what they are.

A run's rows are cut into parts of equal size, part k is the file ``part-00000k.parquet``. A part is
written under another name, synced and renamed, so a part that is there is whole, and its footer says
which rows it holds. After a crash the same run goes on with the parts that are missing. Several
processes share a run by taking parts of their own; which of them wrote a part makes no difference to it.

While it runs, the parts and the manifest stand in the output itself where that is a folder, else in
``OUTPUT.parts``, from which the output is put together at the end.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .files import import_pyarrow_parquet, open_parquet, parse_json
from .predictions import Prediction, run_qa_files, to_table

if TYPE_CHECKING:
    from .answering import Reject

Kind = Literal["folder", "parquet", "jsonl", "run_qa"]
_SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "run_qa",
    "": "folder",
}
_PART_KEY = b"qa_fast.part"
MOST_SHARDS = 99_999  # names of files have five digits for them
TEMPORARY = ".unfinished"


@dataclass(frozen=True, slots=True)
class Output:
    """What a run ends with, as the name of it says.

    Attributes:
        path: the name.
        kind: "folder": a folder of Parquet files; "parquet" and "jsonl": one file; "run_qa": the
            JSON files of ``run_qa.py``.
    """

    path: Path
    kind: Kind

    @classmethod
    def of(cls, name: str | Path) -> Output:
        """The output of that name."""
        path = Path(name)
        if path.is_dir() or str(name).endswith(("/", os.sep)):
            return cls(path, "folder")
        if path.suffix not in _SUFFIXES:
            raise ValueError(
                f"output {str(name)!r}: its ending must be .parquet, .jsonl or .json (the files of "
                f"run_qa.py), or none for a folder of Parquet files; got {path.suffix!r}. A folder "
                "with a dot in its name is given with a slash at the end"
            )
        return cls(path, _SUFFIXES[path.suffix])

    @property
    def folder(self) -> Path:
        """Where the parts stand while the run goes on."""
        return self.path if self.kind == "folder" else self._beside(".parts")

    @property
    def manifest(self) -> Path:
        """The manifest of the finished run."""
        return (
            self.path / "manifest.json" if self.kind == "folder" else self._beside(".manifest.json")
        )

    @property
    def rejects(self) -> Path:
        """The rows that could not be answered, if there are any."""
        name = "rejects.jsonl"
        return self.path / name if self.kind == "folder" else self._beside(f".{name}")

    @property
    def files(self) -> list[Path]:
        """The files that the parts are put together to; none for a folder, which holds them."""
        if self.kind == "folder":
            return []
        return run_qa_files(self.path) if self.kind == "run_qa" else [self.path]

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start`` to ``stop`` - 1 of a run, which become one file; the last part may be shorter."""

    number: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"part-{self.number:06d}.parquet"

    @property
    def rejects(self) -> str:
        """The name of the file of its rejected rows."""
        return f"rejects-{self.number:06d}.jsonl"


def plan_parts(
    rows: int | None, part_rows: int, num_shards: int = 1, shard_index: int = 0
) -> Iterator[Part]:
    """The parts that process ``shard_index`` of ``num_shards`` makes.

    Args:
        rows: of the whole run; None where that is not known, for parts without end.
        part_rows: rows of a part.
        num_shards: how many processes share the run.
        shard_index: which of them, from 0.

    Example:
        >>> [part.number for part in plan_parts(100, 10, num_shards=3, shard_index=1)]
        [3, 4, 5]
    """
    if rows is None:
        return (Part(k, k * part_rows, (k + 1) * part_rows) for k in count())
    parts = -(-rows // part_rows)
    mine = range(parts * shard_index // num_shards, parts * (shard_index + 1) // num_shards)
    return (Part(k, k * part_rows, min((k + 1) * part_rows, rows)) for k in mine)


def shards_from_environment(environ: Mapping[str, str]) -> tuple[int, int]:
    """How many processes share the run and which this one is, from a Slurm array or torchrun.

    Returns:
        ``(num_shards, shard_index)``; (1, 0) where the environment says nothing.

    Raises:
        ValueError: variables that make no sense together.
    """

    def number(name: str, default: int | None = None) -> int:
        value = environ.get(name, default)
        try:
            return int(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(f"{name} in the environment must be a number; got {value!r}") from None

    if "SLURM_ARRAY_TASK_ID" in environ:
        total = number("SLURM_ARRAY_TASK_COUNT")
        low, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
        index, rest = divmod(number("SLURM_ARRAY_TASK_ID") - low, step)
        if rest or not 0 <= index < total:
            raise ValueError(
                "the tasks of this Slurm array are not numbered evenly, so which part of the rows "
                "this one takes is not clear: give --num-shards and --shard-index"
            )
        return total, index
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return number("WORLD_SIZE"), number("RANK")
    return 1, 0


# --- files --------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; what is written there appears as ``path`` at the end, whole.

    After the block has ended the file is on the disk, its name too. If the block raises, nothing is
    left. An `OSError` names ``path``.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with naming(path, temporary):
            # A link that somebody put there would lead to another file.
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Gives ``path`` as its name to an `OSError` with no name, as of a full disk, or ``temporary``'s."""
    try:
        yield
    except OSError as error:
        if not error.errno or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file that was asked for by name: whole or not at all.

    Behind a link the file that it leads to is written; into a device or a pipe, straight.
    """
    if path.exists() and not path.is_file():
        with naming(path):
            path.write_bytes(data)
        return
    with atomic(path.resolve()) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` atomically."""
    with atomic(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # A lone surrogate, as of a file's name in another encoding, becomes its escape in JSON.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def _sync_folder(path: Path) -> None:
    """Make the names in the folder ``path`` last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock ``name`` of ``folder``, which is made where it is missing.

    The lock ends with the process, however that ends.

    Raises:
        ValueError: another process holds it.
    """
    import fcntl

    path = folder / f".lock-{name}"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{folder}: another process is writing this output now; wait for it, or name "
                    "another output"
                ) from None
            try:
                same = path.stat().st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                same = False
            if not same:  # whoever held it has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


# --- parts --------------------------------------------------------------------------------------


def write_part(
    folder: Path, part: Part, predictions: list[Prediction], rejects: list[Reject]
) -> None:
    """Write a part and its rejected rows, which together are its rows, for good."""
    rows = len(predictions) + len(rejects)
    if rejects:
        with atomic(folder / part.rejects) as temporary:
            _write_rejects(temporary, rejects)
    parquet = import_pyarrow_parquet()
    note = json.dumps({"rows": [part.start, part.start + rows], "rejected": len(rejects)})
    with atomic(folder / part.file) as temporary:
        table = to_table(predictions).replace_schema_metadata({_PART_KEY: note})
        parquet.write_table(table, temporary, compression="zstd")


def finished_part(folder: Path, part: Part) -> dict[str, Any] | None:
    """What the file of ``part`` holds: file, rows, written, rejected, bytes; None if it is not there."""
    path = folder / part.file
    if not is_own_file(path):
        return None
    try:
        with open_parquet(path) as file:
            metadata = file.metadata
        note = parse_json((metadata.metadata or {}).get(_PART_KEY, b"{}"))
        (start, stop), rejected = note["rows"], note["rejected"]
        sound = all(type(number) is int for number in (start, stop, rejected))
        sound = sound and start == part.start and stop <= part.stop
        sound = sound and 0 <= rejected == stop - start - metadata.num_rows
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise ValueError(
            f"{path} does not hold rows {part.start} to {part.stop} of this run; remove it, and the "
            "same command makes it again"
        )
    return {
        "file": part.file,
        "rows": [start, stop],
        "written": metadata.num_rows,
        "rejected": rejected,
        "bytes": path.stat().st_size,
    }


def is_own_file(path: Path) -> bool:
    """Whether ``path`` is there; a ValueError where it is a link or the like, which no run makes."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is not a file of this run, but a link or a folder, which may lead to files of "
            "others; remove it, and the same command makes the file again"
        )
    return True


def remove_unfinished(folder: Path, parts: Iterable[Part]) -> None:
    """Remove what a killed process left of ``parts``."""
    names = {f".{name}{TEMPORARY}" for part in parts for name in (part.file, part.rejects)}
    for path in folder.glob(f".*{TEMPORARY}"):
        if path.name in names:
            path.unlink(missing_ok=True)


def _write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for reject in rejects:
            record = {
                "row": reject.row,
                "place": reject.place,
                "id": reject.id,
                "reason": reject.reason,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
