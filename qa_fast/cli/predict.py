"""``qa-fast predict``: answer every question of a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any

import typer

from . import options
from .messages import InputError, input_error, quiet, say

EPILOG = """\
[bold]Examples[/]

[cyan]qa-fast predict dev-v2.0.json --output predictions.json --no-answer[/]

[cyan]qa-fast predict questions.parquet --output answers/ --model M --device cuda[/]

[cyan]qa-fast predict questions.jsonl -o answers.jsonl --question-column query --on-error skip[/]

[cyan]qa-fast predict questions.parquet -o answers/ --devices cuda:0,cuda:1[/]

Stopped, killed, out of disk? The same command goes on where it was. Ctrl-C and SIGTERM let the part at \
hand finish; a second Ctrl-C does not wait for it.
"""


class ScoringName(str, Enum):
    """The values of --scoring."""

    probability = "probability"
    shared = "shared"
    logit = "logit"


def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="SQuAD JSON and its kin, JSONL, CSV (packed with gzip, bzip2, xz or zstd or not), a "
            "Parquet file or a folder of them, - for standard input, or the name of a data set on the "
            "Hugging Face Hub.",
        ),
    ],
    *,
    id_column: options.IdColumn = "id",
    question_column: options.QuestionColumn = "question",
    context_column: options.ContextColumn = "context",
    split: options.Split = None,
    subset: options.Subset = None,
    limit: options.Limit = None,
    on_error: Annotated[
        options.OnErrorName,
        options.on_error(
            help="What to do at a row that cannot be answered: fail, or skip it and list it, with "
            "its line and the reason, in a file of rejects."
        ),
    ] = options.OnErrorName.fail,
    output: Annotated[
        str,
        options.outputs(
            "--output",
            "-o",
            metavar="OUT",
            help="Its ending says what is written. .parquet, .jsonl: one file. .json: the files of "
            "run_qa.py, this one with the texts, and beside it nbest_predictions, null_odds and "
            "na_prob. Without an ending: a folder of Parquet files. A manifest with the settings, "
            "versions and timings is written with each.",
        ),
    ],
    progress: Annotated[bool, options.outputs(help="Show the progress on standard error.")] = True,
    top_k: Annotated[
        int, options.top_k(min=1, help="The most answers in a question's n-best list.")
    ] = 5,
    max_answer_len: Annotated[int, options.max_answer_len(min=1)] = 30,
    scoring: Annotated[
        ScoringName,
        options.answers(
            help="logit: start plus end logit, as run_qa.py ranks. probability: as the pipeline of "
            "Transformers scores. shared: probabilities that compare across the chunks of a context."
        ),
    ] = ScoringName.logit,
    no_answer: options.NoAnswer = False,
    null_threshold: Annotated[
        float,
        options.answers(
            metavar="X",
            help="With --no-answer: the answer is empty where the null score exceeds the best "
            "span's by more than this.",
        ),
    ] = 0.0,
    align_to_words: Annotated[
        bool, options.answers("--align-to-words", help="Widen answers to whole words.")
    ] = False,
    model: options.Model = None,
    device: options.Device = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    max_seq_len: options.MaxSeqLen = None,
    doc_stride: options.DocStride = None,
    batch_size: Annotated[
        int | None,
        options.models(
            metavar="N", min=1, help="The most chunks in a batch.", show_default="by tokens"
        ),
    ] = None,
    compile: Annotated[
        bool,
        options.models(
            "--compile",
            help="Run the model through torch.compile. It begins slowly: for long runs.",
        ),
    ] = False,
    num_workers: Annotated[
        int | None,
        options.models(
            metavar="N",
            min=0,
            help="Processes that tokenize and make answers beside the one that runs the model, for a "
            "GPU that would wait for these; 0 for none. They change no answer.",
            show_default="some for a long run, with a GPU and cores to spare",
        ),
    ] = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    devices: Annotated[
        str | None,
        options.processes(
            metavar="A,B",
            help="Several devices of this machine, such as cuda:0,cuda:1: one process runs on each.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        options.processes(
            metavar="ADDRESS",
            help="Run on a Ray cluster: auto for the one this machine belongs to, local for this "
            "machine alone, or an address. INPUT is then Parquet or JSONL with ids, OUT a folder; "
            "both may be URIs such as s3://bucket/folder.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        options.processes(
            metavar="N",
            min=1,
            help="With --ray: how many actors, each with the model.",
            show_default="one per GPU, without GPUs one per 4 CPUs",
        ),
    ] = None,
    num_shards: Annotated[
        int | None,
        options.processes(
            metavar="N",
            min=1,
            help="How many processes share the rows, each with the same command but for "
            "--shard-index. qa-fast merge OUT ends their work.",
            show_default="from SLURM_ARRAY_TASK_COUNT or WORLD_SIZE, else 1",
        ),
    ] = None,
    shard_index: Annotated[
        int | None,
        options.processes(
            metavar="I",
            min=0,
            help="Which of them this is, from 0.",
            show_default="from SLURM_ARRAY_TASK_ID or RANK, else 0",
        ),
    ] = None,
    part_rows: Annotated[
        int | None,
        options.processes(
            metavar="N",
            min=1,
            help="Rows that are finished together: the most that a crash can cost.",
            show_default="256 to 8192, by the size of the input",
        ),
    ] = None,
) -> None:
    """Answer every question of a data set; safe to stop, kill and run again."""
    # A Ray cluster does these in its own way.
    local: dict[str, Any] = {
        "split": split,
        "subset": subset,
        "limit": limit,
        "devices": devices,
        "num_shards": num_shards,
        "part_rows": part_rows,
        "shard_index": shard_index,
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    _check_where_it_runs(ray, concurrency, local)
    from qa_fast.data.examples import Columns

    answering: dict[str, Any] = {
        "model": model,
        "device": device,
        "backend": backend and backend.value,
        "dtype": dtype,
        "compile": compile,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
        "columns": Columns(id=id_column, question=question_column, context=context_column),
        "on_error": on_error.value,
        "null_threshold": null_threshold,
        "top_k": top_k,
        "max_answer_len": max_answer_len,
        "scoring": scoring.value,
        "handle_impossible_answer": no_answer,
        "align_to_words": align_to_words,
        "max_seq_len": max_seq_len,
        "doc_stride": doc_stride,
    }
    with quiet():
        if ray is None:
            summary = _on_this_machine(source, output, progress=progress, **local, **answering)
        else:
            summary = _on_ray(source, output, address=ray, concurrency=concurrency, **answering)
    say(summary)


def _check_where_it_runs(ray: str | None, concurrency: int | None, local: dict[str, Any]) -> None:
    """Options for a cluster and those for this machine alone do not mix."""
    if ray is not None:
        if given := [name for name, value in local.items() if value is not None]:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise InputError(f"{names} cannot be used with --ray")
    elif concurrency is not None:
        raise InputError("--concurrency is of use with --ray only")
    elif (local["num_shards"] is None) != (local["shard_index"] is None):
        raise InputError("--num-shards and --shard-index go together: give both")


def _on_this_machine(
    source: str,
    output: str,
    *,
    devices: str | None,
    num_shards: int | None,
    shard_index: int | None,
    **arguments: Any,
) -> str:
    """Answer the rows, or this process's share of them; returns what is to be told of it."""
    from qa_fast.runs.parts import shards_from_environment
    from qa_fast.runs.predict import predict as run_predict

    with _told(if_stopped="stopped; the same command goes on"):
        if num_shards is None or shard_index is None:
            num_shards, shard_index = shards_from_environment(os.environ)
            if num_shards > 1:
                say(f"process {shard_index} of {num_shards}, as the environment says")
        run = run_predict(
            source,
            output,
            devices=devices.split(",") if devices else None,
            num_shards=num_shards,
            shard_index=shard_index,
            on_interrupt="finish",
            **arguments,
        )
    summary = f"{run.output}: {run.written} answers"
    if run.rejected:
        summary += f"; {run.rejected} rows could not be answered"
        summary += f", see {run.rejects}" if run.rejects else ""
    if not run.complete:
        summary += f"; when all processes are done: qa-fast merge {run.output}"
    return summary


def _on_ray(source: str, output: str, **arguments: Any) -> str:
    """Answer the rows on a cluster; returns what is to be told of it."""
    from qa_fast.ray import predict_files

    with _told(if_stopped="stopped"):
        found = predict_files(source, output, **arguments)
    summary = f"{output}: {found['written']} answers"
    if found["rejected"]:
        summary += f"; {found['rejected']} rows could not be answered, see rejects.jsonl in it"
    return summary


@contextmanager
def _told(if_stopped: str) -> Iterator[None]:
    """Errors of the run become one line; a signal ends the command with its exit code."""
    from qa_fast.runs.stopping import signal_of

    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise input_error(error, predict) from error
    except KeyboardInterrupt as stopped:
        say(str(stopped) or if_stopped)
        raise typer.Exit(128 + signal_of(stopped)) from None
