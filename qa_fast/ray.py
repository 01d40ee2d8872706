"""Data sets of any size on a Ray cluster: the engine as an actor of Ray Data.

Ray reads and writes what pyarrow can reach, keeps the actors fed, and runs what a lost actor or node had
in hand again on another. It does not keep the order of the rows: their ids tell them apart.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .data.answers import Prediction
from .data.errors import ArgumentError
from .data.examples import Columns, OnError, check_columns, column_argument, row_of
from .data.predictions import to_table
from .engine.graphs import Backend
from .engine.loading import ModelSpec
from .engine.options import Options
from .runs.answering import DEFAULTS, Answering, Reject
from .runs.manifest import Manifest
from .runs.provenance import prediction_versions

if TYPE_CHECKING:
    import pyarrow
    import ray.data

BATCH_ROWS = 1024
_HASH_BITS = 64
# Of the manifest's keys; "seed" and what is left come after them.
_ORDER = ("status", "rows", "written", "rejected", "source", "settings")


def predict(
    dataset: ray.data.Dataset,
    *,
    model: Any = None,
    tokenizer: Any = None,
    device: str | None = None,
    backend: Backend | None = None,
    dtype: str | None = None,
    compile: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    columns: Columns | None = None,
    null_threshold: float = 0.0,
    on_error: OnError = "fail",
    batch_rows: int = BATCH_ROWS,
    concurrency: int | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    **options: Any,
) -> ray.data.Dataset:
    """Answer the questions of a Ray data set; nothing runs before the result is consumed.

    Args:
        dataset: with the columns of an `Example`; ids are needed, and should be unique.
        model: a model's name or folder that every node can load; None for the bundled one.
        tokenizer: where it is not the model's own, likewise.
        device: as in `qa_fast.pipeline`.
        backend: as in `qa_fast.pipeline`.
        dtype: as in `qa_fast.pipeline`.
        compile: as in `qa_fast.pipeline`.
        allow_pickle: as in `qa_fast.pipeline`.
        trust_remote_code: as in `qa_fast.pipeline`.
        columns: the names of the columns, where they are not those of `Example`.
        null_threshold: as in `qa_fast.predict`.
        on_error: "fail" at a row that cannot be answered; or "skip" it, and say why in the column error.
        batch_rows: rows that an actor gets at once.
        concurrency: how many actors, each with the model; None for one per GPU, without GPUs for one per
            four CPUs.
        num_cpus: CPUs that each of them takes; None for what leaves one for reading and writing.
        num_gpus: GPUs that each of them takes; None for one where the cluster has any.
        **options: as in `qa_fast.predict`, with the same defaults.

    Returns:
        A data set with the columns id, answer, start, end, score, null_score, n_best, chunks and
        probability, as in the Parquet files of `qa_fast.predict`, and error: null, or with
        ``on_error="skip"`` why the row has no answer.

    Raises:
        ImportError: Ray is not installed.
        ValueError: an argument that cannot be used, columns that are not there, or a cluster that is too
            small for the actors.

    Example:
        >>> import ray                                                  # doctest: +SKIP
        >>> import qa_fast.ray                                          # doctest: +SKIP
        >>> questions = ray.data.read_parquet("s3://bucket/questions")  # doctest: +SKIP
        >>> answers = qa_fast.ray.predict(questions, num_gpus=1)        # doctest: +SKIP
        >>> answers.write_parquet("s3://bucket/answers")                # doctest: +SKIP
    """
    ray = import_ray()
    # No processes for texts beside an actor: Ray gives out the cores.
    answering = Answering(
        Options(**{**DEFAULTS, **options}), null_threshold, on_error, num_workers=0
    )
    # Without an order there are no row numbers to make ids from.
    columns = columns or Columns()
    present = dataset.schema().names
    check_columns(present, columns)
    if columns.id not in present:
        raise ArgumentError(
            f"there is no column {columns.id!r} among {present}; rows need ids here, because Ray does "
            "not keep their order: say which column holds them with ",
            column_argument("id"),
        )
    used = [columns.id, columns.question, columns.context]
    resources = plan_actors(ray.cluster_resources(), concurrency, num_cpus, num_gpus)
    # Blocks of one batch: a small file would else be a single one, for a single actor, and what is lost
    # with an actor is done again by the block.
    blocks = dataset.select_columns(used).repartition(target_num_rows_per_block=batch_rows)
    return blocks.map_batches(
        RowActor,
        fn_constructor_kwargs={
            "spec": ModelSpec(
                model=model,
                tokenizer=tokenizer,
                device=device,
                backend=backend,
                dtype=dtype,
                compile=compile,
                allow_pickle=allow_pickle,
                trust_remote_code=trust_remote_code,
            ),
            "answering": answering,
            "columns": columns,
            "threads": max(1, round(resources["num_cpus"])),
        },
        batch_size=batch_rows,
        batch_format="pyarrow",
        **resources,
    )


class RowActor:
    """The actor: a loaded model that answers batches of rows."""

    def __init__(
        self,
        spec: ModelSpec,
        answering: Answering,
        columns: Columns,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._engine = spec.load()
        self._answering = answering
        self._columns = columns

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """The predictions of a batch, one row for each of its rows."""
        rows = [
            row_of(record, self._columns, number, f"row with id {record[self._columns.id]!r}")
            for number, record in enumerate(batch.to_pylist())
        ]
        predictions: list[Prediction] = []
        errors: list[str | None] = []
        for result, row in zip(self._answering.run(self._engine, rows), rows, strict=True):
            if isinstance(result, Reject):
                id_ = batch.column(self._columns.id)[row.number].as_py()
                predictions.append(Prediction(str(id_), ""))
                errors.append(result.reason)
            else:
                predictions.append(result)
                errors.append(None)
        return _with_errors(to_table(predictions), errors)


def _with_errors(table: pyarrow.Table, errors: list[str | None]) -> pyarrow.Table:
    import pyarrow as pa

    return table.append_column("error", pa.array(errors, pa.string()))


def plan_actors(
    cluster: Mapping[str, float],
    concurrency: int | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
) -> dict[str, Any]:
    """Numbers with which the actors fit the cluster, and the tasks that read and write beside them.

    Ray Data waits for ever, without a word, for resources that are never free: two actors with a CPU
    each on a machine of two leave none to read with.

    Args:
        cluster: what ``ray.cluster_resources()`` says.
        concurrency: as in `predict`.
        num_cpus: as in `predict`.
        num_gpus: as in `predict`.

    Raises:
        ValueError: the numbers that were given do not fit.

    Example:
        >>> plan_actors({"CPU": 2}, concurrency=2)
        {'concurrency': 2, 'num_cpus': 0.5, 'num_gpus': 0}
        >>> plan_actors({"CPU": 64, "GPU": 8})
        {'concurrency': 8, 'num_cpus': 1.0, 'num_gpus': 1}
    """
    cpus, gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    if num_gpus is None:
        num_gpus = 1 if gpus else 0
    if concurrency is None:
        concurrency = max(1, int(gpus / num_gpus if num_gpus else cpus // 4))
    if num_cpus is None:
        # A GPU's actor is fed by one CPU; without GPUs the actors share all but one.
        most = 1.0 if num_gpus else 4.0
        num_cpus = min(most, max(0.0, int(100 * (cpus - 1) / concurrency) / 100))
    needed = concurrency * num_cpus + 1
    if needed > cpus or concurrency * num_gpus > gpus:
        raise ValueError(
            f"the cluster is too small: {concurrency} actors of {num_cpus:g} CPUs and {num_gpus:g} "
            f"GPUs, and one CPU to read and write with, are {needed:g} CPUs and "
            f"{concurrency * num_gpus:g} GPUs, and it has {cpus:g} and {gpus:g}; lower concurrency, "
            "num_cpus or num_gpus"
        )
    return {"concurrency": concurrency, "num_cpus": num_cpus, "num_gpus": num_gpus}


def predict_files(
    source: str,
    output: str,
    *,
    address: str = "local",
    columns: Columns | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Answer the questions in Parquet or JSONL on a cluster and write them to a folder of Parquet files.

    Args:
        source: a file or a folder, or its URI, such as ``s3://bucket/questions``, that every node sees.
        output: a new folder, or its URI, that every node sees.
        address: "local" for a cluster of this machine alone, "auto" for the one that it belongs to, or
            that of another.
        columns: as in `predict`.
        **arguments: as in `predict`.

    Returns:
        The manifest, which is also written to ``manifest.json`` in the folder. Rows that were skipped
        are in ``rejects.jsonl`` beside it; their rows in Parquet have a text in the column error, and
        `read_predictions` leaves them out.

    Raises:
        ValueError: as in `predict`; or an output that is there already; or, after the run, rows that
            were lost or doubled.
    """
    ray = import_ray()
    columns = columns or Columns()
    began, clock = datetime.now(timezone.utc), perf_counter()
    source, output = (x if "://" in x else str(Path(x).resolve()) for x in (source, output))
    filesystem, folder = _filesystem(output)
    if filesystem.get_file_info(folder).type.name != "NotFound":
        raise ValueError(f"{output} is there already; name another output, or remove it")
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False)
    try:
        read = ray.data.read_json if source.endswith(("jsonl", "ndjson")) else ray.data.read_parquet
        questions = read(source)
        answers = predict(questions, columns=columns, **arguments)
        answers.write_parquet(output)
        written = ray.data.read_parquet(output)
        rows = check_ids(questions, written, columns.id)
        rejects = [
            {"id": row["id"], "reason": row["error"]}
            for row in written.select_columns(["id", "error"])
            .filter(lambda row: row["error"] is not None)
            .iter_rows()
        ]
    finally:
        if started:
            ray.shutdown()
    record = Manifest(
        status="complete",
        rows=rows,
        written=rows - len(rejects),
        rejected=len(rejects),
        source=source,
        settings={
            "columns": asdict(columns),
            **{name: value for name, value in arguments.items() if value is not None},
            "versions": {**prediction_versions(), "ray": ray.__version__},
        },
        seed=None,  # nothing is random
        command=sys.argv,
        began=began.isoformat(timespec="seconds"),
        seconds=perf_counter() - clock,
        order=_ORDER,
    ).to_dict()
    contents = {"manifest.json": json.dumps(record, indent=2, ensure_ascii=False, default=str)}
    if rejects:
        lines = (json.dumps(reject, ensure_ascii=False) for reject in rejects)
        contents["rejects.jsonl"] = "\n".join(lines)
    for name, text in contents.items():
        with filesystem.open_output_stream(f"{folder}/{name}") as stream:
            stream.write((text + "\n").encode())
    return record


