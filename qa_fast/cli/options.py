"""The options that commands share, and the panels in which ``--help`` shows every option.

An option of several commands is a type here, and a parameter of that type in each of them. An option of
one command is written in its signature, by the panel it belongs to: ``options.answers(help=...)``. So is
one of which a command takes other values or says more; what stays the same is a function here.

In a command, arguments come before the ``*`` and options after it, in the order of the panels.
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import Annotated

import typer

# The panels, in the order in which every command has them.
inputs = partial(typer.Option, rich_help_panel="Input")
outputs = partial(typer.Option, rich_help_panel="Output")
answers = partial(typer.Option, rich_help_panel="Answers")
models = partial(typer.Option, rich_help_panel="Model")
scores = partial(typer.Option, rich_help_panel="Scoring")
processes = partial(typer.Option, rich_help_panel="Several processes")

# --- Input --------------------------------------------------------------------------------------

IdColumn = Annotated[
    str, inputs(metavar="NAME", help="The column of the ids; rows without it are numbered.")
]
QuestionColumn = Annotated[str, inputs(metavar="NAME", help="The column of the questions.")]
ContextColumn = Annotated[str, inputs(metavar="NAME", help="The column of the contexts.")]
AnswersColumn = Annotated[str, inputs(metavar="NAME", help="The column of the gold answers.")]
Split = Annotated[
    str | None,
    inputs(metavar="NAME", help="Which split of a data set from the Hub, or of a JSON file."),
]
Subset = Annotated[
    str | None, inputs(metavar="NAME", help="Which subset of a data set from the Hub.")
]
Limit = Annotated[
    int | None,
    inputs(metavar="N", min=1, help="Take only the first N questions.", show_default="all"),
]


class OnErrorName(str, Enum):
    """The values of --on-error."""

    fail = "fail"
    skip = "skip"


on_error = partial(inputs, "--on-error")

# --- Output -------------------------------------------------------------------------------------

as_json = partial(outputs, "--json")
out_file = partial(outputs, "--out-file", "-o", metavar="FILE")

# --- Answers ------------------------------------------------------------------------------------

top_k = partial(answers, "--top-k", "-k", metavar="N")
max_answer_len = partial(answers, metavar="N", help="The longest answer, in tokens.")
NoAnswer = Annotated[
    bool,
    answers(
        "--no-answer",
        help="Allow the empty answer: the text does not say. For models trained on it.",
    ),
]

# --- Model --------------------------------------------------------------------------------------

BUNDLED = "bundled"
"""The name of the model in the package, where a model has to be named."""

Model = Annotated[
    str | None,
    models(
        metavar="ID_OR_FOLDER",
        help="A Transformers question answering model, by its name on the Hugging Face hub or by "
        "folder.",
        show_default="the small English model in the package",
    ),
]
Device = Annotated[
    str | None,
    models(
        metavar="DEVICE",
        help="Where the model runs: cpu, cuda, cuda:1, mps.",
        show_default="a GPU if there is one, else cpu",
    ),
]


class BackendName(str, Enum):
    """The values of --backend."""

    torch = "torch"
    openvino = "openvino"
    onnx = "onnx"


Backend = Annotated[
    BackendName | None,
    models(
        help="What runs the model: PyTorch, OpenVINO (on a CPU), or ONNX Runtime (a folder with "
        "model.onnx, as qa-fast export writes).",
        show_default="torch, or what a folder of graphs is for",
    ),
]
Dtype = Annotated[
    str | None,
    models(
        metavar="TYPE",
        help="float32, bfloat16, float16, or auto for the checkpoint's own. OpenVINO has float32, "
        "bfloat16 and int8, ONNX Runtime what the folder holds.",
        show_default="float32 on a CPU, else auto",
    ),
]
MaxSeqLen = Annotated[
    int | None,
    models(
        metavar="N",
        help="Tokens in a chunk, question included; a longer text is cut into several.",
        show_default="384, or what the model can take",
    ),
]
DocStride = Annotated[
    int | None,
    models(
        metavar="N",
        help="Tokens that neighbouring chunks share.",
        show_default="128, or half of --max-seq-len where that is less",
    ),
]
AllowPickle = Annotated[
    bool,
    models(
        "--allow-pickle",
        help="Also load weights that are pickled, where a model has no safetensors.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    models(
        "--trust-remote-code", help="Run the code that comes with the model, with all your rights."
    ),
]

# --- Scoring ------------------------------------------------------------------------------------

Suite = Annotated[
    str | None,
    scores(
        metavar="NAME",
        help="Whose definitions and keys: squad1, squad2, xquad, mlqa (with --language), mrqa, "
        "tydiqa (by the ids' languages), arcd, korquad1, korquad2, cmrc2018, drcd, persianqa "
        "(method two), persianqa-squad2 (method one), cuad (of n-best lists).",
        show_default="squad2",
    ),
]
Language = Annotated[
    str | None,
    scores(
        metavar="CODE",
        help="For MLQA's rules, the language of the answers: en, es, hi, vi, de, ar, zh.",
    ),
]
Seed = Annotated[int, scores(metavar="N", help="Of the bootstrap intervals.")]
