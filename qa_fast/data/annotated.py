"""Data whose answers are spans that people marked: Natural Questions, and exports of annotation tools.

Each function makes a row under the caller's `Columns` of one JSON value, or raises a `KeyError`,
`TypeError`, `IndexError` or `ValueError` where the value is damaged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from .examples import Columns

Value: TypeAlias = Mapping[str, Any]
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_ANSWER = re.compile(r"(?i)answer|span")
_MARKS = ("label", "labels", "entities", "answer", "answers")


# --- Natural Questions ----------------------------------------------------------------------------


def is_natural_questions(value: Value) -> bool:
    """Whether ``value`` is a line of Natural Questions in its simplified form."""
    return {"document_text", "question_text"} <= value.keys()


def nq_row(value: Value, columns: Columns) -> Value:
    """The row of a line of simplified Natural Questions, as the BERT-joint baseline reads it.

    ``document_text`` is tokens with single spaces between them. The context is those of the long answer
    candidates at the top level, one after the other, without tags; of the whole document where there
    are no candidates. An annotation's answer goes from its first short answer to its last, or is "yes"
    or "no". With several annotations a question has an answer if two of them have (Kwiatkowski et al.
    2019). The baseline's own marks between candidates, and its limit of 48, are left out.

    Source: google-research/language, question_answering/bert_joint/run_nq.py; the rule of two
    annotations: google-research-datasets/natural-questions, nq_eval.py.
    """
    tokens = value["document_text"].split(" ")
    kept = list(_text_tokens(tokens, value.get("long_answer_candidates") or ()))
    ends = list(accumulate(len(tokens[i]) + 1 for i in kept))
    place = dict(zip(kept, [0, *ends], strict=False))
    annotations = value.get("annotations")
    golds: list[tuple[str, int | None]] = []
    for annotation in annotations or ():
        yes_no = annotation.get("yes_no_answer", "NONE")
        if found := annotation.get("short_answers"):
            first, last = found[0]["start_token"], found[-1]["end_token"]
            if not 0 <= first < last <= len(tokens):
                raise ValueError(
                    f"a short answer must be some of the {len(tokens)} tokens; got {first} to {last}"
                )
            inside = [i for i in range(first, last) if not _TAG.fullmatch(tokens[i])]
            if inside:
                golds.append((" ".join(tokens[i] for i in inside), place.get(inside[0])))
        elif yes_no in ("YES", "NO"):
            golds.append((yes_no.lower(), None))
    if len(golds) < min(2, len(annotations or ())):
        golds = []
    golds = list(dict.fromkeys(golds))
    return {
        columns.id: value.get("example_id"),
        columns.question: value["question_text"],
        columns.context: " ".join(tokens[i] for i in kept),
        columns.title: value.get("document_title"),
        columns.answers: None if annotations is None else _answers(golds),
    }


def _text_tokens(tokens: Sequence[str], candidates: Iterable[Value]) -> Iterator[int]:
    """The numbers of the tokens that make up the context."""
    ranges = [
        range(candidate["start_token"], candidate["end_token"])
        for candidate in candidates
        if candidate["top_level"]
    ]
    for numbers in ranges or [range(len(tokens))]:
        yield from (i for i in numbers if not _TAG.fullmatch(tokens[i]))


# --- annotation tools -----------------------------------------------------------------------------


def is_label_studio(value: Value) -> bool:
    """Whether ``value`` is a task of Label Studio, in its export with all annotations."""
    annotations = value.get("annotations", value.get("completions"))
    return isinstance(value.get("data"), Mapping) and isinstance(annotations, list)


def label_studio_row(value: Value, columns: Columns) -> Value:
    """The row of a task of Label Studio: spans of every annotation that was not cancelled.

    A task that nobody annotated has no known answers; one without spans has none.
    """
    data = value["data"]
    context = data.get(columns.context, data.get("text"))
    annotations = [
        annotation
        for annotation in value.get("annotations", value.get("completions"))
        if not annotation.get("was_cancelled")
    ]
    marks = [
        result["value"]
        for annotation in annotations
        for result in annotation["result"]
        if {"start", "end"} <= result["value"].keys()
    ]
    return {
        columns.id: data.get(columns.id, value.get("id")),
        columns.question: data[columns.question],
        columns.context: context,
        columns.title: data.get(columns.title),
        columns.answers: _marked(context, marks) if annotations else None,
    }


def is_doccano(value: Value) -> bool:
    """Whether ``value`` is a text with marked spans in it, as Doccano exports them."""
    return isinstance(value.get("text"), str) and _marks_of(value) is not None


def doccano_row(value: Value, columns: Columns) -> Value:
    """The row of a text of Doccano, or of Label Studio's smaller export."""
    context = value["text"]
    more = value.get("meta")
    fields = {**(more if isinstance(more, Mapping) else {}), **value}
    return {
        columns.id: value.get("id"),
        columns.question: fields[columns.question],
        columns.context: context,
        columns.title: fields.get(columns.title),
        columns.answers: _marked(context, _marks_of(value) or ()),
    }


def _marks_of(value: Value) -> list[Any] | None:
    """The list of marked spans; None where there is none."""
    for key in _MARKS:
        marks = value.get(key)
        if isinstance(marks, list) and all(_bounds(mark) is not None for mark in marks):
            return marks
    return None


def _bounds(mark: Any) -> tuple[int, int] | None:
    """The half-open range of characters of a mark: [start, end, label], or a dict."""
    if isinstance(mark, Mapping):
        ends = [mark.get(x, mark.get(f"{x}_offset")) for x in ("start", "end")]
    else:
        ends = list(mark[:2]) if isinstance(mark, list) else []
    if len(ends) != 2 or not all(type(end) is int for end in ends):
        return None
    return ends[0], ends[1]


def _labels(mark: Any) -> str:
    """The labels of a mark, in one text."""
    if isinstance(mark, Mapping):
        return str(mark.get("labels", mark.get("label", "")))
    return str(mark[2:])


def _marked(context: str, marks: Iterable[Any]) -> Value:
    """The answers that are marked in a text: where only some of the labels are called so, these."""
    marks = list(marks)
    marks = [mark for mark in marks if _ANSWER.search(_labels(mark))] or marks
    golds = []
    for mark in marks:
        bounds = _bounds(mark)
        if bounds is None or not 0 <= bounds[0] < bounds[1] <= len(context):
            raise ValueError(
                f"a marked span must be characters of the text, which has {len(context)}; got {mark}"
            )
        golds.append((context[slice(*bounds)], bounds[0]))
    return _answers(list(dict.fromkeys(golds)))


def _answers(golds: Sequence[tuple[str, int | None]]) -> Value:
    return {"text": [text for text, _ in golds], "answer_start": [start for _, start in golds]}
