"""Questions in: SQuAD JSON, JSONL, CSV, Parquet, tables, Hugging Face data sets, or iterables of rows.

Of what kind a file is, its content tells: its name counts only where that leaves a doubt.

A row that cannot be used is a `Row` with a reason, so that the caller decides whether to stop or to go
on; `read_examples` stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from qa_fast.files.kinds import PACKED_SUFFIXES
from qa_fast.files.reading import is_parquet_file, is_pipe, open_file
from qa_fast.files.unpacking import put_back

from .errors import Argument, ArgumentError, parts_of
from .examples import Columns, Example, Row
from .frames import FrameSource, is_frame, is_lazy
from .sources import JsonSource, ParquetSource, RowsSource, Source
from .tables import CsvSource, begins_table, names_table

STANDARD_INPUT = "-"
_SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", *PACKED_SUFFIXES}
_BLANK = b"\xef\xbb\xbf \t\r\n"  # a byte order mark, white space
_MOST_HEADER = 1 << 16  # bytes of a line that are looked at, which may be a whole SQuAD file


def read_examples(
    source: Any,
    *,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Iterator[Example]:
    """Read questions in any of the usual forms, one by one and in order.

    Args:
        source: one of

            - a SQuAD file, v1.1 or v2.0, or JSON of its kind: parts of one, a list of rows, rows by
              columns, several sets under the names of their splits, KorQuAD 2, CMRC 2018;
            - a JSONL file, an object a line: rows, or MRQA's; it is told by its content;
            - simplified Natural Questions, and spans marked in Label Studio or Doccano;
            - a CSV or TSV file with a header line; an empty cell in the column of the answers says that
              the context does not answer the question;
            - a Parquet file, or a folder of them (``.parquet``), read in the order of their names;
            - "-": JSON, JSONL or CSV on standard input;
            - the name of a data set on the Hugging Face Hub, such as "rajpurkar/squad_v2";
            - a DataFrame of pandas or polars; a Table, RecordBatchReader or Dataset of pyarrow;
            - a data set of the ``datasets`` library, or any other iterable of dicts.

            JSON, JSONL and CSV may be packed with gzip, bzip2, xz or zstd, and may be UTF-16 or UTF-32
            with a byte order mark: the first bytes tell.
        columns: the names of the columns, where they are not those of `Example`.
        split: which split of a data set, or of a file, with several.
        subset: which subset (configuration) of a data set on the Hub.

    Raises:
        OSError: a file that cannot be read.
        ValueError: data in no such form, or a row that cannot be used; the message says where.
        ImportError: a data set of the Hub without ``datasets``; Parquet or zstd without pyarrow.

    Example:
        >>> rows = [{"id": 7, "question": "Who wrote it?", "context": "Ada wrote the note."}]
        >>> next(read_examples(rows))
        Example(id='7', question='Who wrote it?', context='Ada wrote the note.', answers=None, \
answer_starts=(), title='', is_impossible=None)
    """
    yield from usable(open_source(source, columns=columns, split=split, subset=subset).rows())


def usable(rows: Iterable[Row]) -> Iterator[Example]:
    """What the rows hold; a ValueError at the first that cannot be used, or its gold answers."""
    for row in rows:
        problem = row.problem or row.gold_problem
        if row.example is None or problem is not None:
            assert problem is not None
            raise ArgumentError(f"{row.place}: ", *parts_of(problem))
        yield row.example


def open_source(
    source: Any,
    *,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Source:
    """The reader for ``source``; the arguments are those of `read_examples`."""
    columns = columns or Columns()
    if isinstance(source, (str, Path)):
        path = Path(source)
        if str(source) == STANDARD_INPUT:
            found: Source = PipedSource(None, columns, split)
        elif path.exists() or _SUFFIXES.intersection(map(str.lower, path.suffixes)):
            found = _open_path(path, columns, split)
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
            return RowsSource(_load_from_hub(str(source), split, subset), columns, str(source))
        else:
            raise FileNotFoundError(f"{source}: no such file, and no name of a data set either")
        if subset is not None or (split is not None and isinstance(found, ParquetSource)):
            raise ValueError(f"{found.name} is a file: it has no splits and no subsets")
        return found
    if subset is not None:
        raise ValueError("a subset can be chosen of a data set on the Hub only, by its name")
    # A DatasetDict, or one row by mistake.
    if isinstance(source, Mapping):
        source = _choose_split(source, split)
    elif split is not None:
        raise ValueError(f"{type(source).__name__} has no splits; got split={split!r}")
    if is_frame(source):
        return FrameSource(source, columns)
    if is_lazy(source):
        raise ValueError("the data are a LazyFrame, which holds no rows yet: pass its collect()")
    if not hasattr(source, "__iter__"):
        raise ValueError(
            "the data must be a file, a folder, the name of a data set, a table or an iterable of "
            f"dicts; got {type(source).__name__}"
        )
    return RowsSource(source, columns, f"the {type(source).__name__}")


# --- files --------------------------------------------------------------------------------------


def _open_path(path: Path, columns: Columns, split: str | None) -> Source:
    if path.is_dir() or path.suffix == ".parquet" or is_parquet_file(path):
        return ParquetSource(path, columns)
    if is_pipe(path):
        return PipedSource(path, columns, split)
    with open_file(path) as file:
        beginning = _beginning(file)
    return _text_source(beginning, path, columns, split)


def _beginning(file: BinaryIO) -> bytes:
    """The first line that is not blank, or its beginning, with the blank ones before it."""
    lines = []
    while line := file.readline(_MOST_HEADER):
        lines.append(line)
        if line.strip(_BLANK):
            break
    return b"".join(lines)


def _text_source(
    beginning: bytes,
    path: Path | None,
    columns: Columns,
    split: str | None,
    stream: BinaryIO | None = None,
) -> CsvSource | JsonSource:
    """What reads a text that begins so; ``stream`` where it is open already."""
    line = beginning.lstrip(_BLANK)
    # JSON, or HTML by mistake.
    is_json = line[:1] in (b"{", b"[", b"<")
    if not is_json and ((path is not None and names_table(path)) or begins_table(line, columns)):
        found = CsvSource(path, columns, stream)
        if split is not None:
            raise ValueError(f"{found.name} is a file: it has no splits and no subsets")
        return found
    return JsonSource(path, columns, split, stream)


class PipedSource:
    """JSON, JSONL or CSV that can be read once: in a named pipe or on standard input."""

    rereadable = False

    def __init__(self, path: Path | None, columns: Columns, split: str | None = None) -> None:
        self.name = "standard input" if path is None else str(path)
        self.files: list[Path] = []
        self._path = path
        self._columns = columns
        self._split = split

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` - 1."""
        with open_file(self._path) as file:
            beginning = _beginning(file)
            stream = put_back(beginning, file)
            source = _text_source(beginning, self._path, self._columns, self._split, stream)
            yield from source.rows(start, stop)

    def count(self) -> int | None:
        """None: only reading tells how many rows there are."""
        return None

    def fingerprint(self) -> object:
        """None: it cannot be told before it is read."""
        return None


# --- data sets ----------------------------------------------------------------------------------


def _load_from_hub(name: str, split: str | None, subset: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{name}: no such file; to read the data set of that name from the Hugging Face Hub, "
            "pip install datasets"
        ) from error
    try:
        data = datasets.load_dataset(name, subset, split=split)
    except Exception as error:
        # The library raises many kinds.
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name}: no such file, and the data set of that name cannot be loaded: {reason}"
        ) from error
    return _choose_split(data, split) if isinstance(data, Mapping) else data


def _choose_split(data: Mapping[str, Any], split: str | None) -> Any:
    if not data or any(isinstance(value, (str, int)) for value in data.values()):
        raise ValueError("the data must be an iterable of dicts; got a single dict")
    if split is None and len(data) == 1:
        return next(iter(data.values()))
    if split is None or split not in data:
        raise ArgumentError(
            f"the data set has the splits {list(data)}: choose one with ",
            Argument("split", spelled="split="),
            f"; got {split!r}",
        )
    return data[split]
