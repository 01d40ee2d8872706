"""drift() and `qa-fast drift`: figures against a plain recomputation, and what cannot be measured."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import qa_fast
from qa_fast.cli import app
from qa_fast.evaluation.comparing.drift import SAMPLE
from qa_fast.evaluation.comparing.record import record_of, sentence
from qa_fast.evaluation.comparing.record import warnings as warnings_of
from qa_fast.evaluation.comparing.turns import Schedule, Turn, schedule, speed_of, times_as_fast
from qa_fast.evaluation.statistics import mcnemar, mean_interval

from ..helpers.tiny import save_tiny_model, tiny_model, tokenizer_of

SQUAD = Path(__file__).parents[1] / "recorded" / "squad2_sample.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def pipeline_of(change: Callable[[torch.nn.Module], Any] = lambda model: model) -> Any:
    """A tiny model's, of which ``change`` makes another one."""
    tokenizer = tokenizer_of("wordpiece")
    model = change(tiny_model(tokenizer))
    return qa_fast.pipeline(model=model, tokenizer=tokenizer, device="cpu")


def in_8_bits(model: torch.nn.Module) -> Any:
    """A callable that computes with 8-bit weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own, that there are newer ways
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    return lambda **arguments: quantized(**arguments)


def failing(model: torch.nn.Module, *, one_in: int = 3) -> Any:
    """A callable that gives NaN for one in so many rows."""

    def run(**arguments: torch.Tensor) -> Any:
        found = model(**arguments)
        found.start_logits[arguments["input_ids"].sum(1) % one_in == 0] = torch.nan
        return found

    return run


def rows_of(path: Path = SQUAD, count: int | None = None, **changed: Any) -> list[dict[str, Any]]:
    """The questions of a file as rows."""
    found = [
        {
            "id": example.id,
            "question": example.question,
            "context": example.context,
            "answers": list(example.answers or ()),
            **changed,
        }
        for example in qa_fast.read_examples(path)
    ]
    return found[:count]


def without_answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "answers"} for row in rows]


def qa_fast_command(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


# --- figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("no_answer", [False, True])
def test_figures_are_those_of_both_runs(no_answer: bool, tmp_path: Path) -> None:
    """As `predict` answers and `evaluate` scores each model by itself."""
    options = {"handle_impossible_answer": no_answer, "limit": 40}
    models = pipeline_of(), pipeline_of(in_8_bits)
    found = qa_fast.drift(models[0], models[1], data=SQUAD, rounds=1, seed=3, **options)
    runs = []
    for i, model in enumerate(models):
        path = tmp_path / f"{i}.parquet"
        qa_fast.predict(SQUAD, path, model=model, **options)
        runs.append((qa_fast.evaluate(SQUAD, path, limit=40), [*qa_fast.read_predictions(path)]))
    (ours, a), (theirs, b) = runs
    total = found.variants[0].total
    assert (total.questions, total.scored) == (40, 40)
    assert total.same_text == sum(x.answer == y.answer for x, y in zip(a, b, strict=True)) < 40
    places = [[(x.answer, x.start, x.end) for x in run] for run in (a, b)]
    assert total.same_characters == sum(x == y for x, y in zip(*places, strict=True))
    assert total.changed == pytest.approx(1 - total.same_text / 40)
    for name in ("exact", "f1"):
        difference = getattr(total, name)
        assert difference.a == pytest.approx(ours.metrics[name])
        assert difference.b == pytest.approx(theirs.metrics[name])
        scores = zip(getattr(ours.scores, name), getattr(theirs.scores, name), strict=True)
        gains = [100.0 * y - 100.0 * x for x, y in scores]
        assert difference.interval == mean_interval(gains, seed=3)
    exact = [*zip(ours.scores.exact, theirs.scores.exact, strict=True)]
    only = sum(x > y for x, y in exact), sum(y > x for x, y in exact)
    assert (total.only_baseline, total.only_variant) == only
    assert total.p_value == mcnemar(*only)
    for prefix in ("HasAns", "NoAns"):
        part = found.variants[0].by_answer[prefix]
        assert part.questions == part.scored == ours.metrics[f"{prefix}_total"]
        assert part.f1.a == pytest.approx(ours.metrics[f"{prefix}_f1"])
        assert part.f1.b == pytest.approx(theirs.metrics[f"{prefix}_f1"])
    apart = {x.id: abs(x.probability - y.probability) for x, y in zip(a, b, strict=True)}
    assert total.score.median == pytest.approx(median(apart.values()))
    assert total.score.largest == pytest.approx(max(apart.values()))
    assert total.score.largest > 0
    assert apart[total.score.largest_id] == pytest.approx(total.score.largest)
    assert any("every model scores 0 on them" in note for note in found.notes) != no_answer


def test_a_model_beside_itself_has_no_drift(tiny: Path) -> None:
    found = qa_fast.drift(tiny, {}, {"dtype": "bfloat16"}, data=SQUAD, limit=12, device="cpu")
    same, half = found.variants
    assert found.baseline.name == "torch float32"
    assert (same.model.name, half.model.name) == ("torch float32 (2)", "torch bfloat16")
    assert same.total.same_text == same.total.same_characters == same.total.questions == 12
    assert (same.total.f1.a, same.total.f1.interval) == (same.total.f1.b, (0, 0))
    assert (same.total.score.largest, same.total.p_value) == (0, 1)
    assert half.total.score.largest > 0
    assert found.baseline.load_seconds > 0
    assert found.settings["turns"] == {"questions": [12], "passes": 3}
    assert found.baseline.settings["model"]["sha256"] != half.model.settings["model"]["sha256"]


def test_a_type_that_becomes_the_baselines_is_told(tiny: Path) -> None:
    found = qa_fast.drift(tiny, {"dtype": "float16"}, data=rows_of(count=2), device="cpu", rounds=1)
    note = "torch float32 (2) is asked for as float16, and computes as the baseline does on cpu"
    assert note in found.notes


def test_the_questions_of_the_package() -> None:
    rows = rows_of(SAMPLE)
    assert len(rows) == len({row["id"] for row in rows}) == 300
    assert len({row["context"] for row in rows}) == 32
    assert 100 < sum(not row["answers"] for row in rows) < 200
    assert all(gold in row["context"] for row in rows for gold in row["answers"])
    assert SAMPLE.stat().st_size < 120_000
    notice = (SAMPLE.parent / "README.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in notice
    assert "rajpurkar.github.io/SQuAD-explorer" in notice
    found = qa_fast.drift(pipeline_of(), pipeline_of(), limit=3, rounds=1)
    assert found.variants[0].total.questions == 3
    assert any("your own questions are better evidence" in note for note in found.notes)


def test_an_f1_that_is_worse_beyond_chance_is_remarked(tiny: Path) -> None:
    """A variant that knows nothing, beside a model whose answers are the gold ones."""
    good = qa_fast.pipeline(model=str(tiny), device="cpu")
    rows = rows_of(count=30)
    pairs = {"question": [r["question"] for r in rows], "context": [r["context"] for r in rows]}
    for row, answer in zip(rows, good(**pairs, align_to_words=False), strict=True):
        row["answers"] = [answer["answer"]]
    bad = qa_fast.pipeline(
        model=tiny_model(tokenizer_of("wordpiece"), seed=1), tokenizer=good.tokenizer, device="cpu"
    )
    worse, better = (
        qa_fast.drift(*pair, data=rows, rounds=1).variants[0] for pair in ((good, bad), (bad, good))
    )
    (remark,) = warnings_of(worse)
    total = worse.total.f1
    assert f"is worse beyond chance: its F1 is {total.a - total.b:.2f} points lower" in remark
    assert warnings_of(better) == []
    change = f"F1 {total.a:.2f} -> {total.b:.2f}, difference {total.b - total.a:+.2f}"
    assert change in sentence(worse)


# --- data ---------------------------------------------------------------------------------------


def test_several_files_are_scored_by_themselves_and_together(tmp_path: Path) -> None:
    """Their questions may have the same ids, and some of them no gold answers."""
    rows = rows_of(count=9)
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    parts = rows[:5], [{**row, "id": rows[0]["id"]} for row in rows[5:8]], without_answers(rows[8:])
    for file, part in zip(files, parts, strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    models = pipeline_of(), pipeline_of(in_8_bits)
    found = qa_fast.drift(*models, data=files, suite="squad2", rounds=1)
    (variant,) = found.variants
    # By the rules of SQuAD 2.0 the last question with an id counts.
    a, b, c = (variant.by_data[str(file)] for file in files)
    assert [(x.questions, x.scored) for x in (a, b, c)] == [(5, 5), (1, 1), (1, 0)]
    assert (variant.total.questions, variant.total.scored) == (7, 6)
    assert (c.exact, c.f1, c.p_value) == (None, None, None)
    assert c.score.largest_id == rows[8]["id"]
    weighted = (5 * a.f1.b + 1 * b.f1.b) / 6
    assert variant.total.f1.b == pytest.approx(weighted)
    (remark,) = found.remarks
    assert remark.startswith(
        f"{files[1]}: questions with an id that occurs again: 2 of 3, first of"
    )
    assert f"{files[2]}: no gold answers: there is no exact match and no F1" in found.notes


def test_without_gold_answers() -> None:
    models = pipeline_of(), pipeline_of(in_8_bits)
    found = qa_fast.drift(*models, data=without_answers(rows_of(count=6)), rounds=1)
    total = found.variants[0].total
    assert (total.questions, total.scored, total.exact, total.p_value) == (6, 0, None, None)
    assert total.score.largest > 0
    assert "F1" not in sentence(found.variants[0])
    assert json.loads(json.dumps(record_of(found)))["variants"][0]["f1"] is None


def test_what_a_model_cannot_answer() -> None:
    rows = rows_of()
    models = pipeline_of(), pipeline_of(failing)
    place = "the list question"
    with pytest.raises(ValueError, match=rf"^torch: {place} '\w+': .* has NaN or infinite logits"):
        qa_fast.drift(*models, data=rows, rounds=1)
    worse, better = (
        qa_fast.drift(*pair, data=rows, rounds=1, on_error="skip")
        for pair in (models, models[::-1])
    )
    failed = sum(_counts(worse.notes))
    assert 0 < failed < len(rows)
    # Those that only the variant cannot answer are answered otherwise, and score 0.
    total = worse.variants[0].total
    assert (total.questions, total.same_text) == (len(rows), len(rows) - failed)
    assert "score 0 and count as changed" in "".join(worse.notes)
    # Without the baseline's answer there is nothing to hold others against.
    total = better.variants[0].total
    assert total.questions == total.same_text == len(rows) - failed
    assert "are left out" in "".join(better.notes)
    broken = pipeline_of(partial(failing, one_in=1))
    with pytest.raises(ValueError, match="2 questions that torch could not answer are left out"):
        qa_fast.drift(broken, models[0], data=rows[:2], rounds=1, on_error="skip")


def _counts(notes: list[str]) -> list[int]:
    return [int(note.split()[0]) for note in notes if "could not answer" in note]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the data have no questions"),
        (
            [*rows_of(count=1), *without_answers(rows_of(count=1))],
            "has no gold answers in the data, not even an empty list",
        ),
        (
            [*without_answers(rows_of(count=1)), *rows_of(count=1)],
            "has gold answers in the data, and the first question has none",
        ),
        ([{"question": "Who?"}], "there is no column 'context'"),
        (["a.json", "a.json"], "No such file or directory: .a.json"),
        ([SQUAD, str(SQUAD)], "squad2_sample.json is among the data twice"),
    ],
)
def test_data_that_cannot_be_used(rows: Any, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        qa_fast.drift("no-such-model", {"dtype": "bfloat16"}, data=rows)


# --- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "variants", "options", "message"),
    [
        (None, [], {}, "there is nothing to hold against the model: say in which variant"),
        (None, ["int8"], {}, "a variant must be a dict of arguments .* got str 'int8'"),
        (
            None,
            [{"dtpe": "int8"}],
            {},
            "variant 0 has str 'dtpe'; what a variant can have is model,",
        ),
        (None, [{"dtype": "float7"}], {}, "dtype must be 'float32', .* got 'float7'"),
        (SimpleNamespace(), [{}], {}, "must be a name, a folder, or what pipeline.. returned; got"),
        (None, [{}], {"rounds": 0}, "rounds must be an integer of at least 1; got 0"),
        (None, [{}], {"limit": 0}, "limit must be an integer of at least 1; got 0"),
        (None, [{}], {"suite": "squad3"}, "suite must be one of .* got 'squad3'"),
        (None, [{}], {"null_threshold": 1.0}, "null_threshold=1.0 is of use with"),
    ],
)
def test_arguments_that_cannot_be_used(
    model: Any, variants: list[Any], options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        qa_fast.drift(model, *variants, data=rows_of(count=1), **options)


def test_a_model_that_is_there_is_not_changed() -> None:
    """Of its weights in another type there would be no baseline left."""
    qa = pipeline_of()
    with pytest.raises(ValueError, match=r"variant 0 is made of a model that is named, .* got a"):
        qa_fast.drift(qa, {"dtype": "bfloat16"}, data=rows_of(count=1))
    with pytest.raises(ValueError, match="device: give it where the pipeline is made"):
        qa_fast.drift(qa, qa, data=rows_of(count=1), device="cpu")
    assert qa.model.dtype == torch.float32


# --- turns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("questions", "rounds", "sizes", "passes"),
    [
        (1, 3, [1], 3),
        (512, 1, [512], 1),
        (513, 3, [256, 257], 2),
        (2000, 3, [500] * 4, 1),
        (2000, 5, [500] * 4, 2),
    ],
)
def test_turns_are_of_equal_sizes(
    questions: int, rounds: int, sizes: list[int], passes: int
) -> None:
    assert schedule(questions, rounds, off_cpu=False) == Schedule(sizes, passes)
    assert schedule(questions, rounds, off_cpu=True) == Schedule([questions], rounds)


def test_times_are_medians_of_turns() -> None:
    turns = [Turn(10, 1.0, 2.0, 0.5), Turn(10, 4.0, 9.0, 2.0), Turn(20, 4.0, 6.0, 2.5)]
    speed = speed_of(turns)
    assert speed.questions_per_second == 5
    assert speed.forward_questions_per_second == 8
    assert (speed.milliseconds, speed.cpu_milliseconds) == (200, 300)
    assert times_as_fast([6, 1, 8], [2, 1, 2]) == (3, 1, 4)


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_all(tiny: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "drift.json"
    rows = [{**row, "query": row.pop("question")} for row in rows_of(count=20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    args = ["drift", tiny, "--data", data, "--question-column", "query", "--device", "cpu"]
    args += ["--variant", "torch:bfloat16", "--no-answer", "--rounds", "2", "--limit", "18"]
    result = qa_fast_command(*args, "--dtype", "float32", "-o", out)
    assert result.exit_code == 0, result.stderr
    written = json.loads(out.read_text(encoding="utf-8"))
    lines = result.stdout.splitlines()
    names = [line for line in lines if line.startswith("torch ")]
    assert [line.split("  ")[0] for line in names[:3]] == [
        "torch float32",
        "torch float32 (2)",
        "torch bfloat16",
    ]
    assert "100.00%" in names[1]
    assert "18 questions, 18 of them scored by the rules of SQuAD 2.0" in result.stdout
    assert [line for of in written["variants"] for line in of["in_words"][:1]] == names[3:]
    assert "\x1b" not in result.stdout
    assert f"written: {out}" in result.stderr
    settings = written["settings"]
    assert settings["options"]["handle_impossible_answer"] is True
    assert (settings["limit"], settings["rounds"]) == (18, 2)
    assert settings["data"] == {str(data): 18}
    assert settings["threads"] == torch.get_num_threads()
    assert written["machine"]["cores"] > 0
    assert {"torch", "transformers", "qa_fast"} <= written["versions"].keys()
    assert written["date"]
    assert written["baseline"]["questions_per_second"] > 0
    half = written["variants"][1]
    assert half["f1"]["difference"] == half["f1"]["variant"] - half["f1"]["baseline"]
    direct = qa_fast.drift(
        tiny,
        {"dtype": "bfloat16"},
        data=rows_of(count=18),
        device="cpu",
        rounds=1,
        handle_impossible_answer=True,
    )
    assert half["same_text"] == direct.variants[0].total.same_text
    assert half["score_difference"]["largest"] == direct.variants[0].total.score.largest


def test_the_command_as_json_and_by_file(tiny: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    rows = without_answers(rows_of(count=2))
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    args = ["drift", tiny, "--dtype", "bfloat16", "--device", "cpu", "--rounds", "1"]
    args += ["--data", SQUAD, "--data", plain, "--limit", "3"]
    result = qa_fast_command(*args, "--json")
    assert result.stdout.count("\n") == 1
    (variant,) = json.loads(result.stdout)["variants"]
    assert {name: of["scored"] for name, of in variant["by_data"].items()} == {
        str(SQUAD): 3,
        str(plain): 0,
    }
    shown = qa_fast_command(*args).stdout
    assert re.search(rf"^{re.escape(str(plain))} +torch float32 ", shown, re.MULTILINE)
    assert shown.count("torch bfloat16") == 4


def test_the_bundled_model_in_16_bits() -> None:
    result = qa_fast_command(
        "drift",
        "bundled",
        "--dtype",
        "bfloat16",
        "--limit",
        "20",
        "--rounds",
        "1",
        "--device",
        "cpu",
        "--json",
    )
    found = json.loads(result.stdout)
    (variant,) = found["variants"]
    assert variant["questions"] == 20
    assert variant["same_text"] >= 15
    assert 30 < found["variants"][0]["f1"]["baseline"] <= 100
    assert 0 < variant["score_difference"]["largest"] < 0.2
    assert "your own questions are better evidence" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["M"], "nothing to hold against the model: give a variant, by --backend, --dtype or"),
        (["M", "--variant", "torch:int3", "--data", SQUAD], "dtype must be 'float32'"),
        (["M", "--variant", "tpu:int8"], "--variant is BACKEND:TYPE, such as openvino:int8"),
        (
            ["M", "--dtype", "bfloat16", "-o", "/nowhere/x.json"],
            "/nowhere/x.json: cannot be written",
        ),
        (["M", "--dtype", "bfloat16", "--data", "none.json"], "none.json: no such file"),
        (["M", "--dtype", "bfloat16", "--rounds", "0"], "Invalid value for '--rounds'"),
        (["M", "--dtype", "bfloat16", "--suite", "mlqa"], "language"),
    ],
)
def test_mistakes_are_one_line(args: list[Any], message: str) -> None:
    result = qa_fast_command("drift", *args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert message in result.stderr
