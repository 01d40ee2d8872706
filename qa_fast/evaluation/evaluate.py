"""`evaluate()`: how good predictions are, in total and by kind of question, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.data.answers import Prediction, n_best_probabilities
from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.data.examples import Columns, Example, OnError
from qa_fast.data.opening import open_source
from qa_fast.data.predictions import read_predictions
from qa_fast.files.json_text import parse_json
from qa_fast.files.reading import Watch, open_file

from .breakdown import Group
from .figures import CONFIDENCE_LEVEL, intervals
from .kept import Derived
from .matching import (
    Questions,
    each_prediction,
    files_of,
    no_answer_probabilities,
    notes_on_pairs,
    read_questions,
    record_of,
)
from .metrics import Figure, Normalize, Scored, Scores
from .pairs import Pairing, Predictions
from .sheet import ScoreSheet
from .statistics import RESAMPLES, Interval, Reliability, reliability
from .suites.registry import Choice, Rules, choose_suite
from .suites.suite import Suite
from .thresholds import (
    NoAnswerProbabilities,
    PrecisionRecall,
    ThresholdCurve,
    apply_threshold,
    no_answer_curves,
)

if TYPE_CHECKING:
    from qa_fast.decoding.search import Scoring


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of `evaluate` for Q questions, in the order of the data.

    Attributes:
        metrics: totals under the keys of the official script: in percent, but CUAD's are shares of 1.
        intervals: bootstrap confidence intervals of totals that are means, in percent, under the same
            keys.
        breakdowns: by a feature of questions (`breakdown.FEATURES`), the groups that it makes.
        calibration: of the confidence in the answer ("answer": is it an exact match?) and of the
            no-answer probability ("no answer": has the question none?), where they are known.
        thresholds: the total by threshold on the no-answer probability, for "exact" and "f1".
        precision_recall: curves for "exact", "f1" and "oracle"; for "clauses" of CUAD.
        examples: [Q] the questions; in a temporary file, like the predictions, where there are many.
        predictions: [Q] what was predicted; None for a question without a prediction.
        answers: [Q] what was scored: the predicted text, or "" above the no-answer threshold.
        scores: exact match and F1 of each question, between 0 and 1.
        na_prob: [Q] no-answer probabilities; None where unknown.
        confidence: [Q] how probable the scored answer is, between 0 and 1: the `Prediction.probability`,
            which says the same whatever was asked for, never a share among the n best; of an answer that
            the no-answer threshold makes empty its ``na_prob``. None where unknown.
        remarks: what the data say about themselves, with counts: gold answers that stand elsewhere or
            nowhere, contradictions, doubled ids.
        notes: what a reader of the figures must know.
        settings: how the figures were computed.
        run: the record of the prediction run, where one was found.
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    breakdowns: dict[str, list[Group]]
    calibration: dict[str, Reliability]
    thresholds: dict[str, ThresholdCurve]
    precision_recall: dict[str, PrecisionRecall]
    examples: Sequence[Example]
    predictions: Sequence[Prediction | None]
    answers: Sequence[str]
    scores: Scores
    na_prob: list[float | None]
    confidence: list[float | None]
    remarks: list[str]
    notes: list[str]
    settings: dict[str, Any]
    run: dict[str, Any]


def evaluate(
    data: Any,
    predictions: Any = None,
    *,
    model: Any = None,
    na_prob: Mapping[str, float] | str | Path | None = None,
    na_prob_thresh: float = 1.0,
    suite: str | None = None,
    rules: Rules | None = None,
    normalizer: str | Normalize | None = None,
    language: str | None = None,
    skip_no_answer: bool = False,
    scoring: Scoring | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_error: OnError = "fail",
    seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Score predictions as a suite's official script does, and say more about them.

    Args:
        data: the questions with their gold answers, in any form that `read_examples` takes.
        predictions: what was predicted: a file or folder that `read_predictions` takes (the official
            ``predictions.json`` is one), a dict from ids to texts or to n-best lists, or an iterable of
            `Prediction`.
        model: in place of ``predictions``: what is to answer the questions first; a model's name or
            folder, or what `pipeline` returned.
        na_prob: the no-answer probability of each question by its id, or a JSON file of them: any
            number that is higher where an answer is less likely. None: from the predictions' null
            scores, where all have one.
        na_prob_thresh: the empty answer takes the place of predictions with a greater ``na_prob``.
        suite: whose definitions and keys: "squad1", "squad2", "xquad", "mlqa", "mrqa", "tydiqa", "arcd",
            "korquad1", "korquad2", "cmrc2018", "drcd", "persianqa", "persianqa-squad2" or "cuad" (see
            `qa_fast.evaluation.suites`). None: "mlqa" with the normalizer of that name, else "squad2".
        rules: "2.0" or "1.1": the suites of SQuAD by their version.
        normalizer: how answers are compared, in place of the suite's own way: "squad"; "mlqa", with the
            ``language``; a function from text to text; or one that can be imported, "module:function".
        language: en, es, hi, vi, de, ar or zh: of the answers, for MLQA's normalizer.
        skip_no_answer: as of MRQA's script: leave out the questions without a prediction, which else
            score 0.
        scoring: the unit of the predictions' scores. None: as the run recorded it, else told by the
            scores themselves: beyond 0 to 1 they are logits.
        columns: names of the columns of ``data``.
        split: which split of a data set with several.
        subset: which subset of a data set on the Hub.
        limit: score only so many questions, the first ones.
        on_error: "fail" at a row that cannot be scored, or that ``model`` cannot answer; or "skip" it,
            which the notes say.
        seed: of the bootstrap.
        **options: with ``model``: as of `predict`, such as ``handle_impossible_answer=True``. For
            "cuad" those that its own script answers with, where nothing else is said.

    Raises:
        ImportError: a library that the suite's definition needs is not installed.
        OSError: a file that cannot be read.
        ValueError: data or predictions that cannot be scored; the message says which and why.

    Example:
        >>> import qa_fast
        >>> row = {"question": "Who wrote it?", "context": "Ada wrote it.", "answers": ["Ada"]}
        >>> found = qa_fast.evaluate([row], {"0": "Ada wrote"})
        >>> found.metrics["exact"], round(found.metrics["f1"], 2)
        (0.0, 66.67)
    """
    chosen = choose_suite(suite, rules=rules, normalizer=normalizer, language=language)
    suite_ = chosen.suite
    _check_who_answers(predictions, model, options)
    _check_scoring(suite_, na_prob, na_prob_thresh, skip_no_answer)
    source = open_source(data, columns=columns, split=split, subset=subset)
    watch = Watch([*source.files, *files_of(predictions), *files_of(na_prob)])
    questions = read_questions(islice(source.rows(), limit), suite_, on_error)
    notes = questions.notes
    options = {"on_error": on_error, **suite_.model_options, **options}
    with _answered(questions.examples, predictions, model, options, notes) as (stream, run):
        told = scoring or (run["settings"]["options"]["scoring"] if run else None)
        sheet, found = _scored(questions, stream, suite_, told, skip_no_answer)
    watch.check()

    examples = questions.examples
    probs = NoAnswerProbabilities.of({})
    if suite_.thresholds:
        probs = no_answer_probabilities(na_prob, examples.ids, sheet, notes)
    na = probs.by_question(len(examples))
    over = [p is not None and p > na_prob_thresh for p in na]
    raw, has_answer = sheet.scores, sheet.has_answer
    scores = Scores(*(apply_threshold(values, over, has_answer) for values in raw))
    scored = Scored(examples.ids, scores, has_answer, sheet.predicted, sheet.empty)
    if 0 < len(probs.rows) < len(examples):
        notes.append("thresholds and curves leave out the questions without a prediction")
    curves = no_answer_curves(raw, probs, has_answer, sheet.empty)
    figures, clauses = _totals(suite_, scored, examples, found, sheet.scoring)
    metrics = {**{key: figure.value for key, figure in figures.items()}, **curves.best()}
    confidence = _confidences(sheet.probabilities(), na, over)
    notes += _notes_on(chosen, questions, sheet, metrics)
    empty = [is_over or says_none for is_over, says_none in zip(over, sheet.empty, strict=True)]
    return Evaluation(
        metrics=metrics,
        intervals=intervals(figures, seed),
        breakdowns=sheet.breakdown.groups(scores, empty),
        calibration=_calibrate(confidence, scores, na, has_answer),
        thresholds=curves.thresholds,
        precision_recall={**curves.precision_recall, **clauses},
        examples=examples,
        predictions=found,
        answers=Derived(
            len(examples), lambda row: "" if over[row] else getattr(found[row], "answer", "")
        ),
        scores=scores,
        na_prob=na,
        confidence=confidence,
        remarks=questions.remarks.lines(),
        notes=notes,
        settings=_settings(
            chosen,
            language=language,
            na_prob_thresh=na_prob_thresh,
            scoring=sheet.scoring,
            on_error=on_error,
            seed=seed,
        ),
        run=run,
    )


