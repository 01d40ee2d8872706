"""evaluate(), its files, `qa-fast evaluate`, `qa-fast compare` and show(), run for real."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

import qa_fast
from qa_fast.cli import app
from qa_fast.data.answers import Prediction, na_prob
from qa_fast.data.predictions import write_jsonl
from qa_fast.evaluation.comparing.compare import compare, read_scored_answers, scored_answers
from qa_fast.evaluation.results import write_results
from qa_fast.evaluation.statistics import mean_interval
from qa_fast.pages.images import write_images

DATA = Path(__file__).parents[1] / "recorded"
SAMPLE = DATA / "squad2_sample.json"
PREDICTIONS = DATA / "squad2_sample_pred.json"
NA_PROB = DATA / "squad2_sample_na.json"
IMAGES = {f"pr_{of}.png" for of in ("exact", "f1", "oracle")}
IMAGES |= {f"na_prob_hist_{of}.png" for of in ("hasAns", "noAns")}
SCORES = json.loads((DATA / "squad2_sample_scores.json").read_text(encoding="utf-8"))


def row(id_: str = "1", answers: Any = ("Ada",), **extra: Any) -> dict[str, Any]:
    found = {"id": id_, "question": "Who?", "context": "It was Ada.", "answers": answers, **extra}
    return {**found, "answers": None if answers is None else list(answers)}


def qa_fast_command(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


def logit(answer: str, score: float) -> Any:
    return {"score": score, "start": 7, "end": 10, "answer": answer}


# --- evaluate() ---------------------------------------------------------------------------------


def test_missing_and_left_over_predictions_are_told() -> None:
    found = qa_fast.evaluate([row("a"), row("b"), row("c", [])], {"a": "Ada", "z": "x", "c": ""})
    assert found.metrics["exact"] == pytest.approx(200 / 3)
    assert found.metrics["HasAns_exact"] == 50
    assert found.notes == [
        "1 of 3 questions have no prediction and score 0, the first of them 'b'",
        "1 predictions are of no question in the data, the first 'z'",
    ]


def test_tuned_thresholds_are_labelled() -> None:
    found = qa_fast.evaluate(SAMPLE, PREDICTIONS, na_prob=NA_PROB)
    assert found.metrics["best_f1"] > found.metrics["f1"]
    assert any("thresholds that are best on these very questions" in note for note in found.notes)
    assert not qa_fast.evaluate(SAMPLE, PREDICTIONS).notes


def test_null_scores_give_no_answer_probabilities() -> None:
    predictions = [
        Prediction("a", "Ada", 7, 10, 5.0, 1.0, [logit("Ada", 5.0), logit("It", 2.0)], 1, 0.25),
        Prediction("b", "Ada", 7, 10, 3.0, 4.0, [logit("Ada", 3.0), logit("It", 2.0)], 1, 0.75),
    ]
    found = qa_fast.evaluate([row("a"), row("b", [])], predictions, na_prob_thresh=0.5)
    assert found.settings["scoring"] == "logit"
    assert found.na_prob == [na_prob(-4), na_prob(1)]
    assert found.answers == ["Ada", ""]
    assert found.metrics["exact"] == 100
    assert found.precision_recall["oracle"].average_precision == 100
    # Where the threshold chose, what it chose by.
    assert found.confidence == [0.25, na_prob(1)]
    assert found.calibration["no answer"].total.sum() == 2


LACK = "predictions do not say how probable their answer is"


@pytest.mark.parametrize(
    ("scoring", "score", "probability", "confidence"),
    [
        ("logit", 7.5, 0.8, 0.8),
        ("probability", 0.5, 0.8, 0.8),
        ("shared", 0.5, 0.8, 0.8),
        (None, 0.5, 0.8, 0.8),
        # As older versions wrote them: a score of "shared" is one; but nobody may have said so.
        ("shared", 0.8, None, 0.8),
        ("shared", 1.0000001, None, 1.0),
        ("logit", 7.5, None, None),
        ("probability", 0.8, None, None),
        (None, 0.8, None, None),
    ],
)
def test_the_confidence_is_the_probability_of_the_answer(
    scoring: Any, score: float, probability: float | None, confidence: float | None
) -> None:
    """And never a share among the n best."""
    n_best = [logit("Ada", score), logit("It", score / 2)]
    mine = Prediction("1", "Ada", 7, 10, score, 0.1, n_best, 1, probability)
    found = qa_fast.evaluate([row()], [mine], scoring=scoring)
    assert found.confidence == [confidence]
    known = confidence is not None
    assert ("answer" in found.calibration) == known
    if known:
        assert found.calibration["answer"].ece == pytest.approx(1 - confidence)
    assert sum(f"1 of 1 {LACK}" in note for note in found.notes) == (not known)


def test_answers_without_a_probability_are_counted_once() -> None:
    predictions = [
        *(Prediction(str(i), "Ada", score=2.0) for i in range(3)),
        Prediction("3", "Ada", score=2.0, probability=0.5),
        Prediction("4", "", null_score=1.0),  # a model that rules out all
    ]
    data = [row(str(i)) for i in range(6)]
    found = qa_fast.evaluate(data, predictions, scoring="logit")
    assert found.confidence == [None] * 3 + [0.5, None, None]
    assert found.calibration["answer"].total.sum() == 1
    (note,) = [note for note in found.notes if LACK in note]
    assert note == (
        f"3 of 5 {LACK}, as those of older versions and of other programs do not: they have no "
        "confidence and no part in its calibration. Answering again with predict, to Parquet or "
        "JSONL, stores it"
    )
    assert not qa_fast.evaluate(data, {str(i): "Ada" for i in range(6)}).notes


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=rf"must be from 0 to 1; got .*{probability} of 'q'"):
        qa_fast.evaluate([row("q")], [Prediction("q", "Ada", probability=probability)])


def test_intervals_are_those_of_the_questions_they_are_about() -> None:
    found = qa_fast.evaluate(SAMPLE, PREDICTIONS, seed=5)
    answerable = [
        100.0 * f1 for f1, e in zip(found.scores.f1, found.examples, strict=True) if e.answers
    ]
    assert found.intervals["HasAns_f1"] == mean_interval(answerable, seed=5)
    assert set(found.intervals) == {k for k in found.metrics if not k.endswith("total")}


@pytest.mark.parametrize(
    ("data", "predictions", "options", "message"),
    [
        ([], {"1": "x"}, {}, "the data have no questions"),
        ([row(answers=None)], {"1": "x"}, {}, "question '1' has no gold answers in the data"),
        ([row(answers=[])], {"1": "x"}, {"rules": "1.1"}, "question '1' is unanswerable"),
        ([row()], {"2": "x"}, {}, "no prediction is of a question .* '1'; .* first is of '2'"),
        ([row()], {}, {}, "no prediction .* of the predictions there are none"),
        ([row()], [Prediction("1", "a")] * 2, {}, "id '1' occurs twice in the predictions"),
        ([row()], None, {}, "either predictions or a model is needed; neither was given"),
        ([row()], {"1": "x"}, {"model": "m"}, "either .* both were given"),
        ([row()], {"1": "x"}, {"top_k": 3}, "top_k is for a model's answers"),
        ([row()], {"1": "x"}, {"rules": "3"}, "rules must be '1.1' or '2.0'; got '3'"),
        ([row()], {"1": "x"}, {"rules": "1.1", "na_prob": {}}, "SQuAD 1.1 have no no-answer prob"),
        (
            [row()],
            {"1": "x"},
            {"suite": "xquad", "na_prob_thresh": 0.5},
            "na_prob_thresh cannot be",
        ),
        ([row()], {"1": "x"}, {"na_prob": {}}, "na_prob must have .* got nothing for '1'"),
        ([row()], {"1": "x"}, {"na_prob": {"1": float("nan")}}, "got float nan for '1'"),
        ([row()], {"1": "x"}, {"na_prob": {"1": "no"}}, "got str 'no' for '1'"),
        ([row()], {"1": "x"}, {"normalizer": "mlqa"}, "'mlqa' needs one of its languages"),
    ],
)
def test_what_cannot_be_scored(data: Any, predictions: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qa_fast.evaluate(data, predictions, **options)


def test_bad_na_prob_files(tmp_path: Path) -> None:
    file = tmp_path / "na.json"
    for content, message in (("[1]", "must be an object from ids"), ("{", "not JSON")):
        file.write_text(content)
        with pytest.raises(ValueError, match=rf"na\.json: {message}"):
            qa_fast.evaluate([row()], {"1": "x"}, na_prob=file)


# --- from a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which predict and evaluate have run."""
    folder = tmp_path_factory.mktemp("guide")
    for command in (
        f"predict {SAMPLE} --output {folder}/answers.parquet --top-k 10",
        f"evaluate {SAMPLE} {folder}/answers.parquet --results {folder}/results -o {folder}/eval.json",
        f"evaluate {SAMPLE} {folder}/answers.parquet --report {folder}/report.html",
        f"evaluate {SAMPLE} {folder}/answers.parquet -t 1e-5 --results {folder}/stricter",
    ):
        result = qa_fast_command(*command.split())
        assert result.exit_code == 0, result.output
    return folder


