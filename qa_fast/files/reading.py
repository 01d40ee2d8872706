"""Files that others wrote: opened, watched, told apart; an error names the file."""

from __future__ import annotations

import hashlib
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from .kinds import LOOK, is_parquet
from .unpacking import plain

_HASHED_WHOLE = 64 << 20  # bytes; of a larger file, samples are hashed
_SAMPLE, _SAMPLES = 1 << 20, 64


def is_pipe(path: Path) -> bool:
    """Whether ``path`` is a named pipe, such as a shell's ``<(...)``: it can be read once."""
    return path.is_fifo()


def open_file(path: Path | None) -> BinaryIO:
    """``path``, opened to read the text that it holds: a file or a named pipe; None is standard input.

    What is packed with gzip, bzip2, xz or zstd is read unpacked, and UTF-16 or UTF-32 with a byte order
    mark as UTF-8: the first bytes tell which it is, not the name.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a device, which may never end, or holds no text, as a zip archive does; while
            it is read: it is truncated or damaged.
        ImportError: zstd without pyarrow.
    """
    if path is None:
        return plain(sys.stdin.buffer, "standard input")
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ValueError(f"{path}: is a device; name a file, or pipe the data in")
    file = path.open("rb")
    try:
        return plain(file, str(path))
    except BaseException:
        file.close()
        raise


def is_parquet_file(path: Path) -> bool:
    """Whether ``path`` is a regular file that begins as Parquet does."""
    return path.is_file() and is_parquet(first_bytes(path))


def first_bytes(path: Path) -> bytes:
    """The beginning of a regular file as it is, by which `qa_fast.files.kinds` tells what it is."""
    with path.open("rb") as file:
        return file.read(LOOK)


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
