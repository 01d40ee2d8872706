"""What others put into the folder of a run: it leads to no other file, and is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qa_fast import evaluate, merge, predict, read_predictions
from qa_fast.evaluation.results import write_results

from ..helpers.sound_files import ROWS, contents, jsonl, qa_fast, told
from ..helpers.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six rows, of which one cannot be answered."""
    path = tmp_path / "dev.jsonl"
    path.write_bytes(jsonl([*ROWS[:5], {**ROWS[5], "context": ""}]))
    return path


@pytest.fixture
def arguments(data: Path, model: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "source": data,
        "output": tmp_path / "out" / "answers",
        "model": model,
        "part_rows": 2,
        "on_error": "skip",
    }


SECRET = b"the private file of somebody else"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def set_back(folder: Path, **changes: object) -> None:
    """As if the run had been killed before its end."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running", **changes}))


# --- manifests ----------------------------------------------------------------------------------


def test_names_in_a_manifest_are_not_used(arguments: dict[str, Any], secret: Path) -> None:
    predict(**arguments)
    wanted = contents(arguments["output"])
    parts = [{"file": name, "rows": [0, 2]} for name in ("../../secret", str(secret))]
    set_back(arguments["output"], parts=parts, source="../../secret", rejects=str(secret))
    predict(**arguments)
    assert secret.read_bytes() == SECRET
    assert contents(arguments["output"]) == wanted
    manifest = json.loads((arguments["output"] / "manifest.json").read_text())
    assert [part["file"] for part in manifest["parts"]] == [
        f"part-{i:06d}.parquet" for i in range(3)
    ]


NESTED: Any = []
for _ in range(900):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="list"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"status": "running"}', id="no-settings"),
        pytest.param(b"\xff", id="binary"),
        pytest.param({"rows": "../x"}, id="rows"),
        pytest.param({"rows": None, "status": "complete"}, id="no-rows"),
        pytest.param({"rows": -1}, id="negative"),
        pytest.param({"status": "done"}, id="status"),
        pytest.param({"sessions": None}, id="sessions"),
        pytest.param({"sessions": {}}, id="sessions-object"),
        pytest.param({"sessions": [{"seconds": "1"}]}, id="session"),
        pytest.param({"sessions": [{"seconds": 1, "questions": 1, "stages": 2.0}]}, id="stages"),
        pytest.param({"written": None, "status": "complete"}, id="written"),
        pytest.param({"note": NESTED}, id="nested"),
        pytest.param({"settings": {"part_rows": 2, "num_shards": 1}}, id="no-options"),
        pytest.param(
            {"settings": {"part_rows": 2, "num_shards": 10**9, "options": {"scoring": "logit"}}},
            id="many-shards",
        ),
        pytest.param(
            {"settings": {"part_rows": 2, "num_shards": 1, "options": {"scoring": "best"}}},
            id="scoring",
        ),
    ],
)
def test_what_is_no_manifest_is_told(change: Any, arguments: dict[str, Any]) -> None:
    predict(**arguments)
    path = arguments["output"] / "manifest.json"
    if isinstance(change, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    else:
        path.write_bytes(change if isinstance(change, bytes) else change.encode())
    before = contents(arguments["output"])
    for call in (lambda: predict(**arguments), lambda: merge(arguments["output"])):
        with pytest.raises(ValueError, match=r"manifest\.json is not the manifest of a run"):
            call()
    assert contents(arguments["output"]) == before
    # The predictions can be scored all the same.
    notes = evaluate(ROWS, arguments["output"]).notes
    assert any("how the predictions were made is not known" in note for note in notes)


def test_a_manifest_of_endless_rows_ends(arguments: dict[str, Any]) -> None:
    predict(**arguments)
    set_back(arguments["output"], rows=10**14, status="complete")
    with pytest.raises(ValueError, match=r"part-000003\.parquet: rows 6 to 7 are missing"):
        merge(arguments["output"])


def test_an_output_that_is_gone_is_made_again(arguments: dict[str, Any], tmp_path: Path) -> None:
    for name in ("answers", "a.jsonl"):
        arguments["output"] = tmp_path / "out" / name
        predict(**arguments)
        wanted = contents(tmp_path / "out")
        gone = arguments["output"]
        (gone / "part-000001.parquet" if gone.is_dir() else gone).unlink()
        assert predict(**arguments).complete
        assert contents(tmp_path / "out") == wanted


# --- parts --------------------------------------------------------------------------------------


def other_rows(part: Path) -> None:
    part.write_bytes(part.with_name("part-000000.parquet").read_bytes())


def no_parquet(part: Path) -> None:
    part.write_bytes(b"PAR1 and no more")


def cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-9])


def with_note(note: object) -> Callable[[Path], None]:
    def change(part: Path) -> None:
        table = pq.read_table(part)
        pq.write_table(
            table.replace_schema_metadata({b"qa_fast.part": json.dumps(note).encode()}), part
        )

    return change


@pytest.mark.parametrize(
    "change",
    [
        other_rows,
        no_parquet,
        cut,
        *(
            pytest.param(with_note(note), id=json.dumps(note))
            for note in (None, [], {}, {"rows": 2}, {"rows": ["2", "4"], "rejected": 0},
                         {"rows": [2, 4, 6], "rejected": 0}, {"rows": [2, 4], "rejected": -1},
                         {"rows": [2, 10**40], "rejected": 10**40 - 4})
        ),
    ],
)  # fmt: skip
def test_a_part_that_is_not_the_run_s_is_told(
    change: Callable[[Path], None], arguments: dict[str, Any]
) -> None:
    predict(**arguments)
    wanted = contents(arguments["output"])
    set_back(arguments["output"])
    part = arguments["output"] / "part-000001.parquet"
    change(part)
    with pytest.raises(ValueError, match=r"part-000001\.parquet does not hold rows 2 to 4"):
        predict(**arguments)
    part.unlink()
    predict(**arguments)
    assert contents(arguments["output"]) == wanted


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["answers", "a.jsonl"])
@pytest.mark.parametrize("name", ["part-000000.parquet", "rejects-000002.jsonl"])
def test_links_in_place_of_parts_are_not_followed(
    name: str, output: str, arguments: dict[str, Any], secret: Path, tmp_path: Path
) -> None:
    """A file of rejects is copied into the output: behind a link it could be anybody's."""
    arguments.update(output=tmp_path / "out" / output, num_shards=2)
    for index in (0, 1):
        predict(**arguments, shard_index=index)
    folder = tmp_path / "out" / (output if output == "answers" else f"{output}.parts")
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(ValueError, match=f"{name} is not a file of this run, but a link"):
        merge(arguments["output"])
    if name.startswith("part"):
        with pytest.raises(ValueError, match=f"{name} is not a file of this run, but a link"):
            predict(**arguments, shard_index=0)
    written = [path for path in (tmp_path / "out").rglob("*") if not path.is_symlink()]
    assert not any(SECRET in path.read_bytes() for path in written if path.is_file())
    assert secret.read_bytes() == SECRET


