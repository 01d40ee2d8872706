"""Packed files and other encodings: read as what they hold, streamed, or told as what is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from qa_fast import read_examples, read_predictions
from qa_fast.data.opening import open_source
from qa_fast.evaluation.matching import _read_na_prob
from qa_fast.files.reading import fingerprint, open_file
from qa_fast.files.unpacking import plain

from ..helpers.sound_files import PREDICTIONS, ROWS, csv, jsonl, na_prob, squad, texts


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}
MARKED = ("utf-16", "utf-32")  # with a byte order mark


DATA = {"q.json": squad(ROWS), "q.jsonl": jsonl(ROWS), "q.csv": csv(ROWS)}
TEXT = b"".join(b'{"id": %d, "x": "%d"}\n' % (i, i * 7919 % 1000) for i in range(9000))


def unpacked(data: bytes) -> bytes:
    return plain(io.BytesIO(data), "q.json").read()


def encoded(data: bytes) -> dict[str, bytes]:
    """The same text in every form that is read."""
    found = {name: pack(data) for name, pack in PACKINGS.items()}
    found |= {encoding: data.decode().encode(encoding) for encoding in MARKED}
    return {**found, "both": gzip.compress(found["utf-16"])}


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA)
def test_questions(name: str, tmp_path: Path) -> None:
    """Wherever they begin; the name does not matter, and the fingerprint is of the bytes on the disk."""
    (tmp_path / name).write_bytes(DATA[name])
    wanted = list(read_examples(tmp_path / name))
    assert [example.id for example in wanted] == [row["id"] for row in ROWS]
    for form, data in encoded(DATA[name]).items():
        for path in (tmp_path / f"{form}.json", tmp_path / f"{name}.{form}"):
            path.write_bytes(data)
            source = open_source(path)
            assert source.count() == len(ROWS)
            assert source.rereadable
            assert source.files == [path]
            assert source.fingerprint() == [fingerprint(path)]
            for start, stop in ((0, None), (0, 6), (2, 4), (5, 9), (6, 7)):
                rows = list(source.rows(start, stop))
                assert [row.example for row in rows] == wanted[start:stop], form
                assert all(row.place.startswith(str(path)) for row in rows)


def test_predictions_and_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    lines = jsonl([{"id": p.id, "answer": p.answer, "score": p.score} for p in PREDICTIONS])
    for content in (texts(None), lines):
        path.write_bytes(content)
        wanted = list(read_predictions(path))
        for form, data in encoded(content).items():
            path.write_bytes(data)
            assert list(read_predictions(path)) == wanted, form
    for form, data in encoded(na_prob(None)).items():
        path.write_bytes(data)
        assert _read_na_prob(path) == json.loads(na_prob(None)), form


@contextmanager
def dribbling(path: Path, data: bytes, size: int) -> Iterator[Path]:
    """A named pipe into which ``data`` come in pieces of ``size`` bytes."""
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for i in range(0, len(data), size):
                file.write(data[i : i + size])

    writer = threading.Thread(target=write)
    writer.start()
    yield path
    writer.join()


@pytest.mark.parametrize("name", DATA)
def test_pipes_and_standard_input(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(DATA[name])
    wanted = list(read_examples(tmp_path / name))
    for form, data in {"plain": DATA[name], **encoded(DATA[name])}.items():
        for size in (1, 700):
            with dribbling(tmp_path / f"{form}{size}", data, size) as pipe:
                source = open_source(pipe)
                assert (source.count(), source.fingerprint(), source.files) == (None, None, [])
                assert [row.example for row in source.rows()] == wanted, (form, size)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert list(read_examples("-")) == wanted, form


def test_standard_input_goes_on_from_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a shell's ``read``."""
    stream = io.BytesIO(b"a line\n" + DATA["q.jsonl"])
    stream.readline()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    assert len(list(read_examples("-"))) == len(ROWS)


def test_lines_of_a_pipe_are_read_as_they_come(tmp_path: Path) -> None:
    """The writer waits with the second question until the first one is there."""
    os.mkfifo(tmp_path / "pipe")
    lines = DATA["q.jsonl"].splitlines(keepends=True)
    seen = threading.Event()

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as file:
            file.write(lines[0])
            assert seen.wait(20)
            file.write(lines[1])

    writer = threading.Thread(target=write)
    writer.start()
    rows = open_source(tmp_path / "pipe").rows()
    assert next(rows).number == 0
    seen.set()
    assert [row.number for row in rows] == [1]
    writer.join()


