"""Files and disks that are closed, full, gone or moving: told in one line, nothing left half-written."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qa_fast import Example, evaluate, predict
from qa_fast.evaluation.comparing.compare import read_scored_answers
from qa_fast.evaluation.results import write_results
from qa_fast.files.reading import fingerprint
from qa_fast.files.writing import atomic

from ..helpers.sound_files import (
    OUTPUTS,
    PREDICTIONS,
    ROWS,
    contents,
    jsonl,
    parquet,
    predicted,
    qa_fast,
    texts,
    told,
)
from ..helpers.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    """A tiny model that every user may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_model(Path(name))
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def wanted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What each output holds after an undisturbed run."""
    found = {}
    for name in OUTPUTS:
        folder = tmp_path_factory.mktemp("wanted")
        predict(ROWS, folder / name, model=model, part_rows=2)
        found[name] = contents(folder)
    return found


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    path = tmp_path / "dev.jsonl"
    path.write_bytes(jsonl(ROWS))
    return path


def whole(folder: Path) -> set[str]:
    """The files that stand there as if they were finished results."""
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    return names & {"a.jsonl", "a.parquet", "predictions.json", "rejects.jsonl", "r.html"}


# --- what lasts ---------------------------------------------------------------------------------


def test_a_file_gets_its_name_when_it_is_on_the_disk_and_then_that_lasts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps, real = tmp_path / "a.json", [], os.fsync

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        kind = "folder" if os.path.samestat(found, tmp_path.stat()) else found.st_size
        steps.append((kind, path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(path) as temporary:
        temporary.write_bytes(b"whole")
    assert steps == [(len(b"whole"), False), ("folder", True)]


@pytest.mark.parametrize("name", OUTPUTS)
def test_whatever_a_run_leaves_is_on_the_disk(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, real = set(), os.fsync

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        synced.add((found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    predict(ROWS, tmp_path / name, model=model, part_rows=2)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) > 1
    for path in left:
        found = path.stat()
        assert (found.st_ino, found.st_size) in synced, path
        assert (path.parent.stat().st_ino, None) in synced, path.parent


# --- no permission ------------------------------------------------------------------------------


@contextmanager
def other_user() -> Iterator[None]:
    """As a user without privileges: root may read and write everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for every user, with questions, predictions, and a folder of both in Parquet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "dev.jsonl").write_bytes(jsonl(ROWS))
        (folder / "p.json").write_bytes(texts(None))
        for i in (0, 1):
            (folder / "many" / f"day={i}").mkdir(parents=True)
            (folder / "many" / f"day={i}" / "x.parquet").write_bytes(
                parquet(ROWS[3 * i : 3 * i + 3])
            )
        yield folder


