"""`evaluate()`: how good predictions are, in total and by kind of question, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Columns, Example
from qa_fast.data.opening import open_source, usable
from qa_fast.data.predictions import read_predictions
from qa_fast.files.reading import Watch
from qa_fast.files.wording import shown

from .breakdown import Group, break_down
from .matching import (
    check_gold,
    files_of,
    guess_scoring,
    match_predictions,
    no_answer_probabilities,
    record_of,
)
from .metrics import Rules, Scores, score_answers, summarize
from .normalizers import make_normalizer
from .statistics import RESAMPLES, Interval, Reliability, mean_interval, reliability
from .thresholds import (
    NoAnswerCurves,
    PrecisionRecall,
    ThresholdCurve,
    apply_threshold,
    no_answer_curves,
)

if TYPE_CHECKING:
    from qa_fast.decoding.search import Scoring

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of `evaluate` for Q questions, in the order of the data.

    Attributes:
        metrics: totals in percent, under the keys of the official script.
        intervals: bootstrap confidence intervals of the totals, in percent, under the same keys.
        breakdowns: by a feature of questions (`breakdown.FEATURES`), the groups that it makes.
        calibration: of the confidence in the answer ("answer": is it an exact match?) and of the
            no-answer probability ("no answer": has the question none?), where they are known.
        thresholds: the total by threshold on the no-answer probability, for "exact" and "f1".
        precision_recall: curves for "exact", "f1" and "oracle".
        examples: [Q] the questions.
        predictions: [Q] what was predicted; None for a question without a prediction.
        answers: [Q] what was scored: the predicted text, or "" above the no-answer threshold.
        scores: exact match and F1 of each question, between 0 and 1.
        na_prob: [Q] no-answer probabilities; None where unknown.
        confidence: [Q] how probable the scored answer is, between 0 and 1: the `Prediction.probability`,
            which says the same whatever was asked for, never a share among the n best; of an answer that
            the no-answer threshold makes empty its ``na_prob``. None where unknown.
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
    examples: list[Example]
    predictions: list[Prediction | None]
    answers: list[str]
    scores: Scores
    na_prob: list[float | None]
    confidence: list[float | None]
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
    normalizer: str = "squad",
    language: str | None = None,
    rules: Rules | None = None,
    scoring: Scoring | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Score predictions as the official SQuAD scripts do, and say more about them.

    Args:
        data: the questions with their gold answers, in any form that `read_examples` takes.
        predictions: what was predicted: a file or folder that `read_predictions` takes (the official
            ``predictions.json`` is one), a dict from ids to texts, or an iterable of `Prediction`.
        model: in place of ``predictions``: what is to answer the questions first; a model's name or
            folder, or what `pipeline` returned.
        na_prob: the no-answer probability of each question by its id, or a JSON file of them: any
            number that is higher where an answer is less likely. None: from the predictions' null
            scores, where all have one.
        na_prob_thresh: the empty answer takes the place of predictions with a greater ``na_prob``.
        normalizer: "squad"; or "mlqa", with the ``language`` of the answers.
        language: en, es, hi, vi, de, ar or zh, with the normalizer "mlqa".
        rules: "2.0" or "1.1", whose definitions and keys to use. None: "1.1" with the normalizer
            "mlqa", as MLQA's script has it, else "2.0".
        scoring: the unit of the predictions' scores. None: as the run recorded it, else told by the
            scores themselves: beyond 0 to 1 they are logits.
        columns: names of the columns of ``data``.
        split: which split of a data set with several.
        subset: which subset of a data set on the Hub.
        limit: score only so many questions, the first ones.
        seed: of the bootstrap.
        **options: with ``model``: as of `predict`, such as ``handle_impossible_answer=True``.

    Raises:
        OSError: a file that cannot be read.
        ValueError: data or predictions that cannot be scored; the message says which and why.

    Example:
        >>> import qa_fast
        >>> row = {"question": "Who wrote it?", "context": "Ada wrote it.", "answers": ["Ada"]}
        >>> found = qa_fast.evaluate([row], {"0": "Ada wrote"})
        >>> found.metrics["exact"], round(found.metrics["f1"], 2)
        (0.0, 66.67)
    """
    rules = rules or ("1.1" if normalizer == "mlqa" else "2.0")
    _check_arguments(rules, predictions, model, na_prob, options)
    # Kept, because most texts come several times.
    normalize = cache(make_normalizer(normalizer, language))
    notes: list[str] = []
    source = open_source(data, columns=columns, split=split, subset=subset)
    watch = Watch([*source.files, *files_of(predictions), *files_of(na_prob)])
    examples = check_gold(islice(usable(source.rows()), limit), rules)
    if model is not None:
        predictions, run = _answers_of_model(examples, model, options)
    else:
        run = record_of(predictions, notes)
    found = match_predictions(examples, predictions, notes)
    told = scoring or (run["settings"]["options"]["scoring"] if run else None)
    scoring = told or guess_scoring(found)
    probs = {} if rules == "1.1" else no_answer_probabilities(na_prob, found, scoring, notes)
    watch.check()

    texts = [None if p is None else p.answer for p in found]
    has_answer = [bool(example.answers) for example in examples]
    raw = score_answers(texts, [example.answers or () for example in examples], normalize, rules)
    na = [probs.get(example.id) for example in examples]
    over = [p is not None and p > na_prob_thresh for p in na]
    answers = ["" if o else text or "" for o, text in zip(over, texts, strict=True)]
    scores = Scores(*(apply_threshold(values, over, has_answer) for values in raw))
    curves = _curves(examples, texts, raw, probs, notes)
    metrics = {**summarize(scores, has_answer, rules), **curves.metrics()}
    confidence = _confidences(found, na, over, told, notes)
    return Evaluation(
        metrics=metrics,
        intervals=_intervals(metrics, scores, has_answer, seed),
        breakdowns=break_down(examples, found, answers, scores, normalize),
        calibration=_calibrate(confidence, scores, na, has_answer),
        thresholds=curves.thresholds,
        precision_recall=curves.precision_recall,
        examples=examples,
        predictions=found,
        answers=answers,
        scores=scores,
        na_prob=na,
        confidence=confidence,
        notes=notes,
        settings={
            "normalizer": normalizer,
            "language": language,
            "rules": rules,
            "na_prob_thresh": na_prob_thresh,
            "scoring": scoring,
            "bootstrap": {
                "resamples": RESAMPLES,
                "confidence_level": CONFIDENCE_LEVEL,
                "seed": seed,
            },
        },
        run=run,
    )


