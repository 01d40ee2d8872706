"""Files with the wrong contents: each is told in one line; once it is mended, the same command works."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import Result

from qa_fast import predict

from ..helpers.sound_files import (
    ROWS,
    contents,
    csv,
    jsonl,
    na_prob,
    parquet,
    predicted,
    qa_fast,
    squad,
    texts,
    told,
)
from ..helpers.tiny import save_tiny_model

# --- the commands -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def wanted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run of predict writes."""
    folder = tmp_path_factory.mktemp("wanted")
    predict(ROWS, folder / "a.jsonl", model=model, part_rows=2)
    return contents(folder)


@dataclass(frozen=True)
class Place:
    """A command that reads a file, the sound form of the file, and the arguments of the command."""

    file: str
    sound: Callable[[Any], bytes]
    arguments: Callable[[Path], list[object]]


PLACES = {
    "predict jsonl": Place("q.jsonl", jsonl, lambda f: ["predict", f]),
    "predict squad": Place("q.json", squad, lambda f: ["predict", f]),
    "predict csv": Place("q.csv", csv, lambda f: ["predict", f]),
    "predict parquet": Place("q.parquet", parquet, lambda f: ["predict", f]),
    "evaluate data": Place("q.jsonl", jsonl, lambda f: ["evaluate", f, "{p}"]),
    "evaluate texts": Place("t.json", texts, lambda f: ["evaluate", "{d}", f]),
    "evaluate parquet": Place("t.parquet", predicted, lambda f: ["evaluate", "{d}", f]),
    "evaluate na_prob": Place("n.json", na_prob, lambda f: ["evaluate", "{d}", "{p}", "-n", f]),
    "compare": Place("t.json", texts, lambda f: ["compare", f, "{p}", "--data", "{d}"]),
    "ask": Place("t.txt", lambda _: b"Ada wrote it.", lambda f: ["ask", "Who?", "-c", f]),
}

# Arrow does not look whether bytes that are called a text are one.
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 6, pa.array([b"\xff"] * 6).buffers())
DEEP = b"[" * 100_000 + b"]" * 100_000
LATIN = '{"id": "q0", "question": "Où?", "context": "À Paris."}'.encode("latin-1")
SOUND = json.dumps(ROWS[0]).encode()


def row(**changes: object) -> bytes:
    """A sound line and one with changes."""
    return jsonl([ROWS[1], {**ROWS[0], **changes}])


def prediction(**changes: object) -> bytes:
    return jsonl([{"id": "q0", "answer": "Ada", **changes}])


def columns(**changes: object) -> bytes:
    table = {name: [r[name] for r in ROWS] for name in ROWS[0]}
    return parquet({**table, **changes})