@pytest.mark.parametrize(
    ("closed", "command"),
    [
        pytest.param("dev.jsonl", ["predict", "{f}/dev.jsonl", "-o", "{f}/a.jsonl"], id="data"),
        pytest.param("many", ["predict", "{f}/many", "-o", "{f}/a.jsonl"], id="folder"),
        pytest.param("many/day=1", ["predict", "{f}/many", "-o", "{f}/a.jsonl"], id="one-of-two"),
        pytest.param("many/day=0/x.parquet", ["predict", "{f}/many", "-o", "{f}/a.jsonl"], id="file"),
        pytest.param("dev.jsonl", ["evaluate", "{f}/dev.jsonl", "{f}/p.json"], id="gold"),
        pytest.param("p.json", ["evaluate", "{f}/dev.jsonl", "{f}/p.json"], id="predictions"),
        pytest.param("p.json", ["compare", *2 * ["{f}/p.json"], "--data", "{f}/dev.jsonl"], id="cmp"),
        pytest.param("dev.jsonl", ["ask", "Who?", "-c", "{f}/dev.jsonl"], id="ask"),
    ],
)  # fmt: skip
def test_no_right_to_read(closed: str, command: list[str], open_folder: Path, model: Path) -> None:
    command = [part.replace("{f}", str(open_folder)) for part in command]
    if command[0] in ("predict", "ask"):
        command += ["--model", str(model)]
    path = open_folder / closed
    mode = path.stat().st_mode
    path.chmod(0)
    with other_user():
        message = told(qa_fast(*command))
    assert f"{path}: permission denied: give this user the right to it" in message
    path.chmod(mode)
    with other_user():
        result = qa_fast(*command)
    assert result.exit_code == 0, result.output
    if command[0] == "predict":
        assert len((open_folder / "a.jsonl").read_text().splitlines()) == len(ROWS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_right_to_write(
    name: str, open_folder: Path, model: Path, wanted: dict[str, dict[str, bytes]]
) -> None:
    folder = open_folder / "out"
    folder.mkdir(mode=0o555)
    command = ["predict", open_folder / "dev.jsonl", "-o", folder / name, "--model", model]
    command += ["--part-rows", 2]
    with other_user():
        assert "permission denied: give this user the right" in told(qa_fast(*command))
    assert list(folder.iterdir()) == []
    folder.chmod(0o777)
    with other_user():
        assert qa_fast(*command).exit_code == 0
    assert contents(folder) == wanted[name]


def test_a_report_that_cannot_be_written_is_told_before_the_work(open_folder: Path) -> None:
    folder = open_folder / "out"
    folder.mkdir(mode=0o555)
    command = ["evaluate", open_folder / "dev.jsonl", open_folder / "p.json"]
    # What is imported, is imported now: the other user may not read Python's modules.
    assert qa_fast(*command, "--results", open_folder / "results").exit_code == 0
    for option in ("--report", "-o"):
        with other_user():
            assert "x.html: cannot be written" in told(qa_fast(*command, option, folder / "x.html"))
    with other_user():
        assert "permission denied" in told(qa_fast(*command, "--results", folder / "new"))
    assert list(folder.iterdir()) == []


# --- no room ------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("size", [100, 3500])
def test_no_room_for_a_file(
    size: int,
    name: str,
    dev: Path,
    model: Path,
    wanted: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    """Too little for a manifest, and for a part."""
    out = tmp_path / "out"
    command = ["predict", dev, "-o", out / name, "--model", model, "--part-rows", 2]
    with file_size_limit(size):
        result = qa_fast(*command)
    message = told(result)
    assert f"{out}/" in message
    assert "file too large: allow larger files (ulimit -f)" in message
    assert whole(out) == set()
    assert not list(out.rglob("*unfinished"))
    assert qa_fast(*command).exit_code == 0
    assert contents(out) == wanted[name]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 48 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", path]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a disk")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("name", OUTPUTS)
def test_full_disk(
    name: str,
    disk: Path,
    dev: Path,
    model: Path,
    wanted: dict[str, dict[str, bytes]],
) -> None:
    """Room for the first part, and none for the second."""
    (disk / "filler").write_bytes(bytes(36 << 10))
    command = ["predict", dev, "-o", disk / name, "--model", model, "--part-rows", 2]
    message = told(qa_fast(*command))
    assert f"{disk}/" in message
    assert "no space left on device: make room, then run the same command again" in message
    assert whole(disk) == set()
    assert not list(disk.rglob("*unfinished"))
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
    assert qa_fast(*command).exit_code == 0
    assert contents(disk) == wanted[name]


def test_read_only_disk(disk: Path, dev: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(texts(None))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    predicting = ["predict", dev, "--model", model, "-o"]
    assert "read-only file system: name an output in a place" in told(
        qa_fast(*predicting, disk / "a.jsonl")
    )
    scoring = ["evaluate", dev, tmp_path / "p.json"]
    assert "cannot be written" in told(qa_fast(*scoring, "--report", disk / "r.html"))
    assert "read-only file system" in told(qa_fast(*scoring, "--results", disk / "results"))
    assert list(disk.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,rw,size=1m", disk], check=True)
    assert qa_fast(*predicting, disk / "a.jsonl").exit_code == 0
    assert qa_fast(*scoring, "--report", disk / "r.html").exit_code == 0


def test_no_room_for_results_and_a_report(dev: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(texts(None))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "r.html").write_text("an older report")
    command = ["evaluate", dev, tmp_path / "p.json"]
    for option, name in (("--results", "out"), ("--report", "out/r.html"), ("-o", "out/e.json")):
        with file_size_limit(100):
            assert "file too large" in told(qa_fast(*command, option, tmp_path / name))
    assert contents(tmp_path / "out") == {"r.html": b"an older report"}


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        pytest.param("/dev/full", 2, "standard output: no space left on device", id="full"),
        pytest.param("closed", 1, "", id="closed-pipe"),
    ],
)
def test_standard_output_that_takes_nothing(
    target: str, code: int, said: str, dev: Path, tmp_path: Path
) -> None:
    """No traceback; as by `| head`, no message either where the reader has gone."""
    (tmp_path / "p.json").write_bytes(texts(None))
    if target == "closed":
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open(target, os.O_WRONLY)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from qa_fast.cli import main; main()",
            "evaluate",
            dev,
            tmp_path / "p.json",
        ],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(output)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)


