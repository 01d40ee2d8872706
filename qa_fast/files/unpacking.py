"""What a file holds as UTF-8, whatever it is packed in: gzip, bzip2, xz, zstd; UTF-16 and UTF-32.

All of it is streamed: no more than some blocks of a file are in memory.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from .kinds import LOOK, is_decided, marked_encoding, packing, unreadable

_BLOCK = 1 << 16


def plain(file: BinaryIO, name: str) -> BinaryIO:
    """The bytes of ``file`` from where it stands, unpacked, and as UTF-8 where a mark says UTF-16 or 32.

    UTF-8 and bytes without a mark are handed on as they are. A mark stays, as that of UTF-8.

    Args:
        file: open, and closed with what is returned. A pipe will do.
        name: what to call it in an error.

    Raises:
        ValueError: it is of a kind that holds no text, such as a zip archive. While it is read: it is
            truncated or damaged.
        ImportError: zstd without pyarrow.
    """
    start = file.tell() if file.seekable() else None
    head, blocks = _look(_blocks_of(file))
    packed = packing(head)
    if packed is not None:
        head, blocks = _look(_unpacked(file, blocks, packed, name))
        if packing(head) is not None:
            raise ValueError(f"{name}: is packed twice: unpack it once, and name what that gives")
    problem = unreadable(head)
    if problem is not None:
        raise ValueError(f"{name}: {problem}")
    encoding = marked_encoding(head)
    if encoding is not None:
        blocks = _transcoded(blocks, encoding, name)
    elif packed is None and start is not None:
        file.seek(start)
        return file
    return io.BufferedReader(_Made(file, blocks), _BLOCK)


def put_back(lines: bytes, file: BinaryIO) -> BinaryIO:
    """A file of ``lines``, which were read from ``file``, and of what is left there."""
    return io.BufferedReader(_Made(file, chain([lines], _blocks_of(file))), _BLOCK)


class _Made(io.RawIOBase):
    """A file of the blocks that are made of another one's; that is closed with it."""

    def __init__(self, file: BinaryIO, blocks: Iterable[bytes]) -> None:
        self._file = file
        self._blocks = iter(blocks)
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block = memoryview(block)
        size = min(len(buffer), len(self._block))
        buffer[:size] = self._block[:size]
        self._block = self._block[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _blocks_of(file: Any) -> Iterator[bytes]:
    """What is left of a file, in blocks as they come: a pipe is not waited for longer than needed."""
    while block := file.read1(_BLOCK):
        yield block


def _look(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The beginning of ``blocks``, and all of them."""
    head = b""
    while not is_decided(head):
        block = next(blocks, b"")
        if not block:
            break
        head += block
    return head[:LOOK], chain([head], blocks)


# --- packed files -------------------------------------------------------------------------------


def _unpacked(file: BinaryIO, blocks: Iterator[bytes], packed: str, name: str) -> Iterator[bytes]:
    """What the packed ``blocks`` of ``file`` hold, in blocks."""
    if packed == "zstd":
        unpacked, errors = _zstd_blocks(file, blocks, name), _arrow_errors()
    else:
        decoder, errors = _decoder(packed)
        unpacked = _streams(blocks, decoder)
    try:
        yield from unpacked
    except EOFError:
        pass
    except errors as error:
        # An error of the disk has a number, and its own words.
        if getattr(error, "errno", None):
            raise
        if "Truncated" not in str(error):
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{name}: its {packed} data are damaged ({reason}): get or make the file anew"
            ) from None
    else:
        return
    raise ValueError(
        f"{name}: its {packed} data are truncated, as when a copy broke off: get or make the file anew"
    )


def _decoder(packed: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decoder for one stream, and the errors of damaged ones."""
    if packed == "gzip":
        import zlib

        return _GzipDecoder, (zlib.error,)
    if packed == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError,)
    import lzma

    return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)), (lzma.LZMAError,)


class _GzipDecoder:
    """zlib's decoder for one member of a gzip file, used as those of bz2 and lzma are."""

    def __init__(self) -> None:
        import zlib

        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, size)

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


def _streams(blocks: Iterator[bytes], new: Callable[[], Any]) -> Iterator[bytes]:
    """What the streams in ``blocks`` hold, one behind the other, with zeros between them or none.

    Python's own files of these kinds take what follows a stream of bzip2 or xz for rubbish if it is
    damaged, and leave it out.

    Args:
        blocks: packed.
        new: makes a decoder for one stream.

    Raises:
        EOFError: a stream without an end.
    """
    left = b""
    while True:
        while not (left := left.lstrip(b"\0")):
            block = next(blocks, b"")
            if not block:
                return
            left = block
        decoder = new()
        while not decoder.eof:
            if not left and decoder.needs_input:
                left = next(blocks, b"")
            data = decoder.decompress(left, _BLOCK)
            if data:
                yield data
            elif not left and not decoder.eof:
                raise EOFError
            left = b""
        left = decoder.unused_data


def _zstd_blocks(file: BinaryIO, blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{name}: zstd needs pyarrow: pip install 'qa-fast[eval]'") from error
    source = pyarrow.PythonFile(_Made(file, blocks), mode="r")
    unpacked = pyarrow.CompressedInputStream(source, "zstd")
    while block := unpacked.read(_BLOCK):
        yield block


def _arrow_errors() -> tuple[type[Exception], ...]:
    try:
        import pyarrow
    except ImportError:
        return ()
    return (OSError, pyarrow.ArrowException)


# --- encodings ----------------------------------------------------------------------------------


def _transcoded(blocks: Iterator[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Text in ``encoding`` as UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    for block in chain(blocks, [b""]):
        kept = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block).encode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}: not {encoding[:6].upper()} text, which its byte order mark says it is "
                f"({error.reason} at byte offset {done - kept + error.start})"
            ) from None
        done += len(block)
