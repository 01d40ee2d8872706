"""`predict()`: answer every question of a data set, in constant memory and safe from crashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.data.examples import Columns, OnError
from qa_fast.data.opening import open_source
from qa_fast.data.sources import Source
from qa_fast.engine.graphs import Backend
from qa_fast.engine.loading import ModelSpec
from qa_fast.engine.options import Options, check_count
from qa_fast.files.reading import Watch

from .answering import DEFAULTS, Answering
from .manifest import Manifest, is_complete, read_manifest, shard_manifest
from .merging import merge_shares
from .output import Output
from .parts import MOST_SHARDS
from .processes import Job, run_processes
from .progress import reporting
from .share import Share, default_part_rows
from .stopping import OnInterrupt, telling_how_to_go_on


@dataclass(frozen=True, slots=True)
class Run:
    """What a call of `predict` has come to.

    Attributes:
        output: the file or folder of the predictions.
        complete: whether it is there; False for one of several processes, whose results are still to
            be merged.
        written: predictions; of this process only, if not complete.
        rejected: rows that could not be answered; of this process only, if not complete.
        rejects: the file that lists them; None where there are none or it is not complete.
        manifest: settings, versions and timings, as they also stand in a file beside the output.
    """

    output: Path
    complete: bool
    written: int
    rejected: int
    rejects: Path | None
    manifest: dict[str, Any]


def predict(
    source: Any,
    output: str | Path,
    *,
    model: Any = None,
    tokenizer: Any = None,
    device: str | None = None,
    devices: Sequence[str] | None = None,
    backend: Backend | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    max_batch_tokens: int | None = None,
    compile: bool = False,
    num_workers: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_error: OnError = "fail",
    on_interrupt: OnInterrupt = "drop",
    null_threshold: float = 0.0,
    part_rows: int | None = None,
    num_shards: int = 1,
    shard_index: int = 0,
    progress: bool | Callable[[int], object] = False,
    **options: Any,
) -> Run:
    """Answer all questions of a data set and write the answers to disk.

    Rows are worked through in parts, and a part is written whole or not at all. After a crash, a kill or
    a full disk the same call goes on where it stopped and ends with the same bytes as a run without the
    stop. A call with other settings is refused, and so is one that would store other fields of answers
    than the version that began the run.

    Parquet and JSONL have the fields of `Prediction`, among them how probable the answer is among all
    spans of its question (``probability``); the files of ``run_qa.py`` have what that program writes.

    Args:
        source: the questions: see `read_examples`.
        output: where the answers go, and by its name as what: ``.parquet`` and ``.jsonl`` are one file;
            ``.json`` is the file of id to text of ``run_qa.py``, and its siblings appear beside it
            (n-best lists, null odds, no-answer probabilities); a name without an ending is a folder of
            Parquet files.
        model: a model's name or folder; None for the bundled one; or an `Engine` or what `pipeline`
            returned.
        tokenizer: as in `pipeline`.
        device: as in `pipeline`.
        devices: several devices, such as ``["cuda:0", "cuda:1"]``: one process runs on each.
        backend: as in `pipeline`.
        dtype: as in `pipeline`.
        batch_size: as in `pipeline`.
        max_batch_tokens: as in `pipeline`.
        compile: as in `pipeline`.
        num_workers: as in `pipeline`; of each process, where several share the rows, and None means none
            then. Not one of the settings of a run: it may go on with another number.
        allow_pickle: as in `pipeline`.
        trust_remote_code: as in `pipeline`.
        columns: the names of the columns, where they are not those of `Example`.
        split: which split of a data set with several.
        subset: which subset of a data set on the Hub.
        limit: answer only so many rows.
        on_error: "fail" at a row that cannot be answered; or "skip" it, and list it with its place and
            the reason in a file of rejects.
        on_interrupt: what Ctrl-C does to the part at hand: "drop" it; or "finish" it, and drop it only
            at a second Ctrl-C. SIGTERM then finishes it too. For programs that may set the handlers of
            signals, which the main thread alone can.
        null_threshold: with ``handle_impossible_answer``, by how much the null score must exceed that of
            the best span for the answer to be "".
        part_rows: rows of a part, the most that a crash can cost; None for 256 to 8,192, by the size of
            the data.
        num_shards: how many processes or machines share the rows, each with this call but for
            ``shard_index``, on a file system they all see; `merge` puts together what they made.
        shard_index: which of them this is, from 0.
        progress: show a progress bar on standard error; or a function, called with the number of rows
            done since its last call.
        **options: as of a `pipeline`'s call, such as ``handle_impossible_answer=True``. Defaults that
            differ: ``top_k=5, max_answer_len=30, scoring="logit", align_to_words=False``.

    Raises:
        OSError: a file that cannot be read or written.
        ValueError: an argument that cannot be used; settings that are not those of the run in
            ``output``; another process that is writing there; a file of the data that changes while it
            is read; with ``on_error="fail"`` a row that cannot be answered.
        Interrupted: stopped by a signal; a `KeyboardInterrupt`, whose message says how to go on.

    Example:
        >>> import tempfile
        >>> rows = [{"id": "q1", "question": "Who wrote it?", "context": "Ada wrote the note."}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = predict(rows, f"{folder}/predictions.json")
        ...     run.written, run.rejected, run.output.read_text().split()
        (1, 0, ['{', '"q1":', '"Ada"', '}'])
    """
    answering = Answering(Options(**{**DEFAULTS, **options}), null_threshold, on_error, num_workers)
    _check_counts(limit, part_rows, num_shards, shard_index)
    target = Output.of(output)
    if on_interrupt not in get_args(OnInterrupt):
        raise ValueError(f"on_interrupt must be 'drop' or 'finish'; got {on_interrupt!r}")
    data = open_source(source, columns=columns, split=split, subset=subset)
    watch = Watch(data.files)
    rows = _count(data, limit, num_shards)
    if target.kind == "run_qa":
        _check_ids(data, rows)
    spec = ModelSpec(
        model=model,
        tokenizer=tokenizer,
        device=devices[0] if devices else device,
        backend=backend,
        dtype=dtype,
        batch_size=batch_size,
        max_batch_tokens=max_batch_tokens,
        compile=compile,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    share = Share(
        data=data,
        watch=watch,
        rows=rows,
        target=target,
        spec=spec,
        answering=answering,
        columns=columns or Columns(),
        limit=limit,
        part_rows=part_rows or default_part_rows(rows),
        num_shards=num_shards,
        index=shard_index,
        on_interrupt=on_interrupt,
    )
    if devices is None or len(devices) < 2:
        return _outcome(target, share.answer(progress))
    asked = {
        "source": source,
        "output": str(output),
        "split": split,
        "subset": subset,
        "part_rows": part_rows,
    }
    return _outcome(target, *_answer_on(devices, share, asked, progress))


def _check_counts(
    limit: int | None, part_rows: int | None, num_shards: int, shard_index: int
) -> None:
    for name, number, least in (
        ("limit", limit, 1),
        ("part_rows", part_rows, 1),
        ("num_shards", num_shards, 1),
        ("shard_index", shard_index, 0),
    ):
        if number is not None:
            check_count(name, number, least)
    if num_shards > MOST_SHARDS:
        raise ArgumentError(
            Argument("num_shards"), f" must be at most {MOST_SHARDS}; got {num_shards}"
        )
    if shard_index >= num_shards:
        raise ArgumentError(
            Argument("shard_index"),
            " counts from 0 and must be below ",
            Argument("num_shards"),
            f" ({num_shards}); got {shard_index}",
        )


def _count(data: Source, limit: int | None, num_shards: int) -> int | None:
    """How many rows to answer; None where that is not known before they are read."""
    rows = data.count()
    if rows == 0:
        raise ValueError(f"{data.name} holds no questions")
    if rows is None and num_shards > 1:
        raise ValueError(
            f"how many rows {data.name} has is not known before it is read, so processes cannot "
            "share them; write them to a file first"
        )
    return rows if rows is None or limit is None else min(rows, limit)


def _check_ids(data: Source, rows: int | None) -> None:
    """A JSON object holds an id once, which is enough for one question that the data have twice.

    Better told now than after the work.
    """
    seen: dict[str, tuple[str, int]] = {}
    for row in data.rows(0, rows) if data.rereadable else ():
        if (example := row.example) is not None:
            pair = hash((example.question, example.context))
            first, same = seen.setdefault(example.id, (row.place, pair))
            if pair != same:
                raise ValueError(
                    f"id {example.id!r} is of two questions, in {first} and {row.place}, and a JSON "
                    "object holds it once: write .parquet or .jsonl"
                )


def _answer_on(
    devices: Sequence[str],
    share: Share,
    asked: Mapping[str, Any],
    progress: bool | Callable[[int], object],
) -> list[Manifest]:
    """Answer the rows of ``share`` in a process on each device.

    Args:
        devices: two or more.
        share: of this process, which waits for the others.
        asked: the arguments of `predict` that the share does not tell.
        progress: as in `predict`.

    Returns:
        The manifest of the finished run; where it has other shares too, those of the processes.
    """
    jobs = _jobs(devices, share, asked)
    with (
        telling_how_to_go_on(share.target, share.data),
        reporting(progress, share.rows) as report,
    ):
        run_processes(jobs, report, share.on_interrupt)
    if share.num_shards == 1:
        return [merge_shares(share.target)]
    paths = [shard_manifest(share.target, job.num_shards, job.shard_index) for job in jobs]
    return [read_manifest(path) for path in paths]


def _jobs(devices: Sequence[str], share: Share, asked: Mapping[str, Any]) -> list[Job]:
    """The job of each device's process: a part of this one's share of the rows."""
    spec = {field.name: getattr(share.spec, field.name) for field in fields(share.spec)}
    del spec["device"], spec["calibrate"]
    arguments = {
        **asked,
        **spec,
        "columns": share.columns,
        "limit": share.limit,
        "on_error": share.answering.on_error,
        "on_interrupt": share.on_interrupt,
        "null_threshold": share.answering.null_threshold,
        "num_workers": share.answering.num_workers,
        **asdict(share.answering.options),
    }
    for name, kinds in (("source", (str, Path)), ("model", (str, Path, type(None)))):
        if not isinstance(arguments[name], kinds):
            raise ValueError(
                f"with several devices the {name} must be given by its name or path, for other "
                f"processes to load it; got a {type(arguments[name]).__name__}"
            )
    if not share.data.rereadable:
        raise ValueError(f"several processes cannot share {share.data.name}; give a file")
    count, first = share.num_shards * len(devices), share.index * len(devices)
    return [Job(device, count, first + i, arguments) for i, device in enumerate(devices)]


def _outcome(target: Output, *manifests: Manifest) -> Run:
    """What the run has come to, by its manifest, or by those of the processes that had a share."""
    return Run(
        output=target.path,
        complete=is_complete(target),
        written=sum(manifest.written for manifest in manifests),
        rejected=sum(manifest.rejected for manifest in manifests),
        rejects=target.rejects if target.rejects.exists() else None,
        manifest=manifests[0].to_dict(),
    )
