"""Fuzzes the readers of files: whatever bytes a file has, it is read, or told in an error that names it.

    pip install atheris
    python tests/fuzz/readers.py --runs 1000000 [--form squad] [CORPUS]

A reader may give rows or predictions, or raise a ValueError or an OSError with the file's name in it.
Any other exception, a write, or more than ten seconds for one file is a finding. The first byte of an
input says for which reader it is and how the rest is used: as the file itself, or as the seed of random
numbers by which a sound file is changed in a few places, to values of all types. Inputs that reach new
code are kept in CORPUS, and findings are written to the current folder: as CORPUS, one is run again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

instrumented = nullcontext()
if __name__ == "__main__":
    import atheris

    instrumented = atheris.instrument_imports(include=["qa_fast"])
with instrumented:
    from qa_fast.data.opening import open_source
    from qa_fast.data.predictions import read_predictions
    from qa_fast.evaluation.comparing.compare import read_scored_answers
    from qa_fast.evaluation.matching import _read_na_prob
    from qa_fast.files.json_text import read_json
    from qa_fast.files.wording import explain
    from qa_fast.runs.manifest import check_settings, is_complete, read_manifest
    from qa_fast.runs.output import Output
    from qa_fast.runs.parts import Part, finished_part

# --- sound files --------------------------------------------------------------------------------

ROW = {
    "id": "q1",
    "title": "Ada",
    "question": "Who wrote it?",
    "context": "Ada wrote it.",
    "answers": {"text": ["Ada"], "answer_start": [0]},
}
QUESTION = {**ROW, "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": False}
SQUAD = {
    "version": "v2.0",
    "data": [{"title": "Ada", "paragraphs": [{"context": ROW["context"], "qas": [QUESTION] * 2}]}],
}
MRQA = {
    "context": "Ada wrote it.",
    "qas": [{"qid": "q1", "question": "Who?", "answers": ["Ada"],
             "detected_answers": [{"text": "Ada", "char_spans": [[0, 2]]}]}],
}  # fmt: skip
NATURAL = {
    "example_id": 1,
    "question_text": "who",
    "document_text": "<P> Ada wrote it . </P>",
    "long_answer_candidates": [{"start_token": 0, "end_token": 6, "top_level": True}],
    "annotations": [{"short_answers": [{"start_token": 1, "end_token": 2}], "yes_no_answer": "NO"}],
}
TASK = {
    "data": {"text": "Ada wrote it.", "question": "Who?"},
    "annotations": [{"result": [{"value": {"start": 0, "end": 3, "labels": ["ANSWER"]}}]}],
}
MARKED = {"text": "Ada wrote it.", "label": [[0, 3, "ANSWER"]], "question": "Who?"}
SPELLED = {
    "question": "Who?",
    "context": "Ada.",
    "answers": "{'text': ['Ada'], 'answer_start': [0]}",
}
ANSWER = {"score": 1.5, "start": 0, "end": 3, "answer": "Ada"}
PREDICTION = {
    "id": "q1",
    **ANSWER,
    "null_score": -1.0,
    "n_best": [ANSWER] * 2,
    "chunks": 1,
    "probability": 0.5,
}
N_BEST = {"q1": [{"text": "Ada", "probability": 0.5, "start_logit": 1.0, "end_logit": 2.0}] * 2}
SCORED = {
    "id": "q1",
    "question": "Who?",
    "answers": ["Ada"],
    "prediction": "Ada",
    "exact": 1.0,
    "f1": 1.0,
}
RESULTS = {"results": {"dev": {"f1": 1.0}}, "details": "details_1.parquet"}
MANIFEST = {
    "status": "complete",
    "rows": 2,
    "written": 2,
    "rejected": 0,
    "settings": {
        "input": [{"file": "dev.json", "bytes": 9, "sha256": "0"}],
        "options": {"scoring": "logit", "top_k": 5},
        "part_rows": 2,
        "num_shards": 1,
    },
    "sessions": [{"seconds": 1.0, "questions": 2, "stages": {"forward": 0.5}}],
    "parts": [{"file": "part-000000.parquet"}],
}
NOTE = {"rows": [0, 2], "rejected": 0}
ODD = [
    None, True, False, 0, -1, 7, 1 << 31, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    float("-inf"), "", " ", "Ada", "\0", "\ud800", "../x", "/dev/zero", "x" * 5000, [], [[]], [None],
    {}, {"": {}}, {"text": None}, {"data": []}, [ROW], b"\xff",
]  # fmt: skip


def _lines(record: object) -> bytes:
    return b"\n".join([json.dumps(record).encode()] * 2)


def _whole(record: object) -> bytes:
    return json.dumps(record).encode()


def _table(record: object, metadata: dict[bytes, bytes] | None = None, rows: int = 2) -> bytes:
    """A Parquet file of ``record``, more than once."""
    table, sink = pa.Table.from_pylist([record] * rows), io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, row_group_size=1)
    return sink.getvalue()


def _cells(record: object) -> bytes:
    """A CSV file of ``record``, twice, with dicts and lists in cells as Python writes them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROW), extrasaction="ignore")
    writer.writeheader()
    writer.writerows([record] * 2)
    return text.getvalue().encode()


def _one_row(record: object) -> bytes:
    return _table(record, rows=1)


def _part(note: object) -> bytes:
    return _table(PREDICTION, {b"qa_fast.part": json.dumps(note).encode()})


# --- readers ------------------------------------------------------------------------------------


def _examples(path: Path) -> None:
    source = open_source(path)
    source.count()
    for row in source.rows():
        # A row that cannot be used is given with the reason.
        assert (row.example is None) == bool(row.problem)
        assert row.place.startswith(str(path))


