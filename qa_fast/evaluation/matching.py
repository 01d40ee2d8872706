"""Gold answers, predictions and no-answer probabilities, side by side."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.data.answers import Prediction
from qa_fast.data.answers import na_prob as na_prob_of
from qa_fast.data.errors import Argument, ArgumentError, OneOf, parts_of
from qa_fast.data.examples import OnError, Row, check_on_error
from qa_fast.data.frames import table_columns
from qa_fast.data.predictions import official_predictions, read_predictions
from qa_fast.files.json_text import read_json
from qa_fast.files.kinds import PACKED_SUFFIXES
from qa_fast.files.parquet import parquet_files
from qa_fast.files.wording import shown
from qa_fast.runs.manifest import find_manifests
from qa_fast.runs.output import Output

from .pairs import Examples, Pairing
from .remarks import Oddity, Remarks
from .sheet import ScoreSheet
from .suites.fitting import Fitting
from .suites.suite import Suite
from .thresholds import NoAnswerProbabilities


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of an evaluation.

    Attributes:
        examples: [Q] those that can be scored.
        left_out: the ids of those that cannot.
        again: the rows of every id that occurs more than once.
        remarks: what the data say about themselves, counted.
        fitting: which suite fits them.
        notes: how many were left out.
    """

    examples: Examples
    left_out: set[str]
    again: list[list[int]]
    remarks: Remarks
    fitting: Fitting
    notes: list[str]

    def last_of_each_id(self) -> list[int]:
        """The rows of all ids, in the order of the first ones; of several with one id the last."""
        last = {rows[0]: rows[-1] for rows in self.again}
        later = {row for rows in self.again for row in rows[1:]}
        return [last.get(row, row) for row in range(len(self.examples)) if row not in later]


def read_questions(rows: Iterable[Row], suite: Suite | None, on_error: OnError) -> Questions:
    """Read the questions, for more than one pass.

    Args:
        rows: the data.
        suite: that is to score them; None: they have no gold answers, and nothing does.
        on_error: "fail" at a row that cannot be scored, or "skip" it.

    Raises:
        ValueError: with ``on_error="fail"``, at the first row that cannot be scored; or where there are
            no questions.
    """
    check_on_error(on_error)
    found = Questions(Examples(), set(), [], Remarks(), Fitting(), [])
    reasons: list[str] = []
    hashes = array("q")
    for row in rows:
        problem, example = _problem(row, suite), row.example
        if problem is None and example is not None:
            found.examples.append(example)
            found.remarks.add(example)
            found.fitting.add(example)
            hashes.append(hash(example.id))
            continue
        assert problem is not None
        if on_error == "fail":
            way = OneOf(((Argument("on_error", "skip"), " leaves such rows out"),), " (", ")")
            raise ArgumentError(f"{row.place}: ", *parts_of(problem), way) from None
        reasons.append(f"{row.place}: {problem}")
        if example is not None:
            found.left_out.add(example.id)
    if reasons:
        total = len(reasons) + len(found.examples)
        found.notes.append(
            f"{len(reasons)} of {total} rows cannot be scored and are left out, the first is "
            f"{reasons[0]}"
        )
    if not found.examples:
        raise ValueError("; ".join(["the data have no questions that can be scored", *reasons[:1]]))
    found.again.extend(_doubled(found.examples, hashes))
    oddity = Oddity.REPEATED if suite and suite.by_id else Oddity.DOUBLED
    for of_one in found.again:
        for row_number in of_one[1:]:
            found.remarks.count(oddity, found.examples[row_number].id)
    return found


def _problem(row: Row, suite: Suite | None) -> ValueError | None:
    """Why the question in a row cannot be scored; None where it can."""
    example = row.example
    if example is None or row.gold_problem is not None:
        return row.problem or row.gold_problem
    if suite is None:
        if example.answers is None:
            return None
        return ValueError(
            f"question {example.id!r} has gold answers in the data, and the first question has none: "
            "give those of all of them, or of none"
        )
    if example.answers is None:
        return ValueError(
            f"question {example.id!r} has no gold answers in the data, not even an empty list, "
            "which says that there is none; give data with answers, or say which column they "
            "are in"
        )
    if not suite.unanswerable and not example.answers:
        return ValueError(
            f"question {example.id!r} is unanswerable, which {suite.title} does not know; the suite "
            "squad2 does"
        )
    if suite.check is not None:
        try:
            suite.check(example)
        except ValueError as error:
            return error
    return None


def _doubled(examples: Examples, hashes: array[int]) -> list[list[int]]:
    """The rows of every id that occurs more than once. Ids are not kept in memory, but their hashes."""
    values, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
    twice = set(values[counts > 1].tolist())
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(hashes if twice else ()):
        if value in twice:
            rows.setdefault(examples[row].id, []).append(row)
    return [of_one for of_one in rows.values() if len(of_one) > 1]


def files_of(source: Any) -> list[Path]:
    """The files that ``source`` names, if it names any."""
    return parquet_files(Path(source)) if isinstance(source, (str, Path)) else []