# --- checking and reading -----------------------------------------------------------------------


def _check_arguments(
    rules: str, predictions: Any, model: Any, na_prob: Any, options: Mapping[str, Any]
) -> None:
    """Raise a ValueError where arguments of `evaluate` do not go together."""
    if rules not in get_args(Rules):
        raise ValueError(f"rules must be '1.1' or '2.0'; got {rules!r}")
    if rules == "1.1" and na_prob is not None:
        raise ValueError(
            "the rules of SQuAD 1.1 know no unanswerable questions: no na_prob can be used with them"
        )
    if (predictions is None) == (model is None):
        both = "neither was given" if model is None else "both were given"
        raise ValueError(f"either predictions or a model is needed; {both}")
    if options and model is None:
        raise ValueError(f"{next(iter(options))} is for a model's answers, and no model was given")


def _answers_of_model(
    examples: Sequence[Example], model: Any, options: Mapping[str, Any]
) -> tuple[list[Prediction], dict[str, Any]]:
    """What ``model`` answers, and the manifest of its run."""
    from qa_fast.runs.predict import predict

    with TemporaryDirectory() as folder:
        run = predict(examples, Path(folder) / "predictions.parquet", model=model, **options)
        return list(read_predictions(run.output)), run.manifest


# --- figures ------------------------------------------------------------------------------------


