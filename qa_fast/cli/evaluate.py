"""``qa-fast evaluate``: score predictions as official scripts do, and say more about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import options
from .messages import InputError, check_writable, input_error, quiet, say
from .terminal import visible

if TYPE_CHECKING:
    from qa_fast.evaluation.evaluate import Evaluation

EPILOG = """\
[bold]Examples[/]

[cyan]qa-fast evaluate dev-v2.0.json predictions.json[/]

[cyan]qa-fast evaluate dev-v2.0.json predictions.json -n na_prob.json -o eval.json[/]

[cyan]qa-fast evaluate dev-v2.0.json answers.parquet --results results --report report.html[/]

[cyan]qa-fast evaluate dev.json --model deepset/roberta-base-squad2 --no-answer[/]

[cyan]qa-fast evaluate mlqa-de.json predictions.json --suite mlqa --language de[/]

[cyan]qa-fast evaluate KorQuAD_v1.0_dev.json predictions.json --suite korquad1[/]

[cyan]qa-fast evaluate CUADv1.json nbest_predictions_.json --suite cuad[/]

[cyan]qa-fast evaluate dev.json predictions.json --normalizer my_rules:normalize[/]
"""


class RulesName(str, Enum):
    """The values of --rules."""

    v1 = "1.1"
    v2 = "2.0"


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Questions with their gold answers: SQuAD JSON and its kin, JSONL, CSV (packed or "
            "not), Parquet, or a data set's name on the Hugging Face Hub.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREDICTIONS",
            help="What was predicted: JSON from ids to texts, as for the official scripts, "
            "nbest_predictions.json, or what qa-fast predict wrote.",
        ),
    ] = None,
    *,
    id_column: options.IdColumn = "id",
    question_column: options.QuestionColumn = "question",
    context_column: options.ContextColumn = "context",
    answers_column: options.AnswersColumn = "answers",
    split: options.Split = None,
    subset: options.Subset = None,
    limit: options.Limit = None,
    on_error: Annotated[
        options.OnErrorName,
        options.on_error(
            help="What to do at a row that cannot be scored, or that --model cannot answer: fail, or "
            "skip it and say how many there are."
        ),
    ] = options.OnErrorName.fail,
    out_file: Annotated[
        Path | None,
        options.out_file(help="Write the totals there as JSON, as the official script does."),
    ] = None,
    results: Annotated[
        Path | None,
        options.outputs(
            metavar="FOLDER",
            help="Write results_{time}.json, with everything that was found and how, and "
            "details_{time}.parquet, with one row per question.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        options.outputs(
            metavar="FILE",
            help="Write an HTML report: figures, curves, and a browser of the examples.",
        ),
    ] = None,
    out_image_dir: Annotated[
        Path | None,
        options.outputs(
            "--out-image-dir",
            "-p",
            metavar="FOLDER",
            help="Draw precision-recall curves and no-answer probabilities there, as the official "
            "script does, and add the average precisions to the totals.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        options.as_json(
            help="Print the totals as JSON also on a terminal, which else gets a table."
        ),
    ] = False,
    no_answer: Annotated[
        bool,
        options.answers(
            "--no-answer", help="With --model: allow the empty answer. For models trained on it."
        ),
    ] = False,
    model: Annotated[
        str | None,
        options.models(
            metavar="ID_OR_FOLDER",
            help="Instead of PREDICTIONS: let this model answer first. "
            f"'{options.BUNDLED}' is the small English one in the package.",
        ),
    ] = None,
    device: options.Device = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    na_prob_file: Annotated[
        Path | None,
        options.scores(
            "--na-prob-file",
            "-n",
            metavar="FILE",
            help="JSON from ids to no-answer probabilities: adds the best thresholds.",
            show_default="from the null scores, where the predictions have them",
        ),
    ] = None,
    na_prob_thresh: Annotated[
        float,
        options.scores(
            "--na-prob-thresh",
            "-t",
            metavar="X",
            help="Take the empty answer where the no-answer probability is above this.",
        ),
    ] = 1.0,
    suite: options.Suite = None,
    rules: Annotated[
        RulesName | None, options.scores(help="1.1 is --suite squad1, 2.0 is --suite squad2.")
    ] = None,
    normalizer: Annotated[
        str | None,
        options.scores(
            metavar="NAME",
            help="How answers are compared, if not as the suite does. squad: the English rules. mlqa: "
            "by --language, and the suite is mlqa where none is named. MODULE:FUNCTION: your own "
            "function from text to text; modules of the current folder are found, too.",
            show_default="the suite's",
        ),
    ] = None,
    language: options.Language = None,
    skip_no_answer: Annotated[
        bool,
        options.scores(
            "--skip-no-answer",
            help="With --suite mrqa, as of its script: leave out the questions without a prediction.",
        ),
    ] = False,
    seed: options.Seed = 0,
) -> None:
    """Score predictions as the official script of their suite does: exact match and F1.

    Prints the totals as JSON with the official script's keys; on a terminal, tables with more.
    """
    loading: dict[str, Any] = {
        "device": device,
        "backend": backend and backend.value,
        "dtype": dtype,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
    }
    _check_who_answers(predictions, model, (no_answer, *loading.values()))
    files = _Files(totals=out_file, results=results, report=report, images=out_image_dir)
    if normalizer and ":" in normalizer:
        sys.path.insert(0, str(Path.cwd()))
    from qa_fast.data.examples import Columns
    from qa_fast.evaluation.evaluate import evaluate as run_evaluate

    try:
        # Told now, not after a model has answered.
        files.check()
        found = run_evaluate(
            data,
            predictions,
            na_prob=na_prob_file,
            na_prob_thresh=na_prob_thresh,
            suite=suite,
            rules=rules.value if rules else None,
            normalizer=normalizer,
            language=language,
            skip_no_answer=skip_no_answer,
            columns=Columns(id_column, question_column, context_column, answers_column),
            split=split,
            subset=subset,
            limit=limit,
            on_error=on_error.value,
            seed=seed,
            **_answering(model, no_answer, **loading),
        )
        if out_image_dir is not None:
            found = _with_average_precisions(found)
        files.write(found, Path(data), predictions.name if predictions else model)
    except (ValueError, OSError, ImportError) as error:
        raise input_error(error, evaluate) from error
    for remark in found.remarks:
        say(f"data: {remark}")
    for note in found.notes:
        say(f"note: {note}")
    rules_of = f"rules of {found.settings['title']} ({found.settings['source']})"
    if sys.stdout.isatty() and not as_json:
        _print(found, rules_of)
        return
    if as_json or out_file is None:
        typer.echo(json.dumps(found.metrics, indent=2))
    say(rules_of)


# --- what is scored -----------------------------------------------------------------------------


def _check_who_answers(
    predictions: Path | None, model: str | None, for_model: Sequence[object]
) -> None:
    if (predictions is None) == (model is None):
        both = "both were given" if model else "neither was given"
        raise InputError(f"either PREDICTIONS or --model is needed; {both}")
    if model is None and any(for_model):
        names = "--no-answer, --device, --backend, --dtype, --allow-pickle and --trust-remote-code"
        raise InputError(f"{names} are for --model, which was not given")


def _answering(model: str | None, no_answer: bool, **loading: Any) -> dict[str, Any]:
    """The arguments that let a model answer first; none without a model."""
    if model is None:
        return {}
    from qa_fast.dropin.pipeline import pipeline
    from qa_fast.models.checkpoints import BUNDLED_MODEL

    with quiet():
        qa = pipeline(BUNDLED_MODEL if model == options.BUNDLED else model, **loading)
    # Unless it was given, the suite may have it.
    allowed = {"handle_impossible_answer": True} if no_answer else {}
    return {"model": qa, "progress": sys.stderr.isatty(), **allowed}


def _with_average_precisions(found: Evaluation) -> Evaluation:
    """The evaluation with the figures that SQuAD 2.0's script has only where it draws them."""
    from qa_fast.evaluation.thresholds import average_precisions

    if all(p is None for p in found.na_prob):
        known = found.settings["suite"] == "squad2"
        where = ": give them with -n" if known else f" by the rules of {found.settings['title']}"
        raise InputError(
            f"--out-image-dir draws no-answer probabilities, and there are none{where}"
        )
    return replace(found, metrics={**found.metrics, **average_precisions(found.precision_recall)})


