"""Graphs that were made before, on the disk: each in a folder that is complete or not there.

A folder's name says what its graph was made from, so that nothing in it is ever out of date. It is
written beside its place and renamed; where two processes make the same graph, one of them wins, and both
go on. What is damaged is seen by checksums, and made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


class Entry(NamedTuple):
    """What is kept under a key.

    Attributes:
        folder: its files.
        notes: what was noted with them, as JSON has it.
    """

    folder: Path
    notes: dict[str, Any]


def cache_folder() -> Path:
    """Where graphs are kept: ``$QA_FAST_CACHE``, ``$XDG_CACHE_HOME/qa_fast`` or ``~/.cache/qa_fast``."""
    own = os.environ.get("QA_FAST_CACHE")
    if own:
        return Path(own) / "graphs"
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # By its specification only an absolute path counts.
    base = Path(shared) if Path(shared).is_absolute() else Path("~/.cache").expanduser()
    return base / "qa_fast" / "graphs"


def key_of(parts: dict[str, Any]) -> str:
    """The key of a graph that is made from ``parts``, values as JSON has them."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class GraphCache:
    """A folder of graphs by their keys.

    Nothing here raises because of the disk: what cannot be read or written is made again, or not kept,
    and a warning says so once.

    Args:
        folder: made where it is missing; None for `cache_folder`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._warned = False

    @property
    def folder(self) -> Path:
        """As given, or `cache_folder`; a RuntimeError where there is no home."""
        return cache_folder() if self._folder is None else self._folder

    def find(self, key: str) -> Entry | None:
        """What is kept under ``key``, whole; None where there is nothing, or something damaged."""
        try:
            folder = self.folder / key
            if not folder.is_dir():
                return None
            return Entry(folder, _checked(folder))
        except (OSError, RuntimeError) as error:
            self._warn(f"cannot be read ({error})")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._warn(f"holds a damaged model, which is made anew ({error})")
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def keep(self, key: str, write: Callable[[Path], None], notes: dict[str, Any]) -> Entry | None:
        """Keep files under ``key``.

        Args:
            key: the key.
            write: writes them into the folder that it is given.
            notes: what else is to be kept, values as JSON has them.

        Returns:
            What is kept; None where it cannot be, for a full disk, say.
        """
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(mkdtemp(prefix=f".{key[:12]}.", dir=self.folder))
            write(temporary)
            files = {path.name: _described(path) for path in sorted(temporary.iterdir())}
            text = json.dumps({"files": files, "notes": notes}, indent=1)
            (temporary / MANIFEST).write_text(text, encoding="utf-8")
            for path in temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            try:
                temporary.rename(self.folder / key)
            except OSError:
                # Another process was first.
                if not (self.folder / key / MANIFEST).is_file():
                    raise
            return Entry(self.folder / key, _checked(self.folder / key))
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            self._warn(f"cannot be written, so the next process makes this model again ({error})")
            return None
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def _warn(self, what: str) -> None:
        if self._warned:
            return
        self._warned = True
        where = "the cache of converted models"
        with suppress(RuntimeError):  # there is no home
            where += f", {self.folder},"
        warnings.warn(f"{where} {what}", RuntimeWarning, stacklevel=3)


def _checked(folder: Path) -> dict[str, Any]:
    """The notes of an entry; a ValueError or LookupError unless its files are as they were written."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, described in manifest["files"].items():
        if _described(folder / name) != described:
            raise ValueError(f"{folder / name} is not as it was written")
    return dict(manifest["notes"])


def _described(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    return {"bytes": size, "sha256": digest.hexdigest()}