@pytest.mark.parametrize(
    ("output", "name"),
    [
        pytest.param("answers", ".part-000001.parquet.unfinished", id="part"),
        pytest.param("answers", ".manifest.json.unfinished", id="manifest"),
        pytest.param("a.jsonl", "../.a.jsonl.unfinished", id="output"),
    ],
)
def test_links_under_the_names_of_unfinished_files_are_replaced(
    output: str, name: str, arguments: dict[str, Any], secret: Path, tmp_path: Path
) -> None:
    arguments.update(output=tmp_path / "out" / output, limit=2)
    predict(**arguments)
    wanted = contents(tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        path.is_file() and path.unlink()
    folder = tmp_path / "out" / (output if output == "answers" else f"{output}.parts")
    folder.mkdir(exist_ok=True)
    link = folder / name
    link.symlink_to(secret)
    if "part" in link.name:
        with pytest.raises(ValueError, match="is there already and is not from a run"):
            predict(**arguments)
        link.unlink()
    predict(**arguments)
    assert contents(tmp_path / "out") == wanted
    assert secret.read_bytes() == SECRET


def test_a_link_in_place_of_the_stage_or_a_lock(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments.update(output=tmp_path / "out" / "p.json", num_shards=2)
    for index in (0, 1):
        predict(**arguments, shard_index=index)
    home = tmp_path / "home"
    home.mkdir()
    (home / "p.json").write_text("mine")
    folder = tmp_path / "out" / "p.json.parts"
    (folder / "run_qa").symlink_to(home)
    (folder / ".lock-merge").symlink_to(home / "made-by-a-lock")
    with pytest.raises(OSError, match=r"lock-merge"):
        merge(arguments["output"])
    (folder / ".lock-merge").unlink()
    merge(arguments["output"])
    assert {path.name: path.read_text() for path in home.iterdir()} == {"p.json": "mine"}
    assert json.loads(arguments["output"].read_text()).keys() == {row["id"] for row in ROWS[:5]}


# --- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "..",
        "",
        "details_/../secret",
        "secret",
        "details_\0.parquet",
        5,
        None,
    ],
)
def test_results_name_details_beside_them_only(name: object, tmp_path: Path) -> None:
    results, _ = write_results(
        evaluate(ROWS, {row["id"]: "Ada" for row in ROWS}), tmp_path, name="dev"
    )
    content = json.loads(results.read_text())
    results.write_text(json.dumps({**content, "details": name}))
    assert "its details must be a file details_....parquet in the same folder" in told(
        qa_fast("compare", results, results)
    )


def test_rejects_hold_names_of_any_bytes(model: Path, tmp_path: Path) -> None:
    """Of a file whose name is in no encoding, the place is an escape, not the end of the run."""
    path = tmp_path / "caf\udce9.jsonl"
    path.write_bytes(jsonl([ROWS[0], {"id": "x"}]))
    run = predict(path, tmp_path / "a.jsonl", model=model, on_error="skip")
    (reject,) = map(json.loads, run.rejects.read_text().splitlines())
    assert reject["place"] == f"{path} line 2"
    assert [p.id for p in read_predictions(tmp_path / "a.jsonl")] == ["q0"]
    assert json.loads((tmp_path / "a.jsonl.manifest.json").read_text())["source"] == str(path)
