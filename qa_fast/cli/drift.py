"""``qa-fast drift``: variants of a model beside it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .messages import InputError, check_writable, input_error, quiet, say
from .terminal import json_line, print_table, visible

if TYPE_CHECKING:
    from qa_fast.evaluation.comparing.differences import Differences
    from qa_fast.evaluation.comparing.drift import Drift, Model

EPILOG = """\
[bold]Examples[/]

[cyan]qa-fast drift deepset/roberta-base-squad2 --backend openvino --dtype int8 --no-answer[/]

[cyan]qa-fast drift --dtype bfloat16[/]

[cyan]qa-fast drift M --backend openvino --dtype int8 --variant openvino:bfloat16 --variant exported/[/]

[cyan]qa-fast drift M --dtype float16 --device cuda --data a.json --data b.json -o drift.json[/]

Times are medians over the turns that the models have on this machine, and hold for it. Where the 95% \
interval of a difference (of a paired bootstrap) includes 0, the questions do not tell the models apart.
"""

HEADERS = (
    "",
    "equal\nanswers",
    "EM",
    "F1",
    "F1 difference\n(95% interval)",
    "score diff.\nmax",
    "score diff.\nmedian",
    "questions/s",
    "times\nas fast",
    "model\nalone",
    "ms per\nquestion",
    "CPU ms per\nquestion",
    "loaded\nin",
)


def drift(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Transformers question answering model, by its name on the Hugging Face hub or by "
            f"folder; {options.BUNDLED} for the small English one in the package. In float32 on "
            "PyTorch it is what its variants are held against.",
        ),
    ] = options.BUNDLED,
    *,
    data: Annotated[
        list[str] | None,
        options.inputs(
            "--data",
            metavar="DATA",
            help="Questions, in all forms that qa-fast evaluate reads. Without gold answers there is no "
            "exact match and no F1. Give it again for more files, each of which is shown by itself, "
            "too; --limit counts in each of them.",
            show_default="300 questions of SQuAD 2.0 in the package",
        ),
    ] = None,
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
            help="What to do at a row that cannot be scored, or that a model cannot answer: fail, or "
            "skip it and say how many there are."
        ),
    ] = options.OnErrorName.fail,
    out_file: Annotated[
        Path | None,
        options.out_file(
            help="Write all figures there as JSON, with the settings, the machine, its threads, the "
            "versions and the date."
        ),
    ] = None,
    as_json: Annotated[
        bool, options.as_json(help="Print the same JSON in one line instead of a table.")
    ] = False,
    no_answer: options.NoAnswer = False,
    device: options.Device = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    variant: Annotated[
        list[str] | None,
        options.models(
            "--variant",
            metavar="VARIANT",
            help="Another variant, beside that of --backend and --dtype or in its place: BACKEND:TYPE, "
            "such as openvino:bfloat16, or the folder of one, such as qa-fast export writes. Give it "
            "again for more.",
        ),
    ] = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    suite: options.Suite = None,
    language: options.Language = None,
    rounds: Annotated[
        int,
        options.scores(
            metavar="N",
            min=1,
            help="Time at least so many turns of each model. A turn has up to 512 questions, on a GPU "
            "8,192; where there are fewer turns than N, the questions are read again.",
        ),
    ] = 3,
    seed: options.Seed = 0,
) -> None:
    """Measure how far variants of a model drift from it: answers, scores, exact match, F1, and speed.

    A variant runs in 16 or 8 bits or on another backend. All models read the same questions in turns.
    """
    variants = _variants(backend and backend.value, dtype, variant or ())
    if out_file is not None:
        check_writable(out_file)
    from qa_fast.data.examples import Columns
    from qa_fast.evaluation.comparing.drift import drift as run_drift
    from qa_fast.evaluation.comparing.record import record_of, sentence, warnings, write_drift

    try:
        with quiet():
            found = run_drift(
                None if model == options.BUNDLED else model,
                *variants,
                data=data or None,
                suite=suite,
                language=language,
                columns=Columns(id_column, question_column, context_column, answers_column),
                split=split,
                subset=subset,
                limit=limit,
                on_error=on_error.value,
                rounds=rounds,
                seed=seed,
                progress=sys.stderr.isatty(),
                device=device,
                allow_pickle=allow_pickle,
                trust_remote_code=trust_remote_code,
                handle_impossible_answer=no_answer,
            )
        if out_file is not None:
            write_drift(found, out_file, command_line=sys.argv)
    except (ValueError, OSError, ImportError) as error:
        raise input_error(error, drift) from error
    for remark in found.remarks:
        say(f"data: {remark}")
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        typer.echo(json_line(record_of(found, command_line=sys.argv)))
    else:
        _print(found)
    for one in found.variants:
        if not as_json:
            typer.echo(visible(sentence(one)))
        for warning in warnings(one):
            say(f"warning: {warning}")
    if out_file is not None:
        say(f"written: {out_file}")


def _variants(backend: str | None, dtype: str | None, more: Sequence[str]) -> list[dict[str, Any]]:
    """The variants that are asked for, as `qa_fast.drift` takes them."""
    found: list[dict[str, Any]] = []
    if backend is not None or dtype is not None:
        found.append({"backend": backend, "dtype": dtype})
    names = "|".join(name.value for name in options.BackendName)
    for text in more:
        named = re.fullmatch(rf"({names}):(\w+)", text)
        if named is None and ":" in text and not Path(text).exists():
            raise InputError(
                f"--variant is BACKEND:TYPE, such as openvino:int8, with a backend of "
                f"{names.replace('|', ', ')}, or a folder; got {text!r}"
            )
        found.append({"backend": named[1], "dtype": named[2]} if named else {"model": text})
    if not found:
        raise InputError(
            "there is nothing to hold against the model: give a variant, by --backend, --dtype or "
            "--variant"
        )
    return found


# --- what is printed ----------------------------------------------------------------------------


def _print(found: Drift) -> None:
    """A table of the models; another one by data sets and by kinds of questions, if there are any."""
    from rich.console import Console

    console = Console(highlight=False)
    first = found.variants[0]
    rows = [_row(found.baseline, _of_baseline(first.total), ("", ""))]
    for variant in found.variants:
        ratios = (variant.times_as_fast, variant.forward_times_as_fast)
        ratio, alone = (f"{ratio.median:.2f}" for ratio in ratios)
        rows.append(_row(variant.model, _of_variant(variant.total), (ratio, alone)))
    print_table(console, HEADERS, rows)
    threads = found.settings["threads"]
    questions = f"{first.total.questions:,} questions, {first.total.scored:,} of them scored by"
    console.print(
        f"{questions} the rules of {found.settings['title']}; "
        f"{threads} thread{'s' if threads > 1 else ''}",
        soft_wrap=True,
    )
    rows = []
    by_data = [variant.by_data for variant in found.variants]
    for parts in (by_data, [variant.by_answer for variant in found.variants]):
        for name, of_first in parts[0].items() if len(parts[0]) > 1 else ():
            rows.append([visible(name), found.baseline.name, *_of_baseline(of_first)])
            for variant, of_one in zip(found.variants, parts, strict=True):
                rows.append(["", variant.model.name, *_of_variant(of_one[name])])
    if rows:
        console.print()
        print_table(console, ("", "", *HEADERS[1:7]), rows)


def _row(model: Model, quality: Sequence[str], ratios: Sequence[str]) -> list[str]:
    speed, loaded = model.speed, model.load_seconds
    return [
        model.name,
        *quality,
        f"{speed.questions_per_second:.1f}",
        *ratios,
        f"{speed.milliseconds:.2f}",
        f"{speed.cpu_milliseconds:.2f}",
        "" if loaded is None else f"{loaded:.1f} s",
    ]


def _of_baseline(found: Differences) -> list[str]:
    exact, f1 = ("" if of is None else f"{of.a:.2f}" for of in (found.exact, found.f1))
    return ["", exact, f1, "", "", ""]


def _of_variant(found: Differences) -> list[str]:
    exact, f1 = ("" if of is None else f"{of.b:.2f}" for of in (found.exact, found.f1))
    apart = ""
    if found.f1 is not None:
        low, high = found.f1.interval
        apart = f"{found.f1.b - found.f1.a:+.2f} ({low:+.2f} to {high:+.2f})"
    scores = ["", ""]
    if found.score is not None:
        scores = [f"{found.score.largest:.3f}", f"{found.score.median:.4f}"]
    return [f"{100 * found.same_text / found.questions:.2f}%", exact, f1, apart, *scores]