def _settings(chosen: Choice, *, seed: int, **others: Any) -> dict[str, Any]:
    return {
        "suite": chosen.suite.name,
        "title": chosen.suite.title,
        "source": chosen.suite.source,
        "normalizer": chosen.normalizer,
        **others,
        "bootstrap": {
            "resamples": RESAMPLES,
            "confidence_level": CONFIDENCE_LEVEL,
            "seed": seed,
        },
    }


# --- checking and reading -----------------------------------------------------------------------


def _check_who_answers(predictions: Any, model: Any, options: Mapping[str, Any]) -> None:
    """Raise a ValueError where arguments of `evaluate` do not go together."""
    if (predictions is None) == (model is None):
        both = "neither was given" if model is None else "both were given"
        raise ValueError(f"either predictions or a model is needed; {both}")
    if options and model is None:
        raise ValueError(f"{next(iter(options))} is for a model's answers, and no model was given")


def _check_scoring(suite: Suite, na_prob: Any, na_prob_thresh: float, skip_no_answer: bool) -> None:
    """Raise a ValueError where an argument is of another suite."""
    if not suite.thresholds and (na_prob is not None or na_prob_thresh != 1.0):
        given = "na_prob" if na_prob is not None else "na_prob_thresh"
        raise ArgumentError(
            f"the rules of {suite.title} have no no-answer probabilities: ",
            Argument(given),
            " cannot be used with them",
        )
    if skip_no_answer and not suite.skips_missing:
        raise ArgumentError(
            Argument("skip_no_answer"), f" is of MRQA's script; {suite.title}'s has nothing like it"
        )


