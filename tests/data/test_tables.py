"""CSV and TSV: every dialect that spreadsheets and pandas write, and rows that are told, not shifted."""

from __future__ import annotations

import csv
import io
import random
import sys
from pathlib import Path

import pytest

from qa_fast import Columns, Example, read_examples
from qa_fast.data.examples import Row
from qa_fast.data.opening import open_source

HEADER = "id,question,context,answers"
LONG = "Ada wrote it. " * 20_000  # beyond the limit of the csv module


def rows_of(text: str | bytes, path: Path, columns: Columns | None = None) -> list[Row]:
    """The rows of a file of ``text``, which are the same wherever reading begins."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = open_source(path, columns=columns)
    rows = list(source.rows())
    assert source.count() == len(rows)
    for start in range(len(rows) + 1):
        for stop in (None, start, start + 1):
            part = list(source.rows(start, stop))
            assert [(r.number, r.place, r.example) for r in part] == [
                (r.number, r.place, r.example) for r in rows[start:stop]
            ]
    return rows


def examples(text: str | bytes, path: Path, columns: Columns | None = None) -> list[Example]:
    rows = rows_of(text, path, columns)
    found = [row.example for row in rows if row.example is not None]
    assert len(found) == len(rows), [row.problem for row in rows]
    return found


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.txt", "q", "Q.CSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters(delimiter: str, name: str, tmp_path: Path) -> None:
    """The header tells them, whatever the name says; each may stand in quotes, as a line's end may."""
    for end in ("\n", "\r\n", "\r"):
        for mark in ("", "\ufeff", "\ufeff" + end):
            lines = [
                HEADER.replace(",", delimiter),
                f'7{delimiter}Who?{delimiter}"a,b;c\td{end}{end}""Ada"" "{delimiter}Ada',
                "",
                f'"8"{delimiter}Où?{delimiter}À Paris.{delimiter}',
            ]
            found = rows_of(mark + end.join(lines) + end, tmp_path / name)
            assert [row.example for row in found] == [
                Example("7", "Who?", f'a,b;c\td{end}{end}"Ada" ', ("Ada",)),
                Example("8", "Où?", "À Paris.", ()),
            ]
            blank = 1 if mark.endswith(end) else 0
            assert [row.place for row in found] == [
                f"{tmp_path / name} line {blank + 2}",
                f"{tmp_path / name} line {blank + 6}",
            ]