def test_results_record_how_they_came_about(answered: Path) -> None:
    (file,) = (answered / "results").glob("results_*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    metrics = found["results"]["squad2_sample"]
    assert metrics == json.loads((answered / "eval.json").read_text())
    assert metrics["total"] == 68
    assert 65 < metrics["HasAns_exact"] < 75
    assert found["confidence_intervals"]["squad2_sample"]["f1"][0] < metrics["f1"]
    assert found["tuned_on_these_data"] == sorted(k for k in metrics if k.startswith("best_"))
    assert set(found["average_precision"]) == {"exact", "f1", "oracle"}
    assert found["settings"]["suite"] == "squad2"
    assert found["settings"]["bootstrap"] == {
        "resamples": 9999,
        "confidence_level": 0.95,
        "seed": 0,
    }
    assert {"python", "qa_fast", "numpy", "scipy", "torch"} <= found["versions"].keys()
    run = found["prediction_run"]["settings"]
    assert len(run["model"]["sha256"]) == 64
    assert run["dtype"] == "float32"
    assert run["options"]["max_seq_len"] == 384
    assert run["options"]["doc_stride"] == 128
    assert run["versions"]["torch"] == found["versions"]["torch"]
    assert isinstance(found["command_line"], list)
    assert "Speed" in (answered / "report.html").read_text(encoding="utf-8")


def test_details_hold_every_question(answered: Path) -> None:
    (file,) = (answered / "results").glob("details_*.parquet")
    table = pyarrow.parquet.read_table(file)
    examples = list(qa_fast.read_examples(SAMPLE))
    assert table["id"].to_pylist() == [example.id for example in examples]
    assert table["answers"].to_pylist() == [list(example.answers or ()) for example in examples]
    metrics = json.loads((answered / "eval.json").read_text())
    for name in ("exact", "f1"):
        assert 100 * sum(table[name].to_pylist()) / 68 == pytest.approx(metrics[name])
    assert table["chunks"].to_pylist() == [1] * 68
    assert None not in table["confidence"].to_pylist()


def test_compare_the_runs(answered: Path) -> None:
    files = [next((answered / name).glob("results_*.json")) for name in ("results", "stricter")]
    result = qa_fast_command("compare", *files, "--json")
    found = json.loads(result.stdout)
    direct = compare(*(read_scored_answers(file) or [] for file in files))
    assert (found["only_a_right"], found["only_b_right"]) == (direct.only_a, direct.only_b)
    assert len(found["changed"]) == len(direct.changed) > 0
    assert found["f1"]["difference"] == pytest.approx(found["f1"]["b"] - found["f1"]["a"])
    shown = qa_fast_command("compare", *files, "--changed", "1").stdout
    assert f"p = {direct.p_value:.3g}" in shown
    assert f"1 of the {len(direct.changed)} questions whose score changed:" in shown
    assert shown.count("gold ") == 1


def test_straight_from_a_model_is_predict_then_evaluate(answered: Path) -> None:
    few = list(qa_fast.read_examples(SAMPLE))[:8]
    found = qa_fast.evaluate(few, model=qa_fast.pipeline(device="cpu"), top_k=10)
    expected = qa_fast.evaluate(few, answered / "answers.parquet")
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4)
    assert [p and p.answer for p in found.predictions] == [
        p and p.answer for p in expected.predictions
    ]
    assert found.run["settings"]["model"] == expected.run["settings"]["model"]


