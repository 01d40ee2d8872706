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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from qa_fast.data.answers import Prediction
from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.data.predictions import to_table
from qa_fast.files.json_text import parse_json
from qa_fast.files.parquet import import_pyarrow_parquet, open_parquet
from qa_fast.files.writing import TEMPORARY, atomic, is_own_file

if TYPE_CHECKING:
    from .answering import Reject

_PART_KEY = b"qa_fast.part"
MOST_SHARDS = 99_999  # names of files have five digits for them


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
            raise ArgumentError(
                "the tasks of this Slurm array are not numbered evenly, so which part of the rows "
                "this one takes is not clear: give ",
                Argument("num_shards"),
                " and ",
                Argument("shard_index"),
            )
        return total, index
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return number("WORLD_SIZE"), number("RANK")
    return 1, 0


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


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """What the file of a part holds, as the manifest of a folder records it.

    Attributes:
        file: its name.
        rows: [2] the first of its rows and the one after the last.
        written: predictions in it.
        rejected: the other rows, which could not be answered.
        bytes: its size.
    """

    file: str
    rows: list[int]
    written: int
    rejected: int
    bytes: int


def finished_part(folder: Path, part: Part) -> FinishedPart | None:
    """What the file of ``part`` holds; None if it is not there."""
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
    return FinishedPart(
        file=part.file,
        rows=[start, stop],
        written=metadata.num_rows,
        rejected=rejected,
        bytes=path.stat().st_size,
    )


def remove_unfinished(folder: Path, parts: Iterable[Part]) -> None:
    """Remove what a killed process left of ``parts``."""
    names = {f".{name}{TEMPORARY}" for part in parts for name in (part.file, part.rejects)}
    for path in folder.glob(f".*{TEMPORARY}"):
        if path.name in names:
            path.unlink(missing_ok=True)


def _write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for reject in rejects:
            file.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