def test_several_streams_one_behind_the_other() -> None:
    """As of cat, pigz, pbzip2 and pzstd; zeros between them fill up a tape or xz's blocks."""
    for name, pack in PACKINGS.items():
        packed = pack(TEXT)
        padding = b"" if name == "zstd" else bytes(8)
        assert unpacked(packed) == TEXT, name
        assert unpacked(packed + pack(b"") + packed + padding + packed + padding) == 3 * TEXT, name
        assert unpacked(pack(b"")) == b"", name
    # A frame of zstd that holds nothing, in front and behind.
    frame = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert unpacked(frame + zstd(TEXT) + frame) == TEXT


@pytest.mark.parametrize("name", PACKINGS)
def test_memory_stays_flat(name: str, tmp_path: Path) -> None:
    context = " ".join(map(str, range(2000)))
    line = json.dumps({"id": "q", "question": "Who?", "context": context}).encode() + b"\n"
    path = tmp_path / "q.jsonl"
    # xz by itself has a window of 8 MiB.
    packed = lzma.compress(line * 50, preset=0) if name == "xz" else PACKINGS[name](line * 50)
    path.write_bytes(packed * ((20 << 20) // len(line * 50)))
    count = 50 * ((20 << 20) // len(line * 50))
    source = open_source(path)
    next(source.rows())  # what is imported late is imported now
    tracemalloc.start()
    try:
        assert sum(1 for _ in source.rows(0, None)) == count
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


# --- what is not --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKINGS)
def test_truncated_files(name: str, tmp_path: Path) -> None:
    """Wherever they end, in the first stream or in the second."""
    packed = PACKINGS[name](TEXT)
    for cut in (1, 2, 4, 7, 8, 9, 12, 20, len(packed) // 2, len(packed) - 20):
        for data in (packed[:-cut], packed + packed[:-cut]):
            with pytest.raises(ValueError, match=f"^q.json: its {name} data are truncated, as"):
                unpacked(data)
    path = tmp_path / "q.jsonl"
    path.write_bytes(packed[:-1])
    with pytest.raises(ValueError, match=r"q\.jsonl: its \w+ data are truncated"):
        list(open_source(path).rows())


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_damaged_files(name: str) -> None:
    """No change of a bit goes unnoticed where there is a checksum; nor what is behind the end."""
    packed, draw = PACKINGS[name](TEXT), random.Random(0)
    for _ in range(40):
        data = bytearray(packed + packed)
        data[draw.randrange(11, len(data))] ^= 1 << draw.randrange(8)
        with pytest.raises(ValueError, match=f"^q.json: its {name} data are (damaged|truncated)"):
            unpacked(bytes(data))
    for more in (b"some more text", b"PK\x03\x04 and more"):
        with pytest.raises(ValueError, match="are damaged"):
            unpacked(packed + more)


def test_damaged_zstd() -> None:
    packed = zstd(TEXT)
    for data in (packed[:4] + b"\xff" * 40, packed + b"some more text"):
        with pytest.raises(ValueError, match=r"^q.json: its zstd data are damaged \(ZSTD"):
            unpacked(data)


def test_an_error_of_the_disk_is_not_called_damage() -> None:
    class Broken(io.BytesIO):
        def read1(self, _: int | None = -1) -> bytes:
            if self.tell() > 100:
                raise OSError(5, "Input/output error")
            return super().read1(100)

    for name, pack in PACKINGS.items():
        with pytest.raises(OSError, match="Input/output error"):
            plain(Broken(pack(TEXT)), name).read()


def test_zstd_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(zstd(TEXT))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=rf"^{path}: zstd needs pyarrow: pip install 'qa-fast\[ev"
    ):
        list(read_examples(path))
    path.write_bytes(gzip.compress(DATA["q.jsonl"]))
    assert len(list(read_examples(path))) == len(ROWS)


def test_packed_twice() -> None:
    with pytest.raises(ValueError, match=r"q\.json: is packed twice: unpack it once"):
        unpacked(gzip.compress(zstd(TEXT)))


def test_encodings() -> None:
    text = "\ufeffWo? 𝄞 – ça, hier.\n" * 30_000
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        data = text.encode(encoding)
        assert unpacked(data).decode() == text
        problem = f"not {encoding[:6].upper()} text, which its byte order mark says"
        with pytest.raises(
            ValueError, match=rf"^q.json: {problem} .*data at byte offset {len(data)}\)"
        ):
            unpacked(data + b"x")
    # Half of a pair, where only a whole one is a character.
    with pytest.raises(ValueError, match="at byte offset 4"):
        unpacked(b"\xff\xfea\0\x00\xd8b\0")


def test_files_are_closed(tmp_path: Path) -> None:
    """Also those that are given up in the middle, or refused."""
    path = tmp_path / "q.jsonl"
    for data in encoded(TEXT).values():
        path.write_bytes(data)
        with open_file(path) as file:
            file.readline()
        path.write_bytes(b"7z\xbc\xaf\x27\x1c")
        with pytest.raises(ValueError, match="7-Zip"):
            open_file(path)