def _curves(
    examples: Sequence[Example],
    texts: Sequence[str | None],
    raw: Scores,
    probs: Mapping[str, float],
    notes: list[str],
) -> NoAnswerCurves:
    """What the no-answer probabilities are good for; notes say what to know of it."""
    if probs:
        if len(probs) < len(examples):
            notes.append("thresholds and curves leave out the questions without a prediction")
        notes.append(
            "best_exact and best_f1 use the thresholds that are best on these very questions: they "
            "show what could be gained, not what new questions would get"
        )
    row_of = {example.id: i for i, example in enumerate(examples)}
    return no_answer_curves(
        raw,
        {row_of[id_]: p for id_, p in probs.items()},
        [bool(example.answers) for example in examples],
        [not text for text in texts],
    )


def _intervals(
    metrics: Mapping[str, float], scores: Scores, has_answer: Sequence[bool], seed: int
) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for prefix, wanted in (("", {True, False}), ("HasAns_", {True}), ("NoAns_", {False})):
        rows = [i for i, answerable in enumerate(has_answer) if answerable in wanted]
        for names, values in ((("exact", "exact_match"), scores.exact), (("f1",), scores.f1)):
            for name in names:
                if prefix + name in metrics:
                    found[prefix + name] = mean_interval(
                        [100.0 * values[i] for i in rows], level=CONFIDENCE_LEVEL, seed=seed
                    )
    return found


def _confidences(
    predictions: Sequence[Prediction | None],
    na: Sequence[float | None],
    over: Sequence[bool],
    scoring: Scoring | None,
    notes: list[str],
) -> list[float | None]:
    """[Q] how probable each scored answer is: the empty one where ``na`` is ``over`` the threshold.

    A note counts the answers of which it is not known; but not texts alone, of which it never was.

    Args:
        predictions: [Q] what was predicted.
        na: [Q] no-answer probabilities.
        over: [Q] whether these are over the threshold.
        scoring: the unit of scores; None where nobody said it.
        notes: those so far.
    """
    are_probabilities = all(0 <= p <= 1 for p in na if p is not None)
    found, lacking = list[float | None](), 0
    for is_over, p, prediction in zip(over, na, predictions, strict=True):
        if is_over:
            found.append(p if are_probabilities else None)
        else:
            known = None if prediction is None else _confidence(prediction, scoring)
            found.append(known)
            lacking += known is None and prediction is not None and prediction.score is not None
    if lacking:
        notes.append(
            f"{lacking} of {sum(p is not None for p in predictions)} predictions do not say how "
            "probable their answer is, as those of older versions and of other programs do not: they "
            "have no confidence and no part in its calibration. Answering again with predict, to "
            "Parquet or JSONL, stores it"
        )
    return found


def _confidence(prediction: Prediction, scoring: Scoring | None) -> float | None:
    """How probable the prediction is among all spans, where it says so.

    Scores of "shared" are that, before rounding, in files without the probability too. Those of
    "probability" are not: of one chunk each, and sums over equal answers.
    """
    probability = prediction.probability
    if probability is None and scoring == "shared" and prediction.score is not None:
        probability = min(max(prediction.score, 0.0), 1.0)
    if probability is not None and not 0 <= probability <= 1:
        raise ValueError(
            f"the probability of a prediction must be from 0 to 1; got {shown(probability)} of "
            f"{prediction.id!r}"
        )
    return probability


def _calibrate(
    confidence: Sequence[float | None],
    scores: Scores,
    na: Sequence[float | None],
    has_answer: Sequence[bool],
) -> dict[str, Reliability]:
    found: dict[str, Reliability] = {}
    no_answer = [not answerable for answerable in has_answer]
    for name, probability, right in (
        ("answer", confidence, scores.exact),
        ("no answer", na, no_answer),
    ):
        known = [(p, r) for p, r in zip(probability, right, strict=True) if p is not None]
        if known and all(0 <= p <= 1 for p, _ in known):
            found[name] = reliability([p for p, _ in known], [r for _, r in known])
    return found