def _predictions(path: Path) -> None:
    for prediction in read_predictions(path):
        assert isinstance(prediction.answer, str)


def _manifest(path: Path) -> None:
    manifest = read_manifest(path)
    assert json.dumps(manifest.to_dict()) == json.dumps(read_json(path))  # as it is written back
    output = Output(path.parent, "folder")
    is_complete(output)
    check_settings(output, manifest.settings)


# By name: the file, what reads it, a sound record, and what makes a file of it.
FORMS: dict[str, tuple[str, Callable[[Path], object], object, Callable[[Any], bytes]]] = {
    "squad": ("dev.json", _examples, SQUAD, _whole),
    "jsonl": ("dev.jsonl", _examples, ROW, _lines),
    "parquet": ("dev.parquet", _examples, ROW, _table),
    "mrqa": ("dev.jsonl", _examples, MRQA, _lines),
    "natural-questions": ("dev.jsonl", _examples, NATURAL, _lines),
    "label-studio": ("dev.json", _examples, [TASK, TASK], _whole),
    "doccano": ("dev.jsonl", _examples, MARKED, _lines),
    "spelled": ("dev.jsonl", _examples, SPELLED, _lines),
    "splits": ("dev.json", _examples, {"train": [ROW, SPELLED]}, _whole),
    "predictions": ("p.json", _predictions, {"q1": "Ada", "q2": ""}, _whole),
    "n-best": ("p.json", _predictions, N_BEST, _whole),
    "predictions-jsonl": ("p.jsonl", _predictions, PREDICTION, _lines),
    "predictions-parquet": ("p.parquet", _predictions, PREDICTION, _table),
    "na-prob": ("na.json", _read_na_prob, {"q1": 0.5}, _whole),
    "results": ("results_1.json", read_scored_answers, RESULTS, _whole),
    "details": ("details_2.parquet", read_scored_answers, SCORED, _one_row),
    "manifest": ("manifest.json", _manifest, MANIFEST, _whole),
    "part": ("part-000000.parquet", lambda p: finished_part(p.parent, Part(0, 0, 2)), NOTE, _part),
    "csv": ("dev.csv", _examples, ROW, _cells),
    "packed": ("dev.json", _examples, SQUAD, lambda record: gzip.compress(_whole(record), mtime=0)),
}
_NAMES = list(FORMS)
CHANGED = 128  # added to the first byte: the rest is a seed


def check(data: bytes, folder: Path) -> None:
    """Read what ``data`` stands for from a file in ``folder``; a finding is any other exception."""
    if not data:
        return
    name, read, record, encode = FORMS[_NAMES[data[0] % CHANGED % len(_NAMES)]]
    if data[0] >= CHANGED:
        try:
            draw = random.Random(data[1:])
            content = encode(changed(record, draw))
            if draw.random() < 0.03:
                depth = draw.choice((10, 900, 980, 990, 100_000))
                content = content.replace(b'"Ada"', b"[" * depth + b"]" * depth)
        except Exception:  # json and pyarrow raise many kinds for what has no form in such a file
            return
    else:
        content = data[1:]
    path = folder / name
    path.write_bytes(content)
    try:
        with _no_writing():
            read(path)
    except (ValueError, OSError) as error:
        if str(folder) not in explain(error):
            raise AssertionError("an error without the file's name") from error
    finally:
        path.unlink()


def changed(record: Any, draw: random.Random) -> Any:
    """``record`` with a few values or keys of it replaced, left out or wrapped."""
    record = json.loads(json.dumps(record))
    for _ in range(draw.choice((1, 1, 2, 3))):
        at, holder, key = record, None, None
        while isinstance(at, (dict, list)) and at and draw.random() < 0.8:
            holder, key = at, draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
            at = holder[key]
        what = draw.random()
        new = deepcopy(draw.choice(ODD)) if what < 0.7 else [at] if what < 0.8 else {"x": at}
        if holder is None:
            record = new
        elif what > 0.93:
            del holder[key]
        elif what > 0.9 and isinstance(holder, dict):
            holder["also"] = holder.pop(key)
        else:
            holder[key] = new
    return record


_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and (
        event
        in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "subprocess.Popen")
        or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    ):
        raise AssertionError(f"a reader may not write: {event} {arguments}")


@contextmanager
def _no_writing() -> Iterator[None]:
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def encoded(number: int) -> bytes:
    """The sound file of the form of that number."""
    _, _, record, encode = FORMS[_NAMES[number]]
    return encode(record)


def seeds() -> Iterator[bytes]:
    """An input for each reader with a sound file, and one with a file that is changed."""
    for i in range(len(FORMS)):
        yield bytes([i]) + encoded(i)
        yield bytes([CHANGED + i, 1])


def prepare(folder: Path) -> None:
    """Put into ``folder`` what the files name."""
    (folder / "details_1.parquet").write_bytes(_one_row(SCORED))
    sys.addaudithook(_audit)


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of files.")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--form", choices=_NAMES, help="this reader only")
    parser.add_argument("corpus", nargs="?", help="a folder to keep, or a file to run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        prepare(folder)
        corpus = Path(given.corpus) if given.corpus else folder / "corpus"
        if not corpus.is_file():
            corpus.mkdir(parents=True, exist_ok=True)
            for i, seed in enumerate(seeds()):
                (corpus / f"seed-{i:02d}").write_bytes(seed)
        chosen = _NAMES.index(given.form) if given.form else None

        def one(data: bytes) -> None:
            if chosen is not None and data:
                data = bytes([chosen + (data[0] & CHANGED)]) + data[1:]
            check(data, folder)

        options = [
            f"-atheris_runs={given.runs}",
            "-timeout=10",
            "-rss_limit_mb=4096",
            "-max_len=8192",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
