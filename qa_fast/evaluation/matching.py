"""Gold answers, predictions and no-answer probabilities, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast.data.answers import Prediction, null_odds
from qa_fast.data.answers import na_prob as na_prob_of
from qa_fast.data.examples import Example
from qa_fast.data.frames import table_columns
from qa_fast.data.predictions import read_predictions
from qa_fast.files.json_text import read_json
from qa_fast.files.kinds import PACKED_SUFFIXES
from qa_fast.files.parquet import parquet_files
from qa_fast.files.wording import shown
from qa_fast.runs.manifest import find_manifests
from qa_fast.runs.output import Output

from .metrics import Rules

if TYPE_CHECKING:
    from qa_fast.decoding.search import Scoring


def check_gold(rows: Iterable[Example], rules: Rules) -> list[Example]:
    """The questions; a ValueError where one cannot be scored."""
    examples = list(rows)
    if not examples:
        raise ValueError("the data have no questions; there is nothing to score")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ValueError(
                f"id {example.id!r} occurs twice in the data: predictions cannot be told apart by it"
            )
        seen.add(example.id)
        if example.answers is None:
            raise ValueError(
                f"question {example.id!r} has no gold answers in the data, not even an empty list, "
                "which says that there is none; give data with answers, or say which column they "
                "are in"
            )
        if rules == "1.1" and not example.answers:
            raise ValueError(
                f"question {example.id!r} is unanswerable, which the rules of SQuAD 1.1 do not "
                "know; use those of 2.0"
            )
    return examples


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


def match_predictions(
    examples: Sequence[Example], predictions: Any, notes: list[str]
) -> list[Prediction | None]:
    """The prediction of each question; notes say what is missing or left over."""
    by_id: dict[str, Prediction] = {}
    for prediction in _each_prediction(predictions):
        if not isinstance(prediction, Prediction) or not isinstance(prediction.answer, str):
            raise ValueError(
                f"predictions must be texts by their ids, or Prediction objects; got {shown(prediction)}"
            )
        if prediction.id in by_id:
            raise ValueError(f"id {prediction.id!r} occurs twice in the predictions")
        by_id[prediction.id] = prediction
    found = [by_id.get(example.id) for example in examples]
    missing = [example.id for example, p in zip(examples, found, strict=True) if p is None]
    if len(missing) == len(examples):
        theirs = f"the first is of {next(iter(by_id))!r}" if by_id else "there are none"
        raise ValueError(
            f"no prediction is of a question in the data, whose first id is {missing[0]!r}; of the "
            f"predictions {theirs}"
        )
    if missing:
        notes.append(
            f"{len(missing)} of {len(examples)} questions have no prediction and score 0, the first "
            f"of them {missing[0]!r}"
        )
    extra = len(by_id) - (len(examples) - len(missing))
    if extra:
        ids = {example.id for example in examples}
        first = next(id_ for id_ in by_id if id_ not in ids)
        notes.append(f"{extra} predictions are of no question in the data, the first {first!r}")
    return found


def _each_prediction(source: Any) -> Iterable[Prediction]:
    """The predictions of whatever `evaluate` takes; what iterables hold is not checked yet."""
    if isinstance(source, Mapping):
        return (Prediction(str(id_), text) for id_, text in source.items())
    if table_columns(source) is not None:
        raise ValueError(
            f"predictions must be texts by their ids, or Prediction objects; got a "
            f"{type(source).__name__}: of two of its columns dict(zip(table['id'], table['answer'])) "
            "makes the texts by their ids"
        )
    return read_predictions(source) if isinstance(source, (str, Path)) else source


def no_answer_probabilities(
    given: Mapping[str, float] | str | Path | None,
    predictions: Sequence[Prediction | None],
    scoring: Scoring,
    notes: list[str],
) -> dict[str, float]:
    """No-answer probabilities of the questions with a prediction; {} where they are not known."""
    wanted = {p.id: p for p in predictions if p is not None}
    if given is None:
        odds = {id_: null_odds(prediction, scoring) for id_, prediction in wanted.items()}
        known = {id_: na_prob_of(value) for id_, value in odds.items() if value is not None}
        if 0 < len(known) < len(odds):
            notes.append(
                f"{len(odds) - len(known)} of {len(odds)} predictions have no null score: no "
                "no-answer probabilities are used"
            )
        return known if len(known) == len(odds) else {}
    name = "na_prob"
    if isinstance(given, (str, Path)):
        name, given = str(given), _read_na_prob(Path(given))
    for id_ in wanted:
        value = given.get(id_)
        if not _is_number(value):
            got = "nothing" if value is None else shown(value)
            raise ValueError(
                f"{name} must have a number for every prediction; got {got} for {id_!r}"
            )
    extra = [id_ for id_ in given if id_ not in wanted]
    if extra:
        notes.append(f"{name} has {len(extra)} ids of no scored question, the first {extra[0]!r}")
    return {id_: value for id_, value in given.items() if id_ in wanted}


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


def guess_scoring(predictions: Sequence[Prediction | None]) -> Scoring:
    """Logits where a score is no probability; of the probabilities, which does not matter here."""
    for prediction in predictions:
        scores = () if prediction is None else [a["score"] for a in prediction.n_best]
        if any(score is not None and not 0 <= score <= 1 for score in scores):
            return "logit"
    return "shared"