def test_standard_streams_that_are_closed(dev: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(texts(None))
    code = "from qa_fast.cli import main; main()"
    for streams, arguments, exit_code, said in (
        ("<&- >&-", ["evaluate", dev, tmp_path / "p.json"], 0, ""),
        ("<&-", ["predict", "-", "-o", tmp_path / "a.jsonl"], 2, "standard input is empty"),
        (">&- 2>&-", ["compare", "none.json", "none.json"], 2, ""),
    ):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {streams}', sys.executable, "-c", code, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == exit_code, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


# --- no regular files ---------------------------------------------------------------------------


@contextmanager
def pipe_with(path: Path, data: bytes) -> Iterator[Path]:
    """A named pipe at ``path`` from which ``data`` can be read."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    yield path
    writer.join()


def test_pipes_are_read_once(
    model: Path, wanted: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """As from a shell's <(...)."""
    out = tmp_path / "out" / "a.jsonl"
    with pipe_with(tmp_path / "data", jsonl(ROWS)) as pipe:
        result = qa_fast("predict", pipe, "-o", out, "--model", model, "--part-rows", 2)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "out") == wanted["a.jsonl"]
    with (
        pipe_with(tmp_path / "gold", jsonl(ROWS)) as gold,
        pipe_with(tmp_path / "predictions", texts(None)) as predictions,
    ):
        assert qa_fast("evaluate", gold, predictions).exit_code == 0
    with pipe_with(tmp_path / "text", b"Ada wrote it.") as pipe:
        assert qa_fast("ask", "Who?", "-c", pipe, "--model", model).exit_code == 0
    os.mkfifo(tmp_path / "p.parquet")
    assert "is no regular file, which Parquet must be" in told(
        qa_fast("predict", tmp_path / "p.parquet", "-o", tmp_path / "b.jsonl")
    )


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "/dev/zero", "-o", "{tmp}/a.jsonl"],
        ["evaluate", "/dev/zero", "{tmp}/p.json"],
        ["evaluate", "{tmp}/dev.jsonl", "/dev/zero"],
        ["evaluate", "{tmp}/dev.jsonl", "{tmp}/p.json", "-n", "/dev/zero"],
        ["compare", "/dev/zero", "/dev/zero", "--data", "{tmp}/dev.jsonl"],
        ["ask", "Who?", "-c", "/dev/zero"],
        ["ask", "Who?", "-c", "/dev/null"],
    ],
)
def test_devices_are_refused(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "p.json").write_bytes(texts(None))
    message = told(qa_fast(*(part.replace("{tmp}", str(tmp_path)) for part in command)))
    assert "is a device; name a file" in message


def test_outputs_that_are_no_files(dev: Path, model: Path, tmp_path: Path) -> None:
    """A device is written to and stays one; a file where a folder must be is told."""
    (tmp_path / "p.json").write_bytes(texts(None))
    before = Path("/dev/null").stat()
    assert qa_fast("evaluate", dev, tmp_path / "p.json", "-o", "/dev/null").exit_code == 0
    assert (Path("/dev/null").stat().st_mode, Path("/dev/null").stat().st_ino) == (
        before.st_mode,
        before.st_ino,
    )
    (tmp_path / "answers").write_text("mine")
    for output, reason in (
        ("answers", "file exists: name another, or remove it"),
        ("answers/a.jsonl", ""),
    ):
        message = told(qa_fast("predict", dev, "-o", tmp_path / output, "--model", model))
        assert reason in message
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert (
        qa_fast("evaluate", dev, tmp_path / "p.json", "-o", tmp_path / "link.json").exit_code == 0
    )
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text().startswith("{")
    assert (tmp_path / "answers").read_text() == "mine"


