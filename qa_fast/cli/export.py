"""``qa-fast export``: a model as a graph for ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .messages import InputError, input_error, quiet
from .terminal import visible

if TYPE_CHECKING:
    from qa_fast.models.conversion.export import Exported


EPILOG = """\
[bold]Examples[/]

[cyan]qa-fast export bundled graph --to onnx[/]

[cyan]qa-fast export deepset/roberta-base-squad2 roberta-int8 --to openvino --dtype int8[/]

[cyan]qa-fast export my-model my-graph --to onnx --dtype int8 --calibrate questions.jsonl[/]

[cyan]qa-fast ask "Who wrote it?" -c notes.txt --model my-graph --backend onnx[/]
"""


class FormatName(str, Enum):
    """The values of --to."""

    onnx = "onnx"
    openvino = "openvino"


class GraphTypeName(str, Enum):
    """The values of --dtype."""

    float32 = "float32"
    int8 = "int8"


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Transformers question answering model, by its name on the Hugging Face hub or by "
            "folder; bundled for the small English model in the package.",
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Where to write the graph, config.json and the tokenizer: a folder that is not there "
            "yet, or is empty.",
        ),
    ],
    *,
    question_column: options.QuestionColumn = "question",
    context_column: options.ContextColumn = "context",
    split: options.Split = None,
    calibrate: Annotated[
        str | None,
        options.inputs(
            metavar="FILE",
            help="Questions and contexts like those to come, in any form that predict reads; the first "
            "ones are used. The scales of int8 are found with them, and any graph is tried with them.",
            show_default="texts in the package",
        ),
    ] = None,
    to: Annotated[
        FormatName,
        options.outputs(help="What is to run it: ONNX Runtime or OpenVINO."),
    ],
    dtype: Annotated[
        GraphTypeName,
        options.models(
            metavar="TYPE",
            help="float32: the same answers. int8: a quarter of the size, and faster on most "
            "processors; a few answers become others.",
        ),
    ] = GraphTypeName.float32,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO, and hold it against the original."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is there already: name a new folder, or remove it first")
    if calibrate is None and split is not None:
        raise InputError("--split is of use with --calibrate only")
    with quiet():
        try:
            from qa_fast.engine.loading import ModelSpec, export_model

            spec = ModelSpec(
                None if model == options.BUNDLED else model,
                allow_pickle=allow_pickle,
                trust_remote_code=trust_remote_code,
            )
            arguments: dict[str, Any] = {"to": to.value, "dtype": dtype.value}
            pairs = _pairs(calibrate, question_column, context_column, split)
            found = export_model(spec, folder, calibrate=pairs, **arguments)
        except (ValueError, OSError, ImportError) as error:
            raise input_error(error, export) from error
    _print(found, to.value)


def _pairs(
    source: str | None, question: str, context: str, split: str | None
) -> Iterator[tuple[str, str]] | None:
    """The questions and contexts of a file; None for the texts in the package."""
    from qa_fast.data.examples import Columns
    from qa_fast.data.opening import read_examples

    if source is None:
        return None
    columns = Columns(question=question, context=context)
    rows = read_examples(source, columns=columns, split=split)
    return ((row.question, row.context) for row in rows)


def _print(found: Exported, to: str) -> None:
    name = visible(str(found.folder))
    for file, size in found.sizes.items():
        typer.echo(f"{name}/{file}  {_size(size)}")
    far = f"{found.difference:.2g}" if found.difference else "0"
    typer.echo(
        f"held against the original on {found.batches} batches: the probability of a token as the start "
        f"or the end of the answer differs by {far} at most"
    )
    if found.remark:
        typer.echo(found.remark)
    typer.echo(f'use it: qa-fast ask QUESTION --context FILE --model "{name}" --backend {to}')


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
