"""Evaluation suites: the official scripts' figures, the rules one by one, and how a suite is chosen."""

from __future__ import annotations

import json
import lzma
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import qa_fast
from qa_fast.cli import app
from qa_fast.data.answers import Prediction
from qa_fast.evaluation.suites.cmrc import longest_common_run, make_segmenter
from qa_fast.evaluation.suites.cuad import QUESTION, ClauseTally
from qa_fast.evaluation.suites.korquad import make_korquad2_normalizer
from qa_fast.evaluation.suites.registry import ALIASES, SUITES, choose_suite
from qa_fast.pages.report import write_report

from ..helpers import scripts_of_squad, scripts_of_suites

DATA = Path(__file__).parents[1] / "recorded"


def recorded(name: str) -> Any:
    return json.loads(lzma.decompress((DATA / "suites" / f"{name}.json.xz").read_bytes()))


def questions(golds: Sequence[Sequence[str]], ids: Sequence[str] | None = None) -> list[Any]:
    return [
        {
            "id": ids[i] if ids else str(i),
            "question": "Q?",
            "context": "C",
            "answers": list(of_one),
        }
        for i, of_one in enumerate(golds)
    ]


def given(predictions: Sequence[str | None], ids: Sequence[str] | None = None) -> dict[str, str]:
    """The predictions there are, by id."""
    return {
        ids[i] if ids else str(i): text for i, text in enumerate(predictions) if text is not None
    }