def _filesystem(uri: str) -> tuple[Any, str]:
    import pyarrow.fs

    found: tuple[Any, str] = pyarrow.fs.FileSystem.from_uri(uri)
    return found


def check_ids(questions: ray.data.Dataset, answers: ray.data.Dataset, column: str = "id") -> int:
    """Check that every question has exactly one answer, by sums of hashes of their ids.

    The data are read once more, ids only; nothing of their size is held anywhere.

    Args:
        questions: the data set that was answered.
        answers: what came out of it, best read back from where it was written.
        column: the questions' column of the ids.

    Returns:
        How many there are.

    Raises:
        ValueError: a row was lost, or is there twice.
    """
    asked, answered = _id_sum(questions, column), _id_sum(answers, "id")
    if asked != answered:
        raise ValueError(
            f"{asked[0]} questions have {answered[0]} answers"
            + ("" if asked[0] != answered[0] else ", which are of other ids")
            + ": rows were lost or doubled; remove the output and run again"
        )
    return answered[0]


def _id_sum(dataset: ray.data.Dataset, column: str) -> tuple[int, int]:
    """The number of rows and the sum of the hashes of their ids, the same in any order."""
    sums = dataset.select_columns([column]).map_batches(_hash_ids, batch_format="pyarrow")
    total, hashes = 0, 0
    for row in sums.iter_rows():
        total += row["rows"]
        hashes += int(row["hashes"])
    return total, hashes % (1 << _HASH_BITS)


def _hash_ids(batch: pyarrow.Table) -> dict[str, Any]:
    hashes = (
        int.from_bytes(hashlib.blake2b(str(id_).encode(), digest_size=8).digest(), "big")
        for id_ in batch.column(0).to_pylist()
    )
    return {"rows": [len(batch)], "hashes": [str(sum(hashes) % (1 << _HASH_BITS))]}


def import_ray() -> Any:
    """The module ``ray`` with ``ray.data``, which come with the extra ``ray``."""
    try:
        import ray.data
    except ImportError as error:
        raise ImportError("Ray is needed: pip install 'qa-fast[ray]'") from error
    return ray
