"""predict(): the same bytes whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

import qa_fast
from qa_fast import merge, predict, read_examples, read_predictions
from qa_fast.cli import app
from qa_fast.data.answers import na_prob
from qa_fast.engine import Engine
from qa_fast.files.writing import locked
from qa_fast.runs.parts import plan_parts, shards_from_environment

from ..helpers.sound_files import OUTPUTS, contents
from ..helpers.tiny import save_tiny_model, tiny_model, tokenizer_of, xquad


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 questions in Parquet, in row groups of 25."""
    rows = [
        {"id": f"q{i}-{j}", "question": qa["question"], "context": paragraph["context"]}
        for i, paragraph in enumerate(p for ps in xquad().values() for p in ps)
        for j, qa in enumerate(paragraph["qas"])
    ][:60]
    assert len(rows) == 60
    path = tmp_path_factory.mktemp("data") / "questions.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=25)
    return path


@pytest.fixture(scope="module")
def wanted(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Per output the bytes of its files after an undisturbed run."""
    found = {}
    for name in OUTPUTS:
        folder = tmp_path_factory.mktemp("wanted")
        predict(data, folder / name, model=model, part_rows=10, **OPTIONS)
        found[name] = contents(folder)
    return found


OPTIONS: dict[str, Any] = {
    "top_k": 3,
    "handle_impossible_answer": True,
    "null_threshold": -7.0,  # half of the answers are empty then
    "max_seq_len": 200,
    "doc_stride": 50,
}
FLAGS = ["--top-k=3", "--no-answer", "--null-threshold=-7", "--max-seq-len=200", "--doc-stride=50"]
FLAGS += ["--part-rows=10"]


def qa_fast_predict(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


# --- what is written ----------------------------------------------------------------------------


def test_answers_are_those_of_the_pipeline(data: Path, model: Path, tmp_path: Path) -> None:
    run = predict(data, tmp_path / "a.jsonl", model=model, part_rows=16, **OPTIONS)
    assert (run.written, run.rejected, run.rejects, run.complete) == (60, 0, None, True)
    examples = list(read_examples(data))
    pipeline = qa_fast.pipeline(model)
    answers = pipeline(
        [{"question": e.question, "context": e.context} for e in examples],
        top_k=4,
        handle_impossible_answer=True,
        max_seq_len=200,
        doc_stride=50,
        max_answer_len=30,
        align_to_words=False,
        scoring="logit",
    )
    found = list(read_predictions(tmp_path / "a.jsonl"))
    assert [p.id for p in found] == [e.id for e in examples]
    for prediction, expected, example in zip(found, answers, examples, strict=True):
        # The best three spans, and the null answer among them.
        spans = [answer for answer in expected if answer["answer"]][:3]
        got = [answer for answer in prediction.n_best if answer["answer"]]
        assert [(a["start"], a["end"]) for a in got] == [(a["start"], a["end"]) for a in spans]
        assert [a["score"] for a in got] == pytest.approx([a["score"] for a in spans], abs=1e-5)
        assert example.context[prediction.start : prediction.end] == prediction.answer
        assert len(prediction.n_best) == 4
        assert prediction.chunks >= 1
        (null,) = [answer for answer in prediction.n_best if not answer["answer"]]
        best = null if null["score"] - got[0]["score"] > -7 else got[0]
        assert (prediction.answer, prediction.score) == (best["answer"], best["score"])
    assert {p.chunks for p in found} > {1}
    assert 0 < sum(not p.answer for p in found) < 60


def test_every_output_says_the_same(wanted: dict[str, Any], tmp_path: Path) -> None:
    read = []
    for name in OUTPUTS[:3]:
        for file, data in wanted[name].items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_bytes(data)
        read.append(list(read_predictions(tmp_path / name)))
    assert read[0] == read[1] == read[2]
    files = {name: json.loads(data) for name, data in wanted["predictions.json"].items()}
    assert files["predictions.json"] == {p.id: p.answer for p in read[0]}
    assert list(files) == sorted(
        ["predictions.json", "nbest_predictions.json", "null_odds.json", "na_prob.json"]
    )
    # The official script, told the threshold, would take the same answers for empty.
    for id_, text in files["predictions.json"].items():
        assert (text == "") == (files["null_odds.json"][id_] > -7)
        assert (text == "") == (files["na_prob.json"][id_] > na_prob(-7))
    assert sorted(wanted["answers"]) == [f"answers/part-{i:06d}.parquet" for i in range(6)]


@pytest.mark.parametrize(("threshold", "empty"), [(-1e9, 60), (1e9, 0)])
def test_null_threshold(
    threshold: float, empty: int, data: Path, model: Path, tmp_path: Path
) -> None:
    options = {**OPTIONS, "null_threshold": threshold}
    predict(data, tmp_path / "a.jsonl", model=model, **options)
    found = list(read_predictions(tmp_path / "a.jsonl"))
    assert sum(not p.answer for p in found) == empty
    assert all(p.score == p.null_score for p in found if not p.answer)


def test_the_manifest_says_how_it_was_made(data: Path, model: Path, tmp_path: Path) -> None:
    run = predict(data, tmp_path / "a.parquet", model=model, limit=7)
    manifest = json.loads((tmp_path / "a.parquet.manifest.json").read_text())
    assert manifest == run.manifest
    settings = manifest["settings"]
    assert (manifest["status"], manifest["rows"], manifest["written"]) == ("complete", 7, 7)
    assert settings["versions"]["qa_fast"] == qa_fast.__version__
    assert (settings["dtype"], settings["device"]) == ("float32", "cpu")
    assert (settings["options"]["max_seq_len"], settings["options"]["doc_stride"]) == (384, 128)
    assert len(settings["model"]["sha256"]) == 64
    (session,) = manifest["sessions"]
    assert session["questions"] == 7
    assert set(session["stages"]) >= {"tokenize", "forward", "decode", "map"}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of PyTorch's threads until the test's end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_byte(
    threads: Callable[[int], None], model: Path, tmp_path: Path
) -> None:
    """With fewer batches than threads, and in a run that is stopped and goes on with fewer."""
    rows = [
        {"id": f"q{i}", "question": "Who wrote it?", "context": f"Ada wrote note {i}."}
        for i in range(30)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = 0

    def stop_in_the_second_part(count: int) -> None:
        nonlocal done
        done += count
        if done == 15:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"source": tmp_path / "q.jsonl", "model": model, "part_rows": 10}
    for number in (1, 2, 3):
        threads(number)
        predict(output=tmp_path / str(number) / "a", **arguments)
    with pytest.raises(KeyboardInterrupt):
        predict(output=tmp_path / "stopped" / "a", progress=stop_in_the_second_part, **arguments)
    threads(1)
    predict(output=tmp_path / "stopped" / "a", **arguments)
    wanted = contents(tmp_path / "1")
    assert len(wanted) == 3
    for name in ("2", "3", "stopped"):
        assert contents(tmp_path / name) == wanted


def test_where_threads_change_bits_their_number_is_a_setting(
    threads: Callable[[int], None], tmp_path: Path
) -> None:
    rows = [{"id": "q", "question": "Who?", "context": "It was Ada."}]
    tokenizer = tokenizer_of("wordpiece")
    threads(2)
    run = predict(rows, tmp_path / "model", model=Engine(tiny_model(tokenizer), tokenizer))
    assert run.manifest["settings"]["threads"] is None
    (tmp_path / "q.jsonl").write_text(json.dumps(rows[0]))
    arguments = {"source": tmp_path / "q.jsonl", "output": tmp_path / "callable"}
    run = predict(**arguments, model=Engine(NearFree(), tokenizer))
    assert run.manifest["settings"]["threads"] == 2
    threads(1)
    with pytest.raises(ValueError, match="other settings: threads was 2 and is now 1"):
        predict(**arguments, model=Engine(NearFree(), tokenizer))


# --- going on -----------------------------------------------------------------------------------

# Runs in a process of its own, which ends by SIGKILL just before the Nth time that it would make
# something last: a file, a folder, a name.
KILLED = """
import os, signal
steps = 0
def counted(real):
    def call(*arguments, **named):
        global steps
        steps += 1
        if steps == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call
os.fsync, os.replace, os.unlink = map(counted, (os.fsync, os.replace, os.unlink))
from qa_fast.runs.predict import predict
predict(**arguments)
"""


# Before it, so that runs wait until the processes that they start for texts can work.
WAITING = """
from qa_fast.engine.workers import Crew
real_start = Crew._start
def start(crew, count):
    real_start(crew, count)
    crew.wait()
Crew._start = start
"""


@pytest.mark.parametrize(
    ("name", "num_workers"), [("answers", 0), ("predictions.json", 0), ("answers", 2)]
)
def test_killed_at_every_kind_of_step(
    name: str,
    num_workers: int,
    fork: Any,
    data: Path,
    model: Path,
    wanted: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Each run is killed at a step later than the last, until one is through."""
    draw = random.Random(OUTPUTS.index(name))
    arguments = {"model": str(model), "part_rows": 10, "num_workers": num_workers, **OPTIONS}
    arguments.update(source=str(data), output=str(tmp_path / name))
    killed = 0
    while True:
        stop_at = draw.randint(1, 10 + 6 * killed)
        process = fork(WAITING + KILLED, stop_at=stop_at, arguments=arguments)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    assert killed > 1
    assert contents(tmp_path) == wanted[name]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_random_times(
    num_workers: int,
    fork: Any,
    data: Path,
    model: Path,
    wanted: dict[str, Any],
    tmp_path: Path,
) -> None:
    draw = random.Random(5)
    arguments = {"model": str(model), "part_rows": 10, "num_workers": num_workers, **OPTIONS}
    arguments.update(source=str(data), output=str(tmp_path / "a.parquet"))
    code = WAITING + "from qa_fast.runs.predict import predict; predict(**arguments)"
    for _ in range(KILLS):
        process = fork(code, arguments=arguments)
        # Until it has begun; then for as long as it takes to make a part or two.
        while process.is_alive() and not list(tmp_path.iterdir()):
            time.sleep(0.005)
        process.join(draw.uniform(0, 0.4))
        process.kill()
        process.join()
    predict(**{**arguments, "model": model})
    assert contents(tmp_path) == wanted["a.parquet"]


KILLS = int(os.environ.get("QA_FAST_TEST_KILLS", "4"))


@pytest.mark.usefixtures("ready_workers")
def test_processes_for_texts_change_no_byte_and_are_no_setting(
    data: Path, wanted: dict[str, Any], tmp_path: Path
) -> None:
    """A run that is stopped goes on with another number of them."""
    arguments: dict[str, Any] = {"source": data, "part_rows": 10, **OPTIONS}

    def stop_in_the_third_part(count: int) -> None:
        nonlocal done
        done += count
        if done == 25:
            raise KeyboardInterrupt

    for before, after in ((2, 0), (0, 1)):
        output, done = tmp_path / str(before) / "answers", 0
        for number, progress in ((before, stop_in_the_third_part), (after, False)):
            engine = Engine(tiny_model(tokenizer_of("wordpiece")), tokenizer_of("wordpiece"))
            arguments.update(output=output, progress=progress, num_workers=number)
            with pytest.raises(KeyboardInterrupt) if progress else nullcontext():
                predict(model=engine, **arguments)
            assert len(engine._crew._workers) == number
        assert contents(output.parent) == wanted["answers"]


@pytest.mark.parametrize(
    ("shards", "asked", "of_the_engine", "used"),
    [(1, None, None, None), (2, None, None, 0), (2, 3, None, 3), (2, None, 3, 3), (2, 0, 3, 0)],
)
def test_processes_that_share_the_rows_take_no_others_unasked(
    shards: int,
    asked: int | None,
    of_the_engine: int | None,
    used: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, real = [], Engine.read

    def read(*arguments: Any, num_workers: int | None, **named: Any) -> Any:
        found.append(num_workers)
        return real(*arguments, **named, num_workers=0)

    monkeypatch.setattr(Engine, "read", read)
    tokenizer = tokenizer_of("wordpiece")
    engine = Engine(tiny_model(tokenizer), tokenizer, num_workers=of_the_engine)
    rows = [{"id": "q", "question": "Who?", "context": "It was Ada."}] * shards
    predict(rows, tmp_path / "a", model=engine, num_shards=shards, part_rows=1, num_workers=asked)
    assert found == [used]


def test_a_finished_run_is_left_alone(data: Path, model: Path, tmp_path: Path) -> None:
    first = predict(data, tmp_path / "a.parquet", model=model, limit=5)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = predict(data, tmp_path / "a.parquet", model=model, limit=5)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"top_k": 4}, "top_k was 3 and is now 4", id="top_k"),
        pytest.param({"limit": 9}, "limit was 20 and is now 9", id="limit"),
        pytest.param({"dtype": "bfloat16"}, 'dtype was "float32" and is now', id="dtype"),
        pytest.param({"num_shards": 2}, "num_shards was 1 and is now 2", id="num_shards"),
        pytest.param({"model": "other"}, r"model\.sha256 was .* and is now", id="model"),
        pytest.param({"source": "other"}, r"input\.0\.sha256 was .* and is now", id="data"),
    ],
)
def test_other_settings_are_refused(
    change: dict[str, Any], message: str, data: Path, model: Path, tmp_path: Path
) -> None:
    arguments = {"source": data, "output": tmp_path / "a", "model": model, "limit": 20, "top_k": 3}
    predict(**arguments)
    before = contents(tmp_path)
    if "source" in change:
        table = pq.read_table(data)
        change = {"source": tmp_path / "questions.parquet"}
        pq.write_table(table.slice(1), change["source"])
        before = contents(tmp_path)
    if "model" in change:
        change = {
            "model": Engine(
                tiny_model(tokenizer_of("wordpiece"), seed=1), tokenizer_of("wordpiece")
            )
        }
    with pytest.raises(ValueError, match=f"holds a run with other settings: .*{message}"):
        predict(**{**arguments, **change})
    assert contents(tmp_path) == before


