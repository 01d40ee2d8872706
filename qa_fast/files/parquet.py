"""Parquet that others wrote: opened and read row by row; an error names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .kinds import is_parquet, not_data, packing, unreadable
from .reading import first_bytes

_BATCH_ROWS = 256


def parquet_files(path: Path) -> list[Path]:
    """The Parquet file ``path``, or those in the folder ``path``, by name.

    Raises:
        OSError: there are none, or a folder that cannot be looked into.
    """
    if not path.is_dir():
        path.stat()
        return [path]

    def stop(error: OSError) -> None:
        raise error

    files: list[Path] = []
    for folder, folders, names in os.walk(path, onerror=stop):
        # Names that begin so are not data, by the convention of Hive and Spark.
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        files += [
            Path(folder, name)
            for name in names
            if name.endswith(".parquet") and not name.startswith((".", "_"))
        ]
    if not files:
        hint = "; name the file in it that holds the data"
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            hint = (
                ", but a data set that datasets saved: pass datasets.load_from_disk of it in Python"
            )
        raise FileNotFoundError(f"{path}: there is no .parquet file in this folder{hint}")
    return sorted(files)


def open_parquet(path: Path) -> Any:
    """An open ``pyarrow.parquet.ParquetFile``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no Parquet file; the message names it.
    """
    parquet = import_pyarrow_parquet()
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: is no regular file, which Parquet must be: copy it to one")
    head = first_bytes(path)  # whose error names the file, which pyarrow's does not
    try:
        # Without the buffer a row group is read page by page, not whole.
        return parquet.ParquetFile(path, pre_buffer=False)
    except Exception as error:  # pyarrow raises many kinds
        what = None if is_parquet(head) else _what_else(head)
        raise ValueError(f"{path}: not a Parquet file that can be read ({what or error})") from None


def _what_else(head: bytes) -> str | None:
    """What a file is that begins so, if that is clear, and what to do."""
    if (packed := packing(head)) is not None:
        return f"it is packed with {packed}: unpack it, or if it is no Parquet, name it otherwise"
    if (problem := unreadable(head)) is not None:
        return f"it {problem}"
    if head.lstrip()[:1] in (b"{", b"["):
        return "it is JSON: give it another ending, such as .json or .jsonl"
    return not_data(head)


def row_group(path: Path, file: Any, group: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a row group of the open ``file``, with the columns ``names``."""
    batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            records = batch.to_pylist()
        except Exception as error:  # pyarrow raises many kinds
            raise ValueError(
                f"{path}: row group {group} cannot be read ({' '.join(str(error).split())}); the file "
                "is damaged, or has values that Python has no type for: write it anew"
            ) from None
        yield from records


def read_records(path: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with those of the columns ``names`` that it has."""
    with open_parquet(path) as file:
        present = [name for name in names if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            yield from row_group(path, file, group, present)


def import_pyarrow_parquet() -> Any:
    """The module ``pyarrow.parquet``, which comes with the extra ``eval``."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'qa-fast[eval]'") from error
    return pyarrow.parquet