def qa_fast_command(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


# --- the official figures -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arcd", "cmrc2018", "korquad1", "korquad2", "mrqa", "persianqa"])
def test_every_question_and_the_totals_as_the_script_has_them(name: str) -> None:
    official = recorded(name)
    rows, totals = official["rows"], official["total"]
    found = qa_fast.evaluate(questions(rows["answers"]), given(rows["prediction"]), suite=name)
    assert found.scores.exact == rows["exact"]
    assert found.scores.f1 == rows["f1"]
    assert found.metrics == totals.get("missing is 0", totals)
    assert list(found.metrics) == list(totals.get("missing is 0", totals))
    assert official["source"].startswith(found.settings["source"])
    for key, interval in found.intervals.items():
        assert interval.low < found.metrics[key] < interval.high


def test_mrqa_without_the_questions_that_have_no_prediction() -> None:
    official = recorded("mrqa")
    golds, texts = (official["rows"][key] for key in ("answers", "prediction"))
    found = qa_fast.evaluate(questions(golds), given(texts), suite="mrqa", skip_no_answer=True)
    assert found.metrics == official["total"]["skip_no_answer"]
    assert len(found.examples) == len(found.scores.f1) == len(golds) - texts.count(None)
    (note,) = found.notes
    assert note == (
        "56 of 1200 questions have no prediction and are left out, the first of them "
        f"{str(texts.index(None))!r}"
    )


def cuad_files(tmp_path: Path) -> tuple[Any, dict[str, Any], Path]:
    """CUAD's recorded totals, its questions, and its n-best file as the script's own run writes it."""
    official = recorded("cuad")
    rows = official["rows"]
    n_best = {
        id_: [
            # The logits say something else: the script reads the probability.
            {"text": text, "probability": p, "start_logit": 3.0, "end_logit": -1.5}
            for text, p in of_one
        ]
        for id_, of_one in zip(rows["id"], rows["n_best"], strict=True)
    }
    file = tmp_path / "nbest_predictions_.json"
    file.write_text(json.dumps(n_best, indent=4))
    return official["total"], questions(rows["answers"], rows["id"]), file


def test_cuad_and_its_whole_curve(tmp_path: Path) -> None:
    totals, rows, file = cuad_files(tmp_path)
    found = qa_fast.evaluate(rows, file, suite="cuad")
    assert found.metrics == {key: totals[key] for key in found.metrics}
    assert [*found.metrics] == ["aupr", "prec_at_80_recall", "prec_at_90_recall"]
    curve = found.precision_recall["clauses"]
    assert curve.precision.tolist() == totals["precisions"]
    assert curve.recall.tolist() == totals["recalls"]
    assert found.intervals == {}
    in_memory = qa_fast.evaluate(rows, json.loads(file.read_text()), suite="cuad")
    assert in_memory.metrics == found.metrics


# --- against the oracles ------------------------------------------------------------------------

ALPHABETS = {
    "korquad1": [*"가나다라 '\"《》<>〈〉()‘’-.,!Aa1İΣ\t\u3000·", "1446년", " (", "The "],
    "korquad2": [
        *"가나다 '<>&;()-.A1\n\u3000",
        "<b>",
        "</b>",
        "<td>",
        "&amp;",
        "&lt;",
        "<!",
        "<![",
        "]>",
    ],
    "cmrc2018": [*"三月五日年龥龦 ,.-，。…·1aB'\t", "can't ", "3.5", "U.S. ", "cannot", "a.b "],
    "persianqa": [*"سلام خوب \u200c\t.،aA", "\u200c ", "می\u200cشود"],
    "arcd": [*"البيت كتاب،.! aA", "ال", "the ", "An "],
    "tydiqa": [*"abc .,-", "the ", "a ", "Ada "],
}
ALPHABETS |= {
    "drcd": ALPHABETS["cmrc2018"],
    "persianqa-squad2": ALPHABETS["persianqa"],
    **dict.fromkeys(("squad1", "xquad", "mrqa"), ALPHABETS["tydiqa"]),
}


def random_questions(name: str, count: int = 250) -> list[scripts_of_suites.Question]:
    """Questions whose predictions are near to their gold answers."""
    rng = random.Random(name)
    languages = ("arabic", "english", "telugu", "korean")

    def text(most: int) -> str:
        return "".join(rng.choices(ALPHABETS[name], k=rng.randint(0, most)))

    found: list[scripts_of_suites.Question] = []
    for i in range(count):
        golds = [text(9) for _ in range(rng.randint(1, 3))]
        near = rng.choice(golds)
        cut = sorted(rng.choices(range(len(near) + 1), k=2))
        prediction = rng.choice([near, near[cut[0] : cut[1]], near[cut[0] :] + text(3), text(9)])
        if name.startswith("persianqa") and rng.random() < 0.2:
            golds = []
        id_ = f"{rng.choice(languages)}-{i}"
        found.append((id_, prediction if rng.random() < 0.95 else None, golds))
    return found


def totals_by_the_rules(name: str, asked: list[scripts_of_suites.Question]) -> dict[str, float]:
    if name in ("cmrc2018", "drcd"):
        return scripts_of_suites.evaluate_cmrc(asked)
    if name == "tydiqa":
        return scripts_of_suites.evaluate_tydiqa(asked)
    return scripts_of_suites.evaluate_rows(scripts_of_suites.SCORES[name], asked)


@pytest.mark.parametrize("name", ALPHABETS)
def test_near_misses_score_by_the_rules(name: str) -> None:
    asked = random_questions(name)
    if name == "persianqa-squad2":
        # SQuAD 2.0's totals are not defined over questions without a prediction.
        asked = [question for question in asked if question[1] is not None]
    ids = [id_ for id_, _, _ in asked]
    rows = questions([golds for _, _, golds in asked], ids)
    found = qa_fast.evaluate(rows, given([text for _, text, _ in asked], ids), suite=name)
    one = scripts_of_suites.SCORES[name]
    for (_, prediction, golds), exact, f1 in zip(asked, *found.scores, strict=True):
        expected = (0, 0) if prediction is None else one(prediction, golds)
        assert (exact, f1) == expected, (prediction, golds)
    assert len({*found.scores.f1}) > 6
    if name == "persianqa-squad2":
        texts = {id_: scripts_of_suites.persian_form(text or "") for id_, text, _ in asked}
        qas = [
            {"id": id_, "answers": [{"text": scripts_of_suites.persian_form(g)} for g in golds]}
            for id_, _, golds in asked
        ]
        data = {"data": [{"paragraphs": [{"qas": qas}]}]}
        expected = scripts_of_squad.evaluate_2(data, texts, dict.fromkeys(ids, 0.0))
        assert found.metrics == {k: v for k, v in expected.items() if not k.startswith("pr_")}
        assert any(note.startswith("best_exact and best_f1 use") for note in found.notes)
    else:
        assert found.metrics == totals_by_the_rules(name, asked)
        assert list(found.metrics) == list(totals_by_the_rules(name, asked))


def test_clauses_by_the_rules() -> None:
    rng = random.Random(5)
    words = ["Acme", "Inc.", "laws", "of", "Ohio", "laws/of", "", "\n", "five;", "Five", "years."]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 6)))

    def near(golds: list[str]) -> str:
        return rng.choice([*golds, *(f"{gold} {rng.choice(words)}" for gold in golds), text(), ""])

    for case in range(60):
        clauses = []
        for i in range(rng.randint(1, 12)):
            golds = [text() or "x" for _ in range(rng.choice([0, 1, 1, 2, 5]))]
            probabilities = [0.0, 0.001, 0.5, 0.99, 1.0, 0.02, rng.random(), rng.random() / 1000]
            n_best = [(near(golds), rng.choice(probabilities)) for _ in range(rng.randint(0, 7))]
            clauses.append((f"{i}__{rng.choice(['Parties', 'Cap On Liability'])}", golds, n_best))
        if case == 0:
            clauses = [(id_, [], n_best) for id_, _, n_best in clauses]
        tally = ClauseTally()
        for id_, golds, answers in clauses:
            tally.add(id_, golds, [text for text, _ in answers], [p for _, p in answers])
        expected = scripts_of_suites.evaluate_cuad(clauses)
        precision, recall = tally.curve_points()
        assert repr(precision) == repr(expected["precisions"])  # NaN is NaN
        assert repr(recall) == repr(expected["recalls"])
        for key, figure in tally.totals().items():
            assert repr(float(figure.value)) == repr(float(expected[key])), (key, clauses)