# --- what is written ----------------------------------------------------------------------------


class _Files(NamedTuple):
    """Where the outputs go that were asked for."""

    totals: Path | None
    results: Path | None
    report: Path | None
    images: Path | None

    def check(self) -> None:
        """Raises an `InputError` where a file could not be written; the folder of images is made."""
        if self.images is not None:
            self.images.mkdir(parents=True, exist_ok=True)
        for file in filter(None, (self.report, self.totals)):
            check_writable(file)

    def write(self, found: Evaluation, data: Path, answerer: str | None) -> None:
        """Writes them; ``answerer`` is the name, in the report's title, of what was scored."""
        if self.results is not None:
            from qa_fast.evaluation.results import write_results

            written = write_results(found, self.results, name=data.stem, command_line=sys.argv)
            say(f"written: {written[0]} and {written[1].name}")
        if self.report is not None:
            from qa_fast.pages.report import write_report

            title = f"{answerer} on {data.name}"
            write_report(found, self.report, title=title, command_line=sys.argv)
            say(f"written: {self.report}")
        if self.images is not None:
            from qa_fast.pages.images import write_images

            say(f"written: {', '.join(map(str, write_images(found, self.images)))}")
        if self.totals is not None:
            from qa_fast.files.writing import write_file

            write_file(self.totals, json.dumps(found.metrics).encode())


# --- what is printed ----------------------------------------------------------------------------


def _print(found: Evaluation, rules_of: str) -> None:
    """Whose rules these are, a table of the totals, and one for each breakdown."""
    from rich.console import Console
    from rich.table import Table

    from qa_fast.evaluation.breakdown import FEATURES
    from qa_fast.evaluation.figures import percentages

    console = Console(highlight=False)
    console.print(rules_of, soft_wrap=True)
    table = Table("", "%", "95% interval", "questions", box=None, pad_edge=False)
    for name, value in percentages(found.metrics).items():
        interval, count = found.intervals.get(name), found.metrics.get(_total_of(name), "")
        note = f"{interval.low:.2f} to {interval.high:.2f}" if interval else ""
        if name.startswith("best_"):
            note = f"at threshold {found.metrics[f'{name}_thresh']:.4g}, tuned on these data"
        table.add_row(name, f"{value:.2f}", note, f"{count:,}" if count else "")
    console.print(table)
    for feature, groups in found.breakdowns.items():
        console.print()
        table = Table(FEATURES[feature], box=None, pad_edge=False)
        for column in ("questions", "exact", "f1"):
            table.add_column(column, justify="right")
        for group in groups:
            row = (f"{group.total:,}", f"{group.exact:.2f}", f"{group.f1:.2f}")
            table.add_row(visible(group.label), *row)
        console.print(table)


def _total_of(metric: str) -> str:
    prefix = metric.rpartition("_")[0]
    return f"{prefix}_total" if prefix in ("HasAns", "NoAns") else "total" if not prefix else ""