def test_two_runs_into_one_output(data: Path, model: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "a.jsonl.parts", "0-of-1"),
        pytest.raises(ValueError, match="another process is writing this output now"),
    ):
        predict(data, tmp_path / "a.jsonl", model=model)
    predict(data, tmp_path / "a.jsonl", model=model, limit=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.manifest.json"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_others_wrote_is_not_overwritten(
    name: str, data: Path, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / name / "mine.txt" if name == "answers" else tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match="is there already and is not from a run of this command"):
        predict(data, tmp_path / name, model=model)
    assert file.read_text() == "mine"
    (tmp_path / name).is_dir() or file.unlink()


# --- rows that cannot be answered ---------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Five rows, of which three cannot be answered, on lines 2, 4 and 6."""
    good = {"question": "Who?", "context": "It was Ada."}
    lines = [
        json.dumps({"id": "ok1", **good}),
        json.dumps({"id": "empty", **good, "context": " "}),
        "",
        '{"id": "cut", ',
        json.dumps({"id": "ok2", **good}),
        json.dumps({"id": 7, "context": "x", "question": None}),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", ["answers", "a.jsonl"])
@pytest.mark.parametrize("part_rows", [1, 5])
def test_skipped_rows_are_listed(
    name: str, part_rows: int, broken: Path, model: Path, tmp_path: Path
) -> None:
    run = predict(broken, tmp_path / name, model=model, on_error="skip", part_rows=part_rows)
    assert (run.written, run.rejected) == (2, 3)
    assert [p.id for p in read_predictions(tmp_path / name)] == ["ok1", "ok2"]
    rejects = [json.loads(line) for line in run.rejects.read_text().splitlines()]
    assert [(r["row"], r["id"], r["place"]) for r in rejects] == [
        (1, "empty", f"{broken} line 2"),
        (2, None, f"{broken} line 4"),
        (4, None, f"{broken} line 6"),
    ]
    reasons = [r["reason"] for r in rejects]
    assert reasons[0] == "the context is empty but for spaces; give it some text"
    assert reasons[1].startswith("not JSON: ")
    assert reasons[2].startswith("question must be a text; got NoneType")
    left = {p.name for p in tmp_path.rglob("*") if "reject" in p.name}
    assert left == {"rejects.jsonl" if name == "answers" else "a.jsonl.rejects.jsonl"}


def test_failing_at_a_row_and_going_on_by_skipping(
    broken: Path, model: Path, tmp_path: Path
) -> None:
    arguments = {"source": broken, "output": tmp_path / "a.jsonl", "model": model, "part_rows": 1}
    with pytest.raises(
        ValueError, match=r"rows\.jsonl line 2: the context is empty but for spaces"
    ):
        predict(**arguments)
    run = predict(**arguments, on_error="skip")
    assert (run.written, run.rejected) == (2, 3)


# --- several processes --------------------------------------------------------------------------


def test_shards_make_the_same_files(
    data: Path, model: Path, wanted: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {"model": model, "part_rows": 10, "num_shards": 4, **OPTIONS}
    for name in ("answers", "predictions.json"):
        output = tmp_path / name
        for index in (2, 0, 3):
            run = predict(data, output, shard_index=index, **arguments)
            assert not run.complete
        with pytest.raises(ValueError, match="of 4 processes, those with shard_index 1 have not"):
            merge(output)
        predict(data, output, shard_index=1, **arguments)
        manifest = merge(output)
        assert (manifest["written"], manifest["rows"], len(manifest["sessions"])) == (60, 60, 4)
        assert merge(output)["written"] == 60
    assert contents(tmp_path) == {**wanted["answers"], **wanted["predictions.json"]}


def test_merge_finds_what_is_missing(data: Path, model: Path, tmp_path: Path) -> None:
    for index in range(2):
        predict(data, tmp_path / "a", model=model, part_rows=10, num_shards=2, shard_index=index)
    (tmp_path / "a" / "part-000004.parquet").unlink()
    with pytest.raises(ValueError, match="rows 40 to 49 are missing"):
        merge(tmp_path / "a")
    with pytest.raises(ValueError, match="no run wrote here"):
        merge(tmp_path / "b")


def test_more_shards_than_parts(data: Path, model: Path, tmp_path: Path) -> None:
    for index in range(3):
        predict(data, tmp_path / "a.jsonl", model=model, limit=5, num_shards=3, shard_index=index)
    assert merge(tmp_path / "a.jsonl")["written"] == 5


@pytest.mark.slow
def test_one_process_per_device(
    data: Path, model: Path, wanted: dict[str, Any], tmp_path: Path
) -> None:
    result = qa_fast_predict(
        data, "-o", tmp_path / "a.parquet", "--model", model, *FLAGS, "--devices", "cpu,cpu"
    )
    assert result.exit_code == 0, result.output
    assert contents(tmp_path) == wanted["a.parquet"]
    (tmp_path / "a.parquet.manifest.json").unlink()
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"device cpu: .*no_such_column"):
        predict(
            data,
            tmp_path / "a.parquet",
            model=str(model),
            devices=["cpu", "cpu"],
            columns=qa_fast.Columns(question="no_such_column"),
        )


@pytest.mark.parametrize(("rows", "part_rows", "shards"), [(1, 5, 3), (100, 7, 4), (12, 3, 4)])
def test_every_row_belongs_to_one_process(rows: int, part_rows: int, shards: int) -> None:
    parts = [part for i in range(shards) for part in plan_parts(rows, part_rows, shards, i)]
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [r for part in parts for r in range(part.start, part.stop)] == list(range(rows))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, (1, 0), id="nothing"),
        pytest.param({"RANK": "2", "WORLD_SIZE": "4"}, (4, 2), id="torchrun"),
        pytest.param({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4",
                      "SLURM_ARRAY_TASK_MIN": "1"}, (4, 2), id="slurm-from-1"),
        pytest.param({"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "4",
                      "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "2"}, (4, 3), id="step"),
    ],
)  # fmt: skip
def test_shards_from_the_environment(
    environment: dict[str, str], expected: tuple[int, int]
) -> None:
    assert shards_from_environment(environment) == expected