# Where, what the file holds instead (a function of the sound bytes where it is made of them), the message.
BAD: list[tuple[str, Any, str]] = [
    # odd, but sound
    ("predict jsonl", lambda b: (b"\xef\xbb\xbf" + b).replace(b"\n", b"\r\n") + b"\n\n", ""),
    ("evaluate texts", lambda b: b"\xef\xbb\xbf\n" + b, ""),
    ("evaluate na_prob", lambda b: b"\xef\xbb\xbf" + b, ""),
    ("predict parquet", lambda _: columns(answers=[{"text": ["x"], "answer_start": [None]}] * 5 + [None]), ""),
    ("evaluate texts", b'{"q0": [{"text": "x", "start_logit": 1}]}', ""),
    ("predict jsonl", lambda b: b.decode().encode("utf-16"), ""),
    ("predict squad", gzip.compress, ""),
    ("evaluate texts", bz2.compress, ""),
    ("evaluate na_prob", lzma.compress, ""),
    ("compare", lambda b: gzip.compress(b.decode().encode("utf-32")), ""),
    ("ask", gzip.compress, ""),
    # any JSON
    ("predict jsonl", b"", "q.jsonl is empty; give it some questions"),
    ("predict jsonl", b"\xef\xbb\xbf\n \n", "q.jsonl is empty"),
    ("predict jsonl", lambda b: b[:-8], "q.jsonl line 6: not JSON: Expecting"),
    ("predict jsonl", SOUND + b"\n" + LATIN, "line 2: not JSON: not UTF-8 text (byte 0xf9 at byte offset 27): convert it"),
    ("predict jsonl", lambda b: b.decode().encode("utf-16-le"), "it seems to be UTF-16 without a byte order mark: convert it"),
    ("predict jsonl", SOUND + b"\n" + DEEP, "line 2: not JSON: its lists and objects are nested too deep"),
    ("predict jsonl", SOUND + b"\n5", "line 2: not an object with columns, but int 5"),
    ("predict jsonl", SOUND + b"\nNaN", "line 2: not an object with columns, but float nan"),
    ("predict jsonl", SOUND + b"\n" + b"9" * 5000, "line 2: not JSON: Exceeds the limit"),
    ("predict jsonl", b"\x89PNG\r\n\x1a\n\0\0", "q.jsonl: is a picture: name a file of text"),
    ("predict jsonl", b"\x8a\0\x01\n\0\0", "q.jsonl is neither JSON (it is no text, but binary data) nor JSONL"),
    # rows
    ("predict jsonl", jsonl([ROWS[0], {"id": 1, "context": "x"}]), "line 2: there is no column 'question' among"),
    ("predict jsonl", row(question=None), "line 2: question must be a text; got NoneType"),
    ("predict jsonl", row(context=["x"]), "line 2: context must be a text; got list ['x']"),
    ("predict jsonl", row(context=""), "line 2: the context is empty"),
    ("predict jsonl", row(id=1.5), "line 2: id must be a text or an integer; got float 1.5"),
    ("predict jsonl", row(id="\ud800"), "line 2: id is not valid Unicode"),
    # SQuAD
    ("predict squad", lambda b: b[:-20], "q.json is neither JSON (Unterminated string"),
    ("predict squad", DEEP, "q.json is neither JSON (its lists and objects are nested too deep)"),
    ("predict squad", b'{"version": 2,\n"data": {}}', "must be SQuAD JSON, which is an object with a list 'data'"),
    ("predict squad", b'{"data": [{"paragraphs": [7]}]}', "article 0 paragraph 0: must be an object"),
    ("predict squad", b'{"data": [5]}', "q.json entry 0: not an object with columns, but int 5"),
    # Parquet
    ("predict parquet", b"", "q.parquet: not a Parquet file"),
    ("predict parquet", b"no Parquet at all, but long enough", "q.parquet: not a Parquet file"),
    ("predict parquet", lambda b: b[:-20], "q.parquet: not a Parquet file"),
    ("predict parquet", lambda b: b[:4] + bytes(200) + b[204:], "q.parquet: row group 0 cannot be read"),
    ("predict parquet", lambda _: parquet({"id": ["a"], "question": ["Who?"]}), "q.parquet: there is no column 'context' among ['id', 'question']"),
    ("predict parquet", lambda _: columns(question=range(6)), "row 0: question must be a text; got int 0"),
    ("predict parquet", lambda _: columns(id=[0.5] * 6), "row 0: id must be a text or an integer; got float 0.5"),
    ("predict parquet", lambda _: columns(context=[b"\xff"] * 6), "row 0: context must be a text; got bytes"),
    ("predict parquet", lambda _: columns(context=NOT_UTF8), "q.parquet: row group 0 cannot be read ('utf-8' codec"),
    # CSV
    ("predict csv", lambda b: b + b"q6,Who?\n", "q.csv line 8: it has 2 fields, and the header 4"),
    ("predict csv", lambda b: b.replace(b"question", b"q", 1), "say which one holds the question with --question-column"),
    # gold answers
    ("evaluate data", lambda b: b + b, ""),
    ("evaluate data", jsonl([{k: v for k, v in r.items() if k != "answers"} for r in ROWS]), "question 'q0' has no gold answers"),
    ("evaluate data", row(answers=7), "line 2: answers must be texts"),
    ("evaluate data", row(answers=[[[[[[1]]]]]]), "line 2: answers must be texts"),
    ("evaluate data", row(answers=[0, 2]), "line 2: answers must be texts, or {'text': [...], 'answer_start': [...]}; got list [0, 2]"),
    ("evaluate data", row(answers="{'text': ['a', 'answer_start': [0]}"), "line 2: answers is a text that looks like answers written out"),
    ("evaluate data", row(is_impossible="perhaps"), "line 2: is_impossible must be true or false; got str 'perhaps'"),
    ("evaluate data", b"", "q.jsonl is empty"),
    # predictions
    ("evaluate texts", b"", "t.json: not JSON"),
    ("evaluate texts", lambda b: b[:-5], "t.json: not JSON: Unterminated string"),
    ("evaluate texts", DEEP, "t.json: not JSON: its lists and objects are nested too deep"),
    ("evaluate texts", b'{"q0": "Ada", "q0": "Bob"}', "t.json: not JSON: the key 'q0' occurs twice"),
    ("evaluate texts", b'{"q0": 5}', "the value of id 'q0' must be a text or a list of answers"),
    ("evaluate texts", b'{"q0": [{"text": 5}]}', "id 'q0': answer must be a text; got int 5"),
    ("evaluate texts", b'{"q0": [{"text": "x", "start_logit": "1", "end_logit": 2}]}', "start_logit must be a number"),
    ("evaluate texts", b'{"q0": [{"text": "x", "score": NaN}]}', "score must be a number or null; got float nan"),
    ("evaluate texts", prediction(score=10**400), "line 1: score must be a number"),
    ("evaluate texts", prediction(start=-1), "line 1: start must be a whole number"),
    ("evaluate texts", prediction(end=2.5), "line 1: end must be a whole number"),
    ("evaluate texts", prediction(chunks=True), "line 1: chunks must be a whole number"),
    ("evaluate texts", prediction(null_score=float("inf")), "line 1: null_score must be a number"),
    ("evaluate texts", prediction(probability=1.5), "line 1: probability must be a number from 0 to 1, or null; got float 1.5"),
    ("evaluate texts", prediction(probability="1"), "line 1: probability must be a number from 0 to 1"),
    ("evaluate texts", prediction(n_best=["Ada"]), "line 1: n_best must be a list of answers"),
    ("evaluate texts", prediction(n_best=[{"score": 1.0}]), "line 1: answer must be a text; got NoneType"),
    ("evaluate texts", prediction() + b'{"id": "q1"}', "line 2: a prediction has an id and an answer"),
    ("evaluate texts", prediction() * 2, "id 'q0' occurs twice in the predictions"),
    ("evaluate texts", b"id,answer\nq0,Ada\n", "t.json: is a table, and predictions are read from JSON"),
    ("evaluate texts", LATIN, "not JSON: not UTF-8 text"),
    ("evaluate parquet", lambda b: b[:-9], "t.parquet: not a Parquet file"),
    ("evaluate parquet", lambda _: parquet({"id": ["q0"]}), "row 0: a prediction has an id and an answer"),
    ("evaluate parquet", lambda _: parquet({"id": [1], "answer": ["x"]}), "row 0: id must be a text; got int 1"),
    ("evaluate parquet", lambda _: parquet({"id": ["q0"], "answer": ["x"], "score": ["high"]}), "score must be a number"),
    ("evaluate na_prob", b"[]", "n.json: must be an object from ids to numbers"),
    ("evaluate na_prob", b'{"q0": 1', "n.json: not JSON"),
    ("evaluate na_prob", lambda b: b.replace(b"0.25", b"1e999", 1), "n.json must have a number for every prediction; got float inf"),
    ("evaluate na_prob", lambda b: b.replace(b"0.25", b"9" * 400, 1), "n.json must have a number for every prediction; got int 99"),
    ("evaluate na_prob", lambda b: b.replace(b"q0", b"q1"), "n.json: not JSON: the key 'q1' occurs twice"),
    ("compare", b"{", "t.json: not JSON"),
    ("compare", b'{"results": {}, "details": 5}', "t.json: its details must be a file"),
    ("compare", b'{"results": {}, "details": "../p.parquet"}', "t.json: its details must be a file"),
    ("compare", b'{"results": {}, "details": "/etc/passwd"}', "t.json: its details must be a file"),
    ("compare", b'{"results": {}, "details": "details_1.parquet"}', "details_1.parquet: no such file or directory"),
    ("ask", b"\xff\xff", "t.txt: not UTF-8 text (byte 0xff at byte offset 0): convert it"),
    ("ask", b"\xff\xfe", "t.txt is empty"),
    ("ask", b"%PDF-1.7\n", "t.txt: is a PDF document: extract its text first"),
]  # fmt: skip


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command of a place on its file in ``tmp_path``."""
    (tmp_path / "dev.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "p.json").write_bytes(texts(None))

    def command(place: Place, *more: object) -> Result:
        arguments = [
            str(x).format(d=tmp_path / "dev.jsonl", p=tmp_path / "p.json")
            for x in place.arguments(tmp_path / place.file)
        ]
        if arguments[0] == "predict":
            arguments += ["-o", str(tmp_path / "out" / "a.jsonl"), "--part-rows", "2"]
        if arguments[0] in ("predict", "ask"):
            arguments += ["--model", str(model)]
        return qa_fast(*arguments, *more)

    return command


@pytest.mark.parametrize(("where", "content", "message"), BAD)
def test_a_bad_file_is_told_and_a_mended_one_is_read(
    where: str,
    content: Any,
    message: str,
    run: Callable[..., Result],
    wanted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    place = PLACES[where]
    file, sound = tmp_path / place.file, place.sound(ROWS)
    file.write_bytes(content(sound) if callable(content) else content)
    before = contents(tmp_path)
    if not message:  # odd, but sound
        assert run(place).exit_code == 0
        return
    assert message in told(run(place))
    left = {name: data for name, data in contents(tmp_path).items() if ".parts/" not in name}
    assert left == before
    file.write_bytes(sound)
    result = run(place)
    if (
        "holds a run with other settings" in result.stderr
    ):  # of parts of the other data none is taken
        assert list(tmp_path.glob("out/a.jsonl.parts/part-*"))
        for path in tmp_path.glob("out/a.jsonl.parts/*"):
            path.unlink()
        result = run(place)
    assert result.exit_code == 0, result.output
    if where.startswith("predict"):
        assert contents(tmp_path / "out") == wanted
