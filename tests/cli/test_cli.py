"""The command line, run for real with the bundled model."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import qa_fast
from qa_fast.cli import app
from qa_fast.cli.terminal import SourcedAnswer, print_answers, print_table, visible

LONG_TEXT = Path(__file__).parents[1] / "recorded" / "notebook_long_context.txt"
LONG_QUESTION = "Which deep learning libraries back 🤗 Transformers?"
ADA = "Ada was born in London. She died in Paris."
COMMAND = [sys.executable, "-c", "from qa_fast.cli import main; main()"]


def ask(*args: str | Path, stdin: str | bytes | None = None) -> Result:
    """`qa-fast ask` in this process; standard input is a pipe."""
    return CliRunner().invoke(app, ["ask", *map(str, args)], input=stdin)


def answers(*args: str | Path, stdin: str | bytes | None = None) -> list[dict[str, Any]]:
    """The answers that `qa-fast ask --json` prints."""
    result = ask(*args, "--json", stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), result.exception
    found = json.loads(result.stdout)
    assert list(found) == ["question", "answers"]
    assert found["question"] == args[0]
    for answer in found["answers"]:
        assert list(answer) == ["score", "start", "end", "answer", "source"]
    return found["answers"]


# --- answers ------------------------------------------------------------------------------------


def test_long_text_that_needs_two_chunks() -> None:
    text = LONG_TEXT.read_bytes().decode("utf-8")
    found = answers(LONG_QUESTION, "--context", LONG_TEXT, "--top-k", "5")
    assert (found[0]["answer"], found[0]["start"], found[0]["end"]) == (
        "Jax, PyTorch and TensorFlow",
        1892,
        1919,
    )
    assert len(found) == len({(answer["start"], answer["end"]) for answer in found}) == 5
    assert all(text[answer["start"] : answer["end"]] == answer["answer"] for answer in found)
    assert [answer["score"] for answer in found] == sorted(
        (answer["score"] for answer in found), reverse=True
    )


@pytest.mark.parametrize(
    ("args", "stdin", "source"),
    [
        pytest.param(["--context-text", ADA], None, "--context-text", id="text"),
        pytest.param(["--context", "-"], ADA, "-", id="standard-input"),
        pytest.param([], ADA, "-", id="piped-without-option"),
    ],
)
def test_where_the_context_comes_from(args: list[str], stdin: str | None, source: str) -> None:
    (answer,) = answers("Where was Ada born?", *args, stdin=stdin)
    assert (answer["answer"], answer["start"], answer["end"]) == ("London", 16, 22)
    assert answer["source"] == source
    assert 0 < answer["score"] <= 1


def test_same_answers_as_in_python() -> None:
    text = LONG_TEXT.read_bytes().decode("utf-8")
    options = {"top_k": 3, "max_answer_len": 5, "max_seq_len": 100, "doc_stride": 20}
    expected = qa_fast.pipeline()(question=LONG_QUESTION, context=text, **options)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    found = answers(LONG_QUESTION, "--context", LONG_TEXT, *flags)
    assert [{**answer, "source": str(LONG_TEXT)} for answer in expected] == found


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("The weather is fine. Nobody knows who was born where.", encoding="utf-8")
    files[1].write_text(ADA, encoding="utf-8")
    return files


@pytest.mark.parametrize("style", ["repeated", "pattern"])
def test_several_files_are_ranked_together(two_files: list[Path], style: str) -> None:
    first, second = two_files
    args = ["--context", first, "--context", second] if style == "repeated" else ["-c", *two_files]
    question = "Where was Ada born?"
    found = answers(question, *args, "--top-k", "20")
    assert (found[0]["answer"], found[0]["source"]) == ("London", str(second))
    assert {answer["source"] for answer in found} == {str(first), str(second)}
    apart = [a for file in two_files for a in answers(question, "-c", file, "--top-k", "20")]
    expected = sorted(apart, key=lambda answer: -answer["score"])[:20]
    assert [(a["answer"], a["start"], a["source"]) for a in found] == [
        (a["answer"], a["start"], a["source"]) for a in expected
    ]
    assert [a["score"] for a in found] == pytest.approx([a["score"] for a in expected], abs=1e-6)


def test_no_answer_has_the_least_null_score_of_the_files(two_files: list[Path]) -> None:
    question = "Where was Ada born?"
    nulls = []
    for file in two_files:
        found = answers(question, "-c", file, "--no-answer", "--top-k", "1000")
        nulls += [answer["score"] for answer in found if not answer["answer"]]
    assert len(nulls) == 2
    found = answers(question, "-c", *two_files, "--no-answer", "--top-k", "1000")
    (empty,) = [answer for answer in found if not answer["answer"]]
    assert empty == {"score": min(nulls), "start": 0, "end": 0, "answer": "", "source": None}


def test_no_answer_is_left_out_where_one_file_ranks_it_too_low(two_files: list[Path]) -> None:
    """The empty answer is the best of the first file, but the least null score is what counts."""
    question = "Who lives in a city?"
    two_files[1].write_text("Ada lives in London and Bob in Paris.", encoding="utf-8")
    (first,) = answers(question, "-c", two_files[0], "--no-answer")
    (second,) = answers(question, "-c", two_files[1], "--no-answer")
    assert first["answer"] == ""
    assert second["answer"] != ""
    assert first["score"] > second["score"]
    assert answers(question, "-c", *two_files, "--no-answer") == [second]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + ADA, id="byte-order-mark"),
        pytest.param(ADA.replace(". ", ".\r\n"), id="crlf"),
        pytest.param("🤗🤗 " + ADA, id="emoji"),
        pytest.param("\ufeff\r\n🤗\r\n" + ADA + "\x00\x1b[31m", id="all-of-it"),
    ],
)
def test_offsets_are_those_of_the_file_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "context.txt"
    file.write_bytes(text.encode("utf-8"))
    (answer,) = answers("Where did she die?", "--context", file)
    assert answer["answer"] == "Paris"
    assert file.read_bytes().decode("utf-8")[answer["start"] : answer["end"]] == "Paris"


def test_offsets_are_those_of_the_text_that_was_packed(tmp_path: Path) -> None:
    text = "\ufeff🤗\r\n" + ADA
    file = tmp_path / "context.txt"
    file.write_bytes(gzip.compress(text.encode("utf-16-le")))
    (answer,) = answers("Where did she die?", "--context", file)
    assert text[answer["start"] : answer["end"]] == answer["answer"] == "Paris"


# --- errors -------------------------------------------------------------------------------------

ASK_ADA = ["Where is Ada?", "--context-text", ADA]
ERRORS = [
    ("empty-question", ["", "--context-text", ADA], "the question is empty: give one"),
    ("blank-question", [" ", "--context-text", ADA], "the question holds only white space: give"),
    ("empty-text", ["Who?", "--context-text", ""], "--context-text is empty: give the text"),
    (
        "blank-text",
        ["Who?", "--context-text", " \n"],
        "--context-text holds only white space: give",
    ),
    ("empty-file", ["Who?", "-c", "{tmp}/empty.txt"], "empty.txt is empty: give a text to search"),
    ("only-a-mark", ["Who?", "-c", "{tmp}/mark.txt"], "mark.txt is empty: give a text to search"),
    ("blank-file", ["Who?", "-c", "{tmp}/blank.txt"], "blank.txt holds only white space: give"),
    ("not-utf8", ["Who?", "-c", "{tmp}/latin1.txt"], "not UTF-8 text (byte 0xe9 at byte offset 3)"),
    ("missing-file", ["Who?", "-c", "{tmp}/none.txt"], "none.txt: no such file: check the path"),
    ("second-file", ["Who?", "-c", "{tmp}/ada.txt", "{tmp}/none.txt"], "none.txt: no such file"),
    ("folder", ["Who?", "-c", "{tmp}"], "is a folder: name the files in it"),
    ("file-twice", ["Who?", "-c", "{tmp}/ada.txt", "-c", "{tmp}/ada.txt"], "was given twice"),
    ("both", [*ASK_ADA, "-c", "{tmp}/ada.txt"], "both --context-text and a file"),
    ("empty-input", ["Who?", "-c", "-"], "standard input is empty: give a text to search"),
    ("top-k-0", [*ASK_ADA, "--top-k", "0"], "--top-k must be an integer of at least 1; got 0"),
    ("max-answer-len-0", [*ASK_ADA, "--max-answer-len", "0"], "--max-answer-len must be"),
    ("doc-stride", [*ASK_ADA, "--doc-stride", "999"], "--doc-stride must be"),
    ("max-seq-len", [*ASK_ADA, "--max-seq-len", "999"], "--max-seq-len must be at most 512"),
    (
        "long-question",
        ["Who? " * 400, "-c", "{tmp}/ada.txt"],
        "the question is too long: it has 800",
    ),
    ("no-tokens", ["Who?", "-c", "{tmp}/ada.txt", "{tmp}/nul.txt"], "nul.txt has no tokens"),
    (
        "unknown-model",
        [*ASK_ADA, "--model", "no/such-model"],
        "cannot load the model 'no/such-model'",
    ),
    ("model-folder", [*ASK_ADA, "--model", "{tmp}"], "cannot load the model"),
    ("unknown-device", [*ASK_ADA, "--device", "abacus"], "device 'abacus'"),
    ("not-a-number", [*ASK_ADA, "--top-k", "many"], "Invalid value for '--top-k'"),
    ("unknown-option", [*ASK_ADA, "--colour"], "No such option: --colour"),
    ("no-question", [], "Missing argument 'QUESTION'"),
]


@pytest.fixture
def bad_files(tmp_path: Path) -> Path:
    contents = {
        "empty.txt": b"",
        "mark.txt": b"\xef\xbb\xbf",
        "blank.txt": b" \r\n\t",
        "nul.txt": b"\0",
        "latin1.txt": "caf\xe9 au lait".encode("latin-1"),
        "ada.txt": ADA.encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "message"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS]
)
def test_bad_input_is_one_line_and_exit_code_2(
    bad_files: Path, args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = ask(*(arg.replace("{tmp}", str(bad_files)) for arg in args))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("qa-fast: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_no_context_on_a_terminal_says_what_to_give() -> None:
    master, slave = os.openpty()
    done = subprocess.run(
        [*COMMAND, "ask", "Who?"], stdin=slave, capture_output=True, text=True, check=False
    )
    os.close(master)
    os.close(slave)
    assert done.returncode == 2
    assert done.stderr == (
        "qa-fast: error: no text to search: name a file with --context FILE, give --context-text "
        "TEXT, or pipe a text in\n"
    )


def test_control_characters_of_the_input_do_not_reach_the_terminal_in_errors() -> None:
    result = ask("Who?", "--context", "no\x1b]0;title\x07such\nfile")
    assert result.exit_code == 2
    assert "no\\x1b]0;title\\x07such file: no such file" in result.stderr


# --- a process of its own -----------------------------------------------------------------------


def test_process_is_quiet_and_plain_when_piped() -> None:
    done = subprocess.run(
        [*COMMAND, "ask", "Where was Ada born?", "--top-k", "2"],
        input=ADA.encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("1  London   score 0.")
    assert lines[1:4] == [
        "   standard input, line 1, characters 16-22",
        "   Ada was born in London.",
        "",
    ]
    assert lines[4].startswith("2  ")
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_in_any_output_encoding(encoding: str) -> None:
    question = "Where does Zoë 🤗 live?"
    done = subprocess.run(
        [*COMMAND, "ask", question, "--context-text", "Zoë 🤗 lives in Überlingen.", "--json"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.decode(encoding))
    assert found["question"] == question
    assert found["answers"][0]["answer"] == "Überlingen"


@pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes of POSIX")
def test_interrupt_exits_130_quietly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "ask", "Who?", "--context", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Opens once the process has the other end, and then waits for data.
    with pipe.open("wb"):
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            # The signal came after Python last looked, and before it waited.
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, b"", b"")


# --- for a person -------------------------------------------------------------------------------


def render(text: str, answer: str, *, width: int = 60, terminal: bool = True) -> str:
    """What is printed for the first ``answer`` in ``text``."""
    start = text.index(answer)
    found = SourcedAnswer(0.5, start, start + len(answer), answer, "notes.txt")
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        color_system="standard" if terminal else None,
    )
    print_answers(console, [found], {"notes.txt": text})
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_highlights_the_answer_in_its_sentence() -> None:
    shown = render("Title\n\nOne thing. Ada lives in London now. Another.", "London")
    assert "Ada lives in \x1b[1;7mLondon\x1b[0m now." in shown
    assert "notes.txt, line 3, characters 31-37" in shown
    assert "One thing" not in shown
    assert "Another" not in shown


def test_no_colour_codes_outside_a_terminal() -> None:
    shown = render("Ada lives in London now.", "London", terminal=False)
    assert shown.splitlines() == [
        "1  London   score 0.5",
        "   notes.txt, line 1, characters 13-19",
        "   Ada lives in London now.",
    ]


@pytest.mark.parametrize(
    ("text", "answer", "sentence"),
    [
        pytest.param("A b. C d\ne f? G.", "d", "C d e f?", id="wrapped-lines"),
        pytest.param("A b c", "b", "A b c", id="no-stop"),
        pytest.param("He is 3.14 m tall. Yes.", "3.14", "He is 3.14 m tall.", id="number"),
        pytest.param("We saw it. She left.", "left.", "She left.", id="answer-with-its-stop"),
        pytest.param("我住在柏林。他住在巴黎。", "巴黎", "他住在巴黎。", id="chinese"),
        pytest.param("Head\n\n- item one\n\nTail", "one", "- item one", id="paragraph"),
        pytest.param("w" * 300 + " x " + "v" * 300, "x", "…x…", id="words-too-long"),
        pytest.param("in " * 100 + "x " + "on " * 100, "x", None, id="cut-between-words"),
    ],
)
def test_sentence_around_an_answer(text: str, answer: str, sentence: str | None) -> None:
    shown = render(text, answer, terminal=False).splitlines()[2].strip()
    if sentence is None:
        assert set(shown.strip("…").split()) == {"in", "x", "on"}
        assert (shown[0], shown[-1], len(shown) < 420) == ("…", "…", True)
    else:
        assert shown == sentence


@pytest.mark.parametrize("width", [20, 40, 79])
@pytest.mark.parametrize(
    "text", ["我住在柏林市" * 30, "Ada lives in London " * 30, "x" * 500 + " in"]
)
def test_terminal_lines_fit_the_width(width: int, text: str) -> None:
    plain = Console(width=width, file=io.StringIO())
    found = SourcedAnswer(0.5, 1, 3, text[1:3], "a-file-with-a-long-name.txt")
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    print_answers(console, [found], {found.source or "": text})
    assert isinstance(console.file, io.StringIO)
    for line in console.file.getvalue().splitlines():
        assert plain.measure(line).maximum <= width


def test_markup_and_control_characters_in_the_data_are_shown_not_obeyed() -> None:
    text = "[bold red]Ada[/] \x1b[31mlives\x07 in \u202eLondon\u202c [link=x]:smile:"
    shown = render(text, "London", terminal=False)
    assert "[bold red]Ada[/] \\x1b[31mlives\\x07 in \\u202eLondon\\u202c [link=x]:smile:" in shown
    assert not any(character in shown for character in "\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        pytest.param("plain ü 我 🤗", "plain ü 我 🤗", id="text"),
        pytest.param("👩\u200d👧 क्\u200dष", "👩\u200d👧 क्\u200dष", id="joiners-stay"),
        pytest.param("a\x00b\x9bc", "a\\x00b\\x9bc", id="control"),
        pytest.param("a\u2028b", "a\\u2028b", id="line-separator"),
        pytest.param("a\udcffb", "a\\udcffb", id="lone-surrogate"),
    ],
)
def test_visible(given: str, shown: str) -> None:
    assert visible(given) == shown


def test_the_empty_answer_and_none_at_all() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_answers(console, [SourcedAnswer(0.25, 0, 0, "", None)], {})
    print_answers(console, [], {})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "1  (no answer)   score 0.25\nNo answer was found.\n"


def test_a_table_that_is_too_wide_is_turned() -> None:
    usual = ["                   times", "       EM     F1  faster", "base  1.0  22.25        "]
    turned = [
        "               base",
        "EM              1.0",
        "F1            22.25",
        "times faster       ",
    ]
    headers, rows = ("", "EM", "F1", "times\nfaster"), [("base", "1.0", "22.25", "")]
    for width, terminal, lines in ((24, True, usual), (20, True, turned), (10, False, usual)):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
        print_table(console, headers, rows)
        assert file.getvalue().splitlines() == lines
