"""Predictions: what was answered to each question, and the files that hold it.

The forms are Parquet, JSONL, and the files of Transformers' ``run_qa.py``: ``predictions.json`` (id to
text, what the official SQuAD scripts score), ``nbest_predictions.json`` and ``null_odds.json``, beside
them ``na_prob.json``, which the SQuAD 2.0 script takes as the probability of no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast.files.json_text import begins_json_lines, chain_line, first_line, parse_json
from qa_fast.files.parquet import import_pyarrow_parquet, parquet_files, read_records
from qa_fast.files.reading import is_parquet_file, open_file
from qa_fast.files.wording import shown

from .answers import (
    LARGEST_ODDS,
    PartialAnswer,
    Prediction,
    RatedAnswer,
    n_best_probabilities,
    na_prob,
    null_odds,
)
from .examples import MOST_CHARACTERS, Columns
from .tables import begins_table

if TYPE_CHECKING:
    import pyarrow

    from qa_fast.decoding.search import Scoring

# By which a table of predictions is known.
_NAMES = Columns(answers="answer")

# --- reading ------------------------------------------------------------------------------------


def read_predictions(source: str | Path) -> Iterator[Prediction]:
    """Read the predictions of a file or of a folder of Parquet files, in order.

    Args:
        source: Parquet or JSONL of `predict`, ``predictions.json`` (id to text) or
            ``nbest_predictions.json`` (id to a list of answers, of which the first is the answer). The
            kind of a file is told by its content; all but Parquet may be packed, as in
            `read_examples`. Rows of Parquet with a text in the column ``error``, which runs on Ray
            write for what they could not answer, are left out.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a file of no such kind; the message says where.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "predictions.json"
        ...     _ = file.write_text('{"q1": "Ada", "q2": ""}')
        ...     [(prediction.id, prediction.answer) for prediction in read_predictions(file)]
        [('q1', 'Ada'), ('q2', '')]
    """
    path = Path(source)
    if path.is_dir() or path.suffix == ".parquet" or is_parquet_file(path):
        for file in parquet_files(path):
            yield from _read_parquet(file)
        return
    with open_file(path) as stream:
        line, first = first_line(stream)
        if first.lstrip()[:1] not in (b"{", b"[") and begins_table(first, _NAMES):
            raise ValueError(
                f"{path}: is a table, and predictions are read from JSON, JSONL or Parquet: write an "
                "object with its id and answer for each line, or one object from ids to answers"
            )
        if not begins_json_lines(first) or "id" not in parse_json(first):
            yield from _read_official(first + stream.read(), path)
            return
        for number, text in enumerate(chain_line(first, stream), line + 1):
            if not text.isspace():
                place = f"{path} line {number}"
                try:
                    record = parse_json(text)
                except ValueError as error:
                    raise ValueError(f"{place}: not JSON: {error}") from None
                yield _checked_prediction(record, place)


def _read_parquet(path: Path) -> Iterator[Prediction]:
    names = [column.name for column in fields(Prediction)]
    for number, record in enumerate(read_records(path, [*names, "error"])):
        if record.get("error") is None:
            yield _checked_prediction(record, f"{path} row {number}")


def _checked_prediction(record: object, place: str) -> Prediction:
    """The prediction in one record; a ValueError says what is wrong with it."""
    if not isinstance(record, Mapping) or not {"id", "answer"} <= record.keys():
        found = shown(list(record) if isinstance(record, Mapping) else record)
        raise ValueError(f"{place}: a prediction has an id and an answer; got {found}")
    n_best = record.get("n_best") or []
    if not isinstance(n_best, list) or not all(isinstance(entry, Mapping) for entry in n_best):
        raise ValueError(f"{place}: n_best must be a list of answers; got {shown(n_best)}")
    return Prediction(
        id=_checked_text(record["id"], "id", place),
        **_checked_answer(record, place),
        null_score=_checked_score(record.get("null_score"), "null_score", place),
        n_best=[_checked_answer(entry, place) for entry in n_best],
        chunks=_checked_whole(record.get("chunks"), "chunks", place),
        probability=_checked_probability(record.get("probability"), place),
    )


def _checked_answer(record: Mapping[str, Any], place: str) -> PartialAnswer:
    return {
        "score": _checked_score(record.get("score"), "score", place),
        "start": _checked_whole(record.get("start"), "start", place),
        "end": _checked_whole(record.get("end"), "end", place),
        "answer": _checked_text(record.get("answer"), "answer", place),
    }


def _checked_text(value: object, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {name} must be a text; got {shown(value)}")
    return value


def _checked_score(value: Any, name: str, place: str) -> float | None:
    """A score; minus infinity is one, of what can never be the answer."""
    if value is None:
        return None
    kind = type(value)
    if (kind is float and not isnan(value) and value != inf) or (
        kind is int and abs(value) < LARGEST_ODDS
    ):
        return value
    raise ValueError(f"{place}: {name} must be a number or null; got {shown(value)}")


def _checked_probability(value: Any, place: str) -> float | None:
    if value is None or (type(value) in (int, float) and 0 <= value <= 1):
        return value
    raise ValueError(
        f"{place}: probability must be a number from 0 to 1, or null; got {shown(value)}"
    )


def _checked_whole(value: Any, name: str, place: str) -> int | None:
    if value is None or (type(value) is int and 0 <= value < MOST_CHARACTERS):
        return value
    raise ValueError(
        f"{place}: {name} must be a whole number from 0 to {MOST_CHARACTERS - 1}, or null; got "
        f"{shown(value)}"
    )


def _read_official(text: bytes, path: Path) -> Iterator[Prediction]:
    try:
        found = parse_json(text, unique=True)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}: must be an object from ids to texts; got a {type(found).__name__}"
        )
    yield from official_predictions(found, str(path))


def official_predictions(found: Mapping[Any, Any], place: str) -> Iterator[Prediction]:
    """The predictions of an object from ids to texts, or to lists of answers.

    Args:
        found: what ``predictions.json`` or ``nbest_predictions.json`` hold.
        place: where it stands, for errors.

    Raises:
        ValueError: a value that is neither.
    """
    for id_, value in found.items():
        if isinstance(value, str):
            yield Prediction(str(id_), value)
        elif isinstance(value, list) and all(
            isinstance(x, (dict, Mapping)) and "text" in x for x in value
        ):
            yield _from_n_best(str(id_), value, f"{place}: id {id_!r}")
        else:
            raise ValueError(
                f"{place}: the value of id {id_!r} must be a text or a list of answers with a text; "
                f"got {shown(value)}"
            )


def _from_n_best(id_: str, entries: list[Mapping[str, Any]], place: str) -> Prediction:
    n_best = [_from_entry(entry, place) for entry in entries]
    best = n_best[0] if n_best else PartialAnswer(score=None, start=None, end=None, answer="")
    return Prediction(
        id=id_,
        answer=best["answer"],
        start=best["start"],
        end=best["end"],
        score=best["score"],
        null_score=next((answer["score"] for answer in n_best if not answer["answer"]), None),
        n_best=n_best,
    )


def _from_entry(entry: Mapping[str, Any], place: str) -> RatedAnswer:
    # Such lists are long, and most entries have a text and a probability and little else: what is
    # not there, or is as it should be, takes no call.
    get = entry.get
    if (score := get("score")) is not None:
        score = _checked_score(score, "score", place)
    probability = get("probability")
    if probability is not None and not (type(probability) is float and 0 <= probability <= 1):
        probability = _checked_score(probability, "probability", place)
    if (start := get("start")) is not None:
        start = _checked_whole(start, "start", place)
    if (end := get("end")) is not None:
        end = _checked_whole(end, "end", place)
    start_logit, end_logit = get("start_logit"), get("end_logit")
    if start_logit is not None or end_logit is not None:
        start_logit = _checked_score(start_logit, "start_logit", place)
        end_logit = _checked_score(end_logit, "end_logit", place)
        if score is None and start_logit is not None and end_logit is not None:
            score = start_logit + end_logit
    text = entry["text"]
    if type(text) is not str:
        text = _checked_text(text, "answer", place)
    if probability is None:
        return {"score": score, "start": start, "end": end, "answer": text}
    return {
        "score": probability if score is None else score,
        "start": start,
        "end": end,
        "answer": text,
        "probability": probability,
    }


# --- writing ------------------------------------------------------------------------------------


def parquet_schema() -> pyarrow.Schema:
    """The columns of predictions in Parquet."""
    import_pyarrow_parquet()
    import pyarrow as pa

    answer: Any = [
        pa.field("answer", pa.string()),
        pa.field("start", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("score", pa.float64()),
    ]
    return pa.schema(
        [
            pa.field("id", pa.string()),
            *answer,
            pa.field("null_score", pa.float64()),
            pa.field("n_best", pa.list_(pa.struct(answer))),
            pa.field("chunks", pa.int32()),
            pa.field("probability", pa.float64()),
        ]
    )


def to_table(predictions: Iterable[Prediction]) -> pyarrow.Table:
    """The predictions as an Arrow table of the `parquet_schema`."""
    import pyarrow as pa

    rows = list(predictions)
    columns = {
        column.name: [getattr(row, column.name) for row in rows] for column in fields(Prediction)
    }
    return pa.Table.from_pydict(columns, schema=parquet_schema())


def write_parquet(predictions: Iterable[Prediction], path: str | Path) -> None:
    """Write one Parquet file, in which every row group holds 8,192 predictions."""
    parquet = import_pyarrow_parquet()
    with parquet.ParquetWriter(path, parquet_schema(), compression="zstd") as writer:
        for batch in _batches(predictions, 8192):
            writer.write_table(to_table(batch))


def write_jsonl(predictions: Iterable[Prediction], path: str | Path) -> None:
    """Write one JSON object a line, with the fields of `Prediction`."""
    # A lone surrogate becomes its escape in JSON.
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for prediction in predictions:
            file.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")


def write_run_qa(
    predictions: Iterable[Prediction], path: str | Path, *, scoring: Scoring = "logit"
) -> list[Path]:
    """Write the files of ``run_qa.py``, and ``na_prob.json`` for the official SQuAD 2.0 script.

    Args:
        predictions: any; of those with the same id and answer the first is written.
        path: the file of id to text. The others stand beside it, see `run_qa_files`.
        scoring: the one that the scores are of.

    Returns:
        The files written; those of the null answer only where every prediction has a null score.

    Raises:
        ValueError: two answers with the same id, which these files cannot hold.
    """
    texts: dict[str, str] = {}
    n_best: dict[str, list[dict[str, object]]] = {}
    odds: dict[str, float | None] = {}
    for prediction in predictions:
        if prediction.id in texts:
            if texts[prediction.id] == prediction.answer:
                continue
            raise ValueError(
                f"id {prediction.id!r} occurs twice, with different answers, and a JSON object holds it "
                "once: write Parquet or JSONL"
            )
        texts[prediction.id] = prediction.answer
        n_best[prediction.id] = _n_best_entries(prediction, scoring)
        odds[prediction.id] = null_odds(prediction, scoring)
    contents: list[Mapping[str, object]] = [texts, n_best]
    known = {id_: value for id_, value in odds.items() if value is not None}
    if len(known) == len(texts):
        contents += [known, {id_: na_prob(value) for id_, value in known.items()}]
    files = run_qa_files(path)[: len(contents)]
    for file, content in zip(files, contents, strict=True):
        text = json.dumps(content, indent=4, ensure_ascii=False)
        file.write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))
    return files


def run_qa_files(path: str | Path) -> list[Path]:
    """The files of texts, n-best lists, null odds and no-answer probabilities.

    Example:
        >>> [file.name for file in run_qa_files("eval_predictions.json")][1:]
        ['eval_nbest_predictions.json', 'eval_null_odds.json', 'eval_na_prob.json']
        >>> [file.name for file in run_qa_files("dev.json")][1:]
        ['dev_nbest_predictions.json', 'dev_null_odds.json', 'dev_na_prob.json']
    """
    path = Path(path)
    prefix = path.stem.removesuffix("predictions")
    if prefix == path.stem:
        prefix += "_"
    others = ("nbest_predictions", "null_odds", "na_prob")
    return [path, *(path.with_name(f"{prefix}{name}.json") for name in others)]


def _n_best_entries(prediction: Prediction, scoring: Scoring) -> list[dict[str, object]]:
    """What stands in ``nbest_predictions.json``; under "logit" the probabilities are of the list.

    A run keeps scores and places, not the two logits of each span, so these entries have other keys
    than those of run_qa.py, which `postprocess_qa_predictions` writes.
    """
    return [
        {
            "text": answer["answer"],
            "probability": probability,
            "score": answer["score"],
            "start": answer["start"],
            "end": answer["end"],
        }
        for answer, probability in zip(
            prediction.n_best, n_best_probabilities(prediction, scoring), strict=True
        )
    ]


def _batches(predictions: Iterable[Prediction], size: int) -> Iterator[list[Prediction]]:
    batch: list[Prediction] = []
    for prediction in predictions:
        batch.append(prediction)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
