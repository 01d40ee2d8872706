"""How data sets nest their rows: every shape gives the same questions, in files of either kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qa_fast import Columns, Example, read_examples
from qa_fast.data.opening import open_source

LENA = "Lena Okoro works in Lisbon. She met Tomas Vidal in Porto in 2019."
ADA = "Ada wrote the note."
EXAMPLES = [
    Example("a", "Where?", LENA, ("Lisbon",), (20,)),
    Example("b", "When?", LENA, ("2019", "in 2019"), (60, 57)),
    Example("c", "Who?", ADA, ("Ada",), (0,)),
]


def answers(example: Example) -> list[dict[str, Any]]:
    golds = zip(example.answers or (), example.answer_starts, strict=True)
    return [{"text": text, "answer_start": start} for text, start in golds]


def flat(example: Example) -> dict[str, Any]:
    row = {"id": example.id, "question": example.question, "context": example.context}
    return {**row, "answers": answers(example)}


def qas(*examples: Example) -> list[dict[str, Any]]:
    return [{"id": e.id, "question": e.question, "answers": answers(e)} for e in examples]


def spans(example: Example) -> list[tuple[int, int]]:
    found = zip(example.answers or (), example.answer_starts, strict=True)
    return [(start or 0, (start or 0) + len(text)) for text, start in found]


ROWS = [flat(example) for example in EXAMPLES]
PARAGRAPHS: list[Any] = [
    {"context": LENA, "qas": qas(*EXAMPLES[:2])},
    {"context": ADA, "qas": qas(EXAMPLES[2])},
]
SQUAD = {"version": "1.1", "data": [{"paragraphs": PARAGRAPHS[:1]}, {"paragraphs": PARAGRAPHS[1:]}]}
MRQA = [
    {"header": {"dataset": "NewsQA", "split": "dev"}},
    *(
        {
            "id": "",
            "context": paragraph["context"],
            "context_tokens": [["Lena", 0]],
            "qas": [
                {
                    "qid": qa["id"],
                    "id": "not this one",
                    "question": qa["question"],
                    "answers": [answer["text"] for answer in qa["answers"]],
                    "detected_answers": [
                        {"text": a["text"], "char_spans": [[a["answer_start"], 99], [0, 1]]}
                        for a in reversed(qa["answers"])
                    ],
                }
                for qa in paragraph["qas"]
            ],
        }
        for paragraph in PARAGRAPHS
    ),
]
CMRC = [
    {
        "context_id": f"DEV_{i}",
        "context_text": paragraph["context"],
        "title": "",
        "qas": [
            {
                "query_id": qa["id"],
                "query_text": qa["question"],
                "answers": [answer["text"] for answer in qa["answers"]],
            }
            for qa in paragraph["qas"]
        ],
    }
    for i, paragraph in enumerate(PARAGRAPHS)
]
KORQUAD_2 = {
    "version": "KorQuAD_2.1",
    "data": [
        {
            "title": "",
            "url": "",
            "context": paragraph["context"],
            "raw_html": f"<p>{paragraph['context']}</p>",
            "qas": [
                {"id": qa["id"], "question": qa["question"], "answer": qa["answers"][0]}
                for qa in paragraph["qas"]
            ],
        }
        for paragraph in PARAGRAPHS
    ],
}
LABEL_STUDIO = [
    {
        "id": i,
        "data": {"id": e.id, "text": e.context, "question": e.question},
        "annotations": [
            {
                "result": [
                    {
                        "type": "labels",
                        "value": {
                            "start": a,
                            "end": b,
                            "text": e.context[a:b],
                            "labels": ["ANSWER"],
                        },
                    }
                ]
            }
            for a, b in spans(e)
        ]
        + [{"was_cancelled": True, "result": [{"value": {"start": 0, "end": 1}}]}],
    }
    for i, e in enumerate(EXAMPLES)
]
DOCCANO = [
    {
        "id": e.id,
        "text": e.context,
        "label": [[*span, "ANSWER"] for span in spans(e)] + [[0, 4, "PERSON"]],
        "question": e.question,
    }
    for e in EXAMPLES
]
DOCCANO_2 = [
    {
        "id": e.id,
        "text": e.context,
        "entities": [
            {"id": 7, "label": "x", "start_offset": a, "end_offset": b} for a, b in spans(e)
        ],
        "meta": {"question": e.question},
    }
    for e in EXAMPLES
]
STARTLESS = [e.__class__(e.id, e.question, e.context, e.answers) for e in EXAMPLES]
FIRST_ONLY = [
    Example(e.id, e.question, e.context, (e.answers or ())[:1], e.answer_starts[:1])
    for e in EXAMPLES
]

WHOLE: dict[str, tuple[Any, list[Example]]] = {
    "squad": (SQUAD, EXAMPLES),
    "nested": ({"data": SQUAD}, EXAMPLES),
    "nested-twice": ({"data": {"data": SQUAD, "x": 1}}, EXAMPLES),
    "article": ({"paragraphs": PARAGRAPHS}, EXAMPLES),
    "paragraph": (PARAGRAPHS[0], EXAMPLES[:2]),
    "list-of-articles": (SQUAD["data"], EXAMPLES),
    "list-of-paragraphs": (PARAGRAPHS, EXAMPLES),
    "one-split": ({"train": ROWS}, EXAMPLES),
    "one-split-of-squad": ({"dev": SQUAD}, EXAMPLES),
    "rows": (ROWS, EXAMPLES),
    "rows-below-data": ({"data": ROWS}, EXAMPLES),
    "a-row": (ROWS[0], EXAMPLES[:1]),
    "columns": ({name: [row[name] for row in ROWS] for name in ROWS[0]}, EXAMPLES),
    "columns-of-pandas": (
        {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]},
        EXAMPLES,
    ),
    "korquad2": (KORQUAD_2, FIRST_ONLY),
    "cmrc": (CMRC, STARTLESS),
    "label-studio": (LABEL_STUDIO, EXAMPLES),
    "doccano-list": (DOCCANO, EXAMPLES),
}
LINES: dict[str, tuple[list[Any], list[Example]]] = {
    "rows": (ROWS, EXAMPLES),
    "mrqa": (MRQA, EXAMPLES),
    "paragraphs": (PARAGRAPHS, EXAMPLES),
    "articles": ([{"paragraphs": PARAGRAPHS[:1]}, {"paragraphs": PARAGRAPHS[1:]}], EXAMPLES),
    "cmrc": (CMRC, STARTLESS),
    "doccano": (DOCCANO, EXAMPLES),
    "doccano-2": (DOCCANO_2, EXAMPLES),
    "label-studio": (LABEL_STUDIO, EXAMPLES),
}


def check(file: Path, expected: list[Example]) -> None:
    assert list(read_examples(file)) == expected
    source = open_source(file)
    assert source.count() == len(expected)
    for start in range(len(expected) + 1):
        for stop in (start, start + 1, None):
            rows = list(source.rows(start, stop))
            assert [row.example for row in rows] == expected[start:stop]
            assert [row.number for row in rows] == [*range(len(expected))][start:stop]
            assert all(row.place.startswith(str(file)) for row in rows)


@pytest.mark.parametrize("shape", WHOLE)
@pytest.mark.parametrize("indent", [None, 1], ids=["on-one-line", "on-many"])
def test_a_shape_in_one_value(shape: str, indent: int | None, tmp_path: Path) -> None:
    value, expected = WHOLE[shape]
    file = tmp_path / "data.json"
    file.write_text("\n" + json.dumps(value, indent=indent) + "\n\n", encoding="utf-8")
    check(file, expected)


@pytest.mark.parametrize("shape", LINES)
def test_a_shape_in_lines(shape: str, tmp_path: Path) -> None:
    lines, expected = LINES[shape]
    file = tmp_path / "data.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    check(file, expected)


def test_marks_of_mrqa_are_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    context = "[DOC] [TLE] Lena [PAR] Lena works."
    file.write_text(json.dumps({"context": context, "qas": [{"qid": "x", "question": "Who?"}]}))
    assert [e.context for e in read_examples(file)] == [context]


def test_answers_of_mrqa_that_were_not_found_have_no_start(tmp_path: Path) -> None:
    qa = {"qid": "x", "question": "Who?", "answers": ["lena", "Ada"]}
    found = [{"text": "Lena", "char_spans": [[0, 3]]}, {"text": "Ada", "char_spans": [[9, 11]]}]
    file = tmp_path / "data.jsonl"
    line = {"context": "Lena and Ada", "qas": [{**qa, "detected_answers": found}]}
    file.write_text(json.dumps(line))
    assert [e.answer_starts for e in read_examples(file)] == [(None, 9)]


@pytest.mark.parametrize("nested", [False, True])
def test_splits(nested: bool, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    splits: Any = {"train": ROWS[:2], "validation": {"data": ROWS[2:]} if nested else ROWS[2:]}
    file.write_text(json.dumps({"data": splits} if nested else splits))
    assert list(read_examples(file, split="train")) == EXAMPLES[:2]
    assert list(read_examples(file, split="validation")) == EXAMPLES[2:]
    for split in (None, "test"):
        with pytest.raises(ValueError, match=r"the splits \['train', 'validation'\]: choose one"):
            list(read_examples(file, split=split))


NQ = {
    "example_id": 5655493461695504401,
    "question_text": "where does lena work",
    "document_title": "Lena",
    "document_text": "<H1> Lena </H1> <P> Lena works in <B> Lisbon </B> city . </P> <P> Or Porto . </P>",
    "long_answer_candidates": [
        {"start_token": 3, "end_token": 13, "top_level": True},
        {"start_token": 4, "end_token": 6, "top_level": False},
        {"start_token": 13, "end_token": 18, "top_level": True},
    ],
}
TEXT = "Lena works in Lisbon city . Or Porto ."


def annotation(*short: tuple[int, int], yes_no: str = "NONE") -> dict[str, Any]:
    answers = [{"start_token": a, "end_token": b} for a, b in short]
    return {"short_answers": answers, "yes_no_answer": yes_no, "long_answer": {"start_token": 3}}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param([annotation((7, 11))], (("Lisbon city",), (14,)), id="one"),
        pytest.param([annotation((7, 9), (10, 11))], (("Lisbon city",), (14,)), id="first-to-last"),
        pytest.param([annotation((15, 16))], (("Porto",), (31,)), id="in-the-second"),
        pytest.param([annotation()], ((), ()), id="none"),
        pytest.param([annotation(yes_no="YES")], (("yes",), ()), id="yes"),
        pytest.param([annotation((7, 8))], ((), ()), id="a-tag"),
        pytest.param([annotation((8, 9))] + [annotation()] * 4, ((), ()), id="one-of-five"),
        pytest.param(
            [annotation((8, 9)), annotation((15, 16)), annotation(), annotation((8, 9))],
            (("Lisbon", "Porto"), (14, 31)),
            id="several",
        ),
    ],
)
def test_simplified_natural_questions(
    annotations: list[Any], expected: Any, tmp_path: Path
) -> None:
    file = tmp_path / "nq.jsonl"
    file.write_text(json.dumps({**NQ, "annotations": annotations}))
    (example,) = read_examples(file)
    assert (example.id, example.title, example.context) == ("5655493461695504401", "Lena", TEXT)
    assert (example.answers, example.answer_starts) == expected
    for text, start in zip(*expected, strict=False):
        assert example.context.startswith(text, start)


def test_natural_questions_without_candidates_is_the_whole_document(tmp_path: Path) -> None:
    file = tmp_path / "nq.jsonl"
    file.write_text(json.dumps({**NQ, "long_answer_candidates": []}))
    assert [(e.context, e.answers) for e in read_examples(file)] == [("Lena " + TEXT, None)]


def test_nobody_annotated_and_nothing_marked(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    nobody = {**LABEL_STUDIO[0], "annotations": []}
    nothing = {**LABEL_STUDIO[0], "annotations": [{"result": []}]}
    file.write_text(json.dumps([nobody, nothing, {**DOCCANO[0], "label": []}]))
    assert [e.answers for e in read_examples(file)] == [None, (), ()]


def test_columns_are_for_rows(tmp_path: Path) -> None:
    """Of a shape that has its own names, rows come under those that are asked for."""
    columns = Columns(id="key", question="q", context="text", answers="golds")
    for name, (value, expected) in WHOLE.items():
        if name in ("squad", "cmrc", "korquad2"):
            file = tmp_path / f"{name}.json"
            file.write_text(json.dumps(value))
            assert list(read_examples(file, columns=columns)) == expected
    file.write_text(json.dumps([{"key": 1, "q": "Who?", "text": "Ada.", "label": []}]))
    assert [e.answers for e in read_examples(file, columns=Columns("key", "q", "text"))] == [None]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"document_html": "", "document_tokens": [], "question_text": "", "annotations": []},
         "is Natural Questions in its full form"),
        ({"id": 1, "document": {}, "question": {}, "annotations": {}, "long_answer_candidates": {}},
         "is Natural Questions in the form of the Hugging Face hub"),
        ({"document_plaintext": "", "passage_answer_candidates": [], "annotations": []},
         "is TyDi QA for its primary tasks"),
        ({"Data": [], "Domain": "Web"}, "is TriviaQA in its own form"),
        ({"data": [{"story": "", "questions": []}]}, "entry 0 is CoQA"),
        ({"nfl_1": {"passage": "", "qa_pairs": []}}, "is DROP"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(value: object, what: str, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=f"data.json {what}"):
        list(read_examples(file))
    with pytest.raises(ValueError, match=what):
        open_source(file).count()


def test_a_damaged_line_is_a_row_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    broken = [{"context": "x", "qas": 3}, {**NQ, "annotations": [{"short_answers": [{}]}]}]
    marks = {**DOCCANO[0], "label": [[60, 900, "ANSWER"]]}
    lines = [MRQA[1], broken[0], broken[1], marks, {"qas": []}, MRQA[2]]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n{")
    rows = list(open_source(file).rows())
    assert [row.example for row in rows if row.example] == EXAMPLES
    problems = {row.place.rpartition("line ")[2]: str(row.problem) for row in rows if row.problem}
    assert list(problems) == ["2", "3", "4", "7"]
    assert problems["2"].startswith("must be an object with a list 'qas'; got dict")
    assert problems["3"].startswith("'start_token' is missing in dict")
    assert "must be characters of the text, which has 65; got [60, 900" in problems["4"]
    assert open_source(file).count() == len(rows)


def test_a_line_of_several_rows_among_lines_of_one(tmp_path: Path) -> None:
    """Where the first line is one row, so is every other: rows are then found by counting lines."""
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, [ROWS[0], PARAGRAPHS[0], ROWS[2], MRQA[0]])))
    rows = list(open_source(file).rows())
    assert [row.example is not None for row in rows] == [True, False, True, False]
    assert "2 rows in a line, but the first line of the file is one row" in str(rows[1].problem)
    assert open_source(file).count() == 4
