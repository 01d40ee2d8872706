"""Tables in memory, of pandas, polars and pyarrow: read as their rows are, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from qa_fast import Columns, evaluate, read_examples
from qa_fast.data.opening import open_source

from ..helpers.programs import run_python

pd = pytest.importorskip("pandas")

COUNT = 600  # more than two pieces of a table
ROWS: list[dict[str, Any]] = [
    {
        "id": i,
        "question": f"Who wrote note {i}?",
        "context": "It was Ada.",
        "answers": {"text": ["Ada"][: i % 2], "answer_start": [7][: i % 2]},
        "title": None if i % 3 else "Ada",
    }
    for i in range(COUNT)
]
WANTED = list(read_examples(ROWS))
TABLE = pa.Table.from_pylist(ROWS)


def polars() -> Any:
    return pytest.importorskip("polars")


def as_dictionary(table: pa.Table) -> pa.Table:
    return table.set_column(1, "question", table["question"].dictionary_encode())


def list_of_dicts(table: pa.Table) -> pa.Table:
    lists = [
        [
            {"text": text, "answer_start": start}
            for text, start in zip(*answers.values(), strict=True)
        ]
        for answers in table["answers"].to_pylist()
    ]
    return table.set_column(3, "answers", pa.array(lists))


def views(table: pa.Table) -> pa.Table:
    texts = pa.large_list(pa.string_view())
    answers = pa.struct([("text", texts), ("answer_start", pa.large_list(pa.int16()))])
    return table.set_column(3, "answers", table["answers"].cast(answers)).set_column(
        1, "question", table["question"].cast(pa.large_string())
    )


def on_disk(folder: Path) -> Any:
    for i in (0, 1):
        pq.write_table(TABLE.slice(i * 250, 250 + 100 * i), folder / f"{i}.parquet")
    return ds.dataset(folder)


TABLES: dict[str, Callable[[Path], Any]] = {
    "pandas of arrays": lambda _: TABLE.to_pandas(),
    "pandas of arrays of dicts": lambda _: list_of_dicts(TABLE).to_pandas(),
    "pandas with categories": lambda _: as_dictionary(TABLE).to_pandas(),
    "pandas on arrow": lambda _: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "pandas of rows": lambda _: pd.DataFrame(ROWS).assign(id=[np.int32(i) for i in range(COUNT)]),
    "pandas with an index": lambda _: TABLE.to_pandas().set_index(np.zeros(COUNT)),
    "polars": lambda _: polars().from_arrow(TABLE),
    "polars with categories": lambda _: polars().from_arrow(as_dictionary(TABLE)),
    "table": lambda _: TABLE,
    "table of dictionaries": lambda _: as_dictionary(TABLE),
    "table of lists": lambda _: list_of_dicts(TABLE),
    "table of views": lambda _: views(TABLE),
    "table in chunks": lambda _: pa.concat_tables([TABLE.slice(i, 1) for i in range(COUNT)]),
    "batch": lambda _: TABLE.to_batches()[0],
    "reader": lambda _: TABLE.to_reader(max_chunksize=70),
    "dataset": on_disk,
    "dataset in memory": lambda _: ds.dataset(TABLE),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables(kind: str, tmp_path: Path) -> None:
    data = TABLES[kind](tmp_path)
    source = open_source(data)
    assert source.rereadable == (kind != "reader")
    assert source.count() == (None if kind == "reader" else COUNT)
    assert (source.fingerprint(), source.files) == (None, [])
    assert [row.example for row in source.rows()] == WANTED
    for start, stop in ((0, 1), (255, 258), (256, 512), (599, None), (600, 700)):
        source = open_source(TABLES[kind](tmp_path) if kind == "reader" else data)
        rows = list(source.rows(start, stop))
        assert [row.example for row in rows] == WANTED[start:stop], (start, stop)
        assert [row.place for row in rows] == [
            f"the {type(data).__name__} row {i}" for i in range(start, min(stop or COUNT, COUNT))
        ]


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_missing_values(kind: str) -> None:
    columns: dict[str, Any] = {
        "id": ["a", None, "c", "d"],
        "question": ["Who?", "Who?", None, "Who?"],
        "context": ["Ada."] * 4,
        "title": [float("nan"), None, 1.5, 2.0],
        "answers": [["Ada"], None, None, []],
    }
    frames = [pd.DataFrame(columns)] if kind == "pandas" else [polars().DataFrame(columns)]
    if kind == "pandas":
        frames.append(frames[0].assign(id=pd.array(columns["id"], dtype="string")))
        frames.append(frames[0].assign(answers=[["Ada"], float("nan"), pd.NaT, np.array([])]))
        frames.append(frames[0].assign(answers=[np.array(["Ada"]), pd.NA, None, ()]))
    for frame in frames:
        rows = list(open_source(frame).rows())
        found = [row.example and (row.example.id, row.example.answers) for row in rows]
        assert found == [("a", ("Ada",)), ("1", None), None, ("d", ())]
        assert str(rows[2].problem) == "question must be a text; got NoneType None"


def test_rows_that_cannot_be_used() -> None:
    frame = pd.DataFrame({"question": ["Who?", "Who?"], "context": ["Ada.", 7]})
    with pytest.raises(
        ValueError, match=r"^the DataFrame row 1: context must be a text; got int 7"
    ):
        list(read_examples(frame))
    with pytest.raises(
        ValueError, match=r"^the DataFrame: there is no column 'context' among \['q"
    ):
        list(read_examples(frame[["question"]]))
    with pytest.raises(ValueError, match=r"^the DataFrame has the column 'context' twice"):
        list(read_examples(frame[["question", "context", "context"]]))
    with pytest.raises(ValueError, match="DataFrame has no splits"):
        list(read_examples(frame, split="dev"))
    damaged = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    table = pa.table({"question": pa.array(["Who?"]), "context": damaged})
    with pytest.raises(ValueError, match=r"^the Table: one of its rows 0 to 0 cannot be read"):
        list(read_examples(table))


def test_a_table_that_is_not_computed_yet() -> None:
    with pytest.raises(
        ValueError, match=r"LazyFrame, which holds no rows yet: pass its collect\(\)"
    ):
        list(read_examples(polars().LazyFrame({"question": ["Who?"]})))


def test_other_names() -> None:
    frame = TABLE.to_pandas().rename(columns={"question": 0, "context": "text"})
    with pytest.raises(ValueError, match=r"no column 'question' among \['id', 0, 'text'"):
        list(read_examples(frame))
    named = Columns(question="q", context="text")
    assert list(read_examples(frame.rename(columns={0: "q"}), columns=named)) == WANTED


def test_a_table_is_not_read_further_than_asked_for() -> None:
    """A row of the second piece that cannot be read harms nobody who wants the first ones."""
    taken = []

    def batches() -> Any:
        for batch in TABLE.to_batches(max_chunksize=100):
            taken.append(batch)
            yield batch

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    assert len(list(open_source(reader).rows(0, 50))) == 50
    assert len(taken) < 3


def test_gold_answers_of_a_table() -> None:
    predictions = {str(i): ("Ada" if i % 2 else "") for i in range(COUNT)}
    assert evaluate(TABLE.to_pandas(), predictions).metrics["exact"] == 100.0
    table = pd.DataFrame({"id": predictions.keys(), "answer": predictions.values()})
    with pytest.raises(ValueError, match=r"got a DataFrame: of two of its columns dict\(zip\("):
        evaluate(TABLE, table)
    found = evaluate(TABLE, dict(zip(table["id"], table["answer"], strict=True)))
    assert found.metrics["exact"] == 100.0


def test_no_library_is_loaded_for_it() -> None:
    program = """
import sys
from qa_fast.data.opening import open_source
source = open_source([{"question": "Who?", "context": "Ada."}])
print(len(list(source.rows())), {"pandas", "polars", "pyarrow"} & sys.modules.keys())"""
    assert run_python(program) == "1 set()"
