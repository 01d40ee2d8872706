"""Files of ours: written whole or not at all, and locked while one process writes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

TEMPORARY = ".unfinished"


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
            _sync(temporary)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; it appears as ``path`` at the end, with all that is in it.

    After the block has ended the files are on the disk. If the block raises, nothing is left.

    Raises:
        ValueError: ``path`` is there, and no empty folder; or another process is writing it.
    """
    path = path.resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        kind = "a folder that is not empty" if path.is_dir() else "a file"
        raise ValueError(f"{path} is {kind}: name a new folder, or remove it first")
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with locked(path.parent, path.name):
        try:
            _remove(temporary)  # of a process that was killed
            temporary.mkdir()
            with naming(path):
                yield temporary
                for inner in sorted(temporary.rglob("*"), reverse=True):
                    _sync_folder(inner) if inner.is_dir() else _sync(inner)
                _sync_folder(temporary)
            temporary.rename(path)
        except BaseException:
            with suppress(OSError):
                _remove(temporary)
            raise
        _sync_folder(path.parent)


def _remove(path: Path) -> None:
    """Remove a folder with all that is in it; a link there is only removed itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
        temporary.write_bytes(_as_json(value))


def write_file_as_json(path: Path, value: object) -> None:
    """Write ``value`` to a file that was asked for by name; see `write_file`."""
    write_file(path, _as_json(value))


def _as_json(value: object) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate, as of a file's name in another encoding, becomes its escape in JSON.
    return text.encode("utf-8", "backslashreplace")


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