def test_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = told(qa_fast("predict", tmp_path / "empty", "-o", tmp_path / "a.jsonl"))
    assert "there is no .parquet file in this folder" in message
    (tmp_path / "empty" / "x.parquet").write_bytes(parquet({"question": [], "context": []}))
    message = told(qa_fast("predict", tmp_path / "empty", "-o", tmp_path / "a.jsonl"))
    assert "holds no questions" in message
    with pytest.raises(ValueError, match="the list_iterator holds no questions"):
        predict(iter([]), tmp_path / "a.jsonl")


def test_large_files_are_told_apart_by_their_ends_and_by_what_is_between(tmp_path: Path) -> None:
    """Of a file over 64 MiB only samples are hashed."""
    size = (64 << 20) + 5000
    found = []
    for place in (None, 0, size // 3, size - 1):
        path = tmp_path / "q.jsonl"
        with path.open("wb") as file:
            file.truncate(size)
            if place is not None:
                file.seek(place)
                file.write(b"x")
        found.append(str(fingerprint(path)))
    assert len(set(found)) == 4


# --- data that changes meanwhile ----------------------------------------------------------------


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(jsonl([{**ROWS[0], "id": "more"}]))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 90)


def edit(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data.replace(b"note 4", b"note 9"))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        pytest.param(grow, "changed", id="grows"),
        pytest.param(shrink, "changed", id="shrinks"),
        pytest.param(edit, "changed", id="same-size"),
        pytest.param(replace, "replaced by another file", id="replaced"),
        pytest.param(Path.unlink, "removed", id="removed"),
    ],
)
@pytest.mark.parametrize("form", [jsonl, parquet], ids=["jsonl", "parquet"])
def test_data_that_changes_while_it_is_answered(
    change: Callable[[Path], None],
    how: str,
    form: Callable[[Any], bytes],
    model: Path,
    wanted: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    """In the second of three parts: the first is kept, no other is written, and the old data goes on."""
    data = tmp_path / f"q.{form.__name__}"
    data.write_bytes(form(ROWS))
    done = 0

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        if done == 3:
            change(data)

    arguments: dict[str, Any] = {
        "output": tmp_path / "out" / "answers",
        "model": model,
        "part_rows": 2,
    }
    with pytest.raises(ValueError, match=rf"q\.\w+ was {how} while it was read.*run again"):
        predict(data, progress=report, **arguments)
    first = "answers/part-000000.parquet"
    assert contents(tmp_path / "out") == {first: wanted["answers"][first]}
    data.write_bytes(form(ROWS[:-1]))
    with pytest.raises(ValueError, match="holds a run with other settings: input"):
        predict(data, **arguments)
    data.write_bytes(form(ROWS))
    predict(data, **arguments)
    assert contents(tmp_path / "out") == wanted["answers"]


def test_files_that_change_while_they_are_scored(dev: Path, tmp_path: Path) -> None:
    def predictions() -> Iterator[Any]:
        yield from PREDICTIONS
        grow(dev)

    with pytest.raises(ValueError, match=r"dev\.jsonl was changed while it was read"):
        evaluate(dev, predictions())
    assert evaluate(dev, predicted_file(tmp_path)).metrics["total"] == len(ROWS) + 1


def predicted_file(folder: Path) -> Path:
    path = folder / "p.parquet"
    path.write_bytes(predicted(None))
    return path


def test_lone_surrogates_in_results(tmp_path: Path) -> None:
    rows = [{**row, "question": "Who \ud800?", "answers": ["Ada \udfff"]} for row in ROWS]
    found = evaluate(rows, {row["id"]: "Ada \udfff" for row in ROWS})
    results, _ = write_results(found, tmp_path, name="\ud800")
    assert r"Who \ud800?" in read_scored_answers(results)[0].question
    with pytest.raises(ValueError, match=r"row 0: id is not valid Unicode: '\\ud800'"):
        predict([Example("\ud800", "Who?", "Ada.")], tmp_path / "a.jsonl")


def test_results_whose_details_are_gone_or_another_run_s(dev: Path, tmp_path: Path) -> None:
    results, details = write_results(evaluate(dev, PREDICTIONS), tmp_path, name="dev")
    assert qa_fast("compare", results, details).exit_code == 0
    details.write_bytes(predicted(None))
    assert "is not a result of qa-fast evaluate" in told(qa_fast("compare", results, results))
    details.unlink()
    assert f"{details}: no such file" in told(qa_fast("compare", results, results))
