"""`compare()`: which of two runs is better, how sure that is, and on which questions they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .evaluation import CONFIDENCE_LEVEL, Evaluation
from .sources import import_pyarrow_parquet
from .statistics import Interval, mcnemar, mean_interval


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
        ours, others = ([100.0 * getattr(pair[i], name) for pair in pairs] for i in (0, 1))
        gains = [other - mine for mine, other in zip(ours, others, strict=True)]
        differences[name] = Difference(
            sum(ours) / len(pairs),
            sum(others) / len(pairs),
            mean_interval(gains, level=CONFIDENCE_LEVEL, seed=seed),
        )
    only_a = sum(x.exact > y.exact for x, y in pairs)
    only_b = sum(y.exact > x.exact for x, y in pairs)
    changed = [(x, y) for x, y in pairs if (x.exact, x.f1) != (y.exact, y.f1)]
    changed.sort(key=lambda pair: -abs(pair[1].f1 - pair[0].f1))
    return Comparison(len(pairs), differences, only_a, only_b, mcnemar(only_a, only_b), changed)


def scored_answers(evaluation: Evaluation) -> list[ScoredAnswer]:
    """What `compare` takes, from an evaluation."""
    return [
        ScoredAnswer(example.id, example.question, example.answers or (), answer, exact, f1)
        for example, answer, exact, f1 in zip(
            evaluation.examples, evaluation.answers, *evaluation.scores, strict=True
        )
    ]


def read_scored_answers(path: str | Path) -> list[ScoredAnswer] | None:
    """The same from a ``results_{time}.json`` or a ``details_{time}.parquet``; None for other files.

    Raises:
        OSError: a file that cannot be read.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: not JSON: {error}") from None
        if not isinstance(content, dict) or not {"results", "details"} <= content.keys():
            return None
        path = path.parent / content["details"]
    elif path.suffix != ".parquet":
        return None
    table = import_pyarrow_parquet().read_table(path)
    if not {"exact", "f1", "prediction"} <= set(table.column_names):
        return None
    names = ("id", "question", "answers", "prediction", "exact", "f1")
    columns = (table.column(name).to_pylist() for name in names)
    return [
        ScoredAnswer(id_, question, tuple(golds), answer, exact, f1)
        for id_, question, golds, answer, exact, f1 in zip(*columns, strict=True)
    ]