def test_shards_from_an_environment_that_makes_no_sense() -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"}
    with pytest.raises(ValueError, match="not numbered evenly"):
        shards_from_environment(slurm)
    with pytest.raises(ValueError, match="WORLD_SIZE in the environment must be a number; got 'x'"):
        shards_from_environment({"RANK": "0", "WORLD_SIZE": "x"})


# --- streams, memory, arguments -----------------------------------------------------------------


class NearFree:
    """A model whose logits cost nothing and depend on the tokens."""

    def __call__(self, input_ids: Any, **_: Any) -> dict[str, np.ndarray]:
        logits = (input_ids.numpy() % 97).astype(np.float32)
        return {"start_logits": logits, "end_logits": logits}


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("wordpiece")
    peaks: list[int] = []

    def rows(count: int) -> Iterator[dict[str, str]]:
        for i in range(count):
            if i % 2000 == 0:
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            yield {
                "id": str(i),
                "question": f"Who is number {i}?",
                "context": f"It is {i % 500}, of all.",
            }

    predict(rows(12_000), tmp_path / "a", model=Engine(NearFree(), tokenizer), part_rows=1000)
    assert sum(1 for _ in read_predictions(tmp_path / "a")) == 12_000
    # KiB; a list of the rows or of their answers would take 30 MiB at least. (The contexts repeat,
    # because the engine remembers the last ones.)
    assert peaks[-1] - peaks[1] < 10_000