def test_predictions_of_every_form_score_alike(answered: Path, tmp_path: Path) -> None:
    found = list(qa_fast.read_predictions(answered / "answers.parquet"))
    expected = qa_fast.evaluate(SAMPLE, answered / "answers.parquet").metrics
    write_jsonl(found, tmp_path / "answers.jsonl")
    assert qa_fast.evaluate(SAMPLE, tmp_path / "answers.jsonl").metrics == expected
    assert qa_fast.evaluate(SAMPLE, {p.id: p.answer for p in found}).metrics["f1"] == expected["f1"]
    # Packed after the run, whose record stands beside the file as it was.
    packed = tmp_path / "answers.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "answers.jsonl").read_bytes()))
    record = (answered / "answers.parquet.manifest.json").read_bytes()
    (tmp_path / "answers.jsonl.manifest.json").write_bytes(record)
    evaluation = qa_fast.evaluate(SAMPLE, packed)
    assert evaluation.metrics == expected
    assert evaluation.run == json.loads(record)


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "options"),
    [
        ("without -n", []),
        ("-t 1.0", ["-n", NA_PROB, "-t", "1.0"]),
        ("-t 1.0", ["-n", NA_PROB, "-p", "images"]),
        (
            "-t -10",
            ["--na-prob-file", NA_PROB, "--na-prob-thresh", "-10", "--out-image-dir", "new/i"],
        ),
    ],
)
def test_called_like_the_official_script(
    run: str, options: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Average precisions are keys where the curves are drawn, and only there."""
    monkeypatch.chdir(tmp_path)
    drawn = "images" in options or "new/i" in options
    expected = {key: value for key, value in SCORES[run].items() if drawn or "pr_" not in key}
    printed = json.loads(qa_fast_command("evaluate", SAMPLE, PREDICTIONS, *options).stdout)
    assert list(printed) == list(expected)
    assert printed == pytest.approx(expected, rel=1e-14)
    assert {path.name for path in tmp_path.rglob("*.png")} == (IMAGES if drawn else set())
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.rglob("*.png"))
    written = tmp_path / "eval.json"
    result = qa_fast_command("evaluate", SAMPLE, PREDICTIONS, *options, "-o", written)
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(written.read_text()) == printed


def test_images_are_of_the_questions_there_are(tmp_path: Path) -> None:
    rows = [row("a", []), row("b", [])]
    found = qa_fast.evaluate(rows, {"a": "", "b": "x"}, na_prob={"a": 3.5, "b": -2.0})
    assert [path.name for path in write_images(found, tmp_path)] == ["na_prob_hist_noAns.png"]
    with pytest.raises(ValueError, match="no no-answer probabilities"):
        write_images(qa_fast.evaluate(rows, {"a": ""}), tmp_path)


def test_without_torch_and_with_one_line_per_note() -> None:
    code = f"""
import sys
from qa_fast.cli import main
sys.argv = ["qa-fast", "evaluate", {str(SAMPLE)!r}, {str(PREDICTIONS)!r}, "-n", {str(NA_PROB)!r}]
try:
    main()
finally:
    loaded = [name for name in ("torch", "transformers", "matplotlib") if name in sys.modules]
    print("loaded", loaded, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    note, rules, loaded = done.stderr.splitlines()
    assert rules == "rules of SQuAD 2.0 (rajpurkar.github.io/SQuAD-explorer evaluate-v2.0.py)"
    assert note.startswith("note: best_exact and best_f1 use the thresholds")
    assert loaded == "loaded []"
    assert json.loads(done.stdout)["total"] == 68


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([SAMPLE], "either PREDICTIONS or --model is needed; neither was given"),
        ([SAMPLE, PREDICTIONS, "--model", "bundled"], "both were given"),
        ([SAMPLE, PREDICTIONS, "--no-answer"], "are for --model"),
        (["missing.json", PREDICTIONS], "missing.json: no such file"),
        ([SAMPLE, "missing.json"], "missing.json"),
        ([SAMPLE, PREDICTIONS, "--language", "de"], "'squad2' knows no languages"),
        (
            [SAMPLE, PREDICTIONS, "--suite", "squad3"],
            "--suite must be one of squad1, squad2, xquad,",
        ),
        (
            [SAMPLE, PREDICTIONS, "--suite", "arcd"],
            "ARCD does not know; the suite squad2 does",
        ),
        ([SAMPLE, PREDICTIONS, "--skip-no-answer"], "--skip-no-answer is of MRQA's script; SQuAD"),
        ([SAMPLE, PREDICTIONS, "-p", "."], "there are none: give them with -n"),
        (
            [SAMPLE, PREDICTIONS, "-p", ".", "--suite", "persianqa"],
            "none by the rules of PersianQA (method two)",
        ),
        ([SAMPLE, PREDICTIONS, "-p", SAMPLE], "squad2_sample.json: file exists: name another"),
        ([SAMPLE, PREDICTIONS, "--normalizer", "mlqa", "--language", "th"], "got language='th'"),
        ([SAMPLE, PREDICTIONS, "--rules", "1.1"], "is unanswerable"),
        ([DATA / "golden.jsonl", PREDICTIONS, "--answers-column", "gold"], "no column 'gold'"),
        ([SAMPLE, PREDICTIONS, "--report", "no/such/folder/r.html"], "no/such/folder/r.html"),
    ],
)
def test_mistakes_are_one_line(args: list[Any], message: str) -> None:
    result = qa_fast_command("evaluate", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("qa-fast: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_a_terminal_gets_tables() -> None:
    master, slave = os.openpty()
    arguments = ["evaluate", str(SAMPLE), str(PREDICTIONS), "-n", str(NA_PROB), "-t", "-10"]
    code = f"import sys; sys.argv = {['qa-fast', *arguments]}; from qa_fast.cli import main; main()"
    environment = {**os.environ, "COLUMNS": "120", "TERM": "dumb"}
    subprocess.run(
        [sys.executable, "-c", code],
        stdout=slave,
        stderr=subprocess.PIPE,
        check=True,
        env=environment,
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so at the end
        while more := os.read(master, 65536):
            shown += more
    os.close(master)
    lines = [" ".join(line.split()) for line in shown.decode().splitlines()]
    assert lines[0].startswith("note: best_exact") or lines[0].startswith("rules of SQuAD 2.0 (")
    assert "exact 55.88 44.12 to 67.65 68" in lines
    assert "best_f1 66.07 at threshold -10.93, tuned on these data" in lines
    assert "no answer 34 52.94 52.94" in lines
    assert "how many 11 63.64 63.64" in lines


def test_columns_and_limit(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"n": i, "q": "Who?", "text": "Ada", "gold": ["Ada"]} for i in range(3)]
    data.write_text("\n".join(map(json.dumps, [*rows, {"n": 3}])))
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"0": "Ada", "1": "Bob", "2": "Ada"}))
    columns = "--id-column n --question-column q --context-column text --answers-column gold"
    result = qa_fast_command("evaluate", data, predictions, *columns.split(), "--limit", "2")
    assert json.loads(result.stdout)["exact"] == 50
    assert "note: 1 predictions are of no question in the data, the first '2'" in result.stderr


