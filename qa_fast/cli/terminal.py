"""Answers for a person to read: each with its score, its place and the sentence it stands in; tables."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

STANDARD_INPUT = "-"
# Marks that change the order in which a terminal shows a line.
_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True)
class SourcedAnswer:
    """An answer and the text it is from.

    Attributes:
        score: as the pipeline gives it.
        start: the first character of the answer in its text, byte order mark counted.
        end: the first character after it.
        answer: the answer itself; "" for the empty answer.
        source: the text's name as it was given; None for the empty answer, which is about all.
    """

    score: float
    start: int
    end: int
    answer: str
    source: str | None


def display_name(source: str) -> str:
    """What to call the text ``source`` in a sentence."""
    return "standard input" if source == STANDARD_INPUT else source


def print_answers(
    console: Console, answers: Sequence[SourcedAnswer], texts: Mapping[str, str]
) -> None:
    """Print ``answers``: wrapped to the width of a terminal, one line per item anywhere else."""
    if not answers:
        console.print("No answer was found.")
    margin = len(str(len(answers))) + 2
    for rank, answer in enumerate(answers, 1):
        if rank > 1:
            console.print()
        head = Text(visible(answer.answer) or "(no answer)", style="bold")
        head.append(f"   score {answer.score:.3g}", style="not bold cyan")
        parts = [head]
        if answer.source is not None:
            text = texts[answer.source]
            line = text.count("\n", 0, answer.start) + 1
            place = f"{visible(display_name(answer.source))}, line {line}"
            parts.append(Text(f"{place}, characters {answer.start}-{answer.end}", style="dim"))
            parts.append(_sentence(text, answer.start, answer.end))
        for part, number in zip(parts, [str(rank), "", ""], strict=False):
            if console.is_terminal:
                row = Table.grid()
                row.add_column(width=margin, style="dim")
                row.add_column(overflow="fold")
                row.add_row(number, part)
                console.print(row)
            else:
                console.print(Text(number.ljust(margin)) + part, soft_wrap=True)


def print_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of ``rows``; with columns for rows where it is too wide for a terminal.

    Args:
        console: where to.
        headers: of the columns; one without a header is set to the left.
        rows: the cells.
    """
    table = _table(headers, rows)
    needed = Measurement.get(console, console.options.update(width=10_000), table).maximum
    if not console.is_terminal:
        console.width = needed
    elif needed > console.width:
        names, *others = zip((header.replace("\n", " ") for header in headers), *rows, strict=True)
        table = _table(names, others)
    console.print(table)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in headers:
        table.add_column(Text(header), justify="right" if header else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


# Where a sentence ends: at a stop before white space, or at one of the scripts that need none.
_STOP = re.compile(r"[.!?…؟۔।]+[\"')\]»”’]*(?=\s)|[。！？]+[」』”’]*")
_BLANK_LINE = re.compile(r"\n\s*\n")
# How many characters are kept on either side of an answer.
_MOST_AROUND = 200


def _sentence(text: str, start: int, end: int) -> Text:
    """The sentence around ``text[start:end]`` on one line, with the answer highlighted."""
    before = text[max(0, start - _MOST_AROUND) : start]
    after = text[end : end + _MOST_AROUND]
    cut_before = start > _MOST_AROUND
    cut_after = len(text) > end + _MOST_AROUND
    for boundary in (_BLANK_LINE, _STOP):
        ends = [match.end() for match in boundary.finditer(before)]
        if ends:
            before, cut_before = before[ends[-1] :], False
    if match := _BLANK_LINE.search(after):
        after, cut_after = after[: match.start()], False
    # The answer's last character belongs to the sentence: it may be its stop.
    if match := _STOP.search(text[end - 1 : end] + after + " "):
        after, cut_after = after[: max(0, match.end() - 1)], False
    # Not in the middle of a word, where there is a choice.
    if cut_before:
        before = before[before.find(" ") + 1 :]
    if cut_after:
        after = after[: after.rfind(" ")] if " " in after else after
    shown = Text("…" if cut_before else "")
    shown.append(visible(_one_line(before.lstrip())))
    shown.append(visible(_one_line(text[start:end])), style="bold reverse")
    shown.append(visible(_one_line(after.rstrip())))
    return shown.append("…" if cut_after else "")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def visible(text: str) -> str:
    """``text`` with escapes for the characters that would steer a terminal or reorder a line."""

    def shown(character: str) -> str:
        if _steers(character):
            return character.encode("unicode_escape", "surrogatepass").decode("ascii")
        return character

    return "".join(map(shown, text))


def json_line(value: object) -> str:
    """``value`` in JSON that a terminal can show: what would steer it becomes an escape of JSON."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=ascii_only)
    return "".join(f"\\u{ord(c):04x}" if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI
