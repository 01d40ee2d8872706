"""`evaluate()`: how good predictions are, in total and by kind of question, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from qa_fast.data.answers import Prediction, n_best_probabilities, n_best_scores, softmax
from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.data.examples import Columns, Example
from qa_fast.data.opening import open_source, usable
from qa_fast.data.predictions import read_predictions
from qa_fast.files.reading import Watch

from .breakdown import Group, break_down
from .figures import CONFIDENCE_LEVEL, intervals
from .matching import (
    check_gold,
    files_of,
    guess_scoring,
    match_predictions,
    no_answer_probabilities,
    record_of,
)
from .metrics import Figure, Normalize, Scored, Scores
from .statistics import RESAMPLES, Interval, Reliability, reliability
from .suites.fitting import better_suite
from .suites.registry import Choice, Rules, choose_suite
from .suites.suite import Suite
from .thresholds import (
    NoAnswerCurves,
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
        examples: [Q] the questions.
        predictions: [Q] what was predicted; None for a question without a prediction.
        answers: [Q] what was scored: the predicted text, or "" above the no-answer threshold.
        scores: exact match and F1 of each question, between 0 and 1.
        na_prob: [Q] no-answer probabilities; None where unknown.
        confidence: [Q] in the answer, between 0 and 1; None where unknown.
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
    notes: list[str] = []
    source = open_source(data, columns=columns, split=split, subset=subset)
    watch = Watch([*source.files, *files_of(predictions), *files_of(na_prob)])
    examples = check_gold(islice(usable(source.rows()), limit), suite_)
    if model is not None:
        options = {**suite_.model_options, **options}
        predictions, run = _answers_of_model(examples, model, options)
    else:
        run = record_of(predictions, notes)
    found = match_predictions(examples, predictions, notes, skip_missing=skip_no_answer)
    if skip_no_answer:
        examples = [e for e, p in zip(examples, found, strict=True) if p is not None]
        found = [p for p in found if p is not None]
    if scoring is None:
        scoring = run["settings"]["options"]["scoring"] if run else guess_scoring(found)
    probs = no_answer_probabilities(na_prob, found, scoring, notes) if suite_.thresholds else {}
    watch.check()

    raw, tallied, clauses = _score(suite_, examples, found, scoring)
    na = [probs.get(example.id) for example in examples]
    over = [p is not None and p > na_prob_thresh for p in na]
    answers = [
        "" if is_over or p is None else p.answer for is_over, p in zip(over, found, strict=True)
    ]
    has_answer = [bool(example.answers) for example in examples]
    scores = Scores(*(apply_threshold(values, over, has_answer) for values in raw))
    scored = Scored(
        ids=[example.id for example in examples],
        scores=scores,
        has_answer=has_answer,
        predicted=[p is not None for p in found],
        empty=[p is None or suite_.is_empty(p.answer) for p in found],
    )
    curves = _curves(scored, raw, probs, notes)
    figures = tallied or suite_.totals(scored)
    metrics = {**{key: figure.value for key, figure in figures.items()}, **curves.best()}
    notes += _notes_on(suite_, chosen.normalizer, examples, metrics)
    confidence = _confidences(found, na, over, scoring)
    return Evaluation(
        metrics=metrics,
        intervals=intervals(figures, seed),
        breakdowns=break_down(examples, found, answers, scores, suite_.tokens),
        calibration=_calibrate(confidence, scores, na, has_answer),
        thresholds=curves.thresholds,
        precision_recall={**curves.precision_recall, **clauses},
        examples=examples,
        predictions=found,
        answers=answers,
        scores=scores,
        na_prob=na,
        confidence=confidence,
        notes=notes,
        settings=_settings(
            chosen, language=language, na_prob_thresh=na_prob_thresh, scoring=scoring, seed=seed
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


def _answers_of_model(
    examples: Sequence[Example], model: Any, options: Mapping[str, Any]
) -> tuple[list[Prediction], dict[str, Any]]:
    """What ``model`` answers, and the manifest of its run."""
    from qa_fast.runs.predict import predict

    with TemporaryDirectory() as folder:
        run = predict(examples, Path(folder) / "predictions.parquet", model=model, **options)
        return list(read_predictions(run.output)), run.manifest


# --- figures ------------------------------------------------------------------------------------


def _score(
    suite: Suite,
    examples: Sequence[Example],
    predictions: Sequence[Prediction | None],
    scoring: Scoring,
) -> tuple[Scores, dict[str, Figure], dict[str, PrecisionRecall]]:
    """Question by question: the scores, and the totals and the curve of a suite that tallies."""
    exact: list[float] = []
    f1: list[float] = []
    tally = suite.tally() if suite.tally else None
    for example, prediction in zip(examples, predictions, strict=True):
        golds = example.answers or ()
        of_one = suite.score(None if prediction is None else prediction.answer, golds)
        exact.append(of_one[0])
        f1.append(of_one[1])
        if tally is not None:
            tally.add(example.id, golds, *_n_best(prediction, scoring))
    if tally is None:
        return Scores(exact, f1), {}, {}
    return Scores(exact, f1), tally.totals(), {"clauses": tally.curve()}


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


def _curves(
    scored: Scored, raw: Scores, probs: Mapping[str, float], notes: list[str]
) -> NoAnswerCurves:
    """What the no-answer probabilities are good for; notes say what to know of it."""
    if 0 < len(probs) < len(scored.ids):
        notes.append("thresholds and curves leave out the questions without a prediction")
    row_of = {id_: i for i, id_ in enumerate(scored.ids)}
    na_prob = {row_of[id_]: p for id_, p in probs.items()}
    return no_answer_curves(raw, na_prob, scored.has_answer, scored.empty)


def _notes_on(
    suite: Suite, normalizer: str | None, examples: Sequence[Example], metrics: Mapping[str, float]
) -> list[str]:
    """What to know of the figures of ``suite``."""
    notes = []
    if any(key.startswith("best_") for key in metrics):
        notes.append(
            "best_exact and best_f1 use the thresholds that are best on these very questions: they "
            "show what could be gained, not what new questions would get"
        )
    if normalizer is not None:
        notes.append(
            f"answers are compared by the normalizer {normalizer}, not as {suite.title}'s script does: "
            "the figures are not its"
        )
    better = better_suite(suite.name, examples)
    return [*notes, better] if better else notes


def _confidences(
    predictions: Sequence[Prediction | None],
    na: Sequence[float | None],
    over: Sequence[bool],
    scoring: Scoring,
) -> list[float | None]:
    """[Q] how probable each scored answer is: the empty one where ``na`` is ``over`` the threshold."""
    are_probabilities = all(0 <= p <= 1 for p in na if p is not None)
    return [
        (p if are_probabilities else None) if is_over else _confidence(prediction, scoring)
        for is_over, p, prediction in zip(over, na, predictions, strict=True)
    ]


def _confidence(prediction: Prediction | None, scoring: Scoring) -> float | None:
    """How probable the prediction is; for logits, among its n best."""
    if prediction is None:
        return None
    if scoring != "logit":
        # Sums over equal answers can exceed 1.
        return None if prediction.score is None else min(max(prediction.score, 0.0), 1.0)
    scores = n_best_scores(prediction)
    if prediction.score is None or scores is None or len(scores) < 2 or not isfinite(max(scores)):
        return None
    return softmax([prediction.score], over=scores)[0]


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
