"""`compare()`: which of two runs is better, how sure that is, and on which questions they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_fast.evaluation.evaluate import Evaluation
from qa_fast.evaluation.figures import CONFIDENCE_LEVEL
from qa_fast.evaluation.statistics import Interval, mcnemar, mean_interval
from qa_fast.files.json_text import read_json
from qa_fast.files.parquet import open_parquet, read_records
from qa_fast.files.reading import is_parquet_file
from qa_fast.files.wording import shown


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """A question and what one run makes of it; ``exact`` and ``f1`` are between 0 and 1."""

    id: str
    question: str
    golds: tuple[str, ...]
    answer: str
    exact: float
    f1: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two runs, in percent.

    Attributes:
        a: of the first run.
        b: of the second.
        interval: 95% paired bootstrap interval of ``b - a``.
    """

    a: float
    b: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same Q questions.

    Attributes:
        total: Q.
        differences: for "exact" and "f1".
        only_a: questions that only the first run gets right (exact match).
        only_b: questions that only the second gets right.
        p_value: of McNemar's exact test that both are right equally often.
        changed: pairs of answers with different scores, the largest change of F1 first.
    """

    total: int
    differences: dict[str, Difference]
    only_a: int
    only_b: int
    p_value: float
    changed: list[tuple[ScoredAnswer, ScoredAnswer]]


def compare(a: Sequence[ScoredAnswer], b: Sequence[ScoredAnswer], *, seed: int = 0) -> Comparison:
    """Compare two runs question by question.

    Args:
        a: the first run's answers.
        b: the second run's, to the same questions in any order.
        seed: of the bootstrap.

    Raises:
        ValueError: runs on different questions, or on none.

    Example:
        >>> right = [ScoredAnswer(str(i), "Who?", ("Ada",), "Ada", 1, 1) for i in range(20)]
        >>> wrong = [ScoredAnswer(str(i), "Who?", ("Ada",), "Bob", 0, 0) for i in range(20)]
        >>> found = compare(right[:10] + wrong[10:], right)
        >>> found.only_b, round(found.p_value, 4), found.differences["exact"].interval.low > 0
        (10, 0.002, True)
    """
    theirs = {answer.id: answer for answer in b}
    lonely = [answer.id for answer in a if answer.id not in theirs]
    if lonely or len(a) != len(theirs):
        mine = {answer.id for answer in a}
        lonely += [id_ for id_ in theirs if id_ not in mine]
        raise ValueError(
            f"the runs must be on the same questions; {len(lonely)} are in one of them only, the "
            f"first {lonely[0]!r}"
        )
    if not a:
        raise ValueError("the runs have no questions")
    pairs = [(answer, theirs[answer.id]) for answer in a]
    differences = {}
    for name in ("exact", "f1"):
        ours, others = ([getattr(pair[i], name) for pair in pairs] for i in (0, 1))
        differences[name] = difference(ours, others, seed=seed)
    only_a = sum(x.exact > y.exact for x, y in pairs)
    only_b = sum(y.exact > x.exact for x, y in pairs)
    changed = [(x, y) for x, y in pairs if (x.exact, x.f1) != (y.exact, y.f1)]
    changed.sort(key=lambda pair: -abs(pair[1].f1 - pair[0].f1))
    return Comparison(len(pairs), differences, only_a, only_b, mcnemar(only_a, only_b), changed)


def difference(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Difference:
    """The means of two runs' scores of the same questions, in percent, and how sure their difference is.

    Args:
        a: [Q] the first run's, between 0 and 1; at least one.
        b: [Q] the second's.
        seed: of the bootstrap.

    Example:
        >>> difference([1, 0, 1, 1], [1, 0, 1, 1])
        Difference(a=75.0, b=75.0, interval=Interval(low=0.0, high=0.0))
    """
    ours, others = ([100.0 * score for score in scores] for scores in (a, b))
    gains = [other - mine for mine, other in zip(ours, others, strict=True)]
    return Difference(
        sum(ours) / len(ours),
        sum(others) / len(others),
        mean_interval(gains, level=CONFIDENCE_LEVEL, seed=seed),
    )


def scored_answers(evaluation: Evaluation) -> list[ScoredAnswer]:
    """What `compare` takes, from an evaluation."""
    return [
        ScoredAnswer(example.id, example.question, example.answers or (), answer, exact, f1)
        for example, answer, exact, f1 in zip(
            evaluation.examples, evaluation.answers, *evaluation.scores, strict=True
        )
    ]


def read_scored_answers(path: str | Path) -> list[ScoredAnswer] | None:
    """What `compare` takes, from a file of an evaluation; None for other files.

    Args:
        path: a ``results_{time}.json`` or a ``details_{time}.parquet``.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a file that is damaged; or a JSON file that names details in another folder than
            its own.
    """
    path = Path(path)
    if path.suffix == ".json" and not is_parquet_file(path):
        content = read_json(path)
        if not isinstance(content, dict) or not {"results", "details"} <= content.keys():
            return None
        details = content["details"]
        if not isinstance(details, str) or not re.fullmatch(r"details_[\w.+-]+\.parquet", details):
            raise ValueError(
                f"{path}: its details must be a file details_....parquet in the same folder; got "
                f"{shown(details)}"
            )
        path = path.parent / details
    elif path.is_dir() or not (path.suffix == ".parquet" or is_parquet_file(path)):
        return None
    with open_parquet(path) as file:
        if not {"exact", "f1", "prediction"} <= set(file.schema_arrow.names):
            return None
    names = ("id", "question", "answers", "prediction", "exact", "f1")
    found = [_scored(record, path, i) for i, record in enumerate(read_records(path, names))]
    if len({answer.id for answer in found}) < len(found):
        raise ValueError(f"{path}: an id occurs twice in it; make it again")
    return found


def _scored(record: Mapping[str, Any], path: Path, row: int) -> ScoredAnswer:
    texts: list[Any] = [record.get(name) for name in ("id", "question", "prediction")]
    scores: list[Any] = [record.get(name) for name in ("exact", "f1")]
    golds = record.get("answers")
    if (
        not isinstance(golds, list)
        or not all(isinstance(text, str) for text in (*texts, *golds))
        or not all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    ):
        raise ValueError(
            f"{path} row {row} holds no scored answer, which has an id, a question, "
            f"answers, a prediction, and exact and f1 between 0 and 1; got {shown(record)}"
        )
    id_, question, answer = texts
    return ScoredAnswer(id_, question, tuple(golds), answer, *scores)