@contextmanager
def _answered(
    examples: Sequence[Example],
    predictions: Any,
    model: Any,
    options: Mapping[str, Any],
    notes: list[str],
) -> Iterator[tuple[Iterable[Prediction], dict[str, Any]]]:
    """The predictions, which a ``model`` may have to make first, and the manifest of their run."""
    if model is None:
        yield each_prediction(predictions), record_of(predictions, notes)
        return
    from qa_fast.runs.predict import predict

    with TemporaryDirectory() as folder:
        run = predict(examples, Path(folder) / "predictions.parquet", model=model, **options)
        if run.rejects is not None:
            with open_file(run.rejects) as file:
                first = parse_json(file.readline())
            notes.append(
                f"{run.rejected} questions could not be answered, the first of them {first['id']!r}: "
                f"{first['reason']}"
            )
        yield read_predictions(run.output), run.manifest


def _scored(
    questions: Questions,
    predictions: Iterable[Prediction],
    suite: Suite,
    scoring: Scoring | None,
    skip_missing: bool,
) -> tuple[ScoreSheet, Predictions]:
    """The scores of all questions that count, and their predictions; the others are dropped."""
    examples, sheet, pairing = questions.examples, ScoreSheet(suite, scoring), Pairing(predictions)
    for example in examples:
        sheet.add(example, pairing.take(example.id))
    questions.notes.extend(
        notes_on_pairs(questions, pairing, sheet.predicted, skip_missing=skip_missing)
    )
    rows = questions.last_of_each_id() if suite.by_id else [*range(len(examples))]
    if skip_missing:
        rows = [row for row in rows if sheet.predicted[row]]
    if len(rows) < len(examples):
        examples.take(rows)
        pairing.found.take(rows)
        sheet.take(rows)
    return sheet, pairing.found


