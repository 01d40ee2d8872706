"""What a file is, by its first bytes, whatever its name says."""

from __future__ import annotations

import codecs
import re

LOOK = 512
"""Bytes of the beginning that tell what a file is."""

PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""How the names of packed files usually end; what they are, `packing` tells."""

_UNPACK = "unpack it, and name a file that was in it"
_REPACK = "which is not read: unpack it, or pack it with gzip, bzip2, xz or zstd"

# What a file begins with if it is packed in a way that is read: of bzip2 also the mark of its first
# block, or of its end, as a text may begin with "BZh"; of zstd also a frame that holds no data.
_PACKED = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}

# Those that are not read: the first bytes, what it is, what to do.
_OTHERS = [
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "is a pointer of Git LFS, not the file itself",
        "fetch that with git lfs pull",
    ),
    (
        re.compile(rb"PAR1"),
        "is a Parquet file, which is read from a regular file only, as questions or as predictions",
        "name the file itself, unpacked",
    ),
    (
        re.compile(rb"ARROW1\0\0|\xff{4}.{3}\0", re.DOTALL),
        "is an Arrow file",
        "write it as Parquet, or load it in Python (datasets.load_from_disk, pyarrow) and pass that",
    ),
    (
        re.compile(
            rb"PK\x03\x04.{26}"
            rb"(\[Content_Types\]\.xml|(_rels|docProps|xl|word)/|mimetype.{0,9}application/vnd\.oasis)",
            re.DOTALL,
        ),
        "is an Office document",
        "save it as CSV if it is a table, as plain text if it is a text",
    ),
    (
        re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        "is an old Office document",
        "save it as CSV if it is a table, as plain text if it is a text",
    ),
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "is a zip archive", _UNPACK),
    (re.compile(rb".{257}ustar", re.DOTALL), "is a tar archive", _UNPACK),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "is a 7-Zip archive", _UNPACK),
    (re.compile(rb"Rar!\x1a\x07"), "is a RAR archive", _UNPACK),
    (re.compile(rb"\x04\x22\x4d\x18"), f"is packed with LZ4, {_REPACK}", ""),
    (re.compile(rb"\xff\x06\0\0sNaPpY"), f"is packed with Snappy, {_REPACK}", ""),
    (re.compile(rb"LZIP\x01"), f"is packed with lzip, {_REPACK}", ""),
    (re.compile(rb"\x5d\0\0"), f"is packed with LZMA, {_REPACK}", ""),
    (re.compile(rb"\x1f[\x9d\xa0]"), f"is packed with compress, {_REPACK}", ""),
    (re.compile(rb"SQLite format 3\0"), "is an SQLite database", "export its table as CSV"),
    (
        re.compile(rb"\x80[\x02-\x05]"),
        "is a Python pickle, which is not read, as it may run any code",
        "write what it holds as JSONL",
    ),
    (re.compile(rb"\x93NUMPY"), "is a NumPy array", "write it as JSONL"),
    (re.compile(rb"\x89HDF\r\n"), "is an HDF5 file", "write it as Parquet or JSONL"),
    (re.compile(rb"Obj\x01"), "is an Avro file", "write it as Parquet or JSONL"),
    (re.compile(rb"%PDF-"), "is a PDF document", "extract its text first"),
    (re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a"), "is a picture", "name a file of text"),
]  # fmt: skip

# The longer ones first: UTF-32 begins as UTF-16 does.
_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def is_decided(head: bytes) -> bool:
    """Whether more bytes than ``head`` would not change what it says."""
    return len(head) >= LOOK or head[:1] in (b"{", b"[", b'"', b" ", b"\n", b"\r", b"\t")


def packing(head: bytes) -> str | None:
    """How a file that begins so is packed: "gzip", "bzip2", "xz" or "zstd"; None where it is not."""
    return next((name for name, magic in _PACKED.items() if magic.match(head)), None)


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark tells, but for UTF-8; None where there is none."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins so is Parquet."""
    return head.startswith(b"PAR1")


def unreadable(head: bytes) -> str | None:
    """What a file is that begins so, and what to do, if no text can be read from it; else None.

    Example:
        >>> unreadable(b"%PDF-1.7")
        'is a PDF document: extract its text first'
    """
    for magic, what, remedy in _OTHERS:
        if magic.match(head):
            return ": ".join(filter(None, [what, remedy]))
    return None


def not_data(text: bytes) -> str | None:
    """What ``text``, which is no JSON, surely is instead, and what to do; else None."""
    if text[:LOOK].removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        return (
            "it is HTML or XML, perhaps a page that asks to log in: get the file itself, with the "
            "link to its raw contents"
        )
    return not_text(text)


def not_text(data: bytes) -> str | None:
    """What ``data`` surely are if they are no UTF-8, and what to do; else None."""
    head = data[:LOOK]
    if not _CONTROL.search(head):
        return None
    for order, zeros, others in (("LE", head[1::2], head[::2]), ("BE", head[::2], head[1::2])):
        if zeros.count(0) > 0.7 * len(zeros) and not others.count(0):
            return (
                "it seems to be UTF-16 without a byte order mark: convert it to UTF-8 first, as with "
                f"iconv -f UTF-16{order} -t UTF-8"
            )
    return "it is no text, but binary data"
