"""``qa-fast ask``: one question over texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from qa_fast.data.errors import ExampleError
from qa_fast.files.json_text import not_utf8
from qa_fast.files.reading import open_file
from qa_fast.files.wording import explain

from . import options
from .messages import InputError, in_options, input_error, quiet
from .terminal import STANDARD_INPUT, SourcedAnswer, display_name, json_line, print_answers

if TYPE_CHECKING:
    from qa_fast.dropin.pipeline import QuestionAnsweringPipeline

CONTEXT_TEXT = "--context-text"
_BOM = "\ufeff"


EPILOG = """\
[bold]Examples[/]

[cyan]qa-fast ask "Who wrote it?" --context notes.txt[/]

[cyan]qa-fast ask "Who wrote it?" --context chapters/*.txt --top-k 5[/]

[cyan]curl -s URL | qa-fast ask "Who wrote it?" --json[/]

[cyan]qa-fast ask "Who wrote it?" --context-text "It was written by Ada." --no-answer[/]
"""


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    more_files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="More files to search, so that --context *.txt works."),
    ] = None,
    *,
    context: Annotated[
        list[Path] | None,
        options.inputs(
            "--context",
            "-c",
            metavar="FILE",
            help="A UTF-8 text to search, packed or not; - is standard input. Give it again for "
            "more: the answers of all of them are ranked together. Without it, piped standard input "
            "is read.",
        ),
    ] = None,
    context_text: Annotated[
        str | None, options.inputs(metavar="TEXT", help="The text itself, instead of a file.")
    ] = None,
    as_json: Annotated[
        bool,
        options.as_json(
            help='Print one JSON object: {"question", "answers": [{"score", "start", "end", '
            '"answer", "source"}]}. start and end count the characters of the file as it is: a '
            "byte order mark is one, a CR LF two."
        ),
    ] = False,
    top_k: Annotated[int, options.top_k(help="The most answers to give.")] = 1,
    max_answer_len: Annotated[int, options.max_answer_len()] = 15,
    no_answer: options.NoAnswer = False,
    model: options.Model = None,
    device: options.Device = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    max_seq_len: options.MaxSeqLen = None,
    doc_stride: options.DocStride = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Find the part of a text that answers QUESTION."""
    _check_text(question, "the question", 'give one, such as "Who wrote it?"')
    texts = _read_contexts([*(context or []), *(more_files or [])], context_text)
    loading: dict[str, Any] = {
        "device": device,
        "backend": backend and backend.value,
        "dtype": dtype,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
    }
    with quiet():
        try:
            from qa_fast.dropin.pipeline import pipeline

            qa = pipeline(model, **loading)
            answers = answer_texts(
                qa,
                question,
                texts,
                top_k=top_k,
                max_answer_len=max_answer_len,
                max_seq_len=max_seq_len,
                doc_stride=doc_stride,
                handle_impossible_answer=no_answer,
            )
        except ExampleError as error:
            is_question = error.text == "question"
            name = "the question" if is_question else display_name(list(texts)[error.item])
            raise InputError(in_options(error.about(name), ask)) from error
        except (ValueError, OSError, ImportError) as error:
            raise input_error(error, ask) from error
    if as_json:
        found = {"question": question, "answers": [asdict(answer) for answer in answers]}
        typer.echo(json_line(found))
    else:
        print_answers(Console(highlight=False), answers, texts)


# --- reading ------------------------------------------------------------------------------------


def _read_contexts(files: Sequence[Path], text: str | None) -> dict[str, str]:
    """The texts to search, by the name each was given under, in that order."""
    if text is not None:
        if files:
            raise InputError(
                f"both --context-text and a file ({files[0]}) were given: give one or the other"
            )
        _check_text(text, "--context-text", "give the text to search")
        return {CONTEXT_TEXT: text}
    if not files:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError(
                "no text to search: name a file with --context FILE, give --context-text TEXT, or "
                "pipe a text in"
            )
        files = [Path(STANDARD_INPUT)]
    texts: dict[str, str] = {}
    for file in files:
        source = str(file)
        if source in texts:
            raise InputError(f"{source} was given twice: name each file once")
        texts[source] = _read(source)
    return texts


def _read(source: str) -> str:
    """The text of a file exactly as it is, unpacked, with its byte order mark and line ends."""
    name = display_name(source)
    try:
        with open_file(None if source == STANDARD_INPUT else Path(source)) as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file: check the path given to --context") from None
    except IsADirectoryError:
        raise InputError(
            f"{name}: is a folder: name the files in it, as in --context {name.rstrip('/')}/*.txt"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise InputError(explain(error)) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: {not_utf8(data, error.start)}") from None
    _check_text(text.removeprefix(_BOM), name, "give a text to search")
    return text


def _check_text(text: str, name: str, remedy: str) -> None:
    if not text:
        raise InputError(f"{name} is empty: {remedy}")
    if text.isspace():
        raise InputError(f"{name} holds only white space: {remedy}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # Bytes of the command line that are not UTF-8.
        raise InputError(
            f"{name} is not valid Unicode at character {error.start}: give it as UTF-8"
        ) from None


# --- answering ----------------------------------------------------------------------------------


def answer_texts(
    qa: QuestionAnsweringPipeline,
    question: str,
    texts: dict[str, str],
    *,
    top_k: int,
    **options: Any,
) -> list[SourcedAnswer]:
    """The ``top_k`` best answers over all texts, best first; equals in the order of the texts.

    The empty answer says that no text has one, so its score is the least of the texts' null scores,
    as it is the least over the chunks of one text.
    """
    answers: list[SourcedAnswer] = []
    null_scores: list[float] = []
    # A byte order mark is not part of what the author wrote: the model does not get to see it, the
    # offsets count it, because they are offsets into the file.
    contexts = [text.removeprefix(_BOM) for text in texts.values()]
    results: Any = qa(question=question, context=contexts, top_k=top_k, **options)
    for (source, text), result in zip(
        texts.items(), [results] if len(texts) == 1 else results, strict=True
    ):
        shift = 1 if text.startswith(_BOM) else 0
        for item in [result] if isinstance(result, dict) else result:
            if item["answer"]:
                start, end = item["start"] + shift, item["end"] + shift
                answers.append(SourcedAnswer(item["score"], start, end, item["answer"], source))
            else:
                null_scores.append(item["score"])
    # A text whose null score did not make its own top k could not make it here either.
    if len(null_scores) == len(texts):
        answers.append(SourcedAnswer(min(null_scores), 0, 0, "", None))
    return sorted(answers, key=lambda answer: -answer.score)[:top_k]