def record_of(predictions: Any, notes: list[str]) -> dict[str, Any]:
    """The manifest beside a file of predictions, or in a folder of them; {} where there is none.

    That of a file that was packed afterwards has the name of the file as it was.
    """
    if not isinstance(predictions, (str, Path)):
        return {}
    path = Path(predictions)
    if path.suffix in PACKED_SUFFIXES and len(path.suffixes) > 1:
        predictions = path.with_suffix("")
    try:
        output = Output.of(predictions)
    except ValueError:  # no name that a run writes to
        return {}
    try:
        return next((manifest.to_dict() for manifest in find_manifests(output)), {})
    except ValueError as error:
        # Of another program, or damaged: the predictions are there all the same.
        notes.append(f"how the predictions were made is not known: {error}")
        return {}


def each_prediction(source: Any) -> Iterable[Prediction]:
    """The predictions of whatever `evaluate` takes; what iterables hold is not checked yet."""
    if isinstance(source, Mapping):
        return official_predictions(source, "predictions")
    if table_columns(source) is not None:
        raise ValueError(
            f"predictions must be texts by their ids, or Prediction objects; got a "
            f"{type(source).__name__}: of two of its columns dict(zip(table['id'], table['answer'])) "
            "makes the texts by their ids"
        )
    return read_predictions(source) if isinstance(source, (str, Path)) else source


def notes_on_pairs(
    questions: Questions, pairing: Pairing, predicted: Sequence[bool], *, skip_missing: bool = False
) -> list[str]:
    """How many questions have no prediction, and how many predictions no question.

    Args:
        questions: all of them.
        pairing: with which all of them have been asked for.
        predicted: [Q] whether a question has a prediction.
        skip_missing: whether questions without a prediction are going to be left out.

    Raises:
        ValueError: no question has a prediction; or an id has too many of them.
    """
    examples = questions.examples
    missing = [row for row, known in enumerate(predicted) if not known]
    extra, first = pairing.left_over(questions.left_out)
    if len(missing) == len(examples):
        theirs = f"the first is of {first!r}" if extra else "there are none"
        raise ValueError(
            f"no prediction is of a question in the data, whose first id is {examples[0].id!r}; of the "
            f"predictions {theirs}"
        )
    notes = []
    if missing:
        what = "are left out" if skip_missing else "score 0"
        notes.append(
            f"{len(missing)} of {len(examples)} questions have no prediction and {what}, the first "
            f"of them {examples[missing[0]].id!r}"
        )
    if extra:
        notes.append(f"{extra} predictions are of no question in the data, the first {first!r}")
    return notes


def no_answer_probabilities(
    given: Mapping[str, float] | str | Path | None,
    ids: Sequence[str],
    sheet: ScoreSheet,
    notes: list[str],
) -> NoAnswerProbabilities:
    """No-answer probabilities of the questions with a prediction; of none where they are not known.

    They have the order in which they are given, which the best threshold may depend on.

    Args:
        given: them; None: they are made of the null scores.
        ids: [Q] of the questions.
        sheet: of the questions.
        notes: to be added to.
    """
    wanted = np.flatnonzero(sheet.predicted)
    if given is None:
        known = array("d", map(na_prob_of, sheet.null_odds()))
        lacking = int(np.isnan(known)[wanted].sum())
        if 0 < lacking < len(wanted):
            notes.append(
                f"{lacking} of {len(wanted)} predictions have no null score: no no-answer "
                "probabilities are used"
            )
        return (
            NoAnswerProbabilities.of({})
            if lacking
            else NoAnswerProbabilities(wanted, np.asarray(known)[wanted])
        )
    name = "na_prob"
    if isinstance(given, (str, Path)):
        name, given = str(given), _read_na_prob(Path(given))
    rows: dict[str, list[int]] = {}
    for row, id_ in enumerate(ids):
        if sheet.predicted[row]:
            rows.setdefault(id_, []).append(row)
    for id_ in rows:
        value = given.get(id_)
        if not _is_number(value):
            got = "nothing" if value is None else shown(value)
            raise ValueError(
                f"{name} must have a number for every prediction; got {got} for {id_!r}"
            )
    extra = [id_ for id_ in given if id_ not in rows]
    if extra:
        notes.append(f"{name} has {len(extra)} ids of no scored question, the first {extra[0]!r}")
    return NoAnswerProbabilities.of(
        {row: value for id_, value in given.items() for row in rows.get(id_, ())}
    )


def _is_number(value: Any) -> bool:
    """Whether ``value`` can be a no-answer probability, on any scale: NumPy's floats can, too.

    Scores of predictions are checked by other rules (`qa_fast.data.predictions`): minus infinity is
    one.
    """
    try:
        return not isinstance(value, bool) and isinstance(value, (int, float)) and isfinite(value)
    except OverflowError:
        # An integer beyond all floats.
        return False


def _read_na_prob(path: Path) -> Mapping[str, float]:
    found = read_json(path, unique=True)
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}: must be an object from ids to numbers; got a {type(found).__name__}"
        )
    return found