def test_a_stream_cannot_be_gone_on_with(model: Path, tmp_path: Path) -> None:
    rows = [{"id": str(i), "question": "Who?", "context": "It was Ada."} for i in range(5)]
    run = predict(iter(rows), tmp_path / "a.jsonl", model=model, limit=3)
    assert (run.written, run.manifest["rows"]) == (3, 3)
    with pytest.raises(ValueError, match="whether that was on the same data cannot be told"):
        predict(iter(rows), tmp_path / "a.jsonl", model=model, limit=3)
    with pytest.raises(ValueError, match="processes cannot share"):
        predict(iter(rows), tmp_path / "b", num_shards=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"output": "a.csv"}, r"its ending must be \.parquet, \.jsonl or \.json", id="csv"),
        pytest.param({"on_error": "ignore"}, "on_error must be 'fail' or 'skip'", id="on_error"),
        pytest.param({"null_threshold": 1.0}, "of use with handle_impossible_answer=True", id="null"),
        pytest.param({"shard_index": 2, "num_shards": 2}, "below num_shards .2.; got 2", id="index"),
        pytest.param({"limit": 0}, "limit must be an integer of at least 1", id="limit"),
        pytest.param({"scoring": "x"}, "scoring must be one of", id="scoring"),
        pytest.param({"devices": ["cpu", "cpu"]}, "the source must be given by its name", id="devices"),
        pytest.param({"source": []}, "the list holds no questions", id="empty"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"source": [{"question": "Who?", "context": "Ada."}], "output": "a", **change}
    with pytest.raises(ValueError, match=message):
        predict(**arguments)
    assert not list(tmp_path.iterdir())