def test_longest_common_runs() -> None:
    rng = random.Random(1)
    for _ in range(500):
        a, b = (rng.choices(["三", "月", "3.5", "nfl"], k=rng.randint(0, 12)) for _ in range(2))
        assert longest_common_run(a, b) == scripts_of_suites.common_run(a, b)
    segments = make_segmenter("cmrc2018")
    for text in ("", " ，", "cannot-do", "Mr. A. said. No", "a\u4e00b\u9fa5c\u9fa6", "……"):
        assert [*segments(text)] == scripts_of_suites.cmrc_segments(text)


# --- what suites do not have in common ----------------------------------------------------------


def test_tydiqa_leaves_english_out_of_the_mean() -> None:
    ids = ["english-1", "english-2", "arabic-1", "korean-1"]
    found = qa_fast.evaluate(
        questions([["x"]] * 4, ids), given(["y", "y", "x", "y"], ids), suite="tydiqa"
    )
    assert found.metrics == {
        "exact_match": 50.0,
        "f1": 50.0,
        "english_exact_match": 0.0,
        "english_f1": 0.0,
        "arabic_exact_match": 100.0,
        "arabic_f1": 100.0,
        "korean_exact_match": 0.0,
        "korean_f1": 0.0,
    }
    # Two languages of one question each: resampling them changes nothing.
    assert found.intervals["f1"] == (50, 50)
    english = qa_fast.evaluate(questions([["x"]], ids[:1]), given(["x"], ids), suite="tydiqa")
    assert list(english.metrics) == ["english_exact_match", "english_f1"]


def test_a_mean_over_languages_is_as_sure_as_its_languages() -> None:
    ids = [f"{'arabic' if i % 3 else 'korean'}-{i}" for i in range(300)]
    texts = ["x" if i % 2 else "y" for i in range(300)]
    found = qa_fast.evaluate(questions([["x"]] * 300, ids), given(texts, ids), suite="tydiqa")
    width = {key: interval.high - interval.low for key, interval in found.intervals.items()}
    expected = (width["arabic_f1"] ** 2 + width["korean_f1"] ** 2) ** 0.5 / 2
    assert width["f1"] == pytest.approx(expected, rel=0.05)


def test_korquad2_takes_text_out_of_html_and_nothing_else() -> None:
    normalize = make_korquad2_normalizer()
    for text in (
        "www.naver.com",
        "a.txt",
        "서울\r\n 시",
        "\x00가",
        "]]>",
        "/etc/passwd",
        "<b>" * 3000,
    ):
        assert normalize(text) == scripts_of_suites.korquad2_form(text)
    # A rejected text keeps its tags; which ones are rejected depends on the version of Python.
    assert normalize("<![x 가") == scripts_of_suites.korquad2_form("<![x 가")
    assert normalize("가&\ud800") == "가\ud800"


