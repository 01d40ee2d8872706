"""`show()`: answers highlighted in their text, for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qa_fast.data.answers import Answer

from .page import environment, styles

if TYPE_CHECKING:
    from qa_fast.dropin.pipeline import QuestionAnsweringPipeline

# Characters kept on either side of what is highlighted in a long text.
_AROUND = 200
# Of a probability; less is not to be seen.
_LEAST_SHADE = 0.01


class Shown:
    """Answers in their text; a notebook displays it as HTML.

    Attributes:
        html: the HTML, with its style sheet, in one element. It holds no script.
    """

    def __init__(self, html: str, answers: Sequence[Answer]) -> None:
        self.html = html
        self._answers = answers

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "\n".join(
            f"{rank}. {answer['answer'] or '(no answer)'} ({answer['score']:.3g})"
            for rank, answer in enumerate(self._answers, 1)
        )


def show(
    answers: Answer | Sequence[Answer],
    context: str | None = None,
    question: str | None = None,
    *,
    pipeline: QuestionAnsweringPipeline | None = None,
) -> Shown:
    """Show the answers to one question highlighted in their text, best first.

    Args:
        answers: what a pipeline returned for the question.
        context: the text that they are from.
        question: the question, to stand above it.
        pipeline: the pipeline: it reads the question once more, for a heat map of the probability
            that an answer starts and ends at each token.

    Returns:
        An object that a notebook displays; printed elsewhere, it is the list of answers.

    Raises:
        ImportError: Jinja2 is not installed.
        ValueError: no context; answers that are not from it; a pipeline without the question.

    Example:
        >>> import qa_fast
        >>> qa = qa_fast.pipeline()
        >>> question, context = "Where was Ada born?", "Ada was born in London."
        >>> answers = qa(question=question, context=context, top_k=2)
        >>> shown = qa_fast.show(answers, context, question, pipeline=qa)
        >>> "London</mark>" in shown.html
        True
    """
    found = [answers] if isinstance(answers, Mapping) else list(answers)
    if context is None:
        raise ValueError(
            "answers hold places in their text, not the text: give it too, show(answers, context)"
        )
    if not isinstance(context, str):
        raise ValueError(f"context must be a string; got {type(context).__name__}")
    for answer in found:
        if (
            not isinstance(answer, Mapping)
            or not {"start", "end", "answer", "score"} <= answer.keys()
        ):
            raise ValueError(
                "answers must be those to one question, dicts with score, start, end and answer; got "
                f"a {type(answer).__name__} among them"
            )
        if context[answer["start"] : answer["end"]] != answer["answer"]:
            raise ValueError(
                f"the answer {answer['answer']!r} is not at {answer['start']} to {answer['end']} of "
                "the context: give the text that the question was asked about"
            )
    heat = []
    if pipeline is not None:
        if question is None:
            raise ValueError(
                "the heat map needs the question: show(answers, context, question, ...)"
            )
        heat = _heat(pipeline, question, context)
    html = (
        environment()
        .get_template("show.html")
        .render(
            css=styles("show.css", ".qa-fast"),
            question=question,
            pieces=_shorten(_marked(found, context)),
            answers=found,
            heat=_shorten(heat),
        )
    )
    return Shown(html, found)


def _marked(answers: Iterable[Answer], context: str) -> list[dict[str, Any]]:
    """``context`` in pieces: what is in an answer, and what is not."""
    pieces: list[dict[str, Any]] = []
    done = 0
    for start, end in sorted((answer["start"], answer["end"]) for answer in answers):
        if end > done:
            pieces += [
                {"kind": "plain", "text": context[done:start]},
                {"kind": "answer", "text": context[max(start, done) : end]},
            ]
            done = end
    return [*pieces, {"kind": "plain", "text": context[done:]}]


def _heat(pipeline: QuestionAnsweringPipeline, question: str, context: str) -> list[dict[str, Any]]:
    """``context`` in pieces: tokens at which an answer may start or end, and the rest."""
    found = pipeline.engine.token_probabilities(question, context, pipeline.options)
    pieces: list[dict[str, Any]] = []
    done = 0
    for start, end, (first, last) in zip(
        found.start.tolist(), found.end.tolist(), found.characters.tolist(), strict=True
    ):
        # Several tokens of a byte-level tokenizer can stand for one character: the first one has it.
        if max(start, end) < _LEAST_SHADE or first < done or last <= first:
            continue
        pieces += [
            {"kind": "plain", "text": context[done:first]},
            {
                "kind": "token",
                "text": context[first:last],
                "start": start,
                "end": end,
                # So that small ones can be told from none.
                "start_shade": 100 * start**0.5,
                "end_shade": 100 * end**0.5,
            },
        ]
        done = last
    return [*pieces, {"kind": "plain", "text": context[done:]}]


def _shorten(pieces: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``pieces`` of a text, the plain ones without their middle where they are long."""
    short: list[dict[str, Any]] = []
    for nth, piece in enumerate(pieces):
        text = piece["text"]
        if piece["kind"] != "plain" or len(text) <= 2 * _AROUND:
            short.append(piece)
            continue
        if nth > 0:
            short.append({"kind": "plain", "text": text[:_AROUND]})
        short.append({"kind": "gap"})
        if nth < len(pieces) - 1:
            short.append({"kind": "plain", "text": text[-_AROUND:]})
    return short
