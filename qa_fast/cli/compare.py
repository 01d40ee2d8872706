"""``qa-fast compare``: two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .messages import InputError, input_error
from .terminal import json_line, visible

if TYPE_CHECKING:
    from qa_fast.evaluation.comparing.compare import Comparison, ScoredAnswer

EPILOG = """\
[bold]Examples[/]

[cyan]qa-fast compare run-a/results_*.json run-b/results_*.json[/]

[cyan]qa-fast compare a.json b.json --data dev-v2.0.json --changed 50[/]
"""


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="A results_{time}.json or details_{time}.parquet of qa-fast evaluate; or, with "
            "--data, predictions.",
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other one, on the same questions.")],
    *,
    data: Annotated[
        str | None,
        options.inputs(
            metavar="DATA",
            help="The questions with their gold answers, where A or B are predictions.",
        ),
    ] = None,
    changed: Annotated[
        int,
        options.outputs(
            metavar="N", min=0, help="Show that many of the questions whose score changed."
        ),
    ] = 10,
    as_json: Annotated[
        bool,
        options.as_json(help="Print one JSON object instead, with all the questions that changed."),
    ] = False,
    seed: options.Seed = 0,
) -> None:
    """Compare two runs on the same questions: which one is better, how sure that is, and where.

    Differences come with 95% paired bootstrap intervals, exact match with McNemar's exact test too.
    """
    from qa_fast.evaluation.comparing.compare import compare as run_compare

    try:
        found = run_compare(_read(a, data), _read(b, data), seed=seed)
    except (ValueError, OSError, ImportError) as error:
        raise input_error(error, compare) from error
    if as_json:
        typer.echo(json_line(_as_dict(found)))
    else:
        _print(found, str(a), str(b), changed)


def _read(path: Path, data: str | None) -> list[ScoredAnswer]:
    from qa_fast.evaluation.comparing.compare import read_scored_answers, scored_answers
    from qa_fast.evaluation.evaluate import evaluate

    found = read_scored_answers(path)
    if found is not None:
        return found
    if data is None:
        raise InputError(
            f"{path} is not a result of qa-fast evaluate; if it holds predictions, give the gold "
            "answers too, with --data"
        )
    return scored_answers(evaluate(data, path))


def _as_dict(found: Comparison) -> dict[str, Any]:
    return {
        "total": found.total,
        **{
            name: {
                "a": difference.a,
                "b": difference.b,
                "difference": difference.b - difference.a,
                "interval": [*difference.interval],
            }
            for name, difference in found.differences.items()
        },
        "only_a_right": found.only_a,
        "only_b_right": found.only_b,
        "mcnemar_p": found.p_value,
        "changed": [
            {
                "id": x.id,
                "question": x.question,
                "gold": [*x.golds],
                **{
                    name: {"answer": answer.answer, "exact": answer.exact, "f1": answer.f1}
                    for name, answer in (("a", x), ("b", y))
                },
            }
            for x, y in found.changed
        ],
    }


def _print(found: Comparison, name_a: str, name_b: str, most: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"A  {visible(name_a)}\nB  {visible(name_b)}"), soft_wrap=True)
    table = Table("", box=None, pad_edge=False)
    for column in ("A", "B", "B - A", "95% interval"):
        table.add_column(column, justify="right")
    for name, difference in found.differences.items():
        low, high = difference.interval
        table.add_row(
            {"exact": "exact match", "f1": "F1"}[name],
            f"{difference.a:.2f}",
            f"{difference.b:.2f}",
            f"{difference.b - difference.a:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
        )
    console.print(table)
    console.print(
        f"of {found.total:,} questions, {found.only_a:,} are right in A only and {found.only_b:,} in "
        f"B only (McNemar's exact test: p = {found.p_value:.3g})",
        soft_wrap=True,
    )
    if not found.changed:
        console.print("no question has another score")
        return
    shown = min(most, len(found.changed))
    console.print(f"{shown:,} of the {len(found.changed):,} questions whose score changed:")
    for x, y in found.changed[:most]:
        gold = " | ".join(map(_text, dict.fromkeys(x.golds))) or "(no answer)"
        console.print()
        console.print(Text(visible(x.question), style="bold"), soft_wrap=True)
        console.print(Text(f"  gold {gold}", style="dim"), soft_wrap=True)
        for name, answer in (("A", x), ("B", y)):
            style = "green" if answer.exact else "red"
            line = f"  {name}    {_text(answer.answer)}  (F1 {100 * answer.f1:.0f})"
            console.print(Text(line, style=style), soft_wrap=True)


def _text(answer: str) -> str:
    return visible(answer) if answer else "(no answer)"