# --- figures ------------------------------------------------------------------------------------


def _totals(
    suite: Suite,
    scored: Scored,
    examples: Sequence[Example],
    predictions: Sequence[Prediction | None],
    scoring: Scoring,
) -> tuple[dict[str, Figure], dict[str, PrecisionRecall]]:
    """The suite's totals, and the curve of a suite that tallies whole n-best lists."""
    if suite.tally is None:
        return suite.totals(scored), {}
    tally = suite.tally()
    for example, prediction in zip(examples, predictions, strict=True):
        tally.add(example.id, example.answers or (), *_n_best(prediction, scoring))
    return tally.totals(), {"clauses": tally.curve()}


def _n_best(
    prediction: Prediction | None, scoring: Scoring
) -> tuple[list[str], Sequence[float | None]]:
    """The answers of an n-best list and their probabilities; an answer without a list has none."""
    if prediction is None or not (prediction.n_best or prediction.answer):
        return [], []
    if not prediction.n_best:
        return [prediction.answer], [None]
    texts = [answer["answer"] for answer in prediction.n_best]
    return texts, n_best_probabilities(prediction, scoring)


def _notes_on(
    chosen: Choice, questions: Questions, sheet: ScoreSheet, metrics: Mapping[str, float]
) -> list[str]:
    """What to know of the figures."""
    notes = []
    if any(key.startswith("best_") for key in metrics):
        notes.append(
            "best_exact and best_f1 use the thresholds that are best on these very questions: they "
            "show what could be gained, not what new questions would get"
        )
    if chosen.normalizer is not None:
        notes.append(
            f"answers are compared by the normalizer {chosen.normalizer}, not as "
            f"{chosen.suite.title}'s script does: the figures are not its"
        )
    if better := questions.fitting.better_than(chosen.suite.name):
        notes.append(better)
    if sheet.lacking:
        notes.append(
            f"{sheet.lacking} of {sum(sheet.predicted)} predictions do not say how probable their "
            "answer is, as those of older versions and of other programs do not: they have no "
            "confidence and no part in its calibration. Answering again with predict, to Parquet or "
            "JSONL, stores it"
        )
    return notes


def _confidences(
    probabilities: Sequence[float | None], na: Sequence[float | None], over: Sequence[bool]
) -> list[float | None]:
    """[Q] how probable each scored answer is: the empty one where ``na`` is ``over`` the threshold."""
    are_probabilities = all(0 <= p <= 1 for p in na if p is not None)
    return [
        (p if are_probabilities else None) if is_over else probability
        for is_over, p, probability in zip(over, na, probabilities, strict=True)
    ]


def _calibrate(
    confidence: Sequence[float | None],
    scores: Scores,
    na: Sequence[float | None],
    has_answer: Sequence[bool],
) -> dict[str, Reliability]:
    found: dict[str, Reliability] = {}
    for name, probabilities, right in (
        ("answer", confidence, np.asarray(scores.exact, np.float64)),
        ("no answer", na, np.logical_not(has_answer)),
    ):
        values = np.array(probabilities, np.float64)  # NaN for None
        known = ~np.isnan(values)
        values = values[known]
        if len(values) and ((values >= 0) & (values <= 1)).all():
            found[name] = reliability(values, right[known])
    return found