def test_ids_twice_in_a_json_output_are_told_before_the_work(tmp_path: Path, model: Path) -> None:
    row = {"id": "same", "question": "Who?", "context": "It was Ada."}
    with pytest.raises(ValueError, match=r"id 'same' is of two questions, in .*row 0 and .*row 1"):
        predict([row, {**row, "context": "It was Bob."}], tmp_path / "a.json", model=model)
    assert not list(tmp_path.iterdir())
    predict([row, row], tmp_path / "a.json", model=model)
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["same"]


def test_gold_answers_do_not_matter(tmp_path: Path, model: Path) -> None:
    """Whatever stands in their place: the answers are the same, to the byte."""
    row = {"id": "a", "question": "Who?", "context": "It was Ada."}
    golds = [[0], 7, "{'text': [", {"text": [None]}, [{"text": "Ada", "answer_start": -1}], None]
    outputs = []
    for i, more in enumerate([{}, *({"answers": gold} for gold in golds), {"is_impossible": "?"}]):
        run = predict([{**row, **more}], tmp_path / f"{i}.jsonl", model=model)
        outputs.append(run.output.read_bytes())
    assert set(outputs) == {outputs[0]}


# --- the command line ---------------------------------------------------------------------------


def test_command_line(data: Path, model: Path, wanted: dict[str, Any], tmp_path: Path) -> None:
    common = [data, "-o", tmp_path / "predictions.json", "--model", model, *FLAGS]
    result = qa_fast_predict(*common, "--num-workers", 1)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert result.stderr.endswith(f"{tmp_path / 'predictions.json'}: 60 answers\n")
    assert contents(tmp_path) == wanted["predictions.json"]
    result = qa_fast_predict(*common, "--top-k", 4)
    assert result.exit_code == 2
    assert "holds a run with other settings: --top-k was 3 and is now 4." in result.stderr


def test_command_line_takes_its_share_from_the_environment(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        result = qa_fast_predict(data, "-o", tmp_path / "a", "--model", model, "--part-rows", 30)
        assert f"process {rank} of 2, as the environment says" in result.stderr
        assert f"when all processes are done: qa-fast merge {tmp_path / 'a'}" in result.stderr
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "a")])
    assert (result.exit_code, result.stderr) == (0, f"{tmp_path / 'a'}: 60 answers of 60 rows\n")


def test_command_line_tells_mistakes_in_its_own_words(
    data: Path, model: Path, tmp_path: Path
) -> None:
    result = qa_fast_predict(data, "-o", tmp_path / "a", "--null-threshold", 1, "--model", model)
    assert result.exit_code == 2
    assert "--null-threshold" in result.stderr
    assert "--no-answer" in result.stderr
    result = qa_fast_predict(data, "-o", tmp_path / "a", "--num-shards", 2)
    assert "--num-shards and --shard-index go together" in result.stderr