@pytest.mark.parametrize(
    ("module", "suite", "message"),
    [
        ("bs4", "korquad2", r"Beautiful Soup: pip install 'qa-fast\[suites\]'"),
        ("nltk.tokenize", "drcd", r"suite drcd splits words with NLTK: .*\[suites\]"),
    ],
)
def test_what_a_suite_needs_installed(
    module: str, suite: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        qa_fast.evaluate(questions([["x"]]), {"0": "x"}, suite=suite)


def test_cuad_needs_probabilities() -> None:
    rows = questions([["laws of Ohio"], []])
    with pytest.raises(ValueError, match="question '0' has an answer without: give an n-best list"):
        qa_fast.evaluate(rows, {"0": "laws of Ohio", "1": ""}, suite="cuad")
    with pytest.raises(ValueError, match="question '1' has an empty gold answer"):
        qa_fast.evaluate(questions([["x"], [""]]), {"0": [], "1": []}, suite="cuad")
    # Of logits, the softmax over the list, as its own run has it.
    n_best = [
        {"answer": "laws of Ohio", "score": 2.0, "start": 0, "end": 12},
        {"answer": "", "score": 1.0, "start": 0, "end": 0},
    ]
    predictions = [Prediction("0", "laws of Ohio", 0, 12, 2.0, 1.0, n_best), Prediction("1", "")]
    found = qa_fast.evaluate(rows, predictions, suite="cuad")
    assert found.metrics == {"aupr": 1.0, "prec_at_80_recall": 1.0, "prec_at_90_recall": 1.0}
    first = next(i for i, r in enumerate(found.precision_recall["clauses"].recall) if r == 1)
    assert first == 1 + 99 - 73  # 0.73 is the first threshold below
    assert found.scores.exact == [1, 1]
    missing = qa_fast.evaluate(rows, predictions[1:], suite="cuad")
    assert missing.metrics["aupr"] == 0


def test_cuad_straight_from_a_model() -> None:
    context = "This Agreement is governed by the laws of Ohio. The parties are Acme and Bolt."
    rows = [
        {"id": f"1__{of}", "question": f'{QUESTION}"{of}"', "context": context, "answers": golds}
        for of, golds in (("Governing Law", ["the laws of Ohio"]), ("Cap On Liability", []))
    ]
    found = qa_fast.evaluate(rows, model=qa_fast.pipeline(device="cpu"), suite="cuad")
    options = found.run["settings"]["options"]
    assert (options["top_k"], options["max_answer_len"]) == (20, 512)
    # The empty answer comes on top.
    assert [len(p.n_best) for p in found.predictions if p] == [21, 21]
    assert 0 < found.metrics["aupr"] <= 1
    assert found.precision_recall["clauses"].recall[-1] == 1
    fewer = qa_fast.evaluate(rows, model=qa_fast.pipeline(device="cpu"), suite="cuad", top_k=2)
    assert all(len(p.n_best) <= 3 for p in fewer.predictions if p)


# --- which suite --------------------------------------------------------------------------------


def test_every_suite_scores_and_says_whose_rules_it_has() -> None:
    for name in (*SUITES, *ALIASES):
        options = {"language": "de"} if name == "mlqa" else {}
        rows = questions([["Ada"]], ["arabic-1"])
        n_best = {"arabic-1": [{"text": "Ada", "probability": 0.5}]}
        found = qa_fast.evaluate(rows, n_best, suite=name, **options)
        assert found.settings["suite"] == ALIASES.get(name, name)
        assert found.settings["title"]
        assert "/" in found.settings["source"]
        assert found.scores == ([1], [1.0])
        assert found.settings["normalizer"] is None
        assert max(found.metrics.values()) == (1.0 if name == "cuad" else 100.0)


@pytest.mark.parametrize(
    ("options", "suite", "normalizer"),
    [
        ({}, "squad2", None),
        ({"rules": "1.1"}, "squad1", None),
        ({"suite": "squad", "rules": "1.1"}, "squad1", None),
        ({"suite": "squad2", "rules": "2.0"}, "squad2", None),
        ({"normalizer": "squad"}, "squad2", None),
        ({"normalizer": "mlqa", "language": "de"}, "mlqa", None),
        ({"normalizer": "mlqa", "language": "de", "rules": "1.1"}, "mlqa", None),
        ({"normalizer": "mlqa", "language": "de", "rules": "2.0"}, "squad2", "mlqa"),
        ({"suite": "mlqa", "language": "zh"}, "mlqa", None),
        ({"suite": "mlqa", "normalizer": "squad"}, "mlqa", "squad"),
        ({"suite": "tydiqa", "normalizer": "mlqa", "language": "ar"}, "tydiqa", "mlqa"),
        ({"suite": "korquad1", "normalizer": "string:capwords"}, "korquad1", "string:capwords"),
        ({"normalizer": str.upper}, "squad2", "builtins:str.upper"),
    ],
)
def test_options_that_go_together(options: Any, suite: str, normalizer: str | None) -> None:
    chosen = choose_suite(**options)
    assert (chosen.suite.name, chosen.normalizer) == (suite, normalizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "bleu"}, "suite must be one of squad1, squad2, .*, cmrc2018, drcd; got 'bleu'"),
        ({"suite": "korquad1", "rules": "1.1"}, "rules='1.1' is squad1, and the suite is 'korq"),
        ({"suite": "squad1", "rules": "2.0"}, "rules='2.0' is squad2, and the suite is 'squad1'"),
        ({"suite": "mlqa"}, "needs one of its languages"),
        ({"suite": "arcd", "language": "ar"}, "'arcd' knows no languages; got language='ar'"),
        ({"suite": "drcd", "normalizer": str.upper}, "'drcd' compares segments"),
        ({"suite": "squad1", "na_prob": {"0": 1}}, "SQuAD 1.1 have no no-answer probabilities"),
        ({"suite": "cuad", "skip_no_answer": True}, "skip_no_answer is of MRQA's script; CUAD's"),
        ({"suite": "tydiqa"}, "begins with its language .* such as 'arabic-...'.* got str '0'"),
        ({"normalizer": "bleu"}, "one of squad, mlqa, or module:function; got 'bleu'"),
        ({"normalizer": "no_such:f"}, "no_such cannot be imported: ModuleNotFoundError"),
        ({"normalizer": "string:no"}, "the normalizer string:no: string has no no"),
        ({"normalizer": "string:digits"}, "string:digits must be a function; got str '0123456789'"),
        ({"normalizer": 5}, "a normalizer is a function from text to text.* got int 5"),
        ({"normalizer": len}, "builtins:len must return a text; got int 3 for str 'Ada'"),
        ({"normalizer": int}, "builtins:int fails on str 'Ada': ValueError: invalid literal"),
    ],
)
def test_options_that_do_not(options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        qa_fast.evaluate(questions([["Ada"]]), {"0": "Ada"}, **options)


def test_a_normalizer_of_ones_own() -> None:
    def initials(text: str) -> str:
        return " ".join(word[0] for word in text.split())

    rows = questions([["Ada Lovelace"]])
    for suite, exact in (
        ("squad1", "exact_match"),
        ("squad2", "exact"),
        ("korquad1", "exact_match"),
    ):
        found = qa_fast.evaluate(rows, {"0": "Alan Lem"}, suite=suite, normalizer=initials)
        assert (found.metrics[exact], found.metrics["f1"]) == (100, 100)
        name = found.settings["normalizer"]
        assert name.endswith("test_suites:test_a_normalizer_of_ones_own.<locals>.initials")
        (note,) = found.notes
        assert f"by the normalizer {name}, not as {found.settings['title']}'s script does" in note


@pytest.mark.parametrize(
    ("suite", "ids", "question", "golds", "note"),
    [
        (
            "squad2",
            ["arabic-1", "telugu-1"],
            "Q?",
            [["x"], ["x"]],
            "TyDi QA: its suite is 'tydiqa'",
        ),
        ("tydiqa", ["arabic-1", "korean-1"], "Q?", [["서울"], ["서울"]], None),
        ("squad2", ["arabic-1", "1"], "Q?", [["x"], ["x"]], None),
        ("squad1", ["1", "2"], "Q?", [["서울 특별시"], ["서울"]], "in Korean.* 'korquad1' and"),
        ("squad2", ["1", "2"], "Q?", [["서울 특별시"], []], "in Korean"),
        ("squad2", ["1", "2"], "Q?", [["서울 특별시"], ["Ada"]], None),
        ("korquad2", ["1", "2"], "Q?", [["서울"], ["서울"]], None),
        ("squad2", ["1", "2"], f'{QUESTION}"Parties"', [["Acme"], []], "CUAD's have: its suite is"),
        ("cuad", ["1", "2"], f'{QUESTION}"Parties"', [["Acme"], []], None),
    ],
)
def test_a_suite_that_would_fit_better_is_told(
    suite: str, ids: list[str], question: str, golds: list[list[str]], note: str | None
) -> None:
    rows = [{**row, "question": question} for row in questions(golds, ids)]
    predictions = {id_: [{"text": "y", "probability": 0.5}] for id_ in ids}
    found = qa_fast.evaluate(rows, predictions, suite=suite)
    told = [text for text in found.notes if text.startswith(("all", "most"))]
    assert len(told) == (note is not None)
    assert note is None or re.search(note, told[0])


# --- the command line and the report ------------------------------------------------------------


@pytest.fixture
def korean(tmp_path: Path) -> tuple[Path, Path]:
    rows = recorded("korquad1")["rows"]
    data, predictions = tmp_path / "dev.jsonl", tmp_path / "predictions.json"
    lines = [json.dumps(row) for row in questions(rows["answers"][:40])]
    data.write_text("\n".join(lines), encoding="utf-8")
    predictions.write_text(json.dumps(given(rows["prediction"][:40])), encoding="utf-8")
    return data, predictions


def test_the_command_prints_the_scripts_keys_and_says_whose_they_are(
    korean: tuple[Path, Path], tmp_path: Path
) -> None:
    report, written = tmp_path / "r.html", tmp_path / "eval.json"
    result = qa_fast_command("evaluate", *korean, "--suite", "korquad1", "--report", report)
    assert result.exit_code == 0, result.output
    found = qa_fast.evaluate(*korean, suite="korquad1")
    assert json.loads(result.stdout) == found.metrics
    assert (
        "rules of KorQuAD 1.0 (korquad/korquad.github.io dataset/evaluate-v1.0.py)" in result.stderr
    )
    page = report.read_text(encoding="utf-8")
    assert "40 questions, rules of KorQuAD 1.0" in page
    assert f"{found.metrics['f1']:.2f}" in page
    result = qa_fast_command("evaluate", *korean, "--suite", "squad1", "-o", written)
    assert "note: most gold answers are in Korean" in result.stderr
    assert list(json.loads(written.read_text())) == ["exact_match", "f1"]


def test_a_normalizer_from_the_current_folder(
    korean: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_of_mine.py").write_text("def nothing(text):\n    return ''\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = qa_fast_command(
        "evaluate", *korean, "--suite", "squad1", "--normalizer", "rules_of_mine:nothing"
    )
    assert json.loads(result.stdout) == {"exact_match": 100.0, "f1": 0.0}
    assert "compared by the normalizer rules_of_mine:nothing, not as SQuAD 1.1's" in result.stderr
    result = qa_fast_command("evaluate", *korean, "--normalizer", "rules_of_mine:something")
    assert "the normalizer rules_of_mine:something: rules_of_mine has no something" in result.stderr


def figures_of(found: qa_fast.Evaluation, path: Path) -> Callable[[str, str], bool]:
    write_report(found, path)
    page = " ".join(path.read_text(encoding="utf-8").split())

    def has(name: str, value: str) -> bool:
        place = page.find(name)
        return place >= 0 and value in page[place : place + 200]

    return has


def test_reports_name_the_figures_of_their_suite(tmp_path: Path) -> None:
    _, rows, file = cuad_files(tmp_path)
    clauses = qa_fast.evaluate(rows, file, suite="cuad")
    has = figures_of(clauses, tmp_path / "r.html")
    assert has("AUPR", f"{100 * clauses.metrics['aupr']:.2f}")
    assert has("Precision at 80% recall", f"{100 * clauses.metrics['prec_at_80_recall']:.2f}")
    assert "Clauses, AP 45.6" in (tmp_path / "r.html").read_text(encoding="utf-8")
    ids = ["english-1", "arabic-1"]
    languages = qa_fast.evaluate(
        questions([["x"]] * 2, ids), given(["x", "y"], ids), suite="tydiqa"
    )
    has = figures_of(languages, tmp_path / "r.html")
    assert has("Exact match, English", "100.00")
    assert has("F1, Arabic", "0.00")
    chinese = qa_fast.evaluate(questions([["三月"]]), {"0": "三日"}, suite="drcd")
    assert figures_of(chinese, tmp_path / "r.html")("Average of exact match and F1", "25.00")
