"""Reading questions: every form of data, and what is wrong with a row that cannot be used."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_fast import Columns, Example, read_examples
from qa_fast.data.opening import open_source

ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "title": "Ada",
        "question": "Who?",
        "context": "It was Ada. Ada!",
        "answers": {"text": ["Ada", "Ada!"], "answer_start": [7, 12]},
        "is_impossible": False,
    },
    {
        "id": "b",
        "title": "Ada",
        "question": "Où ça?",
        "context": "À Paris.",
        "answers": {"text": [], "answer_start": []},
        "is_impossible": True,
    },
    {"id": "c", "title": "", "question": "When?", "context": "In 1843.", "answers": None},
]
EXAMPLES = [
    Example("a", "Who?", "It was Ada. Ada!", ("Ada", "Ada!"), (7, 12), "Ada", False),
    Example("b", "Où ça?", "À Paris.", (), (), "Ada", True),
    Example("c", "When?", "In 1843."),
]


def jsonl(path: Path) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_text("\ufeff" + lines[0] + "\n\n" + "\r\n".join(lines[1:]), encoding="utf-8")
    return path


def squad(path: Path) -> Path:
    """With all that real sets have: no title, more keys, no answers, plausible ones."""
    first = {**ROWS[0], "answers": [{"text": "Ada", "answer_start": 7}]}
    first["answers"].append({"text": "Ada!", "answer_start": 12})
    second = {
        "id": "b",
        "question": "Où ça?",
        "is_impossible": True,
        "plausible_answers": [{"text": "Paris", "answer_start": 2}],
    }
    data = [
        {
            "title": "Ada",
            "paragraphs": [
                {"context": ROWS[0]["context"], "qas": [first], "document_id": 3},
                {"context": ROWS[1]["context"], "qas": [second]},
                {"context": "nothing is asked here", "qas": []},
            ],
        },
        {"paragraphs": [{"context": "In 1843.", "qas": [{"id": "c", "question": "When?"}]}]},
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": data}, indent=1), encoding="utf-8")
    return path


def parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    return path


def parquet_folder(path: Path) -> Path:
    (path / "day=1").mkdir(parents=True)
    (path / "_temporary").mkdir()
    (path / "_SUCCESS").touch()
    (path / "_temporary" / "half.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), path / "day=1" / "x.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[1:]), path / "z.parquet")
    return path


def flat_json(path: Path) -> Path:
    path.write_text(json.dumps({"data": ROWS}), encoding="utf-8")
    return path


def json_list(path: Path) -> Path:
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


FORMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "squad": ("squad.json", squad),
    "rows-below-data": ("flat.json", flat_json),
    "list-of-rows": ("list.json", json_list),
    "jsonl": ("rows.jsonl", jsonl),
    "jsonl-named-json": ("rows.json", jsonl),
    "parquet": ("rows.parquet", parquet),
    "parquet-folder": ("folder", parquet_folder),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same(form: str, tmp_path: Path) -> None:
    name, write = FORMS[form]
    source = write(tmp_path / name)
    assert list(read_examples(source)) == EXAMPLES
    opened = open_source(str(source))
    assert opened.count() == 3
    for start in range(4):
        for stop in range(start, 4):
            rows = list(opened.rows(start, stop))
            assert [row.example for row in rows] == EXAMPLES[start:stop]
            assert [row.number for row in rows] == list(range(start, stop))
            assert all(row.place.startswith(str(source)) for row in rows)


@pytest.mark.parametrize("form", ["jsonl", "squad"])
def test_standard_input(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write = FORMS[form]
    data = write(tmp_path / name).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert list(read_examples("-")) == EXAMPLES


def test_rows_in_memory_and_examples_themselves() -> None:
    assert list(read_examples(ROWS)) == EXAMPLES
    assert list(read_examples(iter(ROWS))) == EXAMPLES
    assert list(read_examples(EXAMPLES)) == EXAMPLES
    assert [row.number for row in open_source(iter(ROWS)).rows(1, 2)] == [1]


def test_hugging_face_data_sets() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    assert list(read_examples(data)) == EXAMPLES
    assert list(read_examples(data.to_iterable_dataset())) == EXAMPLES
    assert list(read_examples(datasets.DatasetDict(dev=data))) == EXAMPLES
    two = datasets.DatasetDict(train=data, dev=data.select([1]))
    assert list(read_examples(two, split="dev")) == EXAMPLES[1:2]
    with pytest.raises(ValueError, match=r"has the splits \['train', 'dev'\]: choose one"):
        next(read_examples(two))
    source = open_source(data)
    assert [row.example for row in source.rows(1, 9)] == EXAMPLES[1:]
    assert source.fingerprint() == open_source(data).fingerprint()
    assert source.fingerprint() != open_source(two["dev"]).fingerprint()


def test_rows_are_read_as_they_are_taken() -> None:
    """The second is not read before it is asked for."""

    def rows() -> Any:
        yield ROWS[0]
        raise AssertionError("read too far")

    assert next(read_examples(rows())) == EXAMPLES[0]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param("Ada", (("Ada",), ()), id="text"),
        pytest.param(["Ada", "she"], (("Ada", "she"), ()), id="texts"),
        pytest.param({"text": "Ada", "answer_start": 7}, (("Ada",), (7,)), id="one-dict"),
        pytest.param([{"text": "Ada"}], (("Ada",), ()), id="no-starts"),
        pytest.param([], ((), ()), id="none"),
        pytest.param(None, (None, ()), id="unknown"),
    ],
)
def test_forms_of_answers(answers: object, expected: object) -> None:
    (example,) = read_examples([{**ROWS[0], "answers": answers}])
    assert (example.answers, example.answer_starts) == expected


def test_columns_and_ids() -> None:
    rows = [{"key": 7, "q": "Who?", "text": "Ada."}, {"key": 8, "q": "Who?", "text": "Ada."}]
    named = Columns(id="key", question="q", context="text")
    assert [example.id for example in read_examples(rows, columns=named)] == ["7", "8"]
    numbered = Columns(question="q", context="text")
    assert [example.id for example in read_examples(rows, columns=numbered)] == ["0", "1"]


GOOD = {"id": "a", "question": "Who?", "context": "Ada."}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({"id": 1, "q": "Who?", "context": "x"}, "there is no column 'question' among "
                     r"\['id', 'q', 'context'\]; .* Columns\(question=", id="no-question"),
        pytest.param({**GOOD, "context": None}, "context must be a text; got NoneType", id="null"),
        pytest.param({**GOOD, "question": 5}, "question must be a text; got int 5", id="number"),
        pytest.param({**GOOD, "id": 1.5}, "id must be a text or an integer; got float", id="id"),
        pytest.param({**GOOD, "id": "\ud800"}, r"id is not valid Unicode: '\\ud800'", id="half"),
        pytest.param([1], r"not an object with columns, but list \[1\]", id="no-object"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_says_where_and_why(
    row: object, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(row) + "\n" + json.dumps(GOOD))
    with pytest.raises(ValueError, match=f"rows.jsonl line 3: {message}"):
        list(read_examples(file))
    found = list(open_source(file).rows())
    assert [row.example is None for row in found] == [False, True, False]


@pytest.mark.parametrize(
    "line", [b'{"id": 1,', b"\xff\xfe", b'{"id": "\xff"}'], ids=["cut", "binary", "latin-1"]
)
def test_a_line_that_is_not_json(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    _, row = open_source(file).rows()
    assert row.example is None
    assert row.place.endswith("rows.jsonl line 2")
    assert str(row.problem).startswith("not JSON: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is empty; give it some questions", id="empty"),
        pytest.param("no json", "is neither JSON .* nor JSONL", id="text"),
        pytest.param('"x"', "must be SQuAD JSON.*got str 'x'", id="string"),
        pytest.param('{"x":\n{}}', r"must be SQuAD JSON.*got an object with \['x'\]", id="dict"),
        pytest.param('{"data": [{"paragraphs": 3}]}', "article 0: must be an object with a list "
                     "'paragraphs'", id="paragraphs"),
        pytest.param('{"data": [{"paragraphs": [{"context": "x"}]}]}',
                     "article 0 paragraph 0: must be an object with a list 'qas'", id="no-qas"),
        pytest.param('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1}]}]}]}',
                     "article 0 paragraph 0 question 0: there is no column 'question'", id="qas"),
    ],
)  # fmt: skip
def test_json_that_is_no_data(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_examples(file))


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file .*missing\.jsonl"):
        list(read_examples(tmp_path / "missing.jsonl"))
    with pytest.raises(FileNotFoundError, match="no such file, and no name of a data set"):
        read_examples(tmp_path / "missing").__next__()
    with pytest.raises(FileNotFoundError, match=r"there is no \.parquet file in this folder"):
        list(read_examples(tmp_path))
    with pytest.raises(ValueError, match="is a file: it has no splits"):
        list(read_examples(jsonl(tmp_path / "rows.jsonl"), split="dev"))
    with pytest.raises(ValueError, match="an iterable of dicts; got int"):
        list(read_examples(3))
    with pytest.raises(ValueError, match="an iterable of dicts; got a single dict"):
        list(read_examples(GOOD))
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"x\.parquet: not a Parquet file"):
        list(read_examples(tmp_path / "x.parquet"))
    pq.write_table(pa.table({"q": ["Who?"]}), tmp_path / "x.parquet")
    with pytest.raises(
        ValueError, match=r"x\.parquet: there is no column 'question' among \['q'\]"
    ):
        list(read_examples(tmp_path / "x.parquet"))


def test_fingerprints_tell_data_apart(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD))
    before = open_source(file).fingerprint()
    assert before == open_source(file).fingerprint()
    file.write_text(json.dumps({**GOOD, "context": "Bob."}))
    assert before != open_source(file).fingerprint()
    assert open_source("-").fingerprint() is None


def test_a_large_parquet_file_is_read_as_far_as_needed(tmp_path: Path) -> None:
    """A row group behind the rows that are asked for may be broken: nobody looks at it."""
    rows = [{"id": str(i), "question": "Who?", "context": "x" * 50} for i in range(2000)]
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.Table.from_pylist(rows),
        path,
        row_group_size=500,
        compression="none",
        use_dictionary=False,
    )
    broken = bytearray(path.read_bytes())
    offset = pq.read_metadata(path).row_group(2).column(2).data_page_offset
    broken[offset : offset + 2000] = bytes(2000)
    path.write_bytes(broken)
    assert [e.id for e in islice(read_examples(path), 1000)] == [str(i) for i in range(1000)]
    assert [row.number for row in open_source(path).rows(1500, 1502)] == [1500, 1501]
    with pytest.raises(ValueError, match=r"rows\.parquet: row group 2 cannot be read"):
        list(open_source(path).rows(900, 1100))