def test_what_the_csv_module_writes_is_read(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(150):
        rows = [
            ["".join(draw.choices("aé𝄞 ,;\t\n\r\"'\\[{", k=draw.randrange(1, 9))) for _ in range(3)]
            for _ in range(draw.randrange(1, 5))
        ]
        file = io.StringIO()
        delimiter, end = draw.choice(",;\t"), draw.choice(["\n", "\r\n", "\r"])
        # Below some Pythons a field with the other line end is not quoted by itself.
        quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerows([["question", "context", "answers"], *rows])
        found = examples(file.getvalue(), tmp_path / draw.choice(["q", "q.csv", "q.tsv"]))
        assert [[e.question, e.context, *(e.answers or ())] for e in found] == rows


def test_empty_cells_are_missing_values(tmp_path: Path) -> None:
    """Of the answers: there are none. Without that column nothing is known of them."""
    text = "title,context,question,answers,id\n,Ada.,Who?,,\nAda,Ada.,Who?,Ada,x"
    assert examples(text, tmp_path / "q.csv") == [
        Example("0", "Who?", "Ada.", ()),
        Example("x", "Who?", "Ada.", ("Ada",), title="Ada"),
    ]
    assert examples("question,context\nWho?,Ada.", tmp_path / "q.csv")[0].answers is None


def test_other_names_and_columns_that_nobody_asked_for(tmp_path: Path) -> None:
    text = ",key,q,text,golds\n0,7,Who?,Ada.,Ada\n"  # with the index of pandas
    columns = Columns(id="key", question="q", context="text", answers="golds")
    wanted = [Example("7", "Who?", "Ada.", ("Ada",))]
    assert examples(text, tmp_path / "q.csv", columns) == wanted
    assert examples(text.replace(",", ";"), tmp_path / "q", columns) == wanted


def test_a_field_may_be_long(tmp_path: Path) -> None:
    for field in (LONG, f'"{LONG}\n{LONG}"'):
        (found,) = examples(f"question,context\nWho?,{field}\n", tmp_path / "q.csv")
        assert found.context == field.strip('"')


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\ufeff\nquestion\tcontext\nWho?\tIt was Ada.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert list(read_examples("-")) == [Example("0", "Who?", "It was Ada.")]


def test_json_is_json_under_any_name(tmp_path: Path) -> None:
    line = '{"question": "a,b", "context": "question,context", "id": 1}'
    for text in (line, f"\ufeff \n{line}\n", f"[{line}]", f'{{"data":\n[{line}]}}'):
        assert examples(text, tmp_path / "q.csv") == [Example("1", "a,b", "question,context")]


# A line, between two that are sound, and what is said of it.
BAD = [
    ("b,Who?,Ada", "it has 3 fields, and the header 4: a field that holds the delimiter"),
    ("b,Who?,Ada, of course,Ada", "it has 5 fields, and the header 4"),
    ("b", "it has 1 fields"),
    (" ", "it has 1 fields"),
    ('b,Who?,"Ada "wrote" it",', "not CSV: .*: a quote within a quoted field is written twice"),
    ("b,Who?,A\0da,Ada", "it has a NUL byte|it is no text, but binary data"),
    (b"b,Who?,\xc0 Paris,", r"not UTF-8 text \(byte 0xc0 at byte offset 7\): convert it"),
    (b'b,Who?,"\n\n\xed\xa0\x80",', r"not UTF-8 text \(byte 0xed at byte offset 0\)"),
    ("b,Who?,,Ada", ""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_rows_are_told_and_those_around_them_read(
    line: str | bytes, message: str, tmp_path: Path
) -> None:
    line = line.encode() if isinstance(line, str) else line
    text = b"\n".join([HEADER.encode(), b"a,Who?,Ada.,Ada", line, b"c,Who?,Ada.,Ada", b""])
    rows = rows_of(text, tmp_path / "q.csv")
    assert [row.example and row.example.id for row in rows[:: len(rows) - 1]] == ["a", "c"]
    assert [row.place for row in rows[:2]] == [f"{tmp_path / 'q.csv'} line {i}" for i in (2, 3)]
    if message:
        assert len(rows) == 3
        with pytest.raises(ValueError, match=f"q.csv line 3: ({message})"):
            list(read_examples(tmp_path / "q.csv"))


def test_a_quote_that_nothing_closes(tmp_path: Path) -> None:
    text = f'{HEADER}\na,Who?,Ada.,Ada\nb,Who?,"Ada.,Ada\n' + "c,Who?,Ada.,Ada\n" * 3
    first, last = rows_of(text, tmp_path / "q.csv")
    assert first.example is not None
    assert last.place.endswith("q.csv line 3")
    assert "a quote opens a field here, or in a line below, and nothing closes it" in str(
        last.problem
    )


# The file, and what is said of all of it.
NO_TABLES = [
    ("", "is empty; give it some questions"),
    ("\ufeff\n\n", "is empty"),
    ("q,c\nWho?,Ada.\n", r"there is no column 'question' among \['q', 'c'\]; say which .*Columns"),
    ("Who?,Ada.\n", r"there is no column 'question' among \['Who\?', 'Ada.'\]"),
    ("question;q\nWho?;Ada.\n", r"there is no column 'context' among \['question', 'q'\]"),
    ("question,context,question\na,b,c\n", "its header has the column 'question' twice"),
    (b"question,context,\xe9\na,b,c\n", "line 1, the header: not UTF-8 text"),
    ('question,context,"\na,b,c\n', "line 1, the header: a quote opens a field here"),
    ("question,context\n".encode("utf-16-le"), "line 1, the header: it seems to be UTF-16"),
    (b"\0\1\2,\n", "line 1, the header: it is no text, but binary data"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), NO_TABLES)
def test_files_that_are_no_tables(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=rf"q\.csv:? {message}"):
        list(read_examples(path))


def test_what_has_no_name_of_a_table_needs_the_columns_of_one(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a text, with a comma\n")
    with pytest.raises(ValueError, match=r"neither JSON .* nor JSONL"):
        list(read_examples(tmp_path / "q.txt"))
    (tmp_path / "q.txt").write_text("question,text\nWho?,Ada.")
    with pytest.raises(ValueError, match=r"no column 'context' among \['question', 'text'\]"):
        list(read_examples(tmp_path / "q.txt"))


def test_a_table_without_rows(tmp_path: Path) -> None:
    assert rows_of(HEADER + "\n\n", tmp_path / "q.csv") == []