def test_compare_needs_gold_answers_for_predictions(tmp_path: Path) -> None:
    result = qa_fast_command("compare", PREDICTIONS, PREDICTIONS)
    assert result.exit_code == 2
    assert "give the gold answers too, with --data" in result.stderr
    other = tmp_path / "other.json"
    changed = {**json.loads(PREDICTIONS.read_text(encoding="utf-8"))}
    changed = dict.fromkeys(changed, "")
    other.write_text(json.dumps(changed))
    found = json.loads(
        qa_fast_command("compare", PREDICTIONS, other, "--data", SAMPLE, "--json").stdout
    )
    assert found["exact"]["b"] == 50
    assert found["exact"]["a"] == pytest.approx(SCORES["without -n"]["exact"])


def test_results_of_an_evaluation_that_is_read_back(tmp_path: Path) -> None:
    found = qa_fast.evaluate(SAMPLE, PREDICTIONS)
    results, details = write_results(found, tmp_path / "new" / "folder", name="x")
    assert read_scored_answers(results) == read_scored_answers(details) == scored_answers(found)
    assert read_scored_answers(PREDICTIONS) is None
    assert sorted(path.name for path in results.parent.iterdir()) == [details.name, results.name]


# --- show() -------------------------------------------------------------------------------------


def test_show_prints_and_displays() -> None:
    answers = [
        {"score": 0.75, "start": 7, "end": 10, "answer": "Ada"},
        {"score": 0.25, "start": 0, "end": 0, "answer": ""},
    ]
    shown = qa_fast.show(answers, "It was Ada. <b>", "Who <i>?")  # type: ignore[arg-type]
    assert repr(shown) == "1. Ada (0.75)\n2. (no answer) (0.25)"
    html = shown._repr_html_()
    assert '<mark class="predicted">Ada</mark>. &lt;b&gt;' in html
    assert "Who &lt;i&gt;?" in html
    assert "<script" not in html
    assert "heat" not in html.partition("</style>")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"score": 1, "start": 0, "end": 3, "answer": "Ada"},), "give it too"),
        (({"score": 1, "start": 0, "end": 3, "answer": "Ada"}, "Bob"), "'Ada' is not at 0 to 3"),
        (([[]], "Ada"), "got a list among them"),
        (({"answer": "Ada"}, "Ada"), "got a dict among them"),
        (([], ["Ada"]), "context must be a string; got list"),
    ],
)
def test_show_mistakes(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qa_fast.show(*arguments)


def test_token_probabilities_are_those_of_the_answers() -> None:
    qa = qa_fast.pipeline(device="cpu", scoring="shared", align_to_words=False, top_k=3)
    question = "Which deep learning libraries back it?"
    context = (DATA / "notebook_long_context.txt").read_text(encoding="utf-8")
    found = qa.engine.token_probabilities(question, context, qa.options)
    assert 0.5 < found.start.sum() <= 1
    assert 0.5 < found.end.sum() <= 1
    starts = {first: p for p, (first, _) in zip(found.start, found.characters, strict=True)}
    ends = {last: p for p, (_, last) in zip(found.end, found.characters, strict=True)}
    for answer in qa(question=question, context=context):
        assert answer["score"] == pytest.approx(
            starts[answer["start"]] * ends[answer["end"]], rel=1e-4
        )
