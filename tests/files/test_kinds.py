"""What is not read is named as what it is, whatever its name, with advice that helps."""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import shutil
import sqlite3
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qa_fast import Prediction, read_examples, read_predictions
from qa_fast.data.predictions import write_parquet
from qa_fast.evaluation.comparing.compare import read_scored_answers
from qa_fast.files.json_text import read_json
from qa_fast.runs.output import Output

from ..helpers.sound_files import ROWS, jsonl, parquet, predicted

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"


def zipped(name: str, content: bytes = b"{}") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("dev.json"))
    return file.getvalue()


def database(folder: Path) -> bytes:
    connection = sqlite3.connect(folder / "x.db")
    connection.execute("create table questions (id)")
    connection.close()
    return (folder / "x.db").read_bytes()


def arrow(stream: bool) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"id": ["a"]})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def numpy(folder: Path) -> bytes:
    np.save(folder / "x.npy", np.zeros(3))
    return (folder / "x.npy").read_bytes()


# What it holds, made in a folder, and what is said.
UNREADABLE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "zip": (lambda _: zipped("dev.json"), "is a zip archive: unpack it"),
    "empty zip": (lambda _: b"PK\x05\x06" + bytes(18), "is a zip archive"),
    "tar": (lambda _: tarred(), "is a tar archive: unpack it"),
    "tar.gz": (lambda _: gzip.compress(tarred()), "is a tar archive: unpack it"),
    "7z": (lambda _: b"7z\xbc\xaf\x27\x1c\0\4", "is a 7-Zip archive: unpack it"),
    "excel": (lambda _: zipped("[Content_Types].xml"), "is an Office document: save it as CSV"),
    "excel of openpyxl": (lambda _: zipped("docProps/app.xml"), "is an Office document"),
    "open document": (
        lambda _: zipped("mimetype", b"application/vnd.oasis.opendocument.spreadsheet"),
        "is an Office document",
    ),
    "parquet.gz": (lambda _: gzip.compress(parquet(ROWS)), "is a Parquet file, which is read"),
    "arrow stream": (lambda _: arrow(True), "is an Arrow file: write it as Parquet, or load it"),
    "arrow file": (lambda _: arrow(False), "is an Arrow file"),
    "sqlite": (database, "is an SQLite database: export its table as CSV"),
    "numpy": (numpy, "is a NumPy array: write it as JSONL"),
    "lzma": (
        lambda _: lzma.compress(b"{}", lzma.FORMAT_ALONE),
        "is packed with LZMA, which is not read: unpack it, or pack it with gzip",
    ),
    "lz4": (lambda _: pa.compress(b"{}" * 9, "lz4", asbytes=True), "is packed with LZ4"),
    "git lfs": (lambda _: POINTER, "is a pointer of Git LFS, not the file itself: fetch that with"),
    **{
        f"pickle {i}": (lambda _, i=i: pickle.dumps([ROWS], i), "is a Python pickle, which is not")
        for i in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_not_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = UNREADABLE[kind]
    data = make(tmp_path)
    for name in ("q.json", "q.csv", "questions"):
        path = tmp_path / name
        path.write_bytes(data)
        for read in (read_examples, read_predictions):
            with pytest.raises(ValueError, match=f"^{path}: {message}"):
                list(read(path))
        with pytest.raises(ValueError, match=f"^{path}: {message}"):
            read_json(path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(ValueError, match=f"^standard input: {message}"):
        list(read_examples("-"))


# What the file holds and what is said when it is named .parquet.
NO_PARQUET = {
    b"PK\x03\x04" + bytes(40): "it is a zip archive: unpack it",
    gzip.compress(b"{}"): "it is packed with gzip: unpack it",
    jsonl(ROWS): "it is JSON: give it another ending",
    POINTER: "it is a pointer of Git LFS",
    PAGE: "it is HTML or XML, perhaps a page",
    b"id,question,context\n": "Parquet",
}


@pytest.mark.parametrize("data", NO_PARQUET, ids=list(NO_PARQUET.values()))
def test_what_is_named_parquet_and_is_not(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    path.write_bytes(data)
    wanted = rf"^{path}: not a Parquet file that can be read \(.*{NO_PARQUET[data]}"
    for read in (read_examples, read_predictions):
        with pytest.raises(ValueError, match=wanted):
            list(read(path))


def test_parquet_under_any_name(tmp_path: Path) -> None:
    for name in ("q", "q.json", "q.csv", "q.gz"):
        (tmp_path / name).write_bytes(parquet(ROWS))
        assert len(list(read_examples(tmp_path / name))) == len(ROWS)
        (tmp_path / name).write_bytes(predicted(None))
        assert len(list(read_predictions(tmp_path / name))) == len(ROWS)
        assert read_scored_answers(tmp_path / name) is None


@pytest.mark.parametrize("name", ["q.json", "q.jsonl", "q.csv"])
def test_a_page_in_place_of_the_data(name: str, tmp_path: Path) -> None:
    for content in (PAGE, gzip.compress(PAGE), "<p>é".encode("latin-1") + PAGE):
        (tmp_path / name).write_bytes(content)
        for read in (read_examples, read_predictions):
            with pytest.raises(ValueError, match="it is HTML or XML, perhaps a page"):
                list(read(tmp_path / name))


def test_other_bytes(tmp_path: Path) -> None:
    """Latin-1 can be converted; what is no text cannot; UTF-16 without a mark is not guessed at."""
    path = tmp_path / "q.json"
    text = '{"data": [{"id": "é"}]}'
    for content, message in (
        (text.encode("latin-1"), r"not UTF-8 text \(byte 0xe9 at byte offset 18\): convert it .*iconv"),
        (text.encode("utf-16-le"), "seems to be UTF-16 without a byte order mark.*iconv -f UTF-16LE"),
        (text.encode("utf-16-be"), "iconv -f UTF-16BE"),
        (bytes(range(128, 256)) + bytes(90), r"\(it is no text, but binary data\)"),
        (b"\1\2\3\4", r"\(it is no text, but binary data\)"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            list(read_examples(path))
        assert ("iconv" in message) == ("iconv" in str(caught.value))


def test_missing_files_are_not_taken_for_data_sets(tmp_path: Path) -> None:
    for name in ("a.json.gz", "a.JSONL", "a.csv", "a.tsv.zst", "a.parquet", "org/a.xz", "a.bz2"):
        with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{name}'"):
            list(read_examples(name))
    with pytest.raises(FileNotFoundError, match="no such file, and no name of a data set"):
        list(read_examples(tmp_path / "missing"))


def test_folders_without_parquet(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(FileNotFoundError, match="in this folder; name the file in it that holds"):
        list(read_examples(tmp_path))
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"pass datasets\.load_from_disk of it in Python"):
        list(read_examples(tmp_path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst", "a.parquet.xz"])
def test_outputs_are_not_packed(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"outputs are not packed: name '{name[: name.rindex('.')]}'"
    ):
        Output.of(f"folder/{name}")


def test_predictions_of_another_name_are_compared(tmp_path: Path) -> None:
    """A Parquet file that is called JSON is no file of results."""
    write_parquet([Prediction("a", "Ada")], tmp_path / "p.parquet")
    shutil.move(tmp_path / "p.parquet", tmp_path / "p.json")
    assert read_scored_answers(tmp_path / "p.json") is None
    assert [p.id for p in read_predictions(tmp_path / "p.json")] == ["a"]
