"""Questions in: SQuAD JSON, JSONL, Parquet, Hugging Face data sets, or any iterable of rows.

A row that cannot be used is a `Row` with a reason, so that the caller decides whether to stop or to go
on; `read_examples` stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import Argument, ArgumentError, parts_of
from .examples import Columns, Example, Row
from .sources import JsonSource, ParquetSource, RowsSource, Source

STANDARD_INPUT = "-"


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
            - a Parquet file (``.parquet``), or a folder of them, read in the order of their names;
            - "-": SQuAD JSON or JSONL on standard input;
            - the name of a data set on the Hugging Face Hub, such as "rajpurkar/squad_v2";
            - a data set of the ``datasets`` library, or any other iterable of dicts.
        columns: the names of the columns, where they are not those of `Example`.
        split: which split of a data set, or of a file, with several.
        subset: which subset (configuration) of a data set on the Hub.

    Raises:
        OSError: a file that cannot be read.
        ValueError: data in no such form, or a row that cannot be used; the message says where.

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
            found: Source = JsonSource(None, columns, split)
        elif path.is_dir() or path.suffix == ".parquet":
            found = ParquetSource(path, columns)
        elif path.exists() or path.suffix in (".json", ".jsonl", ".ndjson"):
            found = JsonSource(path, columns, split)
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
            return RowsSource(_load_from_hub(str(source), split, subset), columns, str(source))
        else:
            raise FileNotFoundError(f"{source}: no such file, and no name of a data set either")
        if subset is not None or (split is not None and not isinstance(found, JsonSource)):
            raise ValueError(f"{found.name} is a file: it has no splits and no subsets")
        return found
    if subset is not None:
        raise ValueError("a subset can be chosen of a data set on the Hub only, by its name")
    # A DatasetDict, or one row by mistake.
    if isinstance(source, Mapping):
        source = _choose_split(source, split)
    elif split is not None:
        raise ValueError(f"{type(source).__name__} has no splits; got split={split!r}")
    if not hasattr(source, "__iter__"):
        raise ValueError(
            "the data must be a file, a folder, the name of a data set or an iterable of dicts; "
            f"got {type(source).__name__}"
        )
    return RowsSource(source, columns, f"the {type(source).__name__}")


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
