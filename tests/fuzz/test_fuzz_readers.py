"""The harness that fuzzes the readers of files, on a few inputs and without the fuzzer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from . import readers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    readers.prepare(path)
    return path


@pytest.mark.parametrize("form", readers.FORMS)
def test_sound_files_are_read(form: str, folder: Path) -> None:
    name, read, record, encode = readers.FORMS[form]
    (folder / name).write_bytes(encode(record))
    read(folder / name)
    (folder / name).unlink()


@pytest.mark.parametrize("number", range(len(readers.FORMS)), ids=list(readers.FORMS))
def test_any_bytes_are_read_or_told(number: int, folder: Path) -> None:
    draw = random.Random(number)
    for seed in range(150):
        readers.check(bytes([readers.CHANGED + number]) + seed.to_bytes(2, "big"), folder)
    sound = bytes([number]) + readers.encoded(number)
    readers.check(sound, folder)
    for _ in range(50):
        broken = bytearray(sound)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(1, len(broken))] = draw.randrange(256)
        readers.check(bytes(broken[: draw.randrange(1, len(broken) + 1)]), folder)


def wrong_error(path: Path) -> None:
    raise KeyError(path)


def nameless(_: Path) -> None:
    raise ValueError("something is wrong")


def writes(path: Path) -> None:
    path.with_name("other").write_text("")


@pytest.mark.parametrize("read", [wrong_error, nameless, writes])
def test_findings_are_found(
    read: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(readers.FORMS, "squad", ("x.json", read, {}, readers.FORMS["squad"][3]))
    with pytest.raises((KeyError, AssertionError)):
        readers.check(b"\0{}", folder)
    assert not (folder / "other").exists()
