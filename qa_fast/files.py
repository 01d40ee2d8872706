"""Files that others wrote: opened, parsed and watched; whatever is in them, an error names the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 256
_HASHED_WHOLE = 64 << 20  # bytes; of a larger file, samples are hashed
_SAMPLE, _SAMPLES = 1 << 20, 64


# --- any file -----------------------------------------------------------------------------------


def is_pipe(path: Path) -> bool:
    """Whether ``path`` is a named pipe, such as a shell's ``<(...)``: it can be read once."""
    return path.is_fifo()


def open_file(path: Path) -> BinaryIO:
    """``path``, opened to read its bytes: a file or a named pipe.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a device, which may never end.
    """
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ValueError(f"{path}: is a device; name a file, or pipe the data in")
    return path.open("rb")


_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: where it needs a folder there is a file",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "name another, or remove it",
    errno.EACCES: "give this user the right to it, or name another",
    errno.EPERM: "give this user the right to it, or name another",
    errno.EROFS: "name an output in a place that can be written to",
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room, then run the same command again",
    errno.EFBIG: "allow larger files (ulimit -f), then run the same command again",
    errno.ENAMETOOLONG: "check the path",
}


def explain(error: Exception) -> str:
    """What went wrong and what to do, in a sentence: of an `OSError` its file first.

    Example:
        >>> explain(FileNotFoundError(2, "No such file or directory", "dev.json"))
        'dev.json: no such file or directory: check the path'
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    reason = error.strerror[:1].lower() + error.strerror[1:]
    parts = [os.fsdecode(error.filename) if error.filename is not None else "", reason]
    return ": ".join(filter(None, [*parts, _REMEDIES.get(error.errno or 0, "")]))


class Watch:
    """Notices that files are not any more what they were when it was made.

    A change of size or of time of modification counts, or another file in its place: what
    costs no reading. Pipes are not watched.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._before = {path: _state(path) for path in files if not is_pipe(path)}

    def check(self) -> None:
        """Raise a `ValueError` if a file has changed."""
        for path, before in self._before.items():
            now = _state(path)
            if now == before:
                continue
            how = "changed"
            if now is None:
                how = "removed"
            elif before is not None and now[:2] != before[:2]:
                how = "replaced by another file"
            raise ValueError(
                f"{path} was {how} while it was read; what was read last is dropped, as it may be of "
                "two versions: run again when nothing changes it any more"
            )


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def fingerprint(path: Path) -> dict[str, object]:
    """Name, size and hash; of a file over 64 MiB the ends and samples are hashed."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            while block := file.read(_SAMPLE):
                digest.update(block)
        else:
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return {"file": path.name, "bytes": size, "sha256": digest.hexdigest()}


# --- JSON ---------------------------------------------------------------------------------------


def parse_json(data: bytes, *, unique: bool = False) -> Any:
    """The value that ``data`` holds in JSON.

    Args:
        data: UTF-8, with or without a byte order mark.
        unique: whether a key that an object has twice is an error; else its last value counts.

    Raises:
        ValueError: no JSON, or nested too deep to be read.
    """
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 text (byte 0x{data[error.start]:02x} at byte offset {error.start}): convert "
            "it to UTF-8 first, for example with iconv"
        ) from None
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def read_json(path: Path, *, unique: bool = False) -> Any:
    """The JSON value of a file; ``unique`` as for `parse_json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON; the message names it.
    """
    with open_file(path) as file:
        data = file.read()
    try:
        return parse_json(data, unique=unique)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def first_line(file: BinaryIO) -> tuple[int, bytes]:
    """The number of blank lines at the beginning, and the line after them, without a BOM."""
    for number, line in enumerate(file):
        line = line.removeprefix(_BOM)
        if line.strip():
            return number, line
    return 0, b""


def chain_line(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """The line that was read to look at it, and the lines after it."""
    yield first
    yield from rest


def begins_json_lines(line: bytes) -> bool:
    """Whether ``line`` is an object by itself, and not a whole SQuAD file."""
    try:
        value = parse_json(line)
    except ValueError:
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


# --- Parquet ------------------------------------------------------------------------------------


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
        raise FileNotFoundError(f"{path}: there is no .parquet file in this folder")
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
    path.open("rb").close()  # whose error names the file, which pyarrow's does not
    try:
        # Without the buffer a row group is read page by page, not whole.
        return parquet.ParquetFile(path, pre_buffer=False)
    except Exception as error:  # pyarrow raises many kinds
        raise ValueError(f"{path}: not a Parquet file that can be read ({error})") from None


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
