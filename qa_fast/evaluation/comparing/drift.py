"""`drift()`: how far a model's variants are from it, in their answers, their scores and their speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qa_fast.data.examples import Columns, OnError
from qa_fast.data.opening import open_source
from qa_fast.evaluation.figures import CONFIDENCE_LEVEL
from qa_fast.evaluation.statistics import RESAMPLES
from qa_fast.evaluation.suites.registry import Choice, choose_suite
from qa_fast.files.reading import Watch

from .asked import Asked, each_data
from .contestants import Contestant, load_contestants
from .differences import Differences, Places, Sheet
from .turns import Ratio, Schedule, Speed, Turns, schedule, speed_of, times_as_fast

if TYPE_CHECKING:
    from qa_fast.runs.answering import Answering

SAMPLE = Path(__file__).parent / "squad2-dev-300" / "questions.json"
"""300 questions of SQuAD 2.0, which come with the package."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was measured.

    Attributes:
        name: what it runs on and in which type, such as "openvino int8".
        settings: what decides its numbers: its backend, dtype, device, the hash of its weights.
        load_seconds: how long it took to load, with what libraries import at their first use; None where
            it was loaded before.
        speed: how fast it is.
    """

    name: str
    settings: dict[str, Any]
    load_seconds: float | None
    speed: Speed


@dataclass(frozen=True, slots=True)
class Variant:
    """A model beside the baseline.

    Attributes:
        model: the model.
        total: how far its answers are from the baseline's, over all questions.
        by_data: the same of each data set, by its name.
        by_answer: the same of the questions that have gold answers ("HasAns") and of those that are
            known to have none ("NoAns"), where there are both.
        times_as_fast: as the baseline, from texts to answers.
        forward_times_as_fast: the same in the model alone.
    """

    model: Model
    total: Differences
    by_data: dict[str, Differences]
    by_answer: dict[str, Differences]
    times_as_fast: Ratio
    forward_times_as_fast: Ratio


@dataclass(frozen=True, slots=True)
class Drift:
    """The outcome of `drift`.

    Attributes:
        baseline: the model that the others are held against.
        variants: these, in the order given.
        remarks: what the data say about themselves, as `Evaluation.remarks`.
        notes: what a reader of the figures must know.
        settings: how they came about.
    """

    baseline: Model
    variants: list[Variant]
    remarks: list[str]
    notes: list[str]
    settings: dict[str, Any]


def drift(
    model: Any = None,
    *variants: Any,
    data: Any = None,
    suite: str | None = None,
    language: str | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_error: OnError = "fail",
    rounds: int = 3,
    seed: int = 0,
    progress: bool = False,
    tokenizer: Any = None,
    device: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    null_threshold: float = 0.0,
    **options: Any,
) -> Drift:
    """Measure how far variants of a model drift from it: the same questions, in turns, in one process.

    A variant computes in a type of 16 or 8 bits or runs on another backend. The baseline is the model
    in float32 on PyTorch. All are in memory at once and read some hundred questions each in turn; times
    are medians over these turns, after a warm-up, from texts to answers and in the model alone.

    Args:
        model: a model's name or folder, None for the bundled one: it is loaded in float32. Or what
            `pipeline` returned, which is the baseline as it is.
        *variants: at least one: a dict of the arguments of `pipeline` in which it differs from the
            baseline, such as ``{"dtype": "bfloat16"}``; or what `pipeline` returned.
        data: the questions, with their gold answers or without any, in any form that `read_examples`
            takes; or a list of names of such files, each of which is scored by itself as well. None: 300
            questions of SQuAD 2.0 that come with the package, which are few and in English.
        suite: by whose rules answers are scored, as in `evaluate`; None for "squad2".
        language: of the answers, as in `evaluate`.
        columns: names of the columns of ``data``.
        split: which split of a data set with several.
        subset: which subset of a data set on the Hub.
        limit: read only so many questions of each file, the first ones.
        on_error: "fail" at a row that cannot be scored, or that a model cannot answer; or "skip" it,
            which the notes say. Where a variant alone cannot answer, it scores 0 and has another answer
            than the baseline.
        rounds: each model has at least so many turns: where the questions make fewer, they are read
            again.
        seed: of the bootstrap.
        progress: show a bar on standard error.
        tokenizer: as in `pipeline`, of all models that are loaded here.
        device: likewise.
        allow_pickle: likewise.
        trust_remote_code: likewise.
        null_threshold: as in `predict`.
        **options: as of `predict`, such as ``handle_impossible_answer=True``; all models answer with the
            same, cut into chunks as for the baseline.

    Raises:
        ImportError: a library that a backend or the suite's definition needs is not installed.
        OSError: a file that cannot be read, or a model that cannot be loaded.
        ValueError: data or arguments that cannot be used; the message says which and why.

    Example:
        >>> import qa_fast
        >>> row = {"question": "Who wrote it?", "context": "Ada wrote it.", "answers": ["Ada"]}
        >>> found = qa_fast.drift(None, {"dtype": "bfloat16"}, data=[row], device="cpu", rounds=1)
        >>> variant = found.variants[0]
        >>> variant.model.name, variant.total.same_text, variant.total.f1.b
        ('torch bfloat16', 1, 100.0)
    """
    from qa_fast.engine.options import Options, check_count
    from qa_fast.runs.answering import DEFAULTS, Answering
    from qa_fast.runs.provenance import engine_settings

    check_count("rounds", rounds)
    if limit is not None:
        check_count("limit", limit)
    chosen = choose_suite(suite, language=language)
    asked_for = {**DEFAULTS, **chosen.suite.model_options, **options}
    answering = Answering(Options(**asked_for), null_threshold, on_error)
    sources = [
        open_source(one, columns=columns, split=split, subset=subset)
        for one in ([SAMPLE] if data is None else each_data(data))
    ]
    watch = Watch([file for source in sources for file in source.files])
    asked = Asked(sources, chosen.suite, limit, on_error)
    # All of them has been read.
    watch.check()
    notes = asked.notes
    loading = {
        "tokenizer": tokenizer,
        "device": device,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
    }
    contestants = load_contestants(model, variants, loading, notes)
    answering = replace(answering, options=contestants[0].engine.resolved(answering.options))
    off_cpu = any(one.engine.device.type != "cpu" for one in contestants)
    plan = schedule(len(asked), rounds, off_cpu=off_cpu)
    turns = Turns(contestants, answering, asked.rows, plan)
    sheet = _scored(asked, contestants, turns, progress)
    notes += _notes_on(asked, answering, is_sample=data is None)
    baseline, *models = (
        Model(one.name, engine_settings(one.engine), one.load_seconds, speed_of(times))
        for one, times in zip(contestants, turns.times, strict=True)
    )
    return Drift(
        baseline=baseline,
        variants=[
            _variant(i, model, asked, sheet, turns, seed) for i, model in enumerate(models, 1)
        ],
        remarks=asked.remarks,
        notes=notes,
        settings=_settings(chosen, asked, answering, plan, rounds=rounds, limit=limit, seed=seed),
    )


class _Counted(NamedTuple):
    """The sheet of all questions that the baseline could answer.

    Attributes:
        sheet: the sheet.
        counts: how many questions of each data set are on it.
    """

    sheet: Sheet
    counts: list[int]


def _scored(
    asked: Asked, contestants: Sequence[Contestant], turns: Turns, progress: bool
) -> _Counted:
    """Has all turns, and keeps of the answers what is to be kept.

    What models could not answer is added to the notes.
    """
    from qa_fast.runs.answering import Reject
    from qa_fast.runs.progress import reporting

    sheet, counts = Sheet(len(contestants)), [0] * len(asked.sets)
    rejects: list[list[Reject]] = [[] for _ in contestants]
    total = len(asked) * turns.plan.passes * len(contestants)
    with reporting(progress, total) as report:
        for rows, found in turns.run(report):
            for row, *answers in zip(rows, *found, strict=True):
                assert row.example is not None
                predictions = [None if isinstance(x, Reject) else x for x in answers]
                for of_one, answer in zip(rejects, answers, strict=True):
                    # Without the baseline's answer there is nothing to hold the others against.
                    if isinstance(answer, Reject):
                        of_one.append(answer)
                        if of_one is rejects[0]:
                            break
                else:
                    place = asked.set_of(row.number)
                    counts[place] += 1
                    sheet.add(row.number, row.example, asked.sets[place].suite, predictions)
    for i, (contestant, of_one) in enumerate(zip(contestants, rejects, strict=True)):
        if of_one:
            what = "score 0 and count as changed" if i else "are left out"
            asked.notes.append(
                f"{len(of_one)} questions that {contestant.name} could not answer {what}, the first is "
                f"{of_one[0].place}: {of_one[0].reason}"
            )
    if not len(sheet):
        raise ValueError(asked.notes[-1])
    return _Counted(sheet, counts)


def _variant(
    number: int, model: Model, asked: Asked, counted: _Counted, turns: Turns, seed: int
) -> Variant:
    sheet, baseline, own = counted.sheet, turns.times[0], turns.times[number]

    def differences(places: Places) -> Differences:
        return sheet.differences(number, asked.id_of, places, seed=seed)

    ends = [*accumulate(counted.counts, initial=0)]
    answerable = {"HasAns": sheet.answerable(True), "NoAns": sheet.answerable(False)}
    return Variant(
        model=model,
        total=differences(np.arange(len(sheet))),
        by_data={
            one.name: differences(np.arange(start, stop))
            for one, (start, stop) in zip(asked.sets, pairwise(ends), strict=True)
            if stop > start
        },
        by_answer={
            name: differences(places)
            for name, places in answerable.items()
            if all(map(len, answerable.values()))
        },
        times_as_fast=times_as_fast(
            [turn.seconds for turn in baseline], [turn.seconds for turn in own]
        ),
        forward_times_as_fast=times_as_fast(
            [turn.forward_seconds for turn in baseline], [turn.forward_seconds for turn in own]
        ),
    )


def _notes_on(asked: Asked, answering: Answering, *, is_sample: bool) -> list[str]:
    """What to know of the figures."""
    notes = []
    unanswerable = asked.unanswerable()
    if unanswerable and not answering.options.handle_impossible_answer:
        notes.append(
            f"{unanswerable} of {len(asked)} questions have no answer in their context: the empty "
            "answer was not allowed, so that every model scores 0 on them"
        )
    if is_sample:
        notes.append(
            f"{len(asked)} questions of SQuAD 2.0, which come with the package: few, in English, and "
            "none of yours; your own questions are better evidence"
        )
    return notes


def _settings(
    chosen: Choice, asked: Asked, answering: Answering, plan: Schedule, *, seed: int, **others: Any
) -> dict[str, Any]:
    import torch

    return {
        "suite": chosen.suite.name,
        "title": chosen.suite.title,
        "source": chosen.suite.source,
        "data": {one.name: len(one.examples) for one in asked.sets},
        "options": asdict(answering.options),
        "null_threshold": answering.null_threshold,
        "on_error": answering.on_error,
        **others,
        "turns": {"questions": plan.sizes, "passes": plan.passes},
        "threads": torch.get_num_threads(),
        "bootstrap": {
            "resamples": RESAMPLES,
            "confidence_level": CONFIDENCE_LEVEL,
            "seed": seed,
        },
    }
