"""Ray Data: every row once, and the same answers, whatever happens to the actors."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qa_fast import predict, read_predictions
from qa_fast.cli import app
from qa_fast.ray import check_ids, plan_actors

from ..helpers.tiny import save_tiny_model, xquad


@pytest.mark.parametrize(
    ("cluster", "given", "expected"),
    [
        pytest.param({"CPU": 2}, {"concurrency": 2}, (2, 0.5, 0), id="two-cores"),
        pytest.param({"CPU": 1}, {}, (1, 0.0, 0), id="one-core"),
        pytest.param({"CPU": 16}, {}, (4, 3.75, 0), id="cpus"),
        pytest.param({"CPU": 64, "GPU": 8}, {}, (8, 1.0, 1), id="gpus"),
        pytest.param({"CPU": 4, "GPU": 8}, {}, (8, 0.37, 1), id="few-cpus"),
        pytest.param({"CPU": 8, "GPU": 1}, {"num_gpus": 0.5}, (2, 1.0, 0.5), id="shared-gpu"),
        pytest.param({"CPU": 8, "GPU": 1}, {"num_gpus": 0}, (2, 3.5, 0), id="no-gpu-wanted"),
    ],
)
def test_actors_leave_room_to_read(
    cluster: dict[str, float], given: dict[str, Any], expected: tuple[float, ...]
) -> None:
    assert tuple(plan_actors(cluster, **given).values()) == expected


@pytest.mark.parametrize("given", [{"concurrency": 2, "num_cpus": 1}, {"num_gpus": 1}])
def test_a_cluster_that_is_too_small_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the cluster is too small: .* and it has 2 and 0"):
        plan_actors({"CPU": 2}, **given)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local cluster of two CPUs."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 300  # both actors are there when the work begins
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 files with 100 questions each, of which one cannot be answered."""
    folder = tmp_path_factory.mktemp("questions")
    pairs = [
        (qa["question"], paragraph["context"])
        for paragraphs in xquad().values()
        for paragraph in paragraphs
        for qa in paragraph["qas"]
    ]
    pairs = (pairs * 4)[:100]
    for i in range(8):
        rows = [
            {"key": f"{i}-{j}", "question": question, "context": context}
            for j, (question, context) in enumerate(pairs)
        ]
        if i == 3:
            rows[7]["context"] = " "
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{i}.parquet")
    return folder


def actors() -> set[int]:
    """Processes of Ray's actors that answer."""
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if folder.name.isdigit() and b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray and what it imports are not ours to keep clean
def test_every_row_once_although_an_actor_is_killed(
    ray: Any, model: Path, questions: Path, tmp_path: Path
) -> None:
    from qa_fast import Columns
    from qa_fast.ray import predict as ray_predict

    # Short chunks with much overlap: work enough to be killed in the middle of.
    options = {"top_k": 2, "max_seq_len": 128, "doc_stride": 60, "on_error": "skip"}
    options["columns"] = Columns(id="key")
    data = ray.data.read_parquet(str(questions))
    answers = ray_predict(data, model=str(model), concurrency=2, batch_rows=40, **options)
    killed: set[int] = set()
    seen = []
    for batch in answers.iter_batches(batch_size=20, batch_format="pyarrow", prefetch_batches=0):
        seen.append(batch)
        if not killed:
            running = actors()
            assert len(running) == 2
            killed = {min(running)}
            os.kill(min(killed), signal.SIGKILL)
    assert killed - actors() == killed
    table = pa.concat_tables(seen)
    ids = table.column("id").to_pylist()
    assert sorted(ids) == sorted(f"{i}-{j}" for i in range(8) for j in range(100))

    predict(questions, tmp_path / "single.jsonl", model=model, **options)
    single = {p.id: p for p in read_predictions(tmp_path / "single.jsonl")}
    for row in table.to_pylist():
        if row["error"] is not None:
            assert row["id"] == "3-7"
            assert row["error"] == "the context is empty but for spaces; give it some text"
            continue
        expected = single.pop(row["id"])
        assert (row["answer"], row["start"], row["end"]) == (
            expected.answer,
            expected.start,
            expected.end,
        )
        assert row["score"] == pytest.approx(expected.score, abs=1e-4)
    assert not single


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("ray")
def test_from_files_to_files(model: Path, questions: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(questions / "3.parquet"), "-o", str(tmp_path / "answers")]
    arguments += ["--ray", "auto", "--concurrency", "1", "--model", str(model), "--top-k", "1"]
    assert CliRunner().invoke(app, arguments).exit_code == 2  # no column of the ids was named
    result = CliRunner().invoke(app, [*arguments, "--id-column", "key", "--on-error", "skip"])
    assert result.exit_code == 0, result.output
    assert "99 answers; 1 rows could not be answered, see rejects.jsonl in it" in result.stderr
    found = sorted(prediction.id for prediction in read_predictions(tmp_path / "answers"))
    assert found == sorted(f"3-{i}" for i in range(100) if i != 7)
    (reject,) = (tmp_path / "answers" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["id"] == "3-7"
    manifest = json.loads((tmp_path / "answers" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["written"], manifest["rejected"]) == (100, 99, 1)
    assert list(manifest) == [
        *("status", "rows", "written", "rejected", "source", "settings", "seed"),
        *("command", "began", "seconds"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--id-column", "key"])
    assert "is there already; name another output" in result.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rows_lost_or_doubled_are_noticed(ray: Any) -> None:
    def numbered(*ids: int) -> Any:
        return ray.data.from_arrow(pa.table({"id": [str(i) for i in ids]}))

    assert check_ids(numbered(1, 2, 3), numbered(3, 1, 2)) == 3
    with pytest.raises(ValueError, match="3 questions have 2 answers"):
        check_ids(numbered(1, 2, 3), numbered(1, 2))
    with pytest.raises(ValueError, match="3 questions have 3 answers, which are of other ids"):
        check_ids(numbered(1, 2, 3), numbered(1, 2, 2))
